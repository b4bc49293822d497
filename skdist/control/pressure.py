"""Method B, step 3: the load of a round sets the threads of a worker and the length of its queue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval

from skdist.control.windows import smoothed
from skdist.messages import VisitReport

#: A worker that trains fewer rows per second than this share of what it did under all threads goes back
#: to them.
LEAST_SHARE = 0.95

#: A slot that stands free for a longer share of the time starves: the queue is too short.
MOST_IDLE = 0.1

#: A plan is looked at again after so many visits per thread. As many are not counted at the start, when code
#: compiles and caches are cold.
VISITS_PER_LOOK = 2


class PressurePlanner(BaseEstimator):
    """Plan how many visits a worker trains at once, and how many wait there, by the pressure of its rounds.

    Pressure is the load of a round; ``r`` is the time that training a row took, ``B`` the rows of a round::

        P = r * B                                                       pressure, in seconds
        threads = clip(ceil(nthreads * P / target), 1, nthreads)        visits that train at once
        inner_threads = max(nthreads // threads, 1)                     BLAS or torch threads of each
        queue <= min(nthreads * ceil(target / P), max_queue)            visits that wait, at least 1

    So rounds that are heavy beside the target get all threads and one waiting visit for each, while a worker
    whose rounds are nothing but exchanges trains with fewer, and more visits wait. A visit that waits has its
    partition loaded, or loads it, while others train: the queue begins with one, and one more is added
    whenever the slots stood free for more than a tenth of the time, although there was work.

    A worker begins with all its threads. Fewer are kept only as long as it trains at least 95 % of the rows
    per second that it did before; if not, it goes back to all threads and stays there.

    Parameters
    ----------
    target_seconds : float, default=0.0001
        Load of a round that is worth all threads. The default is about what an exchange takes within a
        process; the rounds of ``round_size='auto'`` are longer, and train on all threads.
    max_queue : int, default=8
        Visits that wait, at most. Each holds its partitions in memory.

    Notes
    -----
    Published in CN120234158A as mean response time of the last round times batch, which sets the threads of
    a node and the length of its I/O queue. The direction of that rule, the target, the guard and the start of
    the queue are ours, and so is the reading of response time as seconds per row.

    Examples
    --------
    >>> planner = PressurePlanner(target_seconds=0.01)
    >>> [planner.threads(pressure, nthreads=8) for pressure in (0.0, 0.002, 0.005, 0.5)]
    [1, 2, 4, 8]
    >>> [planner.longest_queue(pressure, nthreads=2) for pressure in (0.0, 0.002, 0.005, 0.5)]
    [8, 8, 4, 2]
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "target_seconds": [Interval(Real, 0, None, closed="neither")],
        "max_queue": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, target_seconds: float = 1e-4, max_queue: int = 8) -> None:
        self.target_seconds = target_seconds
        self.max_queue = max_queue

    def threads(self, pressure: float, nthreads: int) -> int:
        """Return how many visits train at once, from 1 to ``nthreads``, for a pressure in seconds."""
        return math.ceil(min(max(nthreads * (pressure / self.target_seconds), 1), nthreads))

    def longest_queue(self, pressure: float, nthreads: int) -> int:
        """Return how many visits wait at most on ``nthreads``, for a pressure in seconds."""
        if nthreads * self.target_seconds >= self.max_queue * pressure:
            return self.max_queue
        return min(nthreads * math.ceil(self.target_seconds / pressure), self.max_queue)


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How a worker runs its visits.

    Attributes
    ----------
    pressure : float
        Seconds of a round when the plan was made.
    threads : int
        Visits that train at once.
    inner_threads : int
        BLAS or torch threads of each.
    queue : int
        Visits that wait.
    """

    pressure: float
    threads: int
    inner_threads: int
    queue: int


class WorkerPressure:
    """What is known of a worker's load, and the plan that follows from it.

    Parameters
    ----------
    planner : PressurePlanner
        The rule.
    nthreads : int
        Threads of the worker.
    queue : int
        Visits that wait at the start; 0 where none may wait at all.
    """

    def __init__(self, planner: PressurePlanner, nthreads: int, queue: int = 1) -> None:
        self._planner, self._nthreads, self._queues = planner, nthreads, queue > 0
        self.plan = WorkerPlan(0.0, nthreads, 1, min(queue, planner.max_queue))
        self._pressure = 0.0
        self._told = False
        self._best = 0.0  # rows per second under all threads
        self._settled = False
        self._visits = -VISITS_PER_LOOK * nthreads
        self._rows, self._seconds, self._starved = 0, 0.0, 0.0
        self._since = self._until = -math.inf  # what is counted ended in between

    def observe(self, report: VisitReport, supplied: bool = True) -> WorkerPlan | None:
        """Take in how a visit went; return the worker's plan if it is another one, or the first.

        Parameters
        ----------
        report : VisitReport
            Of a visit on this worker.
        supplied : bool
            Whether there was work for the worker all the time; if not, a slot that stood free does not call
            for a longer queue.
        """
        if not (report.rounds and report.offset):
            return None
        self._pressure = smoothed(self._pressure, report.seconds_compute / report.rounds)
        threads, queue = self.plan.threads, self.plan.queue
        self._until = max(self._until, report.started + report.seconds)
        # What was ordered under another plan says nothing about this one.
        self._visits += report.visit.threads == threads
        if report.visit.threads != threads or self._visits <= 0:
            self._since = self._until
        else:
            self._rows += report.offset
            self._seconds += report.seconds
            self._starved += report.seconds_free if supplied else 0.0
            if self._visits >= VISITS_PER_LOOK * threads:
                threads, queue = self._look(threads, queue)
        if self._told and (threads, queue) == (self.plan.threads, self.plan.queue):
            return None
        self._told = True
        self.plan = WorkerPlan(self._pressure, threads, max(self._nthreads // threads, 1), queue)
        return self.plan

    def _look(self, threads: int, queue: int) -> tuple[int, int]:
        """Return the threads and the queue that follow from the visits since the last look."""
        rate = self._rows / max(self._until - self._since, 1e-9)
        starves = self._starved > MOST_IDLE * self._seconds
        self._visits, self._rows, self._seconds, self._starved = 0, 0, 0.0, 0.0
        self._since = self._until
        if threads == self._nthreads:
            self._best = rate
        elif rate < LEAST_SHARE * self._best:
            self._settled = True
        if self._queues:
            queue = min(queue + starves, self._planner.longest_queue(self._pressure, self._nthreads))
        if self._settled:
            return self._nthreads, queue
        return self._planner.threads(self._pressure, self._nthreads), queue
