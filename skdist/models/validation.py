"""Rows that are held out of training, and what they say of a model: sums that add up over partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from skdist.models.partition import Partition
from skdist.models.targets import Numbers, combine_numbers, measure_numbers

#: First number of the entropy of a split: the orders of the rows have other ones.
SPLIT_ENTROPY = 0x5EED

#: Rows are scored in blocks of so many, so that their copy stays small.
BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class HoldOut:
    """Which rows are held out: a share of each class of each partition.

    Attributes
    ----------
    fraction : float
        Share of the rows, in (0, 1]; 1 leaves none to train on.
    seed : int
        The rows follow from it and the number of the partition, wherever that is.
    """

    fraction: float
    seed: int

    def split(self, partition: Partition, number: int) -> Partition:
        """Return partition ``number`` with its held-out rows marked.

        Every 1/fraction-th row of a random order within classes, from a random start on: each class and the
        whole give their share, rounded up or down at random.
        """
        if self.fraction >= 1:
            return replace(partition, training=np.empty(0, dtype=np.int32))
        n_rows = partition.X.shape[0]
        generator = np.random.default_rng((SPLIT_ENTROPY, self.seed, number))
        order = generator.permutation(n_rows)
        if partition.labels is not None:
            order = order[np.argsort(partition.targets[order], kind="stable")]
        marks = np.floor(generator.random() + self.fraction * np.arange(n_rows + 1))
        return replace(partition, training=np.sort(order[np.diff(marks) == 0]).astype(np.int32))


#: For validation rows that the user gave.
ALL_ROWS = HoldOut(1.0, 0)


class SplitSummary(NamedTuple):
    """How a partition, or all of them, were split.

    Attributes
    ----------
    training, held_out : int
        Rows.
    weight : float
        Sum of the sample weights of the rows held out.
    labels, trained : ndarray or None
        The classes present, and those that are trained on.
    """

    training: int
    held_out: int
    weight: float
    labels: np.ndarray | None
    trained: np.ndarray | None


def summarize_split(partition: Partition) -> SplitSummary:
    """Return how a partition is split."""
    held, labels, trained = partition.held_out, partition.labels, None
    if labels is not None:
        trained = labels[np.unique(partition.targets[partition.training])]
    return SplitSummary(partition.n_rows, len(held), float(partition.weights[held].sum()), labels, trained)


def check_split(splits: Sequence[SplitSummary], fraction: float) -> None:
    """Refuse a split that cannot be trained or validated on.

    Raises
    ------
    ValueError
        Where a side is empty, the validation rows have no weight or are fewer than the classes, or no row of
        a class is left to train on.
    """
    splits = [split for split in splits if split.training or split.held_out]
    training, held_out = sum(split.training for split in splits), sum(split.held_out for split in splits)
    advice = "Change validation_fraction or random_state, give more rows, or pass X_val and y_val."
    if not training or not held_out:
        raise ValueError(
            f"Splitting {training + held_out} rows with validation_fraction={fraction!r} led to an empty set "
            f"({training} rows to train on, {held_out} to validate). {advice}"
        )
    if not sum(split.weight for split in splits) > 0:
        raise ValueError(f"The sample weights of all {held_out} validation rows are zero. {advice}")
    if splits[0].labels is None:
        return
    classes = np.unique(np.concatenate([split.labels for split in splits if split.labels is not None]))
    if held_out < len(classes):
        raise ValueError(
            f"There are {held_out} validation rows, fewer than the {len(classes)} classes. {advice}"
        )
    missing = np.setdiff1d(
        classes, np.concatenate([split.trained for split in splits if split.trained is not None])
    )
    if len(missing):
        raise ValueError(f"All rows of the classes {missing[:5]!r} were held out for validation. {advice}")


def check_validation(
    parts: Sequence[tuple[SplitSummary, int]], classes: np.ndarray | None, n_features: int
) -> None:
    """Refuse validation rows of the user that cannot be scored.

    Parameters
    ----------
    parts : sequence of (SplitSummary, int)
        Of their partitions, with the number of features.
    classes : ndarray or None
        Labels of the model.
    n_features : int
        Of X.

    Raises
    ------
    ValueError
        Where there are none, they have no weight, hold labels that are not trained on, or differ in width.
    """
    filled = [(split, width) for split, width in parts if split.held_out]
    if not filled:
        raise ValueError("X_val is empty: it has 0 rows.")
    if not sum(split.weight for split, _ in filled) > 0:
        raise ValueError("The sum of sample_weight_val must be positive.")
    for split, width in filled:
        if width != n_features:
            raise ValueError(f"X_val has {width} features, X has {n_features}.")
        if classes is None or split.labels is None:
            continue
        # NumPy would compare the number 1 and the text '1' as texts.
        alike = (split.labels.dtype.kind in "US") == (classes.dtype.kind in "US")
        unknown = np.setdiff1d(split.labels, classes) if alike else split.labels
        if len(unknown):
            raise ValueError(f"y_val contains labels that are not in y: {unknown[:5]!r}.")


class ScoreSums(NamedTuple):
    """Sums over validation rows.

    Attributes
    ----------
    rows : float
        Their number.
    weight, score_sum, loss : float
        Sum of the sample weights; of those of the rows predicted right, in a regression of the weighted
        squared errors; and of the weighted losses.
    numbers : Numbers or None
        The targets of a regression.
    """

    rows: float = 0.0
    weight: float = 0.0
    score_sum: float = 0.0
    loss: float = 0.0
    numbers: Numbers | None = None

    @property
    def score(self) -> float:
        """The accuracy of a classifier, R^2 of a regressor."""
        if self.numbers is not None:
            return self.numbers.explained(self.score_sum)
        return self.score_sum / self.weight

    @property
    def mean_loss(self) -> float:
        """Mean loss, as that of the training rows."""
        return self.loss / self.rows


def add_up(parts: Sequence[ScoreSums]) -> ScoreSums:
    """Return the sums over all rows."""
    numbers = [part.numbers for part in parts if part.numbers is not None]
    rows, weight, score_sum, loss = np.sum([part[:4] for part in parts], axis=0).tolist()
    return ScoreSums(rows, weight, score_sum, loss, combine_numbers(numbers) if numbers else None)


def score_sums(model: Any, state: np.ndarray, partition: Partition, classes: np.ndarray | None) -> ScoreSums:
    """Return what the validation rows of a partition say of a state of a model.

    Parameters
    ----------
    model : Model
        The model.
    state : ndarray
        Its state.
    partition : Partition
        Its held-out rows count.
    classes : ndarray of shape (n_classes,) or None
        Labels of the model.
    """
    predict = model.predictor(state)
    partition = partition.globally(classes)
    held_out = partition.held_out
    parts = [ScoreSums()]
    for start in range(0, len(held_out), BLOCK_ROWS):
        rows = partition.take(held_out[start : start + BLOCK_ROWS])
        z = predict(rows.X)
        rows = replace(rows, weights=rows.weights.astype(np.float64))
        numbers = None
        if classes is None:
            errors = (z[:, 0] - rows.targets) ** 2
            numbers = measure_numbers(rows.targets.astype(np.float64), rows.weights)
        else:
            errors = decide(z) == rows.targets
        total, weight = float(rows.weights @ errors), float(rows.weights.sum())
        parts.append(ScoreSums(rows.n_rows, weight, total, model.loss_sum(z, rows), numbers))
    return add_up(parts)


def decide(z: np.ndarray) -> np.ndarray:
    """Return the class codes of raw predictions of shape (n_rows, n_problems)."""
    return (z[:, 0] > 0).astype(np.intp) if z.shape[1] == 1 else z.argmax(axis=1)
