"""When windows of staleness and rounds sized by latency help: figures of docs/explanation/when-it-helps.md.

``python examples/benchmarks/when_it_helps.py [FOLDER]`` trains on flights out of New York under the virtual
clock of `skdist.testing.SimulatedCluster`, so that the same versions give the same figures on every
machine, and draws into FOLDER (docs/explanation/figures). It takes a minute or two.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from skdist import DistributedSGDClassifier, LatencyBatchSizer
from skdist.testing import SimulatedCluster

matplotlib.use("Agg")

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parent.parent))

from quickstart import load_flights

SECONDS_PER_ROW, EXCHANGE = 1e-6, 6.4e-4  # an exchange takes as long as ten mini-batches

LEARNERS = [1, 2, 4, 8, 16, 32, 64]

LATE = [1, 2, 5, 10, 20, 50]

WINDOW = {
    "default: one update of each together": {},
    "one by one, with the window": {"collect": 1},
    "one by one, without": {"collect": 1, "rate_adapter": None},
    "default, without the window": {"rate_adapter": None},
}

ROUNDS = {
    "sync, equal rounds": {"mode": "sync", "aggregator": "uniform", "batch_sizer": None},
    "sync, by efficiency": {"mode": "sync", "aggregator": "uniform"},
    "sync, by throughput": {
        "mode": "sync",
        "aggregator": "uniform",
        "batch_sizer": LatencyBatchSizer(rule="throughput"),
    },
    "async, equal rounds": {"batch_sizer": None},
    "async, by efficiency (default)": {},
}


def simulate(data: tuple[Any, ...], passes: int, settings: dict, *cluster: Any) -> tuple[float, float]:
    """Return virtual seconds and the test log-loss of a fit; infinite where it diverged."""
    X, X_test, y, y_test = data
    clf = DistributedSGDClassifier("log_loss", max_iter=passes, tol=None, random_state=0, **settings)
    with SimulatedCluster(*cluster) as simulated:
        try:
            clf.fit(X, y)
        except FloatingPointError:
            return simulated.now, np.inf
    return simulated.now, log_loss(y_test, clf.predict_proba(X_test)[:, 1])


def losses_by_learners(data: tuple[Any, ...]) -> pd.DataFrame:
    """Return test log-losses after four passes, by learners; two in eight are ten times slower."""
    table = {
        name: [
            simulate(data, 4, settings, n, [1e-5 if i % 8 > 5 else 1e-6 for i in range(n)], EXCHANGE)[1]
            for n in LEARNERS
        ]
        for name, settings in WINDOW.items()
    }
    return pd.DataFrame(table, index=pd.Index(LEARNERS, name="learners"))


def seconds_by_lateness(data: tuple[Any, ...], machine: bool) -> pd.DataFrame:
    """Return virtual milliseconds per pass where one of eight has a late link, or is a late machine."""
    table = {
        name: [
            1e3
            / 4
            * simulate(
                data,
                4,
                settings,
                8,
                [SECONDS_PER_ROW] * 7 + [SECONDS_PER_ROW * (late if machine else 1)],
                [EXCHANGE] * 7 + [EXCHANGE * late],
            )[0]
            for late in LATE
        ]
        for name, settings in ROUNDS.items()
    }
    return pd.DataFrame(table, index=pd.Index(LATE, name="times later"))


def draw(tables: dict[str, pd.DataFrame], label: str, path: Path, limit: float | None = None) -> None:
    """Draw a panel for each table, a line for each column."""
    figure, axes = plt.subplots(
        1, len(tables), figsize=(4.6 * len(tables), 3.6), sharey=True, layout="constrained", squeeze=False
    )
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        for name, values in table.items():
            shown = values.clip(upper=limit) if limit else values
            axis.plot(table.index, shown, ".-", label=name)
        axis.set_xscale("log", base=2 if limit else 10)
        axis.set_xticks(table.index, [str(value) for value in table.index])
        axis.minorticks_off()
        axis.set_xlabel(table.index.name)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if not limit:
        axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylabel(label)
    axes[0, -1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(folder: Path) -> None:
    """Simulate, print and draw."""
    X, y = load_flights()
    X_train, X_test, y_train, y_test = train_test_split(
        X.to_numpy(), y.to_numpy(), train_size=65_536, test_size=20_000, random_state=0
    )
    data = X_train, X_test, y_train, y_test
    by_learners = losses_by_learners(data)
    print("test log-loss after four passes, two in eight learners ten times slower")
    print(by_learners.round(4).to_string(), "\n")
    worst = log_loss(y_test, np.full(len(y_test), y_train.mean()))
    title = f"two in eight learners ten times slower (guessing: {worst:.3f})"
    draw(
        {title: by_learners},
        "test log-loss; at the top: diverged",
        folder / "when-window.png",
        limit=round(worst + 0.02, 2),
    )

    tables = {
        "one of eight: a late link": seconds_by_lateness(data, machine=False),
        "one of eight: a late machine": seconds_by_lateness(data, machine=True),
    }
    for title, table in tables.items():
        print(f"virtual milliseconds per pass, {title}\n{table.round(2).to_string()}\n")
    draw(tables, "virtual ms per pass", folder / "when-rounds.png")


if __name__ == "__main__":
    here = Path(__file__).parents[2] / "docs" / "explanation" / "figures"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here)
