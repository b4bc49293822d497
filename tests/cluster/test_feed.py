from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace

import pytest

from skdist.cluster.board import Board
from skdist.cluster.feed import MOST_VISITS, Feed
from skdist.history import History
from skdist.messages import Segment, Visit
from skdist.progress import LearnerProgress, Progress, VisitProgress
from skdist.records import EpochRecord, FitRecord
from tests.fakes import fit_settings

LEARNERS = (
    LearnerProgress("tcp://a/1", "tcp://a", 0.5, 640, 0.002, 0.9, 1e-6, 1e-3),
    LearnerProgress("tcp://b/1", "tcp://b", 1.5, 64, 0.02, 0.3, 5e-6, 1e-3),
)
FIT = FitRecord("async", 2, 2, 4, 1000, 3, True, time=0.0, seconds=2.0)


def standing(rows, loss, seconds, visits=()):
    return Progress(1, 0.5, rows, rows, loss, seconds, 1.0, LEARNERS, tuple(visits), ())


class Scheduler:
    """Passes messages to a board, when it is allowed to."""

    def __init__(self):
        self.board, self.messages = Board(), []
        self.open = asyncio.Event()
        self.open.set()

    async def skdist_progress(self, message):
        await self.open.wait()
        self.messages.append(message)
        self.board.take(message)


def feed_to(scheduler, shown=True, **settings):
    feed = Feed(SimpleNamespace(scheduler=scheduler), "skdist-1", "Classifier", fit_settings(**settings))
    feed.has_page = shown
    return feed


async def sent(feed):
    """Wait for the message under way."""
    if feed._sending is not None:
        await asyncio.wait([feed._sending], timeout=30)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def test_loss_and_speed_are_those_since_the_last_message():
    async def fit():
        scheduler = Scheduler()
        feed = feed_to(scheduler)
        for rows, loss, seconds in (
            (1000, 800.0, 1.0),
            (3000, 1200.0, 2.0),
            (3000, 1200.0, 3.0),
            (500, 1.0, 4.0),
        ):
            feed.send(standing(rows, loss, seconds), 2, {})
            await sent(feed)
        return scheduler.messages

    messages = run(fit())
    assert [message["loss"] for message in messages[:2]] == [0.8, 0.2]
    assert all(math.isnan(message["loss"]) for message in messages[2:])  # nothing trained; another server
    assert [message["rows_per_second"] for message in messages] == [1000.0, 2000.0, 0.0, 0.0]


def test_the_oldest_visits_are_told_with_what_is_done_of_them():
    visits = {n: (Visit(n, 0, (Segment(0, 0, 100),)), "tcp://a") for n in range(5, 5 + 2 * MOST_VISITS)}

    async def fit():
        scheduler = Scheduler()
        feed = feed_to(scheduler)
        feed.send(standing(10, 1.0, 1.0, [VisitProgress(6, "tcp://a/1", 0, 40, 100)]), 2, visits)
        await sent(feed)
        return scheduler.messages

    (message,) = run(fit())
    assert (message["in_flight"], message["under_way"]) == (2 * MOST_VISITS, 1)
    assert [visit[0] for visit in message["visits"]] == list(range(5, 5 + MOST_VISITS))
    assert message["visits"][:2] == [[5, "tcp://a", 0, 100], [6, "tcp://a", 40, 100]]
    assert message["learners"] == [["tcp://a/1", 0.5, 640, 0.002], ["tcp://b/1", 1.5, 64, 0.02]]


def test_a_scheduler_that_is_busy_gets_one_message_at_a_time_and_the_end_for_certain():
    async def fit():
        scheduler = Scheduler()
        feed = feed_to(scheduler)
        scheduler.open.clear()
        for number in range(1, 10):
            feed.send(standing(number, 1.0, float(number)), 2, {})
            await asyncio.sleep(0)
        end = feed.end(History(epochs=[EpochRecord(2, 1000, 0.25, math.nan, 1.0)], fits=[FIT]))
        scheduler.open.set()
        await end
        return scheduler

    scheduler = run(fit())
    (message,) = scheduler.messages
    assert (message["state"], message["loss"], message["epoch"]) == ("converged", 0.25, 2)
    assert scheduler.board.get("skdist-1").over


def test_a_fit_that_fails_is_told_of_if_it_was_seen_to_train():
    async def fit(begins):
        scheduler = Scheduler()
        feed = feed_to(scheduler)
        if begins:
            feed.send(standing(10, 1.0, 1.0), 2, {})
            await sent(feed)
        if (end := feed.end(None)) is not None:
            await end
        return [message["state"] for message in scheduler.messages]

    assert run(fit(True)) == ["training", "failed"]
    assert run(fit(False)) == []


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("unknown operation")])
def test_a_scheduler_that_does_not_take_messages_is_no_error(error):
    async def fit():
        async def fail(message):
            raise error

        feed = feed_to(SimpleNamespace(skdist_progress=fail))
        feed.send(standing(10, 1.0, 1.0), 2, {})
        await sent(feed)
        await feed.end(History(fits=[FIT]))

    run(fit())


def test_without_a_page_and_a_line_nothing_is_wanted():
    async def fit():
        feed = feed_to(SimpleNamespace(), shown=False)
        assert not feed.wanted
        feed.send(standing(10, 1.0, 1.0), 2, {})
        assert feed.end(History(fits=[FIT])) is None
        assert feed_to(SimpleNamespace(), shown=False, verbose=1).wanted

    run(fit())
