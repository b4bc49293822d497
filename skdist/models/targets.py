"""What the driver needs to know of the targets: measured per partition, added up over all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import xlogy
from sklearn.utils.class_weight import compute_class_weight

from skdist.models.compile import as_input, kernel
from skdist.models.partition import Partition


@dataclass(frozen=True)
class Classes:
    """The classes of some rows, and the sample weights of their rows.

    Attributes
    ----------
    labels : ndarray of shape (n_classes,)
        Sorted.
    rows : ndarray of shape (n_classes,)
        Rows of each class.
    weights, squares, heaviest : ndarray of shape (n_classes,)
        Sum, sum of squares and maximum of their sample weights.
    """

    labels: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    squares: np.ndarray
    heaviest: np.ndarray

    def factors(self, class_weight: str | Mapping[Any, float] | None) -> np.ndarray:
        """Return the factor of each class, none for None; ``'balanced'`` counts rows, as scikit-learn does.

        Raises
        ------
        ValueError
            Where ``class_weight`` names labels that are no class.
        """
        if class_weight is None:
            return np.zeros(0)
        if isinstance(class_weight, str):  # 'balanced'
            return np.asarray(self.rows.sum() / (len(self.labels) * np.maximum(self.rows, 1)), dtype=float)
        factors = compute_class_weight(dict(class_weight), classes=self.labels, y=self.labels)
        return np.asarray(factors, dtype=float)

    def weight_moments(self, factors: np.ndarray, one_against_rest: bool) -> list[tuple[float, float, float]]:
        """Return mean, mean square and maximum of the weights of each problem that differs from others.

        One against the rest weighs the rows of a problem's own class; else those of all classes.
        """
        n_rows, own = max(float(self.rows.sum()), 1.0), np.eye(len(self.labels), dtype=bool)
        if not len(factors):
            sets = [np.ones(len(self.labels))]
        elif one_against_rest:
            sets = [np.where(row, factors, 1.0) for row in own]
        else:
            sets = [factors]
        return [
            (
                float(f @ self.weights) / n_rows,
                float(f**2 @ self.squares) / n_rows,
                float(np.max(f * self.heaviest)),
            )
            for f in sets
        ]

    def spread(self, factors: np.ndarray) -> float:
        """Return which share of the largest curvature of the log-loss the labels leave, in (0, 1].

        The curvature is ``p (1 - p)``, at most 1/4. If the probabilities are right on average, its mean is at
        most ``q (1 - q)`` with the frequency ``q`` of the class. Returned is the mean of ``4 q (1 - q)`` over
        the rows, each with its own class, and at least 1/4, since rare labels matter most where they are
        undecided; of several classes, each of which may be rare, at least 1/16.
        """
        shares = self._shares(factors)
        return max(float(shares @ (4 * shares * (1 - shares))), 1 / 4 if len(shares) == 2 else 1 / 16)

    def entropy(self, factors: np.ndarray, joint: bool) -> float:
        """Return the log-loss of predicting the frequencies, in units of that of a fair coin.

        Of each class against the rest, the mean over the problems; where they have one loss together, that of
        all of them, and at most 1.
        """
        shares = self._shares(factors)
        own = xlogy(shares, shares)
        if joint:
            return min(float(-own.sum()) / math.log(2), 1.0)
        return float(-(own + xlogy(1 - shares, 1 - shares)).mean()) / math.log(2)

    def log_odds(self, factors: np.ndarray, joint: bool) -> np.ndarray:
        """Return the intercepts that predict the frequencies, of shape (n_problems,).

        Of two classes that of the second one; of several that of each against the rest, which weighs the rows
        of its own class, or where they have one loss together, of each. A class without rows counts as half a
        row.
        """
        own = self.weights * factors if len(factors) else self.weights
        least = 0.5 * self.weights.sum() / max(self.rows.sum(), 1)
        if joint:
            rest = np.full(len(own), own.sum())
        elif len(own) == 2:
            own, rest = own[1:], own[:1]
        else:
            rest = self.weights.sum() - self.weights
        return np.asarray(np.log(np.maximum(own, least) / np.maximum(rest, least)))

    def _shares(self, factors: np.ndarray) -> np.ndarray:
        """Return the share of each class in the weights."""
        weights = self.weights * factors if len(factors) else self.weights
        return np.asarray(weights / max(weights.sum(), np.finfo(float).tiny))

    def times(self, factor: float) -> Classes:
        """Return those of ``factor`` times as many rows like these."""
        rows = np.rint(factor * self.rows).astype(np.int64)
        return replace(self, rows=rows, weights=factor * self.weights, squares=factor * self.squares)


@dataclass(frozen=True)
class Numbers:
    """The targets of a regression.

    Attributes
    ----------
    weight : float
        Sum of the sample weights.
    mean, deviation : float
        Weighted mean, and sum of weighted squared deviations from it.
    """

    weight: float
    mean: float
    deviation: float

    def times(self, factor: float) -> Numbers:
        """Return those of ``factor`` times as many rows like these."""
        return replace(self, weight=factor * self.weight, deviation=factor * self.deviation)

    @property
    def spread(self) -> float:
        """Standard deviation; 1 where there is none."""
        variance = self.deviation / self.weight if self.weight > 0 else 0.0
        return float(np.sqrt(variance)) if variance > 0 else 1.0

    def explained(self, error: float) -> float:
        """Return R^2: the share of the deviation that is left out of a sum of squared errors."""
        if self.deviation == 0.0:
            return 1.0 if error == 0.0 else 0.0  # as scikit-learn has it
        return 1.0 - error / self.deviation


Targets = Classes | Numbers


def measure_targets(partition: Partition) -> Targets:
    """Return what is to be known of the targets of the rows to train on."""
    targets, weights = partition.targets, partition.weights
    if partition.training is not None:
        targets, weights = targets[partition.training], weights[partition.training]
    if partition.labels is None:
        return measure_numbers(targets, weights.astype(np.float64, copy=False))
    count = len(partition.labels)
    rows, sums = np.zeros(count, dtype=np.int64), np.zeros((3, count))
    _add_up_classes(as_input(targets), as_input(weights), rows, *sums)
    return Classes(partition.labels, rows, *sums)


@kernel
def _add_up_classes(
    targets: np.ndarray, weights: np.ndarray, rows: np.ndarray, total: np.ndarray, squares: np.ndarray,
    heaviest: np.ndarray,
) -> None:  # fmt: skip
    for i in range(len(targets)):
        k, weight = targets[i], np.float64(weights[i])
        rows[k] += 1
        total[k] += weight
        squares[k] += weight * weight
        # Written so that a NaN stays one.
        heaviest[k] = heaviest[k] if weight <= heaviest[k] else weight


def measure_numbers(targets: np.ndarray, weights: np.ndarray) -> Numbers:
    """Return what is to be known of the targets of a regression."""
    total = float(weights.sum())
    mean = float(weights @ targets) / total if total > 0 else 0.0
    return Numbers(total, mean, float(weights @ (targets - mean) ** 2))


def combine_classes(parts: Sequence[Classes], labels: np.ndarray | None = None) -> Classes:
    """Return the classes of all rows together, those of ``labels`` where it is given."""
    if len(parts) == 1 and (labels is None or labels is parts[0].labels):
        return parts[0]
    if labels is None:
        labels = np.unique(np.concatenate([part.labels for part in parts]))
    rows = np.zeros(len(labels), dtype=np.int64)
    weights, squares, heaviest = np.zeros((3, len(labels)))
    for part in parts:
        places = np.searchsorted(labels, part.labels)
        rows[places] += part.rows
        weights[places] += part.weights
        squares[places] += part.squares
        heaviest[places] = np.maximum(heaviest[places], part.heaviest)
    return Classes(labels, rows, weights, squares, heaviest)


def combine_numbers(parts: Sequence[Numbers]) -> Numbers:
    """Return the targets of all rows together (Chan, Golub and LeVeque, 1983)."""
    total = sum(part.weight for part in parts)
    mean = sum(part.weight * part.mean for part in parts) / total if total > 0 else 0.0
    return Numbers(total, mean, sum(p.deviation + p.weight * (p.mean - mean) ** 2 for p in parts))
