"""The visit loop: pull, train a round, push, until the rows are through."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skdist.compression import Change, Feedback
from skdist.control.staleness import StalenessWindow, predicted_context
from skdist.control.windows import SlidingWindow, smoothed
from skdist.messages import Answer, Link, Update, Visit
from skdist.models.arithmetic import add_difference, mean_of
from skdist.models.model import LoopModel, Trainer
from skdist.models.spares import Spares
from skdist.rows import Rows

#: While an answer is under way, a round is trained in at most this many slices, after each of which it may
#: be merged.
SLICES = 4

#: The first slice ends when the answer should be there: after so many times the last exchange.
ANSWER_MARGIN = 1.1


@dataclass(frozen=True)
class Listen:
    """Yielded by the visit loop to ask for the answer to its last update.

    Attributes
    ----------
    must_wait : bool
        Whether the loop needs the answer to go on; otherwise None is a reply too.
    """

    must_wait: bool


POLL, AWAIT = Listen(must_wait=False), Listen(must_wait=True)

VisitLoop = Generator[Update | Listen, Answer | None, int]


@dataclass
class Learner:
    """The state of one training slot on a worker; it outlives visits.

    Attributes
    ----------
    name : str
        Unique within a fit.
    worker : str
        Where the slot is.
    adapter : StalenessWindow or None
        Settings of the rate adapter.
    collect : int
        Updates that the server makes one version of.
    gathers : bool
        Whether the server makes a version of an update of each learner.
    overlap : bool
        Whether it trains on while an update is under way.
    volatility : bool
        Whether it measures the volatility of its gradients.
    feedback : Feedback or None
        Compresses its updates.
    link : callable
        Returns the latest `Link` of the worker.
    clock : callable
        Seconds of a steady clock; the simulated cluster gives its own.
    staleness : SlidingWindow
        Of its past updates.
    seconds_per_row : float
        Training time, smoothed.
    seconds_exchange : float
        Duration of the last exchange, set by whoever runs the visit loop; 0 where the server is a function
        call away.
    seconds_waited : float
        Time in the present visit that it could only wait for others.
    rounds : int
        Rounds trained in the present visit.
    seconds_compute : float
        Time spent training them.
    seconds_span : float
        From the start of the first one to the end of the last one.
    trainer : Trainer or None
        Makes its steps; the model gives it one for its first visit.
    server : int
        Incarnation of the server that it trains with.
    spares : Spares
        For the states that it copies.
    """

    name: str
    worker: str = ""
    adapter: StalenessWindow | None = None
    collect: int = 1
    gathers: bool = False
    overlap: bool = True
    volatility: bool = False
    feedback: Feedback | None = None
    link: Callable[[], Link] = Link
    clock: Callable[[], float] = time.perf_counter
    staleness: SlidingWindow = field(init=False)
    seconds_per_row: float = 0.0
    seconds_exchange: float = 0.0
    seconds_waited: float = 0.0
    rounds: int = 0
    seconds_compute: float = 0.0
    seconds_span: float = 0.0
    trainer: Trainer | None = None
    server: int = 0
    spares: Spares = field(default_factory=Spares)

    def __post_init__(self) -> None:
        self.staleness = SlidingWindow(self.adapter.window if self.adapter else 1)

    def begin(self, server: int | None = None) -> None:
        """Forget what belongs to the last visit; where it is known, also what belongs to another server."""
        if server not in (None, self.server):
            self.server = server
            if self.feedback is not None:
                self.feedback.forget()  # updates that were taken in may come again
        self.seconds_waited, self.rounds, self.seconds_compute, self.seconds_span = 0.0, 0, 0.0, 0.0

    def trained(self, rows: int, seconds: float) -> None:
        """Take in how long a slice took."""
        if rows:
            self.seconds_per_row = smoothed(self.seconds_per_row, seconds / rows)

    def rows_in(self, seconds: float, most: int) -> int:
        """Return the rows that it trains on in some seconds, at most ``most``."""
        if self.seconds_per_row <= 0:
            return most
        return int(min(max(seconds, 0.0) / self.seconds_per_row, most))

    def rate_scale(self, rows: int, answer: Answer, decay: float) -> tuple[float, float]:
        """Return the staleness context and the rate scale of a round of ``rows`` rows.

        Method A computes both before the update is sent; the staleness that this update will meet is not
        part of them. ``decay`` is ``eta_0 / eta_t``.
        """
        if self.adapter is None:
            return 0.0, 1.0
        # Renewed with every heartbeat: a link that degrades lowers the rate before late updates arrive.
        seconds = rows * self.seconds_per_row + 2 * self.link().median
        predicted = predicted_context(seconds, answer.peers, self.collect, self.gathers)
        context = self.adapter.context(self.staleness.sample(self.adapter.stride), predicted)
        # A schedule may rise above its first step size.
        return context, self.adapter.rate_scale(context, answer.reference, max(decay, 1.0), answer.level)


def run_visit(
    visit: Visit,
    partitions: Mapping[int, Any],
    model: LoopModel,
    learner: Learner,
    attempt: str,
    answer: Answer,
    draft: Callable[[np.ndarray], np.ndarray | None] | None = None,
) -> VisitLoop:
    """Train on the rows of a visit, round by round.

    A generator: it yields each `Update`, and whoever runs it sends the answer back: at once or, so that the
    exchange overlaps with training, at one of the `POLL` requests that follow; at an `AWAIT` it must be
    there. So the same loop runs in a thread, in a Dask task and under a virtual clock.

    Parameters
    ----------
    visit : Visit
        The order.
    partitions : mapping of int to Partition
        The partitions of its segments.
    model : LoopModel
        What is trained.
    learner : Learner
        The slot that runs the visit.
    attempt : str
        Name of this execution.
    answer : Answer
        To the join.
    draft : callable, optional
        Copies a state to where it will be sent from, or returns None.

    Returns
    -------
    int
        The rows of the visit that are trained and acknowledged.
    """
    began, first = learner.clock(), answer.offset
    learner.begin()
    state = learner.spares.copy(answer.state)
    if learner.feedback is not None:
        learner.feedback.restore(state)
    if learner.trainer is None:
        learner.trainer = model.trainer(learner.name)
    moved = 1 if model.statistics else len(state)
    rows = Rows(visit, partitions, model, learner.trainer, answer.offset)
    sent: np.ndarray | None = None  # posted and not answered yet
    ahead = 0  # steps made since
    posted = began
    entered = math.inf
    t = answer.clock
    look = answer.offset + answer.until_check

    def merge(reply: Answer) -> None:
        nonlocal answer, sent, t
        if learner.feedback is not None and reply.taken_in:
            learner.feedback.taken_in()
        if reply.accepted:
            learner.staleness.append(reply.staleness)
        if reply.accepted and reply.state is not None:
            if not ahead and learner.feedback is None:
                if reply.state is not sent:  # of a learner alone, what it sent is what it has
                    state[...] = reply.state
            else:
                # What was trained since the update was sent stays on top, and what it left out.
                assert sent is not None
                add_difference(state[:moved], state[:moved], reply.state[:moved], sent[:moved])
                share = 0.5 if ahead else 1.0
                state[moved:] = mean_of(state[moved:], [reply.state[moved:]], [share])
            t = reply.clock + ahead
        answer, sent = reply, None

    while answer.accepted and not rows.over(answer.last_epoch):
        left = visit.budget_seconds - (learner.clock() - began - learner.seconds_waited)
        if left <= 0 and rows.offset > first:
            break
        size, efficiency = answer.round_size, answer.efficiency
        # The last round before the time is over is short, if a row takes about as long as before.
        most = size if left == math.inf else learner.rows_in(left, size)
        start = rows.offset
        goal = start + int(min(rows.plan(most), rows.up_to(max(look - start, answer.least))))
        checks: list[tuple[int, float]] = []
        checked, checked_loss = start, 0.0
        noise = model.new_noise() if learner.volatility else None
        loss, steps, seconds = 0.0, 0, 0.0
        while rows.offset < goal:
            piece = int(min(goal - rows.offset, rows.up_to(look - rows.offset)))
            if sent is not None:
                slice_rows = -(-(goal - start) // SLICES)
                expected = posted + ANSWER_MARGIN * learner.seconds_exchange - learner.clock()
                piece = rows.plan(min(piece, max(slice_rows, learner.rows_in(expected, piece))))
            before = learner.clock()
            part, made = rows.train(state, piece, t, noise, answer.rate)
            spent = learner.clock() - before
            learner.trained(piece, spent)
            entered = min(entered, before)
            learner.seconds_span = before + spent - entered
            loss, steps, seconds = loss + part, steps + made, seconds + spent
            if rows.offset >= min(look, goal):
                checks.append((rows.offset - checked, loss - checked_loss))
                checked, checked_loss = rows.offset, loss
            if rows.offset >= look:
                look = rows.offset + answer.check_interval
            t, ahead = t + made, ahead + made
            if sent is not None:
                reply = yield POLL
                if reply is not None:
                    merge(reply)
                    # It may have ended the fit before the epoch of this round.
                    if not answer.accepted or visit.epoch_at(start) > answer.last_epoch:
                        return answer.offset
        learner.rounds, learner.seconds_compute = learner.rounds + 1, learner.seconds_compute + seconds
        if sent is not None:
            reply = yield from _awaited(learner)
            merge(reply)
            if not answer.accepted:
                break
        decay = model.schedule.decay(t) / answer.rate
        context, scale = learner.rate_scale(goal - start, answer, decay)
        late = learner.clock() - began - learner.seconds_waited >= visit.budget_seconds
        last = late or rows.over(answer.last_epoch)
        change: Change | None = None
        if learner.feedback is not None and not (last and visit.epoch_at(start) >= answer.last_epoch):
            change, sent = learner.feedback.compressed(state, answer.state)
        else:
            if learner.feedback is not None:
                learner.feedback.whole()  # perhaps the last update of this learner
            sent = draft(state) if draft is not None else None
            sent = learner.spares.copy(state) if sent is None else sent
        ahead, posted = 0, learner.clock()
        reply = yield Update(
            visit=visit.number,
            attempt=attempt,
            start=start,
            stop=goal,
            steps=steps,
            state=sent if change is None else change,
            base=answer.foreign,
            loss=loss,
            volatility=noise.volatility if noise is not None else math.nan,
            context=context,
            rate_scale=scale,
            round_size=size,
            efficiency=efficiency,
            seconds_compute=seconds,
            seconds_exchange=learner.seconds_exchange,
            seconds_per_row=learner.seconds_per_row,
            link=learner.link(),
            last=last,
            checks=tuple(checks),
        )
        if reply is None and not learner.overlap:
            reply = yield from _awaited(learner)
        if reply is not None:
            merge(reply)
    if sent is not None:
        merge((yield from _awaited(learner)))
    return answer.offset


def _awaited(learner: Learner) -> Generator[Listen, Answer | None, Answer]:
    """Wait for an answer, and note for how long."""
    before = learner.clock()
    reply = yield AWAIT
    assert reply is not None
    # Its own exchange is no waiting for others: a slow link is part of a learner's speed.
    learner.seconds_waited += min(learner.clock() - before, reply.seconds_held)
    return reply
