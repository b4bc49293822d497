"""What driver, server and learners say to one another.

All messages are frozen: what is sent is not changed afterwards. The arrays inside are never written
to either, so that in one process a message can be passed without a copy. The long ones are named tuples:
these are made in a third of the time. Dask looks into tuples in the arguments of tasks, so orders are none.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``[start, stop)`` of a partition, in the partition's order of the epoch.

    ``ahead`` tells how many epochs after that of its visit.
    """

    partition: int
    start: int
    stop: int
    ahead: int = 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Visit:
    """An order to train on some rows that sit on one worker, in one epoch or in several that follow.

    Attributes
    ----------
    number : int
        Unique within a fit. Rows that are handed back or taken away go into a visit of a new number; a repeat
        by Dask keeps it.
    epoch : int
        The first one, counted from 0.
    segments : tuple of Segment
        What to visit, in this order, which is that of the epochs. Offsets of updates count rows along the
        segments.
    budget_seconds : float
        After this time the visit ends and hands its remaining rows back.
    company : int
        Visits that begin together with this one; where rounds end together, the first one waits for them.
    threads : int
        Visits of the fit that train at once on the worker; 0 if that is not planned.
    inner_threads : int
        BLAS or torch threads of each; 0 if that is not planned.
    rows : int
        Number of rows of all segments.
    """

    number: int
    epoch: int
    segments: tuple[Segment, ...]
    budget_seconds: float = 2.0
    company: int = 1
    threads: int = 0
    inner_threads: int = 0
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        rows = sum([segment.stop - segment.start for segment in self.segments])
        object.__setattr__(self, "rows", rows)

    @property
    def partitions(self) -> list[int]:
        """Numbers of the partitions of the segments, each once."""
        return list(dict.fromkeys([segment.partition for segment in self.segments]))

    def split(self, offset: int) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
        """Return the segments before and from row ``offset`` on."""
        if offset >= self.rows:
            return self.segments, ()
        done, left = [], []
        for segment in self.segments:
            cut = min(max(offset, 0), segment.rows) + segment.start
            if cut > segment.start:
                done.append(Segment(segment.partition, segment.start, cut, segment.ahead))
            if cut < segment.stop:
                left.append(Segment(segment.partition, cut, segment.stop, segment.ahead))
            offset -= segment.rows
        return tuple(done), tuple(left)

    def between(self, start: int, stop: int) -> tuple[Segment, ...]:
        """Return the segments of rows ``[start, stop)``."""
        return replace(self, segments=self.split(stop)[0]).split(start)[1]

    def epoch_at(self, offset: int) -> int:
        """Return the epoch of row ``offset``, behind the last row the one after the last."""
        for segment in self.segments:
            if offset < segment.rows:
                return self.epoch + segment.ahead
            offset -= segment.rows
        return self.epoch + self.segments[-1].ahead + 1


@dataclass(frozen=True, slots=True)
class Link:
    """What a worker knows of its link to the scheduler, from its heartbeats.

    Attributes
    ----------
    latencies : tuple of float
        Raw heartbeat round trips in seconds, oldest first; ``inf`` for a heartbeat that was missed.
    """

    latencies: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Median of the finite latencies in seconds; 0 where nothing is known."""
        if not self.latencies:
            return 0.0
        finite = [latency for latency in self.latencies if latency != math.inf]
        return statistics.median(finite) if finite else 0.0


@dataclass(frozen=True, slots=True)
class Join:
    """A learner starts a visit and asks for parameters.

    ``attempt`` is a name that no other execution of the visit has; the newest one that joined wins.
    """

    visit: Visit
    attempt: str
    learner: str
    worker: str
    link: Link = field(default_factory=Link)


class Update(NamedTuple):
    """Where a round ended and how it went.

    Attributes
    ----------
    visit : int
        Number of the visit.
    attempt : str
        The execution of the visit that sends this.
    start, stop : int
        The rows of the round, counted along the segments of the visit.
    steps : int
        Mini-batch steps.
    state : ndarray, skdist.compression.Change or None
        Parameters at the end of the round, or how they differ from those of the last answer; None where
        shards have them.
    base : int
        `Answer.foreign` of the answer that the round started from.
    loss : float
        Sum of the losses of the rows, each before its step.
    volatility : float
        Standard deviation of the gradients of the steps; nan where it is not wanted or there are too few.
    context, rate_scale : float
        The staleness context value and the factor that the learner adapted its rate with.
    round_size : int
        Size in rows that the round was given.
    efficiency : float
        The link efficiency that the size came from.
    seconds_compute, seconds_exchange : float
        Time spent training this round, and in the last exchange.
    seconds_per_row : float
        Smoothed training time.
    link : Link
        Heartbeat latencies of the worker.
    last : bool
        Whether the visit ends with it: nothing is trained from the answer.
    checks : tuple of (int, float)
        Rows of the round and the sum of their losses, cut where the loss is looked at; none stands for all in
        one.
    """

    visit: int
    attempt: str
    start: int
    stop: int
    steps: int
    state: Any
    base: int
    loss: float
    volatility: float
    context: float
    rate_scale: float
    round_size: int
    efficiency: float
    seconds_compute: float
    seconds_exchange: float
    seconds_per_row: float
    link: Link
    last: bool = False
    checks: tuple[tuple[int, float], ...] = ()


class Answer(NamedTuple):
    """What the server says to a join or an update.

    Attributes
    ----------
    accepted : bool
        False where a newer attempt has taken the visit over: stop.
    state : ndarray, Mark or None
        The server's parameters, or where they are in shards; where the last update of a visit came over a
        network, its answer has none.
    offset : int
        Rows of the visit that are acknowledged.
    version : int
        Updates applied so far (a batch of collected updates counts once).
    foreign : int
        Versions that somebody else than this learner had a part in; the difference between two
        answers is a staleness.
    clock : float
        Sequential steps that the parameters have made: each update counts its steps times its rate
        scale. What learning rate schedules and averaging call ``t``.
    staleness : float
        Of the update answered, as far as it counts for the rate; nan for a join.
    round_size : int
        Size of the learner's next round in rows.
    efficiency : float
        The link efficiency that the size came from.
    peers : float
        Sum of ``1 / T`` over the other learners that are at work, in rounds per second; the mean where
        the server takes an update of each together.
    reference : float
        The reference staleness R.
    last_epoch : int
        The fit ends with this epoch; later ones need not be started.
    until_check, check_interval : float
        Rows until the loss is looked at for the next time, and between two looks, of a single learner: so
        that it does not depend on the rounds when training ends. ``inf`` for several.
    least : float
        A round of a single learner ends with the next look or, where that is later, after so many rows: an
        exchange touches as much memory as training on them.
    rate : float
        Factor of the learning rate.
    level : float
        Mean rate scale of the updates of all learners, but for what the decay of the steps makes of it.
    seconds_held : float
        How long the answer was held back until others had come.
    taken_in : bool
        Whether the update counts: it may, although a newer attempt has taken the visit over since.
    attempt : int
        1 for the first execution of the visit, 2 for the second.
    """

    accepted: bool
    state: Any
    offset: int
    version: int
    foreign: int
    clock: float
    staleness: float
    round_size: int
    efficiency: float
    peers: float
    reference: float
    last_epoch: int
    until_check: float = math.inf
    check_interval: float = math.inf
    least: float = 0.0
    rate: float = 1.0
    level: float = 1.0
    seconds_held: float = 0.0
    taken_in: bool = True
    attempt: int = 1


class Snapshot(NamedTuple):
    """The parameters when an epoch was complete: all its visits had ended.

    Attributes
    ----------
    epoch : int
        Counted from 0.
    state : ndarray or Mark
        The server's parameters, or where they are in shards.
    clock : float
        Sequential steps behind them.
    """

    epoch: int
    state: Any
    clock: float


class VisitReport(NamedTuple):
    """How a visit ended.

    Attributes
    ----------
    visit : Visit
        The order.
    worker : str
        Address of the worker.
    offset : int
        Rows that are done; the rest is handed back.
    attempt : int
        1 for the first execution.
    started, seconds : float
        Unix time of the start, and duration.
    last_epoch : int
        As in `Answer`.
    seconds_waited : float
        Part of the duration in which the learner had nothing to do but to wait for others.
    seconds_free : float
        Before the visit: how long its slot on the worker had stood free; not part of the duration.
    rounds : int
        Rounds trained.
    seconds_compute : float
        Time spent training them.
    seconds_span : float
        From the start of the first one to the end of the last one.
    server_lost : bool
        Whether it ended because the server did not answer any more: ``offset`` is then what the learner knows
        of.
    """

    visit: Visit
    worker: str
    offset: int
    attempt: int
    started: float
    seconds: float
    last_epoch: int
    seconds_waited: float = 0.0
    seconds_free: float = 0.0
    rounds: int = 0
    seconds_compute: float = 0.0
    seconds_span: float = 0.0
    server_lost: bool = False
