import math
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skdist.control.dispatch import Dispatcher
from skdist.control.pace import MOST_UNFAIR, Pace, Paces
from skdist.control.shares import GRAINS, fair_shares
from skdist.messages import VisitReport

STEP = 8


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=12).filter(any),
    st.lists(st.sampled_from(["a", "b", "c", "gone"]), min_size=12, max_size=12),
    st.dictionaries(st.sampled_from("abc"), st.floats(0.01, 100.0), min_size=1),
)
def test_fair_shares_are_all_rows_once_by_speed(rows, homes, speeds):
    homes = dict(enumerate(homes[: len(rows)]))
    shares = fair_shares(rows, homes, speeds, STEP)
    assert {name for name, _ in shares} <= set(speeds)
    ends = [0] * len(rows)
    for _, part in shares:
        assert part.start == ends[part.partition]
        assert part.stop > part.start
        assert part.stop == rows[part.partition] or part.stop % STEP == 0
        ends[part.partition] = part.stop
    assert ends == rows
    grain = math.ceil(sum(rows) / (GRAINS * len(speeds) * STEP)) * STEP
    for name, speed in speeds.items():
        goal = sum(rows) * speed / sum(speeds.values())
        given_rows = sum(part.rows for owner, part in shares if owner == name)
        assert given_rows <= goal + 2 * grain + 1
        assert given_rows >= goal - 2 * grain * (len(speeds) - 1) - 1


def test_workers_of_one_speed_keep_what_sits_with_them():
    homes = {n: "ab"[n % 2] for n in range(6)}
    shares = fair_shares([100] * 6, homes, {"a": 5.0, "b": 5.0}, STEP)
    assert [(name, part.partition, part.rows) for name, part in shares] == [
        (homes[n], n, 100) for n in range(6)
    ]


def test_the_same_partitions_go_elsewhere_where_speeds_differ_a_little():
    homes = dict.fromkeys(range(8), "slow") | dict.fromkeys(range(8, 10), "fast")
    sent = [
        {
            part.partition
            for name, part in fair_shares([64] * 10, homes, {"slow": 1.0, "fast": speed}, STEP)
            if name != homes[part.partition]
        }
        for speed in (2.9, 3.0, 3.1)
    ]
    assert all(parts <= {2, 3, 4, 5, 6, 7} for parts in sent)
    assert len(set.intersection(*sent)) >= 5


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(0, 500))
def test_nobody_gets_more_rows_of_others_than_it_has_room_for(rows, spare):
    homes = {n: "ab"[n % 2] for n in range(len(rows))}
    shares = fair_shares(rows, homes, {"a": 1.0, "b": 9.0}, STEP, spare)
    assert sum(part.rows for _, part in shares) == sum(rows)
    grain = math.ceil(sum(rows) / (GRAINS * 2 * STEP)) * STEP
    sent = sum(part.rows for name, part in shares if name != homes[part.partition])
    assert sent <= spare + 2 * grain


def test_many_small_partitions_are_shared_out_as_well():
    homes = dict.fromkeys(range(1000), "slow") | dict.fromkeys(range(1000, 2000), "fast")
    shares = fair_shares([STEP] * 2000, homes, {"slow": 1.0, "fast": 3.0}, STEP)
    assert 490 <= sum(name == "slow" for name, _ in shares) <= 510


def paces(least_seconds=0.25, **seconds_per_row):
    workers = {name: Pace(1, seconds) for name, seconds in seconds_per_row.items()}
    core = Paces(1e-6, least_seconds)
    core.look(workers.values())
    return core, workers


def test_rows_go_elsewhere_when_others_have_waited_long_enough():
    # The slowest takes 0.3 s, and 0.15 s would be fair: the second such epoch is one too many.
    core, workers = paces(a=3e-3, b=1e-3)
    rows, homes = [100] * 2, {0: "a", 1: "b"}
    speeds = [core.begin_epoch(workers, rows, homes) for _ in range(3)]
    assert speeds == [None, core.speeds(workers), core.speeds(workers)]


def test_rows_stay_where_they_sit_as_long_as_nobody_waits_for_long():
    core, workers = paces(a=1e-3 * MOST_UNFAIR, b=1e-3)
    assert not any(core.begin_epoch(workers, [100] * 2, {0: "a", 1: "b"}) for _ in range(1000))
    # Now one is the slowest, now the other one.
    for turn in range(1000):
        for name, seconds in zip("ab", (2e-3, 1e-3) if turn % 2 else (1e-3, 2e-3), strict=True):
            workers[name].seconds_per_row = seconds
        assert core.begin_epoch(workers, [100] * 2, {0: "a", 1: "b"}) is None


def test_nobody_is_unfair_to_workers_that_nothing_is_known_of():
    core, workers = paces(least_seconds=0.0, a=3e-3, b=0.0)
    assert core.begin_epoch(workers, [100] * 2, {0: "a", 1: "b"}) is None
    # But one that has no rows to be measured with is no reason to wait.
    assert core.begin_epoch(workers, [100] * 2, {0: "a", 1: "a"})


def test_of_several_who_are_slow_it_does_not_matter_which_is_the_slowest():
    core, workers = paces(a=3e-3, b=3e-3, c=1e-3, d=1e-3)
    homes = {n: "abcd"[n] for n in range(4)}
    for turn in range(4):
        workers["ab"[turn % 2]].seconds_per_row = 3.1e-3 + 1e-5 * turn
        speeds = core.begin_epoch(workers, [100] * 4, homes)
    assert speeds


def test_of_two_workers_the_one_that_takes_three_times_as_long_is_slow():
    core, workers = paces(a=3e-3, b=1e-3)
    assert [core.is_slow(worker) for worker in workers.values()] == [True, False]


def seconds_of(rows, homes, seconds_per_row, epochs, visit_seconds=0.004):
    """Return the time that workers of one slot take, each of which trains its visits one after the other."""
    dispatcher = Dispatcher(rows, homes, max_iter=epochs, seconds_per_row=1e-6, queue=1, step=64)
    now, waiting, running, done = 0.0, {}, {}, Counter()
    for name in seconds_per_row:
        dispatcher.add_worker(name, 1)
        waiting[name] = deque()
    while not dispatcher.done:
        for name, visit in dispatcher.orders():
            waiting[name].append(visit)
        for name, visits in waiting.items():
            if name not in running and visits:
                visit, pace = visits.popleft(), seconds_per_row[name]
                most = visit.budget_seconds / pace
                trained = visit.rows if most >= visit.rows else min(visit.rows, max(int(most) // 64, 1) * 64)
                running[name] = now + trained * pace + visit_seconds, visit, trained
        name = min(running, key=lambda name: running[name][0])
        now, visit, trained = running.pop(name)
        seconds = trained * seconds_per_row[name]
        dispatcher.finished(VisitReport(visit, name, trained, 1, 0.0, seconds, 10**6))
        done[name] += trained
    assert sum(done.values()) == epochs * sum(rows)
    return now


@pytest.mark.parametrize("slower", [1, 1.5, 3, 5, 20])
@pytest.mark.parametrize("workers", [2, 4])
def test_a_slow_worker_costs_little_more_than_what_it_cannot_do(workers, slower):
    rows = [7_500] * (4 * workers)
    homes = {number: str(number % workers) for number in range(len(rows))}
    pace = {str(number): 1e-5 * (slower if number == 0 else 1) for number in range(workers)}
    ideal = 12 * sum(rows) / sum(1 / value for value in pace.values())
    assert seconds_of(rows, homes, pace, 12) <= 1.2 * ideal


def test_a_worker_that_was_slow_for_a_while_gets_rows_again():
    names = "abcd"
    dispatcher = Dispatcher(
        [10_000] * 4, dict(enumerate(names)), max_iter=150, seconds_per_row=1e-5, queue=0, step=64
    )
    for name in names:
        dispatcher.add_worker(name, 1)
    of_a = Counter()
    while not dispatcher.done:
        for name, visit in dispatcher.orders():
            slow = name == "a" and 2 <= visit.epoch < 5
            seconds = visit.rows * 1e-5 * (200 if slow else 1)
            of_a[visit.epoch] += visit.rows * (name == "a")
            dispatcher.finished(VisitReport(visit, name, visit.rows, 1, 0.0, seconds, 10**6))
    assert min(of_a[epoch] for epoch in range(5, 20)) < 1_000
    assert of_a[149] == 10_000


@pytest.mark.parametrize("slower", [1, 3, 20])
def test_partitions_of_all_sizes_are_shared_out_well(slower):
    rows = [9_000, 3_000, 5_000, 12_000, 700, 8_000]
    homes = {number: str(number % 3) for number in range(6)}
    pace = {"0": 1e-5 * slower, "1": 1e-5, "2": 1e-5}
    ideal = 24 * sum(rows) / sum(1 / value for value in pace.values())
    assert seconds_of(rows, homes, pace, 24) <= 1.3 * ideal
