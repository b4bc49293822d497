import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.staleness import StalenessWindow, predicted_context

staleness = st.floats(0, 1e4)
samples = st.lists(staleness, min_size=1, max_size=20)
decays = st.floats(1, 1e4)


@settings(deadline=None, max_examples=100)
@given(staleness, staleness, decays)
def test_scale_is_in_zero_one_and_one_up_to_the_reference(context, reference, decay):
    scale = StalenessWindow().rate_scale(context, reference, decay)
    assert 0 < scale <= 1
    if context <= reference:
        assert scale == 1


@settings(deadline=None, max_examples=100)
@given(st.tuples(staleness, staleness), st.tuples(staleness, staleness), decays)
def test_scale_falls_with_context_and_rises_with_reference(contexts, references, decay):
    adapter = StalenessWindow()
    low, high = sorted(contexts)
    small, large = sorted(references)
    assert adapter.rate_scale(high, small, decay) <= adapter.rate_scale(low, small, decay)
    assert adapter.rate_scale(high, small, decay) <= adapter.rate_scale(high, large, decay)


@pytest.mark.parametrize(
    ("context", "reference", "decay", "scale"),
    [(3, 0, 1, 1 / 4), (3, 1, 1, 2 / 4), (7, 0, 2, 2 / 8), (3, 0, 4, 1), (3, 0, 100, 1)],
)
def test_scale_values(context, reference, decay, scale):
    assert StalenessWindow().rate_scale(context, reference, decay) == scale


@settings(deadline=None, max_examples=100)
@given(st.tuples(staleness, staleness), decays, st.floats(0.01, 1))
def test_shrinking_steps_bring_all_scales_to_their_level(contexts, decay, level):
    adapter = StalenessWindow()
    low, high = sorted(contexts)
    now = [adapter.rate_scale(context) for context in (low, high)]
    then = [adapter.rate_scale(context, 0.0, decay, level) for context in (low, high)]
    assert 0 < then[1] <= then[0] <= 1
    for before, after in zip(now, then, strict=True):
        assert min(before, level) <= after <= max(before, level)
        assert after == level or max(before / after, after / before) == pytest.approx(decay)
    assert adapter.rate_scale(high, 0.0, 1e9, level) == level


@settings(deadline=None, max_examples=80)
@given(samples, st.floats(0.05, 1))
def test_context_without_prediction_is_the_discounted_mean(values, discount):
    total = sum(discount**m * value for m, value in enumerate(values))
    expected = total / sum(discount**m for m in range(len(values)))
    assert StalenessWindow(discount=discount).context(values, None) == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(samples, st.floats(0, 1))
def test_context_can_be_a_quantile(values, quantile):
    context = StalenessWindow(quantile=quantile).context(values, None)
    assert context == pytest.approx(np.quantile(values, quantile))


@settings(deadline=None, max_examples=80)
@given(st.lists(staleness, max_size=20), staleness, st.floats(0.1, 50))
def test_context_blends_window_and_prediction_by_their_counts(values, predicted, prior):
    context = StalenessWindow(prior_weight=prior).context(values, predicted)
    assert context == pytest.approx((sum(values) + prior * predicted) / (len(values) + prior))
    assert min([*values, predicted]) * (1 - 1e-9) <= context <= max([*values, predicted]) * (1 + 1e-9)


def test_prediction_leads_a_young_window_and_still_counts_in_a_full_one():
    adapter = StalenessWindow(window=20, prior_weight=5)
    assert adapter.context([], 8.0) == 8.0
    assert adapter.context([0.0], 8.0) > 4.0
    assert 0.0 < adapter.context([0.0] * 20, 8.0) < 4.0


@pytest.mark.parametrize("unknown", [None, float("inf"), float("nan")])
def test_an_unknown_prediction_leaves_the_window_alone(unknown):
    assert StalenessWindow().context([2.0, 4.0], unknown) == 3.0
    assert StalenessWindow().context([], unknown) == 0.0


def test_without_samples_and_prior_the_prediction_is_the_context():
    assert StalenessWindow(prior_weight=0).context([], 3.0) == 3.0


def test_predicted_context_counts_the_rounds_that_others_make_meanwhile():
    round_seconds, others = 6.0, [2.0, 3.0]
    peers = sum(1 / other for other in others)
    assert predicted_context(round_seconds, peers) == pytest.approx(5.0)
    assert predicted_context(round_seconds, peers, collect=5) == pytest.approx(1.0)
    assert predicted_context(round_seconds, 0.0) == 0.0


@pytest.mark.parametrize(("reference", "expected"), [("zero", 0.0), ("mean", 4.5), (2.0, 2.0)])
def test_reference_staleness(reference, expected):
    assert StalenessWindow(reference=reference).reference_staleness(4.5) == expected


@pytest.mark.parametrize(
    "bad",
    [
        {"window": 0},
        {"stride": 0},
        {"discount": 0.0},
        {"discount": 1.1},
        {"quantile": -0.1},
        {"reference": "median"},
        {"reference": -1.0},
        {"prior_weight": -1.0},
        {"guard": 2},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        StalenessWindow(**bad)._validate_params()
