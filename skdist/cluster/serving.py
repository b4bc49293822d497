"""The server of a fit as the driver sees it: started, called, backed up, replaced when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Collection, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import dask
import numpy as np
from distributed import Client

from skdist.backup import Backup
from skdist.cluster import tasks
from skdist.cluster.actor import ServerActor, ServerRef
from skdist.cluster.fetch import refuse_cancelled, settle
from skdist.cluster.membership import LOOK_SECONDS, Membership, Present
from skdist.cluster.shards import ShardActor, collected
from skdist.exceptions import ServerLostError
from skdist.journal import Outcome
from skdist.messages import Snapshot
from skdist.parameters import Stage
from skdist.shards import n_shards

logger = logging.getLogger("skdist")

#: Seconds between two backups; ``dask.config.set({"skdist.snapshot-interval": ...})`` changes it.
BACKUP_SECONDS = 1.0

#: They take at most this part of the time: where one takes long, the next one comes later.
BACKUP_SHARE = 0.02

#: The backups of larger models, in bytes, stay on another worker and do not pass through the scheduler.
DRIVER_BYTES = 8 << 20

#: A call from the driver to the server takes at most this long, in seconds.
ANSWER_SECONDS = 30.0

#: The start of a server takes at most this long, in seconds; then another worker is tried.
START_SECONDS = 10.0

#: The server, if there still is one, gets this long to hear that the fit is over, in seconds.
ABORT_SECONDS = 2.0

#: The driver looks this often whether the server it waits for is still there, in seconds.
WATCH_SECONDS = 0.1

#: So many servers in a row may be lost without a backup in between.
MOST_LOSSES = 5


@dataclass(frozen=True)
class KeptBackup:
    """A backup, where it is, and what the driver had then.

    Attributes
    ----------
    backup : Backup
        Without its parameters where a worker holds them.
    holder : str
        That worker; '' where the driver holds all of it.
    rounds : int
        Length of the history.
    number : int
        By which the worker knows it.
    """

    backup: Backup
    holder: str
    rounds: int
    number: int = 0


class Serving:
    """The present server of a fit, and what is kept in case it is lost.

    Parameters
    ----------
    client : Client
        Of the cluster.
    membership : Membership
        Of the cluster.
    name : str
        Of the fit's plugin.
    token : str
        Unique; part of the keys.
    in_driver : bool
        Whether backups of all sizes come to the driver, because it writes them down.
    n_servers : int
        Shards that the parameters are cut into; 1 leaves them in the server.

    Attributes
    ----------
    ref : ServerRef or None
        The present server.
    membership : Membership
        Of the cluster.
    kept : deque of KeptBackup
        Oldest first: the latest one in the driver, or the latest two on two workers.
    """

    def __init__(
        self, client: Client, membership: Membership, name: str, token: str, in_driver: bool = False,
        n_servers: int = 1,
    ) -> None:  # fmt: skip
        self.client, self.name = client, name
        self.ref: ServerRef | None = None
        self.kept: deque[KeptBackup] = deque()
        self.membership, self._token, self._in_driver = membership, token, in_driver
        self._n_servers = n_servers
        self._futures: list[Any] = []  # of the actors: the server, then the shards
        self._cutting = asyncio.Lock()  # shards keep one stage at a time
        self._started = 0
        self._arguments: tuple[Any, ...] = ()
        self._small = True
        self._rounds = 0  # length of the history when the present server began
        self._losses = 0
        self._taken = 0  # backups
        self._costs: deque[float] = deque(maxlen=5)
        self._interval = float(dask.config.get("skdist.snapshot-interval", BACKUP_SECONDS))
        self._due = float("inf")
        self._telling: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Start the actors on some workers; `begin` gives them a model.

        Raises
        ------
        ServerLostError
            Where no worker could start it.
        """
        bad: set[str] = set()
        for _ in range(MOST_LOSSES):
            names = set((await self.membership.wait_for_workers()).threads)
            try:
                where = sorted(names - bad or names)
                return await self._start_on(where, where)
            except ServerLostError as error:
                logger.info("%s", error)
                bad |= await self._starting_on()
        raise ServerLostError("No worker could start the parameter server. See the logs of the workers.")

    async def _starting_on(self) -> set[str]:
        """Return where Dask wants to start actors: a worker that is frozen does not get there."""
        processing = await self.client.scheduler.processing(workers=None)
        wanted = {future.key for future in self._futures}
        return {name for name, keys in processing.items() if wanted & set(keys)}

    async def _start_on(self, where: Collection[str], shards_where: Collection[str]) -> None:
        """Start the server on one of some workers, and shards on these or others, within a limit.

        Dask takes those with the fewest actors, as workers are named: servers of fits at the same time are
        not to share one, nor are shards.
        """
        incarnation, self._started = self._started, self._started + 1
        key = f"skdist-server-{self._token}-{incarnation}"
        names = [f"skdist-shard-{self._token}-{incarnation}-{n}" for n in range(self._n_servers)]
        shards = names if self._n_servers > 1 else []
        self.release()
        self._futures = [self._submit(ServerActor, key, where)]
        self._futures += [self._submit(ShardActor, shard, shards_where) for shard in shards]
        made = asyncio.ensure_future(settle(self._futures))
        until = time.monotonic() + START_SECONDS
        try:
            while not (await asyncio.wait([made], timeout=WATCH_SECONDS))[0]:
                # Dask would wait for them for ever.
                present = await self.membership.look()
                if not set(where) & set(present.threads):
                    raise ServerLostError(f"{', '.join(where)} left before the parameter server started.")
                if present.silent and (silent := await self._starting_on() & present.silent):
                    raise ServerLostError(f"{', '.join(silent)} fell silent before the server started.")
                if time.monotonic() > until:
                    raise ServerLostError(f"The parameter server did not start within {START_SECONDS:g} s.")
        finally:
            made.cancel()
        holders = await self.client.scheduler.who_has(keys=[key, *shards])
        if not all(holders.get(each) for each in (key, *shards)):
            raise ServerLostError("The parameter server could not be started on any worker.")
        parts = tuple([ServerRef(holders[shard][0], shard, incarnation) for shard in shards])
        self.ref = ServerRef(holders[key][0], key, incarnation, parts)

    def _submit(self, actor: type, key: str, where: Collection[str]) -> Any:
        return self.client.submit(actor, actor=True, key=key, pure=False, workers=list(where))

    async def begin(
        self, model: Any, classes: Any, settings: Any, state: np.ndarray, n_rows: int, n_learners: int,
        clock: float, *, backup: Backup | None = None,
    ) -> None:  # fmt: skip
        """Give the server what it trains; parameters as in `ServerActor.begin`."""
        self._arguments = (model, classes, settings, state, n_rows, n_learners, clock)
        self._small = self._in_driver or state.nbytes <= DRIVER_BYTES
        if backup is not None:
            self.kept.append(KeptBackup(backup, "", 0))
        await self._give(backup, 0)
        self._due = time.monotonic() + self._interval

    async def _give(self, backup: Backup | None, number: int) -> None:
        """Give the server what it trains, from a backup or the begin on, and shards their slices of it."""
        assert self.ref is not None
        model, state = self._arguments[0], self._arguments[3]
        count = n_shards(self._n_servers, state)
        for surplus in self._futures[1 + count :]:
            surplus.release()
        del self._futures[1 + count :]
        self.ref = replace(self.ref, shards=self.ref.shards[:count])
        await self.call("begin", *self._arguments, backup, self.name, number)
        begun = [
            shard.call_from_driver(self.client, "begin", self.ref, place, model.statistics)
            for place, shard in enumerate(self.ref.shards)
        ]
        await self._limited(asyncio.gather(*begun))

    @property
    def lost(self) -> bool:
        """Whether Dask knows that the server, or a shard, is gone."""
        return bool(self._lost)

    @property
    def _lost(self) -> list[str]:
        """The workers of actors that are gone, as far as Dask knows."""
        gone = [future.status not in ("finished", "pending") for future in self._futures]
        return [worker for worker, is_gone in zip(self._hosts, gone, strict=False) if is_gone]

    @property
    def _hosts(self) -> list[str]:
        """The workers of server and shards."""
        return [] if self.ref is None else [self.ref.address, *(shard.address for shard in self.ref.shards)]

    def check(self, present: Present) -> None:
        """Raise where the server is gone, or where it is silent and there are other workers."""
        self._refuse_lost()
        if silent := present.silent.intersection(self._hosts):
            raise ServerLostError(f"The parameter server on {min(silent)} is not heard of any more.")

    def _refuse_lost(self) -> None:
        if lost := self._lost:
            raise ServerLostError(f"The worker that held the parameter server, {lost[0]}, left.")

    def is_leaving(self, present: Present) -> bool:
        """Return whether a worker of the server is about to retire, and there is another one."""
        return bool(present.leaving.intersection(self._hosts)) and bool(present)

    async def finish(self, rounds: int) -> Outcome:
        """End the fit; parameters as in `back_up`."""
        async with self._cutting:
            outcome: Outcome = await self.call("finish", rounds - self._rounds)
            return outcome._replace(state=await self._parameters(outcome))

    async def snapshot(self, epoch: int) -> Snapshot:
        """Return the parameters now; see `ParameterServer.snapshot`."""
        async with self._cutting:
            snapshot: Snapshot = await self.call("snapshot", epoch)
            return snapshot._replace(state=await self._parameters(snapshot))

    async def _parameters(self, found: Outcome | Snapshot) -> np.ndarray:
        stage = await self._collected(Stage(found.state, None, 0, found.clock))
        state: np.ndarray = stage.state
        return state

    async def _collected(self, stage: Stage) -> Stage:
        assert self.ref is not None

        def ask(ref: ServerRef, method: str, *args: Any) -> Coroutine[Any, Any, Any]:
            return ref.call_from_driver(self.client, method, *args)

        whole: Stage = await self._limited(collected(stage, self.ref, ask))
        return whole

    async def call(self, method: str, *args: Any) -> Any:
        """Call the server, with a limit, and as long as it is there.

        Raises
        ------
        ServerLostError
            Where it is gone or does not answer.
        """
        assert self.ref is not None
        self._refuse_lost()  # the scheduler would try to connect for long, and complain
        return await self._limited(self.ref.call_from_driver(self.client, method, *args))

    async def _limited(self, work: Awaitable[Any]) -> Any:
        assert self.ref is not None
        call = asyncio.ensure_future(work)
        began = looked = time.monotonic()
        try:
            while not (await asyncio.wait([call], timeout=WATCH_SECONDS))[0]:
                now = time.monotonic()
                if now - looked > LOOK_SECONDS or self.lost:
                    looked = now
                    self.check(await self.membership.look())
                if now - began > ANSWER_SECONDS:
                    raise ServerLostError(
                        f"The parameter server on {self.ref.address} did not answer within "
                        f"{ANSWER_SECONDS:g} s."
                    )
            return call.result()
        except OSError as error:
            raise ServerLostError(f"The parameter server does not answer: {error!r}") from error
        finally:
            call.cancel()

    @property
    def due(self) -> bool:
        """Whether it is time for a backup."""
        return time.monotonic() >= self._due

    async def back_up(
        self, visits: Collection[int], newest: int, rounds: int, present: Present, method: str = "back_up"
    ) -> KeptBackup:
        """Take a backup; parameters as in `ParameterServer.back_up`.

        Parameters
        ----------
        visits, newest
            As in `ParameterServer.back_up`.
        rounds : int
            Length of the driver's history.
        present : Present
            Workers, of which one may keep it.
        method : {'back_up', 'hand_over'}
            Whether the server goes on afterwards.
        """
        assert self.ref is not None
        began = time.monotonic()
        self._due = float("inf")  # one at a time
        self._taken += 1
        asked = visits, newest, rounds - self._rounds
        holder = "" if self._small else self._holder(present)
        async with self._cutting:
            backup = await self._back_up_to(holder, method, *asked) if holder else None
            if backup is None:
                backup, holder = await self.call(method, *asked), ""
                backup = backup._replace(stage=await self._collected(backup.stage))
        now = time.monotonic()
        self._costs.append(now - began)
        self._due = now + max(self._interval, statistics.fmean(self._costs) / BACKUP_SHARE)
        kept = KeptBackup(backup, holder, rounds + len(backup.rounds), self._taken)
        self.kept.append(kept)
        while len(self.kept) > (2 if holder else 1):
            self.kept.popleft()
        self._losses = 0
        return kept

    def _holder(self, present: Present) -> str:
        """Return a worker that keeps the next backup: not where the server or, if possible, a shard is.

        Nor where the last one is.
        """
        assert self.ref is not None
        others = [name for name in present.threads if name != self.ref.address]
        others.sort(key=self._hosts.count)
        last = self.kept[-1].holder if self.kept else ""
        return next((name for name in others if name != last), others[0] if others else "")

    async def _back_up_to(self, holder: str, method: str, *asked: Any) -> Backup | None:
        call = self.client.run(
            tasks.keep_backup, self.name, self._taken, self.ref, method, *asked,
            workers=[holder], on_error="return",
        )  # fmt: skip
        try:
            replies = await asyncio.wait_for(call, ANSWER_SECONDS)
        except TimeoutError:
            replies = {}
        reply = replies.get(holder)
        return reply if isinstance(reply, Backup) else None

    async def renew(self, leaving: frozenset[str] = frozenset()) -> KeptBackup | None:
        """Start another server from the latest backup.

        Parameters
        ----------
        leaving : frozenset of str
            Workers that it shall not go to.

        Returns
        -------
        KeptBackup or None
            Where training goes on; None where it begins anew.

        Raises
        ------
        ServerLostError
            Where the servers are lost again and again, or the workers with all backups too.
        NoWorkersError
            Where there is no worker within the limit.
        FitCancelledError
            Where somebody has cancelled the server.
        """
        assert self.ref is not None
        for future in self._futures:
            if future.status == "cancelled":
                refuse_cancelled(future._state.exception)
        self._losses += 1
        if self._losses > MOST_LOSSES:
            raise ServerLostError(
                f"{self._losses} parameter servers were lost one after the other, the last one on "
                f"{self.ref.address}. See the logs of the workers; too little memory is the usual cause."
            )
        bad = {*(self._lost or [self.ref.address]), *leaving}
        while True:
            present = await self.membership.wait_for_workers(frozenset(bad))
            where = others = (set(present.threads) - bad) or set(present.threads)
            had_backup = bool(self.kept)
            while self.kept and self.kept[-1].holder and self.kept[-1].holder not in present.threads:
                self.kept.pop()
            if had_backup and not self.kept:
                raise ServerLostError(
                    "The parameter server and the workers that kept its backups left the cluster together."
                )
            kept = self.kept[-1] if self.kept else None
            if kept is not None and kept.holder:
                where = {kept.holder}
            # First, as visits that wait for the lost one may hold the threads that an actor needs to start.
            self._tell(list(present.threads), self._started)
            try:
                await self._start_on(sorted(where), sorted(others))
                backup, number = (None, 0) if kept is None else (kept.backup, kept.number)
                await self._give(backup, number)
                break
            except (LookupError, ServerLostError) as error:
                if isinstance(error, LookupError):
                    self.kept.pop()
                logger.info("No parameter server on %s: %s.", sorted(where), error)
                bad |= await self._starting_on() or where
                self._losses += 1
                if self._losses > MOST_LOSSES:
                    raise ServerLostError("No worker could take over the parameter server.") from error
        self._rounds = kept.rounds if kept is not None else 0
        self._due = time.monotonic() + self._interval
        return kept

    def _tell(self, workers: list[str], incarnation: int) -> None:
        """Tell the visits on some workers that there is another server, without waiting for them."""
        call = self.client.run(tasks.renew, self.name, incarnation, workers=workers, on_error="ignore")
        telling = asyncio.ensure_future(asyncio.wait_for(call, ABORT_SECONDS))
        self._telling.add(telling)
        telling.add_done_callback(self._told)

    def _told(self, telling: asyncio.Future[Any]) -> None:
        self._telling.discard(telling)
        if not telling.cancelled():
            telling.exception()  # a visit finds out by itself too, only later

    async def abort(self) -> None:
        """Let visits under way end with their round."""
        if self.ref is None or self.lost:
            return
        try:
            await asyncio.wait_for(self.ref.call_from_driver(self.client, "abort"), ABORT_SECONDS)
        except Exception:
            logger.debug("The server could not be told to stop.", exc_info=True)

    def release(self) -> None:
        """Give the actors up."""
        for future in self._futures:
            with contextlib.suppress(Exception):
                future.release()
        self._futures = []
