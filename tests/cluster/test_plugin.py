from __future__ import annotations

import asyncio
import math
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client

from skdist import DistributedSGDClassifier, LatencyBatchSizer
from skdist.cluster.plugin import LearnerPlugin
from skdist.models.partition import convert
from skdist.testing import delay_heartbeats, on_servers
from tests.cluster.conftest import wait_for

WITHIN_SECONDS = 3.0
STANDARD = 4_096


@pytest.fixture(scope="module")
def delayed_fit(cluster, binary):
    """History of a fit in the middle of which one worker's heartbeats come 50 ms late."""
    with Client(cluster, set_as_default=False) as client:
        X, y = binary
        dX = client.persist(da.from_array(X, chunks=(1_200, -1)))
        dy = client.persist(da.from_array(y, chunks=1_200))
        slow = min(client.scheduler_info(n_workers=-1)["workers"])
        clf = DistributedSGDClassifier(
            "log_loss",
            max_iter=10_000_000,
            tol=None,
            # Steps that shrink need no lower rate: staleness bounds the step, it is no discount.
            learning_rate="constant",
            eta0=1e-3,
            round_size=STANDARD,
            # A fixed threshold: on a busy machine the links of both workers are noisy.
            batch_sizer=LatencyBatchSizer(threshold=0.04),
            random_state=0,
            client=client,
        )
        with ThreadPoolExecutor(1) as pool:
            fit = pool.submit(clf.fit, dX, dy)

            def seconds():
                assert not fit.done(), fit.result()
                return max(on_servers(client, "seconds"), default=0.0)

            try:
                wait_for(lambda: seconds() > 1.0)
                delay_heartbeats(client, slow, 0.05)
                began = seconds()
                wait_for(lambda: seconds() > began + WITHIN_SECONDS)
            finally:
                delay_heartbeats(client, slow, 0.0)
                on_servers(client, "stop")
            fit.result(60)
        return clf.history_.to_frame("rounds"), slow, began


def test_a_link_that_slows_down_shrinks_rounds_and_rate_within_seconds(delayed_fit):
    rounds, slow, began = delayed_fit
    mine = rounds[rounds.worker == slow]
    before = mine[mine.time < began]
    late = mine[(mine.time > began) & (mine.time < began + WITHIN_SECONDS) & (mine.efficiency < 0.5)]
    assert before.efficiency.median() > 0.5
    assert len(late)
    assert late.latency.iloc[-1] > 0.05
    for _, row in late.iterrows():
        formula = math.floor(row.efficiency / (1 + row.efficiency) * STANDARD)
        # The formula, but for a link that fails altogether: no round is shorter than a sixteenth of B0.
        assert row.round_size == max(formula, STANDARD // 16)
    assert late.rate_scale.iloc[-100:].median() < 0.7 * before.rate_scale.iloc[-100:].median()


def test_the_other_worker_keeps_its_rounds(delayed_fit):
    rounds, slow, began = delayed_fit
    others = rounds[(rounds.worker != slow) & (rounds.time > began)]
    assert others.efficiency.median() > 0.5


def test_heartbeats_are_sampled_at_once_and_forgotten_at_the_end(client, persisted):
    clf = DistributedSGDClassifier("log_loss", max_iter=1, tol=None).fit(*persisted)
    assert (clf.history_.to_frame("rounds").latency > 0).all()
    names = client.run(lambda dask_worker: list(dask_worker.metrics))
    assert not any("skdist" in name for metrics in names.values() for name in metrics)


@pytest.fixture
def plugin():
    """A plugin that belongs to no fit, on a worker that is none."""

    async def heartbeat():
        pass

    made = LearnerPlugin("skdist-test", SimpleNamespace(window=8))
    asyncio.run(made.setup(SimpleNamespace(digests_total={"latency": 0.0}, metrics={}, heartbeat=heartbeat)))
    return made


def test_the_two_latest_backups_are_kept_whatever_comes_late(plugin):
    for number in (1, 3, 4, 2):
        plugin.keep(number, f"backup {number}")
    assert plugin.backups == {3: "backup 3", 4: "backup 4"}


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_the_user_are_not_kept(plugin, order):
    X, y = np.asarray(np.ones((10, 3)), order=order), np.arange(10) % 2
    first = plugin.partition(("Partition", 0), X, lambda: convert(X, y))
    rows = weakref.ref(X)
    again = plugin.partition(("Partition", 0), X, pytest.fail)
    np.testing.assert_array_equal(first.X, again.X)
    np.testing.assert_array_equal(first.targets, again.targets)
    assert again.X.flags.c_contiguous
    X = first = again = None
    assert rows() is None


def test_sparse_rows_of_the_user_are_not_kept_unless_they_had_to_be_sorted(plugin):
    for number, indices in enumerate([[0, 2, 1], [2, 0, 1]]):
        X, y = sp.csr_array(([1.0, 2.0, 3.0], indices, [0, 2, 3]), shape=(2, 3)), np.arange(2)
        whole, rows = X.toarray(), weakref.ref(X)
        plugin.partition(("Partition", number), X, lambda X=X, y=y: convert(X, y))
        again = plugin.partition(("Partition", number), X, pytest.fail)
        np.testing.assert_array_equal(again.X.toarray(), whole)
        assert again.X.has_sorted_indices
        assert (again.X is X) is (number == 0)
        X = again = None
        assert rows() is None
