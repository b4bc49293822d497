"""The moments of rows, in one read of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp

from skdist.models.columns import compacted
from skdist.models.compile import as_input, inlined, kernel
from skdist.models.moments import Moments
from skdist.models.prefetch import prefetch_rows
from skdist.models.sparse_kernels import stored

#: Rows of a partition that its alignment is estimated from, and steps of the power iteration.
ALIGNMENT_ROWS = 256
POWER_ITERATIONS = 12

#: Rows are asked for so many rows before they are worked on.
ROWS_AHEAD = 32


def measure(X: Any, weights: np.ndarray) -> Moments:
    """Return the moments of the rows of X.

    Raises
    ------
    ValueError
        Where X holds NaN or infinity.
    """
    return _measure_sparse(X, weights) if sp.issparse(X) else _measure_dense(X, weights)


def _measure_sparse(X: Any, weights: np.ndarray) -> Moments:
    columns, rows = compacted(X)
    width = rows.shape[1]
    squares, present, across = np.zeros((3, width))
    low, high = np.zeros((2, width), X.dtype)  # what is not stored is zero
    sample = _sample(len(rows.indptr) - 1)
    values = np.empty((rows.indptr[sample + 1] - rows.indptr[sample]).sum())
    alignment = _sparse_sums(
        as_input(rows.data), as_input(rows.indices), as_input(rows.indptr), as_input(weights), squares,
        present, low, high, sample, values, across, _start(len(sample)),
    )  # fmt: skip
    weight = _weight_of(rows, weights, squares, columns)
    return _moments(
        X, weights, weight, columns, np.zeros(width), squares, low, high, present, float(X.nnz), alignment
    )


def _measure_dense(X: np.ndarray, weights: np.ndarray) -> Moments:
    n_rows, width = X.shape
    sums = np.zeros((2, width))
    # In the dtype of the rows, of which they are some: less to convert, and to send.
    low, high = np.full(width, np.inf, X.dtype), np.full(width, -np.inf, X.dtype)
    pivot = X[0].astype(np.float64) if n_rows else np.zeros(width)
    _dense_sums(as_input(X), pivot, as_input(weights), sums, low, high)
    weight = _weight_of(X, weights, sums)
    share = sums[0] / weight if weight > 0 else np.zeros(width)
    mean, deviation = pivot + share, np.maximum(sums[1] - weight * share**2, 0.0)
    present = np.full(width, weight)
    alignment = _alignment(X, mean, deviation, present)
    return _moments(
        X, weights, weight, None, mean, deviation, low, high, present, float(n_rows) * width, alignment
    )


def _moments(
    X: Any, weights: np.ndarray, weight: float, columns: np.ndarray | None, mean: np.ndarray,
    deviation: np.ndarray, low: np.ndarray, high: np.ndarray, present: np.ndarray, stored: float,
    alignment: float,
) -> Moments:  # fmt: skip
    return Moments(
        rows=X.shape[0],
        weight=weight,
        n_features=X.shape[1],
        columns=columns,
        mean=mean,
        deviation=deviation,
        low=low,
        high=high,
        present=present,
        sparse=sp.issparse(X),
        stored=stored,
        heaviest=float(weights.max(initial=0.0)),
        weight_square=float(np.vdot(weights, weights)),
        alignment=alignment,
    )


def _weight_of(X: Any, weights: np.ndarray, sums: np.ndarray, columns: np.ndarray | None = None) -> float:
    """Return the sum of the weights, where it and the sums of the rows are finite."""
    weight = float(weights.sum(dtype=np.float64))
    if not (np.isfinite(sums).all() and np.isfinite(weight)):
        refuse_infinite(X, weights, columns)
        raise ValueError("The values of X are too large to be squared. Scale them down.")
    return weight


def refuse_infinite(X: Any, weights: np.ndarray, columns: np.ndarray | None = None) -> None:
    """Raise a ValueError where X or the weights hold NaN or infinity; ``columns`` are those of X."""
    values = X.data if sp.issparse(X) else X
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()) and np.isfinite(weights.sum()):  # no array as large as X
            return
    bad = ~np.isfinite(values)
    if bad.any():
        where = np.flatnonzero(bad.any(axis=0)) if bad.ndim == 2 else np.unique(X.indices[bad])
        where = where if columns is None else columns[where]
        nan = np.isnan(values[bad])
        kinds = " and ".join(["NaN"] * bool(nan.any()) + ["infinity"] * (not nan.all()))
        raise ValueError(
            f"X contains {kinds} ({int(bad.sum())} values; columns "
            f"{', '.join(map(str, where[:5]))}{' ...' if len(where) > 5 else ''}). "
            "Fill them or drop their rows first: a DataFrame with X.fillna(X.mean()), an array in memory "
            "with sklearn.impute.SimpleImputer."
        )
    if not np.isfinite(weights).all():
        raise ValueError("sample_weight contains NaN or infinity.")


def _sample(n_rows: int) -> np.ndarray:
    """Return the rows that the alignment is estimated from."""
    return np.linspace(0, n_rows - 1, min(n_rows, ALIGNMENT_ROWS)).astype(int)


def _start(count: int) -> np.ndarray:
    """Return where the power iteration begins: anywhere that is not likely to be orthogonal to its end."""
    return np.ones(count) + np.arange(count) % 2


def _alignment(X: np.ndarray, mean: np.ndarray, deviation: np.ndarray, present: np.ndarray) -> float:
    """Estimate the largest eigenvalue of the scaled second moments, as a share of their trace."""
    chosen = _sample(X.shape[0])
    moving = (deviation > 0) & (present > 0)
    if len(chosen) < 2 or not moving.any():
        return 1.0
    factor = np.sqrt(np.where(moving, present, 0.0) / np.where(moving, deviation, 1.0))
    rows = (X[chosen] - mean) * factor
    squares = float(np.vdot(rows, rows))
    if squares == 0.0:
        return 1.0
    rows = rows / math.sqrt(squares)  # the eigenvalues then add up to 1, and no power of them is out of range
    direction = before = _start(len(chosen))
    across = rows.T
    for _ in range(POWER_ITERATIONS):
        before, direction = direction, rows @ (across @ direction)
    length = float(np.linalg.norm(before))
    return min(1.0, float(np.linalg.norm(direction)) / length) if length > 0 else 1.0


@kernel
def _dense_sums(X, pivot, weights, sums, low, high):
    # Four rows at a time: the sums, not the rows, would limit the speed.
    n_rows, n_features = X.shape
    first = sums[0]
    second = sums[1]
    address, row_bytes = np.uintp(X.ctypes.data), n_features * X.itemsize
    zero = weights.dtype.type(0)
    last = n_rows - 1
    for i in range(0, n_rows, 4):
        # Where fewer are left, the last one is taken again, without weight.
        b, c, d = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        x0, x1, x2, x3 = X[i], X[b], X[c], X[d]
        w0, w1, w2, w3 = weights[i], weights[b], weights[c], weights[d]
        if i + 3 > last:
            w1 = w1 if b > i else zero
            w2 = w2 if c > b else zero
            w3 = zero
        prefetch_rows(address + np.uintp((i + ROWS_AHEAD) * row_bytes), 4, row_bytes)
        # One array written per loop, or the compiler gives up proving that they do not overlap.
        for j in range(n_features):
            least = x0[j] if x0[j] < x1[j] else x1[j]
            least = x2[j] if x2[j] < least else least
            least = x3[j] if x3[j] < least else least
            low[j] = least if least < low[j] else low[j]
        for j in range(n_features):
            most = x0[j] if x0[j] > x1[j] else x1[j]
            most = x2[j] if x2[j] > most else most
            most = x3[j] if x3[j] > most else most
            high[j] = most if most > high[j] else high[j]
        for j in range(n_features):
            p = pivot[j]
            first[j] += w0 * (x0[j] - p) + w1 * (x1[j] - p) + w2 * (x2[j] - p) + w3 * (x3[j] - p)
        for j in range(n_features):
            p = pivot[j]
            y0, y1, y2, y3 = x0[j] - p, x1[j] - p, x2[j] - p, x3[j] - p
            second[j] += w0 * y0 * y0 + w1 * y1 * y1 + w2 * y2 * y2 + w3 * y3 * y3


@kernel
def _sparse_sums(
    data, indices, indptr, weights, squares, present, low, high, sample, values, across, direction
):  # fmt: skip
    """Add the rows up; return the alignment of a sample of them, which `_alignment` would find.

    ``values`` has room for what the sample stores, ``across`` is all zeros.
    """
    for i in range(len(indptr) - 1):
        weight = weights[i]
        for p in stored(indptr, i):
            j = np.uintp(indices[p])
            value = data[p]
            squares[j] += weight * value * value
            present[j] += weight
            low[j] = min(low[j], value)
            high[j] = max(high[j], value)
    if len(sample) < 2:
        return 1.0
    total, place = 0.0, 0
    for row in sample:
        for p in stored(indptr, row):
            j = np.uintp(indices[p])
            moving = squares[j] > 0.0 and present[j] > 0.0
            values[place] = data[p] * np.sqrt(present[j] / squares[j]) if moving else 0.0
            total += values[place] * values[place]
            place += 1
    if total == 0.0:
        return 1.0
    before = 0.0
    for _ in range(POWER_ITERATIONS):
        before, place = _length(direction), 0
        for i in range(len(sample)):
            for p in stored(indptr, sample[i]):
                across[np.uintp(indices[p])] += values[place] * direction[i]
                place += 1
        place = 0
        for i in range(len(sample)):
            product = 0.0
            for p in stored(indptr, sample[i]):
                product += values[place] * across[np.uintp(indices[p])]
                place += 1
            direction[i] = product / total
        for row in sample:
            for p in stored(indptr, row):
                across[np.uintp(indices[p])] = 0.0
    return min(1.0, _length(direction) / before) if before > 0.0 else 1.0


@inlined
def _length(vector):
    total = 0.0
    for value in vector:
        total += value * value
    return np.sqrt(total)
