import math
import re

import pytest

from skdist.history import History
from skdist.records import EpochRecord, FitRecord, PlanRecord, RoundRecord, VisitRecord

VISIT = VisitRecord(worker="w", epoch=0, visit=3, partition=2, start=8, rows=24, seconds=0.5, attempt=1)
EPOCH = EpochRecord(epoch=0, rows=24, loss=0.7, val_loss=math.nan, seconds=0.5)


PLAN = PlanRecord(worker="w", time=0.25, pressure=0.1, threads=2, inner_threads=1, queue=1)
FIT = FitRecord("async", 2, 4, 8, 24, 1, True, time=0.0, seconds=2.0)


def make_round(epoch):
    return RoundRecord(**dict.fromkeys(RoundRecord._fields, epoch))


@pytest.mark.parametrize(
    ("table", "record"),
    [("rounds", make_round(4)), ("visits", VISIT), ("epochs", EPOCH), ("plans", PLAN), ("fits", FIT)],
)
def test_a_frame_has_a_column_for_each_attribute(table, record):
    history = History()
    getattr(history, table).append(record)
    frame = history.to_frame(table)
    assert list(frame.columns) == list(record._fields)
    assert len(frame) == 1
    for name, value in record._asdict().items():
        assert frame.loc[0, name] == value or value != value


def test_an_empty_history_gives_empty_frames_with_columns():
    frame = History().to_frame("visits")
    assert frame.empty
    assert "partition" in frame.columns


def test_unknown_tables_are_refused():
    with pytest.raises(ValueError, match=r"rounds, visits, epochs.*'steps'"):
        History().to_frame("steps")


def test_extend_counts_epochs_and_seconds_on():
    history = History([make_round(0)], [VISIT], [EPOCH], [PLAN], [FIT])
    for _ in range(2):
        history.extend(History([make_round(1)], [VISIT._replace(time=0.5)], [EPOCH], [PLAN], [FIT]))
    assert [record.time for record in history.rounds] == [0, 3, 5]
    assert [record.time for record in history.visits[1:]] == [2.5, 4.5]
    assert [record.time for record in history.plans] == [0.25, 2.25, 4.25]
    assert [record.time for record in history.fits] == [0, 2, 4]


def test_extend_appends_all_tables():
    history = History([make_round(0)], [VISIT], [EPOCH])
    history.extend(History([make_round(1)], [VISIT], [EPOCH]))
    done = EPOCH.epoch + 1
    assert [record.epoch for record in history.rounds] == [0, 1 + done]
    assert [record.epoch for record in history.visits] == [VISIT.epoch, VISIT.epoch + done]
    assert [record.epoch for record in history.epochs] == [EPOCH.epoch, EPOCH.epoch + done]
    assert repr(history) == "History(2 epochs, loss 0.7; 2 rounds, 2 visits, 0 plans)"


def test_a_repr_says_what_was_done():
    assert repr(History()) == "History(0 epochs; 0 rounds, 0 visits, 0 plans)"
    history = History([], [VISIT], [EPOCH._replace(val_score=0.9, val_loss=0.5)], [PLAN], [FIT])
    assert repr(history) == (
        "History(1 epochs, loss 0.7, validation score 0.9, 2 s, 4 learners on 2 workers, converged; "
        "0 rounds, 1 visits, 1 plans)"
    )
    history.extend(history)
    assert "4 s, 4 learners on 2 workers, 2 fits;" in repr(history)


def test_a_notebook_shows_losses_and_the_last_epochs():
    html = History()._repr_html_()
    assert "<svg" not in html
    assert "<table" not in html
    epochs = [EPOCH._replace(epoch=number, loss=1 / (number + 1)) for number in range(12)]
    html = History(epochs=epochs)._repr_html_()
    assert html.count("<tr>") == 1 + 10
    assert "val_loss" not in html
    assert "<td>11</td><td>24</td><td>0.0833333</td>" in html
    points = re.search(r'points="(.*?)"', html)[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert len(points) == 12
    assert heights == sorted(heights)  # downwards, as the loss
    validated = History(epochs=[epoch._replace(val_loss=0.5, val_score=0.75) for epoch in epochs])
    assert "<td>0.5</td><td>0.75</td>" in validated._repr_html_()


def test_a_flat_loss_is_a_line_too():
    assert "nan" not in History(epochs=[EPOCH, EPOCH])._repr_html_().partition("<table")[0]
