import math

import pytest

from skdist.records import FitRecord, RoundRecord, VisitRecord
from skdist.report import report_on

#: Ten seconds of four threads on two workers.
FIT = FitRecord("async", 2, 4, 8, 1000, 3, True, time=0.0, seconds=10.0, seconds_total=10.5)


def make_round(worker="a", **params):
    usual = {"rows": 100, "seconds_compute": 1.0, "seconds_exchange": 0.01, "staleness": 1.0, "applied": 0.8}
    usual |= {"efficiency": 0.9, "latency": 0.002, "worker": worker, "learner": f"{worker}/1"}
    return RoundRecord(**{**dict.fromkeys(RoundRecord._fields, 0), **usual, **params})


def make_visit(number=0, compute=6.0, waited=1.0, seconds=8.0, **params):
    usual = {"worker": "a", "epoch": 0, "visit": number, "partition": 0, "start": 0, "rows": 10, "attempt": 1}
    usual |= {"seconds": seconds, "seconds_compute": compute, "seconds_waited": waited, "time": 0.0}
    return VisitRecord(**{**usual, **params})


def report(rounds=None, visits=None, **fit):
    rounds = [make_round("a"), make_round("b")] if rounds is None else rounds
    visits = (
        [make_visit(number, compute=9.0, waited=0.0, seconds=9.5) for number in range(4)]
        if (visits is None)
        else visits
    )
    return report_on(rounds, visits, [FIT._replace(**fit)])


def test_shares_of_the_time_of_all_threads_add_up():
    found = report(visits=[make_visit(number) for number in range(4)])
    assert (found.compute, found.waiting) == (0.6, 0.1)
    assert found.exchange == pytest.approx(0.1)
    assert found.idle == pytest.approx(0.2)
    assert found.compute + found.exchange + found.waiting + found.idle == pytest.approx(1.0)


def test_figures_are_those_of_the_records():
    rounds = [make_round("a"), make_round("b", rows=300, staleness=2.0), make_round("b", rows=200)]
    found = report(rounds)
    assert (found.rows_per_second, found.epochs, found.rows) == (60.0, 3, 1000)
    assert (found.staleness, found.rate_scale) == (pytest.approx(4 / 3), pytest.approx(0.8))
    assert (found.round_rows, found.round_seconds, found.exchange_seconds) == (200, 1.0, 0.01)
    slow, fast = found.by_worker
    assert found.slowest is slow
    assert (slow.worker, slow.rows, slow.seconds_per_row) == ("a", 100, 0.01)
    assert slow.times_slower == pytest.approx(2.5)
    assert fast.times_slower == pytest.approx(0.4)


def test_visits_that_were_lost_or_executed_again_are_counted_once_each():
    lost = make_visit(1, seconds=math.nan, compute=math.nan, waited=math.nan)
    found = report(visits=[make_visit(0), lost, lost._replace(partition=1), make_visit(2, attempt=2)])
    assert found.repeated == 2
    assert found.compute == pytest.approx(12 / 40)
    assert any("2 visits were lost" in advice for advice in found.advice)


def test_fits_add_up():
    fits = [FIT, FIT._replace(learners=2, seconds=5.0, time=10.0, epochs=1)]
    found = report_on([make_round()], [make_visit()], fits)
    assert (found.seconds, found.seconds_total, found.epochs, found.learners) == (15.0, 21.0, 4, 2)
    assert found.compute == pytest.approx(6 / 50)


def test_more_threads_than_at_the_start_make_no_share_negative():
    found = report(visits=[make_visit(number, compute=9.0, waited=0.0, seconds=10.0) for number in range(8)])
    assert found.idle == 0.0
    assert found.compute == pytest.approx(0.9)


def test_nothing_is_advised_where_nothing_stands_out():
    found = report()
    assert found.advice == ()
    assert str(found).endswith("- Nothing stands out.")


IDLE = [make_visit(number, compute=9.0, waited=0.0, seconds=9.5) for number in range(2)]
EXCHANGING = [make_visit(number, compute=5.0, waited=0.0, seconds=9.5) for number in range(4)]
WAITING = [make_visit(number, compute=5.0, waited=4.0, seconds=9.5) for number in range(4)]
UNEQUAL = [make_round("a"), make_round("b"), make_round("c", seconds_compute=5.0)]
COMPILING = [make_round(worker, seconds_compute=seconds) for worker in "ab" for seconds in (5.0, 0.1)]
LATE = [make_round(staleness=6.0, applied=0.2)]


@pytest.mark.parametrize(
    ("params", "words", "without"),
    [
        ({"visits": IDLE, "partitions": 2}, "at least 8, with X.rechunk", {"visits": None}),
        ({"visits": IDLE}, "had no work 52% of the time", {"partitions": 3}),
        ({"visits": EXCHANGING}, "an exchange takes 10 ms where a round trains 1 s", {"learners": 1}),
        ({"visits": WAITING, "mode": "sync"}, "mode='async' lets them go on", {"visits": None}),
        ({"visits": WAITING, "mode": "ssp"}, "a larger max_staleness, or mode='async'", {"visits": None}),
        ({"rounds": UNEQUAL}, "5.0 times as long on c", {"rounds": None}),
        ({"rounds": COMPILING}, "First rounds took 25% of the time", {"rounds": None}),
        ({"rounds": LATE}, "6.0 versions late", {"rounds": None}),
        ({"seconds_total": 25.0}, "took 15 s, longer than training", {"seconds_total": 19.0}),
    ],
    ids=["partitions", "idle", "exchanges", "sync", "ssp", "slow worker", "compiling", "late", "preparation"],
)
def test_advice_follows_from_figures(params, words, without):
    found = report(**params)
    assert any(words in advice for advice in found.advice), found.advice
    assert f"- {found.advice[0]}" in str(found)
    assert not any(words in advice for advice in report(**{**params, **without}).advice)


@pytest.mark.parametrize("visits", [WAITING, EXCHANGING], ids=["waiting", "exchanges"])
def test_short_fits_are_not_worth_a_remark(visits):
    short = [
        visit._replace(seconds=visit.seconds / 20, seconds_compute=visit.seconds_compute / 20,
                       seconds_waited=visit.seconds_waited / 20)
        for visit in visits
    ]  # fmt: skip
    assert report(visits=visits).advice
    found = report(visits=short, seconds=0.5, seconds_total=0.6)
    assert found.advice == ()
    assert str(found).endswith("- Too short to be made faster.")


def test_a_low_rate_scale_of_fresh_updates_is_no_reason_to_change_rounds():
    assert report([make_round(staleness=0.2, applied=0.2)]).advice == ()


def test_one_thread_and_simulated_time_can_be_reported_too():
    found = report([make_round()], [make_visit()], learners=1, workers=1, seconds_total=math.nan)
    assert found.slowest is None
    assert "before and after" not in str(found)
    assert "slowest" not in str(found)


def test_a_history_without_a_fit_has_no_report():
    with pytest.raises(ValueError, match="no records of a fit"):
        report_on([], [], [])
