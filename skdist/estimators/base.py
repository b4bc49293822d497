"""Training, whatever is estimated: input, where it runs, and what is left behind."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.schedules import AutoRate
from skdist.control.staleness import StalenessWindow
from skdist.estimators import prediction
from skdist.estimators.coefficients import CoefficientsMixin, dense
from skdist.estimators.plan import Past, Plan, Training, train_in_process, train_simulated
from skdist.estimators.routing import choose_client, is_collection
from skdist.estimators.settings import SettingsMixin
from skdist.fitting import FitResult, FitSettings
from skdist.models.partition import bytes_of
from skdist.simulator import active_cluster

if TYPE_CHECKING:
    from skdist.cluster.source import Source


class DistributedSGDBase(CoefficientsMixin, SettingsMixin):
    """What all estimators share; parameters and attributes are those of the estimators."""

    #: Losses, and the one that the passive-aggressive rates are made for.
    _losses: ClassVar[tuple[str, ...]]
    _passive_aggressive_loss: ClassVar[str]

    _auto_settings: ClassVar[dict[str, Any]] = {
        "rate_adapter": StalenessWindow,
        "batch_sizer": LatencyBatchSizer,
        "planner": PressurePlanner,
        "aggregator": InverseVolatility,
        "learning_rate": AutoRate,
    }

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "penalty": [StrOptions({"l2", "l1", "elasticnet"}), None],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
        "fit_intercept": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "shuffle": ["boolean"],
        "verbose": ["verbose"],
        "epsilon": [Interval(Real, 0, None, closed="left")],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "learning_rate": [
            StrOptions({"auto", "optimal", "constant", "invscaling", "adaptive", "pa1", "pa2"}),
            AutoRate,
        ],
        "eta0": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "average": [Interval(Integral, 0, None, closed="neither"), "boolean"],
        "mode": [StrOptions({"async", "ssp", "sync"})],
        "max_staleness": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "round_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "rate_adapter": [StrOptions({"auto"}), StalenessWindow, None],
        "batch_sizer": [StrOptions({"auto"}), LatencyBatchSizer, None],
        "planner": [StrOptions({"auto"}), PressurePlanner, None],
        "aggregator": [StrOptions({"auto", "uniform"}), InverseVolatility, None],
        "collect": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "server_momentum": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "client": "no_validation",
    }

    def _check_combinations(self) -> None:
        """Refuse parameters that are valid alone but not together."""
        if self.early_stopping:
            raise ValueError(
                "early_stopping=True is not available yet. Training stops when the training loss settles "
                "(tol, n_iter_no_change)."
            )
        if self.learning_rate == "adaptive":
            raise ValueError(
                "learning_rate='adaptive' is not available yet. Use 'auto', which needs no tuning."
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

    @property
    def _applies_alone(self) -> bool:
        """Whether the server applies each update alone."""
        one = self.collect == 1 or (self.mode == "ssp" and self.collect == "auto")
        return self.mode != "sync" and bool(one)

    def _collected(self) -> str | int:
        if self.mode == "sync" and self.collect not in ("auto", 1):
            raise ValueError(
                f"collect={self.collect!r} is not for mode='sync', which takes one update of each learner. "
                "Use collect='auto', or mode='async'."
            )
        collect: str | int = self.collect
        return collect

    def _momentum(self) -> str | float:
        if self._applies_alone and self.server_momentum not in ("auto", 0):
            raise ValueError(
                f"server_momentum={self.server_momentum!r} is for means of updates, but mode={self.mode!r} "
                f"with collect={self.collect!r} applies each alone. Use collect='auto' in mode='async', or "
                "mode='sync'."
            )
        momentum: str | float = self.server_momentum
        return momentum

    def _aggregator(self) -> InverseVolatility | None:
        """Return what weighs updates that are applied together; 'auto' is method B's in sync mode."""
        aggregator: Any = self.aggregator
        if aggregator == "auto":
            aggregator = InverseVolatility() if self.mode == "sync" else None
        if aggregator is None or isinstance(aggregator, str):
            return None
        if self._applies_alone:
            raise ValueError(
                f"aggregator={aggregator!r} weighs updates that are applied together, but mode={self.mode!r} "
                "with collect=1 applies each alone. Use mode='sync', a larger collect, or aggregator='auto'."
            )
        aggregator._validate_params()
        chosen: InverseVolatility = aggregator
        return chosen

    def _fit(self, X: Any, y: Any, coef_init: Any, intercept_init: Any, sample_weight: Any) -> None:
        past = self._past() if self.warm_start and hasattr(self, "coef_") else None
        if coef_init is not None or intercept_init is not None:
            past = past or Past()
            past = replace(
                past,
                coef=past.coef if coef_init is None else coef_init,
                intercept=past.intercept if intercept_init is None else intercept_init,
            )
        self._train(X, y, sample_weight, past=past, max_iter=self.max_iter, tol=self.tol)

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        past: Past | None,
        max_iter: int,
        tol: float | None,
        going_on: bool = False,
        classes: np.ndarray | None = None,
    ) -> None:
        self._check_combinations()
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        settings = FitSettings(
            adapter=self._setting("rate_adapter"),
            sizer=self._setting("batch_sizer"),
            aggregator=self._aggregator(),
            mode=self.mode,
            max_staleness=self.max_staleness,
            round_size=self.round_size,
            collect=self._collected(),
            momentum=self._momentum(),
            max_iter=max_iter,
            tol=tol,
            n_iter_no_change=self.n_iter_no_change,
            seed=seed,
            shuffle=self.shuffle,
            verbose=self.verbose,
            planner=self._setting("planner"),
        )
        plan = self._plan(past, seed, going_on, classes)
        reset = past is None or not going_on
        if is_collection(X) or is_collection(y):
            if active_cluster() is not None:
                raise ValueError("A simulated cluster trains on rows in memory; X is a Dask collection.")
            source = self._collection_source(X, y, sample_weight, reset)
            with choose_client(self.client, X if is_collection(X) else y) as client:
                result = _train_on_cluster(client, source, plan, settings)
        else:
            X, y, sample_weight = self._validated(X, y, sample_weight, reset)
            simulated = active_cluster()
            with nullcontext() if simulated else choose_client(self.client, X, bytes_of(X)) as client:
                if simulated is not None:
                    result = train_simulated(simulated, X, y, sample_weight, plan, settings)
                elif client is None:
                    result = train_in_process(X, y, sample_weight, plan, settings, self.n_jobs)
                else:
                    from skdist.cluster.source import memory_source

                    source = memory_source(X, y, sample_weight)
                    result = _train_on_cluster(client, source, plan, settings)
        self._adopt(plan, result, keep_history=going_on and past is not None, tol=tol)

    def _plan(self, past: Past | None, seed: int, going_on: bool, classes: np.ndarray | None) -> Plan:
        raise NotImplementedError

    def _collection_source(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> Source:
        from skdist.cluster.source import collection_source  # here, as it loads distributed

        if not is_collection(X):  # beside a collection y
            rows = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset)
            return collection_source(rows, y, sample_weight)
        source = collection_source(X, y, sample_weight)
        prediction.check_features(self, X, reset)
        return source

    def _validated(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Any, Any, Any]:
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], order="C", reset=reset,
            y_numeric=not is_classifier(self),
        )  # fmt: skip
        self._check_targets(y)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        return X, y, sample_weight

    def _check_targets(self, y: np.ndarray) -> None:
        """Refuse targets of rows in memory that are finite but not of the right kind."""

    def _past(self) -> Past:
        classes = getattr(self, "classes_", None)
        return Past(dense(self.coef_), self.intercept_, self._training, classes, self.history_)

    def _adopt(self, plan: Plan, result: FitResult, *, keep_history: bool, tol: float | None) -> None:
        model = plan.model
        assert model is not None
        assert plan.moments is not None
        assert plan.targets is not None
        coef, self.intercept_ = model.coefficients(result.state)
        self._training = Training(
            model.unpack(result.state), coef, self.intercept_, result.clock, plan.moments, plan.targets
        )
        self._keep(plan, coef)
        self.n_iter_ = result.n_iter
        self.t_ = result.clock + 1.0
        if keep_history and plan.past is not None and plan.past.history is not None:
            plan.past.history.extend(result.history)
            self.history_ = plan.past.history
        else:
            self.history_ = result.history
        if tol is not None and not result.converged and result.n_iter >= self.max_iter:
            warnings.warn(
                f"Training stopped after max_iter={self.max_iter} passes before the loss settled. "
                "Increase max_iter to go on, or set tol=None to make a fixed number of passes.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _keep(self, plan: Plan, coef: np.ndarray) -> None:
        """Set the attributes that are not those of every estimator."""
        self.coef_ = coef

    def _predict(self, method: str, X: Any) -> Any:
        check_is_fitted(self)
        if is_collection(X):
            return prediction.on_collection(self, method, X)
        rows = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        return prediction.Linear.of(self)(method, rows)

    def __sklearn_tags__(self) -> Any:
        """Sparse input is accepted; only one learner, or fixed shares in sync mode, repeat to the bit."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        alone = self.client is None and self.n_jobs in (None, 1)
        fixed_shares = self.mode == "sync" and self.round_size != "auto" and self.batch_sizer is None
        tags.non_deterministic = not (alone or fixed_shares)
        return tags


def _train_on_cluster(client: Any, source: Any, plan: Plan, settings: FitSettings) -> FitResult:
    from skdist.cluster.fit import train_on_cluster  # here, as it loads distributed

    return train_on_cluster(client, source, plan, settings)
