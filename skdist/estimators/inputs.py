"""scikit-learn's checks of rows in memory, with errors that name what they are about and print no data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse as sp

from skdist.models.partition import place_of_text


@contextmanager
def named(*, labels: bool = False, **inputs: Any) -> Iterator[None]:
    """Say which input is wrong where scikit-learn does not, and leave out the values that it would print.

    Parameters
    ----------
    labels : bool
        Whether y holds labels, which may be text.
    **inputs : dict
        What is checked, by name; only X is a table.

    Raises
    ------
    ValueError, TypeError
        As scikit-learn does.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        for name, values in inputs.items():
            flaw = _flaw(name, values, may_be_text=labels and name == "y")
            if flaw:
                raise ValueError(flaw) from None
        if not any(re.search(rf"\b{name}\b", str(error)) for name in inputs):
            raise type(error)(f"{' and '.join(inputs)}: {error}") from None
        raise error from None


@contextmanager
def about_validation_rows() -> Iterator[None]:
    """Say of errors that it is not X and y that they are about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"X_val, y_val or sample_weight_val: {error}") from error


def _flaw(name: str, values: Any, may_be_text: bool) -> str:
    """Return what is wrong with the kind or the shape of an input, '' if that is not it."""
    if values is None:
        return ""
    if sp.issparse(values):
        place = ""
    else:
        try:
            values = np.asarray(values)
        except (TypeError, ValueError):
            return f"{name} is no array: its rows differ in length, or it holds other things than values."
        place = "" if may_be_text else place_of_text(values)
    if values.dtype.kind == "c":
        return f"Complex data not supported: the dtype of {name} is {values.dtype}."
    if name == "X" and values.ndim < 2:
        return (
            f"Expected 2D array, got {values.ndim}D array instead: X must have shape (n_rows, n_features). "
            "Reshape your data: X.reshape(-1, 1) if it is one feature, X.reshape(1, -1) if it is one row."
        )
    return f"{name} holds text where numbers are needed{place}. Encode it first." if place else ""
