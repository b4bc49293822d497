"""scikit-learn's callbacks: told of every epoch, with a fitted estimator to look at."""

from __future__ import annotations

from typing import Any

from sklearn import config_context, get_config

from skdist.estimators.plan import Plan
from skdist.messages import Snapshot
from skdist.observers import Observer

try:
    from sklearn.callback import CallbackSupportMixin as CallbackSupport
except ImportError:  # before scikit-learn 1.9

    class CallbackSupport:  # type: ignore[no-redef]
        """There are no callbacks in this version of scikit-learn."""


__all__ = ["CallbackSupport", "EpochCallbacks"]


class EpochCallbacks:
    """Tells the callbacks of an estimator how a fit goes: a task for the fit, and one for each epoch in it.

    Parameters
    ----------
    estimator : DistributedBase
        With callbacks.
    X, y : array-like or Dask collection
        What it is fitted to; given to callbacks as they are.
    sample_weight : array-like, Dask collection or None
        Likewise.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self._estimator = estimator
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._data = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        # The configuration belongs to a thread, and the driver may look in another one.
        self._config = get_config()
        # Copies leave the client out, as pickles do; rows on a cluster are scored with it.
        self._shared = {"client": estimator.client}
        self._fit = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        self._fit.call_on_fit_task_begin(**self._data)
        self._epoch: Any = None

    def observer(self, plan: Plan) -> Observer:
        """Return what ends the task of an epoch and begins the next; the first begins now."""
        self._begin()

        def observe(snapshot: Snapshot) -> bool:
            with config_context(**self._config):
                if self._epoch is None:
                    self._begin()
                stop = self._epoch.call_on_fit_task_end(
                    **self._data, reconstruction_attributes=lambda: self._fitted(plan, snapshot)
                )
                self._epoch = None
                if not stop and snapshot.epoch + 1 < self._estimator.max_iter:
                    self._begin()
            return bool(stop)

        return observe

    def end(self) -> None:
        """End the task of the fit, whose estimator is fitted; an epoch that never was ends empty."""
        if self._epoch is not None:
            self._epoch.call_on_fit_task_end(estimator=self._estimator)
        self._fit.call_on_fit_task_end(**self._data, reconstruction_attributes=self._shared)

    def _begin(self) -> None:
        self._epoch = self._fit.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._data)

    def _fitted(self, plan: Plan, snapshot: Snapshot) -> dict[str, Any]:
        """Return the attributes that the estimator would have if the fit had stopped here."""
        fitted = self._estimator._fitted(plan, snapshot.state)
        return {**fitted, "n_iter_": snapshot.epoch + 1, **self._shared}
