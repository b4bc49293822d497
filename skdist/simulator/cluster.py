"""A cluster of given speeds and links."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from numbers import Integral
from typing import Any

import numpy as np

from skdist.fitting import FitResult, FitSettings
from skdist.models.partition import Partition
from skdist.observers import Observers
from skdist.simulator.run import Run

Seconds = float | Callable[[float], float]

_active: ContextVar[SimulatedCluster | None] = ContextVar("skdist_simulated_cluster", default=None)


class SimulatedCluster:
    """A cluster with given speeds and links, under a virtual clock.

    A context manager: inside it, in the same thread, ``fit`` with rows in memory trains here. The rows are
    dealt out in order, learner 0 holds the first ones. Every learner is a worker of one thread. All times are
    virtual seconds, also in ``history_``; the computation is real, but nobody waits for anything. The same
    seed gives the same run to the bit.

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

    Raises
    ------
    ValueError
        For numbers out of range, and sequences that are not as long as there are learners.

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
        for name, count in {
            "n_learners": n_learners,
            "partitions_per_learner": partitions_per_learner,
        }.items():
            if not isinstance(count, Integral) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}.")
        for name, value in {"jitter": jitter, "notice_seconds": notice_seconds}.items():
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value!r}.")
        for name, value in {"heartbeat": heartbeat_seconds, "snapshot": snapshot_seconds}.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}_seconds must be positive, got {value!r}.")
        self.n_learners, self.partitions_per_learner = n_learners, partitions_per_learner
        self.jitter, self.seed = jitter, seed
        self.row_times = _per_learner("seconds_per_row", seconds_per_row, n_learners)
        self.exchange_times = _per_learner("exchange_seconds", exchange_seconds, n_learners)
        self.latency_times = (
            self.exchange_times
            if latency_seconds is None
            else _per_learner("latency_seconds", latency_seconds, n_learners)
        )
        self.arrivals = _per_learner("arrival_seconds", arrival_seconds, n_learners)
        self.departures = _per_learner("departure_seconds", departure_seconds, n_learners)
        longest = max(latency(0.0) for latency in self.latency_times)
        self.heartbeat_seconds = max(0.5, 4 * longest) if heartbeat_seconds is None else heartbeat_seconds
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
        observers: Observers | None = None,
    ) -> FitResult:
        """Train a model on partitions in memory under the virtual clock, from ``state`` on.

        Estimators call it; ``settings`` and ``observers`` are those of ``skdist.inline.train_inline``.
        """
        return Run(self, model, partitions, settings, state, clock, observers).result()


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
