"""What the linear estimators share."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from skdist.control.schedules import AutoRate
from skdist.estimators.base import DistributedBase
from skdist.estimators.coefficients import CoefficientsMixin, dense
from skdist.estimators.linear_plan import LinearPlan, Training
from skdist.estimators.plan import Past, Plan
from skdist.estimators.prediction import Linear
from skdist.fitting import FitResult


class DistributedSGDBase(CoefficientsMixin, DistributedBase):
    """What the linear estimators share; parameters and attributes are those of the estimators."""

    #: Losses, and the one that the passive-aggressive rates are made for.
    _losses: ClassVar[tuple[str, ...]]
    _passive_aggressive_loss: ClassVar[str]

    _auto_settings: ClassVar[dict[str, Any]] = {**DistributedBase._auto_settings, "learning_rate": AutoRate}

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DistributedBase._parameter_constraints,
        "penalty": [StrOptions({"l2", "l1", "elasticnet"}), None],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
        "fit_intercept": ["boolean"],
        "epsilon": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [
            StrOptions({"auto", "optimal", "constant", "invscaling", "adaptive", "pa1", "pa2"}),
            AutoRate,
        ],
        "eta0": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "average": [Interval(Integral, 0, None, closed="neither"), "boolean"],
    }

    def _check_combinations(self) -> None:
        super()._check_combinations()
        if self.learning_rate == "adaptive" and self.early_stopping:
            raise ValueError(
                "learning_rate='adaptive' follows the training loss, and early_stopping=True does without "
                "it. Use 'auto', or early_stopping=False."
            )
        if self.penalty == "elasticnet" and self.l1_ratio is None:
            raise ValueError("l1_ratio must be set when penalty='elasticnet': a number from 0 to 1.")
        if self.learning_rate == "optimal" and self.alpha == 0:
            raise ValueError(
                "alpha must be > 0 with learning_rate='optimal': its step size is 1 / (alpha (t0 + t))."
            )
        if self.learning_rate in ("pa1", "pa2") and self.loss != self._passive_aggressive_loss:
            raise ValueError(
                f"learning_rate={self.learning_rate!r} is made for loss={self._passive_aggressive_loss!r}, "
                f"not for loss={self.loss!r}."
            )

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        coef_init: np.ndarray | None = None,
        intercept_init: np.ndarray | None = None,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        checkpoint: str | None = None,
        resume: bool | str = False,
    ) -> Self:
        """Train on all rows, but for those that ``early_stopping`` holds out.

        Parameters
        ----------
        X : array-like, sparse, DataFrame, dask Array or dask DataFrame of shape (n_samples, n_features)
            Training data. Dask collections stay on the cluster.
        y : array-like, dask Array or dask Series of shape (n_samples,)
            Labels, or the numbers of a regression, partitioned like X.
        coef_init : ndarray of shape (n_features,) or (n_classes, n_features), optional
            Where training starts; with a row for each class where there are more than two.
        intercept_init : ndarray of shape (1,) or (n_classes,), optional
            Where training starts.
        sample_weight : array-like, dask Array or dask Series of shape (n_samples,), optional
            Weights; 1 each where None.
        X_val : array-like, sparse, DataFrame, dask Array or dask DataFrame, optional
            Rows to validate on after each pass, with the features of X. With ``early_stopping=True`` training
            stops by their score, and no row of X is held out; otherwise the score is recorded.
        y_val : array-like, dask Array or dask Series, optional
            Their labels, all of them labels of y, or their numbers.
        sample_weight_val : array-like, dask Array or dask Series, optional
            Their weights; 1 each where None.
        checkpoint : str, optional
            Path or fsspec URL of a file that is replaced about every second, and at the end, by one that says
            how far the fit is. It holds no pickle. Not together with validation rows and callbacks.
        resume : bool or 'auto', default=False
            Whether to go on from the file at ``checkpoint``, with the same data, in any process and on any
            cluster; 'auto' begins where there is none.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For bad input, and where there are too few rows to validate or train on; the message says what
            to do.
        skdist.exceptions.NoWorkersError
            Where the cluster has no worker within the time limit.
        """
        past = self._start(coef_init, intercept_init)
        self._fit((X, y, sample_weight), past, (X_val, y_val, sample_weight_val), checkpoint, resume)
        return self

    def _start(self, coef_init: Any, intercept_init: Any) -> Past | None:
        """Return where `fit` starts, if not from zeros."""
        past = self._past() if self.warm_start and hasattr(self, "coef_") else None
        if coef_init is not None or intercept_init is not None:
            past = past or Past()
            past = replace(
                past,
                coef=past.coef if coef_init is None else coef_init,
                intercept=past.intercept if intercept_init is None else intercept_init,
            )
        return past

    def _past(self) -> Past:
        classes = getattr(self, "classes_", None)
        return Past(dense(self.coef_), self.intercept_, self._training, classes, self.history_)

    def _training_of(self, plan: Plan, result: FitResult) -> Training:
        assert isinstance(plan, LinearPlan)
        assert plan.model is not None
        assert plan.moments is not None
        assert plan.targets is not None
        model = plan.model
        # Copies, so that it shows where a user has changed those of the estimator, set by `_fitted`.
        coef, intercept, columns = np.atleast_2d(self.coef_), np.array(self.intercept_), plan.moments.columns
        coef = coef.copy() if columns is None else coef[:, columns]
        states = model.unpack(result.state)
        return Training(states, model.members, coef, intercept, result.clock, plan.moments, plan.targets)

    def _fitted(self, plan: Plan, state: np.ndarray) -> dict[str, Any]:
        assert isinstance(plan, LinearPlan)
        assert plan.model is not None
        coef, intercept = plan.model.coefficients(state)
        return {"coef_": coef, "intercept_": intercept}

    def _predictor(self) -> Linear:
        return Linear.of(self)
