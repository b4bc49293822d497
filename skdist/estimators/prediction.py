"""Prediction, on rows in memory and lazily on Dask collections."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from scipy.special import expit, log_softmax, softmax
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import validate_data

from skdist.models.partition import convert_rows, frame_to_numpy
from skdist.models.validation import decide


class Predictor(Protocol):
    """What predicts: small enough to be sent to the workers."""

    def width(self, method: str) -> int:
        """Return the columns of the result, 0 where it has one dimension."""
        ...

    def dtype(self, method: str) -> np.dtype:
        """Return the dtype of the result."""
        ...

    def convert(self, X: Any) -> Any:
        """Return rows as they are predicted from, of any kind of block."""
        ...

    def __call__(self, method: str, X: Any) -> np.ndarray:
        """Return what ``method`` says of rows."""
        ...


class Linear(NamedTuple):
    """What predictions are made of.

    Attributes
    ----------
    coef : ndarray or sparse of shape (n_problems, n_features)
        Coefficients.
    intercept : ndarray of shape (n_problems,)
        Intercepts.
    classes : ndarray of shape (n_classes,) or None
        Labels; None in a regression.
    link : {'logistic', 'clipped', 'softmax'}
        How scores become probabilities.
    """

    coef: Any
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
        coef = estimator.coef_ if sp.issparse(estimator.coef_) else np.atleast_2d(estimator.coef_)
        return cls(coef, estimator.intercept_, classes, link)

    @property
    def n_problems(self) -> int:
        """Number of problems."""
        return int(self.coef.shape[0])

    def width(self, method: str) -> int:
        """Return the columns of the result, 0 where it has one dimension."""
        if method == "predict" or (method == "decision_function" and self.n_problems == 1):
            return 0
        return self.n_problems if method == "decision_function" or self.classes is None else len(self.classes)

    def dtype(self, method: str) -> np.dtype:
        """Return the dtype of the result."""
        if method == "predict" and self.classes is not None:
            return self.classes.dtype
        return np.result_type(self.coef.dtype, np.float32)

    def convert(self, X: Any) -> Any:
        """Return rows as float32 or float64."""
        return convert_rows(X)

    def __call__(self, method: str, X: Any) -> np.ndarray:
        """Return what ``method`` says of rows.

        Parameters
        ----------
        method : {'decision_function', 'predict', 'predict_proba', 'predict_log_proba'}
            What to return.
        X : ndarray or sparse of shape (n_rows, n_features)
        """
        scores = safe_sparse_dot(X, self.coef.T, dense_output=True) + self.intercept
        if method == "decision_function" or self.classes is None:
            return np.asarray(scores.ravel() if scores.shape[1] == 1 else scores)
        if method == "predict":
            return np.asarray(self.classes[decide(scores)])
        if method == "predict_proba":
            return _probabilities(scores, self.link)
        if self.link == "softmax":
            return np.asarray(log_softmax(scores, axis=1))
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(_probabilities(scores, self.link)))


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


def on_block(block: Any, method: str, predictor: Predictor) -> np.ndarray:
    """Return what ``method`` says of a block of a collection."""
    rows = predictor.convert(block)
    values = rows.data if hasattr(rows, "indptr") else rows
    if not np.isfinite(values).all():
        raise ValueError("X contains NaN or infinity.")
    return predictor(method, rows)


def on_collection(estimator: Any, method: str, X: Any) -> Any:
    """Return a lazy dask Array with the row chunks of X."""
    import dask.array as da

    check_features(estimator, X, reset=False)
    predictor = estimator._predictor()
    width, dtype = predictor.width(method), predictor.dtype(method)
    meta = np.empty((0, 0) if width else (0,), dtype=dtype)
    if hasattr(X, "columns"):
        import dask

        from skdist.cluster.source import frame_blocks

        frame_to_numpy(X._meta)  # refuses columns that are no numbers before anything is computed
        blocks = frame_blocks(X)
        work = dask.delayed(on_block, pure=True)
        shape = (np.nan, width) if width else (np.nan,)
        return da.concatenate(
            [da.from_delayed(work(block, method, predictor), shape, meta=meta) for block in blocks]
        )
    if any(len(sizes) > 1 for sizes in X.chunks[1:]):
        X = X.rechunk(dict.fromkeys(range(1, X.ndim), -1))
    # Not map_blocks, which would copy each block to join it with its neighbours of the dropped axis.
    return da.blockwise(
        on_first_block,
        (0, X.ndim) if width else (0,),
        X,
        tuple(range(X.ndim)),
        new_axes={X.ndim: width} if width else {},
        concatenate=False,
        meta=meta,
        method=method,
        predictor=predictor,
    )


def on_first_block(blocks: Any, method: str, predictor: Predictor) -> np.ndarray:
    """Return `on_block` of the only block of columns, in a list for each dimension that rows have."""
    while isinstance(blocks, list):
        blocks = blocks[0]
    return on_block(blocks, method, predictor)


def check_features(estimator: Any, X: Any, reset: bool) -> None:
    """Hold the columns of a collection against those of the fit, or learn them.

    Raises
    ------
    ValueError
        Where X is no table, or the number or the names of the features differ.
    """
    if X.ndim < 2 or (X.ndim > 2 and not estimator._rows_of_any_shape):
        raise ValueError(f"X must have two dimensions, it has {X.ndim}. Reshape it to (n_rows, n_features).")
    # An empty table of the same columns.
    columns = X._meta if hasattr(X, "columns") else np.empty((0, *map(int, X.shape[1:])))
    validate_data(estimator, columns, skip_check_array=True, reset=reset)
