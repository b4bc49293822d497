import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skdist.control.aggregation import InverseVolatility, uniform_weights

volatilities = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))
unknown = st.sampled_from([math.nan, math.inf])
reports = st.lists(st.one_of(volatilities, unknown), min_size=1, max_size=40)
policies = st.builds(
    InverseVolatility,
    epsilon=st.floats(1e-9, 10),
    cap=st.one_of(st.none(), st.just(math.inf), st.just(1), st.floats(1, 50)),
    statistic=st.sampled_from(["std", "var"]),
)


def water_filled(values, limit):
    """Cut and share again until nothing is above the limit, as the rule is worded."""
    values = np.array(values)
    free = np.ones(len(values), dtype=bool)
    while (free & (values > limit * (1 + 1e-12))).any():
        free &= values <= limit * (1 + 1e-12)
        rest = 1 - limit * (~free).sum()
        values[~free] = limit
        values[free] *= rest / values[free].sum()
    return values


@settings(max_examples=200)
@given(policies, reports)
def test_weights_are_shares(policy, reported):
    weights = policy.weights(reported)
    assert len(weights) == len(reported)
    assert all(type(weight) is float and weight >= 0 for weight in weights)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)


@settings(max_examples=200)
@given(policies, reports)
def test_no_weight_is_above_the_cap(policy, reported):
    limit = math.inf if policy.cap is None else policy.cap / len(reported)
    # Equal weights are 1 / W exactly, which the cap of 1 is too.
    assert max(policy.weights(reported)) <= limit


@settings(max_examples=200)
@given(policies, st.integers(1, 100), st.one_of(volatilities, st.floats(0, 1e308)), st.data())
def test_equal_volatilities_give_exactly_equal_weights(policy, count, volatility, data):
    reported = [volatility] * count
    for place in data.draw(st.lists(st.integers(0, count - 1), max_size=count)):
        reported[place] = math.nan
    assert policy.weights(reported) == [1 / count] * count == uniform_weights(count)


@pytest.mark.parametrize("reported", [[0.0] * 3, [math.nan] * 3, [math.inf] * 3, [0.0, math.nan, 0.0]])
def test_learners_that_nothing_sets_apart_weigh_the_same(reported):
    assert InverseVolatility().weights(reported) == [1 / 3] * 3


@given(policies, st.one_of(volatilities, unknown))
def test_a_single_learner_is_the_mean(policy, volatility):
    assert policy.weights([volatility]) == [1.0]


def test_nobody_has_no_weights():
    assert InverseVolatility().weights([]) == uniform_weights(0) == []


@given(policies, reports, st.floats(1e-3, 1e3))
def test_weights_do_not_depend_on_the_unit(policy, reported, factor):
    scaled = [factor * volatility for volatility in reported]
    assert policy.weights(scaled) == pytest.approx(policy.weights(reported), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("factor", [1e-150, 1e150, 1e300])
def test_volatilities_of_any_size_can_be_weighed(factor):
    for policy in (InverseVolatility(), InverseVolatility(statistic="var")):
        plain = policy.weights([1.0, 2.0, 5.0])
        assert policy.weights([factor, 2 * factor, 5 * factor]) == pytest.approx(plain)


@given(policies, reports, st.randoms(use_true_random=False))
def test_weights_move_with_their_learners(policy, reported, random):
    places = list(range(len(reported)))
    random.shuffle(places)
    weights = policy.weights(reported)
    moved = policy.weights([reported[place] for place in places])
    assert moved == pytest.approx([weights[place] for place in places], rel=1e-9, abs=1e-12)


@given(policies, st.lists(volatilities, min_size=2, max_size=40))
def test_a_noisier_learner_never_weighs_more(policy, reported):
    weights = policy.weights(reported)
    by_noise = [weights[place] for place in np.argsort(reported)]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(by_noise))


@given(policies, st.lists(volatilities, min_size=2, max_size=40))
def test_weights_follow_the_formula(policy, reported):
    noise = np.array(reported) / (max(reported) or 1)
    noise = noise**2 if policy.statistic == "var" else noise
    expected = np.full(len(noise), 1 / len(noise))
    if noise.any():
        expected = 1 / (noise + policy.epsilon * noise.mean())
        expected /= expected.sum()
    if policy.cap is not None:
        expected = water_filled(expected, policy.cap / len(noise))
    np.testing.assert_allclose(policy.weights(reported), expected, rtol=1e-6, atol=1e-12)


def test_an_unknown_volatility_is_the_median_of_the_known():
    policy = InverseVolatility(cap=None)
    assert policy.weights([1.0, math.nan, 2.0, 9.0]) == policy.weights([1.0, 2.0, 2.0, 9.0])
    assert policy.weights([1.0, math.inf, 3.0]) == policy.weights([1.0, 2.0, 3.0])


def test_what_the_cap_cuts_goes_to_the_others_in_proportion_again_and_again():
    # Uncapped 10 : 4 : 1 : 1. The first cut, to 0.4, lifts the second above the cap too.
    policy = InverseVolatility(epsilon=1e-9, cap=1.6)
    assert policy.weights([0.1, 0.25, 1.0, 1.0]) == pytest.approx([0.4, 0.4, 0.1, 0.1])


def test_epsilon_keeps_a_learner_without_noise_from_taking_all():
    weights = InverseVolatility(epsilon=0.5, cap=None).weights([0.0, 1.0])
    assert weights == pytest.approx([5 / 6, 1 / 6])


def test_variance_tells_learners_apart_more_than_deviation():
    std = InverseVolatility(epsilon=1e-9, cap=None).weights([1.0, 2.0])
    var = InverseVolatility(epsilon=1e-9, cap=None, statistic="var").weights([1.0, 2.0])
    assert std == pytest.approx([2 / 3, 1 / 3])
    assert var == pytest.approx([4 / 5, 1 / 5])


def test_the_report_is_left_as_it_was():
    reported = np.array([1.0, math.nan, 3.0])
    InverseVolatility().weights(reported)
    np.testing.assert_array_equal(reported, [1.0, math.nan, 3.0])


def test_settings_travel():
    policy = InverseVolatility(epsilon=0.1, cap=None, statistic="var")
    for copy in (clone(policy), pickle.loads(pickle.dumps(policy))):
        assert copy.get_params() == policy.get_params()


@pytest.mark.parametrize("good", [{}, {"cap": None}, {"cap": math.inf}, {"cap": 1}, {"statistic": "var"}])
def test_good_settings_are_taken(good):
    InverseVolatility(**good)._validate_params()


@pytest.mark.parametrize(
    "bad",
    [{"epsilon": 0.0}, {"epsilon": math.inf}, {"cap": 0.9}, {"cap": math.nan}, {"statistic": "mad"}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        InverseVolatility(**bad)._validate_params()
