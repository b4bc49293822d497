"""Learning rate schedules: the step size as a function of the steps made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval

from skdist.control.stopping import CUT

#: What the kernels branch on.
CONSTANT, INVERSE_TIME, INVERSE_POWER, LATE_DECAY = 0, 1, 2, 3
PASSIVE_AGGRESSIVE_1, PASSIVE_AGGRESSIVE_2 = 4, 5

#: 'adaptive' rates are cut until they are no more than this.
LEAST_ADAPTIVE = 1e-6

#: Passes of all learners until the steps of `AutoRate` begin to shrink, but as many steps of each as these
#: passes of one learner have, and steps at least: steps that shrink make the training loss fall a little, so
#: that fits of small data, checked once per pass, would not stop.
CONSTANT_PASSES, LEAST_PASSES, CONSTANT_STEPS = 16.0, 4.0, 1024.0

#: How fast they shrink: averages need a power between 1/2 and 1 (Polyak and Juditsky, 1992).
LATE_POWER = 0.75


@dataclass(frozen=True, slots=True)
class Schedule:
    """The step size after ``t`` steps.

    Attributes
    ----------
    code : int
        ``CONSTANT``: ``eta0``; ``INVERSE_TIME``: ``eta0 t0 / (t0 + t)``; ``INVERSE_POWER``:
        ``eta0 / (1 + t)^power``; ``LATE_DECAY``: ``eta0 min(1, (t0 / t)^(3/4))``; passive-aggressive ones:
        a step of its own for each row, see `skdist.models.kernels`.
    eta0 : float
        The first step size.
    parameter : float
        ``t0`` or ``power``.
    adaptive : bool
        Whether features are scaled by their moments (`AutoRate`).
    average_from : float
        Steps before averaging starts; ``inf`` for none.
    cuts : int
        How often the rate is cut where training settles, before that is the end.
    """

    code: int
    eta0: float
    parameter: float = 0.0
    adaptive: bool = False
    average_from: float = np.inf
    cuts: int = 0

    def decay(self, t: float) -> float:
        """Return ``eta_0 / eta_t``."""
        if self.code == INVERSE_TIME:
            return 1.0 + t / self.parameter
        if self.code == INVERSE_POWER:
            return float((1.0 + t) ** self.parameter)
        if self.code == LATE_DECAY:
            return float(max(t / self.parameter, 1.0) ** LATE_POWER)
        return 1.0


@dataclass(frozen=True, slots=True)
class PassSchedule:
    """The step size of scikit-learn's perceptrons for 'invscaling', which falls at the end of each pass.

    Attributes
    ----------
    rows : int
        Of a pass: the step size is the first one divided by ``(1 + r)^power`` after ``r`` rows.
    steps : int
        Mini-batch steps of a pass.
    power : float
        The exponent.
    """

    rows: int
    steps: int
    power: float
    adaptive: ClassVar[bool] = False
    cuts: ClassVar[int] = 0

    def decay(self, t: float) -> float:
        """Return ``eta_0 / eta_t``."""
        return float((1.0 + self.rows * (t // self.steps)) ** self.power)


class AutoRate(BaseEstimator):
    """A step size from the data: nothing to tune, no need to standardise.

    Features are centred and scaled inside the step by their first and second moments, and the step size
    is the inverse of the curvature that the mean squared row norm then bounds::

        eta = scale / (L n) * min(1.5 / (a p v mean(w)), b/8 mean(w) / (u mean(w^2)), 1.5 b / max(w))
        n = mean_i (1 + sum_j scale_j (x_ij - center_j)^2)

    with the curvature ``L`` of the loss (1/4 for log_loss), sample weights ``w``, ``b`` rows in a step, the
    alignment ``a`` of the features, the share of the norm ``n`` that may lie in one direction, ``p``, how
    many times as steep as all rows together the steepest partition is (more than 1 where rows are sorted),
    and ``v``, the share of the curvature that the labels leave (``skdist.models.targets``): 1 for balanced
    ones. The first bound keeps steps stable, the second their noise low (``b/16`` for sparse rows), the third
    holds for the heaviest row alone. Noise lowers the probability of a rare class, so that ``u`` is 1, and
    ``v`` only where there are several classes, whose probabilities are normalised. The model is the running
    average of the iterates, so no horizon has to be known: the step is constant for sixteen passes, less with
    several learners, by when most fits are done, and then shrinks as ``t^(-3/4)``, so that long ones come to
    the minimum.

    Parameters
    ----------
    scale : float, default=1.0
        Multiplies the step size. Up to about 1.3 leaves the bounds of stability.

    Notes
    -----
    Constant steps with averaging: Bach and Moulines (2013, arXiv:1306.2119); the weights of the
    average: Shamir and Zhang (2013, arXiv:1212.1824).

    Examples
    --------
    >>> AutoRate(scale=2.0).step_size(curvature=0.25, mean_square_norm=101.0, alignment=1.0, batch_size=64)
    0.118...
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {"scale": [Interval(Real, 0, None, closed="neither")]}

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def step_size(
        self,
        curvature: float,
        mean_square_norm: float,
        alignment: float,
        batch_size: int,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        spread: float = 1.0,
        sparse: bool = False,
        steepness: float = 1.0,
        several: bool = False,
    ) -> float:
        """Return ``eta``.

        Parameters
        ----------
        curvature : float
            Bound of the second derivative of the loss in the raw prediction.
        mean_square_norm : float
            Mean of the squared norms of the scaled rows, intercept included.
        alignment : float
            Share of the norm that may lie in one direction, in (0, 1].
        batch_size : int
            Rows of a step.
        weights : tuple of float
            Mean, mean square and maximum of the sample weights.
        spread : float
            Share of the curvature that the labels leave on average, in (0, 1].
        sparse : bool
            Whether few rows have each feature: the noise of its steps is then twice what all rows suggest.
        steepness : float
            How many times as steep as all rows together the steepest partition is, at least 1.
        several : bool
            Whether the problem is one of several for the same rows, whose probabilities are normalised.
        """
        mean, square, most = weights
        stable, quiet = (
            1.5 / (alignment * steepness * mean),
            batch_size / (16 if sparse else 8) * mean / square,
        )
        bounds = stable / spread, quiet / (spread if several else 1.0), 1.5 * batch_size / most
        return self.scale * min(bounds) / (curvature * mean_square_norm)


def named_schedule(
    name: str, *, eta0: float, power_t: float, alpha: float, average_from: float, longest: float = math.inf
) -> Schedule:
    """Return what scikit-learn's names mean, with t counting mini-batch steps.

    Parameters
    ----------
    name : {'constant', 'adaptive', 'optimal', 'invscaling', 'pa1', 'pa2'}
        ``eta0``; the same, divided by 5 whenever training settles; ``1 / (alpha (t0 + t))`` with Bottou's t0;
        ``eta0 / t^power_t``; passive-aggressive.
    eta0, power_t, alpha : float
        As in `sklearn.linear_model.SGDClassifier`.
    average_from : float
        Steps before averaging starts; ``inf`` for none.
    longest : float
        At most the first step of 'optimal', which knows nothing of the data.
    """
    if name == "optimal":
        if alpha == 0:
            raise ValueError(
                "learning_rate='optimal' needs alpha > 0: its step size is 1 / (alpha (t0 + t))."
            )
        first = min(float(np.sqrt(1.0 / np.sqrt(alpha))), longest)
        return Schedule(INVERSE_TIME, first, 1.0 / (first * alpha), average_from=average_from)
    if name == "invscaling":
        return Schedule(INVERSE_POWER, float(eta0), float(power_t), average_from=average_from)
    if name == "adaptive":
        cuts = max(math.ceil(math.log(eta0 / LEAST_ADAPTIVE) / math.log(CUT)), 0)
        return Schedule(CONSTANT, float(eta0), average_from=average_from, cuts=cuts)
    passive = {"pa1": PASSIVE_AGGRESSIVE_1, "pa2": PASSIVE_AGGRESSIVE_2}
    return Schedule(passive.get(name, CONSTANT), float(eta0), average_from=average_from)
