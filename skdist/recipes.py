"""How updates become the next version of the parameters: the decision, which needs no arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from skdist.control.aggregation import InverseVolatility, uniform_weights
from skdist.messages import Update


class Pending(NamedTuple):
    """An update that was taken in and is not applied yet.

    Attributes
    ----------
    update : Update
        How a round went.
    end, base : ndarray
        Where it ended and where it began; of no use where shards hold the parameters.
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
    version : int
        Where it began.
    """

    update: Update
    end: Any
    base: Any
    scale: float
    staleness: float
    learner: str
    order: tuple[int, ...]
    seconds: float = 0.0
    epoch: int = 0
    version: int = 0


class Recipe(NamedTuple):
    """How a version is made of the one before and of some updates.

    Attributes
    ----------
    version : int
        That it makes.
    factors : tuple of float
        Of each update, in the order in which they are added up: its weight times its rate scale.
    momentum : float
        Nesterov's.
    copies : bool
        Whether the next version is the mean of where the updates ended: all of them began at the present one.
    """

    version: int
    factors: tuple[float, ...]
    momentum: float
    copies: bool


class Versions:
    """Numbers the versions of the parameters and decides how the next one is made.

    Parameters
    ----------
    clock : float
        Sequential steps made before.
    aggregator : InverseVolatility or None
        Weighs updates that are applied together; None weighs them equally.
    momentum : float
        Nesterov's, at most ``1 - 1/n`` for n learners: the mean of n learners moves n times less per row than
        one learner, and momentum ``m`` gives a factor ``1 / (1 - m)`` of that back.

    Attributes
    ----------
    version : int
        How often the parameters were replaced.
    clock : float
        Sequential steps made: each update counts its steps times its weight and its rate scale.

    Notes
    -----
    The momentum of means of rounds is the outer optimizer of Douillard et al. (2023, arXiv:2311.08105).
    """

    def __init__(
        self, clock: float = 0.0, aggregator: InverseVolatility | None = None, momentum: float = 0.0
    ) -> None:
        self.version, self.clock = 0, clock
        self._aggregator, self._momentum = aggregator, momentum

    def decide(
        self, pending: Sequence[Pending], learners: int, share: float
    ) -> tuple[Recipe, Sequence[float]]:
        """Return how the next version is made of some updates, and the weight of each.

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
        timed = all(item.version == self.version and item.scale == 1.0 for item in pending)
        self.version += 1
        for item, weight in zip(pending, weights, strict=True):
            self.clock += weight * item.scale * item.update.steps
        factors = tuple([weight * item.scale for item, weight in zip(pending, weights, strict=True)])
        return Recipe(self.version, factors, momentum, timed and share == 1.0 and not momentum), weights
