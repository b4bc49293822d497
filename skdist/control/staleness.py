"""Method A: the learning rate follows a sliding window of past staleness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from skdist.control.schedules import Schedule

#: The mean factor of the updates' rates is one of so many updates of each learner.
LEVEL_UPDATES = 8


class StalenessWindow(BaseEstimator):
    """Scale a learner's rate by the staleness that its updates are likely to meet.

    Each learner keeps the staleness of its last updates (the number of versions that others made while
    the update was under way), samples them with a sliding window and condenses them to a *context*
    ``C``. Before it sends an update it computes the factor for the update's rate::

        s = (1 + R) / (1 + max(R, C))

    where ``R`` is the reference staleness. A lasting discount of those who are late would move the minimum:
    their rows would count less. So as the steps shrink, by ``decay = eta_0 / eta_t >= 1``, each factor goes
    up or down to the mean factor of all updates, ``level``, by at most ``decay`` times: the updates of
    everybody together move no farther for it.

    Parameters
    ----------
    window : int, default=20
        How many stalenesses a learner remembers.
    stride : int, default=1
        Every ``stride``-th of them, newest first, is sampled.
    discount : float, default=1.0
        Weight ``discount**m`` of the m-th newest sample, in (0, 1]; 1 is the mean.
    quantile : float or None, default=None
        Take this quantile of the samples, in [0, 1], instead of their mean.
    reference : {'zero', 'mean'} or float, default='zero'
        ``R``: 0, the mean over the windows of all learners, or a number of versions.
    prior_weight : float, default=5.0
        How many samples the context that heartbeat latencies predict is worth.
    guard : bool, default=True
        Let the server lower the factor where the true staleness asks for less.

    Notes
    -----
    Published in CN106779093A, which leaves the formulas open; these are ours. ``1 / (1 + C)`` is the
    staleness-aware rate of Zhang et al. (2016, arXiv:1511.05950) with the window's context in place of
    the staleness of the one update.

    Examples
    --------
    >>> adapter = StalenessWindow(discount=0.5)
    >>> adapter.context([4.0, 1.0], predicted=None)
    3.0
    >>> adapter.rate_scale(3.0)
    0.25
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "window": [Interval(Integral, 1, None, closed="left")],
        "stride": [Interval(Integral, 1, None, closed="left")],
        "discount": [Interval(Real, 0, 1, closed="right")],
        "quantile": [None, Interval(Real, 0, 1, closed="both")],
        "reference": [StrOptions({"zero", "mean"}), Interval(Real, 0, None, closed="left")],
        "prior_weight": [Interval(Real, 0, None, closed="left")],
        "guard": ["boolean"],
    }

    def __init__(
        self,
        window: int = 20,
        stride: int = 1,
        discount: float = 1.0,
        quantile: float | None = None,
        reference: str | float = "zero",
        prior_weight: float = 5.0,
        guard: bool = True,
    ) -> None:
        self.window = window
        self.stride = stride
        self.discount = discount
        self.quantile = quantile
        self.reference = reference
        self.prior_weight = prior_weight
        self.guard = guard

    def context(self, samples: Sequence[float], predicted: float | None) -> float:
        """Return the staleness context value ``C >= 0``, in versions.

        Parameters
        ----------
        samples : sequence of float
            The window's stalenesses, newest first, already strided.
        predicted : float or None
            What heartbeat latencies predict; None where they cannot.

        Returns
        -------
        float
            ``(n * window + k * predicted) / (n + k)`` with n samples and ``k = prior_weight``.
        """
        count = len(samples)
        observed = self._condense(samples) if count else 0.0
        if predicted is None or not math.isfinite(predicted):
            return observed
        total = count + self.prior_weight
        if total == 0:
            return max(predicted, 0.0)
        return (count * observed + self.prior_weight * max(predicted, 0.0)) / total

    def _condense(self, samples: Sequence[float]) -> float:
        if self.quantile is None and self.discount == 1.0:
            return math.fsum(samples) / len(samples)
        values = np.asarray(samples, dtype=float)
        if self.quantile is not None:
            return float(np.quantile(values, self.quantile))
        weights = self.discount ** np.arange(len(values))
        return float(values @ weights / weights.sum())

    def rate_scale(
        self, context: float, reference: float = 0.0, decay: float = 1.0, level: float = 1.0
    ) -> float:
        """Return the factor ``s`` in (0, 1] of an update's rate.

        Parameters
        ----------
        context : float
            Staleness context, or the true staleness, in versions.
        reference : float, default=0.0
            ``R``, in versions.
        decay : float, default=1.0
            ``eta_0 / eta_t``, at least 1.
        level : float, default=1.0
            Mean factor of the updates of all learners, without ``decay``, in (0, 1].
        """
        scale = (1.0 + reference) / (1.0 + max(reference, context))
        return min(max(level, scale / decay), scale * decay)

    def reference_staleness(self, mean: float) -> float:
        """Return ``R``, given the mean of all windows."""
        if self.reference == "zero":
            return 0.0
        if self.reference == "mean":
            return mean
        return float(self.reference)


class RateGuard:
    """The server's side of a `StalenessWindow`: bounds rate scales by the staleness that updates really met.

    Parameters
    ----------
    adapter : StalenessWindow or None
        The settings; None lets every scale pass.
    schedule : Schedule
        For the decay of the step size.

    Attributes
    ----------
    level : float
        Mean scale of the updates of all learners, but for what the decay of the steps makes of it.
    """

    def __init__(self, adapter: StalenessWindow | None, schedule: Schedule) -> None:
        self.level = 1.0
        self._adapter, self._schedule = adapter, schedule

    def scale(
        self, asked: float, context: float, staleness: float, reference: float, clock: float, learners: int
    ) -> float:
        """Return the rate scale that an update is applied with.

        Parameters
        ----------
        asked, context : float
            The scale that its learner has adapted its rate with, and the context that this came from.
        staleness : float
            That it met, in versions.
        reference : float
            ``R``, in versions.
        clock : float
            Sequential steps made.
        learners : int
            Who send updates.
        """
        if self._adapter is None:
            return asked
        worst = max(context, staleness) if self._adapter.guard else context
        plain = self._adapter.rate_scale(worst, reference)
        self.level += (plain - self.level) / (LEVEL_UPDATES * learners)
        if not self._adapter.guard or not staleness:
            return asked
        decay = max(self._schedule.decay(clock), 1.0)
        return min(asked, self._adapter.rate_scale(staleness, reference, decay, self.level))


def predicted_context(round_seconds: float, peers: float, collect: int = 1, gathered: bool = False) -> float:
    """Return the staleness that round times predict.

    While one round of ``round_seconds`` is under way, every other learner j makes
    ``round_seconds / T_j`` updates: ``sum_j (T_i / T_j) / c``. Where a version is made of an update of each
    learner, one of the versions under way is the one that this update becomes part of.

    Parameters
    ----------
    round_seconds : float
        ``T_i``: training time of the round plus twice the heartbeat latency.
    peers : float
        ``sum_j 1 / T_j`` over the other learners, in rounds per second.
    collect : int, default=1
        Updates that make one version.
    gathered : bool, default=False
        Whether a version is made of an update of each learner; ``peers`` is then the mean over them.
    """
    if gathered:
        return max(round_seconds * peers - 1, 0.0)
    return round_seconds * peers / collect
