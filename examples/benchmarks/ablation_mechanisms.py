"""One change from the default at a time, on simulated clusters; and whole default fits against goals."""

from __future__ import annotations

import math
import statistics
from typing import Any

from ablation_runs import (
    NEAR,
    SETTINGS,
    TEST_ROWS,
    Data,
    Figures,
    Page,
    Reference,
    Run,
    number,
    percent,
    product,
    progress,
    simulate,
    yes,
)

from skdist import AutoRate, LatencyBatchSizer, StalenessWindow

#: What each variant changes.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "rate_adapter=None": {"rate_adapter": None},
    "reference='mean'": {"rate_adapter": StalenessWindow(reference="mean")},
    "batch_sizer=None": {"batch_sizer": None},
    "server_momentum=0": {"server_momentum": 0.0},
    "collect=1": {"collect": 1},
    "collect=1, rate_adapter=None": {"collect": 1, "rate_adapter": None},
    "ssp": {"mode": "ssp"},
    "sync": {"mode": "sync"},
    "sync, uniform": {"mode": "sync", "aggregator": "uniform"},
    "sync, uniform, throughput": {
        "mode": "sync",
        "aggregator": "uniform",
        "batch_sizer": LatencyBatchSizer(rule="throughput"),
    },
}
DRAWN = {
    "default": "-",
    "collect=1": "--",
    "ssp": ":",
    "sync": "-",
    "sync, uniform, throughput": "--",
}

DRAWN_SETTINGS = ("equal speeds", "two learners 20x slower")
DRAWN_TICKS = (0.25, 1, 4, 16, 64)
LEAST_PERCENT = 0.3

#: Passes of a fit, by learners.
PASSES = {1: 4, 4: 4, 16: 6, 64: 10}
LEARNERS, QUICK_LEARNERS = (1, 4, 16, 64), (1, 16)
DETAILED = 16
SEEDS = 5

#: Losses and times closer than this count as equal.
EVEN_LOSS, EVEN_TIME = 0.005, 0.05

COLUMNS = {
    "speed-up": "time of the serial reference over the virtual time until the test log-loss came within "
    "1 % of the reference to stay there; '-' if it never did",
    "loss": "test log-loss at the end, and in per cent of the reference",
    "fluctuation": "standard deviation of the training losses of the last quarter of the passes, at least "
    "two passes; what still falls counts too",
    "staleness": "mean staleness of the rounds, in versions",
    "idle": "share of the learners' time in which they do not train",
    "rows per round": "median of the rounds as they were trained",
    "rounds": "rounds of all learners together",
}

Key = tuple[str, str, int, str]  # setting, data, learners, variant


def settings_for(learners: int) -> list[str]:
    """Return the settings that make sense for so many learners."""
    alone = ("equal speeds", "stuttering link")
    return [name for name in SETTINGS if learners > 1 or name in alone]


def run_all(
    sets: list[Data], references: dict[str, Reference], learners: tuple[int, ...]
) -> dict[Key, Figures]:
    """Fit each variant in each setting."""
    runs: dict[Key, Figures] = {}
    for data, count in product(sets, learners):
        near = NEAR * references[data.name].loss
        for setting, variant in product(settings_for(count), VARIANTS):
            run = simulate(data, count, SETTINGS[setting](count), VARIANTS[variant], passes=PASSES[count])
            runs[setting, data.name, count, variant] = run.figures(near)
        progress(f"mechanisms: {data.name}, {count} learners done")
    return runs


class Mechanisms:
    """The runs of this section against their references, and the tables made of them."""

    def __init__(self, sets: list[Data], references: dict[str, Reference], learners: tuple[int, ...]) -> None:
        self.sets, self.references, self.learners = [data.name for data in sets], references, learners
        self.runs = run_all(sets, references, learners)

    def speed_up(self, key: Key) -> float:
        """Return the reference time over the time until the loss is within 1 % of the reference."""
        return self.references[key[1]].seconds / self.runs[key].seconds_near

    def speed_up_cell(self, key: Key) -> str:
        """Return the speed-up, or that there is none."""
        if key not in self.runs:
            return ""
        if self.runs[key].diverged:
            return "diverged"
        return f"{self.speed_up(key):.1f}" if self.speed_up(key) else "-"

    def loss_cell(self, key: Key) -> str:
        """Return the final loss in per cent of the reference."""
        if key not in self.runs:
            return ""
        run = self.runs[key]
        ratio = run.loss / self.references[key[1]].loss
        return f"diverged ({number(run.loss)})" if run.diverged else percent(ratio)

    def pivot(self, page: Page, setting: str) -> None:
        """Add the speed-up and the loss of each variant in a setting."""
        wanted = [(name, count) for name, count in product(self.sets, self.learners)]
        wanted = [(name, count) for name, count in wanted if setting in settings_for(count)]
        heads = [f"{name} {count}" for name, count in wanted]
        for title, cell in (("speed-up", self.speed_up_cell), ("final loss", self.loss_cell)):
            page.say(f"**{setting}: {title}**, by data and learners")
            lines = [[v, *(cell((setting, name, count, v)) for name, count in wanted)] for v in VARIANTS]
            page.table(["variant", *heads], lines)

    def details(self, page: Page, setting: str, count: int) -> None:
        """Add all columns for one number of learners."""
        lines = []
        for name, variant in product(self.sets, VARIANTS):
            key = (setting, name, count, variant)
            run = self.runs[key]
            cells = [name, variant, self.speed_up_cell(key), number(run.loss, 4), self.loss_cell(key)]
            if run.rounds:
                cells += [
                    f"{run.fluctuation:.4f}", f"{run.staleness:.1f}", f"{run.idle:.0%}",
                    f"{run.rows_per_round:,.0f}", f"{run.rounds:,}",
                ]  # fmt: skip
            lines.append(cells + [""] * (10 - len(cells)))
        columns = ["data", "variant", "speed-up", "loss", "to reference", *list(COLUMNS)[2:]]
        page.table(columns, lines, folded=f"{setting}, {count} learners: all columns")

    def summary(self, page: Page, count: int) -> None:
        """Add what changes against the default: medians over the data sets."""
        lines = []
        for variant in list(VARIANTS)[1:]:
            cells = [variant]
            for setting in settings_for(count):
                pairs = [
                    ((setting, name, count, variant), (setting, name, count, "default")) for name in self.sets
                ]
                loss = [_ratio(self.runs[a], self.runs[b], "loss") for a, b in pairs]
                time = [_ratio(self.runs[a], self.runs[b], "seconds") for a, b in pairs]
                lost = sum(self.runs[a].diverged for a, _ in pairs)
                near = [self._near_ratio(*pair) for pair in pairs]
                cells.append(
                    ", ".join([_median(loss, "diverged"), _median(time, "diverged"), _median(near, "never")])
                    + (f" ({lost} diverged)" if lost else "")
                )
            lines.append(cells)
        page.say(
            f"**{count} learners**: final loss, virtual time of the same passes and time until within 1 % "
            "of the reference, each over that of the default (above 1: the default is better; 0: only the "
            "variant gets there); medians over the data sets"
        )
        page.table(["variant", *settings_for(count)], lines)

    def _near_ratio(self, variant: Key, default: Key) -> float:
        """Return the ratio of the times until near the reference; nan where neither gets there."""
        a, b = self.runs[variant].seconds_near, self.runs[default].seconds_near
        return math.nan if math.isinf(a) and math.isinf(b) else a / b

    def verdicts(self, page: Page) -> None:
        """Add in how many cases the default is better, even, or worse than each variant, and the worst."""
        lines = []
        for variant in list(VARIANTS)[1:]:
            loss, near, losses, times = [0, 0, 0, 0], [0, 0, 0, 0], {}, {}
            for setting, name, count, other in self.runs:
                if other != variant or count == 1:
                    continue
                key, default = (setting, name, count, variant), (setting, name, count, "default")
                case = f"{name} {count}, {setting}"
                losses[case] = _ratio(self.runs[key], self.runs[default], "loss")
                times[case] = self._near_ratio(key, default)
                loss[_place(losses[case], EVEN_LOSS)] += 1
                near[_place(times[case], EVEN_TIME)] += 1
            lines.append([variant, *loss[:3], _worst(losses), *near, _worst(times)])
        page.say(
            "**The default against each variant**, all cases of more than one learner. Losses within "
            f"{EVEN_LOSS:.1%} and times within {EVEN_TIME:.0%} are even. *Worst*: the case in which the "
            "default loses most, and how many times its loss or its time is that of the variant."
        )
        words = [f"default {word}" for word in ("better", "even", "worse")]
        heads = [f"loss: {words[0]}", *words[1:], "worst", f"time to 1 %: {words[0]}", *words[1:]]
        page.table(["variant", *heads, "neither gets there", "worst"], lines)

    def draw_speed_up(self, figure: Any) -> None:
        """Draw the speed-up over the learners, with and without slow ones."""
        axes = figure.subplots(2, len(self.sets), sharex=True, squeeze=False)
        for (row, setting), (column, name) in product(enumerate(DRAWN_SETTINGS), enumerate(self.sets)):
            axis = axes[row, column]
            for variant, style in DRAWN.items():
                keys = [(setting, name, count, variant) for count in self.learners]
                keys = [key for key in keys if key in self.runs and self.speed_up(key)]
                axis.plot(
                    [key[2] for key in keys], [self.speed_up(key) for key in keys], style,
                    marker="o", ms=3, label=variant,
                )  # fmt: skip
            axis.set_xscale("log", base=4)
            axis.set_yscale("log", base=2)
            axis.set_xticks(self.learners, self.learners)
            axis.set_yticks(DRAWN_TICKS, DRAWN_TICKS)
            axis.set_ylim(DRAWN_TICKS[0] / 2, DRAWN_TICKS[-1])
            axis.set_title(f"{name}, {setting}", fontsize=8)
            axis.tick_params(labelsize=7)
        axes[0, 0].legend(fontsize=6)
        figure.supxlabel("learners", fontsize=8)
        figure.supylabel("speed-up to within 1 % of the reference", fontsize=8)

    def draw_curves(self, figure: Any) -> None:
        """Draw the test loss over the virtual time, with and without slow learners."""
        axes = figure.subplots(2, len(self.sets), squeeze=False)
        for (row, setting), (column, name) in product(enumerate(DRAWN_SETTINGS), enumerate(self.sets)):
            axis, reference = axes[row, column], self.references[name]
            for variant, style in DRAWN.items():
                run = self.runs[setting, name, DETAILED, variant]
                if not run.diverged:
                    seconds, losses = zip(*run.curve, strict=True)
                    above = [max(100 * (loss / reference.loss - 1), LEAST_PERCENT) for loss in losses]
                    axis.plot(seconds, above, style, label=variant)
            axis.axhline(100 * (NEAR - 1), color="grey", lw=0.8, ls=":")
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_ylim(LEAST_PERCENT, 200)
            axis.set_title(f"{name}, {setting}", fontsize=8)
            axis.tick_params(labelsize=7, which="both")
        axes[0, 0].legend(fontsize=6)
        figure.supylabel("test log-loss above that of the reference, per cent", fontsize=8)
        figure.supxlabel("virtual seconds", fontsize=8)


def _ratio(run: Figures, default: Figures, attribute: str) -> float:
    """Return the ratio to the default; infinite where only the variant diverged."""
    if run.diverged or default.diverged:
        return math.nan if default.diverged else math.inf
    return getattr(run, attribute) / getattr(default, attribute)


def _median(values: list[float], infinite: str) -> str:
    """Return the median of the values there are, or the word for an infinite one."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    median = statistics.median(known)
    return f"{median:.2f}" if math.isfinite(median) else infinite


def _worst(ratios: dict[str, float]) -> str:
    """Return the case of the least ratio, and the ratio of the default to the variant there."""
    known = {case: ratio for case, ratio in ratios.items() if not math.isnan(ratio)}
    case = min(known, key=known.__getitem__, default="")
    if not case or known[case] >= 1:
        return "-"
    return f"{case}: {1 / known[case]:.2f}" if known[case] else f"{case}: only the variant gets there"


def _place(ratio: float, even: float) -> int:
    """Return 0 where the default is better, 1 where both are even, 2 where it is worse, 3 without a ratio."""
    if math.isnan(ratio):
        return 3
    return 0 if ratio > 1 + even else 2 if ratio < 1 - even else 1


def bench_mechanisms(page: Page, sets: list[Data], references: dict[str, Reference], quick: bool) -> None:
    """Add the tables of the variants."""
    learners = QUICK_LEARNERS if quick else LEARNERS
    table = Mechanisms(sets, references, learners)
    passes = ", ".join(f"{PASSES[count]} for {count}" for count in learners)
    page.say("## Mechanisms, one at a time")
    page.say(
        f"Simulated; fixed passes, by learners: {passes}. A row takes 1e-6 virtual seconds, an exchange "
        "640e-6 (ten mini-batches of 64 rows). Each variant changes one thing of "
        "`DistributedSGDClassifier(loss='log_loss', random_state=0)`; 'reference='mean'' is "
        "`rate_adapter=StalenessWindow(reference='mean')`, 'throughput' "
        "`batch_sizer=LatencyBatchSizer(rule='throughput')`. 'Diverged': an error, or an end no better "
        "than guessing all classes alike. On a stuttering link each learner's exchange is 20 times longer "
        f"during a quarter of the time. Test losses are on at most {TEST_ROWS:,} rows."
    )
    page.say("### What each mechanism brings")
    page.say(
        "`rate_adapter` is the window of staleness, `batch_sizer` the rounds sized by latency, the "
        "weights of 'sync' those by volatility. `collect='auto'` (an update of each learner makes a "
        "version) and `server_momentum` are what the asynchronous default has beyond them; 'collect=1' "
        "applies each update alone, without momentum."
    )
    for count in learners[1:]:
        table.summary(page, count)
    table.verdicts(page)
    scatter(page, sets, references)
    size = (8.5, 4.6)
    page.figure("speed-up", "Speed-up against the serial reference", table.draw_speed_up, size)
    page.figure("curves", f"Test loss of {DETAILED} learners over virtual time", table.draw_curves, size)
    page.say("### By setting")
    page.say("\n".join(f"- *{name}*: {text}." for name, text in COLUMNS.items()))
    for setting in SETTINGS:
        table.pivot(page, setting)
        table.details(page, setting, DETAILED)


def scatter(page: Page, sets: list[Data], references: dict[str, Reference]) -> None:
    """Add how much the default varies with the seed: what is smaller says nothing."""
    words = []
    for data in sets:
        losses = [
            simulate(data, DETAILED, passes=PASSES[DETAILED], seed=seed, snapshots=0).loss
            for seed in range(SEEDS)
        ]
        least, most = min(losses), max(losses)
        words.append(f"{data.name} {100 * (most - least) / references[data.name].loss:.2f} %")
    page.say(
        f"Final losses of the default over {SEEDS} seeds ({DETAILED} learners at equal speeds) lie within, "
        f"in per cent of the reference: {', '.join(words)}. Smaller differences say nothing."
    )


#: Goals of whole default fits at equal speeds: data, learners, share of the reference time, ratio of the
#: losses, passes.
BARS = (
    ("covtype", 1, math.inf, 1.005, 3),
    ("covtype", 16, 1 / 10, 1.01, math.inf),
    ("covtype", 64, 1 / 16, 1.02, math.inf),
    ("fashion-mnist", 16, 1 / 5, 1.02, math.inf),
)


def bench_defaults(page: Page, sets: list[Data], references: dict[str, Reference], quick: bool) -> None:
    """Add whole default fits, which decide themselves when to stop, and the goals for them."""
    page.say("## Whole default fits")
    page.say(
        "Simulated; `tol` as by default. *Passes*: made until the fit stopped by itself. *Time*: virtual, "
        "as a share of that of the serial reference. *Loss*: test log-loss against that of the reference."
    )
    fits: dict[tuple[Any, ...], Run] = {}
    lines = []
    for data, count in product(sets, QUICK_LEARNERS if quick else LEARNERS):
        reference = references[data.name]
        for setting in settings_for(count):
            cells: list[Any] = [data.name, count, setting]
            for scale in (1.0, 4.0):
                params = {"learning_rate": AutoRate(scale)}
                run = simulate(data, count, SETTINGS[setting](count), params, snapshots=0)
                if run.diverged:
                    cells += ["", "", "diverged"]
                else:
                    cells += [
                        run.model.n_iter_, f"{run.seconds / reference.seconds:.3f}",
                        percent(run.loss / reference.loss),
                    ]  # fmt: skip
                fits[data.name, count, setting, scale] = run
            lines.append(cells)
        progress(f"defaults: {data.name}, {count} learners done")
    heads = [f"{word}, scale {scale}" for scale in (1, 4) for word in ("passes", "time", "loss")]
    page.say("### Goals")
    goals = []
    for name, count, share, ratio, passes in BARS:
        if (name, count, "equal speeds", 1.0) not in fits:
            continue
        cells = [f"{name}, {count} learners", _goal(share, ratio, passes)]
        for scale in (1.0, 4.0):
            run, reference = fits[name, count, "equal speeds", scale], references[name]
            reached = (run.seconds / reference.seconds, run.loss / reference.loss, run.model.n_iter_)
            good = reached[0] <= share and reached[1] <= ratio and reached[2] <= passes
            cells.append(f"{yes(good)}: {reached[0]:.3f}, {percent(reached[1])}, {reached[2]} passes")
        goals.append(cells)
    page.table(["fit", "goal", "scale 1 (default)", "scale 4"], goals)
    page.say("### All fits")
    page.table(["data", "learners", "setting", *heads], lines)


def _goal(share: float, ratio: float, passes: float) -> str:
    words = [f"loss within {100 * (ratio - 1):.1f} %"]
    if math.isfinite(share):
        words.append(f"time <= 1/{1 / share:.0f}")
    if math.isfinite(passes):
        words.append(f"at most {passes} passes")
    return ", ".join(words)
