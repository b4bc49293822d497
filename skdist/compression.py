"""Compression of updates: what a learner sends instead of all numbers, and what it keeps for the next one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Protocol

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval


class Payload(Protocol):
    """A vector in fewer bits.

    Attributes
    ----------
    nbytes : int
        Size of its arrays.
    """

    @property
    def nbytes(self) -> int: ...  # noqa: D102

    def add_to(self, vector: np.ndarray) -> None:
        """Add what it stands for to a vector, in place."""
        ...

    def cut(self, part: slice) -> Payload:
        """Return the same of a part of the vector."""
        ...


#: Entries that are worked on at once, so that what is computed on the way stays in the cache.
BLOCK = 1 << 13


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, size, BLOCK))


@dataclass(frozen=True)
class Halves:
    """Numbers of 16 bits each, in units of a power of two.

    Attributes
    ----------
    bits : ndarray of shape (n,), uint16
        Of float16, or the upper half of float32.
    scale : float
        The power of two, for float16.
    brain : bool
        Whether they are bfloat16.
    """

    bits: np.ndarray
    scale: float
    brain: bool

    @property
    def nbytes(self) -> int:
        """Size of its arrays."""
        return self.bits.nbytes

    def add_to(self, vector: np.ndarray) -> None:
        """Add what it stands for to a vector, in place."""
        for block in _blocks(len(vector)):
            values: np.ndarray
            if self.brain:
                values = (self.bits[block].astype(np.uint32) << np.uint32(16)).view(np.float32)
            else:
                values = self.bits[block].view(np.float16) * np.float32(self.scale)
            vector[block] += values

    def cut(self, part: slice) -> Halves:
        """Return the same of a part of the vector."""
        return Halves(self.bits[part], self.scale, self.brain)


@dataclass(frozen=True)
class Entries:
    """Some entries of a vector; the others are zero.

    Attributes
    ----------
    positions : ndarray of shape (k,), uint32 or int64
        Ascending.
    values : ndarray of shape (k,)
        At these positions.
    """

    positions: np.ndarray
    values: np.ndarray

    @property
    def nbytes(self) -> int:
        """Size of its arrays."""
        return self.positions.nbytes + self.values.nbytes

    def add_to(self, vector: np.ndarray) -> None:
        """Add what it stands for to a vector, in place."""
        vector[self.positions] += self.values

    def cut(self, part: slice) -> Entries:
        """Return the same of a part of the vector."""
        inside = slice(*np.searchsorted(self.positions, (part.start, part.stop)))
        return Entries(self.positions[inside] - self.positions.dtype.type(part.start), self.values[inside])


class HalfPrecision(BaseEstimator):
    """Send updates in 16 bits for each parameter.

    For float16 the largest entry is scaled to between 1 and 2 by a power of two, which is sent along: nothing
    is lost to overflow, and what is too small waits for the next update.

    Parameters
    ----------
    brain : bool, default=False
        Whether the numbers are bfloat16, of 8 bits of precision and the range of float32, and not float16, of
        11 bits.

    Examples
    --------
    >>> HalfPrecision().encode(np.ones(1_000, dtype=np.float32)).nbytes
    2000
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {"brain": ["boolean"]}

    def __init__(self, brain: bool = False) -> None:
        self.brain = brain

    def encode(self, change: np.ndarray) -> Halves:
        """Return a finite vector in 16 bits for each entry, rounded to the nearest."""
        bits = np.empty(len(change), np.uint16)
        if self.brain:
            for block in _blocks(len(change)):
                whole = change[block].astype(np.float32).view(np.uint32)
                odd = (whole >> np.uint32(16)) & np.uint32(1)  # ties go to the even one
                bits[block] = (whole + np.uint32(0x7FFF) + odd) >> np.uint32(16)
            return Halves(bits, 1.0, brain=True)
        largest = float(max(change.max(), -change.min()))
        # A power of two of float32, so that to multiply and to divide are exact.
        scale = math.ldexp(1.0, min(max(math.frexp(largest)[1] - 1, -126), 126)) if largest else 1.0
        halves = bits.view(np.float16)
        for block in _blocks(len(change)):
            halves[block] = change[block] / np.float32(scale)
        return Halves(bits, scale, brain=False)


class TopK(BaseEstimator):
    """Send the entries of an update that are the largest in magnitude.

    Parameters
    ----------
    share : float, default=0.05
        Of the entries, in (0, 1]; at least one is sent. Each takes 8 bytes, its position included, where all
        of them would take 4 bytes each.

    Notes
    -----
    Aji and Heafield (2017, arXiv:1704.05021); the feedback of what is left out: Stich, Cordonnier and Jaggi
    (2018, arXiv:1809.07599), and for updates of several local steps Basu et al. (2019, arXiv:1906.02367).

    Examples
    --------
    >>> TopK(share=0.01).encode(np.arange(1_000, dtype=np.float32)).positions
    array([990, 991, 992, 993, 994, 995, 996, 997, 998, 999], dtype=uint32)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {"share": [Interval(Real, 0, 1, closed="right")]}

    def __init__(self, share: float = 0.05) -> None:
        self.share = share

    def encode(self, change: np.ndarray) -> Entries:
        """Return the largest entries of a vector.

        Parameters
        ----------
        change : ndarray of shape (n_parameters,)
            Finite, float32.
        """
        first = len(change) - max(math.ceil(self.share * len(change)), 1)
        magnitudes = np.abs(change)
        least = np.partition(magnitudes, first)[first]
        chosen = np.flatnonzero(magnitudes >= least)
        surplus = first - (len(change) - len(chosen))
        if surplus:  # of entries that are as large as the least
            ties = np.flatnonzero(magnitudes[chosen] == least)
            chosen = np.delete(chosen, ties[len(ties) - surplus :])
        narrow = np.uint32 if len(change) <= np.iinfo(np.uint32).max else np.int64
        return Entries(chosen.astype(narrow), change[chosen])


Codec = HalfPrecision | TopK

#: Codecs by name.
CODECS: dict[str, Callable[[], Codec]] = {
    "float16": HalfPrecision,
    "bfloat16": lambda: HalfPrecision(brain=True),
    "topk": TopK,
}


def codec_of(compression: str | Codec | None) -> Codec | None:
    """Return the codec of a setting, None for none.

    Raises
    ------
    sklearn.utils._param_validation.InvalidParameterError
        Where a parameter of it is out of its range.
    """
    codec = CODECS[compression]() if isinstance(compression, str) else compression
    if codec is not None:
        codec._validate_params()
    return codec


@dataclass(frozen=True)
class Change:
    """How a state differs from one that both sides know.

    Attributes
    ----------
    payload : Payload
        Of the change of its first member, the parameters.
    rest : ndarray of shape (n,)
        Its further members one after the other, as they are and without the zeros at their end: statistics,
        few and not to be rounded.
    """

    payload: Payload
    rest: np.ndarray

    @property
    def nbytes(self) -> int:
        """Size of its arrays."""
        return self.payload.nbytes + self.rest.nbytes

    def on(self, base: np.ndarray) -> np.ndarray:
        """Return the state that differs so from ``base``."""
        state = np.empty_like(base)
        state[0] = base[0]
        self.payload.add_to(state[0])
        further = state[1:].reshape(-1)
        further[: len(self.rest)] = self.rest
        further[len(self.rest) :] = 0
        return state

    def cut(self, part: slice, n_parameters: int) -> Change:
        """Return how a part of the parameters differs, of each member that there is."""
        members = -(-len(self.rest) // n_parameters)
        rest = np.zeros((members, n_parameters), self.rest.dtype)
        rest.reshape(-1)[: len(self.rest)] = self.rest
        return Change(self.payload.cut(part), rest[:, part].reshape(-1))


class Feedback:
    """Compresses the updates of one learner, and keeps what each leaves out for the next one.

    What is left out, the *residual*, stays in the learner's own copy of the parameters: it trains on from
    there, and its next update holds it. Only the residual of updates that were taken in is kept. The rows of
    another one are trained on again, by whoever does, and must count once.

    Parameters
    ----------
    codec : HalfPrecision or TopK
        How.

    Attributes
    ----------
    residual : ndarray of shape (n_parameters,) or None
        None while nothing is left out.
    """

    def __init__(self, codec: Codec) -> None:
        self.residual: np.ndarray | None = None
        self._codec = codec
        self._left: np.ndarray | None = None

    def restore(self, state: np.ndarray) -> None:
        """Make the residual part of the parameters that a visit starts from, in place."""
        if self.residual is not None:
            state[0] += self.residual

    def compressed(self, end: np.ndarray, base: np.ndarray) -> tuple[Change, np.ndarray]:
        """Return an update from ``base`` to ``end``, and the state that the server makes of it."""
        rest = end[1:].reshape(-1)
        filled = np.flatnonzero(rest)
        rest = rest[: filled[-1] + 1 if len(filled) else 0]
        change = Change(self._codec.encode(end[0] - base[0]), rest)
        arrived = change.on(base)
        self._left = end[0] - arrived[0]
        return change, arrived

    def whole(self) -> None:
        """Take in that the next update leaves nothing out."""
        self._left = None

    def taken_in(self) -> None:
        """Take in that the last update was."""
        self.residual = self._left

    def forget(self) -> None:
        """Take in that updates that were taken in may come again: nothing of them must count twice."""
        self.residual = None
