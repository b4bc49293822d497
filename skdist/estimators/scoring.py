"""Scores of Dask collections, computed where the data is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from skdist.estimators.routing import is_collection
from skdist.models.partition import as_numbers
from skdist.models.targets import Numbers, combine_numbers, measure_numbers


def score_on_collections(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float:
    """Return the mean accuracy of a classifier, R^2 of a regressor."""
    import dask

    from skdist.cluster.source import aligned_blocks

    def compute(*values: Any) -> Any:
        client = estimator.client
        return dask.compute(*values) if client is None else client.gather(client.compute(values))

    measure: Any = hits if hasattr(estimator, "classes_") else squares
    conclude: Any = accuracy if measure is hits else explained
    predicted = estimator.predict(X)
    if not is_collection(X):  # so that one column more fits into memory too
        return float(conclude([measure(predicted, *compute(y, sample_weight))]))
    blocks = [list(predicted.to_delayed().ravel()), aligned_blocks("y", y, X)]
    if sample_weight is not None:
        blocks.append(aligned_blocks("sample_weight", sample_weight, X))
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
    error, targets = sum(part for part, _ in parts), combine_numbers([numbers for _, numbers in parts])
    if targets.deviation == 0.0:
        return 1.0 if error == 0.0 else 0.0  # as scikit-learn has it
    return 1.0 - error / targets.deviation


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
