import numpy as np
import pytest

from skdist.control.schedules import CONSTANT, Schedule
from skdist.fitting import FitSettings, Progress, build_server, visit_records
from skdist.messages import Segment, Visit, VisitReport
from tests.fakes import FakeLearner, RowModel

VISIT = Visit(7, 2, (Segment(0, 0, 60), Segment(3, 20, 60)))


def report(offset):
    return VisitReport(VISIT, "w", offset, 2, 0.0, 10.0, 5)


def test_a_visit_leaves_a_record_for_each_partition_it_trained_on():
    first, second = visit_records(report(100))
    assert (first.partition, first.start, first.rows, first.seconds) == (0, 0, 60, 6.0)
    assert (second.partition, second.start, second.rows, second.seconds) == (3, 20, 40, 4.0)
    assert (first.worker, first.epoch, first.visit, first.attempt) == ("w", 2, 7, 2)


def test_rows_that_were_handed_back_are_not_in_the_records():
    records = visit_records(report(80))
    assert [(r.partition, r.start, r.rows) for r in records] == [(0, 0, 60), (3, 20, 20)]
    assert sum(record.seconds for record in records) == pytest.approx(10.0)
    assert visit_records(report(0)) == []


@pytest.mark.parametrize(("adaptive", "rows_until_converged"), [(True, 3 * 10_000), (False, 3 * 80_000)])
def test_auto_rates_are_checked_several_times_per_pass(adaptive, rows_until_converged):
    settings = FitSettings(
        adapter=None, sizer=None, round_size=5000, collect=1, max_iter=100, tol=1e-3, n_iter_no_change=2,
        seed=0, shuffle=True,
    )  # fmt: skip
    model = RowModel(8, Schedule(CONSTANT, 0.1, adaptive=adaptive))
    server = build_server(model, settings, np.zeros(1), 80_000, 1, 0.0)
    learner, rows = FakeLearner(server, rows=10**6), 0
    while learner.answer.last_epoch == 99:
        rows += 5000
        learner.push(rows=5000, loss=5000.0, change=0.0)
    assert rows == rows_until_converged


def test_progress_is_silent_unless_wanted(capsys):
    Progress(0).show(0, 0.5, 100)
    assert capsys.readouterr().out == ""
    Progress(1).show(0, 0.5, 1000, workers=3)
    assert capsys.readouterr().out.startswith("epoch 1: loss 0.5000, 1,000 rows, 0.0 s, 3 workers")
