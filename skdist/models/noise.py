"""How much the gradients of consecutive steps differ from one another."""

from __future__ import annotations

import math

import numpy as np

#: What is left of equal gradients after rounding is not noise: variances below this share of the mean square
#: count as zero.
ROUNDING = 1e-12


class GradientNoise:
    """Accumulates the gradients of steps, over any number of calls of `LinearModel.train`.

    The volatility of ``H`` steps is the root of the total variance of their gradients::

        v = sqrt(mean_h |g_h - mean(g)|^2) = sqrt(mean_h |g_h|^2 - |mean(g)|^2)

    ``g_h`` is the gradient of the weighted mean loss over the mini-batch of step h, without the penalty, in
    the coordinates in which the step is plain SGD: member j is ``sqrt(scale_j) mean_i r_i (x_ij - center_j)``
    in the words of `skdist.models.kernels`, the intercept's is ``mean_i r_i``. The mean is over the full
    batch size, also when a step is shorter.

    Parameters
    ----------
    shape : tuple of int
        Of the coefficients of all problems, in the layout of the kernel.

    Attributes
    ----------
    steps : int
        ``H``.
    sums : ndarray of float64
        ``sum_h g_h``.
    squares : ndarray of shape (1,)
        ``sum_h |g_h|^2``.

    Examples
    --------
    >>> noise = GradientNoise((1, 2))
    >>> for gradient in np.array([[[3.0, 0.0]], [[1.0, 0.0]]]):
    ...     noise.add(gradient)
    >>> noise.volatility
    1.0
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.steps = 0
        self.sums = np.zeros(shape)
        self.squares = np.zeros(1)

    def add(self, gradient: np.ndarray) -> None:
        """Take in the gradient of a step."""
        self.steps += 1
        self.sums += gradient
        self.squares += np.vdot(gradient, gradient)

    @property
    def volatility(self) -> float:
        """``v >= 0``; NaN for fewer than two steps."""
        if self.steps < 2:
            return math.nan
        mean_square = float(self.squares[0]) / self.steps
        variance = mean_square - float(np.vdot(self.sums, self.sums)) / self.steps**2
        return 0.0 if variance <= ROUNDING * mean_square else math.sqrt(variance)
