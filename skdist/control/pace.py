"""How fast workers are, and how much of the work a visit of each should be."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from skdist.control.shares import rows_at
from skdist.control.windows import smoothed
from skdist.messages import VisitReport

#: Seconds that a visit should last: long enough that its overhead does not matter, short enough that
#: a slow worker's share can go to others.
VISIT_SECONDS = 0.5

#: A visit gets at most so much time, and so many times what it would take on a usual worker.
MOST_SECONDS = 2.0
BUDGET_MARGIN = 1.5

#: Within a worker's fair share a visit may last so many times as long as it takes to begin and to end it,
#: which grows with the model, but not for that reason longer than so many seconds.
LEAST_OVER_OVERHEAD = 10.0
MOST_FOR_OVERHEAD = 10.0

#: A worker that takes so many times as long as a usual one for a row is slow.
SLOW = 2.0

#: Workers are about as fast where none takes more than so many times as long as another one.
EVEN = 1.5

#: An epoch in which the slowest takes no longer than so many times the fair time is fair.
MOST_UNFAIR = 1.1

#: What a worker that gets no rows is known to take for one shrinks so much in each epoch.
FORGETTING = 0.9


@dataclass
class Pace:
    """How fast one worker is.

    Attributes
    ----------
    slots : int
        Visits that it trains at once.
    seconds_per_row : float
        Training time of each, smoothed; 0 before the first report.
    overhead : float
        Seconds of a visit before its first round and after its last one, smoothed.
    """

    slots: int
    seconds_per_row: float = 0.0
    overhead: float = 0.0

    def rest(self) -> None:
        """Take in that it gets no rows of an epoch: it may be faster than when it was measured."""
        self.seconds_per_row *= FORGETTING

    def took(self, report: VisitReport) -> None:
        """Take in how long a visit took."""
        if report.offset:
            # Not the time in which it waited for others, or the slowest would look no slower than they do.
            busy = report.seconds - report.seconds_waited
            self.seconds_per_row = smoothed(self.seconds_per_row, busy / report.offset)
            if report.seconds_span:
                self.overhead = smoothed(self.overhead, max(busy - report.seconds_span, 0.0))


class Paces:
    """How fast a worker is beside the others; knows what a visit of it should be.

    Parameters
    ----------
    guess : float
        Seconds per row of a worker, before the first report.
    least_seconds : float
        A visit gets at least so much time.
    """

    def __init__(self, guess: float, least_seconds: float) -> None:
        self._guess, self._least_seconds = guess, least_seconds
        self._usual, self._speed, self._alone, self._even = guess, 0.0, False, True
        self._slowest, self._waited, self._worth_sending = "", 0.0, False

    def look(self, workers: Collection[Pace]) -> None:
        """Learn the seconds per row of a usual worker, and the rows per second of all together.

        The first who report may be slow ones, so who has not reported is taken to be fast.
        """
        known = [worker.seconds_per_row for worker in workers if worker.seconds_per_row]
        self._even = not known or max(known) <= EVEN * min(known)
        unknown = [min([self._guess, *known])] * (len(workers) - len(known))
        self._usual = statistics.median_low(known + unknown) if workers else self._guess
        self._speed = sum(worker.slots / self.of(worker) for worker in workers)
        self._alone = sum(worker.slots for worker in workers) == 1

    def speeds(self, workers: Mapping[str, Pace]) -> dict[str, float]:
        """Return the rows per second of each worker."""
        return {name: worker.slots / self.of(worker) for name, worker in workers.items()}

    def begin_epoch(
        self, workers: Mapping[str, Pace], rows: Sequence[int], homes: Mapping[int, str]
    ) -> dict[str, float] | None:
        """Take in that an epoch begins; return the speeds to share it out by.

        None leaves rows where they sit. In each epoch the others wait for the slowest worker. When the time
        they have waited adds up to what is worth sending rows elsewhere, these are.
        """
        own = rows_at(workers, rows, homes)
        known = all(workers[name].seconds_per_row for name, count in own.items() if count)
        if len(workers) < 2 or not (known or self._worth_sending):
            return None
        speeds = self.speeds(workers)
        seconds = {name: count / speeds[name] for name, count in own.items()}
        fair = sum(rows) / sum(speeds.values())
        longest = max(seconds.values())
        if longest <= MOST_UNFAIR * fair:
            return None
        # Of several who are slow, now one is the slowest and now another one.
        if seconds.get(self._slowest, 0.0) <= MOST_UNFAIR * fair:
            self._slowest, self._waited = max(seconds, key=seconds.__getitem__), 0.0
        self._waited += longest - fair
        self._worth_sending = self._worth_sending or self._waited > self._least_seconds
        return speeds if self._worth_sending else None

    def of(self, worker: Pace) -> float:
        """Return the seconds per row of a worker, as far as they are known."""
        return worker.seconds_per_row or self._usual

    def are_even(self) -> bool:
        """Return whether workers are about as fast, as far as that is known."""
        return self._even

    def is_slow(self, worker: Pace) -> bool:
        """Whether others help it before they go on."""
        return worker.seconds_per_row > SLOW * self._usual

    def share(self, worker: Pace, own: float, left: float) -> float:
        """Return the rows of a fair visit.

        Parameters
        ----------
        worker : Pace
            Who gets it.
        own : float
            Rows that wait for this slot.
        left : float
            Rows to be shared by all: who is slow gets less, so that all are through at the same time.
        """
        pace = self.of(worker)
        return max(min(own, left / pace / self._speed), self._least_seconds / pace)

    def goal(self, worker: Pace) -> float:
        """Return the rows of a visit that lasts as long as one should."""
        return max(VISIT_SECONDS, self._least(worker)) / self.of(worker)

    def budget(self, worker: Pace, rows: int) -> float:
        """Return the seconds that a visit of some rows may last."""
        # One learner needs no time limit, and without one nothing depends on the clock.
        if self._alone:
            return math.inf
        least = self._least(worker)
        return min(max(BUDGET_MARGIN * rows * self._usual, least), max(MOST_SECONDS, least))

    def _least(self, worker: Pace) -> float:
        return max(self._least_seconds, min(LEAST_OVER_OVERHEAD * worker.overhead, MOST_FOR_OVERHEAD))
