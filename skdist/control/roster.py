"""What is known of all learners together: who is at work, how fast, over which links."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection
from dataclasses import dataclass, field
from heapq import heappop, heappush

from skdist.control.latency import LONGEST_OVER_SHORTEST, LatencyBatchSizer, automatic_standard
from skdist.control.staleness import StalenessWindow
from skdist.control.windows import SlidingWindow, smoothed
from skdist.messages import Link
from skdist.progress import LearnerProgress

#: A learner that was heard of within this time, in seconds, counts as at work between two visits.
PAUSE_SECONDS = 1.0

#: A learner that has not been heard of for this long, in seconds, and for `SILENT_ROUNDS` times what its
#: round should take, is silent.
SILENT_SECONDS = 5.0
SILENT_ROUNDS = 10


#: A learner that has been away for this long, in seconds, is forgotten when another one comes.
ABSENT_SECONDS = 60.0


@dataclass
class Member:
    """A learner.

    Attributes
    ----------
    worker : str
        Where it is.
    staleness : SlidingWindow
        Of its updates, in versions.
    link : Link
        Of its worker.
    seconds_per_row, seconds_exchange : float
        Training and exchanging, smoothed; 0 where nothing is known.
    solo : int
        Versions that nobody else had a part in.
    round_size : int
        Rows of its present round.
    visits : int
        Visits that it runs.
    seen : float
        When it was last heard of.
    pace : float
        Rounds per second that it counts with among the peers of others.
    efficiency, judged : float, int
        Of its link, and the version of all latencies that it comes from.
    """

    worker: str
    staleness: SlidingWindow
    link: Link = field(default_factory=Link)
    seconds_per_row: float = 0.0
    seconds_exchange: float = 0.0
    solo: int = 0
    round_size: int = 0
    visits: int = 0
    seen: float = 0.0
    pace: float = 0.0
    efficiency: float = 1.0
    judged: int = -1


class Latencies:
    """The finite latencies of all workers, sorted, and the median of those of all but one.

    So that a thousand learners can each ask for the median of the others after every round.

    Attributes
    ----------
    version : int
        Grows with each change.
    """

    def __init__(self) -> None:
        self.version = 0
        self._sorted: list[float] = []
        self._own: dict[str, tuple[float, ...]] = {}

    def update(self, worker: str, latencies: tuple[float, ...]) -> None:
        """Replace the latencies of a worker."""
        old = self._own.get(worker, ())
        if old == latencies:
            return
        for latency in old:
            if latency < float("inf"):
                del self._sorted[bisect_left(self._sorted, latency)]
        for latency in latencies:
            if latency < float("inf"):
                insort(self._sorted, latency)
        self._own[worker] = latencies
        self.version += 1

    def forget(self, worker: str) -> None:
        """Let a worker have none."""
        self.update(worker, ())
        self._own.pop(worker, None)

    def median_without(self, worker: str) -> float | None:
        """Return the median of the latencies of all other workers; None where there are none."""
        places: list[int] = []
        for latency in sorted(value for value in self._own.get(worker, ()) if value < float("inf")):
            place = bisect_left(self._sorted, latency)
            # Equal values of one worker take neighbouring places.
            places.append(max(place, places[-1] + 1) if places else place)
        count = len(self._sorted) - len(places)
        if not count:
            return None
        middle = [self._sorted[_skip(rank, places)] for rank in {(count - 1) // 2, count // 2}]
        return sum(middle) / len(middle)


def _skip(rank: int, places: list[int]) -> int:
    """Return the index of the ``rank``-th item that is not at one of the sorted ``places``."""
    for place in places:
        if place <= rank:
            rank += 1
    return rank


class Roster:
    """Sizes the rounds of each learner and predicts whom its updates will meet.

    Every question takes the same time, however many learners there are.

    Parameters
    ----------
    adapter : StalenessWindow or None
        Method A.
    sizer : LatencyBatchSizer or None
        Method B; None gives everybody the standard round.
    round_size : 'auto' or int
        ``B0`` in rows.
    batch_size : int
        Rows of a step.
    shortest : int
        Rows of the shortest round.
    n_rows : int
        Rows of an epoch; no round is longer.
    n_learners : int
        Learners expected at the start.
    even : bool
        Whether the rounds of slow learners are shortened where the standard is ours to choose.
    exchange_rows : int
        See `skdist.control.latency.automatic_standard`.
    """

    def __init__(
        self,
        adapter: StalenessWindow | None,
        sizer: LatencyBatchSizer | None,
        round_size: str | int,
        batch_size: int,
        shortest: int,
        n_rows: int,
        n_learners: int,
        even: bool = True,
        exchange_rows: int = 0,
    ) -> None:
        self._even, self.exchange_rows = even, exchange_rows
        self._adapter, self._sizer = adapter, sizer
        self._round_size, self._batch_size, self._shortest = round_size, batch_size, shortest
        self._n_rows, self._n_learners = n_rows, n_learners
        self._members: dict[str, Member] = {}
        self._latencies = Latencies()
        self._pauses: list[tuple[float, str]] = []  # a heap
        self._pace, self._paced = 0.0, 0
        # Sums over the members, of whom so many are known to have trained.
        self._trained, self._seconds_per_row, self._rows_per_second = 0, 0.0, 0.0
        self._staleness, self._samples = 0.0, 0
        self._slowest_exchange, self._unseen = 0.0, 0

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def __len__(self) -> int:
        return len(self._members)

    def enlist(self, name: str, worker: str, link: Link, now: float, needed: Collection[str] = ()) -> Member:
        """Return the learner of that name, made if need be, with news of its link.

        Those that are ``needed`` are not forgotten for it, however long they have been away.
        """
        member = self._members.get(name)
        if member is None:
            self._forget_absent(now, needed)
            window = SlidingWindow(self._adapter.window if self._adapter else 1)
            member = self._members[name] = Member(worker, window)
        member.link, member.seen = link, now
        self._latencies.update(worker, link.latencies)
        return member

    def heard(
        self, name: str, link: Link, seconds_per_row: float, seconds_exchange: float, now: float
    ) -> Member:
        """Take in what an update says of its learner, and return it."""
        member = self._members[name]
        member.link, member.seen = link, now
        self._latencies.update(member.worker, link.latencies)
        self._set_speed(member, seconds_per_row)
        member.seconds_exchange = smoothed(member.seconds_exchange, seconds_exchange)
        return member

    def _set_speed(self, member: Member, seconds_per_row: float) -> None:
        for seconds, sign in ((member.seconds_per_row, -1), (seconds_per_row, 1)):
            if seconds > 0:
                self._trained += sign
                self._seconds_per_row += sign * seconds
                self._rows_per_second += sign / seconds
        member.seconds_per_row = seconds_per_row

    def _forget_absent(self, now: float, needed: Collection[str]) -> None:
        """Forget learners that have been away for long: where workers change there are ever more."""
        for name, member in list(self._members.items()):
            if member.visits or name in needed or now - member.seen <= ABSENT_SECONDS:
                continue
            del self._members[name]
            self._set_pace(member, 0.0)
            self._set_speed(member, 0.0)
            self._staleness -= sum(member.staleness)
            self._samples -= len(member.staleness)
            if all(other.worker != member.worker for other in self._members.values()):
                self._latencies.forget(member.worker)

    def met(self, name: str, staleness: float) -> None:
        """Take in the staleness of an update, which counts for the rounds after it."""
        dropped = self._members[name].staleness.append(staleness)
        self._staleness += staleness - (dropped or 0.0)
        self._samples += dropped is None

    def start(self, name: str) -> None:
        """Take in that a learner begins a visit."""
        self._members[name].visits += 1

    def end(self, name: str) -> None:
        """Take in that a learner ends a visit."""
        member = self._members[name]
        member.visits -= 1
        if not member.visits:
            heappush(self._pauses, (member.seen + self._pause(member), name))

    def silent(self, name: str, now: float) -> bool:
        """Return whether a learner in a visit should have been heard of long ago."""
        member = self._members[name]
        if not member.seconds_per_row:
            return False
        usual = member.round_size * member.seconds_per_row + member.seconds_exchange
        return now - member.seen > max(SILENT_SECONDS, SILENT_ROUNDS * usual)

    def reference(self) -> float:
        """Return the reference staleness R, in versions."""
        if self._adapter is None:
            return 0.0
        return self._adapter.reference_staleness(self.staleness())

    def staleness(self) -> float:
        """Return the mean staleness of the last updates of all learners, in versions."""
        return self._staleness / max(self._samples, 1)

    def progress(self) -> tuple[LearnerProgress, ...]:
        """Return what is known of each learner."""
        return tuple(
            LearnerProgress(
                name, member.worker, sum(member.staleness) / max(len(member.staleness), 1), member.round_size,
                member.link.median, member.efficiency, member.seconds_per_row, member.seconds_exchange,
            )
            for name, member in self._members.items()
        )  # fmt: skip

    def peers(self, name: str, now: float) -> float:
        """Return ``sum_j 1 / T_j``, in rounds per second, over the other learners at work.

        One that is between two visits is about to go on; one that has been away for longer is not.
        """
        while self._pauses and self._pauses[0][0] <= now:
            _, other = heappop(self._pauses)
            member = self._members.get(other)
            if member is not None and not member.visits and member.pace:
                until = member.seen + self._pause(member)
                if until <= now:
                    self._set_pace(member, 0.0)
                else:  # it was heard of since
                    heappush(self._pauses, (until, other))
        # To the bit: a single learner must not look stale because of a rounding error.
        return max(self._pace - self._members[name].pace, 0.0) if self._others(name) else 0.0

    def mean_peer(self, name: str, now: float) -> float:
        """Return the mean of ``1 / T_j``, in rounds per second, over the other learners at work."""
        return self.peers(name, now) / max(self._others(name), 1)

    def _others(self, name: str) -> int:
        return self._paced - (self._members[name].pace > 0)

    def _pause(self, member: Member) -> float:
        """Return the seconds after which a learner between two visits is away."""
        return max(PAUSE_SECONDS, 2 / member.pace if member.pace else 0.0)

    def next_round(self, name: str) -> tuple[int, float]:
        """Set and return the rows of a learner's next round, and the efficiency they come from.

        The one place where a size is bounded: from below by a sixteenth of the standard round and by the
        shortest one, from above by the rows there are. Where the standard is ours to choose, the round of a
        slow learner lasts no longer than that of a usual one: its updates are then no staler than theirs, and
        its rows count as much.
        """
        member, sizer = self._members[name], self._sizer
        standard = self._standard()
        efficiency, size = 1.0, standard
        if sizer is not None:
            if member.judged != self._latencies.version:
                limit = sizer.limit(self._latencies.median_without(member.worker))
                member.efficiency = sizer.efficiency_below(member.link.latencies, limit)
                member.judged = self._latencies.version
            efficiency = member.efficiency
            if sizer.rule == "efficiency":
                size = sizer.size(efficiency, standard)
            else:
                mean = self._seconds_per_row / max(self._trained, 1)
                size = sizer.balanced_size(standard, member.seconds_per_row, mean, member.round_size)
        shortest = max(standard // LONGEST_OVER_SHORTEST, self._shortest)
        if self._even and isinstance(self._round_size, str) and member.seconds_per_row > 0:
            longest = int(standard * self._usual_seconds_per_row() / member.seconds_per_row)
            size, shortest = min(size, longest), min(shortest, max(longest, self._batch_size))
        member.round_size = min(max(size, shortest), max(self._n_rows, self._batch_size))
        seconds = member.round_size * member.seconds_per_row + 2 * member.link.median
        self._set_pace(member, 1 / seconds if member.seconds_per_row > 0 else 0.0)
        return member.round_size, efficiency

    def _set_pace(self, member: Member, pace: float) -> None:
        self._pace += pace - member.pace
        self._paced += (pace > 0) - (member.pace > 0)
        member.pace = pace
        if not self._paced:
            self._pace = 0.0

    @property
    def expected(self) -> int:
        """Learners that there are or, at the start, that there will be."""
        return max(self._n_learners, len(self._members))

    def _standard(self) -> int:
        """Return ``B0`` in rows, one for all: from the slowest exchange and the usual training time."""
        if not isinstance(self._round_size, str):
            return self._round_size
        learners = self.expected
        doubled = self._sizer is not None and self._sizer.rule == "efficiency"
        if learners == 1:  # there is nobody to exchange with before the epoch, or the visit, ends
            return 2 * self._n_rows if doubled else self._n_rows
        # Looking at all members after each round of each would take the square of their number.
        if self._unseen <= 0:
            self._slowest_exchange = max(member.seconds_exchange for member in self._members.values())
            self._unseen = len(self._members)
        self._unseen -= 1
        return automatic_standard(
            self._usual_seconds_per_row(),
            self._slowest_exchange,
            self._n_rows // learners,
            self._batch_size,
            doubled=doubled,
            exchange_rows=self.exchange_rows,
        )

    def _usual_seconds_per_row(self) -> float:
        """Return the training time at the mean speed: a few slow learners do not change it much."""
        return self._trained / self._rows_per_second if self._trained else 0.0
