"""What a fit tells of itself while it runs: to the user's terminal, and to the page on the dashboard."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any

import dask
from distributed import Client

from skdist.console import ProgressLine
from skdist.fitting import FitSettings
from skdist.history import History
from skdist.messages import Visit
from skdist.progress import Progress

logger = logging.getLogger("skdist")

#: The oldest visits in flight are told of, so many: it is among them that one hangs.
MOST_VISITS = 20

#: No message to the scheduler is waited for longer, in seconds.
SEND_SECONDS = 2.0


class Feed:
    """Passes on where training stands, whenever the driver looks; nobody waits for it.

    Parameters
    ----------
    client : Client
        Of the cluster.
    name : str
        Of the fit.
    estimator : str
        What is fitted.
    settings : FitSettings
        Of the fit.

    Attributes
    ----------
    line : ProgressLine
        In the terminal.
    has_page : bool
        Whether the scheduler shows the fit on its dashboard.
    """

    def __init__(self, client: Client, name: str, estimator: str, settings: FitSettings) -> None:
        self.line = ProgressLine(settings.verbose, settings.max_iter)
        self.has_page = False
        self._client = client
        self._about = {
            "fit": name, "estimator": estimator, "mode": settings.mode, "max_iter": settings.max_iter,
        }  # fmt: skip
        self._sending: asyncio.Future[Any] | None = None
        self._before = (0, 0.0, 0.0)

    @staticmethod
    def wants_page() -> bool:
        """Return whether fits are to be shown; ``dask.config.set({"skdist.dashboard": False})`` says no."""
        return bool(dask.config.get("skdist.dashboard", True))

    @property
    def wanted(self) -> bool:
        """Whether anybody reads what is sent."""
        return self.line.wanted or self.has_page

    def begin(self, workers: int) -> None:
        """Take in how many workers there are."""
        self.line.who = f"{workers} worker{'s' if workers != 1 else ''}"

    def send(self, progress: Progress, workers: int, in_flight: Mapping[int, tuple[Visit, str]]) -> None:
        """Pass on where training stands; what comes while the last message is under way is left out.

        Parameters
        ----------
        progress : Progress
            What the server says.
        workers : int
            That can be given work.
        in_flight : mapping of int to tuple
            What the dispatcher has given out: by number, visits and their workers.
        """
        self.begin(workers)
        self.line.show(progress)
        if not self.has_page or (self._sending is not None and not self._sending.done()):
            return
        rows, loss, seconds = self._before
        self._before = progress.total_rows, progress.total_loss, progress.seconds
        made = progress.total_rows - rows
        done = {visit.number: visit.offset for visit in progress.visits}
        oldest = sorted(in_flight)[:MOST_VISITS]
        self._send(
            state="training",
            workers=workers,
            epoch=progress.epoch,
            seconds=progress.seconds,
            # Of another server, which began from a backup, there may be fewer than before.
            loss=(progress.total_loss - loss) / made if made > 0 else math.nan,
            rows_per_second=max(made / max(progress.seconds - seconds, 1e-9), 0.0),
            staleness=progress.staleness,
            learners=[
                [each.name, each.staleness, each.round_size, each.latency] for each in progress.learners
            ],
            in_flight=len(in_flight),
            under_way=len(done),
            visits=[
                [number, in_flight[number][1], done.get(number, 0), in_flight[number][0].rows]
                for number in oldest
            ],
        )

    def end(self, history: History | None) -> asyncio.Future[Any] | None:
        """Say that the fit has ended, or failed where there is no history.

        A fit that failed before it was seen to train is not worth a line on the page: its error tells all.
        """
        self.line.close()
        if not self.has_page or (history is None and self._sending is None):
            return None
        if self._sending is not None:
            self._sending.cancel()
        if history is None:
            return self._send(state="failed")
        fit, epochs = history.fits[-1], history.epochs
        return self._send(
            state="converged" if fit.converged else "complete",
            workers=fit.workers,
            epoch=fit.epochs - 1,
            seconds=fit.seconds,
            loss=epochs[-1].loss if epochs else math.nan,
            rows_per_second=sum(epoch.rows for epoch in epochs) / max(fit.seconds, 1e-9),
        )

    def _send(self, **message: Any) -> asyncio.Future[Any]:
        self._sending = asyncio.ensure_future(self._deliver({**self._about, **message}))
        return self._sending

    async def _deliver(self, message: dict[str, Any]) -> None:
        try:
            call = self._client.scheduler.skdist_progress(message=message)
            await asyncio.wait_for(call, SEND_SECONDS)
        except Exception:
            # The page is for looking at; a scheduler that is gone is noticed elsewhere.
            logger.debug("The dashboard was not told how the fit goes.", exc_info=True)
