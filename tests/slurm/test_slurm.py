"""Fits on jobs of a real Slurm: submitted, cancelled, replaced, and ended by their walltime."""

from __future__ import annotations

import subprocess
import time

import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier
from tests.cluster.conftest import assert_clean
from tests.cluster.endless import EndlessFit, homes_of_servers
from tests.slurm.conftest import squeue

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]

JOIN_SECONDS = 60


def addresses(client):
    return set(client.scheduler_info(n_workers=-1)["workers"])


def end_job(cluster, client, holds_server):
    """Cancel the job of the worker with the server, or of another; return the worker's address."""
    (home,) = homes_of_servers(client)
    names = client.run(lambda dask_worker: dask_worker.name)
    address = next(address for address in names if (address == home) == holds_server)
    subprocess.run(["scancel", cluster.workers[names[address]].job_id], check=True, timeout=20)
    return address


@pytest.fixture(scope="class")
def fixed(jobs):
    """A client of a cluster of two jobs, that nothing happens to."""
    with jobs() as (cluster, client):
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=JOIN_SECONDS)
        yield client


class TestAFixedNumberOfJobs:
    def test_all_train(self, fixed, lazy, binary):
        assert len(squeue("%i")) == 2
        with EndlessFit(fixed, lazy) as training:
            training.wait_for_workers(2)
            assert set(training.stop()) == addresses(fixed)
        assert training.classifier.score(*binary) > 0.85
        assert_clean(fixed)

    def test_a_grid_over_a_pipeline(self, fixed, binary):
        X, y = binary[0][:3_000], binary[1][:3_000]
        grid = {"distributedsgdclassifier__alpha": [1e-4, 100.0]}
        pipeline = make_pipeline(
            StandardScaler(), DistributedSGDClassifier("log_loss", random_state=0, client=fixed)
        )
        found = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
        assert found.best_params_["distributedsgdclassifier__alpha"] == 1e-4
        assert found.best_score_ > 0.85
        assert set(found.best_estimator_[-1].history_.to_frame("rounds").worker) <= addresses(fixed)
        assert_clean(fixed)


@pytest.fixture(scope="class")
def replaced(jobs):
    """A cluster that submits a job for each that ends, and its client."""
    with jobs() as (cluster, client):
        cluster.adapt(minimum_jobs=2, maximum_jobs=2, interval="500ms")
        yield cluster, client


class TestJobsThatEnd:
    def test_one_is_replaced_and_costs_no_row_and_no_row_twice(self, replaced, lazy, binary):
        cluster, client = replaced
        client.wait_for_workers(2, timeout=JOIN_SECONDS)
        first = addresses(client)
        with EndlessFit(client, lazy) as training:
            training.wait_for_workers(2)
            ended = end_job(cluster, client, holds_server=False)
            training.wait_for(lambda: len(addresses(client) - {ended}) == 2)
            training.wait_for_workers(2)
            assert set(training.stop()) == first | addresses(client)
        assert training.classifier.score(*binary) > 0.85
        assert_clean(client)

    def test_that_of_the_server(self, replaced, lazy, binary):
        cluster, client = replaced
        client.wait_for_workers(2, timeout=JOIN_SECONDS)
        with EndlessFit(client, lazy) as training:
            training.wait_for_workers(2)
            ended = end_job(cluster, client, holds_server=True)
            training.wait_for(lambda: len(addresses(client) - {ended}) == 2)
            training.wait_for_workers(2)
            # Rounds of the lost server after its last backup were made again by others.
            assert addresses(client) <= set(training.stop())
        assert training.classifier.score(*binary) > 0.85


def test_a_lifetime_that_is_shorter_than_the_fit(jobs, lazy, binary):
    check_lifetime(jobs, lazy, binary, lifetime=10, seconds=10, least=1)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_three_minutes_on_jobs_of_one_minute(jobs, lazy, binary):
    check_lifetime(jobs, lazy, binary, lifetime=40, seconds=180, least=4, walltime="1")


def check_lifetime(jobs, rows, binary, lifetime, seconds, least, **parameters):
    """Fit for longer than any job lasts, on so many jobs beyond the first ones at least."""
    limits = ["--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{lifetime / 8}s"]
    with jobs(worker_extra_args=limits, **parameters) as (cluster, client):
        cluster.adapt(minimum_jobs=2, maximum_jobs=2, interval="500ms")
        client.wait_for_workers(2, timeout=JOIN_SECONDS)
        first, until = addresses(client), time.monotonic() + seconds
        with EndlessFit(client, rows) as training:
            training.wait_for(
                lambda: time.monotonic() > until and not first & addresses(client), seconds + JOIN_SECONDS
            )
            training.wait_for_workers(1)
            assert len(set(training.stop()) - first) >= least
        assert training.classifier.score(*binary) > 0.85
