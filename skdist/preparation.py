"""From measured partitions to a model: moments, mini-batch, step size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skdist.control.schedules import (
    CONSTANT_PASSES,
    CONSTANT_STEPS,
    LATE_DECAY,
    LEAST_PASSES,
    AutoRate,
    Schedule,
    named_schedule,
)
from skdist.models.columns import Places
from skdist.models.compile import as_input
from skdist.models.linear import LinearModel, sweep_interval
from skdist.models.losses import LOSSES
from skdist.models.measuring import measure
from skdist.models.moments import Moments, combine
from skdist.models.partition import Partition
from skdist.models.targets import Classes, Targets, measure_targets
from skdist.models.validation import BLOCK_ROWS, SplitSummary, summarize_split

#: Least unit of the loss of a classification, for classes of which there is next to nothing.
LEAST_UNIT = 1e-3

#: Bounds a row's part of a penalty where its weight is next to nothing.
MOST_SHARE = 1e30


@dataclass(frozen=True)
class Summary:
    """What the driver needs to know of a partition: everything but its rows.

    Attributes
    ----------
    rows : int
        Rows to train on.
    shape : tuple of int
        Of a row.
    targets : Classes, Numbers or None
        Of its rows; None where other partitions stand for this one.
    dtype : dtype
        Of the rows.
    nbytes : int
        Size of the rows.
    worker : str
        Address of the worker that holds it; '' in this process.
    split : SplitSummary or None
        Where rows are held out, of which the rest knows nothing.
    moments : Moments or None
        Of the features, where they are measured.
    """

    rows: int
    shape: tuple[int, ...]
    targets: Targets | None
    dtype: np.dtype
    nbytes: int
    worker: str = ""
    split: SplitSummary | None = None
    moments: Moments | None = None


def summarize(partition: Partition, worker: str = "") -> Summary:
    """Measure a partition, in one read of its rows.

    Raises
    ------
    ValueError
        Where X or the weights hold NaN or infinity.
    """
    split: SplitSummary | None = None
    if partition.training is not None:
        split = summarize_split(partition)
        _measure_rows(partition, partition.held_out)  # may hold NaN too
    moments = _measure_rows(partition, partition.training)
    dtype, nbytes, shape = partition.X.dtype, partition.nbytes, partition.X.shape[1:]
    return Summary(partition.n_rows, shape, measure_targets(partition), dtype, nbytes, worker, split, moments)


def _measure_rows(partition: Partition, rows: np.ndarray | None) -> Moments:
    """Return the moments of some rows, all where None, of which no large copy is made."""
    if rows is None:
        return measure(partition.X, partition.weights)
    blocks = [rows[start : start + BLOCK_ROWS] for start in range(0, max(len(rows), 1), BLOCK_ROWS)]
    return combine([measure(partition.X[block], partition.weights[block]) for block in blocks])


def _weights_of(moments: Moments) -> tuple[float, float, float]:
    """Return mean, mean square and maximum of the sample weights."""
    return moments.weight / moments.rows, moments.weight_square / moments.rows, moments.heaviest


def _penalty_shares(moments: Moments, dtype: np.dtype) -> np.ndarray:
    """Return the part of a feature's penalty that rows which store it take, by their weight."""
    shares = np.divide(
        moments.rows, moments.present, out=np.zeros_like(moments.present), where=moments.present > 0
    )
    return as_input(np.minimum(shares, MOST_SHARE).astype(dtype))


def automatic_batch_size(n_rows: int) -> int:
    """Return the rows of a step for ``batch_size='auto'``.

    64 rows of moderate width sit in the first cache between the two looks a step takes at them; small
    data gets shorter steps, so that a pass still makes a few hundred. With steps below 8 rows it would make
    more of them without getting further: it is their noise that bounds those (`AutoRate`).
    """
    return int(min(max(n_rows // 256, 8), 64))


def build_model(
    moments: Moments,
    targets: Targets,
    dtype: np.dtype,
    *,
    loss: str,
    epsilon: float,
    penalty: str | None,
    alpha: float,
    l1_ratio: float,
    class_weight: Any,
    fit_intercept: bool,
    batch_size: str | int,
    learning_rate: str | AutoRate,
    eta0: float,
    power_t: float,
    average: bool | int,
    shuffle: bool,
    seed: int,
    parts: Sequence[Moments] = (),
    n_learners: int = 1,
) -> LinearModel:
    """Return the model for rows with these moments and targets.

    ``parts`` are the moments of the partitions to train on, none where they are like all rows, and
    ``n_learners`` is how many there are when training starts. Other parameters as in
    `DistributedSGDClassifier`; ``loss`` is a key of `LOSSES`.
    """
    if moments.weight <= 0:
        raise ValueError("The sum of sample_weight must be positive.")
    if not 0 < moments.weight_square < np.inf:
        raise ValueError(
            "The squares of sample_weight vanish or overflow. Scale the weights, for example to a mean of 1."
        )
    if batch_size == "auto":
        # The passive-aggressive step is one of a single row.
        batch = 1 if learning_rate in ("pa1", "pa2") else automatic_batch_size(moments.rows)
    else:
        batch = int(batch_size)
    width = len(moments.mean)
    kind = LOSSES[loss]
    scale, center, norm = moments.preconditioner(batch, centered=fit_intercept, unbounded=kind.unbounded)
    steep = moments.steepness(scale, center)
    # Where far values bound the scales, the intercept is what is steepest.
    alignment = max(moments.alignment, steep / norm)
    factors = targets.factors(class_weight) if isinstance(targets, Classes) else np.zeros(0)
    ratio = {"l1": 1.0, "elasticnet": l1_ratio}.get(str(penalty), 0.0)
    strength = 0.0 if penalty is None else float(alpha)
    weights, spread, unit = [_weights_of(moments)], 1.0, 1.0
    if isinstance(targets, Classes):
        weights = targets.weight_moments(factors, len(targets.labels) > 2 and not kind.joint)
        if not all(mean > 0 for mean, _, _ in weights):
            raise ValueError(
                f"class_weight={class_weight!r} leaves rows no weight. Give some classes more than 0."
            )
        spread = targets.spread(factors) if kind.probabilities else 1.0
        loss_of_none = max(targets.entropy(factors, kind.joint), LEAST_UNIT)
        curvature = kind.curvature_for(1.0, epsilon)
    else:
        curvature = kind.curvature_for(targets.spread, epsilon)
        loss_of_none = kind.of_mean(targets.spread, epsilon) or 1.0  # a loss that is always zero has none
    # The largest step along the gradient of all rows that no direction can make unstable.
    whole = scale / (curvature * spread * norm * alignment * max(mean for mean, _, _ in weights))
    if isinstance(learning_rate, AutoRate):
        # A learner is with one partition for many steps: they must be stable on the rows of each.
        among = Places(moments.columns)
        steepest = max(
            # The only step of a partition that is shorter than a batch is scaled by its size.
            (p.weight / max(p.rows, batch) * p.steepness(scale, center, among) for p in parts),
            default=0.0,
        )
        steepness = max(steepest * moments.rows / (moments.weight * steep), 1.0)
        several = isinstance(targets, Classes) and len(targets.labels) > 2
        step = min(
            learning_rate.step_size(
                curvature, norm, alignment, batch, w, spread, moments.sparse, steepness, several
            )
            for w in weights
        )
        passes = max(CONSTANT_PASSES / n_learners, LEAST_PASSES)
        until = max(passes * moments.rows / batch, CONSTANT_STEPS)
        schedule = Schedule(LATE_DECAY, step, until, adaptive=True, average_from=0.0)
        # Where rates are automatic, so is the unit of the loss.
        unit = loss_of_none * sum(mean for mean, _, _ in weights) / len(weights)
    else:
        scale, center = np.ones(width), np.zeros(width)
        # scikit-learn counts rows before averaging starts, steps here are mini-batches.
        begin = (int(average) - 1) / batch if average else np.inf
        heaviest = max(factors, default=1.0)
        steepest = heaviest * curvature * max(part.mean_square_norm for part in parts or [moments])
        schedule = named_schedule(
            learning_rate,
            eta0=eta0,
            power_t=power_t,
            alpha=alpha,
            average_from=begin,
            longest=1 / steepest if kind.unbounded else np.inf,
        )
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
        n_classes=len(targets.labels) if isinstance(targets, Classes) else 0,
        n_features=moments.n_features,
        columns=moments.columns,
        l1=strength * ratio,
        l2=strength * (1.0 - ratio),
        epsilon=float(epsilon),
        class_weights=as_input(factors),
        loss_unit=unit,
        final_pace=whole.astype(dtype) if strength * ratio > 0 else np.zeros(0, dtype),
        fit_intercept=bool(fit_intercept),
        batch_size=batch,
        schedule=schedule,
        scale=as_input(narrow),
        center=as_input(center.astype(dtype)),
        dtype=dtype,
        sparse=moments.sparse,
        share=_penalty_shares(moments, dtype) if moments.sparse else np.zeros(0, dtype),
        sweep=sweep_interval(moments, batch) if moments.sparse else 1,
        shuffle=shuffle,
        seed=seed,
    )
