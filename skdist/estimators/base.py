"""Training, whatever is estimated: input, where it runs, and what is left behind."""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from skdist.checkpoint import Checkpoint
from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.staleness import StalenessWindow
from skdist.control.stopping import ScoreMonitor
from skdist.estimators import prediction
from skdist.estimators.callbacks import CallbackSupport, EpochCallbacks
from skdist.estimators.fit_settings import fit_settings, seed_of
from skdist.estimators.inputs import about_validation_rows, named
from skdist.estimators.labels import check_labels
from skdist.estimators.local import Rows, train_in_process, train_simulated, validation_rows
from skdist.estimators.plan import Past, Plan
from skdist.estimators.resuming import checkpoint_of
from skdist.estimators.routing import choose_client, is_collection
from skdist.estimators.settings import SettingsMixin
from skdist.fitting import FitResult
from skdist.models.partition import bytes_of, refuse_missing
from skdist.observers import Observers, Validation
from skdist.simulator import active_cluster

if TYPE_CHECKING:
    from skdist.cluster.source import Source


class DistributedBase(CallbackSupport, SettingsMixin):
    """What all estimators share, whatever they train; attributes are those of the estimators."""

    #: Dtypes of rows in memory that are left as they are; others become the first one.
    _row_dtypes: ClassVar[list[Any]] = [np.float64, np.float32]

    #: Whether rows in memory may have more than one dimension.
    _rows_of_any_shape: ClassVar[bool] = False

    #: Whether the history goes on in a warm start.
    _keeps_history: ClassVar[bool] = False

    #: Parameters that may be others when a fit goes on from a checkpoint: how it runs and when it ends.
    _free: ClassVar[tuple[str, ...]] = (
        "max_iter", "tol", "n_iter_no_change", "verbose", "n_jobs", "warm_start", "mode", "max_staleness",
        "round_size", "rate_adapter", "batch_sizer", "planner", "aggregator", "collect", "server_momentum",
        "n_servers", "client",
    )  # fmt: skip

    _auto_settings: ClassVar[dict[str, Any]] = {
        "rate_adapter": StalenessWindow,
        "batch_sizer": LatencyBatchSizer,
        "planner": PressurePlanner,
        "aggregator": InverseVolatility,
    }

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "shuffle": ["boolean"],
        "verbose": ["verbose"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
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
        "n_servers": [Interval(Integral, 1, None, closed="left")],
        "client": "no_validation",
    }

    def _check_combinations(self) -> None:
        """Refuse parameters that are valid alone but not together."""

    def _fit(
        self,
        rows: Rows,
        past: Past | None,
        validation: Rows,
        checkpoint: Any = None,
        resume: Any = False,
    ) -> None:
        callbacks = EpochCallbacks(self, *rows) if hasattr(self, "_skl_callbacks") else None
        self._train(
            *rows, past=past, max_iter=self.max_iter, tol=self.tol,
            validation=validation_rows(*validation), callbacks=callbacks,
            checkpoint=checkpoint_of(self, checkpoint, resume, validates=validation[0] is not None),
        )  # fmt: skip
        if callbacks is not None:
            callbacks.end()

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
        validation: Rows | None = None,
        callbacks: EpochCallbacks | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._check_combinations()
        if going_on and self.early_stopping:
            raise ValueError("early_stopping should be False with partial_fit, which makes one pass.")
        seed = seed_of(self.random_state) if checkpoint is None else checkpoint.seed
        holds_out = self.early_stopping and validation is None
        began = time.perf_counter()
        scores = None
        if self.early_stopping or validation is not None:
            scores = Validation(ScoreMonitor(tol, self.n_iter_no_change) if self.early_stopping else None)
        settings = fit_settings(self, max_iter=max_iter, tol=tol, seed=seed, holds_out=holds_out)
        plan = self._plan(past, seed, going_on, classes)
        reset = past is None or not going_on
        observers = Observers(scores, [] if callbacks is None else [callbacks.observer(plan)])
        lazy = next((rows for rows in (X, y, *(validation or ())) if is_collection(rows)), None)
        if lazy is not None:
            if active_cluster() is not None:
                raise ValueError("A simulated cluster trains on rows in memory, not on Dask collections.")
            source = self._source((X, y, sample_weight), reset)
            with about_validation_rows():
                given = None if validation is None else self._source(validation, reset=False)
            with choose_client(self.client, lazy) as client:
                result = _train_on_cluster(client, source, plan, settings, observers, given, checkpoint)
        else:
            X, y, sample_weight = self._validated(X, y, sample_weight, reset)
            with about_validation_rows():
                validation = None if validation is None else self._validated(*validation, reset=False)
            simulated = active_cluster()
            with nullcontext() if simulated else choose_client(self.client, X, bytes_of(X)) as client:
                if simulated is not None:
                    result = train_simulated(
                        simulated, X, y, sample_weight, plan, settings, observers, validation
                    )
                elif client is None:
                    result = train_in_process(
                        X, y, sample_weight, plan, settings, self.n_jobs, observers, validation, checkpoint
                    )
                else:
                    from skdist.cluster.source import memory_source

                    source = memory_source(X, y, sample_weight)
                    given = None if validation is None else memory_source(*validation)
                    result = _train_on_cluster(client, source, plan, settings, observers, given, checkpoint)
        if active_cluster() is None:
            result.history.took(time.perf_counter() - began)
        if scores is not None:
            result = scores.conclude(result)
        self.validation_scores_ = None if scores is None else scores.scores
        self.best_validation_score_ = None if scores is None else max(scores.scores)
        keep_history = past is not None and (going_on or self._keeps_history)
        self._adopt(plan, result, keep_history=keep_history, tol=tol)

    def _plan(self, past: Past | None, seed: int, going_on: bool, classes: np.ndarray | None) -> Plan:
        raise NotImplementedError

    def _source(self, rows: Rows, reset: bool) -> Source:
        """Return where the cluster finds rows, of which some or all are Dask collections."""
        from skdist.cluster.source import collection_source, memory_source

        X, y, sample_weight = rows
        if is_collection(X):
            flat = not self._rows_of_any_shape
            source = collection_source(X, y, sample_weight, flat, self._row_dtypes)
            prediction.check_features(self, X, reset)
            return source
        if not is_collection(y):
            return memory_source(*self._validated(X, y, sample_weight, reset))
        warnings.warn(
            "X is in memory but y is a Dask collection. If X was one too, a step before this one has "
            "pulled it into this process, as scikit-learn's transformers do; those of "
            "dask_ml.preprocessing leave it on the cluster. If X belongs here, pass y.compute().",
            stacklevel=5,
        )
        return collection_source(self._validated_rows(X, reset), y, sample_weight)

    def _validated_rows(self, X: Any, reset: bool) -> Any:
        with named(X=X):
            return validate_data(
                self,
                X,
                accept_sparse="csr",
                dtype=self._row_dtypes,
                allow_nd=self._rows_of_any_shape,
                reset=reset,
            )

    def _validated(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Any, Any, Any]:
        labels = is_classifier(self)
        with named(X=X, y=y, labels=labels):
            refuse_missing(np.asarray(y))  # scikit-learn does not name what it stumbles over
            X, y = validate_data(
                self, X, y, accept_sparse="csr", dtype=self._row_dtypes, order="C", reset=reset,
                y_numeric=not labels, allow_nd=self._rows_of_any_shape,
                ensure_all_finite=False,  # that shows when X is measured, without reading it once more
            )  # fmt: skip
            if labels:
                check_labels(y)
        if sample_weight is not None:
            with named(sample_weight=sample_weight):
                sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        return X, y, sample_weight

    def _adopt(self, plan: Plan, result: FitResult, *, keep_history: bool, tol: float | None) -> None:
        for name, value in self._fitted(plan, result.state).items():
            setattr(self, name, value)
        self._training = self._training_of(plan, result)
        self.n_iter_ = result.n_iter
        if keep_history and plan.past is not None and plan.past.history is not None:
            plan.past.history.extend(result.history)
            self.history_ = plan.past.history
        else:
            self.history_ = result.history
        self.t_ = self._time(result.clock)
        self.loss_curve_: list[float] = [epoch.loss for epoch in self.history_.epochs]
        if tol is not None and not result.converged and result.n_iter >= self.max_iter:
            warnings.warn(
                f"Training stopped after max_iter={self.max_iter} passes before the "
                f"{'validation score' if self.early_stopping else 'loss'} settled. "
                "Increase max_iter to go on, or set tol=None to make a fixed number of passes.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _time(self, clock: float) -> float:
        """Return ``t_`` after so many steps."""
        return clock + 1.0

    def _fitted(self, plan: Plan, state: np.ndarray) -> dict[str, Any]:
        """Return the attributes that a fit which ended with this state leaves."""
        raise NotImplementedError

    def _training_of(self, plan: Plan, result: FitResult) -> Any:
        """Return where training stands, beyond those attributes."""
        raise NotImplementedError

    def _predictor(self) -> prediction.Predictor:
        """Return what predicts."""
        raise NotImplementedError

    def _predict(self, method: str, X: Any) -> Any:
        check_is_fitted(self)
        if is_collection(X):
            return prediction.on_collection(self, method, X)
        return self._predictor()(method, self._validated_rows(X, reset=False))

    def __sklearn_tags__(self) -> Any:
        """Sparse input is accepted; only one learner, or fixed shares in sync mode, repeat to the bit."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        alone = self.client is None and self.n_jobs in (None, 1)
        fixed_shares = self.mode == "sync" and self.round_size != "auto" and self.batch_sizer is None
        tags.non_deterministic = not (alone or fixed_shares)
        return tags


def _train_on_cluster(client: Any, source: Source, *args: Any) -> FitResult:
    from skdist.cluster.fit import train_on_cluster  # here, as it loads distributed

    return train_on_cluster(client, source, *args)
