import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.windows import LatencyWindow, SlidingWindow, smoothed

numbers = st.floats(0, 100)


@settings(deadline=None, max_examples=50)
@given(st.lists(numbers), st.integers(1, 8), st.integers(1, 4))
def test_sample_is_every_stride_th_of_the_last_values_newest_first(values, size, stride):
    window = SlidingWindow(size)
    dropped = [window.append(value) for value in values]
    assert dropped == [None] * min(len(values), size) + values[: max(len(values) - size, 0)]
    assert list(window) == values[-size:]
    assert len(window) == min(len(values), size)
    assert window.sample(stride) == tuple(values[-size:][::-1][::stride])


@settings(deadline=None, max_examples=80)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=20), st.floats(0.1, 2))
def test_a_gap_above_one_and_a_half_intervals_is_a_missed_heartbeat(gaps, interval):
    window, now, missed = LatencyWindow(10_000), 0.0, 0
    window.observe(0.001, now, interval)
    for gap in gaps:
        before = now
        now += gap
        window.observe(0.001, now, interval)
        if now - before > 1.5 * interval:
            missed += max(round((now - before) / interval) - 1, 1)
    assert sum(math.isinf(value) for value in window) == missed
    assert sum(value == 0.001 for value in window) == 1 + len(gaps)


@pytest.mark.parametrize(("gap", "missed"), [(0.5, 0), (0.75, 0), (0.76, 1), (1.0, 1), (1.5, 2), (5.0, 9)])
def test_number_of_missed_heartbeats(gap, missed):
    window = LatencyWindow(20)
    window.observe(0.002, 100.0, 0.5)
    window.observe(0.003, 100.0 + gap, 0.5)
    assert list(window) == [0.002, *[math.inf] * missed, 0.003]


def test_a_long_silence_fills_the_window_once():
    window = LatencyWindow(3)
    window.observe(0.001, 0.0, 0.5)
    window.observe(0.001, 1e9, 0.5)
    assert list(window) == [math.inf, math.inf, 0.001]


def test_the_first_heartbeat_misses_none_and_negative_latencies_are_zero():
    window = LatencyWindow(5)
    window.observe(-0.5, 1e6, 0.5)
    assert list(window) == [0.0]


def test_a_smoothed_value_begins_with_the_first_one():
    assert smoothed(0.0, 5.0) == 5.0
    assert smoothed(5.0, 10.0) == pytest.approx(0.7 * 5 + 0.3 * 10)
