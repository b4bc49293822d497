"""What is known of all learners together: who is at work, how fast, over which links."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from skdist.control.latency import LONGEST_OVER_SHORTEST, LatencyBatchSizer, automatic_standard
from skdist.control.staleness import StalenessWindow
from skdist.control.windows import SlidingWindow, smoothed
from skdist.messages import Link

#: A learner that was heard of within this time, in seconds, counts as at work between two visits.
PAUSE_SECONDS = 1.0


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


class Roster:
    """Sizes the rounds of each learner and predicts whom its updates will meet.

    Parameters
    ----------
    adapter : StalenessWindow or None
        Method A.
    sizer : LatencyBatchSizer or None
        Method B; None gives everybody the standard round.
    round_size : 'auto' or int
        ``B0`` in rows.
    batch_size : int
        Rows of a step; no round is shorter.
    n_rows : int
        Rows of an epoch; no round is longer.
    n_learners : int
        Learners expected at the start.
    """

    def __init__(
        self,
        adapter: StalenessWindow | None,
        sizer: LatencyBatchSizer | None,
        round_size: str | int,
        batch_size: int,
        n_rows: int,
        n_learners: int,
    ) -> None:
        self._adapter, self._sizer = adapter, sizer
        self._round_size, self._batch_size = round_size, batch_size
        self._n_rows, self._n_learners = n_rows, n_learners
        self._members: dict[str, Member] = {}

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def enlist(self, name: str, worker: str, link: Link, now: float) -> Member:
        """Return the learner of that name, made if need be, with news of its link."""
        member = self._members.get(name)
        if member is None:
            window = SlidingWindow(self._adapter.window if self._adapter else 1)
            member = self._members[name] = Member(worker, window)
        member.link, member.seen = link, now
        return member

    def heard(
        self, name: str, link: Link, seconds_per_row: float, seconds_exchange: float, now: float
    ) -> Member:
        """Take in what an update says of its learner, and return it."""
        member = self._members[name]
        member.link, member.seen, member.seconds_per_row = link, now, seconds_per_row
        member.seconds_exchange = smoothed(member.seconds_exchange, seconds_exchange)
        return member

    def reference(self) -> float:
        """Return the reference staleness R, in versions."""
        if self._adapter is None:
            return 0.0
        if self._adapter.reference != "mean":
            return self._adapter.reference_staleness(0.0)
        values = [value for member in self._members.values() for value in member.staleness]
        return self._adapter.reference_staleness(float(np.mean(values)) if values else 0.0)

    def peers(self, name: str, now: float) -> float:
        """Return ``sum_j 1 / T_j``, in rounds per second, over the other learners at work.

        One that is between two visits is about to go on; one that has been away for longer is not.
        """
        total = 0.0
        for other, member in self._members.items():
            if other == name or member.seconds_per_row <= 0:
                continue
            seconds = member.round_size * member.seconds_per_row + 2 * member.link.median
            if member.visits > 0 or now - member.seen < max(PAUSE_SECONDS, 2 * seconds):
                total += 1 / seconds
        return total

    def next_round(self, name: str) -> tuple[int, float]:
        """Set and return the rows of a learner's next round, and the efficiency they come from.

        The one place where a size is bounded: from below by a sixteenth of the standard round and by a
        mini-batch, from above by the rows there are.
        """
        member, sizer = self._members[name], self._sizer
        standard = self._standard()
        efficiency, size = 1.0, standard
        if sizer is not None:
            links = {m.worker: m.link for m in self._members.values() if m.worker != member.worker}
            others = [latency for link in links.values() for latency in link.latencies]
            efficiency = sizer.efficiency(member.link.latencies, others)
            if sizer.rule == "efficiency":
                size = sizer.size(efficiency, standard)
            else:
                size = sizer.balanced_size(
                    standard, member.seconds_per_row, self._mean_seconds_per_row(), member.round_size
                )
        shortest = max(standard // LONGEST_OVER_SHORTEST, self._batch_size)
        member.round_size = min(max(size, shortest), max(self._n_rows, self._batch_size))
        return member.round_size, efficiency

    def _standard(self) -> int:
        """Return ``B0`` in rows, one for all: from the slowest exchange and the mean training time."""
        if not isinstance(self._round_size, str):
            return self._round_size
        return automatic_standard(
            self._mean_seconds_per_row(),
            max((member.seconds_exchange for member in self._members.values()), default=0.0),
            self._n_rows // max(self._n_learners, len(self._members)),
            self._batch_size,
            doubled=self._sizer is not None and self._sizer.rule == "efficiency",
        )

    def _mean_seconds_per_row(self) -> float:
        known = [m.seconds_per_row for m in self._members.values() if m.seconds_per_row > 0]
        return sum(known) / len(known) if known else 0.0
