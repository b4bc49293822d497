"""One cluster of two processes for all cluster tests."""

from __future__ import annotations

import time

import dask.array as da
import pytest
from distributed import Client, LocalCluster, wait

from skdist.testing import leftovers


@pytest.fixture(scope="session")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    """An active client; afterwards the cluster holds nothing of ours."""
    with Client(cluster) as client:
        client.wait_for_workers(2)
        yield client
        assert_clean(client)


def wait_for(condition, seconds=30.0, what="the condition"):
    """Return the first true value of a condition; fail where it takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what() if callable(what) else what} after {seconds} s"
        time.sleep(0.02)  # reason=the one place where tests poll
    return value


def assert_clean(client, seconds=20.0):
    """Fail where keys, actors, plugins or metrics of ours do not go away."""
    wait_for(lambda: not any(leftovers(client).values()), seconds, lambda: leftovers(client))


@pytest.fixture
def persisted(client, binary):
    """The binary rows on both workers, in ten partitions."""
    X, y = binary
    dX = da.from_array(X, chunks=(1_200, -1)).persist()
    dy = da.from_array(y, chunks=1_200).persist()
    wait([dX, dy])
    return dX, dy
