"""The parameters of the model, and how updates become their next version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from skdist.control.aggregation import InverseVolatility, uniform_weights
from skdist.messages import Update
from skdist.models.arithmetic import add_difference, add_velocity, mean_of


class Pending(NamedTuple):
    """An update that was taken in and is not applied yet.

    Attributes
    ----------
    update : Update
        How a round went.
    end : ndarray
        Where it ended.
    base : ndarray
        Where it began.
    scale : float
        Its rate scale.
    staleness : float
        Versions that others made meanwhile.
    learner : str
        Who sent it.
    order : tuple of int
        Updates are added up in this order, which does not depend on timing.
    seconds : float
        When it was taken in, since the start of the fit.
    epoch : int
        Of its rows.
    """

    update: Update
    end: np.ndarray
    base: np.ndarray
    scale: float
    staleness: float
    learner: str
    order: tuple[int, ...]
    seconds: float = 0.0
    epoch: int = 0


class Stage(NamedTuple):
    """Where parameters stand: all that their next version depends on.

    Attributes
    ----------
    state : ndarray
        The parameters.
    velocity : ndarray or None
        Of the momentum.
    version : int
        How often they were replaced.
    clock : float
        Sequential steps made.
    """

    state: np.ndarray
    velocity: np.ndarray | None
    version: int
    clock: float


class Parameters:
    """A state, its version and the sequential steps behind it.

    States are replaced, never written to: what was handed out stays as it was.

    Parameters
    ----------
    state : ndarray
        To begin with.
    clock : float
        Sequential steps made before.
    aggregator : InverseVolatility or None
        Weighs updates that are applied together; None weighs them equally.
    momentum : float
        Nesterov's, at most ``1 - 1/n`` for n learners: the mean of n learners moves n times less per row than
        one learner, and momentum ``m`` gives a factor ``1 / (1 - m)`` of that back. It moves ``state[0]``,
        the iterate. A running average, ``state[1]``, follows the iterates by itself: with a velocity of its
        own it would overshoot them.
    statistics : bool
        Whether the members after the first are statistics, such as variances, of which only means make sense.

    Attributes
    ----------
    state : ndarray
        Present parameters.
    version : int
        How often they were replaced.
    clock : float
        Sequential steps made: each update counts its steps times its weight and its rate scale.

    Notes
    -----
    The momentum of means of rounds is the outer optimizer of Douillard et al. (2023, arXiv:2311.08105).
    """

    def __init__(
        self,
        state: np.ndarray,
        clock: float = 0.0,
        aggregator: InverseVolatility | None = None,
        momentum: float = 0.0,
        statistics: bool = False,
    ) -> None:
        self.state, self.clock, self.version = state, clock, 0
        self._aggregator, self._momentum = aggregator, momentum
        self._moved = 1 if statistics else len(state)
        self._velocity: np.ndarray | None = None

    @property
    def stage(self) -> Stage:
        """Where they stand."""
        # The velocity, unlike states, is written to.
        velocity = None if self._velocity is None else self._velocity.copy()
        return Stage(self.state, velocity, self.version, self.clock)

    def go_on(self, stage: Stage) -> None:
        """Go on from where others stood."""
        self.state, self.version, self.clock = stage.state, stage.version, stage.clock
        self._velocity = None if stage.velocity is None else stage.velocity.copy()

    def apply(self, pending: Sequence[Pending], learners: int, share: float) -> Sequence[float]:
        """Make the next version of some updates; return the weight of each.

        A round of H steps has moved H times already, so that updates weigh the same however many steps they
        are, unless the aggregator weighs them by their volatility. Steps divide by the size of a full
        mini-batch: short ones count by their share, and every row alike.

        Parameters
        ----------
        pending : sequence of Pending
            At least one.
        learners : int
            Learners at work, or updates of a full collection.
        share : float
            Sum of the weights: the part of a full collection that the updates are.
        """
        if self._aggregator is None:
            weights = uniform_weights(len(pending))
        else:
            weights = self._aggregator.weights([item.update.volatility for item in pending])
        weights = [share * weight for weight in weights]
        # A velocity that late updates have a part in must not last: they would go on being late.
        timely = sum([1 / (1 + item.staleness) for item in pending]) / len(pending)
        momentum = min(self._momentum, 1 - 1 / learners) * timely
        present, first, moved = self.state, pending[0], self._moved
        timed = all(item.base is present and item.scale == 1.0 for item in pending)
        if timed and share == 1.0 and not momentum:
            # The mean of the copies themselves: equal ones stay as they are, and a single one is sequential
            # training to the bit.
            self.state = first.end
            for item, weight in zip(pending[1:], weights[1:], strict=True):
                mean = np.empty_like(present)
                add_difference(mean[:moved], self.state[:moved], item.end[:moved], first.end[:moved], weight)
                self.state = mean
            self._velocity = None
        else:
            self.state = np.empty_like(present)
            out, start = self.state[:moved], present[:moved]
            for item, weight in zip(pending, weights, strict=True):
                add_difference(out, start, item.end[:moved], item.base[:moved], weight * item.scale)
                start = out
            if momentum:
                if self._velocity is None:
                    self._velocity = np.zeros_like(present[:1])
                add_velocity(self.state[:1], present[:1], self._velocity, momentum)
        if moved < len(present) and self.state is not first.end:
            factors = [weight * item.scale for item, weight in zip(pending, weights, strict=True)]
            self.state[moved:] = mean_of(present[moved:], [item.end[moved:] for item in pending], factors)
        self.version += 1
        for item, weight in zip(pending, weights, strict=True):
            self.clock += weight * item.scale * item.update.steps
        return weights
