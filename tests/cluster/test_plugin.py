from __future__ import annotations

import math
import threading
import time

import pytest

from skdist import DistributedSGDClassifier, LatencyBatchSizer
from skdist.testing import delay_heartbeats, on_servers

WITHIN_SECONDS = 3.0
STANDARD = 4_096


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
    return value


@pytest.fixture
def delayed_fit(client, persisted):
    """History of a fit in the middle of which one worker's heartbeats come 50 ms late."""
    slow = min(client.scheduler_info(n_workers=-1)["workers"])
    clf = DistributedSGDClassifier(
        "log_loss",
        max_iter=10_000_000,
        tol=None,
        round_size=STANDARD,
        # A fixed threshold: on a busy machine the links of both workers are noisy.
        batch_sizer=LatencyBatchSizer(threshold=0.04),
        random_state=0,
    )
    fit = threading.Thread(target=clf.fit, args=persisted)
    fit.start()
    try:
        wait_for(lambda: any(seconds > 1.0 for seconds in on_servers(client, "seconds")))
        delay_heartbeats(client, slow, 0.05)
        (began,) = on_servers(client, "seconds")
        wait_for(lambda: on_servers(client, "seconds")[0] > began + WITHIN_SECONDS)
    finally:
        delay_heartbeats(client, slow, 0.0)
        on_servers(client, "stop")
        fit.join(60)
    assert not fit.is_alive()
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
        # No round is shorter than a mini-batch of 12,000 // 256 rows.
        assert row.round_size == max(formula, 46)
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
