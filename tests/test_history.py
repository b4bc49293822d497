import math

import pytest

from skdist.history import EpochRecord, History, RoundRecord, VisitRecord

VISIT = VisitRecord(worker="w", epoch=0, visit=3, partition=2, start=8, rows=24, seconds=0.5, attempt=1)
EPOCH = EpochRecord(epoch=0, rows=24, loss=0.7, val_loss=math.nan, seconds=0.5)


def make_round(epoch):
    return RoundRecord(**dict.fromkeys(RoundRecord._fields, epoch))


@pytest.mark.parametrize(
    ("table", "record"), [("rounds", make_round(4)), ("visits", VISIT), ("epochs", EPOCH)]
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


def test_extend_appends_all_three_tables():
    history = History([make_round(0)], [VISIT], [EPOCH])
    history.extend(History([make_round(1)], [VISIT], [EPOCH]))
    done = EPOCH.epoch + 1
    assert [record.epoch for record in history.rounds] == [0, 1 + done]
    assert [record.epoch for record in history.visits] == [VISIT.epoch, VISIT.epoch + done]
    assert [record.epoch for record in history.epochs] == [EPOCH.epoch, EPOCH.epoch + done]
    assert repr(history) == "History(2 rounds, 2 visits, 2 epochs, 0 plans)"
