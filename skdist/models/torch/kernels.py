"""What a step of a multilayer perceptron does besides multiplying matrices: one pass over each array.

Conventions
-----------
``delta`` is the derivative of the mean loss in what a layer gave before its activation, shape
(n_rows, n_units). Weights of rows are those of the loss divided by the full size of a mini-batch, so that
sums of ``delta`` are gradients. ``spans`` has a row ``(start, stop)`` for each parameter of the flat vector
and ``decays`` the l2 strength of each.
"""

from __future__ import annotations

import numpy as np

from skdist.models.compile import kernel

#: Activations of hidden layers, by the code that `hidden_delta` branches on.
ACTIVATIONS = {"identity": 0, "relu": 1, "tanh": 2, "logistic": 3}


@kernel
def softmax_delta(z, targets, weights):
    """Turn logits into ``delta`` of the cross-entropy, in place; return the weighted sum of the losses."""
    total = 0.0
    n_rows, n_classes = z.shape
    for i in range(n_rows):
        row, weight, label = z[i], weights[i], targets[i]
        top = row[0]
        for k in range(1, n_classes):
            top = max(top, row[k])
        target = row[label] - top
        norm = np.float32(0.0)
        for k in range(n_classes):
            row[k] = np.exp(row[k] - top)
            norm += row[k]
        total += weight * (np.log(norm) - target)
        factor = weight / norm
        for k in range(n_classes):
            row[k] *= factor
        row[label] -= weight
    return total


@kernel
def logistic_delta(z, targets, weights):
    """As `softmax_delta`, of one logit for two classes."""
    total = 0.0
    for i in range(len(z)):
        logit, weight, label = z[i, 0], weights[i], np.float32(targets[i])
        small = np.exp(-abs(logit))
        total += weight * (max(logit, np.float32(0.0)) - logit * label + np.log1p(small))
        positive = (np.float32(1.0) if logit >= 0 else small) / (np.float32(1.0) + small)
        z[i, 0] = weight * (positive - label)
    return total


@kernel
def squared_delta(z, targets, weights):
    """As `softmax_delta`, of half the squared error of one number."""
    total = 0.0
    for i in range(len(z)):
        error = z[i, 0] - targets[i]
        total += weights[i] * error * error / 2
        z[i, 0] = weights[i] * error
    return total


@kernel
def poisson_delta(z, targets, weights):
    """As `softmax_delta`, of half the Poisson deviance of one count, of which ``z`` is the logarithm."""
    total = 0.0
    for i in range(len(z)):
        logit, weight, count = z[i, 0], weights[i], targets[i]
        mean = np.exp(logit)
        constant = count * np.log(count) - count if count > 0 else np.float32(0.0)
        total += weight * (mean - count * logit + constant)
        z[i, 0] = weight * (mean - count)
    return total


@kernel
def hidden_delta(delta, outputs, code, bias):
    """Multiply ``delta`` by the slope of the activation, in place, and sum it into the bias' gradient.

    ``outputs`` are those of the activation, of which all slopes are functions.
    """
    one = np.float32(1.0)
    bias[:] = 0
    for i in range(len(delta)):
        row, out = delta[i], outputs[i]
        if code == 1:
            for j in range(len(row)):
                row[j] = row[j] if out[j] > 0 else np.float32(0.0)
        elif code == 2:
            for j in range(len(row)):
                row[j] *= one - out[j] * out[j]
        elif code == 3:
            for j in range(len(row)):
                row[j] *= out[j] * (one - out[j])
        for j in range(len(row)):
            bias[j] += row[j]


@kernel
def column_sums(delta, bias):
    """Sum ``delta`` into the bias' gradient."""
    bias[:] = 0
    for i in range(len(delta)):
        for j in range(delta.shape[1]):
            bias[j] += delta[i, j]


@kernel
def momentum_step(values, gradients, velocity, spans, decays, rate, momentum, nesterov):
    """Make a step of SGD with momentum: ``v = momentum v + g``, along ``v`` or ``g + momentum v``."""
    along, beside = (momentum, np.float32(1.0)) if nesterov else (np.float32(1.0), np.float32(0.0))
    for k in range(len(spans)):
        decay, start, stop = decays[k], spans[k, 0], spans[k, 1]
        w, g, v = values[start:stop], gradients[start:stop], velocity[start:stop]
        for i in range(len(w)):
            slope = g[i] + decay * w[i]
            speed = momentum * v[i] + slope
            v[i] = speed
            w[i] -= rate * (along * speed + beside * slope)


@kernel
def adam_step(values, gradients, first, second, spans, decays, rate, beta_1, beta_2, epsilon):
    """Make a step of Adam; ``rate`` holds the corrections of the bias, as in scikit-learn's."""
    one = np.float32(1.0)
    for k in range(len(spans)):
        decay, start, stop = decays[k], spans[k, 0], spans[k, 1]
        w, g, m, v = values[start:stop], gradients[start:stop], first[start:stop], second[start:stop]
        for i in range(len(w)):
            slope = g[i] + decay * w[i]
            mean = beta_1 * m[i] + (one - beta_1) * slope
            square = beta_2 * v[i] + (one - beta_2) * slope * slope
            m[i], v[i] = mean, square
            w[i] -= rate * mean / (np.sqrt(square) + epsilon)
