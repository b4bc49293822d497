"""What happened in a fit: one append-only record that every observer reads.

Records are named tuples: as immutable as frozen dataclasses, and made in a third of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


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
        Duration of the visit, shared out among its partitions by rows.
    attempt : int
        1 for the first execution of the visit.
    """

    worker: str
    epoch: int
    visit: int
    partition: int
    start: int
    rows: int
    seconds: float
    attempt: int


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


_COLUMNS = {
    "rounds": RoundRecord._fields,
    "visits": VisitRecord._fields,
    "epochs": EpochRecord._fields,
    "plans": PlanRecord._fields,
}


@dataclass
class History:
    """Rounds, visits and epochs of a fit, and the plans of its workers.

    Attributes
    ----------
    rounds : list of RoundRecord
    visits : list of VisitRecord
    epochs : list of EpochRecord
    plans : list of PlanRecord
        One at a worker's first report, and one whenever its plan changed.

    Examples
    --------
    >>> history = History()
    >>> history.epochs.append(EpochRecord(0, 100, 0.5, float("nan"), 0.1))
    >>> history.to_frame("epochs").loc[0, "rows"]
    np.int64(100)
    """

    rounds: list[RoundRecord] = field(default_factory=list)
    visits: list[VisitRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    plans: list[PlanRecord] = field(default_factory=list)

    def to_frame(self, table: str = "rounds") -> pd.DataFrame:
        """Return a table as a DataFrame.

        Parameters
        ----------
        table : {'rounds', 'visits', 'epochs', 'plans'}, default='rounds'
            One row per record; the columns are the attributes of the record class.

        Raises
        ------
        ValueError
            For another name.
        """
        import pandas as pd

        if table not in _COLUMNS:
            raise ValueError(f"table must be one of {', '.join(_COLUMNS)}, got {table!r}.")
        records: Sequence[Any] = getattr(self, table)
        return pd.DataFrame.from_records(records, columns=list(_COLUMNS[table]))

    def extend(self, other: History) -> None:
        """Append the records of ``other``, a later fit, as ``partial_fit`` does; epochs are counted on."""
        done = max((record.epoch for record in self.epochs), default=-1) + 1
        self.rounds.extend(record._replace(epoch=record.epoch + done) for record in other.rounds)
        self.visits.extend(record._replace(epoch=record.epoch + done) for record in other.visits)
        self.epochs.extend(record._replace(epoch=record.epoch + done) for record in other.epochs)
        self.plans.extend(other.plans)

    def __repr__(self) -> str:
        return "History({})".format(", ".join(f"{len(getattr(self, table))} {table}" for table in _COLUMNS))
