"""The server of a fit as the driver sees it: started, called, backed up, replaced when it is lost."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
from distributed import Client

from skdist.backup import Backup
from skdist.cluster import tasks
from skdist.cluster.actors import WATCH_SECONDS, Actors
from skdist.cluster.connection import ServerRef
from skdist.cluster.deposit import Deposit
from skdist.cluster.membership import LOOK_SECONDS, Membership, Present
from skdist.cluster.shards import collected
from skdist.cluster.thin import thin
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

#: That an actor is gone, a client may hear so many seconds after workers have forgotten it.
HEAR_SECONDS = 5.0

#: The server, if there still is one, gets this long to hear that the fit is over, in seconds.
ABORT_SECONDS = 2.0

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
    actors : Actors
        The present ones.
    membership : Membership
        Of the cluster.
    kept : deque of KeptBackup
        Oldest first: the latest one in the driver, or the latest two on two workers.
    relied : bool
        Whether training can go on from one of them, whichever worker leaves: what came before is not needed
        any more. A single one on a worker may leave with it, and then training begins anew.
    """

    def __init__(
        self, client: Client, membership: Membership, name: str, token: str, in_driver: bool = False,
        n_servers: int = 1,
    ) -> None:  # fmt: skip
        self.client, self.name = client, name
        self.actors = Actors(client, membership, token, n_servers if n_servers > 1 else 0)
        self.kept: deque[KeptBackup] = deque()
        self.relied = False
        self.membership, self._in_driver, self._n_servers = membership, in_driver, n_servers
        self._cutting = asyncio.Lock()  # shards keep one stage at a time
        self._arguments: tuple[Any, ...] = ()
        self._small = True
        self._rounds = 0  # length of the history when the present server began
        self._losses = 0
        self._taken = 0  # backups
        self._costs: deque[float] = deque(maxlen=5)
        self._interval = float(dask.config.get("skdist.snapshot-interval", BACKUP_SECONDS))
        self._due = float("inf")

    async def begin(
        self, model: Any, classes: Any, settings: Any, state: np.ndarray, n_rows: int, n_learners: int,
        clock: float, *, backup: Backup | None = None,
    ) -> None:  # fmt: skip
        """Give the server what it trains; parameters as in `ServerActor.begin`."""
        self._arguments = (model, classes, settings, state, n_rows, n_learners, clock)
        self._small = self._in_driver or state.nbytes <= DRIVER_BYTES
        if backup is not None:
            self.kept.append(KeptBackup(backup, "", 0))
            self.relied = True
        await self._give(backup, 0)
        self._due = time.monotonic() + self._interval

    async def _give(self, backup: Backup | None, number: int) -> None:
        """Give the server what it trains, from a backup or the begin on, and shards their slices of it."""
        model, classes, settings, state, *others = self._arguments
        self.actors.keep(n_shards(self._n_servers, state))
        await self.call("begin", model, classes, settings, thin(state), *others, backup, self.name, number)
        begun = [
            shard.call_from_driver(self.client, "begin", self.ref, place, model.statistics)
            for place, shard in enumerate(self.ref.shards)
        ]
        await self._limited(asyncio.gather(*begun))

    @property
    def ref(self) -> ServerRef:
        """The present server."""
        assert self.actors.ref is not None
        return self.actors.ref

    @property
    def lost(self) -> bool:
        """Whether Dask knows that the server, or a shard, is gone."""
        return bool(self.actors.lost)

    def check(self, present: Present) -> None:
        """See `Actors.check`."""
        self.actors.check(present)

    def is_leaving(self, present: Present) -> bool:
        """Return whether a worker of the server is about to retire, and there is another one."""
        return bool(present.leaving.intersection(self.actors.hosts)) and bool(present)

    async def finish(self, rounds: int) -> Outcome:
        """End the fit; parameters as in `back_up`."""
        async with self._cutting:
            outcome: Outcome = await self._asked("finish", rounds - self._rounds)
            return outcome._replace(state=await self._parameters(outcome))

    async def snapshot(self, epoch: int) -> Snapshot:
        """Return the parameters now; see `ParameterServer.snapshot`."""
        async with self._cutting:
            snapshot: Snapshot = await self._asked("snapshot", epoch)
            return snapshot._replace(state=await self._parameters(snapshot))

    async def _asked(self, method: str, *args: Any) -> Any:
        """Call a method that returns parameters, which a process of this machine may leave in memory."""
        # In one process they come as they are, and shards are asked for theirs afterwards.
        apart = self._arguments and not self.ref.shards and not self.ref.address.startswith("inproc:")
        with Deposit(self._arguments[3].nbytes if apart else 0) as deposit:
            found = await self.call(method, *args, deposit.path)
            return found._replace(state=deposit.collect(found.state))

    async def _parameters(self, found: Outcome | Snapshot) -> np.ndarray:
        stage = await self._collected(Stage(found.state, None, 0, found.clock), moving=False)
        state: np.ndarray = stage.state
        return state

    async def _collected(self, stage: Stage, moving: bool) -> Stage:
        """Return a stage with its parameters; arguments as in `skdist.cluster.shards.collected`."""

        def ask(ref: ServerRef, method: str, *args: Any) -> Coroutine[Any, Any, Any]:
            return ref.call_from_driver(self.client, method, *args)

        try:
            whole: Stage = await self._limited(collected(stage, self.ref, ask, moving))
        except LookupError as error:  # by one that was given up, and came late
            raise ServerLostError(f"The shards keep another stage: {error}") from error
        return whole

    async def call(self, method: str, *args: Any) -> Any:
        """Call the server, with a limit, and as long as it is there.

        Raises
        ------
        ServerLostError
            Where it is gone or does not answer.
        """
        self.actors.refuse_lost()  # the scheduler would try to connect for long, and complain
        return await self._limited(self.ref.call_from_driver(self.client, method, *args))

    async def _limited(self, work: Awaitable[Any]) -> Any:
        call, ref = asyncio.ensure_future(work), self.ref
        began = looked = time.monotonic()
        try:
            while not (await asyncio.wait([call], timeout=WATCH_SECONDS))[0]:
                now = time.monotonic()
                # The next one is there, and would not look lost.
                if self.ref.incarnation != ref.incarnation:
                    raise ServerLostError(f"The parameter server on {ref.address} was replaced.")
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
        except Exception as error:
            # The scheduler does not read what it hands on, and says in words that an actor is not known. Why
            # it is not, this client may hear a little later, and then it is lost; or never.
            if type(error) is Exception and str(error).startswith("KeyError("):
                await self._hear_of_losses()
            raise
        finally:
            call.cancel()

    async def _hear_of_losses(self) -> None:
        """Raise a ServerLostError where Dask soon says that a server is gone."""
        until = time.monotonic() + HEAR_SECONDS
        while time.monotonic() < until:
            self.actors.refuse_lost()
            await asyncio.sleep(WATCH_SECONDS)

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
        began = time.monotonic()
        self._due = float("inf")  # one at a time
        self._taken += 1
        asked = visits, newest, rounds - self._rounds
        holder = "" if self._small else self._holder(present)
        async with self._cutting:
            backup = await self._back_up_to(holder, method, *asked) if holder else None
            if backup is None:
                backup, holder = await self.call(method, *asked), ""
                backup = backup._replace(stage=await self._collected(backup.stage, moving=True))
        now = time.monotonic()
        kept = KeptBackup(backup, holder, rounds + len(backup.rounds), self._taken)
        if kept.rounds:  # before the first one kernels may be compiled, and everything takes long
            self._costs.append(now - began)
        cost = statistics.fmean(self._costs) if self._costs else 0.0
        self._due = now + max(self._interval, cost / BACKUP_SHARE)
        self.kept.append(kept)
        while len(self.kept) > (2 if holder else 1):
            self.kept.popleft()
        self.relied = self.relied or not holder or len(self.kept) > 1
        self._losses = 0
        return kept

    def _holder(self, present: Present) -> str:
        """Return a worker that keeps the next backup; '' for the driver.

        Not where the server or a shard is, nor where the last backup is. Where there is a shard on every
        worker, each of them may take the server and its own backup along: the one before must be elsewhere.
        """
        last = self.kept[-1].holder if self.kept else ""
        free = [name for name in present.threads if name not in self.actors.hosts]
        if free or not self.ref.shards:
            return next((name for name in free if name != last), free[0] if free else "")
        return next((name for name in present.threads if self.kept and name != last), "")

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

    async def renew(self, avoid: frozenset[str] = frozenset()) -> KeptBackup | None:
        """Start another server from the latest backup.

        Parameters
        ----------
        avoid : frozenset of str
            Workers that it shall not go to: those that are about to leave, or silent.

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
        self.actors.refuse_cancelled()
        self._losses += 1
        if self._losses > MOST_LOSSES:
            raise ServerLostError(
                f"{self._losses} parameter servers were lost one after the other, the last one on "
                f"{self.ref.address}. See the logs of the workers; too little memory is the usual cause."
            )
        bad = {*(self.actors.lost or avoid.intersection(self.actors.hosts) or [self.ref.address]), *avoid}
        while True:
            present = await self.membership.wait_for_workers(frozenset(bad))
            where = others = (set(present.threads) - bad) or set(present.threads)
            while self.kept and self.kept[-1].holder and self.kept[-1].holder not in present.threads:
                self.kept.pop()
            if self.relied and not self.kept:
                raise ServerLostError(
                    "The parameter server and the workers that kept its backups left the cluster together."
                )
            kept = self.kept[-1] if self.kept else None
            if kept is not None and kept.holder:
                where = {kept.holder}
            # Visits that wait for the lost one may hold the threads that an actor needs to start.
            telling = asyncio.ensure_future(self._tell(self.actors.started))
            try:
                await self.actors.start_on(sorted(where), sorted(others))
                backup, number = (None, 0) if kept is None else (kept.backup, kept.number)
                await self._give(backup, number)
                break
            except (LookupError, ServerLostError) as error:
                if isinstance(error, LookupError):
                    self.kept.pop()
                logger.info("No parameter server on %s: %s.", sorted(where), error)
                bad |= await self.actors.starting_on() or where
                self._losses += 1
                if self._losses > MOST_LOSSES:
                    raise ServerLostError("No worker could take over the parameter server.") from error
            finally:
                telling.cancel()
        self._rounds = kept.rounds if kept is not None else 0
        self._due = time.monotonic() + self._interval
        return kept

    async def _tell(self, incarnation: int) -> None:
        """Tell the visits on all workers that there is another server, without waiting for them.

        Again and again: a worker that comes back only now does not know, and a task that waits for the lost
        server would hold its thread. What is not told finds out by itself, only later.
        """
        while True:
            try:
                workers = list((await self.membership.look()).threads)
                call = self.client.run(
                    tasks.renew, self.name, incarnation, workers=workers, on_error="ignore"
                )
                await asyncio.wait_for(call, ABORT_SECONDS)
            except Exception:
                logger.debug("Workers could not be told of another server.", exc_info=True)
            await asyncio.sleep(LOOK_SECONDS)

    async def abort(self) -> None:
        """Let visits under way end with their round."""
        if self.actors.ref is None or self.lost:
            return
        try:
            await asyncio.wait_for(self.ref.call_from_driver(self.client, "abort"), ABORT_SECONDS)
        except Exception:
            logger.debug("The server could not be told to stop.", exc_info=True)
