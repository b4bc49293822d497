from __future__ import annotations

import contextlib
import itertools
import threading
import time
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, wait
from sklearn.metrics import log_loss

from skdist import DistributedSGDClassifier
from skdist.cluster import fit
from skdist.control import pace
from skdist.exceptions import DivergedError, NoWorkersError
from skdist.testing import leftovers
from tests.cluster.conftest import assert_clean, wait_for


def make(**parameters):
    return DistributedSGDClassifier(**{"loss": "log_loss", "random_state": 0, **parameters})


def test_both_workers_train_and_every_row_is_visited_once_per_epoch(client, persisted):
    dX, dy = persisted
    clf = make(max_iter=4, tol=None, round_size=512).fit(dX, dy)
    rounds, visits, epochs = (clf.history_.to_frame(t) for t in ("rounds", "visits", "epochs"))
    assert rounds.worker.nunique() == 2
    assert clf.n_iter_ == 4
    assert epochs.rows.tolist() == [len(dX)] * 4
    for _, part in visits.groupby(["epoch", "partition"]):
        stretches = sorted(zip(part.start, part.rows, strict=True))
        assert stretches[0][0] == 0
        assert sum(rows for _, rows in stretches) == 1_200
        for (a, rows), (b, _) in itertools.pairwise(stretches):
            assert a + rows == b
    assert len(visits.groupby(["epoch", "partition"])) == 40
    assert rounds.rows.sum() == 4 * len(dX)


def test_quality_is_that_of_training_in_one_process(client, persisted, binary):
    X, y = binary
    here, there = make().fit(X, y), make().fit(*persisted)
    assert log_loss(y, there.predict_proba(X)) < 1.01 * log_loss(y, here.predict_proba(X))


def test_one_learner_is_the_sequential_run_to_the_bit(client, binary, monkeypatch):
    # However long a visit takes on a busy machine, the other worker does not help.
    monkeypatch.setattr(pace, "MOST_SECONDS", 1e3)
    monkeypatch.setattr(fit, "build_dispatcher", partial(fit.build_dispatcher, least_seconds=1e3))
    X, y = binary
    client.restart()  # the server's worker is chosen anew: local or remote, the result is the same
    dX, dy = da.from_array(X, chunks=(-1, -1)).persist(), da.from_array(y, chunks=-1).persist()
    wait([dX, dy])
    settings = {"max_iter": 3, "tol": None, "round_size": 700}
    here = make(**settings).fit(X, y)
    for _ in range(3):
        there = make(**settings).fit(dX, dy)
        assert there.history_.to_frame("rounds").staleness.max() == 0
        np.testing.assert_array_equal(here.coef_, there.coef_)
        np.testing.assert_array_equal(here.intercept_, there.intercept_)


def test_history_has_the_columns_that_are_promised(client, persisted):
    history = make(max_iter=2, tol=None).fit(*persisted).history_
    promised = {
        "rounds": "learner worker epoch rows round_size version staleness context rate_scale latency "
        "efficiency loss seconds_compute seconds_exchange",
        "visits": "worker epoch partition rows seconds attempt",
        "epochs": "epoch rows loss val_loss seconds",
    }
    for table, names in promised.items():
        frame = history.to_frame(table)
        assert set(names.split()) <= set(frame.columns)
        assert len(frame)
    numbers = history.to_frame("rounds").drop(columns=["learner", "worker"])
    assert numbers.pop("volatility").isna().all()  # nobody asked for it
    assert np.isfinite(numbers.to_numpy(float)).all()


@pytest.mark.parametrize(
    "params",
    [{"mode": "sync"}, {"mode": "sync", "batch_sizer": None}, {"mode": "ssp", "max_staleness": 0}],
    ids=str,
)
def test_modes_in_which_learners_wait_visit_every_row(client, persisted, params):
    clf = make(max_iter=3, tol=None, round_size=256, **params).fit(*persisted)
    assert [epoch.rows for epoch in clf.history_.epochs] == [12_000] * 3
    assert clf.score(*persisted) > 0.8
    rounds = clf.history_.to_frame("rounds")
    assert len(set(rounds.worker)) == 2
    if params["mode"] == "sync":
        assert (rounds.staleness == 0).all()
        # Also where one is through with its rows before the other.
        versions = rounds.groupby("version").weight
        assert versions.sum().to_numpy() == pytest.approx(versions.size().to_numpy() / 2)
        assert np.isfinite(rounds.volatility[rounds.steps > 1]).all()


def test_collected_updates_make_one_version(client, persisted):
    clf = make(max_iter=2, tol=None, round_size=512, collect=3).fit(*persisted)
    rounds = clf.history_.to_frame("rounds")
    assert (rounds.version == np.arange(len(rounds)) // 3 + 1).all()
    assert clf.score(*persisted) > 0.8


def test_mechanisms_can_be_switched_off(client, persisted):
    clf = make(rate_adapter=None, batch_sizer=None, round_size=600, max_iter=2, tol=None).fit(*persisted)
    rounds = clf.history_.to_frame("rounds")
    assert (rounds.rate_scale == 1).all()
    assert (rounds.round_size == 600).all()


def test_keyboard_interrupt_leaves_nothing(client, persisted):
    import signal

    def interrupt_when_training():
        with contextlib.suppress(
            AssertionError
        ):  # the interrupt comes all the same; the test fails where it looks
            wait_for(lambda: any("skdist-visit" in key for key in leftovers(client)["keys"]))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    helper = threading.Thread(target=interrupt_when_training)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        make(max_iter=1_000_000, tol=None).fit(*persisted)
    helper.join(10)
    assert_clean(client)
    assert make().fit(*persisted).score(*persisted) > 0.8


def test_divergence_is_an_error_and_leaves_nothing(client, persisted):
    from skdist import AutoRate

    dX, dy = persisted
    with pytest.raises(DivergedError, match="Lower the step size"):
        make(penalty=None, learning_rate=AutoRate(1e40), max_iter=5, tol=None).fit(dX, dy)
    assert_clean(client)


def test_no_workers_is_an_error_within_the_limit(binary):
    X, y = binary
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty,
        Client(empty, set_as_default=False) as client,
        dask.config.set({"skdist.worker-timeout": 0.3}),
    ):
        began = time.monotonic()
        with pytest.raises(NoWorkersError, match=r"no worker for 0\.3 s"):
            make(client=client).fit(X, y)
        assert time.monotonic() - began < 10
        assert leftovers(client)["keys"] == []


def test_workers_that_come_later_are_used(binary):
    X, y = binary
    dX, dy = da.from_array(X, chunks=(1_200, -1)), da.from_array(y, chunks=1_200)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as late,
        Client(late, set_as_default=False) as client,
    ):
        starter = threading.Timer(0.5, late.scale, args=(1,))
        starter.start()
        clf = make(client=client).fit(dX, dy)
        starter.join()
        assert clf.score(X, y) > 0.8


def test_without_a_client_a_temporary_cluster_trains(binary):
    X, y = binary
    dX, dy = da.from_array(X, chunks=(3_000, -1)), da.from_array(y, chunks=3_000)
    clf = make().fit(dX, dy)
    assert clf.score(X, y) > 0.8
    with pytest.raises(ValueError, match="No clients found"):
        Client.current()


def test_streamed_partitions_are_not_held(client, binary, monkeypatch):
    from skdist.cluster import partitions

    monkeypatch.setattr(partitions, "HELD_SHARE", 0.0)
    X, y = binary
    dX, dy = da.from_array(X, chunks=(3_000, -1)), da.from_array(y, chunks=3_000)
    clf = make(max_iter=2, tol=None).fit(dX, dy)
    assert clf.history_.to_frame("epochs").rows.tolist() == [len(X)] * 2
    assert clf.history_.to_frame("visits").worker.nunique() == 2
    assert clf.score(X, y) > 0.8


def test_two_fits_at_once_do_not_disturb_each_other(client, persisted):
    results = {}

    def train(name, loss):
        results[name] = make(loss=loss, max_iter=6, tol=None).fit(*persisted)

    threads = [threading.Thread(target=train, args=(str(i), "log_loss")) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for clf in results.values():
        assert clf.history_.to_frame("epochs").rows.tolist() == [12_000] * 6
    assert len(results) == 2


def test_a_fit_inside_a_task_trains_there(client, binary):
    X, y = binary

    def task(X, y):
        clf = DistributedSGDClassifier("log_loss", random_state=0).fit(X, y)
        return clf.history_.to_frame("rounds").worker.unique().tolist(), clf.score(X, y)

    where, accuracy = client.submit(task, X, y, pure=False).result(60)
    assert where == ["inline"]
    assert accuracy > 0.8


def test_partial_fit_on_a_collection_makes_one_pass_each(client, persisted):
    dX, dy = persisted
    clf = make()
    for _ in range(3):
        clf.partial_fit(dX, dy, classes=[0, 1])
    assert clf.history_.to_frame("epochs").rows.tolist() == [len(dX)] * 3
    assert clf.score(dX, dy) > 0.8
