"""How many visits train at once on a worker."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from skdist.messages import Visit

#: Who waits for a slot looks again after so many seconds, should nobody wake it.
LOOK_SECONDS = 1.0


class Slots:
    """The places of a worker in which visits of one fit train.

    Dask's threads cannot bound that: a visit that waits gives its thread away, and then Dask starts another
    one. The number of places comes with each visit, and the visit of the highest number knows best. Visits
    get their places in the order of their numbers, as far as they are here.

    Parameters
    ----------
    clock : callable
        Seconds of a steady clock.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._limit = math.inf
        self._newest = -1
        self._lifted = False
        self._waiting: list[int] = []
        self._taken = 0
        self._freed: deque[float] = deque()  # since when the free places are free

    @contextmanager
    def take(self, visit: Visit, give_way: Callable[[], None]) -> Iterator[float]:
        """Hold a place for a visit; gives the seconds for which that place stood free before.

        Parameters
        ----------
        visit : Visit
            Its ``threads`` are the places; 0 if they are not limited.
        give_way : callable
            Called before the visit waits: the worker's thread must be of use to others meanwhile.
        """
        free = self._enter(visit, give_way)
        try:
            yield free
        finally:
            with self._changed:
                self._taken -= 1
                self._freed.append(self._clock())
                self._forget()
                self._changed.notify_all()

    def lift(self) -> None:
        """Let everybody in from now on: the fit is over, and those that wait shall see it."""
        with self._changed:
            self._lifted, self._limit = True, math.inf
            self._changed.notify_all()

    def _enter(self, visit: Visit, give_way: Callable[[], None]) -> float:
        with self._changed:
            if visit.number > self._newest and not self._lifted:
                self._newest, self._limit = visit.number, visit.threads or math.inf
                self._forget()
            self._waiting.append(visit.number)
            # The limit may have been raised, and whoever was first need not be any more.
            self._changed.notify_all()
            ready = self._ready(visit.number)
        try:
            if not ready:
                give_way()
            with self._changed:
                while not self._ready(visit.number):
                    self._changed.wait(LOOK_SECONDS)
                self._taken += 1
                return self._clock() - self._freed.popleft() if self._freed else 0.0
        finally:
            with self._changed:
                self._waiting.remove(visit.number)
                self._changed.notify_all()

    def _ready(self, number: int) -> bool:
        return self._lifted or (self._taken < self._limit and number == min(self._waiting))

    def _forget(self) -> None:
        """Drop the places that are no more; the last ones that were freed stay."""
        while self._freed and len(self._freed) > self._limit - self._taken:
            self._freed.popleft()
