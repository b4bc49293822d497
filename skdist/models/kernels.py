"""The inner loops: consecutive mini-batch steps over rows of one partition.

Conventions
-----------
``order`` lists the rows of the partition in the order of this epoch; ``[start, stop)`` is the stretch
to train on. A step takes ``batch_size`` rows and moves the coefficients ``u`` to

    ``(u_j - pace_j * mean_i r_i (x_ij - center_j)) / (1 + pace_j * alpha)``,  ``pace_j = eta * scale_j``

where ``r_i`` is the weighted gradient of the loss in the raw prediction. The penalty is taken at the new
point, which is stable whatever its strength. The mean is over ``batch_size``, also when the last step is
shorter: such a step is scaled by its size. ``scale`` and ``center`` describe the data (see
`skdist.models.moments`); with ones and zeros this is plain SGD. The coefficients themselves stay in the
units of the raw data: what the intercept owes to the centring is ``-sum_j center_j * change of u_j``.

``state`` holds the iterate ``state[0]`` and, when ``state`` has two members, its running average
``state[1]``, which takes each iterate in with weight ``gamma = (power + 1) / (n + power + 1)`` after ``n``
earlier ones, and at least ``least``: later iterates count more where ``power > 0``, and a weight too small
for the precision of the numbers would freeze the average.

The dense kernel keeps ``state[m]`` as ``(n_problems, n_features + 1)``, the sparse kernel as
``(n_features + 1, n_problems)``: the innermost loop is then contiguous in both. The intercept is the
last member.

The kernels return the weighted sum of the losses, each before its own step.
"""

from __future__ import annotations

import numpy as np

from skdist.control.schedules import INVERSE_POWER, INVERSE_TIME
from skdist.models.compile import kernel
from skdist.models.losses import fill_gradients


@kernel
def step_size(schedule, eta0, parameter, t):
    """Return the step size after ``t`` steps; see `skdist.control.schedules.Schedule`."""
    if schedule == INVERSE_TIME:
        return eta0 * parameter / (parameter + t)
    if schedule == INVERSE_POWER:
        return eta0 / (1.0 + t) ** parameter
    return eta0


@kernel
def dense_steps(
    X, codes, weights, order, start, stop, batch_size, state, t,
    loss, positive, alpha, fit_intercept, scale, center,
    schedule, eta0, parameter, power, average_from, least,
):  # fmt: skip
    """Train on ``order[start:stop]`` of a C-contiguous ``X``."""
    n_features = X.shape[1]
    theta = state[0]
    n_problems = theta.shape[0]
    number = theta.dtype.type
    zero = number(0)
    z = np.empty((batch_size, n_problems), theta.dtype)
    values = np.empty((batch_size, n_problems))
    y = np.empty(batch_size, np.int32)
    w = np.empty(batch_size, theta.dtype)
    gradient = np.empty((n_problems, n_features), theta.dtype)
    total = 0.0
    for first in range(start, stop, batch_size):
        size = min(batch_size, stop - first)
        for i in range(size):
            row = order[first + i]
            y[i] = codes[row]
            w[i] = weights[row]
            x = X[row]
            for k in range(n_problems):
                u = theta[k]
                dot = zero
                for j in range(n_features):
                    dot += x[j] * u[j]
                z[i, k] = dot + u[n_features]
        total += fill_gradients(loss, z[:size], values[:size], y, w, positive)
        gradient[:] = zero
        i = 0
        while i + 4 <= size:
            x0 = X[order[first + i]]
            x1 = X[order[first + i + 1]]
            x2 = X[order[first + i + 2]]
            x3 = X[order[first + i + 3]]
            for k in range(n_problems):
                r0, r1, r2, r3 = z[i, k], z[i + 1, k], z[i + 2, k], z[i + 3, k]
                g = gradient[k]
                for j in range(n_features):
                    g[j] += r0 * x0[j] + r1 * x1[j] + r2 * x2[j] + r3 * x3[j]
            i += 4
        while i < size:
            x0 = X[order[first + i]]
            for k in range(n_problems):
                r0 = z[i, k]
                g = gradient[k]
                for j in range(n_features):
                    g[j] += r0 * x0[j]
            i += 1
        eta = number(step_size(schedule, eta0, parameter, t) / batch_size)
        decay = number(alpha * size)
        gamma = number(max((power + 1) / (max(t - average_from, 0.0) + power + 1), least))
        for k in range(n_problems):
            u = theta[k]
            g = gradient[k]
            rho = zero
            if fit_intercept:
                for i in range(size):
                    rho += z[i, k]
            shift = zero
            for j in range(n_features):
                pace = eta * scale[j]
                moved = (u[j] - pace * (g[j] - center[j] * rho)) / (1 + pace * decay)
                shift += center[j] * (u[j] - moved)
                u[j] = moved
            if fit_intercept:
                u[n_features] += shift - eta * rho
            if state.shape[0] == 2:
                a = state[1, k]
                for j in range(n_features + 1):
                    a[j] += gamma * (u[j] - a[j])
        t += 1.0
    return total


@kernel
def sparse_steps(
    data, indices, indptr, codes, weights, order, start, stop, batch_size, state, t,
    loss, positive, alpha, fit_intercept, scale, schedule, eta0, parameter, power, average_from, least, sweep,
):  # fmt: skip
    """Train on ``order[start:stop]`` of CSR rows, touching only the coefficients of stored values.

    The penalty and the average, which concern all coefficients, are brought up to date every ``sweep``
    steps, counted from the first row of the partition, and at its end.
    """
    theta = state[0]
    n_features = theta.shape[0] - 1
    n_problems = theta.shape[1]
    number = theta.dtype.type
    z = np.empty((batch_size, n_problems), theta.dtype)
    values = np.empty((batch_size, n_problems))
    y = np.empty(batch_size, np.int32)
    w = np.empty(batch_size, theta.dtype)
    total = 0.0
    for first in range(start, stop, batch_size):
        size = min(batch_size, stop - first)
        for i in range(size):
            row = order[first + i]
            y[i] = codes[row]
            w[i] = weights[row]
            out = z[i]
            for k in range(n_problems):
                out[k] = theta[n_features, k]
            for p in range(indptr[row], indptr[row + 1]):
                value = data[p]
                u = theta[indices[p]]
                for k in range(n_problems):
                    out[k] += value * u[k]
        total += fill_gradients(loss, z[:size], values[:size], y, w, positive)
        eta = number(step_size(schedule, eta0, parameter, t) / batch_size)
        for i in range(size):
            row = order[first + i]
            r = z[i]
            for p in range(indptr[row], indptr[row + 1]):
                j = indices[p]
                factor = eta * scale[j] * data[p]
                u = theta[j]
                for k in range(n_problems):
                    u[k] -= factor * r[k]
            if fit_intercept:
                u = theta[n_features]
                for k in range(n_problems):
                    u[k] -= eta * r[k]
        t += 1.0
        step = first // batch_size
        if (step + 1) % sweep == 0 or first + size == len(order):
            steps = step % sweep + 1
            decay = number(eta * batch_size * alpha * steps)
            seen = max(t - steps - average_from, 0.0) / steps
            gamma = number(max((power + 1) / (seen + power + 1), least * steps))
            averaged = state.shape[0] == 2
            for j in range(n_features + 1):
                u = theta[j]
                keep = number(1) if j == n_features else 1 / (1 + decay * scale[j])
                for k in range(n_problems):
                    u[k] *= keep
                if averaged:
                    a = state[1, j]
                    for k in range(n_problems):
                        a[k] += gamma * (u[k] - a[k])
    return total
