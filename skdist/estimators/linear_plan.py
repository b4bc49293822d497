"""Plans of linear models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skdist.control.schedules import AutoRate
from skdist.estimators.plan import ClassifierPlan, Past, Plan, RegressorPlan
from skdist.intake import Tables
from skdist.models.columns import spread, union
from skdist.models.linear import LinearModel
from skdist.models.losses import LOSSES
from skdist.models.moments import Moments, combine
from skdist.models.partition import as_floats
from skdist.models.targets import Classes, Numbers, Targets
from skdist.preparation import Summary, build_model


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
        The coefficients that the estimator was left with, those of the columns of the moments.
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


class LinearPlan(Plan):
    """Makes a linear model; parameters as in `Plan`.

    Attributes
    ----------
    model : LinearModel or None
        Set by `build`.
    moments : Moments or None
        Of all rows, earlier ones included.
    """

    def __init__(self, estimator: Any, past: Past | None, seed: int, going_on: bool) -> None:
        super().__init__(estimator, past, seed, going_on)
        self.model: LinearModel | None = None
        self.moments: Moments | None = None

    @property
    def intake(self) -> Tables:
        """How rows are taken in."""
        return Tables(self.regression)

    def _model(self, summaries: Sequence[Summary], fewer: bool) -> tuple[LinearModel, np.ndarray, float]:
        past = self.past
        training: Training | None = past.training if past is not None and self.going_on else None
        parts = [summary.moments for summary in summaries if summary.moments is not None]
        self.moments, rows = combine(parts), sum(summary.rows for summary in summaries)
        if self.moments.rows < rows:
            self.moments = self.moments.times(rows, rows / self.moments.rows)
        assert self.targets is not None
        if training is not None:
            self.moments = combine([training.moments, self.moments])
            self.targets = self._targets([training.targets, self.targets])
        if past is not None and past.coef is not None:
            # A coefficient that is given stays, whether its feature occurs or not.
            coef, width = np.asarray(past.coef), self.moments.n_features
            if coef.size % width == 0:  # else it is refused below
                given = np.flatnonzero(np.any(coef.reshape(-1, width), axis=0))
                self.moments = self.moments.over(union([self.moments.columns, given]))
        self.model = self._built(summaries, parts)
        most = max(rows // self.model.learner_rows, 1)
        if fewer and most < self.n_learners:
            self.n_learners = most
            self.model = self._built(summaries, parts)
        return self.model, *self._start(self.model, training)

    def _built(self, summaries: Sequence[Summary], parts: Sequence[Moments]) -> LinearModel:
        """Return the model that as many learners train as shall."""
        e = self.estimator
        assert self.moments is not None
        assert self.targets is not None
        return build_model(
            self.moments,
            self.targets,
            np.result_type(*(summary.dtype for summary in summaries)),
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
            parts=parts,
            n_learners=self.n_learners,
        )

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
        self._check_classes(past)
        # partial_fit goes on; a warm start keeps the solution but begins its average and steps anew, and so
        # does whoever changed the coefficients in between.
        columns = None if training is None else training.moments.columns
        if (
            training is not None
            and training.members == model.members
            and np.array_equal(past.coef, spread(training.coef, columns, None, model.n_features))
            and np.array_equal(past.intercept, training.intercept)
        ):
            inner = spread(training.state[..., :-1], columns, model.columns, model.n_features)
            state = np.concatenate([inner, training.state[..., -1:]], axis=-1)
            return model.pack(state.astype(model.dtype)), training.clock
        coef = _shaped("coef_init", past.coef, (model.n_problems, model.n_features))
        intercept = _shaped("intercept_init", past.intercept, (model.n_problems,))
        return model.initial_state(coef, intercept), 0.0

    def _check_layouts(self, summaries: Sequence[Summary]) -> None:
        kinds = {summary.moments.sparse for summary in summaries if summary.moments is not None}
        training = self.past.training if self.past is not None and self.going_on else None
        if training is not None:
            kinds.add(training.moments.sparse)
        if len(kinds) > 1:
            raise ValueError(
                "X is sparse in part and dense in part, here or in an earlier call. Give all rows one "
                "layout, for example with X.map_blocks(scipy.sparse.csr_array) or X.toarray()."
            )
        super()._check_layouts(summaries)


class LinearClassifierPlan(ClassifierPlan, LinearPlan):
    """The plan of a linear classifier; parameters as in `ClassifierPlan`."""

    def _loss(self) -> str:
        assert self.classes is not None
        joint = self.estimator.multi_class == "multinomial" and len(self.classes) > 2
        return "multinomial" if joint else super()._loss()

    def _first_intercept(self) -> np.ndarray | None:
        # Rare classes are far from a fair coin, and a step towards them is the shorter the rarer they are.
        e, kind = self.estimator, LOSSES[self._loss()]
        if (
            not e.fit_intercept
            or not kind.probabilities
            or not isinstance(e._setting("learning_rate"), AutoRate)
        ):
            return None
        assert isinstance(self.targets, Classes)
        return self.targets.log_odds(self.targets.factors(e.class_weight), kind.joint)


class LinearRegressorPlan(RegressorPlan, LinearPlan):
    """The plan of a linear regressor; parameters as in `Plan`."""

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
