"""Labels that a user announces or gives, and what classifiers refuse of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets


def check_labels(y: np.ndarray) -> None:
    """Refuse targets of rows in memory that are finite but no labels."""
    # Whether numbers are labels is seen when they are encoded.
    if y.dtype.kind not in "buif":
        check_classification_targets(y)


def announced_classes(estimator: Any, classes: Any) -> np.ndarray:
    """Return all labels that calls of ``partial_fit`` will ever bring.

    Parameters
    ----------
    estimator : classifier
        With ``class_weight``, and ``classes_`` where it is fitted.
    classes : array-like or None
        What the present call announces.

    Raises
    ------
    ValueError
        Where nothing was announced in the first call or something else later, and for balanced class weights.
    """
    known: Any = getattr(estimator, "classes_", None)
    if known is None and classes is None:
        raise ValueError("classes must be passed on the first call to partial_fit.")
    if known is not None and classes is not None and set(np.unique(classes)) != set(known):
        raise ValueError(
            f"classes={np.unique(classes)[:5]!r} differs from that of the first call, {known[:5]!r}."
        )
    if estimator.class_weight == "balanced":
        raise ValueError(
            "class_weight='balanced' needs all rows at once, but partial_fit sees some of them. Give the "
            "weights by class: sklearn.utils.class_weight.compute_class_weight('balanced', classes=..., "
            "y=...) of a large sample."
        )
    return np.unique(np.asarray(known if known is not None else classes))
