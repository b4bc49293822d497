from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier
from skdist.models.partition import convert
from skdist.models.validation import HoldOut
from skdist.testing import SimulatedCluster


def classifier(**params):
    return DistributedSGDClassifier(**{"loss": "log_loss", "random_state": 0, **params})


@pytest.fixture(scope="module")
def rows():
    X, y = make_classification(
        3000, 10, n_informative=6, n_classes=3, n_clusters_per_class=1, flip_y=0.2, random_state=0
    )
    return X, y


def held_out_rows(X, y, fraction=0.1, random_state=0):
    """Return the rows that a fit in this process holds out."""
    return HoldOut(fraction, random_state).split(convert(X, y), 0).held_out


@pytest.mark.parametrize("n_jobs", [None, 3])
@pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
def test_training_stops_when_the_score_improves_no_more(rows, mode, n_jobs):
    X, y = rows
    # Nothing improves by 2: the first epoch and n failures.
    clf = classifier(early_stopping=True, tol=2.0, n_iter_no_change=3, mode=mode, n_jobs=n_jobs).fit(X, y)
    # Where training goes on during a look, epochs that have begun end.
    assert clf.n_iter_ == 4 if n_jobs is None or mode == "sync" else 4 <= clf.n_iter_ <= 8
    assert len(clf.validation_scores_) == len(clf.loss_curve_) == clf.n_iter_
    assert clf.best_validation_score_ == max(clf.validation_scores_)
    epochs = clf.history_.to_frame("epochs")
    assert epochs.rows.tolist() == [2700] * clf.n_iter_
    assert epochs.val_score.tolist() == clf.validation_scores_
    assert epochs.loss.tolist() == clf.loss_curve_
    assert np.isfinite(epochs.val_loss).all()


def test_the_loss_decides_nothing_where_the_score_does(rows):
    X, y = rows
    by_loss = classifier(tol=1e-1, n_iter_no_change=1, max_iter=20).fit(X, y)
    assert by_loss.n_iter_ < 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        by_score = classifier(tol=1e-1, n_iter_no_change=1000, max_iter=20, early_stopping=True).fit(X, y)
    assert by_score.n_iter_ == 20


def test_the_best_parameters_are_kept(rows):
    X, y = rows
    clf = classifier(early_stopping=True, learning_rate="constant", eta0=1.0, tol=None, max_iter=12).fit(X, y)
    held = held_out_rows(X, y)
    assert clf.best_validation_score_ != clf.validation_scores_[-1]
    assert clf.score(X[held], y[held]) == clf.best_validation_score_
    best = int(np.argmax(clf.validation_scores_)) + 1
    shorter = classifier(early_stopping=True, learning_rate="constant", eta0=1.0, tol=None, max_iter=best)
    np.testing.assert_array_equal(shorter.fit(X, y).coef_, clf.coef_)
    assert shorter.t_ == clf.t_


@pytest.mark.parametrize("make", [np.asarray, sp.csr_array])
def test_rows_held_out_have_no_part_in_training(rows, make):
    X, y = rows
    clf = classifier(early_stopping=True, max_iter=1, tol=None)
    clean = clone(clf).fit(make(X), y)
    changed = X.copy()
    changed[held_out_rows(X, y)] *= 1e3
    np.testing.assert_array_equal(clf.fit(make(changed), y).coef_, clean.coef_)
    assert clf.validation_scores_ != clean.validation_scores_
    assert clf.t_ == clean.t_


def test_the_split_is_stratified_and_that_of_any_number_of_threads(rows):
    X, y = rows
    held = held_out_rows(X, y, 0.25)
    np.testing.assert_allclose(np.bincount(y[held]), 0.25 * np.bincount(y), atol=1)
    one, three = (
        classifier(early_stopping=True, validation_fraction=0.25, max_iter=1, tol=None, n_jobs=n).fit(X, y)
        for n in (None, 3)
    )
    for clf in (one, three):
        assert clf.best_validation_score_ == clf.score(X[held], y[held])


def test_it_is_as_good_as_scikit_learns(rows):
    X, y = rows
    X = StandardScaler().fit_transform(X)
    train, test = slice(0, 2000), slice(2000, None)
    theirs = SGDClassifier("log_loss", early_stopping=True, random_state=0).fit(X[train], y[train])
    ours = classifier(early_stopping=True).fit(X[train], y[train])
    assert ours.score(X[test], y[test]) > theirs.score(X[test], y[test]) - 0.02


def test_simulated_learners_stop_by_the_score(rows):
    X, y = rows
    with SimulatedCluster(8, seconds_per_row=[1e-6] * 7 + [2e-5], exchange_seconds=1e-3):
        clf = classifier(early_stopping=True, tol=2.0, n_iter_no_change=2).fit(X, y)
    assert 3 <= clf.n_iter_ <= 6
    assert len(clf.validation_scores_) == clf.n_iter_
    assert [epoch.rows for epoch in clf.history_.epochs] == [2700] * clf.n_iter_
    held = held_out_rows(X, y)
    assert clf.score(X[held], y[held]) == clf.best_validation_score_


@pytest.mark.parametrize(
    ("params", "warned"),
    [
        ({"max_iter": 3}, True),  # two failures by then
        ({"max_iter": 4}, False),  # the third one with the last pass
        ({"max_iter": 10}, False),
        ({"max_iter": 3, "tol": None}, False),
    ],
    ids=str,
)
def test_a_fit_that_ends_before_the_score_settles_warns(rows, params, warned):
    clf = classifier(**{"early_stopping": True, "tol": 2.0, "n_iter_no_change": 3, **params})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf.fit(*rows)
    assert [str(w.message)[:65] for w in caught if w.category is ConvergenceWarning] == (
        ["Training stopped after max_iter=3 passes before the validation sco"[:65]] if warned else []
    )


def test_partial_fit_is_refused(rows):
    with pytest.raises(ValueError, match="early_stopping should be False with partial_fit"):
        classifier(early_stopping=True).partial_fit(*rows, classes=[0, 1, 2])


@pytest.mark.parametrize(
    ("n_rows", "fraction", "message"),
    [(30, 0.001, "led to an empty set"), (30, 0.03, "fewer than the 3 classes"), (30, 0.999, "to train on")],
)
def test_splits_that_are_of_no_use_are_refused(rows, n_rows, fraction, message):
    X, y = rows
    clf = classifier(early_stopping=True, validation_fraction=fraction)
    with pytest.raises(ValueError, match=message):
        clf.fit(X[:n_rows], y[:n_rows])


def test_validation_rows_without_weight_are_refused(rows):
    X, y = rows
    weights = np.ones(len(X))
    weights[held_out_rows(X, y)] = 0.0
    with pytest.raises(ValueError, match="sample weights of all 300 validation rows are zero"):
        classifier(early_stopping=True).fit(X, y, sample_weight=weights)


def test_sample_weights_count_in_the_score(rows):
    X, y = rows
    weights = np.random.default_rng(0).uniform(0, 3, len(X))
    clf = classifier(early_stopping=True, max_iter=2, tol=None).fit(X, y, sample_weight=weights)
    held = held_out_rows(X, y)
    assert clf.score(X[held], y[held], weights[held]) == pytest.approx(clf.best_validation_score_)


def test_labels_may_be_text(rows):
    X, y = rows
    names = np.array(["b", "a", "c"])
    clf = classifier(early_stopping=True, max_iter=3, tol=None).fit(X, names[y])
    held = held_out_rows(X, names[y])
    assert clf.score(X[held], names[y][held]) == clf.best_validation_score_


# One's own validation rows.


def halves(rows):
    X, y = rows
    return (X[:2000], y[:2000]), {"X_val": X[2000:], "y_val": y[2000:]}


def test_given_validation_rows_stop_training_and_no_row_is_held_out(rows):
    train, val = halves(rows)
    weights = np.random.default_rng(0).uniform(0, 3, 1000)
    clf = classifier(early_stopping=True, tol=2.0, n_iter_no_change=2, validation_fraction=0.5)
    clf.fit(*train, **val, sample_weight_val=weights)
    assert clf.n_iter_ == 3
    assert [epoch.rows for epoch in clf.history_.epochs] == [2000] * 3
    assert clf.score(val["X_val"], val["y_val"], weights) == pytest.approx(clf.best_validation_score_)


def test_without_early_stopping_given_validation_rows_change_nothing(rows):
    train, val = halves(rows)
    plain, scored = classifier().fit(*train), classifier().fit(*train, **val)
    np.testing.assert_array_equal(plain.coef_, scored.coef_)
    assert plain.n_iter_ == scored.n_iter_
    assert len(scored.validation_scores_) == scored.n_iter_
    assert scored.score(val["X_val"], val["y_val"]) == scored.validation_scores_[-1]
    assert plain.validation_scores_ is None
    assert plain.best_validation_score_ is None
    assert plain.loss_curve_ == pytest.approx(scored.loss_curve_)
    assert np.isnan([epoch.val_loss for epoch in plain.history_.epochs]).all()


def test_scores_of_an_earlier_fit_are_forgotten(rows):
    train, val = halves(rows)
    clf = classifier().fit(*train, **val).fit(*train)
    assert clf.validation_scores_ is None
    clf.fit(*train, **val).partial_fit(*train)
    assert clf.validation_scores_ is None
    assert len(clf.loss_curve_) == len(clf.history_.epochs)


def test_validation_rows_may_be_a_frame_or_sparse(rows):
    X, y = rows
    frame = pd.DataFrame(X, columns=list("abcdefghij"))
    by_frame = classifier(max_iter=2, tol=None).fit(
        frame[:2000], y[:2000], X_val=frame[2000:], y_val=pd.Series(y[2000:])
    )
    by_array = classifier(max_iter=2, tol=None).fit(
        X[:2000], y[:2000], X_val=sp.csr_array(X[2000:]), y_val=list(y[2000:])
    )
    assert by_frame.validation_scores_ == by_array.validation_scores_


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_val": None}, "X_val and y_val belong together"),
        ({"X_val": None}, "X_val and y_val belong together"),
        ({"X_val": None, "y_val": None, "sample_weight_val": np.ones(9)}, "belong together"),
        ({"X_val": np.ones((1000, 9))}, "X_val, y_val or sample_weight_val: X has 9 features"),
        ({"X_val": np.full((1000, 10), np.nan)}, "X_val.*NaN"),
        ({"X_val": np.empty((0, 10)), "y_val": []}, "X_val.*0 sample"),
        ({"y_val": np.full(1000, 7)}, "y_val contains labels that are not in y"),
        ({"y_val": np.full(1000, "0")}, "y_val contains labels that are not in y"),
        ({"sample_weight_val": np.zeros(1000)}, "sample_weight_val.*(non-zero|positive)"),
        ({"sample_weight_val": np.ones(9)}, "sample_weight_val"),
    ],
)
def test_bad_validation_rows_are_clear_errors(rows, change, message):
    train, val = halves(rows)
    with pytest.raises(ValueError, match=message):
        classifier().fit(*train, **{**val, **change})


def test_validation_rows_are_routed_through_pipelines_and_searches(rows):
    (X, y), val = halves(rows)
    with sklearn.config_context(enable_metadata_routing=True):
        clf = classifier(max_iter=3, tol=None).set_fit_request(X_val=True, y_val=True)
        pipe = Pipeline(
            [("scale", StandardScaler()), ("clf", clf)],
            transform_input=["X_val"],
        ).fit(X, y, **val)
        assert pipe[-1].validation_scores_[-1] == pipe.score(val["X_val"], val["y_val"])
        search = GridSearchCV(pipe, {"clf__alpha": [1e-4, 1e-2]}, cv=2).fit(X, y, **val)
        best = search.best_estimator_
        assert best[-1].validation_scores_[-1] == best.score(val["X_val"], val["y_val"])


def test_estimators_with_scores_clone_and_pickle(rows):
    clf = classifier(early_stopping=True, max_iter=3, tol=None).fit(*rows)
    assert not hasattr(clone(clf), "validation_scores_")
    assert pickle.loads(pickle.dumps(clf)).validation_scores_ == clf.validation_scores_


def test_a_warm_start_goes_on_from_the_best_parameters(rows):
    clf = classifier(early_stopping=True, warm_start=True, max_iter=3, tol=None).fit(*rows)
    first = clf.best_validation_score_
    clf.fit(*rows)
    assert len(clf.validation_scores_) == 3
    assert clf.best_validation_score_ > first - 0.05


def test_the_best_parameters_go_on_with_partial_fit(rows):
    clf = classifier(early_stopping=True, max_iter=3, tol=None).fit(*rows)
    steps = clf.t_
    clf.set_params(early_stopping=False).partial_fit(*rows)
    assert clf.t_ > steps
