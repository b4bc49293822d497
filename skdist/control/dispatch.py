"""Who visits what next: a decision core that knows nothing of the cluster.

Events go in (`Dispatcher.add_worker`, `finished`, `lost`, ...), orders come out (`Dispatcher.orders`).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skdist.messages import Segment, Visit, VisitReport

#: Seconds that a visit should last: long enough that its overhead does not matter, short enough that
#: a slow worker's share can go to others.
VISIT_SECONDS = 0.5

#: A worker may begin the next epoch of its own partitions while others finish this one.
EPOCH_LEAD = 1


@dataclass
class _Worker:
    slots: int
    flying: set[int] = field(default_factory=set)


class Dispatcher:
    """Hands out visits so that every row is visited exactly once per epoch.

    A worker visits the partitions that sit with it; when these are through it begins the next epoch,
    at most one ahead, and then takes over what waits for others.

    Parameters
    ----------
    rows : sequence of int
        Rows of each partition; empty ones are never visited.
    homes : mapping of int to str
        The worker where a partition sits; partitions without one go to whoever asks.
    max_iter : int
        Epochs.
    seed : int
        For the order of the partitions in an epoch.
    shuffle : bool
        Whether that order changes.
    seconds_per_row : float
        First guess of the training time; reports refine it.
    budget_seconds : float
        Time budget of a visit.
    step : int
        Rows of a mini-batch; where a partition is shared among visits, it is cut at a multiple.
    queue : int
        Visits that wait at a worker beyond those that its slots run.
    """

    def __init__(
        self,
        rows: Sequence[int],
        homes: Mapping[int, str],
        *,
        max_iter: int,
        seed: int = 0,
        shuffle: bool = True,
        seconds_per_row: float = 1e-7,
        budget_seconds: float = 2.0,
        step: int = 1,
        queue: int = 1,
    ) -> None:
        self.rows = tuple(rows)
        self.homes = dict(homes)
        self.last_epoch = max_iter - 1
        self.in_flight: dict[int, tuple[Visit, str]] = {}
        self._seed, self._shuffle = seed, shuffle
        self._seconds_per_row = seconds_per_row
        self._budget, self._step, self._queue = budget_seconds, step, queue
        self._workers: dict[str, _Worker] = {}
        # By epoch, then by home ('' for nobody's): stretches that wait for a visit.
        self._waiting: dict[int, dict[str, deque[Segment]]] = {}
        self._open = 0
        self._number = 0

    def add_worker(self, name: str, slots: int) -> None:
        """Give a worker work from now on."""
        if name not in self._workers:
            self._workers[name] = _Worker(slots)

    def remove_worker(self, name: str) -> None:
        """Give a worker no more work; what it runs must be reported as `lost` or `finished`."""
        self._workers.pop(name, None)

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the workers that get work."""
        return tuple(self._workers)

    @property
    def done(self) -> bool:
        """Whether all epochs are through."""
        return not self.in_flight and self._oldest() > self.last_epoch

    def finished(self, report: VisitReport) -> None:
        """Take in how a visit ended; its remaining rows wait for another one."""
        visit, worker = self.in_flight.pop(report.visit.number)
        self._land(visit, worker)
        self.last_epoch = min(self.last_epoch, report.last_epoch)
        if report.offset:
            # Exchanges included: a visit whose link is slow must be short too.
            self._seconds_per_row = 0.5 * (self._seconds_per_row + report.seconds / report.offset)
        self._put_back(visit.epoch, visit.split(report.offset)[1])

    def lost(self, number: int, offset: int = 0) -> Visit:
        """Take in that a visit will never report; the rows from ``offset`` on wait for another one."""
        visit, worker = self.in_flight.pop(number)
        self._land(visit, worker)
        self._put_back(visit.epoch, visit.split(offset)[1])
        return visit

    def orders(self) -> list[tuple[str, Visit]]:
        """Return the visits to start now, each with the worker that should run it."""
        given: list[tuple[str, Visit]] = []
        # Everybody's own rows first; then who has none helps out; what is ready in the queue comes last.
        for helping, queue in ((False, 0), (True, 0), (False, self._queue)):
            progress = True
            # One visit for each worker in turn, so that none drains what another could share.
            while progress:
                progress = False
                for name, worker in self._workers.items():
                    if len(worker.flying) >= worker.slots + queue:
                        continue
                    visit = self._help(worker) if helping else self._next_visit(name, worker)
                    if visit is not None:
                        worker.flying.add(visit.number)
                        self.in_flight[visit.number] = (visit, name)
                        given.append((name, visit))
                        progress = True
        return given

    def _land(self, visit: Visit, worker: str) -> None:
        if worker in self._workers:
            self._workers[worker].flying.discard(visit.number)

    def _put_back(self, epoch: int, segments: Sequence[Segment]) -> None:
        waiting = self._waiting.setdefault(epoch, {})
        for segment in reversed(segments):
            waiting.setdefault(self._home(segment.partition), deque()).appendleft(segment)

    def _home(self, partition: int) -> str:
        home = self.homes.get(partition, "")
        return home if home in self._workers else ""

    def _oldest(self) -> int:
        """Return the first epoch that has rows waiting or in flight, or else the next to open."""
        flying = {visit.epoch for visit, _ in self.in_flight.values()}
        for epoch in [e for e, homes in self._waiting.items() if e not in flying and not any(homes.values())]:
            if epoch < self._open - 1:
                del self._waiting[epoch]
        waiting = {epoch for epoch, homes in self._waiting.items() if any(homes.values())}
        return min(flying | waiting, default=self._open)

    def _open_epoch(self) -> None:
        epoch = self._open
        self._open += 1
        numbers = [number for number, rows in enumerate(self.rows) if rows]
        if self._shuffle:
            random.Random(f"{self._seed}/{epoch}").shuffle(numbers)
        self._waiting[epoch] = {}
        for number in numbers:
            home = self._home(number)
            self._waiting[epoch].setdefault(home, deque()).append(Segment(number, 0, self.rows[number]))

    def _next_visit(self, name: str, worker: _Worker) -> Visit | None:
        oldest = self._oldest()
        for epoch in range(oldest, min(oldest + EPOCH_LEAD, self.last_epoch) + 1):
            if epoch == self._open:
                self._open_epoch()
            waiting = self._waiting.get(epoch, {})
            for home in (name, "", *(h for h in waiting if h not in self._workers)):
                if waiting.get(home):
                    return self._take(epoch, waiting[home], worker)
        return None

    def _help(self, worker: _Worker) -> Visit | None:
        """Return a visit to rows that wait for another worker, of whoever has most left."""
        oldest = self._oldest()
        waiting = self._waiting.get(oldest, {}) if oldest <= self.last_epoch else {}
        spare = [queue for queue in waiting.values() if queue]
        if spare:
            return self._take(oldest, max(spare, key=lambda q: sum(s.rows for s in q)), worker)
        return None

    def _take(self, epoch: int, queue: deque[Segment], worker: _Worker) -> Visit:
        """Make a visit of what waits in front of a queue."""
        free = max(worker.slots - len(worker.flying), 1)
        share = -(-sum(segment.rows for segment in queue) // free)
        first = queue.popleft()
        # A partition is cut only where a worker has threads without one.
        whole = -(-share // self._step) * self._step
        if first.rows > 1.5 * whole:
            cut = first.start + whole
            queue.appendleft(Segment(first.partition, cut, first.stop))
            first = Segment(first.partition, first.start, cut)
        # Not so many that others run dry, nor for too long.
        slots = sum(other.slots for other in self._workers.values())
        fair = -(-sum(self.rows) // max(slots, 1))
        goal = min(VISIT_SECONDS / max(self._seconds_per_row, 1e-12), share, fair)
        segments, rows = [first], first.rows
        while queue and rows + queue[0].rows <= goal:
            segments.append(queue.popleft())
            rows += segments[-1].rows
        self._number += 1
        return Visit(self._number, epoch, tuple(segments), self._budget)
