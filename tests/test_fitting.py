import math

import numpy as np
import pytest

from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.schedules import CONSTANT, Schedule
from skdist.fitting import (
    MOMENTUM,
    build_dispatcher,
    build_learner,
    build_server,
    lost_records,
    visit_records,
)
from skdist.messages import Segment, Visit, VisitReport
from tests.fakes import FakeLearner, RowModel, fit_settings

VISIT = Visit(7, 2, (Segment(0, 0, 60), Segment(3, 20, 60)))


def report(offset):
    return VisitReport(VISIT, "w", offset, 2, 0.0, 10.0, 5, seconds_waited=2.0, seconds_compute=5.0)


def test_a_visit_leaves_a_record_for_each_partition_it_trained_on():
    first, second = visit_records(report(100), 12.0)
    assert (first.time, second.time) == (2.0, 8.0)
    assert (first.seconds_compute, first.seconds_waited) == (3.0, 1.2)
    assert (second.seconds_compute, second.seconds_waited) == (2.0, 0.8)
    assert (first.partition, first.start, first.rows, first.seconds) == (0, 0, 60, 6.0)
    assert (second.partition, second.start, second.rows, second.seconds) == (3, 20, 40, 4.0)
    assert (first.worker, first.epoch, first.visit, first.attempt) == ("w", 2, 7, 2)


def test_rows_that_were_handed_back_are_not_in_the_records():
    records = visit_records(report(80), 12.0)
    assert [(r.partition, r.start, r.rows) for r in records] == [(0, 0, 60), (3, 20, 20)]
    assert sum(record.seconds for record in records) == pytest.approx(10.0)
    assert visit_records(report(0), 12.0) == []


def test_of_a_visit_that_never_reported_nobody_knows_how_long_it_took():
    first, second = lost_records(VISIT, "w", 80)
    assert (first.rows, second.rows) == (60, 20)
    for record in (first, second):
        assert all(math.isnan(value) for value in record[-3:])
        assert math.isnan(record.seconds)


@pytest.mark.parametrize(("adaptive", "rows_until_converged"), [(True, 3 * 10_000), (False, 3 * 80_000)])
def test_auto_rates_are_checked_several_times_per_pass(adaptive, rows_until_converged):
    settings = fit_settings(round_size=5000, max_iter=100, tol=1e-3, n_iter_no_change=2)
    model = RowModel(8, Schedule(CONSTANT, 0.1, adaptive=adaptive))
    server = build_server(model, settings, np.zeros(1), 80_000, 1, 0.0)
    learner, rows = FakeLearner(server, rows=10**6), 0
    while learner.answer.last_epoch == 99:
        rows += 5000
        learner.push(rows=5000, loss=5000.0, change=0.0)
    assert rows == rows_until_converged


@pytest.mark.parametrize(
    ("params", "gathers", "updates", "momentum"),
    [
        ({"mode": "async", "collect": "auto"}, True, 1, MOMENTUM),
        ({"mode": "async", "collect": "auto", "momentum": 0.3}, True, 1, 0.3),
        ({"mode": "async", "collect": 4}, False, 4, 0.0),
        ({"mode": "async", "collect": 4, "momentum": 0.3}, False, 4, 0.3),
        ({"mode": "ssp", "collect": "auto"}, False, 1, 0.0),
        ({"mode": "sync", "collect": "auto"}, False, 1, 0.0),
    ],
)
def test_the_server_gathers_with_momentum_where_nothing_else_is_asked_for(params, gathers, updates, momentum):
    settings = fit_settings(**params)
    assert (settings.gathers, settings.updates, settings.most_momentum) == (gathers, updates, momentum)


@pytest.mark.parametrize(
    ("mode", "sizer", "visits"),
    [("sync", None, [64, 64]), ("sync", LatencyBatchSizer(), [96, 32]), ("async", None, [96, 32])],
)
def test_only_sync_rounds_of_a_fixed_size_are_trained_in_equal_shares(mode, sizer, visits):
    dispatcher = build_dispatcher(
        fit_settings(mode=mode, sizer=sizer),
        RowModel(8),
        [96, 32],
        {0: "a", 1: "b"},
        seconds_per_row=1e-7,
    )
    for name in "ab":
        dispatcher.add_worker(name, 1)
    orders = dispatcher.orders()
    assert [visit.rows for _, visit in orders] == visits
    assert all((visit.budget_seconds == math.inf) == (visits == [64, 64]) for _, visit in orders)
    name, visit = orders[0]
    dispatcher.finished(VisitReport(visit, name, visit.rows, 1, 0.0, 1e-5, 10))
    # Where rounds end together, nobody begins the next epoch while others finish this one.
    assert len(dispatcher.orders()) == (mode == "async")


@pytest.mark.parametrize(("mode", "overlap"), [("async", True), ("ssp", True), ("sync", False)])
def test_learners_train_on_while_an_answer_is_under_way_unless_rounds_end_together(mode, overlap):
    plain = build_learner(fit_settings(mode=mode), "a", "w")
    assert (plain.overlap, plain.volatility) == (overlap, False)
    assert build_learner(fit_settings(mode=mode, aggregator=InverseVolatility()), "a", "w").volatility
