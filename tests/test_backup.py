import numpy as np

from skdist.control.roster import SILENT_SECONDS
from skdist.control.stopping import ConvergenceMonitor
from skdist.messages import Join, Segment, Visit
from skdist.server import ParameterServer
from tests.fakes import CONSTANT_RATE, Clock, FakeLearner


def make(**kwargs):
    return ParameterServer(
        np.zeros(50), **{"n_rows": 100, "schedule": CONSTANT_RATE, "batch_size": 8, **kwargs}
    )


def test_a_server_that_goes_on_from_a_backup_is_like_the_first_one():
    def serve(interrupted):
        server = make(momentum=0.5, collect=2, monitor=ConvergenceMonitor(40, 1e-3, 3))
        seen = 0
        for visit in range(1, 9):
            if interrupted and visit % 3 == 0:
                backup = server.back_up({visit - 1}, visit - 1, seen)
                server = make(momentum=0.5, collect=2, monitor=ConvergenceMonitor(40, 1e-3, 3))
                server.go_on(backup)
            learners = [FakeLearner(server, name, visit=visit * 10 + i) for i, name in enumerate("ab")]
            for number in range(6):
                learners[number % 2].push(rows=8, change=0.1 * visit, loss=8.0 / visit)
        return server

    plain, interrupted = serve(False), serve(True)
    assert np.array_equal(plain.state, interrupted.state)
    assert (plain.version, plain.clock) == (interrupted.version, interrupted.clock)
    ours, theirs = plain.finish(), interrupted.finish()
    assert ours.converged == theirs.converged
    assert [(e.epoch, e.rows, e.loss) for e in ours.epochs] == [
        (e.epoch, e.rows, e.loss) for e in theirs.epochs
    ]


def test_what_is_not_applied_is_not_in_a_backup():
    server = make(collect=3)
    first, second = FakeLearner(server, "a", visit=1), FakeLearner(server, "b", visit=2)
    for learner in (first, second, first, second, first):
        learner.push(rows=8, change=1.0)
    backup = server.back_up({1, 2}, 2, 0)
    assert backup.offsets == {1: 16, 2: 8}
    assert sum(record.rows for record in backup.rounds) == 24
    assert backup.stage.version == 1


def test_a_backup_tells_of_visits_that_the_driver_did_not_know_and_of_none_that_are_settled():
    server = make()
    for visit in (1, 2, 3):
        FakeLearner(server, f"{visit}", visit=visit).push(rows=8)
    assert server.back_up({2}, 2, 0).offsets == {2: 8, 3: 8}
    assert len(server.back_up(set(), 3, 2).rounds) == 1


def test_a_learner_is_silent_that_should_have_been_heard_of_long_ago():
    clock = Clock()
    server = make(time_source=clock, round_size=16)
    new, slow, fast = (FakeLearner(server, name, visit=n) for n, name in enumerate(["new", "slow", "fast"]))
    slow.push(rows=8, seconds_per_row=0.1)
    fast.push(rows=8, seconds_per_row=1e-4)
    clock.now = SILENT_SECONDS + 0.1
    assert server.progress().silent == (fast.visit,)
    fast.push(rows=8, seconds_per_row=1e-4)
    assert server.progress().silent == ()
    clock.now = 100.0
    # Nobody knows how long the first round of the new one takes.
    assert server.progress().silent == (slow.visit, fast.visit)
    server.leave(fast.visit, fast.attempt)
    assert server.progress().silent == (slow.visit,)
    assert new.push(rows=8).accepted


def test_visits_that_are_settled_are_forgotten_and_refused():
    server = make()
    done = FakeLearner(server, "a", visit=1)
    done.push(rows=8)
    server.leave(1, done.attempt)
    under_way = FakeLearner(server, "b", visit=2)
    under_way.push(rows=8)
    server.retire(3)
    server.back_up({2}, 3, 0)
    assert [number for number in range(10) if server._attempts.get(number) is not None] == [2]
    for settled in (1, 3):
        assert not server.join(join_of(settled)).accepted
    assert not done.push(rows=8).accepted  # of an execution that comes late
    under_way.push(rows=8)
    server.back_up({1}, 1, 0)  # asked before the other, and late
    assert not server.join(join_of(1)).accepted
    assert server.join(join_of(2)).offset == 16
    assert server.join(join_of(4)).accepted


def join_of(visit):
    return Join(Visit(visit, 0, (Segment(0, 0, 100),)), f"again {visit}", "c", "w")
