"""Tools for experiments on a live cluster."""

from __future__ import annotations

import asyncio
import time
from functools import wraps
from typing import Any

from distributed import Client

from skdist.rows import Rows


def delay_heartbeats(client: Client, worker: str, seconds: float) -> None:
    """Make the heartbeats of a worker take longer, as a slow link would.

    Parameters
    ----------
    client : Client
        Of the cluster.
    worker : str
        Address of the worker.
    seconds : float
        Added to each round trip; 0 ends the delay.

    Examples
    --------
    >>> from distributed import Client, LocalCluster
    >>> with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
    ...     with Client(cluster) as client:
    ...         delay_heartbeats(client, cluster.workers[0].address, 0.05)
    """
    client.run(_delay, seconds, workers=[worker])


def _delay(seconds: float, dask_worker: Any) -> None:
    # Dask collects the metrics between the two times whose difference is the round trip.
    plain = getattr(dask_worker, "_skdist_plain_metrics", dask_worker.get_metrics)
    dask_worker._skdist_plain_metrics = plain

    async def late_metrics() -> Any:
        await asyncio.sleep(seconds)
        return await plain()

    dask_worker.get_metrics = late_metrics if seconds > 0 else plain


def slow_down(client: Client, worker: str, factor: float) -> None:
    """Make training on a worker take longer, as on a slow or busy machine.

    After each piece of training its thread sleeps, so that other workers of the same machine may become
    faster. All workers of the same process are slowed down.

    Parameters
    ----------
    client : Client
        Of the cluster.
    worker : str
        Address of the worker.
    factor : float
        How many times as long training takes, at least 1, which ends it.

    Raises
    ------
    ValueError
        For a factor below 1.

    Examples
    --------
    >>> from distributed import Client, LocalCluster
    >>> with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
    ...     with Client(cluster) as client:
    ...         slow_down(client, cluster.workers[0].address, 5)
    ...         slow_down(client, cluster.workers[0].address, 1)
    """
    if not factor >= 1:
        raise ValueError(f"factor={factor!r} must be at least 1: training cannot be made faster.")
    client.run(_slow_down, factor, workers=[worker])


def _slow_down(factor: float) -> None:
    plain = getattr(Rows.train, "__wrapped__", Rows.train)

    @wraps(plain)
    def slow_train(*args: Any, **kwargs: Any) -> tuple[float, int]:
        began = time.perf_counter()
        made: tuple[float, int] = plain(*args, **kwargs)
        time.sleep((factor - 1) * (time.perf_counter() - began))
        return made

    Rows.train = slow_train if factor > 1 else plain  # type: ignore[method-assign]


def on_servers(client: Client, method: str) -> list[Any]:
    """Call a method without arguments on the parameter server of each fit under way.

    Parameters
    ----------
    client : Client
        Of the cluster.
    method : str
        For example ``'progress'``, or ``'stop'``, which ends a fit after the epochs under way.

    Returns
    -------
    list
        What each returned; fits that have not begun to train are left out.

    Examples
    --------
    >>> from distributed import Client, LocalCluster
    >>> with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
    ...     with Client(cluster) as client:
    ...         on_servers(client, "progress")  # no fit is under way
    []
    """
    return [
        result
        for results in client.run(_call_servers, method, on_error="ignore").values()
        for result in results
    ]


def _call_servers(method: str, dask_worker: Any) -> list[Any]:
    # Dask lists an actor, as None, before it is made.
    servers = [actor for key, actor in dask_worker.state.actors.items() if "skdist-server" in str(key)]
    return [getattr(server, method)() for server in servers if server is not None and server.begun]


def leftovers(client: Client) -> dict[str, list[str]]:
    """Return what of skdist is on a cluster: nothing, unless a fit is under way.

    Parameters
    ----------
    client : Client
        Of the cluster.

    Returns
    -------
    dict
        ``keys`` of tasks and ``guards`` (plugins) that the scheduler knows, and ``actors``, ``plugins`` and
        ``metrics`` on the workers.

    Examples
    --------
    >>> from distributed import Client, LocalCluster
    >>> with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
    ...     with Client(cluster) as client:
    ...         any(leftovers(client).values())
    False
    """
    found: dict[str, list[str]] = client.run_on_scheduler(_scheduler_parts)
    on_workers = client.run(_worker_parts, on_error="ignore").values()
    for part in ("actors", "plugins", "metrics"):
        found[part] = sorted(name for parts in on_workers for name in parts[part])
    return found


def _scheduler_parts(dask_scheduler: Any) -> dict[str, list[str]]:
    parts = {"keys": dask_scheduler.tasks, "guards": dask_scheduler.plugins}
    return {name: sorted(str(key) for key in keys if "skdist" in str(key)) for name, keys in parts.items()}


def _worker_parts(dask_worker: Any) -> dict[str, list[str]]:
    parts = {
        "actors": dask_worker.state.actors,
        "plugins": dask_worker.plugins,
        "metrics": dask_worker.metrics,
    }
    return {name: [str(key) for key in keys if "skdist" in str(key)] for name, keys in parts.items()}
