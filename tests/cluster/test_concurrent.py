"""Several fits at once on one cluster, of one driver and of several; and what is left where one is ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import dask.array as da
import pytest
from distributed import Future

from skdist import DistributedSGDClassifier
from skdist.cluster import partitions
from skdist.exceptions import FitCancelledError
from tests.cluster.conftest import assert_clean, wait_for
from tests.cluster.endless import EndlessFit, homes_of_servers

#: A fit in a process of its own on a cluster that others use too; says how it ended.
DRIVER = """
import json, sys
import dask.array as da
import numpy as np
from distributed import Client
from skdist import DistributedSGDClassifier

if __name__ == "__main__":
    address, seed, max_iter = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((6_000, 8))
    y = (X[:, seed % 8] > 0).astype(int)
    with Client(address) as client:
        dX, dy = da.from_array(X, chunks=(600, -1)), da.from_array(y, chunks=600)
        clf = DistributedSGDClassifier("log_loss", random_state=0, max_iter=max_iter, tol=None)
        clf.fit(dX, dy)
        print(json.dumps([[epoch.rows for epoch in clf.history_.epochs], clf.score(X, y)]))
"""


@pytest.fixture
def drive(client):
    """A function that starts a driver; those that run at the end are killed."""
    drivers = []

    def start(seed, max_iter):
        command = [sys.executable, "-c", DRIVER, client.scheduler.address, str(seed), str(max_iter)]
        drivers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.kill()
        driver.communicate()


def servers(client, count):
    """Wait until there are so many servers; return where they are."""
    return wait_for(lambda: (homes := homes_of_servers(client)) and len(homes) == count and homes)


def test_servers_of_fits_at_once_are_on_different_workers(client, persisted):
    with EndlessFit(client, persisted) as one, EndlessFit(client, persisted) as other:
        assert len(set(servers(client, 2))) == 2
        with EndlessFit(client, persisted) as third, EndlessFit(client, persisted) as fourth:
            homes = servers(client, 4)
            assert sorted(map(homes.count, set(homes))) == [2, 2]
            for fit in (one, other, third, fourth):
                fit.wait_for_epochs(2)
        one.stop()
        other.stop()


def test_several_drivers_train_at_once(client, drive):
    drivers = [drive(seed, max_iter=20) for seed in range(3)]
    for driver in drivers:
        output, errors = driver.communicate(timeout=90)
        assert driver.returncode == 0, errors
        rows, score = json.loads(output)
        assert rows == [6_000] * 20
        assert score > 0.95


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_driver_that_is_ended_leaves_the_fits_of_others_alone(client, persisted, drive, sign):
    with EndlessFit(client, persisted) as fit:
        servers(client, 1)
        driver = drive(0, max_iter=10_000_000)
        servers(client, 2)
        began = time.monotonic()
        driver.send_signal(sign)
        _, errors = driver.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert driver.returncode != 0
        assert (sign == signal.SIGINT) == ("KeyboardInterrupt" in errors)
        servers(client, 1)
        fit.wait_for_workers(2)
        assert len(fit.stop()) == 2
    assert_clean(client)


@pytest.mark.parametrize("part", ["skdist", "skdist-visit", "skdist-partition", "skdist-server"])
def test_a_fit_whose_futures_are_cancelled_ends_and_leaves_others_alone(client, persisted, binary, part):
    X, y = binary
    lazy = da.from_array(X, chunks=(1_200, -1)), da.from_array(y, chunks=1_200)
    with EndlessFit(client, persisted) as other:
        servers(client, 1)
        before = set(client.futures)
        with EndlessFit(client, lazy) as fit:
            servers(client, 2)
            fit.wait_for_workers(2)
            token = next(
                str(key).removeprefix("skdist-server-").split("-")[0]
                for key in set(client.futures) - before
                if "skdist-server" in str(key)
            )

            fit.wait_for(lambda: any(f"skdist-visit-{token}" in str(key) for key in list(client.futures)))

            def cancelled():
                # A visit may end before it hears of that; then it is the turn of the next one.
                mine = [key for key in list(client.futures) if token in str(key) and part in str(key)]
                client.cancel([Future(key, client=client) for key in mine])
                return fit.ended

            wait_for(cancelled, 5, "the end of the fit")
            error = fit.error()
            assert isinstance(error, FitCancelledError), error
            assert token in str(error)
        other.wait_for_workers(2)
        assert len(other.stop()) == 2
    assert_clean(client)


def test_a_fit_whose_futures_are_cancelled_while_it_measures_ends(client, binary, monkeypatch):
    X, y = binary
    measuring = threading.Event()
    measured = partitions.fetch

    async def fetch(*args):
        measuring.set()
        return await measured(*args)

    def slow(block):
        time.sleep(0.5)
        return block

    monkeypatch.setattr(partitions, "fetch", fetch)
    lazy = da.from_array(X, chunks=(3_000, -1)).map_blocks(slow), da.from_array(y, chunks=3_000)
    with EndlessFit(client, lazy) as fit:
        assert measuring.wait(30)
        client.cancel([Future(key, client=client) for key in list(client.futures) if "skdist" in str(key)])
        assert isinstance(fit.error(20), FitCancelledError)
    assert_clean(client)


def test_rows_that_are_cancelled_during_a_fit_are_a_clear_error(client, binary):
    X, y = binary
    rows = da.from_array(X, chunks=(1_200, -1)).persist(), da.from_array(y, chunks=1_200).persist()
    with EndlessFit(client, rows) as fit:
        fit.wait_for_epochs(2)
        client.cancel(rows)
        error = fit.error(10)
    assert isinstance(error, FitCancelledError)
    assert "Persist the collection again" in str(error)
    assert_clean(client)
    assert DistributedSGDClassifier("log_loss", client=client).fit(X, y).score(X, y) > 0.8
