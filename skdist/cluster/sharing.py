"""Exchanges of a learner with a server on the same machine: a line of their own, and shared memory."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from skdist.cluster.connection import Connection, ServerRef
from skdist.cluster.line import Line, Offer
from skdist.cluster.mailbox import Mailbox, most_shared, size_of
from skdist.messages import Answer, Join, Update

logger = logging.getLogger("skdist")

#: Smaller states are part of the message.
LEAST_BYTES = 1 << 16


class Neighbours:
    """The lines and the mailboxes of the learners on a worker, for one server.

    There are none where the server is on another machine, or the system does not let processes share memory.
    """

    def __init__(self) -> None:
        self.lines: dict[str, Line | None] = {}
        self.mailboxes: dict[str, Mailbox | None] = {}
        self._ended = False
        self._lock = threading.Lock()

    def knows(self, learner: str) -> bool:
        """Whether it is known if a learner has a line, and none that is broken."""
        line = self.lines.get(learner)
        return learner in self.lines and not (line is not None and line.broken)

    def keep(self, learner: str, line: Line | None) -> None:
        """Keep the line of a learner, and no mailbox of the one before."""
        with self._lock:
            self.lines[learner] = line
            self.mailboxes.pop(learner, None)
            if self._ended and line is not None:
                line.close()

    def end(self) -> None:
        """Hang up: the server is not to be heard any more, also where a learner is just joining it."""
        with self._lock:
            self._ended = True
            for line in self.lines.values():
                if line is not None:
                    line.close()
            self.lines.clear()
            self.mailboxes.clear()


class SharingConnection(Connection):
    """A server on another worker, perhaps of the same machine, as one visit sees it.

    Parameters
    ----------
    ref, worker, gone
        As for `Connection`.
    neighbours : Neighbours
        Of the worker, with this server.
    """

    def __init__(self, ref: ServerRef, worker: Any, gone: Future[None], neighbours: Neighbours) -> None:
        super().__init__(ref, worker, gone)
        self._neighbours = neighbours
        self._learner = ""
        self._line: Line | None = None
        self._mailbox: Mailbox | None = None
        self._posted: tuple[tuple[Any, ...], Update] | None = None

    @property
    def most_shared(self) -> float:
        """Bytes that each learner of this worker may share."""
        threads: int = self._worker.state.nthreads
        return most_shared(self._worker) / threads

    def join(self, join: Join, wants_model: bool = False) -> tuple[Answer, Any]:
        """See `Connection.join`."""
        self._learner = join.learner
        if not self._neighbours.knows(join.learner):
            answer, model = self._join_first(join, wants_model)
        else:
            self._line = self._neighbours.lines[join.learner]
            self._mailbox = self._neighbours.mailboxes.get(join.learner)
            answer, model = self.call("join", join, wants_model, self._mailbox is not None)
            if self._mailbox is not None:
                return self._mailbox.answers.open(answer), model
        if self._line is not None and answer.accepted:
            self._mailbox = self._mailbox_for(join.learner, answer.state.nbytes)
        return answer, model

    def _join_first(self, join: Join, wants_model: bool) -> tuple[Answer, Any]:
        """Join, and get a line if the server is on this machine."""
        try:
            offer = Offer()
        except (AttributeError, OSError) as error:
            logger.info("Exchanges go through Dask alone: %s.", error)
            self._neighbours.keep(join.learner, None)
            return super().join(join, wants_model)
        with contextlib.closing(offer):
            answer, model, taken = self.call("join_from", offer.path, join, wants_model)
            try:
                self._line = offer.accept() if taken else None
            except (OSError, RuntimeError) as error:  # no more files or threads
                logger.info("Exchanges go through Dask alone: %s.", error)
        self._neighbours.keep(join.learner, self._line)
        return answer, model

    def _mailbox_for(self, learner: str, nbytes: int) -> Mailbox | None:
        """Return the mailbox of a learner for states of a size; tried once."""
        known = self._neighbours.mailboxes
        if learner not in known and nbytes >= LEAST_BYTES:
            known[learner] = self._made(learner, nbytes)
        return known.get(learner)

    def _made(self, learner: str, nbytes: int) -> Mailbox | None:
        if size_of(nbytes) > self.most_shared:
            logger.info("States are sent, as the worker may not use so much more memory.")
            return None
        try:
            path, mailbox = Mailbox.create(nbytes)
        except OSError as error:
            logger.info("States are sent, as no memory can be shared: %s.", error)
            return None
        try:
            return mailbox if self.wait(self.post("attach", learner, path, nbytes)) else None
        finally:
            with contextlib.suppress(FileNotFoundError):  # the server has it
                os.unlink(path)

    def draft(self, state: np.ndarray) -> np.ndarray | None:
        """See `Connection.draft`."""
        return None if self._mailbox is None else self._mailbox.updates.draft(state)

    def exchange(self, update: Update) -> Future[Answer | None]:
        """See `Connection.exchange`."""
        if self._line is None:
            return super().exchange(update)
        if self._mailbox is None:
            return self._line.post("exchange_in_turn", update)
        key = update.visit, update.attempt, update.start, update.stop
        if self._posted is None or self._posted[0] != key:  # else the same again: it is written down
            self._posted = key, self._mailbox.updates.enclose(update)
        return self._line.post(
            "exchange_in_turn", self._posted[1], self._learner, then=_opener(self._mailbox)
        )

    def post(self, method: str, *args: Any) -> Future[Any]:
        """See `Connection.post`; through the line, where there is one."""
        if self._line is None:
            return super().post(method, *args)
        return self._line.post(method, *args)


def _opener(mailbox: Mailbox) -> Callable[[Answer | None], Answer | None]:
    def opened(answer: Answer | None) -> Answer | None:
        return None if answer is None else mailbox.answers.open(answer)

    return opened
