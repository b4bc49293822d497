"""What a server must know to go on where another one stopped."""

from __future__ import annotations

from typing import NamedTuple

from skdist.control.stopping import ConvergenceMonitor
from skdist.journal import EpochSums
from skdist.parameters import Stage
from skdist.records import RoundRecord


class Backup(NamedTuple):
    """A server at one moment. What had come in but was not applied then is not part of it.

    Attributes
    ----------
    stage : Stage or None
        The parameters; None where somebody else keeps them.
    monitor : ConvergenceMonitor or None
        Of the training loss.
    sums : dict of int to EpochSums
        By epoch.
    rounds : list of RoundRecord
        Those that whoever asked did not have yet.
    newest_epoch, last_epoch : int
        The newest one that has begun, and the last one of the fit.
    converged : bool
        Whether the monitor has ended the fit.
    seconds : float
        Since the start of the fit.
    offsets : dict of int to int
        By visit, the rows that are applied; a visit that is missing has none.
    """

    stage: Stage | None
    monitor: ConvergenceMonitor | None
    sums: dict[int, EpochSums]
    rounds: list[RoundRecord]
    newest_epoch: int
    last_epoch: int
    converged: bool
    seconds: float
    offsets: dict[int, int]
