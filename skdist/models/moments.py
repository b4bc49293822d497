"""First and second moments of the features, added up over partitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skdist.models.columns import Places, spread, union
from skdist.models.compact import received, sent

#: The farthest value of a feature may have so many times the mean squared norm, where slopes are not bounded:
#: the step of `skdist.control.schedules.AutoRate`, b/8 over that norm, is then stable for it (1.5 < 2).
FARTHEST = 12

#: Rounds of bounding scales and norm by one another; the norm only falls, and settles within a few.
BOUND_ITERATIONS = 10


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
