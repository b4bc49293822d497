"""Random orders that a few integers determine.

The numbers are those of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"): to seed a generator of NumPy takes longer than a pass over small data.
"""

from __future__ import annotations

import numpy as np

from skdist.models.compile import kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
HALF = np.uint64(32)


@kernel
def _mixed(number):
    """Return 64 bits each of which depends on all bits of ``number``."""
    number = (number ^ (number >> np.uint64(30))) * FIRST
    number = (number ^ (number >> np.uint64(27))) * SECOND
    return number ^ (number >> np.uint64(31))


@kernel
def _below(bound, random):
    """Return an integer in [0, bound), for bounds far below 2^32, from 64 random bits."""
    return np.int64(((random >> HALF) * np.uint64(bound)) >> HALF)


@kernel
def shuffled_pages(n_rows, page, entropy):
    """Return the numbers below ``n_rows`` with runs of ``page`` neighbours in random order, as int32.

    Where the runs begin is random too. ``entropy`` is a tuple of integers.
    """
    state = np.uint64(0)
    for number in entropy:
        state = _mixed(state + GOLDEN + np.uint64(number))
    skip = _below(page, _mixed(state))  # rows that the first run lacks
    count = (n_rows + skip + page - 1) // page
    runs = np.empty(count, np.int32)
    for i in range(count):
        runs[i] = i
    for i in range(count - 1, 0, -1):
        state += GOLDEN
        j = _below(i + 1, _mixed(state))
        runs[i], runs[j] = runs[j], runs[i]
    order = np.empty(n_rows, np.int32)
    place = 0
    for run in runs:
        first = run * page - skip
        for row in range(max(first, 0), min(first + page, n_rows)):
            order[place] = row
            place += 1
    return order
