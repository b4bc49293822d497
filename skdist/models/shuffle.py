"""Random orders that a few integers determine.

The numbers are those of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"): to seed a generator of NumPy takes longer than a pass over small data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skdist.models.compile import inlined, kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
HALF = np.uint64(32)

#: Runs that are read in turn, a row of each.
RUNS_TOGETHER = 16

#: Numbers are of so many bits.
MASK = (1 << 64) - 1


@inlined
def _mixed(number):
    """Return 64 bits each of which depends on all bits of ``number``."""
    number = (number ^ (number >> np.uint64(30))) * FIRST
    number = (number ^ (number >> np.uint64(27))) * SECOND
    return number ^ (number >> np.uint64(31))


@kernel
def _shuffle(runs, order, page, begin, state):
    """Put ``runs`` in random order, and their rows into ``order``: of several runs in turn, a row of each."""
    for i in range(len(runs) - 1, 0, -1):
        state += GOLDEN
        # An integer in [0, i], for numbers far below 2^32.
        j = np.int64(((_mixed(state) >> HALF) * np.uint64(i + 1)) >> HALF)
        runs[i], runs[j] = runs[j], runs[i]
    place, together = 0, RUNS_TOGETHER if page > 1 else max(len(runs), 1)
    for first in range(0, len(runs), together):
        chosen = runs[first : first + together]
        for offset in range(page):
            for run in chosen:
                order[place] = begin + run * page + offset
                place += 1


def shuffled_pages(n_rows: int, page: int, entropy: Sequence[int]) -> np.ndarray:
    """Return the numbers below ``n_rows``, int32, with runs of ``page`` neighbours in random order.

    Where the first run begins is random too; what is left over at both ends comes together, somewhere.
    `RUNS_TOGETHER` runs are gone through together, a number of each in turn: the processor has to look up
    where each page of memory is, and so begins with the first of its rows, long before the others are needed.
    ``entropy`` are integers.
    """
    state = 0
    with np.errstate(over="ignore"):
        for number in entropy:
            state = int(_mixed.py_func(np.uint64((state + int(GOLDEN) + int(number)) & MASK)))
        drawn = int(_mixed.py_func(np.uint64(state)))
    begin = min((drawn >> 32) * page >> 32, n_rows)
    place = (drawn & (MASK >> 32)) * n_rows >> 32
    runs = np.arange((n_rows - begin) // page, dtype=np.int32)
    order = np.empty(len(runs) * page, np.int32)
    _shuffle(runs, order, page, begin, np.uint64(state))
    if len(order) == n_rows:
        return order
    left = np.arange(begin, dtype=np.int32), np.arange(begin + len(order), n_rows, dtype=np.int32)
    return np.concatenate([order[:place], *left, order[place:]])
