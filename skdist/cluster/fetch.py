"""Waiting for the workers without harm to the user's client."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

from distributed import Client
from distributed.client import FutureCancelledError

from skdist.exceptions import FitCancelledError

#: Why we cancel futures: they will be made again. Dask hands the reason on to whoever waits for what depends
#: on them.
LOST = "lost dependencies"

#: Why Dask itself cancels futures: something was lost. All other reasons are somebody's who called `cancel`.
LOSSES = frozenset({"scheduler-restart", "scheduler-connection-lost", LOST, "already forgotten"})

#: A result that the scheduler cannot get hold of is asked for again after so many seconds, and for so long.
AGAIN_SECONDS, MISSING_SECONDS = 0.1, 30.0


async def fetch(client: Client, futures: Sequence[Any]) -> list[Any]:
    """Return the results of some futures.

    All gathers of a client share one request. One worker that is frozen would hold up the results of all
    others, and who is cancelled while it waits would cancel that request for everybody. This asks on its own.

    Raises
    ------
    Exception
        What a task raised.
    FutureCancelledError
        Where somebody has cancelled one, or a result is lost and not made again.
    """
    keys = [future.key for future in futures]
    until = math.inf
    while True:
        await settle(futures)
        for state in [future._state for future in futures]:
            if state.status != "finished" and state.exception is not None:
                raise state.exception.with_traceback(state.traceback)
        reply = await client.scheduler.gather(keys=keys)
        if reply["status"] == "OK":
            return [reply["data"][key] for key in keys]
        until = min(until, time.monotonic() + MISSING_SECONDS)
        if time.monotonic() > until:
            raise FutureCancelledError(reply["keys"][0], LOST)
        await asyncio.sleep(AGAIN_SECONDS)  # Dask may not know yet that they are lost


async def settle(futures: Sequence[Any]) -> None:
    """Wait until futures have finished or failed, without fetching anything.

    `distributed.wait` would take the default client, which may be another one.
    """
    await asyncio.gather(*(future._state.wait() for future in futures))


def refuse_cancelled(error: BaseException | None) -> None:
    """Raise where somebody has cancelled a future, and nothing was lost that could be made again.

    Raises
    ------
    FitCancelledError
        In that case.
    """
    if isinstance(error, FutureCancelledError) and error.reason not in LOSSES:
        raise FitCancelledError(
            f"{error.key!r} was cancelled during the fit, or rows that it needs. Fit again. "
            "Persist the collection again first, if it was the rows."
        ) from error
