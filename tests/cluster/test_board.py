from types import SimpleNamespace

import pytest

from skdist.cluster.board import MOST_FITS, MOST_NUMBERS, Board, board_of


def message(fit="skdist-1", state="training", learners=2, **values):
    about = {"fit": fit, "estimator": "Classifier", "mode": "async", "max_iter": 10, "state": state}
    usual = {
        "workers": 2,
        "epoch": 3,
        "seconds": 1.0,
        "loss": 0.5,
        "rows_per_second": 100.0,
        "staleness": 0.25,
    }
    usual |= {"learners": [[f"w{n}/1", 0.5, 100, 0.01] for n in range(learners)]}
    usual |= {"in_flight": 2, "under_way": 1, "visits": [[7, "w0", 10, 40], [8, "w1", 0, 40]]}
    return {**about, **usual, **values}


def test_a_fit_is_what_its_last_message_says():
    board = Board()
    board.take(message())
    board.take(message(seconds=2.0, loss=0.25, epoch=4))
    (fit,) = board
    assert (fit.estimator, fit.mode, fit.max_iter, fit.state) == ("Classifier", "async", 10, "training")
    assert (fit.epoch, fit.seconds, fit.loss, fit.workers, fit.staleness) == (4, 2.0, 0.25, 2, 0.25)
    assert (fit.in_flight, fit.under_way, len(fit.visits)) == (2, 1, 2)
    assert [look.loss for look in fit.looks] == [0.5, 0.25]
    assert fit.looks[0].learners == {"w0/1": (0.5, 100, 0.01), "w1/1": (0.5, 100, 0.01)}
    assert not fit.over


@pytest.mark.parametrize("state", ["converged", "complete", "failed"])
def test_a_fit_that_has_ended_can_still_be_looked_at(state):
    board = Board()
    board.take(message())
    board.take(
        {"fit": "skdist-1", "estimator": "Classifier", "mode": "async", "max_iter": 10, "state": state}
    )
    fit = board.get("skdist-1")
    assert fit.over
    assert fit.state == state
    assert (fit.epoch, fit.loss, len(fit.looks)) == (3, 0.5, 1)
    assert (fit.in_flight, fit.visits) == (0, [])
    board.lose("skdist-1")
    assert fit.state == state


def test_a_driver_that_went_without_a_word_leaves_no_fit_that_seems_to_train():
    board = Board()
    board.take(message())
    board.lose("skdist-1")
    board.lose("skdist-2")
    assert [fit.state for fit in board] == ["lost"]


def test_fits_that_ended_first_are_forgotten_first():
    board = Board()
    board.take(message("endless"))
    for number in range(MOST_FITS + 5):
        board.take(message(f"{number}"))
        board.take(message(f"{number}", state="complete"))
    assert len(board) == MOST_FITS
    assert board.get("endless") is not None
    assert board.get("5") is None
    assert board.get(f"{MOST_FITS + 4}") is not None


def test_what_is_remembered_is_bounded_and_covers_the_whole_fit():
    board = Board()
    for second in range(2_000):
        board.take(message(seconds=float(second), learners=100))
    (fit,) = board
    assert sum(4 + 3 * len(look.learners) for look in fit.looks) <= MOST_NUMBERS
    assert fit.looks[0].seconds == 0.0
    assert fit.looks[-1].seconds == 1999.0
    gaps = [b.seconds - a.seconds for a, b in zip(fit.looks, fit.looks[1:], strict=False)]
    assert max(gaps) < 2_000 / 10


def test_a_scheduler_without_a_dashboard_has_a_board_and_no_page():
    scheduler = SimpleNamespace(extensions={}, handlers={}, http_application=SimpleNamespace(applications=[]))
    board = board_of(scheduler)
    assert board_of(scheduler) is board
    assert scheduler.handlers == {"skdist_progress": board.take}
    assert scheduler.http_application.applications == []
