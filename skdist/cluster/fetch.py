"""Waiting for the workers without harm to the user's client."""

from __future__ import annotations

import asyncio
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


async def fetch(client: Client, futures: Sequence[Any]) -> list[Any]:
    """Return the results of some futures.

    All gathers of a client share one request. Who is cancelled while it waits in `Client.gather`, or awaits a
    future, cancels that request for everybody, and the client keeps the cancelled request for later gathers
    too. So the gather is shielded: when we are cancelled it ends by itself.

    Raises
    ------
    Exception
        What a task raised.
    """
    gather = asyncio.ensure_future(client.gather(list(futures)))
    gather.add_done_callback(_seen)
    results: list[Any] = await asyncio.shield(gather)
    return results


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


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at the error of a gather that nobody waits for any more, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()
