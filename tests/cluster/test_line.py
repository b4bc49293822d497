"""Calls from a learner to a server on the same machine, past Dask."""

from __future__ import annotations

import gc
import glob
import os
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from skdist import DistributedSGDClassifier
from skdist.cluster import line as lines
from skdist.cluster.line import Line, Offer, take
from skdist.exceptions import ServerLostError
from tests.cluster.conftest import wait_for

pytestmark = pytest.mark.skipif(not os.path.isdir(lines.FOLDER), reason="files are not memory here")


class Server:
    """Does what a test asks for."""

    def __init__(self):
        self.go = threading.Event()
        self.done = []

    def double(self, values):
        return 2 * values

    def wait(self):
        assert self.go.wait(30)
        return "waited"

    def note(self, what):
        self.done.append(what)

    def fail(self):
        raise ServerLostError("as it is")


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("skdist-")]


@pytest.fixture
def ends():
    """A server, and a learner's line to it."""
    server, offer = Server(), Offer()
    assert take(offer.path, server)
    line = offer.accept()
    offer.close()
    assert not glob.glob(os.path.join(lines.FOLDER, "skdist-*"))
    yield server, line
    line.close()
    wait_for(lambda: not threads(), what="the ends of a line's threads")


def test_calls_are_answered_in_turn(ends):
    server, line = ends
    values = np.random.default_rng(0).normal(size=300_000)
    replies = [line.post("double", number) for number in range(50)]
    np.testing.assert_array_equal(line.post("double", values).result(30), 2 * values)
    assert [reply.result(30) for reply in replies] == [2 * number for number in range(50)]
    for number in range(50):
        line.post("note", number)
    assert line.post("double", values, then=len).result(30) == len(values)
    assert server.done == list(range(50))


def test_errors_come_back(ends):
    _, line = ends
    with pytest.raises(ServerLostError, match="as it is"):
        line.post("fail").result(30)
    assert line.post("double", 1).result(30) == 2


def test_who_waits_hears_that_the_line_was_hung_up(ends):
    server, line = ends
    waiting = line.post("wait")
    line.close()
    with pytest.raises(OSError, match="hung up"):
        waiting.result(30)
    server.go.set()
    with pytest.raises(OSError, match=r"hung up|Broken pipe|not connected|descriptor"):
        line.post("double", 1).result(30)


def test_who_waits_hears_that_the_server_is_gone():
    server, offer = Server(), Offer()
    assert take(offer.path, server)
    line = offer.accept()
    offer.close()
    assert line.post("double", 1).result(30) == 2
    with pytest.raises(ServerLostError):
        line.post("fail").result(30)
    del server
    gc.collect()
    with pytest.raises(OSError, match=r"hung up|Broken pipe|not connected|descriptor"):
        line.post("double", 1).result(30)
    wait_for(lambda: not threads(), what="the ends of a line's threads")


def test_who_waits_hears_that_the_servers_process_died():
    script = (
        "import sys; from skdist.cluster.line import take; from tests.cluster.test_line import Server;"
        "server = Server(); print(take(sys.argv[1], server), flush=True); sys.stdin.read()"
    )
    offer = Offer()
    process = subprocess.Popen(
        [sys.executable, "-c", script, offer.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "True"
    line = offer.accept()
    offer.close()
    waiting = line.post("wait")
    process.send_signal(signal.SIGKILL)
    with pytest.raises(OSError, match="hung up"):
        waiting.result(30)
    process.wait(30)
    process.stdin.close()
    process.stdout.close()


def test_a_server_elsewhere_takes_no_offer():
    assert not take(os.path.join(lines.FOLDER, "skdist-of-another-machine", "line"), Server())


def test_an_offer_that_nobody_takes_leaves_nothing(monkeypatch):
    monkeypatch.setattr(lines, "ACCEPT_SECONDS", 0.01)
    offer = Offer()
    assert os.stat(os.path.dirname(offer.path)).st_mode & 0o777 == 0o700
    with pytest.raises(TimeoutError):
        offer.accept()
    offer.close()
    assert not os.path.exists(os.path.dirname(offer.path))


def test_a_message_may_come_in_pieces():
    here, there = socket.socketpair()
    line = Line(here)
    reply = line.post("double", 1)
    there.recv(1 << 10)
    data = lines.pickle.dumps((0, "whole", None))
    for byte in len(data).to_bytes(lines.PREFIX) + data:
        there.send(bytes([byte]))
    assert reply.result(30) == "whole"
    line.close()
    there.close()


def _calls(counted, dask_worker=None):
    """Count the calls that this process posts to lines."""
    plain = getattr(Line, "_plain_post", Line.post)
    Line._plain_post, Line.calls = plain, []

    def post(self, method, *args, then=None):
        Line.calls.append(method)
        return plain(self, method, *args, then=then)

    Line.post = post if counted else plain


def _counted(dask_worker=None):
    return Line.calls


def _elsewhere(folder, dask_worker=None):
    lines.FOLDER = folder


def _threads(dask_worker=None):
    return len(threads())


@pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
def test_a_fit_has_the_same_bits_through_lines_and_through_dask(client, mode):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4_000, 20)).astype(np.float32)
    y = (X[:, 0] + rng.normal(size=len(X)) > 0).astype(int)
    fixed = {"batch_sizer": None, "round_size": 512, "max_iter": 2, "tol": None, "mode": mode}

    def fit():
        return DistributedSGDClassifier("log_loss", random_state=0, client=client, **fixed).fit(X, y)

    client.run(_calls, True)
    try:
        through_lines = fit()
        calls = [call for found in client.run(_counted).values() for call in found]
        assert {"join", "exchange_in_turn", "leave"} >= set(calls) >= {"exchange_in_turn", "leave"}
        client.run(_calls, True)
        client.run(_elsewhere, "/nowhere")
        through_dask = fit()
        assert not any(client.run(_counted).values())
    finally:
        client.run(_calls, False)
        client.run(_elsewhere, lines.FOLDER)
    assert sum(visit.rows for visit in through_lines.history_.visits) == 2 * len(X)
    if mode == "sync":
        np.testing.assert_array_equal(through_lines.coef_, through_dask.coef_)
    wait_for(lambda: not any(client.run(_threads).values()), what="the ends of the lines' threads")
    assert not glob.glob(os.path.join(lines.FOLDER, "skdist-*"))
