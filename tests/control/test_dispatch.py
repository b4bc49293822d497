import heapq
import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.dispatch import EPOCH_LEAD, MOST_TOGETHER, Dispatcher
from skdist.control.pace import BUDGET_MARGIN, LEAST_OVER_OVERHEAD, MOST_SECONDS
from skdist.control.shares import equal_shares, share_homes
from skdist.messages import Segment, VisitReport


def report(visit, worker, offset=None, last_epoch=10**6, seconds_per_row=1e-7):
    done = visit.rows if offset is None else offset
    return VisitReport(visit, worker, done, 1, 0.0, done * seconds_per_row, last_epoch)


def rows_of(visit, segments=None):
    chosen = visit.segments if segments is None else segments
    return [(visit.epoch + s.ahead, s.partition, row) for s in chosen for row in range(s.start, s.stop)]


class Run:
    """Plays a cluster against a dispatcher and watches every row."""

    def __init__(self, dispatcher, rows, epochs, lead=EPOCH_LEAD):
        self.dispatcher, self.rows, self.lead = dispatcher, rows, lead
        self.done = Counter()
        self.flying = {}
        self.in_flight = Counter()
        self.left = Counter({epoch: sum(rows) for epoch in range(epochs)})
        self.cap = 10**6

    def start(self):
        for worker, visit in self.dispatcher.orders():
            assert worker in self.dispatcher.workers
            assert visit.rows > 0
            assert visit.number not in self.flying
            unfinished = min(epoch for epoch, left in self.left.items() if left)
            assert visit.epoch + visit.segments[-1].ahead <= unfinished + self.lead
            assert visit.epoch <= self.dispatcher.last_epoch
            for row in rows_of(visit):
                assert not self.in_flight[row]
                assert not self.done[row]
                self.in_flight[row] += 1
            self.flying[visit.number] = (worker, visit)
        if self.dispatcher.workers and not self.flying:
            assert self.dispatcher.done

    def end(self, number, offset=None, lost=False):
        worker, visit = self.flying.pop(number)
        offset = 0 if visit.epoch > self.cap else visit.rows if offset is None else offset
        for row in rows_of(visit):
            del self.in_flight[row]
        for row in rows_of(visit, visit.split(offset)[0]):
            self.done[row] += 1
            self.left[row[0]] -= 1
        if lost:
            assert self.dispatcher.lost(number, offset) is visit
        else:
            self.dispatcher.finished(report(visit, worker, offset, self.cap))

    def check(self, epochs):
        expected = {
            (epoch, partition, row)
            for epoch in range(epochs)
            for partition, n in enumerate(self.rows)
            for row in range(n)
        }
        assert {row for row in self.done if row[0] < epochs} == expected
        assert set(self.done.values()) <= {1}


sizes = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any)
NAMES = ("a", "b", "c")


def dispatchers(rows, homes, epochs, **kwargs):
    homes = {p: home for p, home in enumerate(homes) if home and p < len(rows)}
    return Dispatcher(rows, homes, max_iter=epochs, **kwargs)


@settings(deadline=None, max_examples=120)
@given(
    rows=sizes,
    homes=st.lists(st.sampled_from(["", "a", "b", "c", "gone"]), min_size=8, max_size=8),
    epochs=st.integers(1, 16),
    slots=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    queue=st.integers(0, 2),
    step=st.sampled_from([1, 4]),
    speed=st.sampled_from([1e-7, 0.02, 0.2]),
    lead=st.integers(0, 2),
    shared=st.booleans(),
    span=st.sampled_from([1, 8]),
    random=st.randoms(use_true_random=False),
)
def test_every_row_of_every_epoch_is_visited_once_whatever_happens(
    rows, homes, epochs, slots, queue, step, speed, lead, shared, span, random
):
    dispatcher = dispatchers(
        rows, homes, epochs, queue=queue, step=step, seconds_per_row=speed, lead=lead, fixed=shared, span=span
    )
    sized = dict(zip(NAMES, slots if span == 1 else (1, 1, 1), strict=True))
    # One that is alone may go as far as it likes.
    fewest = 1 if span == 1 else 2
    for name in NAMES[:fewest]:
        dispatcher.add_worker(name, sized[name])
    run = Run(dispatcher, rows, epochs, lead if span == 1 else max(lead, MOST_TOGETHER) + MOST_TOGETHER - 1)
    for event in itertools.count():
        run.start()
        if dispatcher.done:
            break
        troubled = event < 60
        action = random.random() if troubled else 1.0
        if action < 0.1:
            name = random.choice(NAMES)
            dispatcher.add_worker(name, sized[name])
        elif action < 0.2 and len(dispatcher.workers) > fewest:
            dispatcher.remove_worker(random.choice(dispatcher.workers))
        elif run.flying:
            number = random.choice(sorted(run.flying))
            rows_left = run.flying[number][1].rows
            whole = not troubled or random.random() < 0.4
            run.end(number, None if whole else random.randint(0, rows_left), random.random() < 0.3)
        assert event < 2000
    run.check(epochs)
    assert not dispatcher.in_flight


@settings(deadline=None, max_examples=80)
@given(
    rows=sizes,
    homes=st.lists(st.sampled_from(["", "a", "b"]), min_size=8, max_size=8),
    after=st.integers(0, 12),
    random=st.randoms(use_true_random=False),
)
def test_a_lower_last_epoch_ends_it_with_whole_epochs(rows, homes, after, random):
    epochs = 5
    dispatcher = dispatchers(rows, homes, epochs)
    for name in "ab":
        dispatcher.add_worker(name, 2)
    run = Run(dispatcher, rows, epochs)
    for event in range(1000):
        run.start()
        if dispatcher.done:
            break
        if event == after:
            joined = [epoch for epoch, *_ in run.done]
            run.cap = max([*joined, random.choice([visit.epoch for _, visit in run.flying.values()])])
        run.end(random.choice(sorted(run.flying)))
    assert dispatcher.done
    assert dispatcher.last_epoch == min(run.cap, epochs - 1)
    run.check(dispatcher.last_epoch + 1)
    assert max(epoch for epoch, *_ in run.done) == dispatcher.last_epoch


def test_nobody_waits_for_empty_partitions():
    dispatcher = Dispatcher([0, 5, 0], {}, max_iter=1)
    dispatcher.add_worker("a", 4)
    visits = [visit for _, visit in dispatcher.orders()]
    assert {s.partition for visit in visits for s in visit.segments} == {1}


def test_without_workers_there_are_no_orders_and_no_end():
    dispatcher = Dispatcher([5], {}, max_iter=1)
    assert dispatcher.orders() == []
    assert not dispatcher.done


def test_workers_begin_with_the_partitions_that_sit_with_them():
    homes = {0: "a", 1: "b", 2: "a", 3: "b"}
    dispatcher = Dispatcher([10] * 4, homes, max_iter=1, queue=0)
    for name in "ab":
        dispatcher.add_worker(name, 1)
    for name, visit in dispatcher.orders():
        assert all(homes[s.partition] == name for s in visit.segments)


def test_a_worker_begins_the_next_epoch_of_its_own_but_not_the_one_after():
    dispatcher = Dispatcher([10, 10], {0: "a", 1: "b"}, max_iter=9, queue=0)
    for name in "ab":
        dispatcher.add_worker(name, 1)
    slow, fast = sorted(dispatcher.orders())
    assert [fast[1].epoch, slow[1].epoch] == [0, 0]
    dispatcher.finished(report(fast[1], "b"))
    ((name, ahead),) = dispatcher.orders()
    assert (name, ahead.epoch) == ("b", 1)
    dispatcher.finished(report(ahead, "b"))
    assert dispatcher.orders() == []
    dispatcher.finished(report(slow[1], "a"))
    assert {visit.epoch for _, visit in dispatcher.orders()} <= {1, 2}


def test_an_idle_worker_takes_over_what_waits_for_another():
    dispatcher = Dispatcher([10] * 6, dict.fromkeys(range(6), "a"), max_iter=1, queue=0, seconds_per_row=0.05)
    dispatcher.add_worker("a", 1)
    dispatcher.add_worker("b", 1)
    assert {name for name, _ in dispatcher.orders()} == {"a", "b"}


def test_what_sat_with_a_worker_that_left_goes_to_the_others():
    dispatcher = Dispatcher([10, 10], {0: "a", 1: "b"}, max_iter=1, queue=0)
    for name in "ab":
        dispatcher.add_worker(name, 1)
    orders = dict(dispatcher.orders())
    dispatcher.remove_worker("b")
    dispatcher.lost(orders["b"].number, offset=4)
    dispatcher.finished(report(orders["a"], "a"))
    ((name, visit),) = dispatcher.orders()
    assert name == "a"
    assert rows_of(visit) == [(0, 1, row) for row in range(4, 10)]
    assert visit.number not in {order.number for order in orders.values()}


def test_small_partitions_are_grouped_to_a_visit_of_half_a_second():
    dispatcher = Dispatcher([50] * 100, {}, max_iter=1, seconds_per_row=1e-3, queue=0)
    dispatcher.add_worker("a", 1)
    ((_, visit),) = dispatcher.orders()
    assert visit.rows == 500


def test_reports_refine_the_length_of_visits():
    dispatcher = Dispatcher([50] * 100, {}, max_iter=1, seconds_per_row=1e-3, queue=0)
    dispatcher.add_worker("a", 1)
    ((_, visit),) = dispatcher.orders()
    dispatcher.finished(report(visit, "a", seconds_per_row=3e-3))
    ((_, visit),) = dispatcher.orders()
    assert visit.rows == 150
    dispatcher.finished(report(visit, "a", seconds_per_row=1e-3))
    ((_, visit),) = dispatcher.orders()
    assert visit.rows == 200


def test_visits_that_take_long_to_begin_and_to_end_are_longer():
    dispatcher = Dispatcher([50] * 200, {}, max_iter=1, seconds_per_row=1e-3, queue=0)
    dispatcher.add_worker("a", 1)
    ((_, visit),) = dispatcher.orders()
    rows = visit.rows
    dispatcher.finished(report(visit, "a", seconds_per_row=1e-3)._replace(seconds_span=rows * 1e-3))
    ((_, visit),) = dispatcher.orders()
    assert visit.rows == rows
    around = 0.2
    dispatcher.finished(report(visit, "a", seconds_per_row=1e-3)._replace(seconds_span=rows * 1e-3 - around))
    ((_, visit),) = dispatcher.orders()
    assert rows < visit.rows <= LEAST_OVER_OVERHEAD * around / 1e-3


def test_a_large_partition_is_shared_among_slots_at_step_boundaries():
    dispatcher = Dispatcher([1000], {}, max_iter=1, step=64, queue=0, seconds_per_row=0.01)
    dispatcher.add_worker("a", 4)
    visits = [visit for _, visit in dispatcher.orders()]
    assert len(visits) == 4
    starts = sorted(s.start for visit in visits for s in visit.segments)
    assert starts[0] == 0
    assert all(start % 64 == 0 for start in starts)
    assert max(visit.rows for visit in visits) - min(visit.rows for visit in visits) <= 64


def test_a_partition_that_takes_no_time_is_not_cut():
    dispatcher = Dispatcher([1000], {}, max_iter=1, step=64, queue=0, seconds_per_row=1e-4)
    dispatcher.add_worker("a", 4)
    ((_, visit),) = dispatcher.orders()
    assert visit.rows == 1000


def test_a_worker_gets_as_many_visits_as_slots_and_queue():
    dispatcher = Dispatcher([10] * 50, {}, max_iter=1, seconds_per_row=0.05, queue=2)
    dispatcher.add_worker("a", 3)
    assert len(dispatcher.orders()) == 5
    assert dispatcher.orders() == []


def test_a_visit_gets_some_more_time_than_a_usual_worker_takes_for_it():
    dispatcher = Dispatcher([600] * 20, {}, max_iter=1, seconds_per_row=1e-3, queue=0)
    for name in "abc":
        dispatcher.add_worker(name, 1)
    for name, visit in dispatcher.orders():
        dispatcher.finished(report(visit, name, seconds_per_row=5e-3 if name == "a" else 1e-3))
    for _, visit in dispatcher.orders():
        expected = min(BUDGET_MARGIN * visit.rows * 1e-3, MOST_SECONDS)
        assert visit.budget_seconds == pytest.approx(max(expected, 0.25))


@pytest.mark.parametrize(
    ("rows", "least", "budget"), [(10, 0.25, 0.25), (10, 0.04, 0.04), (10**6, 0.25, MOST_SECONDS)]
)
def test_time_budgets_are_neither_too_short_nor_too_long(rows, least, budget):
    dispatcher = Dispatcher(
        [rows, rows], {0: "a", 1: "b"}, max_iter=1, seconds_per_row=1e-3, least_seconds=least
    )
    for name in "ab":
        dispatcher.add_worker(name, 1)
    assert [visit.budget_seconds for _, visit in dispatcher.orders()] == [budget] * 2


def test_a_single_learner_has_no_time_budget_until_another_one_comes():
    dispatcher = Dispatcher([10, 10], {}, max_iter=1, seconds_per_row=1.0)
    dispatcher.add_worker("a", 1)
    assert dispatcher.orders()[0][1].budget_seconds == math.inf
    dispatcher.add_worker("b", 1)
    assert all(visit.budget_seconds < math.inf for name, visit in dispatcher.orders() if name == "b")


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_order_of_partitions_follows_seed_and_epoch(shuffle):
    def sequence(seed):
        dispatcher = Dispatcher([10] * 12, {}, max_iter=2, seed=seed, shuffle=shuffle, queue=0)
        dispatcher.add_worker("a", 1)
        order = []
        while not dispatcher.done:
            for name, visit in dispatcher.orders():
                order += [s.partition for s in visit.segments]
                dispatcher.finished(report(visit, name))
        return order

    first = sequence(1)
    assert sequence(1) == first
    if shuffle:
        assert first[:12] != first[12:]
        assert sequence(2) != first
    else:
        assert first == [*range(12)] * 2


def test_without_a_lead_nobody_begins_the_next_epoch_before_all_are_through():
    dispatcher = Dispatcher([10, 10], {0: "a", 1: "b"}, max_iter=9, queue=1, lead=0)
    for name in "ab":
        dispatcher.add_worker(name, 1)
    slow, fast = sorted(dispatcher.orders())
    dispatcher.finished(report(fast[1], "b"))
    assert dispatcher.orders() == []
    dispatcher.finished(report(slow[1], "a"))
    orders = dispatcher.orders()
    assert {name for name, _ in orders} == {"a", "b"}
    assert {visit.epoch for _, visit in orders} == {1}


@pytest.mark.parametrize("lead", [0, 1])
def test_the_first_visits_of_an_epoch_know_how_many_they_are(lead):
    dispatcher = Dispatcher([10] * 6, {}, max_iter=2, seconds_per_row=0.05, queue=0, lead=lead)
    for name in "abc":
        dispatcher.add_worker(name, 1)
    seen = []
    while not dispatcher.done:
        given = dispatcher.orders()
        for _, visit in given:
            fresh = visit.epoch not in {earlier.epoch for earlier in seen}
            assert visit.company == (sum(other.epoch == visit.epoch for _, other in given) if fresh else 1)
            assert dispatcher.in_flight[visit.number][0] is visit
        seen += [visit for _, visit in given]
        for visit, name in list(dispatcher.in_flight.values())[:1]:
            dispatcher.finished(report(visit, name, seconds_per_row=0.05))
    assert [visit.company for visit in seen[:3]] == [3, 3, 3]
    assert {visit.epoch for visit in seen} == {0, 1}


def test_a_fixed_share_is_one_visit_of_the_worker_where_it_sits_without_a_budget():
    rows, homes = [100, 60, 80], {0: "c", 1: "a", 2: "b"}
    shares = equal_shares(rows, 3, 16)
    placed = share_homes(shares, homes, dict.fromkeys("abc", 1))
    dispatcher = Dispatcher(rows, homes, max_iter=3, queue=0, lead=0, step=16, fixed=True)
    for name in "abc":
        dispatcher.add_worker(name, 1)
    for epoch in range(3):
        orders = dispatcher.orders()
        assert len(orders) == 3
        for name, visit in orders:
            assert placed[[set(share) for share in shares].index(set(visit.segments))] == name
            assert (visit.epoch, visit.company) == (epoch, 3)
            assert visit.budget_seconds == math.inf
            # Who is fast gets no more of it.
            dispatcher.finished(report(visit, name, seconds_per_row=1e-3 if name == "a" else 1e-6))
    assert dispatcher.done


def test_what_is_left_of_a_fixed_share_goes_to_whoever_has_none():
    dispatcher = Dispatcher([64, 64], {0: "a", 1: "b"}, max_iter=1, queue=0, lead=0, step=16, fixed=True)
    for name in "ab":
        dispatcher.add_worker(name, 1)
    orders = dict(dispatcher.orders())
    dispatcher.remove_worker("b")
    dispatcher.lost(orders["b"].number, offset=16)
    dispatcher.finished(report(orders["a"], "a"))
    ((name, visit),) = dispatcher.orders()
    assert (name, visit.segments) == ("a", (Segment(1, 16, 64),))


def simulated(dispatcher, seconds_per_row):
    """Run workers of one slot at their speeds; return when the epochs ended, and the rows of each worker."""
    now, running, ends, done = 0.0, [], {}, Counter()
    while not dispatcher.done:
        for name, visit in dispatcher.orders():
            rows = visit.rows
            if visit.budget_seconds < math.inf:
                rows = min(rows, max(int(visit.budget_seconds / seconds_per_row[name]), 1))
            heapq.heappush(running, (now + rows * seconds_per_row[name], visit.number, name, visit, rows))
        now, _, name, visit, rows = heapq.heappop(running)
        dispatcher.finished(report(visit, name, rows, seconds_per_row=seconds_per_row[name]))
        ends[visit.epoch] = now
        done[name] += rows
    return ends, done


@pytest.mark.parametrize("slow", [4, 20])
@pytest.mark.parametrize("workers", [2, 8])
def test_a_slow_worker_gets_its_fair_part_and_holds_no_epoch(slow, workers):
    rows, speed = [20_000] * (4 * workers), 1e-4
    names = [str(number) for number in range(workers)]
    homes = {number: names[number % workers] for number in range(len(rows))}
    dispatcher = Dispatcher(rows, homes, max_iter=4, seconds_per_row=speed, queue=0, step=64)
    for name in names:
        dispatcher.add_worker(name, 1)
    seconds = dict.fromkeys(names, speed) | {"0": slow * speed}
    ends, done = simulated(dispatcher, seconds)
    ideal = 4 * sum(rows) / sum(1 / value for value in seconds.values())
    assert ends[3] <= 1.25 * ideal
    fair = 4 * sum(rows) / slow / (workers - 1 + 1 / slow)
    assert 0.5 * fair <= done["0"] <= 1.5 * fair


def test_a_visit_of_the_only_learner_goes_over_the_epochs_that_follow():
    dispatcher = Dispatcher([5, 0, 7], {}, max_iter=7, seed=3, queue=0, span=3)
    alone = Dispatcher([5, 0, 7], {}, max_iter=7, seed=3, queue=0)
    epochs = []
    for core in (dispatcher, alone):
        core.add_worker("a", 1)
    for first in (0, 3, 6):
        ((_, visit),) = dispatcher.orders()
        last = min(first + 3, 7) - 1
        assert (visit.epoch, visit.rows, dispatcher.complete) == (first, 12 * (last - first + 1), first)
        epochs += [(visit.epoch + s.ahead, s.partition, s.start, s.stop) for s in visit.segments]
        dispatcher.finished(report(visit, "a"))
    assert dispatcher.done
    expected = []
    while not alone.done:
        ((_, visit),) = alone.orders()
        expected += [(visit.epoch, s.partition, s.start, s.stop) for s in visit.segments]
        alone.finished(report(visit, "a"))
    assert epochs == expected


def test_rows_that_a_visit_of_several_epochs_hands_back_are_visited_in_their_epochs():
    dispatcher = Dispatcher([5, 7], {}, max_iter=4, shuffle=False, queue=0, span=3)
    dispatcher.add_worker("a", 1)
    done = Counter()
    handed = iter([16, 2])  # in the second epoch, and two rows later
    while not dispatcher.done:
        ((_, visit),) = dispatcher.orders()
        offset = next(handed, visit.rows)
        for segment in visit.split(offset)[0]:
            for row in range(segment.start, segment.stop):
                done[visit.epoch + segment.ahead, segment.partition, row] += 1
        dispatcher.finished(report(visit, "a", offset))
    assert done == Counter(
        (epoch, p, row) for epoch in range(4) for p, n in ((0, 5), (1, 7)) for row in range(n)
    )


def test_epochs_after_the_end_of_training_are_dropped_from_a_visit():
    dispatcher = Dispatcher([6], {}, max_iter=9, queue=0, span=4)
    dispatcher.add_worker("a", 1)
    ((_, visit),) = dispatcher.orders()
    dispatcher.finished(report(visit, "a", 12, last_epoch=1))
    assert dispatcher.done
    assert dispatcher.complete == 2
    assert dispatcher.orders() == []


@pytest.mark.parametrize(("seconds", "epochs"), [(0.1, 1), (0.45, 2), (10.0, 4)])
def test_visits_of_several_epochs_last_no_longer_than_they_may(seconds, epochs):
    dispatcher = Dispatcher([100] * 2, {}, max_iter=9, span=4, span_seconds=seconds, seconds_per_row=1e-3)
    dispatcher.add_worker("a", 1)
    assert [visit.rows for _, visit in dispatcher.orders()] == [200 * epochs] * 2


def test_what_waits_behind_a_visit_of_several_epochs_begins_where_that_ends():
    dispatcher = Dispatcher([100], {}, max_iter=12, span=4, queue=1)
    dispatcher.add_worker("a", 1)
    (_, first), (_, second) = dispatcher.orders()
    assert [(visit.epoch, visit.rows) for visit in (first, second)] == [(0, 400), (4, 400)]
    dispatcher.finished(report(first, "a"))
    ((_, third),) = dispatcher.orders()
    assert (third.epoch, third.rows) == (8, 400)


def pair(**params):
    dispatcher = Dispatcher([100] * 4, {n: "ab"[n % 2] for n in range(4)}, queue=1, **params)
    for name in "ab":
        dispatcher.add_worker(name, 1)
    return dispatcher


def test_learners_that_are_as_fast_visit_several_epochs_at_once():
    dispatcher = pair(max_iter=7, span=8)
    shares, done = {"a": {0, 2}, "b": {1, 3}}, Counter()
    while not dispatcher.done:
        for name, visit in dispatcher.orders():
            epochs = {visit.epoch + segment.ahead for segment in visit.segments}
            assert epochs == set(range(visit.epoch, min(visit.epoch + MOST_TOGETHER, 7)))
            assert {segment.partition for segment in visit.segments} == shares[name]
            done += Counter((visit.epoch + s.ahead, s.partition) for s in visit.segments)
        for visit, name in list(dispatcher.in_flight.values())[:1]:
            dispatcher.finished(report(visit, name))
    assert done == Counter((epoch, partition) for epoch in range(7) for partition in range(4))


def test_none_of_them_gets_far_ahead():
    dispatcher = pair(max_iter=40, span=8)
    flying = [(name, visit) for name, visit in dispatcher.orders() if name == "a"]
    while flying:  # the other one does not end its first visit
        name, visit = flying.pop(0)
        assert visit.epoch + visit.segments[-1].ahead < 2 * MOST_TOGETHER
        dispatcher.finished(report(visit, name))
        flying += dispatcher.orders()
    assert {name for _, name in dispatcher.in_flight.values()} == {"b"}


def test_learners_of_several_slots_or_speeds_visit_one_epoch():
    several = Dispatcher([100] * 4, dict.fromkeys(range(4), "a"), max_iter=12, span=4, queue=0)
    several.add_worker("a", 2)
    uneven = pair(max_iter=12, span=4)
    for name, visit in uneven.orders():
        uneven.finished(report(visit, name, seconds_per_row={"a": 1e-3, "b": 1.6e-3}[name]))
    for dispatcher in (several, uneven):
        while not dispatcher.done:
            for name, visit in dispatcher.orders():
                assert not any(segment.ahead for segment in visit.segments)
                seconds = 1.6e-3 if name == "b" else 1e-3
                dispatcher.finished(report(visit, name, seconds_per_row=seconds))


def test_who_joins_during_a_visit_of_several_epochs_trains_behind_it():
    dispatcher = Dispatcher([1000] * 4, {}, max_iter=12, span=4, queue=1)
    dispatcher.add_worker("a", 1)
    flying = dispatcher.orders()
    dispatcher.add_worker("b", 1)
    flying += dispatcher.orders()
    assert all(visit.epoch >= 8 for name, visit in flying if name == "b")
    done = Counter()
    while not dispatcher.done:
        name, visit = flying.pop(0)
        done[name] += visit.rows
        dispatcher.finished(report(visit, name))
        flying += dispatcher.orders()
    assert sum(done.values()) == 12 * 4000
    assert done["b"] > 0


def test_nobody_gets_far_ahead_when_a_visit_of_several_epochs_is_taken_back():
    dispatcher = Dispatcher([100] * 2, {}, max_iter=40, span=8, queue=1)
    dispatcher.add_worker("a", 1)
    (_, first), (_, second) = dispatcher.orders()
    dispatcher.remove_worker("a")
    for visit in (first, second):
        dispatcher.lost(visit.number)
    for name in "bc":
        dispatcher.add_worker(name, 1)
    assert all(visit.epoch <= EPOCH_LEAD for _, visit in dispatcher.orders())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any),
    st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=6, max_size=6),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 60), st.booleans()), max_size=80),
)
def test_no_row_is_lost_or_visited_twice_in_visits_of_several_epochs(rows, homes, events):
    homes = dict(enumerate(homes[: len(rows)]))
    dispatcher = Dispatcher(rows, homes, max_iter=6, queue=1, span=4)
    for name in "ab":
        dispatcher.add_worker(name, 1)
    done, flying, events = Counter(), [], iter(events)
    while not dispatcher.done:
        flying += dispatcher.orders()
        place, offset, leaves = next(events, (0, 10**6, False))
        name, visit = flying.pop(place % len(flying))
        offset = min(offset, visit.rows)
        for segment in visit.split(offset)[0]:
            for row in range(segment.start, segment.stop):
                done[visit.epoch + segment.ahead, segment.partition, row] += 1
        if leaves and len(dispatcher.workers) > 1:
            dispatcher.remove_worker(name)
            dispatcher.lost(visit.number, offset)
            dispatcher.add_worker("c", 1)
        else:
            dispatcher.finished(report(visit, name, offset))
    assert done == Counter((e, p, row) for e in range(6) for p, n in enumerate(rows) for row in range(n))


def test_a_worker_that_comes_late_gets_its_share_of_the_next_epochs():
    dispatcher = Dispatcher([100] * 12, {n: "ab"[n % 2] for n in range(12)}, max_iter=20, queue=0)
    dispatcher.add_worker("a", 1)
    dispatcher.add_worker("b", 1)
    trained = Counter()

    def turn():
        for name, visit in dispatcher.orders():
            trained[name] += visit.rows
            dispatcher.finished(VisitReport(visit, name, visit.rows, 1, 0.0, 1e-3 * visit.rows, 99))

    for _ in range(4):
        turn()
    dispatcher.add_worker("late", 1)
    trained.clear()
    while not dispatcher.done:
        turn()
    assert sum(home == "late" for home in dispatcher.homes.values()) == 4
    assert min(trained.values()) > 0.5 * max(trained.values())


def test_a_worker_that_comes_late_takes_what_has_no_home_first():
    homes = {n: "gone" if n < 3 else "a" for n in range(9)}
    dispatcher = Dispatcher([100] * 9, homes, max_iter=20, queue=0)
    dispatcher.add_worker("a", 1)
    assert dispatcher.orders()
    dispatcher.add_worker("late", 1)
    assert {n for n, home in dispatcher.homes.items() if home == "late"} >= {0, 1, 2}
    assert sum(home == "late" for home in dispatcher.homes.values()) == 5


def test_workers_that_are_there_from_the_start_leave_partitions_where_they_sit():
    dispatcher = Dispatcher([100] * 4, dict.fromkeys(range(4), "a"), max_iter=2)
    dispatcher.add_worker("a", 1)
    dispatcher.add_worker("b", 1)
    dispatcher.orders()
    assert set(dispatcher.homes.values()) == {"a"}


def test_nobody_waits_behind_visits_that_are_to_run_alone():
    dispatcher = Dispatcher([1000] * 4, {0: "a", 1: "a", 2: "b", 3: "b"}, max_iter=3, queue=1)
    dispatcher.add_worker("a", 1)
    dispatcher.add_worker("b", 1)
    assert [name for name, _ in dispatcher.orders(ahead=False)] == ["a", "b"]
    assert dispatcher.orders(ahead=False) == []
    assert [name for name, _ in dispatcher.orders()] == ["a", "b"]
