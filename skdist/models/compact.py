"""Arrays on their way: in as few bytes as keep all values.

States that are mostly zero, which these are not, are sent by `skdist.cluster.thin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

#: What is sent so.
COMPACTED = (np.float32, np.float64, np.int32, np.int64)

#: Whole numbers are tried in these, in turn.
WHOLE = (np.uint8, np.uint16, np.int32)


class Compact(NamedTuple):
    """An array in the dtype that is sent.

    Attributes
    ----------
    values : ndarray
        One where all are the same.
    dtype : str
        Of the array, as NumPy writes it: files of estimators hold no objects of other packages.
    size : int
        Its length.
    """

    values: np.ndarray
    dtype: str
    size: int

    def wide(self) -> np.ndarray:
        """Return the array."""
        if len(self.values) == self.size:
            return self.values.astype(self.dtype, copy=False)
        return np.full(self.size, self.values[0], self.dtype)


def fewest_bytes(values: np.ndarray) -> Compact:
    """Return an array in one dimension as it is sent; what comes back is equal to the bit.

    Examples
    --------
    >>> import numpy as np
    >>> fewest_bytes(np.array([0.0, 300.0, 2.0])).values
    array([  0, 300,   2], dtype=uint16)
    >>> fewest_bytes(np.zeros(1000)).values
    array([0.])
    """
    sent = values = np.ascontiguousarray(values)
    bits = values.view(f"u{values.itemsize}")
    if len(values) > 1 and (bits == bits[0]).all():
        sent = values[:1].copy()
    elif len(values):
        low, high = values.min(), values.max()
        for whole in WHOLE:
            limits = np.iinfo(whole)
            if limits.min <= low and high <= limits.max:
                cast = values.astype(whole)
                if np.array_equal(cast.astype(values.dtype).view(bits.dtype), bits):
                    sent = cast
                break
    return Compact(sent, values.dtype.str, len(values))


def sent(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of an object as they are sent."""
    return {
        name: fewest_bytes(value)
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype in COMPACTED
        else value
        for name, value in attributes.items()
    }


def received(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes that were sent as they were before."""
    return {name: value.wide() if isinstance(value, Compact) else value for name, value in attributes.items()}
