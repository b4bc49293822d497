"""Calls from a learner to a server on the same machine, past Dask."""

from __future__ import annotations

import array
import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import weakref

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

    def fail_oddly(self):
        raise Odd("and", "even")

    def give(self, what):
        return {"lock": threading.Lock(), "odd": Odd("and", "even")}[what]


class Odd(Exception):
    """Can be written down but not read again."""

    def __init__(self, one, other):
        super().__init__(f"{one} {other}")


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("skdist-")]


@pytest.fixture
def folder(monkeypatch):
    """Where offers of this test alone are made."""
    with tempfile.TemporaryDirectory(dir=lines.FOLDER) as path:
        monkeypatch.setattr(lines, "FOLDER", path)
        yield path


@pytest.fixture
def ends(folder):
    """A server, and a learner's line to it."""
    server, offer = Server(), Offer()
    assert take(offer.path, server)
    line = offer.accept()
    offer.close()
    assert not os.listdir(folder)
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


def test_what_cannot_travel_is_an_error_of_its_call_alone(ends):
    _, line = ends
    with pytest.raises(TypeError, match="lock"):
        line.post("give", "lock").result(30)
    with pytest.raises(RuntimeError, match=r"Odd\('and even'\)"):
        line.post("fail_oddly").result(30)
    with pytest.raises(TypeError, match="unsupported"):
        line.post("double", 1, then=lambda answer: answer * {}).result(30)
    with pytest.raises(TypeError, match="lock"):
        line.post("double", threading.Lock())
    assert line.post("double", 1).result(30) == 2
    assert not line.broken


def test_a_reply_that_cannot_be_read_ends_the_line(ends):
    _, line = ends
    with pytest.raises(OSError, match=r"hung up.*other"):
        line.post("give", "odd").result(30)
    with pytest.raises(OSError, match=r"hung up|Broken pipe|descriptor"):
        line.post("double", 1).result(30)
    wait_for(lambda: line.broken)


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
    for byte in lines._packed(0, "whole", None):
        there.send(bytes([byte]))
    assert reply.result(30) == "whole"
    line.close()
    there.close()


def unread(connection):
    """Return how many bytes wait to be read."""
    count = array.array("i", [0])
    fcntl.ioctl(connection, termios.FIONREAD, count)
    return count[0]


def test_a_signal_cuts_no_message_short():
    here, there = socket.socketpair()
    line = Line(here)
    reply = line.post("double", 1)
    data = lines._packed(0, "whole", None)
    before, came = signal.signal(signal.SIGUSR1, lambda *_: came.set()), threading.Event()
    try:
        there.sendall(data[:-2])
        wait_for(lambda: not unread(here))  # the thread has all of it and waits for the rest
        (thread,) = threads()
        for _ in range(2):
            came.clear()
            signal.pthread_kill(thread.ident, signal.SIGUSR1)
            wait_for(came.is_set)
        there.sendall(data[-2:])
        assert reply.result(30) == "whole"
    finally:
        signal.signal(signal.SIGUSR1, before)
        line.close()
        there.close()


def test_a_learner_that_does_not_listen_keeps_no_server():
    server, offer = Server(), Offer()
    assert take(offer.path, server)
    learner, _ = offer._socket.accept()
    offer.close()
    learner.sendall(lines._packed(0, "double", (np.zeros(1 << 20),)))
    wait_for(lambda: unread(learner))  # there is room for a part of the reply only
    gone = weakref.ref(server)
    del server
    wait_for(lambda: gone() is None)
    wait_for(lambda: not threads())
    learner.close()


def test_who_has_no_room_to_post_is_let_go():
    here, there = socket.socketpair()
    line = Line(here)
    posted = []
    thread = threading.Thread(target=lambda: posted.append(line.post("double", np.zeros(1 << 20))))
    thread.start()
    wait_for(lambda: unread(there))  # the lock is held meanwhile
    line.close()
    thread.join(30)
    with pytest.raises(OSError, match=r"Broken pipe|hung up"):
        posted[0].result(30)
    wait_for(lambda: line.broken)
    with pytest.raises(OSError, match="descriptor"):
        line.post("double", 1).result(30)
    there.close()


def test_a_process_without_files_or_threads_to_spare_has_no_lines(monkeypatch, folder):
    offer = Offer()
    with monkeypatch.context() as patched:
        patched.setattr(lines.socket, "socket", raising(OSError(24, "Too many open files")))
        assert not take(offer.path, Server())
        with pytest.raises(OSError, match="Too many"):
            Offer()
    assert os.listdir(folder) == [os.path.basename(os.path.dirname(offer.path))]
    monkeypatch.setattr(lines.threading.Thread, "start", raising(RuntimeError("can't start new thread")))
    assert not take(offer.path, Server())
    with pytest.raises(RuntimeError, match="thread"):
        offer.accept()
    offer.close()
    assert not os.listdir(folder)


def raising(error):
    def raises(*args, **kwargs):
        raise error

    return raises


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
def test_a_fit_has_the_same_bits_through_lines_and_through_dask(client, mode, folder):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4_000, 20)).astype(np.float32)
    y = (X[:, 0] + rng.normal(size=len(X)) > 0).astype(int)
    fixed = {"batch_sizer": None, "round_size": 512, "max_iter": 2, "tol": None, "mode": mode}

    def fit():
        return DistributedSGDClassifier("log_loss", random_state=0, client=client, **fixed).fit(X, y)

    client.run(_calls, True)
    client.run(_elsewhere, folder)
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
        client.run(_elsewhere, os.path.dirname(folder))
    assert sum(visit.rows for visit in through_lines.history_.visits) == 2 * len(X)
    if mode == "sync":
        np.testing.assert_array_equal(through_lines.coef_, through_dask.coef_)
    wait_for(lambda: not any(client.run(_threads).values()), what="the ends of the lines' threads")
    assert not os.listdir(folder)
