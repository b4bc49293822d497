"""The objective that estimators minimise, and its minimum found by a solver that is not ours."""

import numpy as np
from scipy.optimize import minimize

from skdist.models.losses import LOSSES

EPSILON = 0.1


def losses_and_slopes(name, z, y):
    """Return the loss of each row and its slope in the raw prediction."""
    margin, residual = y * z, z - y
    size, gap = abs(residual), np.maximum(0, 1 - margin)
    beyond = np.maximum(0, size - EPSILON)
    return {
        "hinge": (gap, -y * (margin < 1)),
        "log_loss": (np.logaddexp(0, -margin), -y / (1 + np.exp(np.clip(margin, -500, 500)))),
        "perceptron": (np.maximum(0, -margin), -y * (margin < 0)),
        "squared_hinge": (gap**2, -2 * y * gap),
        "modified_huber": (
            np.where(margin >= -1, gap**2, -4 * margin),
            np.where(margin >= -1, -2 * y * gap, -4 * y),
        ),
        "squared_error": (residual**2 / 2, residual),
        "huber": (
            np.where(size <= EPSILON, residual**2 / 2, EPSILON * (size - EPSILON / 2)),
            np.clip(residual, -EPSILON, EPSILON),
        ),
        "epsilon_insensitive": (beyond, np.sign(residual) * (size > EPSILON)),
        "squared_epsilon_insensitive": (beyond**2, 2 * np.sign(residual) * beyond),
    }[name]


class Objective:
    """``mean_i weight_i loss_i + alpha (l1_ratio |w|_1 + (1 - l1_ratio) |w|^2 / 2)`` of a linear problem."""

    def __init__(self, loss, X, y, alpha, penalty="l2", l1_ratio=0.15, weights=None):
        self.loss, self.X, self.y = loss, X.astype(float), y.astype(float)
        ratio = {"l2": 0.0, "l1": 1.0, "elasticnet": l1_ratio}[penalty]
        self.l1, self.l2 = alpha * ratio, alpha * (1 - ratio)
        self.weights = np.ones(len(y)) if weights is None else weights

    def __call__(self, coef, intercept):
        coef = np.asarray(coef, dtype=float).ravel()
        values, _ = losses_and_slopes(self.loss, self.X @ coef + float(np.ravel(intercept)[0]), self.y)
        return self.weights @ values / len(values) + self.l1 * abs(coef).sum() + self.l2 / 2 * coef @ coef

    def of(self, estimator):
        """Return the objective at the coefficients of an estimator."""
        return self(estimator.coef_, estimator.intercept_)

    def _split(self, both):
        """Return the value and the gradient for ``w = plus - minus``, both at least 0."""
        width = self.X.shape[1]
        coef = both[:width] - both[width : 2 * width]
        values, slopes = losses_and_slopes(self.loss, self.X @ coef + both[-1], self.y)
        slopes = slopes * self.weights / len(slopes)
        gradient = self.X.T @ slopes + self.l2 * coef
        value = self.weights @ values / len(values) + self.l2 / 2 * coef @ coef
        value += self.l1 * both[:-1].sum()
        return value, np.r_[gradient + self.l1, -gradient + self.l1, slopes.sum()]

    def minimum(self, estimator):
        """Return the least value that L-BFGS-B finds from zeros and from an estimator's coefficients.

        The second start makes the bar higher where a kink ends the first one early.
        """
        width = self.X.shape[1]
        coef, least = np.asarray(estimator.coef_, dtype=float).ravel(), self.of(estimator)
        for start in (
            np.zeros(2 * width + 1),
            np.r_[np.maximum(coef, 0), np.maximum(-coef, 0), estimator.intercept_],
        ):
            bounds = [(0, None)] * (2 * width) + [(None, None)]
            found = minimize(
                self._split, start, jac=True, method="L-BFGS-B", bounds=bounds,
                options={"maxiter": 2_000, "maxfun": 4_000, "ftol": 1e-13, "gtol": 1e-9},
            )  # fmt: skip
            least = min(least, found.fun)
        return least


CLASSIFICATION = sorted(name for name, loss in LOSSES.items() if not loss.joint and name != "perceptron")
REGRESSION = sorted(name for name, loss in LOSSES.items() if loss.regression)
