"""Parameters that the driver asks for, through a file that is memory, where it is on the server's machine.

Through Dask they take the way of the scheduler, and are copied at each step of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from skdist.cluster.line import FOLDER

logger = logging.getLogger("skdist")

#: Smaller arrays are part of the message.
LEAST_BYTES = 1 << 20


@dataclass(frozen=True)
class Left:
    """Stands for an array in a message.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    dtype : dtype
        Of the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype


class Deposit:
    """A file where another process may leave an array; used in a ``with`` block, and gone at its end.

    It has no name any more once the other process has opened it, so that the memory is free when both are
    gone, however they end.

    Parameters
    ----------
    nbytes : int
        Of the array that is expected; there is no file for a small one.

    Attributes
    ----------
    path : str
        '' where there is none, or the system has no such files.
    """

    def __init__(self, nbytes: int) -> None:
        self.path = ""
        self._nbytes = nbytes
        self._file: BinaryIO | None = None

    def __enter__(self) -> Deposit:
        if self._nbytes >= LEAST_BYTES:
            try:
                descriptor, self.path = tempfile.mkstemp(prefix="skdist-", dir=FOLDER)
                self._file = os.fdopen(descriptor, "rb")
            except OSError as error:
                logger.info("Parameters come through Dask: %s.", error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def collect(self, found: Any) -> Any:
        """Return the array that was left, or what was sent instead."""
        if not isinstance(found, Left):
            return found
        assert self._file is not None
        return np.fromfile(self._file, found.dtype).reshape(found.shape)


def leave(path: str, values: Any, most: float) -> Any:
    """Leave an array in a file of `Deposit`; return what to send: that it is there, or the array itself.

    Parameters
    ----------
    path : str
        Of the file; on another machine there is none.
    values : ndarray or Mark
        What is asked for; a mark is small.
    most : float
        Bytes that may be left.
    """
    if not path or not isinstance(values, np.ndarray) or not LEAST_BYTES <= values.nbytes <= most:
        return values
    try:
        with open(path, "r+b") as file:
            os.unlink(path)
            values.tofile(file)
            written = os.fstat(file.fileno()).st_size
    except OSError as error:
        logger.info("Parameters go through Dask: %s.", error)
        return values
    # NumPy does not say whether there was room for the end.
    return Left(values.shape, values.dtype) if written == values.nbytes else values
