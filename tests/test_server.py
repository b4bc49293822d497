import gc
import math
import weakref
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.aggregation import InverseVolatility
from skdist.control.gates import FIRST_LEASE_SECONDS, gate_of
from skdist.control.latency import LatencyBatchSizer
from skdist.control.schedules import INVERSE_TIME, Schedule
from skdist.control.staleness import StalenessWindow
from skdist.control.stopping import ConvergenceMonitor
from skdist.learner import Learner
from skdist.messages import Join, Link, Segment, Visit
from skdist.server import ParameterServer
from tests.fakes import CONSTANT_RATE, Clock, FakeLearner, RowModel, drive, fake_partitions, whole_visit


def make_server(size=200, **kwargs):
    return ParameterServer(
        np.zeros(size), **{"n_rows": 10_000, "schedule": CONSTANT_RATE, "batch_size": 8, **kwargs}
    )


def join(server, attempt, learner="a", number=1, epoch=0, rows=1000):
    return server.join(Join(Visit(number, epoch, (Segment(0, 0, rows),)), attempt, learner, learner))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_one_learner_is_never_stale_and_its_end_is_assigned(rounds):
    server = make_server(adapter=StalenessWindow())
    learner = FakeLearner(server)
    for rows in rounds:
        update = learner.update(rows, change=np.pi * rows)
        answer = learner.push(update)
        assert answer.staleness == 0
        assert answer.state is update.state
    _, version, _, records, *_ = server.finish()
    assert version == len(rounds)
    assert {record.applied for record in records} == {1.0}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 7), st.integers(1, 4))
def test_versions_are_accepted_updates_by_collect_and_a_final_flush(updates, collect, n_learners):
    server = make_server(collect=collect)
    learners = [FakeLearner(server, f"{i}", visit=i) for i in range(n_learners)]
    for number in range(updates):
        learners[number % n_learners].push(rows=1)
    assert server.version == updates // collect
    assert server.finish()[1] == math.ceil(updates / collect)
    assert server.finish()[1] == math.ceil(updates / collect)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8))
def test_equal_learners_in_turn_are_stale_by_the_number_of_the_others(n_learners):
    server = make_server(size=1)
    learners = [FakeLearner(server, f"{i}", visit=i) for i in range(n_learners)]
    cycles = [[learner.push(change=1.0).staleness for learner in learners] for _ in range(10)]
    assert cycles[0] == [*range(n_learners)]
    assert all(cycle == [n_learners - 1] * n_learners for cycle in cycles[1:])


def test_staleness_counts_versions_not_updates():
    server = make_server(size=1, collect=3)
    slow, fast = FakeLearner(server, "slow", visit=1), FakeLearner(server, "fast", visit=2)
    for _ in range(7):
        fast.push(change=1.0)
    assert slow.push(change=1.0).staleness == 2


def test_own_visits_on_two_workers_of_other_names_are_foreign():
    server = make_server(size=1)
    mine, other = FakeLearner(server, "a", visit=1), FakeLearner(server, "b", visit=2)
    mine_too = FakeLearner(server, "a", visit=3)
    mine_too.push(change=1.0)
    other.push(change=1.0)
    assert mine.push(change=1.0).staleness == 1


@settings(deadline=None, max_examples=40)
@given(
    updates=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=24),
    collect=st.integers(1, 4),
)
def test_with_a_constant_gradient_every_row_has_the_same_influence(updates, collect):
    updates = updates[: max(len(updates) // collect, 1) * collect]
    updates += updates[:1] * (-len(updates) % collect)
    batch = 8
    server = make_server(size=4 * 24 * 6 * batch, collect=collect)
    learners = [FakeLearner(server, f"{i}", visit=i, first=i * 24 * 6 * batch) for i in range(4)]
    for who, steps in updates:
        learners[who].push(rows=steps * batch, steps=steps)
    state, version, *_ = server.finish()
    assert version == len(updates) // collect
    covered = state[state != 0]
    assert len(covered) == batch * sum(steps for _, steps in updates)
    np.testing.assert_allclose(covered, 1 / (batch * collect), rtol=1e-12)


def test_collected_updates_are_weighted_per_step_and_count_as_one():
    server = make_server(size=1, collect=2)
    long, short = FakeLearner(server, "long", visit=1), FakeLearner(server, "short", visit=2)
    long.push(rows=160, steps=10, change=3.0)
    assert server.version == 0
    short.push(rows=16, steps=1, change=1.0)
    assert server.version == 1
    assert server.state == pytest.approx([2.0])
    assert server.clock == pytest.approx(5.5)


def test_an_update_moves_the_state_by_what_was_learned_since_its_base():
    server = make_server(size=1)
    a, b = FakeLearner(server, "a", visit=1), FakeLearner(server, "b", visit=2)
    a.push(change=1.0)
    b.push(change=10.0, scale=0.5)
    assert server.state == pytest.approx([6.0])
    a.push(change=1.0)
    assert server.state == pytest.approx([7.0])


def test_the_clock_counts_steps_by_their_scale():
    server = make_server(size=1, clock=100.0)
    a = FakeLearner(server, "a")
    a.push(rows=80, steps=10, scale=0.5)
    assert a.answer.clock == 105.0
    assert server.finish()[2] == 105.0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 12), st.floats(0.01, 1), st.booleans())
def test_the_guard_applies_the_lower_of_two_scales(others, asked, guard):
    schedule = Schedule(INVERSE_TIME, 0.1, 10.0)
    adapter = StalenessWindow(guard=guard)
    server = make_server(size=1, adapter=adapter, schedule=schedule)
    late, busy = FakeLearner(server, "late", visit=1), FakeLearner(server, "busy", visit=2)
    for _ in range(others):
        busy.push(change=0.0)
    decay = schedule.decay(server.clock)
    before = server.state.copy()
    answer = late.push(change=1.0, scale=asked)
    assert answer.staleness == others
    applied = server.finish()[3][-1].applied
    expected = min(asked, adapter.rate_scale(others, 0.0, decay, answer.level)) if guard else asked
    assert applied == pytest.approx(expected)
    assert server.state - before == pytest.approx([expected])


def test_the_level_is_the_mean_scale_of_all_updates():
    adapter = StalenessWindow()
    server = make_server(size=1, adapter=adapter)
    late, busy = FakeLearner(server, "late", visit=1), FakeLearner(server, "busy", visit=2)
    assert busy.push().level == 1.0
    for _ in range(100):  # the late one misses three versions, the busy one what the late one makes
        for _ in range(3):
            busy.push()
        answer = late.push()
    scales = [adapter.rate_scale(versions) for versions in (1, 0, 0, 3)]
    assert answer.level == pytest.approx(sum(scales) / 4, rel=0.1)


def test_reference_mean_is_the_mean_of_all_windows():
    server = make_server(size=1, adapter=StalenessWindow(reference="mean"))
    learners = [FakeLearner(server, f"{i}", visit=i) for i in range(3)]
    stale = [learner.push(change=0.0).staleness for learner in learners]
    assert stale == [0, 1, 2]
    assert learners[-1].answer.reference == 1.0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 9), st.integers(0, 9))
def test_the_staleness_of_an_update_never_affects_its_own_context(meanwhile, history):
    sent = []
    for others in (0, meanwhile):
        sizes = [8 * 20]
        partitions, n = fake_partitions(sizes)
        server = make_server(size=n, round_size=8, adapter=StalenessWindow(prior_weight=0.0))
        busy = FakeLearner(server, "busy", visit=2)

        def disturb(update, others=others, busy=busy):
            count = {8 * 10: history, 8 * 12: others}.get(update.start, 1)
            for _ in range(count):
                busy.push(rows=1, change=0.0)

        learner = Learner("slow", "w", StalenessWindow(prior_weight=0.0))
        _, updates = drive(server, whole_visit(sizes), partitions, RowModel(8), learner, between=disturb)
        sent.append(updates)
    alone, disturbed = ([(u.context, u.rate_scale) for u in updates] for updates in sent)
    assert alone[:13] == disturbed[:13]
    assert (alone[13] == disturbed[13]) == (meanwhile == 0)
    assert disturbed[11][0] == pytest.approx((10 + history) / 11)
    assert disturbed[11][1] == pytest.approx(1 / (1 + disturbed[11][0]))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_a_repeated_update_changes_nothing_and_is_answered_alike(repeats, collect, foreign):
    server = make_server(collect=collect)
    a, b = FakeLearner(server, "a", visit=1), FakeLearner(server, "b", visit=2, first=100)
    for _ in range(foreign):
        b.push(rows=1)
    update = a.update(rows=8)
    first = a.push(update)
    before = server.version, server.clock, server.state
    for _ in range(repeats):
        again = server.push(update)
        assert again.accepted
        assert again.staleness == first.staleness
        assert (again.offset, again.version, again.foreign) == (first.offset, first.version, first.foreign)
        assert (again.clock, again.round_size) == (first.clock, first.round_size)
        np.testing.assert_array_equal(again.state, first.state)
    assert (server.version, server.clock) == before[:2]
    assert server.state is before[2]
    assert len(server.finish()[3]) == foreign + 1


def test_an_update_of_a_superseded_attempt_is_refused():
    server = make_server()
    old = FakeLearner(server, "old")
    old.push(rows=8)
    state = server.state
    answer = join(server, "newer", "new")
    assert answer.accepted
    assert answer.offset == 8
    assert answer.state is state
    refused = old.push(rows=8)
    assert not refused.accepted
    assert refused.offset == 8
    assert server.state is state
    assert server.version == 1


@pytest.mark.parametrize("start", [0, 4, 16])
def test_an_update_that_does_not_continue_is_refused(start):
    server = make_server()
    learner = FakeLearner(server)
    learner.push(rows=8)
    update = learner.update(rows=9, start=start)
    answer = learner.push(update)
    assert not answer.accepted
    assert answer.offset == 8
    assert server.version == 1
    assert learner.push(rows=8, start=8).accepted is True


def test_a_repeat_that_arrives_after_a_takeover_is_refused():
    server = make_server()
    old = FakeLearner(server, "old")
    update = old.update(rows=8)
    old.push(update)
    join(server, "newer", "new")
    assert not server.push(update).accepted
    assert server.version == 1


def test_executions_are_counted_and_what_comes_after_one_has_ended_is_refused():
    server = make_server()
    learner = FakeLearner(server)
    assert learner.answer.attempt == 1
    assert learner.push(rows=8).attempt == 1
    server.leave(1, learner.attempt)
    assert not learner.push(rows=8).accepted
    answer = join(server, "second")
    assert (answer.offset, answer.attempt) == (8, 2)
    server.leave(1, "unknown")
    server.leave(9, "of a visit that nobody joined")
    assert [attempt.name for attempt in server._attempts.under_way] == ["second"]
    server.leave(1, "second")
    assert not server._attempts.under_way


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.1, 1)), max_size=25), st.integers(1, 3))
def test_arrays_handed_out_are_never_written_to(pushes, collect):
    server = make_server(collect=collect, adapter=StalenessWindow())
    learners = [FakeLearner(server, f"{i}", visit=i) for i in range(3)]
    seen = [(learner.answer.state, learner.answer.state.copy()) for learner in learners]
    for who, scale in pushes:
        update = learners[who].update(rows=1, scale=scale, change=scale)
        answer = learners[who].push(update)
        seen += [(array, array.copy()) for array in (update.state, answer.state)]
    state = server.finish()[0]
    seen.append((state, state.copy()))
    for array, copy in seen:
        np.testing.assert_array_equal(array, copy)


def test_state_keeps_its_dtype():
    server = ParameterServer(np.zeros(3, np.float32), n_rows=100, schedule=CONSTANT_RATE, collect=2)
    a, b = (FakeLearner(server, name, visit=i) for i, name in enumerate("ab"))
    a.push(change=np.float32(1), rows=1)
    b.push(change=np.float32(1), rows=1, scale=0.3)
    assert server.state.dtype == np.float32
    a.push(change=np.float32(1), rows=1, scale=0.3)
    assert server.finish()[0].dtype == np.float32


def test_convergence_ends_the_fit_with_the_epochs_under_way():
    monitor = ConvergenceMonitor(100, tol=1e-3, n_iter_no_change=2)
    server = make_server(size=1, monitor=monitor, max_iter=50)
    slow = FakeLearner(server, "slow", visit=1, epoch=3)
    ahead = FakeLearner(server, "ahead", visit=2, epoch=4)
    for _ in range(2):
        assert slow.push(rows=100, loss=50.0, change=0.0).last_epoch == 49
    assert slow.push(rows=100, loss=50.0, change=0.0).last_epoch == 4
    assert ahead.push(rows=100, loss=1.0, change=0.0).accepted
    assert ahead.answer.last_epoch == 4
    assert not join(server, "late", "b", number=3, epoch=5).accepted
    assert join(server, "still", "b", number=4, epoch=4).accepted
    assert server.finish()[5]


def test_a_learner_that_is_late_has_its_share():
    clock = Clock()
    server = make_server(
        size=1, n_rows=20, max_iter=50, gate=gate_of("async", 0, "auto"), n_learners=2, time_source=clock
    )
    visits = iter(range(100))

    def begin(name, epoch):
        return FakeLearner(server, name, visit=next(visits), rows=10, epoch=epoch)

    learners = [begin(name, 0) for name in "ab"]
    for epoch in range(4):
        clock.now += 1.0
        if epoch:
            for learner in learners:
                server.leave(learner.visit, learner.attempt)
            learners = [begin(name, epoch) for name in "ab"]
        for learner in learners if epoch < 3 else learners[:1]:
            learner.push(rows=10, change=1.0, seconds_per_row=0.1)
        clock.now += 5.0 if epoch == 3 else 0.0
        server.expire()
        for learner in learners:
            if learner.ticket is not None:
                learner.take()
    assert [record.weight for record in server.finish().rounds] == [0.5] * 7


def test_so_has_one_that_is_behind_in_a_visit_of_several_epochs():
    clock = Clock()
    server = make_server(
        size=1, n_rows=20, max_iter=50, gate=gate_of("async", 0, "auto"), n_learners=2, time_source=clock
    )
    late, other = (FakeLearner(server, name, visit=n, rows=10, epochs=2) for n, name in enumerate("ab"))
    for learner in (late, other):
        learner.push(rows=10, change=1.0, seconds_per_row=0.1)
    for epoch in (1, 2, 3):
        if epoch == 2:
            server.leave(other.visit, other.attempt)
            other = FakeLearner(server, "b", visit=2, rows=10, epoch=2, epochs=2)
        clock.now += 1.0
        other.push(rows=10, change=1.0, seconds_per_row=0.1)
        clock.now += 5.0
        server.expire()
        if other.ticket is not None:
            other.take()
    assert [record.weight for record in server.finish().rounds] == [0.5] * 5


def test_an_epoch_that_begins_after_the_end_of_training_does_not_count():
    server = make_server(size=1, n_rows=20, max_iter=50)
    learners = [FakeLearner(server, name, visit=i, rows=10, epochs=8) for i, name in enumerate("ab")]
    for learner in learners:
        learner.push(rows=10, change=0.0)
    assert server.stop() == 0
    # One has gone on before it heard of it; the other knows.
    refused = learners[0].push(rows=10, change=1.0)
    assert (refused.accepted, refused.offset, refused.last_epoch) == (False, 10, 0)
    assert [(epoch.epoch, epoch.rows) for epoch in server.finish().epochs] == [(0, 20)]


def test_without_convergence_the_last_epoch_is_that_of_max_iter():
    server = make_server(size=1, max_iter=3)
    assert join(server, "x", epoch=2).last_epoch == 2
    assert not join(server, "y", number=2, epoch=3).accepted
    assert not server.finish()[5]


def test_abort_refuses_updates_and_joins():
    server = make_server()
    learner = FakeLearner(server)
    learner.push(rows=8)
    state = server.state
    server.abort()
    assert not learner.push(rows=8).accepted
    assert not join(server, "again").accepted
    assert not join(server, "other", number=9).accepted
    assert server.state is state
    assert learner.answer.last_epoch == -1


def test_records_tell_epochs_and_rounds():
    clock = Clock()
    server = make_server(size=1, time_source=clock)
    learner = FakeLearner(server, "a", worker="w", link=Link((0.002,)))
    clock.now = 2.0
    learner.push(rows=10, steps=2, loss=5.0, change=0.0)
    clock.now = 5.0
    learner.push(rows=30, steps=4, loss=9.0, change=0.0)
    _, _, _, rounds, (epoch,), _, seconds = server.finish()
    assert seconds == 5.0
    assert (epoch.rows, epoch.loss, epoch.seconds) == (40, 14 / 40, 3.0)
    assert [(r.rows, r.steps, r.loss, r.version) for r in rounds] == [(10, 2, 0.5, 1), (30, 4, 0.3, 2)]
    assert [r.time for r in rounds] == [2.0, 5.0]
    assert server.seconds() == 5.0
    assert (rounds[0].worker, rounds[0].latency, rounds[0].learner) == ("w", 0.002, "a")


def test_progress_before_the_first_update():
    progress = make_server().progress()
    assert (progress.epoch, progress.rows, progress.total_rows, progress.total_loss) == (0, 0, 0, 0)
    assert math.isnan(progress.loss)
    assert progress.learners == progress.visits == progress.silent == ()


def test_progress_tells_of_epochs_learners_and_visits_under_way():
    clock = Clock()
    server = make_server(size=1, time_source=clock, max_iter=2)
    one = FakeLearner(server, "w/1", worker="w", link=Link((0.002, 0.004)))
    two = FakeLearner(server, "v/1", worker="v", visit=2)
    clock.now = 2.0
    one.push(rows=10, loss=5.0, change=0.0)
    one.push(rows=30, loss=9.0, change=0.0, seconds_per_row=0.1)
    two.push(rows=20, loss=16.0, change=0.0)
    progress = server.progress()
    assert (progress.epoch, progress.loss, progress.rows) == (0, 0.5, 60)
    assert (progress.total_rows, progress.total_loss, progress.seconds) == (60, 30.0, 2.0)
    assert progress.staleness == 1.0  # the update of the second met two versions
    first, second = progress.learners
    assert (first.name, first.worker, first.staleness, first.latency) == ("w/1", "w", 0.0, 0.003)
    assert (first.seconds_per_row, second.staleness) == (0.1, 2.0)
    assert first.round_size == one.answer.round_size
    assert [(each.number, each.learner, each.offset) for each in progress.visits] == [
        (one.visit, "w/1", 40),
        (two.visit, "v/1", 20),
    ]
    server.leave(one.visit, one.attempt)
    assert [each.learner for each in server.progress().visits] == ["v/1"]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 5), st.integers(1, 10_000), st.sampled_from(["floor", "ceil"]))
def test_round_sizes_follow_the_efficiency_of_the_link(late, standard, rounding):
    sizer = LatencyBatchSizer(threshold=0.01, rounding=rounding)
    server = make_server(sizer=sizer, round_size=standard)
    learner = FakeLearner(server, link=Link((0.001,) * (5 - late) + (0.05,) * late))
    efficiency = (5 - late) / 5
    assert learner.answer.efficiency == efficiency
    # Only a link that fails altogether is held at the shortest round, not by the formula.
    assert learner.answer.round_size == max(
        sizer.size(efficiency, standard), 8 if late < 5 else standard // 16, 8
    )
    if late == 5:
        assert learner.answer.round_size == max(standard // 16, 8)


def test_round_sizes_stay_within_a_step_and_the_data():
    assert FakeLearner(make_server(round_size=1)).answer.round_size == 8
    assert FakeLearner(make_server(round_size=10**9)).answer.round_size == 10_000
    assert FakeLearner(make_server(round_size=10**9, n_rows=3)).answer.round_size == 8


@pytest.mark.parametrize(("late", "size"), [(0, 2_000), (3, 1_142), (4, 666), (5, 250)])
def test_automatic_rounds_follow_the_link_down_to_a_sixteenth_of_the_standard(late, size):
    server = make_server(sizer=LatencyBatchSizer(threshold=0.01), n_rows=128_000, n_learners=2)
    learner = FakeLearner(server, rows=64_000, link=Link((0.001,) * (5 - late) + (0.05,) * late))
    assert learner.answer.round_size == size


@pytest.mark.parametrize(("slower", "size"), [(1, 250), (2, 250), (16, 250), (50, 156)])
def test_speed_alone_brings_automatic_rounds_below_a_sixteenth_of_the_standard(slower, size):
    server = make_server(sizer=LatencyBatchSizer(threshold=0.01), n_rows=128_000, n_learners=2)
    usual = FakeLearner(server, "usual", rows=64_000)
    late = FakeLearner(server, "late", visit=2, rows=64_000, link=Link((0.05,) * 5))
    for _ in range(30):
        usual.push(rows=80, seconds_per_row=1e-3)
        late.push(rows=8, seconds_per_row=slower * 1e-3)
    assert usual.answer.round_size == 2_000
    assert late.answer.round_size == pytest.approx(size, rel=0.02)


@pytest.mark.parametrize("sizer", [None, LatencyBatchSizer(), LatencyBatchSizer(rule="throughput")])
def test_automatic_rounds_of_a_single_learner_are_as_long_as_an_epoch_until_another_joins(sizer):
    server = make_server(sizer=sizer, n_rows=64_000)
    alone = FakeLearner(server, rows=64_000)
    assert alone.answer.round_size == 64_000 or sizer is not None
    assert alone.push(rows=640, seconds_per_row=1e-6).round_size == 64_000
    FakeLearner(server, "b", visit=2)
    assert alone.push(rows=640, seconds_per_row=1e-6).round_size <= 64_000 // 2


@pytest.mark.parametrize("expected", [1, 2])
def test_rounds_end_at_looks_only_where_one_learner_is_expected(expected):
    server = make_server(size=1, n_learners=expected, monitor=ConvergenceMonitor(100, None, 5))
    first = join(server, "a", "a", number=1)
    assert first.until_check == (100 if expected == 1 else math.inf)
    assert join(server, "b", "b", number=2).until_check == math.inf


def test_the_auto_threshold_takes_the_latencies_of_other_workers_only():
    server = make_server(sizer=LatencyBatchSizer(), round_size=1000)
    slow = FakeLearner(server, "slow", visit=1, link=Link((0.5,) * 5))
    assert slow.answer.efficiency == 1.0
    same = FakeLearner(server, "same", worker="slow", visit=2, link=Link((0.5,) * 5))
    assert same.answer.efficiency == 1.0
    fast = FakeLearner(server, "fast", visit=3, link=Link((0.001,) * 5))
    assert fast.answer.efficiency == 1.0
    assert slow.push(rows=1).efficiency == 0.0
    assert slow.answer.round_size == 1000 // 16


def test_throughput_gives_slow_learners_shorter_rounds():
    server = make_server(size=1, sizer=LatencyBatchSizer(rule="throughput"), round_size=1000)
    fast, slow = FakeLearner(server, "fast", visit=1), FakeLearner(server, "slow", visit=2)
    fast.push(change=0.0, seconds_per_row=1e-6)
    slow.push(change=0.0, seconds_per_row=3e-6)
    assert slow.answer.round_size == 666
    fast.push(change=0.0, seconds_per_row=1e-6)
    assert fast.answer.round_size == 2000


def test_peers_are_the_rates_of_other_learners():
    server = make_server(size=1, round_size=100)
    a, b = FakeLearner(server, "a", visit=1), FakeLearner(server, "b", visit=2, link=Link((0.01,)))
    assert a.push(change=0.0, seconds_per_row=1e-3).peers == 0.0
    assert b.push(change=0.0, seconds_per_row=1e-3).peers == pytest.approx(1 / 0.1)
    assert a.push(change=0.0, seconds_per_row=1e-3).peers == pytest.approx(1 / (0.1 + 2 * 0.01))


@pytest.mark.parametrize("how", ["leave", "retire", "takeover"])
def test_a_learner_that_has_been_away_for_long_is_no_peer(how):
    clock = Clock()
    server = make_server(size=1, round_size=100, time_source=clock)
    gone, other = FakeLearner(server, "gone", visit=1), FakeLearner(server, "other", visit=2)
    gone.push(change=0.0, seconds_per_row=1e-3)
    clock.now = 1e6
    assert other.push(change=0.0).peers == pytest.approx(10)
    if how == "leave":
        server.leave(1, gone.attempt)
    elif how == "retire":
        server.retire(1)
    else:
        join(server, "newer", "second", number=1)
    assert other.push(change=0.0).peers == 0.0


def test_a_learner_between_two_visits_is_still_a_peer():
    clock = Clock()
    server = make_server(size=1, round_size=100, time_source=clock)
    pausing, other = FakeLearner(server, "pausing", visit=1), FakeLearner(server, "other", visit=2)
    pausing.push(change=0.0, seconds_per_row=1e-3)
    server.leave(1, pausing.attempt)
    clock.now = 0.1
    assert other.push(change=0.0).peers == pytest.approx(10)


def test_a_retired_visit_is_taken_away_with_its_acknowledged_rows():
    server = make_server()
    learner = FakeLearner(server)
    learner.push(rows=24)
    assert server.retire(1) == 24
    assert server.retire(1) == 24
    assert not learner.push(rows=8).accepted
    assert not join(server, "again").accepted
    assert server.version == 1
    assert server.retire(99) == 0
    assert not join(server, "never", number=99).accepted


def test_stop_ends_with_the_epochs_under_way():
    server = make_server(max_iter=50)
    learner = FakeLearner(server, epoch=2)
    server.stop()
    assert learner.push(rows=8).accepted
    assert learner.answer.last_epoch == 2
    assert not join(server, "late", number=2, epoch=3).accepted


def test_an_update_is_not_changed_by_the_server():
    server = make_server(size=3)
    learner = FakeLearner(server)
    update = learner.update(rows=1, scale=0.5, change=1.0)
    before = update._replace(state=update.state.copy())
    learner.push(update)
    np.testing.assert_array_equal(update.state, before.state)


def test_a_late_repeat_of_an_update_does_not_undo_what_others_did():
    server = make_server(size=1)
    a, b = FakeLearner(server, "a", visit=1), FakeLearner(server, "b", visit=2)
    update = a.update(change=1.0)
    answer = a.push(update)
    b.push(change=10.0)
    assert server.push(update) is answer
    a.push(change=1.0)
    assert server.state[0] == pytest.approx(12.0)


def test_a_late_repeat_of_a_join_changes_nothing():
    server = make_server(size=1)
    a, b = FakeLearner(server, "a", visit=1), FakeLearner(server, "b", visit=2)
    b.push(change=10.0)
    again = join(server, a.attempt, learner="a", number=1)
    assert again.state[0] == 0.0
    a.push(change=1.0)
    assert server.state[0] == pytest.approx(11.0)


def test_rows_of_a_short_last_step_and_of_the_last_flush_count_like_others():
    """Updates of 64 rows and of 1 row, as the kernels scale them: by rows over the size of a batch."""
    server = make_server(size=2, collect=2, batch_size=64)
    a, b = FakeLearner(server, "a", visit=1), FakeLearner(server, "b", visit=2)
    a.push(rows=64, change=np.array([64 / 64, 0.0]))
    b.push(rows=1, change=np.array([0.0, 1 / 64]))
    a.push(rows=64, change=np.array([64 / 64, 0.0]))
    state = server.finish()[0]
    assert state[0] / 128 == pytest.approx(state[1] / 1)


def test_a_refused_join_cannot_push():
    server = make_server(size=1)
    server.abort()
    learner = FakeLearner(server)
    assert not learner.push(rows=8).accepted


def test_visits_that_ended_hold_no_parameters():
    server = make_server(size=1)
    alive = []
    for number in range(20):
        learner = FakeLearner(server, "a", visit=number)
        learner.push(change=1.0)
        alive.append(weakref.ref(server.state))
        server.leave(number, learner.attempt)
        del learner
    gc.collect()
    assert sum(state() is not None for state in alive) <= 2


def test_an_update_of_a_visit_nobody_joined_is_an_error():
    learner = FakeLearner(make_server(size=1))
    with pytest.raises(ValueError, match="Visit 1 was never joined"):
        make_server(size=1).push(learner.update(change=1.0))


def gated(mode, size=1, bound=1, **kwargs):
    clock = Clock()
    gate = gate_of(mode, bound, kwargs.pop("collect", "auto"))
    return make_server(size, gate=gate, time_source=clock, **kwargs), clock


waiting_modes = pytest.mark.parametrize("mode", ["sync", "patient", "ssp"])


def company(server, count, **kwargs):
    """Return learners that began an epoch together."""
    return [FakeLearner(server, f"{i}", visit=i, company=count, **kwargs) for i in range(count)]


def push_together(learners, updates):
    """End a round of all learners; return their answers."""
    replies = [learner.push(update) for learner, update in zip(learners, updates, strict=True)]
    assert all(isinstance(reply, Future) for reply in replies[:-1])
    assert not isinstance(replies[-1], Future)
    return [learner.take() for learner in learners[:-1]] + replies[-1:]


copies = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 3), min_size=n, max_size=n)
)
volatilities = st.lists(st.one_of(st.floats(0, 1e3), st.just(math.nan)), min_size=6, max_size=6)


@settings(deadline=None, max_examples=80)
@given(copies, volatilities, st.booleans())
def test_a_sync_round_ends_with_the_weighted_mean_of_the_copies(copies, volatilities, weighted):
    aggregator = InverseVolatility() if weighted else None
    server, _ = gated("sync", size=3, aggregator=aggregator)
    learners = company(server, len(copies))
    for round_number in range(2):
        updates = [
            learner.update(change=np.array(copy) - learner.answer.state, volatility=v, steps=2, rows=16)
            for learner, copy, v in zip(learners, copies, volatilities, strict=False)
        ]
        ends = np.array([update.state for update in updates])
        weights = [1 / len(copies)] * len(copies)
        if weighted:
            weights = aggregator.weights(volatilities[: len(copies)])
        answers = push_together(learners, updates)
        assert sum(weights) == pytest.approx(1)
        np.testing.assert_allclose(server.state, weights @ ends, atol=1e-9)
        slack = 1e-9
        assert (server.state >= ends.min(axis=0) - slack).all()
        assert (server.state <= ends.max(axis=0) + slack).all()
        assert server.version == round_number + 1
        assert server.clock == pytest.approx(2 * server.version)
        assert {answer.staleness for answer in answers} == {0.0}
        assert all(answer.state is server.state for answer in answers)
        records = server.finish().rounds[-len(copies) :]
        assert [record.weight for record in records] == pytest.approx(weights)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.floats(-10, 10), st.integers(0, 3))
def test_equal_copies_reproduce_themselves(count, value, seed):
    server, _ = gated("sync", size=4)
    change = value * np.random.default_rng(seed).normal(size=4)
    learners = company(server, count)
    push_together(learners, [learner.update(change=change) for learner in learners])
    np.testing.assert_allclose(server.state, change, rtol=1e-14)


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(5)), st.permutations(range(5)), st.booleans())
def test_a_sync_round_does_not_depend_on_the_order_of_arrival_to_the_bit(first, second, weighted):
    states = []
    for orders in ((range(5), range(5)), (first, second)):
        server, _ = gated("sync", size=50, aggregator=InverseVolatility() if weighted else None)
        learners = company(server, 5)
        for number, order in enumerate(orders):
            updates = [
                learner.update(
                    change=np.random.default_rng([number, i]).normal(size=50) * 10.0 ** (3 * i),
                    volatility=float(i + 1),
                )
                for i, learner in enumerate(learners)
            ]
            push_together([learners[i] for i in order], [updates[i] for i in order])
        outcome = server.finish()
        states.append((outcome.state, outcome.clock, [record.learner for record in outcome.rounds]))
    np.testing.assert_array_equal(states[0][0], states[1][0])
    assert states[0][1:] == states[1][1:]


def test_the_first_round_of_an_epoch_waits_for_the_company():
    server, _ = gated("sync")
    first = FakeLearner(server, "0", visit=0, company=2)
    assert isinstance(first.push(change=1.0), Future)
    second = FakeLearner(server, "1", visit=1, company=2)
    np.testing.assert_array_equal(second.answer.state, [0.0])
    second.push(change=3.0)
    assert first.take().state == pytest.approx([2.0])
    assert second.answer.state is first.answer.state


def test_an_end_of_a_visit_that_comes_late_does_not_stand_for_the_next_one():
    server, _ = gated("sync", max_iter=2)
    before = company(server, 2)
    push_together(before, [learner.update(change=0.0)._replace(last=True) for learner in before])
    server.leave(0, before[0].attempt)
    first = FakeLearner(server, "0", visit=2, epoch=1, company=2)
    server.leave(1, before[1].attempt)
    first.push(change=1.0)
    assert first.waits
    second = FakeLearner(server, "1", visit=3, epoch=1, company=2)
    second.push(change=3.0)
    assert first.take().state == pytest.approx([2.0])


@waiting_modes
def test_nobody_waits_for_a_learner_whose_last_update_was_answered(mode):
    _, _, (waiting, last) = waiting_company(mode, 2)
    last.push(last.update(change=0.0)._replace(last=True))
    assert waiting.take().accepted
    for _ in range(3):
        assert not isinstance(waiting.push(change=1.0), Future)


@pytest.mark.parametrize("joined", [True, False])
def test_a_company_that_is_not_complete_is_waited_for_as_long_as_a_first_lease(joined):
    server, clock = gated("sync")
    present = company(server, 2)[:1] if joined else [FakeLearner(server, "0", visit=0, company=2)]
    present[0].push(change=1.0)
    clock.now = FIRST_LEASE_SECONDS - 0.1
    server.expire()
    assert present[0].waits
    clock.now = FIRST_LEASE_SECONDS + 0.1
    server.expire()
    assert present[0].take().accepted
    np.testing.assert_array_equal(server.state, [1.0])


def test_the_round_of_a_company_goes_on_when_a_visit_that_nobody_joined_is_retired():
    server, _ = gated("sync")
    first, second = (FakeLearner(server, f"{i}", visit=i, company=3) for i in range(2))
    first.push(change=1.0)
    second.push(change=3.0)
    assert first.waits
    assert server.retire(2) == 0
    assert first.take().state == pytest.approx([2.0])


def waiting_company(mode, count):
    """Return a server where, a second after the start, all of a company but the last one wait."""
    server, clock = gated("async" if mode == "patient" else mode, bound=0)
    learners = company(server, count)
    clock.now = 1.0
    for learner in learners[:-1]:
        learner.push(change=6.0)
    assert all(learner.waits for learner in learners[:-1])
    return server, clock, learners


@waiting_modes
@pytest.mark.parametrize("how", ["leave", "retire", "expire"])
def test_a_learner_that_is_gone_holds_nobody_up(mode, how):
    server, clock, (*waiting, gone) = waiting_company(mode, 3)
    if how == "leave":
        server.leave(2, gone.attempt)
    elif how == "retire":
        assert server.retire(2) == 0
    else:
        clock.now = FIRST_LEASE_SECONDS + 0.1
        server.expire()
    assert not server.waits
    for learner in waiting:
        assert learner.take().accepted
        assert learner.answer.state is server.state
    if how != "expire":
        assert not gone.push(change=1.0).accepted


def test_whoever_takes_a_visit_over_is_waited_for_in_the_place_of_the_first():
    server, _, (first, second, gone) = waiting_company("sync", 3)
    newer = FakeLearner(server, "newer", visit=2)
    assert first.waits
    assert newer.push(change=0.0).state == pytest.approx([4.0])
    assert first.take().state is second.take().state is server.state
    assert not gone.push(change=1.0).accepted


@waiting_modes
def test_who_waits_and_is_retired_is_refused_but_its_update_counts(mode):
    server, _, (a, b, c) = waiting_company(mode, 3)
    assert server.retire(0) == a.sent.stop
    assert not a.take().accepted
    assert b.waits
    c.push(change=0.0)
    assert b.take().accepted
    assert not server.waits
    outcome = server.finish()
    assert outcome.state == pytest.approx([12.0 if mode == "ssp" else 4.0])
    assert sorted(record.learner for record in outcome.rounds) == ["0", "1", "2"]


@waiting_modes
def test_abort_refuses_those_who_wait(mode):
    server, _, learners = waiting_company(mode, 3)
    server.abort()
    for learner in learners[:2]:
        assert learner.take().accepted is False
        assert learner.answer.last_epoch == -1
    assert learners[2].push(change=1.0).accepted is False
    assert not server.waits


@waiting_modes
def test_a_repeat_of_an_update_waits_for_the_same_answer(mode):
    server, _, (a, b) = waiting_company(mode, 2)
    assert server.push(a.sent) is a.ticket
    assert a.waits
    b.push(change=3.0)
    answer = a.take()
    assert server.push(a.sent) is answer
    assert server.version == (2 if mode == "ssp" else 1)
    assert len(server.finish().rounds) == 2


def test_the_time_that_an_answer_was_held_back_is_told():
    server, clock = gated("sync")
    a, b = company(server, 2)
    clock.now = 1.0
    a.push(change=1.0)
    clock.now = 3.5
    assert b.push(change=1.0).seconds_held == 0.0
    assert a.take().seconds_held == 2.5


@waiting_modes
def test_patience_of_the_server_is_that_of_its_gate(mode):
    server, _, _ = waiting_company(mode, 2)
    assert server.waits
    assert server.patience() == (0.25 if mode == "patient" else 0.5)


def test_a_learner_that_joins_late_begins_with_the_next_round_of_all():
    server, _ = gated("sync")
    a, b = company(server, 2)
    a.push(change=1.0)
    late = FakeLearner(server, "late", visit=7)
    b.push(change=1.0)
    assert a.waits
    late.push(change=4.0)
    assert a.take().state == pytest.approx([2.0])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 3))
def test_ssp_applies_at_once_and_answers_within_the_bound(order, bound):
    server, _ = gated("ssp", size=4, bound=bound, collect=1)
    learners = company(server, 4)
    counts = [0] * 4
    for who in order:
        if learners[who].waits:
            continue
        if learners[who].ticket is not None:
            learners[who].take()
        learners[who].push(change=np.eye(4)[who])
        counts[who] += 1
        np.testing.assert_allclose(server.state, counts)
        assert server.version == sum(counts)
        for learner, count in zip(learners, counts, strict=True):
            assert learner.waits == (count - min(counts) > bound)
    assert max(counts) - min(counts) <= bound + 1


def test_an_answer_that_was_held_back_brings_what_others_did_meanwhile():
    server, _ = gated("ssp", bound=0)
    a, b = company(server, 2)
    a.push(change=1.0)
    b.push(change=10.0)
    assert a.take().state == pytest.approx([11.0])
    assert (a.answer.version, a.answer.foreign) == (2, 1)


def gather(server, clock, learners, changes, at):
    """Let some learners end a round at a time, and wait until the server has taken all of them."""
    clock.now = at
    for learner, change in zip(learners, changes, strict=True):
        if learner.ticket is not None:
            learner.take()
        learner.push(change=change)
    clock.now = 2.0 * at
    server.expire()
    assert not server.waits


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=6),
    st.integers(1, 4),
    st.floats(0, 0.95),
)
def test_gathered_updates_move_the_server_with_nesterovs_momentum(rounds, count, momentum):
    server, clock = gated("async", momentum=momentum)
    learners = company(server, count)
    x, v, m = 0.0, 0.0, min(momentum, 1 - 1 / count)
    for number, changes in enumerate(rounds):
        base = server.state
        gather(server, clock, learners, changes[:count], 10.0**number)
        d = sum(changes[:count]) / count
        v = m * v + d
        x += d + m * v
        assert server.state == pytest.approx([x], rel=1e-9, abs=1e-9)
        assert server.version == number + 1
        assert server.state is not base
    assert {record.weight for record in server.finish().rounds} == {1 / count}


def test_who_is_late_keeps_its_share_for_the_next_version():
    server, clock = gated("async")
    a, b, c, late = company(server, 4)
    gather(server, clock, [a, b, c], [4.0, 4.0, 4.0], 1.0)
    assert server.state == pytest.approx([3.0])
    gather(server, clock, [a, b, late], [4.0, 4.0, 8.0], 4.0)
    assert server.state == pytest.approx([3.0 + 1.0 + 1.0 + 2.0])
    outcome = server.finish()
    assert {record.weight for record in outcome.rounds} == {0.25}
    assert [record.staleness for record in outcome.rounds] == [0, 0, 0, 0, 0, 1]
    assert outcome.clock == pytest.approx(6 / 4)


def test_volatility_weighs_gathered_updates_by_their_share_of_all_members():
    aggregator = InverseVolatility()
    server, clock = gated("async", aggregator=aggregator)
    a, b, *_ = company(server, 4)
    clock.now = 1.0
    a.push(change=1.0, volatility=1.0)
    b.push(change=0.0, volatility=3.0)
    clock.now = 2.0
    server.expire()
    weights = [weight / 2 for weight in aggregator.weights([1.0, 3.0])]
    assert [record.weight for record in server.finish().rounds] == pytest.approx(weights)
    assert server.state == pytest.approx(weights[:1])


@pytest.mark.parametrize("mode", ["sync", "patient", "ssp", "async"])
@pytest.mark.parametrize("momentum", [0.0, 0.8, 0.99])
def test_the_rounds_of_one_learner_are_assigned_in_every_mode(mode, momentum):
    collect = 1 if mode == "async" else "auto"
    server, _ = gated("async" if mode == "patient" else mode, size=20, collect=collect, momentum=momentum)
    learner = FakeLearner(server)
    for number in range(5):
        update = learner.update(change=np.random.default_rng(number).normal(size=20))
        assert learner.push(update).state is update.state
    assert server.version == 5
    assert server.clock == 5.0


def test_momentum_of_collected_updates_counts_them_as_learners():
    server = make_server(size=1, collect=2, momentum=0.9)
    x, v = 0.0, 0.0
    for number in range(3):
        # New visits: nobody is stale.
        a, b = (FakeLearner(server, name, visit=2 * number + i) for i, name in enumerate("ab"))
        a.push(change=1.0)
        b.push(change=3.0)
        v = 0.5 * v + 2.0
        x += 2.0 + 0.5 * v
        assert server.state == pytest.approx([x])


def test_where_updates_are_gathered_peers_are_the_mean_over_the_others():
    server, clock = gated("async", round_size=100)
    learners = company(server, 3)
    clock.now = 1.0
    for learner in learners:
        learner.push(change=0.0, seconds_per_row=1e-3)
    assert learners[2].answer.peers == pytest.approx(10.0)
    strict, _ = gated("sync", round_size=100)
    for learner in company(strict, 3):
        learner.push(change=0.0, seconds_per_row=1e-3)
    assert learner.answer.peers == 0.0


def test_where_updates_are_gathered_a_learner_between_two_visits_is_still_a_peer():
    server, clock = gated("async", round_size=100)
    a, b, pausing = learners = company(server, 3)
    for now in (1.0, 1.1):
        clock.now = now
        push_together(learners, [learner.update(change=0.0, seconds_per_row=1e-3) for learner in learners])
    server.leave(2, pausing.attempt)
    clock.now = 1.2
    push_together([a, b], [learner.update(change=0.0, seconds_per_row=1e-3) for learner in (a, b)])
    assert b.answer.peers == pytest.approx(10.0)
    server.leave(0, a.attempt)
    clock.now = 1.3
    assert b.push(change=0.0, seconds_per_row=1e-3).peers == pytest.approx(10.0)


def test_rounds_that_are_weighed_by_volatility_are_two_steps_at_least():
    server, _ = gated("sync", round_size=1, aggregator=InverseVolatility())
    assert FakeLearner(server).answer.round_size == 16


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["async", "patient", "ssp", "sync"]),
    st.lists(
        st.tuples(st.sampled_from(["push", "push", "leave", "retire", "wait"]), st.integers(0, 3)),
        max_size=50,
    ),
)
def test_whatever_happens_every_update_is_applied_once_and_nobody_waits_for_ever(mode, events):
    collect = 1 if mode == "async" else "auto"
    server, clock = gated("async" if mode == "patient" else mode, size=64 * 60, collect=collect)
    learners = [FakeLearner(server, f"{i}", visit=i, first=64 * 15 * i) for i in range(4)]
    numbers, sent = iter(range(10, 1000)), []
    for kind, who in events:
        learner = learners[who]
        if kind == "wait":
            clock.now += 7.0 * who
            server.expire()
        elif kind == "push" and not learner.waits and len(sent) < 60:
            if learner.ticket is not None:
                learner.take()
            update = learner.update(change=0.0)
            learner.push(update)
            sent.append((update.visit, update.start, update.stop))
        elif kind in ("leave", "retire"):
            if kind == "leave":
                server.leave(learner.visit, learner.attempt)
            else:
                server.retire(learner.visit)
            assert not learner.waits
            learners[who] = FakeLearner(server, learner.name, visit=next(numbers))
    for number, learner in enumerate(learners):
        if not learner.waits:
            server.leave(learner.visit, learner.attempt) if number % 2 else server.retire(learner.visit)
    while server.waits:
        clock.now += 1.0
        server.expire()
        for learner in learners:
            if not learner.waits:
                server.leave(learner.visit, learner.attempt)
        assert clock.now < 1e4
    outcome = server.finish()
    assert len(outcome.rounds) == len(sent)
    assert sum(record.rows for record in outcome.rounds) == sum(stop - start for _, start, stop in sent)


@pytest.mark.parametrize("how", ["leave", "retire", "takeover"])
def test_the_late_end_of_an_earlier_visit_does_not_lose_what_its_learner_waits_for_now(how):
    server, _ = gated("sync")
    earlier, other = FakeLearner(server, "a", visit=1), FakeLearner(server, "b", visit=3)
    now = FakeLearner(server, "a", visit=2)
    now.push(change=1.0)
    if how == "leave":
        server.leave(1, earlier.attempt)
    elif how == "retire":
        server.retire(1)
    else:
        FakeLearner(server, "c", visit=1).push(change=1.0)
    other.push(change=1.0)
    assert now.take().accepted
    assert not server.waits
