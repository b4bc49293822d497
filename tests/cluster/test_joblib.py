"""Under joblib's Dask backend and inside tasks, on one thread and on two: nothing waits for itself."""

from __future__ import annotations

import dask.array as da
import joblib
import pytest
from distributed import Client, LocalCluster, get_client, get_worker, worker_client
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, cross_validate

from tests.cluster.conftest import assert_clean
from tests.estimators.kinds import CLASSIFIERS, ESTIMATORS, learned, make
from tests.estimators.tools import COMMON, FOR_CLASSIFIERS

pytestmark = pytest.mark.timeout(60)

X, Y = make_classification(1_500, 8, n_informative=5, n_clusters_per_class=1, class_sep=1.5, random_state=0)

CASES = [(kind, tool) for kind in ESTIMATORS for tool in COMMON]
CASES += [(kind, tool) for kind in CLASSIFIERS for tool in FOR_CLASSIFIERS]

kinds = pytest.mark.parametrize("kind", ESTIMATORS)


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def active(request):
    """An active client of a worker in this process: no thread to spare."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=request.param, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
        assert_clean(client)


@pytest.mark.parametrize(("kind", "tool"), CASES)
@pytest.mark.parametrize("given", [False, True], ids=["active client", "client="])
def test_tools_fit_it_under_the_dask_backend(active, kind, tool, given):
    estimator = make(kind, client=active if given else None)
    with joblib.parallel_config("dask"):
        made = tool(estimator, None).fit(X, Y)
    assert learned(made, X, Y)


@kinds
def test_the_dask_backend_of_two_processes(client, kind):
    with joblib.parallel_config("dask"):
        found = cross_validate(make(kind, client=client), X, Y, cv=4, return_estimator=True)
    assert found["test_score"].min() > 0.4
    # The client stayed here: each task trained its rows where it ran.
    assert {r.worker for fitted in found["estimator"] for r in fitted.history_.rounds} == {"inline"}


@kinds
def test_a_search_over_a_dask_array_trains_each_fit_on_the_cluster(active, kind):
    dX, dy = da.from_array(X, chunks=(250, -1)), da.from_array(Y, chunks=250)
    made = GridSearchCV(make(kind), {"alpha": [1e-4, 100.0]}, cv=2, error_score="raise").fit(dX, dy)
    assert made.best_params_["alpha"] == 1e-4
    assert "inline" not in made.best_estimator_.history_.to_frame("rounds").worker.unique()


def fit_with_the_workers_client(kind, how):
    """Fit inside a task, which holds the only thread of a one-thread worker."""
    dX, dy = da.from_array(X, chunks=(250, -1)), da.from_array(Y, chunks=250)
    if how == "none":
        fitted = make(kind).fit(dX, dy)
    elif how == "get_client":
        fitted = make(kind, client=get_client()).fit(X, Y)
    else:
        with worker_client() as client:
            fitted = make(kind, client=client).fit(X, Y)
    score = fitted.score(dX, dy)
    addresses = set(fitted.history_.to_frame("rounds").worker)
    return score, addresses == {get_worker().address}


@kinds
@pytest.mark.parametrize("how", ["none", "get_client", "worker_client"])
def test_a_fit_on_the_cluster_inside_one_of_its_tasks(active, kind, how):
    score, on_the_cluster = active.submit(fit_with_the_workers_client, kind, how, pure=False).result(
        timeout=30
    )
    assert score > 0.4
    assert on_the_cluster
