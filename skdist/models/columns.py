"""The features of sparse rows that are stored anywhere: often few of those that there are.

Hashed words may have a quarter of a million columns, of which short texts store a fifth. What is as wide as
the model is kept for those columns alone: moments, parameters, all that is sent. ``columns`` lists them,
ascending; None stands for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from skdist.models.compile import as_input, inlined, kernel

#: Where more than this share of the columns is stored, all are kept.
MOST_SHARE = 0.5

#: A mask finds the columns faster than sorting, where it is at most so many times as long as all the parts.
LONGEST_MASK = 64

#: A table finds places faster than searching, where it is at most so many times as long as the columns.
LONGEST_TABLE = 24


# For the bits of words.
ONE, TWO, FOUR, SIX, LAST = (np.uint64(number) for number in (1, 2, 4, 6, 63))
PAIRS, FOURS, EIGHTS, BYTES = (np.uint64(0x0101010101010101 * part) for part in (0x55, 0x33, 0x0F, 0x01))


def compacted(rows: Any) -> tuple[np.ndarray | None, Any]:
    """Return the columns that CSR rows store, and the rows with these columns alone.

    None, and the rows as they are, where these are not much fewer than all.
    """
    width, count = rows.shape[1], len(rows.indices)
    words = np.zeros(width // 64 + 1, np.uint64)
    columns = np.empty(min(int(MOST_SHARE * width), count), np.int64)
    places = np.empty_like(rows.indices)
    found = _compact(as_input(rows.indices), words, np.empty_like(words), columns, places)
    if found > len(columns):
        return None, rows
    return columns[:found].copy(), sp.csr_array(
        (rows.data, places, rows.indptr), shape=(len(rows.indptr) - 1, found)
    )


@inlined
def _ones(word):
    """Return how many bits of 64 are set; compilers know these lines for one instruction."""
    word = word - ((word >> ONE) & PAIRS)
    word = (word & FOURS) + ((word >> TWO) & FOURS)
    word = (word + (word >> FOUR)) & EIGHTS
    return (word * BYTES) >> np.uint64(56)


@kernel
def _compact(indices, words, before, columns, places):
    """Write down which columns are stored, ascending, and the place of each index among them.

    Returns how many they are; where there are more than ``columns`` has room for, all else is left undone.
    By the bits of ``words``, which stay in the nearest cache: of larger arrays Dask's workers give the memory
    back at once, and to get it anew takes longer than all that is done here.
    """
    for p in range(len(indices)):
        j = np.uint64(indices[p])
        words[j >> SIX] |= ONE << (j & LAST)
    found = 0
    for i in range(len(words)):
        before[i] = np.uint64(found)
        word = words[i]
        while word:
            if found == len(columns):
                return found + 1
            columns[found] = 64 * i + np.int64(_ones((word & (~word + ONE)) - ONE))
            found += 1
            word &= word - ONE
    for p in range(len(indices)):
        j = np.uint64(indices[p])
        places[p] = before[j >> SIX] + _ones(words[j >> SIX] & ((ONE << (j & LAST)) - ONE))
    return found


def digest_of(columns: np.ndarray) -> str:
    """Return a short text that other columns do not have."""
    return hashlib.sha256(columns.astype("<i8").tobytes()).hexdigest()[:16]


def union(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return the columns that are in any of the parts."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if all(len(part) == len(known[0]) and np.array_equal(part, known[0]) for part in known[1:]):
        return known[0]
    width = max([int(part[-1]) + 1 for part in known if len(part)], default=0)
    if width > LONGEST_MASK * sum(len(part) for part in known):
        return np.unique(np.concatenate(known))
    mask = np.zeros(width, dtype=bool)
    for part in known:
        mask[part] = True
    return np.flatnonzero(mask)


def spread(
    values: np.ndarray, columns: np.ndarray | None, among: np.ndarray | None, width: int
) -> np.ndarray:
    """Return values of some columns as those of others, these among them; zeros elsewhere.

    Parameters
    ----------
    values : ndarray of shape (..., len(columns))
    columns, among : ndarray or None
        Those of ``values``, and those of the result.
    width : int
        Number of all columns.
    """
    if columns is among or columns is None:
        return values
    wide = np.zeros((*values.shape[:-1], width if among is None else len(among)), dtype=values.dtype)
    places = Places(among).of(columns)
    # One row after the other: NumPy takes twice as long for all of them together.
    for at in np.ndindex(values.shape[:-1]):
        wide[at][places] = values[at]
    return wide


class Places:
    """Where columns are among others, of which they are a part.

    Parameters
    ----------
    among : ndarray or None
        These others.
    """

    def __init__(self, among: np.ndarray | None) -> None:
        self._among = among
        self._table: np.ndarray | None = None
        if among is not None and len(among) and among[-1] < LONGEST_TABLE * len(among):
            self._table = table_of(among, int(among[-1]) + 1)

    def of(self, columns: np.ndarray | None) -> Any:
        """Return the places of some columns, as an index; a slice of all where these are all there are."""
        if columns is None or columns is self._among:
            return slice(None)
        if self._among is None:
            return columns
        if self._table is None:
            return np.searchsorted(self._among, columns)
        return self._table[columns]


def table_of(columns: np.ndarray, width: int) -> np.ndarray:
    """Return the place of each of all columns among some, -1 where it is none of them."""
    table = np.full(width, -1, dtype=np.int32 if len(columns) < 2**31 else np.int64)
    table[columns] = np.arange(len(columns), dtype=table.dtype)
    return table


def narrowed(rows: Any, columns: np.ndarray, table: np.ndarray | None = None) -> sp.csr_array:
    """Return CSR rows of what they store in some columns, numbered by their place among these.

    ``table`` is that of `table_of`, where it is known.
    """
    table = table_of(columns, rows.shape[1]) if table is None else table
    data, indices, edges = rows.data, table[rows.indices], rows.indptr
    if len(indices) and indices.min() < 0:  # rows held out may store what no other row does
        kept = indices >= 0
        edges = np.concatenate([[0], np.cumsum(kept)])[edges].astype(edges.dtype)
        data, indices = data[kept], indices[kept]
    return sp.csr_array((data, indices, edges), shape=(rows.shape[0], len(columns)))
