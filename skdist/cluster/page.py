"""The page on Dask's dashboard that shows the fits on a cluster; only the scheduler imports this module."""

from __future__ import annotations

import itertools
import math
import time
import weakref
from html import escape
from typing import Any

from bokeh.layouts import column, gridplot
from bokeh.models import ColumnDataSource, HoverTool
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

_COLOURS = Category10[10]


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
    # Weakly, as the document holds its callbacks: who leaves the page leaves nothing behind.
    looks = weakref.WeakMethod(page.update)

    def update() -> None:
        look = looks()
        if look is not None:
            look()

    document.add_periodic_callback(update, int(1e3 * UPDATE_SECONDS))
    document.on_session_destroyed(lambda _, page=page: page.close())
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
        self._choice = Select(title="Fit", value="", options=[("", NEWEST)], width=420)
        self._head = Div(sizing_mode="stretch_width")
        self.sources = {
            "looks": ColumnDataSource(
                {"seconds": [], "loss": [], "speed": [], "staleness": [], "visits": []}
            ),
            "lines": ColumnDataSource(
                {"seconds": [], "size": [], "latency": [], "late": [], "worker": [], "colour": []}
            ),
            "learners": ColumnDataSource({"name": [], "late": [], "colour": []}),
            "visits": ColumnDataSource({"what": [], "done": [], "learner": [], "rows": [], "colour": []}),
        }
        self._learners = _bars("Staleness by learner", "versions", "late", self.sources["learners"], "name")
        self._visits = _bars("Visits in flight", "% of their rows", "done", self.sources["visits"], "what")
        self._visits.x_range.start, self._visits.x_range.end = 0, 100
        looks, lines = self.sources["looks"], self.sources["lines"]
        plots = [
            [_curve("Loss", looks, "loss"), _curve("Rows per second", looks, "speed"), self._visits],
            [
                _lines("Round size", "rows", lines, "size"),
                _lines("Heartbeat latency", "seconds", lines, "latency"),
                self._learners,
            ],
        ]
        grid = gridplot(plots, sizing_mode="stretch_width", height=280, toolbar_location=None)
        self.root = column(self._choice, self._head, grid, sizing_mode="stretch_width")

    def update(self) -> None:
        """Show what is new on the board."""
        fits = sorted(self._board, key=lambda fit: -fit.began)
        options = [("", NEWEST), *((fit.name, _label(fit)) for fit in fits)]
        if options != self._choice.options:
            self._choice.options = options
        chosen = self._board.get(self._choice.value) if self._choice.value else None
        fit = chosen or next(iter(fits), None)
        if fit is None:
            self._head.text = "No fit has run on this cluster yet."
        elif (fit.name, fit.version) != self._shown:
            self._shown = fit.name, fit.version
            self._head.text = _headline(fit)
            self._fill(fit)

    def close(self) -> None:
        """Forget the board: nobody looks at the page any more."""
        self._board = Board()

    def _fill(self, fit: FitOnBoard) -> None:
        looks = fit.looks
        names = list(looks[-1].learners) if looks else []
        workers = dict.fromkeys(_worker(name) for name in names)
        colours = dict(zip(workers, itertools.cycle(_COLOURS), strict=False))
        self.sources["looks"].data = {
            "seconds": [look.seconds for look in looks],
            "loss": [look.loss for look in looks],
            "speed": [look.rows_per_second for look in looks],
            "staleness": [look.staleness for look in looks],
            "visits": [look.in_flight for look in looks],
        }
        # One learner stands for its worker: all share the link, and their rounds are of about one size.
        first = {worker: next(n for n in names if _worker(n) == worker) for worker in workers}
        series = {
            worker: [(look.seconds, *look.learners[name]) for look in looks if name in look.learners]
            for worker, name in first.items()
        }
        self.sources["lines"].data = {
            "seconds": [[values[0] for values in line] for line in series.values()],
            "late": [[values[1] for values in line] for line in series.values()],
            "size": [[values[2] for values in line] for line in series.values()],
            "latency": [[values[3] for values in line] for line in series.values()],
            "worker": list(series),
            "colour": [colours[worker] for worker in series],
        }
        if names:
            self._learners.y_range.factors = [_short(name) for name in reversed(names)]
            self.sources["learners"].data = {
                "name": [_short(name) for name in names],
                "late": [looks[-1].learners[name][0] for name in names],
                "colour": [colours[_worker(name)] for name in names],
            }
        what = [f"{_short(learner)}: visit {number}" for number, learner, *_ in fit.visits]
        self._visits.y_range.factors = what[::-1]
        self.sources["visits"].data = {
            "what": what,
            "learner": [visit[1] for visit in fit.visits],
            "done": [100 * done / max(rows, 1) for *_, done, rows in fit.visits],
            "rows": [visit[-1] for visit in fit.visits],
            "colour": [colours.get(_worker(visit[1]), "grey") for visit in fit.visits],
        }


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
        *([] if math.isnan(fit.staleness) else [f"mean staleness {fit.staleness:.2f} versions"]),
        f"{fit.seconds:.1f} s",
    ]
    return " &middot; ".join(facts)


def _figure(title: str, **options: Any) -> Any:
    return figure(title=title, height=280, min_width=300, sizing_mode="stretch_width", tools="", **options)


def _curve(title: str, source: ColumnDataSource, y: str) -> Any:
    plot = _figure(title, x_axis_label="seconds")
    plot.line("seconds", y, source=source, line_width=2)
    plot.scatter("seconds", y, source=source, size=4)
    plot.add_tools(HoverTool(tooltips=[("seconds", "@seconds{0.0}"), (title, f"@{y}{{0.0000a}}")]))
    return plot


def _lines(title: str, unit: str, source: ColumnDataSource, y: str) -> Any:
    plot = _figure(title, x_axis_label="seconds", y_axis_label=unit)
    plot.multi_line("seconds", y, color="colour", source=source, line_width=2)
    plot.add_tools(HoverTool(tooltips=[("worker", "@worker")]))
    plot.y_range.start = 0
    return plot


def _bars(title: str, unit: str, x: str, source: ColumnDataSource, y: str) -> Any:
    plot = _figure(title, x_axis_label=unit, y_range=[])
    plot.hbar(y=y, right=x, left=0, height=0.7, color="colour", source=source)
    plot.add_tools(HoverTool(tooltips=[("", f"@{y}"), (unit, f"@{x}{{0.0}}")]))
    plot.x_range.start = 0
    return plot
