"""scikit-learn's own checks of the perceptrons, in this process."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdist import DistributedMLPClassifier, DistributedMLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

#: What scikit-learn lists for its own stochastic estimators.
STOCHASTIC = {
    "check_sample_weight_equivalence_on_dense_data": "the order of the rows differs",
    "check_sample_weight_equivalence_on_sparse_data": "the order of the rows differs",
}


@parametrize_with_checks(
    [
        DistributedMLPClassifier(),
        DistributedMLPRegressor(max_iter=100),
        DistributedMLPClassifier(mode="sync"),
    ],
    expected_failed_checks=lambda _: STOCHASTIC,
)
def test_perceptrons(estimator, check):
    check(estimator)
