"""How far training has come, and when it ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

from skdist.backup import Backup
from skdist.control.stopping import ConvergenceMonitor
from skdist.journal import Journal, Outcome
from skdist.parameters import Stage
from skdist.recipes import Pending


class Course:
    """Takes in the rounds that are applied, asks whether the loss still improves, and knows the last epoch.

    Parameters
    ----------
    monitor : ConvergenceMonitor or None
        Decides when training has converged; None runs to ``max_iter``.
    max_iter : int
        Epochs at most.
    time_source : callable
        Seconds of a steady clock.

    Attributes
    ----------
    journal : Journal
        The rounds.
    newest_epoch : int
        That has begun; -1 before the first.
    last_epoch : int
        Of the fit; -1 where it was aborted.
    converged : bool
        Whether the monitor has ended it.
    """

    def __init__(
        self, monitor: ConvergenceMonitor | None, max_iter: int, time_source: Callable[[], float]
    ) -> None:
        self.journal = Journal()
        self.newest_epoch, self.last_epoch, self.converged = -1, max_iter - 1, False
        self._monitor, self._now = monitor, time_source
        self._began = time_source()

    def seconds(self, now: float | None = None) -> float:
        """Return the seconds since the start of the fit, the time of the history."""
        return (self._now() if now is None else now) - self._began

    def over(self, epoch: int) -> bool:
        """Whether training has ended before an epoch."""
        return epoch > self.last_epoch

    def reach(self, epoch: int) -> bool:
        """Take in that somebody trains on an epoch; return whether it has just begun."""
        begins = epoch > self.newest_epoch
        self.newest_epoch = max(self.newest_epoch, epoch)
        return begins

    def note(self, item: Pending, *, worker: str, version: int, weight: float) -> None:
        """Take in an update that was applied; parameters as in `Journal.note`."""
        self.journal.note(item, worker=worker, version=version, weight=weight)
        update = item.update
        for rows, loss in update.checks or ((update.stop - update.start, update.loss),):
            if self._monitor is not None and self._monitor.observe(rows, loss) and not self.converged:
                # Epochs under way are finished: every row counts equally often.
                self.converged, self.last_epoch = True, self.newest_epoch

    @property
    def rate(self) -> float:
        """What is left of the rate."""
        return 1.0 if self._monitor is None else self._monitor.rate

    @property
    def looks(self) -> tuple[float, float]:
        """Rows until the loss is looked at next, and from one look to another."""
        if self._monitor is None:
            return math.inf, math.inf
        return self._monitor.until_check, self._monitor.interval

    def stop(self) -> int:
        """End the fit after the epochs that are under way; return the last one."""
        self.last_epoch = min(self.last_epoch, max(self.newest_epoch, 0))
        return self.last_epoch

    def abort(self) -> None:
        """End the fit at once."""
        self.last_epoch = -1

    def backup(self, stage: Stage, offsets: dict[int, int], rounds: int) -> Backup:
        """Return what another server needs to go on; whoever asks has the first ``rounds`` of the journal."""
        return Backup(
            stage=stage,
            monitor=copy.copy(self._monitor),
            sums=self.journal.sums(),
            rounds=self.journal.rounds[rounds:],
            newest_epoch=self.newest_epoch,
            last_epoch=self.last_epoch,
            converged=self.converged,
            seconds=self.seconds(),
            offsets=offsets,
        )

    def go_on(self, backup: Backup) -> None:
        """Go on where another server stopped."""
        self.journal.go_on(backup.sums)
        if self._monitor is not None and backup.monitor is not None:
            self._monitor.go_on(backup.monitor)
        self.newest_epoch, self.last_epoch = backup.newest_epoch, backup.last_epoch
        self.converged = backup.converged
        self._began = self._now() - backup.seconds

    def outcome(self, stage: Stage) -> Outcome:
        """Return what there is to say at the end, when the parameters stand at ``stage``."""
        return Outcome(
            stage.state, stage.version, stage.clock, self.journal.rounds, self.journal.epochs(),
            self.converged, self.seconds(),
        )  # fmt: skip
