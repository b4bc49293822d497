from __future__ import annotations

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from skdist.control.dispatch import Dispatcher
from skdist.control.stopping import ScoreMonitor
from skdist.inline import train_inline
from skdist.messages import VisitReport
from skdist.models.partition import convert
from skdist.models.validation import ScoreSums
from skdist.observers import Observers, Validation, Watch
from skdist.server import ParameterServer
from skdist.simulator import SimulatedCluster
from tests.fakes import fit_settings, linear_model, rows_of


def problem(n_partitions=6):
    X, y = rows_of(600, 4)
    model, _ = linear_model(X, y)
    parts = np.array_split(np.arange(len(X)), n_partitions)
    return model, [convert(X[part], y[part]).globally(np.arange(2)) for part in parts]


def train(where, observers=None, n_partitions=6, **kwargs):
    """Train here, on so many threads, or on a simulated cluster of six."""
    model, partitions = problem(n_partitions)
    settings = fit_settings(**{"max_iter": 4, "collect": "auto", **kwargs})
    if where == "simulated":
        cluster = SimulatedCluster(6, 1e-6, 1e-4)
        return cluster.train(model, partitions, model.initial_state(), 0.0, settings, observers)
    return train_inline(model, partitions, settings, model.initial_state(), where, 0.0, observers)


places = pytest.mark.parametrize("where", [1, 3, "simulated"])
modes = pytest.mark.parametrize("mode", ["async", "ssp", "sync"])


class Recorder:
    def __init__(self, stop_at=None):
        self.snapshots, self.stop_at, self.threads = [], stop_at, set()

    def __call__(self, snapshot):
        self.snapshots.append(snapshot)
        self.threads.add(threading.get_ident())
        return snapshot.epoch == self.stop_at

    @property
    def epochs(self):
        return [snapshot.epoch for snapshot in self.snapshots]


@places
@modes
def test_everybody_looks_once_at_each_epoch_in_order(where, mode):
    first, second = Recorder(), Recorder()
    result = train(where, Observers(others=[first, second]), mode=mode)
    assert first.epochs == second.epochs == [0, 1, 2, 3]
    assert len({snapshot.state.tobytes() for snapshot in first.snapshots}) == 4
    assert [epoch.rows for epoch in result.history.epochs] == [600] * 4


@pytest.mark.parametrize("where", [1, "simulated"])
@modes
def test_looking_changes_nothing(where, mode):
    plain = train(where, mode=mode)
    watched = train(where, Observers(others=[Recorder()]), mode=mode)
    assert plain.state.tobytes() == watched.state.tobytes()


@places
def test_where_nobody_looks_no_snapshot_is_made(where, monkeypatch):
    monkeypatch.setattr(ParameterServer, "snapshot", None)
    monkeypatch.setattr(Dispatcher, "complete", property(lambda self: pytest.fail("somebody asked")))
    assert train(where).n_iter == 4


def test_a_snapshot_is_the_model_after_that_many_epochs():
    recorder = Recorder()
    train(1, Observers(others=[recorder]))
    for snapshot in recorder.snapshots:
        shorter = train(1, max_iter=snapshot.epoch + 1)
        assert shorter.state.tobytes() == snapshot.state.tobytes()
        assert shorter.clock == snapshot.clock


def test_the_same_looks_show_the_same_in_sync_mode_on_threads():
    def states():
        recorder = Recorder()
        train(3, Observers(others=[recorder]), mode="sync", sizer=None)
        return [snapshot.state.tobytes() for snapshot in recorder.snapshots]

    assert states() == states()


@places
@modes
def test_who_looks_can_end_the_fit_after_the_epochs_under_way(where, mode):
    recorder, other = Recorder(stop_at=1), Recorder()
    result = train(where, Observers(others=[recorder, other]), mode=mode, max_iter=1000)
    epochs = result.n_iter
    assert recorder.epochs == other.epochs == list(range(epochs))
    assert [epoch.rows for epoch in result.history.epochs] == [600] * epochs
    # In sync mode, and with one learner, nothing goes on meanwhile; else others have begun, and end.
    assert epochs == 2 if mode == "sync" or where == 1 else 2 <= epochs < 10


@places
@modes
def test_an_error_of_who_looks_ends_the_fit_with_it(where, mode):
    def break_down(snapshot):
        raise LookupError(f"epoch {snapshot.epoch}")

    with pytest.raises(LookupError, match="epoch 0"):
        train(where, Observers(others=[break_down]), mode=mode, max_iter=1000)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skdist")]


def test_training_goes_on_during_a_look_but_not_into_the_end_of_another_epoch():
    began, release, seen = threading.Event(), threading.Event(), []

    def linger(snapshot):
        seen.append(snapshot.epoch)
        if snapshot.epoch == 0:
            began.set()
            assert release.wait(30)
        return False

    outcome = []
    fit = threading.Thread(
        target=lambda: outcome.append(train(3, Observers(others=[linger]), max_iter=50)), daemon=True
    )
    fit.start()
    assert began.wait(30)
    fit.join(0.3)
    assert fit.is_alive()
    assert seen == [0]
    release.set()
    fit.join(30)
    assert outcome[0].n_iter == 50
    assert seen == list(range(50))


def test_looks_are_off_the_thread_that_gives_orders_where_there_are_several():
    recorder = Recorder()
    train(3, Observers(others=[recorder]))
    assert threading.get_ident() not in recorder.threads
    assert len(recorder.threads) == 1


def land(dispatcher, order, offset=None):
    offset = order.rows if offset is None else offset
    dispatcher.finished(VisitReport(order, "a", offset, 1, 0.0, 1.0, dispatcher.last_epoch))


def dispatcher_of(max_iter=3, lead=1):
    dispatcher = Dispatcher([10, 10], {0: "a", 1: "b"}, max_iter=max_iter, lead=lead, queue=0)
    for name in "ab":
        dispatcher.add_worker(name, 1)
    return dispatcher


def test_an_epoch_is_complete_when_all_its_visits_have_ended():
    dispatcher = dispatcher_of()
    watch = Watch(Observers(others=[Recorder()]), dispatcher, waits=False)
    orders = dict(dispatcher.orders())
    land(dispatcher, orders["a"])
    ahead = dict(dispatcher.orders())["a"]
    assert ahead.epoch == 1
    land(dispatcher, ahead)
    assert list(watch.due()) == []
    land(dispatcher, orders["b"], 4)  # it handed the rest back
    assert list(watch.due()) == []
    while rest := [order for _, order in dispatcher.orders() if order.epoch == 0]:
        assert list(watch.due()) == []
        for order in rest:
            land(dispatcher, order)
    assert list(watch.due()) == [0]
    assert list(watch.due()) == []


def test_epochs_that_will_not_be_are_not_complete():
    dispatcher = dispatcher_of(max_iter=5)
    dispatcher.end_after(0)
    for _, order in dispatcher.orders():
        land(dispatcher, order)
    assert dispatcher.complete == 1
    assert dispatcher.done


def test_two_looks_hold_training_up_or_one_where_it_waits():
    for waits, held in ((False, [False, False, True]), (True, [False, True, True])):
        watch = Watch(Observers(others=[Recorder()]), dispatcher_of(), waits)
        found = [watch.holds]
        for _ in range(2):
            watch.looks.append(Future())
            found.append(watch.holds)
        assert found == held
        watch.looks[0].set_result(True)
        assert watch.settle()
        assert len(watch.looks) == 1
        assert not watch.settle()


def test_scores_that_improve_too_little_too_often_mean_convergence():
    monitor = ScoreMonitor(tol=0.01, n_iter_no_change=2)
    better = [monitor.observe(score) for score in (0.5, 0.505, 0.52)]
    assert better == [True, True, True]
    assert not monitor.converged
    assert [monitor.observe(score) for score in (0.52, 0.4)] == [False, False]
    assert monitor.converged
    assert monitor.best == 0.52


def test_without_tol_scores_never_converge():
    monitor = ScoreMonitor(tol=None, n_iter_no_change=1)
    for _ in range(10):
        monitor.observe(0.5)
    assert not monitor.converged


@pytest.mark.parametrize("monitored", [True, False])
def test_the_best_parameters_are_kept_where_a_monitor_decides(monitored):
    validation = Validation(ScoreMonitor(None, 5) if monitored else None)
    recorder = Recorder()
    observers = Observers(validation, [recorder])
    hits = iter([5.0, 7.0, 7.0, 6.0])
    observers.evaluate = lambda snapshot: ScoreSums(20.0, 10.0, next(hits), snapshot.epoch)
    result = train(1, observers)
    kept = validation.conclude(result)
    assert validation.scores == [0.5, 0.7, 0.7, 0.6]
    expected = recorder.snapshots[1] if monitored else recorder.snapshots[3]
    assert kept.state.tobytes() == expected.state.tobytes()
    assert kept.clock == expected.clock
    assert [epoch.val_score for epoch in kept.history.epochs] == validation.scores
    assert [epoch.val_loss for epoch in kept.history.epochs] == [0, 1 / 20, 2 / 20, 3 / 20]
