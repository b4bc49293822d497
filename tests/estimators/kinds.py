"""The estimators that shared tests run on, in one place."""

from __future__ import annotations

from sklearn.base import is_classifier

from skdist import DistributedSGDClassifier, DistributedSGDRegressor

CLASSIFIERS = [DistributedSGDClassifier]

ESTIMATORS = [*CLASSIFIERS, DistributedSGDRegressor]


def make(kind, **parameters):
    """Return an estimator of a kind with a seed; classifiers estimate probabilities."""
    if kind in CLASSIFIERS:
        parameters = {"loss": "log_loss", **parameters}
    return kind(**{"random_state": 0, "max_iter": 5, "tol": None, **parameters})


def learned(estimator, X, y, least=0.85):
    """Whether a fit explains labels of 0 and 1; for regressors that is a smaller share of the variance."""
    return estimator.score(X, y) > (least if is_classifier(estimator) else 0.5 * least)
