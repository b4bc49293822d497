"""The parameter server as a Dask actor, and how it is reached."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Collection, Coroutine
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for_any
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from distributed import Client, get_worker
from distributed.protocol import to_serialize

from skdist.backup import Backup
from skdist.cluster.line import take
from skdist.cluster.mailbox import Mailbox, most_shared, size_of
from skdist.exceptions import ServerLostError
from skdist.fitting import FitSettings, build_server
from skdist.journal import Outcome
from skdist.messages import Answer, Join, Snapshot, Update
from skdist.parameters import Stage
from skdist.progress import Progress
from skdist.server import ParameterServer
from skdist.shards import cut_stage, n_shards

T = TypeVar("T")

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
        self._handed_over: Backup | None = None
        self._whole: Stage | None = None
        self._taken: set[int] = set()
        self._model: Any = None
        self._classes: Any = None
        self._mailboxes: dict[str, Mailbox] = {}  # by learner

    def begin(
        self, model: Any, classes: Any, settings: FitSettings, state: np.ndarray, n_rows: int,
        n_learners: int, clock: float, backup: Backup | None = None, plugin_name: str = "",
        number: int = 0,
    ) -> None:  # fmt: skip
        """Make the server; parameters as in `skdist.fitting.build_server`.

        Shards get the parameters from here, by `part`.

        A backup without parameters is that of the number which the plugin of this name keeps on this worker.

        Raises
        ------
        LookupError
            Where it does not keep it.
        """
        self._model, self._classes = model, classes
        if backup is not None and backup.stage is None:
            backup = get_worker().plugins[plugin_name].backups[number]
        sharded = n_shards(settings.n_servers, state) > 0
        self._server = build_server(
            model, settings, state, n_rows, n_learners, clock, backup=backup, sharded=sharded
        )
        if sharded:
            stage = None if backup is None else backup.stage
            self._whole = Stage(state, None, 0, clock) if stage is None else stage

    async def part(self, number: int, count: int) -> Stage:
        """Return what shard ``number`` of ``count`` begins with; once all have it, nothing is kept here."""
        if self._whole is None:
            raise ServerLostError("The parameter server has no parameters for shards any more.")
        part = await asyncio.to_thread(cut_stage, self._whole, number, count)
        self._taken.add(number)
        if len(self._taken) == count:
            self._whole = None
        return part

    @property
    def begun(self) -> bool:
        """Whether `begin` was called."""
        return self._server is not None

    def model(self) -> tuple[Any, Any]:
        """Return the model and the classes."""
        return self._model, self._classes

    def attach(self, learner: str, path: str, nbytes: int) -> bool:
        """Share memory with a learner; return whether that is possible."""
        self._mailboxes.pop(learner, None)
        self._drop_abandoned()
        shared = sum([known.size for known in self._mailboxes.values()])
        if shared + size_of(nbytes) > most_shared(get_worker()):
            return False
        mailbox = Mailbox.attach(path, nbytes)
        if mailbox is not None:
            self._mailboxes[learner] = mailbox
        return mailbox is not None

    def _drop_abandoned(self) -> None:
        for name in [name for name, known in self._mailboxes.items() if known.abandoned]:
            del self._mailboxes[name]

    def join(self, join: Join, wants_model: bool = False, mailed: bool = False) -> tuple[Answer, Any]:
        """Let a learner join; see `ParameterServer.join`.

        Parameters
        ----------
        join : Join
            As there.
        wants_model : bool
            Whether its worker does not know yet what is trained.
        mailed : bool
            Whether it knows of its mailbox.

        Returns
        -------
        tuple
            The answer, and what `model` returns or None.
        """
        answer = self._served().join(join)
        mailbox = self._mailboxes.get(join.learner) if mailed else None
        answer = answer if mailbox is None else mailbox.answers.enclose(answer)
        return answer, self.model() if wants_model else None

    def join_from(self, path: str, join: Join, wants_model: bool = False) -> tuple[Answer, Any, bool]:
        """Let a learner join as `join`, and take its offer of a line, if it is on this machine.

        The last item returned says whether it is.
        """
        return *self.join(join, wants_model), take(path, self)

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
        small = server.nbytes < LOOP_BYTES
        if small:
            reply = server.push(update)
        else:
            reply = await asyncio.to_thread(server.push, update)
        until = time.monotonic() + HOLD_SECONDS
        while isinstance(reply, Future) and time.monotonic() < until:
            waiting = asyncio.wrap_future(reply)
            try:
                reply = await asyncio.wait_for(asyncio.shield(waiting), server.patience())
            except TimeoutError:
                if small:
                    server.expire()
                else:  # it may have to make a version
                    await asyncio.to_thread(server.expire)
        return _sent(update, reply)

    def exchange_in_turn(self, update: Update, learner: str = "") -> Answer | None:
        """Return the same as `exchange`, in a thread in which it may wait.

        Parameters
        ----------
        update : Update
            As for `push`; its state may be in a mailbox.
        learner : str
            Who sends it, where the states may come through its mailbox.
        """
        server, mailbox = self._served(), self._mailboxes.get(learner)
        if learner and mailbox is None:  # its process is gone, and this was still under way
            raise ServerLostError(f"The parameter server shares no memory with {learner} any more.")
        reply = server.push(update if mailbox is None else mailbox.updates.open(update))
        until = time.monotonic() + HOLD_SECONDS
        while isinstance(reply, Future) and time.monotonic() < until:
            try:
                reply = reply.result(server.patience())
            except TimeoutError:
                server.expire()
        answer = _sent(update, reply)
        return answer if mailbox is None or answer is None else mailbox.answers.enclose(answer)

    def patience(self) -> float:
        """See `ParameterServer.patience`."""
        return self._served().patience()

    def expire(self) -> None:
        """See `ParameterServer.expire`."""
        self._served().expire()

    def retire(self, visit: int) -> int:
        """See `ParameterServer.retire`."""
        return self._served().retire(visit)

    def leave(self, visit: int, attempt: str) -> None:
        """See `ParameterServer.leave`."""
        self._served().leave(visit, attempt)

    def back_up(self, visits: Collection[int], newest: int, rounds: int) -> Backup:
        """See `ParameterServer.back_up`."""
        self._drop_abandoned()
        return self._served().back_up(visits, newest, rounds)

    def hand_over(self, visits: Collection[int], newest: int, rounds: int) -> Backup:
        """Return a backup, and refuse all updates from then on; who asks again gets the same one."""
        if self._handed_over is None:
            server = self._served()
            self._handed_over = server.back_up(visits, newest, rounds)
            server.abort()
        return self._handed_over

    def finish(self, rounds: int = 0) -> Outcome:
        """See `ParameterServer.finish`; the rounds that the driver has are left out."""
        outcome = self._served().finish()
        return outcome._replace(rounds=outcome.rounds[rounds:])

    def progress(self) -> Progress:
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


def _sent(update: Update, reply: Answer | Future[Answer]) -> Answer | None:
    """Return an answer as it is sent, if there is one: nothing is trained from that to the last update."""
    if isinstance(reply, Future):
        return None
    return reply._replace(state=None) if update.last else reply


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
