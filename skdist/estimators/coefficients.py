"""Fitted coefficients in other forms: sparse, dense, and in scikit-learn's own estimator."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from skdist.control.schedules import AutoRate
from skdist.models.columns import spread
from skdist.models.losses import LOSSES


class CoefficientsMixin:
    """What can be done with coefficients besides predicting; attributes are those of the estimators."""

    def sparsify(self) -> Self:
        """Turn ``coef_`` into a CSR array, which takes less memory where more than half of it is zero.

        Predictions stay the same, training goes on from it, and ends with a dense ``coef_``.

        Returns
        -------
        self

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        self.coef_: Any = sp.csr_array(np.atleast_2d(dense(self.coef_)))
        return self

    def densify(self) -> Self:
        """Turn ``coef_`` back into an ndarray; the reverse of `sparsify`.

        Returns
        -------
        self

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        self.coef_ = self._dense_coef()
        return self

    def _dense_coef(self) -> np.ndarray:
        """Return ``coef_`` in the shape that a fit leaves."""
        coef = dense(self.coef_)
        return coef if is_classifier(self) else coef.ravel()

    def to_sklearn(self) -> Any:
        """Return scikit-learn's estimator with these coefficients: it predicts the same without skdist.

        Its parameters are those that both have. ``learning_rate='auto'``, which scikit-learn lacks, and
        ``'optimal'`` with a squared loss, whose first steps there are too long for any data, become
        ``'invscaling'`` with ``power_t=0.5``, ``average=False`` and ``eta0 = 1 / (L n)``, the step that is
        stable for rows of the mean squared norm ``n`` seen here and a loss of curvature ``L``:
        ``partial_fit`` of the result goes on from here with steps that get shorter and upset nothing,
        standardised features or not. To ``fit`` it anew, standardise them, as scikit-learn needs it.
        scikit-learn's ``t_`` counts rows, ours mini-batch steps.

        Returns
        -------
        sklearn.linear_model.SGDClassifier or SGDRegressor
            Fitted; it shares no array with this estimator.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            For more than two classes with ``multi_class='multinomial'``, which scikit-learn's lacks.
        """
        from sklearn.linear_model import SGDClassifier, SGDRegressor

        check_is_fitted(self)
        this: Any = self
        if getattr(this, "multi_class", "ovr") == "multinomial" and len(this.classes_) > 2:
            raise ValueError(
                "SGDClassifier has no multi_class='multinomial': its probabilities would be others. Store "
                "this estimator itself, or fit with multi_class='ovr'."
            )
        kind = SGDClassifier if is_classifier(self) else SGDRegressor
        parameters = {name: getattr(this, name) for name in kind().get_params() if hasattr(this, name)}
        rate, loss = parameters["learning_rate"], LOSSES[this.loss]
        if rate == "auto" or isinstance(rate, AutoRate) or (rate == "optimal" and loss.unbounded):
            step = 1 / (loss.curvature * this._training.moments.mean_square_norm)
            parameters |= {"learning_rate": "invscaling", "power_t": 0.5, "eta0": step, "average": False}
        twin = kind(**parameters)
        for name in ("classes_", "n_features_in_", "feature_names_in_", "n_iter_"):
            if hasattr(this, name):
                setattr(twin, name, np.copy(getattr(this, name)) if name[0] in "cf" else getattr(this, name))
        twin.t_ = 1.0 + sum(epoch.rows for epoch in this.history_.epochs)
        twin.coef_, twin.intercept_ = np.array(self._dense_coef()), np.array(this.intercept_)
        if twin.average:  # what scikit-learn goes on from, besides what it predicts with
            iterate, moments = this._training.state[0], this._training.moments
            coef = spread(np.array(iterate[:, :-1]), moments.columns, None, moments.n_features)
            twin._standard_coef = coef.reshape(twin.coef_.shape)
            twin._standard_intercept = np.array(iterate[:, -1])
            twin._average_coef, twin._average_intercept = twin.coef_.copy(), twin.intercept_.copy()
        return twin


def dense(coef: Any) -> np.ndarray:
    """Return coefficients as ndarray."""
    return np.asarray(coef.toarray() if sp.issparse(coef) else coef)
