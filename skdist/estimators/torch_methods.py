"""What can be done with a classifier and a regressor that train a module."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.utils.metaestimators import available_if

from skdist.estimators.labels import announced_classes
from skdist.estimators.routing import is_collection
from skdist.estimators.scoring import score_on_collections
from skdist.estimators.torch_base import TorchBase


def _estimates_probabilities(estimator: ClassifierMethods) -> bool:
    estimator._check_probabilities()
    return True


class ClassifierMethods(ClassifierMixin, TorchBase):
    """Methods of a classifier."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
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
        X : array-like, sparse, DataFrame, dask Array or dask DataFrame of shape (n_samples, ...)
            Training data, of any number of dimensions. Dask collections stay on the cluster.
        y, sample_weight, X_val, y_val, sample_weight_val
            As in `DistributedSGDClassifier.fit`.
        checkpoint, resume
            As there. Parameters and buffers are in the file; where training goes on, optimizers begin anew.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For bad input, and where the module or the criterion does not fit it; the message says what to do.
        skdist.exceptions.DivergedError
            Where the loss is not finite any more.
        """
        validation = X_val, y_val, sample_weight_val
        self._fit((X, y, sample_weight), self._start(), validation, checkpoint, resume)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, classes: np.ndarray | None = None, sample_weight: Any = None
    ) -> Self:
        """Train one pass over some rows, from where training stands.

        In this process each learner goes on with the optimizer of the last call; on a cluster optimizers
        begin anew. Parameters and errors as in `DistributedSGDClassifier.partial_fit`.

        Returns
        -------
        self
        """
        past = self._past() if hasattr(self, "module_") else None
        known = announced_classes(self, classes)
        self._train(X, y, sample_weight, past=past, max_iter=1, tol=None, going_on=True, classes=known)
        return self

    def predict(self, X: Any) -> Any:
        """Return the most likely label of each row.

        Parameters
        ----------
        X : as in `fit`
            Rows.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples,)

        Raises
        ------
        ValueError
            Where rows have another shape than those of the fit, or hold NaN or infinity.
        """
        return self._predict("predict", X)

    @available_if(_estimates_probabilities)
    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class; parameters and errors as in `predict`.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples, n_classes)
            Columns in the order of ``classes_``.
        """
        return self._predict("predict_proba", X)

    @available_if(_estimates_probabilities)
    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithm of `predict_proba`; parameters and errors as in `predict`.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples, n_classes)
            Columns in the order of ``classes_``.
        """
        return self._predict("predict_log_proba", X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean accuracy; on Dask collections it is computed on the cluster.

        Parameters and errors as in `DistributedSGDClassifier.score`.

        Returns
        -------
        float
            From 0 to 1.
        """
        if is_collection(X) or is_collection(y):
            return score_on_collections(self, X, y, sample_weight)
        return float(super().score(X, y, sample_weight))


class RegressorMethods(RegressorMixin, TorchBase):
    """Methods of a regressor."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        checkpoint: str | None = None,
        resume: bool | str = False,
    ) -> Self:
        """Train on all rows; parameters and errors as in `DistributedTorchClassifier.fit`.

        Returns
        -------
        self
        """
        validation = X_val, y_val, sample_weight_val
        self._fit((X, y, sample_weight), self._start(), validation, checkpoint, resume)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train one pass over some rows, from where training stands.

        As in `DistributedTorchClassifier.partial_fit`, but that y holds numbers and there are no classes.

        Returns
        -------
        self
        """
        past = self._past() if hasattr(self, "module_") else None
        self._train(X, y, sample_weight, past=past, max_iter=1, tol=None, going_on=True)
        return self

    def predict(self, X: Any) -> Any:
        """Return the predicted number of each row.

        Parameters and errors as in `DistributedTorchClassifier.predict`.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples,)
            In units of y.
        """
        return self._predict("predict", X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R^2; on Dask collections it is computed on the cluster.

        Parameters and errors as in `DistributedSGDRegressor.score`.

        Returns
        -------
        float
            At most 1.
        """
        if is_collection(X) or is_collection(y):
            return score_on_collections(self, X, y, sample_weight)
        return float(super().score(X, y, sample_weight))
