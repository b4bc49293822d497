"""Training in this process: the server is a function call away, learners are threads."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from skdist.checkpoint import Checkpoint, Reached
from skdist.console import ProgressLine
from skdist.control.dispatch import MOST_EPOCHS
from skdist.control.ledger import Ledger
from skdist.fitting import (
    FitResult,
    FitSettings,
    build_dispatcher,
    build_learner,
    build_server,
    conclude,
    take_in,
)
from skdist.history import History
from skdist.learner import Learner, VisitLoop, run_visit
from skdist.messages import Answer, Join, Update, Visit, VisitReport
from skdist.models.model import Model
from skdist.models.partition import Partition
from skdist.observers import Observers, Watch
from skdist.server import ParameterServer


def train_inline(
    model: Model,
    partitions: Sequence[Partition],
    settings: FitSettings,
    state: np.ndarray,
    n_threads: int = 1,
    clock: float = 0.0,
    observers: Observers | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Train on partitions in memory with ``n_threads`` learners.

    One thread visits everything in a fixed order and is deterministic to the bit.

    Parameters
    ----------
    model : Model
        What is trained.
    partitions : sequence of Partition
        All rows.
    settings : FitSettings
        How.
    state : ndarray
        Where training starts.
    n_threads : int
        Learners.
    clock : float
        Steps made by earlier fits.
    observers : Observers, optional
        Those who look at the model at the end of each epoch.
    checkpoint : Checkpoint, optional
        Says where to begin, and is written regularly.
    """
    rows = [partition.n_rows for partition in partitions]
    start = checkpoint.start if checkpoint is not None else None
    backup = start.backup if start is not None else None
    server = build_server(model, settings, state, sum(rows), n_threads, clock, backup=backup)
    who = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
    line = ProgressLine(settings.verbose, settings.max_iter, who)
    observers = observers if observers is not None else Observers()
    unwatched = n_threads == 1 and not observers
    names = [str(number) for number in range(n_threads)]
    dispatcher = build_dispatcher(
        replace(settings, planner=None),  # a visit runs when there is a thread for it
        model,
        rows,
        {number: str(number % n_threads) for number in range(len(rows))},
        seconds_per_row=1e-7,
        span=MOST_EPOCHS if unwatched else 1,
    )
    if start is not None:
        dispatcher.end_after(start.backup.last_epoch)
        dispatcher.go_on(start.opened, start.todo)
    history, ledger = History(), Ledger()
    deciding = threading.Lock()  # a checkpoint looks at the dispatcher from another thread
    learners = {name: build_learner(settings, name, "inline") for name in names}
    for name in names:
        dispatcher.add_worker(name, 1)

    def visit(name: str, order: Visit) -> VisitReport:
        return visit_inline(server, order, partitions, model, learners[name])

    watch = Watch(observers, dispatcher, waits=settings.mode == "sync")

    def over() -> bool:
        with deciding:
            return dispatcher.done

    def ordered() -> list[tuple[str, Visit]]:
        with deciding:
            return dispatcher.orders()

    def done(report: VisitReport) -> None:
        with deciding:
            take_in(history, dispatcher, report, server.seconds())
            if checkpoint is not None:
                ledger.ended(report.visit, report.worker, report.offset)

    def reached() -> Reached:
        with deciding:
            backup = server.back_up(ledger.asked(dispatcher), dispatcher.newest, sys.maxsize)
            ledger.settle(backup.offsets)
            todo = ledger.todo(dispatcher, backup.offsets)
            return Reached.of(backup, dispatcher, todo)

    with (
        checkpoint.regularly(reached, rows) if checkpoint is not None else nullcontext(),
        line.regularly(server.progress),
    ):
        if n_threads == 1:
            while not over():
                for name, order in ordered():
                    done(visit(name, order))
                    watch.look(server)
        else:
            with (
                ThreadPoolExecutor(n_threads, thread_name_prefix="skdist") as pool,
                ThreadPoolExecutor(1, thread_name_prefix="skdist-look") as looker,
            ):
                running: set[Future[VisitReport]] = set()
                try:
                    while not over() or watch.looks:
                        if not watch.holds:
                            running |= {pool.submit(visit, name, order) for name, order in ordered()}
                        wait([*running, *watch.looks], return_when=FIRST_COMPLETED)
                        finished = {future for future in running if future.done()}
                        running -= finished
                        for future in finished:
                            done(future.result())
                        for epoch in watch.due():
                            watch.looks.append(looker.submit(observers.show, server.snapshot(epoch)))
                        if watch.settle():
                            dispatcher.end_after(server.stop())
                except BaseException:
                    server.abort()  # so that the other threads end with their round, and nobody waits
                    raise
        outcome = server.finish()
    trainers = {name: each.trainer for name, each in learners.items() if each.trainer is not None}
    result = conclude(
        outcome, history, dispatcher.last_epoch + 1, settings, rows=rows, workers=1, learners=n_threads,
        line=line,
    )  # fmt: skip
    return replace(result, trainers=trainers)


def _run(server: ParameterServer, loop: VisitLoop, learner: Learner, answer: Answer) -> tuple[int, Answer]:
    """Feed the visit loop; return its rows and the last answer."""
    held: Future[Answer] | None = None
    reply: Answer | None = None
    posted = 0.0
    while True:
        try:
            request = loop.send(reply)
        except StopIteration as end:
            return end.value, answer
        reply = None
        if isinstance(request, Update):
            taken = server.push(request)
            if isinstance(taken, Future):
                held, posted = taken, learner.clock()
            else:
                reply = taken
        elif held is not None and (request.must_wait or held.done()):
            reply, held = settled(server, held), None
            learner.seconds_exchange = max(learner.clock() - posted - reply.seconds_held, 0.0)
        if reply is not None:
            answer = reply


def settled(server: ParameterServer, reply: Answer | Future[Answer]) -> Answer:
    """Return an answer, waiting for others where the gate says so."""
    while isinstance(reply, Future):
        try:
            return reply.result(server.patience())
        except TimeoutError:
            server.expire()
    return reply


def visit_inline(
    server: ParameterServer,
    order: Visit,
    partitions: Sequence[Partition],
    model: Model,
    learner: Learner,
) -> VisitReport:
    """Run one visit against a server in this process."""
    began, started = time.perf_counter(), time.time()
    learner.begin()
    attempt = f"{threading.get_ident()}"
    answer = server.join(Join(order, attempt, learner.name, learner.worker))
    offset = answer.offset
    try:
        if answer.accepted:
            chosen = {segment.partition: partitions[segment.partition] for segment in order.segments}
            loop = run_visit(order, chosen, model, learner, attempt, answer)
            offset, answer = _run(server, loop, learner, answer)
    finally:
        server.leave(order.number, attempt)
    return VisitReport(
        visit=order,
        worker=learner.worker,
        offset=offset,
        attempt=answer.attempt,
        started=started,
        seconds=time.perf_counter() - began,
        last_epoch=answer.last_epoch,
        seconds_waited=learner.seconds_waited,
        rounds=learner.rounds,
        seconds_compute=learner.seconds_compute,
        seconds_span=learner.seconds_span,
    )
