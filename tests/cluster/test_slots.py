"""Slots are threads and a condition: no cluster is needed to see whom they let in."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from skdist.cluster.slots import Slots
from skdist.messages import Segment, Visit
from tests.cluster.conftest import wait_for
from tests.fakes import Clock


def visit(number, threads):
    return Visit(number, 0, (Segment(0, 0, 8),), threads=threads)


class Crowd:
    """Visits that hold a slot until they are told to go."""

    def __init__(self, slots):
        self.slots, self.pool = slots, ThreadPoolExecutor(16)
        self.inside, self.gave_way, self.free, self.gone = [], [], {}, {}

    def come(self, number, threads):
        """Begin a visit; return when it is in or has given way."""
        self.gone[number] = threading.Event()
        future = self.pool.submit(self._hold, number, threads)
        wait_for(lambda: future.done() or number in self.inside or number in self.gave_way)

    def _hold(self, number, threads):
        with self.slots.take(visit(number, threads), lambda: self.gave_way.append(number)) as free:
            self.free[number] = free
            self.inside.append(number)
            self.gone[number].wait(30)
            self.inside.remove(number)

    def go(self, number):
        self.gone[number].set()
        wait_for(lambda: number not in self.inside)


@pytest.fixture
def crowd():
    crowd = Crowd(Slots(Clock()))
    yield crowd
    crowd.slots.lift()
    for event in crowd.gone.values():
        event.set()
    crowd.pool.shutdown()


def test_no_more_visits_train_than_the_newest_one_says(crowd):
    crowd.come(1, 2)
    crowd.come(2, 2)
    crowd.come(3, 2)
    crowd.come(4, 1)
    assert sorted(crowd.inside) == [1, 2]
    assert crowd.gave_way == [3, 4]
    crowd.go(1)
    assert crowd.inside == [2]
    crowd.go(2)
    wait_for(lambda: crowd.inside == [3])
    crowd.go(3)
    wait_for(lambda: crowd.inside == [4])


def test_a_higher_limit_lets_those_in_that_wait(crowd):
    crowd.come(1, 1)
    crowd.come(2, 1)
    assert crowd.inside == [1]
    crowd.come(3, 3)
    wait_for(lambda: sorted(crowd.inside) == [1, 2, 3])


def test_an_older_visit_does_not_change_the_limit(crowd):
    crowd.come(5, 1)
    crowd.come(2, 4)
    assert crowd.inside == [5]


def test_visits_come_in_by_their_numbers(crowd):
    crowd.come(1, 1)
    for number in (4, 2, 3):
        crowd.come(number, 1)
    for number in (1, 2, 3):
        crowd.go(number)
        wait_for(lambda number=number: crowd.inside == [number + 1])


def test_who_has_no_limit_never_waits(crowd):
    for number in range(6):
        crowd.come(number, 0)
    assert len(crowd.inside) == 6
    assert crowd.gave_way == []


def test_lifting_lets_all_in(crowd):
    for number in range(4):
        crowd.come(number, 1)
    crowd.slots.lift()
    wait_for(lambda: len(crowd.inside) == 4)
    crowd.come(9, 1)
    assert 9 in crowd.inside


def test_a_slot_knows_how_long_it_stood_free(crowd):
    clock = crowd.slots._clock
    crowd.come(1, 2)
    crowd.come(2, 2)
    assert crowd.free == {1: 0.0, 2: 0.0}
    clock.now = 1.0
    crowd.go(1)
    wait_for(lambda: crowd.slots._taken == 1)
    clock.now = 1.5
    crowd.come(3, 2)
    assert crowd.free[3] == 0.5
    crowd.go(2)
    crowd.go(3)
    wait_for(lambda: crowd.slots._taken == 0)
    clock.now = 4.0
    crowd.come(4, 1)  # one of the two places is no more
    crowd.come(5, 1)
    crowd.go(4)
    wait_for(lambda: 5 in crowd.inside)
    assert crowd.free[4] == 2.5
    assert crowd.free[5] == 0.0


def test_a_visit_that_cannot_give_way_does_not_block_those_behind_it(crowd):
    def fail():
        raise RuntimeError("no thread to give away")

    crowd.come(1, 1)
    with pytest.raises(RuntimeError, match="no thread"), crowd.slots.take(visit(2, 1), fail):
        pass
    crowd.come(3, 1)
    crowd.go(1)
    wait_for(lambda: crowd.inside == [3])
