"""A learner's connection to a server on its machine: how it begins, breaks and is made anew."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from skdist.cluster import actor as actors
from skdist.cluster import line as lines
from skdist.cluster.actor import ServerActor
from skdist.cluster.connection import Connection, ServerRef
from skdist.cluster.exchange import Exchange
from skdist.cluster.line import Offer
from skdist.cluster.plugin import LearnerPlugin
from skdist.cluster.sharing import LEAST_BYTES
from skdist.exceptions import ServerLostError
from skdist.messages import Join, Segment, Visit
from tests.cluster.conftest import wait_for
from tests.cluster.test_line import raising, threads
from tests.fakes import FakeLearner
from tests.test_server import gated, make_server

pytestmark = pytest.mark.skipif(not os.path.isdir(lines.FOLDER), reason="files are not memory here")


class Cluster:
    """Two servers of a fit, and a plugin on a worker that is none; what goes through Dask is noted."""

    def __init__(self):
        self.actors = [ServerActor(), ServerActor()]
        for actor in self.actors:
            actor._server = make_server()
        self.plugin = LearnerPlugin("skdist-test", SimpleNamespace(window=8))
        self.worker = SimpleNamespace(
            address="tcp://learner", state=SimpleNamespace(nthreads=2), digests_total={"latency": 0.0},
            metrics={}, heartbeat=self.heartbeat, memory_manager=SimpleNamespace(memory_limit=0),
        )  # fmt: skip
        asyncio.run(self.plugin.setup(self.worker))
        self.through_dask = []
        self.meanwhile = lambda: None

    async def heartbeat(self):
        pass

    def post(self, connection, method, *args):
        self.through_dask.append(method)
        future = Future()
        try:
            future.set_result(getattr(self.actors[connection.incarnation], method)(*args))
        except ServerLostError as error:
            future.set_exception(error)
        self.meanwhile()
        return future

    def connect(self, incarnation=0):
        return self.plugin.connect(ServerRef("tcp://server", f"server-{incarnation}", incarnation))


@pytest.fixture
def cluster_of_fakes(monkeypatch):
    found = Cluster()
    monkeypatch.setattr(Connection, "post", lambda *args: found.post(*args))
    monkeypatch.setattr(actors, "get_worker", lambda: found.worker)
    yield found
    found.plugin.teardown(found.worker)
    wait_for(lambda: not threads(), what="the ends of the lines' threads")


def join(connection, number, learner="a"):
    order = Visit(number, 0, (Segment(0, 0, 1000),))
    answer, _ = connection.join(Join(order, f"{learner}/{number}", learner, "tcp://learner"))
    assert answer.accepted
    return answer


def update_for(visit, learner="a", size=200):
    """Return an update of a visit that was joined."""
    return FakeLearner(make_server(size), learner, visit=visit).update(change=1.0)


def test_a_line_that_broke_is_made_anew_with_the_next_visit(cluster_of_fakes):
    connection = cluster_of_fakes.connect()
    join(connection, 1)
    connection._line.close()
    with pytest.raises(ServerLostError, match="cannot be reached"):
        connection.wait(connection.exchange(update_for(1)))
    wait_for(lambda: connection._line.broken)
    for number in (2, 3):
        connection = cluster_of_fakes.connect()
        join(connection, number)
        assert connection.wait(connection.exchange(update_for(number))).accepted
        connection.leave(number, f"a/{number}")
    assert cluster_of_fakes.through_dask == ["join_from", "join_from"]
    assert cluster_of_fakes.actors[0]._server.version == 2


def test_who_joins_a_server_that_is_replaced_meanwhile_reaches_the_next_one_afterwards(cluster_of_fakes):
    earlier = cluster_of_fakes.connect()
    cluster_of_fakes.meanwhile = lambda: cluster_of_fakes.plugin.renew(1)
    join(earlier, 1)
    cluster_of_fakes.meanwhile = lambda: None
    wait_for(lambda: not threads(), what="the end of the line to the earlier server")
    with pytest.raises(ServerLostError):
        earlier.wait(earlier.exchange(update_for(1)))
    later = cluster_of_fakes.connect(1)
    join(later, 2)
    assert later.wait(later.exchange(update_for(2))).accepted
    assert [actor._server.version for actor in cluster_of_fakes.actors] == [0, 1]
    cluster_of_fakes.through_dask.clear()
    earlier.leave(1, "a/1")
    assert not cluster_of_fakes.through_dask
    # And who is late for it altogether does not get that far.
    with pytest.raises(ServerLostError, match="replaced"):
        join(cluster_of_fakes.connect(0), 3)


def test_a_learner_that_cannot_accept_a_line_goes_through_dask(cluster_of_fakes, monkeypatch):
    monkeypatch.setattr(Offer, "accept", raising(OSError(24, "Too many open files")))
    for number in (1, 2):
        connection = cluster_of_fakes.connect()
        join(connection, number)
        connection.leave(number, f"a/{number}")
    assert cluster_of_fakes.through_dask == ["join_from", "leave", "join", "leave"]


def test_all_but_the_first_word_of_a_learner_goes_past_dask(cluster_of_fakes):
    cluster_of_fakes.actors[0]._server = make_server(LEAST_BYTES)
    connection = cluster_of_fakes.connect()
    join(connection, 1)
    assert connection._mailbox is not None
    assert connection.wait(connection.exchange(update_for(1, size=LEAST_BYTES))).accepted
    connection.leave(1, "a/1")
    assert cluster_of_fakes.through_dask == ["join_from"]


def test_many_learners_attach_at_once(cluster_of_fakes, monkeypatch):
    class Abandoned(SimpleNamespace):
        @property
        def abandoned(self):
            time.sleep(0)  # reason=lets other threads run, as the look at the file does
            return self.number % 2

    attached = iter(range(400))
    monkeypatch.setattr(
        actors.Mailbox, "attach", lambda path, nbytes: Abandoned(number=next(attached), size=nbytes)
    )
    actor = cluster_of_fakes.actors[0]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda number: actor.attach(f"learner-{number}", "", 10), range(400)))
    actor._drop_abandoned()
    assert len(actor._mailboxes) == 200


def test_a_learner_that_comes_before_the_model_waits_for_it(cluster_of_fakes):
    actor = cluster_of_fakes.actors[0]
    server, actor._server = actor._server, None

    def begin():
        if len(cluster_of_fakes.through_dask) == 3:
            actor._server = server

    plain, plugin = cluster_of_fakes.post, cluster_of_fakes.plugin
    cluster_of_fakes.post = lambda *args: begin() or plain(*args)
    order = Visit(1, 0, (Segment(0, 0, 1000),))
    answer, seconds = plugin.join(cluster_of_fakes.connect(), Join(order, "a/1", "a", "tcp://learner"))
    assert answer.accepted
    assert seconds > 0
    assert cluster_of_fakes.through_dask == ["join_from"] * 4


def test_what_was_under_way_when_its_learner_died_is_not_taken_in(cluster_of_fakes):
    actor = cluster_of_fakes.actors[0]
    join(cluster_of_fakes.connect(), 1)
    letter = update_for(1)._replace(state=object())  # that it had written into its mailbox
    with pytest.raises(ServerLostError, match="shares no memory"):
        actor.exchange_in_turn(letter, "a")
    assert actor.retire(1) == 0
    assert np.array_equal(actor.finish().state, np.zeros(200))


@pytest.mark.parametrize("size", [10, LEAST_BYTES], ids=["small", "in shared memory"])
@pytest.mark.parametrize("mode", ["sync", "ssp"])
def test_an_answer_that_is_held_back_for_long_is_asked_for_again(cluster_of_fakes, monkeypatch, mode, size):
    monkeypatch.setattr(actors, "HOLD_SECONDS", 0.0)
    server, _ = gated(mode, size, bound=0)
    actor = cluster_of_fakes.actors[0]
    actor._server, asked, plain = server, [], actor.exchange_in_turn
    actor.exchange_in_turn = lambda update, *who: asked.append(update.visit) or plain(update, *who)
    first, second = cluster_of_fakes.connect(), cluster_of_fakes.connect()
    join(first, 1, "a")
    join(second, 2, "b")
    assert (first._mailbox is not None) == (size > 10)
    waiting = Exchange(first, update_for(1, "a", size))
    wait_for(lambda: waiting.done() or len(asked) > 5)
    assert not waiting.done()
    other = Exchange(second, update_for(2, "b", size))
    for exchange in (waiting, other):
        wait_for(exchange.done)
        answer, _ = exchange.result(None)
        assert answer.accepted
        assert answer.offset == 8
    assert len(server.finish().rounds) == 2
    assert server.version == (1 if mode == "sync" else 2)


def test_the_end_of_a_visit_whose_answer_is_held_back_holds_nobody_up(cluster_of_fakes):
    server, _ = gated("sync", 10)
    cluster_of_fakes.actors[0]._server = server
    failing, other = cluster_of_fakes.connect(), cluster_of_fakes.connect()
    join(failing, 1, "a")
    join(other, 2, "b")
    failing.exchange(update_for(1, "a", 10))
    wait_for(lambda: server.waits)
    failing.leave(1, "a/1")  # its training failed meanwhile
    assert other.wait(other.exchange(update_for(2, "b", 10))).accepted
    wait_for(lambda: len(server.progress().visits) == 1)
    again = update_for(2, "b", 10)
    assert other.wait(other.exchange(again._replace(start=8, stop=16))).accepted
    assert len(server.finish().rounds) == 3


def test_an_answer_is_gone_with_its_exchange(cluster_of_fakes):
    # States are large, and garbage is collected when there are many objects, not when they are large.
    connection = cluster_of_fakes.connect()
    join(connection, 1)
    gc.disable()
    try:
        exchange = Exchange(connection, update_for(1))
        answer, seconds = exchange.result(None)
        assert answer.accepted
        assert seconds > 0
        state = weakref.ref(answer.state)
        del exchange, answer
        wait_for(lambda: state() is None, what="the end of the thread's last call")
    finally:
        gc.enable()
