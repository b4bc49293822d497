"""One fit, whoever runs it: what is to be trained, with which settings, and what came out."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from skdist.backup import Backup
from skdist.compression import Feedback
from skdist.console import ProgressLine
from skdist.control.aggregation import InverseVolatility
from skdist.control.dispatch import EPOCH_LEAD, Dispatcher
from skdist.control.gates import FIRST_LEASE_SECONDS, gate_of
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.staleness import StalenessWindow
from skdist.control.stopping import MEMORY, ConvergenceMonitor, checks_per_epoch
from skdist.history import History
from skdist.journal import Outcome
from skdist.learner import Learner
from skdist.messages import Link, Visit, VisitReport
from skdist.models.codecs import Codec
from skdist.models.model import Trainer
from skdist.models.validation import HoldOut
from skdist.records import FitRecord, PlanRecord, VisitRecord
from skdist.server import ParameterServer

#: How much longer many learners take to show progress, as a power of how much less they move per row.
SLOWDOWN_POWER = 0.25

#: Of the server, where it makes a version of an update of each learner.
MOMENTUM = 0.86


@dataclass(frozen=True)
class FitSettings:
    """What stays the same during a fit.

    Attributes
    ----------
    adapter : StalenessWindow or None
        Method A.
    sizer : LatencyBatchSizer or None
        Method B.
    aggregator : InverseVolatility or None
        Weighs updates that are applied together; None weighs them equally.
    mode : {'async', 'ssp', 'sync'}
        Consistency.
    max_staleness : int
        For 'ssp': rounds that a learner may be ahead of the slowest.
    round_size : 'auto' or int
        ``B0`` in rows.
    collect : 'auto' or int
        Updates that make one version; 'auto' is one of each learner in mode 'async', else 1.
    momentum : 'auto' or float
        Of the server; 'auto' is `MOMENTUM` where the server collects by itself, else 0.
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
        Above 0 shows progress.
    planner : PressurePlanner or None
        Method B; None trains one visit per thread and lets one wait.
    hold_out : HoldOut or None
        Which rows are not trained on.
    codec : HalfPrecision, TopK or None
        Compresses updates; None sends them as they are.
    n_servers : int
        Shards of the parameters on a cluster.
    """

    adapter: StalenessWindow | None
    sizer: LatencyBatchSizer | None
    aggregator: InverseVolatility | None
    mode: str
    max_staleness: int
    round_size: str | int
    collect: str | int
    momentum: str | float
    max_iter: int
    tol: float | None
    n_iter_no_change: int
    seed: int
    shuffle: bool
    verbose: int = 0
    planner: PressurePlanner | None = None
    hold_out: HoldOut | None = None
    codec: Codec | None = None
    n_servers: int = 1

    @property
    def updates(self) -> int:
        """Updates that make one version where the gate does not decide it."""
        return 1 if isinstance(self.collect, str) else self.collect

    @property
    def gathers(self) -> bool:
        """Whether a version is made of an update of each learner, without waiting for late ones."""
        return self.mode == "async" and self.collect == "auto"

    @property
    def most_momentum(self) -> float:
        """Momentum of the server for many learners."""
        if isinstance(self.momentum, str):
            return MOMENTUM if self.gathers else 0.0
        return self.momentum

    @property
    def window(self) -> int:
        """Heartbeat latencies to remember; without a sizer they still predict staleness."""
        return (self.sizer or LatencyBatchSizer()).window

    @property
    def fixed_shares(self) -> bool:
        """Whether each learner trains a share of the rows that does not depend on who is fast."""
        return self.mode == "sync" and self.sizer is None


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
        Whether it stopped because the loss, or the score on validation rows, improved no more.
    history : History
        What happened.
    trainers : mapping of str to Trainer
        Of the learners of this process, by name.
    """

    state: np.ndarray
    clock: float
    n_iter: int
    converged: bool
    history: History
    trainers: Mapping[str, Trainer] = field(default_factory=dict)


def build_server(
    model: Any,
    settings: FitSettings,
    state: np.ndarray,
    n_rows: int,
    n_learners: int,
    clock: float,
    time_source: Callable[[], float] = time.perf_counter,
    first_lease_seconds: float = FIRST_LEASE_SECONDS,
    backup: Backup | None = None,
    sharded: bool = False,
) -> ParameterServer:
    """Return the server of a fit; the same in a thread pool, an actor and a simulation.

    With a backup it goes on from there. Where it is sharded, others hold the parameters.
    """
    several = model.schedule.adaptive
    tol = None if settings.tol is None else settings.tol * model.loss_unit
    interval = -(-n_rows // checks_per_epoch(n_rows, several))
    if settings.gathers:
        # The mean of many learners moves less per row than one; what momentum gives back, it does.
        slowdown = max(n_learners * (1 - settings.most_momentum), 1.0)
        interval = math.ceil(interval * slowdown**SLOWDOWN_POWER)
    server = ParameterServer(
        state,
        n_rows=n_rows,
        schedule=model.schedule,
        gate=gate_of(settings.mode, settings.max_staleness, settings.collect, first_lease_seconds),
        adapter=settings.adapter,
        sizer=settings.sizer,
        aggregator=settings.aggregator,
        round_size=settings.round_size,
        batch_size=model.batch_size,
        monitor=ConvergenceMonitor(
            interval, tol, settings.n_iter_no_change, model.schedule.cuts, MEMORY if several else 1.0
        ),
        max_iter=settings.max_iter,
        n_learners=n_learners,
        even=not settings.fixed_shares,
        exchange_rows=model.exchange_rows,
        collect=settings.updates,
        momentum=settings.most_momentum,
        statistics=model.statistics,
        sharded=sharded,
        clock=clock,
        time_source=time_source,
    )
    if backup is not None:
        server.go_on(backup)
    return server


def build_dispatcher(
    settings: FitSettings,
    model: Any,
    rows: Sequence[int],
    homes: Mapping[int, str],
    *,
    seconds_per_row: float,
    least_seconds: float = 0.25,
    queue: int = 0,
    streamed: bool = False,
    span: int = 1,
    span_seconds: float = math.inf,
    spare: float = math.inf,
) -> Dispatcher:
    """Return the dispatcher of a fit; other parameters as there."""
    together = settings.mode == "sync"
    return Dispatcher(
        rows,
        homes,
        max_iter=settings.max_iter,
        seed=settings.seed,
        shuffle=settings.shuffle,
        seconds_per_row=seconds_per_row,
        least_seconds=least_seconds,
        step=model.batch_size,
        # Where rounds end together, so do epochs.
        queue=0 if together else queue,
        lead=0 if together else EPOCH_LEAD,
        # Shares are made for so many slots, and what a plan follows from depends on the clock.
        planner=None if settings.fixed_shares else settings.planner,
        streamed=streamed,
        fixed=settings.fixed_shares,
        span=span,
        span_seconds=span_seconds,
        spare=spare,
    )


def build_learner(
    settings: FitSettings,
    name: str,
    worker: str,
    link: Callable[[], Link] = Link,
    clock: Callable[[], float] = time.perf_counter,
) -> Learner:
    """Return a learner of a fit."""
    return Learner(
        name,
        worker,
        adapter=settings.adapter,
        collect=settings.updates,
        gathers=settings.gathers,
        overlap=settings.mode != "sync",
        volatility=settings.aggregator is not None,
        feedback=None if settings.codec is None else Feedback(settings.codec),
        link=link,
        clock=clock,
    )


def conclude(
    outcome: Outcome,
    history: History,
    n_iter: int,
    settings: FitSettings,
    *,
    rows: Sequence[int],
    workers: int,
    learners: int,
    line: ProgressLine | None = None,
) -> FitResult:
    """Return the result of a fit: the server's outcome, and its records added to those of the driver.

    Parameters
    ----------
    outcome : Outcome
        Of the server.
    history : History
        Of the driver.
    n_iter : int
        Epochs run.
    settings : FitSettings
        Of the fit.
    rows : sequence of int
        Of each partition.
    workers, learners : int
        At the start of training.
    line : ProgressLine, optional
        Shows how it ended.
    """
    history.rounds.extend(outcome.rounds)
    history.epochs.extend(outcome.epochs)
    history.fits.append(
        FitRecord(
            mode=settings.mode,
            workers=workers,
            learners=learners,
            partitions=len(rows),
            rows=sum(rows),
            epochs=n_iter,
            converged=outcome.converged,
            time=0.0,
            seconds=outcome.seconds,
        )
    )
    if line is not None and line.wanted:
        late = [record.staleness for record in history.rounds]
        line.end(
            epochs=n_iter,
            loss=outcome.epochs[-1].loss if outcome.epochs else math.nan,
            rows=sum(epoch.rows for epoch in outcome.epochs),
            seconds=outcome.seconds,
            staleness=sum(late) / len(late) if late else math.nan,
        )
    return FitResult(outcome.state, outcome.clock, n_iter, outcome.converged, history)


def take_in(history: History, dispatcher: Dispatcher, report: VisitReport, time: float) -> None:
    """Tell dispatcher and history how a visit ended, ``time`` seconds after the start of the fit."""
    plan = dispatcher.finished(report)
    history.visits.extend(visit_records(report, time))
    if plan is not None:
        history.plans.append(PlanRecord(report.worker, time, **asdict(plan)))


def visit_records(report: VisitReport, time: float) -> list[VisitRecord]:
    """Return a record for each partition that a visit trained on, which ended at ``time``."""
    spent = report.seconds, report.seconds_compute, report.seconds_waited
    began = max(time - report.seconds, 0.0)
    return _records(report.visit, report.worker, report.offset, began, spent, report.attempt)


def lost_records(visit: Visit, worker: str, offset: int) -> list[VisitRecord]:
    """Return the records of a visit that never reported, up to the rows that the server acknowledged."""
    return _records(visit, worker, offset, math.nan, (math.nan,) * 3, 1)


def _records(
    visit: Visit, worker: str, offset: int, began: float, spent: tuple[float, float, float], attempt: int
) -> list[VisitRecord]:
    segments = visit.split(offset)[0]
    per_row = [seconds / max(offset, 1) for seconds in spent]
    before = itertools.accumulate((segment.rows for segment in segments), initial=0)
    return [
        VisitRecord(
            worker=worker,
            epoch=visit.epoch + segment.ahead,
            visit=visit.number,
            partition=segment.partition,
            start=segment.start,
            rows=segment.rows,
            seconds=per_row[0] * segment.rows,
            attempt=attempt,
            time=began + per_row[0] * done,
            seconds_compute=per_row[1] * segment.rows,
            seconds_waited=per_row[2] * segment.rows,
        )
        for segment, done in zip(segments, before, strict=False)
    ]
