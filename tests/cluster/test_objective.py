"""What is minimised does not depend on who is fast: uneven partitions, one worker slowed down."""

import dask.array as da
import numpy as np
import pytest
from distributed import wait
from sklearn.datasets import make_classification, make_regression

from skdist import DistributedSGDClassifier, DistributedSGDRegressor
from skdist.testing import slow_down
from tests.objectives import EPSILON, Objective

#: Rows of the partitions; the first half lies on the slow worker.
CHUNKS = (2_400, 100, 1_500, 800, 300, 900, 40, 1_960)
ROWS = sum(CHUNKS)


@pytest.fixture
def slowed(client):
    """The workers, the first of which trains five times as slowly as it could."""
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    slow_down(client, workers[0], 5)
    yield workers
    slow_down(client, workers[0], 1)


def spread(client, workers, X, y):
    """Return collections whose first partitions are on the first worker, and hold rows unlike the others'."""
    half = len(CHUNKS) // 2
    collections = [da.from_array(X, chunks=(CHUNKS, -1)), da.from_array(y, chunks=(CHUNKS,))]
    placed = []
    for values in collections:
        first, last = values[: sum(CHUNKS[:half])], values[sum(CHUNKS[:half]) :]
        placed.append(
            da.concatenate([
                client.persist(first, workers=workers[0]), client.persist(last, workers=workers[1])
            ])
        )  # fmt: skip
    wait(placed)
    return placed


@pytest.mark.parametrize(
    ("loss", "params"),
    [
        ("hinge", {}),
        pytest.param("log_loss", {"penalty": "l1", "alpha": 1e-2, "max_iter": 160}, marks=pytest.mark.long),
        ("log_loss", {"class_weight": "balanced"}),
        pytest.param("squared_hinge", {"mode": "ssp", "max_iter": 140}, marks=pytest.mark.long),
        ("log_loss", {"mode": "sync", "aggregator": "uniform"}),
        ("squared_error", {"penalty": "elasticnet", "alpha": 1e-2}),
        ("huber", {"collect": 1}),
    ],
    ids=str,
)
def test_a_slow_worker_does_not_move_the_minimum(client, slowed, loss, params):
    params = {"alpha": 1e-3, **params}
    regression = loss in ("squared_error", "huber")
    if regression:
        X, y = make_regression(ROWS, 12, n_informative=6, noise=20.0, random_state=0)
        y = y / 50
    else:
        X, y = make_classification(ROWS, 12, n_informative=6, flip_y=0.05, random_state=0)
    # Who is slow has rows of its own kind: without them the minimum is another one, see below.
    kind_of_row = X[:, 0] + 2 * X[:, 0].std() * np.random.default_rng(0).normal(size=ROWS)
    order = np.argsort(kind_of_row, kind="stable")
    X, y = X[order], y[order]
    kind = DistributedSGDRegressor if regression else DistributedSGDClassifier
    settings = {"epsilon": EPSILON, "max_iter": 70, "tol": None, "random_state": 0, **params}
    estimator = kind(loss, client=client, **settings).fit(*spread(client, slowed, X, y))
    weights = np.ones(ROWS)
    if params.get("class_weight"):
        weights = ROWS / (2 * np.bincount(y)[y])
    target = y if regression else 2 * y - 1
    objective = Objective(loss, X, target, params["alpha"], params.get("penalty", "l2"), weights=weights)
    least = objective.minimum(estimator)
    assert objective.of(estimator) <= 1.001 * least
    # The rows of the slow worker at half their weight, as if half of its updates came too late.
    half = np.where(np.arange(ROWS) < sum(CHUNKS[: len(CHUNKS) // 2]), 0.5, 1.0)
    elsewhere = kind(loss, **settings | {"mode": "async"}).fit(X, y, sample_weight=half)
    assert objective.of(elsewhere) > objective.of(estimator)
