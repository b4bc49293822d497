import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier, History, TrainingDisplay
from skdist.testing import SimulatedCluster

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402  after the choice of the backend

rng = np.random.default_rng(0)
X = rng.standard_normal((4_000, 6))
Y = X[:, 0] + rng.standard_normal(len(X)) > 0


def classifier(**params):
    return DistributedSGDClassifier(
        **{"loss": "log_loss", "random_state": 0, "max_iter": 4, "tol": None, **params}
    )


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def stale():
    """A classifier that three learners trained, one of them slow."""
    with SimulatedCluster(3, seconds_per_row=[1e-6, 1e-6, 5e-6], exchange_seconds=1e-4):
        return classifier(early_stopping=True).fit(X, Y)


def heights(ax):
    return [patch.get_height() for patch in ax.patches]


def bars_of(ax):
    """Return begin and end of each bar of a chart of visits, by lane."""
    return [
        [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in lane.get_paths()]
        for lane in ax.collections
    ]


def test_all_panels_of_a_fit_on_several_workers(stale):
    display = TrainingDisplay.from_estimator(stale)
    assert display.panels_ == TrainingDisplay.PANELS
    assert display.axes_.shape == (7,)
    assert display.ax_ is display.axes_[0]
    assert set(display.figure_.axes) == set(display.axes_)
    assert display.figure_.get_suptitle() == "DistributedSGDClassifier"
    display.figure_.canvas.draw()
    panels = dict(zip(display.panels_, display.axes_, strict=True))
    history = stale.history_
    training, validation = panels["loss"].get_lines()
    np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(training.get_ydata(), stale.loss_curve_)
    np.testing.assert_array_equal(validation.get_ydata(), [epoch.val_loss for epoch in history.epochs])
    times = panels["loss_by_time"].get_lines()[0].get_xdata()
    assert list(times) == sorted(times)
    assert times[-1] == max(record.time for record in history.rounds)
    late = [record.staleness for record in history.rounds]
    assert heights(panels["staleness"]) == [late.count(n) for n in range(int(max(late)) + 1)]
    for panel, column in (
        ("round_size", "round_size"),
        ("efficiency", "efficiency"),
        ("rate_scale", "applied"),
    ):
        lines = panels[panel].get_lines()
        assert [line.get_label() for line in lines] == ["0", "1", "2"]
        for line in lines:
            own = [record for record in history.rounds if record.worker == line.get_label()]
            np.testing.assert_array_equal(line.get_ydata(), [getattr(record, column) for record in own])
    lanes = bars_of(panels["visits"])
    assert len(lanes) == 3
    assert sum(map(len, lanes)) == len(history.visits)
    for lane in lanes:  # a learner is in one place at a time
        lane.sort()
        assert all(end <= begin + 1e-9 for (_, end), (begin, _) in itertools.pairwise(lane))


def test_a_fit_without_staleness_has_all_panels_too():
    display = TrainingDisplay.from_estimator(classifier().fit(X, Y))
    display.figure_.canvas.draw()
    panels = dict(zip(display.panels_, display.axes_, strict=True))
    assert len(panels["loss"].get_lines()) == 1
    assert len(heights(panels["staleness"])) == 1
    assert panels["loss"].get_legend() is None
    assert len(bars_of(panels["visits"])) == 1


def test_the_calls_of_partial_fit_follow_one_another():
    clf = classifier(n_jobs=2)
    for _ in range(3):
        clf.partial_fit(X, Y, classes=[False, True])
    epochs, times, visits = TrainingDisplay.from_estimator(
        clf, panels=["loss", "loss_by_time", "visits"]
    ).axes_
    assert list(epochs.get_lines()[0].get_xdata()) == [1, 2, 3]
    ends = list(times.get_lines()[0].get_xdata())
    begins = [fit.time for fit in clf.history_.fits]
    assert begins[0] == 0 < ends[0] <= begins[1] < ends[1] <= begins[2] < ends[2]
    assert sum(map(len, bars_of(visits))) == len(clf.history_.visits)


def test_panels_go_into_given_axes(stale):
    figure, (left, right) = pyplot.subplots(1, 2)
    display = TrainingDisplay.from_estimator(stale, ax=[left, right], panels=["loss", "staleness"])
    assert list(display.axes_) == [left, right]
    assert display.figure_ is figure
    assert not figure.get_suptitle()
    alone = TrainingDisplay(stale.history_).plot(left, panels="visits")
    assert alone.ax_ is left
    with pytest.raises(ValueError, match="7 panels need as many axes, got 1"):
        display.plot(left)
    with pytest.raises(ValueError, match=r"loss, loss_by_time, .*'weights'"):
        display.plot(panels=["loss", "weights"])


def test_visits_that_nobody_has_timed_are_left_out(stale):
    visits = [visit._replace(time=math.nan) for visit in stale.history_.visits]
    (ax,) = TrainingDisplay(History(stale.history_.rounds, visits)).plot(panels="visits").axes_
    assert not ax.collections
    TrainingDisplay(History()).plot().figure_.canvas.draw()


def test_pipelines_and_searches_are_unwrapped():
    pipe = make_pipeline(StandardScaler(), classifier(max_iter=2)).fit(X, Y)
    search = GridSearchCV(pipe, {"distributedsgdclassifier__alpha": [1e-4, 1e-3]}, cv=2).fit(X, Y)
    for fitted, ours in ((pipe, pipe[-1]), (search, search.best_estimator_[-1])):
        assert TrainingDisplay.from_estimator(fitted, panels="loss").history is ours.history_


def test_what_has_no_history_is_refused():
    with pytest.raises(NotFittedError):
        TrainingDisplay.from_estimator(classifier())
    with pytest.raises(NotFittedError):
        TrainingDisplay.from_estimator(make_pipeline(StandardScaler(), classifier()))
    with pytest.raises(TypeError, match="SGDClassifier has no history of its training"):
        TrainingDisplay.from_estimator(SGDClassifier().fit(X, Y))


def test_without_matplotlib_the_error_names_the_extra():
    code = """
import sys
sys.modules["matplotlib"] = None
from skdist import History, TrainingDisplay
try:
    TrainingDisplay(History()).plot()
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'dask-skdist[plot]'" in run.stdout
    code = "import sys, skdist; skdist.TrainingDisplay(skdist.History()); print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "False\n"
