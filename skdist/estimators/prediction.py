"""Prediction, on rows in memory and lazily on Dask collections."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.utils.extmath import safe_sparse_dot

from skdist.models.validation import decide


def on_rows(method: str, X: Any, coef: np.ndarray, intercept: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return what ``method`` says of rows.

    Parameters
    ----------
    method : {'decision_function', 'predict', 'predict_proba'}
        What to return.
    X : ndarray or sparse of shape (n_rows, n_features)
    coef : ndarray of shape (n_problems, n_features)
    intercept : ndarray of shape (n_problems,)
    classes : ndarray of shape (n_classes,)
    """
    scores = safe_sparse_dot(X, coef.T, dense_output=True) + intercept
    if method == "decision_function":
        return np.asarray(scores.ravel() if scores.shape[1] == 1 else scores)
    if method == "predict":
        return np.asarray(classes[decide(scores)])
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
    from skdist.models.partition import convert_rows

    rows = convert_rows(block)
    values = rows.data if hasattr(rows, "indptr") else rows
    if not np.isfinite(values).all():
        raise ValueError("X contains NaN or infinity.")
    return on_rows(method, rows, coef, intercept, classes)


def on_collection(estimator: Any, method: str, X: Any) -> Any:
    """Return a lazy dask Array with the row chunks of X."""
    import dask.array as da

    names = np.asarray(X.columns, dtype=object) if hasattr(X, "columns") else None
    check_features(estimator, names, int(X.shape[1]), reset=False)
    coef, intercept, classes = estimator.coef_, estimator.intercept_, estimator.classes_
    columns = len(classes) if method == "predict_proba" else len(coef)
    flat = method == "predict" or (method == "decision_function" and len(coef) == 1)
    dtype = classes.dtype if method == "predict" else np.result_type(coef.dtype, np.float32)
    meta = np.empty((0,) if flat else (0, 0), dtype=dtype)
    arguments = {"method": method, "coef": coef, "intercept": intercept, "classes": classes}
    if hasattr(X, "columns"):
        blocks = X.to_delayed()
        import dask

        work = dask.delayed(on_block, pure=True)
        shape = (np.nan,) if flat else (np.nan, columns)
        return da.concatenate(
            [da.from_delayed(work(block, **arguments), shape, meta=meta) for block in blocks]
        )
    if len(X.chunks[1]) > 1:
        X = X.rechunk({1: -1})
    return da.map_blocks(
        on_block,
        X,
        **arguments,
        dtype=dtype,
        meta=meta,
        chunks=(X.chunks[0],) if flat else (X.chunks[0], (columns,)),
        drop_axis=[1] if flat else [],
    )


def accuracy_on_collections(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float:
    """Return the mean accuracy, computed where the data is."""
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
    count = dask.delayed(_hits, pure=True)
    parts = [count(*blocks) for blocks in zip(*(p.to_delayed().ravel() for p in pieces), strict=True)]
    client = estimator.client
    if client is not None:
        totals = client.gather(client.compute(parts))
    else:
        totals = dask.compute(*parts)
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
