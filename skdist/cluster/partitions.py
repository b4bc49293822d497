"""The partitions of a fit on the workers: converted, measured, held there or streamed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import dask
import numpy as np
from distributed.client import FutureCancelledError

from skdist.cluster import tasks
from skdist.cluster.actor import ServerRef
from skdist.cluster.fetch import LOST, fetch, refuse_cancelled, settle
from skdist.cluster.held import Held, argument, futures_of_block
from skdist.cluster.membership import Membership, Present
from skdist.cluster.source import Source, delayed_call
from skdist.exceptions import DataLostError
from skdist.intake import Intake
from skdist.messages import Snapshot
from skdist.models.validation import HoldOut, ScoreSums, add_up
from skdist.preparation import Summary

#: Collections that fill more of the cluster's memory are streamed: loaded, visited and let go.
HELD_SHARE = 0.5

#: Of the partitions that are streamed, one of so many is measured, but at least and at most so many.
SAMPLE_RATIO, LEAST_SAMPLE, MOST_SAMPLE = 16, 2, 8

#: How often partitions are measured, and how often one is made again, before it counts as lost for good.
MOST_TRIES = 3

#: A partition is sent to a worker within so many seconds, or to another one.
SENDING_SECONDS = 30.0

#: Part of the error then.
PERSIST_AGAIN = "Persist the collection again, or pass a lazy one, whose partitions Dask can load again."

#: Of tasks that score: before visits that wait, which would only train on.
LOOK_PRIORITY = 1

logger = logging.getLogger("skdist")


class Partitions:
    """Converts partitions where they are, and keeps them there while they fit into memory.

    Parameters
    ----------
    membership : Membership
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
    samples : bool
        Whether it is enough to measure some partitions, where loading them all once more would take long.

    Attributes
    ----------
    blocks : list of Future or Delayed
        By number; Delayed where the collection is streamed: each visit loads its partitions anew.
    """

    def __init__(
        self,
        membership: Membership,
        source: Source,
        token: str,
        intake: Intake,
        hold_out: HoldOut | None = None,
        name: str = "Partition",
        samples: bool = False,
    ) -> None:
        self.client, self.source, self.token = membership.client, source, token
        self._membership = membership
        self.kind = tasks.Kind(name, intake, hold_out)
        self._samples = samples and source.lengths is not None
        self.blocks: list[Any] = []
        self._passing: list[Any] = []  # until all is measured
        self._tries: dict[int, int] = {}  # to make a partition again
        self._generation = 0  # part of the keys: Dask may still know what was lost
        self._calls = 0  # part of the keys of tasks over partitions
        self._loaders: dict[str, asyncio.Semaphore] = {}  # by worker: threads that may load

    async def measure(self, present: Present) -> list[Summary]:
        """Convert and measure all partitions; may be begun again, with other workers.

        Parameters
        ----------
        present : Present
            The workers.

        Raises
        ------
        ValueError
            For bad data; the message names the partition.
        """
        for _ in range(MOST_TRIES - 1):
            try:
                return await self._measure(present)
            except FutureCancelledError as error:
                # Workers were restarted, or what was sent was lost with one: what is not lost for good comes
                # again. Where all are there as before, nothing was lost but cancelled.
                if set(present.threads) <= set((await self._membership.look()).threads):
                    refuse_cancelled(error)
        return await self._measure(present)

    async def _measure(self, present: Present) -> list[Summary]:
        if self.blocks:
            self.release()
            self._generation += 1
            # Dask releases futures in the next turn of the loop. What leads to them, the user's own tasks, is
            # to be forgotten before it is asked for again, or it stays on the worker where it was to run.
            await asyncio.sleep(0)
        where = _where(present)
        keys = [self._key(number) for number in range(len(self.source.parts))]
        if self.source.held:
            self.blocks = [Held(part) for part in self.source.parts]
        elif not self.source.lazy:
            self._passing = await self.client.scatter(
                list(self.source.parts), workers=sorted(present.threads), hash=False
            )
            self.blocks = [
                self.client.submit(tasks.prepare_slice, self.kind, n, part, key=key, pure=False, **where)
                for n, (key, part) in enumerate(zip(keys, self._passing, strict=True))
            ]
        else:
            self.blocks = [
                delayed_call(tasks.prepare, key, self.kind, n, *part)
                for n, (key, part) in enumerate(zip(keys, self.source.parts, strict=True))
            ]
            if await self._nbytes(where) <= HELD_SHARE * present.memory:
                self.blocks = self._compute(self.blocks, **where)
        measured = await self._over(self._sample(), present, "measure", tasks.measure)
        self._passing += measured
        found: dict[int, Summary] = {}
        for part in await fetch(self.client, measured):
            found.update(part)
        summaries = [found.get(number) or self._like(number, found) for number in range(len(self.blocks))]
        self.kind = self.kind._replace(
            shape=next((s.shape for s in summaries if s.rows), ()),
            streamed=self.streamed,
            sampled=len(found) < len(self.blocks),
        )
        return summaries

    async def _nbytes(self, where: Mapping[str, Any]) -> float:
        """Return the bytes of the converted rows: where nobody knows them, a few partitions are loaded."""
        if not np.isnan(self.source.nbytes):
            return self.source.nbytes
        lengths = self.source.lengths or (1,) * len(self.blocks)
        chosen = _spread(lengths, LEAST_SAMPLE)
        loaded = self._compute([self.blocks[number] for number in chosen], **where)
        self._passing += loaded  # they need not be loaded again
        sizes = [
            self.client.submit(tasks.size_of, block, key=("size", *block.key), pure=False, **where)
            for block in loaded
        ]
        self._passing += sizes
        # In turn: of several that are bad, it is always the same that an error names.
        nbytes = sum([(await fetch(self.client, [size]))[0] for size in sizes])
        rows = sum(lengths[number] for number in chosen)
        return float(nbytes / max(rows, 1) * sum(lengths))

    @property
    def sampled(self) -> bool:
        """Whether only some partitions were measured, which stand for all."""
        return self.kind.sampled

    def _compute(self, lazy: Sequence[Any], **options: Any) -> list[Any]:
        futures: list[Any] = self.client.compute(list(lazy), optimize_graph=False, **options)
        return futures

    def _like(self, number: int, found: Mapping[int, Summary]) -> Summary:
        """Return what is known of a partition that was not measured, when others were."""
        assert self.source.lengths is not None
        rows, other = self.source.lengths[number], next(iter(found.values()))
        nbytes = other.nbytes * rows // max(other.rows, 1)
        return Summary(rows, other.shape, None, other.dtype, nbytes)

    async def lost(self, silent: Collection[str] = ()) -> list[int]:
        """Return the partitions that are lost, or that only workers hold which are silent.

        Dask makes again what it can; it has forgotten what was sent from the driver, and all that was there
        when the workers were restarted.

        Parameters
        ----------
        silent : collection of str
            Workers that nothing can be fetched from.

        Raises
        ------
        FitCancelledError
            Where somebody has cancelled one.
        """
        if self.streamed:
            return []
        self._tries = {n: count for n, count in self._tries.items() if self.blocks[n].status != "finished"}
        # What is the user's own and lost with a worker, Dask makes again by itself.
        gone = ("cancelled",) if self.source.held else ("cancelled", "lost")
        found = [n for n, block in enumerate(self.blocks) if block.status in gone]
        for number in found:
            for future in futures_of_block(self.blocks[number]):
                if future.status == "cancelled":
                    refuse_cancelled(future._state.exception)
        if silent and not self.source.held:
            held = await self.client.scheduler.who_has(keys=[block.key for block in self.blocks])
            found += [
                n for n, block in enumerate(self.blocks)
                if n not in found and held.get(block.key) and set(held[block.key]) <= set(silent)
            ]  # fmt: skip
        return found

    async def make_again(self, numbers: Sequence[int], workers: Sequence[str]) -> dict[int, str]:
        """Make partitions again that are lost.

        Parameters
        ----------
        numbers : sequence of int
            Which; no visit waits for them.
        workers : sequence of str
            Who may hold them now.

        Returns
        -------
        dict of int to str
            The worker that each goes to.

        Raises
        ------
        DataLostError
            Where they come from persisted data that is gone.
        """
        if not numbers or not workers:
            return {}
        for number in numbers:
            self._tries[number] = self._tries.get(number, 0) + 1
            if self.source.held or self._tries[number] > MOST_TRIES:
                raise DataLostError(
                    f"{self.kind.name} {number} was lost and cannot be made again. {PERSIST_AGAIN}"
                )
        # Dask must forget what leads to them, or it does that again where it did it before.
        await self.client.cancel([self.blocks[number] for number in numbers], force=True, reason=LOST)
        self._generation += 1
        homes: dict[int, str] = {}
        for place, number in enumerate(numbers):
            home = workers[place % len(workers)]
            try:
                made = await asyncio.wait_for(self._make_again(number, home), SENDING_SECONDS)
            except (FutureCancelledError, KeyError, OSError) as error:  # its new worker is gone, too
                logger.info("%s %d is not on %s yet: %r.", self.kind.name, number, home, error)
            else:
                self.blocks[number].release()
                self.blocks[number], homes[number] = made, home
        logger.info("%d of %d partitions are made again.", len(homes), len(self.blocks))
        return homes

    async def _make_again(self, number: int, home: str) -> Any:
        """Return the future of a partition that is made once more."""
        where: dict[str, Any] = {"workers": [home], "allow_other_workers": True}
        part, key = self.source.parts[number], self._key(number)
        if self.source.lazy:
            block = delayed_call(tasks.prepare, key, self.kind, number, *part)
            return self.client.compute(block, optimize_graph=False, **where)
        (sent,) = await self.client.scatter([part], workers=[home], hash=False)
        made = self.client.submit(tasks.prepare_slice, self.kind, number, sent, key=key, pure=False, **where)
        made.add_done_callback(lambda _: sent.release())
        return made

    def _key(self, number: int) -> tuple[str, int]:
        again = f"-{self._generation}" if self._generation else ""
        return (f"skdist-partition-{self.token}{again}", number)

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
            yield [argument(self.blocks[number]) for number in numbers]
            self.let_go()
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
                self.let_go()
                await settle(loads)
            finally:
                _release(loads)

    def let_go(self) -> None:
        """Free what only measuring needed.

        Not as soon as that is done: a client sends at most every 10 ms, and the first visits would wait.
        """
        _release(self._passing)

    def release(self) -> None:
        """Free everything on the workers.

        Not left to the garbage collector: the traceback of an error keeps what its frames held.
        """
        _release(self.blocks)
        self.let_go()

    def _sample(self) -> Sequence[int]:
        """Return the partitions to measure where each has to be loaded for it."""
        lengths = self.source.lengths
        if not self._samples or lengths is None or not any(lengths):
            return range(len(self.blocks))
        count = int(np.count_nonzero(lengths)) // SAMPLE_RATIO
        return _spread(lengths, min(max(count, LEAST_SAMPLE), MOST_SAMPLE))

    async def score(
        self, ref: ServerRef, plugin_name: str, snapshot: Snapshot, present: Present
    ) -> ScoreSums:
        """Score a state on the held-out rows of all partitions, where they are; only sums travel.

        Parameters
        ----------
        ref, plugin_name
            As in `skdist.cluster.tasks.score`.
        snapshot : Snapshot
            The state.
        present : Present
            The workers.
        """
        shared: list[Any] = []
        futures: list[Any] = []
        try:
            if self.streamed:
                state = dask.delayed(snapshot.state, pure=False)
            else:
                shared += await self.client.scatter(
                    [snapshot.state], workers=sorted(present.threads), hash=False
                )
                (state,) = shared
            numbers = range(len(self.blocks))
            futures += await self._over(
                numbers, present, "score", tasks.score, ref, plugin_name, state, priority=LOOK_PRIORITY
            )
            return add_up(await fetch(self.client, futures))
        finally:
            _release(futures)
            _release(shared)

    async def _over(
        self, numbers: Sequence[int], present: Present, name: str, call: Any, *shared: Any, priority: int = 0
    ) -> list[Any]:
        """Start tasks over partitions, where these are.

        One for each thread, as for Dask a task costs more than reading a few megabytes; where partitions are
        loaded for it, one for each.
        """
        self._calls += 1
        prefix, where = f"skdist-{name}-{self.token}-{self._calls}", _where(present)
        if self.streamed:
            lazy = [delayed_call(call, (prefix, n), self.kind, [n], *shared, self.blocks[n]) for n in numbers]
            return self._compute(lazy, priority=priority, **where)
        return [
            self.client.submit(
                call, self.kind, together, *shared, *(argument(self.blocks[n]) for n in together),
                key=(prefix, together[0]), pure=False, priority=priority,
                **({"workers": [home], "allow_other_workers": True} if home in present.threads else where),
            )
            for together, home in await self._placed(present.threads)
        ]  # fmt: skip

    async def _placed(self, workers: dict[str, int]) -> list[tuple[list[int], str]]:
        """Return the numbers of the blocks, in a list for each thread, and the worker that holds them."""
        await settle([future for block in self.blocks for future in futures_of_block(block)])
        held = await self.client.scheduler.who_has(keys=[block.key for block in self.blocks])
        homes: dict[str, list[int]] = {}
        for number, block in enumerate(self.blocks):
            if block.status == "error":
                await fetch(self.client, futures_of_block(block))  # raises what went wrong
            homes.setdefault((held.get(block.key) or [""])[0], []).append(number)
        return [
            (numbers, home)
            for home, together in homes.items()
            for numbers in _shared_out(together, workers.get(home, 1))
        ]


def _where(present: Present) -> dict[str, Any]:
    """Return where Dask may run what may run anywhere: not on workers that are silent."""
    return {"workers": sorted(present.threads)} if present.silent else {}


def _spread(lengths: Sequence[int], count: int) -> list[int]:
    """Return at most ``count`` partitions that are not empty, evenly spread."""
    filled = np.flatnonzero(lengths)
    places = np.linspace(0, len(filled) - 1, min(count, len(filled))).astype(int)
    return [int(number) for number in filled[places]]


def _shared_out(numbers: Sequence[int], parts: int) -> list[list[int]]:
    """Return the numbers in at most ``parts`` lists of about the same length."""
    return [list(numbers[first::parts]) for first in range(min(parts, len(numbers)))]


def _release(futures: list[Any]) -> None:
    for future in futures:
        if hasattr(future, "release"):
            future.release()
    futures.clear()
