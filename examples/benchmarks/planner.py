"""What planning costs and brings: the pressure planner against fits without one, in one run.

``python planner.py [--sections threads loading] [--repeat 7]`` prints Markdown tables. Fits take turns, and a
ratio is the median over the turns; only ratios carry to another machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait

from skdist import DistributedSGDClassifier, PressurePlanner
from skdist.cluster import partitions

SECTIONS = ("threads", "loading")

DENSE_SHAPE, DENSE_PARTITIONS, DENSE_PASSES = (300_000, 100), 16, 40

#: Rows with many classes train slowly, so that a visit to one partition takes some tenths of a second.
LAZY_SHAPE, LAZY_CLASSES, LAZY_PARTITIONS, LAZY_PASSES = (60_000, 200), 128, 8, 2


@dataclass
class Entry:
    """A planner, the seconds of its fits, and the last model."""

    name: str
    planner: Any
    times: list[float] = field(default_factory=list)
    phases: list[float] = field(default_factory=list)
    model: Any = None

    def fit(self, X: Any, y: Any, **params: Any) -> None:
        """Fit once; note the seconds of the whole and those since training began."""
        self.model = DistributedSGDClassifier("log_loss", planner=self.planner, random_state=0, **params)
        began = time.perf_counter()
        self.model.fit(X, y)
        self.times.append(time.perf_counter() - began)
        self.phases.append(self.model.history_.to_frame("rounds").time.max())

    @property
    def plans(self) -> str:
        """The plans of the last fit: threads + queue."""
        return ", ".join(f"{plan.threads} + {plan.queue}" for plan in self.model.history_.plans)


def in_turns(entries: list[Entry], repeat: int, fit: Callable[[Entry], None]) -> None:
    """Fit in turns, so that a busy spell of the machine hits all alike; the first turn does not count."""
    for turn in range(repeat + 1):
        for entry in entries if turn % 2 else reversed(entries):
            fit(entry)
            if not turn:
                entry.times.clear()
                entry.phases.clear()


def bench_threads(repeat: int) -> None:
    """Print what the planner costs on workers of several threads."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal(DENSE_SHAPE, dtype=np.float32)
    y = (X @ rng.standard_normal(DENSE_SHAPE[1]) > rng.logistic(size=len(X))).astype(np.int8)
    print(f"\n### One worker of several threads, {DENSE_SHAPE[0]:,} x {DENSE_SHAPE[1]} float32, held\n")
    print("Goal: ratio >= 0.95. The last target asks for one thread, until the guard acts.\n")
    print(
        "| threads | fit | planner | median s | ratio | plans (threads + queue) |\n|---|---|---|---|---|---|"
    )
    for threads in (4, 2):
        with (
            LocalCluster(n_workers=1, threads_per_worker=threads, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            compare_planners(f"| {threads} |", on_cluster(client, X, y), repeat)


def on_cluster(client: Client, *arrays: np.ndarray) -> list[da.Array]:
    """Put rows onto the workers, in partitions that stay there."""
    size = -(-len(arrays[0]) // DENSE_PARTITIONS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph")  # once, and before the clock runs
        rows: list[da.Array] = client.persist([da.from_array(a, chunks=(size, *a.shape[1:])) for a in arrays])
        wait(rows)
    return rows


def compare_planners(head: str, rows: list[da.Array], repeat: int) -> None:
    """Print a line for each kind of fit and each planner."""
    for name, params in (
        ("default", {}),
        (f"{DENSE_PASSES} passes", {"max_iter": DENSE_PASSES, "tol": None}),
    ):
        entries = [
            Entry("None", None),
            Entry("'auto'", "auto"),
            Entry("target 1,000 s", PressurePlanner(target_seconds=1e3)),
        ]
        in_turns(entries, repeat, lambda entry, params=params: entry.fit(*rows, **params))
        for entry in entries:
            turns = zip(entries[0].times, entry.times, strict=True)
            ratio = statistics.median(reference / seconds for reference, seconds in turns)
            median = statistics.median(entry.times)
            print(f"{head} {name} | {entry.name} | {median:.3f} | {ratio:.2f} | {entry.plans} |", flush=True)


def load(number: int, seconds: float = 0.0) -> np.ndarray:
    """Load a partition, which takes its time."""
    time.sleep(seconds)
    return np.random.default_rng(number).random(LAZY_SHAPE, dtype=np.float32)


def lazy_rows(seconds: float) -> da.Array:
    """Return rows in lazy partitions, each of which sleeps for some seconds when it is loaded."""
    loads = [dask.delayed(load)(number, seconds) for number in range(LAZY_PARTITIONS)]
    return da.concatenate([da.from_delayed(rows, LAZY_SHAPE, dtype=np.float32) for rows in loads])


def timed(function: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def bench_loading(repeat: int) -> None:
    """Print how far loading a partition hides behind training another one."""
    partitions.HELD_SHARE = 0.0  # as if the rows did not fit into memory: loaded, visited and let go
    creating = statistics.median(timed(lambda: load(0)) for _ in range(3))
    y = np.concatenate([load(number)[:, :LAZY_CLASSES].argmax(axis=1) for number in range(LAZY_PARTITIONS)])
    entries = [Entry("None", None), Entry("'auto'", "auto")]
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        for _ in range(2):  # the first one compiles
            entries[0].fit(lazy_rows(0.0), y, max_iter=1, tol=None)
        training = sum(record.seconds_compute for record in entries[0].model.history_.rounds)
        loading = max(training / LAZY_PARTITIONS, creating)
        X = lazy_rows(loading - creating)
        in_turns(entries, repeat, lambda entry: entry.fit(X, y, max_iter=LAZY_PASSES, tol=None))
    visits = LAZY_PARTITIONS * LAZY_PASSES
    training = sum(record.seconds_compute for record in entries[0].model.history_.rounds) / visits
    nothing, everything = visits * (loading + training), visits * max(loading, training)
    print(f"\n### One worker of one thread, {LAZY_PARTITIONS} lazy partitions, {LAZY_PASSES} passes\n")
    print(
        f"Not held. A partition loads in {loading:.2f} s and trains in {training:.2f} s. Seconds since "
        "training began; ratio: to the sum of both.\n"
    )
    print("| | median s | ratio | plans (threads + queue) |\n|---|---|---|---|")
    print(f"| sum: nothing overlaps | {nothing:.2f} | 1.00 | |")
    for entry in entries:
        median = statistics.median(entry.phases)
        print(f"| planner {entry.name} | {median:.2f} | {nothing / median:.2f} | {entry.plans} |")
    print(f"| maximum: all overlaps | {everything:.2f} | {nothing / everything:.2f} | |")


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--repeat", type=int, default=7, help="fits of each kind")
    options = parser.parse_args()
    if "threads" in options.sections:
        bench_threads(options.repeat)
    if "loading" in options.sections:
        bench_loading(options.repeat)


if __name__ == "__main__":
    main()
