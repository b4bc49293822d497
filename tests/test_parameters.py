import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.aggregation import InverseVolatility
from skdist.messages import Link, Update
from skdist.parameters import Parameters
from skdist.recipes import Pending


def pending(state, base, number=0, scale=1.0, staleness=0.0, steps=1, volatility=math.nan, version=0):
    update = Update(
        visit=number, attempt="", start=0, stop=1, steps=steps, state=state, base=0, loss=0.0,
        volatility=volatility, context=0.0, rate_scale=scale, round_size=1, efficiency=1.0,
        seconds_compute=0.0, seconds_exchange=0.0, seconds_per_row=0.0, link=Link(),
    )  # fmt: skip
    return Pending(update, state, base, scale, staleness, str(number), (number,), version=version)


values = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None, max_examples=80)
@given(end=st.lists(values, min_size=1, max_size=5), count=st.integers(1, 9), dtype=st.sampled_from("fd"))
def test_equal_copies_reproduce_themselves_to_the_bit(end, count, dtype):
    begin, end = np.zeros(len(end), dtype), np.array(end, dtype)
    parameters = Parameters(begin, aggregator=InverseVolatility())
    items = [pending(end.copy(), begin, i, volatility=float(i)) for i in range(count)]
    parameters.apply(items, learners=count, share=1.0)
    np.testing.assert_array_equal(parameters.state, end)
    assert parameters.state.dtype == end.dtype


@settings(deadline=None, max_examples=80)
@given(ends=st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=6), random=st.randoms())
def test_the_mean_of_copies_lies_among_them(ends, random):
    begin = np.ones(3)
    parameters = Parameters(begin, aggregator=InverseVolatility(cap=None))
    items = [pending(np.array(end), begin, i, volatility=random.random()) for i, end in enumerate(ends)]
    weights = parameters.apply(items, learners=len(ends), share=1.0)
    assert sum(weights) == pytest.approx(1.0)
    slack = 1e-9 * np.abs(ends).max() + 1e-12
    assert (parameters.state >= np.min(ends, axis=0) - slack).all()
    assert (parameters.state <= np.max(ends, axis=0) + slack).all()


def test_what_began_elsewhere_adds_what_it_learned():
    parameters = Parameters(np.array([10.0]))
    late = pending(np.array([3.0]), np.array([1.0]), scale=0.5, staleness=1.0, steps=4)
    assert parameters.apply([late], learners=1, share=1.0) == [1.0]
    assert parameters.state == 11.0
    assert parameters.clock == 2.0
    assert parameters.version == 1


def test_momentum_is_that_of_nesterov_and_at_most_one_less_one_over_n():
    parameters, velocity, expected = Parameters(np.zeros((1, 1)), momentum=0.8), 0.0, 0.0
    for change in (1.0, -0.5, 2.0):
        ends = [
            pending(parameters.state + 2 * change, parameters.state, 0),
            pending(parameters.state, parameters.state, 1),
        ]
        parameters.apply(ends, learners=2, share=1.0)
        velocity = 0.5 * velocity + change
        expected += change + 0.5 * velocity
        assert parameters.state == pytest.approx(expected)


def test_the_running_average_has_no_velocity():
    parameters = Parameters(np.zeros((2, 3)), momentum=0.5)
    for _ in range(3):
        base = parameters.state
        end = base + np.array([[1.0], [0.25]])
        parameters.apply([pending(end, base, i) for i in range(2)], learners=2, share=1.0)
    np.testing.assert_allclose(parameters.state[1], 0.75)
    assert (parameters.state[0] > 3.0).all()


def test_momentum_fades_with_staleness():
    fresh, stale = (Parameters(np.zeros((1, 1)), momentum=0.6) for _ in range(2))
    for parameters, staleness in ((fresh, 0.0), (stale, 2.0)):
        base = np.zeros((1, 1))
        parameters.apply([pending(np.ones((1, 1)), base, i, staleness=staleness) for i in range(4)], 4, 1.0)
    assert fresh.state == pytest.approx(1.6)
    assert stale.state == pytest.approx(1.2)


def test_one_learner_is_assigned_whatever_the_momentum():
    state, end = np.array([0.1, 0.7]), np.array([0.3, 0.2])
    parameters = Parameters(state, momentum=0.9)
    parameters.apply([pending(end, state)], learners=1, share=1.0)
    assert parameters.state is end


def test_a_part_of_a_round_counts_by_its_share():
    parameters = Parameters(np.zeros(1))
    base = parameters.state
    weights = parameters.apply([pending(np.ones(1), base, i) for i in range(3)], learners=4, share=0.75)
    assert weights == [0.25] * 3
    assert parameters.state == pytest.approx(0.75)


def test_arrays_are_replaced_and_never_written_to():
    state = np.zeros(2)
    parameters = Parameters(state, momentum=0.5)
    ends = [np.ones(2), np.full(2, 2.0)]
    parameters.apply([pending(end, state, i) for i, end in enumerate(ends)], learners=2, share=1.0)
    assert not state.any()
    assert (ends[0] == 1).all()


rows = st.lists(st.floats(0, 1e3, width=32), min_size=3, max_size=3)


@settings(deadline=None, max_examples=100)
@given(
    present=rows,
    ends=st.lists(st.tuples(rows, rows, st.floats(0.01, 1.0)), min_size=1, max_size=5),
    share=st.floats(0.1, 1.0),
)
def test_statistics_lie_among_those_they_are_made_of(present, ends, share):
    """Also those of late updates, whose differences may be larger than what is left."""
    state = np.array([[1.0] * 3, present], np.float32)
    parameters = Parameters(state, statistics=True, momentum=0.5)
    items = [
        pending(
            np.array([[2.0] * 3, end], np.float32), np.array([[0.0] * 3, base], np.float32), i, scale=scale
        )
        for i, (end, base, scale) in enumerate(ends)
    ]
    parameters.apply(items, learners=len(ends), share=share)
    known = np.array([present, *[end for end, _, _ in ends]])
    slack = 1e-5 * known.max(axis=0)
    assert (parameters.state[1] >= known.min(axis=0) - slack).all()
    assert (parameters.state[1] <= known.max(axis=0) + slack).all()
    assert (parameters.state[1] >= 0).all()
    moved = share * np.mean([scale for _, _, scale in ends]) * 2.0
    first = parameters.state[0] - 1.0
    assert (first >= moved - 1e-4).all()  # the momentum adds to it


def test_statistics_that_are_not_finite_are_those_of_the_sender():
    begin = np.array([[0.0, 0.0, 0.0], [np.inf, -np.inf, 1.0]])
    parameters = Parameters(begin, statistics=True)
    ends = [
        np.array([[1.0, 1.0, 1.0], [3.0, -np.inf, np.inf]]),
        np.array([[1.0, 1.0, 1.0], [5.0, -np.inf, 2.0]]),
    ]
    parameters.apply([pending(end, begin, i) for i, end in enumerate(ends)], learners=2, share=1.0)
    assert parameters.state[1].tolist() == [5.0, -np.inf, 2.0]
    np.testing.assert_array_equal(parameters.state[0], 1.0)
