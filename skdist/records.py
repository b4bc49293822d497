"""What is written down of a fit, line by line.

Records are named tuples: as immutable as frozen dataclasses, and made in a third of the time.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class RoundRecord(NamedTuple):
    """One round of one learner: trained, sent and accepted.

    Attributes
    ----------
    learner, worker : str
        Who trained, and the address of its worker.
    epoch, visit : int
        Counted from 0; number of the visit.
    rows, steps : int
        Trained in this round.
    round_size : int
        The size in rows that the round was given (``B_i``).
    version : int
        Version of the parameters that the update has become part of.
    staleness : float
        Versions that others made while the round was under way.
    context : float
        Staleness context value (``C``).
    rate_scale : float
        Factor of the learner's rate before sending.
    applied : float
        Factor that the server applied; lower where the guard stepped in.
    weight : float
        Weight among the updates that were applied together.
    volatility : float
        Standard deviation of the gradients of the steps; nan where it was not wanted.
    latency : float
        Median heartbeat round trip of the worker in seconds.
    efficiency : float
        Link efficiency (``e``) that ``round_size`` came from.
    loss : float
        Mean loss over the rows, each before its step.
    seconds_compute, seconds_exchange : float
        Training, and the exchange that ended during the round.
    time : float
        Seconds since the start of the fit, when the server took the update in.
    """

    learner: str
    worker: str
    epoch: int
    visit: int
    rows: int
    steps: int
    round_size: int
    version: int
    staleness: float
    context: float
    rate_scale: float
    applied: float
    weight: float
    volatility: float
    latency: float
    efficiency: float
    loss: float
    seconds_compute: float
    seconds_exchange: float
    time: float


class VisitRecord(NamedTuple):
    """One partition of one visit.

    Attributes
    ----------
    worker : str
        Address of the worker.
    epoch, visit, partition : int
        Which.
    start, rows : int
        The stretch of the partition's rows, in the order of the epoch.
    seconds : float
        Duration of the visit, shared out among its partitions by rows; nan for a visit that never reported.
    attempt : int
        1 for the first execution of the visit.
    time : float
        When it came to the partition, in seconds since the start of the fit; nan where that is not known.
    seconds_compute, seconds_waited : float
        Parts of the duration in which it trained, and in which it had nothing to do but to wait for others,
        shared out likewise. What is left of it went into exchanges.
    """

    worker: str
    epoch: int
    visit: int
    partition: int
    start: int
    rows: int
    seconds: float
    attempt: int
    time: float = math.nan
    seconds_compute: float = math.nan
    seconds_waited: float = math.nan


class EpochRecord(NamedTuple):
    """One pass over all rows.

    Attributes
    ----------
    epoch : int
        Counted from 0.
    rows : int
        Rows trained on.
    loss : float
        Mean training loss, each row before its step.
    val_loss : float
        Mean loss on the validation rows when the epoch was complete; nan where there are none.
    seconds : float
        From its first row to its last.
    val_score : float
        Score on the validation rows, likewise.
    """

    epoch: int
    rows: int
    loss: float
    val_loss: float
    seconds: float
    val_score: float = math.nan


class PlanRecord(NamedTuple):
    """How a worker ran its visits from now on.

    Attributes
    ----------
    worker : str
        Address of the worker.
    time : float
        Seconds since the start of the fit.
    pressure : float
        Load of a round in seconds.
    threads : int
        Visits that trained at once.
    inner_threads : int
        BLAS or torch threads of each.
    queue : int
        Visits that waited.
    """

    worker: str
    time: float
    pressure: float
    threads: int
    inner_threads: int
    queue: int


class FitRecord(NamedTuple):
    """One fit; ``partial_fit`` adds one per call.

    Attributes
    ----------
    mode : str
        Consistency.
    workers, learners : int
        Workers, and threads that train: at the start of training.
    partitions, rows : int
        What there is to train on.
    epochs : int
        Passes begun.
    converged : bool
        Whether it stopped because loss or score improved no more.
    time : float
        When its training began, in seconds since that of the first fit of the history; pauses between two
        fits do not count.
    seconds : float
        From its first visit to its end.
    seconds_total : float
        The whole call, with reading and measuring the rows; nan where time is simulated.
    """

    mode: str
    workers: int
    learners: int
    partitions: int
    rows: int
    epochs: int
    converged: bool
    time: float
    seconds: float
    seconds_total: float = math.nan
