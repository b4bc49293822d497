"""A grid search in memory: 12 candidates, 3 folds, 50,000 rows of 50 features, ours beside SGDClassifier's.

``python search.py`` prints a table: seconds of each search, the ratio, and the best mean test accuracy. Both
run in one process, one after the other in turns; ``--jobs`` gives them processes (loky).
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier

ROWS, FEATURES, FOLDS = 50_000, 50, 3
GRID = {"alpha": [1e-5, 1e-4, 1e-3, 1e-2], "penalty": ["l2", "l1", "elasticnet"]}


def search(estimator: object, jobs: int) -> GridSearchCV:
    """Return a search over the last step of a pipeline that standardises."""
    pipeline = make_pipeline(StandardScaler(), estimator)
    name = pipeline.steps[-1][0]
    grid = {f"{name}__{key}": values for key, values in GRID.items()}
    return GridSearchCV(pipeline, grid, cv=FOLDS, n_jobs=jobs)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y = make_classification(ROWS, FEATURES, n_informative=20, n_redundant=10, flip_y=0.05, random_state=0)
    print("| loss | ours, s | SGDClassifier, s | ratio | accuracy, ours | accuracy, SGDClassifier |")
    print("|---|---|---|---|---|---|")
    for loss in ("hinge", "log_loss"):
        sides = {
            "ours": DistributedSGDClassifier(loss, random_state=0),
            "theirs": SGDClassifier(loss=loss, random_state=0),
        }
        sides["ours"].fit(X[:1000], y[:1000])  # compiles
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        best = {}
        for _ in range(options.repeats):
            for name, estimator in sides.items():
                began = time.perf_counter()
                best[name] = search(estimator, options.jobs).fit(X, y).best_score_
                seconds[name].append(time.perf_counter() - began)
        ours, theirs = (statistics.median(seconds[name]) for name in ("ours", "theirs"))
        scores = f"{best['ours']:.4f} | {best['theirs']:.4f}"
        print(f"| {loss} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} | {scores} |")


if __name__ == "__main__":
    main()
