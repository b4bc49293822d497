import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import logsumexp, softmax

from skdist.control.schedules import (
    INVERSE_POWER,
    INVERSE_TIME,
    LATE_DECAY,
    PASSIVE_AGGRESSIVE_1,
    PASSIVE_AGGRESSIVE_2,
    AutoRate,
)
from skdist.models.linear import AVERAGE_POWER
from tests.fakes import linear_model, rows_of

RATES = {
    "auto": {"learning_rate": AutoRate()},
    "optimal": {"learning_rate": "optimal", "alpha": 1e-2},
    "invscaling": {"learning_rate": "invscaling"},
    "constant": {"learning_rate": "constant"},
    "averaged": {"learning_rate": "constant", "average": 30},
}


def gradients(model, z, targets):
    """Return losses and ``dloss/dz`` of raw predictions of shape (n_rows, n_problems)."""
    if not model.n_classes:
        return (z - targets[:, None]) ** 2 / 2, z - targets[:, None]
    if model.loss == "multinomial":
        own = np.eye(model.n_classes)[targets]
        return (logsumexp(z, axis=1, keepdims=True) - z) * own, softmax(z, axis=1) - own
    positive = 1 if model.n_problems == 1 else 0
    target = np.where(targets[:, None] == np.arange(z.shape[1]) + positive, 1.0, -1.0)
    margin = target * z
    if model.loss == "hinge":
        return np.maximum(0, 1 - margin), np.where(margin < 1, -target, 0.0)
    return np.logaddexp(0, -margin), -target / (1 + np.exp(margin))


def step_size(schedule, t):
    if schedule.code == INVERSE_TIME:
        return schedule.eta0 * schedule.parameter / (schedule.parameter + t)
    if schedule.code == INVERSE_POWER:
        return schedule.eta0 / (1 + t) ** schedule.parameter
    if schedule.code == LATE_DECAY:
        return schedule.eta0 * min(1, schedule.parameter / max(t, 1)) ** 0.75
    return schedule.eta0


def reference(model, states, partition, order, start, stop, t):
    """Train as the formula says, in float64; ``states`` is (n_states, n_problems, n_features + 1)."""
    states = states.astype(np.float64)
    X, weights = partition.X.astype(np.float64), partition.weights.astype(np.float64)
    scale, center = model.scale.astype(np.float64), model.center.astype(np.float64)
    power = AVERAGE_POWER if model.schedule.adaptive or not model.averaged else 0.0
    average_from = model.schedule.average_from if model.averaged else 0.0
    total = 0.0
    for first in range(start, stop, model.batch_size):
        rows = order[first : min(first + model.batch_size, stop)]
        coef, intercept = states[0, :, :-1].copy(), states[0, :, -1].copy()
        z = X[rows] @ coef.T + intercept
        losses, r = gradients(model, z, partition.targets[rows])
        total += (weights[rows, None] * losses).sum()
        r *= weights[rows, None]
        size, eta = len(rows) / model.batch_size, step_size(model.schedule, t)
        if model.schedule.code in (PASSIVE_AGGRESSIVE_1, PASSIVE_AGGRESSIVE_2):
            squares = (X[rows] ** 2).sum(axis=1)[:, None]
            if model.schedule.code == PASSIVE_AGGRESSIVE_1:
                r *= np.minimum(eta, losses / squares) / eta
            else:
                r *= losses / (squares + 1 / (2 * eta)) / eta
        pace, slopes = eta * scale, (r.T @ (X[rows] - center)) / model.batch_size
        moved = coef - pace * slopes
        moved = np.sign(moved) * np.maximum(abs(moved) - pace * model.l1 * size, 0)
        states[0, :, :-1] = moved = moved / (1 + pace * model.l2 * size)
        if model.fit_intercept:
            states[0, :, -1] = intercept + (coef - moved) @ center - eta * r.sum(axis=0) / model.batch_size
        gamma = (power + 1) / (max(t - average_from, 0) + power + 1)
        if model.averaged:
            states[1] += gamma * (states[0] - states[1])
        if model.l1:
            states[-1, :, :-1] += gamma * (slopes / size - states[-1, :, :-1])
        t += 1
    return states, total / (1 if model.loss == "multinomial" else model.n_problems)


def start_of(model, seed=1):
    rng = np.random.default_rng(seed)
    shape = (model.n_states, model.n_problems, model.n_features + 1)
    return (0.1 * rng.normal(size=shape)).astype(model.dtype)


def compare(model, partition, start, stop, t, rtol):
    order = model.order(partition, 0, 0)
    states = start_of(model)
    expected, expected_loss = reference(model, states, partition, order, start, stop, t)
    state = model.pack(states.copy())
    loss = model.train(state, partition, order, start, stop, t)
    assert state.dtype == model.dtype
    np.testing.assert_allclose(model.unpack(state), expected, rtol=rtol, atol=rtol)
    assert loss == pytest.approx(expected_loss, rel=rtol)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("loss", ["hinge", "log_loss"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-9), (np.float32, 2e-4)])
@pytest.mark.parametrize(("start", "stop"), [(0, 8), (8, 61)])
def test_dense_steps_follow_the_formula(rate, loss, n_classes, dtype, rtol, start, stop):
    X, y = rows_of(61, 5, n_classes, dtype)
    weights = np.random.default_rng(2).uniform(0, 3, 61)
    model, partition = linear_model(X, y, weights, loss=loss, **RATES[rate])
    compare(model, partition, start, stop, 12.0, rtol)


@pytest.mark.parametrize("rate", ["auto", "constant", "averaged"])
@pytest.mark.parametrize(
    ("n_classes", "params"),
    [
        (2, {"penalty": "l1", "alpha": 0.02}),
        (3, {"penalty": "elasticnet", "alpha": 0.05, "l1_ratio": 0.4}),
        (3, {"loss": "multinomial"}),
        (0, {"loss": "squared_error"}),
        (0, {"loss": "squared_error", "penalty": "l1", "alpha": 0.02}),
    ],
)
def test_penalties_and_kinds_of_targets_follow_the_formula(rate, n_classes, params):
    X, y = rows_of(61, 5, max(n_classes, 2))
    y = y if n_classes else X @ np.arange(5.0) + 3
    weights = np.random.default_rng(2).uniform(0, 3, 61)
    model, partition = linear_model(X, y, weights, regression=not n_classes, **{**RATES[rate], **params})
    compare(model, partition, 8, 61, 12.0, 1e-9)


@pytest.mark.parametrize("rate", ["pa1", "pa2"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_passive_aggressive_steps_follow_the_formula(rate, n_classes, batch_size):
    X, y = rows_of(61, 5, n_classes)
    model, partition = linear_model(
        X, y, loss="hinge", learning_rate=rate, eta0=0.7, penalty=None, batch_size=batch_size
    )
    compare(model, partition, 0, 61, 0.0, 1e-9)


@pytest.mark.parametrize("rate", ["auto", "constant"])
@pytest.mark.parametrize("sparse", [False, True])
def test_without_intercept_it_does_not_move(rate, sparse):
    X, y = rows_of(61, 4)
    rows = sp.csr_array(X) if sparse else X
    model, partition = linear_model(rows, y, fit_intercept=False, **RATES[rate])
    np.testing.assert_array_equal(model.center, 0)
    state = model.initial_state()
    model.train(state, partition, model.order(partition, 0, 0), 0, 61, 0.0)
    coef, intercept = model.coefficients(state)
    assert intercept == [0.0]
    assert (coef != 0).all()
    if not sparse:
        compare(dataclasses.replace(model, seed=9), partition, 0, 61, 0.0, 1e-9)


def test_long_training_shrinks_its_steps():
    X, y = rows_of(61, 5, 3)
    model, partition = linear_model(X, y, **RATES["auto"])
    assert model.schedule.parameter < 4500
    compare(model, partition, 0, 61, 9000.0, 1e-9)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 64])
def test_dense_steps_of_any_size(batch_size):
    X, y = rows_of(61, 5, 3)
    model, partition = linear_model(X, y, batch_size=batch_size, **RATES["auto"])
    compare(model, partition, 0, 61, 0.0, 1e-9)


def test_wide_rows():
    X, y = rows_of(40, 131, 2)
    model, partition = linear_model(X, y, **RATES["auto"])
    compare(model, partition, 0, 40, 0.0, 1e-9)


def test_a_short_step_counts_by_its_rows():
    X, y = rows_of(9, 2)
    model, partition = linear_model(X, y, batch_size=8, alpha=0.0)
    order = np.arange(9, dtype=np.int32)
    short = model.initial_state()
    model.train(short, partition, order, 8, 9, 0.0)
    single = model.initial_state()
    one = dataclasses.replace(model, batch_size=1)
    one.train(single, partition, order, 8, 9, 0.0)
    np.testing.assert_allclose(8 * short, single, rtol=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_of_weight_zero_change_nothing(sparse):
    X, y = rows_of(64, 3)
    weights = np.zeros(64)
    weights[:8] = 1
    rows = sp.csr_array(X) if sparse else X
    model, partition = linear_model(rows, y, weights, alpha=0.0)
    order = np.arange(64, dtype=np.int32)
    states = [model.initial_state() for _ in range(2)]
    losses = [
        model.train(state, partition, order, 0, stop, 0.0)
        for state, stop in zip(states, (8, 64), strict=True)
    ]
    np.testing.assert_array_equal(*states)
    assert losses[0] == losses[1]


def sparse_rows(n_rows=120, n_features=30, n_classes=2, dtype=np.float64, density=0.2):
    X = sp.random_array((n_rows, n_features), density=density, rng=np.random.default_rng(4), dtype=np.float64)
    X = sp.csr_array(X.astype(dtype))
    y = np.random.default_rng(5).integers(n_classes, size=n_rows)
    return X, y


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_sparse_steps_equal_dense_steps(rate, n_classes, dtype, rtol):
    X, y = sparse_rows(n_classes=n_classes, dtype=dtype)
    model, partition = linear_model(X, y, **{"loss": "log_loss", **RATES[rate]})
    # Penalties are taken by the rows that store a feature; see below.
    model = dataclasses.replace(model, sweep=1, l2=0.0)
    assert model.sparse
    np.testing.assert_array_equal(model.center, 0)
    dense = dataclasses.replace(model, sparse=False)
    dense_partition = dataclasses.replace(partition, X=X.toarray())
    order, states = model.order(partition, 0, 0), start_of(model)
    ends, losses = [], []
    for one, rows in ((model, partition), (dense, dense_partition)):
        state = one.pack(states.copy())
        losses.append(one.train(state, rows, order, 0, 120, 3.0))
        ends.append(one.unpack(state))
    np.testing.assert_allclose(*ends, rtol=rtol, atol=rtol)
    assert losses[0] == pytest.approx(losses[1], rel=rtol)


def sparse_reference(model, states, partition, order, t):
    """Train a pass as `sparse_steps` says, in float64, with averages brought up to date after each step."""
    states, X = states.astype(np.float64), partition.X.astype(np.float64)
    rows_stored = np.bincount(X.indices, partition.weights[X.tocoo().row], minlength=X.shape[1])
    for first in range(0, len(order), model.batch_size):
        rows = order[first : first + model.batch_size]
        _, r = gradients(model, X[rows] @ states[0, :, :-1].T + states[0, :, -1], partition.targets[rows])
        r *= partition.weights[rows, None]
        eta = step_size(model.schedule, t) / model.batch_size
        slopes = np.zeros(states.shape[1:])
        for i, row in enumerate(rows):
            for j, value in zip(X[[row]].indices, X[[row]].data, strict=True):
                part = eta * model.scale[j] * partition.weights[row] * X.shape[0] / rows_stored[j]
                moved = states[0, :, j] - eta * model.scale[j] * value * r[i]
                moved = np.sign(moved) * np.maximum(abs(moved) - part * model.l1, 0)
                states[0, :, j] = moved / (1 + part * model.l2)
                slopes[:, j] += value * r[i] / model.batch_size
            states[0, :, -1] -= eta * r[i]
        gamma = (AVERAGE_POWER + 1) / (t + AVERAGE_POWER + 1)
        states[1] += gamma * (states[0] - states[1])
        if model.l1:
            states[2, :, :-1] += gamma * (slopes - states[2])[:, :-1]
        t += 1
    return states


@pytest.mark.parametrize("penalty", [{"penalty": "l2"}, {"penalty": "elasticnet", "l1_ratio": 0.4}])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_rows_that_store_a_feature_share_its_penalty(penalty, n_classes, dtype, rtol):
    X, y = sparse_rows(n_classes=n_classes, dtype=dtype)
    weights = np.random.default_rng(6).uniform(0.5, 2, len(y))
    model, partition = linear_model(
        X, y, weights, **{"loss": "log_loss", "alpha": 0.1, **RATES["auto"], **penalty}
    )
    model = dataclasses.replace(model, sweep=1)
    order, states = model.order(partition, 0, 0), start_of(model)
    state = model.pack(states)
    model.train(state, partition, order, 0, len(order), 3.0)
    expected = sparse_reference(model, states, partition, order, 3.0)
    np.testing.assert_allclose(model.unpack(state), expected, rtol=rtol, atol=rtol)


def test_all_rows_together_take_the_whole_penalty():
    X, y = sparse_rows(n_rows=128)
    X.data[:] = 1e-9  # rows that pull at nothing
    model, partition = linear_model(X, y, loss="hinge", alpha=0.05, learning_rate="constant", eta0=1e-3)
    state = model.initial_state(np.ones((1, 30)))
    model.train(state, partition, model.order(partition, 0, 0), 0, 128, 0.0)
    left = (1 - 1e-3 * 0.05) ** model.steps(128)
    np.testing.assert_allclose(1 - model.unpack(state)[0, 0, :-1], 1 - left, rtol=1e-3)


def test_a_strong_penalty_is_stable():
    X, y = rows_of(80, 3)
    for rows in (X, sp.csr_array(X)):
        model, partition = linear_model(rows, y, alpha=1e6)
        state = model.initial_state(np.ones((1, 3)))
        model.train(state, partition, model.order(partition, 0, 0), 0, 80, 0.0)
        assert abs(model.coefficients(state)[0]).max() < 1e-3


def test_the_iterate_does_not_depend_on_the_sweep_where_there_is_no_penalty():
    X, y = sparse_rows()
    model, partition = linear_model(X, y, **{**RATES["auto"], "alpha": 0.0})
    order = model.order(partition, 0, 0)
    iterates = []
    for sweep in (1, 7):
        one = dataclasses.replace(model, sweep=sweep)
        state = one.initial_state()
        one.train(state, partition, order, 0, 120, 0.0)
        iterates.append(one.unpack(state)[0])
    np.testing.assert_array_equal(*iterates)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("rate", RATES)
def test_training_in_pieces_is_training_in_one_go_to_the_bit(sparse, rate):
    X, y = sparse_rows() if sparse else rows_of(120, 6)
    model, partition = linear_model(X, y, **RATES[rate])
    order = model.order(partition, 0, 0)
    whole, pieces = model.initial_state(), model.initial_state()
    model.train(whole, partition, order, 0, 120, 5.0)
    for start, stop in ((0, 8), (8, 64), (64, 72), (72, 120)):
        model.train(pieces, partition, order, start, stop, 5.0 + start / 8)
    np.testing.assert_array_equal(whole, pieces)
