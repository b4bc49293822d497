"""Calls to the parameter server: where it is, how workers and the driver reach it, and when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for_any
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from distributed import Client
from distributed.protocol import to_serialize

from skdist.exceptions import ServerLostError
from skdist.messages import Answer, Join, Update

T = TypeVar("T")

#: An exchange that takes longer has lost its server. Dask lets calls that never reach an actor hang.
EXCHANGE_SECONDS = 30.0


@dataclass(frozen=True)
class ServerRef:
    """Which server a visit trains with, and where it is.

    An ``Actor`` given to a task would be a dependency of it: with the actor's worker all visits would
    fail at once, on healthy workers too. This is opaque to Dask.

    Attributes
    ----------
    address : str
        Of the actor's worker.
    key : str
        Of the actor. That of each incarnation is another one, so that what is sent to one that was replaced
        never reaches the next.
    incarnation : int
        0 for the first server of a fit; a higher one replaces all lower ones.
    shards : tuple of ServerRef
        Who hold the parameters; none where the server itself does.
    """

    address: str
    key: str
    incarnation: int = 0
    shards: tuple[ServerRef, ...] = ()

    async def call_from_worker(self, worker: Any, method: str, *args: Any) -> Any:
        """Call a method from the event loop of another worker."""
        return _result(await _known(worker.rpc(self.address).actor_execute(**self._message(method, args))))

    async def call_from_driver(self, client: Client, method: str, *args: Any) -> Any:
        """Call a method through the scheduler, as the workers may be out of the driver's reach."""
        message = {"op": "actor_execute", **self._message(method, args)}
        return _result(await _known(client.scheduler.proxy(worker=self.address, msg=message)))

    def _message(self, method: str, args: tuple[Any, ...]) -> dict[str, Any]:
        """Return what `distributed.Actor` sends; that class would bind itself to the default client."""
        wrapped = [to_serialize(arg) for arg in args]
        return {"function": method, "actor": self.key, "args": wrapped, "kwargs": {}}


class Connection:
    """The server as the tasks on a worker see it.

    Parameters
    ----------
    ref : ServerRef
        The server.
    worker : Worker
        This one.
    gone : Future
        Done as soon as it is known that the server was replaced.
    """

    def __init__(self, ref: ServerRef, worker: Any, gone: Future[None]) -> None:
        self._ref, self._worker, self._gone = ref, worker, gone

    @property
    def is_local(self) -> bool:
        """Whether an exchange is a function call: the actor lives in this worker."""
        return bool(self._worker.address == self._ref.address)

    @property
    def incarnation(self) -> int:
        """Which server of the fit it is."""
        return self._ref.incarnation

    def join(self, join: Join, wants_model: bool = False) -> tuple[Answer, Any]:
        """Join a visit, as `ServerActor.join`; raises as `call`."""
        reply: tuple[Answer, Any] = self.call("join", join, wants_model)
        return reply

    def leave(self, visit: int, attempt: str) -> None:
        """Say that an execution of a visit has ended, without waiting until the server knows.

        If that is lost, the visit falls silent, and the driver takes it away. A server that was replaced need
        not know.
        """
        if self.is_local:
            with contextlib.suppress(ServerLostError):
                self.call("leave", visit, attempt)
        elif not self._gone.done():
            self.post("leave", visit, attempt)

    def draft(self, state: np.ndarray) -> np.ndarray | None:
        """Return a copy of a state where it will be sent from, if there is such a place."""
        return None

    def exchange(self, update: Update) -> Future[Answer | None]:
        """Start to push an update; the result is that of `ServerActor.exchange`."""
        return self.post("exchange", update)

    def post(self, method: str, *args: Any) -> Future[Any]:
        """Start a call from a task's thread and return its future."""
        return self._start(self._ref.call_from_worker(self._worker, method, *args))

    def _start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._worker.loop.asyncio_loop)

    def call(self, method: str, *args: Any) -> Any:
        """Call a method and return its result.

        Raises
        ------
        ServerLostError
            Where the server is gone, was replaced or does not answer in time.
        """
        if self._gone.done():
            raise ServerLostError(f"The parameter server on {self._ref.address} was replaced.")
        if self.is_local:
            actor = self._worker.state.actors.get(self._ref.key)
            if actor is None:
                raise ServerLostError("The parameter server has left this worker.")
            return getattr(actor, method)(*args)
        return self.wait(self.post(method, *args))

    def wait(self, future: Future[Any]) -> Any:
        """Return the result of a call that was posted; raises as `call`."""
        wait_for_any([future, self._gone], EXCHANGE_SECONDS, return_when=FIRST_COMPLETED)
        if not future.done():
            future.cancel()
            why = "was replaced" if self._gone.done() else f"did not answer within {EXCHANGE_SECONDS:.0f} s"
            raise ServerLostError(f"The parameter server on {self._ref.address} {why}.")
        try:
            return future.result()
        except OSError as error:
            raise ServerLostError(
                f"The parameter server on {self._ref.address} cannot be reached: {error}"
            ) from error


async def _known(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except KeyError as error:  # Dask looks the actor up before it catches anything
        raise ServerLostError(f"The worker does not hold the parameter server any more: {error}") from error
    except RuntimeError as error:  # of the connections of a worker that closes
        raise ServerLostError(f"The parameter server cannot be reached any more: {error}") from error


def _result(reply: dict[str, Any]) -> Any:
    if reply["status"] != "OK":
        error = reply["exception"]
        if type(error) is RuntimeError and "after shutdown" in str(error):  # of the threads of such a worker
            raise ServerLostError(f"The worker of the parameter server closes: {error}") from error
        raise error
    return reply["result"]
