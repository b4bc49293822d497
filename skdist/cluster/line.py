"""Calls from a learner to a server on the same machine, past the event loops of their workers.

A call of an actor keeps the event loops of both workers busy for about a millisecond, beside the training.
Here the two processes talk through a socket that has a name in the file system, for as long as it takes to
connect them, and no port. What travels is pickled, as what Dask sends is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import shutil
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

#: Where files are memory; only processes of one machine find there what another one has made.
FOLDER = "/dev/shm"

#: The server is there when the learner accepts its connection, or it never comes.
ACCEPT_SECONDS = 5.0

#: Bytes that tell how long a message is.
PREFIX = 8


class Offer:
    """A place where a server can be reached by a learner, if it is on the same machine.

    Raises
    ------
    OSError
        Where the system has no such places.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="skdist-", dir=FOLDER)  # of this user alone
        self.path = os.path.join(self._folder, "line")
        try:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.bind(self.path)
            self._socket.listen(1)
        except BaseException:
            self.close()
            raise

    def accept(self) -> Line:
        """Return the line to a server that has taken the offer."""
        self._socket.settimeout(ACCEPT_SECONDS)
        connection, _ = self._socket.accept()
        connection.settimeout(None)
        return Line(connection)

    def close(self) -> None:
        """Leave nothing of it."""
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Line:
    """The learner's end: posts calls, and a thread takes the replies in.

    Parameters
    ----------
    connection : socket
        To the server; closed in the end.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._numbers = itertools.count()
        self._calls: dict[int, tuple[Future[Any], Callable[[Any], Any] | None]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, name="skdist-line", daemon=True).start()

    def post(self, method: str, *args: Any, then: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Call a method of the server; the result is what it returns, or what ``then`` makes of that."""
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._calls[number] = future, then
            try:
                _send(self._connection, (number, method, args))
            except OSError as error:
                del self._calls[number]
                future.set_exception(error)
        return future

    def close(self) -> None:
        """Hang up: who waits for a reply gets an `OSError`."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with self._connection:
            try:
                while True:
                    number, result, error = _receive(self._connection)
                    future, then = self._calls.pop(number)
                    if not future.set_running_or_notify_cancel():
                        continue
                    if error is None:
                        future.set_result(result if then is None else then(result))
                    else:
                        future.set_exception(error)
            except (EOFError, OSError) as error:
                gone = OSError(f"the server has hung up: {error!r}")
            with self._lock:
                left, self._calls = list(self._calls.values()), {}
        for future, _ in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(gone)


def take(path: str, server: Any) -> bool:
    """Answer the calls of a learner as long as a server exists; return whether the learner's offer is here.

    Parameters
    ----------
    path : str
        Of its `Offer`.
    server : object
        Its methods are called, in a thread of this learner's own, in which they may wait.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return False
    # Without the server nobody answers: that ends the thread.
    weakref.finalize(server, _hang_up, connection).atexit = False
    answering = threading.Thread(
        target=_answer, args=(connection, weakref.ref(server)), name="skdist-answers", daemon=True
    )
    answering.start()
    return True


def _answer(connection: socket.socket, server: Callable[[], Any]) -> None:
    with connection, contextlib.suppress(EOFError, OSError):
        while True:
            _reply(connection, server, *_receive(connection))


def _reply(
    connection: socket.socket, server: Callable[[], Any], number: int, method: str, args: tuple[Any, ...]
) -> None:
    """Do what was asked for. Nothing of it is kept until the next call."""
    present = server()
    if present is None:
        raise EOFError("the server is gone")
    result, failure = None, None
    try:
        result = getattr(present, method)(*args)
    except Exception as error:
        failure = error.with_traceback(None)  # which would keep the server
    _send(connection, (number, result, failure))


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _send(connection: socket.socket, message: Any) -> None:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    connection.sendall(len(data).to_bytes(PREFIX) + data)


def _receive(connection: socket.socket) -> Any:
    size = int.from_bytes(_bytes(connection, PREFIX))
    return pickle.loads(_bytes(connection, size))


def _bytes(connection: socket.socket, count: int) -> bytes:
    data = connection.recv(count, socket.MSG_WAITALL)
    if len(data) < count:
        raise EOFError("the connection has ended")
    return data
