"""Who is in the cluster: workers that run, that fell silent, that came and went."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import dask
import numpy as np
from distributed import Client
from distributed.scheduler import heartbeat_interval

from skdist.exceptions import NoWorkersError, SchedulerLostError

logger = logging.getLogger("skdist")

T = TypeVar("T")

#: Seconds to wait for a first worker; ``dask.config.set({"skdist.worker-timeout": ...})`` changes it.
WORKER_TIMEOUT = 30.0

#: How often the driver looks for workers that came or went, in seconds.
LOOK_SECONDS = 0.5

#: A worker is silent that has sent no heartbeat for so long, in seconds, and for so many intervals.
SILENT_SECONDS = 5.0
SILENT_INTERVALS = 4

#: Memory that the modules take which a worker imports to train; a fresh one has not done so.
IMPORTS_BYTES = 400 << 20

#: The scheduler may be out of reach for so long, in seconds.
SCHEDULER_SECONDS = 15.0


@dataclass(frozen=True)
class Present:
    """The workers at one moment.

    Attributes
    ----------
    threads : dict of str to int
        By address, of the workers that can be given work.
    memory : float
        Bytes that all of them have left; ``inf`` without limits.
    silent : frozenset of str
        Workers that run, as far as the scheduler knows, but are not heard of: frozen or cut off. None where
        there are no others.
    leaving : frozenset of str
        Workers that are about to retire.
    """

    threads: dict[str, int]
    memory: float
    silent: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.threads)


class Membership:
    """Tells who is in the cluster, and bounds how long nobody may be.

    Parameters
    ----------
    client : Client
        Of the cluster.

    Attributes
    ----------
    limit : float
        Seconds for which there may be no worker.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.limit = float(dask.config.get("skdist.worker-timeout", WORKER_TIMEOUT))
        self._heartbeats: dict[str, tuple[float, float]] = {}  # the last one, and when we saw it
        self._paused = 0

    async def look(self) -> Present:
        """Return who is there.

        Raises
        ------
        SchedulerLostError
            Where the scheduler cannot be reached for `SCHEDULER_SECONDS`.
        """
        workers: dict[str, Any] = (await self._identity())["workers"]
        running, silent, leaving, paused = {}, set(), set(), 0
        now, patience = time.monotonic(), self._patience(len(workers))
        seen, self._heartbeats = self._heartbeats, {}
        newest = max((worker.get("last_seen", 0.0) for worker in workers.values()), default=0.0)
        for address, worker in workers.items():
            beat = worker.get("last_seen", 0.0)
            # At the first look, the newest one stands for now.
            known = seen.get(address, (beat, now - (newest - beat)))
            self._heartbeats[address] = known if known[0] == beat else (beat, now)
            status = worker.get("status", "running")
            paused += status == "paused"
            if status == "closing_gracefully":
                leaving.add(address)
            elif status == "running" and now - self._heartbeats[address][1] > patience:
                silent.add(address)
            elif status == "running":
                running[address] = worker
        self._paused = paused
        if silent and not running:  # there is nobody else to wait for
            running, silent = {address: workers[address] for address in silent}, set()
        left = [
            (worker["memory_limit"] or np.inf)
            - max(worker.get("metrics", {}).get("memory", 0), IMPORTS_BYTES)
            for worker in running.values()
        ]
        threads = {address: worker["nthreads"] for address, worker in running.items()}
        return Present(threads, max(float(sum(left)), 0.0), frozenset(silent), frozenset(leaving))

    async def wait_for_workers(self, avoid: frozenset[str] = frozenset()) -> Present:
        """Return who is there, once there is a worker.

        Parameters
        ----------
        avoid : frozenset of str
            These do not count either, unless there is no other within `SILENT_SECONDS`.

        Raises
        ------
        NoWorkersError
            Where there is none within the limit.
        """
        began = time.monotonic()
        wanted: Any = None
        try:
            while True:
                found = await self.look()
                if set(found.threads) - avoid or (found and time.monotonic() - began > SILENT_SECONDS):
                    return found
                if not found and time.monotonic() - began > self.limit:
                    raise self.nobody()
                if wanted is None and not found:
                    logger.info("Waiting up to %g s for a first worker.", self.limit)
                    # Only for a task that waits does an adaptive cluster start a worker.
                    wanted = self.client.submit(int, key=f"skdist-wanted-{uuid.uuid4().hex[:8]}", pure=False)
                await asyncio.sleep(0.1)
        finally:
            if wanted is not None:
                wanted.release()

    async def while_there_are_workers(
        self, work: Callable[[Present], Coroutine[Any, Any, T]], present: Present | None = None
    ) -> T:
        """Do work that may take long, but not longer than the limit without any worker.

        Parameters
        ----------
        work : callable
            Given who is there. It is cancelled and begun again when a worker falls silent: what that one was
            to do may never be done.
        present : Present, optional
            Who is there, where that was asked just now.
        """
        present = present or await self.look()
        task = asyncio.ensure_future(work(present))
        seen, silent = time.monotonic(), present.silent
        try:
            while not (await asyncio.wait([task], timeout=LOOK_SECONDS))[0]:
                present = await self.look()
                if present:
                    seen = time.monotonic()
                elif time.monotonic() - seen > self.limit:
                    raise self.nobody()
                if present.silent - silent:
                    logger.info("Without %s, which fell silent.", ", ".join(present.silent - silent))
                    silent = present.silent | silent
                    task.cancel()
                    await asyncio.wait([task], timeout=LOOK_SECONDS)
                    task = asyncio.ensure_future(work(present))
            return task.result()
        finally:
            task.cancel()

    def nobody(self) -> NoWorkersError:
        """Return the error for a cluster without workers, or with none that takes tasks."""
        if self._paused:
            return NoWorkersError(
                f"The workers, {self._paused} of them, have been paused for {self.limit:g} s: their memory "
                "is full. Give them more, persist less on the cluster, or make its partitions smaller."
            )
        return NoWorkersError(
            f"The cluster has had no worker for {self.limit:g} s. Start some (cluster.scale(...)), wait "
            "with client.wait_for_workers(1), or raise the limit with "
            'dask.config.set({"skdist.worker-timeout": seconds}).'
        )

    def _patience(self, n_workers: int) -> float:
        """Return the seconds after which a worker is silent."""
        return max(SILENT_SECONDS, SILENT_INTERVALS * float(heartbeat_interval(n_workers)))

    async def _identity(self) -> dict[str, Any]:
        deadline = time.monotonic() + SCHEDULER_SECONDS
        while True:
            left = deadline - time.monotonic()
            try:
                if self.client.status in ("closed", "closing"):
                    raise OSError(f"the client is {self.client.status}")
                identity = self.client.scheduler.identity(n_workers=-1)
                found: dict[str, Any] = await asyncio.wait_for(identity, max(left, 0.1))
                return found
            except (OSError, AttributeError) as error:  # a client that reconnects has no scheduler
                if left < 0 or self.client.status == "closed":
                    raise SchedulerLostError(
                        f"The scheduler of the cluster does not answer any more: {error!r}. Start a new "
                        "cluster and fit again; with a checkpoint, resume=True goes on from there."
                    ) from error
            await asyncio.sleep(0.1)
