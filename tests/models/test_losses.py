import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.schedules import CONSTANT, Schedule
from skdist.exceptions import DivergedError
from skdist.models.losses import LOSSES
from tests.fakes import linear_model

names = pytest.mark.parametrize("name", sorted(LOSSES))


def evaluate(name, z, code, weight=1.0):
    """Return the loss and ``dloss/dz`` of one row with raw predictions ``z``, read off a step of a model.

    The first feature makes the prediction, the second collects the gradient.
    """
    z = np.atleast_1d(np.asarray(z, dtype=float))
    n_classes = max(len(z), 2)
    X = np.tile([1.0, 1.0], (n_classes, 1))
    model, partition = linear_model(X, np.arange(n_classes), loss=name, alpha=0.0, fit_intercept=False)
    model = dataclasses.replace(model, batch_size=1, schedule=Schedule(CONSTANT, 1.0))
    partition = dataclasses.replace(partition, weights=np.full(n_classes, weight))
    state = model.initial_state(np.column_stack([z, np.zeros(len(z))]))
    loss = model.train(state, partition, np.array([code], np.int32), 0, 1, 0.0)
    return loss, -state[0, :, 1]


def expected_loss(name, margin):
    if name == "hinge":
        return max(0.0, 1 - margin)
    return math.log1p(math.exp(-abs(margin))) + max(-margin, 0.0)


@names
@pytest.mark.parametrize("z", [-30.0, -2.5, -0.1, 0.0, 0.3, 0.9, 1.7, 25.0])
@pytest.mark.parametrize("code", [0, 1])
def test_values(name, z, code):
    assert evaluate(name, z, code)[0] == pytest.approx(expected_loss(name, z if code else -z), rel=1e-12)


@names
@settings(deadline=None, max_examples=50)
@given(st.floats(-8, 8), st.integers(0, 1), st.floats(0, 5))
def test_gradient_is_the_five_point_difference_of_the_loss(name, z, code, weight):
    h = 1e-3
    if name == "hinge" and abs((z if code else -z) - 1) < 3 * h:
        z += 10 * h
    a, b, c, d = (evaluate(name, z + k * h, code, weight)[0] for k in (-2, -1, 1, 2))
    assert evaluate(name, z, code, weight)[1] == pytest.approx((a - 8 * b + 8 * c - d) / (12 * h), abs=1e-8)


@names
@pytest.mark.parametrize("size", [50.0, 800.0, 1e30, 1e300])
def test_large_predictions_do_not_overflow(name, size):
    with np.errstate(all="raise"):
        wrong, slope = evaluate(name, size, 0)
        right, flat = evaluate(name, size, 1)
    assert wrong == pytest.approx(size + (name == "hinge"))
    assert slope == [1.0]
    assert right == pytest.approx(0.0, abs=1e-20)
    assert flat == pytest.approx([0.0], abs=1e-20)


@names
@pytest.mark.parametrize(("z", "code"), [(math.nan, 0), (math.nan, 1), (math.inf, 0), (-math.inf, 1)])
def test_a_prediction_that_is_no_number_is_not_passed_over(name, z, code):
    with pytest.raises(DivergedError, match="Lower the step size"):
        evaluate(name, z, code)


@names
@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=5), st.data())
def test_one_vs_rest_is_a_binary_problem_for_each_class(name, z, data):
    code = data.draw(st.integers(0, len(z) - 1))
    loss, gradient = evaluate(name, z, code)
    alone = [evaluate(name, value, int(k == code)) for k, value in enumerate(z)]
    assert loss == pytest.approx(np.mean([value for value, _ in alone]))
    np.testing.assert_allclose(gradient, [slope[0] for _, slope in alone])


@names
@settings(deadline=None, max_examples=30)
@given(st.floats(-5, 5), st.floats(0, 10))
def test_weights_multiply_loss_and_gradient(name, z, weight):
    loss, gradient = evaluate(name, z, 1)
    weighted_loss, weighted_gradient = evaluate(name, z, 1, weight)
    assert weighted_loss == pytest.approx(weight * loss)
    assert weighted_gradient == pytest.approx(weight * gradient)


@settings(deadline=None, max_examples=50)
@given(st.floats(-6, 6))
def test_curvature_bounds_the_second_derivative_of_log_loss(z):
    h = 1e-4
    second = (evaluate("log_loss", z + h, 1)[1] - evaluate("log_loss", z - h, 1)[1]) / (2 * h)
    assert second[0] <= LOSSES["log_loss"].curvature + 1e-7


def test_only_log_loss_estimates_probabilities():
    assert LOSSES["log_loss"].probabilities
    assert not LOSSES["hinge"].probabilities
