import asyncio
import itertools
import math
from unittest.mock import AsyncMock, Mock

import pytest

from skdist.cluster.connection import ServerRef
from skdist.cluster.membership import Present
from skdist.cluster.serving import KeptBackup, Serving
from skdist.exceptions import ServerLostError


def holders(n_workers, shards_on, count=6):
    """Return who keeps backups of a server on the first worker, one after the other."""
    serving = Serving(None, None, "fit", "token", n_servers=max(len(shards_on), 1))
    shards = tuple([ServerRef(f"w{n}", f"shard {n}") for n in shards_on])
    serving.actors.ref = ServerRef("w0", "server", 0, shards)
    present = Present({f"w{n}": 1 for n in range(n_workers)}, math.inf)
    found = []
    for number in range(count):
        found.append(serving._holder(present))
        serving.kept.append(KeptBackup(None, found[-1], 0, number))
    return found


def test_backups_are_kept_by_others_than_the_server_in_turn():
    assert holders(3, []) == ["w1", "w2"] * 3
    assert holders(2, []) == ["w1"] * 6
    assert holders(1, []) == [""] * 6


def test_who_has_no_shard_keeps_backups_first():
    assert holders(5, [1, 2]) == ["w3", "w4"] * 3


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_no_worker_takes_a_shard_and_the_only_backup_along(n_workers):
    found = holders(n_workers, range(n_workers))
    assert found[0] == ""
    assert all(one != other for one, other in itertools.pairwise(found))


def test_a_call_to_a_server_that_was_replaced_since_is_given_up():
    async def never(**_):
        await asyncio.Event().wait()

    client = Mock()
    client.scheduler.proxy = never
    membership = Mock(look=AsyncMock(return_value=Present({"w1": 1}, math.inf)))
    serving = Serving(client, membership, "fit", "token")
    serving.actors.ref = ServerRef("w0", "server-0", 0)

    async def replaced_meanwhile():
        call = asyncio.ensure_future(serving.snapshot(0))
        await asyncio.sleep(0)
        serving.actors.ref = ServerRef("w1", "server-1", 1)
        await asyncio.wait_for(call, 10)

    with pytest.raises(ServerLostError, match="w0 was replaced"):
        asyncio.run(replaced_meanwhile())


def test_workers_that_come_back_are_told_of_another_server_too():
    told = []

    async def run(_, name, incarnation, *, workers, on_error):
        told.append((name, incarnation, sorted(workers)))
        if len(told) == 1:
            raise OSError("one has just left")

    there = iter([{"w0": 1}, {"w0": 1, "w1": 1}])
    membership = Mock(look=AsyncMock(side_effect=lambda: Present(next(there), math.inf)))
    serving = Serving(Mock(run=run), membership, "fit", "token")

    async def until_all_are():
        telling = asyncio.ensure_future(serving._tell(3))
        while len(told) < 2:
            assert not telling.done()
            await asyncio.sleep(0.01)
        telling.cancel()

    asyncio.run(asyncio.wait_for(until_all_are(), 10))
    assert told == [("fit", 3, ["w0"]), ("fit", 3, ["w0", "w1"])]
