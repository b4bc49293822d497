"""The settings of a fit, as the parameters of an estimator ask for them."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from skdist.compression import codec_of
from skdist.control.aggregation import InverseVolatility
from skdist.fitting import FitSettings
from skdist.models.validation import HoldOut


def fit_settings(
    estimator: Any, *, max_iter: int, tol: float | None, seed: int, holds_out: bool
) -> FitSettings:
    """Return the settings of one fit.

    Parameters
    ----------
    estimator : DistributedBase
        With valid parameters.
    max_iter, tol
        As in `skdist.fitting.FitSettings`; another call than `fit` has its own.
    seed : int
        Of the order of the rows.
    holds_out : bool
        Whether rows are held out to validate on.

    Raises
    ------
    ValueError
        Where parameters do not go together; the message says what to do.
    """
    e = estimator
    return FitSettings(
        adapter=e._setting("rate_adapter"),
        sizer=e._setting("batch_sizer"),
        aggregator=_aggregator(e),
        mode=e.mode,
        max_staleness=e.max_staleness,
        round_size=e.round_size,
        collect=_collected(e),
        momentum=_momentum(e),
        max_iter=max_iter,
        tol=None if e.early_stopping else tol,
        n_iter_no_change=e.n_iter_no_change,
        seed=seed,
        shuffle=e.shuffle,
        verbose=e.verbose,
        planner=e._setting("planner"),
        hold_out=HoldOut(e.validation_fraction, seed) if holds_out else None,
        codec=codec_of(getattr(e, "compression", None)),
        n_servers=e.n_servers,
    )


def seed_of(random_state: Any) -> int:
    """Return a seed; an integer is one by itself, as to make a generator takes longer than a small pass."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _applies_alone(e: Any) -> bool:
    """Return whether the server applies each update alone."""
    one = e.collect == 1 or (e.mode == "ssp" and e.collect == "auto")
    return e.mode != "sync" and bool(one)


def _collected(e: Any) -> str | int:
    if e.mode == "sync" and e.collect not in ("auto", 1):
        raise ValueError(
            f"collect={e.collect!r} is not for mode='sync', which takes one update of each learner. "
            "Use collect='auto', or mode='async'."
        )
    collect: str | int = e.collect
    return collect


def _momentum(e: Any) -> str | float:
    if _applies_alone(e) and e.server_momentum not in ("auto", 0):
        raise ValueError(
            f"server_momentum={e.server_momentum!r} is for means of updates, but mode={e.mode!r} "
            f"with collect={e.collect!r} applies each alone. Use collect='auto' in mode='async', or "
            "mode='sync'."
        )
    momentum: str | float = e.server_momentum
    return momentum


def _aggregator(e: Any) -> InverseVolatility | None:
    """Return what weighs updates that are applied together; 'auto' is method B's in sync mode."""
    aggregator: Any = e.aggregator
    if aggregator == "auto":
        aggregator = InverseVolatility() if e.mode == "sync" else None
    if aggregator is None or isinstance(aggregator, str):
        return None
    if _applies_alone(e):
        raise ValueError(
            f"aggregator={aggregator!r} weighs updates that are applied together, but mode={e.mode!r} "
            "with collect=1 applies each alone. Use mode='sync', a larger collect, or aggregator='auto'."
        )
    aggregator._validate_params()
    chosen: InverseVolatility = aggregator
    return chosen
