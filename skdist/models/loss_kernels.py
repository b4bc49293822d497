"""Losses and gradients of a whole mini-batch at once.

`gradient_filler` gives functions that work on the ``(rows, problems)`` block of raw predictions: they return
the weighted sum of the losses and replace each ``z`` by ``weight * dloss/dz``, so that value and gradient
come from one visit of the numbers. The losses themselves see margins or residuals, one flat array, whoever's
they are.

All comparisons are written so that a NaN goes on as a NaN, and is never silently "right".
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np
from numba import types

from skdist.models.compile import callback, inlined, kernel
from skdist.models.exponentials import exp_minus, log_one_plus
from skdist.models.losses import (
    EPSILON_INSENSITIVE,
    HINGE,
    HUBER,
    LOG_LOSS,
    MODIFIED_HUBER,
    MULTINOMIAL,
    NO_CLASS,
    PERCEPTRON,
    SQUARED_ERROR,
    SQUARED_HINGE,
)


@inlined
def _fill_log_loss(margins, values):
    """Write ``log(1 + exp(-m))`` to ``values`` and put ``1 / (1 + exp(m))`` in the place of each margin."""
    zero, one = margins.dtype.type(0), margins.dtype.type(1)
    for i in range(len(margins)):
        margin = margins[i]
        power = exp_minus(abs(margin))
        values[i] = log_one_plus(power) + (-margin if margin < zero else zero)
        margins[i] = (power if margin > zero else one) / (one + power)


@inlined
def _fill_margins(loss, margins, values):
    """Write the losses to ``values`` and put ``-dloss/dm >= 0`` in the place of each margin."""
    if loss == HINGE:
        for i in range(len(margins)):
            gap = 1.0 - margins[i]
            inside = not gap <= 0.0
            values[i] = gap if inside else 0.0
            margins[i] = 1.0 if inside else 0.0
    elif loss == PERCEPTRON:
        for i in range(len(margins)):
            margin = margins[i]
            wrong = not margin > 0.0
            values[i] = -margin if wrong else 0.0
            margins[i] = 1.0 if wrong else 0.0
    elif loss == SQUARED_HINGE:
        for i in range(len(margins)):
            gap = 1.0 - np.float64(margins[i])
            gap = 0.0 if gap <= 0.0 else gap
            values[i] = gap * gap
            margins[i] = 2.0 * gap
    elif loss == MODIFIED_HUBER:
        for i in range(len(margins)):
            margin = np.float64(margins[i])
            gap = 1.0 - margin
            gap = 0.0 if gap <= 0.0 else gap
            values[i] = -4.0 * margin if margin < -1.0 else gap * gap
            margins[i] = 4.0 if margin < -1.0 else 2.0 * gap


@inlined
def _fill_residuals(loss, epsilon, residuals, values):
    """Write the losses to ``values`` and put ``dloss/dz`` in the place of each residual."""
    if loss == SQUARED_ERROR:
        for i in range(len(residuals)):
            residual = np.float64(residuals[i])
            values[i] = 0.5 * residual * residual
    elif loss == HUBER:
        for i in range(len(residuals)):
            residual = np.float64(residuals[i])
            size = abs(residual)
            near = size <= epsilon
            values[i] = 0.5 * size * size if near else epsilon * (size - 0.5 * epsilon)
            residuals[i] = residual if near else math.copysign(epsilon, residual)
    elif loss == EPSILON_INSENSITIVE:
        for i in range(len(residuals)):
            residual = np.float64(residuals[i])
            beyond = abs(residual) - epsilon
            outside = not beyond <= 0.0
            values[i] = beyond if outside else 0.0
            residuals[i] = math.copysign(1.0, residual) if outside else 0.0
    else:
        for i in range(len(residuals)):
            residual = np.float64(residuals[i])
            beyond = abs(residual) - epsilon
            beyond = 0.0 if beyond <= 0.0 else beyond
            values[i] = beyond * beyond
            residuals[i] = math.copysign(2.0 * beyond, residual)


@inlined
def _fill_multinomial(z, values, codes):
    """Write ``log(sum_k exp(z_k)) - z_y`` to the first column of ``values``, and the gradients to ``z``."""
    n_rows, n_problems = z.shape
    for i in range(n_rows):
        out = z[i]
        most = out[0]
        for k in range(1, n_problems):
            most = out[k] if out[k] > most else most
        code = np.intp(codes[i])
        own = np.float64(out[code]) - most
        part = values[i]
        for k in range(n_problems):
            part[k] = exp_minus(most - out[k])
        total = 0.0
        for k in range(n_problems):
            total += part[k]
        for k in range(n_problems):
            out[k] = part[k] / total
            part[k] = 0.0
        out[code] -= 1.0
        part[0] = math.log(total) - own


@inlined
def _as_margins(z, targets, positive):
    """Turn raw predictions into margins."""
    n_rows, n_problems = z.shape
    flat = z.ravel()
    if n_problems == 1:
        for i in range(n_rows):
            flat[i] = flat[i] if targets[i] == positive else -flat[i]
        return
    for i in range(len(flat)):
        flat[i] = -flat[i]
    for i in range(n_rows):
        own = np.intp(targets[i]) - positive
        if 0 <= own < n_problems:
            z[i, own] = -z[i, own]


@inlined
def _weigh(z, values, targets, weights, class_weights, positive, sign, joint):
    """Weigh gradients, those of a class's own problem by ``sign`` too; return the weighted sum of losses."""
    n_rows, n_problems = z.shape
    if n_rows == 0:
        return 0.0
    total, weight = 0.0, weights[0]
    alike = not class_weights.size
    for i in range(n_rows):
        alike = alike and weights[i] == weight
    if alike:  # all in one go: most rows have no weights, and loops over few problems take long to begin
        flat, losses = z.ravel(), values.ravel()
        for i in range(len(flat)):
            total += losses[i]
            flat[i] *= weight
        for i in range(n_rows):
            own = np.intp(targets[i]) - positive
            if 0 <= own < n_problems:
                z[i, own] *= sign
        return weight * total
    for i in range(n_rows):
        own = np.intp(targets[i]) - positive
        weight = own_weight = np.float64(weights[i])
        if class_weights.size:
            own_weight = weight * class_weights[np.intp(targets[i])]
            if n_problems == 1 or joint:
                weight = own_weight
        out, part = z[i], values[i]
        factor, row = z.dtype.type(weight), 0.0
        if 0 <= own < n_problems:  # its own problem apart: the loop over all has no condition
            kept = sign * own_weight * out[own]
            row = (own_weight / weight - 1.0) * part[own] if own_weight != weight else 0.0
        for k in range(n_problems):
            row += part[k]
            out[k] *= factor
        if 0 <= own < n_problems:
            out[own] = kept
        total += weight * row
    return total


def _log_losses(loss, epsilon, z, values, targets, weights, class_weights, positive):
    _as_margins(z, targets, positive)
    _fill_log_loss(z.ravel(), values.ravel())
    return _weigh(z, values, targets, weights, class_weights, positive, -1, False)


def _margin_losses(loss, epsilon, z, values, targets, weights, class_weights, positive):
    _as_margins(z, targets, positive)
    _fill_margins(loss, z.ravel(), values.ravel())
    return _weigh(z, values, targets, weights, class_weights, positive, -1, False)


def _residual_losses(loss, epsilon, z, values, targets, weights, class_weights, positive):
    n_rows, n_problems = z.shape
    for i in range(n_rows):
        own = targets[i] - positive
        for k in range(n_problems):
            if positive == NO_CLASS:
                z[i, k] -= targets[i]
            else:
                z[i, k] -= 1.0 if k == own else -1.0
    _fill_residuals(loss, epsilon, z.ravel(), values.ravel())
    return _weigh(z, values, targets, weights, class_weights, positive, 1, False)


# Of one problem, whose rows have no factors by class: what most fits need, without what the others need.


@inlined
def _weigh_alone(z, values, targets, weights, positive, sign):
    """Weigh the gradients, those of the class of the problem by ``sign`` too; return the weighted sum."""
    total = 0.0
    for i in range(len(z)):
        total += weights[i] * values[i]
        z[i] *= sign * weights[i] if targets[i] == positive else weights[i]
    return total


def _log_losses_alone(loss, epsilon, z, values, targets, weights, class_weights, positive):
    # All in one loop, which vectorises for numbers of one type only: so `values` stay as they are.
    zero, one, total = z.dtype.type(0), z.dtype.type(1), 0.0
    for i in range(len(z)):
        own, weight = targets[i] == positive, weights[i]
        margin = z[i, 0] if own else -z[i, 0]
        power = exp_minus(abs(margin))
        total += weight * (log_one_plus(power) + (-margin if margin < zero else zero))
        slope = weight * ((power if margin > zero else one) / (one + power))
        z[i, 0] = -slope if own else slope
    return total


def _margin_losses_alone(loss, epsilon, z, values, targets, weights, class_weights, positive):
    margins, losses = z[:, 0], values[:, 0]
    for i in range(len(margins)):
        margins[i] = margins[i] if targets[i] == positive else -margins[i]
    _fill_margins(loss, margins, losses)
    return _weigh_alone(margins, losses, targets, weights, positive, -1)


def _residual_losses_alone(loss, epsilon, z, values, targets, weights, class_weights, positive):
    residuals, losses = z[:, 0], values[:, 0]
    for i in range(len(residuals)):
        if positive == NO_CLASS:
            residuals[i] -= targets[i]
        else:
            residuals[i] -= 1.0 if targets[i] == positive else -1.0
    _fill_residuals(loss, epsilon, residuals, losses)
    return _weigh_alone(residuals, losses, targets, weights, positive, 1)


def _softmax_losses(loss, epsilon, z, values, targets, weights, class_weights, positive):
    _fill_multinomial(z, values, targets)
    return _weigh(z, values, targets, weights, class_weights, positive, 1, True)


@functools.cache
def gradient_filler(loss: int, dtype: np.dtype, target_dtype: np.dtype, alone: bool) -> Any:
    """Return the function that fills in the gradients of a loss, to give to a kernel.

    A kernel that contained all losses would take twice the time to compile. So it gets the one that it needs,
    which is called as ``fill(loss, epsilon, z, values, targets, weights, class_weights, positive)``, replaces
    ``z`` by weighted gradients, and returns the weighted sum of the losses.

    Parameters
    ----------
    loss : int
        Code of `skdist.models.losses`.
    dtype : dtype
        Of raw predictions ``z`` of shape (n_rows, n_problems), and of the sample weights of shape (n_rows,).
    target_dtype : dtype
        Of the targets of shape (n_rows,): class codes, or numbers.
    alone : bool
        Whether there is one problem, without factors by class: the function is shorter then.

    Notes
    -----
    The other arguments: ``epsilon``, of the losses that have one; ``values`` of shape (n_rows, n_problems),
    float64, overwritten by the losses, not weighted, but for log-losses; ``class_weights`` of shape
    (n_classes,), read-only, the factors by class, or (0,) for none, of which one-vs-rest takes that of the
    own class of a problem;
    ``positive``, the code that problem 0 calls +1: 1 for a binary problem, 0 for one-vs-rest, where problem
    ``k`` calls class ``k`` +1, and `NO_CLASS` where targets are numbers.
    """
    if loss == MULTINOMIAL:
        function = _softmax_losses
    elif loss == LOG_LOSS:
        function = _log_losses_alone if alone else _log_losses
    elif loss <= MODIFIED_HUBER:
        function = _margin_losses_alone if alone else _margin_losses
    else:
        function = _residual_losses_alone if alone else _residual_losses
    number = numba.from_dtype(dtype)
    arguments = (
        types.int64, types.float64, types.Array(number, 2, "C"), types.Array(types.float64, 2, "C"),
        types.Array(numba.from_dtype(target_dtype), 1, "C"), types.Array(number, 1, "C"),
        types.Array(types.float64, 1, "C", readonly=True), types.int64,
    )  # fmt: skip
    return callback(types.float64(*arguments), function)


@kernel
def fill_gradients(fill, loss, epsilon, z, values, targets, weights, class_weights, positive):
    """Call a function of `gradient_filler`."""
    return fill(loss, epsilon, z, values, targets, weights, class_weights, positive)
