import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.linear_model import Lasso, Ridge
from sklearn.model_selection import GridSearchCV

from skdist import DistributedSGDRegressor
from skdist.testing import SimulatedCluster

LOSSES = ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"]
MODES = [{}, {"mode": "ssp"}, {"mode": "sync"}, {"n_jobs": 2}]


def problem(n_rows=2_000, n_features=8, noise=1.0, **params):
    """Return rows of unlike features, not centred, and numbers."""
    X, y = make_regression(n_rows, n_features, noise=noise, random_state=0, **params)
    return X * np.linspace(0.1, 10, n_features) + 5, y / y.std() * 3 + 40


def regressor(loss="squared_error", **params):
    return DistributedSGDRegressor(loss, random_state=0, **params)


def r2(X, y, coef):
    design = np.column_stack([X, np.ones(len(X))])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - residual @ residual / ((y - y.mean()) ** 2).sum()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("params", MODES, ids=str)
def test_raw_data_is_learned_by_default(loss, params):
    X, y = problem()
    reg = regressor(loss, **params).fit(X, y)
    assert reg.score(X, y) > 0.99
    assert (reg.coef_.shape, reg.intercept_.shape) == ((8,), (1,))
    assert reg.predict(X[:3]).shape == (3,)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("unit", [2.0**-13, 1.0, 2.0**17])  # others round differently
def test_the_unit_of_y_does_not_matter(loss, unit):
    X, y = problem()
    # This loss grows with the unit, the penalty with its square.
    alpha = 1e-4 / unit if loss == "epsilon_insensitive" else 1e-4
    reg = regressor(loss, epsilon=0.1 * unit, alpha=alpha).fit(X, y * unit)
    plain = regressor(loss, epsilon=0.1).fit(X, y)
    assert reg.score(X, y * unit) == pytest.approx(plain.score(X, y), abs=2e-3)
    assert reg.n_iter_ == plain.n_iter_


def sorted_problem(n_rows=5_000, n_features=2):
    """Return rows in the order of a feature, so that each partition is unlike the others."""
    X, y = problem(n_rows, n_features)
    order = np.argsort(X[:, 0])
    return X[order], y[order]


@pytest.mark.parametrize("loss", ["squared_error", "squared_epsilon_insensitive"])
@pytest.mark.parametrize(
    "params", [*MODES, {"n_jobs": 4, "mode": "ssp"}, {"n_jobs": 2, "mode": "sync"}], ids=str
)
def test_rows_that_are_sorted_are_learned(loss, params):
    X, y = sorted_problem()
    assert regressor(loss, **params).fit(X, y).score(X, y) > 0.99


@pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
def test_rows_that_are_sorted_are_learned_by_many(mode):
    X, y = sorted_problem()
    with SimulatedCluster(8, seconds_per_row=1e-6, exchange_seconds=1e-4):
        assert regressor(mode=mode).fit(X, y).score(X, y) > 0.99


def test_partial_fit_learns_from_chunks_that_are_sorted():
    X, y = sorted_problem(20_000)
    reg = regressor()
    for start in range(0, len(X), 1_000):
        reg.partial_fit(X[start : start + 1_000], y[start : start + 1_000])
    assert reg.score(X, y) > 0.5  # the last rows count most


def test_numbers_far_from_zero_are_reached():
    X, y = problem()
    assert regressor("epsilon_insensitive").fit(X, y + 1e6).score(X, y + 1e6) > 0.99


@pytest.mark.parametrize("sparse", [False, True])
def test_long_fits_come_to_the_minimum_of_ridge(sparse):
    X, y = problem(noise=20.0)
    X = (X - 5) * (np.abs(X - 5) > 0.3) if sparse else X
    alpha = 0.1
    exact = Ridge(alpha=alpha * len(X)).fit(X, y)

    def objective(model):
        return ((model.predict(X) - y) ** 2).mean() / 2 + alpha / 2 * (model.coef_**2).sum()

    rows = sp.csr_array(X) if sparse else X
    reg = regressor(alpha=alpha, max_iter=200, tol=None).fit(rows, y)
    assert objective(reg) < 1.001 * objective(exact)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("params", MODES, ids=str)
def test_l1_leaves_the_zeros_of_the_lasso(sparse, params):
    X, y = make_regression(4_000, 30, n_informative=5, noise=5.0, random_state=1)
    X, y = X * (np.abs(X) > 0.3), y / y.std()
    alpha = 0.02
    exact = Lasso(alpha=alpha).fit(X, y)
    rows = sp.csr_array(X) if sparse else X
    reg = regressor(penalty="l1", alpha=alpha, max_iter=60, tol=None, **params).fit(rows, y)
    np.testing.assert_array_equal(reg.coef_ == 0, exact.coef_ == 0)
    np.testing.assert_allclose(reg.coef_, exact.coef_, atol=5e-3)


@pytest.mark.parametrize(
    ("rate", "loss"), [("constant", "squared_error"), ("invscaling", "squared_error"), ("optimal", "huber")]
)
def test_named_rates(rate, loss):
    X, y = problem()
    X, y = (X - X.mean(axis=0)) / X.std(axis=0), y - y.mean()
    reg = regressor(loss, epsilon=1.0, learning_rate=rate, eta0=0.05, max_iter=50).fit(X, y)
    assert reg.score(X, y) > 0.98


@pytest.mark.parametrize("rate", ["pa1", "pa2"])
def test_passive_aggressive_rates(rate):
    X, y = problem(noise=0.0)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    reg = regressor("epsilon_insensitive", learning_rate=rate, eta0=1.0, penalty=None).fit(X, y)
    assert reg.score(X, y) > 0.99
    with pytest.raises(ValueError, match="made for loss='epsilon_insensitive'"):
        regressor("huber", learning_rate=rate).fit(X, y)


def test_weights_are_repeated_rows():
    X, y = problem(400)
    y = y + np.where(np.arange(400) % 2, 20.0, 0.0)
    weights = np.where(np.arange(400) % 2, 3, 1)
    settings = {"max_iter": 400, "tol": None}
    weighted = regressor(**settings).fit(X, y, sample_weight=weights)
    repeated = regressor(**settings).fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=2e-3)


def test_partial_fit_goes_on():
    X, y = problem(6_000)
    reg = regressor()
    for part in np.array_split(np.arange(6_000), 6):
        reg.partial_fit(X[part], y[part])
    assert reg.score(X, y) > 0.98
    assert reg.n_iter_ == 1


def test_a_warm_start_begins_at_the_solution():
    X, y = problem()
    reg = regressor(warm_start=True).fit(X, y)
    first = reg.coef_.copy()
    assert np.abs(reg.fit(X[:50], y[:50]).coef_ - first).max() < 0.5
    cold = regressor(max_iter=1, tol=None).fit(X, y, coef_init=first, intercept_init=reg.intercept_)
    assert cold.score(X, y) > 0.99


def test_it_is_cloned_and_searched():
    X, y = problem(600)
    search = GridSearchCV(regressor(), {"alpha": [1e-4, 10.0]}, cv=3).fit(X, y)
    assert search.best_params_ == {"alpha": 1e-4}
    assert clone(regressor(alpha=0.3)).alpha == 0.3


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.r_[np.nan, np.ones(49)], "NaN"),
        (np.r_[np.inf, np.ones(49)], "infinity"),
        (np.array(["a"] * 50), "(?i)number|convert|numeric"),
        (np.ones((50, 2)), "shape"),
    ],
)
def test_bad_targets_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        regressor().fit(np.eye(50), y)


def test_a_constant_is_predicted():
    reg = regressor().fit(np.random.default_rng(0).normal(size=(50, 3)), np.full(50, 7.0))
    np.testing.assert_allclose(reg.predict(np.zeros((2, 3))), 7.0, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [({"average": True}, {"penalty": "l1"}), ({"penalty": "l1"}, {"average": True})],
    ids=["average-slopes", "slopes-average"],
)
def test_partial_fit_does_not_take_one_running_mean_for_another(before, after, sparse):
    X, y = make_regression(1_000, 5, noise=1.0, random_state=0)
    X = sp.csr_array(X) if sparse else X
    plain = {"average": False, "penalty": "l2"}
    reg = regressor(learning_rate="constant", eta0=0.02, **{**plain, **before})
    for _ in range(20):
        reg.partial_fit(X, y)
    assert reg.score(X, y) > 0.99
    reg.set_params(eta0=1e-9, **{**plain, **after}).partial_fit(X, y)
    assert reg.score(X, y) > 0.99


@pytest.mark.parametrize("loss", ["squared_error", "squared_epsilon_insensitive"])
@pytest.mark.parametrize("params", MODES, ids=str)
def test_the_optimal_rate_does_not_diverge_with_squared_losses(loss, params):
    X, y = make_regression(600, 6, noise=5.0, random_state=0)
    reg = regressor(loss, learning_rate="optimal", **params).fit(X, y)
    assert reg.score(X, y) > 0.99
    assert reg.to_sklearn().partial_fit(X, y).score(X, y) > 0.95


def test_sparse_coefficients_become_those_of_scikit_learn():
    X, y = problem()
    reg = regressor(penalty="l1").fit(X, y)
    twin = reg.sparsify().to_sklearn()
    assert twin.coef_.shape == (8,)
    np.testing.assert_allclose(twin.predict(X), reg.predict(X))
    twin.partial_fit(X, y)


@pytest.mark.parametrize("shape", [(8,), (1, 8), (8, 1)])
def test_coef_init_of_a_single_problem_may_have_any_shape(shape):
    X, y = problem()
    start = np.arange(8.0)
    reg = regressor(learning_rate="constant", eta0=1e-12, max_iter=1, tol=None)
    reg.fit(X, y, coef_init=start.reshape(shape), intercept_init=1.0)
    np.testing.assert_allclose(reg.coef_, start, atol=1e-5)


def test_a_coef_init_that_is_not_finite_is_refused():
    X, y = problem()
    with pytest.raises(ValueError, match="coef_init contains NaN"):
        regressor().fit(X, y, coef_init=np.full(8, np.nan))


def test_a_loss_that_is_always_zero_has_settled():
    X, y = problem()
    assert regressor("huber", epsilon=0.0).fit(X, y).n_iter_ < 20
