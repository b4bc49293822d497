"""What snapshots of the parameter server cost: fits of about ten seconds with and without, in turns.

python examples/benchmarks/snapshots.py [--seconds 10] [--repeats 3] [--features 100]
"""

from __future__ import annotations

import argparse
import statistics
import time

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait

from skdist import DistributedSGDClassifier
from skdist.cluster.serving import Serving

INTERVALS = {"without": 1e9, "with": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a fit")
    parser.add_argument("--repeats", type=int, default=3, help="of each of the two")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=100)
    args = parser.parse_args()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        rng = da.random.default_rng(0)
        X = rng.normal(size=(args.rows, args.features), chunks=(args.rows // 10, -1)).astype(np.float32)
        y = (X[:, 0] + rng.normal(size=args.rows, chunks=args.rows // 10) > 0).astype(int)
        X, y = client.persist([X, y])
        wait([X, y])
        snapshots = count(Serving)

        def seconds(epochs: int, interval: float) -> float:
            model = DistributedSGDClassifier(
                "log_loss", max_iter=epochs, tol=None, random_state=0, client=client
            )
            with dask.config.set({"skdist.snapshot-interval": interval}):
                began = time.perf_counter()
                model.fit(X, y)
            return time.perf_counter() - began

        seconds(5, 1e9)
        epochs = max(round(50 * args.seconds / seconds(50, 1e9)), 10)
        snapshots.clear()
        times: dict[str, list[float]] = {name: [] for name in INTERVALS}
        for _ in range(args.repeats):
            for name, interval in INTERVALS.items():
                times[name].append(seconds(epochs, interval))
    least = {name: min(values) for name, values in times.items()}
    ratio = least["with"] / least["without"] - 1
    share = sum(snapshots) / sum(times["with"])
    print(f"{epochs} epochs of {args.rows:,} x {args.features}, the faster of each kind of fit:")
    print(f"{least['without']:.2f} s without snapshots, {least['with']:.2f} s with: {100 * ratio:+.1f} %")
    print(
        f"{len(snapshots) / args.repeats:.0f} snapshots a fit, {1e3 * statistics.median(snapshots):.1f} ms "
        f"each until the driver has it, {100 * share:.2f} % of the time, in which training goes on"
    )


def count(serving: type[Serving]) -> list[float]:
    """Return a list to which the duration of each snapshot is added."""
    durations: list[float] = []
    plain = serving.back_up

    async def timed(self, *args, **kwargs):
        began = time.perf_counter()
        kept = await plain(self, *args, **kwargs)
        durations.append(time.perf_counter() - began)
        return kept

    serving.back_up = timed
    return durations


if __name__ == "__main__":
    main()
