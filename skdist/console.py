"""The line that shows a user how a fit goes: in a terminal, in a notebook, in a log file."""

from __future__ import annotations

import contextlib
import contextvars
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO

from skdist.progress import Progress

#: A fit in this process is looked at so often, in seconds. On a cluster the driver's looks are waited for.
LOOK_SECONDS = 0.25

#: In a log a line comes after so many seconds and this part of the time so far: long fits write few.
LOG_SECONDS = 1.0
LOG_SHARE = 0.05


class Output(Protocol):
    """Where the line goes."""

    def write(self, line: str, *, last: bool = False) -> None:
        """Show a line instead of the one before; ``last`` ends it."""

    def leave(self) -> None:
        """Let what others write begin on a line of its own."""


class Terminal:
    """Rewrites one line.

    Parameters
    ----------
    stream : file
        Of a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._length = stream, 0

    def write(self, line: str, *, last: bool = False) -> None:
        """Show a line; one that is longer than the terminal is wide could not be rewritten."""
        if not last:
            line = line[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + line.ljust(self._length) + ("\n" if last else ""))
        self._stream.flush()
        self._length = len(line)

    def leave(self) -> None:
        """Go to the next line."""
        self._stream.write("\n")
        self._length = 0


class Log:
    """Writes line after line, ever more rarely.

    Parameters
    ----------
    stream : file
        Any.
    clock : callable
        Seconds of a steady clock.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._began = self._wrote = clock()

    def write(self, line: str, *, last: bool = False) -> None:
        """Write a line if it is time for one, or if it is the last one."""
        now = self._clock()
        if last or now - self._wrote >= max(LOG_SECONDS, LOG_SHARE * (now - self._began)):
            self._wrote = now
            print(line, file=self._stream, flush=True)

    def leave(self) -> None:
        """Do nothing: all its lines are whole ones."""


class Notebook:
    """Updates one output of a cell.

    Parameters
    ----------
    show : callable
        ``IPython.display.display``.
    """

    def __init__(self, show: Callable[..., Any]) -> None:
        self._show, self._handle = show, None

    def write(self, line: str, *, last: bool = False) -> None:
        """Show a line."""
        bundle = {"text/plain": line}
        if self._handle is None:
            self._handle = self._show(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def leave(self) -> None:
        """Do nothing: the output is the line's own."""


def output() -> Output:
    """Return where progress is shown: standard output, as with the estimators of scikit-learn."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if hasattr(shell, "kernel"):
        from IPython.display import display

        return Notebook(display)
    return Terminal(sys.stdout) if sys.stdout.isatty() else Log(sys.stdout)


class ProgressLine:
    """Shows where training stands, where the user wants it.

    Parameters
    ----------
    verbose : int
        0 shows nothing.
    max_iter : int
        Epochs at most.
    who : str
        Who trains, for example ``'3 workers'``.

    Attributes
    ----------
    wanted : bool
        Whether anything is shown.
    """

    def __init__(self, verbose: int, max_iter: int, who: str = "") -> None:
        self.wanted, self.who = verbose > 0, who
        self._max_iter = max_iter
        self._output = output() if self.wanted else None
        self._open = False
        # What a notebook shows where belongs to the context of the thread that fits; others may write.
        self._context = contextvars.copy_context()
        self._before: tuple[int, float] = (0, 0.0)

    def show(self, progress: Progress) -> None:
        """Show where training stands, as the server says."""
        rows, seconds = self._before
        if not self.wanted or progress.total_rows == rows:
            return
        speed = (progress.total_rows - rows) / max(progress.seconds - seconds, 1e-9)
        self._before = progress.total_rows, progress.seconds
        self._write(
            f"epoch {progress.epoch + 1}/{self._max_iter}: loss {progress.loss:.4f}, {_count(speed)} rows/s, "
            f"{self.who}, staleness {progress.staleness:.2f}, {progress.seconds:.1f} s"
        )

    def end(self, *, epochs: int, loss: float, rows: int, seconds: float, staleness: float) -> None:
        """Show how the fit ended: its epochs, the loss of the last one, rows trained on, mean staleness."""
        if not self.wanted:
            return
        late = "" if math.isnan(staleness) else f", mean staleness {staleness:.2f}"
        speed = _count(rows / max(seconds, 1e-9))
        self._write(
            f"{epochs} epochs in {seconds:.1f} s: loss {loss:.4f}, {speed} rows/s, {self.who}{late}",
            last=True,
        )

    def close(self) -> None:
        """Leave the line as it is; what comes next, an error maybe, begins on its own one."""
        if self._open and self._output is not None:
            self._open = False
            with contextlib.suppress(OSError):
                self._output.leave()

    @contextlib.contextmanager
    def regularly(self, read: Callable[[], Progress]) -> Iterator[None]:
        """Show what ``read`` returns from another thread meanwhile, so that training need not stop for it."""
        if not self.wanted:
            yield
            return
        over = threading.Event()

        def look() -> None:
            while not over.wait(LOOK_SECONDS):
                self.show(read())

        thread = threading.Thread(target=look, name="skdist-progress", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            over.set()
            thread.join()
            self.close()
            raise
        over.set()
        thread.join()

    def _write(self, line: str, *, last: bool = False) -> None:
        assert self._output is not None
        self._open = not last
        # A terminal that has gone is no reason to end a fit.
        with contextlib.suppress(OSError):
            self._context.run(self._output.write, line, last=last)


def _count(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.1f}{name}"
    return f"{value:.0f}"
