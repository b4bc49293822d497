from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
from dask import delayed
from distributed import Client, LocalCluster, wait
from threadpoolctl import threadpool_info

from skdist import DistributedSGDClassifier, PressurePlanner
from skdist.cluster import partitions, tasks
from skdist.cluster.fit import ClusterFit
from skdist.cluster.plugin import LearnerPlugin
from skdist.cluster.source import collection_source
from skdist.control import pressure
from skdist.estimators.linear_plan import LinearClassifierPlan
from tests.cluster.conftest import assert_clean, wait_for
from tests.fakes import fit_settings

HUGE = PressurePlanner(target_seconds=1e3, max_queue=1)


def make(**parameters):
    return DistributedSGDClassifier(**{"loss": "log_loss", "random_state": 0, "tol": None, **parameters})


@pytest.fixture
def in_process():
    """Start a client of one worker of this process; afterwards nothing of ours is on it."""
    clients = []

    def start(threads):
        cluster = LocalCluster(
            n_workers=1, threads_per_worker=threads, processes=False, dashboard_address=":0"
        )
        clients.append((Client(cluster), cluster))
        return clients[-1][0]

    yield start
    for client, cluster in clients:
        assert_clean(client)
        client.close()
        cluster.close()


def on_cluster(binary):
    rows = [da.from_array(rows, chunks=(1_200, *rows.shape[1:])).persist() for rows in binary]
    wait(rows)
    return rows


class Watch:
    """Notes when visits begin and end to train."""

    def __init__(self, monkeypatch, at_begin=lambda order: None):
        self.lock, self.at_begin = threading.Lock(), at_begin
        self.inside, self.seen = {}, []
        self.train = tasks._visit
        monkeypatch.setattr(tasks, "_visit", self)

    def __call__(self, order, *args):
        with self.lock:
            self.seen.append((order, [other.threads for other in self.inside.values()]))
            self.inside[order.number] = order
        self.at_begin(order)
        try:
            return self.train(order, *args)
        finally:
            with self.lock:
                del self.inside[order.number]


def test_a_fit_leaves_the_plans_of_its_workers(client, persisted):
    history = make(max_iter=2).fit(*persisted).history_
    plans = history.to_frame("plans")
    assert set(plans.worker) == set(history.to_frame("visits").worker)
    assert (plans.threads == 1).all()
    assert (plans.inner_threads == 1).all()
    assert (plans.queue == 1).all()
    assert (plans.pressure > 0).all()
    assert plans.time.is_monotonic_increasing


def test_without_a_planner_there_are_no_plans(client, persisted):
    assert make(max_iter=1, planner=None).fit(*persisted).history_.plans == []


def test_one_visit_at_a_time_trains_where_one_thread_is_enough(in_process, binary, monkeypatch):
    monkeypatch.setattr(pressure, "LEAST_SHARE", 0.0)  # the guard never acts
    watch = Watch(monkeypatch)
    in_process(2)
    clf = make(max_iter=30, planner=HUGE).fit(*on_cluster(binary))
    plans = clf.history_.to_frame("plans")
    assert plans.threads.tolist() == [2, 1]
    assert plans.inner_threads.tolist() == [1, 2]
    alone = [others for order, others in watch.seen if order.threads == 1]
    assert len(alone) >= 10
    assert not any(alone)


def test_the_guard_goes_back_to_all_threads_for_good(in_process, binary, monkeypatch):
    monkeypatch.setattr(pressure, "LEAST_SHARE", 1e9)  # the guard always acts
    watch = Watch(monkeypatch)
    in_process(2)
    clf = make(max_iter=30, planner=HUGE).fit(*on_cluster(binary))
    assert [plan.threads for plan in clf.history_.plans] == [2, 1, 2]
    assert {order.threads for order, _ in watch.seen[-5:]} == {2}


LOADS = []


def load(number):
    """Return a partition, and note that it was asked for."""
    LOADS.append(number)
    rng = np.random.default_rng(number)
    return rng.standard_normal((600, 4))


@pytest.fixture
def lazy(monkeypatch):
    """Rows that are loaded for each visit anew: six partitions and their labels."""
    monkeypatch.setattr(partitions, "HELD_SHARE", 0.0)
    LOADS.clear()
    parts = [da.from_delayed(delayed(load)(number), (600, 4), dtype=float) for number in range(6)]
    y = np.concatenate([load(number)[:, 0] > 0 for number in range(6)])
    LOADS.clear()
    return da.concatenate(parts), y


def test_the_next_partition_loads_while_the_only_thread_trains(in_process, lazy, monkeypatch):
    trained = []

    def next_one_loads(order):
        """Hold the visit until the partition of the next one is asked for."""
        trained.append(order.number)
        expected = min(partitions.LEAST_SAMPLE + len(trained) + 1, partitions.LEAST_SAMPLE + 12)
        wait_for(lambda: len(LOADS) >= expected, 20, f"the load after visit {order.number}")

    watch = Watch(monkeypatch, next_one_loads)
    in_process(1)
    # With this seed no partition is visited twice in a row, for which it would be loaded once.
    clf = make(max_iter=2, random_state=1).fit(*lazy)
    assert clf.history_.to_frame("epochs").rows.tolist() == [3600, 3600]
    assert [others for _, others in watch.seen] == [[]] * 12
    assert trained == sorted(trained)
    assert len(LOADS) == partitions.LEAST_SAMPLE + 12  # those that were measured, and each once per pass


def test_two_fits_at_once_on_threads_that_load_and_train_come_to_their_end(client, lazy):
    results = {}

    def train(name, mode):
        results[name] = make(max_iter=4, mode=mode, client=client).fit(*lazy)

    for modes in (("async", "async"), ("sync", "ssp")):
        threads = [threading.Thread(target=train, args=(i, mode)) for i, mode in enumerate(modes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        for clf in results.values():
            assert clf.history_.to_frame("epochs").rows.tolist() == [3600] * 4
        assert len(results) == 2
        results.clear()


def test_a_fit_that_is_cancelled_while_visits_wait_leaves_nothing(in_process, lazy, monkeypatch):
    held = threading.Event()
    watch = Watch(monkeypatch, lambda order: held.wait(20))
    client = in_process(1)
    source = collection_source(*lazy, None)
    settings = fit_settings(max_iter=100, planner=PressurePlanner())
    fit = ClusterFit(
        client, source, LinearClassifierPlan(make(), None, 0, going_on=False, classes=None), settings
    )
    running = asyncio.run_coroutine_threadsafe(fit.run(), client.loop.asyncio_loop)
    slots = []

    def one_waits():
        (worker,) = client.cluster.workers.values()
        slots[:] = [p.slots for p in worker.plugins.values() if isinstance(p, LearnerPlugin)]
        return watch.inside and slots and slots[0]._waiting

    wait_for(one_waits)
    assert client.submit(abs, -3, pure=False).result(20) == 3  # neither of them holds the only thread
    running.cancel()
    held.set()
    assert fit.cleaned.wait(20)
    wait_for(lambda: not slots[0]._waiting and not slots[0]._taken)
    assert_clean(client)
    assert client.submit(abs, -4, pure=False).result(20) == 4


def test_threads_inside_of_visits_are_limited_until_the_fit_is_over():
    async def heartbeat():
        pass

    worker = SimpleNamespace(digests_total={"latency": 0.0}, metrics={}, heartbeat=heartbeat)
    plugin = LearnerPlugin("skdist-test", fit_settings())
    asyncio.run(plugin.setup(worker))
    before = [pool["num_threads"] for pool in threadpool_info()]
    if not before or max(before) < 2:
        pytest.skip("one thread anyway")
    plugin.limit_inner_threads(1)
    plugin.limit_inner_threads(1)
    assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    plugin.teardown(worker)
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def test_time_of_plans_is_that_of_the_fit(client, persisted):
    began = time.monotonic()
    history = make(max_iter=2).fit(*persisted).history_
    assert 0 < history.plans[0].time < time.monotonic() - began
