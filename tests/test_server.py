import dataclasses
import gc
import math
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    _, version, _, records, _, _ = server.finish()
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
    assert late.push(change=1.0, scale=asked).staleness == others
    applied = server.finish()[3][-1].applied
    expected = min(asked, adapter.rate_scale(others, 0.0, decay)) if guard else asked
    assert applied == pytest.approx(expected)
    assert server.state - before == pytest.approx([expected])


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


def test_leave_counts_the_executions_and_refuses_what_comes_later():
    server = make_server()
    learner = FakeLearner(server)
    assert server.leave(1, learner.attempt) == 1
    assert not learner.push(rows=8).accepted
    answer = join(server, "second")
    assert answer.offset == 0
    assert server.leave(1, "unknown") == 2
    assert server.leave(1, "second") == 2


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
    assert server.progress()[0] == 0
    assert server.progress()[1:] == (pytest.approx(14 / 40), 40)
    _, _, _, rounds, (epoch,), _ = server.finish()
    assert (epoch.rows, epoch.loss, epoch.seconds) == (40, 14 / 40, 3.0)
    assert [(r.rows, r.steps, r.loss, r.version) for r in rounds] == [(10, 2, 0.5, 1), (30, 4, 0.3, 2)]
    assert [r.time for r in rounds] == [2.0, 5.0]
    assert server.seconds() == 5.0
    assert (rounds[0].worker, rounds[0].latency, rounds[0].learner) == ("w", 0.002, "a")


def test_progress_before_the_first_update():
    number, loss, rows = make_server().progress()
    assert (number, rows) == (0, 0)
    assert math.isnan(loss)


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


@pytest.mark.parametrize(("late", "size"), [(0, 4_000), (3, 2_285), (4, 1_333), (5, 500)])
def test_automatic_rounds_follow_the_link_down_to_a_sixteenth_of_the_standard(late, size):
    server = make_server(sizer=LatencyBatchSizer(threshold=0.01), n_rows=64_000)
    learner = FakeLearner(server, rows=64_000, link=Link((0.001,) * (5 - late) + (0.05,) * late))
    assert learner.answer.round_size == size


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
    before = dataclasses.replace(update, state=update.state.copy())
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
