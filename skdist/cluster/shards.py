"""Shards of the parameters as Dask actors, and how the learners and the driver of a fit reach them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import numpy as np
from distributed import get_worker

from skdist.cluster.connection import Connection, ServerRef
from skdist.exceptions import ServerLostError
from skdist.messages import Answer, Join, Update
from skdist.parameters import Stage
from skdist.shards import Mark, Shard, Source, cut_update, joined_stage, slices

#: Calls a method of an actor, wherever it is.
Ask = Callable[..., Coroutine[Any, Any, Any]]


class ShardActor:
    """Owns a `Shard` of a fit on one worker; `begin` gives it its slice.

    All runs on the worker's event loop, which must not be held up by arithmetic.
    """

    def __init__(self) -> None:
        self._shard: Shard | None = None

    async def begin(self, coordinator: ServerRef, number: int, statistics: bool) -> None:
        """Get the slice of a number from the coordinator, which has all parameters at first.

        Parameters
        ----------
        coordinator : ServerRef
            With its shards.
        number : int
            Which of these this one is.
        statistics : bool
            As in `skdist.parameters.Values`.
        """
        stage: Stage = await asker_on(get_worker())(coordinator, "part", number, len(coordinator.shards))
        self._shard = Shard(stage, statistics)

    async def upload(self, source: Source, base: int, end: np.ndarray) -> None:
        """See `Shard.upload`."""
        self._begun().upload(source, base, end)

    async def fetch(self, mark: Mark) -> np.ndarray | None:
        """See `Shard.fetch`."""
        return await asyncio.to_thread(self._begun().fetch, mark)

    async def collect(self, mark: Mark, moving: bool) -> Stage:
        """Return a stage, with its velocity only where it is moving; see `Shard.collect`."""
        stage = await asyncio.to_thread(self._begun().collect, mark)
        return stage if moving else stage._replace(velocity=None)

    def _begun(self) -> Shard:
        if self._shard is None:
            raise ServerLostError("The shard of the parameters has not begun yet.")
        return self._shard


class ShardedConnection(Connection):
    """A server whose parameters are in shards, as the tasks on a worker see it.

    One visit uses it: the parameters of its answers are those that its next update began at.
    """

    def __init__(self, ref: ServerRef, worker: Any, gone: Future[None]) -> None:
        super().__init__(ref, worker, gone)
        self._ask = asker_on(worker)
        self._base = 0
        self._shape: tuple[int, ...] = ()
        self._brought: Source | None = None

    @property
    def is_local(self) -> bool:
        """Whether an exchange is a function call: never, as shards are elsewhere."""
        return False

    def join(self, join: Join, wants_model: bool = False) -> tuple[Answer, Any]:
        """See `Connection.join`."""
        reply: tuple[Answer, Any] = self.wait(self._start(self._joined(join, wants_model)))
        return reply

    def exchange(self, update: Update) -> Future[Answer | None]:
        """See `Connection.exchange`."""
        return self._start(self._exchanged(update))

    async def _joined(self, join: Join, wants_model: bool) -> tuple[Answer, Any]:
        answer, model = await self._ask(self._ref, "join", join, wants_model)
        return await self._completed(answer), model

    async def _exchanged(self, update: Update) -> Answer | None:
        source = Source.of(update)
        if source != self._brought:  # the same again, where its answer was held back
            await self._bring(source, update)
            self._brought = source
        answer: Answer | None = await self._ask(self._ref, "exchange", update._replace(state=None))
        if answer is None:
            return None
        if update.last:  # nothing is trained from it
            return answer
        return await self._completed(answer)

    async def _bring(self, source: Source, update: Update) -> None:
        state: Any = update.state
        shards, parts = self._ref.shards, slices(self._shape, len(self._ref.shards))

        async def bring(ref: ServerRef, columns: slice) -> None:
            end = await asyncio.to_thread(cut_update, state, columns, parts[-1].stop)
            await self._ask(ref, "upload", source, self._base, end)

        await asyncio.gather(*(bring(*each) for each in zip(shards, parts, strict=True)))

    async def _completed(self, answer: Answer) -> Answer:
        """Return an answer with the parameters; not accepted where the visit was taken away since."""
        mark: Mark = answer.state
        self._base, self._shape = answer.version, mark.shape
        if not answer.accepted:
            return answer
        shards = self._ref.shards
        state = np.empty(mark.shape, mark.dtype)
        flat = state.reshape(len(state), -1)

        async def fetch(ref: ServerRef, columns: slice) -> bool:
            part = await self._ask(ref, "fetch", mark)
            if part is not None:
                await asyncio.to_thread(np.copyto, flat[:, columns], part)
            return part is not None

        each = zip(shards, slices(mark.shape, len(shards)), strict=True)
        found = await asyncio.gather(*(fetch(ref, columns) for ref, columns in each))
        return answer._replace(state=state, accepted=all(found))


async def collected(stage: Stage, ref: ServerRef, ask: Ask, moving: bool) -> Stage:
    """Return a stage with its parameters, from the shards where these hold them.

    Parameters
    ----------
    stage : Stage
        Of the server.
    ref : ServerRef
        The server.
    ask : callable
        Calls a method of an actor: ``await ask(ref, method, *args)``.
    moving : bool
        Whether the velocity is wanted too.
    """
    if not isinstance(stage.state, Mark):
        return stage
    parts = await asyncio.gather(*(ask(shard, "collect", stage.state, moving) for shard in ref.shards))
    return await asyncio.to_thread(joined_stage, stage, parts)


def asker_on(worker: Any) -> Ask:
    """Return what calls methods of actors from a worker's event loop; those of its own without copies."""

    async def ask(ref: ServerRef, method: str, *args: Any) -> Any:
        if ref.address != worker.address:
            return await ref.call_from_worker(worker, method, *args)
        actor = worker.state.actors.get(ref.key)
        if actor is None:
            raise ServerLostError("The parameter server has left this worker.")
        result = getattr(actor, method)(*args)
        return await result if inspect.isawaitable(result) else result

    return ask
