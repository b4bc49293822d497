"""How rows are taken in: converted, and measured as far as a model needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from skdist.models import arrays, measuring
from skdist.models.arrays import convert_arrays
from skdist.models.partition import Partition, assemble, convert
from skdist.models.targets import measure_targets
from skdist.models.validation import summarize_split
from skdist.preparation import Summary, summarize


class Intake(Protocol):
    """Makes partitions of what a user gave.

    Attributes
    ----------
    regression : bool
        Whether targets are numbers.
    flat : bool
        Whether each row must be a vector.
    """

    @property
    def regression(self) -> bool: ...  # noqa: D102

    @property
    def flat(self) -> bool: ...  # noqa: D102

    def convert(self, X: Any, y: Any, sample_weight: Any = None) -> Partition:
        """Return rows as a partition; raises ValueError where they are not fit for it."""
        ...

    def refuse_infinite(self, partition: Partition) -> None:
        """Raise a ValueError where a partition that is not measured holds NaN or infinity."""
        ...

    def shows_infinite(self, partition: Partition) -> bool:
        """Whether training shows NaN and infinity as divergence, so that nobody need look for them before."""
        ...

    def summarize(self, partition: Partition, worker: str = "") -> Summary:
        """Measure a partition; raises ValueError where it holds NaN or infinity."""
        ...


@dataclass(frozen=True)
class Tables:
    """Rows are vectors of float32 or float64, or sparse, as linear models read them; moments are measured."""

    regression: bool = False
    flat: bool = True

    def convert(self, X: Any, y: Any, sample_weight: Any = None) -> Partition:
        """Return rows as a partition."""
        return convert(X, y, sample_weight, self.regression)

    def refuse_infinite(self, partition: Partition) -> None:
        """Raise a ValueError where a partition that is not measured holds NaN or infinity."""
        measuring.refuse_infinite(partition.X, partition.weights)

    def shows_infinite(self, partition: Partition) -> bool:
        """Whether training shows NaN and infinity: the coefficients of dense rows are looked at after it."""
        return not sp.issparse(partition.X)

    def summarize(self, partition: Partition, worker: str = "") -> Summary:
        """Measure a partition, in one read of its rows."""
        return summarize(partition, worker)


@dataclass(frozen=True)
class Arrays:
    """Rows are arrays that keep their dtype, up to float32: mini-batches are converted when they are read."""

    regression: bool = False
    flat: bool = False

    def convert(self, X: Any, y: Any, sample_weight: Any = None) -> Partition:
        """Return rows as a partition."""
        data = convert_arrays(X, self.flat)
        with np.errstate(over="ignore"):  # found as infinity when the rows are measured
            return assemble(X, data, y, sample_weight, self.regression, np.dtype(np.float32))

    def refuse_infinite(self, partition: Partition) -> None:
        """Raise a ValueError where a partition that is not measured holds NaN or infinity."""
        arrays.refuse_infinite(partition)

    def shows_infinite(self, partition: Partition) -> bool:
        """Whether training shows NaN and infinity: a module may hide them."""
        return False

    def summarize(self, partition: Partition, worker: str = "") -> Summary:
        """Count the rows of a partition and look for values that are not finite."""
        self.refuse_infinite(partition)
        return Summary(
            partition.n_rows,
            partition.X.shape[1:],
            measure_targets(partition),
            partition.X.dtype,
            partition.nbytes,
            worker,
            None if partition.training is None else summarize_split(partition),
        )
