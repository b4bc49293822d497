"""One way to compile a kernel: without the GIL, cached on disk where that is possible."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc

#: Reassociation lets the compiler vectorise sums. ``nnan`` and ``ninf`` are left out on purpose: a
#: kernel must see the NaN that it is given, or bad data would pass unnoticed.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

#: NumPy's errors: a check for a zero divisor would keep every loop with a division from being vectorised.
OPTIONS: dict[str, Any] = {"fastmath": FASTMATH, "error_model": "numpy"}


class SharedFile(IndexDataCacheFile):
    """What numba has compiled of a kernel, on disk, for processes that all compile at once.

    numba numbers its files by an index that another process may just have read as well, and writes the index
    before what it names. So a process may load what was compiled for other types, or what an older version of
    the kernel has left, and read or write where it must not; the workers of a machine start together. Here
    what is compiled has a name of its own, and the index comes last. An entry that two processes lose by
    writing the index at once is compiled again, at worst.
    """

    def save(self, key: Any, data: Any) -> None:
        """Write down what was compiled for a signature."""
        digest = hashlib.sha256(repr((self._source_stamp, key)).encode()).digest()
        name = self._data_name(int.from_bytes(digest[:8]))
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})


class SharedCache(FunctionCache):
    """numba's cache of a kernel, with files that are safe to share."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = SharedFile(
            self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` lazily, once per machine."""
    return _cached(numba.njit(nogil=True, **OPTIONS)(function), function)


def callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile ``function`` for one signature at once; a kernel can take it as an argument."""
    compiled = _cached(
        CFunc(function, (signature.args, signature.return_type), locals={}, options=OPTIONS), function
    )
    compiled.compile()
    return compiled


def _cached(compiled: Any, function: Callable[..., Any]) -> Any:
    """Give what will be compiled a place on disk.

    numba raises where there is no writable folder (a read-only installation without a home, as in many
    containers). Such a machine compiles once per process instead.
    """
    with contextlib.suppress(RuntimeError):
        compiled._cache = SharedCache(function)
    return compiled


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
