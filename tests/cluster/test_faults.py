from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client, LocalCluster, wait

from skdist import DistributedSGDClassifier
from skdist.cluster import blocks, membership, partitions, serving
from skdist.exceptions import DataLostError, NoWorkersError, SchedulerLostError, ServerLostError
from skdist.models import linear
from skdist.testing import cluster as cluster_tools
from skdist.testing import on_servers
from tests.cluster.conftest import assert_clean, wait_for


@pytest.fixture
def trio(binary):
    """Three worker processes of our own, to be killed, and lazy rows."""
    X, y = binary
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        # A process that imports sends no heartbeat: for long on a busy machine.
        client.run(importlib.import_module, "skdist.cluster.plugin")
        dX = client.persist(da.from_array(X, chunks=(1_000, -1)))
        dy = client.persist(da.from_array(y, chunks=1_000))
        with client.as_current():
            wait([dX, dy])
        yield client, dX, dy


def kill(client, holds_server, dask_worker_pids):
    servers = client.run(lambda dask_worker: any("skdist-server" in str(k) for k in dask_worker.state.actors))
    victim = next(address for address, has in servers.items() if has == holds_server)
    os.kill(dask_worker_pids[victim], signal.SIGKILL)
    return victim


def train_and_kill(client, dX, dy, holds_server, **params):
    pids = client.run(os.getpid)
    clf = DistributedSGDClassifier(
        "log_loss", random_state=0, max_iter=10_000_000, tol=None, round_size=1_000, client=client, **params
    )
    outcome = {}

    def train():
        try:
            outcome["clf"] = clf.fit(dX, dy)
        except Exception as error:
            outcome["error"] = error

    fit = threading.Thread(target=train)
    fit.start()

    def progressed(epochs, seconds=0.0):
        assert fit.is_alive(), outcome
        found = on_servers(client, "progress")
        return found[0] if found and found[0].epoch >= epochs and found[0].seconds >= seconds else None

    begun = wait_for(lambda: progressed(5), 60)
    # From the first epochs on, not from the first second: kernels may be compiled until then.
    wait_for(lambda: progressed(5, begun.seconds + 3 * serving.BACKUP_SECONDS), 60)
    victim = kill(client, holds_server, pids)
    (state,) = wait_for(lambda: on_servers(client, "progress"), 60)
    wait_for(lambda: progressed(state[0] + 20), 60)
    on_servers(client, "stop")
    fit.join(60)
    assert not fit.is_alive()
    return outcome, victim


def test_a_killed_worker_costs_no_row_and_no_row_twice(trio, binary):
    client, dX, dy = trio
    outcome, victim = train_and_kill(client, dX, dy, holds_server=False)
    clf = outcome["clf"]
    assert clf.history_.to_frame("epochs").rows.tolist() == [12_000] * clf.n_iter_
    assert clf.history_.to_frame("visits").rows.sum() == 12_000 * clf.n_iter_
    assert victim in set(clf.history_.to_frame("rounds").worker)
    assert clf.score(*binary) > 0.85
    assert_clean(client)


def test_data_that_is_lost_for_good_is_a_clear_error(trio):
    client, dX, dy = trio
    client.restart()  # cancels what was persisted
    clf = DistributedSGDClassifier("log_loss", client=client)
    with pytest.raises(DataLostError, match="Persist the collection again, or pass a lazy one"):
        clf.fit(dX, dy)
    assert_clean(client)


def test_a_killed_worker_costs_no_row_where_partitions_are_streamed(trio, binary, monkeypatch):
    monkeypatch.setattr(partitions, "HELD_SHARE", 0.0)
    client, _, _ = trio
    X, y = binary
    dX, dy = da.from_array(X, chunks=(1_000, -1)), da.from_array(y, chunks=1_000)
    outcome, _ = train_and_kill(client, dX, dy, holds_server=False)
    clf = outcome["clf"]
    assert clf.history_.to_frame("epochs").rows.tolist() == [12_000] * clf.n_iter_
    assert clf.history_.to_frame("visits").rows.sum() == 12_000 * clf.n_iter_
    assert_clean(client)


def assert_exact(clf, n_rows=12_000):
    """Fail unless the records say that each row was visited once per epoch."""
    history = clf.history_
    assert history.to_frame("epochs").rows.tolist() == [n_rows] * clf.n_iter_
    assert history.to_frame("rounds").rows.sum() == n_rows * clf.n_iter_
    stretches = history.to_frame("visits")
    assert stretches.groupby("epoch").rows.sum().tolist() == [n_rows] * clf.n_iter_
    for _, records in stretches[stretches.rows > 0].groupby(["epoch", "partition"]):
        records = records.sort_values("start")
        assert records.start.tolist() == [0, *records.rows.cumsum()[:-1]]


@pytest.mark.parametrize("bytes_in_driver", [serving.DRIVER_BYTES, 0], ids=["driver", "worker"])
def test_a_lost_server_is_replaced_and_no_row_counts_twice(trio, binary, monkeypatch, bytes_in_driver):
    monkeypatch.setattr(serving, "DRIVER_BYTES", bytes_in_driver)
    monkeypatch.setattr(serving, "BACKUP_SECONDS", 0.2)
    client, dX, dy = trio
    outcome, victim = train_and_kill(client, dX, dy, holds_server=True)
    assert_exact(outcome["clf"])
    assert victim in set(outcome["clf"].history_.to_frame("visits").worker)
    assert outcome["clf"].score(*binary) > 0.85
    assert_clean(client)


def test_another_worker_takes_over_where_only_one_pays(trio, binary, monkeypatch):
    monkeypatch.setattr(linear, "LARGE_STATE", 0)
    monkeypatch.setattr(linear, "EXCHANGES_TO_PAY", 1_000)
    client, dX, dy = trio
    rows = dX.map_blocks(sp.csr_array, dtype=dX.dtype)
    outcome, victim = train_and_kill(client, rows, dy, holds_server=True)
    assert_exact(outcome["clf"])
    history = outcome["clf"].history_
    assert history.fits[-1].learners == 1
    # There is a backup after three seconds: without one nothing is known of what the first one had done.
    before, after = dict.fromkeys(record.worker for record in history.visits)
    assert before == victim
    assert after != victim
    assert_clean(client)


@pytest.mark.parametrize("mode", [pytest.param("ssp", marks=pytest.mark.long), "sync"])
def test_a_lost_server_is_replaced_where_learners_wait_for_each_other(trio, mode):
    client, dX, dy = trio
    outcome, _ = train_and_kill(client, dX, dy, holds_server=True, mode=mode)
    assert_exact(outcome["clf"])
    assert_clean(client)


def test_a_lost_server_costs_no_score(trio):
    client, dX, dy = trio
    outcome, _ = train_and_kill(
        client, dX, dy, holds_server=True, early_stopping=True, n_iter_no_change=10**6
    )
    clf = outcome["clf"]
    assert len(clf.validation_scores_) >= clf.n_iter_
    assert_exact(clf, 10_800)
    assert_clean(client)


def test_a_server_that_is_lost_again_and_again_is_a_clear_error(trio, monkeypatch):
    monkeypatch.setattr(serving, "MOST_LOSSES", 2)
    monkeypatch.setattr(serving, "BACKUP_SECONDS", 1e6)
    client, dX, dy = trio

    def begin(self, *args):
        raise ServerLostError("out of memory")

    monkeypatch.setattr(serving.Serving, "check", begin)
    clf = DistributedSGDClassifier("log_loss", max_iter=10_000_000, tol=None, client=client)
    with pytest.raises(ServerLostError, match="lost one after the other"):
        clf.fit(dX, dy)
    assert_clean(client)


class Fit(threading.Thread):
    """An endless fit in a thread; `end` stops it after the epochs under way."""

    def __init__(self, client, rows, **params):
        super().__init__(daemon=True)
        self.client, self.rows, self.result = client, rows, None
        params = {"max_iter": 10_000_000, "tol": None, "random_state": 0, "client": client, **params}
        self.clf = DistributedSGDClassifier("log_loss", **params)
        self.start()
        self.wait_for_epochs(2)

    def run(self):
        try:
            self.result = self.clf.fit(*self.rows)
        except BaseException as error:
            self.result = error

    @property
    def epoch(self):
        found = on_servers(self.client, "progress")
        return found[0][0] if found else -1

    def wait_for_epochs(self, count):
        wait_for(lambda: self.epoch >= count or self.result is not None, 60, lambda: self.result)
        assert self.result is None, self.result

    def end(self):
        self.wait_for_epochs(self.epoch + 5)
        wait_for(lambda: on_servers(self.client, "stop"), 30)
        self.join(60)
        assert isinstance(self.result, DistributedSGDClassifier), self.result
        assert_exact(self.result)
        assert_clean(self.client)
        return self.result


def workers_of(client, with_server):
    servers = client.run(lambda dask_worker: any("skdist-server" in str(k) for k in dask_worker.state.actors))
    return [address for address, has in servers.items() if has == with_server]


def epoch_on(client, workers):
    """Return the epoch of a fit whose server is on one of some workers, asking no others; -1 for none."""
    servers = client.run(cluster_tools._call_servers, "progress", workers=workers, on_error="ignore")
    return max((found[0][0] for found in servers.values() if found), default=-1)


def has_visits(client, worker):
    found = client.run(
        lambda dask_worker: any("skdist-visit" in str(key) for key in dask_worker.state.tasks),
        workers=[worker],
    )
    return found[worker]


@pytest.mark.parametrize("with_server", [False, True])
def test_others_go_on_without_a_worker_that_is_frozen_and_with_it_when_it_thaws(
    trio, binary, monkeypatch, with_server
):
    monkeypatch.setattr(membership, "SILENT_SECONDS", 2.5)
    monkeypatch.setattr(membership, "SILENT_INTERVALS", 1)
    client, _, _ = trio
    X, y = binary
    # Not under the names of the persisted rows, which the frozen worker might hold.
    rows = da.from_array(X, chunks=(1_000, -1), name=False), da.from_array(y, chunks=1_000, name=False)
    fit = Fit(client, rows)
    victim = workers_of(client, with_server)[0]
    pid = client.run(os.getpid, workers=[victim])[victim]
    alive = [address for address in client.run(os.getpid) if address != victim]

    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: epoch_on(client, alive) >= 0, 30)
        before = epoch_on(client, alive)
        wait_for(lambda: epoch_on(client, alive) >= before + 20, 60)
    finally:
        os.kill(pid, signal.SIGCONT)
    seen = fit.epoch
    fit.wait_for_epochs(seen + 5)

    wait_for(lambda: has_visits(client, victim), 30)
    assert fit.end().score(X, y) > 0.85


def pause(client, addresses, fraction=1e-6):
    """Let workers think that so much of their memory is more than they may use; Dask pauses them."""

    def limit(dask_worker):
        dask_worker.memory_manager.memory_pause_fraction = fraction

    client.run(limit, workers=addresses)
    paused = "paused" if fraction < 0.5 else "running"

    def are_paused():
        # What the client knows may be seconds old: a worker that is new may not be among them.
        workers = client.scheduler_info(n_workers=-1)["workers"]
        return all(workers.get(address, {}).get("status") == paused for address in addresses)

    wait_for(are_paused, 30)


@pytest.mark.parametrize("with_server", [pytest.param(False, marks=pytest.mark.long), True])
def test_others_go_on_without_a_worker_that_is_paused_and_with_it_afterwards(trio, binary, with_server):
    client, dX, dy = trio
    fit = Fit(client, (dX, dy))
    victim = workers_of(client, with_server)[0]
    pause(client, [victim])
    wait_for(lambda: not has_visits(client, victim), 30)
    fit.wait_for_epochs(fit.epoch + 5)
    pause(client, [victim], 0.8)
    wait_for(lambda: has_visits(client, victim), 30)
    assert fit.end().score(*binary) > 0.85


def test_a_cluster_whose_workers_are_all_paused_is_a_clear_error(trio, binary):
    client, _, _ = trio
    addresses = list(client.run(os.getpid))
    pause(client, addresses)
    with (
        dask.config.set({"skdist.worker-timeout": 1.0}),
        pytest.raises(NoWorkersError, match=r"3 of them.*paused"),
    ):
        DistributedSGDClassifier("log_loss", client=client).fit(*binary)
    pause(client, addresses, 0.8)
    assert_clean(client)


@pytest.mark.parametrize("streamed", [False, True], ids=["held", "streamed"])
def test_rows_that_a_frozen_worker_was_to_load_are_loaded_by_others(trio, binary, monkeypatch, streamed):
    monkeypatch.setattr(membership, "SILENT_SECONDS", 2.5)
    monkeypatch.setattr(membership, "SILENT_INTERVALS", 1)
    if streamed:
        monkeypatch.setattr(partitions, "HELD_SHARE", 0.0)
    client, _, _ = trio
    X, y = binary
    rows = da.from_array(X, chunks=(1_000, -1), name=False), da.from_array(y, chunks=1_000, name=False)
    fit = Fit(client, rows)
    victim = workers_of(client, with_server=False)[0]
    pid = client.run(os.getpid, workers=[victim])[victim]
    alive = [address for address in client.run(os.getpid) if address != victim]
    stolen = []

    def near(home, present):  # as if Dask let the idle worker steal what was ordered of others
        # The victim may have begun to load the same partition, too.
        if len(stolen) < blocks.MOST_TRIES - 1 and home != victim:
            stolen.append(home)
            return {"workers": [victim]}
        return where_asked(home, present)

    where_asked = blocks.near
    os.kill(pid, signal.SIGSTOP)
    try:
        monkeypatch.setattr(blocks, "near", near)
        monkeypatch.setattr(partitions, "near", near)
        wait_for(lambda: stolen, 30)
        before = epoch_on(client, alive)
        wait_for(lambda: epoch_on(client, alive) >= before + 20, 60)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert fit.end().score(X, y) > 0.85


@pytest.mark.parametrize("kind", ["lazy", pytest.param("memory", marks=pytest.mark.long)])
def test_a_fit_begins_without_a_worker_that_is_frozen(trio, binary, monkeypatch, kind):
    monkeypatch.setattr(membership, "SILENT_SECONDS", 2.0)
    client, _, _ = trio
    X, y = binary
    lazy = da.from_array(X, chunks=(1_000, -1), name=False), da.from_array(y, chunks=1_000, name=False)
    pids = client.run(os.getpid)
    victim = min(pids)
    os.kill(pids[victim], signal.SIGSTOP)
    try:
        clf = DistributedSGDClassifier("log_loss", max_iter=3, tol=None, client=client)
        clf.fit(*(lazy if kind == "lazy" else binary))
    finally:
        os.kill(pids[victim], signal.SIGCONT)
    assert clf.score(X, y) > 0.85
    assert victim not in set(clf.history_.to_frame("visits").worker)
    assert_exact(clf)
    assert_clean(client)


def test_a_worker_that_joins_gets_work_within_seconds(trio, binary):
    client, dX, dy = trio
    fit = Fit(client, (dX, dy))
    known = set(client.run(os.getpid))
    client.cluster.scale(4)
    (new,) = wait_for(lambda: set(client.run(os.getpid)) - known, 30)
    wait_for(lambda: has_visits(client, new), 10)
    assert new in set(fit.end().history_.to_frame("visits").worker)


@pytest.mark.parametrize("with_server", [pytest.param(False, marks=pytest.mark.long), True])
def test_rows_in_memory_that_were_lost_with_a_worker_are_sent_again(trio, binary, with_server):
    client, _, _ = trio
    fit = Fit(client, binary)
    victim = workers_of(client, with_server)[0]
    os.kill(client.run(os.getpid, workers=[victim])[victim], signal.SIGKILL)
    wait_for(lambda: victim not in client.scheduler_info(n_workers=-1)["workers"], 30)
    assert fit.end().score(*binary) > 0.85


@pytest.mark.parametrize("kind", [pytest.param("lazy", marks=pytest.mark.long), "memory"])
def test_a_fit_goes_on_when_all_workers_are_restarted(trio, binary, kind):
    client, _, _ = trio
    X, y = binary
    rows = (
        binary if kind == "memory" else (da.from_array(X, chunks=(1_000, -1)), da.from_array(y, chunks=1_000))
    )
    fit = Fit(client, rows)
    client.restart(timeout=60)
    assert fit.end().score(X, y) > 0.85


def test_persisted_rows_are_lost_when_all_workers_are_restarted(trio):
    client, dX, dy = trio
    fit = Fit(client, (dX, dy))
    client.restart(timeout=60)
    fit.join(60)
    assert isinstance(fit.result, DataLostError), fit.result
    assert "Persist the collection again, or pass a lazy one" in str(fit.result)
    assert_clean(client)


def test_the_server_moves_before_its_worker_retires_and_nothing_is_repeated(trio, monkeypatch):
    monkeypatch.setattr(serving, "BACKUP_SECONDS", 1e6)
    client, dX, dy = trio
    fit = Fit(client, (dX, dy))
    (leaving,) = workers_of(client, True)
    before = fit.epoch

    async def say_goodbye(address, dask_scheduler):
        dask_scheduler.handle_worker_status_change("closing_gracefully", address, "test")

    client.run_on_scheduler(say_goodbye, leaving)
    wait_for(lambda: leaving not in (workers_of(client, True) or [leaving]), 30)
    wait_for(lambda: fit.epoch >= 0, 30)  # the new actor is there before it has its model
    assert fit.epoch >= before
    fit.end()


def test_a_fit_ends_soon_after_its_scheduler_and_goes_on_elsewhere(binary, tmp_path):
    path = str(tmp_path / "fit.npz")
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard",
         "--scheduler-file", str(tmp_path / "scheduler.json")],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "scheduler.json").exists(), 30)
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file",
         str(tmp_path / "scheduler.json"), "--no-nanny", "--no-dashboard", "--nthreads", "1",
         "--death-timeout", "5"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    parameters = {"loss": "log_loss", "random_state": 0, "tol": None}
    outcome = []

    def train(client):
        try:
            endless = DistributedSGDClassifier(**parameters, max_iter=10_000_000, client=client)
            outcome.append(endless.fit(*binary, checkpoint=path))
        except Exception as error:
            outcome.append(error)

    try:
        client = Client(scheduler_file=str(tmp_path / "scheduler.json"), set_as_default=False, timeout=30)
        fit = threading.Thread(target=train, args=[client], daemon=True)
        fit.start()
        wait_for(lambda: os.path.exists(path) or outcome, 60)
        scheduler.kill()
        killed = time.monotonic()
        fit.join(45)
        assert not fit.is_alive()
        assert time.monotonic() - killed < 30
        assert isinstance(outcome[0], SchedulerLostError), outcome
        client.close(timeout=5)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait(10)
    with np.load(path) as file:
        epoch = json.loads(file["about"].tobytes())["opened"]
    parameters["max_iter"] = epoch + 3
    clf = DistributedSGDClassifier(**parameters).fit(*binary, checkpoint=path, resume=True)
    assert clf.n_iter_ == epoch + 3
    assert clf.history_.to_frame("epochs").rows.tolist() == [12_000] * clf.n_iter_
    assert clf.score(*binary) > 0.85


def test_a_checkpoint_of_a_cluster_goes_on_on_a_cluster_and_here(trio, binary, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "BACKUP_SECONDS", 0.1)
    client, dX, dy = trio
    path = str(tmp_path / "fit.npz")
    parameters = {"loss": "log_loss", "random_state": 0, "tol": None}
    first = DistributedSGDClassifier(**parameters, max_iter=40, client=client)
    first.fit(dX, dy, checkpoint=path)
    assert_exact(first)
    longer = DistributedSGDClassifier(**parameters, max_iter=60, client=client)
    longer.fit(dX, dy, checkpoint=path, resume=True)
    assert longer.n_iter_ == 60
    assert longer.history_.to_frame("visits").epoch.min() == 40
    here = DistributedSGDClassifier(**parameters, max_iter=70)
    here.fit(*binary, checkpoint=path, resume=True)
    assert here.history_.to_frame("epochs").rows.tolist() == [12_000] * 70
    assert here.score(*binary) > 0.85
    assert_clean(client)
