"""Linear models: ours against scikit-learn's, in one run on one machine.

``python linear.py [--sections dense covtype exchange] [--repeat 7]`` prints Markdown tables. Every time
stands beside the time that scikit-learn took in the same run; only the ratio carries to another machine.
The folder in ``$SKDIST_DATA`` may hold ``covtype.npz`` (arrays X and y); else scikit-learn downloads it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait
from scipy.special import expit
from sklearn.datasets import fetch_covtype
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier

SECTIONS = ("dense", "covtype", "exchange")
DENSE_ROWS, DENSE_TEST_ROWS, DENSE_FEATURES = 500_000, 100_000, 100
PARTITIONS = 16
COLUMNS = "| model | fits | median s | min s | max s | ratio | accuracy | log-loss |"


@dataclass
class Data:
    """Rows to train on and rows to judge by."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray

    def on_cluster(self, client: Client) -> tuple[da.Array, da.Array]:
        """Put the rows to train on onto the workers, in partitions that stay there."""
        size = -(-len(self.X) // PARTITIONS)
        lazy = [da.from_array(a, chunks=(size, *a.shape[1:])) for a in (self.X, self.y)]
        with warnings.catch_warnings(), client.as_current():
            warnings.filterwarnings("ignore", "Sending large graph")  # once, and before the clock runs
            X, y = client.persist(lazy)
            wait([X, y])
        return X, y


@dataclass
class Entry:
    """A way to fit: how often to run it, its times, and the last model."""

    name: str
    model: Any
    rows: tuple[Any, Any]
    repeat: int
    times: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Fit and note the seconds."""
        began = time.perf_counter()
        self.model.fit(*self.rows)
        self.times.append(time.perf_counter() - began)

    def line(self, data: Data, reference: float) -> str:
        """Return a line of the table; ``reference`` are the seconds of the ratio's numerator."""
        median, least, most = statistics.median(self.times), min(self.times), max(self.times)
        probability = self.model.predict_proba(data.X_test)
        accuracy = accuracy_score(data.y_test, self.model.classes_[probability.argmax(axis=1)])
        return (
            f"| {self.name} | {len(self.times)} | {median:.3f} | {least:.3f} | {most:.3f} "
            f"| {reference / median:.1f} | {accuracy:.4f} | {log_loss(data.y_test, probability):.4f} |"
        )


def make_dense() -> Data:
    """Draw rows and labels from a logistic model whose own log-loss is about 0.36."""
    rng = np.random.default_rng(0)
    n_rows = DENSE_ROWS + DENSE_TEST_ROWS
    X = rng.standard_normal((n_rows, DENSE_FEATURES), dtype=np.float32)
    coef = rng.standard_normal(DENSE_FEATURES)
    coef *= 2.95 / np.linalg.norm(coef)
    y = (rng.random(n_rows) < expit(X @ coef + 0.5)).astype(np.int8)
    return Data(X[:DENSE_ROWS], y[:DENSE_ROWS], X[DENSE_ROWS:], y[DENSE_ROWS:])


def load_covtype() -> Data:
    """Return 80 % of covtype to train on and 20 % to judge by, in an order of our own."""
    path = Path(os.environ.get("SKDIST_DATA", "."), "covtype.npz")
    if path.is_file():
        archive = np.load(path)
        X, y = archive["X"], archive["y"]
    else:
        X, y = fetch_covtype(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X.astype(np.float32), y, test_size=0.2, random_state=0)
    return Data(X, y, X_test, y_test)


def standardised(data: Data) -> Data:
    """Return rows of mean 0 and variance 1 in each column."""
    scaler = StandardScaler().fit(data.X)
    return Data(scaler.transform(data.X), data.y, scaler.transform(data.X_test), data.y_test)


def our_entries(data: Data, client: Client, repeat: int, note: str = "") -> list[Entry]:
    """Return our two ways: on the cluster, and in this process on one thread."""
    lazy = data.on_cluster(client)
    remote, inline = (
        DistributedSGDClassifier(loss="log_loss", random_state=0, client=where) for where in (client, None)
    )
    return [
        Entry(f"skdist, cluster{note}", remote, lazy, repeat),
        Entry(f"skdist, in this process{note}", inline, (data.X, data.y), repeat),
    ]


def their_entry(data: Data, repeat: int, note: str = "") -> Entry:
    """Return scikit-learn's way."""
    model = SGDClassifier(loss="log_loss", random_state=0)
    return Entry(f"SGDClassifier{note}", model, (data.X, data.y), repeat)


def alternate(entries: list[Entry]) -> None:
    """Run the entries in turns, spread evenly, so that a busy spell of the machine hits all alike."""
    turns = max(entry.repeat for entry in entries)
    for turn in range(turns):
        for entry in entries:
            if turn * entry.repeat % turns < entry.repeat:
                entry.run()


def print_heading(title: str, goals: str, columns: str) -> None:
    """Print the title and the goals of a section, and the head of its table."""
    print(f"\n### {title}\n\n{goals}\n\n{columns}\n|" + "---|" * (columns.count("|") - 1))


def bench_dense(data: Data, client: Client, repeat: int) -> None:
    """Whole default fits on dense rows of one scale."""
    theirs = their_entry(data, max(1, repeat // 2))
    entries = [*our_entries(data, client, repeat), theirs]
    alternate(entries)
    title = f"Dense, {DENSE_ROWS:,} x {DENSE_FEATURES} float32"
    print_heading(title, "Goals: cluster ratio >= 10, log-loss not above SGDClassifier's.", COLUMNS)
    for entry in entries:
        print(entry.line(data, statistics.median(theirs.times)))


def bench_covtype(client: Client, repeat: int) -> None:
    """Real rows and seven classes, standardised and as they come; scikit-learn's only standardised."""
    try:
        raw = load_covtype()
    except OSError as error:
        print(f"\n### covtype\n\nLeft out: no covtype.npz in $SKDIST_DATA, and no download ({error}).")
        return
    scaled = standardised(raw)
    theirs = their_entry(scaled, 1, ", standardised")
    on_scaled = [*our_entries(scaled, client, repeat, ", standardised"), theirs]
    on_raw = our_entries(raw, client, repeat, ", as it comes")
    alternate([*on_scaled, *on_raw])
    goals = "Goals: accuracy >= 0.712 standardised, >= 0.70 as it comes."
    print_heading("covtype, 464,809 x 54, 7 classes", goals, COLUMNS)
    for data, entries in ((scaled, on_scaled), (raw, on_raw)):
        for entry in entries:
            print(entry.line(data, statistics.median(theirs.times)))


def bench_exchange(data: Data, client: Client, repeat: int) -> None:
    """Print what an exchange with the server takes, beside the training of a round."""
    entry, _ = our_entries(data, client, repeat)
    columns = "| fit | seconds | rounds | rows per round | training ms | exchange ms | exchange / training |"
    goals = "An exchange overlaps with training: it delays a fit where it takes longer than a round."
    print_heading("Rounds of learners outside the server's process", goals, columns)
    for fit in range(repeat):
        entry.run()
        rounds = entry.model.history_.to_frame("rounds")
        # A call within the server's process is not measured, nor is the first of a visit: both are 0.
        remote = rounds[rounds["seconds_exchange"] > 0]
        rows, training, exchange = (
            remote[column].mean() for column in ("rows", "seconds_compute", "seconds_exchange")
        )
        print(
            f"| {fit + 1} | {entry.times[-1]:.3f} | {len(rounds)} | {rows:,.0f} "
            f"| {1e3 * training:.2f} | {1e3 * exchange:.2f} | {exchange / training:.2f} |"
        )


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--repeat", type=int, default=7, help="fits of each of our models")
    options = parser.parse_args()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        # Not the default client: what is meant to train in this process must not find a cluster.
        Client(cluster, set_as_default=False) as client,
    ):
        print("Ratio: the median time of SGDClassifier in this run, over that of the line.")
        print("Accuracy and log-loss: of the last fit, on rows held out.")
        dense = make_dense()
        if "dense" in options.sections:
            bench_dense(dense, client, options.repeat)
        if "covtype" in options.sections:
            bench_covtype(client, options.repeat)
        if "exchange" in options.sections:
            bench_exchange(dense, client, options.repeat)


if __name__ == "__main__":
    main()
