"""The driver's loop from the first visit to the last one, whatever happens to the cluster meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from distributed.client import FutureCancelledError

from skdist.checkpoint import Checkpoint
from skdist.cluster.feed import Feed
from skdist.cluster.membership import LOOK_SECONDS, Membership, Present
from skdist.cluster.partitions import Partitions
from skdist.cluster.serving import ANSWER_SECONDS, MOST_LOSSES, KeptBackup, Serving
from skdist.cluster.visits import Visits
from skdist.control.dispatch import Dispatcher
from skdist.exceptions import ServerLostError, VisitFailedError
from skdist.journal import Outcome
from skdist.messages import Snapshot
from skdist.observers import Observers, Watch

logger = logging.getLogger("skdist")

#: The first visits run for so long, in seconds, or until one of them ends, before others are sent to wait for
#: the end of the others: a short fit ends with them.
ALONE_SECONDS = 0.1

T = TypeVar("T")


class Training:
    """Keeps every worker busy until all epochs are through, and goes on when something is lost.

    Parameters
    ----------
    membership, serving, dispatcher, visits, observers, feed
        Of the fit.
    partitions, validated : Partitions
        What is trained on, and what is validated on.
    plugin_name : str
        Of the fit.
    present : Present
        The workers at the begin.
    together : bool
        Whether rounds end together.
    checkpoint : Checkpoint, optional
        Says where to begin, and is written after each backup.

    Attributes
    ----------
    present : Present
        The workers when they were last looked at.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        serving: Serving,
        dispatcher: Dispatcher,
        visits: Visits,
        observers: Observers,
        feed: Feed,
        partitions: Partitions,
        validated: Partitions,
        plugin_name: str,
        present: Present,
        together: bool,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.present = present
        self._membership, self._serving, self._visits = membership, serving, visits
        self._dispatcher, self._observers, self._feed = dispatcher, observers, feed
        self._partitions, self._validated, self._plugin_name = partitions, validated, plugin_name
        self._watch = Watch(observers, dispatcher, waits=together)
        self._looking = asyncio.Lock()
        self._backing: asyncio.Task[KeptBackup] | None = None
        self._looked = self._worked = time.monotonic()
        self._stopped = self._recovering = self._ahead = False
        self._last_epoch = dispatcher.last_epoch
        self._checkpoint = checkpoint
        self._writing: asyncio.Future[None] | None = None

    async def run(self, *begin: Any) -> Outcome:
        """Train to the end; parameters as in `Serving.begin`."""
        serving, visits = self._serving, self._visits
        start = self._checkpoint.start if self._checkpoint is not None else None
        if start is not None:
            self._dispatcher.end_after(start.backup.last_epoch)
            self._dispatcher.go_on(start.opened, start.todo)
        started = False
        while True:
            try:
                if not started:
                    started = True  # where it is lost, it is replaced
                    backup = start.backup if start is not None else None
                    await visits.follow(self.present)
                    await self._begin(serving.begin(*begin, backup=backup))
                    visits.begin(backup.seconds if backup is not None else 0.0)
                await visits.follow(self.present)
                while not self._dispatcher.done or self._watch.looks:
                    await self._turn()
                await self._end_backup()
                outcome = await serving.finish(visits.rounds)
                await self._write_last()
                return outcome
            except ServerLostError as error:
                self._recovering = True
                await self._recover(error)
                self._recovering = False

    async def _begin(self, beginning: Awaitable[None]) -> None:
        """Begin, and send the first visits meanwhile: they have longer ways, and wait for the server."""
        task = asyncio.ensure_future(beginning)
        try:
            if not (self._serving.ref.shards or self._watch.holds):
                self._visits.order(ahead=False)
            await task
        finally:
            task.cancel()

    async def _turn(self) -> None:
        watch, visits = self._watch, self._visits
        if not watch.holds:
            visits.order(self._ahead)
        if visits.flying or watch.looks:
            self._worked = time.monotonic()
            seconds = LOOK_SECONDS if self._ahead else ALONE_SECONDS
            await asyncio.wait(
                [*visits.flying, *watch.looks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            self._ahead = True
            await visits.land()
            for epoch in watch.due():
                watch.looks.append(asyncio.ensure_future(self._look_at(epoch)))
            if watch.settle():
                self._stopped = True
                self._dispatcher.end_after(await self._serving.call("stop"))
        elif time.monotonic() - self._worked > self._membership.limit:
            raise self._membership.nobody()
        else:
            await asyncio.sleep(0.1)
        self._back_up()
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            await self._look()

    def _back_up(self) -> None:
        """Take in a backup that is complete, and begin one that is due."""
        if self._backing is not None and self._backing.done():
            backing, self._backing = self._backing, None
            self._take_in(backing.result())
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            writing.result()
        if self._backing is None and self._writing is None and self._serving.due:
            self._backing = asyncio.ensure_future(self._visits.back_up(self.present))

    def _take_in(self, kept: KeptBackup) -> None:
        """Take in a backup, and write it down where the user wants that."""
        self._visits.settle(kept)
        if self._checkpoint is not None and self._writing is None:
            write = asyncio.to_thread(
                self._checkpoint.write, self._visits.reached(kept), self._dispatcher.rows
            )
            self._writing = asyncio.ensure_future(write)

    async def _write_last(self) -> None:
        """Write down the end of the fit."""
        if self._checkpoint is None:
            return
        if self._writing is not None:
            await asyncio.wait([self._writing])
        kept = await self._visits.back_up(self.present)
        await asyncio.to_thread(self._checkpoint.write, self._visits.reached(kept), self._dispatcher.rows)

    async def _look(self) -> None:
        """Notice workers that came or went, partitions and a server that are lost, and tell the user."""
        self.present = await self._membership.look()
        self._serving.check(self.present)
        if self._serving.is_leaving(self.present):
            await self._move()
        await self._mend()
        await self._visits.follow(self.present)
        if self._visits.may_give_up or self._feed.wanted:
            progress = await self._serving.call("progress")
            self._feed.send(progress, len(self.present.threads), self._dispatcher.in_flight)
            await self._visits.give_up(progress.silent)

    async def _mend(self) -> None:
        if lost := await self._partitions.lost(self.present):
            await self._visits.withdraw(lost)
            self._dispatcher.homes.update(await self._partitions.make_again(lost, self.present))
        if self._validated is not self._partitions:
            await self._validated.make_again(await self._validated.lost(self.present), self.present)

    async def _move(self) -> None:
        """Let another server take over what the present one has, before its worker retires."""
        await self._end_backup()
        self._take_in(await self._visits.back_up(self.present, "hand_over"))
        raise ServerLostError("The worker that holds the parameter server is about to retire.")

    async def _recover(self, error: ServerLostError) -> None:
        """Go on with another server, from the latest backup."""
        logger.info("%s Training goes on with another one.", error)
        await self._end_backup()
        kept = await self._serving.renew(self.present.leaving | self.present.silent)
        await self._visits.rewind(kept, self._last_epoch)
        self.present = await self._membership.look()
        with contextlib.suppress(ServerLostError):  # if it is lost again, that is noticed anyway
            await self._mend()
            if self._stopped:
                self._dispatcher.end_after(await self._serving.call("stop"))
        self._worked = time.monotonic()

    async def _end_backup(self) -> None:
        """Take in a backup that is complete; give up one that is not."""
        if self._backing is None:
            return
        backing, self._backing = self._backing, None
        if not backing.done():
            backing.cancel()
            await asyncio.wait([backing])
        if not backing.cancelled() and backing.exception() is None:
            self._take_in(backing.result())

    async def _look_at(self, epoch: int) -> bool:
        """Show the model at the end of an epoch; return whether training shall end."""
        snapshot: Snapshot = await self._insist(lambda: self._serving.snapshot(epoch))
        async with self._looking:  # one after the other
            sums = None
            if self._observers.validation is not None:
                sums = await self._insist(lambda: self._score(snapshot))
            # In a thread, as it may take long and use the client.
            return await asyncio.to_thread(self._observers.show, snapshot, sums)

    async def _score(self, snapshot: Snapshot) -> Any:
        score = partial(self._validated.score, self._serving.ref, self._plugin_name, snapshot)
        return await self._membership.while_there_are_workers(score)

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something again where it failed because of a server or data that was replaced since."""
        for _ in range(MOST_LOSSES):
            with contextlib.suppress(ServerLostError, FutureCancelledError):
                return await work()
            await asyncio.sleep(LOOK_SECONDS)
            deadline = time.monotonic() + ANSWER_SECONDS
            while (self._recovering or self._serving.lost) and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
        raise VisitFailedError(
            "The end of an epoch could not be looked at: servers or data were lost each time."
        )

    async def end(self) -> None:
        """Stop all that is under way in the driver."""
        for task in self._watch.looks:
            task.cancel()
        if self._backing is not None:
            self._backing.cancel()
        if self._writing is not None:
            await asyncio.wait([self._writing])
