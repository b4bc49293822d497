"""scikit-learn's own checks, and the statistical test that it asks of stochastic estimators."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from distributed import Client, LocalCluster
from sklearn.base import is_classifier
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from tests.cluster.conftest import assert_clean
from tests.estimators.kinds import ESTIMATORS, make

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

#: What scikit-learn lists for its own SGD estimators.
STOCHASTIC = {
    "check_sample_weight_equivalence_on_dense_data": "the order of the rows differs; see the test below",
    "check_sample_weight_equivalence_on_sparse_data": "the order of the rows differs; see the test below",
}

#: Compare two fits number by number, whatever the tag ``non_deterministic`` says.
REPEATABLE = {
    "check_fit_idempotent": "several learners do not repeat to the bit",
    "check_supervised_y_2d": "several learners do not repeat to the bit",
    "check_regressor_data_not_an_array": "several learners do not repeat to the bit",
    "check_regressors_int": "several learners do not repeat to the bit",
}

#: Deep-copy the parameters, and a client of a cluster cannot be copied.
COPIED = {
    "check_estimators_overwrite_params": "a client cannot be deep-copied",
    "check_set_params": "a client cannot be deep-copied",
}

#: Where scikit-learn has a strict form of expected failures.
STRICT = {
    name: True for name in inspect.signature(parametrize_with_checks).parameters if name == "xfail_strict"
}

FIXED_SHARES = {"n_jobs": 2, "mode": "sync", "round_size": 32, "batch_sizer": None}


@parametrize_with_checks(
    [kind(**settings) for kind in ESTIMATORS for settings in ({}, {"mode": "sync"})],
    expected_failed_checks=lambda _: STOCHASTIC,
    **STRICT,
)
def test_what_repeats(estimator, check):
    check(estimator)


@pytest.mark.long
@parametrize_with_checks(
    [kind(**settings) for kind in ESTIMATORS for settings in ({"mode": "ssp"}, FIXED_SHARES)],
    expected_failed_checks=lambda _: STOCHASTIC,
    **STRICT,
)
def test_what_repeats_too(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [kind(n_jobs=2) for kind in ESTIMATORS],
    expected_failed_checks=lambda _: STOCHASTIC | REPEATABLE,
)
def test_several_learners(estimator, check):
    check(estimator)


def name_of(check):
    return getattr(check, "func", check).__name__


ON_CLUSTER = [
    pytest.param(kind, number, id=f"{kind.__name__}-{number}-{name_of(check)}")
    for kind in ESTIMATORS
    for number, (estimator, check) in enumerate(estimator_checks_generator(kind(), mark=None))
    if name_of(check) not in STOCHASTIC | REPEATABLE | COPIED
]


@pytest.fixture(scope="module")
def client():
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client
        assert_clean(client)


@pytest.mark.parametrize(("kind", "number"), ON_CLUSTER)
def test_on_a_cluster(client, kind, number):
    estimator = kind(client=client)
    _, check = list(estimator_checks_generator(kind(), mark=None))[number]
    check(estimator)


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize(
    ("settings", "repeats"),
    [
        ({}, True),
        ({"n_jobs": 1, "mode": "ssp"}, True),
        ({"n_jobs": 2}, False),
        ({"n_jobs": -1}, False),
        ({"client": object()}, False),
        (FIXED_SHARES, True),
        ({**FIXED_SHARES, "client": object()}, True),
        ({**FIXED_SHARES, "batch_sizer": "auto"}, False),
    ],
)
def test_tags_say_what_repeats(kind, settings, repeats):
    tags = get_tags(kind(**settings))
    assert tags.non_deterministic is not repeats
    assert tags.input_tags.sparse
    assert not tags.input_tags.allow_nan
    assert tags.target_tags.required
    assert not tags.target_tags.multi_output


def objective(fitted, X, y, weights):
    """Return the weighted mean loss with the penalty."""
    scores = X @ np.ravel(fitted.coef_) + fitted.intercept_
    losses = np.logaddexp(0, -(2 * y - 1) * scores) if is_classifier(fitted) else (y - scores) ** 2 / 2
    return weights @ losses / weights.sum() + fitted.alpha / 2 * np.sum(fitted.coef_**2)


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_weights_are_repeated_rows_over_seeds(kind, n_jobs):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4_000, 5))
    y = (X @ [1, -1, 0.5, 0, 0] + rng.logistic(size=len(X)) > 0).astype(float)
    weights = np.where(y == 1, 4, rng.integers(0, 3, len(X)))

    def objectives(rows, labels, **fit):
        settings = {"alpha": 1e-2, "max_iter": 10, "n_jobs": n_jobs}
        fits = (
            make(kind, **{**settings, "random_state": seed}).fit(rows, labels, **fit) for seed in range(10)
        )
        return np.array([objective(fitted, X, y, weights) for fitted in fits])

    # The loss is a mean over rows: weights of mean 1 leave the penalty its weight.
    weighted = objectives(X, y, sample_weight=weights / weights.mean())
    repeated = objectives(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    difference = abs(weighted.mean() - repeated.mean())
    assert difference < 0.005 * repeated.mean()
    assert objectives(X, y).mean() > 1.1 * repeated.mean()
