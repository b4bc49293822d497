"""From measured partitions to a model: classes, moments, mini-batch, step size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skdist.control.schedules import CONSTANT, AutoRate, Schedule, label_spread, named_schedule
from skdist.models.linear import LinearModel, sweep_interval
from skdist.models.losses import LOSSES
from skdist.models.moments import Moments, combine, measure
from skdist.models.partition import Partition
from skdist.models.validation import BLOCK_ROWS, SplitSummary, summarize_split


@dataclass(frozen=True)
class Summary:
    """What the driver needs to know of a partition: everything but its rows.

    Attributes
    ----------
    moments : Moments
        Of the features.
    labels : ndarray
        The classes present.
    class_weights : ndarray
        Sum of the sample weights of each of them.
    dtype : dtype
        Of the rows.
    nbytes : int
        Size of the rows.
    worker : str
        Address of the worker that holds it; '' in this process.
    split : SplitSummary or None
        Where rows are held out, of which the rest knows nothing.
    """

    moments: Moments
    labels: np.ndarray
    class_weights: np.ndarray
    dtype: np.dtype
    nbytes: int
    worker: str = ""
    split: SplitSummary | None = None


def summarize(partition: Partition, worker: str = "") -> Summary:
    """Measure a partition, in one read of its rows.

    Raises
    ------
    ValueError
        Where X or the weights hold NaN or infinity.
    """
    split: SplitSummary | None = None
    rows: Any = np.s_[:]
    if partition.training is not None:
        split = summarize_split(partition)
        rows = partition.training
        _measure_rows(partition, partition.held_out)  # may hold NaN too
    moments = _measure_rows(partition, partition.training)
    weights = np.bincount(partition.codes[rows], partition.weights[rows], len(partition.labels))
    dtype, nbytes = partition.X.dtype, partition.nbytes
    return Summary(moments, partition.labels, weights, dtype, nbytes, worker, split)


def _measure_rows(partition: Partition, rows: np.ndarray | None) -> Moments:
    """Return the moments of some rows, all where None, of which no large copy is made."""
    if rows is None:
        return measure(partition.X, partition.weights)
    blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, max(len(rows), 1), BLOCK_ROWS)]
    return combine([measure(partition.X[block], partition.weights[block]) for block in blocks])


def find_classes(summaries: Sequence[Summary]) -> np.ndarray:
    """Return the sorted classes of all partitions."""
    return np.unique(np.concatenate([summary.labels for summary in summaries if summary.moments.rows]))


def weigh_classes(summaries: Sequence[Summary], classes: np.ndarray) -> np.ndarray:
    """Return the sum of the sample weights of each class."""
    weights = np.zeros(len(classes))
    for summary in summaries:
        weights[np.searchsorted(classes, summary.labels)] += summary.class_weights
    return weights


def automatic_batch_size(n_rows: int) -> int:
    """Return the rows of a step for ``batch_size='auto'``.

    64 rows of moderate width sit in the first cache between the two looks a step takes at them; small
    data gets shorter steps, so that a pass still makes a few hundred.
    """
    return int(min(max(n_rows // 256, 1), 64))


def build_model(
    moments: Moments,
    class_weights: np.ndarray,
    dtype: np.dtype,
    *,
    loss: str,
    alpha: float,
    fit_intercept: bool,
    batch_size: str | int,
    learning_rate: str | AutoRate,
    eta0: float,
    power_t: float,
    average: bool | int,
    shuffle: bool,
    seed: int,
) -> LinearModel:
    """Return the model for rows with these moments; parameters as in `DistributedSGDClassifier`.

    ``class_weights`` is the sum of the sample weights of each class.
    """
    if moments.weight <= 0:
        raise ValueError("The sum of sample_weight must be positive.")
    batch = automatic_batch_size(moments.rows) if batch_size == "auto" else int(batch_size)
    n_features = len(moments.mean)
    scale, center = np.ones(n_features), np.zeros(n_features)
    if isinstance(learning_rate, AutoRate):
        scale, center, norm = moments.preconditioner(batch, centered=fit_intercept)
        weights = moments.weight / moments.rows, moments.weight_square / moments.rows, moments.heaviest
        spread = label_spread(class_weights) if LOSSES[loss].probabilities else 1.0
        step = learning_rate.step_size(
            LOSSES[loss].curvature, norm, moments.alignment, batch, weights, spread, moments.sparse
        )
        schedule = Schedule(CONSTANT, step, adaptive=True, average_from=0.0)
    else:
        # scikit-learn counts rows before averaging starts, steps here are mini-batches.
        begin = (int(average) - 1) / batch if average else np.inf
        schedule = named_schedule(learning_rate, eta0=eta0, power_t=power_t, alpha=alpha, average_from=begin)
    with np.errstate(over="ignore"):
        narrow = scale.astype(dtype)
    if not np.array_equal(narrow > 0, scale > 0) or not np.isfinite(narrow).all():
        column = int(np.flatnonzero((narrow == 0) != (scale == 0) | ~np.isfinite(narrow))[0])
        raise ValueError(
            f"The values of X are too large or too small for {np.dtype(dtype)} (column {column}). "
            "Scale them, or pass float64."
        )
    return LinearModel(
        loss=loss,
        n_classes=len(class_weights),
        n_features=n_features,
        alpha=float(alpha),
        fit_intercept=bool(fit_intercept),
        batch_size=batch,
        schedule=schedule,
        scale=narrow,
        center=center.astype(dtype),
        dtype=dtype,
        sparse=moments.sparse,
        sweep=sweep_interval(moments, batch) if moments.sparse else 1,
        shuffle=shuffle,
        seed=seed,
    )
