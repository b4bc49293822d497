"""Scores of Dask collections, computed where the data is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from skdist.estimators.routing import is_collection
from skdist.models.partition import as_numbers
from skdist.models.targets import Numbers, combine_numbers, measure_numbers


def score_on_collections(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float:
    """Return the mean accuracy of a classifier, R^2 of a regressor."""
    import dask

    from skdist.cluster.source import aligned, blocks_of

    compute = partial(dask.compute, scheduler=estimator.client)  # inside a task it gives its thread away
    measure: Any = hits if hasattr(estimator, "classes_") else squares
    conclude: Any = accuracy if measure is hits else explained
    predicted = estimator.predict(X)
    if not is_collection(X):  # so that one column more fits into memory too
        return float(conclude([measure(predicted, *compute(y, sample_weight))]))
    together = [predicted, aligned("y", y, X)]
    if sample_weight is not None:
        together.append(aligned("sample_weight", sample_weight, X))
    blocks = blocks_of(together)
    work = dask.delayed(measure, pure=True)
    return float(conclude(compute(*itertools.starmap(work, zip(*blocks, strict=True)))))


def hits(predicted: Any, truth: Any, weights: Any = None) -> np.ndarray:
    """Return the weight of the rows that are right, and that of all."""
    predicted, truth, factor = _aligned(predicted, truth, weights)
    if _is_text(truth) != _is_text(predicted):
        raise ValueError(
            f"Mix of label input types (string and number): the classes are {predicted.dtype}, y is "
            f"{truth.dtype}. Convert y to the type that the classifier was fitted with."
        )
    return np.array([float(factor @ (predicted == truth)), float(factor.sum())])


def accuracy(parts: Sequence[np.ndarray]) -> float:
    """Return the share of the weight that is right."""
    right, weight = np.sum(parts, axis=0)
    return float(right / weight)


def squares(predicted: Any, truth: Any, weights: Any = None) -> tuple[float, Numbers]:
    """Return the weighted squared error, and the spread of the targets."""
    predicted, truth, factor = _aligned(predicted, truth, weights)
    numbers = as_numbers(truth, np.dtype(np.float64))
    return float(factor @ (numbers - predicted) ** 2), measure_numbers(numbers, factor)


def explained(parts: Sequence[tuple[float, Numbers]]) -> float:
    """Return the share of the variance that is explained."""
    return combine_numbers([numbers for _, numbers in parts]).explained(sum(part for part, _ in parts))


def _aligned(predicted: Any, truth: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = np.asarray(truth).ravel()
    if len(predicted) != len(truth):
        raise ValueError(f"X and y have different lengths: {len(predicted)} rows of X, {len(truth)} of y.")
    factor = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=float).ravel()
    return np.asarray(predicted), truth, factor


def _is_text(labels: np.ndarray) -> bool:
    if labels.dtype.kind == "O" and len(labels):
        return isinstance(labels[0], str)
    return labels.dtype.kind in "US"
