"""How far a fit is: what its server knows while it trains."""

from __future__ import annotations

from typing import NamedTuple


class LearnerProgress(NamedTuple):
    """A learner, as its last update left it.

    Attributes
    ----------
    name, worker : str
        Who, and where it is.
    staleness : float
        Mean of its last updates, in versions.
    round_size : int
        Rows of its present round.
    latency : float
        Median heartbeat round trip of its worker in seconds.
    efficiency : float
        Of that link.
    seconds_per_row, seconds_exchange : float
        Training and exchanging, smoothed; 0 where nothing is known.
    """

    name: str
    worker: str
    staleness: float
    round_size: int
    latency: float
    efficiency: float
    seconds_per_row: float
    seconds_exchange: float


class VisitProgress(NamedTuple):
    """A visit under way: ``offset`` of its ``rows`` are acknowledged."""

    number: int
    learner: str
    epoch: int
    offset: int
    rows: int


class Progress(NamedTuple):
    """Where training stands.

    Attributes
    ----------
    epoch : int
        The newest one, counted from 0.
    loss : float
        Mean loss of its rows so far; nan before the first.
    rows : int
        Their number.
    total_rows : int
        Rows of all epochs so far.
    total_loss : float
        Sum of their losses.
    seconds : float
        Since the start of the fit.
    staleness : float
        Mean of the last updates of all learners, in versions.
    learners : tuple of LearnerProgress
        All that ever joined.
    visits : tuple of VisitProgress
        Those under way.
    silent : tuple of int
        Visits under way whose learner should have been heard of long ago.
    """

    epoch: int
    loss: float
    rows: int
    total_rows: int
    total_loss: float
    seconds: float
    staleness: float
    learners: tuple[LearnerProgress, ...]
    visits: tuple[VisitProgress, ...]
    silent: tuple[int, ...]
