"""Memory of large arrays that are not used any more, for the next ones.

The system takes large arrays back at once and gives pages for new ones one by one, which takes about as long
as to fill them.
"""

from __future__ import annotations

import weakref

import numpy as np

#: What is smaller is numpy's, which keeps memory for small arrays itself.
LEAST_BYTES = 1 << 20

#: Unused arrays of each size that are kept.
MOST_SPARES = 2


class Spares:
    """Makes arrays from the memory of those that are gone.

    Memory is used again when the last view of its array is gone.
    """

    def __init__(self) -> None:
        self._unused: dict[int, list[np.ndarray]] = {}  # by size

    def empty_like(self, values: np.ndarray) -> np.ndarray:
        """Return an array of the shape and dtype of another one, C-contiguous, with arbitrary values."""
        if values.nbytes < LEAST_BYTES:
            return np.empty(values.shape, values.dtype)
        try:
            memory = self._unused[values.nbytes].pop()
        except (KeyError, IndexError):
            memory = np.empty(values.nbytes, np.uint8)
        array = np.frombuffer(memory.data, values.dtype)
        # Views of views refer to this one.
        weakref.finalize(array, _give_back, weakref.ref(self), memory).atexit = False
        return array.reshape(values.shape)

    def copy(self, values: np.ndarray) -> np.ndarray:
        """Return a copy of an array, C-contiguous."""
        copy = self.empty_like(values)
        copy[...] = values
        return copy

    def _keep(self, memory: np.ndarray) -> None:
        unused = self._unused.setdefault(memory.nbytes, [])
        if len(unused) < MOST_SPARES:
            unused.append(memory)


def _give_back(spares: weakref.ref[Spares], memory: np.ndarray) -> None:
    present = spares()
    if present is not None:
        present._keep(memory)
