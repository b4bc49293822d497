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

from skdist.models.compile import kernel

HINGE = 0
LOG_LOSS = 1


@dataclass(frozen=True)
class Loss:
    """What the solver needs to know of a loss besides its kernel.

    Attributes
    ----------
    code : int
        The constant the kernels branch on.
    slope : float
        ``|dloss/dz|`` far on the wrong side.
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
def fill_gradients(loss, z, codes, weights, positive):
    """Replace ``z`` by weighted gradients and return the weighted sum of the losses.

    Parameters
    ----------
    loss : int
        ``HINGE`` or ``LOG_LOSS``.
    z : ndarray of shape (n_rows, n_problems)
        Raw predictions; overwritten by ``weight * dloss/dz``.
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
    total = 0.0
    if loss == LOG_LOSS:
        for i in range(z.shape[0]):
            own = codes[i] - positive
            weight = weights[i]
            row = 0.0
            for k in range(z.shape[1]):
                margin = -z[i, k] if k != own else z[i, k]
                # exp of a nonpositive number never overflows.
                small = math.exp(-abs(margin))
                row += (-margin if not margin > 0 else 0.0) + math.log1p(small)
                share = small / (1 + small) if margin > 0 else 1 / (1 + small)
                z[i, k] = weight * (share if k != own else -share)
            total += weight * row
    else:
        for i in range(z.shape[0]):
            own = codes[i] - positive
            weight = weights[i]
            row = 0.0
            for k in range(z.shape[1]):
                margin = -z[i, k] if k != own else z[i, k]
                # Written so that a NaN margin is inside, never silently "right".
                if margin >= 1:
                    z[i, k] = 0
                else:
                    row += 1 - margin
                    z[i, k] = weight if k != own else -weight
            total += weight * row
    return total
