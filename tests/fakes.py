"""Models, learners and exchanges whose behaviour a test knows in advance."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from skdist.control.schedules import CONSTANT, Schedule
from skdist.fitting import FitSettings
from skdist.learner import run_visit
from skdist.messages import Join, Link, Segment, Update, Visit
from skdist.models.noise import GradientNoise
from skdist.models.partition import convert
from skdist.preparation import build_model, summarize

CONSTANT_RATE = Schedule(CONSTANT, 0.1)


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@dataclass(frozen=True)
class FakePartition:
    """Rows ``first, first + 1, ...`` of the coordinates of a `RowModel`."""

    first: int
    n_rows: int


@dataclass
class RowModel:
    """Adds ``1 / batch_size`` to the coordinate of each row it trains on, and writes down its mini-batches.

    The gradient of a row is constant, so the state is the influence of each row.
    """

    batch_size: int
    schedule: Schedule = CONSTANT_RATE
    batches: list = field(default_factory=list)
    on_train: object = None
    loss_unit: float = 1.0
    exchange_rows: int = 0
    statistics: bool = False

    def order(self, partition, number, epoch):
        return np.random.default_rng([number, epoch]).permutation(partition.n_rows)

    def steps(self, rows):
        return -(-rows // self.batch_size)

    def new_noise(self):
        return GradientNoise((0, 0))

    def trainer(self, name):
        return self

    def train(self, state, partition, order, start, stop, t, noise=None, rate=1.0):
        if self.on_train is not None:
            self.on_train(stop - start)
        for first in range(start, stop, self.batch_size):
            rows = partition.first + order[first : min(first + self.batch_size, stop)]
            self.batches.append(tuple(int(row) for row in rows))
            state[rows] += 1 / self.batch_size
        return float(stop - start)


def fake_partitions(sizes):
    """Return partitions of the given sizes and the number of their rows."""
    firsts = [0, *itertools.accumulate(sizes)]
    return [FakePartition(a, n) for a, n in zip(firsts, sizes, strict=False)], sum(sizes)


FIT = {
    "adapter": None,
    "sizer": None,
    "aggregator": None,
    "mode": "async",
    "max_staleness": 2,
    "round_size": 16,
    "collect": 1,
    "momentum": "auto",
    "max_iter": 3,
    "tol": None,
    "n_iter_no_change": 5,
    "seed": 1,
    "shuffle": True,
}


def fit_settings(**kwargs):
    """Return settings of a fit of three epochs without any of the methods."""
    return FitSettings(**{**FIT, **kwargs})


def whole_visit(sizes, number=1, epoch=0, **kwargs):
    """Return the visit to all rows of partitions of these sizes; no limit, as kernels may be compiled."""
    segments = tuple(Segment(p, 0, n) for p, n in enumerate(sizes) if n)
    return Visit(number, epoch, segments, **{"budget_seconds": math.inf, **kwargs})


class FakeLearner:
    """Sends made-up updates of a visit, each from the state of its last answer."""

    def __init__(
        self, server, name="a", worker=None, visit=1, rows=10_000, epoch=0, link=None, first=0, company=1,
        epochs=1,
    ):  # fmt: skip
        self.server, self.name, self.visit = server, name, visit
        self.link = link if link is not None else Link()
        self.attempt, self.offset, self.first = f"{name}/{visit}", 0, first
        self.ticket, self.sent = None, None
        segments = tuple(Segment(0, 0, rows, ahead) for ahead in range(epochs))
        order = Visit(visit, epoch, segments, company=company)
        self.answer = server.join(Join(order, self.attempt, name, worker or name, self.link))

    def update(
        self,
        rows=8,
        steps=1,
        change=None,
        scale=1.0,
        seconds_per_row=0.0,
        loss=0.0,
        start=None,
        volatility=math.nan,
    ):
        """Return the next update; by default it adds 1/steps-independent ones to the rows it covers."""
        start = self.offset if start is None else start
        state = self.answer.state.copy()
        if change is None:
            state[self.first + start : self.first + start + rows] += steps / rows
        else:
            state += change
        return Update(
            visit=self.visit,
            attempt=self.attempt,
            start=start,
            stop=start + rows,
            steps=steps,
            state=state,
            base=self.answer.foreign,
            loss=loss,
            volatility=volatility,
            context=0.0,
            rate_scale=scale,
            round_size=rows,
            efficiency=1.0,
            seconds_compute=0.0,
            seconds_exchange=0.0,
            seconds_per_row=seconds_per_row,
            link=self.link,
        )

    def push(self, update=None, **kwargs):
        """Send an update and keep the answer, or its future, which is returned instead."""
        self.sent = update if update is not None else self.update(**kwargs)
        reply = self.server.push(self.sent)
        if isinstance(reply, Future):
            self.ticket = reply
            return reply
        return self._keep(reply)

    @property
    def waits(self):
        """Whether its answer is held back."""
        return self.ticket is not None and not self.ticket.done()

    def take(self):
        """Take the answer that was held back."""
        assert not self.waits
        ticket, self.ticket = self.ticket, None
        return self._keep(ticket.result())

    def _keep(self, answer):
        self.answer = answer
        if answer.accepted:
            self.offset = self.sent.stop
        return answer


def drive(server, visit, partitions, model, learner, attempt="first", delays=None, between=None):
    """Run a visit; answers come at once, or after as many polls as ``delays`` says.

    ``between`` is called with each update before it is pushed. Returns the offset and the updates.
    """
    answer = server.join(Join(visit, attempt, learner.name, learner.worker, learner.link()))
    overlap = delays is not None
    loop = run_visit(visit, partitions, model, learner, attempt, answer)
    updates, held, polls = [], None, 0
    try:
        request = next(loop)
        while True:
            reply = None
            if isinstance(request, Update):
                updates.append(request)
                if between is not None:
                    between(request)
                held, posted = server.push(request), learner.clock()
                polls = next(delays) if overlap else 0
                if not overlap:
                    reply, held = held, None
            elif request.must_wait or polls == 0:
                if held is not None:
                    learner.seconds_exchange = learner.clock() - posted
                reply, held = held, None
            else:
                polls -= 1
            request = loop.send(reply)
    except StopIteration as end:
        server.leave(visit.number, attempt)
        return end.value, updates


MODEL = {
    "loss": "log_loss",
    "epsilon": 0.1,
    "penalty": "l2",
    "alpha": 1e-3,
    "l1_ratio": 0.15,
    "class_weight": None,
    "fit_intercept": True,
    "batch_size": 8,
    "learning_rate": "constant",
    "eta0": 0.1,
    "power_t": 0.5,
    "average": False,
    "shuffle": True,
    "seed": 3,
}


def linear_model(X, y, sample_weight=None, *, regression=False, **params):
    """Return a model built for the rows, and the rows as a partition."""
    partition = convert(X, y, sample_weight, regression)
    summary = summarize(partition)
    return build_model(summary.moments, summary.targets, summary.dtype, **{**MODEL, **params}), partition


def rows_of(n_rows, n_features, n_classes=2, dtype=np.float64, seed=0):
    """Return made-up rows with their labels, not standardised."""
    rng = np.random.default_rng(seed)
    spread, shift = rng.uniform(0.5, 3, n_features), rng.normal(size=n_features)
    X = (rng.normal(size=(n_rows, n_features)) * spread + shift).astype(dtype)
    scores = (X - shift) @ rng.normal(size=(n_features, n_classes)) + rng.normal(size=(n_rows, n_classes))
    return X, scores.argmax(axis=1)
