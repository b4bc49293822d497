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
from skdist.models.measuring import measure
from skdist.models.partition import Partition, row_order, rows_per_page

CASES = [
    (2_000_000, 100, 2),
    (250_000, 100, 2),
    (250_000, 20, 2),
    (2_000_000, 54, 7),
    (250_000, 54, 7),
    (60_000, 784, 10),
]
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


def work_of(n_rows: int, n_features: int, n_classes: int) -> tuple[int, dict[str, Callable[[], object]]]:
    """Return the size of some rows in bytes, and what can be done with them."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_features), dtype=np.float32)
    codes = rng.integers(0, n_classes, n_rows).astype(np.int32)
    rows = Partition(X, codes, np.ones(n_rows, np.float32), np.arange(n_classes))
    model = LinearModel(
        loss="log_loss", n_classes=n_classes, n_features=n_features, l1=0.0, l2=1e-4, fit_intercept=True,
        batch_size=64, schedule=Schedule(CONSTANT, 0.01, adaptive=True, average_from=0.0),
        scale=np.ones(n_features, np.float32), center=np.zeros(n_features, np.float32),
        dtype=np.dtype(np.float32), sparse=False,
    )  # fmt: skip

    def a_pass(order: np.ndarray) -> Callable[[], object]:
        return lambda: model.train(model.initial_state(), rows, order, 0, n_rows, 0.0)

    page = rows_per_page(X)
    return X.nbytes, {
        "rows in turn": a_pass(np.arange(n_rows, dtype=np.int32)),
        f"pages of {page} rows": a_pass(row_order(n_rows, page, (0,))),
        "single rows": a_pass(row_order(n_rows, 1, (0,))),
        "measuring moments": lambda: measure(X, rows.weights),
    }


def main() -> None:
    """Print a table."""
    print("| rows x features, classes | work | ms | GB/s |")
    print("|---|---|---|---|")
    for case in CASES:
        nbytes, work = work_of(*case)
        for name, call in work.items():
            seconds = median_seconds(call)
            size = "{:,} x {}, {}".format(*case)
            print(f"| {size} | {name} | {seconds * 1e3:.1f} | {nbytes / seconds / 1e9:.1f} |")


if __name__ == "__main__":
    main()
