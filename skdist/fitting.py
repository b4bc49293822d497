"""One fit, whoever runs it: what is to be trained, with which settings, and what came out."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from skdist.control.latency import LatencyBatchSizer
from skdist.control.staleness import StalenessWindow
from skdist.control.stopping import ConvergenceMonitor, checks_per_epoch
from skdist.history import History, VisitRecord
from skdist.messages import Visit, VisitReport
from skdist.server import Outcome, ParameterServer


@dataclass(frozen=True)
class FitSettings:
    """What stays the same during a fit.

    Attributes
    ----------
    adapter : StalenessWindow or None
        Method A.
    sizer : LatencyBatchSizer or None
        Method B.
    round_size : 'auto' or int
        ``B0`` in rows.
    collect : int
        Updates that make one version.
    max_iter : int
        Epochs at most.
    tol : float or None
        Least improvement of the mean loss between checks; None makes all epochs.
    n_iter_no_change : int
        Checks without improvement before training ends.
    seed : int
        Of the order of partitions.
    shuffle : bool
        Whether that order changes.
    verbose : int
        Above 0 prints progress.
    """

    adapter: StalenessWindow | None
    sizer: LatencyBatchSizer | None
    round_size: str | int
    collect: int
    max_iter: int
    tol: float | None
    n_iter_no_change: int
    seed: int
    shuffle: bool
    verbose: int = 0


@dataclass(frozen=True)
class FitResult:
    """What a fit leaves behind.

    Attributes
    ----------
    state : ndarray
        Final state of the model.
    clock : float
        Sequential steps made.
    n_iter : int
        Epochs run.
    converged : bool
        Whether it stopped because the loss improved no more.
    history : History
        What happened.
    """

    state: np.ndarray
    clock: float
    n_iter: int
    converged: bool
    history: History


def build_server(
    model: Any, settings: FitSettings, state: np.ndarray, n_rows: int, n_learners: int, clock: float
) -> ParameterServer:
    """Return the server of a fit; the same in a thread pool, an actor and a simulation."""
    several = model.schedule.adaptive
    interval = -(-n_rows // checks_per_epoch(n_rows, several))
    return ParameterServer(
        state,
        n_rows=n_rows,
        schedule=model.schedule,
        adapter=settings.adapter,
        sizer=settings.sizer,
        round_size=settings.round_size,
        batch_size=model.batch_size,
        monitor=ConvergenceMonitor(interval, settings.tol, settings.n_iter_no_change),
        max_iter=settings.max_iter,
        n_learners=n_learners,
        collect=settings.collect,
        clock=clock,
    )


def conclude(outcome: Outcome, history: History, n_iter: int) -> FitResult:
    """Return the result of a fit: the server's outcome, and its records added to those of the driver."""
    history.rounds.extend(outcome.rounds)
    history.epochs.extend(outcome.epochs)
    return FitResult(outcome.state, outcome.clock, n_iter, outcome.converged, history)


def visit_records(report: VisitReport) -> list[VisitRecord]:
    """Return a record for each partition that a visit trained on."""
    return _records(report.visit, report.worker, report.offset, report.seconds, report.attempt)


def lost_records(visit: Visit, worker: str, offset: int) -> list[VisitRecord]:
    """Return the records of a visit that never reported, up to the rows that the server acknowledged."""
    return _records(visit, worker, offset, math.nan, 1)


def _records(visit: Visit, worker: str, offset: int, seconds: float, attempt: int) -> list[VisitRecord]:
    return [
        VisitRecord(
            worker=worker,
            epoch=visit.epoch,
            visit=visit.number,
            partition=segment.partition,
            start=segment.start,
            rows=segment.rows,
            seconds=seconds * segment.rows / max(offset, 1),
            attempt=attempt,
        )
        for segment in visit.split(offset)[0]
    ]


class Progress:
    """Prints where training stands, where the user wants it.

    Parameters
    ----------
    verbose : int
        0 prints nothing.
    """

    def __init__(self, verbose: int) -> None:
        self.wanted = verbose > 0
        self._began = time.perf_counter()

    def show(self, epoch: int, loss: float, rows: int, workers: int = 0) -> None:
        """Print one line: the epoch under way, the mean loss of its rows so far, and their number."""
        if self.wanted and rows:
            seconds = time.perf_counter() - self._began
            where = f", {workers} workers" if workers else ""
            print(f"epoch {epoch + 1}: loss {loss:.4f}, {rows:,} rows, {seconds:.1f} s{where}", flush=True)
