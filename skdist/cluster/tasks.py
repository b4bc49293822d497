"""What runs on the workers as Dask tasks: converting partitions, measuring them, visiting them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from distributed import get_worker

from skdist.cluster.actor import ServerRef
from skdist.learner import Learner, run_visit
from skdist.messages import Answer, Join, Update, Visit, VisitReport
from skdist.models.linear import as_rows
from skdist.models.partition import Partition, convert
from skdist.preparation import Summary, summarize


def prepare(number: int, X: Any, y: Any, sample_weight: Any) -> Partition:
    """Convert a block once; what the kernels can read as it is is not copied."""
    try:
        return convert(X, y, sample_weight)
    except ValueError as error:
        raise ValueError(f"Partition {number}: {error}") from error


def prepare_slice(number: int, slices: tuple[Any, Any, Any]) -> Partition:
    """Convert a slice that was sent from the driver."""
    return prepare(number, *slices)


def measure(numbers: Sequence[int], *partitions: Partition) -> dict[int, Summary]:
    """Measure partitions where they are; return their summaries by number."""
    address = get_worker().address
    found = {}
    for number, partition in zip(numbers, partitions, strict=True):
        try:
            found[number] = summarize(partition, address)
        except ValueError as error:
            raise ValueError(f"Partition {number}: {error}") from error
    return found


def visit(order: Visit, ref: ServerRef, plugin_name: str, *partitions: Partition) -> VisitReport:
    """Visit partitions: run the visit loop against the server.

    Parameters
    ----------
    order : Visit
        What to visit.
    ref : ServerRef
        The server.
    plugin_name : str
        Of the fit's `LearnerPlugin`.
    *partitions : Partition
        One for each segment of the order.
    """
    worker = get_worker()
    plugin = worker.plugins[plugin_name]
    began, started = time.perf_counter(), time.time()
    learner = plugin.take_learner()
    attempt = f"{learner.name}@{started}"
    try:
        answer = ref.call(worker, "join", Join(order, attempt, learner.name, learner.worker, plugin.link()))
        last_epoch = answer.last_epoch
        offset = answer.offset
        if answer.accepted:
            offset, last_epoch = _run(order, ref, worker, plugin, learner, attempt, answer, partitions)
        number = ref.call(worker, "leave", order.number, attempt)
    finally:
        plugin.return_learner(learner)
    return VisitReport(
        visit=order,
        worker=worker.address,
        offset=offset,
        attempt=number,
        started=started,
        seconds=time.perf_counter() - began,
        seconds_per_row=learner.seconds_per_row,
        last_epoch=last_epoch,
    )


def _run(
    order: Visit, ref: ServerRef, worker: Any, plugin: Any, learner: Learner, attempt: str,
    answer: Answer, partitions: Sequence[Partition],
) -> tuple[int, int]:  # fmt: skip
    """Feed the visit loop with the server's answers; return its rows and the last epoch known."""
    with plugin.lock:
        if plugin.model is None:
            plugin.model = ref.call(worker, "model")
    model, classes = plugin.model
    blocks = {}
    for segment, partition in zip(order.segments, partitions, strict=True):
        rows = as_rows(partition.X, model.dtype, model.sparse)
        weights = partition.weights.astype(model.dtype, copy=False)
        blocks[segment.partition] = replace(partition.globally(classes), X=rows, weights=weights)
    local = ref.is_local(worker)
    loop = run_visit(order, blocks, model, learner, attempt, answer, overlap=not local)
    posted: Future[Answer] | None = None
    reply: Answer | None = None
    last_epoch = answer.last_epoch
    while True:
        try:
            request = loop.send(reply)
        except StopIteration as end:
            return end.value, last_epoch
        if isinstance(request, Update):
            if local:
                reply = ref.call(worker, "push", request)
            else:
                posted, reply = ref.post(worker, "push", request), None
        elif posted is not None and (request.must_wait or posted.done()):
            reply, posted = ref.wait(posted), None
        else:
            reply = None
        if reply is not None:
            last_epoch = reply.last_epoch
