"""Rows of any shape, in the dtype that they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from skdist.models.partition import Partition, convert_rows, frame_to_numpy, place_of_text

#: Values are looked at in blocks of so many rows, so that the marks of those that are finite stay small.
BLOCK_ROWS = 4096


def convert_arrays(X: Any, flat: bool = False) -> Any:
    """Return rows as an ndarray or CSR that holds no more than float32; what is narrower stays as it is.

    Parameters
    ----------
    X : array-like, DataFrame or sparse of shape (n_rows, ...)
        Numbers.
    flat : bool
        Whether each row must be a vector.

    Raises
    ------
    ValueError
        Where values are no numbers, or there is no second dimension.
    """
    if sp.issparse(X) or hasattr(X, "asformat"):
        return convert_rows(X).astype(np.float32, copy=False)
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        X = frame_to_numpy(X)
    values = np.asarray(X)
    if values.ndim < 2 or (flat and values.ndim > 2):
        wanted = "two dimensions" if flat else "two dimensions or more"
        raise ValueError(
            f"X must have {wanted}, it has {values.ndim}. Reshape it to (n_rows, "
            f"{'n_features' if flat else '...'})."
        )
    if values.dtype.kind not in "biufO":
        raise ValueError(f"X must hold numbers, its dtype is {values.dtype}.")
    wide = values.dtype.kind == "O" or (values.dtype.kind == "f" and values.dtype.itemsize > 4)
    try:
        with np.errstate(over="ignore"):  # found as infinity when the rows are measured
            # Blocks that came over the network may lie askew: NumPy would copy all of one to gather rows.
            return np.require(values, np.float32 if wide else values.dtype, ["C", "A"])
    except (TypeError, ValueError):
        place = place_of_text(values)
        why = f": text{place}" if place else ""
        raise ValueError(f"X holds values that are no numbers{why}.") from None


def refuse_infinite(partition: Partition) -> None:
    """Raise a ValueError where X or the weights hold NaN or infinity."""
    values = partition.X.data if sp.issparse(partition.X) else partition.X
    if values.dtype.kind == "f":
        for start in range(0, len(values), BLOCK_ROWS):
            if not np.isfinite(values[start : start + BLOCK_ROWS]).all():
                raise ValueError(
                    "X contains NaN or infinity, or numbers that are too large for float32. Replace or drop "
                    "them first, for example with sklearn.impute.SimpleImputer."
                )
    if not np.isfinite(partition.weights).all():
        raise ValueError("sample_weight contains NaN or infinity.")
