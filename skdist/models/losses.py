"""Losses of a linear model: their names and what the solver needs to know of them.

Conventions
-----------
A loss takes the raw prediction ``z = x w + b`` of one row for one problem and a target ``y``: -1 or +1 in
classification, any number in regression.

===============================  =============================================================
name                             loss
===============================  =============================================================
``hinge``                        ``max(0, 1 - yz)``
``log_loss``                     ``log(1 + exp(-yz))``
``perceptron``                   ``max(0, -yz)``
``squared_hinge``                ``max(0, 1 - yz)^2``
``modified_huber``               ``max(0, 1 - yz)^2``, below ``yz = -1`` the line ``-4yz``
``squared_error``                ``(z - y)^2 / 2``
``huber``                        ``(z - y)^2 / 2``, beyond epsilon the line
``epsilon_insensitive``          ``max(0, |z - y| - epsilon)``
``squared_epsilon_insensitive``  ``max(0, |z - y| - epsilon)^2``
``multinomial``                  ``log(sum_k exp(z_k)) - z_y``, of all problems of a row together
===============================  =============================================================
"""

from __future__ import annotations

from dataclasses import dataclass

#: What the kernels branch on: losses of the margin ``yz``, those of the residual ``z - y``, and the softmax.
HINGE, LOG_LOSS, PERCEPTRON, SQUARED_HINGE, MODIFIED_HUBER = 0, 1, 2, 3, 4
SQUARED_ERROR, HUBER, EPSILON_INSENSITIVE, SQUARED_EPSILON_INSENSITIVE = 5, 6, 7, 8
MULTINOMIAL = 9

#: Given as ``positive`` where targets are numbers and no classes.
NO_CLASS = -1


@dataclass(frozen=True)
class Loss:
    """What the solver needs to know of a loss besides its kernel.

    Attributes
    ----------
    code : int
        The constant the kernels branch on.
    curvature : float
        An upper bound of the second derivative in ``z``; of a loss with a kink, the curvature of its smoothed
        form, 1 on a band as wide as the spread of the targets.
    probabilities : bool
        Whether ``z`` tells the log-odds of a class, so that the labels bound the curvature.
    regression : bool
        Whether it is for targets that are numbers too.
    """

    code: int
    curvature: float
    probabilities: bool = False
    regression: bool = False

    def curvature_for(self, spread: float, epsilon: float) -> float:
        """Return the curvature for targets with this standard deviation.

        Kinks do not scale with the targets: a loss whose slope is 1 everywhere moves as fast in all units,
        so that its curvature is the inverse of the spread.
        """
        if self.code == EPSILON_INSENSITIVE:
            return self.curvature / spread
        if self.code == HUBER:
            return self.curvature * min(1.0, epsilon / spread) if epsilon else 1.0
        return self.curvature

    def of_mean(self, spread: float, epsilon: float) -> float:
        """Return about the loss of predicting the mean, for targets with this standard deviation."""
        beyond = max(spread - epsilon, 0.1 * spread)
        if self.code == HUBER:
            return spread**2 / 2 if spread <= epsilon else epsilon * (spread - epsilon / 2)
        if self.code == EPSILON_INSENSITIVE:
            return beyond
        return beyond**2 if self.code == SQUARED_EPSILON_INSENSITIVE else spread**2 / 2

    @property
    def unbounded(self) -> bool:
        """Whether the slope grows without bound, so that steps that are too long diverge."""
        return self.code in (SQUARED_HINGE, SQUARED_ERROR, SQUARED_EPSILON_INSENSITIVE)

    @property
    def joint(self) -> bool:
        """Whether the problems of a row have one loss together."""
        return self.code == MULTINOMIAL


#: By the names scikit-learn gives them; the last is ours, for ``multi_class='multinomial'``.
LOSSES = {
    "hinge": Loss(HINGE, curvature=1.0),
    "log_loss": Loss(LOG_LOSS, curvature=0.25, probabilities=True),
    "perceptron": Loss(PERCEPTRON, curvature=1.0),
    "squared_hinge": Loss(SQUARED_HINGE, curvature=2.0),
    "modified_huber": Loss(MODIFIED_HUBER, curvature=2.0),
    "squared_error": Loss(SQUARED_ERROR, curvature=1.0, regression=True),
    "huber": Loss(HUBER, curvature=1.0, regression=True),
    "epsilon_insensitive": Loss(EPSILON_INSENSITIVE, curvature=1.0, regression=True),
    "squared_epsilon_insensitive": Loss(SQUARED_EPSILON_INSENSITIVE, curvature=2.0, regression=True),
    "multinomial": Loss(MULTINOMIAL, curvature=0.5, probabilities=True),
}
