"""What transformers before the estimator and searches around it cost: seconds, and memory of the driver.

Needs dask-ml. Run it as ``python examples/benchmarks/pipelines.py``.
"""

from __future__ import annotations

import threading
import time
import warnings

import dask
import dask.array as da
import joblib
import psutil
from dask_ml.preprocessing import StandardScaler as LazyScaler
from distributed import Client, LocalCluster, wait
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier

RUNS = 3
ROWS, SMALL, FEATURES = 500_000, 62_500, 50


def measured(name, work):
    """Print the seconds that some work takes, and by how much this process grows meanwhile."""
    process, done = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch():
        nonlocal highest
        while not done.wait(0.01):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    print(f"{name:40} {seconds:6.2f} s {(highest - before) / 1e6:6.0f} MB", flush=True)


def main():
    warnings.simplefilter("ignore")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        random = da.random.default_rng(0)
        X = random.standard_normal((ROWS, FEATURES), chunks=(SMALL, -1))
        y = (X[:, 0] + 2 * X[:, 1] + random.standard_normal(ROWS, chunks=SMALL) > 0).astype(int)
        X, y = dask.persist(X, y)
        wait([X, y])
        few = dask.compute(X[:SMALL], y[:SMALL])
        clf = DistributedSGDClassifier("log_loss", random_state=0).fit(X, y)
        search = GridSearchCV(clf, {"alpha": [1e-5, 1e-4, 1e-3, 1e-2]}, cv=3)
        for _ in range(RUNS):
            measured("fit", lambda: make_pipeline(clf).fit(X, y))
            measured("fit behind dask-ml's scaler", lambda: make_pipeline(LazyScaler(), clf).fit(X, y))
            measured(
                "fit behind scikit-learn's scaler", lambda: make_pipeline(StandardScaler(), clf).fit(X, y)
            )
            measured("search in memory", lambda: search.fit(*few))
            with joblib.parallel_config("dask"):
                measured("search in memory, joblib's tasks", lambda: search.fit(*few))
            measured("search on the cluster", lambda: search.fit(X, y))


if __name__ == "__main__":
    main()
