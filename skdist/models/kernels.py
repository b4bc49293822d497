"""The inner loops: consecutive mini-batch steps over rows of one partition.

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
``(n_features + 1, n_problems)``: the innermost loop is then contiguous in both. The intercept is the
last member.

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
from skdist.models.compile import inlined, kernel
from skdist.models.prefetch import prefetch, prefetch_rows


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
def _be_passive(schedule, eta0, square, r, values):
    """Scale the gradients of a row to the passive-aggressive step, in units of ``eta0``."""
    for k in range(len(r)):
        if schedule == PASSIVE_AGGRESSIVE_1:
            r[k] *= min(1.0, values[k] / (square * eta0)) if square > 0.0 else 0.0
        else:
            r[k] *= values[k] / (square * eta0 + 0.5)


@inlined
def _ask_for(X, targets, weights, order, first, count, stop):
    """Let rows of a later step come while this one computes, with their targets and weights."""
    row_bytes = X.shape[1] * X.itemsize
    for p in range(first, min(first + count, stop)):
        row = np.uintp(order[p])
        prefetch(np.uintp(targets.ctypes.data) + row * np.uintp(targets.itemsize))
        prefetch(np.uintp(weights.ctypes.data) + row * np.uintp(weights.itemsize))
        prefetch_rows(np.uintp(X.ctypes.data) + row * np.uintp(row_bytes), 1, row_bytes)


@kernel
def _observe_dense(gradient, r, center, root, batch_size, fit_intercept, sums):
    """Add a step's gradient to ``sums`` and return its squared norm."""
    n_problems, n_features = gradient.shape
    zero = gradient.dtype.type(0)
    square = 0.0
    for k in range(n_problems):
        g = gradient[k]
        total = sums[k]
        rho = zero
        if fit_intercept:
            for i in range(len(r)):
                rho += r[i, k]
        for j in range(n_features):
            value = root[j] * np.float64(g[j] - center[j] * rho)
            total[j] += value
            square += value * value
        value = np.float64(rho) / batch_size
        total[n_features] += value
        square += value * value
    return square


@kernel
def dense_steps(
    X, targets, weights, order, start, stop, batch_size, state, t,
    fill, loss, epsilon, class_weights, positive, l1, l2, fit_intercept, scale, center,
    schedule, passive, eta0, parameter, averaged, power, average_from, least, sums, squares,
    z, values, y, w, gradient,
):  # fmt: skip
    """Train on ``order[start:stop]`` of a C-contiguous ``X``."""
    n_features = X.shape[1]
    theta = state[0]
    n_problems = theta.shape[0]
    number = theta.dtype.type
    zero = number(0)
    if sums is not None:
        root = np.sqrt(scale.astype(np.float64)) / batch_size
    total = 0.0
    for first in range(start, stop, batch_size):
        size = min(batch_size, stop - first)
        for i in range(size):
            row = order[first + i]
            y[i] = targets[row]
            w[i] = weights[row]
        # Four rows at a time, here and below: one alone would wait for its own sums. Where fewer are left,
        # the last one is taken again, and counts nothing below. Half of the rows of the next step are asked
        # for here, half below: memory is to be busy all the time.
        last = first + size - 1
        for i in range(0, size, 4):
            x0 = X[order[first + i]]
            x1 = X[order[min(first + i + 1, last)]]
            x2 = X[order[min(first + i + 2, last)]]
            x3 = X[order[min(first + i + 3, last)]]
            for k in range(n_problems):
                u = theta[k]
                z0 = z1 = z2 = z3 = zero
                for j in range(n_features):
                    z0 += x0[j] * u[j]
                    z1 += x1[j] * u[j]
                    z2 += x2[j] * u[j]
                    z3 += x3[j] * u[j]
                z[i, k] = z0 + u[n_features]
                z[i + 1, k] = z1 + u[n_features]
                z[i + 2, k] = z2 + u[n_features]
                z[i + 3, k] = z3 + u[n_features]
            _ask_for(X, targets, weights, order, first + batch_size + i // 2, 2, stop)
        total += fill(loss, epsilon, z[:size], values[:size], y, w, class_weights, positive)
        if passive is not None:
            for i in range(size):
                x = X[order[first + i]]
                square = zero
                for j in range(n_features):
                    square += x[j] * x[j]
                _be_passive(passive, eta0, square, z[i], values[i])
        z[size : size + 3] = zero
        gradient[:] = zero
        for i in range(0, size, 4):
            x0 = X[order[first + i]]
            x1 = X[order[min(first + i + 1, last)]]
            x2 = X[order[min(first + i + 2, last)]]
            x3 = X[order[min(first + i + 3, last)]]
            for k in range(n_problems):
                r0, r1, r2, r3 = z[i, k], z[i + 1, k], z[i + 2, k], z[i + 3, k]
                g = gradient[k]
                for j in range(n_features):
                    g[j] += r0 * x0[j] + r1 * x1[j] + r2 * x2[j] + r3 * x3[j]
            _ask_for(X, targets, weights, order, first + batch_size + (size + i) // 2, 2, stop)
        if sums is not None:
            squares[0] += _observe_dense(gradient, z[:size], center, root, batch_size, fit_intercept, sums)
        eta = number(step_size(schedule, eta0, parameter, t) / batch_size)
        decay = number(l2 * size)
        gamma = number(max((power + 1) / (max(t - average_from, 0.0) + power + 1), least))
        for k in range(n_problems):
            u = theta[k]
            g = gradient[k]
            rho = zero
            if fit_intercept:
                for i in range(size):
                    rho += z[i, k]
            shift = zero
            if l1 is not None:
                mean, threshold = state[-1, k], number(l1 * size)
                for j in range(n_features):
                    pace = eta * scale[j]
                    slope = g[j] - center[j] * rho
                    mean[j] += gamma * (slope / size - mean[j])
                    moved = soft(u[j] - pace * slope, pace * threshold) / (1 + pace * decay)
                    shift += center[j] * (u[j] - moved)
                    u[j] = moved
            else:
                for j in range(n_features):
                    pace = eta * scale[j]
                    moved = (u[j] - pace * (g[j] - center[j] * rho)) / (1 + pace * decay)
                    shift += center[j] * (u[j] - moved)
                    u[j] = moved
            if fit_intercept:
                u[n_features] += shift - eta * rho
            if averaged:
                a = state[1, k]
                for j in range(n_features + 1):
                    a[j] += gamma * (u[j] - a[j])
        t += 1.0
    return total


@kernel
def _observe_sparse(data, indices, indptr, rows, r, batch_size, fit_intercept, scale, sums):
    """Add a step's gradient ``g`` to ``sums`` and return its squared norm.

    A feature may occur in several rows, so no stored value knows its whole ``g_j``. But ``g`` adds
    ``|g|^2 + 2 <g, sums>`` to the squared norm of ``sums``: the first walk over the rows takes the product
    with ``sums`` before, the second the growth. No workspace is needed.
    """
    n_features, n_problems = len(scale), r.shape[1]
    square = 0.0
    if n_problems == 1:  # an inner loop over a single problem would take longer than all else
        flat = sums[:, 0]
        for i in range(len(rows)):
            factor = np.float64(r[i, 0]) / batch_size
            for p in range(indptr[rows[i]], indptr[rows[i] + 1]):
                j = indices[p]
                square -= 2.0 * (factor * data[p] * np.sqrt(np.float64(scale[j]))) * flat[j]
        for i in range(len(rows)):
            factor = np.float64(r[i, 0]) / batch_size
            for p in range(indptr[rows[i]], indptr[rows[i] + 1]):
                j = indices[p]
                value = factor * data[p] * np.sqrt(np.float64(scale[j]))
                before = flat[j]
                square += value * (2.0 * before + value)
                flat[j] = before + value
    else:
        inverse = 1.0 / batch_size
        for i in range(len(rows)):
            own = r[i]
            for p in range(indptr[rows[i]], indptr[rows[i] + 1]):
                j = indices[p]
                total = sums[j]
                product = 0.0
                for k in range(n_problems):
                    product += np.float64(own[k]) * total[k]
                square -= 2.0 * (inverse * data[p] * np.sqrt(np.float64(scale[j]))) * product
        for i in range(len(rows)):
            own = r[i]
            for p in range(indptr[rows[i]], indptr[rows[i] + 1]):
                j = indices[p]
                total = sums[j]
                factor = inverse * data[p] * np.sqrt(np.float64(scale[j]))
                for k in range(n_problems):
                    value = factor * np.float64(own[k])
                    square += value * (2.0 * total[k] + value)
                    total[k] += value
    if fit_intercept:
        for k in range(n_problems):
            rho = 0.0
            for i in range(len(rows)):
                rho += r[i, k]
            rho /= batch_size
            sums[n_features, k] += rho
            square += rho * rho
    return square


@kernel
def sparse_steps(
    data, indices, indptr, targets, weights, order, start, stop, batch_size, state, t,
    fill, loss, epsilon, class_weights, positive, l1, l2, fit_intercept, scale, share, schedule, passive,
    eta0, parameter, averaged, power, average_from, least, sweep, sums, squares, z, values, y, w,
):  # fmt: skip
    """Train on ``order[start:stop]`` of CSR rows, touching only the coefficients of stored values.

    The penalties of a coefficient are shared out among the rows that store its feature (Niu et al., 2011,
    arXiv:1106.5730): each takes ``share_j`` times its weight of them, so that all rows of an epoch together
    take one for each row. The averages, which concern all coefficients, are brought up to date every
    ``sweep`` steps, counted from the first row of the partition, and at its end.
    """
    theta = state[0]
    n_features = theta.shape[0] - 1
    n_problems = theta.shape[1]
    number = theta.dtype.type
    zero, strength = number(0), number(l2)
    if l1 is not None:
        slopes, sparsity = np.zeros_like(theta), number(l1)  # sums over the steps since ``begun``
        begun = t
    total = 0.0
    for first in range(start, stop, batch_size):
        size = min(batch_size, stop - first)
        for i in range(size):
            row = order[first + i]
            y[i] = targets[row]
            w[i] = weights[row]
            out = z[i]
            for k in range(n_problems):
                out[k] = theta[n_features, k]
            for p in range(indptr[row], indptr[row + 1]):
                value = data[p]
                u = theta[indices[p]]
                for k in range(n_problems):
                    out[k] += value * u[k]
        total += fill(loss, epsilon, z[:size], values[:size], y, w, class_weights, positive)
        if passive is not None:
            for i in range(size):
                row = order[first + i]
                square = zero
                for p in range(indptr[row], indptr[row + 1]):
                    square += data[p] * data[p]
                _be_passive(passive, eta0, square, z[i], values[i])
        eta = number(step_size(schedule, eta0, parameter, t) / batch_size)
        for i in range(size):
            row = order[first + i]
            r = z[i]
            for p in range(indptr[row], indptr[row + 1]):
                j = indices[p]
                pace = eta * scale[j]
                factor, part = pace * data[p], pace * share[j] * w[i]
                u = theta[j]
                keep = 1 / (1 + part * strength)
                if l1 is not None:
                    threshold = part * sparsity
                    slope = slopes[j]
                    for k in range(n_problems):
                        slope[k] += data[p] * r[k]
                        u[k] = soft(u[k] - factor * r[k], threshold) * keep
                else:
                    for k in range(n_problems):
                        u[k] = (u[k] - factor * r[k]) * keep
            if fit_intercept:
                u = theta[n_features]
                for k in range(n_problems):
                    u[k] -= eta * r[k]
        if sums is not None:
            rows = order[first : first + size]
            squares[0] += _observe_sparse(
                data, indices, indptr, rows, z, batch_size, fit_intercept, scale, sums
            )
        t += 1.0
        step = first // batch_size
        if (step + 1) % sweep == 0 or first + size == len(order):
            steps = step % sweep + 1
            seen = max(t - steps - average_from, 0.0) / steps
            gamma = number(max((power + 1) / (seen + power + 1), least * steps))
            if l1 is not None:
                inverse = number(1 / (batch_size * (t - begun)))
                for j in range(n_features):
                    mean, slope = state[-1, j], slopes[j]
                    for k in range(n_problems):
                        mean[k] += gamma * (inverse * slope[k] - mean[k])
                slopes[:] = zero
                begun = t
            if averaged:
                for j in range(n_features + 1):
                    u, a = theta[j], state[1, j]
                    for k in range(n_problems):
                        a[k] += gamma * (u[k] - a[k])
    return total
