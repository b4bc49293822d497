import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.dispatch import Dispatcher
from skdist.control.pressure import LEAST_SHARE, VISITS_PER_LOOK, PressurePlanner, WorkerPressure
from skdist.messages import Segment, Visit, VisitReport

pressures = st.one_of(st.just(0.0), st.floats(1e-12, 1e3))
planners = st.builds(PressurePlanner, st.floats(1e-6, 1e3), st.integers(1, 20))
ROWS = 1000


@settings(max_examples=100)
@given(planners, pressures, st.integers(1, 64))
def test_plans_stay_in_their_bounds(planner, pressure, nthreads):
    threads, queue = planner.threads(pressure, nthreads), planner.longest_queue(pressure, nthreads)
    assert isinstance(threads, int)
    assert isinstance(queue, int)
    assert 1 <= threads <= nthreads
    assert 1 <= queue <= planner.max_queue


@settings(max_examples=100)
@given(planners, st.tuples(pressures, pressures), st.integers(1, 64))
def test_more_pressure_means_more_threads_and_a_shorter_queue(planner, pair, nthreads):
    low, high = sorted(pair)
    assert planner.threads(low, nthreads) <= planner.threads(high, nthreads)
    assert planner.longest_queue(low, nthreads) >= planner.longest_queue(high, nthreads)


@settings(max_examples=100)
@given(planners, st.floats(1e-9, 1e3), st.integers(1, 64))
def test_threads_follow_the_formula(planner, pressure, nthreads):
    exact = min(max(nthreads * pressure / planner.target_seconds, 1), nthreads)
    assert exact - 1e-6 * nthreads <= planner.threads(pressure, nthreads) < exact + 1 + 1e-6 * nthreads


@settings(max_examples=100)
@given(planners, st.floats(1, 1e3), st.integers(1, 64))
def test_above_the_target_all_threads_run_and_one_visit_waits_for_each(planner, factor, nthreads):
    pressure = factor * planner.target_seconds * (1 + 1e-9)
    assert planner.threads(pressure, nthreads) == nthreads
    assert planner.longest_queue(pressure, nthreads) == min(nthreads, planner.max_queue)


class FakeWorker:
    """A worker that runs as its plan says; ``speed`` gives its rows per second by the number of threads."""

    def __init__(self, planner, nthreads, speed=lambda threads: 1e6, pressure=0.0, free=0.0, queue=1):
        self.load = WorkerPressure(planner, nthreads, queue)
        self.speed, self.pressure, self.free = speed, pressure, free
        self.now, self.number, self.plans = 0.0, 0, []

    def visit(self, supplied=True, threads=None, **changes):
        """Report a visit; those that train at once end one after the other, evenly."""
        threads = self.load.plan.threads if threads is None else threads
        self.number += 1
        self.now += ROWS / self.speed(threads)
        seconds = threads * ROWS / self.speed(threads)
        report = {
            "visit": Visit(self.number, 0, (Segment(0, 0, ROWS),), threads=threads),
            "worker": "w",
            "offset": ROWS,
            "attempt": 1,
            "started": self.now - seconds,
            "seconds": seconds,
            "last_epoch": 9,
            "seconds_free": self.free * seconds,
            "rounds": 4,
            "seconds_compute": 4 * self.pressure,
        }
        plan = self.load.observe(VisitReport(**{**report, **changes}), supplied)
        self.plans += [plan] if plan is not None else []
        return plan

    def run(self, visits=200, **kwargs):
        for _ in range(visits):
            self.visit(**kwargs)
        return self.load.plan


HUGE = PressurePlanner(target_seconds=1e3)


def test_the_first_report_gives_a_plan_and_the_same_one_is_not_given_again():
    worker = FakeWorker(PressurePlanner(), 4, pressure=0.5)
    plan = worker.visit()
    assert (plan.pressure, plan.threads, plan.inner_threads, plan.queue) == (0.5, 4, 1, 1)
    worker.run()
    assert worker.plans == [plan]


def test_a_report_without_rounds_says_nothing():
    worker = FakeWorker(PressurePlanner(), 2)
    assert worker.visit(rounds=0) is None
    assert worker.visit(offset=0) is None


def test_fewer_threads_leave_more_for_the_inside_of_each_visit():
    plan = FakeWorker(PressurePlanner(target_seconds=1.0), 8, pressure=0.3).run()
    assert (plan.threads, plan.inner_threads) == (3, 2)


@settings(max_examples=60)
@given(st.integers(2, 16), st.floats(0, 2), st.floats(0.01, 1.0))
def test_a_worker_that_loses_rows_goes_back_to_all_threads_and_stays_there(nthreads, shape, target):
    def speed(threads):
        return 1e6 * threads**shape

    worker = FakeWorker(PressurePlanner(target_seconds=target), nthreads, speed, pressure=0.1)
    wanted = PressurePlanner(target_seconds=target).threads(0.1, nthreads)
    plan = worker.run(10 * nthreads * VISITS_PER_LOOK)
    loss = speed(wanted) / speed(nthreads)
    if abs(loss - LEAST_SHARE) < 1e-6:
        return
    assert plan.threads == (wanted if loss > LEAST_SHARE else nthreads)
    if plan.threads != wanted:
        worker.pressure = 1e-9
        assert worker.run(10 * nthreads * VISITS_PER_LOOK).threads == nthreads


def test_the_guard_acts_after_few_visits():
    worker = FakeWorker(HUGE, 4, speed=lambda threads: 1e6 * threads)
    while worker.load.plan.threads == 4:
        worker.visit()
    assert worker.number == 2 * 4 * VISITS_PER_LOOK  # half of them while caches are cold
    for _ in range(VISITS_PER_LOOK):
        assert worker.load.plan.threads == 1
        worker.visit()
    assert worker.load.plan.threads == 4


def test_visits_of_an_earlier_plan_do_not_count_for_the_present_one():
    worker = FakeWorker(HUGE, 4)
    while worker.load.plan.threads == 4:
        worker.visit()
    worker.speed = lambda threads: 1.0 if threads == 4 else 1e6
    worker.run(20, threads=4)
    assert worker.run().threads == 1


@settings(max_examples=60)
@given(st.integers(1, 8), st.integers(1, 20), st.floats(0, 1))
def test_the_queue_grows_by_one_while_slots_starve_up_to_its_bound(nthreads, longest, free):
    worker = FakeWorker(PressurePlanner(max_queue=longest), nthreads, pressure=1.0, free=free)
    worker.run(30 * nthreads * VISITS_PER_LOOK)
    queues = [plan.queue for plan in worker.plans]
    assert queues == list(range(1, (min(nthreads, longest) if free > 0.1 + 1e-9 else 1) + 1))


def test_light_rounds_allow_a_longer_queue():
    worker = FakeWorker(PressurePlanner(target_seconds=1e-3), 1, pressure=1e-4, free=0.5)
    assert worker.run().queue == 8


def test_a_worker_without_work_needs_no_longer_queue():
    assert FakeWorker(PressurePlanner(), 4, pressure=1.0, free=0.5).run(supplied=False).queue == 1


def test_where_nobody_may_wait_nobody_does():
    assert FakeWorker(PressurePlanner(), 4, pressure=1.0, free=0.5, queue=0).run().queue == 0


def test_the_dispatcher_orders_what_the_plan_says():
    dispatcher = Dispatcher([ROWS] * 20, {}, max_iter=50, seconds_per_row=1e-3, queue=1, planner=HUGE)
    dispatcher.add_worker("w", 2)
    flying, limits = dict(dispatcher.in_flight), set()
    plans = [(2, 1)]
    now = 0.0
    while not dispatcher.done:
        for _, visit in dispatcher.orders():
            flying[visit.number] = visit
            assert (visit.threads, visit.inner_threads) == (plans[-1][0], 2 // plans[-1][0])
        limits.add((plans[-1], len(flying) <= sum(plans[-1])))
        visit = flying.pop(min(flying))
        now += 1.0
        report = VisitReport(
            visit, "w", visit.rows, 1, now - 0.5, 0.5, 49, rounds=1, seconds_compute=visit.rows * 1e-3
        )
        plan = dispatcher.finished(report)
        if plan is not None:
            plans.append((plan.threads, plan.queue))
    assert plans[1:3] == [(2, 1), (1, 1)]
    assert ((1, 1), True) in limits


def test_without_a_planner_nothing_is_planned():
    dispatcher = Dispatcher([ROWS], {}, max_iter=1)
    dispatcher.add_worker("w", 2)
    ((_, visit),) = dispatcher.orders()
    assert visit.threads == visit.inner_threads == 0
    assert dispatcher.finished(VisitReport(visit, "w", ROWS, 1, 0.0, 1.0, 0, rounds=1)) is None


def test_a_streamed_partition_is_visited_alone():
    dispatcher = Dispatcher([ROWS] * 6, {}, max_iter=1, streamed=True, queue=1)
    dispatcher.add_worker("w", 2)
    assert [len(visit.segments) for _, visit in dispatcher.orders()] == [1, 1, 1]


@pytest.mark.parametrize("bad", [{"target_seconds": 0.0}, {"max_queue": 0}, {"target_seconds": math.nan}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        PressurePlanner(**bad)._validate_params()
