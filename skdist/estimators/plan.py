"""What a fit is to train, decided when the partitions have been measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from skdist.exceptions import UnknownLabelsError
from skdist.history import History
from skdist.intake import Intake
from skdist.models.model import Model
from skdist.models.targets import Targets, combine_classes, combine_numbers
from skdist.models.validation import check_split, check_validation
from skdist.preparation import Summary


@dataclass(frozen=True)
class Past:
    """Where a fit starts, if not from the beginning.

    Attributes
    ----------
    coef, intercept : ndarray or None
        Coefficients to start from, of a linear model.
    training : object or None
        What the estimator keeps to go on as if training had never stopped.
    classes : ndarray or None
        Labels of the earlier fit.
    history : History or None
        Of the earlier fits.
    """

    coef: Any = None
    intercept: Any = None
    training: Any = None
    classes: np.ndarray | None = None
    history: History | None = None


class Plan:
    """Makes the model of a fit from the summaries of the partitions.

    Parameters
    ----------
    estimator : DistributedBase
        Whose parameters count.
    past : Past or None
        Where to start.
    seed : int
        Of the order of the rows.
    going_on : bool
        Whether training goes on as if it had never stopped (``partial_fit``).

    Attributes
    ----------
    classes : ndarray or None
        Sorted labels; None in a regression.
    targets : Classes, Numbers or None
        Of all rows, earlier ones included.
    n_learners : int
        That shall train.
    alone : bool
        Whether it is one in this process, which may use threads of torch.
    """

    #: Whether targets are numbers and no labels.
    regression: ClassVar[bool]

    def __init__(self, estimator: Any, past: Past | None, seed: int, going_on: bool) -> None:
        self.estimator, self.past, self.seed, self.going_on = estimator, past, seed, going_on
        self.classes: np.ndarray | None = None
        self.targets: Targets | None = None
        self.n_learners, self.alone = 1, False

    @property
    def intake(self) -> Intake:
        """How rows are taken in."""
        raise NotImplementedError

    def build(
        self,
        summaries: Sequence[Summary],
        validation: Sequence[Summary] = (),
        n_learners: int = 1,
        fewer: bool = False,
    ) -> tuple[Model, np.ndarray, float]:
        """Return the model, its initial state and the steps that are behind it.

        Parameters
        ----------
        summaries : sequence of Summary
            Of all partitions.
        validation : sequence of Summary
            Of the validation rows that the user gave.
        n_learners : int
            At the start of training.
        fewer : bool
            Whether fewer may train, where exchanging would take longer than the others save.

        Raises
        ------
        ValueError
            Where there are no rows, fewer than two classes, or labels nobody announced, and where the
            validation rows are not fit for it.
        """
        filled = [summary for summary in summaries if summary.rows]
        if self.estimator.early_stopping and not validation:
            splits = [summary.split for summary in summaries if summary.split is not None]
            check_split(splits, self.estimator.validation_fraction)
        if not filled:
            raise ValueError("X is empty: it has 0 rows.")
        self._check_layouts(filled)
        measured = [summary for summary in filled if summary.targets is not None]
        self.targets = self._targets([part.targets for part in measured if part.targets is not None])
        seen = sum(summary.rows for summary in measured)
        if seen < sum(summary.rows for summary in filled):
            self.targets = self.targets.times(sum(summary.rows for summary in filled) / seen)
        if validation:
            parts = [(part.split, _width(part)) for part in validation if part.split is not None]
            check_validation(parts, self.classes, _width(filled[0]))
        self.n_learners = n_learners
        return self._model(filled, fewer)

    def _model(self, summaries: Sequence[Summary], fewer: bool) -> tuple[Model, np.ndarray, float]:
        """Return what `build` returns, of partitions that are not empty and fit together."""
        raise NotImplementedError

    @property
    def samples(self) -> bool:
        """Whether some of many partitions that are alike can stand for all."""
        # These count the rows of each class and each partition.
        return (
            getattr(self.estimator, "class_weight", None) != "balanced" and not self.estimator.early_stopping
        )

    def _targets(self, parts: Sequence[Targets]) -> Targets:
        """Return the targets of all rows."""
        raise NotImplementedError

    def _check_classes(self, past: Past) -> None:
        classes = np.asarray(self.classes)
        if past.classes is not None and past.classes.tolist() != classes.tolist():
            raise ValueError(
                f"warm_start needs the same classes: {classes[:5]!r} now, {past.classes[:5]!r} before."
            )

    def _check_layouts(self, summaries: Sequence[Summary]) -> None:
        first = summaries[0]
        for number, summary in enumerate(summaries):
            if summary.shape != first.shape:
                raise ValueError(
                    f"Partitions of X differ in width: {_width(first)} features in partition 0, "
                    f"{_width(summary)} in partition {number}."
                )


class ClassifierPlan(Plan):
    """The plan of a classifier.

    Parameters
    ----------
    estimator, past, seed, going_on
        As in `Plan`.
    classes : ndarray or None
        Labels, where they are known beforehand.
    """

    regression = False

    def __init__(
        self, estimator: Any, past: Past | None, seed: int, going_on: bool, classes: np.ndarray | None
    ) -> None:
        super().__init__(estimator, past, seed, going_on)
        self.classes = self._known = classes

    def _targets(self, parts: Sequence[Any]) -> Targets:
        found = combine_classes(parts).labels
        self.classes = found if self._known is None else self._known
        if not np.isin(found, self.classes).all():
            extra = found[~np.isin(found, self.classes)]
            raise UnknownLabelsError(f"y contains labels that are not in classes: {extra[:5]!r}.")
        if len(self.classes) < 2:
            only = self.classes.tolist()[0]
            raise ValueError(f"y holds one class only ({only!r}); a classifier needs at least two classes.")
        return combine_classes(parts, self.classes)


class RegressorPlan(Plan):
    """The plan of a regressor; parameters as in `Plan`."""

    regression = True

    def _targets(self, parts: Sequence[Any]) -> Targets:
        return combine_numbers(parts)


def _width(summary: Summary) -> int:
    """Return the number of features, of arrays that of their values."""
    return int(np.prod(summary.shape))
