"""scikit-learn's tools around an estimator, for tests in this process and on clusters."""

from __future__ import annotations

import sklearn.experimental.enable_halving_search_cv  # noqa: F401 - makes the import below work
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler

ALPHAS = [1e-5, 1e-3, 100.0]


def grid(estimator, n_jobs):
    return GridSearchCV(
        estimator,
        {"alpha": ALPHAS, "batch_sizer__threshold": [0.01]},
        cv=2,
        n_jobs=n_jobs,
        error_score="raise",
    )


def halving(estimator, n_jobs):
    return HalvingGridSearchCV(estimator, {"alpha": ALPHAS}, cv=2, n_jobs=n_jobs, error_score="raise")


def pipeline(estimator, n_jobs):
    columns = make_column_transformer(
        (StandardScaler(), [0, 1, 2]),
        (KBinsDiscretizer(4, quantile_method="linear"), [3]),
        remainder="passthrough",
        n_jobs=n_jobs,
    )
    return make_pipeline(columns, StandardScaler(with_mean=False), estimator)


def calibrated(classifier, n_jobs):
    return CalibratedClassifierCV(classifier, cv=2, n_jobs=n_jobs)


def one_vs_rest(classifier, n_jobs):
    return OneVsRestClassifier(classifier, n_jobs=n_jobs)


def stacked(classifier, n_jobs):
    return StackingClassifier(
        [("here", classifier), ("other", LogisticRegression())], cv=2, n_jobs=n_jobs, passthrough=True
    )


#: For all estimators, and for classifiers only.
COMMON = [grid, halving, pipeline]
FOR_CLASSIFIERS = [calibrated, one_vs_rest, stacked]
