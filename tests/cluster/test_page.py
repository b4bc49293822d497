"""The page on the dashboard, as a browser gets it."""

from __future__ import annotations

import urllib.error
import urllib.request

import dask
import dask.array as da
import pytest
from distributed import Client, LocalCluster

from skdist import DistributedSGDClassifier
from skdist.cluster import board as boards
from skdist.cluster.board import NAME, Board
from skdist.cluster.visits import Visits
from tests.cluster.conftest import assert_clean, wait_for
from tests.cluster.endless import EndlessFit
from tests.cluster.test_board import message

pytest.importorskip("bokeh")

from bokeh.client import pull_session
from bokeh.models import ColumnDataSource
from bokeh.models.widgets import Div, Select

from skdist.cluster.page import MOST_BARS, Page


@pytest.fixture
def own():
    """A cluster of our own: no other fit was on its board."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def lazy(binary):
    X, y = binary
    return da.from_array(X, chunks=(1_000, -1)), da.from_array(y, chunks=1_000)


def address(client):
    return client.dashboard_link.replace("/status", "/skdist")


def board_on(client):
    return client.cluster.scheduler.extensions.get(NAME)


def classifier(client, **params):
    return DistributedSGDClassifier("log_loss", random_state=0, client=client, **params)


def page_on(client):
    """Return the application of the page."""
    _, application = client.cluster.scheduler.http_application.applications
    return application


class Browser:
    """A page that is open; what it shows is read where it is made, in the scheduler of this process."""

    def __init__(self, client):
        self._session = pull_session(url=address(client))
        (shown,) = page_on(client).get_sessions("/skdist")
        self.document = shown.document

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._session.close()

    def column(self, name):
        """Return the column of the source that has it, as the page shows it now."""
        sources = self.document.select({"type": ColumnDataSource})
        (values,) = [source.data[name] for source in sources if name in source.data]
        return list(values)

    @property
    def head(self):
        return self.document.select_one({"type": Div}).text

    @property
    def choice(self):
        return self.document.select_one({"type": Select})


def test_the_page_is_there_after_a_fit_that_did_nothing_for_it(own, lazy):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(address(own), timeout=30)
    classifier(own, max_iter=2, tol=None).fit(*lazy)
    with urllib.request.urlopen(address(own), timeout=30) as reply:
        assert 'href="skdist"' in reply.read().decode()
    with urllib.request.urlopen(own.dashboard_link, timeout=30) as reply:
        assert 'href="skdist"' in reply.read().decode()  # the tab
    classifier(own, max_iter=2, tol=None).fit(*lazy)
    assert len(own.cluster.scheduler.http_application.applications) == 2
    assert_clean(own)
    assert [fit.state for fit in board_on(own)] == ["complete"] * 2


def test_a_page_that_is_open_follows_the_fit_to_its_end(own, lazy):
    with EndlessFit(own, lazy) as fit:
        fit.wait_for(lambda: board_on(own) is not None and any(len(each.looks) > 1 for each in board_on(own)))
        with Browser(own) as browser:
            before = browser.column("loss")
            assert before
            fit.wait_for(lambda: len(browser.column("loss")) > len(before) + 1)
            assert max(browser.column("speed")) > 0
            fit.wait_for(lambda: len(browser.column("size")) == 2, what="a line for each worker")
            assert all(size > 0 for line in browser.column("size") for size in line)
            assert {len(line) for line in browser.column("latency")} != {0}
            fit.wait_for(lambda: len(browser.column("staleness")) == 2, what="a bar for each learner")
            fit.wait_for(lambda: browser.column("done"), what="visits in flight")
            assert "training, mode async" in browser.head
            fit.stop()
            wait_for(lambda: "complete" in browser.head, what="the end of the fit")
            assert browser.column("loss")
            assert browser.column("done") == []


def test_fits_at_the_same_time_are_told_apart(own, lazy):
    with EndlessFit(own, lazy) as one, EndlessFit(own, lazy):
        one.wait_for(lambda: board_on(own) is not None and len(board_on(own)) == 2)
        with Browser(own) as browser:
            names = {fit.name for fit in board_on(own)}
            one.wait_for(lambda: {name for name, _ in browser.choice.options} == {"", *names})
        one.stop()


def test_the_fit_that_was_chosen_is_shown_and_else_the_newest():
    board = Board()
    page = Page(board)
    page.update()
    assert page.sources["curves"].data["loss"] == []
    for seconds in (1.0, 2.0):
        board.take(message("first", seconds=seconds + 50, loss=0.5))  # it has begun before
        board.take(message("second", seconds=seconds, loss=0.25))
    page.update()
    assert page.sources["curves"].data["loss"] == [0.25, 0.25]
    assert [name for name, _ in page.choice.options] == ["", "second", "first"]
    page.choice.value = "first"
    page.update()
    assert page.sources["curves"].data["loss"] == [0.5, 0.5]
    assert page.sources["curves"].data["seconds"] == [51.0, 52.0]
    assert page.sources["visits"].data["done"] == [25.0, 0.0]
    board.take(message("second", state="complete"))
    page.update()
    assert "second" in page.choice.options[1][1]
    assert "complete" in page.choice.options[1][1]


def test_thousands_of_learners_fit_on_the_page():
    board = Board()
    board.take(message(learners=2_000, visits=[[n, f"w{n}", 0, 10] for n in range(20)]))
    page = Page(board)
    page.update()
    assert len(page.sources["workers"].data["worker"]) == 2_000
    assert len(page.sources["learners"].data["name"]) == MOST_BARS
    assert len(page.sources["visits"].data["name"]) == 20


def test_a_fit_that_fails_is_shown_as_failed(own, lazy, monkeypatch):
    async def fail(self):
        raise RuntimeError("out of order")

    fit = EndlessFit(own, lazy)
    fit.wait_for(lambda: board_on(own) is not None and any(each.looks for each in board_on(own)))
    monkeypatch.setattr(Visits, "land", fail)
    assert "out of order" in str(fit.error())
    (shown,) = board_on(own)
    wait_for(lambda: shown.state == "failed")


def test_a_user_who_wants_no_page_gets_none(own, lazy):
    with dask.config.set({"skdist.dashboard": False}):
        classifier(own, max_iter=2, tol=None).fit(*lazy)
    assert board_on(own) is None
    assert len(own.cluster.scheduler.http_application.applications) == 1


def test_without_a_dashboard_a_fit_is_as_ever(lazy):
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert classifier(client, max_iter=2, tol=None).fit(*lazy).n_iter_ == 2


def test_a_scheduler_that_cannot_import_skdist_is_as_ever(own, lazy, monkeypatch):
    def fail(scheduler):
        raise ModuleNotFoundError("No module named 'skdist'")

    monkeypatch.setattr("skdist.cluster.guard.board_of", fail)
    assert classifier(own, max_iter=2, tol=None).fit(*lazy).n_iter_ == 2
    assert_clean(own)


def test_an_error_of_the_page_is_none_of_the_fit(own, lazy, monkeypatch):
    def fail(*args):
        raise RuntimeError("bokeh")

    monkeypatch.setattr("skdist.cluster.page.add_page", fail)
    monkeypatch.setattr(boards.Board, "take", fail)
    with EndlessFit(own, lazy) as fit:
        fit.wait_for_epochs(2)
        fit.stop()


def test_verbose_shows_workers_and_staleness(client, persisted, capsys):
    classifier(client, max_iter=3, tol=None, verbose=1).fit(*persisted)
    out = capsys.readouterr().out
    assert "3 epochs in " in out
    assert "rows/s, 2 workers, mean staleness" in out
