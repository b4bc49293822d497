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
        with contextlib.ExitStack() as undo:
            folder = tempfile.mkdtemp(prefix="skdist-", dir=FOLDER)  # of this user alone
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            self.path = os.path.join(folder, "line")
            self._socket = undo.enter_context(socket.socket(socket.AF_UNIX))
            self._socket.bind(self.path)
            self._socket.listen(1)
            self._undo = undo.pop_all()

    def accept(self) -> Line:
        """Return the line to a server that has taken the offer."""
        self._socket.settimeout(ACCEPT_SECONDS)
        connection, _ = self._socket.accept()
        connection.settimeout(None)
        return Line(connection)

    def close(self) -> None:
        """Leave nothing of it."""
        self._undo.close()


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

    @property
    def broken(self) -> bool:
        """Whether it has ended: no call gets through any more."""
        return self._connection.fileno() < 0

    def post(self, method: str, *args: Any, then: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Call a method of the server; the result is what it returns, or what ``then`` makes of that."""
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            message = _packed(number, method, args)
            self._calls[number] = future, then
            try:
                self._connection.sendall(message)
            except OSError as error:
                del self._calls[number]
                future.set_exception(error)
                self.close()  # what would follow half a message cannot be read
        return future

    def close(self) -> None:
        """Hang up: who waits for a reply gets an `OSError`."""
        _hang_up(self._connection)

    def _listen(self) -> None:
        try:
            while True:
                self._settle(*_receive(self._connection))
        except Exception as error:  # also of a reply that cannot be read
            gone = OSError(f"the server has hung up: {error!r}")
        self.close()  # who waits for room to send must not keep the lock
        with self._lock:
            self._connection.close()
            left, self._calls = list(self._calls.values()), {}
        for future, _ in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(gone)

    def _settle(self, number: int, result: Any, error: Exception | None) -> None:
        """Give a reply to who waits for it. Nothing of it is kept until the next one."""
        future, then = self._calls.pop(number)
        if not future.set_running_or_notify_cancel():
            return
        try:
            if error is None and then is not None:
                result = then(result)
        except Exception as failure:
            error = failure
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def take(path: str, server: Any) -> bool:
    """Answer the calls of a learner as long as a server exists; return whether the learner's offer is here.

    Parameters
    ----------
    path : str
        Of its `Offer`.
    server : object
        Its methods are called, in a thread of this learner's own, in which they may wait.
    """
    with contextlib.ExitStack() as undo:
        try:
            connection = undo.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(path)
            threading.Thread(
                target=_answer, args=(connection, weakref.ref(server)), name="skdist-answers", daemon=True
            ).start()
        except (AttributeError, OSError, RuntimeError):  # not here, or no more files or threads
            return False
        undo.pop_all()
    # Without the server nobody answers: that ends the thread.
    weakref.finalize(server, _hang_up, connection).atexit = False
    return True


def _answer(connection: socket.socket, server: Callable[[], Any]) -> None:
    with connection, contextlib.suppress(EOFError, OSError):
        try:
            while True:
                connection.sendall(_reply(server, *_receive(connection)))
        finally:
            _hang_up(connection)  # a fork may have it open


def _reply(server: Callable[[], Any], number: int, method: str, args: tuple[Any, ...]) -> bytes:
    """Do what was asked for, and return the message.

    The server is not kept while that is sent, which takes as long as the learner likes, nor until the next
    call.
    """
    present = server()
    if present is None:
        raise EOFError("the server is gone")
    try:
        return _packed(number, getattr(present, method)(*args), None)
    except Exception as error:
        return _packed(number, None, _portable(error))


def _portable(error: Exception) -> Exception:
    """Return an error, or one that tells of it where it cannot be read at the other end."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _packed(*message: Any) -> bytes:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(PREFIX) + data


def _receive(connection: socket.socket) -> Any:
    size = int.from_bytes(_bytes(connection, PREFIX))
    return pickle.loads(_bytes(connection, size))


def _bytes(connection: socket.socket, count: int) -> bytes:
    data = connection.recv(count, socket.MSG_WAITALL)
    while len(data) < count:  # a signal cuts it short: also one that stops the process for a while
        more = connection.recv(count - len(data), socket.MSG_WAITALL)
        if not more:
            raise EOFError("the connection has ended")
        data += more
    return data
