"""Which partitions count as lost; the cluster is a stand-in."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import dask
import pytest

from skdist.cluster.blocks import MOST_TRIES, Blocks
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
