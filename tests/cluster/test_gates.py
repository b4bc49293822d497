"""Fits in which learners wait for one another, on a live cluster."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, wait

from skdist import DistributedSGDClassifier
from skdist.testing import on_servers
from tests.cluster.conftest import assert_clean, wait_for

FIXED = {"mode": "sync", "batch_sizer": None, "round_size": 512}


def make(**parameters):
    return DistributedSGDClassifier(
        **{"loss": "log_loss", "random_state": 0, "max_iter": 3, "tol": None, **parameters}
    )


@pytest.fixture(scope="module")
def reproduced(cluster, binary):
    X, y = binary
    with Client(cluster) as client:
        lazy = da.from_array(X, chunks=(1_200, -1)), da.from_array(y, chunks=1_200)
        return make(client=client, **FIXED).fit(*lazy).coef_


@pytest.mark.parametrize("placement", ["in turn", "all on the first", "all on the second"])
def test_sync_rounds_of_a_fixed_size_are_the_same_to_the_bit_wherever_the_rows_sit(
    client, binary, reproduced, placement
):
    X, y = binary
    lazy = da.from_array(X, chunks=(1_200, -1)), da.from_array(y, chunks=1_200)
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    chosen = {"in turn": workers, "all on the first": workers[:1], "all on the second": workers[1:]}[
        placement
    ]
    held = client.persist(lazy, workers=chosen)
    wait(held)
    clf = make(**FIXED).fit(*held)
    np.testing.assert_array_equal(clf.coef_, reproduced)
    assert {record.weight for record in clf.history_.rounds} != {1.0}


@pytest.mark.parametrize("params", [FIXED, {"mode": "ssp", "max_staleness": 0}], ids=["sync", "ssp"])
def test_two_fits_that_wait_for_each_others_threads_both_end(client, persisted, reproduced, params):
    with ThreadPoolExecutor(2) as pool:
        fits = [pool.submit(make(client=client, **params).fit, *persisted) for _ in range(2)]
        for fit in fits:
            clf = fit.result(60)
            assert set(clf.history_.to_frame("epochs").rows) == {12_000}
            if params is FIXED:
                np.testing.assert_array_equal(clf.coef_, reproduced)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(FIXED, id="fixed", marks=pytest.mark.long),
        pytest.param({"mode": "sync"}, id="sized"),
        pytest.param({"mode": "ssp"}, id="ssp", marks=pytest.mark.long),
    ],
)
def test_a_learner_that_dies_does_not_hold_up_the_others(binary, params):
    X, y = binary
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.wait_for_workers(3)
        lazy = da.from_array(X, chunks=(1_200, -1)), da.from_array(y, chunks=1_200)
        fit = pool.submit(make(client=client, **{**params, "max_iter": 150}).fit, *lazy)
        wait_for(lambda: any(epoch >= 2 for epoch, *_ in on_servers(client, "progress")) or fit.done())
        assert not fit.done()
        told = client.run(lambda dask_worker: (os.getpid(), bool(dask_worker.state.actors)))
        os.kill(next(pid for pid, holds_server in told.values() if not holds_server), signal.SIGKILL)
        clf = fit.result(60)
        assert set(clf.history_.to_frame("epochs").rows) == {len(X)}
        times = clf.history_.to_frame("rounds").time
        assert times.diff().max() < 5.0
        assert_clean(client)
