"""The parameter server as a Dask actor, and the reference by which visits reach it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from distributed import Client
from distributed.protocol import to_serialize

from skdist.exceptions import ServerLostError
from skdist.fitting import FitSettings, build_server
from skdist.journal import Outcome
from skdist.messages import Answer, Join, Snapshot, Update
from skdist.server import ParameterServer

#: An answer that the gate holds back is waited for this long in one call.
HOLD_SECONDS = 5.0

#: Models up to this size are dealt with on the event loop: handing them to a thread takes longer.
LOOP_BYTES = 1 << 16

#: An exchange that takes longer has lost its server. Dask lets calls that never reach an actor hang.
EXCHANGE_SECONDS = 30.0


class ServerActor:
    """Owns the `ParameterServer` of a fit on one worker.

    It is created before it is known what will be trained, so that its start costs no time; `begin`
    gives it the model.
    """

    def __init__(self) -> None:
        self._server: ParameterServer | None = None
        self._model: Any = None
        self._classes: Any = None

    def begin(
        self, model: Any, classes: Any, settings: FitSettings, state: np.ndarray, n_rows: int,
        n_learners: int, clock: float,
    ) -> None:  # fmt: skip
        """Make the server; parameters as in `skdist.fitting.build_server`."""
        self._model, self._classes = model, classes
        self._server = build_server(model, settings, state, n_rows, n_learners, clock)

    @property
    def begun(self) -> bool:
        """Whether `begin` was called."""
        return self._server is not None

    def model(self) -> tuple[Any, Any]:
        """Return the model and the classes; each worker asks once."""
        return self._model, self._classes

    def join(self, join: Join) -> Answer:
        """See `ParameterServer.join`."""
        return self._served().join(join)

    def push(self, update: Update) -> Answer | Future[Answer]:
        """See `ParameterServer.push`; for learners on this worker."""
        return self._served().push(update)

    async def exchange(self, update: Update) -> Answer | None:
        """Push an update and return the answer when the gate lets it go.

        Runs on the worker's event loop, which must not be held up by arithmetic.

        Returns
        -------
        Answer or None
            None after `HOLD_SECONDS`: the learner asks again with the same update.
        """
        server = self._served()
        if update.state.nbytes < LOOP_BYTES:
            reply = server.push(update)
        else:
            reply = await asyncio.to_thread(server.push, update)
        until = time.monotonic() + HOLD_SECONDS
        while isinstance(reply, Future) and time.monotonic() < until:
            waiting = asyncio.wrap_future(reply)
            try:
                return await asyncio.wait_for(asyncio.shield(waiting), server.patience())
            except TimeoutError:
                if update.state.nbytes < LOOP_BYTES:
                    server.expire()
                else:  # it may have to make a version
                    await asyncio.to_thread(server.expire)
        return None if isinstance(reply, Future) else reply

    def patience(self) -> float:
        """See `ParameterServer.patience`."""
        return self._served().patience()

    def expire(self) -> None:
        """See `ParameterServer.expire`."""
        self._served().expire()

    def retire(self, visit: int) -> int:
        """See `ParameterServer.retire`."""
        return self._served().retire(visit)

    def leave(self, visit: int, attempt: str) -> int:
        """See `ParameterServer.leave`."""
        return self._served().leave(visit, attempt)

    def finish(self) -> Outcome:
        """See `ParameterServer.finish`."""
        return self._served().finish()

    def progress(self) -> tuple[int, float, int]:
        """See `ParameterServer.progress`."""
        return self._served().progress()

    def snapshot(self, epoch: int) -> Snapshot:
        """See `ParameterServer.snapshot`."""
        return self._served().snapshot(epoch)

    def stop(self) -> int:
        """See `ParameterServer.stop`."""
        return self._served().stop()

    def seconds(self) -> float:
        """Return the time of the history: seconds since training began."""
        return self._served().seconds()

    def abort(self) -> None:
        """Refuse all updates from now on, so that visits under way end with their round."""
        if self._server is not None:
            self._server.abort()

    def _served(self) -> ParameterServer:
        if self._server is None:
            raise ServerLostError("The parameter server has no model yet.")
        return self._server


@dataclass(frozen=True)
class ServerRef:
    """How a visit reaches the server.

    An ``Actor`` given to a task would be a dependency of it: with the actor's worker all visits would
    fail at once, on healthy workers too. This is opaque to Dask.

    Attributes
    ----------
    address : str
        Of the actor's worker.
    key : str
        Of the actor.
    """

    address: str
    key: str

    def is_local(self, worker: Any) -> bool:
        """Return whether the actor lives in this worker: a call is then a function call."""
        return bool(worker.address == self.address)

    def post(self, worker: Any, method: str, *args: Any) -> Future[Any]:
        """Start a call from a task's thread and return its future."""
        return asyncio.run_coroutine_threadsafe(self._execute(worker, method, args), worker.loop.asyncio_loop)

    def call(self, worker: Any, method: str, *args: Any) -> Any:
        """Call a method and return its result.

        Raises
        ------
        ServerLostError
            Where the server is gone or does not answer in time.
        """
        if self.is_local(worker):
            actor = worker.state.actors.get(self.key)
            if actor is None:
                raise ServerLostError("The parameter server has left this worker.")
            return getattr(actor, method)(*args)
        return self.wait(self.post(worker, method, *args))

    def wait(self, future: Future[Any]) -> Any:
        """Return the result of a call that was posted; raises as `call`."""
        try:
            return future.result(EXCHANGE_SECONDS)
        except TimeoutError:
            future.cancel()
            raise ServerLostError(
                f"The parameter server on {self.address} did not answer within {EXCHANGE_SECONDS:.0f} s."
            ) from None
        except OSError as error:
            raise ServerLostError(
                f"The parameter server on {self.address} cannot be reached: {error}"
            ) from error

    async def _execute(self, worker: Any, method: str, args: tuple[Any, ...]) -> Any:
        return _result(await _known(worker.rpc(self.address).actor_execute(**self._message(method, args))))

    async def call_from_driver(self, client: Client, method: str, *args: Any) -> Any:
        """Call a method through the scheduler, as the workers may be out of the driver's reach."""
        message = {"op": "actor_execute", **self._message(method, args)}
        return _result(await _known(client.scheduler.proxy(worker=self.address, msg=message)))

    def _message(self, method: str, args: tuple[Any, ...]) -> dict[str, Any]:
        """Return what `distributed.Actor` sends; that class would bind itself to the default client."""
        wrapped = [to_serialize(arg) for arg in args]
        return {"function": method, "actor": self.key, "args": wrapped, "kwargs": {}}


async def _known(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except KeyError as error:  # Dask looks the actor up before it catches anything
        raise ServerLostError(f"The worker does not hold the parameter server any more: {error}") from error


def _result(reply: dict[str, Any]) -> Any:
    if reply["status"] != "OK":
        raise reply["exception"]
    return reply["result"]
