"""A simulated worker: its clock, its speed, its heartbeats."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skdist.control.windows import LatencyWindow
from skdist.fitting import FitSettings, build_learner
from skdist.messages import Answer, Link, Visit
from skdist.models.model import Trainer

if TYPE_CHECKING:
    from skdist.simulator.cluster import SimulatedCluster

#: Heartbeats that a worker sends at once at its start, and seconds between them, as on a cluster.
FIRST_HEARTBEATS, FIRST_HEARTBEATS_SECONDS = 5, 0.005


class TimedModel:
    """A model whose training takes virtual time on a slot."""

    def __init__(self, model: Any, slot: Slot) -> None:
        self._model, self._slot = model, slot
        self.batch_size, self.schedule, self.statistics = model.batch_size, model.schedule, model.statistics
        self.order, self.steps, self.new_noise = model.order, model.steps, model.new_noise

    def trainer(self, name: str) -> TimedTrainer:
        """Return what makes the steps of the slot's learner."""
        return TimedTrainer(self._model.trainer(name), self._slot)


class TimedTrainer:
    """A trainer that takes virtual time on a slot."""

    def __init__(self, trainer: Trainer, slot: Slot) -> None:
        self._trainer, self._slot = trainer, slot

    def train(self, *args: Any) -> float:
        """Train for real, and let the slot's clock tell what it would have taken."""
        loss = self._trainer.train(*args)
        start, stop = args[3], args[4]
        self._slot.now += (stop - start) * self._slot.seconds(self._slot.per_row)
        return float(loss)


class Slot:
    """A worker of one thread: its own clock, which runs ahead while it trains, and its heartbeats."""

    def __init__(self, cluster: SimulatedCluster, number: int, model: Any, settings: FitSettings) -> None:
        self.name = str(number)
        self.per_row = cluster.row_times[number]
        self.exchange = cluster.exchange_times[number]
        self.now = 0.0
        self.alive = False
        self.departure = cluster.departures[number](0.0)
        self.pending: deque[Visit] = deque()
        self.visit: Visit | None = None
        self.attempt = ""
        self.began = 0.0
        self.loop: Any = None
        self.posted = 0.0
        self.answer: Answer | None = None
        self.waiting = False
        self.model = TimedModel(model, self)
        self._jitter = cluster.jitter
        self._random = random.Random(f"{cluster.seed}/{number}")
        self._latency, self._interval = cluster.latency_times[number], cluster.heartbeat_seconds
        self._window = LatencyWindow(settings.window)
        self._beats, self._heard, self._last, self._next = 0, 0.0, 0.0, 0.0
        self._link = Link()
        self.learner = build_learner(settings, self.name, self.name, self.link, self.clock)

    def clock(self) -> float:
        """Return the slot's time, which runs ahead of the cluster's while it trains."""
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
