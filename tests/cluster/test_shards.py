"""Fits whose parameters are in several servers."""

from __future__ import annotations

import os
import signal

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp

from skdist import DistributedSGDClassifier
from skdist.cluster import membership, serving
from skdist.exceptions import FitCancelledError
from tests.cluster.conftest import assert_clean, wait_for
from tests.cluster.endless import EndlessFit
from tests.cluster.test_faults import (
    Fit,
    assert_exact,
    epoch_on,
    kill,
    train_and_kill,
    trio,  # noqa: F401
    workers_of,
)

FIXED = {"mode": "sync", "round_size": 512, "batch_sizer": None, "max_iter": 4, "tol": None}


def problem(n_rows=4_000, n_features=23, n_classes=3):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, n_features)).astype(np.float32)
    return X, (X @ rng.standard_normal((n_features, n_classes))).argmax(axis=1)


def shards_on(client):
    """Return how many shards each worker holds."""
    return client.run(lambda dask_worker: sum("skdist-shard" in str(k) for k in dask_worker.state.actors))


def holders(client):
    return {address for address, count in shards_on(client).items() if count}


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"server_momentum": 0.5, "average": True, "learning_rate": "constant", "eta0": 0.01},
        {"penalty": "l1", "alpha": 1e-3},
        {"early_stopping": True, "n_iter_no_change": 2},
    ],
    ids=["averages", "momentum", "l1", "scored"],
)
def test_the_coefficients_are_the_same_to_the_bit_however_many_servers(client, sparse, params):
    X, y = problem()
    if sparse:
        X = sp.csr_matrix(X)
    expected = None
    for n_servers in (1, 2, 4):
        clf = DistributedSGDClassifier(
            "log_loss", random_state=0, client=client, n_servers=n_servers, **{**FIXED, **params}
        ).fit(X, y)
        expected = expected if expected is not None else clf
        np.testing.assert_array_equal(clf.coef_, expected.coef_)
        np.testing.assert_array_equal(clf.intercept_, expected.intercept_)
        assert clf.t_ == expected.t_
        assert clf.validation_scores_ == expected.validation_scores_


@pytest.mark.parametrize("n_servers", [1, 2, 4])
@pytest.mark.parametrize("params", [{}, {"collect": 1}, {"mode": "ssp", "max_staleness": 1}], ids=str)
def test_learners_that_do_not_wait_learn_as_well_and_each_row_counts_once(
    client, persisted, binary, n_servers, params
):
    clf = DistributedSGDClassifier(
        "log_loss", max_iter=8, tol=None, random_state=0, round_size=600, client=client, n_servers=n_servers,
        **params,
    ).fit(*persisted)  # fmt: skip
    assert_exact(clf)
    assert clf.score(*binary) > 0.85
    assert len({record.worker for record in clf.history_.rounds}) == 2


def test_there_are_no_more_shards_than_columns(client, persisted, binary):
    clf = DistributedSGDClassifier("log_loss", max_iter=3, tol=None, client=client, n_servers=50)
    with EndlessFit(client, persisted, n_servers=50) as fit:
        fit.wait_for_epochs(2)
        wait_for(lambda: sum(shards_on(client).values()) == 9)  # eight coefficients and an intercept
        fit.stop()
    assert clf.fit(*persisted).score(*binary) > 0.85


def test_shards_are_on_different_workers_and_those_are_not_to_spare(trio):  # noqa: F811
    client, dX, dy = trio
    with EndlessFit(client, (dX, dy), n_servers=2) as fit:
        fit.wait_for_epochs(2)
        assert sorted(shards_on(client).values()) == [0, 1, 1]
        assert not holders(client) & set(workers_of(client, True))
        spare = client.run_on_scheduler(
            lambda dask_scheduler: dask_scheduler.workers_to_close(n=len(dask_scheduler.workers))
        )
        assert not spare
        fit.stop()
    assert_clean(client)


@pytest.mark.parametrize(
    "bytes_in_driver",
    [pytest.param(serving.DRIVER_BYTES, id="driver", marks=pytest.mark.long), pytest.param(0, id="worker")],
)
@pytest.mark.parametrize("holds_server", [True, False], ids=["coordinator", "shard"])
def test_a_lost_server_is_replaced_and_no_row_counts_twice(
    trio, binary, monkeypatch, holds_server, bytes_in_driver  # noqa: F811
):  # fmt: skip
    monkeypatch.setattr(serving, "DRIVER_BYTES", bytes_in_driver)
    monkeypatch.setattr(serving, "BACKUP_SECONDS", 0.2)
    client, dX, dy = trio
    outcome, _ = train_and_kill(client, dX, dy, holds_server, n_servers=2)
    assert "clf" in outcome, outcome
    assert_exact(outcome["clf"])
    assert outcome["clf"].score(*binary) > 0.85
    assert_clean(client)


@pytest.mark.parametrize("mode", [pytest.param("ssp", marks=pytest.mark.long), "sync"])
def test_a_lost_shard_is_replaced_where_learners_wait_for_each_other(trio, mode):  # noqa: F811
    client, dX, dy = trio
    outcome, _ = train_and_kill(client, dX, dy, False, mode=mode, n_servers=2)
    assert "clf" in outcome, outcome
    assert_exact(outcome["clf"])
    assert_clean(client)


def test_without_a_backup_training_begins_anew(trio, binary, monkeypatch):  # noqa: F811
    monkeypatch.setattr(serving, "BACKUP_SECONDS", 1e6)
    client, dX, dy = trio
    pids = client.run(os.getpid)
    fit = Fit(client, (dX, dy), n_servers=3)
    kill(client, False, pids)
    wait_for(lambda: fit.epoch >= 0, 60)
    assert fit.end().score(*binary) > 0.85


def test_others_go_on_without_a_shard_that_is_frozen(trio, binary, monkeypatch):  # noqa: F811
    monkeypatch.setattr(membership, "SILENT_SECONDS", 2.5)
    monkeypatch.setattr(membership, "SILENT_INTERVALS", 1)
    client, _, _ = trio
    X, y = binary
    rows = da.from_array(X, chunks=(1_000, -1), name=False), da.from_array(y, chunks=1_000, name=False)
    fit = Fit(client, rows, n_servers=2)
    victim = min(holders(client))
    pid = client.run(os.getpid, workers=[victim])[victim]
    alive = [address for address in client.run(os.getpid) if address != victim]

    before = fit.epoch
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: epoch_on(client, alive) >= before + 20, 60)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert fit.end().score(X, y) > 0.85


def test_server_and_shards_move_before_a_worker_retires_and_nothing_is_repeated(trio, monkeypatch):  # noqa: F811
    monkeypatch.setattr(serving, "BACKUP_SECONDS", 1e6)
    client, dX, dy = trio
    fit = Fit(client, (dX, dy), n_servers=2)
    (coordinator,) = workers_of(client, True)
    leaving = min(holders(client) - {coordinator} or holders(client))
    before = fit.epoch

    async def say_goodbye(address, dask_scheduler):
        dask_scheduler.handle_worker_status_change("closing_gracefully", address, "test")

    client.run_on_scheduler(say_goodbye, leaving)
    wait_for(lambda: holders(client) and leaving not in holders(client), 30)
    wait_for(lambda: fit.epoch >= 0, 30)
    assert fit.epoch >= before
    fit.end()


def test_several_fits_have_shards_of_their_own(client, persisted):
    with (
        EndlessFit(client, persisted, n_servers=2) as one,
        EndlessFit(client, persisted, n_servers=3) as other,
    ):
        one.wait_for_epochs(3)
        wait_for(lambda: sorted(shards_on(client).values()) in ([2, 3], [1, 4]))
        other.wait_for_epochs(3)
        one.stop()


def test_a_fit_whose_shards_are_cancelled_ends(client, persisted):
    from distributed import Future

    with EndlessFit(client, persisted, n_servers=2) as fit:
        fit.wait_for_epochs(2)
        shards = [key for key in list(client.futures) if "skdist-shard" in str(key)]
        client.cancel([Future(key, client=client) for key in shards])
        assert isinstance(fit.error(20), FitCancelledError)
    assert_clean(client)


@pytest.mark.parametrize(("first", "second"), [(1, 4), (4, 1), (2, 3)])
def test_a_checkpoint_goes_on_with_another_number_of_servers(
    client, persisted, binary, tmp_path, monkeypatch, first, second
):
    monkeypatch.setattr(serving, "BACKUP_SECONDS", 0.1)
    path = str(tmp_path / "fit.npz")
    fixed = {**FIXED, "server_momentum": 0.5, "random_state": 0, "client": client}
    DistributedSGDClassifier("log_loss", **fixed, n_servers=first).fit(*persisted, checkpoint=path)
    fixed["max_iter"] = 6
    longer = DistributedSGDClassifier("log_loss", **fixed, n_servers=second)
    longer.fit(*persisted, checkpoint=path, resume=True)
    assert longer.n_iter_ == 6
    assert longer.history_.to_frame("visits").epoch.min() == 4
    whole = DistributedSGDClassifier("log_loss", **fixed).fit(*persisted)
    np.testing.assert_allclose(longer.coef_, whole.coef_, rtol=0.05, atol=0.02)
    assert longer.score(*binary) > 0.85


def test_callbacks_see_whole_models(client, persisted, binary):
    pytest.importorskip("sklearn.callback")  # from scikit-learn 1.9 on
    seen = []

    class Look:
        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                seen.append(fitted_estimator.score(*binary))

    clf = DistributedSGDClassifier("log_loss", max_iter=4, tol=None, client=client, n_servers=2)
    clf.set_callbacks(Look()).fit(*persisted)
    assert len(seen) == 4
    assert min(seen) > 0.8


def test_lazy_rows(client, binary):
    X, y = binary
    lazy = da.from_array(X, chunks=(1_200, -1)), da.from_array(y, chunks=1_200)
    clf = DistributedSGDClassifier("log_loss", max_iter=3, tol=None, client=client, n_servers=2).fit(*lazy)
    assert_exact(clf)
