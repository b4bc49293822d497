"""Training in this process: the server is a function call away, learners are threads."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import numpy as np

from skdist.control.dispatch import Dispatcher
from skdist.fitting import FitResult, FitSettings, Progress, build_server, conclude, visit_records
from skdist.history import History
from skdist.learner import Learner, run_visit
from skdist.messages import Join, Update, Visit, VisitReport
from skdist.models.linear import LinearModel
from skdist.models.partition import Partition
from skdist.server import ParameterServer


def train_inline(
    model: LinearModel,
    partitions: Sequence[Partition],
    settings: FitSettings,
    state: np.ndarray,
    n_threads: int = 1,
    clock: float = 0.0,
) -> FitResult:
    """Train on partitions in memory with ``n_threads`` learners.

    One thread visits everything in a fixed order and is deterministic to the bit.

    Parameters
    ----------
    model : LinearModel
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
    """
    rows = [partition.n_rows for partition in partitions]
    server = build_server(model, settings, state, sum(rows), n_threads, clock)
    dispatcher = Dispatcher(
        rows,
        {number: str(number % n_threads) for number in range(len(rows))},
        max_iter=settings.max_iter,
        seed=settings.seed,
        shuffle=settings.shuffle,
        # One learner needs no time limit, and without one nothing depends on the clock.
        budget_seconds=math.inf if n_threads == 1 else 1.0,
        step=model.batch_size,
        queue=0,
    )
    history = History()
    learners = {
        str(number): Learner(f"{number}", "inline", settings.adapter, settings.collect)
        for number in range(n_threads)
    }
    for name in learners:
        dispatcher.add_worker(name, 1)

    def visit(name: str, order: Visit) -> VisitReport:
        return visit_inline(server, order, partitions, model, learners[name])

    progress = Progress(settings.verbose)

    def done(report: VisitReport) -> None:
        dispatcher.finished(report)
        if progress.wanted:
            progress.show(*server.progress())
        history.visits.extend(visit_records(report))

    if n_threads == 1:
        while not dispatcher.done:
            for name, order in dispatcher.orders():
                done(visit(name, order))
    else:
        with ThreadPoolExecutor(n_threads, thread_name_prefix="skdist") as pool:
            running = set()
            while not dispatcher.done:
                running |= {pool.submit(visit, name, order) for name, order in dispatcher.orders()}
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done(future.result())
    return conclude(server.finish(), history, dispatcher.last_epoch + 1)


def visit_inline(
    server: ParameterServer,
    order: Visit,
    partitions: Sequence[Partition],
    model: LinearModel,
    learner: Learner,
) -> VisitReport:
    """Run one visit against a server in this process."""
    began, started = time.perf_counter(), time.time()
    attempt = f"{threading.get_ident()}"
    answer = server.join(Join(order, attempt, learner.name, learner.worker))
    offset = answer.offset
    if answer.accepted:
        chosen = {segment.partition: partitions[segment.partition] for segment in order.segments}
        loop = run_visit(order, chosen, model, learner, attempt, answer)
        try:
            request = next(loop)
            while True:
                assert isinstance(request, Update)
                answer = server.push(request)
                request = loop.send(answer)
        except StopIteration as end:
            offset = end.value
    number = server.leave(order.number, attempt)
    return VisitReport(
        visit=order,
        worker=learner.worker,
        offset=offset,
        attempt=number,
        started=started,
        seconds=time.perf_counter() - began,
        last_epoch=answer.last_epoch,
    )
