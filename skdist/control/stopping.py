"""When to stop."""

from __future__ import annotations

import math

#: A check over fewer rows would see little but noise. More would still see some: the mean log-loss of 8,192
#: rows has a standard error of about 4e-3, that of 62,500 rows 1.6e-3. So a loss that settles within noise
#: counts as settled.
LEAST_ROWS_PER_CHECK = 8192

#: Checks per pass where the learning rate allows several.
MOST_CHECKS_PER_EPOCH = 8

#: They are averaged over about so many: the best of many single ones is one that was lucky.
MEMORY = 4.0

#: What scikit-learn's 'adaptive' rate is divided by where training settles.
CUT = 5.0


def checks_per_epoch(n_rows: int, several: bool) -> int:
    """Return how often a pass is checked for progress."""
    if not several:
        return 1
    return min(max(n_rows // LEAST_ROWS_PER_CHECK, 1), MOST_CHECKS_PER_EPOCH)


class ScoreMonitor:
    """Ask after every epoch whether the score on validation rows still improves.

    As in scikit-learn, a score below ``best + tol`` is a failure, and ``n_iter_no_change`` failures in a row
    mean convergence.

    Parameters
    ----------
    tol : float or None
        The least improvement; None never converges.
    n_iter_no_change : int
        Failures in a row.

    Attributes
    ----------
    best : float
        The best score.
    converged : bool
        Whether there were that many failures in a row.
    """

    def __init__(self, tol: float | None, n_iter_no_change: int) -> None:
        self.tol, self.n_iter_no_change = tol, n_iter_no_change
        self.best, self.failures, self.converged = -math.inf, 0, False

    def observe(self, score: float) -> bool:
        """Take in the score of an epoch; return whether it is the best one so far."""
        failed = self.tol is not None and score < self.best + self.tol
        self.failures = self.failures + 1 if failed else 0
        self.converged = self.converged or self.failures >= self.n_iter_no_change
        better = score > self.best
        self.best = max(self.best, score)
        return better


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
    cuts : int
        How often that divides the rate by `CUT` instead, before it means convergence.
    memory : float
        Over so many checks the losses are averaged: those before count less and less. 1 for each alone.

    Attributes
    ----------
    rate : float
        What is left of the rate.
    """

    def __init__(
        self, interval: int, tol: float | None, n_iter_no_change: int, cuts: int = 0, memory: float = 1.0
    ) -> None:
        self.memory = memory
        self.interval = max(interval, 1)
        self.cuts, self.rate = cuts, 1.0
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.best = math.inf
        self.failures = 0
        self._rows = 0
        self._loss = 0.0
        self._mean, self._weight = 0.0, 0.0  # of the checks so far

    @property
    def until_check(self) -> int:
        """Rows until the next check."""
        return self.interval - self._rows

    def go_on(self, other: ConvergenceMonitor) -> None:
        """Go on with what another monitor has seen."""
        self.best, self.failures, self.cuts, self.rate = other.best, other.failures, other.cuts, other.rate
        self._rows, self._loss = other._rows, other._loss
        self._mean, self._weight = other._mean, other._weight

    def observe(self, rows: int, loss: float) -> bool:
        """Take in the loss sum of some rows; return whether training has converged."""
        self._rows += rows
        self._loss += loss
        if self._rows >= self.interval:
            self._weight = 1.0 + (1.0 - 1.0 / self.memory) * self._weight
            self._mean += (self._loss / self._rows - self._mean) / self._weight
            self._rows, self._loss, mean = 0, 0.0, self._mean
            if self.tol is not None and mean > self.best - self.tol:
                self.failures += 1
            else:
                self.failures = 0
            self.best = min(self.best, mean)
            if self.failures >= self.n_iter_no_change and self.cuts:
                self.cuts, self.failures, self.rate = self.cuts - 1, 0, self.rate / CUT
        return self.failures >= self.n_iter_no_change
