"""Who visits what next: a decision core that knows nothing of the cluster.

Events go in (`Dispatcher.add_worker`, `finished`, `lost`, ...), orders come out (`Dispatcher.orders`).
"""

from __future__ import annotations

import math
import random
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from skdist.control.windows import smoothed
from skdist.messages import Segment, Visit, VisitReport

#: Seconds that a visit should last: long enough that its overhead does not matter, short enough that
#: a slow worker's share can go to others.
VISIT_SECONDS = 0.5

#: A visit gets at most so much time, and on a worker of known speed so many times what it should take.
MOST_SECONDS = 2.0
BUDGET_MARGIN = 1.5

#: A worker may begin the next epoch of its own partitions while others finish this one.
EPOCH_LEAD = 1


@dataclass
class _Worker:
    slots: int
    queue: int
    flying: set[int] = field(default_factory=set)
    seconds_per_row: float = 0.0


@dataclass
class _Queue:
    """Stretches that wait for a visit; ``home`` is the worker where they sit."""

    home: str
    segments: deque[Segment] = field(default_factory=deque)
    rows: int = 0

    def put_back(self, segment: Segment) -> None:
        self.segments.appendleft(segment)
        self.rows += segment.rows

    def take(self) -> Segment:
        segment = self.segments.popleft()
        self.rows -= segment.rows
        return segment


@dataclass
class _Epoch:
    queues: list[_Queue]
    waiting: int
    flying: int = 0


class Dispatcher:
    """Hands out visits so that every row is visited exactly once per epoch.

    A worker visits the partitions that sit with it, at most its share by speed; when these are through it
    begins the next epoch, at most one ahead, and then takes over what waits for others.

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
    least_seconds : float
        A visit gets at least so much time.
    timed : bool
        Whether visits have a time budget at all.
    step : int
        Rows of a mini-batch; where a partition is shared among visits, it is cut at a multiple.
    queue : int
        Visits that wait at a worker beyond those that its slots run.
    lead : int
        Epochs that a worker may be ahead of the slowest.
    shares : sequence of tuple of Segment, optional
        Fixed shares of an epoch, each one visit, for runs that must not depend on who is fast.
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
        least_seconds: float = 0.25,
        timed: bool = True,
        step: int = 1,
        queue: int = 1,
        lead: int = EPOCH_LEAD,
        shares: Sequence[tuple[Segment, ...]] | None = None,
    ) -> None:
        self.rows = tuple(rows)
        self.homes = dict(homes)
        self.last_epoch = max_iter - 1
        self.in_flight: dict[int, tuple[Visit, str]] = {}
        self._seed, self._shuffle = seed, shuffle
        self._guess = seconds_per_row
        self._least_seconds, self._step, self._queue, self._lead = least_seconds, step, queue, lead
        self._timed = timed
        self._shares = shares
        self._workers: dict[str, _Worker] = {}
        self._sources: dict[int, _Queue] = {}  # of the visits in flight
        self._epochs: dict[int, _Epoch] = {}
        self._open = 0
        self._fresh: set[int] = set()  # epochs that were opened just now
        self._number = 0

    def add_worker(self, name: str, slots: int) -> None:
        """Give a worker work from now on."""
        if name not in self._workers:
            self._workers[name] = _Worker(slots, self._queue)

    def resize(self, name: str, slots: int, queue: int) -> None:
        """Change how many visits a worker runs at once, and how many wait there."""
        if name in self._workers:
            self._workers[name].slots, self._workers[name].queue = slots, queue

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
        _, worker = self._land(report.visit.number, report.offset)
        self.last_epoch = min(self.last_epoch, report.last_epoch)
        if report.offset and worker is not None:
            # Exchanges included: a visit whose link is slow must be short too.
            worker.seconds_per_row = smoothed(worker.seconds_per_row, report.seconds / report.offset)

    def lost(self, number: int, offset: int = 0) -> Visit:
        """Take in that a visit will never report; the rows from ``offset`` on wait for another one."""
        return self._land(number, offset)[0]

    def orders(self) -> list[tuple[str, Visit]]:
        """Return the visits to start now, each with the worker that should run it."""
        given: list[tuple[str, Visit]] = []
        # Everybody's own rows first; then who has none helps out; what is ready in the queue comes last.
        for helping, queueing in ((False, False), (True, False), (False, True)):
            progress = True
            # One visit for each worker in turn, so that none drains what another could share.
            while progress:
                progress = False
                for name, worker in self._workers.items():
                    if len(worker.flying) >= worker.slots + (worker.queue if queueing else 0):
                        continue
                    visit = self._help(worker) if helping else self._next_visit(name, worker)
                    if visit is not None:
                        worker.flying.add(visit.number)
                        self.in_flight[visit.number] = (visit, name)
                        given.append((name, visit))
                        progress = True
        return self._in_company(given)

    def _in_company(self, given: list[tuple[str, Visit]]) -> list[tuple[str, Visit]]:
        """Tell the first visits of an epoch how many they are."""
        fresh, self._fresh = self._fresh, set()
        for number in fresh:
            company = sum(visit.epoch == number for _, visit in given)
            for place, (name, visit) in enumerate(given):
                if visit.epoch == number:
                    visit = replace(visit, company=company)
                    given[place], self.in_flight[visit.number] = (name, visit), (visit, name)
        return given

    def _land(self, number: int, offset: int) -> tuple[Visit, _Worker | None]:
        visit, name = self.in_flight.pop(number)
        epoch, queue = self._epochs[visit.epoch], self._sources.pop(number)
        worker = self._workers.get(name)
        if worker is not None:
            worker.flying.discard(number)
        epoch.flying -= visit.rows
        for segment in reversed(visit.split(offset)[1]):
            queue.put_back(segment)
            epoch.waiting += segment.rows
        return visit, worker

    def _oldest(self) -> int:
        """Return the first epoch that has rows waiting or in flight, or else the next to open."""
        for number in sorted(self._epochs):
            epoch = self._epochs[number]
            if epoch.waiting or epoch.flying:
                return number
            del self._epochs[number]
        return self._open

    def _open_epoch(self) -> None:
        number = self._open
        self._open += 1
        self._fresh.add(number)
        if self._shares is not None:
            queues = [
                _Queue(self.homes.get(place, ""), deque(self._shuffled(share, f"{number}/{place}")))
                for place, share in enumerate(self._shares)
            ]
        else:
            segments = [Segment(partition, 0, rows) for partition, rows in enumerate(self.rows) if rows]
            homes: dict[str, _Queue] = {}
            for segment in self._shuffled(segments, str(number)):
                home = self.homes.get(segment.partition, "")
                homes.setdefault(home, _Queue(home)).segments.append(segment)
            queues = list(homes.values())
        for queue in queues:
            queue.rows = sum(segment.rows for segment in queue.segments)
        self._epochs[number] = _Epoch(queues, sum(queue.rows for queue in queues))

    def _shuffled(self, segments: Sequence[Segment], key: str) -> list[Segment]:
        shuffled = list(segments)
        if self._shuffle:
            random.Random(f"{self._seed}/{key}").shuffle(shuffled)
        return shuffled

    def _next_visit(self, name: str, worker: _Worker) -> Visit | None:
        oldest = self._oldest()
        for number in range(oldest, min(oldest + self._lead, self.last_epoch) + 1):
            if number == self._open:
                self._open_epoch()
            epoch = self._epochs.get(number)
            if epoch is None or not epoch.waiting:
                continue
            own = [queue for queue in epoch.queues if queue.rows and queue.home == name]
            theirs = own or [
                queue for queue in epoch.queues if queue.rows and queue.home not in self._workers
            ]
            if theirs:
                return self._take(number, epoch, theirs[0], worker, epoch.waiting + epoch.flying)
        return None

    def _help(self, worker: _Worker) -> Visit | None:
        """Return a visit to rows that wait for another worker, of whoever has most left."""
        oldest = self._oldest()
        epoch = self._epochs.get(oldest) if oldest <= self.last_epoch else None
        if epoch is None or not epoch.waiting:
            return None
        queue = max(epoch.queues, key=lambda queue: queue.rows)
        return self._take(oldest, epoch, queue, worker, epoch.waiting)

    def _take(self, number: int, epoch: _Epoch, queue: _Queue, worker: _Worker, left: int) -> Visit:
        """Make a visit of what waits in front of a queue, where ``left`` rows are to be shared by all."""
        if self._shares is not None:
            segments = [queue.take() for _ in range(len(queue.segments))]
            return self._order(number, epoch, segments, queue, math.inf)
        usual = self._usual()
        pace = worker.seconds_per_row or usual
        # Who is slow gets less, so that all are through at the same time.
        speed = sum(other.slots / (other.seconds_per_row or usual) for other in self._workers.values())
        share = max(
            min(queue.rows / max(worker.slots - len(worker.flying), 1), left / pace / speed),
            self._least_seconds / pace,
        )
        first = queue.take()
        # A partition is cut only where a worker has threads without one, or is slower than the others.
        whole = -(-math.ceil(share) // self._step) * self._step
        if first.rows > 1.5 * whole:
            cut = first.start + whole
            queue.put_back(Segment(first.partition, cut, first.stop))
            first = Segment(first.partition, first.start, cut)
        goal = min(share, VISIT_SECONDS / pace)
        segments, rows = [first], first.rows
        while queue.segments and rows + queue.segments[0].rows <= goal:
            segments.append(queue.take())
            rows += segments[-1].rows
        budget = math.inf
        if self._timed:
            # Half of what it should take where it is not known yet who is slow.
            margin = BUDGET_MARGIN if worker.seconds_per_row else BUDGET_MARGIN / 3
            budget = min(max(margin * rows * usual, self._least_seconds), MOST_SECONDS)
        return self._order(number, epoch, segments, queue, budget)

    def _order(
        self, number: int, epoch: _Epoch, segments: list[Segment], queue: _Queue, budget: float
    ) -> Visit:
        self._number += 1
        visit = Visit(self._number, number, tuple(segments), budget)
        self._sources[visit.number] = queue
        epoch.waiting -= visit.rows
        epoch.flying += visit.rows
        return visit

    def _usual(self) -> float:
        """Return the seconds per row of a usual worker."""
        known = [worker.seconds_per_row for worker in self._workers.values() if worker.seconds_per_row]
        return statistics.median(known) if known else self._guess


def equal_shares(rows: Sequence[int], count: int, step: int) -> list[tuple[Segment, ...]]:
    """Cut the rows of some partitions, in their order, into shares of equal size.

    Parameters
    ----------
    rows : sequence of int
        Rows of each partition.
    count : int
        Shares.
    step : int
        Rows of a mini-batch; partitions are cut at multiples.

    Returns
    -------
    list of tuple of Segment
        At most ``count``, none of them empty.

    Examples
    --------
    >>> equal_shares([10, 6], count=2, step=4)
    [(Segment(partition=0, start=0, stop=8),),
     (Segment(partition=0, start=8, stop=10), Segment(partition=1, start=0, stop=6))]
    """
    total, done = sum(rows), 0
    shares: list[list[Segment]] = [[] for _ in range(count)]
    for partition, size in enumerate(rows):
        start = 0
        while start < size:
            share = min(done * count // total, count - 1)
            # Rows until the next share begins, to the nearest step of this partition.
            room = -(-((share + 1) * total) // count) - done
            whole = max(round(room / step), 1) * step
            stop = min(start + whole, size) if size - start > 1.5 * step else size
            shares[share].append(Segment(partition, start, stop))
            done, start = done + stop - start, stop
    return [tuple(share) for share in shares if share]


def share_homes(
    shares: Sequence[Sequence[Segment]], homes: Mapping[int, str], slots: Mapping[str, int]
) -> dict[int, str]:
    """Return a worker for each share: the one that holds most of its rows, as long as it has slots."""
    free = dict(slots)
    held: list[tuple[int, int, str]] = []
    for number, share in enumerate(shares):
        rows: dict[str, int] = {}
        for segment in share:
            home = homes.get(segment.partition, "")
            rows[home] = rows.get(home, 0) + segment.rows
        held += [(-count, number, home) for home, count in rows.items()]
    placed: dict[int, str] = {}
    for _, number, home in sorted(held):
        if number not in placed and free.get(home, 0):
            placed[number] = home
            free[home] -= 1
    for number in range(len(shares)):
        left = [name for name, count in free.items() if count]
        if number not in placed and left:
            placed[number] = left[0]
            free[left[0]] -= 1
    return placed
