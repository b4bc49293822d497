"""When to stop."""

from __future__ import annotations

import math

#: A check over fewer rows would see little but noise. More would still see some: the mean log-loss of 8,192
#: rows has a standard error of about 4e-3, that of 62,500 rows 1.6e-3. So a loss that settles within noise
#: counts as settled.
LEAST_ROWS_PER_CHECK = 8192

#: Checks per pass where the learning rate allows several.
MOST_CHECKS_PER_EPOCH = 8


def checks_per_epoch(n_rows: int, several: bool) -> int:
    """Return how often a pass is checked for progress."""
    if not several:
        return 1
    return min(max(n_rows // LEAST_ROWS_PER_CHECK, 1), MOST_CHECKS_PER_EPOCH)


class ConvergenceMonitor:
    """Ask after every ``interval`` rows whether the training loss still improves.

    As in scikit-learn, a check is a failure when its loss is above ``best - tol``, and
    ``n_iter_no_change`` failures in a row mean convergence.

    Parameters
    ----------
    interval : int
        Rows between two checks.
    tol : float or None
        The least improvement of the mean loss; None never converges.
    n_iter_no_change : int
        Failures in a row.
    """

    def __init__(self, interval: int, tol: float | None, n_iter_no_change: int) -> None:
        self.interval = max(interval, 1)
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.best = math.inf
        self.failures = 0
        self._rows = 0
        self._loss = 0.0

    @property
    def until_check(self) -> int:
        """Rows until the next check."""
        return self.interval - self._rows

    def observe(self, rows: int, loss: float) -> bool:
        """Take in the loss sum of some rows; return whether training has converged."""
        self._rows += rows
        self._loss += loss
        if self._rows >= self.interval:
            mean = self._loss / self._rows
            self._rows, self._loss = 0, 0.0
            if self.tol is not None and mean > self.best - self.tol:
                self.failures += 1
            else:
                self.failures = 0
            self.best = min(self.best, mean)
        return self.failures >= self.n_iter_no_change
