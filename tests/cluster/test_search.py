from __future__ import annotations

import pickle

import cloudpickle
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier, LatencyBatchSizer

GRID = {"distributedsgdclassifier__alpha": [1e-5, 1e-3, 100.0]}


@pytest.fixture
def rows(binary):
    X, y = binary
    return X[:3_000], y[:3_000]


def search(X, y, **parameters):
    pipeline = make_pipeline(
        StandardScaler(), DistributedSGDClassifier("log_loss", random_state=0, **parameters)
    )
    return GridSearchCV(pipeline, GRID, cv=3).fit(X, y)


def test_a_grid_in_a_pipeline_finds_the_same_with_and_without_a_cluster(client, rows):
    here = search(*rows)
    there = search(*rows, client=client)
    for found in (here, there):
        assert found.best_params_["distributedsgdclassifier__alpha"] < 1
        assert found.best_score_ > 0.85
        assert found.cv_results_["mean_test_score"][2] < found.best_score_ - 0.02
    worker = there.best_estimator_[-1].history_.to_frame("rounds").worker
    assert worker.str.startswith("tcp://").all()
    np.testing.assert_allclose(
        here.cv_results_["mean_test_score"][:2], there.cv_results_["mean_test_score"][:2], atol=0.01
    )


def test_nested_settings_are_searched(client, rows):
    found = GridSearchCV(
        DistributedSGDClassifier("log_loss", random_state=0, client=client),
        {"batch_sizer__threshold": [0.01, 0.1], "rate_adapter__window": [5]},
        cv=2,
    ).fit(*rows)
    assert found.best_estimator_.batch_sizer.threshold in (0.01, 0.1)
    assert found.best_estimator_.rate_adapter.window == 5


def test_cross_validation_with_a_client(client, rows):
    scores = cross_val_score(DistributedSGDClassifier("log_loss", client=client), *rows, cv=3)
    assert scores.min() > 0.8


def test_clones_share_the_client_and_pickles_leave_it_out(client, rows):
    clf = DistributedSGDClassifier(
        "log_loss", client=client, batch_sizer=LatencyBatchSizer(window=7), random_state=0
    )
    copy = clone(clf)
    assert copy.client is client
    assert copy.batch_sizer is not clf.batch_sizer
    assert copy.batch_sizer.window == 7
    clf.fit(*rows)
    assert clf.client is client
    for library in (pickle, cloudpickle):
        restored = library.loads(library.dumps(clf))
        assert restored.client is None
        np.testing.assert_array_equal(restored.predict(rows[0]), clf.predict(rows[0]))
