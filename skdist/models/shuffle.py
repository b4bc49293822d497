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
def _shuffle(runs, order, page, skip, state):
    """Put ``runs`` in random order, and their rows into ``order``: of several runs in turn, a row of each."""
    for i in range(len(runs) - 1, 0, -1):
        state += GOLDEN
        # An integer in [0, i], for numbers far below 2^32.
        j = np.int64(((_mixed(state) >> HALF) * np.uint64(i + 1)) >> HALF)
        runs[i], runs[j] = runs[j], runs[i]
    for i in range(len(runs)):
        runs[i] = runs[i] * page - skip  # its first row
    place, n_rows = 0, len(order)
    together = RUNS_TOGETHER if page > 1 else max(len(runs), 1)
    for first in range(0, len(runs), together):
        begins = runs[first : first + together]
        count, cut = len(begins), False
        for begin in begins:
            cut |= begin < 0 or begin + page > n_rows
        for offset in range(page):
            if not cut:
                for i in range(count):
                    order[place + i] = begins[i] + offset
                place += count
                continue
            for begin in begins:  # one of them is cut off by an end of the rows
                if 0 <= begin + offset < n_rows:
                    order[place] = begin + offset
                    place += 1


def shuffled_pages(n_rows: int, page: int, entropy: Sequence[int]) -> np.ndarray:
    """Return the numbers below ``n_rows``, int32, with runs of ``page`` neighbours in random order.

    Where the runs begin is random too. `RUNS_TOGETHER` of them are gone through together, a number of each in
    turn: the processor has to look up where each page of memory is, and so begins with the first of its rows,
    long before the others are needed.
    ``entropy`` are integers.
    """
    state = 0
    for number in entropy:
        state = _mixed(np.uint64((state + int(GOLDEN) + int(number)) & MASK))
    skip = (_mixed(np.uint64(state)) >> 32) * page >> 32  # rows that the first run lacks
    runs = np.arange((n_rows + skip + page - 1) // page, dtype=np.int32)
    order = np.empty(n_rows, np.int32)
    _shuffle(runs, order, page, skip, np.uint64(state))
    return order
