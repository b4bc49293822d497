"""Prediction, on rows in memory and lazily on Dask collections."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import validate_data

from skdist.estimators.routing import is_collection
from skdist.models.partition import convert_rows, frame_to_numpy


def on_rows(method: str, X: Any, coef: np.ndarray, intercept: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return what ``method`` says of rows.

    Parameters
    ----------
    method : {'decision_function', 'predict', 'predict_proba', 'predict_log_proba'}
        What to return.
    X : ndarray or sparse of shape (n_rows, n_features)
    coef : ndarray or sparse of shape (n_problems, n_features)
    intercept : ndarray of shape (n_problems,)
    classes : ndarray of shape (n_classes,)
    """
    scores = safe_sparse_dot(X, coef.T, dense_output=True) + intercept
    if method == "decision_function":
        return np.asarray(scores.ravel() if scores.shape[1] == 1 else scores)
    if method == "predict":
        codes = (scores[:, 0] > 0).astype(np.intp) if scores.shape[1] == 1 else scores.argmax(axis=1)
        return np.asarray(classes[codes])
    if method == "predict_log_proba":
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(_probabilities(scores)))
    return _probabilities(scores)


def _probabilities(scores: np.ndarray) -> np.ndarray:
    if scores.shape[1] == 1:
        positive = expit(scores[:, 0])
        return np.column_stack([1 - positive, positive])
    shares = expit(scores)
    total = shares.sum(axis=1, keepdims=True)
    # Where every problem says no beyond the smallest number, all classes are alike.
    shares[total[:, 0] == 0] = 1
    return np.asarray(shares / np.where(total == 0, scores.shape[1], total))


def on_block(
    block: Any, method: str, coef: np.ndarray, intercept: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Return what ``method`` says of a block of a collection."""
    rows = convert_rows(block)
    values = rows.data if hasattr(rows, "indptr") else rows
    if not np.isfinite(values).all():
        raise ValueError("X contains NaN or infinity.")
    return on_rows(method, rows, coef, intercept, classes)


def on_collection(estimator: Any, method: str, X: Any) -> Any:
    """Return a lazy dask Array with the row chunks of X."""
    import dask.array as da

    check_features(estimator, X, reset=False)
    coef, intercept, classes = estimator.coef_, estimator.intercept_, estimator.classes_
    n_problems = coef.shape[0]
    columns = n_problems if method == "decision_function" else len(classes)
    flat = method == "predict" or (method == "decision_function" and n_problems == 1)
    dtype = classes.dtype if method == "predict" else np.result_type(coef.dtype, np.float32)
    meta = np.empty((0,) if flat else (0, 0), dtype=dtype)
    arguments = {"method": method, "coef": coef, "intercept": intercept, "classes": classes}
    if hasattr(X, "columns"):
        import dask

        frame_to_numpy(X._meta)  # refuses columns that are no numbers before anything is computed
        blocks = X.to_delayed()

        work = dask.delayed(on_block, pure=True)
        shape = (np.nan,) if flat else (np.nan, columns)
        return da.concatenate(
            [da.from_delayed(work(block, **arguments), shape, meta=meta) for block in blocks]
        )
    if len(X.chunks[1]) > 1:
        X = X.rechunk({1: -1})
    # Not map_blocks, which would copy each block to join it with its neighbours of the dropped axis.
    return da.blockwise(
        on_first_block,
        "i" if flat else "ik",
        X,
        "ij",
        new_axes={} if flat else {"k": columns},
        concatenate=False,
        meta=meta,
        **arguments,
    )


def on_first_block(blocks: Sequence[Any], **arguments: Any) -> np.ndarray:
    """Return `on_block` of the only block of columns."""
    return on_block(blocks[0], **arguments)


def accuracy_on_collections(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float:
    """Return the mean accuracy, computed where the data is."""
    import dask

    from skdist.cluster.source import aligned_blocks

    compute = partial(dask.compute, scheduler=estimator.client)
    predicted = estimator.predict(X)
    if not is_collection(X):  # so that one column more fits into memory too
        return _accuracy([_hits(predicted, *compute(y, sample_weight))])
    blocks = [list(predicted.to_delayed().ravel()), aligned_blocks("y", y, X)]
    if sample_weight is not None:
        blocks.append(aligned_blocks("sample_weight", sample_weight, X))
    count = dask.delayed(_hits, pure=True)
    return _accuracy(compute(*itertools.starmap(count, zip(*blocks, strict=True))))


def _accuracy(counts: Sequence[np.ndarray]) -> float:
    hits, weight = np.sum(counts, axis=0)
    return float(hits / weight)


def _hits(predicted: Any, truth: Any, weights: Any = None) -> np.ndarray:
    truth = np.asarray(truth).ravel()
    if len(predicted) != len(truth):
        raise ValueError(f"X and y have different lengths: {len(predicted)} rows of X, {len(truth)} of y.")
    predicted = np.asarray(predicted)
    if _is_text(truth) != _is_text(predicted):
        raise ValueError(
            f"Mix of label input types (string and number): the classes are {predicted.dtype}, y is "
            f"{truth.dtype}. Convert y to the type that the classifier was fitted with."
        )
    factor = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=float).ravel()
    return np.array([float(factor @ (predicted == truth)), float(factor.sum())])


def _is_text(labels: np.ndarray) -> bool:
    if labels.dtype.kind == "O" and len(labels):
        return isinstance(labels[0], str)
    return labels.dtype.kind in "US"


def check_features(estimator: Any, X: Any, reset: bool) -> None:
    """Hold the columns of a collection against those of the fit, or learn them.

    Raises
    ------
    ValueError
        Where the number or the names of the features differ.
    """
    # An empty table of the same columns.
    columns = X._meta if hasattr(X, "columns") else np.empty((0, int(X.shape[1])))
    validate_data(estimator, columns, skip_check_array=True, reset=reset)
