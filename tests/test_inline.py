from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.latency import LatencyBatchSizer
from skdist.control.staleness import StalenessWindow
from skdist.fitting import FitSettings
from skdist.inline import train_inline
from tests.fakes import RowModel, fake_partitions, linear_model, rows_of

PLAIN = {
    "adapter": None,
    "sizer": None,
    "round_size": 16,
    "collect": 1,
    "max_iter": 3,
    "tol": None,
    "n_iter_no_change": 5,
    "seed": 1,
    "shuffle": True,
}


def fit_settings(**kwargs):
    return FitSettings(**{**PLAIN, **kwargs})


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=9).filter(any),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(1, 80),
)
def test_every_row_has_the_same_influence(sizes, threads, batch, round_size):
    partitions, n = fake_partitions(sizes)
    fit = fit_settings(round_size=round_size)
    result = train_inline(RowModel(batch), partitions, fit, np.zeros(n), threads)
    np.testing.assert_allclose(result.state, 3 / batch, rtol=1e-9)
    visited = Counter(
        (v.epoch, v.partition, row) for v in result.history.visits for row in range(v.start, v.start + v.rows)
    )
    assert visited == Counter(
        (epoch, p, row) for epoch in range(3) for p, size in enumerate(sizes) for row in range(size)
    )
    assert [epoch.rows for epoch in result.history.epochs] == [n] * 3
    assert sum(record.rows for record in result.history.rounds) == 3 * n
    assert result.n_iter == 3
    assert not result.converged
    assert result.clock == sum(record.steps for record in result.history.rounds)


def test_one_thread_is_deterministic_and_independent_of_rounds_to_the_bit():
    X, y = rows_of(500, 5)
    model, partition = linear_model(X, y)
    states = []
    for round_size in (8, 8, 100, "auto"):
        fit = fit_settings(adapter=StalenessWindow(), sizer=LatencyBatchSizer(), round_size=round_size)
        states.append(train_inline(model, [partition], fit, model.initial_state()).state)
    alone = model.initial_state()
    for epoch in range(3):
        order = model.order(partition, 0, epoch)
        model.train(alone, partition, order, 0, 500, epoch * model.steps(500))
    for state in states:
        np.testing.assert_array_equal(state, alone)


def test_one_learner_is_never_stale():
    X, y = rows_of(300, 3)
    model, partition = linear_model(X, y)
    result = train_inline(model, [partition], fit_settings(adapter=StalenessWindow()), model.initial_state())
    assert {record.staleness for record in result.history.rounds} == {0.0}
    assert {record.applied for record in result.history.rounds} == {1.0}


def test_several_learners_share_the_work_and_come_to_the_same_solution():
    X, y = rows_of(2000, 4)
    model, _ = linear_model(X, y, learning_rate="optimal")
    parts = [linear_model(X[a : a + 250], y[a : a + 250])[1] for a in range(0, 2000, 250)]
    fit = fit_settings(adapter=StalenessWindow(), max_iter=30)
    alone = model.coefficients(train_inline(model, parts, fit, model.initial_state(), 1).state)[0]
    shared = train_inline(model, parts, fit, model.initial_state(), 2)
    assert {record.learner for record in shared.history.rounds} == {"0", "1"}
    np.testing.assert_allclose(model.coefficients(shared.state)[0], alone, atol=0.1 * abs(alone).max())


def test_it_stops_when_the_loss_settles():
    partitions, n = fake_partitions([64])
    fit = fit_settings(tol=1e-3, n_iter_no_change=2, max_iter=50)
    result = train_inline(RowModel(8), partitions, fit, np.zeros(n))
    assert result.converged
    assert result.n_iter == 3
    assert len(result.history.epochs) == 3


def test_training_goes_on_from_a_clock():
    partitions, n = fake_partitions([64])
    result = train_inline(RowModel(8), partitions, fit_settings(), np.ones(n), clock=100.0)
    assert result.clock == 100 + 3 * 8
    np.testing.assert_allclose(result.state, 1 + 3 / 8)


@pytest.mark.parametrize("threads", [1, 2])
def test_errors_of_a_learner_reach_the_caller(threads):
    def fail(rows):
        raise RuntimeError("out of order")

    partitions, n = fake_partitions([64, 64])
    with pytest.raises(RuntimeError, match="out of order"):
        train_inline(RowModel(8, on_train=fail), partitions, fit_settings(), np.zeros(n), threads)


def test_verbose_prints_a_line_for_each_visit(capsys):
    partitions, n = fake_partitions([64])
    train_inline(RowModel(8), partitions, fit_settings(verbose=1), np.zeros(n))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1: loss 1.0000, 64 rows")
