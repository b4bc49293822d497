"""The scheduler's side of a fit: its server is no worker to spare, and a driver that dies leaves nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from distributed import Client, SchedulerPlugin

from skdist.cluster.board import board_of

logger = logging.getLogger("skdist")


class FitGuard(SchedulerPlugin):
    """Keeps adaptive clusters from closing the workers that hold the server of a fit, or shards of it.

    Dask's ``adapt`` picks workers that are idle or hold little, and an actor weighs nothing. Nothing keeps a
    worker from being closed by name, by its lifetime or by the end of its job.

    Parameters
    ----------
    name : str
        Of the fit, and of its worker plugin.
    actors : tuple of str
        What the keys of its server and of its shards begin with.
    client : str
        Id of the client; when it goes, so does what the fit has registered.
    shown : bool
        Whether the fit is to be seen on the dashboard.
    """

    def __init__(self, name: str, actors: tuple[str, ...], client: str, shown: bool) -> None:
        self.name, self._actors, self._client, self._shown = name, actors, client, shown

    async def start(self, scheduler: Any) -> None:
        """See to it that there is a board for the fit; Dask calls this once, on the scheduler."""
        if self._shown:
            board_of(scheduler)

    def valid_workers_downscaling(self, scheduler: Any, workers: Sequence[Any]) -> list[Any]:
        """Return the workers that may be closed; Dask asks before it scales down."""
        return [worker for worker in workers if not any(self._is_server(task) for task in worker.actors)]

    def _is_server(self, task: Any) -> bool:
        return str(task.key).startswith(self._actors)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Tidy up after a driver that went without a word; keys and actors Dask frees by itself."""
        if client == self._client:
            scheduler.loop.add_callback(self._tidy_up, scheduler)

    async def _tidy_up(self, scheduler: Any) -> None:
        if self.name in scheduler.worker_plugins:
            await scheduler.unregister_worker_plugin(None, self.name)
        if self._shown:
            board_of(scheduler).lose(self.name)
        if scheduler.plugins.get(self.name) is self:
            scheduler.remove_plugin(self.name)


async def register(client: Client, name: str, actors: tuple[str, ...], shown: bool) -> bool:
    """Guard a fit; parameters as in `FitGuard`. Return whether it is shown.

    Where that is not allowed, or the scheduler cannot import skdist, it is worth a line in the log.
    """
    try:
        await client.register_plugin(FitGuard(name, actors, client.id, shown), name=name)
        return shown
    except Exception as error:
        logger.info("adapt() may close the worker that holds the server: %s", error)
        return False


async def unregister(client: Client, name: str) -> None:
    """End what `register` began.

    Raises
    ------
    ValueError
        Where it could not begin.
    """
    await client.unregister_scheduler_plugin(name)
