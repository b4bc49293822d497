"""Who visits what next: a decision core that knows nothing of the cluster.

Events go in (`Dispatcher.add_worker`, `finished`, `lost`, ...), orders come out (`Dispatcher.orders`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from skdist.control.epochs import Epoch, Epochs, Queue
from skdist.control.pressure import PressurePlanner, WorkerPlan, WorkerPressure
from skdist.control.shares import share_with
from skdist.control.windows import smoothed
from skdist.messages import Segment, Visit, VisitReport

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

#: A worker that takes so many times as long as a usual one for a row is helped before others go on.
SLOW = 2.0

#: A worker may begin the next epoch of its own partitions while others finish this one.
EPOCH_LEAD = 1

#: Epochs of a visit where nobody looks at their ends. More would save little: what is made ready for epochs
#: that training does not come to is lost.
MOST_EPOCHS = 8

#: In such a visit a learner may get so many epochs ahead of the slowest one: they are short, and a wait for
#: every small lead would cost more than the visits save.
SPAN_LEAD = 2

#: Where others may want to share the work, a visit goes on with the next epoch as long as it lasts no longer
#: than so many seconds.
SPAN_SECONDS = 0.25


@dataclass
class _Worker:
    slots: int
    queue: int
    flying: set[int] = field(default_factory=set)
    seconds_per_row: float = 0.0
    overhead: float = 0.0  # seconds of a visit before its first round and after its last one
    pressure: WorkerPressure | None = None
    idle: bool = False  # there was no work to fill its slots and its queue
    after_idle: set[int] = field(default_factory=set)  # visits in flight that were ordered then


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
        Epochs of a visit, at most: a worker of one slot that is through with its own rows of an epoch goes on
        with those of the next. One where visits had to end early, because some workers are slower; then
        twice as many after each that had not.
    span_seconds : float
        A visit of several epochs lasts no longer.
    eager : bool
        Whether there are such visits before the speed of their worker is measured.

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
        eager: bool = True,
    ) -> None:
        self.rows = tuple(rows)
        self.homes = dict(homes)
        self.last_epoch = max_iter - 1
        self.in_flight: dict[int, tuple[Visit, str]] = {}
        self.epochs = Epochs(self.rows, self.homes, step if fixed else 0, seed, shuffle)
        self._guess = seconds_per_row
        self._least_seconds, self._step, self._queue, self._lead = least_seconds, step, queue, lead
        self._planner = planner
        self._streamed = streamed
        self._fixed = fixed
        self._most_span, self._span, self._span_seconds = span, span, span_seconds
        self._eager = eager
        self._reach = 0  # epochs from the first one of the latest visit to the one after its last
        self._workers: dict[str, _Worker] = {}
        self._roomy: dict[str, None] = {}  # those that may have room for a visit
        self._sources: dict[int, Queue] = {}  # of the visits in flight
        self._helping: set[int] = set()
        self._ordered = False
        self._usual, self._speed, self._until_look = seconds_per_row, 0.0, 0
        self._number = 0

    def add_worker(self, name: str, slots: int) -> None:
        """Give a worker work from now on."""
        if name not in self._workers:
            planner = self._planner
            pressure = WorkerPressure(planner, slots, self._queue) if planner is not None else None
            self._workers[name] = _Worker(slots, self._queue, pressure=pressure)
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
        if report.offset == visit.rows:
            self._span = min(2 * self._span, self._most_span)
        elif visit.epoch_at(report.offset) <= report.last_epoch:
            self._span, self._reach = 1, 0
        if report.offset and worker is not None:
            # Not the time in which it waited for others, or the slowest would look no slower than they do.
            busy = report.seconds - report.seconds_waited
            worker.seconds_per_row = smoothed(worker.seconds_per_row, busy / report.offset)
            if report.seconds_span:
                worker.overhead = smoothed(worker.overhead, max(busy - report.seconds_span, 0.0))
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

    def orders(self) -> list[tuple[str, Visit]]:
        """Return the visits to start now, each with the worker that should run it."""
        self._ordered = True
        given: list[tuple[str, Visit]] = []
        # A look at all workers for each visit of each would take the square of their number.
        self._until_look -= 1
        if self._until_look < 0:
            self._look()
        # Everybody's own rows first; then who has none helps out; what is ready in the queue comes last.
        for helping, queueing in ((False, False), (True, False), (False, True)):
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
            worker.idle = len(worker.flying) < worker.slots + worker.queue
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
            # Later ones of the same home: else none would have been part of the visit.
            queue = epoch.homes[source.home][0] if segment.ahead else source
            queue.put_back(Segment(segment.partition, segment.start, segment.stop))
            epoch.waiting += segment.rows
        return visit, worker

    def _next_visit(self, name: str, worker: _Worker) -> Visit | None:
        oldest = self.epochs.oldest()
        # What waits behind a visit of several epochs begins where that ends.
        lead = max(self._lead, self._reach)
        for number in range(oldest, min(oldest + lead, self.last_epoch) + 1):
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
                left = epoch.waiting + epoch.flying
                own = theirs[0].home == name or len(epoch.queues) == 1
                return self._take(number, epoch, theirs[0], worker, left, own)
            # Who is slow cannot go through all of its own before the next epoch is over.
            if number == oldest and (slow := [queue for queue in waiting if self._is_slow(queue.home)]):
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

    def _is_slow(self, name: str) -> bool:
        return self._workers[name].seconds_per_row > SLOW * self._usual

    def _take(
        self, number: int, epoch: Epoch, queue: Queue, worker: _Worker, left: int, own: bool = False
    ) -> Visit:
        """Make a visit of what waits in front of a queue, where ``left`` rows are to be shared by all."""
        least = max(self._least_seconds, min(LEAST_OVER_OVERHEAD * worker.overhead, MOST_FOR_OVERHEAD))
        if self._fixed:
            segments = [queue.take() for _ in range(len(queue.segments))]
        else:
            segments = self._front(queue, worker, left, least)
        rows = sum([segment.rows for segment in segments])
        epoch.waiting -= rows
        epoch.flying += rows
        self._reach = 0
        known = self._eager or worker.seconds_per_row
        if self._span > 1 and own and known and worker.slots == 1 and not queue.rows:
            pace = worker.seconds_per_row or self._usual
            segments += self._later(number, queue.home, self._span_seconds / pace - rows)
            rows = sum([segment.rows for segment in segments])
            self._reach = segments[-1].ahead + 1
        budget = math.inf
        # One learner needs no time limit, and without one nothing depends on the clock.
        if not self._fixed and (len(self._workers) > 1 or worker.slots > 1):
            budget = min(max(BUDGET_MARGIN * rows * self._usual, least), max(MOST_SECONDS, least))
        self._number += 1
        visit = Visit(self._number, number, tuple(segments), budget)
        self._sources[visit.number] = queue
        return visit

    def _front(self, queue: Queue, worker: _Worker, left: int, least: float) -> list[Segment]:
        """Take from a queue what a visit of at least so many seconds goes over, if there is as much."""
        pace = worker.seconds_per_row or self._usual
        # Who is slow gets less, so that all are through at the same time.
        share = max(
            min(queue.rows / max(worker.slots - len(worker.flying), 1), left / pace / self._speed),
            self._least_seconds / pace,
        )
        first = queue.take()
        # A partition is cut only where a worker has threads without one, or is slower than the others.
        whole = -(-math.ceil(share) // self._step) * self._step
        if first.rows > 1.5 * whole:
            cut = first.start + whole
            queue.put_back(Segment(first.partition, cut, first.stop))
            first = Segment(first.partition, first.start, cut)
        goal = 0.0 if self._streamed else min(share, max(VISIT_SECONDS, least) / pace)
        segments, rows = [first], first.rows
        while queue.segments and rows + queue.segments[0].rows <= goal:
            segments.append(queue.take())
            rows += segments[-1].rows
        return segments

    def _later(self, number: int, home: str, most: float) -> list[Segment]:
        """Take the rows of one home in the epochs after ``number``, at most so many rows of whole epochs."""
        segments: list[Segment] = []
        for ahead in range(1, min(self._span, self.last_epoch - number + 1)):
            if self.epochs.opened == number + ahead:
                self._open_epoch()
            epoch = self.epochs.get(number + ahead)
            queues = [] if epoch is None else [queue for queue in epoch.homes.get(home, ()) if queue.rows]
            most -= sum(queue.rows for queue in queues)
            if epoch is None or not queues or most < 0:
                break
            segments += [replace(segment, ahead=ahead) for segment in epoch.take_from(queues)]
        return segments

    def _open_epoch(self) -> None:
        self.epochs.open({name: worker.slots for name, worker in self._workers.items()})

    def _look(self) -> None:
        """Learn the seconds per row of a usual worker, and the rows per second of all together.

        The first who report may be slow ones, so who has not reported is taken to be fast.
        """
        workers = self._workers.values()
        known = [worker.seconds_per_row for worker in workers if worker.seconds_per_row]
        unknown = [min([self._guess, *known])] * (len(workers) - len(known))
        self._usual = statistics.median(known + unknown) if workers else self._guess
        self._speed = sum(worker.slots / (worker.seconds_per_row or self._usual) for worker in workers)
        self._until_look = len(workers) // 16
