"""A block of rows, converted once and trained on many times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from skdist.exceptions import UnknownLabelsError
from skdist.models.compile import as_input
from skdist.models.shuffle import shuffled_pages

#: Rows that lie on one page of memory are read together; see `row_order`.
PAGE_BYTES = 4096

#: Below this size a partition sits in the processor's cache, where the order of reading is free.
CACHE_BYTES = 1 << 20

MOST_ROWS_PER_PAGE = 16


@dataclass(frozen=True, repr=False)
class Partition:
    """Rows, targets and weights.

    Attributes
    ----------
    X : ndarray or csr_array of shape (n_rows, n_features)
        float32 or float64, C-contiguous.
    targets : ndarray of shape (n_rows,)
        Index of each row's class in ``labels``, int32; in a regression numbers, of the dtype of X.
    weights : ndarray of shape (n_rows,)
        Sample weights, of the dtype of X.
    labels : ndarray or None
        The classes present, sorted; None in a regression.
    owned_bytes : int
        Memory that the conversion added to that of the user's own blocks.
    training : ndarray of int32 or None
        The rows to train on, ascending; the others are held out. All where None.
    """

    X: Any
    targets: np.ndarray
    weights: np.ndarray
    labels: np.ndarray | None
    owned_bytes: int = 0
    training: np.ndarray | None = None

    def __repr__(self) -> str:
        # Logs and tracebacks show it: rows are nobody's business.
        return f"Partition({self.X.shape[0]} rows, {self.X.shape[1]} features, {self.X.dtype})"

    @property
    def n_rows(self) -> int:
        """Number of rows to train on."""
        return int(self.X.shape[0]) if self.training is None else len(self.training)

    @property
    def held_out(self) -> np.ndarray:
        """The rows that are not trained on, ascending."""
        mask = np.full(self.X.shape[0], self.training is not None)
        mask[self.training if self.training is not None else []] = False
        return np.flatnonzero(mask).astype(np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of X."""
        return bytes_of(self.X)

    def __sizeof__(self) -> int:
        # Dask's memory manager asks: what is shared with the user's block is counted there.
        chosen = 0 if self.training is None else self.training.nbytes
        return self.owned_bytes + self.targets.nbytes + self.weights.nbytes + chosen

    def globally(self, classes: np.ndarray | None) -> Partition:
        """Return the same rows with codes that index ``classes``.

        Raises
        ------
        UnknownLabelsError
            Where a label is none of them.
        """
        if self.labels is None or classes is None or self.labels is classes:
            return self
        if len(classes) == len(self.labels) and (classes == self.labels).all():
            return self
        known = np.isin(self.labels, classes)
        if not known.all():
            raise UnknownLabelsError(
                f"y contains labels that are not in classes: {self.labels[~known][:5]!r}."
            )
        places = np.searchsorted(classes, self.labels).astype(np.int32)
        return replace(self, targets=places[self.targets], labels=classes)

    def part(self, start: int, stop: int) -> Partition:
        """Return some of the rows."""
        training = self.training
        if training is not None:
            training = training[slice(*np.searchsorted(training, (start, stop)))] - np.int32(start)
        return replace(self.take(slice(start, stop)), training=training)

    def take(self, rows: Any) -> Partition:
        """Return the rows of an index, all of them to train on."""
        return Partition(self.X[rows], self.targets[rows], self.weights[rows], self.labels)


def bytes_of(X: Any) -> int:
    """Return the bytes that dense or CSR rows take."""
    if sp.issparse(X):
        return int(X.data.nbytes + X.indices.nbytes + X.indptr.nbytes)
    return int(X.nbytes)


def convert(X: Any, y: Any, sample_weight: Any = None, regression: bool = False) -> Partition:
    """Return a partition that the kernels can read, copying only what they cannot.

    Parameters
    ----------
    X : array-like, DataFrame or sparse of shape (n_rows, n_features)
        Small integers and half floats become float32, other numbers float64.
    y : array-like of shape (n_rows,) or (n_rows, 1)
        Labels.
    sample_weight : array-like of shape (n_rows,), optional
        Weights; ones where None.
    regression : bool
        Whether y holds numbers and no labels.

    Raises
    ------
    ValueError
        Where lengths differ or values are no numbers.
    """
    data = convert_rows(X)
    return assemble(X, data, y, sample_weight, regression, data.dtype)


def assemble(X: Any, data: Any, y: Any, sample_weight: Any, regression: bool, dtype: np.dtype) -> Partition:
    """Return a partition of rows that are converted already.

    Parameters
    ----------
    X : array-like, DataFrame or sparse of shape (n_rows, ...)
        What they were.
    data : ndarray or csr_array of shape (n_rows, ...)
        What they are now.
    y, sample_weight, regression
        As in `convert`, which raises the same errors.
    dtype : dtype
        Of the weights, and of targets that are numbers.
    """
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.ravel()
    if labels.ndim != 1:
        raise ValueError(f"y must have one column, it has shape {labels.shape}.")
    if data.shape[0] != len(labels):
        raise ValueError(f"X and y have different lengths: {data.shape[0]} rows of X, {len(labels)} of y.")
    if regression:
        present, targets = None, as_numbers(labels, dtype)
    else:
        present, targets = encode(labels)
    if sample_weight is None:
        weights = np.ones(len(labels), dtype=dtype)
    else:
        weights = as_floats("sample_weight", np.asarray(sample_weight).ravel(), dtype)
        if len(weights) != len(labels):
            raise ValueError(f"sample_weight has {len(weights)} values for {len(labels)} rows of X.")
    copied = not (data is X or (isinstance(X, np.ndarray) and np.shares_memory(data, X)))
    owned = 0 if sp.issparse(data) or not copied else data.nbytes
    if not sp.issparse(data):
        data = as_input(data)
    return Partition(data, as_input(targets), as_input(weights), present, owned)


def convert_rows(X: Any) -> Any:
    """Return X as C-contiguous float32 or float64 ndarray, or as CSR with sorted rows."""
    if sp.issparse(X):
        dtype = float_dtype(X.dtype)
        X = sp.csr_array(X) if X.format != "csr" else X
        if X.dtype != dtype:
            X = X.astype(dtype)
        if not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        # SciPy takes any, and a kernel reads and writes what it is told to.
        if X.nnz and not 0 <= X.indices.min() <= X.indices.max() < X.shape[1]:
            raise ValueError(f"X stores values in columns that it does not have: it has {X.shape[1]}.")
        return X
    if hasattr(X, "asformat"):  # pydata/sparse
        X = X if hasattr(X, "to_scipy_sparse") else X.asformat("coo")
        return convert_rows(X.to_scipy_sparse().tocsr())
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        X = frame_to_numpy(X)
    values = np.asarray(X)
    if values.ndim != 2:
        raise ValueError(
            f"X must have two dimensions, it has {values.ndim}. Reshape it to (n_rows, n_features)."
        )
    return as_floats("X", values, float_dtype(values.dtype))


def as_floats(name: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return values as C-contiguous numbers.

    Raises
    ------
    ValueError
        Where some are none; it says where and of which type the first is, not what it holds.
    """
    if values.dtype.kind == "c":
        raise ValueError(f"{name} must hold numbers without an imaginary part, its dtype is {values.dtype}.")
    try:
        return np.ascontiguousarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        place = place_of_text(values)
        why = f": text{place}" if place else f": {error}"
        raise ValueError(f"{name} holds values that are no numbers{why}.") from None


def place_of_text(values: np.ndarray) -> str:
    """Return where the first text is that is no number, '' where there is none."""
    if values.dtype.kind not in "OUS":
        return ""
    for place, value in np.ndenumerate(values):
        if isinstance(value, str | bytes):
            try:
                float(value)
            except ValueError:
                named = [f"{axis} {n}" for axis, n in zip(("row", "column"), place, strict=False)]
                return f" in {', '.join(named)}" if named else ", and nothing else"
    return ""


def frame_to_numpy(frame: Any) -> np.ndarray:
    """Return the columns of a DataFrame as one float array; name those that cannot be converted."""
    odd = [str(name) for name, dtype in frame.dtypes.items() if getattr(dtype, "kind", "O") not in "biuf"]
    if odd:
        raise ValueError(
            f"Columns {', '.join(odd[:5])}{' ...' if len(odd) > 5 else ''} of X do not hold numbers. "
            "Encode them first: a Dask DataFrame with dask.dataframe.get_dummies(X.categorize()), a table in "
            "memory with sklearn.preprocessing.OneHotEncoder."
        )
    dtype = (
        np.result_type(
            *(float_dtype(np.dtype(t.numpy_dtype if hasattr(t, "numpy_dtype") else t)) for t in frame.dtypes)
        )
        if len(frame.columns)
        else np.float64
    )
    return np.asarray(frame.to_numpy(dtype=dtype, na_value=np.nan))


def float_dtype(dtype: np.dtype) -> np.dtype:
    """Return the floating dtype that holds all values of ``dtype``."""
    if dtype in (np.float32, np.float64):
        return np.dtype(dtype)
    if (dtype.kind in "bf" and dtype.itemsize <= 2) or (dtype.kind in "iu" and dtype.itemsize <= 2):
        return np.dtype(np.float32)
    if dtype.kind in "biufO":
        return np.dtype(np.float64)
    raise ValueError(f"X must hold numbers, its dtype is {dtype}.")


def encode(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted distinct labels and, as int32, the index of each label among them."""
    if labels.dtype.kind in "bui" and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if high - low < 1024:
            wide = labels if labels.dtype == np.uint64 else labels.astype(np.int64, copy=False)
            shifted = (wide - wide.dtype.type(low) if low else wide).astype(np.int64, copy=False)
            if high - low <= 1:  # there is none between them
                return np.unique([labels.dtype.type(low), labels.dtype.type(high)]), shifted.astype(np.int32)
            seen = np.bincount(shifted, minlength=high - low + 1) > 0
            places = (np.cumsum(seen) - 1).astype(np.int32)
            present = np.flatnonzero(seen).astype(wide.dtype) + wide.dtype.type(low)
            return present.astype(labels.dtype), places[shifted]
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise ValueError("y contains NaN or infinity.")
        if (labels != np.rint(labels)).any():
            raise ValueError(
                "Unknown label type: continuous. y holds numbers with fractions; a classifier needs discrete "
                "labels. Cut the numbers into classes first."
            )
        if labels.size and np.abs(labels).max() < 1024:
            present, codes = encode(labels.astype(np.int64))
            return present.astype(labels.dtype), codes
    if labels.dtype.kind == "c":
        raise ValueError(f"y must hold labels, its dtype is {labels.dtype}.")
    refuse_missing(labels)
    try:
        present, codes = np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"y holds labels that cannot be sorted: {error}. Give them one type.") from error
    return present, codes.astype(np.int32).ravel()


def refuse_missing(labels: np.ndarray) -> None:
    """Raise a ValueError where labels that are objects are None, NaN or NA."""
    if labels.dtype.kind == "O" and labels.ndim:
        import pandas as pd

        if pd.isna(labels).any():
            raise ValueError("y contains missing values. Drop their rows, or give them a label of their own.")


def as_numbers(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return targets of a regression in the dtype of the rows.

    Raises
    ------
    ValueError
        Where they are no finite numbers.
    """
    if values.dtype.kind not in "biufO":
        raise ValueError(f"y must hold numbers for a regression, its dtype is {values.dtype}.")
    numbers = as_floats("y", values, dtype)
    # Losses square them and add them up; what is no number is not below the limit either.
    limit = 1e-3 * np.sqrt(np.finfo(dtype).max)
    if numbers.size and not (numbers.max() < limit and numbers.min() > -limit):
        raise ValueError("y contains NaN or infinity, or numbers too large for the precision of X.")
    return numbers


def rows_per_page(X: Any) -> int:
    """Return how many neighbouring rows `row_order` keeps near one another."""
    size = bytes_of(X)
    if size <= CACHE_BYTES:
        return 1
    return int(min(max(PAGE_BYTES * X.shape[0] // size, 1), MOST_ROWS_PER_PAGE))


def epoch_order(partition: Partition, entropy: tuple[int, ...] | None) -> np.ndarray:
    """Return the rows of a partition that are trained on in the order of an epoch, int32.

    Parameters
    ----------
    partition : Partition
        The rows.
    entropy : tuple of int or None
        As in `row_order`; None leaves them in their order.
    """
    training = partition.training
    if entropy is None:
        return np.arange(partition.n_rows, dtype=np.int32) if training is None else training
    order = row_order(partition.n_rows, rows_per_page(partition.X), entropy)
    return order if training is None else training[order]


def row_order(n_rows: int, page: int, entropy: tuple[int, ...]) -> np.ndarray:
    """Return the order in which an epoch reads the rows of a partition.

    Reading single rows at random costs twice the time of reading them in turn, so pages of ``page``
    neighbouring rows are shuffled instead, and a few of them read together; where they begin changes with the
    epoch.

    Parameters
    ----------
    n_rows : int
        Rows of the partition.
    page : int
        Rows that stay near one another; 1 is a full permutation.
    entropy : tuple of int
        Seed, epoch and partition: the same numbers give the same order anywhere.

    Returns
    -------
    ndarray of shape (n_rows,), int32
    """
    order: np.ndarray = shuffled_pages(n_rows, page, entropy)
    return order
