"""Mini-batch steps over sparse rows; conventions as in `skdist.models.kernels`."""

from __future__ import annotations

import numpy as np

from skdist.models.compile import inlined, kernel
from skdist.models.kernels import be_passive, soft, step_size
from skdist.models.prefetch import prefetch, prefetch_rows


@inlined
def stored(indptr, row):
    """Return the range of what a row stores.

    Of unsigned numbers, here and below: an index that may be negative is looked at before it is used, which
    takes longer than all else that a stored value needs.
    """
    return range(np.uintp(indptr[row]), np.uintp(indptr[row + 1]))


@inlined
def _ask_for(data, indices, indptr, targets, weights, row):
    """Let a row of a later step come while this one computes, with its target and weight."""
    prefetch(np.uintp(targets.ctypes.data) + np.uintp(row) * np.uintp(targets.itemsize))
    prefetch(np.uintp(weights.ctypes.data) + np.uintp(row) * np.uintp(weights.itemsize))
    begin, count = np.uintp(indptr[row]), indptr[row + 1] - indptr[row]
    prefetch_rows(np.uintp(data.ctypes.data) + begin * np.uintp(data.itemsize), 1, count * data.itemsize)
    prefetch_rows(
        np.uintp(indices.ctypes.data) + begin * np.uintp(indices.itemsize), 1, count * indices.itemsize
    )


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
            for p in stored(indptr, rows[i]):
                j = np.uintp(indices[p])
                square -= 2.0 * (factor * data[p] * np.sqrt(np.float64(scale[j]))) * flat[j]
        for i in range(len(rows)):
            factor = np.float64(r[i, 0]) / batch_size
            for p in stored(indptr, rows[i]):
                j = np.uintp(indices[p])
                value = factor * data[p] * np.sqrt(np.float64(scale[j]))
                before = flat[j]
                square += value * (2.0 * before + value)
                flat[j] = before + value
    else:
        inverse = 1.0 / batch_size
        for i in range(len(rows)):
            own = r[i]
            for p in stored(indptr, rows[i]):
                j = np.uintp(indices[p])
                total = sums[j]
                product = 0.0
                for k in range(n_problems):
                    product += np.float64(own[k]) * total[k]
                square -= 2.0 * (inverse * data[p] * np.sqrt(np.float64(scale[j]))) * product
        for i in range(len(rows)):
            own = r[i]
            for p in stored(indptr, rows[i]):
                j = np.uintp(indices[p])
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
    n_features, n_problems = len(scale), z.shape[1]
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
            _ask_for(data, indices, indptr, targets, weights, order[min(first + i + batch_size, stop - 1)])
            if state.ndim == 2:
                raw = theta[n_features]
                for p in stored(indptr, row):
                    raw += data[p] * theta[np.uintp(indices[p])]
                z[i, 0] = raw
            else:
                out = z[i]
                for k in range(n_problems):
                    out[k] = theta[n_features, k]
                for p in stored(indptr, row):
                    value = data[p]
                    u = theta[np.uintp(indices[p])]
                    for k in range(n_problems):
                        out[k] += value * u[k]
        total += fill(loss, epsilon, z[:size], values[:size], y, w, class_weights, positive)
        if passive is not None:
            for i in range(size):
                square = zero
                for p in stored(indptr, order[first + i]):
                    square += data[p] * data[p]
                be_passive(passive, eta0, square, z[i], values[i])
        eta = number(step_size(schedule, eta0, parameter, t) / batch_size)
        for i in range(size):
            r, r0, weight = z[i], z[i, 0], w[i]
            for p in stored(indptr, order[first + i]):
                j = np.uintp(indices[p])
                pace = eta * scale[j]
                factor, part = pace * data[p], pace * share[j] * weight
                keep = 1 / (1 + part * strength)
                if l1 is not None:
                    threshold = part * sparsity
                if state.ndim == 2:
                    moved = theta[j] - factor * r0
                    if l1 is not None:
                        slopes[j] += data[p] * r0
                        moved = soft(moved, threshold)
                    theta[j] = moved * keep
                else:
                    u = theta[j]
                    if l1 is not None:
                        slope = slopes[j]
                        for k in range(n_problems):
                            slope[k] += data[p] * r[k]
                            u[k] = soft(u[k] - factor * r[k], threshold) * keep
                    else:
                        for k in range(n_problems):
                            u[k] = (u[k] - factor * r[k]) * keep
            if fit_intercept:
                if state.ndim == 2:
                    theta[n_features] -= eta * r0
                else:
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
                mean, slope = state[-1].reshape(theta.size), slopes.reshape(theta.size)
                for i in range(n_features * n_problems):
                    mean[i] += gamma * (inverse * slope[i] - mean[i])
                slopes[:] = zero
                begun = t
            if averaged:
                iterate, average = theta.reshape(theta.size), state[1].reshape(theta.size)
                for i in range(len(iterate)):
                    average[i] += gamma * (iterate[i] - average[i])
    return total
