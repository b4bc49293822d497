import dataclasses
import math

import numpy as np
import pytest
import scipy.sparse as sp

from skdist.control.schedules import AutoRate
from skdist.models.noise import GradientNoise
from tests.fakes import linear_model, rows_of

N_ROWS, BATCH = 93, 8  # the last step is short
layouts = pytest.mark.parametrize("sparse", [False, True])
precisions = pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-9), (np.float32, 1e-4)])


def problem(sparse=False, n_classes=2, dtype=np.float64, weighted=True, **params):
    """Return a model whose features have unlike scales, and its rows."""
    X, y = rows_of(N_ROWS, 6, n_classes, dtype)
    X = (X * np.array([0.1, 1, 10, 1, 3, 1])).astype(dtype)
    if sparse:
        X[np.random.default_rng(3).random(X.shape) < 0.5] = 0
        X = sp.csr_array(X)
    weights = np.random.default_rng(2).uniform(0, 3, N_ROWS) if weighted else None
    params = {"loss": "log_loss", "learning_rate": AutoRate(), "batch_size": BATCH, "alpha": 1e-2, **params}
    return linear_model(X, y, weights, **params)


def slopes(model, z, codes):
    """Return ``dloss/dz`` of raw predictions of shape (n_rows, n_problems)."""
    first = 1 if model.n_problems == 1 else 0
    target = np.where(codes[:, None] == np.arange(model.n_problems) + first, 1.0, -1.0)
    if model.loss == "hinge":
        return np.where(target * z < 1, -target, 0.0)
    return -target / (1 + np.exp(target * z))


def gradients(model, partition, order, start, stop, state, t):
    """Train a copy of ``state`` step by step and return the gradient of each step, all in float64."""
    state, found = state.copy(), []
    X = partition.X.toarray() if model.sparse else partition.X
    X, weights = X.astype(np.float64), partition.weights.astype(np.float64)
    root = np.sqrt(model.scale.astype(np.float64))
    for first in range(start, stop, BATCH):
        last = min(first + BATCH, stop)
        rows = order[first:last]
        theta = model.unpack(state)[0].astype(np.float64)
        r = slopes(model, X[rows] @ theta[:, :-1].T + theta[:, -1], partition.targets[rows])
        r *= weights[rows, None]
        coef = r.T @ (X[rows] - model.center) * root / BATCH
        intercept = r.sum(axis=0)[:, None] / BATCH * model.fit_intercept
        found.append(np.hstack([coef, intercept]))
        model.train(state, partition, order, first, last, t)
        t += 1
    return found


def volatility(found):
    """Return the definition, for gradients of steps."""
    stacked = np.array(found)
    return math.sqrt(((stacked - stacked.mean(axis=0)) ** 2).sum(axis=(1, 2)).mean())


def start_of(model):
    rng = np.random.default_rng(1)
    states = 0.1 * rng.normal(size=(2, model.n_problems, model.n_features + 1))
    return model.pack(states[: 2 if model.averaged else 1].astype(model.dtype))


@layouts
@precisions
@pytest.mark.parametrize("n_classes", [2, 3, 11])
@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
@pytest.mark.parametrize(("start", "stop"), [(0, 16), (8, N_ROWS)])
def test_volatility_is_that_of_the_gradients(sparse, dtype, rtol, n_classes, loss, start, stop):
    model, partition = problem(sparse, n_classes, dtype, loss=loss)
    order, state, noise = model.order(partition, 0, 0), start_of(model), model.new_noise()
    expected = gradients(model, partition, order, start, stop, state, 4.0)
    model.train(state, partition, order, start, stop, 4.0, noise)
    assert noise.steps == len(expected) == model.steps(stop - start)
    sums = np.sum(expected, axis=0)
    np.testing.assert_allclose(noise.sums.T if sparse else noise.sums, sums, rtol=rtol, atol=rtol)
    assert noise.squares[0] == pytest.approx(sum(np.vdot(g, g) for g in expected), rel=rtol)
    assert noise.volatility == pytest.approx(volatility(expected), rel=rtol)


@layouts
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "params",
    [
        {"weighted": False},
        {"fit_intercept": False},
        {"learning_rate": "constant"},
        {"learning_rate": "constant", "average": True},
        {"alpha": 0.0},
    ],
)
def test_volatility_under_other_settings(sparse, n_classes, params):
    model, partition = problem(sparse, n_classes, **params)
    order, state, noise = model.order(partition, 0, 0), start_of(model), model.new_noise()
    if not model.fit_intercept:
        model.train(state, partition, order, 0, N_ROWS, 0.0)
    expected = volatility(gradients(model, partition, order, 0, N_ROWS, state, 0.0))
    model.train(state, partition, order, 0, N_ROWS, 0.0, noise)
    assert noise.volatility == pytest.approx(expected, rel=1e-9)


@layouts
@pytest.mark.parametrize("n_classes", [2, 3])
def test_calls_add_up(sparse, n_classes):
    model, partition = problem(sparse, n_classes)
    noise, state, expected, t = model.new_noise(), start_of(model), [], 0.0
    # Slices of a round, a merge between them, and the next partition.
    for number, start, stop in ((0, 0, 8), (0, 8, 64), (0, 64, N_ROWS), (1, 16, 24)):
        order = model.order(partition, number, 0)
        expected += gradients(model, partition, order, start, stop, state, t)
        model.train(state, partition, order, start, stop, t, noise)
        state *= 0.9
        t += model.steps(stop - start)
    assert noise.steps == len(expected) == 13
    assert noise.volatility == pytest.approx(volatility(expected), rel=1e-9)


@layouts
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [2, 3, 11])
@pytest.mark.parametrize("rate", [AutoRate(), "constant", "optimal"])
@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_watching_does_not_change_the_state_by_a_bit(sparse, dtype, n_classes, rate, batch_size):
    model, partition = problem(sparse, n_classes, dtype, learning_rate=rate, batch_size=batch_size)
    order = model.order(partition, 0, 0)
    states, losses = [start_of(model) for _ in range(2)], []
    for state, noise in zip(states, (None, model.new_noise()), strict=True):
        losses.append(model.train(state, partition, order, 0, N_ROWS, 3.0, noise))
    np.testing.assert_array_equal(*states)
    assert losses[0] == losses[1]


def test_what_is_not_watched_leaves_no_trace():
    model, partition = problem()
    noise = model.new_noise()
    order = model.order(partition, 0, 0)
    model.train(start_of(model), partition, order, 0, N_ROWS, 0.0)
    assert noise.steps == 0
    assert not noise.sums.any()
    assert not model.new_noise().squares.any()


def test_sparse_and_dense_rows_are_equally_noisy():
    model, partition = problem(sparse=True, n_classes=3)
    model = dataclasses.replace(model, sweep=1, l2=0.0)  # rows of a step share their penalties out otherwise
    dense = dataclasses.replace(model, sparse=False), dataclasses.replace(partition, X=partition.X.toarray())
    found = []
    for one, rows in ((model, partition), dense):
        noise = one.new_noise()
        one.train(one.initial_state(), rows, model.order(partition, 0, 0), 0, N_ROWS, 0.0, noise)
        found.append(noise.volatility)
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_volatility_does_not_depend_on_the_units_of_the_features():
    X, y = rows_of(96, 4)
    found = []
    for units in (1.0, np.array([1e-3, 1.0, 50.0, 1e3])):
        rows = X * units + units
        model, partition = linear_model(rows, y, loss="log_loss", learning_rate=AutoRate(), alpha=0.0)
        noise = model.new_noise()
        order = model.order(partition, 0, 0)
        model.train(model.initial_state(), partition, order, 0, 96, 0.0, noise)
        found.append(noise.volatility)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@layouts
@pytest.mark.parametrize("n_classes", [2, 3])
def test_steps_that_all_see_the_same_have_no_volatility(sparse, n_classes):
    # The hinge is linear inside the margin: the gradients do not change as the coefficients do.
    model, partition = problem(sparse, n_classes, weighted=False, loss="hinge", learning_rate="constant")
    model = dataclasses.replace(model, schedule=dataclasses.replace(model.schedule, eta0=1e-6))
    order = np.tile(np.arange(BATCH, dtype=np.int32), 12)
    noise = model.new_noise()
    model.train(model.initial_state(), partition, order, 0, len(order), 0.0, noise)
    assert noise.steps == 12
    assert noise.squares[0] > 0
    assert noise.volatility == 0.0


@pytest.mark.parametrize("steps", [0, 1])
def test_fewer_than_two_steps_have_no_volatility(steps):
    model, partition = problem()
    noise = model.new_noise()
    order = model.order(partition, 0, 0)
    model.train(model.initial_state(), partition, order, 0, steps * BATCH, 0.0, noise)
    assert noise.steps == steps
    assert math.isnan(noise.volatility)


def test_gradients_that_are_not_finite_have_no_volatility():
    noise = GradientNoise((1, 2))
    noise.steps, noise.squares[0] = 2, math.nan
    assert math.isnan(noise.volatility)
