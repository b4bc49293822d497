"""Who is compared: our model and its peers, each as an entry that fits all rows and is judged by others."""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
import scipy.sparse as sp
from ablation_runs import Data, progress
from distributed import Client, wait
from sklearn.linear_model import LogisticRegression, SGDClassifier

from skdist import DistributedSGDClassifier

PARTITIONS = 16

#: Before each fit: threads of BLAS wait for more work for a while, and keep a processor busy with it.
SETTLE_SECONDS = 0.3

#: No point is added to a curve after so many seconds.
CURVE_SECONDS = 10.0

#: Points of a curve: seconds of training, and a model with ``predict_proba``.
Curve = Iterator[tuple[float, Any]]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that some work took, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


@dataclass
class Entry:
    """Somebody who fits the rows of a data set.

    Attributes
    ----------
    name : str
        Unique within a task.
    data : Data
        The rows it trains on and is judged by.
    fit : callable
        Trains on all rows and returns a model with ``predict_proba``; one with ``seconds`` has measured
        itself.
    repeat : int
        How often it is run.
    curve : callable or None
        Gives models on the way, to be judged: seconds and model.
    limit : float or None
        Seconds after which it is given up; it then runs in a process of its own.
    """

    name: str
    data: Data
    fit: Callable[[], Any]
    repeat: int = 1
    curve: Callable[[], Curve] | None = None
    limit: float | None = None
    times: list[float] = field(default_factory=list)
    loss: float = float("nan")
    accuracy: float = float("nan")
    gave_up: bool = False
    runs: int = 0

    def run(self) -> None:
        """Fit and note the seconds."""
        progress(f"{self.data.name}: {self.name}")
        time.sleep(SETTLE_SECONDS)
        if self.limit is not None:
            self._run_apart(self.limit)
            return
        seconds, model = timed(self.fit)
        self.runs += 1
        self.times += getattr(model, "seconds", [seconds])
        if self.runs == self.repeat:
            self._judge(model.predict_proba(self.data.X_test))

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.times)

    def points(self) -> list[tuple[float, float]]:
        """Return the seconds and the test losses of the curve; only its end where there is none."""
        if self.curve is None:
            return [(self.median, self.loss)]
        found: list[tuple[float, float]] = []
        began = time.perf_counter()
        for seconds, model in self.curve():
            found.append((seconds, test_loss(self.data, model.predict_proba(self.data.X_test))))
            if time.perf_counter() - began > CURVE_SECONDS:
                break
        return found

    def _judge(self, probability: np.ndarray) -> None:
        self.loss = test_loss(self.data, probability)
        right = self.data.classes[probability.argmax(axis=1)] == self.data.y_test
        self.accuracy = float(np.mean(right))

    def _run_apart(self, limit: float) -> None:
        """Fit in another process, which is ended at the limit: compiled loops hear no signal."""
        context = multiprocessing.get_context("spawn")
        mine, other = context.Pipe()
        process = context.Process(target=_fit_apart, args=(other, self.fit, self.data.X_test), daemon=True)
        process.start()
        other.close()
        try:
            mine.recv()  # it has the rows now
            if mine.poll(limit):
                seconds, probability = mine.recv()
                self.times.append(seconds)
                self._judge(probability)
            else:
                self.times.append(limit)
                self.gave_up = True
        finally:
            process.kill()
            process.join()


def _fit_apart(connection: Any, fit: Callable[[], Any], X_test: Any) -> None:
    connection.send("begun")
    seconds, model = timed(fit)
    connection.send((seconds, model.predict_proba(X_test)))


def test_loss(data: Data, probability: np.ndarray) -> float:
    """Return the log-loss on the test rows."""
    right = probability[np.arange(len(probability)), np.searchsorted(data.classes, data.y_test)]
    return float(-np.log(np.clip(right.astype(float), 1e-15, None)).mean())


def on_cluster(data: Data, client: Client) -> tuple[da.Array, da.Array]:
    """Put the rows to train on onto the workers, in partitions that stay there."""
    edges = np.linspace(0, data.rows, PARTITIONS + 1).astype(int)
    slices = [slice(a, b) for a, b in itertools.pairwise(edges)]
    collections = []
    with client.as_current():
        for values in (data.X, data.y):
            blocks = client.scatter([values[part] for part in slices], hash=False)
            # Dask adds blocks up by their meta, which is dense where nobody says otherwise.
            meta = sp.csr_matrix((0, 0), dtype=values.dtype) if sp.issparse(values) else None
            arrays = [
                da.from_delayed(dask.delayed(block), values[part].shape, values.dtype, meta=meta)
                for block, part in zip(blocks, slices, strict=True)
            ]
            collections.append(da.concatenate(arrays))
        X, y = client.persist(collections)
        wait([X, y])
    return X, y


def ours(
    data: Data, repeat: int, lazy: tuple[Any, Any] | None = None, client: Client | None = None,
    note: str = "", **params: Any,
) -> Entry:  # fmt: skip
    """Return our default fit: on a cluster where rows are there, else in this process on one thread."""
    rows = lazy if lazy is not None else (data.X, data.y)
    place = "inline" if lazy is None else "cluster"

    def fit(**more: Any) -> Any:
        model = DistributedSGDClassifier(
            loss="log_loss", random_state=0, client=client, **{**params, **more}
        ).fit(*rows)
        fits.append(model)
        del fits[:-1]
        return model

    fits: list[Any] = []

    def curve() -> Curve:
        passes = fits[-1].n_iter_
        for count in range(1, passes + 1):
            yield timed(lambda count=count: fit(max_iter=count, tol=None))

    return Entry(f"skdist, {place}{note}", data, fit, repeat, curve)


class _Fit:
    """Fits an estimator: a function that can be sent to another process."""

    def __init__(self, model: Any, rows: Sequence[Any]) -> None:
        self.model, self.rows = model, rows

    def __call__(self) -> Any:
        return self.model.fit(*self.rows)


def sgd(data: Data, repeat: int = 1, limit: float | None = None, note: str = "") -> Entry:
    """Return scikit-learn's SGDClassifier."""

    def curve() -> Curve:
        model, total = SGDClassifier(loss="log_loss", random_state=0), 0.0
        for _ in range(10):
            seconds, _ = timed(lambda: model.partial_fit(data.X, data.y, classes=data.classes))
            total += seconds
            yield total, model

    model = SGDClassifier(loss="log_loss", random_state=0)
    return Entry(f"SGDClassifier{note}", data, _Fit(model, (data.X, data.y)), repeat, curve, limit)


def logistic(data: Data, max_iter: int = 100, limit: float | None = None, note: str = "") -> Entry:
    """Return scikit-learn's LogisticRegression (lbfgs)."""

    def curve() -> Curve:
        for count in (1, 3, 10, 30):
            model = LogisticRegression(max_iter=count)
            yield timed(lambda model=model: model.fit(data.X, data.y))

    model = LogisticRegression(max_iter=max_iter)
    name = f"LogisticRegression({f'max_iter={max_iter}' if max_iter != 100 else ''}){note}"
    return Entry(name, data, _Fit(model, (data.X, data.y)), 1, curve, limit)


def incremental(data: Data, lazy: tuple[Any, Any], client: Client, passes: int = 5) -> Entry:
    """Return dask-ml's Incremental around SGDClassifier: some passes over the partitions, one by one."""
    from dask_ml.wrappers import Incremental

    def curve() -> Curve:
        model, total = Incremental(SGDClassifier(loss="log_loss", random_state=0)), 0.0
        with client.as_current():
            for _ in range(passes):
                seconds, _ = timed(lambda: model.partial_fit(*lazy, classes=data.classes))
                total += seconds
                yield total, model.estimator_

    def fit() -> Any:
        *_, (_, model) = curve()
        return model

    return Entry(f"dask-ml Incremental, {passes} passes", data, fit, 1, curve)


def dask_logistic(data: Data, lazy: tuple[Any, Any], client: Client) -> Entry:
    """Return dask-ml's LogisticRegression by lbfgs."""
    from dask_ml.linear_model import LogisticRegression as DaskLogisticRegression

    def fit() -> Any:
        with client.as_current():
            return _Binary(DaskLogisticRegression(solver="lbfgs").fit(*lazy))

    return Entry("dask-ml LogisticRegression lbfgs", data, fit)


class _Binary:
    """Gives a model of two classes whose probabilities are one column the usual two."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of both classes."""
        shares = np.asarray(self._model.predict_proba(X))
        return shares if shares.ndim == 2 else np.column_stack([1 - shares, shares])
