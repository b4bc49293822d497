"""Random orders that a few integers determine.

The numbers are those of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"): to seed a generator of NumPy takes longer than a pass over small data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skdist.models.compile import kernel

#: Numbers are of so many bits.
MASK = (1 << 64) - 1

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

#: The same for the kernel, to which other integers are signed ones.
STEP, ONE, TWO, HALF = np.uint64(GOLDEN), np.uint64(FIRST), np.uint64(SECOND), np.uint64(32)


def _mixed(number: int) -> int:
    """Return 64 bits each of which depends on all bits of ``number``."""
    number = (number ^ (number >> 30)) * FIRST & MASK
    number = (number ^ (number >> 27)) * SECOND & MASK
    return number ^ (number >> 31)


@kernel
def _shuffle(runs, order, page, skip, state):
    """Put ``runs`` in random order, and the rows of each run after the other into ``order``."""
    for i in range(len(runs) - 1, 0, -1):
        state += STEP
        random = (state ^ (state >> np.uint64(30))) * ONE  # as `_mixed`
        random = (random ^ (random >> np.uint64(27))) * TWO
        random ^= random >> np.uint64(31)
        # An integer in [0, i], for numbers far below 2^32.
        j = np.int64(((random >> HALF) * np.uint64(i + 1)) >> HALF)
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
        state = _mixed((state + GOLDEN + int(number)) & MASK)
    skip = (_mixed(state) >> 32) * page >> 32  # rows that the first run lacks
    runs = np.arange((n_rows + skip + page - 1) // page, dtype=np.int32)
    order = np.empty(n_rows, np.int32)
    _shuffle(runs, order, page, skip, np.uint64(state))
    return order
