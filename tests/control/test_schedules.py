import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.schedules import (
    CONSTANT,
    INVERSE_POWER,
    INVERSE_TIME,
    LATE_DECAY,
    AutoRate,
    Schedule,
    named_schedule,
)
from skdist.models.kernels import step_size

steps = st.floats(0, 1e9)
RATES = {"eta0": 0.1, "power_t": 0.25, "alpha": 1e-4, "average_from": math.inf}


@settings(deadline=None, max_examples=60)
@given(steps, steps)
@pytest.mark.parametrize("code", [CONSTANT, INVERSE_TIME, INVERSE_POWER])
def test_decay_is_at_least_one_and_never_falls(code, a, b):
    schedule = Schedule(code, eta0=0.3, parameter=0.7)
    early, late = (schedule.decay(t) for t in sorted((a, b)))
    assert 1 <= early <= late
    assert schedule.decay(0.0) == 1


@settings(deadline=None, max_examples=30)
@given(steps)
def test_decay_is_first_rate_over_present_rate(t):
    assert Schedule(CONSTANT, 0.3).decay(t) == 1
    assert Schedule(INVERSE_TIME, 0.3, 50.0).decay(t) == pytest.approx(0.3 / (0.3 * 50 / (50 + t)))
    assert Schedule(INVERSE_POWER, 0.3, 0.5).decay(t) == pytest.approx(0.3 / (0.3 / (1 + t) ** 0.5))


def test_optimal_is_bottous_rate():
    schedule = named_schedule("optimal", **RATES)
    assert schedule.code == INVERSE_TIME
    first = math.sqrt(1 / math.sqrt(1e-4))
    assert schedule.eta0 == pytest.approx(first)
    t0 = 1 / (first * 1e-4)
    for t in (0, 10, 1e6):
        assert schedule.eta0 / schedule.decay(t) == pytest.approx(1 / (1e-4 * (t0 + t)))


def test_invscaling_and_constant():
    power = named_schedule("invscaling", **RATES)
    assert power.eta0 / power.decay(15) == pytest.approx(0.1 / 16**0.25)
    constant = named_schedule("constant", **RATES)
    assert constant.eta0 / constant.decay(1e6) == 0.1
    assert not power.adaptive
    assert not constant.adaptive


def test_optimal_needs_a_penalty():
    with pytest.raises(ValueError, match="alpha > 0"):
        named_schedule("optimal", **{**RATES, "alpha": 0.0})


def test_late_decay_is_constant_and_then_shrinks():
    schedule = Schedule(LATE_DECAY, 0.5, 100.0, adaptive=True)
    etas = [step_size(LATE_DECAY, schedule.eta0, schedule.parameter, t) for t in (0.0, 50.0, 100.0, 1600.0)]
    assert etas == pytest.approx([0.5, 0.5, 0.5, 0.5 / 8])
    assert schedule.decay(1600) == pytest.approx(8.0)


@settings(deadline=None, max_examples=50)
@given(
    scale=st.floats(0.01, 10),
    curvature=st.floats(0.1, 4),
    norm=st.floats(1, 1e6),
    alignment=st.floats(1e-3, 1),
    batch=st.integers(1, 128),
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5),
)
def test_auto_rate_is_stable_for_all_and_for_one_row(scale, curvature, norm, alignment, batch, weights):
    mean, most = np.mean(weights), max(weights)
    data = curvature, norm, alignment, batch, (mean, np.mean(np.square(weights)), most)
    step = AutoRate(scale).step_size(*data)
    relative = step * curvature * norm / scale
    assert relative * alignment * mean < 2
    assert relative * most / batch < 2
    assert relative <= batch / 8 / mean * (1 + 1e-9)
    assert AutoRate(2 * scale).step_size(*data) == pytest.approx(2 * step)


def test_auto_rate_needs_a_positive_scale():
    with pytest.raises(ValueError, match="scale"):
        AutoRate(scale=0.0)._validate_params()


def test_steps_on_sparse_rows_are_half_as_long_where_noise_bounds_them():
    data = 0.25, 100.0, 1e-3, 16
    assert AutoRate().step_size(*data, sparse=True) == 0.5 * AutoRate().step_size(*data)
    stable = 0.25, 100.0, 1.0, 512
    assert AutoRate().step_size(*stable, sparse=True) == AutoRate().step_size(*stable)


def test_labels_lengthen_steps_that_noise_bounds_where_probabilities_are_normalised():
    noisy, stable = (0.25, 100.0, 1e-3, 16), (0.25, 100.0, 1.0, 512)
    rare = {"spread": 0.25}
    plain = AutoRate().step_size(*noisy)
    assert AutoRate().step_size(*noisy, **rare) == plain
    assert AutoRate().step_size(*noisy, **rare, several=True) == 4 * plain
    assert AutoRate().step_size(*stable, **rare) == 4 * AutoRate().step_size(*stable)


@pytest.mark.parametrize(("eta0", "cuts"), [(0.1, 8), (1e-6, 0), (1e-9, 0), (5.1e-6, 2), (4.9e-6, 1)])
def test_adaptive_rates_are_cut_until_they_are_small(eta0, cuts):
    schedule = named_schedule("adaptive", **{**RATES, "eta0": eta0})
    assert (schedule.code, schedule.cuts) == (CONSTANT, cuts)
    assert eta0 / 5**cuts <= 1e-6
    assert not cuts or eta0 / 5 ** (cuts - 1) > 1e-6
