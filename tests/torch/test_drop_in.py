"""Perceptrons beside scikit-learn's: the same calls mean the same."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor

from skdist import DistributedMLPClassifier, DistributedMLPRegressor
from skdist.control.schedules import PassSchedule
from tests.torch.test_estimators import rows  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PAIRS = [(DistributedMLPClassifier, MLPClassifier), (DistributedMLPRegressor, MLPRegressor)]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("method", ["__init__", "fit", "partial_fit", "predict", "score"])
def test_arguments_come_in_the_same_order_with_the_same_defaults(ours, theirs, method):
    found, expected = (inspect.signature(getattr(kind, method)).parameters for kind in (ours, theirs))
    assert {name: found[name].default for name in expected} == {
        name: each.default for name, each in expected.items()
    }
    positional = [name for name, each in expected.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert list(found)[: len(positional)] == positional


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_what_a_fit_leaves_behind(rows, ours, theirs):  # noqa: F811
    X, y = rows[0], np.unique(rows[1], return_inverse=True)[1]
    found, expected = (kind(max_iter=3, random_state=0).fit(X, y) for kind in (ours, theirs))
    names = [name for name in vars(expected) if name.endswith("_") and not name.startswith("_")]
    assert {"t_", "coefs_", "loss_curve_"} <= set(names)
    assert all(hasattr(found, name) for name in names)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(found, name) == getattr(expected, name)


def test_calls_that_go_on(rows):  # noqa: F811
    X, y = rows
    kinds = DistributedMLPClassifier, MLPClassifier
    parts = [kind(random_state=0) for kind in kinds]
    for clf in parts:
        clf.partial_fit(X[:500], y[:500], None, ["a", "b", "c"])
        clf.partial_fit(X[500:], y[500:], np.ones(300))
    warm = [kind(random_state=0, max_iter=3, warm_start=True).fit(X, y).fit(X, y) for kind in kinds]
    for found, expected in (parts, warm):
        assert (found.t_, found.n_iter_) == (expected.t_, expected.n_iter_)
        assert len(found.loss_curve_) == len(expected.loss_curve_)
        assert found.best_loss_ == min(found.loss_curve_)


def test_invscaling_falls_with_the_rows_of_passes(rows):  # noqa: F811
    X, y = rows
    params = {
        "solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5, "power_t": 0.4,
        "max_iter": 4, "batch_size": 100,
    }  # fmt: skip
    theirs = MLPClassifier((8,), **params).fit(X, y)
    schedule = DistributedMLPClassifier((8,), **params).fit(X, y)._model.schedule
    assert 0.5 / schedule.decay(4 * 8) == pytest.approx(theirs._optimizer.learning_rate)
    assert schedule.decay(0) == schedule.decay(7) == 1
    assert schedule.decay(8) == schedule.decay(15) == 801**0.4
    assert PassSchedule(rows=250, steps=3, power=1.0).decay(6.0) == 501
