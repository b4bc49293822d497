from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.dispatch import Dispatcher
from skdist.control.ledger import Ledger
from skdist.messages import VisitReport


class FakeServer:
    """Counts the rows that are applied; what it held at a backup is what a new one begins with."""

    def __init__(self):
        self.rows, self.offsets = Counter(), {}
        self.kept = Counter(), {}

    def apply(self, visit, stop):
        start = self.offsets.get(visit.number, 0)
        for segment in visit.between(start, stop):
            for row in range(segment.start, segment.stop):
                self.rows[visit.epoch + segment.ahead, segment.partition, row] += 1
        self.offsets[visit.number] = max(start, stop)

    def back_up(self):
        self.kept = self.rows.copy(), dict(self.offsets)
        return self.kept[1]

    def restore(self):
        self.rows, self.offsets = self.kept[0].copy(), {}
        offsets, self.kept = self.kept[1], (self.rows.copy(), {})
        return offsets


ACTIONS = st.tuples(
    st.sampled_from(["train", "end", "hand back", "back up", "lose server", "worker leaves", "worker joins"]),
    st.integers(0, 10**6),
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
    st.lists(ACTIONS, max_size=60),
)
def test_whatever_is_lost_each_row_of_an_epoch_is_in_the_surviving_parameters_once(
    sizes, workers, epochs, fixed, actions
):
    dispatcher = Dispatcher(
        sizes, {n: str(n % workers) for n in range(len(sizes))}, max_iter=epochs, fixed=fixed, step=4,
        lead=0 if fixed else 1,
    )  # fmt: skip
    for name in range(workers):
        dispatcher.add_worker(str(name), 2)
    server, ledger = FakeServer(), Ledger()

    def end(visit, worker, stop):
        server.apply(visit, stop)
        stop = server.offsets[visit.number]
        dispatcher.finished(VisitReport(visit, worker, stop, 1, 0.0, 1e-3, epochs - 1))
        ledger.ended(visit, worker, stop)

    for action, number in actions:
        dispatcher.orders()
        flying = sorted(dispatcher.in_flight)
        chosen = dispatcher.in_flight[flying[number % len(flying)]] if flying else None
        if action == "train" and chosen:
            server.apply(chosen[0], number % (chosen[0].rows + 1))
        elif action == "end" and chosen:
            end(*chosen, chosen[0].rows)
        elif action == "hand back" and chosen:
            end(*chosen, number % (chosen[0].rows + 1))
        elif action == "back up":
            asked = ledger.asked(dispatcher)
            offsets = {n: rows for n, rows in server.back_up().items() if n in asked}
            ledger.settle(offsets)
            server.kept = server.kept[0], offsets
        elif action == "lose server":
            ledger.rewind(dispatcher, server.restore())
        elif action == "worker leaves" and len(dispatcher.workers) > 1:
            name = dispatcher.workers[number % len(dispatcher.workers)]
            dispatcher.remove_worker(name)
            for other, (visit, worker) in list(dispatcher.in_flight.items()):
                if worker == name:
                    offset = server.offsets.get(other, 0)
                    dispatcher.lost(other, offset)
                    ledger.ended(visit, worker, offset)
        elif action == "worker joins":
            dispatcher.add_worker(f"new{number}", 1)
    while not dispatcher.done:
        assert dispatcher.orders() or dispatcher.in_flight
        for visit, worker in list(dispatcher.in_flight.values()):
            end(visit, worker, visit.rows)
    wanted = {(e, p, row) for e in range(epochs) for p, size in enumerate(sizes) for row in range(size)}
    assert set(server.rows) == wanted
    assert set(server.rows.values()) == {1}


def test_what_is_to_do_after_a_backup_is_what_it_does_not_hold():
    dispatcher = Dispatcher([30, 30], {0: "a", 1: "a"}, max_iter=2, shuffle=False, queue=0, streamed=True)
    dispatcher.add_worker("a", 1)
    ledger = Ledger()
    ((_, first),) = dispatcher.orders()
    dispatcher.finished(VisitReport(first, "a", 30, 1, 0.0, 1.0, 1))
    ledger.ended(first, "a", 30)
    ((_, second),) = dispatcher.orders()
    todo = ledger.todo(dispatcher, {first.number: 20})
    assert [(epoch, part.partition, part.start, part.stop) for epoch, part in todo] == [
        (0, 0, 20, 30),
        (0, 1, 0, 30),
    ]
    ledger.settle({first.number: 30})
    todo = ledger.todo(dispatcher, {second.number: 10})
    assert [(epoch, part.partition, part.start, part.stop) for epoch, part in todo] == [(0, 1, 10, 30)]


def test_a_dispatcher_that_goes_on_visits_what_is_left_first():
    dispatcher = Dispatcher([30, 30], {0: "a", 1: "a"}, max_iter=3, shuffle=False, queue=0, streamed=True)
    dispatcher.add_worker("a", 1)
    done = Dispatcher([30, 30], {0: "a", 1: "a"}, max_iter=1, shuffle=False, queue=0, streamed=True)
    done.add_worker("a", 1)
    ((_, visit),) = done.orders()
    dispatcher.go_on(2, [(1, segment) for segment in visit.between(10, 30)])
    assert dispatcher.complete == 1
    ((_, first),) = dispatcher.orders()
    assert (first.epoch, first.segments[0].start, first.rows) == (1, 10, 20)
    dispatcher.finished(VisitReport(first, "a", 20, 1, 0.0, 1.0, 2))
    assert dispatcher.complete == 2
    assert dispatcher.orders()[0][1].epoch == 2
