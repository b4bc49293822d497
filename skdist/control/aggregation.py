"""Method B, last step: how much the parameters of each learner count in the mean."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions


class InverseVolatility(BaseEstimator):
    """Weight each learner's parameters by the reciprocal of its gradient volatility.

    In a synchronous round learner i reports how much the gradients of its steps differed from one another,
    and its parameters enter the mean with weight ``a_i``::

        v_i = sqrt(mean_h |g_h - mean(g)|^2)     volatility of the gradients g_h of its steps
        s_i = v_i  or  v_i^2                     as ``statistic`` says
        a_i ~ 1 / (s_i + epsilon * mean(s))      with sum 1
        a_i <= cap / W                           for W learners

    What the cap cuts off is shared among the others in proportion to their weights.

    These weights are *not* neutral to the objective: a learner with noisier gradients counts less, and so do
    its rows. Where partitions differ, as they do when the rows are sorted by class, the model is pulled
    towards the rows of the calmer ones. ``aggregator='uniform'`` is the neutral alternative.

    Parameters
    ----------
    epsilon : float, default=1e-3
        Relative to the mean of ``s``, at least 1e-9. Keeps the weight of a learner without noise finite; the
        larger, the more even the weights.
    cap : float or None, default=2.0
        No weight is above ``cap / W``; at least 1, which makes all weights equal. None or infinity is no cap.
    statistic : {'std', 'var'}, default='std'
        ``'std'`` weights by the reciprocal of the standard deviation, ``'var'`` of the variance, which would
        be optimal for independent estimates of the same quantity.

    Notes
    -----
    Published in CN120234158A, which weights by the reciprocal of the gradients' volatility and leaves its
    definition, epsilon and a cap open; these are ours.

    Examples
    --------
    >>> [round(weight, 3) for weight in InverseVolatility().weights([1.0, 1.0, 2.0])]
    [0.4, 0.4, 0.2]
    >>> [round(weight, 3) for weight in InverseVolatility().weights([0.0, 1.0, 1.0, 2.0])]
    [0.5, 0.2, 0.2, 0.1]
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "epsilon": [Interval(Real, 1e-9, None, closed="left")],
        "cap": [None, Interval(Real, 1, None, closed="both")],
        "statistic": [StrOptions({"std", "var"})],
    }

    def __init__(self, epsilon: float = 1e-3, cap: float | None = 2.0, statistic: str = "std") -> None:
        self.epsilon = epsilon
        self.cap = cap
        self.statistic = statistic

    def weights(self, volatilities: Sequence[float]) -> list[float]:
        """Return the weights ``a_i >= 0`` with sum 1, one per learner.

        Equal volatilities give exactly ``1 / W`` each.

        Parameters
        ----------
        volatilities : sequence of float
            ``v_i >= 0``, in any common unit. NaN and infinity are unknown, as for a learner that made fewer
            than two steps; it takes the median of the others.
        """
        spread = np.array(volatilities, dtype=float)
        count = len(spread)
        known = np.isfinite(spread)
        largest = spread[known].max(initial=0.0)
        if largest == spread[known].min(initial=largest):
            return uniform_weights(count)
        spread /= largest  # no median, square or sum may overflow
        spread[~known] = np.median(spread[known])
        if self.statistic == "var":
            spread *= spread
        weights = 1.0 / (spread + self.epsilon * spread.mean())
        weights /= weights.sum()
        if self.cap is not None and weights.max() > self.cap / count:
            weights = _limited(weights, self.cap / count)
        result: list[float] = weights.tolist()
        return result


def _limited(weights: np.ndarray, limit: float) -> np.ndarray:
    """Cut weights off at ``limit``; what is cut raises the others in proportion, none above the limit."""
    ordered = np.sort(weights)
    # Member m: the factor of the others where all weights above the m-th are cut.
    cut = np.arange(len(ordered) - 1, -1, -1)
    factors = (1.0 - limit * cut) / np.cumsum(ordered)
    fitting = np.flatnonzero(factors * ordered <= limit)
    if not len(fitting):
        return np.full(len(weights), limit)
    shared: np.ndarray = np.minimum(weights * factors[fitting[-1]], limit)
    return shared


def uniform_weights(count: int) -> list[float]:
    """Return ``count`` equal weights with sum 1: every learner's rows count alike.

    Examples
    --------
    >>> uniform_weights(4)
    [0.25, 0.25, 0.25, 0.25]
    """
    return [1.0 / count] * count if count else []
