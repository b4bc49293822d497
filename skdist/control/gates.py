"""Consistency: when an update is applied, and when the learner that sent it may go on.

The three modes are one rule: how far a learner may be ahead, and whether the updates of a round are applied
together. Nobody waits in here: events go in, names of learners that may go on come out, and whoever runs the
learners does the waiting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: A learner that has not ended a round for this long, in seconds, and for `LEASE_ROUNDS` times its longest
#: round, holds nobody up any more.
LEASE_SECONDS = 5.0
LEASE_ROUNDS = 10

#: The same for its first round and for a learner that is expected: a worker may have to compile or to fetch
#: its rows.
FIRST_LEASE_SECONDS = 30.0


#: A patient gate closes a round so many times later than half of its members have come.
PATIENCE = 1.25


@dataclass
class _Lease:
    """What the gate knows of a learner: ``round`` counts its rounds, ``ends`` is when its lease does."""

    round: int
    began: float
    ends: float
    longest: float = 0.0
    waiting: bool = False
    lapsed: bool = False


class Gate:
    """Bounds how far a learner may run ahead of the slowest one, in rounds.

    A learner is a member from the join of a visit to its end. Visits in a queue and learners between two
    visits are none, so that they hold nobody up; nor does one whose lease is over, until it is heard of
    again. A learner that joins starts at the round of the slowest member, or where it was, if that is
    later.

    Parameters
    ----------
    bound : float
        A learner that is more than this many rounds ahead of the slowest member waits; ``inf`` for
        asynchronous training, 0 where all rounds end together.
    collective : bool
        Whether the updates of a round are applied together when all members have sent theirs.
    strict : bool
        Whether a collective round is held up by each of its members until its lease is over. If not, it
        ends without those that are late: not there `PATIENCE` times as long after its begin as half of the
        members.
    first_lease_seconds : float
        How long a learner's first round is waited for.

    Notes
    -----
    A finite bound is the stale synchronous parallel rule of Ho et al. (2013, NeurIPS 26).

    Examples
    --------
    >>> gate = Gate(bound=0)
    >>> gate.enter("a", now=0.0), gate.enter("b", now=0.0)
    (None, None)
    >>> gate.arrive("a", now=1.0), gate.released()
    (None, [])
    >>> gate.arrive("b", now=2.0), gate.released()
    (None, ['a', 'b'])
    """

    def __init__(
        self,
        bound: float = math.inf,
        collective: bool = False,
        strict: bool = True,
        first_lease_seconds: float = FIRST_LEASE_SECONDS,
    ) -> None:
        self.bound, self.collective, self.strict = bound, collective, strict
        self._first_lease = first_lease_seconds
        self._leases: dict[str, _Lease] = {}
        self._waiting: dict[str, None] = {}  # in the order of arrival
        # Of a collective round: who has ended it, and which members have not.
        self._arrived: set[str] = set()
        self._due: set[str] = set()
        self._rounds: dict[int, int] = {}  # of the members that count
        self._members = 0
        self._slowest = 0
        self._expected = 0
        self._expected_until = -math.inf
        self._closed = 0.0
        self._deadline = math.inf

    @property
    def members(self) -> int:
        """Learners that count."""
        return self._members

    @property
    def open(self) -> bool:
        """Whether nobody ever waits."""
        return not self.collective and self.bound == math.inf

    def expect(self, members: int, now: float) -> None:
        """Hold a strict round until so many learners are members, for a limited time."""
        if self.strict:
            self._expected, self._expected_until = members, now + self._first_lease

    def miss(self) -> None:
        """Take in that one of those who are expected will not come."""
        self._expected = max(self._expected - 1, 0)

    def enter(self, name: str, now: float) -> None:
        """Make a learner a member."""
        known = self._leases.get(name)
        if known is not None and not known.lapsed:
            self._discount(known)
        if not self.members and not self._arrived:
            self._closed = now
        begin = max(self._slowest, known.round if known is not None else 0)
        lease = _Lease(begin, now, now + self._first_lease)
        self._leases[name] = lease
        self._waiting.pop(name, None)
        self._count(lease)
        if name not in self._arrived:
            self._due.add(name)

    def arrive(self, name: str, now: float) -> None:
        """Take in that a learner has ended a round; it waits until it is released."""
        if name not in self._leases or self._leases[name].lapsed:
            self.enter(name, now)
        lease = self._leases[name]
        lease.longest = max(lease.longest, now - lease.began)
        self._discount(lease)
        lease.round += 1
        self._count(lease)
        lease.waiting = True
        self._waiting[name] = None
        self._arrived.add(name)
        self._due.discard(name)
        self._watch(now)

    def leave(self, name: str) -> None:
        """Take in that a learner is no member any more; its round is remembered."""
        lease = self._leases.get(name)
        if lease is not None and not lease.lapsed:
            self._lapse(name, lease)
        self._waiting.pop(name, None)

    def expire(self, now: float) -> list[str]:
        """End the leases of members that have not been heard of for too long; return their names."""
        silent = []
        for name, lease in self._leases.items():
            if not lease.waiting and not lease.lapsed and now > lease.ends:
                self._lapse(name, lease)
                silent.append(name)
        if now > self._expected_until:
            self._expected = 0
        return silent

    def patience(self, now: float) -> float:
        """Return the seconds after which somebody may be released although nothing happens."""
        return max(min(self._deadline - now, LEASE_SECONDS / 10), 0.0)

    def close(self, now: float) -> bool:
        """End a collective round, if it is time; return whether it was."""
        if self.members >= self._expected:
            self._expected = 0
        self._watch(now)
        if self._expected or not self._arrived or (self._due and now < self._deadline):
            return False
        self._closed, self._deadline = now, math.inf
        self._arrived.clear()
        self._due = {name for name, lease in self._leases.items() if not lease.lapsed}
        return True

    def released(self) -> list[str]:
        """Return the learners that need not wait any more, in the order of their arrival.

        After `close` these are all, where rounds are collective.
        """
        if self.collective:
            return list(self._waiting)
        return [name for name in self._waiting if self._leases[name].round - self._slowest <= self.bound]

    def proceed(self, name: str, now: float) -> None:
        """Take in that a learner was answered and begins its next round."""
        self._waiting.pop(name, None)
        lease = self._leases[name]
        lease.waiting, lease.began = False, now
        lease.ends = now + max(LEASE_SECONDS, LEASE_ROUNDS * lease.longest)

    def _watch(self, now: float) -> None:
        """Set the time after which nobody is waited for, once half of the members have come."""
        if self.strict or self._deadline < math.inf or not self._arrived:
            return
        if len(self._arrived) >= len(self._due):
            self._deadline = now + (PATIENCE - 1) * (now - self._closed)

    def _lapse(self, name: str, lease: _Lease) -> None:
        self._discount(lease)
        self._due.discard(name)
        lease.lapsed = True

    def _count(self, lease: _Lease) -> None:
        self._rounds[lease.round] = self._rounds.get(lease.round, 0) + 1
        self._members += 1
        self._slowest = min(self._slowest, lease.round) if self._members > 1 else lease.round

    def _discount(self, lease: _Lease) -> None:
        self._members -= 1
        left = self._rounds.pop(lease.round) - 1
        if left:
            self._rounds[lease.round] = left
        else:
            self._slowest = min(self._rounds, default=lease.round)


def gate_of(
    mode: str, max_staleness: int, collect: str | int, first_lease_seconds: float = FIRST_LEASE_SECONDS
) -> Gate:
    """Return the gate of a mode.

    Parameters
    ----------
    mode : {'async', 'ssp', 'sync'}
        Nobody waits; nobody is more than ``max_staleness`` rounds ahead; all rounds end together.
    max_staleness : int
        For 'ssp'.
    collect : 'auto' or int
        For 'async': 'auto' takes an update of each learner together, without waiting for those that are late.
    first_lease_seconds : float
        How long a learner's first round is waited for.
    """
    lease = first_lease_seconds
    if mode == "sync":
        return Gate(0, collective=True, first_lease_seconds=lease)
    if mode == "ssp":
        return Gate(max_staleness, first_lease_seconds=lease)
    return Gate(collective=collect == "auto", strict=False, first_lease_seconds=lease)
