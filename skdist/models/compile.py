"""One way to compile a kernel: without the GIL, cached on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

#: Reassociation lets the compiler vectorise sums. ``nnan`` and ``ninf`` are left out on purpose: a
#: kernel must see the NaN that it is given, or bad data would pass unnoticed.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` lazily, once per machine.

    numba looks for a writable cache folder when it decorates and raises where there is none (a
    read-only installation without a home, as in many containers). Such a machine compiles once per
    process instead.
    """
    # NumPy's errors: a check for a zero divisor would keep every loop with a division from being vectorised.
    options = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(cache=False, **options)(function)


def as_input(array: np.ndarray) -> np.ndarray:
    """Return a read-only view to give to a kernel.

    numba compiles a kernel anew for arrays that are writable and for those that are not, and what comes
    over the network or from a memory map often is not. Read-only views of all make it one.
    """
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view
