"""Memory that a learner and a server on one machine share, so that large arrays need not travel.

Through a socket an array is copied four times on its way. Here the sender writes it down once, and the
receiver reads it where it is.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import threading
import weakref
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from distributed import Worker

with contextlib.suppress(ImportError):  # of systems that have no such memory either
    import fcntl

from skdist.cluster.line import FOLDER
from skdist.messages import Answer, Update

Message = TypeVar("Message", Update, Answer)

#: Places for updates: one is written while the server has not applied the one before.
UPDATES = 3

#: Places for answers: one is written while the learner reads the one before.
ANSWERS = 2

#: The part of the memory that a worker may use that it may share, with all learners or servers together.
MOST_SHARE = 0.25


@dataclass(frozen=True)
class Letter:
    """Stands for an array in a message.

    Attributes
    ----------
    place : int
        Where it is.
    shape : tuple of int
        Of the array.
    dtype : dtype
        Of the array.
    """

    place: int
    shape: tuple[int, ...]
    dtype: np.dtype


class Lane:
    """Places that one process writes to and another one reads from.

    A byte for each place tells whether it is taken: the writer sets it, and the reader clears it when the
    last view of the array is gone. So an array is never overwritten while somebody reads it, whatever became
    of the message that told of it.

    Parameters
    ----------
    memory : mmap
        Of both processes.
    places : int
        How many.
    nbytes : int
        Size of each.
    flags, start : int
        Offsets of the bytes that tell what is taken, and of the first place.
    """

    def __init__(self, memory: mmap.mmap, places: int, nbytes: int, flags: int, start: int) -> None:
        self._memory, self._places, self._nbytes = memory, places, nbytes
        self._flags, self._start = flags, start
        self._views = [0] * places
        self._drafts: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
        self._process = os.getpid()
        self._lock = threading.RLock()  # a view may end wherever memory is collected

    def draft(self, values: np.ndarray) -> np.ndarray | None:
        """Return a copy of an array that `put` need not copy; None where there is no place for it.

        The place is the writer's as long as the draft is used.
        """
        with self._lock:
            place = self._free(values.nbytes)
            if place is None:
                return None
            draft = self._drafts[place] = self._at(place, values.dtype, values.size)
        draft[:] = values.reshape(-1)
        return draft.reshape(values.shape)

    def put(self, values: np.ndarray) -> Letter | None:
        """Write an array down, unless it is a draft; None where there is no place for it."""
        with self._lock:
            place = self._place_of(values)
            drafted = place is not None
            if place is None:
                place = self._free(values.nbytes)
            if place is None:
                return None
            self._memory[self._flags + place] = 1
        if not drafted:
            self._at(place, values.dtype, values.size)[:] = values.reshape(-1)
        return Letter(place, values.shape, values.dtype)

    def _place_of(self, values: np.ndarray) -> int | None:
        """Return the place of a draft, None for other arrays."""
        for place, draft in self._drafts.items():
            whole = draft is values.base and draft.size == values.size and values.flags.c_contiguous
            if whole and draft.ctypes.data == values.ctypes.data:
                return place
        return None

    def _free(self, nbytes: int) -> int | None:
        """Return a place that nobody uses."""
        if nbytes > self._nbytes:
            return None
        places = range(self._places)
        return next((n for n in places if not self._memory[self._flags + n] and n not in self._drafts), None)

    def get(self, letter: Letter) -> np.ndarray:
        """Return an array that the other side has written down; its place is taken as long as it is used."""
        values = self._at(letter.place, letter.dtype, int(np.prod(letter.shape)))
        with self._lock:
            self._views[letter.place] += 1
            self._memory[self._flags + letter.place] = 1  # also of a letter that is read again
        # Views of views refer to this one.
        weakref.finalize(values, self._let_go, letter.place).atexit = False
        return values.reshape(letter.shape)

    def enclose(self, message: Message) -> Message:
        """Return a message whose state is written down, if there is a place for it."""
        letter = self.put(message.state) if isinstance(message.state, np.ndarray) else None
        return message if letter is None else message._replace(state=letter)

    def open(self, message: Message) -> Message:
        """Return a message with its state, wherever that was."""
        if not isinstance(message.state, Letter):
            return message
        return message._replace(state=self.get(message.state))

    def _at(self, place: int, dtype: np.dtype, size: int) -> np.ndarray:
        return np.frombuffer(self._memory, dtype, size, self._start + place * self._nbytes)

    def _let_go(self, place: int) -> None:
        if os.getpid() != self._process:  # a fork, which has its own views of the same memory
            return
        with self._lock:
            self._views[place] -= 1
            if not self._views[place]:
                self._memory[self._flags + place] = 0


class Mailbox:
    """Lanes for the updates and the answers of a learner and its server.

    The file has no name any more once both have opened it, so that the memory is free when both are gone,
    however they end. The learner locks it: so the server can tell when the learner is gone.

    Parameters
    ----------
    descriptor : int
        Of the file; closed in the end.
    nbytes : int
        Size of the largest array.

    Attributes
    ----------
    size : int
        Bytes of memory.
    updates, answers : Lane
        From the learner and to it.
    """

    def __init__(self, descriptor: int, nbytes: int) -> None:
        self._descriptor = descriptor
        self.size = size_of(nbytes)
        weakref.finalize(self, os.close, descriptor).atexit = False
        memory = mmap.mmap(descriptor, size_of(nbytes))
        room = _rounded(nbytes)
        self.updates = Lane(memory, UPDATES, room, 0, mmap.PAGESIZE)
        self.answers = Lane(memory, ANSWERS, room, UPDATES, mmap.PAGESIZE + UPDATES * room)

    @classmethod
    def create(cls, nbytes: int) -> tuple[str, Mailbox]:
        """Return the path of a new file and its mailbox, for the learner.

        Raises
        ------
        OSError
            Where the system has no such files, or no memory for this one.
        """
        descriptor, path = tempfile.mkstemp(prefix="skdist-", dir=FOLDER)
        try:
            # To write to more than there is would kill the process.
            os.posix_fallocate(descriptor, 0, size_of(nbytes))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return path, cls(os.dup(descriptor), nbytes)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)

    @classmethod
    def attach(cls, path: str, nbytes: int) -> Mailbox | None:
        """Return the mailbox of a file, for the server; None where there is none: it is elsewhere.

        The file has no name any more then.
        """
        try:
            mailbox = cls(os.open(path, os.O_RDWR), nbytes)
            os.unlink(path)
        except (OSError, ValueError):
            return None
        return mailbox

    @property
    def abandoned(self) -> bool:
        """Whether the learner's process is gone; for the server."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def most_shared(worker: Worker) -> float:
    """Return the bytes that a worker may share, all of which count as its own."""
    limit = worker.memory_manager.memory_limit
    return MOST_SHARE * limit if limit else float("inf")


def size_of(nbytes: int) -> int:
    """Return the bytes of memory that a mailbox for arrays of a size takes."""
    return mmap.PAGESIZE + (UPDATES + ANSWERS) * _rounded(nbytes)


def _rounded(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
