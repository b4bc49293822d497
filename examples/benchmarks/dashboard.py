"""What the live page on the dashboard costs: fits without it, with it, and with it open, in turns.

python examples/benchmarks/dashboard.py [--seconds 3] [--repeats 42] [--features 100]

The scheduler of a `LocalCluster` is in the process of the driver, so that both share a processor, as on no
cluster of several machines. Two fits of one kind differ by more than a page costs. So each fit with a page is
compared with the one without in the same turn, and what counts is the median over many turns, with its
confidence interval. The processor time of driver, scheduler and workers is measured, too, and that of the
page alone: messages, board and plots, and what the server says of itself.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time

import dask
import dask.array as da
import numpy as np
from bokeh.client import pull_session
from distributed import Client, LocalCluster, wait

from skdist import DistributedSGDClassifier
from skdist.cluster.board import Board
from skdist.cluster.feed import Feed
from skdist.cluster.page import Page
from skdist.server import ParameterServer

#: A page that is closed is gone after so many seconds.
SETTLE_SECONDS = 1.0

KINDS = ("without", "with", "open")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a fit")
    parser.add_argument("--repeats", type=int, default=42, help="of each of the three")
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
        spent = measured(Feed, "send") + measured(Board, "take") + measured(Page, "update")
        client.run(measure_server)

        def fit(epochs: int, shown: bool) -> tuple[float, float]:
            """Return duration and processor time of a fit."""
            model = DistributedSGDClassifier(
                "log_loss", max_iter=epochs, tol=None, random_state=0, client=client
            )
            with dask.config.set({"skdist.dashboard": shown}):
                began, used = time.perf_counter(), processor_seconds(client)
                model.fit(X, y)
            return time.perf_counter() - began, processor_seconds(client) - used

        fit(5, True)
        epochs = max(round(50 * args.seconds / fit(50, False)[0]), 10)
        address = client.dashboard_link.replace("/status", "/skdist")
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        used: dict[str, list[float]] = {kind: [] for kind in KINDS}
        costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
        orders = itertools.cycle(itertools.permutations(KINDS))
        for order in itertools.islice(orders, args.repeats):
            for kind in order:
                session = pull_session(url=address) if kind == "open" else None
                before = sum(map(sum, spent)) + server_seconds(client)
                duration, processors = fit(epochs, kind != "without")
                times[kind].append(duration)
                used[kind].append(processors)
                costs[kind].append(sum(map(sum, spent)) + server_seconds(client) - before)
                if session is not None:
                    session.close()
                    time.sleep(SETTLE_SECONDS)  # what that costs is no part of a fit
    print(f"{epochs} epochs of {args.rows:,} x {args.features}, {args.repeats} fits of each kind, in turns.")
    print("Medians; in brackets that of the change against the fit without a page of the same turn, and its")
    print("95 % confidence interval.")
    for kind in KINDS:
        share = sum(costs[kind]) / sum(used[kind])
        print(
            f"{kind:8} {compared(times, kind)}; processor time {compared(used, kind)}, of it for the page "
            f"{100 * share:.2f} %"
        )


def compared(values: dict[str, list[float]], kind: str) -> str:
    middle = f"{statistics.median(values[kind]):.2f} s"
    if kind == "without":
        return middle
    ratios = sorted(own / plain for own, plain in zip(values[kind], values["without"], strict=True))
    # As many are below the true median as heads are thrown: with so few or fewer, 2.5 % of the time at most.
    count = len(ratios)
    below = 0.0
    for rank in range(count):
        below += math.comb(count, rank) / 2**count
        if below > 0.025:
            break
    low, high = ratios[max(rank - 1, 0)], ratios[min(count - rank, count - 1)]
    low, change, high = (100 * (ratio - 1) for ratio in (low, statistics.median(ratios), high))
    return f"{middle} ({change:+.1f} %; {low:+.1f} to {high:+.1f})"


def measured(kind: type, method: str) -> list[list[float]]:
    """Return a list of one list, to which the processor time of each call is added."""
    durations: list[float] = []
    plain = getattr(kind, method)

    def timed(self, *args, **kwargs):
        began = time.thread_time()
        result = plain(self, *args, **kwargs)
        durations.append(time.thread_time() - began)
        return result

    setattr(kind, method, timed)
    return [durations]


def measure_server(dask_worker) -> None:
    """Measure on a worker what its server takes to say where training stands."""
    dask_worker.progress_seconds = measured(ParameterServer, "progress")[0]


def processor_seconds(client: Client) -> float:
    """Return the processor time of this process and of the workers so far."""
    return time.process_time() + sum(client.run(time.process_time).values())


def server_seconds(client: Client) -> float:
    """Return what was measured on the workers so far."""
    return sum(client.run(lambda dask_worker: sum(dask_worker.progress_seconds)).values())


if __name__ == "__main__":
    main()
