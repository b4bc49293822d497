"""Fits where every connection is encrypted, and over no other connection than Dask's."""

from __future__ import annotations

import dask.array as da
import psutil
import pytest
from distributed import Client, LocalCluster, Security

from tests.cluster.conftest import assert_clean
from tests.cluster.endless import EndlessFit

pytest.importorskip("cryptography")


@pytest.fixture(scope="module")
def encrypted():
    """A client of a cluster of two processes with temporary credentials."""
    security = Security.temporary()
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", protocol="tls://", security=security
        ) as cluster,
        Client(cluster, security=security, set_as_default=False) as client,
    ):
        client.wait_for_workers(2)
        yield client


def listening():
    """Return the ports on which this process and its children listen."""
    here = psutil.Process()
    return {
        connection.laddr.port
        for process in [here, *here.children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_fit_on_an_encrypted_cluster_listens_nowhere(encrypted, binary, mode):
    X, y = binary
    rows = da.from_array(X, chunks=(1_000, -1)), da.from_array(y, chunks=1_000)
    # Half of them on each worker: one that had none would only help where the other takes long.
    workers = sorted(encrypted.scheduler_info(n_workers=-1)["workers"])
    halves = [[values[:6_000], values[6_000:]] for values in rows]
    rows = [
        da.concatenate(
            [encrypted.persist(half, workers=[worker]) for half, worker in zip(both, workers, strict=True)]
        )
        for both in halves
    ]
    before = listening()
    assert before
    with EndlessFit(encrypted, rows, mode=mode) as fit:
        fit.wait_for_workers(2)
        assert listening() == before
        workers = fit.stop()
    assert len(workers) == 2
    assert all(address.startswith("tls://") for address in workers)
    assert fit.classifier.score(X, y) > 0.85
    assert_clean(encrypted)


def test_rows_in_memory_travel_encrypted_too(encrypted, binary):
    X, y = binary
    with EndlessFit(encrypted, (X, y)) as fit:
        fit.wait_for_epochs(2)
        assert all(address.startswith("tls://") for address in fit.stop())
    assert_clean(encrypted)
