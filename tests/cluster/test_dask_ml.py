"""With dask-ml, where it is installed: what it leaves on the cluster stays there."""

from __future__ import annotations

import dask
import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from sklearn.datasets import make_classification
from sklearn.pipeline import make_pipeline

from tests.cluster.conftest import assert_clean
from tests.estimators.kinds import CLASSIFIERS, ESTIMATORS, learned, make

pytest.importorskip("dask_ml")

from dask_ml.feature_extraction.text import HashingVectorizer
from dask_ml.model_selection import GridSearchCV, train_test_split
from dask_ml.preprocessing import Categorizer, DummyEncoder, StandardScaler
from dask_ml.wrappers import Incremental, ParallelPostFit

pytestmark = pytest.mark.timeout(60)

X, Y = make_classification(1_500, 6, n_informative=5, n_redundant=0, n_clusters_per_class=1, random_state=0)

kinds = pytest.mark.parametrize("kind", ESTIMATORS)
classifiers = pytest.mark.parametrize("kind", CLASSIFIERS)


@pytest.fixture(scope="module", autouse=True)
def client():
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        yield client
        assert_clean(client)


@pytest.fixture(params=["Array", "DataFrame"])
def rows(request):
    if request.param == "Array":
        return da.from_array(X, chunks=(300, -1)), da.from_array(Y, chunks=300)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    return dd.from_pandas(frame, npartitions=5), dd.from_pandas(pd.Series(Y), npartitions=5)


def least(kind):
    return 0.8 if kind in CLASSIFIERS else 0.3


@kinds
def test_a_lazy_scaler_keeps_a_pipeline_on_the_cluster(kind, rows):
    pipeline = make_pipeline(StandardScaler(), make(kind)).fit(*rows)
    assert "inline" not in pipeline[-1].history_.to_frame("rounds").worker.unique()
    assert isinstance(pipeline.predict(rows[0]), da.Array)
    assert learned(pipeline, *rows, 0.8)


@kinds
def test_lazy_splits(kind, rows):
    train, test, y_train, y_test = train_test_split(*rows, random_state=0, shuffle=True)
    fitted = make(kind).fit(train, y_train)
    assert 0 < fitted.history_.epochs[0].rows < len(Y)
    assert learned(fitted, test, y_test, 0.8)


@classifiers
def test_incremental_makes_one_partial_fit_per_block(kind, rows):
    fitted = Incremental(make(kind), shuffle_blocks=False).fit(*rows, classes=[0, 1])
    inner = fitted.estimator_
    assert [epoch.rows for epoch in inner.history_.epochs] == [300] * 5
    assert {record.worker for record in inner.history_.rounds} == {"inline"}  # inside dask-ml's tasks
    predicted = fitted.predict(rows[0])
    assert isinstance(predicted, da.Array)
    np.testing.assert_array_equal(predicted.compute(), inner.predict(X))
    assert (predicted.compute() == Y).mean() > 0.8


@kinds
def test_parallel_post_fit_predicts_lazily(kind, rows):
    fitted = ParallelPostFit(make(kind)).fit(*rows)
    predicted = fitted.predict(rows[0])
    assert dask.is_dask_collection(predicted)
    np.testing.assert_allclose(predicted.compute(), fitted.estimator.predict(rows[0]).compute())


@kinds
def test_its_grid_search(kind):
    found = GridSearchCV(make(kind), {"alpha": [1e-4, 100.0]}, cv=2).fit(X, Y)
    assert found.best_params_["alpha"] == 1e-4
    assert found.best_score_ > least(kind)


@classifiers
def test_categories_become_columns(kind):
    frame = pd.DataFrame({"a": X[:, 0], "word": np.array(["no", "yes"])[Y]})
    lazy, labels = dd.from_pandas(frame, npartitions=3), dd.from_pandas(pd.Series(Y), npartitions=3)
    pipeline = make_pipeline(Categorizer(columns=["word"]), DummyEncoder(columns=["word"]), make(kind))
    fitted = pipeline.fit(lazy, labels)
    assert fitted[-1].feature_names_in_.tolist() == ["a", "word_no", "word_yes"]
    assert fitted.score(lazy, labels) == 1


@classifiers
def test_hashed_texts(kind):
    texts = [f"{'good' if y else 'bad'} {i % 7}" for i, y in enumerate(Y)]
    hashed = HashingVectorizer(n_features=256).transform(dask.bag.from_sequence(texts, npartitions=4))
    labels = da.from_array(Y, chunks=375)
    fitted = make(kind).fit(hashed, labels)
    assert fitted.score(hashed, labels) == 1
