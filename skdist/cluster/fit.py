"""A fit on a cluster, from the first task to the last key released."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import dask
import numpy as np
from distributed import Client, KilledWorker
from distributed.client import FutureCancelledError

from skdist.cluster import tasks
from skdist.cluster.actor import ServerActor, ServerRef
from skdist.cluster.fetch import fetch, settle
from skdist.cluster.partitions import Partitions
from skdist.cluster.plugin import LearnerPlugin
from skdist.cluster.source import Source
from skdist.control.dispatch import Dispatcher
from skdist.exceptions import DataLostError, NoWorkersError, ServerLostError, VisitFailedError
from skdist.fitting import (
    FitResult,
    FitSettings,
    Progress,
    build_dispatcher,
    conclude,
    lost_records,
    take_in,
)
from skdist.history import History
from skdist.messages import Snapshot, Visit, VisitReport
from skdist.models.validation import ALL_ROWS
from skdist.observers import Observers, Watch

logger = logging.getLogger("skdist")

T = TypeVar("T")

#: Seconds to wait for a first worker; ``dask.config.set({"skdist.worker-timeout": ...})`` changes it.
WORKER_TIMEOUT = 30.0

#: How often the driver looks for workers that came or went, in seconds.
LOOK_SECONDS = 0.5

#: Cleaning up takes at most this long, in seconds.
CLEANUP_SECONDS = 10.0

#: A call from the driver to the server takes at most this long, in seconds.
ANSWER_SECONDS = 30.0

#: The server, if there still is one, gets this long to hear that the fit is over, in seconds.
ABORT_SECONDS = 2.0


def train_on_cluster(
    client: Client,
    source: Source,
    plan: Any,
    settings: FitSettings,
    observers: Observers | None = None,
    validation: Source | None = None,
) -> FitResult:
    """Train one model on the workers of a client.

    Parameters
    ----------
    client : Client
        Of the cluster.
    source : Source
        The rows.
    plan : Plan
        Makes the model once the partitions are measured.
    settings : FitSettings
        How to train.
    observers : Observers, optional
        Those who look at the model at the end of each epoch.
    validation : Source, optional
        Validation rows; None holds rows out where ``settings.hold_out`` says so.

    Raises
    ------
    NoWorkersError
        Where there is no worker within the time limit.
    ValueError
        For bad data; the message names the partition.
    """
    fit = ClusterFit(client, source, plan, settings, observers, validation)
    try:
        result: FitResult = client.sync(fit.run)
    except KeyboardInterrupt:
        # The coroutine was cancelled and cleans up in the client's thread; wait for it.
        fit.cleaned.wait(CLEANUP_SECONDS)
        raise
    return result


class ClusterFit:
    """The driver of a fit; all of it runs in the client's event loop.

    Parameters
    ----------
    client, source, plan, settings, observers, validation
        As in `train_on_cluster`.

    Attributes
    ----------
    cleaned : threading.Event
        Set when nothing of the fit is left on the cluster.
    """

    def __init__(
        self,
        client: Client,
        source: Source,
        plan: Any,
        settings: FitSettings,
        observers: Observers | None = None,
        validation: Source | None = None,
    ) -> None:
        self.client, self.plan, self.settings = client, plan, settings
        self.observers = observers if observers is not None else Observers()
        self.name = f"skdist-{uuid.uuid4().hex[:8]}"
        self.cleaned = threading.Event()
        self._token = self.name.removeprefix("skdist-")
        intake = plan.intake
        self._partitions = Partitions(client, source, self._token, intake, settings.hold_out)
        self._validated = self._partitions
        if validation is not None:
            token = f"{self._token}-validation"
            self._validated = Partitions(client, validation, token, intake, ALL_ROWS, "Validation partition")
        self._looks: list[asyncio.Task[bool]] = []
        self._looking = asyncio.Lock()
        self._server: ServerRef | None = None
        self._server_future: Any = None
        self._starting: list[asyncio.Future[None]] = []
        self._limit = float(dask.config.get("skdist.worker-timeout", WORKER_TIMEOUT))
        self._flying: dict[asyncio.Task[Any], int] = {}
        self._visits: dict[int, Any] = {}  # futures of the visits in flight that are on the cluster
        self._registered = False
        self._history = History()
        self._progress = Progress(settings.verbose)

    async def run(self) -> FitResult:
        """Train; leave nothing behind, whatever happens."""
        try:
            return await self._run()
        except FutureCancelledError as error:
            raise DataLostError(
                f"Partitions were lost with a worker or cancelled and cannot be made again ({error}). "
                "Persist the collection again, or pass a lazy one, whose partitions Dask can load again."
            ) from error
        finally:
            try:
                await asyncio.wait_for(asyncio.shield(self._clean_up()), CLEANUP_SECONDS)
            except TimeoutError:
                logger.warning("The fit could not clean up within %g s.", CLEANUP_SECONDS)
            finally:
                self.cleaned.set()

    async def _run(self) -> FitResult:
        workers, memory = await self._wait_for_workers()
        self._starting = [
            asyncio.ensure_future(self._start_server()),
            asyncio.ensure_future(self._register_plugin()),
        ]
        summaries = await self._while_there_are_workers(self._partitions.measure(workers, memory))
        validation = []
        if self._validated is not self._partitions:
            validation = await self._while_there_are_workers(self._validated.measure(workers, memory))
        for start in self._starting:
            # Not cancelled with us: what was begun is awaited, and then undone.
            try:
                await asyncio.wait_for(asyncio.shield(start), ANSWER_SECONDS)
            except TimeoutError as error:
                raise ServerLostError(
                    f"The parameter server or the heartbeat plugin did not start within {ANSWER_SECONDS:g} s."
                ) from error
        model, state, clock = self.plan.build(summaries, validation)
        rows = [summary.rows for summary in summaries]
        n_learners = sum(workers.values())
        await self._call(
            "begin", model, self.plan.classes, self.settings, state, sum(rows), n_learners, clock
        )
        dispatcher = build_dispatcher(
            self.settings,
            model,
            rows,
            {number: summary.worker for number, summary in enumerate(summaries)},
            seconds_per_row=1e-9 * sum(s.nbytes for s in summaries) / max(sum(rows), 1),
            queue=1,
            streamed=self._partitions.streamed,
        )
        await self._visit_all(dispatcher, workers)
        result = conclude(await self._call("finish"), self._history, dispatcher.last_epoch + 1)
        for last in result.history.epochs[-1:]:
            self._progress.show(last.epoch, last.loss, last.rows, len(workers))
        return result

    async def _wait_for_workers(self) -> tuple[dict[str, int], float]:
        """Return the threads of each worker and the memory of all, once there is one."""
        deadline = time.monotonic() + self._limit
        told = False
        while not (found := await self._workers())[0]:
            if time.monotonic() > deadline:
                raise self._no_workers()
            if not told:
                logger.info("Waiting up to %g s for a first worker.", self._limit)
                told = True
            await asyncio.sleep(0.1)
        return found

    def _no_workers(self) -> NoWorkersError:
        return NoWorkersError(
            f"The cluster has had no worker for {self._limit:g} s. Start some (cluster.scale(...)), wait "
            "with client.wait_for_workers(1), or raise the limit with "
            'dask.config.set({"skdist.worker-timeout": seconds}).'
        )

    async def _workers(self) -> tuple[dict[str, int], float]:
        """Return the threads of each running worker and the memory of all together."""
        identity = await self.client.scheduler.identity(n_workers=-1)
        running = {
            address: worker
            for address, worker in identity["workers"].items()
            if worker.get("status", "running") == "running"
        }
        limits = [worker["memory_limit"] or np.inf for worker in running.values()]
        return {address: worker["nthreads"] for address, worker in running.items()}, float(sum(limits))

    async def _while_there_are_workers(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that may take long, but not longer than the limit without any worker."""
        task = asyncio.ensure_future(work)
        seen = time.monotonic()
        try:
            while not (await asyncio.wait([task], timeout=LOOK_SECONDS))[0]:
                if (await self._workers())[0]:
                    seen = time.monotonic()
                elif time.monotonic() - seen > self._limit:
                    raise self._no_workers()
            return task.result()
        finally:
            task.cancel()

    async def _start_server(self) -> None:
        key = f"skdist-server-{self._token}"
        self._server_future = self.client.submit(ServerActor, actor=True, key=key, pure=False)
        await settle([self._server_future])
        holders = await self.client.scheduler.who_has(keys=[key])
        if not holders.get(key):
            raise ServerLostError("The parameter server could not be started on any worker.")
        self._server = ServerRef(holders[key][0], key)

    async def _register_plugin(self) -> None:
        plugin = LearnerPlugin(self.name, self.settings)
        self._registered = True  # from now on there may be something to undo
        replies = await self.client.register_plugin(plugin, name=self.name)
        for reply in replies.values():
            if reply["status"] != "OK":
                raise reply["exception"]

    async def _visit_all(self, dispatcher: Dispatcher, workers: dict[str, int]) -> None:
        """Keep every worker busy until all epochs are through."""
        self._add_workers(dispatcher, workers)
        watch = Watch(self.observers, dispatcher, waits=self.settings.mode == "sync")
        began = looked = idle = time.monotonic()
        while not dispatcher.done or watch.looks:
            if not watch.holds:
                for name, order in dispatcher.orders():
                    self._submit(name, order)
            if self._flying or watch.looks:
                idle = time.monotonic()
                await asyncio.wait(
                    [*self._flying, *watch.looks], timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in [task for task in self._flying if task.done()]:
                    number = self._flying.pop(task)
                    self._land(dispatcher, number, task, time.monotonic() - began)
                for epoch in watch.due():
                    watch.looks.append(asyncio.ensure_future(self._look_at(epoch)))
                self._looks = watch.looks
                if watch.settle():
                    dispatcher.end_after(await self._call("stop"))
            elif time.monotonic() - idle > self._limit:
                raise self._no_workers()
            else:
                await asyncio.sleep(0.1)
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                await self._look(dispatcher)

    async def _look_at(self, epoch: int) -> bool:
        """Show the model at the end of an epoch; return whether training shall end."""
        snapshot: Snapshot = await self._call("snapshot", epoch)
        async with self._looking:  # one after the other
            sums = None
            if self.observers.validation is not None:
                assert self._server is not None
                workers, _ = await self._workers()
                sums = await self._while_there_are_workers(
                    self._validated.score(self._server, self.name, snapshot.state, epoch, workers)
                )
            # In a thread, as it may take long and use the client.
            return await asyncio.to_thread(self.observers.show, snapshot, sums)

    async def _look(self, dispatcher: Dispatcher) -> None:
        """Notice workers that came or went, a server that is lost, and tell the user."""
        present, _ = await self._workers()
        for name in set(dispatcher.workers) - set(present):
            dispatcher.remove_worker(name)
            await self._reissue(dispatcher, name)
        self._add_workers(dispatcher, present)
        if self._server_future.status not in ("finished", "pending"):
            raise ServerLostError("The worker that held the parameter server left the cluster.")
        if self._progress.wanted:
            epoch, loss, rows = await self._call("progress")
            self._progress.show(epoch, loss, rows, len(present))

    async def _reissue(self, dispatcher: Dispatcher, worker: str) -> None:
        """Put the rest of the visits of a worker that left back, exactly."""
        gone = {number for number, (_, name) in dispatcher.in_flight.items() if name == worker}
        for task, number in list(self._flying.items()):
            if number in gone:
                offset = await self._call("retire", number)
                if task.done():
                    continue  # it came to its end in between
                del self._flying[task]
                task.cancel()
                if number in self._visits:
                    await self.client.cancel([self._visits[number]], force=True)
                visit = dispatcher.lost(number, offset)
                self._history.visits.extend(lost_records(visit, worker, offset))
                logger.info("Visit %d is repeated from row %d of %d.", number, offset, visit.rows)

    def _add_workers(self, dispatcher: Dispatcher, workers: dict[str, int]) -> None:
        for name, threads in workers.items():
            dispatcher.add_worker(name, threads)
            self._partitions.add_worker(name, threads)

    def _submit(self, name: str, order: Visit) -> None:
        self._flying[asyncio.ensure_future(self._visit(name, order))] = order.number

    async def _visit(self, name: str, order: Visit) -> VisitReport:
        """Return how a visit ended."""
        numbers = [segment.partition for segment in order.segments]
        try:
            async with self._partitions.on_worker(name, numbers) as blocks:
                # Pinned: the dispatcher balances the work, not Dask's stealing, and `_look` takes visits off
                # workers that leave.
                self._visits[order.number] = self.client.submit(
                    tasks.visit, order, self._server, self.name, self._partitions.streamed, *blocks,
                    key=(f"skdist-visit-{self._token}", order.number), pure=False, workers=[name],
                )  # fmt: skip
            report: VisitReport = (await fetch(self.client, [self._visits[order.number]]))[0]
            return report
        finally:
            if order.number in self._visits:
                self._visits.pop(order.number).release()

    def _land(
        self, dispatcher: Dispatcher, number: int, task: asyncio.Task[VisitReport], seconds: float
    ) -> None:
        try:
            report = task.result()
        except KilledWorker as error:
            raise VisitFailedError(
                f"Visit {number} was tried on several workers and each died: {error}. "
                "See the logs of the workers; too little memory is the usual cause."
            ) from error
        take_in(self._history, dispatcher, report, seconds)

    async def _call(self, method: str, *args: Any) -> Any:
        """Call the server from the driver, with a limit."""
        assert self._server is not None
        call = self._server.call_from_driver(self.client, method, *args)
        try:
            return await asyncio.wait_for(call, ANSWER_SECONDS)
        except OSError as error:  # a TimeoutError is one
            raise ServerLostError(f"The parameter server does not answer: {error!r}") from error

    async def _abort(self, server: ServerRef) -> None:
        try:
            await asyncio.wait_for(server.call_from_driver(self.client, "abort"), ABORT_SECONDS)
        except Exception:
            logger.debug("The server could not be told to stop.", exc_info=True)

    async def _clean_up(self) -> None:
        """Stop what is under way and free every key, the actor and the plugin, whatever fails of it."""
        if self._starting:
            await asyncio.wait(self._starting, timeout=CLEANUP_SECONDS / 2)
        flying = list(self._visits.values())
        for task in [*self._flying, *self._looks]:
            task.cancel()
        self._flying.clear()
        if flying and self._server is not None:
            await self._abort(self._server)
        steps: list[Callable[[], Awaitable[Any] | None]] = [
            *(future.release for future in flying),
            self._partitions.release,
            self._validated.release,
        ]
        if flying:
            steps.insert(0, lambda: self.client.cancel(flying, force=True))
        if self._server_future is not None:
            steps.append(self._server_future.release)
        if self._registered:
            steps.append(lambda: self.client.unregister_worker_plugin(self.name))
        for step in steps:
            try:
                waiting = step()
                if waiting is not None:
                    await waiting
            except Exception:
                # A cluster or a client that is gone has forgotten us already.
                logger.debug("A step of the clean-up failed.", exc_info=True)
