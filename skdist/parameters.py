"""The parameters of the model: what a recipe makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skdist.control.aggregation import InverseVolatility
from skdist.models.arithmetic import add_difference, add_velocity, mean_of
from skdist.models.spares import Spares
from skdist.recipes import Pending, Recipe, Versions


class Stage(NamedTuple):
    """Where parameters stand: all that their next version depends on.

    Attributes
    ----------
    state : ndarray or Mark
        The parameters; a mark says where they are in shards.
    velocity : ndarray or None
        Of the momentum.
    version : int
        How often they were replaced.
    clock : float
        Sequential steps made.
    """

    state: Any
    velocity: np.ndarray | None
    version: int
    clock: float


class Values:
    """Parameters, or a slice of them, and their velocity.

    States are replaced, never written to: what was handed out stays as it was.

    Parameters
    ----------
    state : ndarray of shape (n_members, ...)
        To begin with.
    velocity : ndarray of shape (1, ...) or None
        Of the momentum. It moves ``state[0]``, the iterate. A running average, ``state[1]``, follows the
        iterates by itself: with a velocity of its own it would overshoot them.
    statistics : bool
        Whether the members after the first are statistics, such as variances, of which only means make sense.
    """

    def __init__(self, state: np.ndarray, velocity: np.ndarray | None, statistics: bool) -> None:
        self.state = state
        self._moved = 1 if statistics else len(state)
        self._velocity = velocity
        self._spares = Spares()
        self._lent = True  # somebody else may hold the velocity

    def lend(self) -> np.ndarray | None:
        """Return the velocity, which stays as it is from then on."""
        self._lent = True
        return self._velocity

    def apply(self, recipe: Recipe, ends: Sequence[np.ndarray], bases: Sequence[np.ndarray]) -> None:
        """Make the version of a recipe from where its updates ended and began, in its order."""
        present, end, moved, factors = self.state, ends[0], self._moved, recipe.factors
        if recipe.copies:
            # The mean of the copies themselves: equal ones stay as they are, and a single one is sequential
            # training to the bit.
            self.state = end
            for other, factor in zip(ends[1:], factors[1:], strict=True):
                mean = self._spares.empty_like(present)
                add_difference(mean[:moved], self.state[:moved], other[:moved], end[:moved], factor)
                self.state = mean
            self._velocity = None
        else:
            self.state = self._spares.empty_like(present)
            out, start = self.state[:moved], present[:moved]
            for each, base, factor in zip(ends, bases, factors, strict=True):
                add_difference(out, start, each[:moved], base[:moved], factor)
                start = out
            if recipe.momentum:
                add_velocity(self.state[:1], present[:1], self._own_velocity(), recipe.momentum)
        if moved < len(present) and self.state is not end:
            self.state[moved:] = mean_of(present[moved:], [each[moved:] for each in ends], factors)

    def _own_velocity(self) -> np.ndarray:
        if self._velocity is None:
            self._velocity = np.zeros_like(self.state[:1])
        elif self._lent:
            self._velocity = self._velocity.copy()
        self._lent = False
        return self._velocity


class Parameters(Versions):
    """All parameters in one place.

    Parameters
    ----------
    state : ndarray
        To begin with.
    clock, aggregator, momentum
        As in `skdist.recipes.Versions`.
    statistics : bool
        As in `Values`.
    """

    def __init__(
        self,
        state: np.ndarray,
        clock: float = 0.0,
        aggregator: InverseVolatility | None = None,
        momentum: float = 0.0,
        statistics: bool = False,
    ) -> None:
        super().__init__(clock, aggregator, momentum)
        self._statistics = statistics
        self._values = Values(state, None, statistics)

    @property
    def state(self) -> np.ndarray:
        """Present parameters."""
        return self._values.state

    @property
    def nbytes(self) -> int:
        """Bytes that a version takes to be made."""
        return self._values.state.nbytes

    def handed(self, *_: Any) -> np.ndarray:
        """Return what an answer carries: the present parameters."""
        return self._values.state

    def stage(self, *_: Any) -> Stage:
        """Return where they stand."""
        return Stage(self._values.state, self._values.lend(), self.version, self.clock)

    def go_on(self, stage: Stage) -> None:
        """Go on from where others stood."""
        self._values = Values(stage.state, stage.velocity, self._statistics)
        self.version, self.clock = stage.version, stage.clock

    def apply(self, pending: Sequence[Pending], learners: int, share: float) -> Sequence[float]:
        """Make the next version of some updates; return the weight of each; parameters as in `decide`."""
        recipe, weights = self.decide(pending, learners, share)
        self._values.apply(recipe, [item.end for item in pending], [item.base for item in pending])
        return weights
