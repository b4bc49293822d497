"""What is computed with whole states, in one read of each: models may be as large as their data.

NumPy would write a temporary array for each operation, and take its pages from the system every time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skdist.models.compile import as_input, kernel


def add_difference(
    out: np.ndarray, start: np.ndarray, end: np.ndarray, base: np.ndarray, factor: float = 1.0
) -> None:
    """Set ``out`` to ``start + factor * (end - base)``; it may be ``start``.

    All arrays have one shape and dtype, and are C-contiguous.
    """
    inputs = (as_input(values).reshape(-1) for values in (start, end, base))
    _add_difference(out.reshape(-1), *inputs, out.dtype.type(factor))


def add_velocity(out: np.ndarray, before: np.ndarray, velocity: np.ndarray, momentum: float) -> None:
    """Add ``momentum`` times the velocity to ``out``, once ``out - before`` has become part of that.

    Parameters
    ----------
    out, before : ndarray
        The next parameters and the present ones.
    velocity : ndarray
        Becomes ``momentum * velocity + out - before``.
    momentum : float
        In [0, 1).
    """
    flat = as_input(before).reshape(-1)
    _add_velocity(out.reshape(-1), flat, velocity.reshape(-1), out.dtype.type(momentum))


def mean_of(present: np.ndarray, ends: Sequence[np.ndarray], factors: Sequence[float]) -> np.ndarray:
    """Return the mean of ``ends``, weighted by ``factors``, and of ``present``, which has what is left of 1.

    No value is outside of those that it is a mean of. Where one of these is not finite, that of the last of
    ``ends`` counts alone.
    """
    total = max(sum(factors), 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        mean: np.ndarray = max(1.0 - sum(factors), 0.0) * present
        for end, factor in zip(ends, factors, strict=True):
            mean += factor / total * end
    return np.where(np.isfinite(mean), mean, ends[-1])


@kernel
def _add_difference(out, start, end, base, factor):
    for i in range(len(out)):
        out[i] = start[i] + factor * (end[i] - base[i])


@kernel
def _add_velocity(out, before, velocity, momentum):
    for i in range(len(out)):
        velocity[i] = momentum * velocity[i] + (out[i] - before[i])
        out[i] += momentum * velocity[i]
