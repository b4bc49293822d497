"""The parameter server: a plain class that an actor, a thread pool or a simulator can own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skdist.control.latency import LatencyBatchSizer
from skdist.control.roster import Member, Roster
from skdist.control.schedules import Schedule
from skdist.control.staleness import StalenessWindow
from skdist.control.stopping import ConvergenceMonitor
from skdist.history import EpochRecord, RoundRecord
from skdist.messages import Answer, Join, Update, Visit


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


class Outcome(NamedTuple):
    """What a server has to say at the end.

    Attributes
    ----------
    state : ndarray
        Final parameters.
    version : int
        Versions made.
    clock : float
        Sequential steps made.
    rounds : list of RoundRecord
        All rounds.
    epochs : list of EpochRecord
        All epochs.
    converged : bool
        Whether the convergence monitor ended the fit.
    """

    state: np.ndarray
    version: int
    clock: float
    rounds: list[RoundRecord]
    epochs: list[EpochRecord]
    converged: bool


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
        self._schedule = schedule
        self._adapter = adapter
        self._batch_size = batch_size
        self._monitor = monitor
        self._last_epoch = max_iter - 1
        self._converged = False
        self._newest_epoch = 0
        self._collect = collect
        self._now = time_source
        self._began = time_source()
        self._roster = Roster(adapter, sizer, round_size, batch_size, n_rows, n_learners)
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
            member = self._roster.enlist(join.learner, join.worker, join.link, self._now())
            number, epoch = join.visit.number, join.visit.epoch
            attempt = self._attempts.setdefault(number, _Attempt(join.visit, "", join.learner))
            if epoch > self._last_epoch or number in self._retired:
                return self._refuse(attempt)
            if attempt.name == join.attempt and attempt.answer is not None:
                return attempt.answer
            if attempt.name:
                self._roster[attempt.learner].visits -= 1
            attempt.name, attempt.learner, attempt.last = join.attempt, join.learner, (-1, -1)
            attempt.started += 1
            member.visits += 1
            self._newest_epoch = max(self._newest_epoch, epoch)
            return self._answer(attempt, member, math.nan)

    def push(self, update: Update) -> Answer:
        """Take an update in.

        An update is accepted once, from the newest execution of its visit, and only if it continues where
        the last one ended; a repeat of the last one is answered again and changes nothing.

        Raises
        ------
        ValueError
            Where nobody joined the visit.
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
            attempt.last, attempt.offset = (update.start, update.stop), update.stop
            member = self._roster.heard(
                attempt.learner, update.link, update.seconds_per_row, update.seconds_exchange, self._now()
            )
            staleness = float(max(self.version - member.solo - update.base, 0))
            scale = self._guarded(update.rate_scale, staleness)
            self._pending.append((update, attempt.answer.state, scale, attempt.learner))
            if len(self._pending) >= self._collect:
                self._apply()
            self._record(update, attempt, member, staleness, scale)
            # The staleness of an update becomes part of the window only for the rounds after it.
            member.staleness.append(staleness)
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
                self._roster[attempt.learner].visits -= 1
                attempt.name, attempt.answer = "", None
            return attempt.offset

    def leave(self, visit: int, attempt: str) -> int:
        """Note that an execution of a visit has ended; return which execution it was, from 1."""
        with self._lock:
            known = self._attempts.get(visit)
            if known is None:
                return 1
            if known.name == attempt:
                self._roster[known.learner].visits -= 1
                known.name, known.answer = "", None
            return max(known.started, 1)

    def finish(self) -> Outcome:
        """Apply what is pending and return the outcome."""
        with self._lock:
            if self._pending:
                self._apply()
            epochs = [
                EpochRecord(number, e.rows, e.loss / max(e.rows, 1), math.nan, e.ended - e.began)
                for number, e in sorted(self._epochs.items())
            ]
            return Outcome(self.state, self.version, self.clock, self._rounds, epochs, self._converged)

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
        return min(scale, self._adapter.rate_scale(staleness, self._roster.reference(), decay))

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
            self._roster[authors.pop()].solo += 1
        self.version += 1
        self.clock += sum(share * scale * update.steps for update, _, scale, _ in pending)

    def _record(
        self, update: Update, attempt: _Attempt, member: Member, staleness: float, scale: float
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

    def _answer(self, attempt: _Attempt, member: Member, staleness: float) -> Answer:
        round_size, efficiency = self._roster.next_round(attempt.learner)
        attempt.answer = Answer(
            accepted=True,
            state=self.state,
            offset=attempt.offset,
            version=self.version,
            foreign=self.version - member.solo,
            clock=self.clock,
            staleness=staleness,
            round_size=round_size,
            efficiency=efficiency,
            peers=self._roster.peers(attempt.learner, self._now()),
            reference=self._roster.reference(),
            last_epoch=self._last_epoch,
        )
        return attempt.answer

    def _refuse(self, attempt: _Attempt) -> Answer:
        return Answer(
            accepted=False, state=self.state, offset=attempt.offset, version=self.version, foreign=0,
            clock=self.clock, staleness=math.nan, round_size=self._batch_size, efficiency=1.0, peers=0.0,
            reference=0.0, last_epoch=self._last_epoch,
        )  # fmt: skip
