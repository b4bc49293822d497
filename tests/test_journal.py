import numpy as np
import pytest

from skdist.journal import Journal
from skdist.messages import Link, Update
from skdist.recipes import Pending


def noted(journal, rows, loss, epoch=0, seconds=1.0, seconds_compute=0.25):
    update = Update(
        visit=3, attempt="", start=0, stop=rows, steps=2, state=np.zeros(1), base=0, loss=loss,
        volatility=0.5, context=1.0, rate_scale=0.5, round_size=rows, efficiency=1.0,
        seconds_compute=seconds_compute, seconds_exchange=0.1, seconds_per_row=1e-3, link=Link((0.002,)),
    )  # fmt: skip
    item = Pending(update, update.state, update.state, 0.25, 2.0, "me", (0,), seconds, epoch)
    journal.note(item, worker="here", version=7, weight=0.125)


def test_a_round_is_written_down_as_it_was_applied():
    journal = Journal()
    noted(journal, rows=10, loss=5.0)
    record = journal.rounds[0]
    assert (record.learner, record.worker, record.version, record.visit) == ("me", "here", 7, 3)
    assert (record.loss, record.weight, record.applied, record.rate_scale) == (0.5, 0.125, 0.25, 0.5)
    assert (record.staleness, record.context, record.volatility, record.latency) == (2.0, 1.0, 0.5, 0.002)


def test_epochs_are_sums_of_their_rounds():
    journal = Journal()
    noted(journal, rows=10, loss=5.0, seconds=1.0)
    noted(journal, rows=30, loss=9.0, seconds=2.0)
    noted(journal, rows=10, loss=1.0, epoch=1, seconds=3.0)
    first, second = journal.epochs()
    assert (first.epoch, first.rows, first.loss) == (0, 40, 0.35)
    assert first.seconds == pytest.approx(1.25)  # from the first row's training on
    assert (second.epoch, second.rows, second.loss) == (1, 10, 0.1)
    assert np.isnan(first.val_loss)
    assert journal.progress() == (1, 0.1, 10)


def test_an_empty_journal_has_no_progress():
    epoch, loss, rows = Journal().progress()
    assert (epoch, rows) == (0, 0)
    assert np.isnan(loss)
