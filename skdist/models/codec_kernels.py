"""What codecs do with each entry of a vector, in one pass over it.

NumPy rounds to float16 one number at a time, and sorts to find the largest entries.
"""

from __future__ import annotations

import numpy as np

from skdist.models.compile import kernel

#: Of float32, the bits of 0.5 and of 2^-14, the least normal number of float16; how exponents differ.
HALF, LEAST_NORMAL, EXPONENTS = 0x3F000000, 0x38800000, 0x38000000


@kernel
def largest(change):
    """Return the largest magnitude; NaN where any is not finite."""
    largest, nothing = np.float32(0.0), np.float32(0.0)
    for i in range(len(change)):
        value = np.float32(change[i])
        largest = max(largest, abs(value))
        nothing += value * np.float32(0.0)  # or NaN
    return largest + nothing


@kernel
def to_halves(change, scale, bits):
    """Round ``change / scale``, less than 4, to float16."""
    for i in range(len(change)):
        value = np.float32(change[i]) / scale
        whole = np.float32(value).view(np.uint32)
        size = whole & np.uint32(0x7FFFFFFF)
        # The processor rounds numbers below the normal ones, the last bit of 0.5 being 2^-24; ties to even.
        small = np.float32(abs(value) + np.float32(0.5)).view(np.uint32) - HALF
        large = (size - EXPONENTS + np.uint32(0x0FFF) + ((size >> 13) & 1)) >> 13
        bits[i] = ((whole >> 16) & 0x8000) | (small if size < LEAST_NORMAL else large)


@kernel
def add_halves(bits, scale, base, out):
    """Set ``out`` to ``base`` and ``scale`` times numbers of float16."""
    for i in range(len(bits)):
        size = np.uint32(bits[i] & np.uint16(0x7FFF))
        large = np.uint32((size << 13) + EXPONENTS).view(np.float32)
        value = np.float32(size) * np.float32(2.0**-24) if size < 0x0400 else large
        out[i] = base[i] + (-value if bits[i] & 0x8000 else value) * scale


@kernel
def to_brain(change, bits):
    """Round to bfloat16."""
    for i in range(len(change)):
        whole = np.float32(change[i]).view(np.uint32)
        bits[i] = (whole + np.uint32(0x7FFF) + ((whole >> 16) & 1)) >> 16  # ties go to the even one


@kernel
def add_brain(bits, base, out):
    """Set ``out`` to ``base`` and numbers of bfloat16."""
    for i in range(len(bits)):
        out[i] = base[i] + np.uint32(np.uint32(bits[i]) << 16).view(np.float32)


@kernel
def count_magnitudes(change, counts):
    """Count the entries in each bucket of magnitudes: the upper half of a float32."""
    for i in range(len(change)):
        counts[np.float32(abs(change[i])).view(np.uint32) >> 16] += 1


@kernel
def magnitudes_in(change, bucket, within):
    """Write down the magnitudes of a bucket."""
    k = 0
    for i in range(len(change)):
        if np.float32(abs(change[i])).view(np.uint32) >> 16 == bucket:
            within[k] = abs(change[i])
            k += 1


@kernel
def take_largest(change, least, ties, positions, values):
    """Write down the entries above ``least``, and the first ``ties`` that are as large."""
    k = 0
    for i in range(len(change)):
        size = abs(change[i])
        if size >= least:
            if size == least:
                if not ties:
                    continue
                ties -= 1
            positions[k], values[k] = i, change[i]
            k += 1
