"""What the scheduler remembers of the fits on its cluster, for the page on its dashboard."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

logger = logging.getLogger("skdist")

#: Fits that are remembered; those that ended first are forgotten.
MOST_FITS = 20

#: A fit is remembered by so many numbers; then every second look at it is forgotten.
MOST_NUMBERS = 30_000

#: Key of the board among the extensions of a scheduler.
NAME = "skdist"


class Look(NamedTuple):
    """A fit at one moment.

    Attributes
    ----------
    seconds : float
        Since the start of the fit.
    loss : float
        Mean over the rows since the look before.
    rows_per_second, staleness : float
        Likewise, and of the last updates.
    learners : dict of str to tuple
        By name: staleness, round size in rows, latency in seconds.
    """

    seconds: float
    loss: float
    rows_per_second: float
    staleness: float
    learners: dict[str, tuple[float, float, float]]


@dataclass
class FitOnBoard:
    """What is known of a fit.

    Attributes
    ----------
    name, estimator, mode : str
        Which.
    max_iter : int
        Epochs at most.
    began : float
        Unix time of its first message.
    state : str
        'training', 'converged', 'complete', 'failed' or 'lost' (its driver went without a word).
    epoch, workers : int
        The newest epoch, counted from 0, and workers.
    looks : list of Look
        Oldest first.
    in_flight, under_way : int
        Visits that workers were given, and those of them that train.
    visits : list
        The oldest ones: number, worker, rows acknowledged, rows.
    version : int
        Grows with each message.
    """

    name: str
    estimator: str
    mode: str
    max_iter: int
    began: float
    state: str = "training"
    epoch: int = 0
    workers: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    rows_per_second: float = 0.0
    in_flight: int = 0
    under_way: int = 0
    looks: list[Look] = field(default_factory=list)
    visits: list[list[Any]] = field(default_factory=list)
    version: int = 0
    _taken: int = 0
    _every: int = 1

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state != "training"

    @property
    def staleness(self) -> float:
        """As it was at the last look."""
        return self.looks[-1].staleness if self.looks else math.nan

    def take(self, message: dict[str, Any]) -> None:
        """Take a message in."""
        self.version += 1
        self.state = message["state"]
        for name in ("workers", "epoch", "seconds", "rows_per_second", "loss"):
            setattr(self, name, message.get(name, getattr(self, name)))
        self.visits = message.get("visits", [])
        self.in_flight, self.under_way = message.get("in_flight", 0), message.get("under_way", 0)
        if "learners" in message:
            learners = {name: (late, size, latency) for name, late, size, latency in message["learners"]}
            look = Look(self.seconds, self.loss, self.rows_per_second, message["staleness"], learners)
            self._keep(look)

    def _keep(self, look: Look) -> None:
        """Add a look; the newest is there in any case, of those before every n-th as a fit becomes long."""
        if self.looks and (self._taken - 1) % self._every:
            self.looks[-1] = look
        else:
            self.looks.append(look)
        self._taken += 1
        if sum(4 + 3 * len(look.learners) for look in self.looks) > MOST_NUMBERS and len(self.looks) > 2:
            self.looks[:-1] = self.looks[:-1:2]
            self._every *= 2


class Board:
    """The fits on a cluster: an extension of its scheduler, which learns of them by messages.

    It stays when fits end, so that they can still be looked at, and holds `MOST_FITS` of them.
    """

    def __init__(self) -> None:
        self._fits: dict[str, FitOnBoard] = {}

    def __iter__(self) -> Iterator[FitOnBoard]:
        return iter(self._fits.values())

    def __len__(self) -> int:
        return len(self._fits)

    def get(self, name: str) -> FitOnBoard | None:
        """Return a fit, if it is known."""
        return self._fits.get(name)

    def take(self, message: dict[str, Any]) -> None:
        """Take in what a fit says of itself; the handler that the scheduler calls."""
        name = message["fit"]
        fit = self._fits.get(name)
        if fit is None:
            fit = self._fits[name] = FitOnBoard(
                name, message["estimator"], message["mode"], message["max_iter"],
                began=time.time() - message.get("seconds", 0.0),
            )  # fmt: skip
            while len(self._fits) > MOST_FITS:
                ended = (old.name for old in self._fits.values() if old.over)
                del self._fits[next(ended, next(iter(self._fits)))]
        fit.take(message)

    def lose(self, name: str) -> None:
        """Take in that the driver of a fit is gone."""
        fit = self._fits.get(name)
        if fit is not None and not fit.over:
            fit.take({"state": "lost"})


def board_of(scheduler: Any) -> Board:
    """Return the board of a scheduler; it gets one, and a page where it has a dashboard, if need be."""
    board = scheduler.extensions.get(NAME)
    if board is None:
        board = scheduler.extensions[NAME] = Board()
        scheduler.handlers["skdist_progress"] = board.take
        try:
            from skdist.cluster.page import add_page  # needs bokeh, as the dashboard does

            add_page(scheduler, board)
        except Exception as error:
            logger.info("There is no page on the dashboard: %s", error)
    found: Board = board
    return found
