"""Training under a virtual clock: the same server, gates, dispatch and visit loop, and nobody waits.

Learners compute for real, one after the other, and what they and their links would have taken is added up.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar, Token
from typing import Any

import numpy as np

from skdist.control.gates import FIRST_LEASE_SECONDS
from skdist.control.windows import LatencyWindow
from skdist.exceptions import NoWorkersError
from skdist.fitting import (
    FitResult,
    FitSettings,
    build_dispatcher,
    build_learner,
    build_server,
    conclude,
    lost_records,
    take_in,
)
from skdist.history import History
from skdist.learner import run_visit
from skdist.messages import Answer, Join, Link, Update, Visit, VisitReport
from skdist.models.partition import Partition

Seconds = float | Callable[[float], float]

#: Heartbeats that a worker sends at once at its start, and seconds between them, as on a cluster.
FIRST_HEARTBEATS, FIRST_HEARTBEATS_SECONDS = 5, 0.005

_active: ContextVar[SimulatedCluster | None] = ContextVar("skdist_simulated_cluster", default=None)


class SimulatedCluster:
    """A cluster with given speeds and links, under a virtual clock.

    A context manager: inside it `fit` with rows in memory trains here. The rows are dealt out in order,
    learner 0 holds the first ones. Every learner is a worker of one thread. All times are virtual seconds,
    also in ``history_``; the computation is real, but nobody waits for anything. The same seed gives the
    same run to the bit.

    Parameters
    ----------
    n_learners : int
        From 1 on.
    seconds_per_row : float, callable, or sequence of them
        Training time of a row: for all learners or one for each; a callable gets the virtual time.
    exchange_seconds : float, callable, or sequence of them, default=0.0
        Round trip of an update to the server and its answer.
    latency_seconds : float, callable, or sequence of them, optional
        Round trip of a heartbeat; that of an exchange if None.
    jitter : float, default=0.05
        Standard deviation of the logarithm of a random factor of every duration.
    arrival_seconds, departure_seconds : float or sequence of float
        When learners join the cluster and when they die, default 0 and never. What one has begun when it
        dies is repeated by others from the rows that the server has acknowledged.
    notice_seconds : float, optional
        Time until a death is noticed; two heartbeats if None.
    heartbeat_seconds : float, optional
        Time between heartbeats; 0.5, or four times the longest latency at the start if that is more.
    partitions_per_learner : int, default=1
        Partitions that a learner holds.
    snapshot_seconds : float, optional
        Keeps the coefficients about every so many seconds; None keeps none.
    seed : int, default=0
        Of the jitter.

    Attributes
    ----------
    now : float
        Virtual seconds since the start of the last fit.
    snapshots : list of tuple
        Seconds, ``coef`` and ``intercept`` of the last fit, as they were then.

    Examples
    --------
    >>> import numpy as np
    >>> from skdist import DistributedSGDClassifier
    >>> from skdist.testing import SimulatedCluster
    >>> X = np.random.default_rng(0).normal(size=(4000, 5))
    >>> y = X[:, 0] > 0
    >>> with SimulatedCluster(8, seconds_per_row=[1e-6] * 7 + [2e-5], exchange_seconds=1e-3):
    ...     clf = DistributedSGDClassifier(max_iter=2, tol=None, random_state=0).fit(X, y)
    >>> len({record.learner for record in clf.history_.rounds})
    8
    """

    def __init__(
        self,
        n_learners: int,
        seconds_per_row: Seconds | Sequence[Seconds] = 1e-6,
        exchange_seconds: Seconds | Sequence[Seconds] = 0.0,
        latency_seconds: Seconds | Sequence[Seconds] | None = None,
        *,
        jitter: float = 0.05,
        arrival_seconds: float | Sequence[float] = 0.0,
        departure_seconds: float | Sequence[float] = math.inf,
        notice_seconds: float | None = None,
        heartbeat_seconds: float | None = None,
        partitions_per_learner: int = 1,
        snapshot_seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        if n_learners < 1 or partitions_per_learner < 1:
            raise ValueError(
                f"A cluster needs a learner and each a partition, got n_learners={n_learners}, "
                f"partitions_per_learner={partitions_per_learner}."
            )
        if jitter < 0:
            raise ValueError(f"jitter must not be negative, got {jitter}.")
        self.n_learners, self.partitions_per_learner = n_learners, partitions_per_learner
        self.jitter, self.seed = jitter, seed
        self._rows = _per_learner("seconds_per_row", seconds_per_row, n_learners)
        self._exchange = _per_learner("exchange_seconds", exchange_seconds, n_learners)
        self._latency = (
            self._exchange
            if latency_seconds is None
            else _per_learner("latency_seconds", latency_seconds, n_learners)
        )
        self._arrival = _per_learner("arrival_seconds", arrival_seconds, n_learners)
        self._departure = _per_learner("departure_seconds", departure_seconds, n_learners)
        longest = max(latency(0.0) for latency in self._latency)
        self.heartbeat_seconds = heartbeat_seconds or max(0.5, 4 * longest)
        self.notice_seconds = 2 * self.heartbeat_seconds if notice_seconds is None else notice_seconds
        self.snapshot_seconds = snapshot_seconds
        self.now = 0.0
        self.snapshots: list[tuple[float, np.ndarray, np.ndarray]] = []
        self._tokens: list[Token[SimulatedCluster | None]] = []

    def __enter__(self) -> SimulatedCluster:
        self._tokens.append(_active.set(self))
        return self

    def __exit__(self, *exc_info: object) -> None:
        _active.reset(self._tokens.pop())

    def train(
        self,
        model: Any,
        partitions: Sequence[Partition],
        state: np.ndarray,
        clock: float,
        settings: FitSettings,
    ) -> FitResult:
        """Train on partitions in memory; `skdist.inline.train_inline` under the virtual clock."""
        return _Run(self, model, partitions, settings, state, clock).result()


def active_cluster() -> SimulatedCluster | None:
    """Return the simulated cluster whose context this is, if any."""
    return _active.get()


def _per_learner(name: str, value: Any, count: int) -> list[Callable[[float], float]]:
    """Return a function of time for each learner."""
    values = list(value) if isinstance(value, (Sequence, np.ndarray)) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} values for {count} learners.")
    return [_function(name, item) for item in values]


def _function(name: str, value: Any) -> Callable[[float], float]:
    if callable(value):
        return value  # type: ignore[no-any-return]
    seconds = float(value)
    if not seconds >= 0:
        raise ValueError(f"{name} must not be negative, got {value!r}.")
    return lambda _: seconds


class _TimedModel:
    """A model whose training takes virtual time on a slot."""

    def __init__(self, model: Any, slot: _Slot) -> None:
        self._model, self._slot = model, slot
        self.batch_size, self.schedule = model.batch_size, model.schedule
        self.order, self.steps, self.new_noise = model.order, model.steps, model.new_noise

    def train(self, *args: Any) -> float:
        loss = self._model.train(*args)
        start, stop = args[3], args[4]
        self._slot.now += (stop - start) * self._slot.seconds(self._slot.per_row)
        return float(loss)


class _Slot:
    """A worker of one thread: its own clock, which runs ahead while it trains, and its heartbeats."""

    def __init__(self, cluster: SimulatedCluster, number: int, model: Any, settings: FitSettings) -> None:
        self.name = str(number)
        self.per_row = cluster._rows[number]
        self.exchange = cluster._exchange[number]
        self.now = 0.0
        self.alive = False
        self.departure = cluster._departure[number](0.0)
        self.pending: deque[Visit] = deque()
        self.visit: Visit | None = None
        self.attempt = ""
        self.began = 0.0
        self.loop: Any = None
        self.posted = 0.0
        self.answer: Answer | None = None
        self.waiting = False
        self.model = _TimedModel(model, self)
        self._jitter = cluster.jitter
        self._random = random.Random(f"{cluster.seed}/{number}")
        self._latency, self._interval = cluster._latency[number], cluster.heartbeat_seconds
        self._window = LatencyWindow(settings.window)
        self._beats, self._heard, self._last, self._next = 0, 0.0, 0.0, 0.0
        self._link = Link()
        self.learner = build_learner(settings, self.name, self.name, self.link, self.clock)

    def clock(self) -> float:
        return self.now

    def seconds(self, duration: Callable[[float], float]) -> float:
        """Draw a duration as of now."""
        if not self._jitter:
            return duration(self.now)
        return duration(self.now) * self._random.lognormvariate(-0.5 * self._jitter**2, self._jitter)

    def link(self) -> Link:
        """Return what the heartbeats until now say."""
        fresh = False
        while self._next <= self.now:
            if self._beats:
                self._window.observe(self._heard, self._next, self._interval)
                self._last, fresh = self._next, True
            quick = self._beats < FIRST_HEARTBEATS
            self._beats += 1
            self._heard = self.seconds(self._latency)
            self._next += max(FIRST_HEARTBEATS_SECONDS if quick else self._interval, self._heard)
        if fresh or self.now - self._last > self._interval:
            self._link = Link(self._window.until(self.now, self._interval))
        return self._link


class _Run:
    """One fit: the events of its learners in the order of their times."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        model: Any,
        partitions: Sequence[Partition],
        settings: FitSettings,
        state: np.ndarray,
        clock: float,
    ) -> None:
        self.cluster, self.model, self.partitions = cluster, model, partitions
        cluster.now, cluster.snapshots = 0.0, []
        rows = [partition.n_rows for partition in partitions]
        count = cluster.n_learners
        present = max(sum(arrival(0.0) <= 0 for arrival in cluster._arrival), 1)
        longest = sum(rows) / count * max(per_row(0.0) for per_row in cluster._rows)
        self.server = build_server(
            model, settings, state, sum(rows), present, clock, self._now, FIRST_LEASE_SECONDS + 2 * longest
        )
        self.dispatcher = build_dispatcher(
            settings,
            model,
            rows,
            {number: str(number * count // len(rows)) for number in range(len(rows))},
            {str(number): 1 for number in range(present)},
            seconds_per_row=min(per_row(0.0) for per_row in cluster._rows) or 1e-9,
            # A visit costs an exchange or two.
            least_seconds=2 * max(min(exchange(0.0) for exchange in cluster._exchange), 1e-6),
        )
        self.slots = {str(number): _Slot(cluster, number, model, settings) for number in range(count)}
        self.history = History()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._look = math.inf
        for slot, arrival in zip(self.slots.values(), cluster._arrival, strict=True):
            if slot.departure > arrival(0.0):
                self._at(arrival(0.0), self._arrive, slot)
                if slot.departure < math.inf:
                    self._at(slot.departure, self._depart, slot)

    def result(self) -> FitResult:
        """Run to the end."""
        events = self._events
        while not self.dispatcher.done:
            if not events:
                raise NoWorkersError("All simulated learners have died before the end of the fit.")
            time, _, event, args = heapq.heappop(events)
            if self.cluster.snapshot_seconds is not None:
                self._keep(time)
            self.cluster.now = time
            event(*args)
        if self.cluster.snapshot_seconds is not None:
            self._keep(self.cluster.now)
        return conclude(self.server.finish(), self.history, self.dispatcher.last_epoch + 1)

    def _keep(self, time: float) -> None:
        """Keep the coefficients as they are until ``time``, if a snapshot is due before."""
        kept, interval = self.cluster.snapshots, self.cluster.snapshot_seconds
        assert interval is not None
        if time >= (len(kept) + 1) * interval:
            kept.append((self.cluster.now, *self.model.coefficients(self.server.state)))

    def _now(self) -> float:
        return self.cluster.now

    def _at(self, time: float, event: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, event, args))

    def _arrive(self, slot: _Slot) -> None:
        slot.alive, slot.now = True, self.cluster.now
        self.dispatcher.add_worker(slot.name, 1)
        # Later, but at the same time: who comes together gets its orders together.
        self._at(self.cluster.now, self._dispatch)

    def _dispatch(self) -> None:
        for name, order in self.dispatcher.orders():
            slot = self.slots[name]
            slot.pending.append(order)
            if slot.visit is None:
                self._begin(slot)

    def _begin(self, slot: _Slot) -> None:
        if not slot.pending or not slot.alive:
            return
        order = slot.visit = slot.pending.popleft()
        slot.now = slot.began = self.cluster.now
        slot.attempt = f"{slot.name}/{order.number}"
        half = 0.5 * slot.seconds(slot.exchange)
        self._at(slot.now + half, self._join, slot, order, half)

    def _join(self, slot: _Slot, order: Visit, half: float) -> None:
        answer = self.server.join(Join(order, slot.attempt, slot.name, slot.name, slot.link()))
        self._at(self.cluster.now + half, self._joined, slot, order, answer)

    def _joined(self, slot: _Slot, order: Visit, answer: Answer) -> None:
        if not slot.alive:
            return
        slot.now, slot.answer, slot.waiting = self.cluster.now, None, False
        if answer.accepted:
            chosen = {segment.partition: self.partitions[segment.partition] for segment in order.segments}
            slot.loop = run_visit(order, chosen, slot.model, slot.learner, slot.attempt, answer)
            self._step(slot, None)
        else:
            self._end(slot, answer.offset, answer.last_epoch)

    def _step(self, slot: _Slot, reply: Answer | None) -> None:
        """Run a learner until it has to be told something that is not known yet."""
        last_epoch = reply.last_epoch if reply is not None else self.dispatcher.last_epoch
        try:
            request = slot.loop.send(reply)
            while isinstance(request, Update):
                slot.posted = slot.now
                half = 0.5 * slot.seconds(slot.exchange)
                self._at(slot.now + half, self._push, slot, request, half)
                request = slot.loop.send(None)
        except StopIteration as end:
            self._at(slot.now, self._end, slot, end.value, last_epoch)
            return
        self._at(slot.now, self._listen, slot, request.must_wait)

    def _push(self, slot: _Slot, update: Update, half: float) -> None:
        if slot.posted > slot.departure:
            return
        reply = self.server.push(update)
        if isinstance(reply, Future):
            reply.add_done_callback(
                lambda future: self._at(self.cluster.now + half, self._answered, slot, future.result())
            )
            self._look_again()
        else:
            self._at(self.cluster.now + half, self._answered, slot, reply)

    def _answered(self, slot: _Slot, answer: Answer) -> None:
        slot.answer = answer
        slot.learner.seconds_exchange = self.cluster.now - slot.posted - answer.seconds_held
        if slot.waiting:
            self._listen(slot, True)

    def _listen(self, slot: _Slot, must_wait: bool) -> None:
        if not slot.alive:
            return
        slot.now = max(slot.now, self.cluster.now)
        reply, slot.answer = slot.answer, None
        slot.waiting = must_wait and reply is None
        if not slot.waiting:
            self._step(slot, reply)

    def _end(self, slot: _Slot, offset: int, last_epoch: int) -> None:
        if not slot.alive:
            return
        order = slot.visit
        assert order is not None
        attempt = self.server.leave(order.number, slot.attempt)
        seconds = self.cluster.now - slot.began
        report = VisitReport(
            order, slot.name, offset, attempt, slot.began, seconds, last_epoch, slot.learner.seconds_waited,
            rounds=slot.learner.rounds, seconds_compute=slot.learner.seconds_compute,
        )  # fmt: skip
        slot.visit = None
        take_in(self.history, self.dispatcher, report, self.cluster.now)
        self._begin(slot)
        self._dispatch()

    def _look_again(self) -> None:
        """Ask the server again when it may release somebody although nothing happens."""
        time = self.cluster.now + self.server.patience()
        if self.server.waits and time < self._look:
            self._look = time
            self._at(time, self._expire)

    def _expire(self) -> None:
        self._look = math.inf
        self.server.expire()
        self._look_again()

    def _depart(self, slot: _Slot) -> None:
        slot.alive = False
        self._at(self.cluster.now + self.cluster.notice_seconds, self._notice, slot)

    def _notice(self, slot: _Slot) -> None:
        self.dispatcher.remove_worker(slot.name)
        for number in [n for n, (_, name) in self.dispatcher.in_flight.items() if name == slot.name]:
            offset = self.server.retire(number)
            visit = self.dispatcher.lost(number, offset)
            self.history.visits.extend(lost_records(visit, slot.name, offset))
        self._dispatch()
