"""The parameter server: a plain class that an actor, a thread pool or a simulator can own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any

import numpy as np

from skdist.attempts import Attempt, Attempts
from skdist.backup import Backup
from skdist.compression import Change
from skdist.control.aggregation import InverseVolatility
from skdist.control.dispatch import EPOCH_LEAD
from skdist.control.gates import Gate
from skdist.control.latency import LatencyBatchSizer
from skdist.control.roster import Member, Roster
from skdist.control.schedules import Schedule
from skdist.control.staleness import RateGuard, StalenessWindow
from skdist.control.stopping import ConvergenceMonitor
from skdist.course import Course
from skdist.journal import Outcome
from skdist.messages import Answer, Join, Snapshot, Update
from skdist.parameters import Parameters
from skdist.progress import Progress, VisitProgress
from skdist.recipes import Pending
from skdist.shards import RecipeLog


class ParameterServer:
    """Holds the parameters, takes updates in, decides on rates, round sizes and the end.

    No method waits; each is safe to call from several threads. Arrays are replaced, never written to:
    what was handed out stays as it was.

    Parameters
    ----------
    state : ndarray of shape (n_members, ...)
        Initial parameters: ``state[0]`` is the iterate, others are averages or statistics.
    n_rows : int
        Rows of an epoch.
    schedule : Schedule
        For the decay of the step size.
    gate : Gate or None
        When updates are applied and answered; None is asynchronous.
    adapter : StalenessWindow or None
        Method A; None applies every update in full.
    sizer : LatencyBatchSizer or None
        Method B; None gives everybody ``round_size``.
    aggregator : InverseVolatility or None
        Weighs updates that are applied together; None weighs them equally.
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
    even : bool
        Whether automatic rounds of slow learners are shortened; not where shares of rows are fixed.
    exchange_rows : int
        Rows whose training touches as much memory as an exchange; automatic rounds are no shorter.
    collect : int
        Updates that are applied together and make one version, unless the gate decides it.
    momentum : float
        Of the server, at most; see ``skdist.recipes.Versions``.
    statistics : bool
        Whether the members of the state after the first are statistics; see ``skdist.parameters.Values``.
    sharded : bool
        Whether shards hold the parameters, of which the server then only knows the version; answers,
        snapshots and backups carry a ``skdist.shards.Mark`` instead.
    clock : float
        Steps made by earlier fits on the same state.
    time_source : callable
        Seconds of a steady clock.

    Notes
    -----
    The name and the roles are those of Li et al. (2014, OSDI, "Scaling Distributed Machine Learning with the
    Parameter Server"), momentum on means of rounds those of Douillard et al. (2023, arXiv:2311.08105).

    Examples
    --------
    >>> import numpy as np
    >>> from skdist.control.schedules import CONSTANT, Schedule
    >>> server = ParameterServer(np.zeros((1, 3)), n_rows=100, schedule=Schedule(CONSTANT, 0.1))
    >>> server.version
    0
    """

    def __init__(
        self,
        state: np.ndarray,
        *,
        n_rows: int,
        schedule: Schedule,
        gate: Gate | None = None,
        adapter: StalenessWindow | None = None,
        sizer: LatencyBatchSizer | None = None,
        aggregator: InverseVolatility | None = None,
        round_size: str | int = "auto",
        batch_size: int = 64,
        monitor: ConvergenceMonitor | None = None,
        max_iter: int = 1,
        n_learners: int = 1,
        even: bool = True,
        exchange_rows: int = 0,
        collect: int = 1,
        momentum: float = 0.0,
        statistics: bool = False,
        sharded: bool = False,
        clock: float = 0.0,
        time_source: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._parameters: Parameters | RecipeLog = Parameters(state, clock, aggregator, momentum, statistics)
        if sharded:
            self._parameters = RecipeLog(state, clock, aggregator, momentum)
        self._course = Course(monitor, max_iter, time_source)
        self._guard = RateGuard(adapter, schedule)
        self._gate = gate if gate is not None else Gate()
        self._batch_size = batch_size
        self._collect = collect
        self._now = time_source
        # A round of one step has no volatility.
        shortest = 2 * batch_size if aggregator is not None else batch_size
        self._roster = Roster(
            adapter, sizer, round_size, batch_size, shortest, n_rows, n_learners, even,
            exchange_rows,
        )  # fmt: skip
        self._attempts = Attempts()
        self._pending: list[Pending] = []
        self._lock = threading.Lock()

    @property
    def state(self) -> Any:
        """Present parameters, or where they are."""
        return self._parameters.handed(self._attempts, self._pending)

    @property
    def nbytes(self) -> int:
        """Bytes that an update takes to be applied here."""
        return self._parameters.nbytes

    @property
    def version(self) -> int:
        """How often they were replaced."""
        return self._parameters.version

    @property
    def clock(self) -> float:
        """Sequential steps made."""
        return self._parameters.clock

    def join(self, join: Join) -> Answer:
        """Register an execution of a visit, as ``join`` says; it takes over from any earlier one.

        Returns
        -------
        Answer
            ``offset`` says where to start; not accepted where the fit ends before this epoch.
        """
        with self._lock:
            now = self._now()
            authors = [item.learner for item in self._pending]
            member = self._roster.enlist(join.learner, join.worker, join.link, now, authors)
            number, epoch = join.visit.number, join.visit.epoch
            attempt = self._attempts.enlist(join.visit, join.learner)
            if self._course.over(epoch) or self._attempts.retired(number):
                return self._refuse(attempt.offset)
            if attempt.name == join.attempt and attempt.answer is not None:
                return attempt.answer
            if attempt.name:
                self._attempts.forget(attempt.learner)
                self._end(attempt)
            self._attempts.begin(attempt, join.attempt, join.learner)
            self._roster.start(join.learner)
            if self._course.reach(epoch):
                self._gate.expect(join.visit.company, now)
            if not self._gate.open:
                self._gate.enter(join.learner, now)
            answer = self._answer(attempt, member, now)
            released = self._advance(now)  # of those who waited for the execution before
        _deliver(released)
        return answer

    def push(self, update: Update) -> Answer | Future[Answer]:
        """Take an update in.

        An update is accepted once, from the newest execution of its visit, and only if it continues where
        the last one ended; a repeat of the last one is answered again and changes nothing.

        Returns
        -------
        Answer or Future
            The future of the answer where the learner has to wait for others. Whoever waits calls `expire`
            now and then: a learner that has died must not hold up the others for ever.

        Raises
        ------
        ValueError
            Where nobody joined the visit.
        """
        with self._lock:
            attempt = self._attempts.get(update.visit)
            if attempt is None:
                if self._attempts.retired(update.visit):  # and forgotten since
                    return self._refuse(0)
                raise ValueError(f"Visit {update.visit} was never joined.")
            if attempt.name != update.attempt or attempt.answer is None:
                return self._refuse(attempt.offset)
            if (update.start, update.stop) == attempt.last:
                return attempt.ticket or attempt.answer
            epoch = attempt.visit.epoch_at(update.start)
            # In a visit of several, one may begin before it is heard that the fit has ended.
            if update.start != attempt.offset or self._course.over(epoch):
                return self._refuse(attempt.offset)
            now, learner = self._now(), attempt.learner
            member = self._roster.heard(
                learner, update.link, update.seconds_per_row, update.seconds_exchange, now
            )
            staleness = float(max(self.version - member.solo - update.base, 0))
            # One of each learner makes a version: who is one behind has just missed the end of a round.
            late = max(staleness - 1, 0.0) if self._gate.collective else staleness
            base = attempt.answer.state
            end = update.state.on(base) if isinstance(update.state, Change) else update.state
            attempt.accept(update, late, now)
            reference, learners = self._roster.reference(), len(self._roster)
            scale = self._guard.scale(
                update.rate_scale, update.context, late, reference, self.clock, learners
            )
            begin = attempt.visit.segments[0]
            self._course.reach(epoch)  # in a visit of several
            self._attempts.reached(learner, epoch)
            order = begin.partition, begin.start, update.visit
            seconds, version = self._course.seconds(now), attempt.answer.version
            self._pending.append(
                Pending(update, end, base, scale, staleness, learner, order, seconds, epoch, version)
            )
            # The staleness of an update becomes part of the window only for the rounds after it.
            self._roster.met(learner, late)
            if not self._gate.collective and len(self._pending) >= self._collect:
                self._apply()
            if self._gate.open:
                return self._answer(attempt, member, now)
            self._gate.arrive(learner, now)
            self._attempts.hold(attempt)
            released = self._advance(now)
            reply: Answer | Future[Answer]
            if learner not in self._attempts.waiting:
                reply = attempt.answer
            elif update.last and not self._gate.strict:
                # Nothing is trained from the answer, so nobody need wait for it.
                self._attempts.release(learner)
                self._gate.leave(learner)
                reply = self._answer(attempt, member, now)
            else:
                reply = attempt.ticket = Future()
        _deliver(released)
        return reply

    def retire(self, visit: int) -> int:
        """Take a visit away from whoever runs it or will; return the rows acknowledged until now.

        For visits on workers that left: the rest of the rows goes into a new visit.
        """
        with self._lock:
            self._attempts.retire(visit)
            attempt = self._attempts.get(visit)
            if attempt is None or not attempt.started:
                self._gate.miss()
            elif attempt.name:
                self._attempts.forget(attempt.learner)
                self._end(attempt)
            released = self._advance(self._now())
        _deliver(released)
        return attempt.offset if attempt is not None else 0

    def leave(self, visit: int, attempt: str) -> None:
        """Note that the execution ``attempt`` of a visit has ended."""
        with self._lock:
            known = self._attempts.get(visit)
            if known is not None and known.name == attempt:
                self._end(known)
            released = self._advance(self._now())
        _deliver(released)

    @property
    def waits(self) -> bool:
        """Whether the gate holds an answer back."""
        return bool(self._attempts.waiting)

    def patience(self) -> float:
        """Return the seconds after which `expire` should be called if nothing happens."""
        return self._gate.patience(self._now())  # one number is read: nobody need be waited for

    def expire(self) -> None:
        """Let those who wait go on without learners that have not been heard of for too long."""
        with self._lock:
            now = self._now()
            for learner in self._gate.expire(now):
                self._attempts.forget(learner)
            released = self._advance(now)
        _deliver(released)

    def back_up(self, visits: Collection[int], newest: int, rounds: int) -> Backup:
        """Return what another server needs to go on from here.

        Parameters
        ----------
        visits : collection of int
            Those of which the driver wants to know the rows that are applied.
        newest : int
            The newest visit that it knows of: one that began since is part of the answer, too.
        rounds : int
            How many of the journal's rounds it has.
        """
        with self._lock:
            offsets = self._attempts.offsets(visits, newest)
            for item in self._pending:
                number, start = item.update.visit, item.update.start
                offsets[number] = min(offsets.get(number, start), start)
            self._attempts.settle(visits, newest)
            stage = self._parameters.stage(self._attempts, self._pending)
            return self._course.backup(stage, offsets, rounds)

    def go_on(self, backup: Backup) -> None:
        """Go on where another server stopped, as its ``backup`` says, with visits of new numbers."""
        assert backup.stage is not None
        with self._lock:
            self._parameters.go_on(backup.stage)
            self._course.go_on(backup)

    def finish(self) -> Outcome:
        """Apply what is pending and return the outcome."""
        with self._lock:
            if self._pending:
                self._apply()
            return self._course.outcome(self._parameters.stage(self._attempts, ()))

    def snapshot(self, epoch: int) -> Snapshot:
        """Return the present parameters, for an epoch that is complete; updates that wait stay waiting."""
        with self._lock:
            stage = self._parameters.stage(self._attempts, self._pending)
            return Snapshot(epoch, stage.state, stage.clock)

    def stop(self) -> int:
        """End the fit after the epochs that are under way; return the last one."""
        with self._lock:
            return self._course.stop()

    def abort(self) -> None:
        """Refuse all updates from now on."""
        with self._lock:
            self._course.abort()
            for attempt in self._attempts.under_way:
                self._end(attempt)

    def seconds(self) -> float:
        """Return the seconds since the server was made, the time of the history."""
        return self._course.seconds()

    def progress(self) -> Progress:
        """Return where training stands.

        A learner that has not ended its first round is never silent: nobody knows how long it takes.
        """
        with self._lock:
            now = self._now()
            at_work = self._attempts.under_way
            silent = (
                attempt.visit.number
                for attempt in at_work
                if attempt.learner not in self._attempts.waiting and self._roster.silent(attempt.learner, now)
            )
            return Progress(
                *self._course.journal.progress(),
                *self._course.journal.totals(),
                seconds=self._course.seconds(now),
                staleness=self._roster.staleness(),
                learners=self._roster.progress(),
                visits=tuple(
                    VisitProgress(
                        each.visit.number, each.learner, each.visit.epoch_at(each.offset), each.offset,
                        each.visit.rows,
                    )
                    for each in at_work
                ),
                silent=tuple(silent),
            )  # fmt: skip

    def _end(self, attempt: Attempt) -> None:
        """Take in that the present execution of a visit is over; who still waits for it is refused."""
        self._attempts.end(attempt)
        self._roster.end(attempt.learner)
        if not self._roster[attempt.learner].visits:
            self._gate.leave(attempt.learner)
        if attempt.ticket is not None:
            # Who waits for an answer has been taken in.
            attempt.ticket.set_result(self._refuse(attempt.offset)._replace(taken_in=True))
            attempt.ticket = None

    def _advance(self, now: float) -> list[tuple[Future[Answer], Answer]]:
        """End a round that is complete; return the answers that need not be held back any more."""
        if self._gate.open:
            return []
        if self._gate.collective:
            if not self._gate.close(now):
                return []
            if self._pending:
                self._apply()
        released = []
        for name in self._gate.released():
            attempt = self._attempts.release(name)
            if attempt.ends:  # that it has left may be heard of when others are in the next epoch already
                self._gate.leave(name)
            else:
                self._gate.proceed(name, now)
            answer = self._answer(attempt, self._roster[name], now, now - attempt.arrived)
            # Who has only just come has no ticket yet and takes its answer with it.
            if attempt.ticket is not None:
                released.append((attempt.ticket, answer))
                attempt.ticket = None
        return released

    def _apply(self) -> None:
        """Make the next version of the pending updates."""
        pending, self._pending = self._pending, []
        learners = self._collect
        if self._gate.collective:
            # Also where some are through with their rows: the rows of the others must not count more then.
            strict = self._gate.strict
            at_work = self._attempts.at_work(self._course.newest_epoch - (0 if strict else EPOCH_LEAD))
            if not strict:  # who visits several epochs may be farther behind
                at_work.update(attempt.learner for attempt in self._attempts.under_way)
            learners = len(at_work.union([item.learner for item in pending]))
            pending.sort(key=lambda item: item.order)
        weights = self._parameters.apply(pending, learners, len(pending) / learners)
        authors = {item.learner for item in pending}
        if len(authors) == 1:
            self._roster[authors.pop()].solo += 1
        for item, weight in zip(pending, weights, strict=True):
            worker = self._roster[item.learner].worker
            self._course.note(item, worker=worker, version=self.version, weight=weight)

    def _answer(self, attempt: Attempt, member: Member, now: float, held: float = 0.0) -> Answer:
        round_size, efficiency = self._roster.next_round(attempt.learner)
        # Not for the first one of several to come: the rounds of all must not depend on who that is.
        until_check, interval = self._course.looks if self._roster.expected == 1 else (math.inf, math.inf)
        parameters = self._parameters
        attempt.answer = Answer(
            accepted=True,
            state=self.state,
            offset=attempt.offset,
            version=parameters.version,
            foreign=parameters.version - member.solo,
            clock=parameters.clock,
            staleness=attempt.staleness,
            round_size=round_size,
            efficiency=efficiency,
            peers=self._peers(attempt.learner, now),
            reference=self._roster.reference(),
            last_epoch=self._course.last_epoch,
            until_check=until_check,
            check_interval=interval,
            least=self._roster.exchange_rows,
            rate=self._course.rate,
            level=self._guard.level,
            seconds_held=held,
            attempt=attempt.started,
        )
        return attempt.answer

    def _peers(self, learner: str, now: float) -> float:
        """Return the rate of the updates that come in between; see `skdist.control.staleness`."""
        if not self._gate.collective:
            return self._roster.peers(learner, now)
        return 0.0 if self._gate.strict else self._roster.mean_peer(learner, now)

    def _refuse(self, offset: int) -> Answer:
        return Answer(
            accepted=False, state=self.state, offset=offset, version=self.version, foreign=0,
            clock=self.clock, staleness=math.nan, round_size=self._batch_size, efficiency=1.0, peers=0.0,
            reference=0.0, last_epoch=self._course.last_epoch, taken_in=False,
        )  # fmt: skip


def _deliver(released: list[tuple[Future[Answer], Answer]]) -> None:
    """Resolve futures, outside the lock."""
    for ticket, answer in released:
        ticket.set_result(answer)
