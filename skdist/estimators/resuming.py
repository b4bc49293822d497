"""Fits that go on from a checkpoint: which may, and which parameters must be the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from skdist.checkpoint import Checkpoint
from skdist.estimators.fit_settings import seed_of
from skdist.simulator import active_cluster


def checkpoint_of(estimator: Any, path: Any, resume: Any, validates: bool) -> Checkpoint | None:
    """Return the checkpoint of a fit, read if the fit goes on from it.

    Parameters
    ----------
    estimator : DistributedBase
        What is fitted.
    path, resume
        What `fit` was given.
    validates : bool
        Whether `fit` was given validation rows.

    Raises
    ------
    FileNotFoundError
        Where there is nothing to go on from.
    ValueError
        Where the fit cannot go on from a checkpoint, or not from this one.
    """
    if resume not in (False, True, "auto"):
        raise ValueError(f"resume={resume!r} must be False, True or 'auto'.")
    if path is None:
        if resume:
            raise ValueError(f"resume={resume!r} needs the checkpoint to go on from: checkpoint=path.")
        return None
    if estimator.early_stopping or validates or hasattr(estimator, "_skl_callbacks"):
        raise ValueError(
            "A checkpoint does not hold what early_stopping, X_val or callbacks have seen. Fit without "
            "them, or without checkpoint."
        )
    if active_cluster() is not None:
        raise ValueError("A simulated cluster writes no checkpoints.")
    given = {
        name: written_out(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in estimator._free
    }
    if not isinstance(estimator.random_state, Integral | None):
        given["random_state"] = "a generator"
    checkpoint = Checkpoint(path, given, seed_of(estimator.random_state))
    if resume is True or (resume and checkpoint.exists()):
        checkpoint.read()
    return checkpoint


def written_out(value: Any) -> str:
    """Return the value of a parameter as text that is the same in any process.

    Classes and functions are their qualified names, arrays and tensors a SHA-256 of their numbers.
    """
    if isinstance(value, Mapping):
        inner = ", ".join(f"{written_out(key)}: {written_out(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(written_out(item) for item in value)}]"
    if isinstance(value, partial):
        return f"partial({written_out([value.func, value.args, value.keywords])})"
    if hasattr(value, "__array__") and hasattr(value, "shape"):
        values = np.asarray(value)
        digest = hashlib.sha256(repr(values.tolist()).encode()).hexdigest()
        return f"{values.dtype} array of shape {values.shape} ({digest})"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if getattr(type(value), "__repr__", None) is object.__repr__:  # it tells an address
        return written_out(type(value))
    return repr(value)
