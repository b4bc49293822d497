"""The stragglers again, on a cluster of real processes with one slowed worker, beside their simulation."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
from ablation_runs import Data, Page, number, percent, progress, simulate
from distributed import Client, LocalCluster, wait

from skdist import DistributedSGDClassifier, LatencyBatchSizer
from skdist.testing import slow_down

WORKERS, FACTOR, PASSES, REPEATS, PARTITIONS = 4, 5.0, 8, 5, 16

#: Ratios to that of the default closer than this count as no difference.
EVEN = 0.15

ENTRIES: dict[str, dict[str, Any]] = {
    "default": {},
    "collect=1": {"collect": 1},
    "ssp": {"mode": "ssp"},
    "sync, equal batches": {"mode": "sync", "batch_sizer": None},
    "sync, throughput": {"mode": "sync", "batch_sizer": LatencyBatchSizer(rule="throughput")},
}


@dataclass
class Fits:
    """The seconds of the fits of one kind, by whether a worker was slowed, and their last models."""

    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    models: dict[bool, Any] = field(default_factory=dict)

    def median(self, slowed: bool) -> float:
        """Return the median of the seconds."""
        return statistics.median(self.seconds[slowed])

    def cell(self, slowed: bool) -> str:
        """Return the median, and the least and the most."""
        seconds = self.seconds[slowed]
        return f"{self.median(slowed):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"

    @property
    def ratio(self) -> float:
        """How many times as long it takes with a slowed worker."""
        return self.median(True) / self.median(False)


def fit_in_turns(client: Client, data: Data, passes: int, repeats: int) -> dict[str, Fits]:
    """Fit each entry with and without a slowed worker, in turns."""
    size = -(-data.rows // PARTITIONS)
    with client.as_current():
        X, y = client.persist([da.from_array(a, chunks=(size, *a.shape[1:])) for a in (data.X, data.y)])
        wait([X, y])
    worker = sorted(client.scheduler_info(n_workers=-1)["workers"])[-1]
    fits = {name: Fits() for name in ENTRIES}
    for turn in range(repeats + 1):  # the first turn warms up
        for slowed in (False, True):
            slow_down(client, worker, FACTOR if slowed else 1)
            for name, params in ENTRIES.items():
                model = DistributedSGDClassifier(
                    "log_loss", random_state=0, max_iter=passes, tol=None, client=client, **params
                )
                began = time.perf_counter()
                model.fit(X, y)
                if turn:
                    fits[name].seconds[slowed].append(time.perf_counter() - began)
                    fits[name].models[slowed] = model
        progress(f"live: turn {turn} of {repeats} done")
    slow_down(client, worker, 1)
    return fits


def measured(fits: Fits) -> tuple[float, float]:
    """Return the seconds of a row and of an exchange, as medians of the rounds of the last fit."""
    rounds = fits.models[False].history_.to_frame("rounds")
    # A call within the server's process is not measured, nor is the first of a visit: both are 0.
    remote = rounds["seconds_exchange"][rounds["seconds_exchange"] > 0]
    return float((rounds["seconds_compute"] / rounds["rows"]).median()), float(remote.median())


def simulated_ratio(data: Data, params: dict[str, Any], row: float, exchange: float, passes: int) -> float:
    """Return how many times as long the same takes with a slowed learner, simulated."""
    seconds = []
    for factor in (1.0, FACTOR):
        setting = {
            "seconds_per_row": [row] * (WORKERS - 1) + [row * factor],
            "exchange_seconds": exchange,
            "partitions_per_learner": PARTITIONS // WORKERS,
        }
        seconds.append(simulate(data, WORKERS, setting, params, passes=passes, snapshots=0).seconds)
    return seconds[1] / seconds[0]


def agreement(live: float, simulated: float) -> str:
    """Return whether both are above the default's ratio, both below, or both near it."""
    directions = [0 if abs(value - 1) <= EVEN else int(np.sign(value - 1)) for value in (live, simulated)]
    return "yes" if directions[0] == directions[1] else "no"


def bench_live(page: Page, data: Data, quick: bool) -> None:
    """Add the table of this section."""
    passes, repeats = (4, 1) if quick else (PASSES, REPEATS)
    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        # Not the default client: what is simulated must not find a cluster.
        Client(cluster, set_as_default=False) as client,
    ):
        fits = fit_in_turns(client, data, passes, repeats)
    row, exchange = measured(fits["default"])
    lines, shares = [], {}
    for name, params in ENTRIES.items():
        entry = fits[name]
        losses = [data.loss(model.coef_, model.intercept_) for _, model in sorted(entry.models.items())]
        shares[name] = entry.ratio, simulated_ratio(data, params, row, exchange, passes)
        default = shares["default"]
        agrees = (
            ""
            if name == "default"
            else agreement(*(a / b for a, b in zip(shares[name], default, strict=True)))
        )
        lines.append(
            [name, entry.cell(False), entry.cell(True), number(entry.ratio),
             number(shares[name][1]), agrees, number(losses[0], 4), percent(losses[1] / losses[0])]
        )  # fmt: skip
    page.say("## On a live cluster")
    page.say(
        f"`LocalCluster` of {WORKERS} processes with one thread each on two cores, {data.name}, {passes} "
        f"passes, medians of {repeats} fits that took turns. One worker is slowed {FACTOR:.0f} times "
        "(`skdist.testing.slow_down`): it sleeps after each piece of training. Four processes share two "
        "cores, so that the others become faster meanwhile; a really slow machine would not give its time "
        "away, and the simulation does not. Seconds are of whole fits, in brackets the fastest and the "
        "slowest. *Ratio*: seconds with the slowed worker over those without. *Simulated*: the same ratio "
        f"under the virtual clock, {WORKERS} learners, one {FACTOR:.0f} times slower, with the seconds per "
        f"row ({row:.1e}) and per exchange ({exchange:.1e}) that the live default measured. *Agrees*: "
        f"whether the ratio is larger than the default's, smaller, or within {EVEN:.0%} of it, alike in "
        "both. *Loss*: on test rows, and its change with the slowed worker."
    )
    page.table(
        ["variant", "seconds", "one slowed", "ratio", "simulated", "agrees", "loss", "one slowed, change"],
        lines,
    )
    page.figure(
        "live", "Time with one of four workers slowed five times", lambda f: draw(f, shares), (6, 2.4)
    )


def draw(figure: Any, shares: dict[str, tuple[float, float]]) -> None:
    """Draw live and simulated ratios side by side."""
    axis = figure.subplots()
    places = np.arange(len(shares))
    for shift, column, label in ((-0.2, 0, "live"), (0.2, 1, "simulated")):
        values = [pair[column] for pair in shares.values()]
        bars = axis.barh(places + shift, values, 0.38, label=label)
        axis.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
    axis.set_yticks(places, list(shares), fontsize=8)
    axis.invert_yaxis()
    axis.axvline(1.0, color="grey", lw=0.8)
    axis.set_xlabel("time with the slowed worker over time without", fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.margins(x=0.12)
    axis.legend(fontsize=7)
