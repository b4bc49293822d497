"""Training, whatever is estimated: input, where it runs, and what is left behind."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
from skdist.control.stopping import ScoreMonitor
from skdist.estimators import prediction
from skdist.estimators.callbacks import CallbackSupport, EpochCallbacks
from skdist.estimators.plan import Past, Plan, Rows, Training, train_in_process, train_simulated
from skdist.estimators.routing import choose_client, is_collection
from skdist.estimators.settings import SettingsMixin
from skdist.fitting import FitResult, FitSettings
from skdist.models.partition import bytes_of
from skdist.models.validation import HoldOut
from skdist.observers import Observers, Validation
from skdist.simulator import active_cluster

if TYPE_CHECKING:
    from skdist.cluster.source import Source


class DistributedSGDBase(CallbackSupport, SettingsMixin):
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
        validation: Rows | None = None,
        callbacks: EpochCallbacks | None = None,
    ) -> DistributedSGDBase:
        self._refuse_unavailable()
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        holds_out = self.early_stopping and validation is None
        scores = None
        if self.early_stopping or validation is not None:
            scores = Validation(ScoreMonitor(tol, self.n_iter_no_change) if self.early_stopping else None)
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
            tol=None if self.early_stopping else tol,
            n_iter_no_change=self.n_iter_no_change,
            seed=seed,
            shuffle=self.shuffle,
            verbose=self.verbose,
            planner=self._setting("planner"),
            hold_out=HoldOut(self.validation_fraction, seed) if holds_out else None,
        )
        plan = Plan(self, past, classes, seed)
        observers = Observers(scores, [] if callbacks is None else [callbacks.observer(plan)])
        lazy = next((rows for rows in (X, y, *(validation or ())) if is_collection(rows)), None)
        if lazy is not None:
            if active_cluster() is not None:
                raise ValueError("A simulated cluster trains on rows in memory, not on Dask collections.")
            source = self._source((X, y, sample_weight), reset=past is None or classes is None)
            with _about_validation_rows():
                given = None if validation is None else self._source(validation, reset=False)
            with choose_client(self.client, lazy) as client:
                result = _train_on_cluster(client, source, plan, settings, observers, given)
        else:
            X, y, sample_weight = self._validated(X, y, sample_weight, reset=past is None or classes is None)
            with _about_validation_rows():
                validation = None if validation is None else self._validated(*validation, reset=False)
            simulated = active_cluster()
            with nullcontext() if simulated else choose_client(self.client, X, bytes_of(X)) as client:
                if simulated is not None:
                    result = train_simulated(
                        simulated, X, y, sample_weight, plan, settings, observers, validation
                    )
                elif client is None:
                    result = train_in_process(
                        X, y, sample_weight, plan, settings, self.n_jobs, observers, validation
                    )
                else:
                    from skdist.cluster.source import memory_source

                    source = memory_source(X, y, sample_weight)
                    given = None if validation is None else memory_source(*validation)
                    result = _train_on_cluster(client, source, plan, settings, observers, given)
        if scores is not None:
            result = scores.conclude(result)
        self.validation_scores_ = None if scores is None else scores.scores
        self.best_validation_score_ = None if scores is None else max(scores.scores)
        return self._adopt(plan, result, keep_history=classes is not None and past is not None, tol=tol)

    def _source(self, rows: Rows, reset: bool) -> Source:
        """Return where the cluster finds rows, of which some or all are Dask collections."""
        from skdist.cluster.source import collection_source, memory_source

        X, y, sample_weight = rows
        if not is_collection(X) and not is_collection(y):
            return memory_source(*self._validated(X, y, sample_weight, reset))
        source, names = collection_source(X, y, sample_weight)
        prediction.check_features(self, names, int(X.shape[1]), reset)
        return source

    def _validated(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Any, Any, Any]:
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
        return Past(self.coef_, self.intercept_, self._training, self.classes_, self.history_)

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
        self.loss_curve_: list[float] = [epoch.loss for epoch in self.history_.epochs]
        if tol is not None and not result.converged and result.n_iter >= self.max_iter:
            warnings.warn(
                f"Training stopped after max_iter={self.max_iter} passes before the "
                f"{'validation score' if self.early_stopping else 'loss'} settled. "
                "Increase max_iter to go on, or set tol=None to make a fixed number of passes.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return self

    def __sklearn_tags__(self) -> Any:
        """Sparse input is accepted."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


@contextmanager
def _about_validation_rows() -> Iterator[None]:
    """Say of errors that it is not X and y that they are about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"X_val, y_val or sample_weight_val: {error}") from error


def _train_on_cluster(client: Any, source: Source, *args: Any) -> FitResult:
    from skdist.cluster.fit import train_on_cluster  # here, as it loads distributed

    return train_on_cluster(client, source, *args)
