"""Fixtures shared by all tests."""

from __future__ import annotations

import dask
import numpy as np
import pytest
from distributed.utils import get_mp_context
from hypothesis import settings

settings.register_profile("replayable", derandomize=True, deadline=None, database=None)
settings.load_profile("replayable")

# Workers are forked from a process that has imported what they need: a cluster then starts in a fifth of a
# second, not in three, on which nearly every test of a fault waits. The examples start theirs as users do.
dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
get_mp_context().set_forkserver_preload(["distributed", "skdist.cluster.plugin"])


@pytest.fixture(scope="session")
def binary():
    """Twelve thousand rows of a logistic model: X float32, y in {0, 1}."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12_000, 8)).astype(np.float32)
    coef = rng.standard_normal(8) * 1.5
    y = (rng.random(len(X)) < 1 / (1 + np.exp(-(X @ coef + 0.4)))).astype(np.int64)
    return X, y
