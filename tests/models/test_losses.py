import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from skdist.control.schedules import CONSTANT, Schedule
from skdist.exceptions import DivergedError
from skdist.models.compile import as_input
from skdist.models.loss_kernels import fill_gradients, gradient_filler
from skdist.models.losses import LOSSES
from tests.fakes import linear_model

EPSILON = 0.4
SEPARATE = sorted(name for name, loss in LOSSES.items() if not loss.joint)
REGRESSION = sorted(name for name, loss in LOSSES.items() if loss.regression)
#: Where the slope jumps or the curvature does, by margin or by residual.
BENDS = {
    "hinge": [1.0], "perceptron": [0.0], "squared_hinge": [1.0], "modified_huber": [-1.0, 1.0],
    "huber": [-EPSILON, EPSILON], "epsilon_insensitive": [-EPSILON, EPSILON],
    "squared_epsilon_insensitive": [-EPSILON, EPSILON],
}  # fmt: skip

names = pytest.mark.parametrize("name", SEPARATE)
by_margin = pytest.mark.parametrize("name", sorted(set(SEPARATE) - set(REGRESSION)))


def evaluate(name, z, code, weight=1.0, class_weight=None, target=None):
    """Return the loss and ``dloss/dz`` of one row with raw predictions ``z``, read off a step of a model.

    The first feature makes the prediction, the second collects the gradient.
    """
    z = np.atleast_1d(np.asarray(z, dtype=float))
    n_classes = max(len(z), 2)
    X = np.tile([1.0, 1.0], (n_classes, 1))
    y = np.arange(n_classes) if target is None else np.full(n_classes, target)
    model, partition = linear_model(
        X, y, loss=name, epsilon=EPSILON, alpha=0.0, fit_intercept=False,
        regression=target is not None, class_weight=class_weight,
    )  # fmt: skip
    model = dataclasses.replace(model, batch_size=1, schedule=Schedule(CONSTANT, 1.0))
    partition = dataclasses.replace(partition, weights=np.full(n_classes, weight))
    state = model.initial_state(np.column_stack([z, np.zeros(len(z))]))
    loss = model.train(state, partition, np.array([code], np.int32), 0, 1, 0.0)
    return loss, -state[0, :, 1]


def expected_loss(name, z, y):
    """Return the loss as the table in `skdist.models.losses` has it."""
    margin, size = y * z, abs(z - y)
    beyond = max(0.0, size - EPSILON)
    return {
        "hinge": max(0.0, 1 - margin),
        "log_loss": math.log1p(math.exp(-abs(margin))) + max(-margin, 0.0),
        "perceptron": max(0.0, -margin),
        "squared_hinge": max(0.0, 1 - margin) ** 2,
        "modified_huber": max(0.0, 1 - margin) ** 2 if margin >= -1 else -4 * margin,
        "squared_error": size**2 / 2,
        "huber": size**2 / 2 if size <= EPSILON else EPSILON * size - EPSILON**2 / 2,
        "epsilon_insensitive": beyond,
        "squared_epsilon_insensitive": beyond**2,
    }[name]


def away_from_bends(name, z, y, distance):
    """Return a raw prediction near ``z`` that has no bend of the loss nearby."""
    for bend in BENDS.get(name, []):
        place = y * z if name not in REGRESSION else z - y
        if abs(place - bend) < distance:
            z += 3 * distance
    return z


@names
@pytest.mark.parametrize("z", [-30.0, -2.5, -0.1, 0.0, 0.3, 0.9, 1.7, 25.0])
@pytest.mark.parametrize("code", [0, 1])
def test_values(name, z, code):
    assert evaluate(name, z, code)[0] == pytest.approx(expected_loss(name, z, 2 * code - 1), rel=1e-12)


@names
@settings(deadline=None, max_examples=40)
@given(st.floats(-8, 8), st.integers(0, 1), st.floats(0, 5))
def test_gradient_is_the_five_point_difference_of_the_loss(name, z, code, weight):
    h = 1e-3
    z = away_from_bends(name, z, 2 * code - 1, 3 * h)
    a, b, c, d = (evaluate(name, z + k * h, code, weight)[0] for k in (-2, -1, 1, 2))
    assert evaluate(name, z, code, weight)[1] == pytest.approx((a - 8 * b + 8 * c - d) / (12 * h), abs=1e-7)


@pytest.mark.parametrize("name", REGRESSION)
@settings(deadline=None, max_examples=40)
@given(st.floats(-8, 8), st.floats(-8, 8), st.floats(0, 5))
def test_the_losses_of_a_regression_take_any_number(name, z, target, weight):
    h = 1e-3
    z = away_from_bends(name, z, target, 3 * h)
    value, slope = evaluate(name, z, 0, weight, target=target)
    assert value == pytest.approx(weight * expected_loss(name, z, target), rel=1e-9, abs=1e-12)
    up, down = (evaluate(name, z + k * h, 0, weight, target=target)[0] for k in (1, -1))
    assert slope == pytest.approx((up - down) / (2 * h), abs=1e-5)


@pytest.mark.parametrize("name", ["hinge", "log_loss"])
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


@names
def test_class_weights_multiply_the_rows_of_a_class(name):
    factors = {0: 3.0, 1: 0.5}
    for code, factor in factors.items():
        value, slope = evaluate(name, 0.3, code)
        weighted, steeper = evaluate(name, 0.3, code, class_weight=factors)
        assert weighted == pytest.approx(factor * value)
        assert steeper == pytest.approx(factor * slope)


@names
def test_one_vs_rest_weighs_the_rows_of_the_own_class_of_a_problem(name):
    z, factors = [0.3, -0.2, 0.7], {0: 3.0, 1: 0.5, 2: 2.0}
    for code, factor in factors.items():
        _, slope = evaluate(name, z, code)
        _, weighted = evaluate(name, z, code, class_weight=factors)
        np.testing.assert_allclose(weighted, np.where(np.arange(3) == code, factor, 1.0) * slope)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-40, 40), min_size=3, max_size=6), st.data())
def test_multinomial_is_the_cross_entropy_of_the_softmax(z, data):
    code, weight = data.draw(st.integers(0, len(z) - 1)), data.draw(st.floats(0, 5))
    factors = dict.fromkeys(range(len(z)), 1.0) | {code: 2.0}
    loss, gradient = evaluate("multinomial", z, code, weight, factors)
    assert loss == pytest.approx(2 * weight * (logsumexp(z) - z[code]), rel=1e-9, abs=1e-11)
    np.testing.assert_allclose(
        gradient, 2 * weight * (softmax(z) - np.eye(len(z))[code]), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("z", [[math.nan, 0.0, 1.0], [0.0, math.nan, 1.0], [0.0, 1.0, math.inf]])
def test_multinomial_does_not_pass_over_what_is_no_number(z):
    with pytest.raises(DivergedError):
        evaluate("multinomial", z, 0)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(["log_loss", "squared_hinge", "modified_huber", "squared_error"]), st.floats(-6, 6))
def test_curvature_bounds_the_second_derivative(name, z):
    h = 1e-4
    second = (evaluate(name, z + h, 1)[1] - evaluate(name, z - h, 1)[1]) / (2 * h)
    assert second[0] <= LOSSES[name].curvature + 1e-6


def test_the_slope_of_a_loss_with_a_kink_does_not_grow_with_the_targets():
    for spread in (1e-3, 1.0, 1e4):
        assert LOSSES["epsilon_insensitive"].curvature_for(spread, 0.1) == pytest.approx(1 / spread)
        assert LOSSES["squared_error"].curvature_for(spread, 0.1) == 1.0
    assert LOSSES["huber"].curvature_for(10.0, 0.1) == pytest.approx(0.01)
    assert LOSSES["huber"].curvature_for(0.05, 0.1) == 1.0


def filled(loss, dtype, z, codes, weights, class_weights=(), positive=0, alone=None):
    """Return the sum of the losses of a mini-batch, and the gradients that take the place of ``z``."""
    z, codes, weights = np.array(z, dtype), np.array(codes, np.int32), np.array(weights, dtype)
    factors = as_input(np.array(class_weights, float))
    alone = z.shape[1] == 1 and not class_weights if alone is None else alone
    fill = gradient_filler(LOSSES[loss].code, z.dtype, codes.dtype, alone)
    total = fill_gradients(
        fill, LOSSES[loss].code, EPSILON, z, np.empty(z.shape), codes, weights, factors, positive
    )
    return total, z


@pytest.mark.parametrize("code", [0, 1])
def test_log_losses_in_single_precision_are_right_to_its_last_bits(code):
    z = np.linspace(-60, 60, 4_001, dtype=np.float32)[:, None]
    for row in z[::10]:
        margin = float(row[0]) * (2 * code - 1)
        value, slope = filled("log_loss", np.float32, [row], [code], [1], positive=1)
        assert value == pytest.approx(np.logaddexp(0, -margin), rel=4e-6)
        assert abs(slope[0, 0]) == pytest.approx(math.exp(-np.logaddexp(0, margin)), rel=4e-6)
    near = z[abs(z[:, 0]) < 20]
    value, _ = filled("log_loss", np.float32, near, [code] * len(near), [1] * len(near), positive=1)
    assert value == pytest.approx(np.logaddexp(0, near.astype(float) * (1 - 2 * code)).sum(), rel=1e-7)


@names
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_problem_alone_is_like_one_of_several(name, dtype):
    rng = np.random.default_rng(0)
    z, codes, weights = 8 * rng.standard_normal((67, 1)), rng.integers(0, 2, 67), rng.random(67)
    (total, slopes), (same, alike) = (
        filled(name, dtype, z, codes, weights, positive=1, alone=alone) for alone in (True, False)
    )
    assert total == pytest.approx(same, rel=1e-6 if dtype is np.float32 else 1e-14)
    np.testing.assert_allclose(slopes, alike, rtol=1e-6 if dtype is np.float32 else 1e-14)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_prediction_that_is_no_number_shows_in_the_sum(bad, alone):
    total, _ = filled("log_loss", np.float32, [[0], [bad], [0]] * 9, [1] * 27, [1] * 27, (), 1, alone)
    assert not math.isfinite(total)


@pytest.mark.parametrize("loss", ["log_loss", "multinomial"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_single_precision_does_not_pass_over_what_is_no_number(loss, bad):
    total, _ = filled(loss, np.float32, [[0, bad, 0]] * 9, [0] * 9, [1] * 9)
    assert not math.isfinite(total)


@names
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_problems", [1, 3, 9])
@pytest.mark.parametrize("class_weights", [(), tuple(np.arange(1, 11) / 4)], ids=["none", "some"])
def test_a_mini_batch_is_the_sum_of_its_rows(name, dtype, n_problems, class_weights):
    rng = np.random.default_rng(0)
    positive = 1 if n_problems == 1 else 0
    codes = rng.integers(0, max(n_problems, 2), 64)
    z = rng.standard_normal((64, n_problems)).astype(dtype)
    for weights in (np.full(64, 0.75), rng.integers(0, 4, 64) / 4):
        total, gradients = filled(name, dtype, z, codes, weights, class_weights, positive)
        alone = [
            filled(name, dtype, [row], [code], [weight], class_weights, positive)
            for row, code, weight in zip(z, codes, weights, strict=True)
        ]
        assert total == pytest.approx(sum(value for value, _ in alone), rel=1e-6)
        np.testing.assert_allclose(
            gradients, np.concatenate([slopes for _, slopes in alone]), rtol=1e-5, atol=1e-7
        )
        # Row by row, whatever the weights: those of a row multiply what it has without.
        plain = [
            filled(name, dtype, [row], [code], [1], class_weights, positive)[0]
            for row, code in zip(z, codes, strict=True)
        ]
        assert total == pytest.approx(float(weights @ plain), rel=1e-6)


def test_no_rows_have_no_loss():
    assert filled("log_loss", np.float64, np.empty((0, 3)), [], [])[0] == 0.0
