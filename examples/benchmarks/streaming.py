"""Data larger than memory: one pass of a fit against loading alone, and the memory of workers and driver.

``python streaming.py --gigabytes 12 --limit 1.5GB`` makes rows partition by partition on two worker
processes, as a reader of files would, in turns for a fit of one pass and for tasks that only count them.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil
from dask.utils import format_bytes
from distributed import Client, LocalCluster

from skdist import DistributedSGDClassifier

FEATURES = 100


def load(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a partition: rows of a logistic model."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, FEATURES), dtype=np.float32)
    z = X @ np.random.default_rng(0).normal(size=FEATURES).astype(np.float32) / 4
    return X, (z + rng.logistic(size=rows) > 0).astype(np.int8)


def collections(gigabytes: float, partition_bytes: float) -> tuple[Any, Any, list[Any]]:
    """Return lazy X and y, and the partitions that they are made from."""
    rows = int(partition_bytes / FEATURES / 4)
    parts = [
        dask.delayed(load, pure=True)(seed, rows) for seed in range(round(gigabytes * 1e9 / partition_bytes))
    ]
    X = [da.from_delayed(part[0], (rows, FEATURES), np.float32) for part in parts]
    y = [da.from_delayed(part[1], (rows,), np.int8) for part in parts]
    return da.concatenate(X), da.concatenate(y), parts


def count(part: tuple[np.ndarray, np.ndarray]) -> int:
    """Return the rows of a partition."""
    return len(part[0])


class Peak:
    """Watches the memory of the workers and of this process."""

    def __init__(self, client: Client) -> None:
        self._processes = [psutil.Process(pid) for pid in client.run(_pid).values()]
        self._own = psutil.Process()
        self._stop = threading.Event()
        self.worker, self.driver = 0, 0
        self.before = self._own.memory_info().rss

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.worker = max(self.worker, *(process.memory_info().rss for process in self._processes))
            self.driver = max(self.driver, self._own.memory_info().rss)


def _pid() -> int:
    import os

    return os.getpid()


def spilled(client: Client) -> int:
    """Return the bytes that the workers have spilled."""
    return sum(client.run(_spilled).values())


def _spilled(dask_worker: Any) -> int:
    return int(getattr(dask_worker.data, "spilled_total", (0, 0))[0])


def main() -> None:
    """Run both in turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=12.0)
    parser.add_argument("--partition", type=float, default=50e6, help="bytes of a partition")
    parser.add_argument("--limit", default="1.5GB", help="memory of each worker")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=options.limit, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        X, y, parts = collections(options.gigabytes, options.partition)
        small = collections(4 * options.partition / 1e9, options.partition)[:2]
        DistributedSGDClassifier("log_loss", max_iter=1, tol=None).fit(*small)  # compiles
        times: dict[str, list[float]] = {"load": [], "fit": []}
        for _ in range(options.repeat):
            began = time.perf_counter()
            dask.compute(*map(dask.delayed(count), parts))
            times["load"].append(time.perf_counter() - began)
            with Peak(client) as peak:
                began = time.perf_counter()
                clf = DistributedSGDClassifier("log_loss", max_iter=1, tol=None).fit(X, y)
                times["fit"].append(time.perf_counter() - began)
            rows = sum(visit.rows for visit in clf.history_.visits)
            print(
                f"load {times['load'][-1]:.1f} s, fit {times['fit'][-1]:.1f} s, "
                f"{rows:,} of {X.shape[0]:,} rows; peak of a worker {format_bytes(peak.worker)}, of the "
                f"driver {format_bytes(peak.driver)} ({format_bytes(peak.driver - peak.before)} more than "
                f"before), spilled {format_bytes(spilled(client))}",
                flush=True,
            )
        load_, fit = (statistics.median(times[name]) for name in ("load", "fit"))
        print(f"a fit of one pass takes {fit / load_:.2f} times as long as loading alone (bar: 1.3)")


if __name__ == "__main__":
    main()
