import itertools
import math

import pytest

from skdist.cluster.connection import ServerRef
from skdist.cluster.membership import Present
from skdist.cluster.serving import KeptBackup, Serving


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
