"""What a fit is to train, decided when the partitions have been measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from skdist.control.schedules import AutoRate
from skdist.exceptions import UnknownLabelsError
from skdist.history import History
from skdist.models.columns import spread, union
from skdist.models.linear import LinearModel
from skdist.models.moments import Moments, combine
from skdist.models.partition import as_floats
from skdist.models.targets import Numbers, Targets, combine_classes, combine_numbers
from skdist.models.validation import check_split, check_validation
from skdist.preparation import Summary, build_model, extrapolate


@dataclass(frozen=True)
class Training:
    """Where training stands, beyond the coefficients that predict.

    Attributes
    ----------
    state : ndarray of shape (n_states, n_problems, width + 1)
        Iterate and running averages for the columns of the moments; see `skdist.models.linear`.
    members : tuple of str
        Which of them.
    coef, intercept : ndarray
        The coefficients that the estimator was left with.
    clock : float
        Steps made.
    moments : Moments
        Of all rows seen.
    targets : Classes or Numbers
        Likewise.
    """

    state: np.ndarray
    members: tuple[str, ...]
    coef: np.ndarray
    intercept: np.ndarray
    clock: float
    moments: Moments
    targets: Targets


@dataclass(frozen=True)
class Past:
    """Where a fit starts, if not from zeros.

    Attributes
    ----------
    coef, intercept : ndarray or None
        Coefficients to start from.
    training : Training or None
        To go on as if training had never stopped.
    classes : ndarray or None
        Labels of the earlier fit.
    history : History or None
        Of the earlier fits.
    """

    coef: Any = None
    intercept: Any = None
    training: Training | None = None
    classes: np.ndarray | None = None
    history: History | None = None


class Plan:
    """Makes the model of a fit from the summaries of the partitions.

    Parameters
    ----------
    estimator : DistributedSGDBase
        Whose parameters count.
    past : Past or None
        Where to start.
    seed : int
        Of the order of the rows.
    going_on : bool
        Whether training goes on as if it had never stopped (``partial_fit``).

    Attributes
    ----------
    model : LinearModel or None
        Set by `build`.
    classes : ndarray or None
        Sorted labels; None in a regression.
    moments : Moments or None
        Of all rows, earlier ones included.
    targets : Classes, Numbers or None
        Likewise.
    """

    #: Whether targets are numbers and no labels.
    regression: ClassVar[bool]

    def __init__(self, estimator: Any, past: Past | None, seed: int, going_on: bool) -> None:
        self.estimator, self.past, self.seed, self.going_on = estimator, past, seed, going_on
        self.classes: np.ndarray | None = None
        self.model: LinearModel | None = None
        self.moments: Moments | None = None
        self.targets: Targets | None = None

    def build(
        self, summaries: Sequence[Summary], validation: Sequence[Summary] = ()
    ) -> tuple[LinearModel, np.ndarray, float]:
        """Return the model, its initial state and the steps that are behind it.

        Parameters
        ----------
        summaries : sequence of Summary
            Of all partitions.
        validation : sequence of Summary
            Of the validation rows that the user gave.

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
        self._check_layouts([summary.moments for summary in filled if summary.moments is not None])
        self.moments, self.targets = extrapolate(summaries, self._targets)
        if validation:
            parts = [
                (part.split, part.moments.n_features)
                for part in validation
                if part.split is not None and part.moments is not None
            ]
            check_validation(parts, self.classes, self.moments.n_features)
        e, past = self.estimator, self.past
        training = past.training if past is not None and self.going_on else None
        if training is not None:
            self.moments = combine([training.moments, self.moments])
            self.targets = self._targets([training.targets, self.targets])
        if past is not None and past.coef is not None:
            # A coefficient that is given stays, whether its feature occurs or not.
            given = np.flatnonzero(np.any(np.atleast_2d(past.coef), axis=0))
            self.moments = self.moments.over(union([self.moments.columns, given]))
        self.model = build_model(
            self.moments,
            self.targets,
            np.result_type(*(summary.dtype for summary in filled)),
            loss=self._loss(),
            epsilon=e.epsilon,
            penalty=e.penalty,
            alpha=e.alpha,
            l1_ratio=e.l1_ratio,
            class_weight=getattr(e, "class_weight", None),
            fit_intercept=e.fit_intercept,
            batch_size=e.batch_size,
            learning_rate=e._setting("learning_rate"),
            eta0=e.eta0,
            power_t=e.power_t,
            average=e.average,
            shuffle=e.shuffle,
            seed=self.seed,
            parts=[summary.moments for summary in filled if summary.moments is not None],
        )
        return self.model, *self._start(self.model, training)

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

    def _loss(self) -> str:
        """Return the key of the loss."""
        loss: str = self.estimator.loss
        return loss

    def _first_intercept(self) -> np.ndarray | None:
        """Return where the intercept starts, if not from zero."""
        return None

    def _start(self, model: LinearModel, training: Training | None) -> tuple[np.ndarray, float]:
        past = self.past
        if past is None:
            return model.initial_state(None, self._first_intercept()), 0.0
        classes = np.asarray(self.classes)
        if past.classes is not None and past.classes.tolist() != classes.tolist():
            raise ValueError(
                f"warm_start needs the same classes: {classes[:5]!r} now, {past.classes[:5]!r} before."
            )
        # partial_fit goes on; a warm start keeps the solution but begins its average and steps anew, and so
        # does whoever changed the coefficients in between.
        if (
            training is not None
            and training.members == model.members
            and np.array_equal(past.coef, training.coef)
            and np.array_equal(past.intercept, training.intercept)
        ):
            inner = spread(
                training.state[..., :-1], training.moments.columns, model.columns, model.n_features
            )
            state = np.concatenate([inner, training.state[..., -1:]], axis=-1)
            return model.pack(state.astype(model.dtype)), training.clock
        coef = _shaped("coef_init", past.coef, (model.n_problems, model.n_features))
        intercept = _shaped("intercept_init", past.intercept, (model.n_problems,))
        return model.initial_state(coef, intercept), 0.0

    def _check_layouts(self, parts: Sequence[Moments]) -> None:
        kinds = {part.sparse for part in parts}
        training = self.past.training if self.past is not None and self.going_on else None
        if training is not None:
            kinds.add(training.moments.sparse)
        if len(kinds) > 1:
            raise ValueError(
                "X is sparse in part and dense in part, here or in an earlier call. Give all rows one "
                "layout, for example with X.map_blocks(scipy.sparse.csr_array) or X.toarray()."
            )
        widths = [part.n_features for part in parts]
        if len(set(widths)) > 1:
            other = next(i for i, width in enumerate(widths) if width != widths[0])
            raise ValueError(
                f"Partitions of X differ in width: {widths[0]} features in partition 0, "
                f"{widths[other]} in partition {other}."
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

    def _loss(self) -> str:
        assert self.classes is not None
        joint = self.estimator.multi_class == "multinomial" and len(self.classes) > 2
        return "multinomial" if joint else super()._loss()


class RegressorPlan(Plan):
    """The plan of a regressor; parameters as in `Plan`."""

    regression = True

    def _targets(self, parts: Sequence[Any]) -> Targets:
        return combine_numbers(parts)

    def _first_intercept(self) -> np.ndarray | None:
        # Where rates are automatic, so is the unit of y: its mean may be far away.
        e = self.estimator
        if not e.fit_intercept or not isinstance(e._setting("learning_rate"), AutoRate):
            return None
        assert isinstance(self.targets, Numbers)
        return np.array([self.targets.mean])


def _shaped(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if value is None:
        return None
    array = as_floats(name, np.asarray(value), np.dtype(float))
    # A single problem may be given in any shape, and an intercept as a number, as in scikit-learn.
    if array.shape != shape and not (shape[0] == 1 and array.size == np.prod(shape)):
        raise ValueError(f"{name} has shape {array.shape}, the problem needs {shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return array.reshape(shape)
