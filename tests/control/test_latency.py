import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.latency import LEAST_AUTO_THRESHOLD, LatencyBatchSizer, automatic_standard

latencies = st.one_of(st.floats(0, 1), st.just(math.inf))
windows = st.lists(latencies, min_size=1, max_size=10)
thresholds = st.floats(1e-4, 1)


@settings(deadline=None, max_examples=80)
@given(windows, st.lists(latencies, max_size=10), st.one_of(st.just("auto"), thresholds))
def test_efficiency_is_a_share(own, others, threshold):
    assert 0 <= LatencyBatchSizer(threshold=threshold).efficiency(own, others) <= 1


@settings(deadline=None, max_examples=80)
@given(windows, st.lists(st.floats(0, 1), min_size=10, max_size=10), st.lists(latencies, max_size=10))
def test_efficiency_never_rises_with_own_latency(own, delays, others):
    later = [latency + delay for latency, delay in zip(own, delays, strict=False)]
    for threshold in ("auto", 0.1):
        sizer = LatencyBatchSizer(threshold=threshold)
        assert sizer.efficiency(later, others) <= sizer.efficiency(own, others)


@settings(deadline=None, max_examples=80)
@given(windows, st.tuples(thresholds, thresholds))
def test_efficiency_never_falls_with_the_threshold(own, pair):
    low, high = (LatencyBatchSizer(threshold=t).efficiency(own, []) for t in sorted(pair))
    assert low <= high


@settings(deadline=None, max_examples=50)
@given(windows, st.integers(2, 5))
def test_workers_with_equal_latencies_have_equal_efficiency(own, workers):
    sizer = LatencyBatchSizer()
    values = {sizer.efficiency(own, own * (workers - 1)) for _ in range(workers)}
    assert len(values) == 1
    if len(set(own)) == 1 and math.isfinite(own[0]) and own[0] > 0:
        assert values == {1.0}


@settings(deadline=None, max_examples=80)
@given(st.lists(latencies, min_size=1, max_size=10))
def test_auto_threshold_is_twice_the_median_of_the_others(others):
    finite = [latency for latency in others if math.isfinite(latency)]
    limit = max(2 * float(np.median(finite)), 5e-3) if finite else math.inf
    assert LatencyBatchSizer().limit(statistics.median(finite) if finite else None) == limit
    if finite:
        assert LatencyBatchSizer().efficiency([np.nextafter(limit, 0)], others) == 1.0
    assert LatencyBatchSizer().efficiency([limit], others) == 0.0


def test_auto_threshold_is_above_the_noise_of_event_loops():
    assert LatencyBatchSizer().limit(1e-5) == LEAST_AUTO_THRESHOLD == 5e-3


def test_own_latency_does_not_move_the_auto_threshold():
    sizer = LatencyBatchSizer()
    assert sizer.efficiency([0.5] * 5, others=[0.01] * 5) == 0.0
    assert sizer.efficiency([0.01] * 5, others=[0.5] * 5) == 1.0


def test_a_sample_at_the_threshold_and_a_missed_heartbeat_are_not_effective():
    sizer = LatencyBatchSizer(threshold=0.01)
    assert sizer.efficiency([0.01], []) == 0.0
    assert sizer.efficiency([0.001, math.inf, 0.001, math.inf], []) == 0.5
    assert LatencyBatchSizer().efficiency([0.001, math.inf], []) == 0.5


def test_nothing_observed_is_a_perfect_link():
    assert LatencyBatchSizer(threshold=0.01).efficiency([], [0.5]) == 1.0


@settings(deadline=None, max_examples=100)
@given(st.tuples(st.floats(0, 1), st.floats(0, 1)), st.integers(1, 10**9))
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_size_is_whole_rises_with_efficiency_and_stays_below_half(rounding, pair, standard):
    sizer = LatencyBatchSizer(rounding=rounding)
    small, large = (sizer.size(e, standard) for e in sorted(pair))
    assert isinstance(small, int)
    assert 0 <= small <= large <= math.ceil(standard / 2)
    exact = max(pair) / (1 + max(pair)) * standard
    assert abs(large - exact) <= 1
    assert sizer.size(0.0, standard) == 0


def test_size_is_rounded_as_asked():
    assert LatencyBatchSizer(rounding="floor").size(1.0, 5) == 2
    assert LatencyBatchSizer(rounding="ceil").size(1.0, 5) == 3


@settings(deadline=None, max_examples=80)
@given(st.integers(100, 10**6), st.floats(1e-8, 1e-3), st.floats(1e-8, 1e-3), st.integers(1, 10**6))
def test_throughput_makes_rounds_last_equally_long_outside_the_dead_band(standard, seconds, mean, present):
    size = LatencyBatchSizer(rule="throughput").balanced_size(standard, seconds, mean, present)
    exact = standard * mean / seconds
    if abs(exact - present) <= 0.2 * present:
        assert size == present
    else:
        assert size == math.floor(exact)


def test_dead_band_keeps_the_size_and_its_edge_is_inside():
    sizer = LatencyBatchSizer(rule="throughput", dead_band=0.25)
    assert sizer.balanced_size(1000, 1.0, 1.0, present=800) == 800
    assert sizer.balanced_size(1000, 1.0, 1.0, present=799) == 1000
    assert sizer.balanced_size(1000, 1.0, 1.0, present=0) == 1000


def test_throughput_without_measurements_asks_for_the_shortest_round():
    sizer = LatencyBatchSizer(rule="throughput")
    assert sizer.balanced_size(1000, 0.0, 1e-6, 500) == 0
    assert sizer.balanced_size(1000, 1e-6, 0.0, 500) == 0


def test_automatic_standard_hides_the_exchange_behind_training():
    assert automatic_standard(1e-6, 1e-3, 20_000, 64, doubled=False) == 4_000  # the least that pays
    assert automatic_standard(1e-6, 1e-3, 48_000, 64, doubled=False) == 6_000  # an eighth of the share
    assert automatic_standard(1e-6, 1e-3, 100_000, 64, doubled=False) == 8_000  # as long as one usually is
    assert automatic_standard(1e-6, 1e-3, 320_000, 64, doubled=False) == 10_000  # a 32nd of the share
    assert automatic_standard(1e-6, 5e-3, 100_000, 64, doubled=False) == 10_000
    assert automatic_standard(1e-6, 5e-3, 100_000, 64, doubled=True) == 20_000


@settings(deadline=None, max_examples=80)
@given(
    st.floats(0, 1e-3), st.floats(0, 10), st.integers(1, 10**7), st.integers(1, 256), st.booleans(),
    st.integers(0, 10**7),
)  # fmt: skip
def test_automatic_standard_leaves_several_exchanges_per_share(
    seconds, exchange, share, batch, doubled, exchange_rows
):
    rows = automatic_standard(seconds, exchange, share, batch, doubled, exchange_rows) / (1 + doubled)
    assert max(share // 32, 2 * batch, min(exchange_rows, share // 4)) <= rows
    quick = exchange <= seconds * (share // 4)
    assert rows <= max(share // 4 if quick else share // 2, 2 * batch)


def test_automatic_rounds_of_wide_models_are_longer():
    # Two exchanges a share where one takes as long as a quarter of it, or longer.
    assert automatic_standard(1e-6, 40e-3, 100_000, 64, doubled=False) == 40_000
    assert automatic_standard(1e-6, 1.0, 100_000, 64, doubled=False) == 50_000
    assert automatic_standard(1e-6, 1e-4, 100_000, 64, doubled=False, exchange_rows=20_000) == 20_000


@pytest.mark.parametrize(
    "bad",
    [{"threshold": 0.0}, {"window": 0}, {"rounding": "nearest"}, {"rule": "speed"}, {"dead_band": 1.0}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        LatencyBatchSizer(**bad)._validate_params()
