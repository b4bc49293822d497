"""Which settings are best? A grid search whose fits run on a Dask cluster, through joblib's Dask backend.

Install with ``pip install "dask-skdist[examples]"`` and run ``python search.py``. Each of the many small
fits is a task: the rows go to the workers, and an estimator that finds itself in a task trains there,
without asking for the cluster. The search runs in this process too, with the same splits and seeds, to
compare with.
"""

from __future__ import annotations

import time

import joblib
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split

from skdist import DistributedSGDClassifier

GRID = {"alpha": [1e-5, 1e-4, 1e-3, 1e-2], "loss": ["hinge", "log_loss"]}


def main() -> None:
    """Search on the cluster and in this process, and judge what was found."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)
    search = GridSearchCV(DistributedSGDClassifier(random_state=0), GRID, cv=5)

    began = time.perf_counter()
    search.fit(X_train, y_train)
    here = time.perf_counter() - began
    print(
        f"in this process: {here:.1f} s for {search.n_splits_ * len(search.cv_results_['params']) + 1} fits, "
        f"{search.best_params_}"
    )
    scores = search.cv_results_["mean_test_score"]

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
        joblib.parallel_config("dask"),
    ):
        for attempt in ("first, the workers import", "again"):
            began = time.perf_counter()
            search.fit(X_train, y_train)
            there = time.perf_counter() - began
            print(f"on two workers, {attempt}: {there:.1f} s, {search.best_params_}")
    same = bool((scores == search.cv_results_["mean_test_score"]).all())
    print(f"the same scores to the last digit: {same}")
    print(f"on {len(X_test)} rows held out: accuracy {search.score(X_test, y_test):.3f}")


if __name__ == "__main__":
    main()
