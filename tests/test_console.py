import io
import sys
import threading
from types import SimpleNamespace

import pytest

from skdist import console
from skdist.console import Log, Notebook, ProgressLine, Terminal, output
from skdist.progress import Progress
from tests.fakes import Clock


def standing(rows=1000, seconds=2.0, epoch=0, loss=0.5):
    return Progress(epoch, loss, rows, rows, loss * rows, seconds, 0.25, (), (), ())


class Screen(io.StringIO):
    """A terminal: what a line shows after the cursor has come back to its start."""

    def isatty(self):
        return True

    @property
    def rows(self):
        rows = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            rows.append(shown.rstrip())
        return rows


def test_nothing_is_shown_unless_wanted(capsys):
    line = ProgressLine(0, 10)
    line.show(standing())
    line.end(epochs=1, loss=0.5, rows=100, seconds=1.0, staleness=0.0)
    line.close()
    with line.regularly(lambda: pytest.fail("nobody asked")):
        assert not [thread for thread in threading.enumerate() if thread.name == "skdist-progress"]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_rewrites_one_line(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "120")
    line = ProgressLine(1, 10, "3 workers")
    line.show(standing(rows=20_000, loss=123.0))
    assert screen.rows == ["epoch 1/10: loss 123.0000, 10.0k rows/s, 3 workers, staleness 0.25, 2.0 s"]
    line.show(standing(rows=22_000, seconds=3.0, epoch=1))
    assert screen.rows == ["epoch 2/10: loss 0.5000, 2.0k rows/s, 3 workers, staleness 0.25, 3.0 s"]
    line.end(epochs=4, loss=0.25, rows=3_000_000, seconds=2.0, staleness=0.5)
    assert screen.rows == ["4 epochs in 2.0 s: loss 0.2500, 1.5M rows/s, 3 workers, mean staleness 0.50", ""]


def test_a_line_that_would_not_fit_is_cut_but_for_the_last_one(monkeypatch):
    screen = Screen()
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal(screen)
    terminal.write("x" * 50)
    assert screen.rows == ["x" * 19]
    terminal.write("y" * 50, last=True)
    assert screen.rows == ["y" * 50, ""]


def test_an_error_begins_on_a_line_of_its_own(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    line = ProgressLine(1, 10)
    line.show(standing())
    line.close()
    print("error")
    assert screen.rows[0].startswith("epoch 1/10")
    assert screen.rows[1:] == ["error", ""]
    line.end(epochs=4, loss=0.25, rows=1000, seconds=2.0, staleness=0.5)
    line.close()
    assert screen.getvalue().count("\n") == 3


def test_a_log_gets_ever_fewer_lines():
    stream, clock = io.StringIO(), Clock()
    log = Log(stream, clock)
    times = []
    for tenth in range(1, 36_001):
        clock.now = tenth / 10
        before = stream.tell()
        log.write("a line")
        if stream.tell() > before:
            times.append(clock.now)
    assert times[:3] == [1.0, 2.0, 3.0]
    assert 100 < len(times) < 140  # of an hour
    log.write("the last", last=True)
    assert stream.getvalue().endswith("a line\nthe last\n")


def test_no_line_comes_where_nothing_was_trained_since(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(console, "LOG_SHARE", 0.0)
    line = ProgressLine(1, 10)
    line.show(standing(rows=0))
    assert not capsys.readouterr().out
    line.show(standing())
    line.show(standing())
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_stream_that_has_gone_ends_no_fit(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    line = ProgressLine(1, 10)
    line.end(epochs=4, loss=0.25, rows=1000, seconds=2.0, staleness=0.5)


def test_a_notebook_updates_one_output():
    shown = []

    class Handle:
        def update(self, bundle, raw):
            shown.append(("update", bundle["text/plain"]))

    def display(bundle, raw, display_id):
        assert raw
        assert display_id
        shown.append(("new", bundle["text/plain"]))
        return Handle()

    notebook = Notebook(display)
    notebook.write("one")
    notebook.write("two")
    notebook.write("three", last=True)
    assert shown == [("new", "one"), ("update", "two"), ("update", "three")]


def test_a_notebook_is_told_from_a_terminal(monkeypatch):
    ipython = pytest.importorskip("IPython")
    assert isinstance(output(), Log)
    monkeypatch.setattr(ipython, "get_ipython", lambda: SimpleNamespace())  # in a terminal
    assert isinstance(output(), Log)
    monkeypatch.setattr(ipython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    assert isinstance(output(), Notebook)
    monkeypatch.setattr(ipython, "get_ipython", lambda: None)
    monkeypatch.setattr(sys, "stdout", Screen())
    assert isinstance(output(), Terminal)


def test_the_looks_of_a_thread_end_with_the_training(capsys, monkeypatch):
    monkeypatch.setattr(console, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(console, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(console, "LOG_SHARE", 0.0)
    enough = threading.Event()
    counts = iter(range(1, 10**9))

    def read():
        number = next(counts)
        if number == 5:
            enough.set()
        return standing(rows=1000 * number)

    line = ProgressLine(1, 10, "1 thread")
    with line.regularly(read):
        assert enough.wait(30)
    assert not [thread for thread in threading.enumerate() if thread.name == "skdist-progress"]
    assert len(capsys.readouterr().out.splitlines()) >= 4
