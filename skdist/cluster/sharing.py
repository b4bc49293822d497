"""Exchanges through memory that learner and server share, where they are on one machine."""

from __future__ import annotations

import contextlib
import logging
import os
from concurrent.futures import Future
from typing import Any

from skdist.cluster.actor import Connection, ServerRef
from skdist.cluster.mailbox import Mailbox, most_shared, size_of
from skdist.messages import Answer, Join, Update

logger = logging.getLogger("skdist")

#: Smaller states are sent: what a message takes does not depend on their size.
LEAST_BYTES = 1 << 20


class Mailboxes:
    """The mailboxes of the learners on a worker, one for each learner and server.

    There is none where the server is on another machine, or the system does not let processes share memory.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Mailbox | None]] = {}

    def known(self, learner: str, server: SharingConnection) -> Mailbox | None:
        """Return the mailbox of a learner and a server, if they have one already."""
        incarnation, mailbox = self._known.get(learner, (server.incarnation, None))
        return mailbox if incarnation == server.incarnation else None

    def make(self, learner: str, server: SharingConnection, nbytes: int) -> Mailbox | None:
        """Return the mailbox of a learner and a server for states of a size; tried once."""
        if nbytes < LEAST_BYTES:
            return None
        if self._known.get(learner, (-1, None))[0] != server.incarnation:
            self._known.pop(learner, None)  # its memory first
            self._known[learner] = server.incarnation, self._made(learner, server, nbytes)
        return self._known[learner][1]

    def _made(self, learner: str, server: SharingConnection, nbytes: int) -> Mailbox | None:
        if size_of(nbytes) > server.most_shared:
            logger.info("States are sent, as the worker may not use so much more memory.")
            return None
        try:
            path, mailbox = Mailbox.create(nbytes)
        except OSError as error:
            logger.info("States are sent, as no memory can be shared: %s.", error)
            return None
        try:
            return mailbox if server.call("attach", learner, path, nbytes) else None
        finally:
            with contextlib.suppress(FileNotFoundError):  # the server has it
                os.unlink(path)

    def clear(self) -> None:
        """Forget all of them."""
        self._known.clear()


class SharingConnection(Connection):
    """A server on another worker, perhaps of the same machine, as one visit sees it.

    Parameters
    ----------
    ref, worker, gone
        As for `Connection`.
    mailboxes : Mailboxes
        Of the worker.
    """

    def __init__(self, ref: ServerRef, worker: Any, gone: Future[None], mailboxes: Mailboxes) -> None:
        super().__init__(ref, worker, gone)
        self._mailboxes = mailboxes
        self._learner = ""
        self._mailbox: Mailbox | None = None
        self._posted: tuple[Update, Update] | None = None

    @property
    def most_shared(self) -> float:
        """Bytes that each learner of this worker may share."""
        threads: int = self._worker.state.nthreads
        return most_shared(self._worker) / threads

    def join(self, join: Join) -> Answer:
        """See `Connection.join`."""
        self._learner = join.learner
        self._mailbox = self._mailboxes.known(join.learner, self)
        answer: Answer = self.call("join", join, self._mailbox is not None)
        if self._mailbox is not None:
            return self._mailbox.answers.open(answer)
        if answer.accepted:
            self._mailbox = self._mailboxes.make(join.learner, self, answer.state.nbytes)
        return answer

    def exchange(self, update: Update) -> Future[Answer | None]:
        """See `Connection.exchange`."""
        if self._mailbox is None:
            return super().exchange(update)
        if self._posted is None or self._posted[0] is not update:  # else the same again: it is written down
            self._posted = update, self._mailbox.updates.enclose(update)
        return self._start(self._through(self._mailbox, self._posted[1]))

    async def _through(self, mailbox: Mailbox, update: Update) -> Answer | None:
        call = self._ref.call_from_worker(self._worker, "exchange", update, self._learner)
        answer: Answer | None = await call
        return None if answer is None else mailbox.answers.open(answer)
