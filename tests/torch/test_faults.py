"""Workers and servers that are lost under a perceptron."""

from __future__ import annotations

import os
import threading

import pytest

from skdist import DistributedMLPClassifier, TopK
from skdist.cluster import serving
from skdist.testing import on_servers
from tests.cluster.conftest import assert_clean, wait_for
from tests.cluster.test_faults import assert_exact, kill, trio  # noqa: F401


@pytest.mark.parametrize(
    ("holds_server", "compression"),
    [
        (False, TopK(share=0.1)),
        (True, None),
        pytest.param(False, None, marks=pytest.mark.long),
        pytest.param(True, TopK(share=0.1), marks=pytest.mark.long),
    ],
)
def test_no_row_is_lost_and_none_counts_twice(trio, binary, monkeypatch, holds_server, compression):  # noqa: F811
    monkeypatch.setattr(serving, "BACKUP_SECONDS", 0.2)
    client, dX, dy = trio
    pids = client.run(os.getpid)
    clf = DistributedMLPClassifier(
        (8,),
        learning_rate_init=0.01,
        max_iter=10**7,
        tol=None,
        random_state=0,
        compression=compression,
        client=client,
    )
    outcome = []

    def train():
        try:
            outcome.append(clf.fit(dX, dy))
        except Exception as error:
            outcome.append(error)

    def progressed(epochs):
        assert not outcome, outcome
        found = on_servers(client, "progress")
        return bool(found) and found[0][0] >= epochs

    fit = threading.Thread(target=train)
    fit.start()
    wait_for(lambda: progressed(3), 60)
    kill(client, holds_server, pids)
    (state,) = wait_for(lambda: on_servers(client, "progress"), 60)
    wait_for(lambda: progressed(state[0] + 5), 60)
    on_servers(client, "stop")
    fit.join(60)
    assert outcome == [clf], outcome
    assert_exact(clf)
    assert clf.score(*binary) > 0.85
    assert_clean(client)
