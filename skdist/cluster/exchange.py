"""An update on its way to the server and back, and the thread that waits for it."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import Future, wait

from distributed import secede

from skdist.cluster.actor import Connection
from skdist.cluster.mailbox import Mailbox
from skdist.messages import Answer, Join, Update

logger = logging.getLogger("skdist")

#: Smaller states are sent: what a message takes does not depend on their size.
LEAST_BYTES = 1 << 20

#: A visit that has waited this long for others gives its thread to the worker's other tasks, in seconds.
SECEDE_SECONDS = 0.1


class Mailboxes:
    """The mailboxes of the learners on a worker, one for each learner and server.

    There is none where the server is on another machine or its parameters are in shards, or where the system
    does not let processes share memory.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Mailbox | None]] = {}

    def known(self, learner: str, server: Connection) -> Mailbox | None:
        """Return the mailbox of a learner and a server, if they have one already."""
        incarnation, mailbox = self._known.get(learner, (server.incarnation, None))
        return mailbox if incarnation == server.incarnation else None

    def make(self, learner: str, server: Connection, nbytes: int) -> Mailbox | None:
        """Return the mailbox of a learner and a server for states of a size; tried once."""
        if server.is_local or server.is_sharded or nbytes < LEAST_BYTES:
            return None
        if self._known.get(learner, (-1, None))[0] != server.incarnation:
            self._known[learner] = server.incarnation, self._made(learner, server, nbytes)
        return self._known[learner][1]

    def _made(self, learner: str, server: Connection, nbytes: int) -> Mailbox | None:
        try:
            path, mailbox = Mailbox.create(nbytes)
        except OSError as error:
            logger.info("States are sent, as no memory can be shared: %s.", error)
            return None
        try:
            return mailbox if server.call("attach", learner, path, nbytes) else None
        finally:
            os.unlink(path)

    def clear(self) -> None:
        """Forget all of them."""
        self._known.clear()


def join(server: Connection, message: Join, mailbox: Mailbox | None) -> Answer:
    """Join a visit; the answer may come through a mailbox."""
    answer = server.join(message, mailbox is not None)
    return answer if mailbox is None else mailbox.answers.open(answer)


class Exchange:
    """An update on its way to the server and back, and how long that took.

    Parameters
    ----------
    server : Connection
        The server.
    update : Update
        What to send.
    learner : str
        Who sends it.
    mailbox : Mailbox or None
        Of the learner and the server.
    """

    def __init__(
        self, server: Connection, update: Update, learner: str = "", mailbox: Mailbox | None = None
    ) -> None:
        self._server, self._learner, self._mailbox = server, learner, mailbox
        self._update = update if mailbox is None else mailbox.updates.enclose(update)
        self._here = server.is_local
        self._posted = time.perf_counter()
        self._answered: float | None = None
        self._future = self._send()

    def _send(self) -> Future[Answer | None]:
        future: Future[Answer | None]
        if self._here:
            reply = self._server.call("push", self._update)
            if not isinstance(reply, Future):
                future = Future()
                future.set_result(reply)
                return future
            future = reply
        else:
            future = self._server.exchange(self._update, self._learner if self._mailbox else "")
        future.add_done_callback(self._stop)
        return future

    def _stop(self, _: Future[Answer | None]) -> None:
        # When it came, not when a learner that is training looks for it.
        self._answered = time.perf_counter()

    def done(self) -> bool:
        """Whether the answer is there; one that was held back for too long is asked for again."""
        if not self._future.done():
            return False
        failed = self._future.cancelled() or self._future.exception() is not None
        if not failed and self._future.result() is None:
            self._future = self._send()
            return False
        return True

    def result(self, thread: TaskThread) -> tuple[Answer, float]:
        """Return the answer and the seconds of the exchange, waiting for it if need be."""
        answer: Answer | None = None
        while answer is None:
            if not self._wait(SECEDE_SECONDS):
                thread.give_away()
            answer = self._local() if self._here else self._server.wait(self._future)
            if answer is None:
                self._future = self._send()  # the same again, which changes nothing
        if self._mailbox is not None:
            answer = self._mailbox.answers.open(answer)
        # Who waits may be woken before the callback has run.
        answered = self._answered if self._answered is not None else time.perf_counter()
        return answer, max(answered - self._posted - answer.seconds_held, 0.0)

    def _wait(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self._future.done() and (left := until - time.monotonic()) > 0:
            if self._here:
                left = min(left, self._server.call("patience"))
            wait([self._future], left)
            if self._here:
                self._server.call("expire")
        return self._future.done()

    def _local(self) -> Answer | None:
        while not self._wait(1.0):
            pass
        return self._future.result()


class TaskThread:
    """The thread of a task, which it may give away while it waits."""

    def __init__(self) -> None:
        self._given = False

    def give_away(self) -> None:
        """Let the worker run other tasks meanwhile: those that are waited for may be among them."""
        if not self._given:
            self._given = True
            secede()
