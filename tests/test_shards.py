"""Shards end where one server would, to the bit, whenever somebody asks them."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.aggregation import InverseVolatility
from skdist.messages import Join, Link, Segment, Update, Visit
from skdist.server import ParameterServer
from skdist.shards import Shard, Source, cut, cut_stage, joined_stage, n_shards, slices
from tests.fakes import CONSTANT_RATE

SHAPE = (2, 3, 5)


class Pair:
    """A server, and a coordinator with shards that is told the same."""

    def __init__(self, count, statistics=False, state=None, **kwargs):
        if state is None:
            state = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
        params = {
            "n_rows": 10_000, "schedule": CONSTANT_RATE, "batch_size": 8, "statistics": statistics, **kwargs,
        }  # fmt: skip
        self.count = count
        self.server, self.coordinator = (
            ParameterServer(state, **params, sharded=sharded) for sharded in (False, True)
        )
        self.begin(self.server.back_up((), 0, 0).stage, statistics)

    def begin(self, stage, statistics=False):
        self.shards = [Shard(cut_stage(stage, n, self.count), statistics) for n in range(self.count)]

    def collected(self, stage):
        return joined_stage(stage, [shard.collect(stage.state) for shard in self.shards])


class Walker:
    """A learner that goes on by one small step at a time, each of which may come between any others."""

    def __init__(self, pair, name, rng):
        self.pair, self.name, self.rng, self.visits = pair, name, rng, 0
        self.join()

    def join(self):
        self.visits += 1
        self.visit = 1_000 * int(self.name) + self.visits
        self.attempt, self.offset = f"{self.name}@{self.visits}", 0
        order = Visit(self.visit, 0, (Segment(0, 0, 10_000),))
        message = Join(order, self.attempt, self.name, self.name)
        self.take(*(server.join(message) for server in (self.pair.server, self.pair.coordinator)))

    def take(self, whole, answer):
        assert (whole.accepted, whole.version, whole.clock) == (
            answer.accepted, answer.version, answer.clock,
        )  # fmt: skip
        self.whole, self.answer, self.fetched, self.uploaded = whole, answer, [], None

    def step(self):
        """Fetch a slice, bring one, or push once all are there."""
        mark, count = self.answer.state, self.pair.count
        if len(self.fetched) < count:
            part = self.pair.shards[len(self.fetched)].fetch(mark)
            np.testing.assert_array_equal(
                part, cut(self.whole.state, slices(SHAPE, count)[len(self.fetched)])
            )
            self.fetched.append(part)
        elif self.uploaded is None:
            self.uploaded = 0
            change = self.rng.normal(size=SHAPE).astype(np.float32)
            self.update = Update(
                self.visit, self.attempt, self.offset, self.offset + 8, 1, self.whole.state + change,
                self.answer.foreign, 1.0, self.rng.uniform(0.5, 2.0), 0.0, self.rng.choice([1.0, 0.5]), 8,
                1.0, 0.0, 0.0, 0.0, Link(),
            )  # fmt: skip
        elif self.uploaded < count:
            part = cut(self.update.state, slices(SHAPE, count)[self.uploaded])
            self.pair.shards[self.uploaded].upload(Source.of(self.update), self.answer.version, part)
            self.uploaded += 1
        else:
            self.offset += 8
            self.take(
                self.pair.server.push(self.update),
                self.pair.coordinator.push(self.update._replace(state=None)),
            )

    def end(self):
        for server in (self.pair.server, self.pair.coordinator):
            server.leave(self.visit, self.attempt)

    def vanish(self):
        """Be taken off the visit, wherever it is, and begin another one."""
        for server in (self.pair.server, self.pair.coordinator):
            server.retire(self.visit)
        self.join()


@settings(max_examples=120)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 39)), min_size=1, max_size=150),
    count=st.integers(1, 4),
    collect=st.integers(1, 3),
    momentum=st.sampled_from([0.0, 0.6]),
    weighed=st.booleans(),
    statistics=st.booleans(),
)
def test_any_order_of_uploads_pushes_and_fetches_is_like_one_server(
    steps, count, collect, momentum, weighed, statistics
):
    pair = Pair(
        count, statistics, collect=collect, momentum=momentum,
        aggregator=InverseVolatility() if weighed else None,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    walkers = [Walker(pair, f"{number}", rng) for number in range(3)]
    for who, chance in steps:
        if chance:
            walkers[who].step()
        else:
            walkers[who].vanish()
    expected, outcome = pair.server.finish(), pair.coordinator.finish()
    assert expected[1:3] == outcome[1:3]
    stage = pair.coordinator.back_up((), 0, 0).stage
    np.testing.assert_array_equal(pair.collected(stage).state, expected.state)
    velocity = pair.server.back_up((), 0, 0).stage.velocity
    found = pair.collected(stage).velocity
    assert (found is None) == (velocity is None)
    if velocity is not None:
        np.testing.assert_array_equal(found, velocity)


@settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=30, max_size=120),
    collect=st.integers(1, 3),
    before=st.integers(0, 119),
)
def test_a_stage_is_that_of_its_moment_although_training_goes_on(steps, collect, before):
    pair = Pair(3, collect=collect, momentum=0.5)
    rng = np.random.default_rng(2)
    walkers = [Walker(pair, f"{number}", rng) for number in range(3)]
    backup = expected = None
    for number, (who, _) in enumerate(steps):
        if number == min(before, len(steps) - 1):
            backup = pair.coordinator.back_up((), 0, 0)
            there = pair.server.back_up((), 0, 0).stage
            expected = there.state.copy(), None if there.velocity is None else there.velocity.copy()
        walkers[who].step()
    whole = pair.collected(backup.stage)
    np.testing.assert_array_equal(whole.state, expected[0])
    assert (whole.velocity is None) == (expected[1] is None)
    if expected[1] is not None:
        np.testing.assert_array_equal(whole.velocity, expected[1])
    # Others go on from there.
    again = Pair(2, collect=collect, momentum=0.5)
    again.server.go_on(backup._replace(stage=whole))
    again.coordinator.go_on(backup._replace(stage=whole))
    again.begin(whole)
    walker = Walker(again, "7", rng)
    for _ in range(40):
        walker.step()
    np.testing.assert_array_equal(
        again.collected(again.coordinator.back_up((), 0, 0).stage).state, again.server.finish().state
    )


def test_a_stage_that_was_replaced_is_not_there_any_more():
    pair = Pair(2)
    first, second = (pair.coordinator.back_up((), 0, 0).stage for _ in range(2))
    pair.collected(second)
    with pytest.raises(LookupError, match="was replaced"):
        pair.collected(first)


def test_nothing_is_kept_that_nobody_can_ask_for():
    pair = Pair(2)
    rng = np.random.default_rng(3)
    walkers = [Walker(pair, f"{number}", rng) for number in range(3)]
    alive = []
    for number in range(400):
        walker = walkers[number % 3]
        walker.step()
        alive += [weakref.ref(part) for part in walker.fetched[-1:]]
        if number % 7 == 0:
            walker.vanish()  # also after some of its uploads
    for walker in walkers[1:]:
        walker.end()
    for _ in range(20):
        walkers[0].step()
    walkers[1:] = []
    walkers[0].fetched, walkers[0].whole = [], None
    gc.collect()
    assert sum(part() is not None for part in alive) <= 2 * 3  # of each shard: present, base, one before
    for shard in pair.shards:
        assert len(shard._ends) <= 1
    assert len(walkers[0].answer.state.log) <= 2


def test_an_answer_of_an_execution_that_is_over_is_not_kept():
    pair = Pair(2)
    rng = np.random.default_rng(4)
    late, busy = (Walker(pair, f"{number}", rng) for number in range(2))
    mark = late.answer.state
    late.vanish()
    for _ in range(40):
        late.step()
        busy.step()
    assert pair.shards[0].fetch(mark) is None


@given(columns=st.integers(1, 40), n_servers=st.integers(1, 50), members=st.integers(1, 3))
def test_slices_are_nearly_equal_and_cover_each_column_once(columns, n_servers, members):
    state = np.arange(members * columns).reshape(members, columns)
    count = n_shards(n_servers, state)
    assert count == (min(n_servers, columns) if min(n_servers, columns) > 1 else 0)
    parts = [cut(state, part) for part in slices(state.shape, max(count, 1))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), state)
    widths = [part.shape[1] for part in parts]
    assert max(widths) - min(widths) <= 1
    assert min(widths) >= 1
