"""Prediction, on rows in memory and lazily on Dask collections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, softmax
from sklearn.utils.extmath import safe_sparse_dot

from skdist.models.partition import as_numbers
from skdist.models.targets import Numbers, combine_numbers, measure_numbers


class Linear(NamedTuple):
    """What predictions are made of.

    Attributes
    ----------
    coef : ndarray of shape (n_problems, n_features)
        Coefficients.
    intercept : ndarray of shape (n_problems,)
        Intercepts.
    classes : ndarray of shape (n_classes,) or None
        Labels; None in a regression.
    link : {'logistic', 'clipped', 'softmax'}
        How scores become probabilities.
    """

    coef: np.ndarray
    intercept: np.ndarray
    classes: np.ndarray | None = None
    link: str = "logistic"

    @classmethod
    def of(cls, estimator: Any) -> Linear:
        """Return what a fitted estimator predicts with."""
        classes: Any = getattr(estimator, "classes_", None)
        link = "clipped" if estimator.loss == "modified_huber" else "logistic"
        if getattr(estimator, "multi_class", "ovr") == "multinomial" and len(classes) > 2:
            link = "softmax"
        return cls(np.atleast_2d(estimator.coef_), estimator.intercept_, classes, link)

    def width(self, method: str) -> int:
        """Return the columns of the result, 0 where it has one dimension."""
        if method == "predict" or (method == "decision_function" and len(self.coef) == 1):
            return 0
        return len(self.coef) if method == "decision_function" or self.classes is None else len(self.classes)

    def dtype(self, method: str) -> np.dtype:
        """Return the dtype of the result."""
        if method == "predict" and self.classes is not None:
            return self.classes.dtype
        return np.result_type(self.coef.dtype, np.float32)

    def __call__(self, method: str, X: Any) -> np.ndarray:
        """Return what ``method`` says of rows.

        Parameters
        ----------
        method : {'decision_function', 'predict', 'predict_proba'}
            What to return.
        X : ndarray or sparse of shape (n_rows, n_features)
        """
        scores = safe_sparse_dot(X, self.coef.T, dense_output=True) + self.intercept
        if method == "decision_function" or self.classes is None:
            return np.asarray(scores.ravel() if scores.shape[1] == 1 else scores)
        if method == "predict":
            codes = (scores[:, 0] > 0).astype(np.intp) if scores.shape[1] == 1 else scores.argmax(axis=1)
            return np.asarray(self.classes[codes])
        return _probabilities(scores, self.link)


def _probabilities(scores: np.ndarray, link: str) -> np.ndarray:
    if link == "softmax":
        return np.asarray(softmax(scores, axis=1))
    shares = (np.clip(scores, -1, 1) + 1) / 2 if link == "clipped" else expit(scores)
    if shares.shape[1] == 1:
        return np.column_stack([1 - shares[:, 0], shares[:, 0]])
    total = shares.sum(axis=1, keepdims=True)
    # Where every problem says no beyond the smallest number, all classes are alike.
    shares[total[:, 0] == 0] = 1
    return np.asarray(shares / np.where(total == 0, scores.shape[1], total))


def on_block(block: Any, method: str, linear: Linear) -> np.ndarray:
    """Return what ``method`` says of a block of a collection."""
    from skdist.models.partition import convert_rows

    rows = convert_rows(block)
    values = rows.data if hasattr(rows, "indptr") else rows
    if not np.isfinite(values).all():
        raise ValueError("X contains NaN or infinity.")
    return linear(method, rows)


def on_collection(estimator: Any, method: str, X: Any) -> Any:
    """Return a lazy dask Array with the row chunks of X."""
    import dask.array as da

    names = np.asarray(X.columns, dtype=object) if hasattr(X, "columns") else None
    check_features(estimator, names, int(X.shape[1]), reset=False)
    linear = Linear.of(estimator)
    width, dtype = linear.width(method), linear.dtype(method)
    meta = np.empty((0, 0) if width else (0,), dtype=dtype)
    if hasattr(X, "columns"):
        blocks = X.to_delayed()
        import dask

        work = dask.delayed(on_block, pure=True)
        shape = (np.nan, width) if width else (np.nan,)
        return da.concatenate(
            [da.from_delayed(work(block, method, linear), shape, meta=meta) for block in blocks]
        )
    if len(X.chunks[1]) > 1:
        X = X.rechunk({1: -1})
    return da.map_blocks(
        on_block,
        X,
        method=method,
        linear=linear,
        dtype=dtype,
        meta=meta,
        chunks=(X.chunks[0], (width,)) if width else (X.chunks[0],),
        drop_axis=[] if width else [1],
    )


def score_on_collections(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float:
    """Return the mean accuracy of a classifier, R^2 of a regressor, computed where the data is."""
    import dask
    import dask.array as da

    predicted = estimator.predict(X)
    truth = y.to_dask_array() if hasattr(y, "to_dask_array") else y
    if getattr(truth, "ndim", 1) == 2:
        truth = truth[:, 0]
    if not hasattr(predicted, "__dask_graph__"):
        predicted = da.from_array(predicted, chunks=truth.chunks)
    pieces = [predicted, truth]
    if sample_weight is not None:
        pieces.append(
            sample_weight.to_dask_array() if hasattr(sample_weight, "to_dask_array") else sample_weight
        )
    pieces = [p if hasattr(p, "__dask_graph__") else _like(p, predicted) for p in pieces]
    counts = {piece.npartitions for piece in pieces}
    if len(counts) > 1:
        raise ValueError(
            f"X and y have different numbers of partitions: {predicted.npartitions} and "
            f"{truth.npartitions}. Repartition one like the other."
        )
    classifies = hasattr(estimator, "classes_")
    count = dask.delayed(_hits if classifies else _squares, pure=True)
    parts = [count(*blocks) for blocks in zip(*(p.to_delayed().ravel() for p in pieces), strict=True)]
    client = estimator.client
    if client is not None:
        totals = client.gather(client.compute(parts))
    else:
        totals = dask.compute(*parts)
    if not classifies:
        return _explained(totals)
    hits, weight = np.sum(totals, axis=0)
    return float(hits / weight)


def _like(values: Any, predicted: Any) -> Any:
    import dask.array as da

    if np.isnan(predicted.shape[0]):
        raise ValueError(
            "X has unknown partition lengths and y is in memory: they cannot be aligned. "
            "Call X.compute_chunk_sizes() on a dask Array, or pass y as a Dask collection."
        )
    return da.from_array(np.asarray(values), chunks=(predicted.chunks[0],))


def _aligned(predicted: Any, truth: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = np.asarray(truth).ravel()
    if len(predicted) != len(truth):
        raise ValueError(f"X and y have different lengths: {len(predicted)} rows of X, {len(truth)} of y.")
    factor = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=float).ravel()
    return np.asarray(predicted), truth, factor


def _hits(predicted: Any, truth: Any, weights: Any = None) -> np.ndarray:
    predicted, truth, factor = _aligned(predicted, truth, weights)
    if _is_text(truth) != _is_text(predicted):
        raise ValueError(
            f"Mix of label input types (string and number): the classes are {predicted.dtype}, y is "
            f"{truth.dtype}. Convert y to the type that the classifier was fitted with."
        )
    return np.array([float(factor @ (predicted == truth)), float(factor.sum())])


def _squares(predicted: Any, truth: Any, weights: Any = None) -> tuple[float, Numbers]:
    """Return the weighted squared error of a block, and the spread of its targets."""
    predicted, truth, factor = _aligned(predicted, truth, weights)
    numbers = as_numbers(truth, np.dtype(np.float64))
    return float(factor @ (numbers - predicted) ** 2), measure_numbers(numbers, factor)


def _explained(parts: Sequence[tuple[float, Numbers]]) -> float:
    error, targets = sum(part for part, _ in parts), combine_numbers([numbers for _, numbers in parts])
    if targets.deviation == 0.0:
        return 1.0 if error == 0.0 else 0.0  # as scikit-learn has it
    return 1.0 - error / targets.deviation


def _is_text(labels: np.ndarray) -> bool:
    if labels.dtype.kind == "O" and len(labels):
        return isinstance(labels[0], str)
    return labels.dtype.kind in "US"


def check_features(estimator: Any, names: np.ndarray | None, width: int, reset: bool) -> None:
    """Hold the columns of a collection against those of the fit, or learn them.

    Raises
    ------
    ValueError
        Where the number or the names of the features differ.
    """
    names = names if names is not None and all(isinstance(name, str) for name in names) else None
    if reset:
        estimator.n_features_in_ = width
        if names is not None:
            estimator.feature_names_in_ = names
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return
    if width != estimator.n_features_in_:
        raise ValueError(
            f"X has {width} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    seen = getattr(estimator, "feature_names_in_", None)
    if seen is not None and names is not None and list(seen) != list(names):
        raise ValueError(
            "The feature names should match those that were passed during fit: "
            f"{list(names)[:5]} now, {list(seen)[:5]} then."
        )
