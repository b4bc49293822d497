"""One way to compile a kernel: without the GIL, cached on disk where that is possible."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc
from numba.core.registry import CPUDispatcher
from numba.extending import typeof_impl

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

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = SharedFile(
            self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )


class Kernel(CPUDispatcher):
    """A function that is compiled, once per machine, for the types that it is called with."""

    def enable_caching(self) -> None:
        """Keep what is compiled on disk."""
        self._cache = SharedCache(self.py_func)

    def compile(self, signature: Any) -> Any:
        """Compile the function for a signature, and return its address."""
        with collector_paused:
            return super().compile(signature)


class Callback(CFunc):
    """A function that is compiled for one signature; a kernel can take it as an argument.

    Parameters
    ----------
    function : callable
        What to compile.
    signature : Signature
        Types of its arguments and of its result.
    """

    def __init__(self, function: Callable[..., Any], signature: Any) -> None:
        super().__init__(function, (signature.args, signature.return_type), locals={}, options=OPTIONS)
        self.type = types.FunctionType(signature)

    def enable_caching(self) -> None:
        """Keep what is compiled on disk."""
        self._cache = SharedCache(self._pyfunc)  # type: ignore[attr-defined]

    def compile(self) -> None:
        """Compile the function."""
        with collector_paused:
            super().compile()


@typeof_impl.register(Callback)
def _typeof_callback(value: Callback, _: Any) -> types.FunctionType:
    # At every call of a kernel: numba would make a type anew each time, for as long as all else takes.
    return value.type


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` when it is called."""
    # Nobody calls a kernel from C.
    targetoptions = {"nopython": True, "nogil": True, "no_cfunc_wrapper": True, **OPTIONS}
    compiled = Kernel(function, targetoptions=targetoptions)
    _keep(compiled)
    return compiled


def inlined(function: Callable[..., Any]) -> Any:
    """Compile ``function`` as a part of each kernel that calls it: sooner done than first alone."""
    targetoptions = {"nopython": True, "nogil": True, "inline": "always", **OPTIONS}
    return CPUDispatcher(function, targetoptions=targetoptions)


def callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile ``function`` for one signature at once."""
    compiled = Callback(function, signature)
    _keep(compiled)
    compiled.compile()
    return compiled


def _keep(compiled: Kernel | Callback) -> None:
    """Let what is compiled be kept on disk, where that is possible.

    numba raises where there is no writable folder (a read-only installation without a home, as in many
    containers). Such a machine compiles once per process instead.
    """
    with contextlib.suppress(RuntimeError):
        compiled.enable_caching()


class _Pause:
    """Lets nobody look for garbage while anybody compiles: numba makes a million objects, and hardly any."""

    def __init__(self) -> None:
        self._lock, self._inside, self._enabled = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._enabled = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._enabled:
                gc.enable()


collector_paused = _Pause()


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
