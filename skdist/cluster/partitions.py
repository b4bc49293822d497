"""The partitions of a fit on the workers: converted, measured, held there or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import dask
import numpy as np
from distributed import Client

from skdist.cluster import tasks
from skdist.cluster.actor import ServerRef
from skdist.cluster.fetch import fetch, settle
from skdist.cluster.source import Source, delayed_call
from skdist.intake import Intake
from skdist.models.validation import HoldOut, ScoreSums, add_up
from skdist.preparation import Summary

#: Collections that fill more of the cluster's memory are streamed: loaded, visited and let go.
HELD_SHARE = 0.5

#: Of tasks that score: before visits that wait, which would only train on.
LOOK_PRIORITY = 1


class Partitions:
    """Converts partitions where they are, and keeps them there while they fit into memory.

    Parameters
    ----------
    client : Client
        Of the cluster.
    source : Source
        The rows.
    token : str
        Unique; part of the keys.
    intake : Intake
        Converts and measures the rows.
    hold_out : HoldOut, optional
        Which rows are not trained on.
    name : str
        What errors call a partition.

    Attributes
    ----------
    blocks : list of Future or Delayed
        By number; Delayed where the collection is streamed: each visit loads its partitions anew.
    """

    def __init__(
        self,
        client: Client,
        source: Source,
        token: str,
        intake: Intake,
        hold_out: HoldOut | None = None,
        name: str = "Partition",
    ) -> None:
        self.client, self.source, self.token = client, source, token
        self._kind = tasks.Kind(name, intake, hold_out)
        self.blocks: list[Any] = []
        self._passing: list[Any] = []  # needed until all is measured
        self._loaders: dict[str, asyncio.Semaphore] = {}  # by worker: threads that may load

    async def measure(self, workers: dict[str, int], memory: float) -> list[Summary]:
        """Convert and measure all partitions.

        Parameters
        ----------
        workers : dict of str to int
            Threads by address.
        memory : float
            Bytes of memory of all workers.

        Raises
        ------
        ValueError
            For bad data; the message names the partition.
        """
        keys = [(f"skdist-partition-{self.token}", n) for n in range(len(self.source.parts))]
        if not self.source.lazy:
            self._passing = await self.client.scatter(list(self.source.parts), hash=False)
            self.blocks = [
                self.client.submit(tasks.prepare_slice, self._kind, n, part, key=key, pure=False)
                for n, (key, part) in enumerate(zip(keys, self._passing, strict=True))
            ]
        else:
            self.blocks = [
                delayed_call(tasks.prepare, key, self._kind, n, *part)
                for n, (key, part) in enumerate(zip(keys, self.source.parts, strict=True))
            ]
            if np.isnan(self.source.nbytes) or self.source.nbytes <= HELD_SHARE * memory:
                self.blocks = self.client.compute(self.blocks, optimize_graph=False)
        measured = self._measure_streamed() if self.streamed else await self._measure_held(workers)
        self._passing += measured
        found: dict[int, Summary] = {}
        for part in await fetch(self.client, measured):
            found.update(part)
        _release(self._passing)
        return [found[number] for number in range(len(self.blocks))]

    @property
    def streamed(self) -> bool:
        """Whether each visit loads its partitions anew."""
        return any(dask.is_dask_collection(block) for block in self.blocks)

    def add_worker(self, name: str, threads: int) -> None:
        """Say how many partitions a worker can load at once."""
        self._loaders.setdefault(name, asyncio.Semaphore(threads))

    @asynccontextmanager
    async def on_worker(self, name: str, numbers: Sequence[int]) -> AsyncIterator[list[Any]]:
        """Give the futures of some partitions to a visit on a worker, and stay until they are loaded.

        A worker loads no more partitions at once than it has threads. If more were ordered, the next load
        would take the thread that the visit of the last one needs to begin.
        """
        if not self.streamed:
            yield [self.blocks[number] for number in numbers]
            return
        async with self._loaders[name]:
            loads: list[Any] = self.client.compute(
                [self.blocks[number] for number in numbers],
                optimize_graph=False,
                workers=[name],
                allow_other_workers=True,
            )
            try:
                yield loads
                await settle(loads)
            finally:
                _release(loads)

    def release(self) -> None:
        """Free everything on the workers.

        Not left to the garbage collector: the traceback of an error keeps what its frames held.
        """
        _release(self.blocks)
        _release(self._passing)

    def _measure_streamed(self) -> list[Any]:
        lazy = [
            delayed_call(tasks.measure, self._measure_key(n), self._kind, [n], block)
            for n, block in enumerate(self.blocks)
        ]
        futures: list[Any] = self.client.compute(lazy, optimize_graph=False)
        return futures

    async def _measure_held(self, workers: dict[str, int]) -> list[Any]:
        """Start a task for each thread: for Dask, a task costs more than reading a few megabytes."""
        return [
            self.client.submit(
                tasks.measure, self._kind, numbers, *(self.blocks[n] for n in numbers),
                key=self._measure_key(numbers[0]), pure=False, **where,
            )
            for numbers, where in await self._placed(workers)
        ]  # fmt: skip

    async def score(
        self, ref: ServerRef, plugin_name: str, state: np.ndarray, epoch: int, workers: dict[str, int]
    ) -> ScoreSums:
        """Score a state on the held-out rows of all partitions, where they are; only sums travel.

        Parameters
        ----------
        ref, plugin_name
            As in `skdist.cluster.tasks.score`.
        state : ndarray
            Of the model.
        epoch : int
            Part of the keys.
        workers : dict of str to int
            Threads by address.
        """
        futures: list[Any] = []
        try:
            if self.streamed:
                shared = dask.delayed(state, pure=False)
                lazy = [
                    delayed_call(tasks.score, self._score_key(epoch, n), ref, plugin_name, shared, block)
                    for n, block in enumerate(self.blocks)
                ]
                futures += self.client.compute(lazy, optimize_graph=False, priority=LOOK_PRIORITY)
            else:
                placed = await self._placed(workers)
                futures += await self.client.scatter([state], hash=False)
                futures += [
                    self.client.submit(
                        tasks.score, ref, plugin_name, futures[0], *(self.blocks[n] for n in numbers),
                        key=self._score_key(epoch, numbers[0]), pure=False, priority=LOOK_PRIORITY, **where,
                    )
                    for numbers, where in placed
                ]  # fmt: skip
            return add_up(await fetch(self.client, futures if self.streamed else futures[1:]))
        finally:
            _release(futures)

    async def _placed(self, workers: dict[str, int]) -> list[tuple[list[int], dict[str, Any]]]:
        """Return the numbers of the blocks, in a list for each thread, and where their task should run."""
        await settle(self.blocks)
        held = await self.client.scheduler.who_has(keys=[block.key for block in self.blocks])
        homes: dict[str, list[int]] = {}
        for number, block in enumerate(self.blocks):
            if block.status == "error":
                await fetch(self.client, [block])  # raises what went wrong
            homes.setdefault((held.get(block.key) or [""])[0], []).append(number)
        return [
            (numbers, {"workers": [home] if home else None, "allow_other_workers": bool(home)})
            for home, together in homes.items()
            for numbers in _shared_out(together, workers.get(home, 1))
        ]

    def _measure_key(self, number: int) -> tuple[str, int]:
        return (f"skdist-measure-{self.token}", number)

    def _score_key(self, epoch: int, number: int) -> tuple[str, int, int]:
        return (f"skdist-score-{self.token}", epoch, number)


def _shared_out(numbers: Sequence[int], parts: int) -> list[list[int]]:
    """Return the numbers in at most ``parts`` lists of about the same length."""
    return [list(numbers[first::parts]) for first in range(min(parts, len(numbers)))]


def _release(futures: list[Any]) -> None:
    for future in futures:
        if hasattr(future, "release"):
            future.release()
    futures.clear()
