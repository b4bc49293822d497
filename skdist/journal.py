"""What a server writes down while it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from skdist.recipes import Pending
from skdist.records import EpochRecord, RoundRecord


@dataclass
class EpochSums:
    """Sums over the rounds of an epoch.

    Attributes
    ----------
    rows : int
        Applied until now.
    loss : float
        Sum of their losses.
    began, ended : float
        Seconds since the start of the fit.
    """

    rows: int = 0
    loss: float = 0.0
    began: float = math.inf
    ended: float = 0.0


class Outcome(NamedTuple):
    """What a server has to say at the end.

    Attributes
    ----------
    state : ndarray or Mark
        Final parameters, or where they are.
    version : int
        Versions made.
    clock : float
        Sequential steps made.
    rounds : list of RoundRecord
        All rounds.
    epochs : list of EpochRecord
        All epochs.
    converged : bool
        Whether the convergence monitor ended the fit.
    seconds : float
        Since the start of the fit.
    """

    state: Any
    version: int
    clock: float
    rounds: list[RoundRecord]
    epochs: list[EpochRecord]
    converged: bool
    seconds: float


class Journal:
    """The rounds of a fit, and the sums over them that make epochs.

    Attributes
    ----------
    rounds : list of RoundRecord
        All rounds, in the order in which they were applied.
    """

    def __init__(self) -> None:
        self.rounds: list[RoundRecord] = []
        self._epochs: dict[int, EpochSums] = {}

    def sums(self) -> dict[int, EpochSums]:
        """Return a copy of the sums of each epoch."""
        return {number: replace(sums) for number, sums in self._epochs.items()}

    def go_on(self, sums: dict[int, EpochSums]) -> None:
        """Go on from the sums of another journal, whose rounds somebody else keeps."""
        self._epochs = {number: replace(each) for number, each in sums.items()}

    def note(self, item: Pending, *, worker: str, version: int, weight: float) -> None:
        """Write down an update that was applied.

        Parameters
        ----------
        item : Pending
            The update.
        worker : str
            Where its learner is.
        version : int
            That it has become part of.
        weight : float
            Among the updates that were applied together.
        """
        update, epoch = item.update, item.epoch
        rows = update.stop - update.start
        sums = self._epochs.get(epoch)
        if sums is None:
            sums = self._epochs[epoch] = EpochSums()
        sums.rows += rows
        sums.loss += update.loss
        sums.began = min(sums.began, item.seconds - update.seconds_compute)
        sums.ended = max(sums.ended, item.seconds)
        self.rounds.append(
            RoundRecord(
                learner=item.learner,
                worker=worker,
                epoch=epoch,
                visit=update.visit,
                rows=rows,
                steps=update.steps,
                round_size=update.round_size,
                version=version,
                staleness=item.staleness,
                context=update.context,
                rate_scale=update.rate_scale,
                applied=item.scale,
                weight=weight,
                volatility=update.volatility,
                latency=update.link.median,
                efficiency=update.efficiency,
                loss=update.loss / rows,
                seconds_compute=update.seconds_compute,
                seconds_exchange=update.seconds_exchange,
                time=item.seconds,
            )
        )

    def epochs(self) -> list[EpochRecord]:
        """Return a record of each epoch."""
        return [
            EpochRecord(number, e.rows, e.loss / max(e.rows, 1), math.nan, e.ended - e.began)
            for number, e in sorted(self._epochs.items())
        ]

    def progress(self) -> tuple[int, float, int]:
        """Return the newest epoch, the mean loss of its rows so far and its rows."""
        if not self._epochs:
            return 0, math.nan, 0
        number = max(self._epochs)
        epoch = self._epochs[number]
        return number, epoch.loss / max(epoch.rows, 1), epoch.rows

    def totals(self) -> tuple[int, float]:
        """Return the rows of all epochs so far and the sum of their losses."""
        epochs = self._epochs.values()
        return sum(epoch.rows for epoch in epochs), sum(epoch.loss for epoch in epochs)
