"""Which partitions count as lost, and where they are worked on; the cluster is a stand-in."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import dask
import pytest

from skdist.cluster import tasks
from skdist.cluster.blocks import MOST_TRIES, Blocks
from skdist.cluster.held import Held, Named
from skdist.cluster.membership import Present

FROZEN = Present({"a": 1, "b": 1}, 1e9, silent=frozenset({"frozen"}))
ALL = Present({"a": 1, "b": 1, "frozen": 1}, 1e9)


class Scheduler:
    """Says that one worker processes some keys, and that the other one has all that is finished."""

    def __init__(self, *stuck):
        self.stuck = list(stuck)

    async def processing(self, workers):
        return {"a": ["else"], "frozen": self.stuck}

    async def who_has(self, keys):
        return {}


def blocks_of(stuck, statuses):
    """Return blocks of lazy parts, each made from a key of its own, with futures of some statuses."""
    parts = [(dask.delayed(abs)(-n, dask_key_name=f"source-{n}"), None) for n in range(len(statuses))]
    source = SimpleNamespace(lazy=True, held=False, parts=parts)
    blocks = Blocks(SimpleNamespace(scheduler=Scheduler(*stuck)), source, "token")
    blocks.all = [SimpleNamespace(key=f"block-{n}", status=status) for n, status in enumerate(statuses)]
    return blocks


def lost(blocks, present):
    return asyncio.run(blocks.lost(present))


@pytest.mark.parametrize("stuck", ["block-1", "source-1"])
def test_what_a_silent_worker_is_to_make_is_lost_and_nothing_else(stuck):
    blocks = blocks_of([stuck], ["pending"] * 3)
    assert lost(blocks, ALL) == []
    assert lost(blocks, FROZEN) == [1]


def test_finished_partitions_are_not_lost_where_somebody_else_waits_for_what_they_were_made_from():
    blocks = blocks_of(["source-0", "source-1"], ["finished", "pending"])
    assert lost(blocks, FROZEN) == [1]


def test_a_partition_that_stays_stuck_is_given_to_others_a_few_times():
    blocks = blocks_of(["source-0"], ["pending"])
    assert [lost(blocks, FROZEN) for _ in range(MOST_TRIES + 2)] == [[0]] * MOST_TRIES + [[]] * 2
    assert lost(blocks, ALL) == []  # it is heard of again
    assert lost(blocks, FROZEN) == [0]


def test_a_partition_whose_only_workers_have_left_is_lost():
    blocks = blocks_of([], ["pending", "finished", "pending"])
    blocks._only_on = {0: frozenset({"gone"}), 1: frozenset({"gone"}), 2: frozenset({"gone", "a"})}
    assert lost(blocks, ALL) == [0]


def test_a_partition_that_was_loaded_in_between_may_be_given_to_others_as_often_again():
    blocks = blocks_of(["source-0"], ["pending"])
    for _ in range(2):
        assert [lost(blocks, FROZEN) for _ in range(MOST_TRIES + 1)] == [[0]] * MOST_TRIES + [[]]
        blocks.loaded([0])


class Client:
    """Notes what is submitted."""

    def __init__(self, holders):
        self.scheduler, self._holders = self, holders
        self.submitted = []

    async def who_has(self, keys):
        return self._holders

    def submit(self, *work, **options):
        self.submitted.append((work, options))


def held(holders, of_y=None):
    """Return held blocks with keys like x-0, and their client."""
    parts = [
        (*[SimpleNamespace(key=f"{name}-{n}", status="finished") for name in "xy"], None)
        for n in range(len(holders))
    ]
    client = Client(
        {f"x-{n}": names for n, names in enumerate(holders)}
        | {f"y-{n}": names for n, names in enumerate(of_y or holders)}
    )
    blocks = Blocks(client, SimpleNamespace(lazy=True, held=True, parts=parts), "token")
    blocks.all = [Held(part) for part in parts]
    for block in blocks.all:
        for future in block.futures:
            future._state = SimpleNamespace(wait=lambda: asyncio.sleep(0))
    return blocks, client


def test_where_several_workers_hold_a_block_the_work_is_shared():
    blocks, client = held([["a", "b"]] * 6)
    asyncio.run(blocks.submit("measure", abs, "kind", range(6), ALL, by_name=True))
    assert [options["workers"] for _, options in client.submitted] == [["a"], ["b"]]
    assert [len(work[4]) for work, _ in client.submitted] == [3, 3]
    asyncio.run(blocks.submit("measure", abs, "kind", range(6), Present({"a": 3, "b": 1}, 1e9), by_name=True))
    counts = [sum(len(work[4]) for work, o in client.submitted[2:] if o["workers"] == [w]) for w in "ab"]
    assert counts == [4, 2]


def test_blocks_are_named_to_the_workers_that_hold_them_and_given_to_others():
    blocks, client = held([["a"], ["b"]])
    asyncio.run(blocks.submit("measure", abs, "kind", range(2), ALL, by_name=True))
    asyncio.run(blocks.submit("score", abs, "kind", range(2), ALL))
    named, given = client.submitted[0][0], client.submitted[2][0]
    assert named[:2] == (tasks.where_held, abs)
    assert named[2].keys == [["x-0", "y-0", None]]
    assert given == (abs, "kind", [0], blocks.all[0].part)
    assert blocks.named([0], "a").keys == [["x-0", "y-0", None]]
    assert blocks.named([0, 1], "a") is None
    blocks.holds("a", [1])
    assert len(blocks.named([0, 1], "a").keys) == 2
    blocks.lacks("a", [0])
    assert blocks.named([0], "a") is None
    assert blocks.named([1], "a") is not None


@pytest.mark.parametrize(
    "present", [FROZEN, Present({"b": 1}, 1e9)], ids=["somebody is silent", "a has left"]
)
def test_blocks_are_not_named_to_tasks_that_may_run_elsewhere(present):
    blocks, client = held([["a"], ["b"]])
    asyncio.run(blocks.submit("measure", abs, "kind", range(2), present, by_name=True))
    given = [work for work, options in client.submitted if work[0] is abs]
    assert len(given) == (2 if present.silent else 1)
    assert (abs, "kind", [0], blocks.all[0].part) in given


def test_what_workers_that_run_hold_is_not_measured_by_others():
    blocks, client = held([["a", "0-frozen"]] * 2)
    asyncio.run(blocks.submit("measure", abs, "kind", range(2), FROZEN, by_name=True))
    assert [work[2] for work, _ in client.submitted] == [[0, 1]]


def test_only_blocks_of_which_a_worker_holds_all_are_named():
    blocks, client = held([["a"], ["a", "b"]], [["b"], ["b"]])
    asyncio.run(blocks.submit("measure", abs, "kind", range(2), ALL, by_name=True))
    assert client.submitted[0][0] == (abs, "kind", [0], blocks.all[0].part)
    assert client.submitted[1][0][:2] == (tasks.where_held, abs)
    assert [options["workers"] for _, options in client.submitted] == [["a"], ["b"]]


def test_blocks_are_found_by_name_all_or_none():
    data = {"x-0": "X", "y-0": "y", ("p", 1): "partition"}
    assert Named([["x-0", "y-0", None], ("p", 1)]).found(data) == [("X", "y", None), "partition"]
    assert Named([["x-0", "y-1", None]]).found(data) is None
    assert Named([("p", 1), ("p", 2)]).found(data) is None
