"""What does one slow worker cost? A straggler made visible, on all flights that left New York City in 2013.

Install with ``pip install "dask-skdist[examples]"`` and run ``python straggler.py``. Three worker processes
train; then one of them is slowed down thirty times, and each mode trains again. In ``mode='sync'`` with
equal rounds everybody waits for the slow one; the default gives it shorter rounds and does not wait. The
tables say who trained what and how stale it was. The slowed worker sleeps, which leaves its share of the
processor to the others where there are fewer cores than workers: a really slow machine would cost more.
"""

from __future__ import annotations

import time

import pandas as pd
from distributed import Client, LocalCluster
from quickstart import judge, load_flights, send  # beside this file
from sklearn.model_selection import train_test_split

from skdist import DistributedSGDClassifier
from skdist.testing import slow_down

FACTOR = 30

#: Passes of every fit, so that times compare.
PASSES = 6

MODES = {
    "async, the default": {},
    "sync, equal rounds": {"mode": "sync", "round_size": 4096, "batch_sizer": None},
}


def timed(settings: dict, X, y) -> tuple[DistributedSGDClassifier, float]:
    """Return a fitted classifier and the seconds that it took."""
    clf = DistributedSGDClassifier("log_loss", max_iter=PASSES, tol=None, random_state=0, **settings)
    began = time.perf_counter()
    clf.fit(X, y)
    return clf, time.perf_counter() - began


def by_worker(clf: DistributedSGDClassifier, slow: str) -> pd.DataFrame:
    """Return what each worker did in a fit."""
    rounds = clf.history_.to_frame("rounds")
    groups = rounds.groupby(
        rounds["worker"].map(lambda worker: "slow" if worker == slow else f"fast, {worker[-5:]}")
    )
    return pd.DataFrame(
        {
            "rows": groups["rows"].sum(),
            "rounds": groups.size(),
            "rows per round": groups["rows"].median(),
            "ms per 1,000 rows": 1e6 * groups["seconds_compute"].sum() / groups["rows"].sum(),
            "staleness": groups["staleness"].mean(),
            "rate scale": groups["rate_scale"].mean(),
        }
    )


def main() -> None:
    """Train in each mode without and with a straggler."""
    X, y = load_flights()
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        rows, labels = send(client, X_train), send(client, y_train)
        timed({}, rows, labels)  # workers import, kernels compile
        print(f"{len(X_train):,} rows of {X.shape[1]} features, {PASSES} passes on three workers")
        alike = {name: timed(settings, rows, labels)[1] for name, settings in MODES.items()}
        slow = cluster.workers[0].worker_address
        slow_down(client, slow, FACTOR)
        fits = {name: timed(settings, rows, labels) for name, settings in MODES.items()}
    table = {
        name: {
            "seconds, all alike": alike[name],
            f"one {FACTOR} times slower": seconds,
            "times as long": seconds / alike[name],
            "log-loss": judge(clf, X_test, y_test)["log-loss"],
        }
        for name, (clf, seconds) in fits.items()
    }
    print("\n" + pd.DataFrame(table).T.to_string(float_format="{:.3f}".format))
    for name in ("async, the default", "sync, equal rounds"):
        print(f"\n{name}, with the straggler:\n{by_worker(fits[name][0], slow).round(2).to_string()}")


if __name__ == "__main__":
    main()
