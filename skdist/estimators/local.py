"""Rows in memory: given as they are, trained on in this process or on a simulated cluster."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np

from skdist.checkpoint import Checkpoint
from skdist.estimators.inputs import about_validation_rows
from skdist.estimators.plan import Plan
from skdist.fitting import FitResult, FitSettings
from skdist.inline import train_inline
from skdist.models.model import Model
from skdist.models.partition import Partition
from skdist.models.validation import ALL_ROWS
from skdist.observers import Observers
from skdist.simulator import SimulatedCluster

#: X, y and sample weights.
Rows = tuple[Any, Any, Any]

#: Partitions per thread when training in this process on several threads.
PARTITIONS_PER_THREAD = 4


def validation_rows(X_val: Any, y_val: Any, sample_weight_val: Any) -> Rows | None:
    """Return the validation rows that `fit` was given, if any.

    Raises
    ------
    ValueError
        Where there is one of X and y without the other.
    """
    if (X_val is None) != (y_val is None) or (X_val is None and sample_weight_val is not None):
        raise ValueError("X_val and y_val belong together: pass both, or neither and no sample_weight_val.")
    return None if X_val is None else (X_val, y_val, sample_weight_val)


def train_in_process(
    X: Any,
    y: np.ndarray,
    sample_weight: Any,
    plan: Plan,
    settings: FitSettings,
    n_jobs: int | None,
    observers: Observers,
    validation: Rows | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Train on validated rows in memory, on threads of this process."""
    if n_jobs == 0:
        raise ValueError("n_jobs=0 has no meaning: give the number of threads, or -1 for all processors.")
    threads = 1 if n_jobs is None else n_jobs if n_jobs > 0 else max((os.cpu_count() or 1) + 1 + n_jobs, 1)
    count = 1 if threads == 1 else threads * PARTITIONS_PER_THREAD
    rows, plan.alone = (X, y, sample_weight), threads == 1
    model, partitions, state, clock = _prepare(rows, plan, settings, count, threads, observers, validation)
    if checkpoint is not None:
        checkpoint.begin(model, plan.classes, [part.n_rows for part in partitions], settings.max_iter)
    return train_inline(model, partitions, settings, state, threads, clock, observers, checkpoint)


def train_simulated(
    cluster: SimulatedCluster,
    X: Any,
    y: np.ndarray,
    sample_weight: Any,
    plan: Plan,
    settings: FitSettings,
    observers: Observers,
    validation: Rows | None = None,
) -> FitResult:
    """Train on validated rows in memory, on a simulated cluster."""
    count = cluster.n_learners * cluster.partitions_per_learner
    rows, n_learners = (X, y, sample_weight), cluster.n_learners
    prepared = _prepare(rows, plan, settings, count, n_learners, observers, validation)
    return cluster.train(*prepared, settings, observers)


def _prepare(
    rows: Rows,
    plan: Plan,
    settings: FitSettings,
    count: int,
    n_learners: int,
    observers: Observers,
    validation: Rows | None,
) -> tuple[Model, list[Partition], np.ndarray, float]:
    """Return the model, rows in ``count`` partitions, the first state and its clock."""
    whole = plan.intake.convert(*rows)
    if settings.hold_out is not None:
        whole = settings.hold_out.split(whole, 0)
    given = [ALL_ROWS.split(plan.intake.convert(*validation), 0)] if validation is not None else []
    n_rows = whole.X.shape[0]
    edges = np.linspace(0, n_rows, min(count, n_rows) + 1).astype(int)
    parts = [whole.part(a, b) for a, b in itertools.pairwise(edges)] if count > 1 else [whole]
    measure = plan.intake.summarize
    summaries = [measure(part) for part in parts]
    with about_validation_rows():
        validations = [measure(part) for part in given]
    model, state, clock = plan.build(summaries, validations, n_learners)
    observers.here(model, given or [whole.globally(plan.classes)], plan.classes)
    return model, [model.accept(part, plan.classes) for part in parts], state, clock
