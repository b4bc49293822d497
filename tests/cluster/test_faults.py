from __future__ import annotations

import os
import signal
import threading

import dask.array as da
import pytest
from distributed import Client, LocalCluster, wait

from skdist import DistributedSGDClassifier
from skdist.cluster import partitions
from skdist.exceptions import DataLostError, ServerLostError
from skdist.testing import on_servers
from tests.cluster.conftest import assert_clean, wait_for


@pytest.fixture
def trio(binary):
    """Three worker processes of our own, to be killed, and lazy rows."""
    X, y = binary
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        dX = client.persist(da.from_array(X, chunks=(1_000, -1)))
        dy = client.persist(da.from_array(y, chunks=1_000))
        with client.as_current():
            wait([dX, dy])
        yield client, dX, dy


def kill(client, holds_server, dask_worker_pids):
    servers = client.run(lambda dask_worker: any("skdist-server" in str(k) for k in dask_worker.state.actors))
    victim = next(address for address, has in servers.items() if has == holds_server)
    os.kill(dask_worker_pids[victim], signal.SIGKILL)
    return victim


def train_and_kill(client, dX, dy, holds_server, **params):
    pids = client.run(os.getpid)
    clf = DistributedSGDClassifier(
        "log_loss", random_state=0, max_iter=10_000_000, tol=None, round_size=1_000, client=client, **params
    )
    outcome = {}

    def train():
        try:
            outcome["clf"] = clf.fit(dX, dy)
        except Exception as error:
            outcome["error"] = error

    fit = threading.Thread(target=train)
    fit.start()

    def progressed(epochs):
        assert fit.is_alive(), outcome
        found = on_servers(client, "progress")
        return bool(found) and found[0][0] >= epochs

    wait_for(lambda: progressed(5), 60)
    victim = kill(client, holds_server, pids)
    if not holds_server:
        (state,) = on_servers(client, "progress")
        wait_for(lambda: progressed(state[0] + 20), 60)
        on_servers(client, "stop")
    fit.join(60)
    assert not fit.is_alive()
    return outcome, victim


def test_a_killed_worker_costs_no_row_and_no_row_twice(trio, binary):
    client, dX, dy = trio
    outcome, victim = train_and_kill(client, dX, dy, holds_server=False)
    clf = outcome["clf"]
    assert clf.history_.to_frame("epochs").rows.tolist() == [12_000] * clf.n_iter_
    assert clf.history_.to_frame("visits").rows.sum() == 12_000 * clf.n_iter_
    assert victim in set(clf.history_.to_frame("rounds").worker)
    assert clf.score(*binary) > 0.85
    assert_clean(client)


def test_data_that_is_lost_for_good_is_a_clear_error(trio):
    client, dX, dy = trio
    client.restart()  # cancels what was persisted
    clf = DistributedSGDClassifier("log_loss", client=client)
    with pytest.raises(DataLostError, match="Persist the collection again, or pass a lazy one"):
        clf.fit(dX, dy)
    assert_clean(client)


def test_a_killed_worker_costs_no_row_where_partitions_are_streamed(trio, binary, monkeypatch):
    monkeypatch.setattr(partitions, "HELD_SHARE", 0.0)
    client, _, _ = trio
    X, y = binary
    dX, dy = da.from_array(X, chunks=(1_000, -1)), da.from_array(y, chunks=1_000)
    outcome, _ = train_and_kill(client, dX, dy, holds_server=False)
    clf = outcome["clf"]
    assert clf.history_.to_frame("epochs").rows.tolist() == [12_000] * clf.n_iter_
    assert clf.history_.to_frame("visits").rows.sum() == 12_000 * clf.n_iter_
    assert_clean(client)


def test_a_lost_server_is_a_clear_error(trio):
    client, dX, dy = trio
    outcome, _ = train_and_kill(client, dX, dy, holds_server=True)
    assert isinstance(outcome.get("error"), ServerLostError), outcome
    assert_clean(client)
