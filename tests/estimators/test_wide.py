"""Sparse rows of which most columns are empty: the model has coefficients for the others alone."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone

from skdist import DistributedSGDClassifier, DistributedSGDRegressor
from skdist.testing import SimulatedCluster
from tests.models.test_columns import rows_in

COLUMNS = np.array([3, 17, 18, 400, 999])
WIDTH = 1000


def problem(n_classes=3, n_rows=400, columns=COLUMNS, seed=0):
    X = rows_in(columns, WIDTH, n_rows, seed)
    z = X[:, columns].toarray() @ np.random.default_rng(1).normal(size=(len(columns), n_classes))
    return X, z.argmax(axis=1)


@pytest.mark.parametrize(
    "params",
    [{}, {"penalty": "l1", "alpha": 1e-3}, {"multi_class": "multinomial"}, {"learning_rate": "optimal"}],
    ids=str,
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_wide_fit_is_the_narrow_one_to_the_bit(params, n_classes):
    X, y = problem(n_classes)
    clf = DistributedSGDClassifier("log_loss", random_state=0, max_iter=8, tol=None, **params)
    narrow = clone(clf).fit(X[:, COLUMNS], y)
    clf.fit(X, y)
    np.testing.assert_array_equal(clf.coef_[:, COLUMNS], narrow.coef_)
    np.testing.assert_array_equal(clf.intercept_, narrow.intercept_)
    assert clf.coef_.shape[1] == clf.n_features_in_ == WIDTH
    assert np.count_nonzero(clf.coef_) == np.count_nonzero(narrow.coef_)
    np.testing.assert_array_equal(clf.predict(X), narrow.predict(X[:, COLUMNS]))
    if clf.multi_class == "ovr":
        np.testing.assert_array_equal(clf.to_sklearn().predict(X), clf.predict(X))


def test_a_regression_too():
    X, _ = problem()
    y = X[:, COLUMNS].toarray() @ np.arange(5.0) + 1
    narrow = DistributedSGDRegressor(random_state=0).fit(X[:, COLUMNS], y)
    wide = DistributedSGDRegressor(random_state=0).fit(X, y)
    np.testing.assert_array_equal(wide.coef_[COLUMNS], narrow.coef_)
    assert wide.score(X, y) > 0.99


def test_what_is_kept_of_a_fit_is_not_wide():
    X, y = problem()
    clf = DistributedSGDClassifier("log_loss", random_state=0).fit(X, y)
    clf.sparsify()
    assert len(pickle.dumps(clf)) < 15_000


def test_partial_fit_meets_new_columns():
    X, y = problem()
    other, target = problem(columns=[17, 500, 501, 502, 999], seed=3)
    both = sp.csr_array(sp.vstack([X, other]))
    clf = DistributedSGDClassifier("log_loss", random_state=0, shuffle=False)
    clf.partial_fit(X, y, classes=[0, 1, 2])
    clf.partial_fit(other, target)
    seen = np.unique(both.indices)
    assert set(np.flatnonzero(clf.coef_.any(axis=0))) == set(seen)
    # As without gaps between the columns.
    narrow = DistributedSGDClassifier("log_loss", random_state=0, shuffle=False)
    narrow.partial_fit(X[:, seen], y, classes=[0, 1, 2]).partial_fit(other[:, seen], target)
    np.testing.assert_allclose(clf.coef_[:, seen], narrow.coef_, rtol=1e-9)


def test_coefficients_given_for_empty_columns_stay():
    X, y = problem(2)
    given = np.zeros(WIDTH)
    given[[17, 700]] = 2.0, -3.0
    clf = DistributedSGDClassifier("log_loss", random_state=0).fit(X, y, coef_init=given)
    assert clf.coef_[0, 700] == -3.0
    assert clf.coef_[0, 17] != 2.0
    warm = clone(clf).set_params(warm_start=True).fit(X, y, coef_init=given)
    warm.fit(X, y)
    assert warm.coef_[0, 700] == -3.0


def test_held_out_rows_may_store_other_columns():
    X, y = problem(2)
    X = sp.csr_array(sp.hstack([X, sp.eye_array(X.shape[0])]))  # each row has a column of its own
    clf = DistributedSGDClassifier("log_loss", random_state=0, early_stopping=True, validation_fraction=0.25)
    clf.fit(X, y)
    assert np.count_nonzero(clf.coef_[0, WIDTH:]) == 300
    assert len(clf.validation_scores_) == clf.n_iter_


def test_a_bad_value_is_named_by_its_own_column():
    X, y = problem()
    X.data[X.indices == 400] = np.nan
    clf = DistributedSGDClassifier("log_loss")
    with pytest.raises(ValueError, match="NaN"):
        clf.fit(X, y)


def test_simulated_learners_agree_on_the_columns():
    X, y = problem(n_rows=800)
    X.data[(X.tocoo().row < 100) & (X.indices == 3)] = 0  # not every learner has rows that store it
    X.eliminate_zeros()
    with SimulatedCluster(4, seconds_per_row=1e-6, exchange_seconds=1e-4):
        clf = DistributedSGDClassifier("log_loss", random_state=0, max_iter=30, tol=None).fit(X, y)
    assert set(np.flatnonzero(clf.coef_.any(axis=0))) == set(COLUMNS)
    assert clf.score(X, y) > 0.8


def test_coefficients_may_be_given_as_a_column():
    X, y = problem(2)
    given = np.zeros((WIDTH, 1))
    given[700] = -3.0
    clf = DistributedSGDClassifier("log_loss", random_state=0).fit(X, y, coef_init=given)
    assert clf.coef_[0, 700] == -3.0


def test_coefficients_that_were_changed_in_place_count():
    X, y = problem(2)
    clf = DistributedSGDClassifier("log_loss", random_state=0).partial_fit(X, y, classes=[0, 1])
    clf.coef_[:] = 0.0
    clf.intercept_[:] = 50.0
    clf.partial_fit(X[:10], y[:10])
    assert clf.intercept_[0] > 20
    clf.coef_[0, 700] = -3.0  # of a column that is empty
    clf.partial_fit(X, y)
    assert clf.coef_[0, 700] == -3.0


def test_servers_have_no_effect_in_this_process_nor_on_a_simulated_cluster():
    X, y = problem()
    one, four = (
        DistributedSGDClassifier("log_loss", random_state=0, max_iter=3, tol=None, n_servers=n)
        for n in (1, 4)
    )
    np.testing.assert_array_equal(one.fit(X, y).coef_, four.fit(X, y).coef_)
    for clf in (one, four):
        with SimulatedCluster(3):
            clf.fit(X, y)
    np.testing.assert_array_equal(one.coef_, four.coef_)
