"""The actors of a fit, its server and the shards of the parameters: started, watched, given up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from distributed import Client

from skdist.cluster.actor import ServerActor
from skdist.cluster.connection import ServerRef
from skdist.cluster.fetch import refuse_cancelled, settle
from skdist.cluster.membership import Membership, Present
from skdist.cluster.shards import ShardActor
from skdist.exceptions import ServerLostError

logger = logging.getLogger("skdist")

#: The start of the actors takes at most this long, in seconds; then other workers are tried.
START_SECONDS = 10.0

#: So many times.
MOST_STARTS = 5

#: The driver looks this often whether the server it waits for is still there, in seconds.
WATCH_SECONDS = 0.1


class Actors:
    """Starts the actors of one incarnation after the other, and knows where those of the last one are.

    Parameters
    ----------
    client : Client
        Of the cluster.
    membership : Membership
        Of the cluster.
    token : str
        Unique; part of the keys.
    n_shards : int
        Shards beside the server.

    Attributes
    ----------
    ref : ServerRef or None
        The present server.
    started : int
        Incarnations until now.
    """

    def __init__(self, client: Client, membership: Membership, token: str, n_shards: int) -> None:
        self.ref: ServerRef | None = None
        self.started = 0
        self._client, self._membership, self._token, self._n_shards = client, membership, token, n_shards
        self._futures: list[Any] = []  # the server's, then those of the shards

    async def start(self, busy: Callable[[], bool]) -> None:
        """Start them on some workers.

        Parameters
        ----------
        busy : callable
            Whether the workers are still busy with what they do before that: then it may take longer.

        Raises
        ------
        ServerLostError
            Where no worker could start it.
        FitCancelledError
            Where somebody has cancelled it.
        """
        bad: set[str] = set()
        for _ in range(MOST_STARTS):
            names = set((await self._membership.wait_for_workers()).threads)
            try:
                where = sorted(names - bad or names)
                return await self.start_on(where, where, busy)
            except ServerLostError as error:
                self.refuse_cancelled()
                logger.info("%s", error)
                bad |= await self.starting_on()
        raise ServerLostError("No worker could start the parameter server. See the logs of the workers.")

    async def starting_on(self) -> set[str]:
        """Return where Dask wants to start actors: a worker that is frozen does not get there."""
        processing = await self._client.scheduler.processing(workers=None)
        wanted = {future.key for future in self._futures}
        return {name for name, keys in processing.items() if wanted & set(keys)}

    async def start_on(
        self, where: Sequence[str], others: Sequence[str], busy: Callable[[], bool] = lambda: False
    ) -> None:
        """Start the next server on one of some workers, and its shards on others, within a limit.

        Dask takes those with the fewest actors, as workers are named: servers of fits at the same time are
        not to share one.

        Raises
        ------
        ServerLostError
            Where one does not start.
        """
        incarnation, self.started = self.started, self.started + 1
        key = f"skdist-server-{self._token}-{incarnation}"
        shards = [f"skdist-shard-{self._token}-{incarnation}-{n}" for n in range(self._n_shards)]
        places = _apart(where, others, self._n_shards)
        self.release()
        for name, place in zip((key, *shards), places, strict=True):
            actor = ServerActor if name == key else ShardActor
            self._futures.append(self._client.submit(actor, actor=True, key=name, pure=False, workers=place))
        made = asyncio.ensure_future(settle(self._futures))
        began = time.monotonic()
        try:
            while not (await asyncio.wait([made], timeout=WATCH_SECONDS))[0]:
                # Dask would wait for them for ever.
                present = await self._membership.look()
                if present.silent and (silent := await self.starting_on() & present.silent):
                    raise ServerLostError(f"{', '.join(silent)} fell silent before the server started.")
                for place in places:
                    if not set(place) & set(present.threads):
                        raise ServerLostError(f"{', '.join(place)} left before the parameter server started.")
                if busy():
                    began = time.monotonic()
                if time.monotonic() - began > START_SECONDS:
                    raise ServerLostError(f"The parameter server did not start within {START_SECONDS:g} s.")
        finally:
            made.cancel()
        holders = await self._client.scheduler.who_has(keys=[key, *shards])
        if not all(holders.get(name) for name in (key, *shards)):
            raise ServerLostError("The parameter server could not be started on any worker.")
        parts = tuple([ServerRef(holders[name][0], name, incarnation) for name in shards])
        self.ref = ServerRef(holders[key][0], key, incarnation, parts)

    def keep(self, n_shards: int) -> None:
        """Give shards up that are too many for what is trained."""
        assert self.ref is not None
        for surplus in self._futures[1 + n_shards :]:
            surplus.release()
        del self._futures[1 + n_shards :]
        self.ref = replace(self.ref, shards=self.ref.shards[:n_shards])

    @property
    def hosts(self) -> list[str]:
        """The workers of server and shards."""
        return [] if self.ref is None else [self.ref.address, *(shard.address for shard in self.ref.shards)]

    @property
    def lost(self) -> list[str]:
        """The workers of those that are gone, as far as Dask knows."""
        gone = [future.status not in ("finished", "pending") for future in self._futures]
        return [worker for worker, is_gone in zip(self.hosts, gone, strict=False) if is_gone]

    def refuse_lost(self) -> None:
        """Raise a ServerLostError where one is gone."""
        if lost := self.lost:
            raise ServerLostError(f"The worker that held the parameter server, {lost[0]}, left.")

    def check(self, present: Present) -> None:
        """Raise a ServerLostError where one is gone, or silent and there are other workers."""
        self.refuse_lost()
        if silent := present.silent.intersection(self.hosts):
            raise ServerLostError(f"The parameter server on {min(silent)} is not heard of any more.")

    def refuse_cancelled(self) -> None:
        """Raise a FitCancelledError where somebody has cancelled one."""
        for future in self._futures:
            if future.status == "cancelled":
                refuse_cancelled(future._state.exception)

    def release(self) -> None:
        """Give them up."""
        for future in self._futures:
            with contextlib.suppress(Exception):
                future.release()
        self._futures = []


def _apart(where: Sequence[str], others: Sequence[str], n_shards: int) -> list[list[str]]:
    """Return the workers among which Dask may place the server, and each of its shards.

    Those are others for each, if there are enough: what waits to be started, Dask moves to workers that are
    idle, without regard to the actors there.
    """
    if len(others) > n_shards:
        where = where[:: n_shards + 1]
        others = [name for name in others if name not in where]
    return [list(where), *(list(others[n % len(others) :: n_shards]) for n in range(n_shards))]
