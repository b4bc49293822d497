"""The visits of a fit on the cluster: submitted, landed, taken off workers that are gone or stuck."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Collection, Sequence
from typing import Any

from distributed import Client, KilledWorker
from distributed.client import FutureCancelledError

from skdist.checkpoint import Reached
from skdist.cluster import tasks
from skdist.cluster.fetch import LOST, fetch, refuse_cancelled
from skdist.cluster.membership import Present
from skdist.cluster.partitions import Partitions
from skdist.cluster.serving import KeptBackup, Serving
from skdist.control.dispatch import Dispatcher
from skdist.control.ledger import Ledger
from skdist.control.shares import crew
from skdist.exceptions import VisitFailedError
from skdist.fitting import lost_records, take_in
from skdist.history import History
from skdist.messages import Visit, VisitReport

logger = logging.getLogger("skdist")

#: Where visits get lost and none has ended for so long, in seconds, the fit fails.
FAILING_SECONDS = 60.0

#: After a visit that got lost nothing is done for so long, in seconds: the next would, too.
LOST_SECONDS = 0.1

Landing = asyncio.Task[VisitReport | None]


class Visits:
    """Performs what the dispatcher orders, and knows what of it a lost server takes with it.

    Parameters
    ----------
    client : Client
        Of the cluster.
    dispatcher : Dispatcher
        Decides.
    partitions : Partitions
        What is visited.
    serving : Serving
        The server.
    history : History
        Written to.
    name : str
        Of the fit's plugin.
    token : str
        Unique; part of the keys.
    most_learners : float
        That train at a time; other workers are there in case one of these is lost.

    Attributes
    ----------
    flying : dict of task to int
        Visits under way, with their numbers.
    """

    def __init__(
        self, client: Client, dispatcher: Dispatcher, partitions: Partitions, serving: Serving,
        history: History, name: str, token: str, most_learners: float = math.inf,
    ) -> None:  # fmt: skip
        self.flying: dict[Landing, int] = {}
        self._client, self._dispatcher, self._partitions, self._serving = (
            client, dispatcher, partitions, serving,
        )  # fmt: skip
        self._history, self._name, self._token = history, name, token
        self._most_learners = most_learners
        self._present = Present({}, 0.0)
        self._spare: set[str] = set()  # workers that could be given work
        self._ledger = Ledger()
        self._futures: dict[int, Any] = {}  # of the visits that are on the cluster
        self._over: list[Any] = []  # of those that are not any more
        self._stuck: dict[Landing, str] = {}  # taken off, but a thread of their worker is not free yet
        self._landed = self._began = time.monotonic()

    def begin(self, seconds: float) -> None:
        """Count time as the server does, which has trained for some seconds by now."""
        self._began = time.monotonic() - seconds

    def order(self, ahead: bool = True) -> None:
        """Begin what the dispatcher wants begun; ``ahead`` as in `Dispatcher.orders`."""
        for name, order in self._dispatcher.orders(ahead):
            self.flying[asyncio.ensure_future(self._visit(name, order))] = order.number
        # Behind these: a client sends at most every 10 ms, and releases need not be the first.
        asyncio.get_running_loop().call_soon(self._let_go)

    async def _visit(self, name: str, order: Visit) -> VisitReport | None:
        """Return how a visit ended; None where nobody will ever know."""
        numbers = order.partitions
        try:
            report: VisitReport | None = None
            if (named := self._partitions.named(numbers, name)) is not None:
                self._submit(name, order, tasks.where_held, tasks.visit, named)
                self._partitions.let_go()
                report = (await fetch(self._client, [self._futures[order.number]]))[0]
                if report is None:
                    self._partitions.lacks(name, numbers)
            if report is None:  # it does not hold them, or not any more
                async with self._partitions.on_worker(name, numbers, lambda: self._present) as blocks:
                    self._submit(name, order, tasks.visit, blocks=blocks)
                report = (await fetch(self._client, [self._futures[order.number]]))[0]
                self._partitions.holds(name, numbers)
            return report
        except FutureCancelledError as error:
            # Sent while the cluster was restarted, it may be known to the scheduler alone: it has no input
            # with which it would go.
            if order.number in self._futures:
                await self._client.cancel([self._futures[order.number]], force=True, reason=LOST)
            # Of a result that was lost with its worker, Dask does not say why it is gone.
            if name in (await self._serving.membership.look()).threads:
                refuse_cancelled(error)
            return None
        finally:
            if order.number in self._futures:
                self._over.append(self._futures.pop(order.number))

    def _submit(self, name: str, order: Visit, *work: Any, blocks: Sequence[Any] = ()) -> None:
        """Begin a visit on a worker.

        Pinned: the dispatcher balances the work, not Dask's stealing, and visits are taken off workers that
        leave.
        """
        again = "-again" if order.number in self._futures else ""
        if again:
            self._over.append(self._futures[order.number])
        self._futures[order.number] = self._client.submit(
            *work, order, self._serving.ref, self._name, self._partitions.kind,
            [self._dispatcher.rows[number] for number in order.partitions], *blocks,
            key=(f"skdist-visit-{self._token}{again}", order.number), pure=False, workers=[name],
        )  # fmt: skip

    def _let_go(self) -> None:
        """Free the keys of visits that are over."""
        for future in self._over:
            future.release()
        self._over.clear()

    async def land(self) -> None:
        """Take in the visits that have ended.

        Raises
        ------
        ServerLostError
            Where one ended because the server did not answer, and it does not answer the driver either.
        VisitFailedError
            Where visits fail again and again.
        FitCancelledError
            Where somebody has cancelled one.
        """
        for task in [task for task in self.flying if task.done()]:
            number = self.flying[task]
            try:
                report = task.result()
            except KilledWorker as error:
                raise VisitFailedError(
                    f"Visit {number} was tried on several workers and each died: {error}. "
                    "See the logs of the workers; too little memory is the usual cause."
                ) from error
            if report is None or report.server_lost:
                if time.monotonic() - self._landed > FAILING_SECONDS:
                    raise VisitFailedError(
                        f"No visit has ended for {FAILING_SECONDS:g} s, and visit {number} got lost, too. "
                        "See the logs of the workers: can they reach each other?"
                    )
                await self._give_back(task, number, await self._serving.call("retire", number))
                await asyncio.sleep(LOST_SECONDS)
            else:
                del self.flying[task]
                self._landed = time.monotonic()
                take_in(self._history, self._dispatcher, report, self._landed - self._began)
                self._ledger.ended(report.visit, report.worker, report.offset)

    async def follow(self, present: Present) -> None:
        """Take the visits off workers that are gone, and give work to those that are there."""
        self._present = present
        able = {name: count for name, count in present.threads.items() if not self._is_stuck(name)}
        threads = crew(able, self._most_learners, [*self._dispatcher.workers, *self._serving.actors.hosts])
        self._spare = set(able) - set(threads)
        for name in set(self._dispatcher.workers) - set(threads):
            self._dispatcher.remove_worker(name)
            await self._take_off(name)
        for name, count in threads.items():
            self._dispatcher.add_worker(name, count)
            self._partitions.add_worker(name, count)

    @property
    def may_give_up(self) -> bool:
        """Whether others could go on with a visit that is silent."""
        return len(self._dispatcher.workers) + len(self._spare) > 1 and bool(self.flying)

    async def give_up(self, silent: Collection[int]) -> None:
        """Take visits that are silent off their workers, where others can go on with them."""
        if self.may_give_up:
            for number in silent:
                await self._give_up_on(number)

    async def withdraw(self, partitions: Collection[int]) -> None:
        """Take off the visits of partitions that are lost: they may wait for them for ever."""
        await self._retire(
            {
                number
                for number, (visit, _) in self._dispatcher.in_flight.items()
                if set(partitions).intersection(visit.partitions)
            }
        )

    async def _retire(self, numbers: Collection[int]) -> None:
        for task, number in list(self.flying.items()):
            if number in numbers and not task.done():
                offset = await self._serving.call("retire", number)
                if not task.done():  # it may have come to its end in between
                    await self._give_back(task, number, offset)

    def _is_stuck(self, worker: str) -> bool:
        self._stuck = {task: name for task, name in self._stuck.items() if not task.done()}
        return worker in self._stuck.values()

    async def _take_off(self, worker: str) -> None:
        """Put the rest of the visits of a worker back, exactly."""
        await self._retire({n for n, (_, name) in self._dispatcher.in_flight.items() if name == worker})

    async def _give_up_on(self, number: int) -> None:
        """Take a silent visit off its worker, which gets no other one until it has ended."""
        if number not in self._dispatcher.in_flight:
            await self._serving.call("retire", number)  # it has ended, but the word of that got lost
            return
        _, worker = self._dispatcher.in_flight[number]
        others = self._spare.union(self._dispatcher.workers) - {worker}
        task = next((task for task, flying in self.flying.items() if flying == number), None)
        if not others or task is None or task.done():
            return
        offset = await self._serving.call("retire", number)
        if not task.done():
            logger.info("Visit %d on %s is silent.", number, worker)
            self._stuck[task] = worker
            del self.flying[task]
            self._put_back(number, offset)
            self._dispatcher.remove_worker(worker)
            await self._take_off(worker)

    async def _give_back(self, task: Landing, number: int, offset: int) -> None:
        """Forget a visit that will not report, and put its rows from an offset on back."""
        del self.flying[task]
        task.cancel()
        self._put_back(number, offset)
        if number in self._futures:
            await self._client.cancel([self._futures[number]], force=True, reason=LOST)

    def _put_back(self, number: int, offset: int) -> None:
        _, worker = self._dispatcher.in_flight[number]
        visit = self._dispatcher.lost(number, offset)
        self._history.visits.extend(lost_records(visit, worker, offset))
        self._ledger.ended(visit, worker, offset)
        logger.info("Visit %d is repeated from row %d of %d.", number, offset, visit.rows)

    async def back_up(self, present: Present, method: str = "back_up") -> KeptBackup:
        """Take a backup of the server; see `Serving.back_up`."""
        asked, newest = self._ledger.asked(self._dispatcher), self._dispatcher.newest
        return await self._serving.back_up(asked, newest, self.rounds, present, method)

    @property
    def rounds(self) -> int:
        """Rounds of the history that the driver has."""
        return len(self._history.rounds)

    def settle(self, kept: KeptBackup) -> None:
        """Take in what a new backup holds."""
        self._history.rounds.extend(kept.backup.rounds)
        if self._serving.relied:
            self._ledger.settle(self._serving.kept[0].backup.offsets)

    def reached(self, kept: KeptBackup) -> Reached:
        """Return how far the fit is with the latest backup."""
        dispatcher = self._dispatcher
        todo = self._ledger.todo(dispatcher, kept.backup.offsets)
        return Reached.of(kept.backup, dispatcher, todo)

    async def rewind(self, kept: KeptBackup | None, last_epoch: int) -> None:
        """Go back to a backup, or to the begin: what came after it is trained again.

        Parameters
        ----------
        kept : KeptBackup or None
            Where the new server goes on.
        last_epoch : int
            Of a fit that has just begun.
        """
        futures = list(self._futures.values())
        self.drop()
        offsets = {} if kept is None else kept.backup.offsets
        left = {entry.visit.number: entry for entry in self._ledger.rewind(self._dispatcher, offsets)}
        history = self._history
        del history.rounds[0 if kept is None else kept.rounds :]
        history.visits[:] = [record for record in history.visits if record.visit not in left]
        for entry in left.values():
            history.visits.extend(lost_records(entry.visit, entry.worker, entry.offset))
        self._dispatcher.last_epoch = last_epoch if kept is None else kept.backup.last_epoch
        self._landed = time.monotonic()
        self.begin(0.0 if kept is None else kept.backup.seconds)
        if futures:
            await self._client.cancel(futures, force=True, reason=LOST)

    def drop(self) -> None:
        """Wait for no visit any more."""
        for task in [*self.flying, *self._stuck]:
            task.cancel()
        self.flying.clear()
        self._stuck.clear()

    def release(self) -> Awaitable[Any] | None:
        """Stop what is under way and free its keys."""
        futures = list(self._futures.values())
        self.drop()
        self._let_go()
        if not futures:
            return None
        for future in futures:
            future.release()
        cancelled: Awaitable[Any] = self._client.cancel(futures, force=True)
        return cancelled
