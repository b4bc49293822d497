"""The partitions of a fit on the workers: measured, held there or streamed, given to visits, scored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import dask
import numpy as np
from distributed.client import FutureCancelledError

from skdist.cluster import tasks
from skdist.cluster.blocks import MOST_TRIES, Blocks, anywhere, free, near
from skdist.cluster.connection import ServerRef
from skdist.cluster.fetch import LOST, fetch, refuse_cancelled, settle
from skdist.cluster.held import Named
from skdist.cluster.membership import Membership, Present
from skdist.cluster.source import Source
from skdist.intake import Intake
from skdist.messages import Snapshot
from skdist.models.validation import HoldOut, ScoreSums, add_up
from skdist.preparation import Summary

#: Collections that fill more of the cluster's memory are streamed: loaded, visited and let go.
HELD_SHARE = 0.5

#: Of the partitions that are streamed, one of so many is measured, but at least and at most so many.
SAMPLE_RATIO, LEAST_SAMPLE, MOST_SAMPLE = 16, 2, 8

#: Of tasks that score: before visits that wait, which would only train on.
LOOK_PRIORITY = 1


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
    kind : Kind
        What the partitions are.
    sent : Event
        Set when the tasks that measure are sent, where these are short; else from the begin on.
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
        self._client, self._source, self._membership = membership.client, source, membership
        self._blocks = Blocks(membership.client, source, token)
        self.kind = tasks.Kind(name, intake, hold_out)
        self._samples = samples and source.lengths is not None
        self.sent = asyncio.Event()
        if not source.held:
            self.sent.set()
        self._passing: list[Any] = []  # until all is measured
        self._loading: list[tuple[int, Any]] = []  # for visits: numbers and futures
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
        tries = 0
        while True:
            try:
                return await self._measure(present)
            except FutureCancelledError as error:
                # Sent while the cluster was restarted, tasks may be known to the scheduler alone.
                await self._client.cancel(list(self._passing), force=True, reason=LOST)
                # Workers were restarted, or what was sent was lost with one: what is not lost for good comes
                # again. Where all are there as before, nothing was lost but cancelled.
                if set(present.threads) <= set((await self._membership.look()).threads):
                    refuse_cancelled(error)
                tries += 1
                if tries == MOST_TRIES:
                    raise

    async def _measure(self, present: Present) -> list[Summary]:
        self.let_go()  # what is begun again
        self._passing += await self._blocks.make(self.kind, present)
        if self.streamed and await self._nbytes(anywhere(present)) <= HELD_SHARE * present.memory:
            self._blocks.hold(present)
        found: dict[int, Summary] = {}
        for by_name in (True, False):
            measured = await self._blocks.submit(
                "measure", tasks.measure, self.kind, self._sample(), present, by_name=by_name
            )
            self.sent.set()
            self._passing += measured
            parts = await fetch(self._client, measured)
            if all(part is not None for part in parts):
                break
        for part in parts:
            found.update(part)
        summaries = [found.get(number) or self._like(number, found) for number in self._numbers]
        self.kind = self.kind._replace(
            shape=next((s.shape for s in summaries if s.rows), ()),
            streamed=self.streamed,
            sampled=len(found) < len(summaries),
        )
        return summaries

    @property
    def _numbers(self) -> range:
        return range(len(self._blocks.all))

    async def _nbytes(self, where: Mapping[str, Any]) -> float:
        """Return the bytes of the converted rows: where nobody knows them, a few partitions are loaded."""
        if not np.isnan(self._source.nbytes):
            return self._source.nbytes
        lengths = self._source.lengths or (1,) * len(self._numbers)
        chosen = _spread(lengths, LEAST_SAMPLE)
        loaded = self._blocks.load(chosen, **where)
        self._passing += loaded  # they need not be loaded again
        sizes = [
            self._client.submit(tasks.size_of, block, key=("size", *block.key), pure=False, **where)
            for block in loaded
        ]
        self._passing += sizes
        # In turn: of several that are bad, it is always the same that an error names.
        nbytes = sum([(await fetch(self._client, [size]))[0] for size in sizes])
        rows = sum(lengths[number] for number in chosen)
        return float(nbytes / max(rows, 1) * sum(lengths))

    @property
    def sampled(self) -> bool:
        """Whether only some partitions were measured, which stand for all."""
        return self.kind.sampled

    def _like(self, number: int, found: Mapping[int, Summary]) -> Summary:
        """Return what is known of a partition that was not measured, when others were."""
        assert self._source.lengths is not None
        rows, other = self._source.lengths[number], next(iter(found.values()))
        nbytes = other.nbytes * rows // max(other.rows, 1)
        return Summary(rows, other.shape, None, other.dtype, nbytes)

    @property
    def streamed(self) -> bool:
        """Whether each visit loads its partitions anew."""
        return self._blocks.lazy

    async def lost(self, present: Present) -> list[int]:
        """See `Blocks.lost`."""
        loading = {number for number, load in self._loading if load.status == "pending"}
        return await self._blocks.lost(present, loading)

    async def make_again(self, numbers: Sequence[int], present: Present) -> dict[int, str]:
        """See `Blocks.make_again`."""
        return await self._blocks.make_again(self.kind, numbers, present)

    def add_worker(self, name: str, threads: int) -> None:
        """Say how many partitions a worker can load at once."""
        self._loaders.setdefault(name, asyncio.Semaphore(threads))

    def named(self, numbers: Sequence[int], name: str) -> Named | None:
        """See `Blocks.named`."""
        return None if self.streamed else self._blocks.named(numbers, name)

    def holds(self, name: str, numbers: Sequence[int]) -> None:
        """See `Blocks.holds`."""
        if not self.streamed:
            self._blocks.holds(name, numbers)

    def lacks(self, name: str, numbers: Sequence[int]) -> None:
        """See `Blocks.lacks`."""
        self._blocks.lacks(name, numbers)

    @asynccontextmanager
    async def on_worker(
        self, name: str, numbers: Sequence[int], present: Callable[[], Present]
    ) -> AsyncIterator[list[Any]]:
        """Give the futures of some partitions to a visit on a worker, and stay until they are loaded.

        A worker loads no more partitions at once than it has threads. If more were ordered, the next load
        would take the thread that the visit of the last one needs to begin.
        """
        if not self.streamed:
            yield self._blocks.arguments(numbers)
            self.let_go()
            return
        async with self._loaders[name]:
            loads = self._blocks.load(numbers, **near(name, present()))
            loading = list(zip(numbers, loads, strict=True))
            self._loading += loading
            try:
                yield loads
                self.let_go()
                await settle(loads)
                self._blocks.loaded([n for n, load in loading if load.status == "finished"])
            finally:
                for each in loading:
                    self._loading.remove(each)
                free(loads)

    def let_go(self) -> None:
        """Free what only measuring needed.

        Not as soon as that is done: a client sends at most every 10 ms, and the first visits would wait.
        """
        free(self._passing)

    def release(self) -> None:
        """Free everything on the workers."""
        self._blocks.release()
        self.let_go()

    def _sample(self) -> Sequence[int]:
        """Return the partitions to measure where each has to be loaded for it."""
        lengths = self._source.lengths
        if not self._samples or lengths is None or not any(lengths):
            return self._numbers
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
                try:
                    shared += await self._client.scatter(
                        [snapshot.state], workers=sorted(present.threads), hash=False
                    )
                except (KeyError, OSError) as error:  # one of them has just left
                    raise FutureCancelledError("the parameters to score", LOST) from error
                (state,) = shared
            futures += await self._blocks.submit(
                "score", tasks.score, self.kind, self._numbers, present, ref, plugin_name, state,
                priority=LOOK_PRIORITY,
            )  # fmt: skip
            return add_up(await fetch(self._client, futures))
        finally:
            free(futures)
            free(shared)


def _spread(lengths: Sequence[int], count: int) -> list[int]:
    """Return at most ``count`` partitions that are not empty, evenly spread."""
    filled = np.flatnonzero(lengths)
    places = np.linspace(0, len(filled) - 1, min(count, len(filled))).astype(int)
    return [int(number) for number in filled[places]]
