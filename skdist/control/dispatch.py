"""Who visits what next: a decision core that knows nothing of the cluster.

Events go in (`Dispatcher.add_worker`, `finished`, `lost`, ...), orders come out (`Dispatcher.orders`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from skdist.control.epochs import Epoch, Epochs, Queue
from skdist.control.pace import Pace, Paces
from skdist.control.pressure import PressurePlanner, WorkerPlan, WorkerPressure
from skdist.control.shares import share_with
from skdist.messages import Segment, Visit, VisitReport

#: A worker may begin the next epoch of its own partitions while others finish this one.
EPOCH_LEAD = 1

#: Epochs of a visit where there is one learner and nobody looks at their ends. More would save little:
#: what is made ready for epochs that training does not come to is lost.
MOST_EPOCHS = 8

#: The same of each of several learners that are about as fast: none may get far ahead of the others.
MOST_TOGETHER = 4

#: Where others may join, a visit of several epochs lasts no longer than so many seconds.
SPAN_SECONDS = 0.25


@dataclass
class _Worker(Pace):
    single: bool = False  # it has one slot, not just by its plan, which is made of many visits
    queue: int = 0
    flying: set[int] = field(default_factory=set)
    pressure: WorkerPressure | None = None
    idle: bool = False  # there was no work to fill its slots and its queue
    after_idle: set[int] = field(default_factory=set)  # visits in flight that were ordered then


class Dispatcher:
    """Hands out visits so that every row is visited exactly once per epoch.

    A worker visits the partitions that sit with it, at most its share by speed; when these are through it
    begins the next epoch, at most one ahead, or `MOST_TOGETHER` behind visits of several, and then takes over
    what waits for others.

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
    step : int
        Rows of a mini-batch; where a partition is shared among visits, it is cut at a multiple.
    queue : int
        Visits that wait at a worker beyond those that its slots run.
    lead : int
        Epochs that a worker may be ahead of the slowest.
    planner : PressurePlanner, optional
        Decides how many visits each worker trains at once, and how many wait there; `add_worker` and
        ``queue`` say how many at the start.
    streamed : bool
        Whether a partition is loaded for each visit: then a visit is to one partition, so that another one
        loads meanwhile and no more are in memory than are visited or wait.
    fixed : bool
        Whether an epoch is cut into equal shares, one visit for each slot there is at its begin, for runs
        that must not depend on who is fast.
    span : int
        Epochs of a visit, at most; more than one only where nobody looks at their ends and each worker has
        one slot, and no more than `MOST_TOGETHER` where there are several workers, all about as fast.
    span_seconds : float
        A visit of several epochs lasts no longer.
    spare : float
        Rows of others that a worker has room for, where epochs are shared out by speed.

    Attributes
    ----------
    rows, homes, last_epoch
        As given; homes change.
    in_flight : dict of int to (Visit, str)
        By number, the visits that were ordered, with their workers.
    epochs : Epochs
        Under way.
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
        step: int = 1,
        queue: int = 1,
        lead: int = EPOCH_LEAD,
        planner: PressurePlanner | None = None,
        streamed: bool = False,
        fixed: bool = False,
        span: int = 1,
        span_seconds: float = math.inf,
        spare: float = math.inf,
    ) -> None:
        self.rows = tuple(rows)
        self._total = sum(self.rows)
        self.homes = dict(homes)
        self.last_epoch = max_iter - 1
        self.in_flight: dict[int, tuple[Visit, str]] = {}
        self.epochs = Epochs(self.rows, self.homes, step, fixed, spare, seed, shuffle)
        self._step, self._queue, self._lead = step, queue, lead
        self._planner = planner
        self._streamed = streamed
        self._fixed = fixed
        self._span, self._span_seconds = span, span_seconds
        self._behind = self._together = 0  # epochs after the last one of a visit of several: alone, or not
        self._even = False  # whether each worker has one slot, and they are about as fast
        self._workers: dict[str, _Worker] = {}
        self._roomy: dict[str, None] = {}  # those that may have room for a visit
        self._sources: dict[int, Queue] = {}  # of the visits in flight
        self._helping: set[int] = set()
        self._ordered = False
        self._paces = Paces(seconds_per_row, least_seconds)
        self._until_look = 0
        self._number = 0

    def add_worker(self, name: str, slots: int) -> None:
        """Give a worker work from now on."""
        if name not in self._workers:
            planner = self._planner
            pressure = WorkerPressure(planner, slots, self._queue) if planner is not None else None
            self._workers[name] = _Worker(slots, single=slots == 1, queue=self._queue, pressure=pressure)
            self._roomy[name] = None
            self._until_look = 0
            if self._ordered and not self._fixed:
                # Else there would be work for it only where others are slow: they take all that is theirs.
                share_with(name, list(self._workers), self.homes, self.rows)

    def remove_worker(self, name: str) -> None:
        """Give a worker no more work; what it runs must be reported as `lost` or `finished`."""
        if self._workers.pop(name, None) is not None:
            self._roomy.pop(name, None)
            self._until_look = 0

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the workers that get work."""
        return tuple(self._workers)

    @property
    def newest(self) -> int:
        """Number of the newest visit."""
        return self._number

    @property
    def done(self) -> bool:
        """Whether all epochs are through."""
        return not self.in_flight and self.epochs.oldest() > self.last_epoch

    @property
    def complete(self) -> int:
        """How many epochs are through: all their visits have ended."""
        return min(self.epochs.oldest(), self.last_epoch + 1)

    def end_after(self, epoch: int) -> None:
        """Begin no epoch after this one."""
        self.last_epoch = min(self.last_epoch, epoch)

    def finished(self, report: VisitReport) -> WorkerPlan | None:
        """Take in how a visit ended; its remaining rows wait for another one.

        Returns
        -------
        WorkerPlan or None
            The plan of the visit's worker where it is another one from now on, or the first.
        """
        visit, worker = self._land(report.visit.number, report.offset)
        self.end_after(report.last_epoch)
        if worker is not None:
            worker.took(report)
        if worker is None or worker.pressure is None:
            return None
        plan = worker.pressure.observe(report, supplied=visit.number not in worker.after_idle)
        worker.after_idle.discard(visit.number)
        if plan is not None:
            worker.slots, worker.queue = plan.threads, plan.queue
        return plan

    def lost(self, number: int, offset: int = 0) -> Visit:
        """Take in that a visit will never report; the rows from ``offset`` on wait for another one."""
        return self._land(number, offset)[0]

    def reopen(self, visit: Visit, start: int, stop: int) -> None:
        """Put rows ``[start, stop)`` of a visit that had ended back: what it had done is lost.

        Their epoch may have been complete; it is not any more.
        """
        self._behind = self._together = 0
        self.epochs.wait([(visit.epoch + segment.ahead, segment) for segment in visit.between(start, stop)])

    def go_on(self, opened: int, todo: Sequence[tuple[int, Segment]]) -> None:
        """Begin where another dispatcher of the same partitions stopped.

        Parameters
        ----------
        opened : int
            Epochs that it had begun.
        todo : sequence of (int, Segment)
            What is left of them: an epoch and rows.
        """
        self.epochs.opened = opened
        self.epochs.wait(todo)

    def orders(self, ahead: bool = True) -> list[tuple[str, Visit]]:
        """Return the visits to start now, each with the worker that should run it.

        ``ahead`` says whether some may wait at their workers for those that run.
        """
        self._ordered = True
        given: list[tuple[str, Visit]] = []
        # A look at all workers for each visit of each would take the square of their number.
        self._until_look -= 1
        if self._until_look < 0:
            self._look()
        # Everybody's own rows first; then who has none helps out; what is ready in the queue comes last.
        for helping, queueing in ((False, False), (True, False), (False, True))[: 2 + ahead]:
            progress = True
            # One visit for each worker in turn, so that none drains what another could share.
            while progress:
                progress = False
                for name in list(self._roomy):
                    worker = self._workers[name]
                    if len(worker.flying) >= worker.slots + (worker.queue if queueing else 0):
                        if len(worker.flying) >= worker.slots + worker.queue:
                            del self._roomy[name]
                        continue
                    visit = self._help(worker) if helping else self._next_visit(name, worker)
                    if visit is not None:
                        if worker.pressure is not None:
                            inner = worker.pressure.plan.inner_threads
                            visit = replace(visit, threads=worker.slots, inner_threads=inner)
                        if worker.idle:
                            worker.after_idle.add(visit.number)
                        worker.flying.add(visit.number)
                        self.in_flight[visit.number] = (visit, name)
                        given.append((name, visit))
                        progress = True
        for worker in self._workers.values():
            worker.idle = len(worker.flying) < worker.slots + (worker.queue if ahead else 0)
        return self._in_company(given)

    def _in_company(self, given: list[tuple[str, Visit]]) -> list[tuple[str, Visit]]:
        """Tell the first visits of an epoch how many they are."""
        for number in self.epochs.fresh():
            company = sum(visit.epoch == number for _, visit in given)
            for place, (name, visit) in enumerate(given):
                if visit.epoch == number and visit.company != company:
                    visit = replace(visit, company=company)
                    given[place], self.in_flight[visit.number] = (name, visit), (visit, name)
        return given

    def _land(self, number: int, offset: int) -> tuple[Visit, _Worker | None]:
        visit, name = self.in_flight.pop(number)
        source = self._sources.pop(number)
        worker = self._workers.get(name)
        if worker is not None:
            worker.flying.discard(number)
            self._roomy[name] = None
        for segment in visit.segments:
            self.epochs[visit.epoch + segment.ahead].flying -= segment.rows
        if number in self._helping:
            self._helping.remove(number)
            self.epochs[visit.epoch].helped -= visit.rows
        for segment in reversed(visit.split(offset)[1]):
            epoch = self.epochs[visit.epoch + segment.ahead]
            queue = source
            if segment.ahead:
                # Nothing begins behind it any more before that is visited.
                own = [each for each in epoch.queues if each.home == source.home]
                queue, self._behind, self._together = (own or epoch.queues)[0], 0, 0
            queue.put_back(Segment(segment.partition, segment.start, segment.stop))
            epoch.waiting += segment.rows
        return visit, worker

    def _next_visit(self, name: str, worker: _Worker) -> Visit | None:
        oldest = self.epochs.oldest()
        # What waits behind a visit of several epochs begins where that ends.
        newest = max(oldest + self._lead, self._behind, min(self._together, oldest + MOST_TOGETHER))
        for number in range(oldest, min(newest, self.last_epoch) + 1):
            if number == self.epochs.opened:
                self._open_epoch()
            epoch = self.epochs.get(number)
            if epoch is None or not epoch.waiting:
                continue
            theirs = [queue for queue in epoch.homes.get(name, ()) if queue.rows]
            if not theirs:
                waiting = [queue for queue in epoch.queues if queue.rows]
                theirs = [queue for queue in waiting if queue.home not in self._workers]
            if theirs:
                visit = self._take(number, epoch, theirs[0], worker, epoch.waiting + epoch.flying)
                return self._extended(visit, name, worker) if self._span > 1 else visit
            # Who is slow cannot go through all of its own before the next epoch is over.
            if number == oldest and (
                slow := [queue for queue in waiting if self._paces.is_slow(self._workers[queue.home])]
            ):
                return self._take_over(number, epoch, slow, worker)
        return None

    def _help(self, worker: _Worker) -> Visit | None:
        """Return a visit to rows that wait for another worker, of whoever has most left."""
        oldest = self.epochs.oldest()
        epoch = self.epochs.get(oldest) if oldest <= self.last_epoch else None
        if epoch is None or not epoch.waiting:
            return None
        return self._take_over(oldest, epoch, epoch.queues, worker)

    def _take_over(self, number: int, epoch: Epoch, queues: Sequence[Queue], worker: _Worker) -> Visit:
        """Make a visit to rows that sit elsewhere: a fair part of what is or was to be helped with."""
        queue = max(queues, key=lambda queue: queue.rows)
        visit = self._take(number, epoch, queue, worker, epoch.waiting + epoch.helped)
        epoch.helped += visit.rows
        self._helping.add(visit.number)
        return visit

    def _take(self, number: int, epoch: Epoch, queue: Queue, worker: _Worker, left: int) -> Visit:
        """Make a visit of what waits in front of a queue, where ``left`` rows are to be shared by all."""
        segments = queue.take_all() if self._fixed else self._front(queue, worker, left)
        rows = sum([segment.rows for segment in segments])
        epoch.waiting -= rows
        epoch.flying += rows
        self._number += 1
        visit = Visit(self._number, number, tuple(segments), self._budget(worker, rows))
        self._sources[visit.number] = queue
        return visit

    def _front(self, queue: Queue, worker: _Worker, left: int) -> list[Segment]:
        """Take a worker's share of ``left`` rows from a queue, if that does not last too long."""
        own = queue.rows / max(worker.slots - len(worker.flying), 1)
        share = self._paces.share(worker, own, left)
        first = queue.take()
        # A partition is cut only where a worker has threads without one, or is slower than the others.
        whole = -(-math.ceil(share) // self._step) * self._step
        if first.rows > 1.5 * whole:
            cut = first.start + whole
            queue.put_back(Segment(first.partition, cut, first.stop))
            first = Segment(first.partition, first.start, cut)
        goal = 0.0 if self._streamed else min(share, self._paces.goal(worker))
        segments, rows = [first], first.rows
        while queue.segments and rows + queue.segments[0].rows <= goal:
            segments.append(queue.take())
            rows += segments[-1].rows
        return segments

    def _extended(self, visit: Visit, name: str, worker: _Worker) -> Visit:
        """Let a visit to all rows that a worker has in an epoch go on with those of the epochs after it."""
        alone, number, segments = len(self._workers) == 1, visit.epoch, list(visit.segments)
        if not self._even or (visit.rows != self._total if alone else self._sources[visit.number].rows):
            return visit
        epochs = min(
            self._span if alone else MOST_TOGETHER,
            self._span_seconds / (self._paces.of(worker) * visit.rows),
        )
        for epoch in range(number + 1, min(number + int(epochs), self.last_epoch + 1)):
            if self.epochs.opened == epoch:
                self._open_epoch()
            later = self.epochs.get(epoch)
            if later is None:
                break
            theirs = later.queues if alone else later.homes.get(name, ())
            if sum([queue.rows for queue in theirs]) != visit.rows:
                break
            taken = [segment for queue in theirs for segment in later.take_all(queue)]
            segments += [replace(segment, ahead=epoch - number) for segment in taken]
            if alone:
                self._behind = epoch + 1
            else:
                self._together = max(self._together, epoch + 1)
        if len(segments) == len(visit.segments):
            return visit
        rows = sum([segment.rows for segment in segments])
        return replace(visit, segments=tuple(segments), budget_seconds=self._budget(worker, rows))

    def _budget(self, worker: _Worker, rows: int) -> float:
        """Return the seconds that a visit of some rows may last."""
        return math.inf if self._fixed else self._paces.budget(worker, rows)

    def _open_epoch(self) -> None:
        slots = {name: worker.slots for name, worker in self._workers.items()}
        speeds = None
        if not (self._fixed or self._streamed):
            speeds = self._paces.begin_epoch(self._workers, self.rows, self.homes)
        number = self.epochs.opened
        self.epochs.open(slots, speeds)
        for name in speeds or ():
            if name not in self.epochs[number].homes:
                self._workers[name].rest()

    def _look(self) -> None:
        self._paces.look(self._workers.values())
        self._even = all(each.single for each in self._workers.values()) and self._paces.are_even()
        self._until_look = len(self._workers) // 16
