"""Blocks of rows on the workers: made, worked on where they are, found lost and made again, freed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import dask
from dask.optimization import cull
from distributed import Client
from distributed.client import FutureCancelledError

from skdist.cluster import tasks
from skdist.cluster.fetch import LOST, fetch, refuse_cancelled, settle
from skdist.cluster.held import Held, Named, argument, futures_of_block
from skdist.cluster.membership import Present
from skdist.cluster.source import Source, delayed_call
from skdist.exceptions import DataLostError

logger = logging.getLogger("skdist")

#: How often partitions are measured, and how often one is made again, before it counts as lost for good.
MOST_TRIES = 3

#: A partition is sent to a worker within so many seconds, or to another one.
SENDING_SECONDS = 30.0

#: Part of the error then.
PERSIST_AGAIN = "Persist the collection again, or pass a lazy one, whose partitions Dask can load again."


class Blocks:
    """The blocks of a source on the workers, a partition each; they are converted once, or for each use.

    Parameters
    ----------
    client : Client
        Of the cluster.
    source : Source
        The rows.
    token : str
        Unique; part of the keys.

    Attributes
    ----------
    all : list of Future, Held or Delayed
        By number; Delayed where each use loads and converts its own.
    """

    def __init__(self, client: Client, source: Source, token: str) -> None:
        self._client, self._source, self._token = client, source, token
        self.all: list[Any] = []
        self._tries: Counter[int] = Counter()  # to make a partition again
        self._generation = 0  # part of the keys: Dask may still know what was lost
        self._calls = 0  # part of the keys of tasks over blocks
        self._upstream: dict[int, set[Any]] = {}  # keys of what lazy partitions are made from
        self._moves: Counter[int] = Counter()  # of partitions away from workers that are silent
        self._only_on: dict[int, frozenset[str]] = {}  # workers that may make a partition again
        self._holders: dict[int, set[str]] = {}  # workers that held them when we last knew

    @property
    def lazy(self) -> bool:
        """Whether each use makes its own."""
        return any(dask.is_dask_collection(block) for block in self.all)

    async def make(self, kind: tasks.Kind, present: Present) -> list[Any]:
        """Make all of them, lazy ones as Delayed; may be begun again, with other workers.

        Returns what was sent, which nobody needs once they are made.
        """
        if self.all:
            self.release()
            self._generation += 1
            # Dask releases futures in the next turn of the loop. What leads to them, the user's own tasks, is
            # to be forgotten before it is asked for again, or it stays on the worker where it was to run.
            await asyncio.sleep(0)
        numbers, sent = range(len(self._source.parts)), []
        if self._source.held:
            self.all = [Held(part) for part in self._source.parts]
        elif self._source.lazy:
            self.all = [self._recipe(kind, number) for number in numbers]
        else:
            sent = await self._client.scatter(
                list(self._source.parts), workers=sorted(present.threads), hash=False
            )
            where = anywhere(present)
            self.all = [self._converted(kind, number, sent[number], where) for number in numbers]
        return sent

    def _recipe(self, kind: tasks.Kind, number: int) -> Any:
        return delayed_call(tasks.prepare, self._key(number), kind, number, *self._source.parts[number])

    def _converted(self, kind: tasks.Kind, number: int, sent: Any, where: Mapping[str, Any]) -> Any:
        key = self._key(number)
        return self._client.submit(tasks.prepare_slice, kind, number, sent, key=key, pure=False, **where)

    def _key(self, number: int) -> tuple[str, int]:
        again = f"-{self._generation}" if self._generation else ""
        return (f"skdist-partition-{self._token}{again}", number)

    def load(self, numbers: Sequence[int], **options: Any) -> list[Any]:
        """Return futures of blocks that are lazy; options as of `distributed.Client.compute`."""
        return self._compute([self.all[number] for number in numbers], **options)

    def loaded(self, numbers: Sequence[int]) -> None:
        """Take in that some that are lazy were loaded: the next time, they may be moved as often again."""
        for number in numbers:
            self._moves.pop(number, None)

    def hold(self, present: Present) -> None:
        """Make those that are lazy once and for all."""
        self.all = self._compute(self.all, **anywhere(present))

    def arguments(self, numbers: Sequence[int]) -> list[Any]:
        """Return what to give to a task for some of them."""
        return [argument(self.all[number]) for number in numbers]

    def named(self, numbers: Sequence[int], worker: str) -> Named | None:
        """Return the names of some of them for a task on a worker; None where it may not hold them all."""
        if not all(worker in self._holders.get(number, ()) for number in numbers):
            return None
        return Named.of([self.all[number] for number in numbers])

    def holds(self, worker: str, numbers: Sequence[int]) -> None:
        """Take in that a worker holds some of them: a task there has had them for its input."""
        for number in numbers:
            self._holders.setdefault(number, set()).add(worker)

    def lacks(self, worker: str, numbers: Sequence[int]) -> None:
        """Take in that a worker does not hold all of some any more."""
        for number in numbers:
            self._holders.get(number, set()).discard(worker)

    async def lost(self, present: Present, loading: Collection[int] = ()) -> list[int]:
        """Return the partitions that are lost, or that only workers hold, or are to make, which are silent.

        Dask makes again what it can; it has forgotten what was sent from the driver, and all that was there
        when the workers were restarted.

        Parameters
        ----------
        present : Present
            Workers; nothing can be fetched from those that are silent.
        loading : collection of int
            Those that are being loaded, where each use does so.

        Raises
        ------
        FitCancelledError
            Where somebody has cancelled one.
        """
        silent = present.silent
        if not silent:
            self._moves.clear()
        if self.lazy:
            return await self._stuck(silent, loading)
        for number in [number for number in self._tries if self.all[number].status == "finished"]:
            del self._tries[number]
        # What is the user's own and lost with a worker, Dask makes again by itself.
        gone = ("cancelled",) if self._source.held else ("cancelled", "lost")
        found = [n for n, block in enumerate(self.all) if block.status in gone]
        for number in found:
            self._refuse_cancelled(number)
        if silent and not self._source.held:
            held = await self._client.scheduler.who_has(keys=[block.key for block in self.all])
            found += [
                n for n, block in enumerate(self.all)
                if n not in found and held.get(block.key) and set(held[block.key]) <= set(silent)
            ]  # fmt: skip
            pending = [n for n, block in enumerate(self.all) if block.status == "pending"]
            found += [n for n in await self._stuck(silent, pending) if n not in found]
        # Those who alone were to make it have left.
        left = [n for n, names in self._only_on.items() if names.isdisjoint(present.threads)]
        return found + [n for n in left if n not in found and self.all[n].status == "pending"]

    def _refuse_cancelled(self, number: int) -> None:
        for future in futures_of_block(self.all[number]):
            if future.status == "cancelled":
                refuse_cancelled(future._state.exception)

    async def _stuck(self, silent: Collection[str], waiting: Collection[int]) -> list[int]:
        """Return those of some partitions that workers are to make which are silent: Dask leaves them there.

        Each a few times: who makes it may look silent for that, or somebody else want what it is made from.
        """
        movable = [number for number in waiting if self._moves[number] < MOST_TRIES]
        if not silent or not movable:
            return []
        processing = await self._client.scheduler.processing(workers=None)
        stuck = {key for name in silent for key in processing.get(name, ())}
        found = [number for number in movable if not stuck.isdisjoint(self._leading_to(number))]
        self._moves.update(found)
        return found

    def _leading_to(self, number: int) -> set[Any]:
        """Return the keys of a partition and of all that it is made from, if it is not the driver's."""
        if self._source.lazy and number not in self._upstream:
            parts = [part for part in self._source.parts[number] if dask.is_dask_collection(part)]
            self._upstream[number] = {key for part in parts for key in cull(dict(part.dask), [part.key])[0]}
        return self._upstream.get(number, set()) | {self.all[number].key}

    async def make_again(self, kind: tasks.Kind, numbers: Sequence[int], present: Present) -> dict[int, str]:
        """Make partitions again that are lost; of those that each use makes, the next one does.

        Parameters
        ----------
        kind : Kind
            Of the partitions.
        numbers : sequence of int
            Which; no visit waits for them.
        present : Present
            Workers, who may hold them now.

        Returns
        -------
        dict of int to str
            The worker that each goes to.

        Raises
        ------
        DataLostError
            Where they come from persisted data that is gone.
        """
        workers = list(present.threads)
        if not numbers or not workers or self.lazy:
            return {}
        for number in numbers:
            # One that is not there yet was not lost.
            if self.all[number].status != "pending":
                self._tries[number] += 1
            if self._source.held or self._tries[number] > MOST_TRIES:
                raise DataLostError(
                    f"{kind.name} {number} was lost and cannot be made again. {PERSIST_AGAIN}"
                )
        # Dask must forget what leads to them, or it does that again where it did it before.
        await self._client.cancel([self.all[number] for number in numbers], force=True, reason=LOST)
        self._generation += 1
        homes: dict[int, str] = {}
        for place, number in enumerate(numbers):
            home = workers[place % len(workers)]
            try:
                made = await asyncio.wait_for(self._make_again(kind, number, home, present), SENDING_SECONDS)
            except (FutureCancelledError, KeyError, OSError) as error:  # its new worker is gone, too
                logger.info("%s %d is not on %s yet: %r.", kind.name, number, home, error)
            else:
                self.all[number].release()
                self.all[number], homes[number] = made, home
                self._holders.pop(number, None)
                self._only_on.pop(number, None)
                if present.silent:
                    self._only_on[number] = frozenset(present.threads)
        logger.info("%d of %d partitions are made again.", len(homes), len(self.all))
        return homes

    async def _make_again(self, kind: tasks.Kind, number: int, home: str, present: Present) -> Any:
        """Return the future of a partition that is made once more."""
        where = near(home, present)
        if self._source.lazy:
            return self._compute([self._recipe(kind, number)], **where)[0]
        (sent,) = await self._client.scatter([self._source.parts[number]], workers=[home], hash=False)
        made = self._converted(kind, number, sent, where)
        made.add_done_callback(lambda _: sent.release())
        return made

    async def submit(
        self, name: str, call: Any, kind: tasks.Kind, numbers: Sequence[int], present: Present, *shared: Any,
        priority: int = 0, by_name: bool = False,
    ) -> list[Any]:  # fmt: skip
        """Start tasks over blocks, where these are: ``call(kind, numbers, *shared, *blocks)``.

        One for each thread, over all blocks, as for Dask a task costs more than reading a few megabytes; one
        for each of the numbers where blocks are loaded for it.

        ``by_name`` gives tasks the names of the blocks instead: the result is None where a worker does not
        hold them.
        """
        self._calls += 1
        prefix = f"skdist-{name}-{self._token}-{self._calls}"
        if self.lazy:
            lazy = [delayed_call(call, (prefix, n), kind, [n], *shared, self.all[n]) for n in numbers]
            return self._compute(lazy, priority=priority, **anywhere(present))
        futures = []
        for together, home in await self._placed(present.threads):
            sure = by_name and home in present.threads and not present.silent  # that it runs there
            named = self.named(together, home) if sure else None
            if named is None:
                work = call, kind, together, *shared, *self.arguments(together)
            else:
                work = tasks.where_held, call, named, kind, together, *shared
            futures.append(
                self._client.submit(
                    *work, key=(prefix, together[0]), pure=False, priority=priority, **near(home, present)
                )
            )
        return futures

    async def _placed(self, workers: dict[str, int]) -> list[tuple[list[int], str]]:
        """Return the numbers of the blocks, in a list for each thread, and the worker that holds them."""
        await settle([future for block in self.all for future in futures_of_block(block)])
        keys = [future.key for block in self.all for future in futures_of_block(block)]
        held = await self._client.scheduler.who_has(keys=keys)
        homes: dict[str, list[int]] = {}
        for number, block in enumerate(self.all):
            if block.status == "error":
                await fetch(self._client, futures_of_block(block))  # raises what went wrong
            self._refuse_cancelled(number)
            holders = [held.get(future.key) or () for future in futures_of_block(block)]
            self._holders[number] = set(holders[0]).intersection(*holders)
            # Where several hold it, the one that has least to do.
            home = min(
                sorted(self._holders[number]) or holders[0] or [""],
                key=lambda name: (name not in workers, len(homes.get(name, ())) / workers.get(name, 1)),
            )
            homes.setdefault(home, []).append(number)
        return [
            (numbers, home)
            for home, together in homes.items()
            for numbers in _shared_out(together, workers.get(home, 1))
        ]

    def release(self) -> None:
        """Free all of them on the workers."""
        free(self.all)

    def _compute(self, lazy: Sequence[Any], **options: Any) -> list[Any]:
        futures: list[Any] = self._client.compute(list(lazy), optimize_graph=False, **options)
        return futures


def anywhere(present: Present) -> dict[str, Any]:
    """Return where Dask may run what may run anywhere: not on workers that are silent."""
    return {"workers": sorted(present.threads)} if present.silent else {}


def near(home: str, present: Present) -> dict[str, Any]:
    """Return where Dask may run what is best run on one worker.

    It lets other workers steal what may run there too; one that is silent looks idle, and would keep it.
    """
    if home not in present.threads or present.silent:
        return anywhere(present)
    return {"workers": [home], "allow_other_workers": True}


def _shared_out(numbers: Sequence[int], parts: int) -> list[list[int]]:
    """Return the numbers in at most ``parts`` lists of about the same length."""
    return [list(numbers[first::parts]) for first in range(min(parts, len(numbers)))]


def free(futures: list[Any]) -> None:
    """Release futures now.

    Not left to the garbage collector: the traceback of an error keeps what its frames held.
    """
    for future in futures:
        if hasattr(future, "release"):
            future.release()
    futures.clear()
