"""An update on its way to the server and back, and the thread that waits for it."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait

from distributed import secede

from skdist.cluster.connection import Connection
from skdist.messages import Answer, Update

#: A visit that has waited this long for others gives its thread to the worker's other tasks, in seconds.
SECEDE_SECONDS = 0.1


class Exchange:
    """An update on its way to the server and back, and how long that took.

    Parameters
    ----------
    server : Connection
        The server.
    update : Update
        What to send.
    """

    def __init__(self, server: Connection, update: Update) -> None:
        self._server, self._update = server, update
        self._here = server.is_local
        self._posted = time.perf_counter()
        self._future = self._send()

    def _send(self) -> Future[Answer | None]:
        answered: list[float] = []
        self._answered = answered
        future: Future[Answer | None]
        if self._here:
            reply = self._server.call("push", self._update)
            if not isinstance(reply, Future):
                future = Future()
                future.set_result(reply)
                return future
            future = reply
        else:
            future = self._server.exchange(self._update)
        # When it came, not when a learner that is training looks for it. Futures keep what they call: nothing
        # of this exchange may be kept by that, or answers would be there until garbage is collected.
        future.add_done_callback(lambda _: answered.append(time.perf_counter()))
        return future

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
        # Who waits may be woken before the callback has run.
        answered = self._answered[-1] if self._answered else time.perf_counter()
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
