"""First and second moments of the features, in one pass over the rows, added up over partitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from skdist.models.columns import Places, narrowed, spread, stored_columns, union
from skdist.models.compact import received, sent
from skdist.models.compile import as_input, kernel
from skdist.models.prefetch import prefetch_rows
from skdist.models.sparse_kernels import stored

#: Rows of a partition that its alignment is estimated from, and steps of the power iteration.
ALIGNMENT_ROWS = 256
POWER_ITERATIONS = 12

#: The farthest value of a feature may have so many times the mean squared norm, where slopes are not bounded:
#: the step of `skdist.control.schedules.AutoRate`, b/8 over that norm, is then stable for it (1.5 < 2).
FARTHEST = 12

#: Rounds of bounding scales and norm by one another; the norm only falls, and settles within a few.
BOUND_ITERATIONS = 10

#: Rows are asked for so many rows before they are worked on.
ROWS_AHEAD = 32


@dataclass(frozen=True)
class Moments:
    """Weighted moments of the features of some rows.

    Attributes
    ----------
    rows : int
        Number of rows.
    weight : float
        Sum of the sample weights.
    n_features : int
        Number of features.
    columns : ndarray of shape (width,) or None
        The features described, ascending: where sparse rows store less than half of them, those that they
        store. All where None, and the width is ``n_features``.
    mean, deviation : ndarray of shape (width,)
        Mean, and sum of weighted squared deviations from it. Sparse: mean 0, sum of squares.
    low, high : ndarray of shape (width,)
        Least and largest value.
    present : ndarray of shape (width,)
        Sum of the weights of the rows where the feature is stored (dense: everywhere).
    sparse : bool
        Whether the rows are sparse; then features are not centred.
    stored : float
        Stored values.
    heaviest : float
        Largest sample weight.
    weight_square : float
        Sum of the squared sample weights.
    alignment : float
        Estimated share of the scaled rows' mean square norm that lies in one direction, in (0, 1]:
        1 / n_features for independent features, 1 where all say the same. Bounds how large a step may be.
    """

    rows: int
    weight: float
    n_features: int
    columns: np.ndarray | None
    mean: np.ndarray
    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    present: np.ndarray
    sparse: bool
    stored: float
    heaviest: float
    weight_square: float
    alignment: float

    def __getstate__(self) -> dict[str, Any]:
        return sent(vars(self))  # those of wide rows are most of what is known before training begins

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(received(state))

    def preconditioner(
        self, batch_size: int, centered: bool = True, unbounded: bool = False
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return ``scale``, ``center`` and the mean squared row norm they lead to.

        Dense: ``scale_j`` is the inverse variance; sparse: the inverse mean square of the stored values,
        so that an indicator keeps the step of its own rows however rare it is. Either is bounded such
        that the farthest value of a feature alone cannot make a mini-batch step unstable:
        ``scale_j * reach_j^2 <= batch_size * norm``, and where slopes are not bounded, ``<= 12 norm``, twice
        that for sparse rows.

        Parameters
        ----------
        batch_size : int
            Rows of a step.
        centered : bool
            Whether dense features may be centred; not without an intercept to take the shift.
        unbounded : bool
            Whether the slope of the loss grows with the distance.

        Returns
        -------
        scale, center : ndarray of shape (width,)
        mean_square_norm : float
            Weighted mean of ``1 + sum_j scale_j (x_ij - center_j)^2``.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            center = self.mean if centered else np.zeros_like(self.mean)
            deviation = self.deviation + self.weight * (self.mean - center) ** 2
            variance = np.where(self.present > 0, deviation / self.present, 0.0)
            # What is left of a constant after rounding is not a variance.
            low, high = self.low.astype(np.float64), self.high.astype(np.float64)
            noise = (np.finfo(np.float32).eps * np.maximum(abs(low), abs(high))) ** 2
            moving = (variance > noise) if not self.sparse else (variance > 0)
            scale = np.where(moving, 1.0 / np.where(moving, variance, 1.0), 0.0)
            reach = np.maximum(abs(high - center), abs(low - center))
            farthest = min(batch_size, (2 if self.sparse else 1) * FARTHEST) if unbounded else batch_size
            bound = np.where(moving, farthest / np.where(reach > 0, reach, 1.0) ** 2, 0.0)
        # Here and below not by BLAS, whose threads wait for more work, and take the time of the learners.
        norm = 1.0 + float((scale * deviation).sum()) / self.weight
        for _ in range(BOUND_ITERATIONS):  # the bound lowers the norm, which lowers the bound
            bounded = np.minimum(scale, bound * norm)
            if np.array_equal(bounded, scale):
                break
            scale = bounded
            norm = 1.0 + float((scale * deviation).sum()) / self.weight
        return scale, center, norm

    def steepness(self, scale: np.ndarray, center: np.ndarray, among: Places | None = None) -> float:
        """Return how fast the slope of a loss of curvature 1 changes along its steepest direction.

        An estimate of the largest eigenvalue of the mean of ``z_i z_i'`` with ``z_i = (1, sqrt(scale) (x_i -
        center))``. Rows that all lie on one side of the centre, as in a partition of sorted rows, are steep.

        Parameters
        ----------
        scale, center : ndarray of shape (n_features,)
            From `preconditioner`, perhaps of other rows.
        among : Places, optional
            Of the columns of these; those of these rows where None.
        """
        if not self.weight > 0:
            return 0.0
        if among is not None:
            own = among.of(self.columns)
            scale, center = scale[own], center[own]
        spread = scale * self.deviation / self.weight
        # At least the largest variance; a bound that nothing exceeds would make rare features look steep.
        within = max(self.alignment * float(spread.sum()), float(spread.max(initial=0.0)))
        offset = 0.0 if self.sparse else float((scale * (self.mean - center) ** 2).sum())
        total = 1.0 + offset + within
        return (total + math.sqrt(max(total**2 - 4.0 * within, 0.0))) / 2.0

    def over(self, columns: np.ndarray | None) -> Moments:
        """Return the same moments, described for other columns, these among them."""
        if columns is self.columns or self.columns is None:
            return self
        names = "mean", "deviation", "low", "high", "present"
        known = np.stack([getattr(self, name) for name in names])
        wide = spread(known, self.columns, columns, self.n_features)
        return replace(self, columns=columns, **dict(zip(names, wide, strict=True)))

    def times(self, rows: int, factor: float) -> Moments:
        """Return the moments of ``rows`` rows like these, ``factor`` times as many."""
        return replace(
            self,
            rows=rows,
            weight=factor * self.weight,
            deviation=factor * self.deviation,
            present=factor * self.present,
            stored=factor * self.stored,
            weight_square=factor * self.weight_square,
        )

    @property
    def mean_square_norm(self) -> float:
        """Mean of ``weight_i (1 + |x_i|^2)`` over the rows."""
        squares = self.weight * self.mean**2 + self.deviation
        return float((self.weight + squares.sum()) / self.rows)


def measure(X: Any, weights: np.ndarray) -> Moments:
    """Return the moments of the rows of X.

    Raises
    ------
    ValueError
        Where X holds NaN or infinity.
    """
    n_features, columns = X.shape[1], None
    if sp.issparse(X):
        columns = stored_columns(X)
        X = X if columns is None else narrowed(X, columns)
    n_rows, width = X.shape
    sums = np.zeros((3, width))
    # In the dtype of the rows, of which they are some: less to convert, and to send.
    low, high = np.full(width, np.inf, X.dtype), np.full(width, -np.inf, X.dtype)
    if sp.issparse(X):
        parts = as_input(X.data), as_input(X.indices), as_input(X.indptr)
        _sparse_sums(*parts, as_input(weights), sums[1], sums[2], low, high)
        values = float(X.nnz)
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    else:
        pivot = X[0].astype(np.float64) if n_rows else np.zeros(width)
        _dense_sums(as_input(X), pivot, as_input(weights), sums, low, high)
        values = float(n_rows) * width
    weight = float(weights.sum(dtype=np.float64))
    if not (np.isfinite(sums).all() and np.isfinite(weight)):
        refuse_infinite(X, weights, columns)
        raise ValueError("The values of X are too large to be squared. Scale them down.")
    if sp.issparse(X):
        mean, deviation, present = np.zeros(width), sums[1], sums[2]
    else:
        share = sums[0] / weight if weight > 0 else np.zeros(width)
        mean, deviation = pivot + share, np.maximum(sums[1] - weight * share**2, 0.0)
        present = np.full(width, weight)
    return Moments(
        rows=n_rows,
        weight=weight,
        n_features=n_features,
        columns=columns,
        mean=mean,
        deviation=deviation,
        low=low,
        high=high,
        present=present,
        sparse=sp.issparse(X),
        stored=values,
        heaviest=float(weights.max(initial=0.0)),
        weight_square=float(np.vdot(weights, weights)),
        alignment=_alignment(X, mean, deviation, present),
    )


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


def _alignment(X: Any, mean: np.ndarray, deviation: np.ndarray, present: np.ndarray) -> float:
    """Estimate the largest eigenvalue of the scaled second moments, as a share of their trace."""
    chosen = np.linspace(0, X.shape[0] - 1, min(X.shape[0], ALIGNMENT_ROWS)).astype(int)
    moving = (deviation > 0) & (present > 0)
    if len(chosen) < 2 or not moving.any():
        return 1.0
    factor = np.sqrt(np.where(moving, present, 0.0) / np.where(moving, deviation, 1.0))
    rows = X[chosen]
    rows = rows.multiply(factor).tocsr() if sp.issparse(rows) else (rows - mean) * factor
    squares = float(rows.power(2).sum()) if sp.issparse(rows) else float(np.vdot(rows, rows))
    if squares == 0.0:
        return 1.0
    rows = rows / math.sqrt(squares)  # the eigenvalues then add up to 1, and no power of them is out of range
    # Any start will do that is not likely to be orthogonal to the direction sought.
    direction = before = np.ones(rows.shape[0]) + np.arange(rows.shape[0]) % 2
    across = rows.T
    for _ in range(POWER_ITERATIONS):
        before, direction = direction, rows @ (across @ direction)
    length = float(np.linalg.norm(before))
    return min(1.0, float(np.linalg.norm(direction)) / length) if length > 0 else 1.0


def combine(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all rows together (Chan, Golub and LeVeque, 1983)."""
    if len(parts) == 1:
        return parts[0]
    total = sum(part.weight for part in parts)
    divisor = total if total > 0 else 1.0
    columns = union([part.columns for part in parts])
    among = Places(columns)
    own = [among.of(part.columns) for part in parts]
    width = parts[0].n_features if columns is None else len(columns)
    mean, deviation, present = np.zeros((3, width))
    # What a part does not store is zero in it: nothing to add, and within its bounds.
    sparse, dtype = parts[0].sparse, np.result_type(*(part.low for part in parts))
    low, high = (
        np.full(width, 0 if sparse else np.inf, dtype),
        np.full(width, 0 if sparse else -np.inf, dtype),
    )
    for part, at in zip(parts, own, strict=True):
        mean[at] += part.weight * part.mean
    mean /= divisor
    for part, at in zip(parts, own, strict=True):
        deviation[at] += part.deviation + part.weight * (part.mean - mean[at]) ** 2
        present[at] += part.present
        low[at], high[at] = np.minimum(low[at], part.low), np.maximum(high[at], part.high)
    return Moments(
        rows=sum(part.rows for part in parts),
        weight=total,
        n_features=parts[0].n_features,
        columns=columns,
        mean=mean,
        deviation=deviation,
        low=low,
        high=high,
        present=present,
        sparse=sparse,
        stored=sum(part.stored for part in parts),
        heaviest=max(part.heaviest for part in parts),
        weight_square=sum(part.weight_square for part in parts),
        alignment=_combined_alignment(parts, own, deviation),
    )


def _combined_alignment(parts: Sequence[Moments], own: Sequence[Any], deviation: np.ndarray) -> float:
    """Bound the alignment of all rows: what lies between the parts may all lie in one direction."""
    inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    total = np.count_nonzero(inverse)
    shares = [float((part.deviation * inverse[at]).sum()) for part, at in zip(parts, own, strict=True)]
    within = sum(part.alignment * share for part, share in zip(parts, shares, strict=True))
    return min(1.0, (within + max(total - sum(shares), 0.0)) / total) if total else 1.0


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
def _sparse_sums(data, indices, indptr, weights, squares, present, low, high):
    for i in range(len(indptr) - 1):
        weight = weights[i]
        for p in stored(indptr, i):
            j = np.uintp(indices[p])
            value = data[p]
            squares[j] += weight * value * value
            present[j] += weight
            low[j] = min(low[j], value)
            high[j] = max(high[j], value)
