"""What does one slow worker cost? A straggler made visible, on all flights that left New York City in 2013.

Install with ``pip install "dask-skdist[examples]"`` and run ``python straggler.py``. Three worker processes
train; then one of them is slowed down ten times, and each mode trains again. In ``mode='sync'`` with equal
rounds everybody waits for the slow one in each round; the default gives it fewer rows and does not wait.

Training on a worker is slowed down by sleeping. All three sleep, the fast ones too: a row then costs as much
as that of a larger model, and three workers need no more processors than a laptop has. Without it these rows
are trained on in a fraction of a second, and a pass is over before the slow worker has ended its first visit.
"""

from __future__ import annotations

import time

import pandas as pd
from distributed import Client, LocalCluster
from quickstart import judge, load_flights, send  # beside this file
from sklearn.model_selection import train_test_split

from skdist import DistributedSGDClassifier
from skdist.testing import slow_down

#: How many times as long as the others the slow worker takes.
FACTOR = 10

#: How many times as long as they could all workers take.
STRETCH = 12

#: Passes of every fit, so that times compare.
PASSES = 3

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
        for worker in cluster.workers.values():
            slow_down(client, worker.worker_address, STRETCH)
        alike = {name: timed(settings, rows, labels)[1] for name, settings in MODES.items()}
        slow = cluster.workers[0].worker_address
        slow_down(client, slow, FACTOR * STRETCH)
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
    for name, (clf, seconds) in fits.items():
        workers = by_worker(clf, slow)
        print(f"\n{name}, with the straggler:\n{workers.round(2).to_string()}")
        share = workers["rows"]["slow"] / workers["rows"].sum()
        longer = seconds / alike[name]
        print(f"The slow worker trained on {share:.0%} of the rows; the fit took {longer:.1f} times as long.")
    print(
        "\nEvery row counts once per pass in both. Without the slow worker the other two would take 1.5 times"
        "\nas long. Its short rounds cost it more per row than long ones: that is the price of not waiting."
    )


if __name__ == "__main__":
    main()
