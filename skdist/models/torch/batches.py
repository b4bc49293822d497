"""Mini-batches of a partition, converted where they are trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from skdist.models.partition import Partition

#: Rows are gathered for several steps at once, up to this size.
GATHERED_BYTES = 1 << 20

#: Types of them that torch's threads can gather.
GATHERED_BY_TORCH = np.float32, np.float64

#: They are predicted in blocks of about this size, and of at most so many rows: layers may be wider.
PREDICTED_BYTES, MOST_PREDICTED_ROWS = 1 << 22, 4096

Transform = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """How rows become the input of a module.

    Attributes
    ----------
    device : torch.device
        Where to.
    dtype : torch.dtype or None
        Theirs on the device; None leaves what they have.
    transform : callable or None
        Applied to each mini-batch on the device.
    """

    device: torch.device
    dtype: torch.dtype | None = torch.float32
    transform: Transform | None = None

    def __call__(self, rows: np.ndarray) -> torch.Tensor:
        """Return rows as the module is given them."""
        batch = torch.from_numpy(rows)
        if self.device.type == "cuda":  # narrow on its way, and without waiting for it
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        if self.dtype is not None:
            batch = batch.to(self.dtype)
        return batch if self.transform is None else self.transform(batch)


class Batches:
    """Gathers the rows of steps.

    Parameters
    ----------
    batch_size : int
        Rows of a step.
    class_weights : ndarray of shape (n_classes,) or (0,)
        Factors of the sample weights by class; none where empty.
    unit : float
        Weights are given in terms of it.
    parallel : bool
        Whether torch's threads may gather.
    """

    def __init__(
        self, batch_size: int, class_weights: np.ndarray, unit: float = 1.0, parallel: bool = False
    ) -> None:
        self._batch_size, self._class_weights = batch_size, class_weights.astype(np.float32)
        self._unit, self._parallel = np.float32(unit), parallel
        self._buffer = np.empty((0, 0))
        self._source: Any = None  # rows that `_tensor` stands for
        self._tensor = torch.empty(0)

    def over(
        self, partition: Partition, order: np.ndarray, start: int, stop: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Give rows, targets and weights of the steps over ``order[start:stop]``.

        The rows are in memory that is used again for later steps.
        """
        batch = self._batch_size
        gathered = max(GATHERED_BYTES // (row_bytes(partition.X) * batch), 1) * batch
        for first in range(start, stop, gathered):
            chosen = order[first : min(first + gathered, stop)]
            rows, targets = self._rows(partition.X, chosen, gathered), partition.targets[chosen]
            weights = weighted(partition.weights[chosen], targets, self._class_weights) / self._unit
            for a in range(0, len(chosen), batch):
                yield rows[a : a + batch], targets[a : a + batch], weights[a : a + batch]

    def _rows(self, X: Any, chosen: np.ndarray, most: int) -> np.ndarray:
        if sp.issparse(X):
            return rows_at(X, chosen)
        # Dask's workers give freed memory back at once, and to get pages anew takes longer than to fill them.
        if (self._buffer.shape[1:], self._buffer.dtype) != (X.shape[1:], X.dtype) or len(self._buffer) < most:
            self._buffer = np.empty((most, *X.shape[1:]), dtype=X.dtype)
        rows = self._buffer[: len(chosen)]
        if self._parallel and X.dtype in GATHERED_BY_TORCH and X.flags.c_contiguous:
            if self._source is not X:
                self._source, self._tensor = X, torch.from_numpy(np.asarray(_Writable(X)))
            torch.index_select(self._tensor, 0, torch.from_numpy(chosen), out=torch.from_numpy(rows))
        else:
            np.take(X, chosen, axis=0, out=rows, mode="clip")  # another mode would take a copy
        return rows


class _Writable:
    """Shows the memory of an array as one that may be written to: torch warns of others, but only reads."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def row_bytes(X: Any) -> int:
    """Return the size of a row as a dense one, at least 1."""
    return max(int(math.prod(X.shape[1:]) * X.dtype.itemsize), 1)


def predicted_rows(X: Any) -> int:
    """Return the rows of the blocks that are predicted at once."""
    return min(max(PREDICTED_BYTES // row_bytes(X), 1), MOST_PREDICTED_ROWS)


def rows_at(X: Any, chosen: np.ndarray) -> np.ndarray:
    """Return some rows of dense or CSR data as a dense array of its own."""
    if sp.issparse(X):
        return np.asarray(X[chosen].toarray())
    return np.asarray(X.take(chosen, axis=0))


def weighted(weights: np.ndarray, targets: np.ndarray, class_weights: np.ndarray) -> np.ndarray:
    """Return sample weights times the factors of the classes of their rows, if there are any."""
    return weights * class_weights[targets] if len(class_weights) else weights
