"""Exponentials and logarithms in kernels, as series: unlike those of libm, loops over them vectorise."""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from skdist.models.compile import OPTIONS

EXP_MINUS_HALF = math.exp(-0.5)

# In single precision: exp(-64) is as good as zero, and ONES is so large that its last bit counts ones.
BOUND, LOG_2, PER_LOG_2, ONES = (np.float32(value) for value in (64, math.log(2), 1 / math.log(2), 3 << 22))
ONES_BITS = ONES.view(np.int32)


def exp_minus(size):
    """Return ``exp(-size)`` for a size of 0 or more, in the precision of the size, so that loops vectorise.

    Beyond 64, exp(-64) = 2e-28 is as good as zero; a NaN stays one.
    """
    raise NotImplementedError  # outside of kernels


def log_one_plus(part):
    """Return ``log(1 + part)`` for a part from 0 to 1, in the precision of the part."""
    raise NotImplementedError


@overload(exp_minus, jit_options=OPTIONS)
def _exp_minus_as(size):
    return _exp_minus_single if size == types.float32 else _exp_minus_double


@overload(log_one_plus, jit_options=OPTIONS)
def _log_one_plus_as(part):
    return _log_one_plus_single if part == types.float32 else _log_one_plus_double


def _exp_minus_double(size):
    if size > 64.0:
        size = np.float64(64.0)
    # exp(-size) = exp(-size / 64)^64, by Taylor's series around 1/2.
    x = 0.5 - size / 64.0
    power = 1.0 + x / 13.0
    power = 1.0 + x / 12.0 * power
    power = 1.0 + x / 11.0 * power
    power = 1.0 + x / 10.0 * power
    power = 1.0 + x / 9.0 * power
    power = 1.0 + x / 8.0 * power
    power = 1.0 + x / 7.0 * power
    power = 1.0 + x / 6.0 * power
    power = 1.0 + x / 5.0 * power
    power = 1.0 + x / 4.0 * power
    power = 1.0 + x / 3.0 * power
    power = 1.0 + x / 2.0 * power
    power = EXP_MINUS_HALF * (1.0 + x * power)
    power *= power
    power *= power
    power *= power
    power *= power
    power *= power
    power *= power
    return power


def _exp_minus_single(size):
    if size > BOUND:
        size = BOUND
    # exp(-size) = 2^-n exp(n log 2 - size). Added to a number whose last bit counts ones, size / log 2 is
    # rounded, and n is in the last bits: a NaN, too, becomes some n, and goes on through the series.
    n = np.int32(np.float32(size * PER_LOG_2 + ONES).view(np.int32) - ONES_BITS)
    x = np.float32(n) * LOG_2 - size
    power = np.float32(1 / 120) + x * np.float32(1 / 720)
    power = np.float32(1 / 24) + x * power
    power = np.float32(1 / 6) + x * power
    power = np.float32(1 / 2) + x * power
    power = np.float32(1) + x * power
    power = np.float32(1) + x * power
    return power * np.int32(np.int32(np.int32(127) - n) << np.int32(23)).view(np.float32)


def _log_one_plus_double(part):
    # log(1 + p) = 2 atanh(p / (2 + p)), and that argument is at most 1/3.
    u = part / (2.0 + part)
    square = u * u
    series = 1.0 / 23.0 + square / 25.0
    series = 1.0 / 21.0 + square * series
    series = 1.0 / 19.0 + square * series
    series = 1.0 / 17.0 + square * series
    series = 1.0 / 15.0 + square * series
    series = 1.0 / 13.0 + square * series
    series = 1.0 / 11.0 + square * series
    series = 1.0 / 9.0 + square * series
    series = 1.0 / 7.0 + square * series
    series = 1.0 / 5.0 + square * series
    series = 1.0 / 3.0 + square * series
    return 2.0 * u * (1.0 + square * series)


def _log_one_plus_single(part):
    u = part / (np.float32(2) + part)
    square = u * u
    series = np.float32(2 / 11) + square * np.float32(2 / 13)
    series = np.float32(2 / 9) + square * series
    series = np.float32(2 / 7) + square * series
    series = np.float32(2 / 5) + square * series
    series = np.float32(2 / 3) + square * series
    return u * (np.float32(2) + square * series)
