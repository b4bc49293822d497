"""Clusters of Slurm jobs: `tests/slurm/daemons.py` starts a Slurm where there is none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager

import dask
import dask.array as da
import pytest
from distributed import Client

from tests.cluster.conftest import assert_clean, wait_for

#: Seconds after which dask-jobqueue submits another job for one that is gone; its default is 15.
LOST_WORKER_SECONDS = 1


def missing():
    """Return what keeps these tests from running, '' if nothing does."""
    if "SLURM_CONF" not in os.environ or shutil.which("sbatch") is None:
        return "SLURM_CONF is not set: python tests/slurm/daemons.py start"
    return "" if squeue("%i") is not None else "Slurm does not answer"


def import_jobqueue():
    """Return dask_jobqueue; importing it lets an interrupt end Python, which other tests must not see."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return pytest.importorskip("dask_jobqueue")
    finally:
        signal.signal(signal.SIGINT, handler)


def squeue(columns):
    """Return a line for each job that is pending or runs, None where Slurm does not answer."""
    command = ["squeue", "--noheader", "--states=PENDING,CONFIGURING,RUNNING", "--format", columns]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else None


@pytest.fixture(scope="session")
def slurm():
    """Skip where there is no Slurm; afterwards no job is left."""
    if reason := missing():
        pytest.skip(reason)
    import_jobqueue()
    yield
    wait_for(lambda: squeue("%i") == [], 30, lambda: f"jobs are left: {squeue('%i %j')}")


@pytest.fixture(scope="session")
def jobs(slurm, tmp_path_factory):
    """A function that makes a cluster of Slurm jobs of one worker with one thread, and its client."""
    jobqueue = import_jobqueue()
    folder = tmp_path_factory.mktemp("jobs")

    @contextmanager
    def make(**parameters):
        with (
            dask.config.set({"distributed.deploy.lost-worker-timeout": LOST_WORKER_SECONDS}),
            jobqueue.SLURMCluster(
                **{
                    "cores": 1,
                    "processes": 1,
                    "memory": "2GB",
                    "walltime": "00:05:00",
                    "interface": "lo",
                    "local_directory": folder,
                    "log_directory": folder,
                    "scheduler_options": {"dashboard_address": ":0"},
                    **parameters,
                }
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield cluster, client
            assert_clean(client)

    return make


@pytest.fixture
def lazy(binary):
    """The binary rows as lazy collections: what a job took with it is loaded again."""
    X, y = binary
    return da.from_array(X, chunks=(1_000, -1)), da.from_array(y, chunks=1_000)
