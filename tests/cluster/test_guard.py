from __future__ import annotations

import dask.array as da
import pytest
from distributed import Client, LocalCluster

from skdist import DistributedSGDClassifier
from skdist.testing import leftovers, on_servers
from tests.cluster.conftest import assert_clean, wait_for
from tests.cluster.endless import EndlessFit, homes_of_servers


@pytest.fixture
def elastic():
    """A cluster of our own that may grow and shrink, and its client."""
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client
        assert_clean(client)


@pytest.fixture
def lazy(binary):
    X, y = binary
    return da.from_array(X, chunks=(1_000, -1)), da.from_array(y, chunks=1_000)


def spare(client):
    """Return which workers Dask would close if it were to close as many as it may."""
    return client.run_on_scheduler(
        lambda dask_scheduler: dask_scheduler.workers_to_close(n=len(dask_scheduler.workers))
    )


def addresses(client):
    return set(client.scheduler_info(n_workers=-1)["workers"])


def test_an_adaptive_cluster_shrinks_around_the_server(elastic, lazy):
    cluster, client = elastic
    cluster.scale(3)
    client.wait_for_workers(3)
    with EndlessFit(client, lazy) as fit:
        fit.wait_for_epochs(2)
        (home,) = homes_of_servers(client)
        cluster.adapt(minimum=1, maximum=3, interval="50ms", wait_count=1)
        fit.wait_for(lambda: len(addresses(client)) < 3)
        fit.wait_for_epochs(50)
        assert homes_of_servers(client) == [home]
        fit.stop()


def test_the_server_is_the_only_worker_that_is_kept_and_only_during_the_fit(elastic, lazy):
    cluster, client = elastic
    cluster.scale(3)
    client.wait_for_workers(3)
    assert set(spare(client)) == addresses(client)
    with EndlessFit(client, lazy) as fit:
        fit.wait_for_epochs(2)
        assert set(spare(client)) == addresses(client) - set(homes_of_servers(client))
        (guard,) = leftovers(client)["guards"]
        client.unregister_scheduler_plugin(guard)
        assert set(spare(client)) == addresses(client)
        fit.stop()
    assert_clean(client)
    assert set(spare(client)) == addresses(client)


def test_a_fit_that_fails_is_not_guarded_any_more(client, binary):
    X, y = binary
    X = X.copy()
    X[5, 2] = float("nan")
    with pytest.raises(ValueError, match="Partition 0: X contains NaN"):
        DistributedSGDClassifier(client=client).fit(da.from_array(X, chunks=(1_200, -1)), y)
    assert leftovers(client)["guards"] == []


def test_a_fit_makes_an_adaptive_cluster_start_its_first_worker(elastic, lazy):
    cluster, client = elastic
    cluster.adapt(minimum=0, maximum=2, interval="50ms", wait_count=1)
    clf = DistributedSGDClassifier("log_loss", random_state=0, client=client, max_iter=3, tol=None)
    assert clf.fit(*lazy).score(*lazy) > 0.8
    assert [epoch.rows for epoch in clf.history_.epochs] == [12_000] * 3


def test_what_a_driver_that_vanished_has_registered_goes_with_it(cluster, lazy):
    with Client(cluster, set_as_default=False) as watching:
        vanishing = Client(cluster, set_as_default=False)
        with EndlessFit(watching, lazy) as other:
            lost = EndlessFit(vanishing, lazy)
            wait_for(lambda: len(leftovers(watching)["guards"]) == 2)
            wait_for(lambda: len(homes_of_servers(watching)) == 2)
            # Both train: what has not begun would begin anew, as that driver is not dead in truth.
            wait_for(lambda: len([p for p in on_servers(watching, "progress") if p.rows]) == 2)
            # As the scheduler sees it when a driver is killed.
            gone = vanishing.id
            watching.run_on_scheduler(lambda dask_scheduler: dask_scheduler.remove_client(gone))
            wait_for(lambda: len(leftovers(watching)["guards"]) == 1)
            wait_for(lambda: len(set(leftovers(watching)["plugins"])) == 1)
            other.wait_for_epochs(5)
            assert lost.error() is not None
            vanishing.close()
            other.stop()
        assert_clean(watching)
