"""Fixtures shared by all tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("replayable", derandomize=True, deadline=None, database=None)
settings.load_profile("replayable")


@pytest.fixture(scope="session")
def binary():
    """Twelve thousand rows of a logistic model: X float32, y in {0, 1}."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12_000, 8)).astype(np.float32)
    coef = rng.standard_normal(8) * 1.5
    y = (rng.random(len(X)) < 1 / (1 + np.exp(-(X @ coef + 0.4)))).astype(np.int64)
    return X, y
