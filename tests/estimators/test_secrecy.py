"""Errors say where bad data is, and never what it holds."""

from __future__ import annotations

import logging

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from skdist.cluster.source import memory_source
from skdist.models.partition import convert
from tests.estimators.kinds import ESTIMATORS, make
from tests.fuzz import NUMBERS, SECRET, all_messages

rng = np.random.default_rng(0)
X = rng.standard_normal((40, 3))
Y = (X[:, 0] > 0).astype(int)


def put(values, place, value):
    values = np.array(values)
    values[place] = value
    return values


TEXT = put(X.astype(object), (5, 2), SECRET)
BAD = {
    "complex rows": (X.astype(complex), Y, {}),
    "a row for a table": (X[0], Y, {}),
    "text in rows": (TEXT, Y, {}),
    "text in a list": (TEXT.tolist(), Y, {}),
    "text in a frame": (pd.DataFrame(TEXT), Y, {}),
    "ragged rows": ([*X.tolist(), [SECRET]], Y, {}),
    "NaN": (put(X, (5, 2), np.nan), Y, {}),
    "rows of another length": (X, Y[1:], {}),
    "complex targets": (X, X[:, 0] + 1j, {}),
    "nested targets": (X, [[SECRET, value] for value in X[:, 0]], {}),
    "a dictionary": (X, {SECRET: X[:, 0]}, {}),
    "text in weights": (X, Y, {"sample_weight": put(X[:, 0].astype(object), 3, SECRET)}),
    "complex weights": (X, Y, {"sample_weight": X[:, 0] + 1j}),
    "negative weights": (X, Y, {"sample_weight": -abs(X[:, 0])}),
    "weights of another length": (X, Y, {"sample_weight": X[1:, 0]}),
    "text in coefficients": (X, Y, {"coef_init": [SECRET] * 3}),
    "coefficients of another shape": (X, Y, {"coef_init": X}),
    "validation rows": (X, Y, {"X_val": TEXT, "y_val": Y}),
}  # fmt: skip


def lazy(values):
    """Return a dask Array where there can be one."""
    return da.from_array(values, chunks=(10, -1)[: values.ndim]) if isinstance(values, np.ndarray) else values


@pytest.fixture(scope="module", autouse=True)
def client():
    """Collections train here; the workers' logs are looked through too."""
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        yield client


@pytest.mark.parametrize("container", [np.array, lazy], ids=["memory", "collection"])
@pytest.mark.parametrize(("rows", "targets", "more"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", ESTIMATORS, ids=lambda kind: kind.__name__)
def test_no_error_and_no_log_shows_data(kind, rows, targets, more, container, caplog):
    if container is lazy:
        rows, targets = lazy(rows), lazy(targets)
    with caplog.at_level(logging.DEBUG), pytest.raises((ValueError, TypeError)) as caught:
        make(kind).fit(rows, targets, **more)
    for message in [*all_messages(caught.value), *caplog.messages]:
        assert SECRET not in message
        assert not NUMBERS.search(message), message


def test_representations_show_no_data():
    for value in (convert(X, Y), convert(X, X[:, 0], regression=True), memory_source(X, Y, None)):
        assert not NUMBERS.search(repr(value))
