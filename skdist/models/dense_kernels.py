"""Mini-batch steps over dense rows; conventions as in `skdist.models.kernels`."""

from __future__ import annotations

import numpy as np

from skdist.models.compile import inlined, kernel
from skdist.models.kernels import be_passive, soft, step_size
from skdist.models.prefetch import prefetch, prefetch_rows


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
                be_passive(passive, eta0, square, z[i], values[i])
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
