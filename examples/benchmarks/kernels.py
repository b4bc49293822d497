"""The kernels alone: how fast a pass reads, by the order of the rows, and how fast rows are measured.

``python kernels.py`` prints milliseconds per pass and gigabytes per second, each the median of several runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from skdist.control.schedules import CONSTANT, Schedule
from skdist.models.linear import LinearModel
from skdist.models.moments import measure
from skdist.models.partition import Partition, row_order, rows_per_page

CASES = [(250_000, 100, 2), (250_000, 20, 2), (250_000, 54, 7), (60_000, 784, 10)]
REPEATS = 7


def median_seconds(work: Callable[[], object]) -> float:
    """Return the median duration of some calls, after one that compiles."""
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Print a table."""
    print("| rows x features, classes | order | ms | GB/s |")
    print("|---|---|---|---|")
    for n_rows, n_features, n_classes in CASES:
        rng = np.random.default_rng(0)
        X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
        codes = rng.integers(0, n_classes, n_rows).astype(np.int32)
        rows = Partition(X, codes, np.ones(n_rows, np.float32), np.arange(n_classes))
        model = LinearModel(
            loss="log_loss", n_classes=n_classes, n_features=n_features, alpha=1e-4, fit_intercept=True,
            batch_size=64, schedule=Schedule(CONSTANT, 0.01, adaptive=True, average_from=0.0),
            scale=np.ones(n_features, np.float32), center=np.zeros(n_features, np.float32),
            dtype=np.dtype(np.float32), sparse=False,
        )  # fmt: skip
        orders = {
            "in turn": np.arange(n_rows, dtype=np.int32),
            f"pages of {rows_per_page(X)} rows": row_order(n_rows, rows_per_page(X), (0,)),
            "single rows": row_order(n_rows, 1, (0,)),
        }
        work = {
            name: lambda order=order: model.train(model.initial_state(), rows, order, 0, n_rows, 0.0)
            for name, order in orders.items()
        }
        work["measuring moments"] = lambda: measure(X, rows.weights)
        for name, call in work.items():
            seconds = median_seconds(call)
            rate = X.nbytes / seconds / 1e9
            print(f"| {n_rows:,} x {n_features}, {n_classes} | {name} | {seconds * 1e3:.1f} | {rate:.1f} |")


if __name__ == "__main__":
    main()
