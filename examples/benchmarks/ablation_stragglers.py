"""Sixteen learners, two of them slow: what is kept of the speed, and how much their rows count."""

from __future__ import annotations

from typing import Any

import numpy as np
from ablation_runs import (
    EXCHANGE_SECONDS,
    SECONDS_PER_ROW,
    SETTINGS,
    SLOWER,
    Data,
    Page,
    Run,
    number,
    percent,
    product,
    progress,
    simulate,
)
from scipy.special import expit

from skdist import LatencyBatchSizer

LEARNERS, SLOW_LEARNERS, PASSES = 16, 2, 3
ROUND_ROWS = 1280
THROUGHPUT = LatencyBatchSizer(rule="throughput")

MODES: dict[str, dict[str, Any]] = {
    "async, default": {},
    "async, collect=1": {"collect": 1},
    "ssp": {"mode": "ssp"},
    "sync": {"mode": "sync"},
    "sync, uniform": {"mode": "sync", "aggregator": "uniform"},
    "sync, uniform, equal batches": {
        "mode": "sync", "aggregator": "uniform", "batch_sizer": None, "round_size": ROUND_ROWS,
    },
    "sync, uniform, throughput": {
        "mode": "sync", "aggregator": "uniform", "batch_sizer": THROUGHPUT, "round_size": ROUND_ROWS,
    },
}  # fmt: skip

RATES: dict[str, dict[str, Any]] = {
    "auto": {},
    "invscaling, eta0=0.1": {"learning_rate": "invscaling", "eta0": 0.1},
    "the same, averaged": {"learning_rate": "invscaling", "eta0": 0.1, "average": True},
    "invscaling, power_t=0.25": {"learning_rate": "invscaling", "eta0": 0.1, "power_t": 0.25},
}

SIZINGS: dict[str, dict[str, Any]] = {
    "equal batches, auto": {"batch_sizer": None},
    "efficiency, auto": {"batch_sizer": LatencyBatchSizer()},
    f"equal batches of {ROUND_ROWS // 2}": {"batch_sizer": None, "round_size": ROUND_ROWS // 2},
    f"efficiency, B0 = {ROUND_ROWS:,}": {"batch_sizer": LatencyBatchSizer(), "round_size": ROUND_ROWS},
    f"throughput, B0 = {ROUND_ROWS // 2}": {"batch_sizer": THROUGHPUT, "round_size": ROUND_ROWS // 2},
    "asynchronous, equal batches": {"mode": "async", "batch_sizer": None},
    "asynchronous, efficiency (default)": {"mode": "async"},
}


def objective(data: Data, model: Any, rows: slice = slice(None)) -> float:
    """Return the training objective on some of the rows, mean over the one-vs-rest problems."""
    scores = data.X[rows] @ model.coef_.T + model.intercept_
    codes = np.searchsorted(model.classes_, data.y[rows])
    right = expit(np.where(codes[:, None] == np.arange(scores.shape[1]), scores, -scores))
    loss = -np.log(np.maximum(right, 1e-30)).mean()
    return float(loss + 0.5 * model.alpha * (model.coef_**2).sum() / len(model.coef_))


def slow_weight(run: Run) -> float:
    """Return the weight of a row of the slow learners' partitions, over that of another row.

    Rows belong to partitions, whoever trains them: a round has the rows of its visit. A row's weight is
    the factor of the server for the round times the weight among the updates applied together.
    """
    visits = run.model.history_.to_frame("visits")
    slow = visits["partition"] >= LEARNERS - SLOW_LEARNERS
    rows = visits["rows"].groupby(visits["visit"]).sum()
    share = visits["rows"].where(slow, 0).groupby(visits["visit"]).sum() / rows.where(rows > 0)
    of_slow = run.rounds["rows"] * run.rounds["visit"].map(share).fillna(0.0)
    of_others = run.rounds["rows"] - of_slow
    weight = run.rounds["applied"] * run.rounds["weight"]
    return (weight @ of_slow / of_slow.sum()) / (weight @ of_others / of_others.sum())


def trained_by_slow(run: Run) -> tuple[float, float]:
    """Return the share of all rows that the slow learners train themselves, and the weight of such a row."""
    slow = run.rounds["learner"].astype(int) >= LEARNERS - SLOW_LEARNERS
    rows, weight = run.rounds["rows"], run.rounds["applied"] * run.rounds["weight"]
    own, others = ((weight * rows)[chosen].sum() / rows[chosen].sum() for chosen in (slow, ~slow))
    return rows[slow].sum() / rows.sum(), own / others


def compare(data: Data, params: dict[str, Any]) -> tuple[Run, Run]:
    """Fit with equal speeds and with two slow learners."""
    slow = SETTINGS["two learners 20x slower"](LEARNERS)
    equal, uneven = (
        simulate(data, LEARNERS, setting, params, passes=PASSES, snapshots=0) for setting in ({}, slow)
    )
    return equal, uneven


def weight_cells(data: Data, equal: Run, uneven: Run) -> list[str]:
    """Return the weight of the slow learners' rows, and what two slow learners do to the objective."""
    cells = [number(slow_weight(uneven))]
    slow = slice(data.rows * (LEARNERS - SLOW_LEARNERS) // LEARNERS, None)
    for rows in (slice(None), slow):
        cells.append(percent(objective(data, uneven.model, rows) / objective(data, equal.model, rows)))
    return cells


def sorted_by_first_column(data: Data) -> Data:
    """Return the data with the rows of the highest first column at the end, where the slow learners are."""
    kept = data.rows * (LEARNERS - SLOW_LEARNERS) // LEARNERS
    return data.taking(np.argpartition(data.X[:, 0], kept), slice(None))


def bench_stragglers(page: Page, data: Data) -> None:
    """Add all tables of this section."""
    page.say("## Two slow learners of sixteen")
    page.say(
        f"Simulated, {data.name}, {PASSES} passes, {LEARNERS} learners; the last {SLOW_LEARNERS} train "
        f"{SLOWER:.0f} times slower and all else is as above. Rows are dealt out in order, so that each "
        "learner holds a part of its own. If all were busy to the end, "
        f"{(LEARNERS - SLOW_LEARNERS + SLOW_LEARNERS / SLOWER) / LEARNERS:.2f} of the speed would be kept."
    )
    kept = speed_table(page, data)
    page.figure(
        "stragglers",
        "Speed kept with two of sixteen learners 20 times slower",
        lambda f: draw(f, kept),
        (6, 2.6),
    )
    weight_table(page, data)
    latency_table(page, data)


def speed_table(page: Page, data: Data) -> dict[str, float]:
    """Add speed, loss and weights by mode; return the share of the speed that each keeps."""
    lines, kept = [], {}
    for name, params in MODES.items():
        equal, uneven = compare(data, params)
        if equal.diverged or uneven.diverged:
            lines.append([name, "diverged"] + [""] * 9)
            continue
        kept[name] = equal.seconds / uneven.seconds
        seconds, losses = (equal.seconds, uneven.seconds), (equal.loss, uneven.loss)
        cells = [*(number(cell, 4) for cell in seconds), number(kept[name]), *(number(x, 4) for x in losses)]
        share, own = trained_by_slow(uneven)
        lines.append([name, *cells, f"{share:.1%}", number(own), *weight_cells(data, equal, uneven)])
        progress(f"stragglers: {name} done")
    page.say(
        "*Kept*: virtual time at equal speeds over that with slow learners. *Trained by slow*: share of "
        "all rows that the slow learners train themselves, and the weight of such a row over that of one "
        "that others train. *Weight*: of a row of the slow learners' parts over that of another row, "
        "whoever trained it, as applied (factor of the server times weight among the updates applied "
        "together). *Objective*: what is minimised, on all training rows or on those of the slow "
        "learners, against the same fit at equal speeds; above 0 is worse. 'Equal batches' and "
        f"'throughput' have `round_size={ROUND_ROWS}`; with equal batches each learner trains exactly its "
        "own part."
    )
    page.table(
        [
            "variant", "virtual s, equal", "with slow", "kept", "loss, equal", "with slow",
            "trained by slow", "own weight", "weight", "objective", "on slow rows",
        ],
        lines,
    )  # fmt: skip
    return kept


def weight_table(page: Page, data: Data) -> None:
    """Add the same for steps that decay, where the rate scale is a cap, and for rows that differ."""
    page.say("### Do the slow learners' rows count less?")
    page.say(
        "With constant steps (`'auto'`) the rate scale is a lasting discount; with steps that decay it is "
        "a cap that lifts (its factor eta_0 / eta_t). *Alike*: rows in random order. *Different*: the "
        f"slow learners hold the rows of the highest values in the first column ({data.name}: elevation), "
        "which nobody else has."
    )
    lines = []
    for rate, collect in product(RATES, ("auto", 1)):
        cells: list[Any] = [rate, collect]
        for rows in (data, sorted_by_first_column(data)):
            equal, uneven = compare(rows, {**RATES[rate], "collect": collect})
            if equal.diverged or uneven.diverged:
                cells += ["diverged", "", ""]
            else:
                cells += weight_cells(rows, equal, uneven)
        lines.append(cells)
        progress(f"stragglers: {rate}, collect={collect} done")
    heads = [
        f"{what}, {rows}"
        for rows in ("alike", "different")
        for what in ("weight", "objective", "on slow rows")
    ]
    page.table(["learning_rate", "collect", *heads], lines)


def latency_table(page: Page, data: Data) -> None:
    """Add what the efficiency rule does where heartbeats and exchanges are late."""
    page.say("### The efficiency rule and late links")
    page.say(
        f"Heartbeats and exchanges of one or two learners take {SLOWER:.0f} times as long (*link*), or "
        "these and their training (*machine*). Virtual time per pass, and that over the line with equal "
        "batches above it; rows per round are medians of the others and of the slow ones. "
        "`mode='sync', aggregator='uniform'` but for the asynchronous lines."
    )
    lines = []
    for slow, machine in product((1, 2), (False, True)):
        late = [1.0] * (LEARNERS - slow) + [SLOWER] * slow
        setting = {"exchange_seconds": [EXCHANGE_SECONDS * factor for factor in late]}
        if machine:
            setting["seconds_per_row"] = [SECONDS_PER_ROW * factor for factor in late]
        base = 1.0
        for name, sizing in SIZINGS.items():
            params = {"mode": "sync", "aggregator": "uniform", **sizing}
            run = simulate(data, LEARNERS, setting, params, passes=PASSES, snapshots=0)
            if "equal" in name:
                base = run.seconds
            is_slow = run.rounds["learner"].astype(int) >= LEARNERS - slow
            rows = [run.rounds["rows"][chosen].median() for chosen in (~is_slow, is_slow)]
            lines.append(
                [f"{slow}, {'machine' if machine else 'link'}", name, number(run.seconds / PASSES, 4),
                 number(run.seconds / base), f"{rows[0]:,.0f} / {rows[1]:,.0f}", number(run.loss, 4)]
            )  # fmt: skip
        progress(f"stragglers: {lines[-1][0]} late done")
    page.table(["late", "rule", "virtual s per pass", "to equal batches", "rows per round", "loss"], lines)


def draw(figure: Any, kept: dict[str, float]) -> None:
    """Draw the speed that each variant keeps."""
    axis = figure.subplots()
    bars = axis.barh(list(kept), list(kept.values()), color="C0")
    axis.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("time at equal speeds over time with slow learners", fontsize=8)
    axis.tick_params(labelsize=8)
