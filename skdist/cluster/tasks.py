"""What runs on the workers as Dask tasks: converting partitions, measuring them, visiting them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from distributed import get_worker

from skdist.backup import Backup
from skdist.cluster.connection import Connection, ServerRef
from skdist.cluster.exchange import Exchange, TaskThread
from skdist.cluster.held import Named
from skdist.cluster.shards import asker_on, collected
from skdist.exceptions import DivergedError, ServerLostError, UnlikeSampleError
from skdist.intake import Intake
from skdist.learner import Learner, VisitLoop, run_visit
from skdist.messages import Answer, Join, Update, Visit, VisitReport
from skdist.models.partition import Partition
from skdist.models.validation import HoldOut, ScoreSums, add_up, score_sums
from skdist.preparation import Summary

T = TypeVar("T")


class Kind(NamedTuple):
    """What the partitions of a source are.

    Attributes
    ----------
    name : str
        What errors call one.
    intake : Intake
        Converts and measures them.
    hold_out : HoldOut or None
        Which rows are not trained on.
    shape : tuple of int
        Of a row; known once partitions are measured.
    streamed : bool
        Whether each visit loads its partitions anew.
    sampled : bool
        Whether not all partitions are measured: then what the others hold shows when they are visited.
    """

    name: str
    intake: Intake
    hold_out: HoldOut | None
    shape: tuple[int, ...] = ()
    streamed: bool = False
    sampled: bool = False


def prepare(kind: Kind, number: int, X: Any, y: Any, sample_weight: Any) -> Partition:
    """Convert a block once; what the kernels can read as it is is not copied."""
    try:
        partition = kind.intake.convert(X, y, sample_weight)
    except ValueError as error:
        raise ValueError(f"{kind.name} {number}: {error}") from error
    return partition if kind.hold_out is None else kind.hold_out.split(partition, number)


def prepare_slice(kind: Kind, number: int, slices: tuple[Any, Any, Any]) -> Partition:
    """Convert a slice that was sent from the driver."""
    return prepare(kind, number, *slices)


def partition_of(kind: Kind, number: int, block: Any) -> Partition:
    """Return a partition that is prepared already, or prepare it from X, y and sample weights."""
    return block if isinstance(block, Partition) else prepare(kind, number, *block)


def _partition_on(plugin: Any, kind: Kind, number: int, block: Any) -> Partition:
    """Return a partition like `partition_of`, which is called once for each that this worker holds."""
    if isinstance(block, Partition):
        return block
    made: Partition = plugin.partition(
        (kind.name, number), block[0], partial(partition_of, kind, number, block)
    )
    return made


def refuse_others(kind: Kind, number: int, rows: int, partition: Partition) -> None:
    """Raise a ValueError where a partition is not the one that was said or measured to be there."""
    if (partition.n_rows, *partition.X.shape[1:]) != (rows, *kind.shape):
        raise ValueError(
            f"{kind.name} {number} has {partition.n_rows} rows of shape {partition.X.shape[1:]}; its chunk "
            f"says, or it had before, {rows} of {kind.shape}. A lazy collection must load the same rows each "
            "time, and X.compute_chunk_sizes() corrects chunks that are wrong."
        )
    if kind.sampled and not kind.intake.shows_infinite(partition):
        refuse_infinite(kind, number, partition)


def refuse_infinite(kind: Kind, number: int, partition: Partition) -> None:
    """Raise a ValueError where a partition that was not measured holds NaN or infinity."""
    try:
        kind.intake.refuse_infinite(partition)
    except ValueError as error:
        raise ValueError(f"{kind.name} {number}: {error}") from error


def size_of(partition: Partition) -> int:
    """Return the bytes of the rows of a partition."""
    return partition.nbytes


def where_held(call: Callable[..., T], named: Named, *args: Any) -> T | None:
    """Return ``call(*args, *blocks)``; None where this worker does not hold the blocks in its memory.

    What is spilled only Dask's event loop may load.
    """
    data = get_worker().data
    blocks = named.found(getattr(data, "memory", data))
    return None if blocks is None else call(*args, *blocks)


def measure(kind: Kind, numbers: Sequence[int], *blocks: Any) -> dict[int, Summary]:
    """Measure partitions where they are; return their summaries by number."""
    address = get_worker().address
    found = {}
    for number, block in zip(numbers, blocks, strict=True):
        partition = partition_of(kind, number, block)
        try:
            found[number] = kind.intake.summarize(partition, address)
        except ValueError as error:
            raise ValueError(f"{kind.name} {number}: {error}") from error
    return found


def score(
    kind: Kind, numbers: Sequence[int], ref: ServerRef, plugin_name: str, state: np.ndarray, *blocks: Any
) -> ScoreSums:
    """Score a state on the held-out rows of partitions, where they are."""
    plugin = get_worker().plugins[plugin_name]
    model, classes = plugin.model_of(plugin.connect(ref))
    partitions = [_partition_on(plugin, kind, *each) for each in zip(numbers, blocks, strict=True)]
    return add_up([score_sums(model, state, partition, classes) for partition in partitions])


async def keep_backup(
    plugin_name: str, number: int, ref: ServerRef, method: str, visits: Collection[int], newest: int,
    rounds: int, dask_worker: Any,
) -> Backup:  # fmt: skip
    """Fetch a backup to this worker and keep it there; return all of it but the parameters."""
    backup: Backup = await ref.call_from_worker(dask_worker, method, visits, newest, rounds)
    assert backup.stage is not None
    backup = backup._replace(stage=await collected(backup.stage, ref, asker_on(dask_worker), moving=True))
    dask_worker.plugins[plugin_name].keep(number, backup)
    return backup._replace(stage=None)


def renew(plugin_name: str, incarnation: int, dask_worker: Any) -> None:
    """Tell the visits on this worker which server is the present one."""
    plugin = dask_worker.plugins.get(plugin_name)
    if plugin is not None:
        plugin.renew(incarnation)


def has_plugin(name: str, dask_worker: Any) -> bool:
    """Return whether this worker has a plugin."""
    return name in dask_worker.plugins


def visit(
    order: Visit, ref: ServerRef, plugin_name: str, kind: Kind, rows: Sequence[int], *blocks: Any
) -> VisitReport:
    """Visit partitions: run the visit loop against the server.

    Parameters
    ----------
    order : Visit
        What to visit.
    ref : ServerRef
        The server.
    plugin_name : str
        Of the fit's `LearnerPlugin`.
    kind : Kind
        Of the partitions.
    rows : sequence of int
        Of each partition of the order.
    *blocks : Partition or tuple
        One for each of them; X, y and sample weights where nothing had to be converted.
    """
    plugin = get_worker().plugins[plugin_name]
    numbers = order.partitions
    partitions = {n: _partition_on(plugin, kind, n, block) for n, block in zip(numbers, blocks, strict=True)}
    for (number, partition), count in zip(partitions.items(), rows, strict=True):
        refuse_others(kind, number, count, partition)
    thread = TaskThread()
    if kind.streamed and order.threads:
        thread.give_away()  # to the next visit's partition: it loads while this one trains
    with plugin.slots.take(order, thread.give_away) as seconds_free:
        try:
            report = _visit(order, plugin.connect(ref), plugin, partitions, thread, kind.sampled)
        except DivergedError:
            if kind.sampled:
                for number, partition in partitions.items():
                    refuse_infinite(kind, number, partition)
            raise
    return report._replace(seconds_free=seconds_free)


def _visit(
    order: Visit, server: Connection, plugin: Any, partitions: Mapping[int, Partition], thread: TaskThread,
    sampled: bool,
) -> VisitReport:  # fmt: skip
    """Join the server, train, and leave it; a server that is lost is reported and no error."""
    worker = plugin.worker
    began, started = time.perf_counter(), time.time()
    learner = plugin.take_learner()
    learner.begin(server.incarnation)  # a join may be refused
    attempt = f"{learner.name}@{started}"
    offset, last_epoch, number, lost = 0, order.epoch, 1, False
    try:
        join = Join(order, attempt, learner.name, learner.worker, plugin.link())
        answer, seconds = plugin.join(server, join)
        began += seconds
        offset, last_epoch, number = answer.offset, answer.last_epoch, answer.attempt
        try:
            if answer.accepted:
                model, blocks = _accepted(order, server, plugin, partitions, sampled)
                loop = run_visit(order, blocks, model, learner, attempt, answer, server.draft)
                del answer  # only the loop keeps its parameters, until the next ones are there
                offset, last_epoch = _run(loop, server, learner, last_epoch, thread)
        finally:
            server.leave(order.number, attempt)
    except ServerLostError:
        lost = True
    finally:
        # Before the next visit takes it over.
        seconds_waited, rounds = learner.seconds_waited, learner.rounds
        seconds_compute, seconds_span = learner.seconds_compute, learner.seconds_span
        plugin.return_learner(learner)
    return VisitReport(
        visit=order,
        worker=worker.address,
        offset=offset,
        attempt=number,
        started=started,
        seconds=time.perf_counter() - began,
        last_epoch=last_epoch,
        seconds_waited=seconds_waited,
        rounds=rounds,
        seconds_compute=seconds_compute,
        seconds_span=seconds_span,
        server_lost=lost,
    )


def _accepted(
    order: Visit, server: Connection, plugin: Any, partitions: Mapping[int, Partition], sampled: bool
) -> tuple[Any, dict[int, Any]]:
    """Return the model, and the partitions as it trains on them."""
    model, classes = plugin.model_of(server)
    if model.inner_parallel and order.inner_threads:
        plugin.limit_inner_threads(order.inner_threads)
    blocks = {}
    for number, partition in partitions.items():
        try:
            if sampled:
                model.refuse_unseen(partition)
            blocks[number] = model.accept(partition, classes)
        except UnlikeSampleError as error:
            raise type(error)(f"Partition {number}: {error}") from error
    return model, blocks


def _run(
    loop: VisitLoop, server: Connection, learner: Learner, last_epoch: int, thread: TaskThread
) -> tuple[int, int]:
    """Feed the visit loop with the server's answers; return its rows and the last epoch known."""
    exchange: Exchange | None = None
    reply: Answer | None = None
    while True:
        try:
            request = loop.send(reply)
        except StopIteration as end:
            return end.value, last_epoch
        reply = None
        if isinstance(request, Update):
            exchange = Exchange(server, request)
            if exchange.done():  # the server is here
                reply, learner.seconds_exchange = exchange.result(thread)
        elif exchange is not None and (request.must_wait or exchange.done()):
            reply, learner.seconds_exchange = exchange.result(thread)
        if reply is not None:
            last_epoch, exchange = reply.last_epoch, None
