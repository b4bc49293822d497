"""In the pipelines, searches and meta-estimators of scikit-learn, in this process and on joblib's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline

from tests.estimators.kinds import CLASSIFIERS, ESTIMATORS, learned, make
from tests.estimators.tools import ALPHAS, COMMON, FOR_CLASSIFIERS, grid, halving

X, Y = make_classification(1_500, 8, n_informative=5, n_clusters_per_class=1, class_sep=1.5, random_state=0)

CASES = [(kind, tool) for kind in ESTIMATORS for tool in COMMON]
CASES += [(kind, tool) for kind in CLASSIFIERS for tool in FOR_CLASSIFIERS]


@pytest.mark.parametrize(("kind", "tool"), CASES)
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_tools_fit_it(kind, tool, n_jobs):
    made = tool(make(kind), n_jobs).fit(X, Y)
    assert learned(made, X, Y)
    if tool in (grid, halving):
        assert made.best_params_["alpha"] in ALPHAS[:2]
        by_alpha = dict(
            zip(made.cv_results_["param_alpha"], made.cv_results_["mean_test_score"], strict=False)
        )
        assert by_alpha[100.0] < max(by_alpha.values()) - 0.02
    if tool is grid:
        assert made.best_estimator_.batch_sizer.threshold == 0.01


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_cross_validation_gives_each_fold_its_estimator(kind):
    found = cross_validate(make(kind), X, Y, cv=3, return_estimator=True, return_train_score=True)
    assert found["test_score"].min() > 0.4
    assert len({fitted.coef_.tobytes() for fitted in found["estimator"]}) == 3
    assert all(fitted.history_.epochs[0].rows == 1_000 for fitted in found["estimator"])


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_hashed_texts(kind):
    rng = np.random.default_rng(0)
    texts = [" ".join(["good" if y else "bad", *rng.choice(list("abcdefgh"), 5)]) for y in Y]
    pipeline = make_pipeline(HashingVectorizer(n_features=2**12), make(kind)).fit(texts, Y)
    assert pipeline.score(texts, Y) == 1
    pipeline[-1].sparsify()
    assert pipeline[-1].coef_.nnz < 2**12
    assert pipeline.predict(["so good", "so bad"]).tolist() == [1, 0]
