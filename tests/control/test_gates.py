import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.gates import (
    FIRST_LEASE_SECONDS,
    LEASE_ROUNDS,
    LEASE_SECONDS,
    PATIENCE,
    Gate,
    gate_of,
)

NAMES = "abcde"
MODES = {
    "async": lambda: gate_of("async", 0, 1),
    "patient": lambda: gate_of("async", 0, "auto"),
    "ssp": lambda: gate_of("ssp", 1, 1),
    "sync": lambda: gate_of("sync", 0, 1),
}
every_mode = pytest.mark.parametrize("mode", MODES)
waiting_modes = pytest.mark.parametrize("mode", ["patient", "ssp", "sync"])


def entered(gate, names, now=0.0):
    for name in names:
        gate.enter(name, now)
    return gate


def go_on(gate, now):
    """Answer all who are released, as the server does; return their names."""
    names = [] if gate.collective and not gate.close(now) else gate.released()
    for name in names:
        gate.proceed(name, now)
    return names


def rounds(gate, name, count, now=0.0):
    """Let a learner end some rounds of no duration; return whether it was released after each."""
    released = []
    for _ in range(count):
        gate.arrive(name, now)
        released.append(name in go_on(gate, now))
    return released


class Watched:
    """A gate and what it should know, written down as plainly as possible.

    Plays events: learners enter, also again, end a round unless they wait, or leave, and time goes by. After
    each event all who are released go on.
    """

    def __init__(self, gate):
        self.gate, self.now = gate, 0.0
        self.rounds, self.last_left = {}, 0
        self.members, self.waiting = {}, []  # members with the ends of their leases
        self.began, self.longest = {}, {}

    def slowest(self):
        return min((self.rounds[name] for name in self.members), default=self.last_left)

    def play(self, kind, name, seconds):
        if kind == "enter":
            self.enter(name)
        elif kind == "arrive" and name not in self.waiting:
            self.arrive(name)
        elif kind == "leave" and name in self.rounds:
            self.gate.leave(name)
            self.drop(name)
        elif kind == "expire":
            self.now += seconds
            self.gate.expire(self.now)
            for other, ends in list(self.members.items()):
                if other not in self.waiting and self.now > ends:
                    self.drop(other)
        elif kind == "wait":
            self.now += seconds
        assert self.gate.members == len(self.members)

    def enter(self, name):
        self.gate.enter(name, self.now)
        self.joined(name)

    def joined(self, name):
        self.drop(name)
        self.rounds[name] = max(self.slowest(), self.rounds.get(name, 0))
        self.members[name] = self.now + FIRST_LEASE_SECONDS
        self.began[name], self.longest[name] = self.now, 0.0

    def drop(self, name):
        if name in self.members:
            del self.members[name]
            if not self.members:
                self.last_left = self.rounds[name]
        if name in self.waiting:
            self.waiting.remove(name)

    def arrive(self, name):
        self.gate.arrive(name, self.now)
        if name not in self.members:
            self.joined(name)
        self.longest[name] = max(self.longest[name], self.now - self.began[name])
        self.rounds[name] += 1
        self.waiting.append(name)

    def go_on(self):
        released = go_on(self.gate, self.now)
        for name in released:
            self.waiting.remove(name)
            self.began[name] = self.now
            self.members[name] = self.now + max(LEASE_SECONDS, LEASE_ROUNDS * self.longest[name])
        return released


events = st.lists(
    st.tuples(
        st.sampled_from(["enter", "arrive", "arrive", "arrive", "leave", "expire", "wait"]),
        st.sampled_from(NAMES),
        st.sampled_from([0.0, 0.5, 3.0, 11.0, 40.0]),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=150)
@given(events, st.integers(0, 4))
def test_exactly_those_within_the_bound_of_the_slowest_member_are_released(events, bound):
    watched = Watched(gate_of("ssp", bound, 1))
    for event in events:
        watched.play(*event)
        slowest = watched.slowest()
        near = [name for name in watched.waiting if watched.rounds[name] - slowest <= bound]
        assert watched.go_on() == near


@settings(deadline=None, max_examples=100)
@given(events)
def test_a_strict_round_ends_when_all_members_have_come_and_not_before(events):
    watched = Watched(gate_of("sync", 0, 1))
    for event in events:
        watched.play(*event)
        complete = set(watched.waiting) == set(watched.members)
        expected = list(watched.waiting) if complete else []
        assert watched.go_on() == expected


@settings(deadline=None, max_examples=60)
@given(events)
def test_without_a_bound_nobody_ever_waits(events):
    watched = Watched(gate_of("async", 0, 1))
    assert watched.gate.open
    for event in events:
        watched.play(*event)
        assert watched.go_on() == ([event[1]] if event[0] == "arrive" else [])


@settings(deadline=None, max_examples=100)
@given(events=events, bound=st.integers(0, 3))
@waiting_modes
def test_somebody_goes_on_once_all_members_have_come_or_left(mode, events, bound):
    watched = Watched(gate_of("ssp", bound, 1) if mode == "ssp" else MODES[mode]())
    for event in events:
        watched.play(*event)
        waiting = list(watched.waiting)
        released = watched.go_on()
        if waiting and set(waiting) == set(watched.members):
            assert released
        assert set(released) <= set(waiting)
    # Whoever is still at work ends its round, leaves or is never heard of again.
    for number, name in enumerate(sorted(set(watched.members) - set(watched.waiting))):
        watched.play(("arrive", "leave", "wait")[number % 3], name, 0.0)
        watched.go_on()
    watched.play("expire", "", 1e6)
    while watched.waiting:
        assert watched.go_on()


@settings(deadline=None, max_examples=80)
@given(events=events)
def test_a_patient_round_is_over_when_it_has_lasted_a_quarter_longer_than_half_of_it_took(events):
    watched = Watched(gate_of("async", 0, "auto"))
    closed, latest = 0.0, math.inf
    for event in events:
        watched.play(*event)
        if event[0] == "arrive" and 2 * len(watched.waiting) >= len(watched.members):
            latest = min(latest, watched.now + (PATIENCE - 1) * (watched.now - closed))
        released = watched.go_on()
        if watched.waiting:
            assert watched.now < latest
        if released:
            closed = watched.now
            assert not watched.waiting
        if not watched.waiting:
            latest = math.inf


@waiting_modes
@pytest.mark.parametrize("how", ["left", "lapsed"])
def test_who_is_gone_holds_nobody_up(mode, how):
    gate = entered(MODES[mode](), "abc")
    for _ in range(2 if mode == "ssp" else 1):
        for name in "ab":
            gate.arrive(name, 1.0)
        released = go_on(gate, 1.0)
    assert released == []
    if how == "left":
        gate.leave("c")
    else:
        gate.expire(FIRST_LEASE_SECONDS + 0.1)
    assert gate.members == 2
    assert go_on(gate, 1.0) == ["a", "b"]


@waiting_modes
def test_who_never_joined_holds_nobody_up(mode):
    gate = entered(MODES[mode](), "a")
    gate.leave("never")
    gate.expire(100.0)
    assert rounds(gate, "a", 5, 100.0) == [True] * 5


@waiting_modes
def test_who_lapsed_is_a_member_again_when_it_is_heard_of(mode):
    gate = entered(MODES[mode](), "ab")
    gate.expire(FIRST_LEASE_SECONDS + 0.1)
    assert gate.members == 0
    assert rounds(gate, "a", 7, 50.0) == [True] * 7
    gate.arrive("b", 50.0)
    assert gate.members == 2
    if mode == "ssp":
        # It goes on where the slowest one is and does not make the others wait for seven rounds.
        go_on(gate, 50.0)
        assert rounds(gate, "a", 2, 50.0) == [True, True]


def test_a_learner_waits_while_it_is_more_than_the_bound_ahead():
    gate = entered(gate_of("ssp", 2, 1), "ab")
    assert rounds(gate, "a", 3) == [True, True, False]
    gate.arrive("b", 1.0)
    assert go_on(gate, 1.0) == ["a", "b"]
    assert rounds(gate, "a", 1) == [False]


def test_a_bound_of_zero_keeps_all_in_step():
    gate = entered(gate_of("ssp", 0, 1), "abc")
    for name in "ab":
        gate.arrive(name, 1.0)
        assert go_on(gate, 1.0) == []
    gate.arrive("c", 2.0)
    assert go_on(gate, 2.0) == ["a", "b", "c"]


def test_a_joiner_starts_where_the_slowest_is():
    gate = entered(gate_of("ssp", 1, 1), "a")
    rounds(gate, "a", 10)
    gate.enter("b", 0.0)
    assert rounds(gate, "a", 2) == [True, False]
    assert rounds(gate, "b", 3) == [True, True, True]


def test_who_comes_back_starts_where_it_was_if_that_is_later():
    gate = entered(gate_of("ssp", 2, 1), "ab")
    rounds(gate, "a", 2)
    gate.leave("a")
    gate.enter("a", 0.0)
    assert rounds(gate, "a", 1) == [False]
    gate.arrive("b", 0.0)
    assert go_on(gate, 0.0) == ["a", "b"]
    assert rounds(gate, "a", 1) == [False]


def test_who_joins_an_empty_gate_starts_where_the_last_one_left():
    gate = entered(gate_of("ssp", 1, 1), "a")
    rounds(gate, "a", 20)
    gate.leave("a")
    gate.enter("b", 0.0)
    gate.enter("a", 0.0)
    assert rounds(gate, "a", 2) == [True, False]


@waiting_modes
def test_a_lease_lasts_for_the_first_round_and_then_for_ten_rounds(mode):
    gate = entered(MODES[mode](), "a", now=100.0)
    gate.expire(100.0 + FIRST_LEASE_SECONDS)
    assert gate.members == 1
    gate.arrive("a", 110.0)
    assert go_on(gate, 110.0) == ["a"]
    gate.expire(110.0 + LEASE_ROUNDS * 10.0)
    assert gate.members == 1
    gate.expire(110.1 + LEASE_ROUNDS * 10.0)
    assert gate.members == 0


def test_the_lease_of_quick_rounds_is_not_shorter_than_some_seconds():
    gate = entered(gate_of("sync", 0, 1), "a")
    gate.arrive("a", 1e-3)
    go_on(gate, 1e-3)
    gate.expire(LEASE_SECONDS)
    assert gate.members == 1
    gate.expire(LEASE_SECONDS + 0.01)
    assert gate.members == 0


def test_the_first_lease_can_be_longer():
    gate = entered(gate_of("sync", 0, 1, first_lease_seconds=99.0), "a")
    gate.expire(98.0)
    assert gate.members == 1
    gate.expire(99.5)
    assert gate.members == 0


def test_the_lease_of_who_waits_does_not_end():
    gate = entered(gate_of("sync", 0, 1), "ab")
    gate.arrive("a", 1.0)
    gate.expire(1e6)
    assert gate.members == 1
    assert go_on(gate, 1e6) == ["a"]


def test_a_strict_round_waits_for_those_that_are_expected():
    gate = gate_of("sync", 0, 1)
    gate.expect(3, now=0.0)
    for name in "ab":
        gate.enter(name, 0.0)
        gate.arrive(name, 1.0)
        assert go_on(gate, 1.0) == []
    gate.enter("c", 2.0)
    assert go_on(gate, 2.0) == []
    gate.arrive("c", 3.0)
    assert go_on(gate, 3.0) == ["a", "b", "c"]
    gate.leave("b")
    for name in "ac":
        gate.arrive(name, 4.0)
    assert go_on(gate, 4.0) == ["a", "c"]


def test_those_that_are_expected_are_not_waited_for_longer_than_a_first_lease():
    gate = gate_of("sync", 0, 1)
    gate.expect(3, now=10.0)
    gate.enter("a", 10.0)
    gate.arrive("a", 11.0)
    gate.expire(10.0 + FIRST_LEASE_SECONDS)
    assert go_on(gate, 10.0 + FIRST_LEASE_SECONDS) == []
    gate.expire(10.1 + FIRST_LEASE_SECONDS)
    assert go_on(gate, 10.1 + FIRST_LEASE_SECONDS) == ["a"]


@pytest.mark.parametrize("mode", ["async", "patient", "ssp"])
def test_only_a_strict_collective_gate_waits_for_those_that_are_expected(mode):
    gate = MODES[mode]()
    gate.expect(3, now=0.0)
    assert rounds(entered(gate, "a"), "a", 3) == [True] * 3


def test_a_patient_round_ends_a_quarter_later_than_half_of_its_members_have_come():
    gate = entered(gate_of("async", 0, "auto"), "abcd")
    gate.arrive("a", 2.0)
    gate.arrive("b", 4.0)
    assert go_on(gate, 4.0) == []
    assert go_on(gate, 4.0 * PATIENCE - 1e-6) == []
    assert go_on(gate, 4.0 * PATIENCE) == ["a", "b"]
    # The next one begins there; who is late is in it, and it is counted anew.
    gate.arrive("c", 6.0)
    assert go_on(gate, 6.0) == []
    gate.arrive("a", 7.0)
    assert go_on(gate, 5.0 + 2.0 * PATIENCE - 1e-6) == []
    assert go_on(gate, 5.0 + 2.0 * PATIENCE) == ["c", "a"]


def test_a_patient_round_ends_at_once_when_all_have_come():
    gate = entered(gate_of("async", 0, "auto"), "ab")
    gate.arrive("a", 2.0)
    gate.arrive("b", 2.1)
    assert go_on(gate, 2.1) == ["a", "b"]


def test_the_first_patient_round_begins_when_somebody_joins_not_when_the_clock_did():
    gate = entered(gate_of("async", 0, "auto"), "abc", now=1000.0)
    gate.arrive("a", 1001.0)
    gate.arrive("b", 1002.0)
    assert go_on(gate, 1002.0 + 2.0 * (PATIENCE - 1) + 1e-6) == ["a", "b"]


@pytest.mark.parametrize("how", ["leave", "expire"])
def test_a_patient_round_ends_without_the_late_also_where_half_have_come_because_others_left(how):
    gate = entered(gate_of("async", 0, "auto"), "abc")
    gate.arrive("a", 2.0)
    go_on(gate, 2.0)
    if how == "leave":
        gate.leave("c")
        now = 2.1
    else:
        gate.enter("b", 2.0)
        now = FIRST_LEASE_SECONDS + 0.1
        gate.expire(now)
    assert gate.members == 2
    go_on(gate, now)
    assert gate.patience(now) <= (PATIENCE - 1) * now
    assert go_on(gate, now * PATIENCE + 1e-6) == ["a"]


def test_patience_is_the_time_until_a_round_ends_by_itself():
    gate = entered(gate_of("async", 0, "auto"), "ab")
    gate.arrive("a", 1.0)
    assert go_on(gate, 1.0) == []
    assert gate.patience(1.0) == pytest.approx(0.25)
    assert gate.patience(1.2) == pytest.approx(0.05)
    assert gate.patience(2.0) == 0.0


@every_mode
def test_patience_is_never_longer_than_a_tenth_of_a_lease(mode):
    gate = entered(MODES[mode](), "ab")
    gate.arrive("a", 100.0)
    assert gate.patience(100.0) == LEASE_SECONDS / 10


@every_mode
def test_who_arrives_without_having_joined_is_a_member(mode):
    gate = MODES[mode]()
    gate.arrive("a", 0.0)
    assert go_on(gate, 0.0) == ["a"]
    assert gate.members == 1


@waiting_modes
def test_a_repeated_join_counts_once_and_withdraws_the_round_that_waits(mode):
    gate = entered(MODES[mode](), "ab")
    gate.arrive("a", 1.0)
    gate.enter("a", 1.0)
    assert gate.members == 2
    assert go_on(gate, 1.0) == []
    gate.leave("b")
    assert go_on(gate, 1.0) == []
    gate.leave("a")
    gate.leave("a")
    assert gate.members == 0


@pytest.mark.parametrize(
    ("mode", "collect", "bound", "collective", "strict", "is_open"),
    [
        ("async", 1, math.inf, False, False, True),
        ("async", 8, math.inf, False, False, True),
        ("async", "auto", math.inf, True, False, False),
        ("ssp", "auto", 3, False, True, False),
        ("sync", 1, 0, True, True, False),
    ],
)
def test_the_gates_of_the_modes(mode, collect, bound, collective, strict, is_open):
    gate = gate_of(mode, 3, collect)
    assert (gate.bound, gate.collective, gate.strict) == (bound, collective, strict)
    assert gate.open is is_open
    assert Gate().open
