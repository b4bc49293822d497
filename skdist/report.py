"""Where the time of a fit went, and what its records say that would make it faster."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from skdist.records import FitRecord, RoundRecord, VisitRecord

#: A share of the time of all threads is worth a remark from here on.
LARGE_SHARE = 0.2

#: So many times as long per row as the others makes a worker slow.
SLOW_FACTOR = 2.0

#: A fit that lasted less, in seconds, is not worth the user's time: no remark on it says what to change.
SHORT_SECONDS = 1.0

#: A first round of a worker that takes so many times as long per row as its others has compiled.
COMPILING_FACTOR = 10.0

#: Updates that count less than this on average are worth a remark.
LOW_RATE_SCALE = 0.5


@dataclass(frozen=True)
class WorkerReport:
    """What one worker did; medians are over its rounds.

    Attributes
    ----------
    worker : str
        Its address.
    rows : int
        Rows trained on.
    seconds_per_row : float
        Training time; nan where none was measured.
    times_slower : float
        How many times as long a row takes as at the median of the other workers; 1 where there are none.
    staleness : float
        Mean of its updates, in versions.
    round_rows : float
        Median rows of a round.
    latency : float
        Median heartbeat round trip in seconds.
    efficiency : float
        Mean efficiency of its link.
    """

    worker: str
    rows: int
    seconds_per_row: float
    times_slower: float
    staleness: float
    round_rows: float
    latency: float
    efficiency: float


@dataclass(frozen=True)
class FitReport:
    """Where the time went; ``print`` it, or read its fields.

    Shares are of the time of all threads: ``learners * seconds``. They add up to 1.

    Attributes
    ----------
    mode : str
        Consistency, of the last fit where there were several.
    learners, workers, partitions, rows, epochs : int
        As in `skdist.records.FitRecord`; epochs of all fits.
    seconds : float
        Of training.
    seconds_total : float
        Of the calls of fit, with reading and measuring the rows; nan where time is simulated.
    rows_per_second : float
        Rows trained on per second of training.
    compute : float
        Share of the time in which threads trained.
    compiling : float
        The part of it that was spent in first rounds in which kernels were compiled.
    exchange : float
        In which they had to wait for their own exchanges, or began and ended visits. Exchanges that were
        hidden behind training do not count.
    waiting : float
        In which they waited for other learners.
    idle : float
        In which threads had no visit.
    staleness, rate_scale : float
        Means over the updates, in versions and as a factor.
    round_rows, round_seconds, exchange_seconds : float
        Medians over the rounds: rows, training time, and the exchange.
    repeated : int
        Visits that were lost with a worker or executed more than once.
    by_worker : tuple of WorkerReport
        The slowest first.
    advice : tuple of str
        What would make the fit faster, where the figures above support it.
    """

    mode: str
    learners: int
    workers: int
    partitions: int
    rows: int
    epochs: int
    seconds: float
    seconds_total: float
    rows_per_second: float
    compute: float
    compiling: float
    exchange: float
    waiting: float
    idle: float
    staleness: float
    rate_scale: float
    round_rows: float
    round_seconds: float
    exchange_seconds: float
    repeated: int
    by_worker: tuple[WorkerReport, ...]
    advice: tuple[str, ...] = ()

    @property
    def slowest(self) -> WorkerReport | None:
        """The worker that takes longest per row; None where there is only one."""
        return self.by_worker[0] if len(self.by_worker) > 1 else None

    def __str__(self) -> str:
        lines = [
            f"{self.epochs:,} epochs of {self.rows:,} rows in {self.partitions:,} partitions, mode "
            f"{self.mode!r}: {self.seconds:.3g} s of training on {self.learners} threads of "
            f"{self.workers} workers, {self.rows_per_second:,.0f} rows/s"
        ]
        if self.seconds_total > self.seconds:
            before = self.seconds_total - self.seconds
            lines.append(f"  before and after     {before:7.3g} s   reading, converting, measuring")
        lines += [
            f"  computing            {self.compute:7.1%}",
            f"  exchanging           {self.exchange:7.1%}   a round trains {_seconds(self.round_seconds)} on "
            f"{self.round_rows:,.0f} rows, an exchange takes {_seconds(self.exchange_seconds)}",
            f"  waiting for others   {self.waiting:7.1%}",
            f"  without work         {self.idle:7.1%}",
            f"  staleness            {self.staleness:7.2f}   updates count {self.rate_scale:.2f} times",
            f"  visits repeated      {self.repeated:7d}",
        ]
        if self.slowest is not None:
            lines.append(
                f"  slowest worker       {self.slowest.times_slower:7.2f}   times as long per row: "
                f"{self.slowest.worker}"
            )
        nothing = "Nothing stands out." if self.seconds >= SHORT_SECONDS else "Too short to be made faster."
        lines += [f"- {advice}" for advice in self.advice or (nothing,)]
        return "\n".join(lines)


def report_on(
    rounds: Sequence[RoundRecord], visits: Sequence[VisitRecord], fits: Sequence[FitRecord]
) -> FitReport:
    """Return the report on the records of one fit or several.

    Raises
    ------
    ValueError
        Where there is no fit.
    """
    if not fits:
        raise ValueError("There is nothing to report on: the history has no records of a fit.")
    last = fits[-1]
    seconds = sum(fit.seconds for fit in fits)
    measured = [visit for visit in visits if not math.isnan(visit.seconds)]
    compute = sum(visit.seconds_compute for visit in measured)
    waiting = sum(visit.seconds_waited for visit in measured)
    busy = sum(visit.seconds for visit in measured)
    # Workers may have come later.
    threads = max(sum(fit.learners * fit.seconds for fit in fits), busy, 1e-9)
    again = {visit.visit for visit in visits if visit.attempt > 1 or math.isnan(visit.seconds)}
    plain = FitReport(
        mode=last.mode,
        learners=last.learners,
        workers=last.workers,
        partitions=last.partitions,
        rows=last.rows,
        epochs=sum(fit.epochs for fit in fits),
        seconds=seconds,
        seconds_total=sum(fit.seconds_total for fit in fits),
        rows_per_second=sum(round_.rows for round_ in rounds) / max(seconds, 1e-9),
        compute=compute / threads,
        compiling=_compiling(rounds) / threads,
        exchange=max(busy - compute - waiting, 0.0) / threads,
        waiting=waiting / threads,
        idle=max(threads - busy, 0.0) / threads,
        staleness=_mean(round_.staleness for round_ in rounds),
        rate_scale=_mean(round_.applied for round_ in rounds),
        round_rows=_median(round_.rows for round_ in rounds),
        round_seconds=_median(round_.seconds_compute for round_ in rounds),
        exchange_seconds=_median(round_.seconds_exchange for round_ in rounds),
        repeated=len(again),
        by_worker=_by_worker(rounds),
    )
    return FitReport(**{**vars(plain), "advice": tuple(_advice(plain))})


def _by_worker(rounds: Iterable[RoundRecord]) -> tuple[WorkerReport, ...]:
    own = _of_workers(rounds)
    speed = {name: _seconds_per_row(theirs) for name, theirs in own.items()}
    reports = []
    for name, theirs in own.items():
        others = [value for other, value in speed.items() if other != name and value > 0]
        slower = speed[name] / statistics.median(others) if others else 1.0
        reports.append(
            WorkerReport(
                worker=name,
                rows=sum(round_.rows for round_ in theirs),
                seconds_per_row=speed[name],
                times_slower=slower,
                staleness=_mean(round_.staleness for round_ in theirs),
                round_rows=_median(round_.rows for round_ in theirs),
                latency=_median(round_.latency for round_ in theirs),
                efficiency=_mean(round_.efficiency for round_ in theirs),
            )
        )
    return tuple(sorted(reports, key=lambda each: -each.times_slower))


def _of_workers(rounds: Iterable[RoundRecord]) -> dict[str, list[RoundRecord]]:
    own = defaultdict(list)
    for round_ in rounds:
        own[round_.worker].append(round_)
    return own


def _compiling(rounds: Iterable[RoundRecord]) -> float:
    """Return the seconds of first rounds that took much longer than the others of their worker."""
    seconds = 0.0
    for first, *others in _of_workers(rounds).values():
        usual = _median(_seconds_per_row([each]) for each in others)
        if _seconds_per_row([first]) > COMPILING_FACTOR * usual:
            seconds += first.seconds_compute
    return seconds


def _seconds_per_row(rounds: Sequence[RoundRecord]) -> float:
    return sum(each.seconds_compute for each in rounds) / max(sum(each.rows for each in rounds), 1)


def _advice(report: FitReport) -> list[str]:
    """Return a sentence for each thing that the figures show to cost time and that the user can change."""
    advice = []
    several = report.learners > 1
    slowest = report.slowest
    if several and report.partitions < report.learners and report.idle > LARGE_SHARE:
        advice.append(
            f"{report.partitions} partitions keep at most {report.partitions} of {report.learners} threads "
            f"at work at a time: make at least {2 * report.learners}, with X.rechunk or X.repartition."
        )
    if report.seconds_total - report.seconds > max(report.seconds, SHORT_SECONDS):
        advice.append(
            f"Reading and measuring the rows took {report.seconds_total - report.seconds:.3g} s, longer than "
            "training: persist X and y before, if they fit into the cluster's memory."
        )
    if report.seconds < SHORT_SECONDS:
        return advice
    if slowest is not None and slowest.times_slower >= SLOW_FACTOR:
        advice.append(
            f"A row takes {slowest.times_slower:.1f} times as long on {slowest.worker} as on the others: see "
            "what else runs there, and how many threads it has for how many processors."
        )
    if report.compiling > LARGE_SHARE:
        advice.append(
            f"First rounds took {report.compiling:.0%} of the time, as kernels were compiled: the next fit "
            "on this machine finds them on disk."
        )
    if several and report.waiting > LARGE_SHARE:
        instead = "a larger max_staleness, or mode='async'," if report.mode == "ssp" else "mode='async'"
        advice.append(
            f"Threads waited for others {report.waiting:.0%} of the time: {instead} lets them go on."
        )
    if several and report.exchange > LARGE_SHARE:
        advice.append(
            f"Threads waited for exchanges {report.exchange:.0%} of the time, and an exchange takes "
            f"{_seconds(report.exchange_seconds)} where a round trains {_seconds(report.round_seconds)}: "
            "try a larger round_size or larger partitions, or fewer workers."
        )
    if several and report.partitions >= report.learners and report.idle > LARGE_SHARE:
        advice.append(
            f"Threads had no work {report.idle:.0%} of the time: the cluster was busy with other tasks or "
            "with loading partitions, workers came or went, or epochs are too short for so many threads."
        )
    if report.rate_scale < LOW_RATE_SCALE and report.staleness > 1:
        advice.append(
            f"Updates came {report.staleness:.1f} versions late and counted only {report.rate_scale:.2f} "
            "times on average: a smaller round_size makes them fresher, mode='ssp' bounds how late."
        )
    if report.repeated:
        advice.append(
            f"{report.repeated} visits were lost and repeated: the logs of the workers say why they left or "
            "fell silent. Too little memory is the usual cause."
        )
    return advice


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(statistics.median(known)) if known else math.nan
