"""Where a fit runs: in this process, on a cluster, or on a temporary one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("skdist")

#: In-memory data below this size is trained in this process although there is an active client:
#: shipping it would take longer than training on it.
SHIPPING_BYTES = 64 << 20


def is_collection(value: Any) -> bool:
    """Return whether a value is a Dask collection."""
    return hasattr(value, "__dask_graph__")


def choose_client(client: Client | None, X: Any, nbytes: int = 0) -> AbstractContextManager[Client | None]:
    """Return a context that gives the client to train with, None for this process.

    Parameters
    ----------
    client : Client or None
        The estimator's parameter; used where given.
    X : collection or array
        A Dask collection trains on the active client, or on a temporary in-process cluster.
    nbytes : int
        Size of in-memory data; large data trains on the active client.
    """
    if client is not None:
        if not hasattr(client, "scheduler_info"):
            raise TypeError(f"client must be a distributed.Client or None, got {client!r}.")
        if client.status != "running":
            raise ValueError(f"client is {client.status}. Connect a new one.")
        if client.asynchronous:
            raise ValueError(
                "client is asynchronous. fit waits for its result: use a Client(asynchronous=False)."
            )
        return _thread_given_away(client) if _inside_task() else nullcontext(client)
    inside = _inside_task()
    if not is_collection(X):
        active = None if inside else _active_client()
        if active is None:
            return nullcontext(None)
        if nbytes < SHIPPING_BYTES:
            logger.info(
                "Training in this process: shipping %.1f MB to the cluster would take longer. "
                "Pass client= to train there.", nbytes / 1e6,
            )  # fmt: skip
            return nullcontext(None)
        return nullcontext(active)
    if inside:
        from distributed import worker_client

        return cast("AbstractContextManager[Client | None]", worker_client())
    active = _active_client()
    return nullcontext(active) if active is not None else temporary_client()


@contextmanager
def _thread_given_away(client: Client) -> Iterator[Client]:
    """Give a task the client it was given, and its thread to the worker meanwhile: the fit may need it."""
    from distributed import worker_client

    with worker_client():
        yield client


@contextmanager
def temporary_client() -> Iterator[Client]:
    """Give a client of a cluster in this process that ends with the context."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(processes=False, dashboard_address=":0", n_workers=1) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _active_client() -> Client | None:
    """Return the active client of this process; there is none if distributed is not even imported."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        client = distributed.client.default_client()
    except ValueError:
        return None
    return None if client.asynchronous or client.status != "running" else client


def _inside_task() -> bool:
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True
