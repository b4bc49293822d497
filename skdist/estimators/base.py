"""Training, whatever is estimated: input, where it runs, and what is left behind."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d, validate_data

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
from skdist.models.partition import bytes_of, refuse_missing
from skdist.simulator import active_cluster

if TYPE_CHECKING:
    from skdist.cluster.source import Source


class DistributedSGDBase(CoefficientsMixin, SettingsMixin):
    """What all estimators share; parameters and attributes are those of the estimators."""

    #: Values that scikit-learn has and we have not yet, and what to do instead.
    _unavailable: ClassVar[dict[str, tuple[set[Any], str]]] = {
        "loss": (
            {"modified_huber", "squared_hinge", "perceptron", "squared_error", "huber"}
            | {"epsilon_insensitive", "squared_epsilon_insensitive"},
            "Use 'hinge' or 'log_loss'.",
        ),
        "penalty": ({"l1", "elasticnet"}, "Use 'l2' or None."),
        "learning_rate": ({"adaptive", "pa1", "pa2"}, "Use 'auto', which needs no tuning."),
        "early_stopping": ({True}, "Training stops when the training loss settles (tol, n_iter_no_change)."),
    }

    _auto_settings: ClassVar[dict[str, Any]] = {
        "rate_adapter": StalenessWindow,
        "batch_sizer": LatencyBatchSizer,
        "planner": PressurePlanner,
        "aggregator": InverseVolatility,
        "learning_rate": AutoRate,
    }

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "penalty": [StrOptions({"l2"} | _unavailable["penalty"][0]), None],
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
            StrOptions({"auto", "optimal", "constant", "invscaling"} | _unavailable["learning_rate"][0]),
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

    def _refuse_unavailable(self) -> None:
        for name, (values, advice) in self._unavailable.items():
            value = getattr(self, name)
            if isinstance(value, (str, bool)) and value in values:
                raise ValueError(f"{name}={value!r} is not available yet. {advice}")
        if self.class_weight is not None:
            raise ValueError("class_weight is not available yet. Pass sample_weight, which does the same.")

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

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        past: Past | None,
        max_iter: int,
        tol: float | None,
        classes: np.ndarray | None = None,
    ) -> DistributedSGDBase:
        self._refuse_unavailable()
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
        plan = Plan(self, past, classes, seed)
        if is_collection(X) or is_collection(y):
            if active_cluster() is not None:
                raise ValueError("A simulated cluster trains on rows in memory; X is a Dask collection.")
            reset = past is None or classes is None
            source = self._collection_source(X, y, sample_weight, reset)
            with choose_client(self.client, X if is_collection(X) else y) as client:
                result = _train_on_cluster(client, source, plan, settings)
        else:
            X, y, sample_weight = self._validated(X, y, sample_weight, reset=past is None or classes is None)
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
        return self._adopt(plan, result, keep_history=classes is not None and past is not None, tol=tol)

    def _collection_source(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> Source:
        from skdist.cluster.source import collection_source  # here, as it loads distributed

        if not is_collection(X):
            warnings.warn(
                "X is in memory but y is a Dask collection. If X was one too, a step before this one has "
                "pulled it into this process, as scikit-learn's transformers do; those of "
                "dask_ml.preprocessing leave it on the cluster. If X belongs here, pass y.compute().",
                stacklevel=5,
            )
            rows = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset)
            return collection_source(rows, y, sample_weight)
        source = collection_source(X, y, sample_weight)
        prediction.check_features(self, X, reset)
        return source

    def _validated(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Any, Any, Any]:
        refuse_missing(np.asarray(y))  # scikit-learn does not name what it stumbles over
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], order="C", reset=reset,
            multi_output=True,
        )  # fmt: skip
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        return X, y, sample_weight

    def _past(self) -> Past:
        return Past(dense(self.coef_), self.intercept_, self._training, self.classes_, self.history_)

    def _adopt(
        self, plan: Plan, result: FitResult, *, keep_history: bool, tol: float | None
    ) -> DistributedSGDBase:
        model = plan.model
        assert model is not None
        assert plan.classes is not None
        assert plan.moments is not None
        assert plan.class_weights is not None
        self.classes_: np.ndarray = plan.classes
        self.coef_, self.intercept_ = model.coefficients(result.state)
        self._training = Training(model.unpack(result.state), result.clock, plan.moments, plan.class_weights)
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
        return self

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
