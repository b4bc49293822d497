"""The page on Dask's dashboard that shows the fits on a cluster; only the scheduler imports this module."""

from __future__ import annotations

import itertools
import math
import time
from html import escape
from typing import Any

from bokeh.layouts import column, gridplot
from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
from bokeh.models.widgets import Div, Select
from bokeh.palettes import Category10
from bokeh.plotting import figure
from distributed.dashboard.components.scheduler import BOKEH_THEME, env
from distributed.dashboard.core import BokehApplication
from distributed.dashboard.scheduler import template_variables
from tornado.ioloop import IOLoop

from skdist.cluster.board import Board, FitOnBoard

#: Its path, below the dashboard's.
ROUTE = "/skdist"

#: Between two looks at the board, in seconds.
UPDATE_SECONDS = 0.5

NEWEST = "the newest fit"

#: No more learners are drawn as bars, and no more workers named in a legend.
MOST_BARS = 20
MOST_IN_LEGEND = 8

_COLOURS = Category10[10]

_COLUMNS = {
    "curves": ["seconds", "loss", "speed"],
    "workers": ["seconds", "size", "latency", "worker", "colour"],
    "learners": ["name", "staleness", "colour"],
    "visits": ["name", "done", "colour"],
}


def add_page(scheduler: Any, board: Board) -> None:
    """Add the page to the dashboard of a scheduler, and a tab that leads to it.

    Raises
    ------
    LookupError
        Where the scheduler has no dashboard.
    """
    dashboards = [app for app in scheduler.http_application.applications if hasattr(app, "app_paths")]
    if not dashboards:
        raise LookupError("The scheduler has no dashboard.")
    tabs = template_variables(scheduler)
    application = BokehApplication(
        {ROUTE: lambda _, extra, document: show(board, extra, document)},
        scheduler,
        prefix=dashboards[0].prefix,
        template_variables=tabs,
    )
    scheduler.http_application.add_application(application)
    application.initialize(IOLoop.current())
    application.start()
    tabs["pages"].append(ROUTE.strip("/"))


def show(board: Board, extra: dict[str, Any], document: Any) -> None:
    """Fill a document of a browser, and keep it up to date as long as it is open."""
    page = Page(board)
    page.update()
    document.add_periodic_callback(page.update, int(1e3 * UPDATE_SECONDS))  # ends with the session
    document.title = "Dask: skdist"
    document.add_root(page.root)
    document.template = env.get_template("simple.html")
    document.template_variables.update(extra)
    document.theme = BOKEH_THEME


class Page:
    """The plots of one fit, and the choice between fits.

    Parameters
    ----------
    board : Board
        What there is to see.

    Attributes
    ----------
    root : Model
        Of the document.
    sources : dict of str to ColumnDataSource
        What the plots show.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._shown: tuple[str, int] = ("", -1)
        self.choice = Select(title="Fit", value="", options=[("", NEWEST)], width=480)
        self._head = Div(sizing_mode="stretch_width")
        self.sources = {
            name: ColumnDataSource({column: [] for column in _COLUMNS[name]}) for name in _COLUMNS
        }
        curves, workers = self.sources["curves"], self.sources["workers"]
        self._learners = _bars("Staleness of the stalest learners", "versions")
        self._learners.hbar(
            y="name", right="staleness", height=0.7, color="colour", source=self.sources["learners"]
        )
        self._visits = _bars("Oldest visits in flight", "% of their rows")
        self._visits.hbar(y="name", right=100, height=0.7, color="#eeeeee", source=self.sources["visits"])
        self._visits.hbar(y="name", right="done", height=0.7, color="colour", source=self.sources["visits"])
        self._sizes = _lines("Round size", "rows", workers, "size")
        plots = [
            [_curve("Loss", curves, "loss"), _curve("Rows per second", curves, "speed"), self._visits],
            [self._sizes, _lines("Heartbeat latency", "seconds", workers, "latency"), self._learners],
        ]
        grid = gridplot(plots, sizing_mode="stretch_width", height=280, toolbar_location=None)
        self.root = column(self.choice, self._head, grid, sizing_mode="stretch_width")

    def update(self) -> None:
        """Show what is new on the board."""
        fits = sorted(self._board, key=lambda fit: -fit.began)
        options = [("", NEWEST), *((fit.name, _label(fit)) for fit in fits)]
        if options != self.choice.options:
            self.choice.options = options
        chosen = self._board.get(self.choice.value) if self.choice.value else None
        fit = chosen or next(iter(fits), None)
        if fit is None:
            self._head.text = "No fit has been seen on this cluster yet."
        elif (fit.name, fit.version) != self._shown:
            self._shown = fit.name, fit.version
            self._head.text = _headline(fit)
            self._fill(fit)

    def _fill(self, fit: FitOnBoard) -> None:
        looks = fit.looks
        learners = looks[-1].learners if looks else {}
        first: dict[
            str, str
        ] = {}  # learner of each worker: all share its link, and rounds are of about one size
        for name in learners:
            first.setdefault(_worker(name), name)
        colours = dict(zip(first, itertools.cycle(_COLOURS), strict=False))
        trained = [look for look in looks if not math.isnan(look.loss)]
        lines = [
            [(look.seconds, *look.learners[name][1:]) for look in looks if name in look.learners]
            for name in first.values()
        ]
        stalest = sorted(learners, key=lambda name: -learners[name][0])[:MOST_BARS]
        self.sources["curves"].data = {
            "seconds": [look.seconds for look in trained],
            "loss": [look.loss for look in trained],
            "speed": [look.rows_per_second for look in trained],
        }
        self.sources["workers"].data = {
            "seconds": [[point[0] for point in line] for line in lines],
            "size": [[point[1] for point in line] for line in lines],
            "latency": [[point[2] for point in line] for line in lines],
            "worker": [_short(worker) for worker in first],
            "colour": list(colours.values()),
        }
        self._sizes.legend.visible = len(first) <= MOST_IN_LEGEND
        self.sources["learners"].data = {
            "name": [_short(name) for name in stalest],
            "staleness": [learners[name][0] for name in stalest],
            "colour": [colours[_worker(name)] for name in stalest],
        }
        self._learners.y_range.factors = [_short(name) for name in reversed(stalest)]
        names = [f"{_short(worker)} #{number}" for number, worker, *_ in fit.visits]
        self.sources["visits"].data = {
            "name": names,
            "done": [100 * done / max(rows, 1) for *_, done, rows in fit.visits],
            "colour": [colours.get(worker, "grey") for _, worker, *_ in fit.visits],
        }
        self._visits.y_range.factors = names[::-1]


def _worker(learner: str) -> str:
    return learner.rpartition("/")[0] or learner


def _short(learner: str) -> str:
    """Return a learner without the protocol of its worker."""
    return learner.partition("://")[2] or learner


def _label(fit: FitOnBoard) -> str:
    began = time.strftime("%H:%M:%S", time.localtime(fit.began))
    return f"{fit.estimator} at {began}, {fit.state} ({fit.name})"


def _headline(fit: FitOnBoard) -> str:
    facts = [
        f"<b>{escape(fit.estimator)}</b> {escape(fit.state)}, mode {escape(fit.mode)}",
        f"epoch {fit.epoch + 1:,} of at most {fit.max_iter:,}",
        f"loss {fit.loss:.4g}",
        f"{fit.rows_per_second:,.0f} rows/s",
        f"{fit.workers} workers",
        f"{fit.in_flight} visits in flight, {fit.under_way} training",
        *([] if math.isnan(fit.staleness) else [f"mean staleness {fit.staleness:.2f} versions"]),
        f"{fit.seconds:.1f} s",
    ]
    return " &middot; ".join(facts)


def _figure(title: str, **options: Any) -> Any:
    return figure(title=title, height=280, min_width=300, sizing_mode="stretch_width", tools="", **options)


def _curve(title: str, source: ColumnDataSource, y: str) -> Any:
    plot = _figure(title, x_axis_label="seconds")
    plot.line("seconds", y, source=source, line_width=2)
    plot.add_tools(
        HoverTool(tooltips=[("seconds", "@seconds{0.0}"), (title, f"@{y}{{0.0000a}}")], mode="vline")
    )
    plot.yaxis.formatter = NumeralTickFormatter(format="0.[000]a")
    return plot


def _lines(title: str, unit: str, source: ColumnDataSource, y: str) -> Any:
    plot = _figure(title, x_axis_label="seconds", y_axis_label=unit)
    plot.multi_line("seconds", y, color="colour", source=source, line_width=2, legend_field="worker")
    plot.add_tools(HoverTool(tooltips=[("worker", "@worker")]))
    plot.yaxis.formatter = NumeralTickFormatter(format="0.[000]a")
    plot.y_range.start = 0
    plot.legend.label_text_font_size = "8pt"
    plot.legend.orientation = "horizontal"
    plot.legend.visible = False
    plot.legend.padding = plot.legend.margin = 0
    plot.add_layout(plot.legend[0], "above")
    return plot


def _bars(title: str, unit: str) -> Any:
    plot = _figure(title, x_axis_label=unit, y_range=[])
    plot.x_range.start = 0
    plot.yaxis.major_label_text_font_size = "8pt"
    return plot
