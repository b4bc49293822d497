"""Weights by gradient volatility against uniform ones, where the learners' rows are alike and where not."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
from ablation_runs import Data, Page, Run, number, progress, simulate

from skdist.control.aggregation import InverseVolatility

LEARNERS, NOISY_LEARNERS, PASSES, SEEDS = 16, 4, 6, 3

AGGREGATORS: dict[str, Any] = {
    "uniform": "uniform",
    "std, cap 2 (default)": InverseVolatility(),
    "std, no cap": InverseVolatility(cap=None),
    "var, cap 2": InverseVolatility(statistic="var"),
    "var, no cap": InverseVolatility(statistic="var", cap=None),
}


def noisy(data: Data) -> Data:
    """Return the data with random labels in the rows of the first learners."""
    count = data.rows * NOISY_LEARNERS // LEARNERS
    y = data.y.copy()
    y[:count] = np.random.default_rng(0).choice(data.classes, count)
    return replace(data, y=y)


def by_class(data: Data) -> Data:
    """Return the data sorted by class: most learners hold rows of one."""
    return data.taking(np.argsort(data.y, kind="stable"), slice(None))


CASES = {"clean": lambda data: data, "noisy labels": noisy, "sorted by class": by_class}


def accuracy(run: Run) -> float:
    """Return the accuracy on the test rows."""
    shares = run.data.probabilities(run.model.coef_, run.model.intercept_)
    return float((run.data.classes[shares.argmax(axis=1)] == run.data.y_test).mean())


def first_weight(run: Run) -> float:
    """Return the mean weight of the first learners' rounds over that of all."""
    first = run.rounds["learner"].astype(int) < NOISY_LEARNERS
    return run.rounds["weight"][first].mean() / run.rounds["weight"].mean()


def bench_volatility(page: Page, sets: list[Data], quick: bool) -> None:
    """Add the tables of this section."""
    seeds = 1 if quick else SEEDS
    page.say("## Volatility weights")
    page.say(
        f"Simulated, `mode='sync'`, {LEARNERS} learners at equal speeds, each on its own part "
        f"(`batch_sizer=None`), {PASSES} passes, medians of {seeds} seeds; in brackets the largest "
        f"distance from the median. *Noisy labels*: those of the first {NOISY_LEARNERS} learners are drawn "
        "at random, test rows are clean. *Sorted by class*: most learners hold rows of one class. "
        f"*Weight*: mean weight of the rounds of the first {NOISY_LEARNERS} learners over that of all. The "
        "last line of each case is the asynchronous default."
    )
    lines, best = [], {}
    for data in sets:
        for case, change in CASES.items():
            changed = change(data)
            for name, aggregator in AGGREGATORS.items():
                params = {"mode": "sync", "batch_sizer": None, "aggregator": aggregator}
                cells, best[data.name, case, name] = measure(changed, params, seeds)
                lines.append([data.name, case, name, *cells])
            lines.append([data.name, case, "asynchronous", *measure(changed, {}, seeds)[0]])
            progress(f"volatility: {data.name}, {case} done")
    page.table(["data", "rows", "weights", "test log-loss", "accuracy", "weight"], lines)
    page.say(verdict(best))


def measure(data: Data, params: dict[str, Any], seeds: int) -> tuple[list[str], float]:
    """Return the cells of a line, and the median loss."""
    runs = [simulate(data, LEARNERS, None, params, passes=PASSES, seed=s, snapshots=0) for s in range(seeds)]
    if any(run.model is None for run in runs):
        return ["diverged", "", ""], math.inf
    losses = [run.loss for run in runs]
    median = statistics.median(losses)
    spread = max(abs(loss - median) for loss in losses)
    return [
        f"{median:.4f} ({spread:.4f})",
        number(statistics.median(accuracy(run) for run in runs), 4),
        number(statistics.median(first_weight(run) for run in runs)),
    ], median


def verdict(losses: dict[tuple[str, str, str], float]) -> str:
    """Return in words what the default weights do to the loss, case by case."""
    words = []
    for (data, case, name), loss in losses.items():
        if name == list(AGGREGATORS)[1]:
            change = 100 * (loss / losses[data, case, "uniform"] - 1)
            words.append(f"{data}, {case}: {change:+.1f} %")
    return (
        "Test log-loss with the default weights against uniform ones (above 0 is worse): "
        + "; ".join(words)
        + "."
    )
