"""Vectors in fewer bits: half precision, and the largest entries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Protocol

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval

from skdist.exceptions import DivergedError
from skdist.models.codec_kernels import (
    add_brain,
    add_halves,
    count_magnitudes,
    largest,
    magnitudes_in,
    take_largest,
    to_brain,
    to_halves,
)
from skdist.models.compile import as_input

#: Buckets of magnitudes: the upper half of a float32 without its sign.
BUCKETS = 1 << 15

#: The first bucket of what is not finite.
INFINITE = 0x7F80

#: Rounded or sorted, what is not finite would arrive as a number.
DIVERGED = (
    "Training diverged: an update is not finite. Lower the step size, scale the features, or clip the "
    "gradients."
)


class Payload(Protocol):
    """A vector in fewer bits.

    Attributes
    ----------
    nbytes : int
        Size of its arrays.
    """

    @property
    def nbytes(self) -> int: ...  # noqa: D102

    def add_to(self, base: np.ndarray, out: np.ndarray) -> None:
        """Set ``out`` to ``base`` and what this stands for; it may be ``base``."""
        ...

    def cut(self, part: slice) -> Payload:
        """Return the same of a part of the vector."""
        ...


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

    def add_to(self, base: np.ndarray, out: np.ndarray) -> None:
        """See `Payload.add_to`."""
        bits = as_input(self.bits)
        if self.brain:
            add_brain(bits, as_input(base), out)
        else:
            add_halves(bits, np.float32(self.scale), as_input(base), out)

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

    def add_to(self, base: np.ndarray, out: np.ndarray) -> None:
        """See `Payload.add_to`."""
        if out is not base:
            out[...] = base
        out[self.positions] += self.values

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
        """Return a vector in 16 bits for each entry, rounded to the nearest.

        Raises
        ------
        skdist.exceptions.DivergedError
            Where an entry is not finite. As bfloat16 it arrives as it is.
        """
        bits = np.empty(len(change), np.uint16)
        if self.brain:
            to_brain(as_input(change), bits)
            return Halves(bits, 1.0, brain=True)
        most = float(largest(as_input(change)))
        if not math.isfinite(most):
            raise DivergedError(DIVERGED)
        # A power of two of float32, so that to multiply and to divide are exact.
        scale = math.ldexp(1.0, min(max(math.frexp(most)[1] - 1, -126), 126)) if most else 1.0
        to_halves(as_input(change), np.float32(scale), bits)
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
        """Return the largest entries of a vector; of those that are as large as the least, the first ones.

        Parameters
        ----------
        change : ndarray of shape (n_parameters,)
            The vector.

        Raises
        ------
        skdist.exceptions.DivergedError
            Where an entry is not finite.
        """
        change = as_input(change)
        count = max(math.ceil(self.share * len(change)), 1)
        counts = np.zeros(BUCKETS, np.int64)
        count_magnitudes(change, counts)
        if counts[INFINITE:].any():
            raise DivergedError(DIVERGED)
        above = np.cumsum(counts[::-1])  # and in the bucket itself
        place = int(np.searchsorted(above, count))
        bucket = BUCKETS - 1 - place
        within = np.empty(counts[bucket], change.dtype)
        magnitudes_in(change, bucket, within)
        first = int(above[place]) - count  # of those of the bucket, in ascending order
        least = np.partition(within, first)[first]
        ties = count - int(above[place]) + len(within) - int(np.count_nonzero(within > least))
        positions = np.empty(count, np.uint32 if len(change) <= np.iinfo(np.uint32).max else np.int64)
        values = np.empty(count, change.dtype)
        take_largest(change, least, ties, positions, values)
        return Entries(positions, values)


Codec = HalfPrecision | TopK
