"""The parameter server: a plain class that an actor, a thread pool or a simulator can own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from skdist.control.latency import LONGEST_OVER_SHORTEST, LatencyBatchSizer, automatic_standard
from skdist.control.schedules import Schedule
from skdist.control.staleness import StalenessWindow
from skdist.control.stopping import ConvergenceMonitor
from skdist.control.windows import SlidingWindow, smoothed
from skdist.history import EpochRecord, RoundRecord
from skdist.messages import Answer, Join, Link, Update, Visit

#: A learner that was heard of within this time, in seconds, counts as at work between two visits.
PAUSE_SECONDS = 1.0


@dataclass
class _Member:
    """What the server knows of a learner; ``solo`` counts the versions that nobody else had a part in."""

    worker: str
    window: SlidingWindow
    link: Link = field(default_factory=Link)
    seconds_per_row: float = 0.0
    seconds_exchange: float = 0.0
    solo: int = 0
    round_size: int = 0
    at_work: int = 0
    seen: float = 0.0


@dataclass
class _Attempt:
    """The newest execution of a visit, the rows acknowledged so far, and the last answer it got.

    A request that comes again gets the same answer again. The parameters in it are what the next update
    starts from.
    """

    visit: Visit
    name: str
    learner: str
    offset: int = 0
    answer: Answer | None = None
    last: tuple[int, int] = (-1, -1)
    started: int = 0


@dataclass
class _Epoch:
    rows: int = 0
    loss: float = 0.0
    began: float = 0.0
    ended: float = 0.0


class ParameterServer:
    """Holds the parameters, takes updates in, decides on rates, round sizes and the end.

    No method waits; each is safe to call from several threads. Arrays are replaced, never written to:
    what was handed out stays as it was.

    Parameters
    ----------
    state : ndarray
        Initial parameters.
    n_rows : int
        Rows of an epoch.
    schedule : Schedule
        For the decay of the step size.
    adapter : StalenessWindow or None
        Method A; None applies every update in full.
    sizer : LatencyBatchSizer or None
        Method B; None gives everybody ``round_size``.
    round_size : 'auto' or int
        ``B0`` in rows.
    batch_size : int
        Rows of a step; no round is shorter.
    monitor : ConvergenceMonitor or None
        Decides when training has converged; None runs to ``max_iter``.
    max_iter : int
        Epochs at most.
    n_learners : int
        Learners expected at the start.
    collect : int
        Updates that are applied together and make one version.
    clock : float
        Steps made by earlier fits on the same state.
    time_source : callable
        Seconds of a steady clock.

    Examples
    --------
    >>> import numpy as np
    >>> from skdist.control.schedules import CONSTANT, Schedule
    >>> server = ParameterServer(np.zeros(3), n_rows=100, schedule=Schedule(CONSTANT, 0.1))
    >>> server.version
    0
    """

    def __init__(
        self,
        state: np.ndarray,
        *,
        n_rows: int,
        schedule: Schedule,
        adapter: StalenessWindow | None = None,
        sizer: LatencyBatchSizer | None = None,
        round_size: str | int = "auto",
        batch_size: int = 64,
        monitor: ConvergenceMonitor | None = None,
        max_iter: int = 1,
        n_learners: int = 1,
        collect: int = 1,
        clock: float = 0.0,
        time_source: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.state = state
        self.version = 0
        self.clock = clock
        self._n_rows = n_rows
        self._schedule = schedule
        self._adapter = adapter
        self._sizer = sizer
        self._round_size = round_size
        self._batch_size = batch_size
        self._monitor = monitor
        self._last_epoch = max_iter - 1
        self._converged = False
        self._newest_epoch = 0
        self._n_learners = n_learners
        self._collect = collect
        self._now = time_source
        self._began = time_source()
        self._members: dict[str, _Member] = {}
        self._attempts: dict[int, _Attempt] = {}
        self._retired: set[int] = set()
        self._pending: list[tuple[Update, np.ndarray, float, str]] = []
        self._epochs: dict[int, _Epoch] = {}
        self._rounds: list[RoundRecord] = []
        self._lock = threading.Lock()

    def join(self, join: Join) -> Answer:
        """Register an execution of a visit; it takes over from any earlier one.

        Returns
        -------
        Answer
            ``offset`` says where to start; not accepted where the fit ends before this epoch.
        """
        with self._lock:
            member = self._members.get(join.learner)
            if member is None:
                size = self._adapter.window if self._adapter else 1
                member = self._members[join.learner] = _Member(join.worker, SlidingWindow(size))
            member.link, member.seen = join.link, self._now()
            number, epoch = join.visit.number, join.visit.epoch
            attempt = self._attempts.setdefault(number, _Attempt(join.visit, "", join.learner))
            if epoch > self._last_epoch or number in self._retired:
                return self._refuse(attempt)
            if attempt.name == join.attempt and attempt.answer is not None:
                return attempt.answer
            if attempt.name:
                self._members[attempt.learner].at_work -= 1
            attempt.name, attempt.learner, attempt.last = join.attempt, join.learner, (-1, -1)
            attempt.started += 1
            member.at_work += 1
            self._newest_epoch = max(self._newest_epoch, epoch)
            return self._answer(attempt, member, math.nan)

    def push(self, update: Update) -> Answer:
        """Take an update in.

        An update is accepted once, from the newest execution of its visit, and only if it continues where
        the last one ended; a repeat of the last one is answered again and changes nothing.
        """
        with self._lock:
            attempt = self._attempts.get(update.visit)
            if attempt is None:
                raise ValueError(f"Visit {update.visit} was never joined.")
            if attempt.name != update.attempt or attempt.answer is None:
                return self._refuse(attempt)
            if (update.start, update.stop) == attempt.last:
                return attempt.answer
            if update.start != attempt.offset:
                return self._refuse(attempt)
            member = self._members[attempt.learner]
            attempt.last, attempt.offset = (update.start, update.stop), update.stop
            member.link, member.seen = update.link, self._now()
            member.seconds_per_row = update.seconds_per_row
            member.seconds_exchange = smoothed(member.seconds_exchange, update.seconds_exchange)
            staleness = float(max(self.version - member.solo - update.base, 0))
            scale = self._guarded(update.rate_scale, staleness)
            self._pending.append((update, attempt.answer.state, scale, attempt.learner))
            if len(self._pending) >= self._collect:
                self._apply()
            self._record(update, attempt, member, staleness, scale)
            # The staleness of an update becomes part of the window only for the rounds after it.
            member.window.append(staleness)
            return self._answer(attempt, member, staleness)

    def retire(self, visit: int) -> int:
        """Take a visit away from whoever runs it or will; return the rows acknowledged until now.

        For visits on workers that left: the rest of the rows goes into a new visit.
        """
        with self._lock:
            self._retired.add(visit)
            attempt = self._attempts.get(visit)
            if attempt is None:
                return 0
            if attempt.name:
                self._members[attempt.learner].at_work -= 1
                attempt.name, attempt.answer = "", None
            return attempt.offset

    def leave(self, visit: int, attempt: str) -> int:
        """Note that an execution of a visit has ended; return which execution it was, from 1."""
        with self._lock:
            known = self._attempts.get(visit)
            if known is None:
                return 1
            if known.name == attempt:
                self._members[known.learner].at_work -= 1
                known.name, known.answer = "", None
            return max(known.started, 1)

    def finish(self) -> tuple[np.ndarray, int, float, list[RoundRecord], list[EpochRecord], bool]:
        """Apply what is pending and return the outcome.

        Returns
        -------
        state : ndarray
        version : int
        clock : float
        rounds : list of RoundRecord
        epochs : list of EpochRecord
        converged : bool
            Whether the convergence monitor ended the fit.
        """
        with self._lock:
            if self._pending:
                self._apply()
            epochs = [
                EpochRecord(number, e.rows, e.loss / max(e.rows, 1), math.nan, e.ended - e.began)
                for number, e in sorted(self._epochs.items())
            ]
            return self.state, self.version, self.clock, self._rounds, epochs, self._converged

    def stop(self) -> None:
        """End the fit after the epochs that are under way."""
        with self._lock:
            self._last_epoch = min(self._last_epoch, self._newest_epoch)

    def abort(self) -> None:
        """Refuse all updates from now on."""
        with self._lock:
            self._last_epoch = -1
            for attempt in self._attempts.values():
                attempt.name = ""

    def seconds(self) -> float:
        """Return the seconds since the server was made, the time of the history."""
        return self._now() - self._began

    def progress(self) -> tuple[int, float, int]:
        """Return the newest epoch, the mean loss of its rows so far and its rows."""
        with self._lock:
            if not self._epochs:
                return 0, math.nan, 0
            number = max(self._epochs)
            epoch = self._epochs[number]
            return number, epoch.loss / max(epoch.rows, 1), epoch.rows

    def _guarded(self, scale: float, staleness: float) -> float:
        if self._adapter is None or not self._adapter.guard:
            return scale
        decay = self._schedule.decay(self.clock)
        return min(scale, self._adapter.rate_scale(staleness, self._reference(), decay))

    def _apply(self) -> None:
        """Make one version of the pending updates: their mean.

        A round of H steps has moved H times already, so that updates weigh the same however many steps they
        are. Steps divide by the size of a full mini-batch, and the mean by the size of a full collection:
        short ones count by their share, and every row alike.
        """
        pending, self._pending = self._pending, []
        share = 1.0 / self._collect
        update, base, scale, _ = pending[0]
        if self._collect == 1 and base is self.state and scale == 1.0:
            # Nobody else came between: assigned, so that one learner is sequential to the bit.
            self.state = update.state
        else:
            change = sum(share * scale * (update.state - base) for update, base, scale, _ in pending)
            self.state = self.state + np.asarray(change, self.state.dtype)
        authors = {learner for *_, learner in pending}
        if len(authors) == 1:
            self._members[authors.pop()].solo += 1
        self.version += 1
        self.clock += sum(share * scale * update.steps for update, _, scale, _ in pending)

    def _record(
        self, update: Update, attempt: _Attempt, member: _Member, staleness: float, scale: float
    ) -> None:
        rows, now = update.stop - update.start, self._now() - self._began
        number = attempt.visit.epoch
        epoch = self._epochs.setdefault(number, _Epoch(began=now - update.seconds_compute))
        epoch.rows += rows
        epoch.loss += update.loss
        epoch.ended = now
        self._rounds.append(
            RoundRecord(
                learner=attempt.learner,
                worker=member.worker,
                epoch=number,
                visit=update.visit,
                rows=rows,
                steps=update.steps,
                round_size=update.round_size,
                version=self.version,
                staleness=staleness,
                context=update.context,
                rate_scale=update.rate_scale,
                applied=scale,
                latency=update.link.median,
                efficiency=update.efficiency,
                loss=update.loss / rows,
                seconds_compute=update.seconds_compute,
                seconds_exchange=update.seconds_exchange,
                time=now,
            )
        )
        if self._monitor is not None and self._monitor.observe(rows, update.loss) and not self._converged:
            # Epochs under way are finished: every row counts equally often.
            self._converged, self._last_epoch = True, self._newest_epoch

    def _reference(self) -> float:
        if self._adapter is None or self._adapter.reference != "mean":
            return 0.0 if self._adapter is None else self._adapter.reference_staleness(0.0)
        values = [value for member in self._members.values() for value in member.window]
        return self._adapter.reference_staleness(float(np.mean(values)) if values else 0.0)

    def _answer(self, attempt: _Attempt, member: _Member, staleness: float) -> Answer:
        member.round_size, efficiency = self._sizing(attempt.learner, member)
        attempt.answer = Answer(
            accepted=True,
            state=self.state,
            offset=attempt.offset,
            version=self.version,
            foreign=self.version - member.solo,
            clock=self.clock,
            staleness=staleness,
            round_size=member.round_size,
            efficiency=efficiency,
            peers=sum(self._rates(attempt.learner)),
            reference=self._reference(),
            last_epoch=self._last_epoch,
        )
        return attempt.answer

    def _refuse(self, attempt: _Attempt) -> Answer:
        return Answer(
            accepted=False, state=self.state, offset=attempt.offset, version=self.version, foreign=0,
            clock=self.clock, staleness=math.nan, round_size=self._batch_size, efficiency=1.0, peers=0.0,
            reference=0.0, last_epoch=self._last_epoch,
        )  # fmt: skip

    def _rates(self, learner: str) -> Iterable[float]:
        """Yield ``1 / T_j``, in rounds per second, of the other learners at work.

        One that is between two visits is about to go on; one that has been away for longer is not.
        """
        now = self._now()
        for name, other in self._members.items():
            if name == learner or other.seconds_per_row <= 0:
                continue
            seconds = other.round_size * other.seconds_per_row + 2 * other.link.median
            if other.at_work > 0 or now - other.seen < max(PAUSE_SECONDS, 2 * seconds):
                yield 1 / seconds

    def _sizing(self, learner: str, member: _Member) -> tuple[int, float]:
        """Return the size of the learner's next round and the efficiency it comes from."""
        sizer = self._sizer
        standard = self._standard()
        shortest = max(standard // LONGEST_OVER_SHORTEST, self._batch_size)
        efficiency, size = 1.0, standard
        if sizer is not None:
            links = {m.worker: m.link for m in self._members.values() if m.worker != member.worker}
            others = [latency for link in links.values() for latency in link.latencies]
            efficiency = sizer.efficiency(member.link.latencies, others)
            if sizer.rule == "efficiency":
                size = sizer.size(efficiency, standard)
            else:
                known = [m.seconds_per_row for m in self._members.values() if m.seconds_per_row > 0]
                mean = float(np.mean(known)) if known else 0.0
                size = sizer.balanced_size(standard, member.seconds_per_row, mean, member.round_size)
        return min(max(size, shortest), max(self._n_rows, self._batch_size)), efficiency

    def _standard(self) -> int:
        """Return ``B0`` in rows, one for all: from the slowest exchange and the mean training time."""
        if not isinstance(self._round_size, str):
            return self._round_size
        members = self._members.values()
        speeds = [member.seconds_per_row for member in members if member.seconds_per_row > 0]
        return automatic_standard(
            sum(speeds) / len(speeds) if speeds else 0.0,
            max((member.seconds_exchange for member in members), default=0.0),
            self._n_rows // max(self._n_learners, len(self._members)),
            self._batch_size,
            doubled=self._sizer is not None and self._sizer.rule == "efficiency",
        )
