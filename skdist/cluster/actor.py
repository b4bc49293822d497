"""The parameter server as a Dask actor."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

import numpy as np
from distributed import get_worker

from skdist.backup import Backup
from skdist.cluster.deposit import leave
from skdist.cluster.line import take
from skdist.cluster.mailbox import Mailbox, most_shared, size_of
from skdist.cluster.thin import Thin, filled
from skdist.exceptions import NotBegunError, ServerLostError
from skdist.fitting import FitSettings, build_server
from skdist.journal import Outcome
from skdist.messages import Answer, Join, Snapshot, Update
from skdist.parameters import Stage
from skdist.progress import Progress
from skdist.server import ParameterServer
from skdist.shards import cut_stage, n_shards

#: An answer that the gate holds back is waited for this long in one call.
HOLD_SECONDS = 5.0

#: Models up to this size are dealt with on the event loop: handing them to a thread takes longer.
LOOP_BYTES = 1 << 16


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
        self._sharing = threading.RLock()  # learners attach theirs in threads of their own
        self._worker: Any = None  # on which it is; known once a learner has joined through Dask

    def begin(
        self, model: Any, classes: Any, settings: FitSettings, state: np.ndarray | Thin, n_rows: int,
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
        state = filled(state)
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
        with self._sharing:
            self._mailboxes.pop(learner, None)
            self._drop_abandoned()
            if size_of(nbytes) > self._unshared():
                return False
            mailbox = Mailbox.attach(path, nbytes)
            if mailbox is not None:
                self._mailboxes[learner] = mailbox
            return mailbox is not None

    def _drop_abandoned(self) -> None:
        with self._sharing:
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
        self._worker = get_worker()
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

    def finish(self, rounds: int = 0, path: str = "") -> Outcome:
        """See `ParameterServer.finish`; the rounds that the driver has are left out.

        ``path`` is that of a `skdist.cluster.deposit.Deposit`.
        """
        outcome = self._served().finish()
        return outcome._replace(rounds=outcome.rounds[rounds:], state=self._left(outcome.state, path))

    def progress(self) -> Progress:
        """See `ParameterServer.progress`."""
        return self._served().progress()

    def snapshot(self, epoch: int, path: str = "") -> Snapshot:
        """See `ParameterServer.snapshot`; ``path`` as for `finish`."""
        snapshot = self._served().snapshot(epoch)
        return snapshot._replace(state=self._left(snapshot.state, path))

    def _left(self, state: Any, path: str) -> Any:
        return leave(path, state, self._unshared()) if path else state

    def _unshared(self) -> float:
        """Return the bytes that may still be shared."""
        with self._sharing:
            shared = sum([known.size for known in self._mailboxes.values()])
        return most_shared(self._worker or get_worker()) - shared

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
            raise NotBegunError("The parameter server has no model yet.")
        return self._server


def _sent(update: Update, reply: Answer | Future[Answer]) -> Answer | None:
    """Return an answer as it is sent, if there is one: nothing is trained from that to the last update."""
    if isinstance(reply, Future):
        return None
    return reply._replace(state=None) if update.last else reply
