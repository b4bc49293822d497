"""Parameters that the driver asks for come through memory where that can be shared."""

import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client, LocalCluster

from skdist import DistributedSGDClassifier
from skdist.cluster import deposit as deposits
from skdist.cluster.deposit import LEAST_BYTES, Deposit, Left, leave

pytestmark = pytest.mark.skipif(not os.path.isdir(deposits.FOLDER), reason="files are not memory here")

LARGE = np.random.default_rng(0).normal(size=(2, 3, LEAST_BYTES // 16)).astype(np.float32)


@pytest.mark.parametrize("values", [LARGE, LARGE.T, LARGE[:, ::-1], LARGE.astype(np.float64)])
def test_what_is_left_is_collected(values):
    with Deposit(LARGE.nbytes) as deposit:
        sent = leave(deposit.path, values, math.inf)
        assert isinstance(sent, Left)
        found = deposit.collect(sent)
    np.testing.assert_array_equal(found, values)
    assert (found.dtype, found.flags.writeable) == (values.dtype, True)
    assert not os.path.exists(deposit.path)


@pytest.mark.parametrize(
    ("values", "most"),
    [(LARGE[..., :4], math.inf), (LARGE, LARGE.nbytes - 1), (object(), math.inf)],
    ids=["small", "too much", "a mark"],
)
def test_what_is_not_left_is_sent(values, most):
    with Deposit(LARGE.nbytes) as deposit:
        sent = leave(deposit.path, values, most)
        assert sent is values
        assert deposit.collect(sent) is values


@pytest.mark.parametrize("path", ["", "/dev/shm/skdist-of-another-machine/file", "/dev/full"])
def test_where_nothing_can_be_left_it_is_sent(path):
    assert leave(path, LARGE, math.inf) is LARGE


def test_without_such_files_parameters_are_sent(monkeypatch):
    monkeypatch.setattr(deposits, "FOLDER", "/nowhere")
    with Deposit(LARGE.nbytes) as deposit:
        assert deposit.path == ""


def test_there_is_no_file_for_small_arrays():
    with Deposit(LEAST_BYTES - 1) as deposit:
        assert deposit.path == ""


def test_what_was_not_written_to_the_end_is_sent(monkeypatch):
    monkeypatch.setattr(os, "fstat", lambda _: SimpleNamespace(st_size=4096))
    with Deposit(LARGE.nbytes) as deposit:
        assert leave(deposit.path, LARGE, math.inf) is LARGE


def test_the_file_has_no_name_once_something_is_left():
    with Deposit(LARGE.nbytes) as deposit:
        leave(deposit.path, LARGE, math.inf)
        assert not os.path.exists(deposit.path)


def test_nothing_stays_where_a_call_fails():
    with pytest.raises(RuntimeError), Deposit(LARGE.nbytes) as deposit:
        raise RuntimeError("The server is gone.")
    assert not os.path.exists(deposit.path)


def test_a_fit_ends_the_same_with_it_and_without(monkeypatch):
    rng = np.random.default_rng(0)
    rows, columns = np.repeat(np.arange(2_000), 20), rng.integers(0, 1 << 16, 40_000)
    X = sp.csr_array((np.ones(40_000, np.float32), (rows, columns)), shape=(2_000, 1 << 18))
    y = rng.integers(0, 9, 2_000)
    X_val, y_val = X[:200], y[:200]
    kinds, collect = [], Deposit.collect

    def collected(self, found):
        kinds.append(type(found))
        return collect(self, found)

    monkeypatch.setattr(Deposit, "collect", collected)
    ends = []
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for folder in (deposits.FOLDER, "/nowhere"):
            monkeypatch.setattr(deposits, "FOLDER", folder)
            clf = DistributedSGDClassifier("log_loss", client=client, random_state=0, max_iter=2)
            ends.append(clf.fit(X, y, X_val=X_val, y_val=y_val).coef_)
    np.testing.assert_array_equal(*ends)
    half = len(kinds) // 2
    assert half > 1, "the end, and a look at the model after an epoch"
    assert kinds == [Left] * half + [np.ndarray] * half
