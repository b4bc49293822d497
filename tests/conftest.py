"""Fixtures shared by all tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("replayable", derandomize=True, deadline=None, database=None)
settings.load_profile("replayable")


#: Tests that kill, freeze and slow down workers: where several ran at once, they would disturb each other.
DISTURBING = ("tests/chaos/", "tests/cluster/", "tests/torch/test_cluster.py", "tests/torch/test_faults.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let those run in one process, one after the other, and all other files wherever there is time."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "disturbing" if nodeid.startswith(DISTURBING) else nodeid.partition("::")[0]

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def binary():
    """Twelve thousand rows of a logistic model: X float32, y in {0, 1}."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12_000, 8)).astype(np.float32)
    coef = rng.standard_normal(8) * 1.5
    y = (rng.random(len(X)) < 1 / (1 + np.exp(-(X @ coef + 0.4)))).astype(np.int64)
    return X, y
