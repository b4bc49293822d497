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
    """Put ``runs`` in random order, and the rows of each run after the other into ``order``."""
    for i in range(len(runs) - 1, 0, -1):
        state += GOLDEN
        # An integer in [0, i], for numbers far below 2^32.
        j = np.int64(((_mixed(state) >> HALF) * np.uint64(i + 1)) >> HALF)
        runs[i], runs[j] = runs[j], runs[i]
    place, n_rows = 0, len(order)
    for run in runs:
        first = run * page - skip
        last = first + page
        for row in range(0 if first < 0 else first, n_rows if last > n_rows else last):
            order[place] = row
            place += 1


def shuffled_pages(n_rows: int, page: int, entropy: Sequence[int]) -> np.ndarray:
    """Return the numbers below ``n_rows`` with runs of ``page`` neighbours in random order, as int32.

    Where the runs begin is random too. ``entropy`` are integers.
    """
    state = 0
    for number in entropy:
        state = _mixed(np.uint64((state + int(GOLDEN) + int(number)) & MASK))
    skip = (_mixed(np.uint64(state)) >> 32) * page >> 32  # rows that the first run lacks
    runs = np.arange((n_rows + skip + page - 1) // page, dtype=np.int32)
    order = np.empty(n_rows, np.int32)
    _shuffle(runs, order, page, skip, np.uint64(state))
    return order
