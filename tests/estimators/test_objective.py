import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from skdist import DistributedSGDClassifier, DistributedSGDRegressor
from skdist.testing import SimulatedCluster
from tests.objectives import CLASSIFICATION, EPSILON, REGRESSION, Objective

PENALTIES = pytest.mark.parametrize(("penalty", "alpha"), [("l2", 1e-3), ("l1", 1e-2), ("elasticnet", 1e-2)])
#: How far above the minimum long fits may end.
NEAR = 1.001


def classes(n_rows=8_000):
    """Return rows of unlike features, not centred, and two overlapping classes."""
    X, y = make_classification(n_rows, 12, n_informative=6, n_redundant=3, flip_y=0.05, random_state=0)
    return X * np.linspace(0.5, 3, 12) + 1, y


def numbers(n_rows=8_000):
    """Return rows and numbers with heavy tails."""
    X, y = make_regression(n_rows, 12, n_informative=6, noise=20.0, random_state=0)
    return X * np.linspace(0.5, 2, 12), y / 50 + 0.3 * np.random.default_rng(0).standard_t(3, n_rows)


def long(kind, loss, **params):
    return kind(loss, epsilon=EPSILON, max_iter=100, tol=None, random_state=0, **params)


@PENALTIES
@pytest.mark.parametrize("loss", CLASSIFICATION)
def test_long_fits_of_classes_come_to_the_minimum(loss, penalty, alpha):
    X, y = classes()
    clf = long(DistributedSGDClassifier, loss, penalty=penalty, alpha=alpha).fit(X, y)
    objective = Objective(loss, X, 2 * y - 1, alpha, penalty)
    assert objective.of(clf) <= NEAR * objective.minimum(clf)


@PENALTIES
@pytest.mark.parametrize("loss", REGRESSION)
def test_long_fits_of_numbers_come_to_the_minimum(loss, penalty, alpha):
    X, y = numbers()
    reg = long(DistributedSGDRegressor, loss, penalty=penalty, alpha=alpha).fit(X, y)
    objective = Objective(loss, X, y, alpha, penalty)
    assert objective.of(reg) <= NEAR * objective.minimum(reg)


def test_the_minimum_is_that_of_solvers_people_trust():
    X, y = classes()
    alpha, rows = 1e-3, len(X)
    trusted = {
        "log_loss": LogisticRegression(C=1 / (alpha * rows), tol=1e-8, max_iter=10_000).fit(X, y),
        # It penalises the intercept too, unless that is made cheap.
        "squared_hinge": LinearSVC(
            C=1 / (alpha * rows), tol=1e-8, max_iter=100_000, intercept_scaling=1e3, dual=False
        ).fit(X, y),
    }
    for loss, solver in trusted.items():
        objective = Objective(loss, X, 2 * y - 1, alpha)
        assert objective.of(solver) == pytest.approx(objective.minimum(solver), rel=1e-5)
    X, y = numbers()
    ridge = Ridge(alpha=alpha * rows, tol=1e-10).fit(X, y)
    objective = Objective("squared_error", X, y, alpha)
    assert objective.of(ridge) == pytest.approx(objective.minimum(ridge), rel=1e-6)


@pytest.mark.parametrize("params", [{"mode": "async"}, {"mode": "ssp"}, {"collect": 1}], ids=str)
@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_long_fits_of_many_learners_come_to_the_minimum(loss, params):
    rng = np.random.default_rng(0)
    X = sp.random(4_000, 12, 0.3, "csr", random_state=1)
    y = X @ rng.standard_normal(12) * 3 + 0.3 * rng.standard_normal(4_000) + 1
    with SimulatedCluster(8, seconds_per_row=[1e-6] * 6 + [1e-5] * 2, exchange_seconds=6.4e-4):
        reg = long(DistributedSGDRegressor, loss, alpha=1e-3, **params).fit(X, y)
    objective = Objective(loss, X.toarray(), y, 1e-3)
    assert objective.of(reg) <= NEAR * objective.minimum(reg)


@pytest.mark.parametrize(
    "weighted", [{"class_weight": {0: 1.0, 1: 4.0}}, {"class_weight": "balanced"}, {}], ids=str
)
@pytest.mark.parametrize("params", [{}, {"n_jobs": 2}, {"mode": "sync", "n_jobs": 2}], ids=str)
def test_weights_of_rows_and_classes_multiply(weighted, params):
    X, y = classes()
    keep = (y == 0) | (np.arange(len(y)) % 4 == 0)
    X, y = X[keep], y[keep]
    own = np.random.default_rng(1).uniform(0.2, 2, len(y))
    kind = weighted.get("class_weight")
    factors = {0: 1.0, 1: 1.0} if kind is None else kind
    if kind == "balanced":
        factors = {k: len(y) / (2 * (y == k).sum()) for k in (0, 1)}
    clf = long(DistributedSGDClassifier, "log_loss", alpha=1e-3, **weighted, **params)
    if params.get("mode") == "sync":
        clf.set_params(aggregator="uniform")
    clf.fit(X, y, sample_weight=own)
    weights = own * np.where(y == 1, factors[1], factors[0])
    objective = Objective("log_loss", X, 2 * y - 1, 1e-3, weights=weights)
    assert objective.of(clf) <= NEAR * objective.minimum(clf)


def test_the_softmax_comes_to_the_minimum_of_logistic_regression():
    X, y = make_classification(6_000, 8, n_informative=6, n_classes=4, random_state=0)
    alpha = 1e-3
    exact = LogisticRegression(C=1 / (alpha * len(X)), tol=1e-8, max_iter=10_000).fit(X, y)
    clf = long(DistributedSGDClassifier, "log_loss", alpha=alpha, multi_class="multinomial").fit(X, y)

    def objective(model):
        shares = model.predict_proba(X)[np.arange(len(y)), y]
        return -np.log(shares).mean() + alpha / 2 * (model.coef_**2).sum()

    assert objective(clf) <= NEAR * objective(exact)
    np.testing.assert_allclose(clf.predict_proba(X), exact.predict_proba(X), atol=0.02)
