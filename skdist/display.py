"""Pictures of a fit, in scikit-learn's convention of displays; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skdist.history import History
from skdist.records import VisitRecord

#: No more workers are named in a legend, and no more lanes in the chart of visits.
MOST_NAMES = 10

#: No more rounds of a worker are drawn as a line: of more, every n-th is.
MOST_POINTS = 2_000


class TrainingDisplay:
    """How a fit went: losses, staleness, sizes of rounds, links, and who did what when.

    It is made by `from_estimator`, or of a `History`.

    Parameters
    ----------
    history : History
        Of a fit; with ``partial_fit`` of all calls.
    estimator_name : str, default=None
        Title of the picture.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        Of each panel, in their order.
    ax_ : matplotlib Axes
        Of the first one.
    figure_ : matplotlib Figure
        That they belong to.
    panels_ : tuple of str
        What was drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from skdist import DistributedSGDClassifier, TrainingDisplay
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((2000, 5))
    >>> clf = DistributedSGDClassifier(max_iter=5, tol=None).fit(X, X[:, 0] > 0)
    >>> display = TrainingDisplay.from_estimator(clf, panels=["loss", "visits"])
    >>> display.axes_.shape
    (2,)
    """

    #: Names of the panels: the loss by epoch and by time, a histogram of the staleness of updates, the factor
    #: that they counted with, rows of rounds, efficiency of links, and a chart of visits.
    PANELS = ("loss", "loss_by_time", "staleness", "rate_scale", "round_size", "efficiency", "visits")

    def __init__(self, history: History, *, estimator_name: str | None = None) -> None:
        self.history, self.estimator_name = history, estimator_name

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, panels: str | Sequence[str] | None = None
    ) -> TrainingDisplay:
        """Draw how the fit of an estimator went.

        Parameters
        ----------
        estimator : estimator
            A fitted one of this package, a `Pipeline` that ends with one, or a search whose best one it is.
        ax, panels
            As in `plot`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Where it is not fitted.
        TypeError
            Where it is none of this package.
        ImportError
            Where matplotlib is not installed.
        """
        check_is_fitted(estimator)
        ours = estimator
        while hasattr(ours, "best_estimator_") or hasattr(ours, "steps"):
            ours = ours.best_estimator_ if hasattr(ours, "best_estimator_") else ours.steps[-1][1]
        if not isinstance(getattr(ours, "history_", None), History):
            raise TypeError(
                f"{type(ours).__name__} has no history of its training: TrainingDisplay is for the "
                "estimators of skdist, alone or as the last step of a Pipeline."
            )
        return cls(ours.history_, estimator_name=type(ours).__name__).plot(ax, panels=panels)

    def plot(self, ax: Any = None, *, panels: str | Sequence[str] | None = None) -> TrainingDisplay:
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of Axes, default=None
            One for each panel; None makes a figure.
        panels : str or sequence of str, default=None
            Some of `PANELS`; None draws all.

        Returns
        -------
        TrainingDisplay
            Itself, with `axes_` and `figure_`.

        Raises
        ------
        ValueError
            For unknown panels, and for another number of axes than panels.
        ImportError
            Where matplotlib is not installed.
        """
        names = self.PANELS if panels is None else (panels,) if isinstance(panels, str) else tuple(panels)
        unknown = [name for name in names if name not in self.PANELS]
        if unknown or not names:
            raise ValueError(f"panels must be some of {', '.join(self.PANELS)}, got {panels!r}.")
        axes = _new_axes(len(names)) if ax is None else np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != len(names):
            raise ValueError(
                f"{len(names)} panels need as many axes, got {len(axes)}: choose some with panels=..."
            )
        for each, name in zip(axes, names, strict=True):
            getattr(self, f"_draw_{name}")(each)
        self.axes_, self.ax_, self.panels_ = axes, axes[0], names
        self.figure_ = axes[0].figure
        if ax is None and self.estimator_name is not None:
            self.figure_.suptitle(self.estimator_name)
        return self

    def _draw_loss(self, ax: Any) -> None:
        self._draw_losses(ax, [epoch.epoch + 1 for epoch in self.history.epochs], "epoch")

    def _draw_loss_by_time(self, ax: Any) -> None:
        ended: dict[int, float] = defaultdict(float)
        for round_ in self.history.rounds:
            ended[round_.epoch] = max(ended[round_.epoch], round_.time)
        self._draw_losses(ax, [ended[epoch.epoch] for epoch in self.history.epochs], "seconds")

    def _draw_losses(self, ax: Any, x: Sequence[float], label: str) -> None:
        epochs = self.history.epochs
        marker = "o" if len(epochs) < 30 else None
        ax.plot(x, [epoch.loss for epoch in epochs], marker=marker, markersize=3, label="training")
        if any(not math.isnan(epoch.val_loss) for epoch in epochs):
            values = [epoch.val_loss for epoch in epochs]
            ax.plot(x, values, marker=marker, markersize=3, label="validation")
            ax.legend()
        ax.set(xlabel=label, ylabel="loss")

    def _draw_staleness(self, ax: Any) -> None:
        values = [round_.staleness for round_ in self.history.rounds]
        edges = np.arange(-0.5, max(values, default=0) + 1.5)
        if len(edges) > 40:
            edges = np.linspace(-0.5, edges[-1], 40)
        ax.hist(values, bins=edges)
        ax.set(xlabel="staleness in versions", ylabel="updates")

    def _draw_rate_scale(self, ax: Any) -> None:
        for name, rounds in self._by_worker():
            times, values = [each.time for each in rounds], [each.applied for each in rounds]
            ax.plot(times, values, ".", markersize=3, label=name)
        ax.set(xlabel="seconds", ylabel="rate scale", ylim=(0, None))
        _legend(ax)

    def _draw_round_size(self, ax: Any) -> None:
        self._draw_lines(ax, "round_size", "round size in rows")

    def _draw_efficiency(self, ax: Any) -> None:
        self._draw_lines(ax, "efficiency", "efficiency of the link")
        ax.set_ylim(0, 1.05)

    def _draw_lines(self, ax: Any, column: str, label: str) -> None:
        for name, rounds in self._by_worker():
            values = [getattr(each, column) for each in rounds]
            ax.plot([each.time for each in rounds], values, drawstyle="steps-post", linewidth=1, label=name)
        ax.set(xlabel="seconds", ylabel=label)
        _legend(ax)

    def _draw_visits(self, ax: Any) -> None:
        lanes = _lanes(self.history)
        for place, (_, visits) in enumerate(lanes):
            # Epochs that follow one another differ; what was trained again stands out.
            colours = ["tab:red" if visit.attempt > 1 else f"C{visit.epoch % 2}" for visit in visits]
            bars = [(visit.time, visit.seconds) for visit in visits]
            ax.broken_barh(bars, (place - 0.4, 0.8), facecolors=colours, edgecolor="white", linewidth=0.3)
        names = [name for name, _ in lanes]
        ax.set(xlabel="seconds", ylabel="visits by learner", ylim=(max(len(lanes), 1) - 0.5, -0.5))
        ax.set_yticks(range(len(names)), names) if len(names) <= MOST_NAMES else ax.set_yticks([])

    def _by_worker(self) -> Iterable[tuple[str, list[Any]]]:
        """Give the rounds of each worker in the order of their times, thinned out."""
        own: dict[str, list[Any]] = defaultdict(list)
        for round_ in self.history.rounds:
            own[round_.worker].append(round_)
        for worker, rounds in own.items():
            rounds.sort(key=lambda each: each.time)
            yield _short(worker), rounds[:: 1 + len(rounds) // MOST_POINTS]


def _short(worker: str) -> str:
    """Return an address without its protocol."""
    return worker.partition("://")[2] or worker


def _lanes(history: History) -> list[tuple[str, list[VisitRecord]]]:
    """Return the visits of each learner, those of one worker next to one another."""
    # Rounds know who trained, and the numbers of visits are unique within an epoch.
    learners = {(each.visit, each.epoch): (each.worker, each.learner) for each in history.rounds}
    lanes: dict[tuple[str, str], list[VisitRecord]] = defaultdict(list)
    for visit in history.visits:
        learner = learners.get((visit.visit, visit.epoch))
        if learner is not None and not math.isnan(visit.time + visit.seconds):
            lanes[learner].append(visit)
    return [(_short(learner), lanes[worker, learner]) for worker, learner in sorted(lanes)]


def _legend(ax: Any) -> None:
    if 1 < len(ax.get_lines()) <= MOST_NAMES:
        ax.legend(fontsize="x-small")


def _new_axes(count: int) -> np.ndarray:
    """Return the axes of a new figure, two in a row; the last one takes the width that is left."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "TrainingDisplay draws with matplotlib, which is not installed. Install it with: "
            "pip install 'dask-skdist[plot]'"
        ) from error
    columns, rows = min(count, 2), -(-count // 2)
    figure = pyplot.figure(figsize=(5 * columns, 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    places = [grid[place // columns, place % columns] for place in range(count)]
    if count % 2 and count > 1:
        places[-1] = grid[rows - 1, :]
    axes = np.empty(count, dtype=object)
    axes[:] = [figure.add_subplot(place) for place in places]
    return axes
