"""What happened in a fit: one append-only record that every observer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from skdist.records import EpochRecord, FitRecord, PlanRecord, RoundRecord, VisitRecord
from skdist.report import FitReport, report_on

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["History"]

_COLUMNS = {
    "rounds": RoundRecord._fields,
    "visits": VisitRecord._fields,
    "epochs": EpochRecord._fields,
    "plans": PlanRecord._fields,
    "fits": FitRecord._fields,
}

#: A notebook shows so many of the last epochs.
EPOCHS_SHOWN = 10


@dataclass(repr=False)
class History:
    """Rounds, visits and epochs of a fit, and the plans of its workers.

    Attributes
    ----------
    rounds : list of RoundRecord
    visits : list of VisitRecord
    epochs : list of EpochRecord
    plans : list of PlanRecord
        One at a worker's first report, and one whenever its plan changed.
    fits : list of FitRecord
        One, or with ``partial_fit`` one per call.

    Examples
    --------
    >>> from skdist.records import EpochRecord
    >>> history = History()
    >>> history.epochs.append(EpochRecord(0, 100, 0.5, float("nan"), 0.1))
    >>> history.to_frame("epochs").loc[0, "rows"]
    np.int64(100)
    """

    rounds: list[RoundRecord] = field(default_factory=list)
    visits: list[VisitRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    plans: list[PlanRecord] = field(default_factory=list)
    fits: list[FitRecord] = field(default_factory=list)

    def to_frame(self, table: str = "rounds") -> pd.DataFrame:
        """Return a table as a DataFrame.

        Parameters
        ----------
        table : {'rounds', 'visits', 'epochs', 'plans', 'fits'}, default='rounds'
            One row per record; the columns are the attributes of the record class in `skdist.records`.

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

    def report(self) -> FitReport:
        """Return where the time went, and what would make the fit faster as far as its records show it.

        Raises
        ------
        ValueError
            Where there are no records of a fit.

        Examples
        --------
        >>> import numpy as np
        >>> from skdist import DistributedSGDClassifier
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((2000, 5))
        >>> clf = DistributedSGDClassifier(max_iter=5, tol=None).fit(X, X[:, 0] > 0)
        >>> report = clf.history_.report()
        >>> report.learners, report.epochs
        (1, 5)
        >>> print(report)
        5 epochs of 2,000 rows...
        """
        return report_on(self.rounds, self.visits, self.fits)

    def extend(self, other: History) -> None:
        """Append the records of ``other``, a later fit, as ``partial_fit`` does.

        Its epochs and its seconds are counted on, without the pause in between.
        """
        done = max((record.epoch for record in self.epochs), default=-1) + 1
        past = self.fits[-1].time + self.fits[-1].seconds if self.fits else 0.0
        self.rounds += [
            each._replace(epoch=each.epoch + done, time=each.time + past) for each in other.rounds
        ]
        self.visits += [
            each._replace(epoch=each.epoch + done, time=each.time + past) for each in other.visits
        ]
        self.epochs += [record._replace(epoch=record.epoch + done) for record in other.epochs]
        self.plans += [record._replace(time=record.time + past) for record in other.plans]
        self.fits += [record._replace(time=record.time + past) for record in other.fits]

    def took(self, seconds: float) -> None:
        """Write down how long the whole call of the last fit took."""
        self.fits[-1] = self.fits[-1]._replace(seconds_total=seconds)

    def _facts(self) -> str:
        facts = [f"{len(self.epochs)} epochs"]
        if self.epochs:
            last = self.epochs[-1]
            facts.append(f"loss {last.loss:.4g}")
            if last.val_score == last.val_score:
                facts.append(f"validation score {last.val_score:.4g}")
        if self.fits:
            last_fit = self.fits[-1]
            facts.append(f"{sum(fit.seconds for fit in self.fits):.3g} s")
            facts.append(f"{last_fit.learners} learners on {last_fit.workers} workers")
            if len(self.fits) > 1:
                facts.append(f"{len(self.fits)} fits")
            elif last_fit.converged:
                facts.append("converged")
        return ", ".join(facts)

    def __repr__(self) -> str:
        return (
            f"History({self._facts()}; "
            f"{len(self.rounds)} rounds, {len(self.visits)} visits, {len(self.plans)} plans)"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the facts, the losses, and the last epochs."""
        validated = any(epoch.val_loss == epoch.val_loss for epoch in self.epochs)
        columns = ["epoch", "rows", "loss", *(["val_loss", "val_score"] if validated else []), "seconds"]
        lines = [
            "<tr>" + "".join(f"<td>{getattr(epoch, name):.6g}</td>" for name in columns) + "</tr>"
            for epoch in self.epochs[-EPOCHS_SHOWN:]
        ]
        head = "".join(f"<th>{name}</th>" for name in columns)
        table = f"<table><tr>{head}</tr>{''.join(lines)}</table>" if lines else ""
        return f"<div><b>History</b> {escape(self._facts())}<br>{self._sparkline()}{table}</div>"

    def _sparkline(self) -> str:
        """Return the losses of the epochs as a small picture."""
        losses = [epoch.loss for epoch in self.epochs]
        if len(losses) < 2:
            return ""
        low, high, step = min(losses), max(losses), 200 / (len(losses) - 1)
        height = 40 / (high - low) if high > low else 0.0
        points = " ".join(f"{i * step:.1f},{2 + (high - loss) * height:.1f}" for i, loss in enumerate(losses))
        return (
            '<svg width="204" height="44" role="img" aria-label="loss by epoch">'
            f'<polyline points="{points}" fill="none" stroke="#1f77b4" stroke-width="1.5"/></svg>'
        )
