"""One way to compile a kernel: without the GIL, cached on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

#: Reassociation lets the compiler vectorise sums. ``nnan`` and ``ninf`` are left out on purpose: a
#: kernel must see the NaN that it is given, or bad data would pass unnoticed.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

#: NumPy's errors: a check for a zero divisor would keep every loop with a division from being vectorised.
OPTIONS: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` lazily, once per machine.

    numba looks for a writable cache folder when it decorates and raises where there is none (a
    read-only installation without a home, as in many containers). Such a machine compiles once per
    process instead.
    """
    try:
        return numba.njit(cache=True, nogil=True, **OPTIONS)(function)
    except RuntimeError:
        return numba.njit(cache=False, nogil=True, **OPTIONS)(function)


def callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile ``function`` for one signature at once; a kernel can take it as an argument."""
    try:
        return numba.cfunc(signature, cache=True, **OPTIONS)(function)
    except RuntimeError:
        return numba.cfunc(signature, cache=False, **OPTIONS)(function)


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
