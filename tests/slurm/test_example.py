"""The example for Slurm runs on a Slurm, as its page prints it."""

from __future__ import annotations

import pytest

from tests.test_examples import numbers, run

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm"), pytest.mark.timeout(300)]


def test_the_script_trains_on_jobs(tmp_path):
    printed = run("slurm.py", "--queue", "main", "--interface", "lo", "--jobs", 2, folder=tmp_path)
    assert printed.startswith("SLURMCluster: ")
    assert numbers("held out: accuracy", printed)[0] > 0.93
