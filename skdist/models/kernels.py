"""Consecutive mini-batch steps over rows of one partition: what kernels of dense and sparse rows share.

Conventions
-----------
``order`` lists the rows of the partition in the order of this epoch; ``[start, stop)`` is the stretch
to train on. A step takes ``batch_size`` rows and moves the coefficients ``u`` to

    ``soft(u_j - pace_j * g_j, pace_j * l1) / (1 + pace_j * l2)``,  ``g_j = mean_i r_i (x_ij - center_j)``

where ``pace_j = eta * scale_j``, ``r_i`` is the weighted gradient of the loss in the raw prediction and
``soft(u, d)`` brings ``u`` nearer to zero by ``d``. The penalties are taken at the new point, which is stable
whatever their strength. The mean is over ``batch_size``, also when the last step is
shorter: such a step is scaled by its size. ``scale`` and ``center`` describe the data (see
`skdist.models.moments`); with ones and zeros this is plain SGD. The coefficients themselves stay in the
units of the raw data: what the intercept owes to the centring is ``-sum_j center_j * change of u_j``.

``state`` holds the iterate ``state[0]``, with averaging its running average, and where ``l1 > 0`` the
running average of ``g`` as its last member. Both take each step in with weight
``gamma = (power + 1) / (n + power + 1)`` after ``n`` earlier ones, and at least ``least``: later steps count
more where ``power > 0``, and a weight too small for the precision of the numbers would freeze the average.

The passive-aggressive schedules move by ``min(eta0, loss / |x|^2)`` (PA-I) or
``loss / (|x|^2 + 1 / (2 eta0))`` (PA-II) times the sign of ``r`` and the weight (Crammer et al., JMLR 2006),
the mean over the mini-batch.

The dense kernel keeps ``state[m]`` as ``(n_problems, n_features + 1)``, the sparse kernel as
``(n_features + 1, n_problems)``, of one problem as ``(n_features + 1,)``: the innermost loop is then
contiguous in all. The intercept is the last member.

The kernels return the weighted sum of the losses, each before its own step. Where there are ``sums``, they
also add the gradient of each step to it and the squared norm of that gradient to ``squares[0]``, as
`skdist.models.noise` defines them. The loops that move the coefficients are the same either way, so that
watching does not change the result by a bit. ``sums``, ``l1`` and ``passive``, the code of a
passive-aggressive schedule, are None where they are not needed: numba leaves out what depends on them.

The arrays after these are working memory, see `working_memory`: numba would take a sixth longer for kernels
that allocate it.
"""

from __future__ import annotations

import numpy as np

from skdist.control.schedules import (
    INVERSE_POWER,
    INVERSE_TIME,
    LATE_DECAY,
    LATE_POWER,
    PASSIVE_AGGRESSIVE_1,
)
from skdist.models.compile import inlined


def working_memory(
    batch_size: int, n_problems: int, dtype: np.dtype, target_dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what a step writes down of its rows: predictions, losses, targets and weights.

    There is room for the predictions of three more rows: the dense kernel takes four at a time.
    """
    return (
        np.empty((batch_size + 3, n_problems), dtype),
        np.empty((batch_size, n_problems)),
        np.empty(batch_size, target_dtype),
        np.empty(batch_size, dtype),
    )


@inlined
def step_size(schedule, eta0, parameter, t):
    """Return the step size after ``t`` steps; see `skdist.control.schedules.Schedule`."""
    if schedule == INVERSE_TIME:
        return eta0 * parameter / (parameter + t)
    if schedule == INVERSE_POWER:
        return eta0 / (1.0 + t) ** parameter
    if schedule == LATE_DECAY:
        return eta0 / max(t / parameter, 1.0) ** LATE_POWER
    return eta0


@inlined
def soft(value, distance):
    """Return a value brought nearer to zero by a distance, and zero where it is not farther away."""
    size = abs(value) - distance
    # Written so that a NaN goes on as one.
    return value - value if size <= 0 else np.copysign(size, value)


@inlined
def be_passive(schedule, eta0, square, r, values):
    """Scale the gradients of a row to the passive-aggressive step, in units of ``eta0``."""
    for k in range(len(r)):
        if schedule == PASSIVE_AGGRESSIVE_1:
            r[k] *= min(1.0, values[k] / (square * eta0)) if square > 0.0 else 0.0
        else:
            r[k] *= values[k] / (square * eta0 + 0.5)
