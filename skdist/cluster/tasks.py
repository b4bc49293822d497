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
        try:
            if answer.accepted:
                offset, last_epoch = _run(order, ref, worker, plugin, learner, attempt, answer, partitions)
        except BaseException:
            ref.post(worker, "leave", order.number, attempt)  # not waited for: the error matters more
            raise
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
        last_epoch=last_epoch,
    )


def _run(
    order: Visit, ref: ServerRef, worker: Any, plugin: Any, learner: Learner, attempt: str,
    answer: Answer, partitions: Sequence[Partition],
) -> tuple[int, int]:  # fmt: skip
    """Feed the visit loop with the server's answers; return its rows and the last epoch known."""
    model, classes = plugin.model_of(ref)
    blocks = {}
    for segment, partition in zip(order.segments, partitions, strict=True):
        rows = as_rows(partition.X, model.dtype, model.sparse)
        weights = partition.weights.astype(model.dtype, copy=False)
        blocks[segment.partition] = replace(partition.globally(classes), X=rows, weights=weights)
    local = ref.is_local(worker)
    loop = run_visit(order, blocks, model, learner, attempt, answer)
    exchange: Exchange | None = None
    reply: Answer | None = None
    last_epoch = answer.last_epoch
    while True:
        try:
            request = loop.send(reply)
        except StopIteration as end:
            return end.value, last_epoch
        reply = None
        if isinstance(request, Update):
            if local:
                reply = ref.call(worker, "push", request)
            else:
                exchange = Exchange(ref, ref.post(worker, "push", request))
        elif exchange is not None and (request.must_wait or exchange.done()):
            reply, learner.seconds_exchange = exchange.result()
            exchange = None
        if reply is not None:
            last_epoch = reply.last_epoch


class Exchange:
    """An update on its way to the server and back, and how long that took.

    Parameters
    ----------
    ref : ServerRef
        The server.
    future : Future
        Of the answer.
    """

    def __init__(self, ref: ServerRef, future: Future[Answer]) -> None:
        self._ref, self._future = ref, future
        self._posted = time.perf_counter()
        self._answered: float | None = None
        future.add_done_callback(self._stop)

    def _stop(self, _: Future[Answer]) -> None:
        # When it came, not when a learner that is training looks for it.
        self._answered = time.perf_counter()

    def done(self) -> bool:
        """Whether the answer is there."""
        return self._future.done()

    def result(self) -> tuple[Answer, float]:
        """Return the answer and the seconds of the exchange, waiting for it if need be."""
        answer = self._ref.wait(self._future)
        # Who waits may be woken before the callback has run.
        answered = self._answered if self._answered is not None else time.perf_counter()
        return answer, answered - self._posted
