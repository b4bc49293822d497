"""What exchanges of large models cost, and what compression of updates saves: on a cluster of two processes.

``SKDIST_DATA=folder python torch_exchange.py [--seeds 3]`` prints two Markdown tables. The folder holds
fashion_mnist.npz; without it, digits stand in for it.

The first one has a perceptron of ten million parameters, whose rounds take as long as an exchange: "computes"
is the share of the time of visits in which learners train. In the rest they wait for answers, copy parameters
and merge them. "of an exchange" is the median time of one, with both learners at work on the other processor.

The second one has a perceptron of 200,000 parameters: medians of fits of a few passes, all settings of a seed
in turn. "of processors" is what they worked for the workers, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
import warnings
from typing import Any

import dask.array as da
from distributed import Client, LocalCluster, wait
from sklearn.exceptions import ConvergenceWarning
from torch_mlp import Data, load

from skdist import DistributedMLPClassifier, History, TopK

SETTINGS: tuple[Any, ...] = (None, "float16", "bfloat16", TopK(share=0.05), TopK(share=0.01))

LARGE, SMALL = (3_000, 2_500), (256,)
BATCH, ROUND = 64, 2_048


def megabytes(setting: Any, n_parameters: int) -> float:
    """Return the size of an update."""
    per_entry = {None: 4.0, "float16": 2.0, "bfloat16": 2.0}
    return n_parameters * (8 * setting.share if isinstance(setting, TopK) else per_entry[setting]) / 1e6


def classifier(hidden: tuple[int, ...], client: Client, **params: Any) -> DistributedMLPClassifier:
    """Return an estimator as both tables have it."""
    return DistributedMLPClassifier(
        hidden, solver="sgd", learning_rate_init=0.02, alpha=0, batch_size=BATCH, tol=None, client=client,
        **params,
    )  # fmt: skip


def on_cluster(X: Any, y: Any, parts: int) -> tuple[Any, Any]:
    """Return rows on the workers."""
    rows = -(-len(X) // parts)
    dX, dy = da.from_array(X, chunks=(rows, -1)).persist(), da.from_array(y, chunks=rows).persist()
    wait([dX, dy])
    return dX, dy


def computing(history: History) -> float:
    """Return the share of the time of visits in which learners train."""
    trained = sum(record.seconds_compute for record in history.rounds)
    return trained / sum(record.seconds for record in history.visits if math.isfinite(record.seconds))


def worked(client: Client) -> float:
    """Return the seconds that the processors have worked for the workers until now."""
    return sum(client.run(time.process_time).values())


def large(data: Data, client: Client, rows: int, epochs: int) -> None:
    """Print the table of the large model."""
    X, y = on_cluster(data.X[:rows], data.y[:rows], 8)
    n_parameters = 0
    print("| update | MB | ms of an exchange | of a round | computes | seconds | of processors | accuracy |")
    print("|---|---|---|---|---|---|---|---|")
    # As long as an exchange takes while both learners are at work, so that it is measured there.
    probe = classifier(LARGE, client, max_iter=1, round_size=4 * BATCH, random_state=0).fit(X, y)
    for setting in SETTINGS:
        rounds = probe.history_.rounds
        exchange = statistics.median(record.seconds_exchange for record in rounds if record.seconds_exchange)
        per_row = sum(record.seconds_compute for record in rounds) / sum(record.rows for record in rounds)
        size = max(round(exchange / per_row / BATCH), 1) * BATCH
        began, before = time.perf_counter(), worked(client)
        clf = classifier(
            LARGE, client, max_iter=epochs, round_size=size, batch_sizer=None, random_state=0,
            compression=setting,
        ).fit(X, y)  # fmt: skip
        seconds = time.perf_counter() - began
        n_parameters = n_parameters or sum(value.numel() for value in clf.module_.parameters())
        rounds = clf.history_.rounds
        taken = statistics.median(record.seconds_exchange for record in rounds if record.seconds_exchange)
        trained = statistics.median(record.seconds_compute for record in rounds)
        print(
            f"| {setting} | {megabytes(setting, n_parameters):.1f} | {1e3 * taken:.0f} | {1e3 * trained:.0f} "
            f"| {computing(clf.history_):.0%} | {seconds:.1f} | {worked(client) - before:.1f} "
            f"| {clf.score(data.X_test, data.y_test):.4f} |",
            flush=True,
        )
    print(f"\n{n_parameters:,} parameters, {rows:,} rows, {epochs} passes.\n")


def small(data: Data, client: Client, seeds: int, epochs: int) -> None:
    """Print the table of the small model."""
    X, y = on_cluster(data.X, data.y, 8)
    seconds: dict[str, list[float]] = {str(setting): [] for setting in SETTINGS}
    scores: dict[str, list[float]] = {str(setting): [] for setting in SETTINGS}
    processors: dict[str, list[float]] = {str(setting): [] for setting in SETTINGS}
    for seed in range(seeds):
        for setting in SETTINGS:
            began, before = time.perf_counter(), worked(client)
            clf = classifier(
                SMALL, client, max_iter=epochs, round_size=ROUND, random_state=seed, compression=setting
            ).fit(X, y)
            seconds[str(setting)].append(time.perf_counter() - began)
            processors[str(setting)].append(worked(client) - before)
            scores[str(setting)].append(clf.score(data.X_test, data.y_test))
            n_parameters = sum(value.numel() for value in clf.module_.parameters())
    print(f"| update of {n_parameters:,} parameters | MB | seconds | of processors | accuracy |")
    print("|---|---|---|---|---|")
    for setting in SETTINGS:
        print(
            f"| {setting} | {megabytes(setting, n_parameters):.2f} "
            f"| {statistics.median(seconds[str(setting)]):.2f} "
            f"| {statistics.median(processors[str(setting)]):.2f} "
            f"| {statistics.mean(scores[str(setting)]):.4f} |"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of the small model")
    parser.add_argument("--rows", type=int, default=8_192, help="rows for the large model")
    parser.add_argument("--epochs", type=int, default=4, help="passes")
    parser.add_argument("--only", choices=("large", "small"), help="one of the tables")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = load(os.environ.get("SKDIST_DATA"))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        if options.only != "small":
            large(data, client, options.rows, options.epochs)
        if options.only != "large":
            small(data, client, options.seeds, options.epochs)


if __name__ == "__main__":
    main()
