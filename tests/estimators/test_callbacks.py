from __future__ import annotations

import pickle
import threading

import dask.array as da
import numpy as np
import pytest
import sklearn
from distributed import Client, wait
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier
from skdist.testing import SimulatedCluster
from tests.cluster.conftest import assert_clean, cluster  # noqa: F401

callback = pytest.importorskip("sklearn.callback")  # from scikit-learn 1.9 on


def classifier(**params):
    return DistributedSGDClassifier(
        **{"loss": "log_loss", "random_state": 0, "max_iter": 4, "tol": None, **params}
    )


@pytest.fixture(scope="module")
def rows():
    return make_classification(2000, 10, n_informative=6, n_classes=3, random_state=0)


@pytest.fixture
def bar():
    pytest.importorskip("rich")
    return callback.ProgressBar(max_propagation_depth=None)


class Recorder:
    """Writes down what it is told; ends the fit, or fails, at an epoch."""

    def __init__(self, stop_at=None, fail_at=None):
        self.stop_at, self.fail_at = stop_at, fail_at
        self.told, self.fitted, self.seen, self.routing = [], [], [], []

    def setup(self, estimator, context):
        self.told.append("setup")

    def teardown(self, estimator, context):
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.told.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.told.append(("end", context.task_name, context.task_id))
        self.routing.append(sklearn.get_config()["enable_metadata_routing"])
        self.seen.append((X, y, metadata))
        self.fitted.append(fitted_estimator)
        if context.task_name == "epoch" and context.task_id == self.fail_at:
            raise LookupError("of the callback")
        return context.task_name == "epoch" and context.task_id == self.stop_at

    @property
    def epochs(self):
        """Those that there have been."""
        ends = [what for what in self.told if what[0] == "end"]
        return [
            number for (_, name, number), fitted in zip(ends, self.fitted, strict=True)
            if name == "epoch" and fitted is not None
        ]  # fmt: skip


def tasks(*epochs):
    between = [(which, "epoch", epoch) for epoch in epochs for which in ("begin", "end")]
    return ["setup", ("begin", "fit", 0), *between, ("end", "fit", 0), "teardown"]


@pytest.mark.parametrize("params", [{}, {"n_jobs": 3}, {"early_stopping": True}], ids=str)
def test_callbacks_are_told_of_every_epoch(rows, params):
    X, y = rows
    recorder = Recorder()
    clf = classifier(**params).set_callbacks(recorder).fit(X, y, sample_weight=np.ones(len(X)))
    assert recorder.told == tasks(0, 1, 2, 3)
    assert all(seen[0] is X and seen[1] is y and list(seen[2]) == ["sample_weight"] for seen in recorder.seen)
    assert [fitted.n_iter_ for fitted in recorder.fitted] == [1, 2, 3, 4, 4]
    assert len({fitted.coef_.tobytes() for fitted in recorder.fitted[:4]}) == 4
    assert recorder.fitted[-1].coef_.tobytes() == clf.coef_.tobytes()


def test_the_fitted_estimator_is_the_one_of_a_fit_that_stopped_there(rows):
    X, y = rows
    recorder = Recorder()
    classifier().set_callbacks(recorder).fit(X, y)
    for epochs, fitted in enumerate(recorder.fitted[:4], 1):
        shorter = classifier(max_iter=epochs).fit(X, y)
        np.testing.assert_array_equal(fitted.predict_proba(X), shorter.predict_proba(X))


def test_callbacks_change_nothing_and_without_them_nobody_looks(rows, monkeypatch):
    watched = classifier().set_callbacks(Recorder()).fit(*rows)
    monkeypatch.setattr("skdist.server.ParameterServer.snapshot", None)
    plain = classifier().fit(*rows)
    np.testing.assert_array_equal(plain.coef_, watched.coef_)


def test_simulated_learners_tell_callbacks(rows):
    recorder = Recorder()
    with SimulatedCluster(5, 1e-6, 1e-4):
        classifier().set_callbacks(recorder).fit(*rows)
    assert recorder.told == tasks(0, 1, 2, 3)


def test_a_callback_can_end_the_fit(rows):
    recorder = Recorder(stop_at=1)
    clf = classifier(max_iter=1000).set_callbacks(recorder).fit(*rows)
    assert clf.n_iter_ == 2
    assert recorder.told == tasks(0, 1)


def test_an_epoch_that_never_was_ends_empty(rows):
    recorder = Recorder()
    clf = classifier(max_iter=1000, early_stopping=True, tol=2.0, n_iter_no_change=2)
    clf.set_callbacks(recorder).fit(*rows)
    assert recorder.told == tasks(0, 1, 2, 3)
    assert recorder.fitted[3] is None
    assert clf.n_iter_ == 3


@pytest.mark.parametrize("n_jobs", [None, 3])
def test_an_error_of_a_callback_ends_the_fit_and_tears_down(rows, n_jobs):
    recorder = Recorder(fail_at=1)
    with pytest.raises(LookupError, match="of the callback"):
        classifier(n_jobs=n_jobs, max_iter=1000).set_callbacks(recorder).fit(*rows)
    assert recorder.told[-2:] == [("end", "epoch", 1), "teardown"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skdist")]


def test_a_monitor_scores_every_epoch(rows):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    clf = classifier().set_callbacks(monitor).fit(*rows)
    log = monitor.get_logs().data_as_pandas
    assert log.task_name.tolist() == ["fit"] + ["epoch"] * 4
    assert log.accuracy.iloc[0] == log.accuracy.iloc[-1] == clf.score(*rows)


def test_callbacks_reach_the_estimator_in_a_pipeline_and_a_search(rows, bar, capsys):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    pipe = make_pipeline(StandardScaler(), classifier().set_callbacks(monitor))
    search = GridSearchCV(pipe, {"distributedsgdclassifier__alpha": [1e-4, 1e-2]}, cv=2).set_callbacks(bar)
    search.fit(*rows)
    log = monitor.get_logs().data_as_pandas
    assert (log.task_name == "epoch").sum() == 5 * 4
    assert "DistributedSGDClassifier" in capsys.readouterr().out
    assert not hasattr(search.best_estimator_[-1], "_parent_callback_ctx")
    assert search.best_estimator_[-1]._skl_callbacks == [monitor]


def test_an_estimator_with_callbacks_clones_and_pickles(rows):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    clf = classifier().set_callbacks(monitor).fit(*rows)
    assert clone(clf)._skl_callbacks == [monitor]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).coef_, clf.coef_)


@pytest.fixture
def client(cluster):  # noqa: F811
    """A client that is not the default one."""
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2)
        yield client
        assert_clean(client)


@pytest.fixture
def collections(client, rows):
    X, y = rows
    dX = client.persist(da.from_array(X, chunks=(250, -1)))
    dy = client.persist(da.from_array(y, chunks=250))
    with client.as_current():
        wait([dX, dy])
    return dX, dy


def score(estimator, X, y):
    return estimator.score(X, y)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_on_a_cluster_the_driver_tells_callbacks_and_they_may_use_the_client(client, collections, bar, mode):
    dX, dy = collections
    monitor, recorder = callback.ScoringMonitor(scoring={"score": score}), Recorder()
    with sklearn.config_context(enable_metadata_routing=True):
        clf = classifier(client=client, mode=mode).set_callbacks(monitor, recorder, bar).fit(dX, dy)
    assert recorder.told == tasks(0, 1, 2, 3)
    assert recorder.routing == [True] * 5
    scores = monitor.get_logs().data_as_pandas.score
    assert len(scores) == 5
    assert scores.iloc[0] == clf.score(dX, dy)
    assert scores.min() > 0.5


@pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_the_bar_counts_the_epochs_in_every_mode(rows, bar, capsys, mode, n_jobs):
    recorder = Recorder()
    classifier(mode=mode, n_jobs=n_jobs).set_callbacks(bar, recorder).fit(*rows)
    assert recorder.told == tasks(0, 1, 2, 3)
    assert "100%" in capsys.readouterr().out


def test_on_a_cluster_an_error_of_a_callback_ends_the_fit_and_leaves_nothing(client, collections):
    recorder = Recorder(fail_at=2)
    clf = classifier(client=client, max_iter=1_000_000).set_callbacks(recorder)
    with pytest.raises(LookupError, match="of the callback"):
        clf.fit(*collections)
    assert recorder.told[-1] == "teardown"
    assert recorder.epochs == [0, 1, 2]
    assert_clean(client)


def test_on_a_cluster_a_callback_can_end_the_fit(client, collections):
    recorder = Recorder(stop_at=3)
    clf = classifier(client=client, max_iter=1_000_000).set_callbacks(recorder).fit(*collections)
    assert 4 <= clf.n_iter_ < 100
    assert recorder.epochs == list(range(clf.n_iter_))
    assert [epoch.rows for epoch in clf.history_.epochs] == [2000] * clf.n_iter_
