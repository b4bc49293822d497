import copy
import itertools
import threading
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist import console
from skdist.console import ProgressLine
from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.schedules import AutoRate
from skdist.control.staleness import StalenessWindow
from skdist.control.stopping import ConvergenceMonitor
from skdist.inline import train_inline
from skdist.models.linear import LinearModel
from skdist.observers import Observers
from tests.fakes import RowModel, fake_partitions, fit_settings, linear_model, rows_of

SHOW = ProgressLine.show

MODES = {
    "async": {"mode": "async"},
    "collecting": {"mode": "async", "collect": 2},
    "patient": {"mode": "async", "collect": "auto"},
    "ssp": {"mode": "ssp", "max_staleness": 1},
    "in step": {"mode": "ssp", "max_staleness": 0},
    "sync": {"mode": "sync"},
}
every_mode = pytest.mark.parametrize("mode", MODES)


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=9).filter(any),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(1, 80),
)
@every_mode
def test_every_row_is_trained_once_per_epoch_with_the_same_influence(mode, sizes, threads, batch, round_size):
    partitions, n = fake_partitions(sizes)
    fit = fit_settings(round_size=round_size, **MODES[mode])
    result = train_inline(RowModel(batch), partitions, fit, np.zeros(n), threads)
    if fit.mode != "sync" and fit.collect == 1:
        np.testing.assert_allclose(result.state, 3 / batch, rtol=1e-9)
        assert result.clock == sum(record.steps for record in result.history.rounds)
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


ONE_LEARNER = [
    *MODES.values(),
    {"mode": "async", "collect": "auto", "momentum": 0.9},
    {"mode": "sync", "aggregator": InverseVolatility()},
    {"mode": "sync", "momentum": 0.9, "sizer": LatencyBatchSizer()},
    {"mode": "ssp", "sizer": LatencyBatchSizer()},
]


def plain_loop(model, partitions, visits):
    """Train on the rows of some visits, one after the other."""
    state, t = model.initial_state(), 0.0
    for visit in visits:
        partition = partitions[visit.partition]
        order = model.order(partition, visit.partition, visit.epoch)
        model.train(state, partition, order, visit.start, visit.start + visit.rows, t)
        t += model.steps(visit.rows)
    return state


@pytest.mark.parametrize("rate", [AutoRate(), "optimal"])
@pytest.mark.parametrize("params", [params for params in ONE_LEARNER if params.get("collect") != 2], ids=str)
def test_one_thread_is_a_plain_loop_to_the_bit_in_every_mode(params, rate):
    X, y = rows_of(500, 5)
    model, partition = linear_model(X, y, learning_rate=rate)
    alone = model.initial_state()
    for epoch in range(3):
        order = model.order(partition, 0, epoch)
        model.train(alone, partition, order, 0, 500, epoch * model.steps(500))
    for round_size in (8, 8, 100, "auto"):
        fit = fit_settings(adapter=StalenessWindow(), round_size=round_size, **params)
        result = train_inline(model, [partition], fit, model.initial_state())
        np.testing.assert_array_equal(result.state, alone)
        assert result.clock == 3 * model.steps(500)


@pytest.mark.parametrize("params", [params for params in ONE_LEARNER if params.get("collect") != 2], ids=str)
def test_one_thread_goes_over_several_partitions_in_the_order_of_its_visits(params):
    X, y = rows_of(500, 5)
    model, _ = linear_model(X, y)
    parts = [linear_model(X[a : a + 100], y[a : a + 100])[1] for a in range(0, 500, 100)]
    fit = fit_settings(adapter=StalenessWindow(), **params)
    first, second = (train_inline(model, parts, fit, model.initial_state()) for _ in range(2))
    np.testing.assert_array_equal(first.state, plain_loop(model, parts, first.history.visits))
    np.testing.assert_array_equal(first.state, second.state)


def busy_model(**params):
    """Return a model, its partitions, and a model whose steps are held up at random."""
    X, y = rows_of(1200, 6)
    model, _ = linear_model(X, y, **params)
    parts = [linear_model(X[a : a + 100], y[a : a + 100])[1] for a in range(0, 1200, 100)]
    random, train = Random(), model.train

    def held_up(*args):
        sum(range(random.randrange(30_000)))
        return train(*args)

    held = copy.copy(model)
    object.__setattr__(held, "train", held_up)
    return model, parts, held


@pytest.mark.parametrize("aggregator", [None, InverseVolatility()])
def test_sync_rounds_of_a_fixed_size_are_the_same_to_the_bit_on_every_run(aggregator):
    model, parts, held_up = busy_model()
    fit = fit_settings(mode="sync", aggregator=aggregator, adapter=StalenessWindow(), round_size=48)

    def outcome(model):
        result = train_inline(model, parts, fit, model.initial_state(), 3)
        rounds = [(r.learner, r.rows, r.version, r.weight, r.loss) for r in result.history.rounds]
        return result.state, result.clock, rounds

    expected = outcome(model)
    assert {name for name, *_ in expected[2]} == {"0", "1", "2"}
    for again in (model, held_up, held_up, held_up):
        state, *rest = outcome(again)
        np.testing.assert_array_equal(state, expected[0])
        assert rest == list(expected[1:])


def test_sync_rounds_end_together():
    partitions, n = fake_partitions([96] * 3)
    result = train_inline(RowModel(8), partitions, fit_settings(mode="sync"), np.zeros(n), 3)
    versions = Counter(record.version for record in result.history.rounds)
    assert versions == dict.fromkeys(range(1, 3 * 6 + 1), 3)
    assert {record.staleness for record in result.history.rounds} == {0.0}
    np.testing.assert_allclose(result.state, 3 / 8 / 3)
    assert result.clock == pytest.approx(3 * 96 / 8)


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


@pytest.mark.parametrize("edges", [[0, 15_000, 40_000], range(0, 40_001, 100)], ids=["few", "many"])
def test_a_loss_is_looked_at_within_rounds_that_last_as_long_as_an_exchange_pays(monkeypatch, edges):
    X, y = rows_of(40_000, 4)
    model, whole = linear_model(X, y, batch_size=64, learning_rate=AutoRate())
    parts = list(itertools.starmap(whole.part, itertools.pairwise(edges)))
    observe, looks = ConvergenceMonitor.observe, []

    def watched(self, rows, loss):
        rows_before = self.interval - self.until_check
        settled = observe(self, rows, loss)
        if self.until_check == self.interval:
            looks[-1].append((rows_before + rows, pytest.approx(self._mean, rel=1e-12)))
        return settled

    monkeypatch.setattr(ConvergenceMonitor, "observe", watched)
    results = []
    for exchange_rows in (0, 16_384, 10**9):
        monkeypatch.setattr(LinearModel, "exchange_rows", exchange_rows)
        looks.append([])
        fit = fit_settings(tol=1e-3, max_iter=20, round_size="auto")
        results.append(train_inline(model, parts, fit, model.initial_state()))
        assert results[-1].converged
    assert looks[0] == looks[1] == looks[2]
    assert len(looks[0]) > 2 * results[0].n_iter
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].state, other.state)
    longest, epoch = ([r.rows for r in result.history.rounds if not r.epoch] for result in results[1:])
    assert len(longest) == 3
    assert min(longest[:-1]) >= 16_384
    assert epoch == [40_000]


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


@every_mode
@pytest.mark.parametrize("nth", [1, 4, 11])
def test_an_error_in_one_thread_ends_the_fit_while_others_wait(mode, nth):
    calls = itertools.count(1)

    def fail_once(rows):
        if next(calls) == nth:
            raise RuntimeError("out of order")

    partitions, n = fake_partitions([320] * 6)
    fit = fit_settings(max_iter=1000, **MODES[mode])
    with pytest.raises(RuntimeError, match="out of order"):
        train_inline(RowModel(8, on_train=fail_once), partitions, fit, np.zeros(n), 3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skdist")]


@pytest.mark.parametrize(("threads", "who"), [(1, "1 thread"), (2, "2 threads")])
def test_verbose_shows_how_a_fit_goes_and_how_it_ended(capsys, monkeypatch, threads, who):
    monkeypatch.setattr(console, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(console, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(console, "LOG_SHARE", 0.0)
    shown = threading.Event()
    monkeypatch.setattr(ProgressLine, "show", lambda line, progress: (SHOW(line, progress), shown.set()))
    partitions, n = fake_partitions([64] * 2)

    def wait_until_shown(rows):
        assert shown.wait(30)

    model = RowModel(8, on_train=wait_until_shown)
    train_inline(model, partitions, fit_settings(verbose=1, max_iter=3), np.zeros(n), threads)
    *lines, last = capsys.readouterr().out.splitlines()
    assert all(line.startswith("epoch ") for line in lines)
    assert last.startswith("3 epochs in ")
    assert "loss 1.0000, " in last
    assert f" rows/s, {who}, mean staleness " in last
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skdist")]


def test_a_fit_that_fails_ends_the_thread_that_shows_it(monkeypatch):
    def fail(rows):
        raise RuntimeError("out of order")

    partitions, n = fake_partitions([64])
    with pytest.raises(RuntimeError, match="out of order"):
        train_inline(RowModel(8, on_train=fail), partitions, fit_settings(verbose=1), np.zeros(n))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skdist")]


@pytest.mark.parametrize("params", [{}, {"mode": "sync"}, {"mode": "ssp"}, {"round_size": 100}], ids=str)
def test_visits_go_over_several_epochs_unless_somebody_looks_and_nothing_else_changes(params):
    X, y = rows_of(500, 5)
    model, whole = linear_model(X, y)
    parts = [whole.part(0, 200), whole.part(200, 500)]
    fit = fit_settings(max_iter=30, tol=1e-2, n_iter_no_change=2, **params)
    seen = []
    observers = Observers(others=[lambda snapshot: seen.append(snapshot.epoch)])
    free = train_inline(model, parts, fit, model.initial_state())
    watched = train_inline(model, parts, fit, model.initial_state(), observers=observers)
    assert free.converged
    assert 3 < free.n_iter < 30
    assert seen == list(range(free.n_iter))
    np.testing.assert_array_equal(free.state, watched.state)
    for of in (lambda f: f.n_iter, lambda f: f.clock, lambda f: [e[:3] for e in f.history.epochs]):
        assert of(free) == of(watched)
    rounds = [
        [(r.epoch, r.rows, r.steps, r.version, r.loss) for r in result.history.rounds]
        for result in (free, watched)
    ]
    assert rounds[0] == rounds[1]
    stretches = [
        [(v.epoch, v.partition, v.start, v.rows) for v in result.history.visits] for result in (free, watched)
    ]
    assert stretches[0] == stretches[1]
    numbers = [{v.visit for v in result.history.visits} for result in (free, watched)]
    assert len(numbers[0]) < len(numbers[1])
