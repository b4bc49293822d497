"""Parameters cut into slices that several servers hold: the log of recipes, and what a shard does with it.

One server, the *coordinator*, decides as ever and holds no parameters: of each version it writes down the
recipe. What stands for the parameters in its answers is a `Mark`, a version and the recipes that shards may
not have applied yet. Learners bring where their rounds ended to the shards, slice by slice, before they tell
the coordinator, and then fetch the version of its answer. So coordinator and shards never talk to each other.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from skdist.compression import Change
from skdist.control.aggregation import InverseVolatility
from skdist.messages import Update
from skdist.parameters import Stage, Values
from skdist.recipes import Pending, Recipe, Versions


class Source(NamedTuple):
    """Which update of which execution of a visit, as `skdist.messages.Update` has it."""

    visit: int
    attempt: str
    start: int

    @classmethod
    def of(cls, update: Update) -> Source:
        """Return that of an update."""
        return cls(update.visit, update.attempt, update.start)


class Entry(NamedTuple):
    """A recipe in the log.

    Attributes
    ----------
    recipe : Recipe
        How the version is made.
    sources : tuple of Source
        Of which updates.
    bases : tuple of int
        The versions that these began at.
    """

    recipe: Recipe
    sources: tuple[Source, ...]
    bases: tuple[int, ...]


class Mark(NamedTuple):
    """What stands for the parameters where shards hold them.

    Attributes
    ----------
    version : int
        Which ones.
    shape : tuple of int
        Of all of them.
    dtype : dtype
        Likewise.
    log : tuple of Entry
        The recipes that shards may not have applied yet, up to this version.
    answered : mapping of tuple to int
        By execution of a visit that is under way, its number and its name: the version of its last answer.
    waiting : mapping of Source to int
        The updates that were taken in and are not applied, and the versions that they began at.
    cut : tuple of int
        Number and version of the latest stage that shards keep for whoever collects it; the numbers rise.
    """

    version: int
    shape: tuple[int, ...]
    dtype: np.dtype
    log: tuple[Entry, ...]
    answered: Mapping[tuple[int, str], int]
    waiting: Mapping[Source, int]
    cut: tuple[int, int]


class Answered(Protocol):
    """Knows the executions of visits; see `skdist.attempts.Attempts`."""

    def answered(self) -> Mapping[tuple[int, str], int]:
        """Return the version of the last answer of each that is under way."""
        ...


class RecipeLog(Versions):
    """Stands for the parameters at the coordinator: knows their version and how shards come to it.

    Parameters
    ----------
    state : ndarray
        Of the shape and the dtype of the parameters; it is not kept.
    clock, aggregator, momentum
        As in `skdist.recipes.Versions`.

    Attributes
    ----------
    nbytes : int
        Bytes that a version takes to be made here.
    """

    nbytes = 0

    def __init__(
        self,
        state: np.ndarray,
        clock: float = 0.0,
        aggregator: InverseVolatility | None = None,
        momentum: float = 0.0,
    ) -> None:
        super().__init__(clock, aggregator, momentum)
        self._shape, self._dtype = state.shape, state.dtype
        self._log: list[Entry] = []
        self._cut = (0, 0)

    def handed(self, attempts: Answered, pending: Collection[Pending]) -> Mark:
        """Return what an answer carries.

        Parameters
        ----------
        attempts : Attempts
            The executions of visits.
        pending : collection of Pending
            Updates that are not applied.
        """
        waiting = {Source.of(item.update): item.version for item in pending}
        return Mark(
            self.version, self._shape, self._dtype, tuple(self._log), attempts.answered(), waiting, self._cut
        )

    def stage(self, attempts: Answered, pending: Collection[Pending]) -> Stage:
        """Return where the parameters stand, which shards keep until the next stage; as in `handed`."""
        self._cut = self._cut[0] + 1, self.version
        return Stage(self.handed(attempts, pending), None, self.version, self.clock)

    def go_on(self, stage: Stage) -> None:
        """Go on from where others stood."""
        self.version, self.clock = stage.version, stage.clock

    def apply(self, pending: Sequence[Pending], learners: int, share: float) -> Sequence[float]:
        """Decide on the next version of some updates; return the weight of each; as in `decide`."""
        recipe, weights = self.decide(pending, learners, share)
        bases = tuple([item.version for item in pending])
        # Whoever began at a version had fetched it from all shards.
        known = max(bases)
        self._log = [entry for entry in self._log if entry.recipe.version > known]
        self._log.append(Entry(recipe, tuple([Source.of(item.update) for item in pending]), bases))
        return weights


class Shard:
    """A slice of the parameters, and what recipes that come later are made of.

    It applies recipes when somebody asks for a version that they make. Its methods are safe to call from
    several threads. Arrays are replaced, never written to.

    Parameters
    ----------
    stage : Stage
        Of the slice: state of shape (n_members, n_columns), velocity of shape (1, n_columns) or None.
    statistics : bool
        As in `skdist.parameters.Values`.
    """

    def __init__(self, stage: Stage, statistics: bool) -> None:
        self._values = Values(stage.state, stage.velocity, statistics)
        self._version = stage.version
        self._states = {stage.version: stage.state}
        self._ends: dict[Source, tuple[int, np.ndarray | Change]] = {}
        self._kept: tuple[int, Stage | None] = (0, None)
        self._lock = threading.Lock()

    def upload(self, source: Source, base: int, end: np.ndarray | Change) -> None:
        """Take in where an update ended that the coordinator does not know of yet.

        Parameters
        ----------
        source : Source
            Which one.
        base : int
            The version that it began at.
        end : ndarray of shape (n_members, n_columns) or Change
            Where it ended, or how that differs from where it began.
        """
        self._ends[source] = base, end  # without the lock: whoever has it may be at work for long

    def fetch(self, mark: Mark) -> np.ndarray | None:
        """Return the slice of a version.

        Returns
        -------
        ndarray of shape (n_members, n_columns) or None
            None where the execution of a visit that asks is over, so that its answers are not kept.
        """
        with self._lock:
            self._catch_up(mark)
            return self._states.get(mark.version)

    def collect(self, mark: Mark) -> Stage:
        """Return the stage that is kept, of the number in the mark; its clock is not known here.

        Raises
        ------
        LookupError
            Where a later one has replaced it.
        """
        with self._lock:
            self._catch_up(mark)
            number, stage = self._kept
            if stage is None or number != mark.cut[0]:
                raise LookupError(f"Stage {mark.cut[0]} was replaced by {number}.")
            return stage

    def _catch_up(self, mark: Mark) -> None:
        for entry in mark.log:
            if entry.recipe.version == self._version + 1:
                self._keep(mark)
                bases = [self._states[base] for base in entry.bases]
                ends = [self._ends.pop(source)[1] for source in entry.sources]
                whole = [
                    end.on(base) if isinstance(end, Change) else end
                    for end, base in zip(ends, bases, strict=True)
                ]
                self._values.apply(entry.recipe, whole, bases)
                self._version += 1
                self._states[self._version] = self._values.state
        self._keep(mark)
        self._forget(mark)

    def _keep(self, mark: Mark) -> None:
        number, version = mark.cut
        if number > self._kept[0] and version == self._version:
            self._kept = number, Stage(self._values.state, self._values.lend(), version, float("nan"))

    def _forget(self, mark: Mark) -> None:
        """Drop what nobody can ask for any more.

        A mark may be older than what is here: it tells nothing of executions that were answered at its
        version or a later one. Those that were answered before are in it, or over.
        """
        needed = {*mark.answered.values(), *mark.waiting.values()}
        for version in [old for old in self._states if old < mark.version and old not in needed]:
            del self._states[version]
        for source, (base, _) in list(self._ends.items()):
            over = source[:2] not in mark.answered and source not in mark.waiting
            if over and base < mark.version:
                self._ends.pop(source, None)


def n_shards(n_servers: int, state: np.ndarray) -> int:
    """Return how many shards hold a state: none has less than a column, and one alone is no shard."""
    count = min(n_servers, state[0].size)
    return count if count > 1 else 0


def slices(shape: tuple[int, ...], count: int) -> list[slice]:
    """Return the columns of each of some shards, of a state as (n_members, n_columns)."""
    columns = int(np.prod(shape[1:]))
    bounds = [columns * number // count for number in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def cut(values: np.ndarray, columns: slice) -> np.ndarray:
    """Return a slice of a state or of a velocity, as an array of two dimensions that is C-contiguous."""
    return np.ascontiguousarray(values.reshape(len(values), -1)[:, columns])


def cut_update(end: np.ndarray | Change, columns: slice, n_columns: int) -> np.ndarray | Change:
    """Return the slice of where an update ended, as `cut`, or of how that differs from where it began."""
    return end.cut(columns, n_columns) if isinstance(end, Change) else cut(end, columns)


def cut_stage(stage: Stage, number: int, count: int) -> Stage:
    """Return the slice of a stage that shard ``number`` of ``count`` begins with."""
    columns = slices(stage.state.shape, count)[number]
    velocity = None if stage.velocity is None else cut(stage.velocity, columns)
    return stage._replace(state=cut(stage.state, columns), velocity=velocity)


def joined_stage(stage: Stage, parts: Sequence[Stage]) -> Stage:
    """Return a stage with the parameters that shards have kept of it, in their order."""
    mark: Any = stage.state
    velocity = None
    if parts[0].velocity is not None:
        whole = np.concatenate([part.velocity for part in parts if part.velocity is not None], axis=1)
        velocity = whole.reshape(1, *mark.shape[1:])
    state = np.concatenate([part.state for part in parts], axis=1).reshape(mark.shape)
    return stage._replace(state=state, velocity=velocity)
