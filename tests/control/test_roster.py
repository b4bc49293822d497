import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.latency import LatencyBatchSizer
from skdist.control.roster import ABSENT_SECONDS, PAUSE_SECONDS, Latencies, Roster
from skdist.control.staleness import StalenessWindow
from skdist.messages import Link

NAMES = "abcd"
names = st.sampled_from(NAMES)


def make_roster(adapter=None, sizer=None, round_size=100, batch_size=8, shortest=8, n_rows=10**6, n=4):
    return Roster(adapter, sizer, round_size, batch_size, shortest, n_rows, n)


def median_of_others(latencies, worker):
    others = [x for name, own in latencies.items() if name != worker for x in own if math.isfinite(x)]
    return statistics.median(others) if others else None


# Few values, so that there are ties within a worker and among workers.
ties = st.sampled_from([0.0, 0.001, 0.002, 0.002, 0.01, math.inf])
windows = st.lists(st.one_of(ties, st.floats(0, 1)), max_size=6).map(tuple)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(names, windows), max_size=25))
def test_the_median_of_the_others_is_that_of_all_their_finite_latencies(updates):
    latencies, own = Latencies(), {}
    for worker, window in updates:
        latencies.update(worker, window)
        own[worker] = window
        for name in NAMES:
            assert latencies.median_without(name) == median_of_others(own, name)


def test_nobody_else_has_no_median():
    latencies = Latencies()
    assert latencies.median_without("a") is None
    latencies.update("a", (0.1, 0.2))
    latencies.update("b", (math.inf,))
    assert latencies.median_without("a") is None
    assert latencies.median_without("b") == pytest.approx(0.15)


actions = st.lists(
    st.tuples(
        st.sampled_from(["start", "heard", "heard", "heard", "end", "wait"]),
        names,
        st.sampled_from([0.0, 1e-5, 3e-4, 0.01, 2.0]),
        st.sampled_from([(), (0.004,), (0.5, 0.5), (math.inf,)]),
    ),
    max_size=50,
)


class Watched:
    """A roster and what it should answer, worked out anew each time from a list of all members."""

    def __init__(self, **kwargs):
        self.roster, self.now = make_roster(**kwargs), 0.0
        self.visits = dict.fromkeys(NAMES, 0)
        self.seen, self.until, self.pace = {}, {}, {}
        self.stale = {}

    def play(self, kind, name, seconds, latencies):
        link = Link(latencies)
        if kind == "start":
            self.roster.enlist(name, name, link, self.now)
            self.roster.start(name)
            self.seen[name] = self.now
            self.visits[name] += 1
            self.next_round(name)
        elif kind == "heard" and self.visits[name]:
            self.roster.heard(name, link, seconds, 0.0, self.now)
            self.seen[name] = self.now
            self.next_round(name)
        elif kind == "end" and self.visits[name]:
            self.roster.end(name)
            self.visits[name] -= 1
            pace = self.pace[name]
            self.until[name] = self.seen[name] + max(PAUSE_SECONDS, 2 / pace if pace else 0.0)
        elif kind == "wait":
            self.now += 50 * seconds

    def next_round(self, name):
        rows, _ = self.roster.next_round(name)
        member = self.roster[name]
        seconds = rows * member.seconds_per_row + 2 * member.link.median
        self.pace[name] = 1 / seconds if member.seconds_per_row > 0 else 0.0

    def peers(self, name):
        for other, until in self.until.items():
            if not self.visits[other] and until <= self.now:
                self.pace[other] = 0.0
        return math.fsum(pace for other, pace in self.pace.items() if other != name)


@settings(deadline=None, max_examples=80)
@given(actions, st.sampled_from(["auto", 100]), st.booleans())
def test_peers_are_the_sum_over_all_others_at_work(actions, round_size, sized):
    watched = Watched(round_size=round_size, sizer=LatencyBatchSizer(threshold=0.1) if sized else None)
    most = 0.0
    for action in actions:
        watched.play(*action)
        most = max([most, *watched.pace.values()])
        for name in watched.seen:
            expected = watched.peers(name)
            assert watched.roster.peers(name, watched.now) == pytest.approx(expected, abs=1e-12 * most)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(1e-9, 1e-3), max_size=30), st.booleans())
def test_who_is_alone_at_work_has_no_peers_to_the_last_bit(reports, another_was_there):
    roster = make_roster()
    for name in "ab" if another_was_there else "a":
        roster.enlist(name, name, Link(), 0.0)
        roster.start(name)
    for seconds in reports:
        roster.heard("a", Link(), seconds, 0.0, 0.0)
        roster.next_round("a")
        if another_was_there:
            roster.heard("b", Link(), 3 * seconds, 0.0, 0.0)
            roster.next_round("b")
            assert roster.peers("a", 0.0) > 0
        else:
            assert roster.peers("a", 0.0) == 0.0
    if another_was_there:
        roster.end("b")
        assert roster.peers("a", 1e6) == 0.0


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(names, st.floats(0, 100)), max_size=60), st.integers(1, 5))
def test_the_reference_is_the_mean_of_all_windows(stalenesses, window):
    roster = make_roster(StalenessWindow(reference="mean", window=window))
    for name in NAMES:
        roster.enlist(name, name, Link(), 0.0)
    windows = {name: [] for name in NAMES}
    for name, staleness in stalenesses:
        roster.met(name, staleness)
        windows[name] = [*windows[name], staleness][-window:]
        assert list(roster[name].staleness) == windows[name]
        everything = [value for values in windows.values() for value in values]
        assert roster.reference() == pytest.approx(statistics.fmean(everything), rel=1e-9, abs=1e-9)


def test_without_an_adapter_the_reference_is_zero():
    roster = make_roster()
    roster.enlist("a", "a", Link(), 0.0)
    roster.met("a", 5.0)
    assert roster.reference() == 0.0


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(names, st.sampled_from([0.0, 1e-6, 3e-5, 1e-4])), max_size=40))
def test_throughput_compares_with_the_mean_of_all_who_have_trained(reports):
    sizer = LatencyBatchSizer(rule="throughput", dead_band=0.0)
    roster = make_roster(sizer=sizer, round_size=10_000, batch_size=1, shortest=1)
    latest = {}
    for name, seconds in reports:
        roster.enlist(name, name, Link(), 0.0)
        roster.heard(name, Link(), seconds, 0.0, 0.0)
        latest[name] = seconds
        known = [value for value in latest.values() if value]
        size, efficiency = roster.next_round(name)
        assert efficiency == 1.0
        if seconds:
            exact = 10_000 * statistics.fmean(known) / seconds
            assert size == pytest.approx(max(exact, 10_000 // 16), abs=1.001)


def test_who_is_between_two_visits_is_a_peer_for_two_of_its_rounds():
    roster = make_roster()
    for name in "ab":
        roster.enlist(name, name, Link(), 0.0)
        roster.start(name)
    roster.heard("a", Link(), 0.02, 0.0, 10.0)
    roster.next_round("a")  # a round of two seconds
    roster.end("a")
    assert roster.peers("b", 13.9) == pytest.approx(0.5)
    assert roster.peers("b", 14.1) == 0.0


def test_a_quick_learner_that_went_away_is_no_peer_although_a_slow_one_pauses_for_long():
    roster = make_roster()
    for name, seconds in (("slow", 1.0), ("quick", 0.001), ("here", 0.01)):
        roster.enlist(name, name, Link(), 0.0)
        roster.start(name)
        roster.heard(name, Link(), seconds, 0.0, 0.0)
        roster.next_round(name)
    roster.end("slow")
    roster.end("quick")
    assert roster.peers("here", 0.5) == pytest.approx(10 + 0.01)
    assert roster.peers("here", 5.0) == pytest.approx(0.01)
    assert roster.peers("here", 1000.0) == 0.0


def test_who_only_asks_and_is_refused_is_no_peer_for_ever():
    roster = make_roster()
    for name in "ab":
        roster.enlist(name, name, Link(), 0.0)
        roster.start(name)
        roster.heard(name, Link(), 0.001, 0.0, 0.0)
        roster.next_round(name)
    roster.end("a")
    roster.enlist("a", "a", Link(), 0.5)  # asks for a visit that it does not get
    assert roster.peers("b", 1000.0) == 0.0


def test_a_learner_on_a_slow_worker_does_not_lengthen_its_automatic_rounds():
    roster = make_roster(round_size="auto", batch_size=64, shortest=64, n_rows=64_000, n=4)
    for name in NAMES:
        roster.enlist(name, name, Link(), 0.0)
        roster.heard(name, Link(), 1e-4 if name == "a" else 1e-6, 1e-3, 0.0)
    slow, usual = roster.next_round("a")[0], roster.next_round("b")[0]
    assert 64 <= slow < usual / 16


@settings(deadline=None, max_examples=80)
@given(
    standard=st.integers(1, 10**6),
    late=st.integers(0, 5),
    batch=st.integers(1, 64),
    steps=st.integers(1, 2),
    n_rows=st.integers(1, 10**5),
)
def test_rounds_are_no_shorter_than_asked_and_no_longer_than_the_data(standard, late, batch, steps, n_rows):
    roster = make_roster(None, LatencyBatchSizer(threshold=0.01), standard, batch, steps * batch, n_rows)
    roster.enlist("a", "a", Link((0.1,) * late + (0.001,) * (5 - late)), 0.0)
    size, efficiency = roster.next_round("a")
    assert efficiency == (5 - late) / 5
    exact = math.floor(efficiency / (1 + efficiency) * standard)
    assert size == min(max(exact, standard // 16, steps * batch), max(n_rows, batch))
    assert roster["a"].round_size == size


def test_learners_that_have_been_away_for_long_are_forgotten_with_all_that_is_known_of_them():
    def known(names):
        roster = make_roster(StalenessWindow(), LatencyBatchSizer(), round_size="auto")
        for name in names:
            roster.enlist(name, f"worker of {name}", Link((0.001 * ord(name),)), 0.0)
            roster.start(name)
            roster.heard(name, Link((0.001 * ord(name),)), 1e-6 * ord(name), 0.01, 0.0)
            roster.met(name, float(ord(name)))
            roster.next_round(name)
        return roster

    roster = known("abc")
    roster.end("a")
    roster.end("b")
    roster.enlist("d", "worker of d", Link(), ABSENT_SECONDS, needed=())
    assert len(roster) == 4
    roster.enlist("e", "worker of e", Link(), ABSENT_SECONDS + 1, needed=("b",))
    assert [each.name for each in roster.progress()] == ["b", "c", "d", "e"]
    other = known("bc")
    assert roster.staleness() == pytest.approx(other.staleness())
    assert roster.peers("c", 0.0) == pytest.approx(other.peers("c", 0.0))
    assert roster.next_round("c") == other.next_round("c")
