import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.stopping import ConvergenceMonitor, checks_per_epoch


@pytest.mark.parametrize(
    ("rows", "several", "checks"),
    [(100, True, 1), (8192, True, 1), (3 * 8192, True, 3), (10**7, True, 8), (10**7, False, 1)],
)
def test_checks_per_epoch(rows, several, checks):
    assert checks_per_epoch(rows, several) == checks


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 8), st.integers(1, 50))
def test_a_constant_loss_converges_after_the_first_check_and_n_more(patience, interval):
    monitor = ConvergenceMonitor(interval, tol=1e-3, n_iter_no_change=patience)
    ends = [monitor.observe(interval, 0.5 * interval) for _ in range(patience + 1)]
    assert ends == [False] * patience + [True]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 40))
def test_a_check_takes_the_mean_of_all_rows_since_the_last_one(rounds, interval):
    monitor = ConvergenceMonitor(interval, tol=0.0, n_iter_no_change=10**9)
    best, rows, loss = float("inf"), 0, 0.0
    for number, size in enumerate(rounds):
        monitor.observe(size, float(number))
        rows, loss = rows + size, loss + number
        if rows >= interval:
            best, rows, loss = min(best, loss / rows), 0, 0.0
    assert monitor.best == best


def test_improving_by_more_than_tol_never_converges():
    monitor = ConvergenceMonitor(10, tol=0.01, n_iter_no_change=1)
    assert not any(monitor.observe(10, 10 * (1 - 0.011 * check)) for check in range(50))


def test_improving_by_less_than_tol_converges():
    monitor = ConvergenceMonitor(10, tol=0.01, n_iter_no_change=2)
    assert [monitor.observe(10, 10 * loss) for loss in (1.0, 0.995, 0.991)] == [False, False, True]


def test_one_improvement_forgives_the_failures_before_it():
    monitor = ConvergenceMonitor(10, tol=0.01, n_iter_no_change=2)
    losses = (1.0, 1.0, 0.9, 0.9, 0.8, 0.8)
    assert not any(monitor.observe(10, 10 * loss) for loss in losses)
    assert monitor.observe(10, 8.0)


def test_the_best_loss_counts_not_the_last():
    monitor = ConvergenceMonitor(10, tol=0.01, n_iter_no_change=2)
    losses = (0.5, 0.9, 0.8)
    assert [monitor.observe(10, 10 * loss) for loss in losses] == [False, False, True]


def test_without_tol_nothing_converges():
    monitor = ConvergenceMonitor(1, tol=None, n_iter_no_change=1)
    assert not any(monitor.observe(1, 1.0) for _ in range(20))


def test_a_rate_that_is_cut_is_cut_before_training_ends():
    monitor = ConvergenceMonitor(10, 0.1, 2, cuts=2)
    rates = []
    for _ in range(7):
        done = monitor.observe(10, 10.0)
        rates.append(monitor.rate)
    assert done
    assert rates == pytest.approx([1.0, 1.0, 0.2, 0.2, 0.04, 0.04, 0.04])


def test_one_lucky_check_does_not_end_training():
    losses = [1.0 - 0.01 * check - (0.05 if check == 1 else 0.0) for check in range(20)]

    def end(memory):
        monitor = ConvergenceMonitor(10, tol=0.005, n_iter_no_change=5, memory=memory)
        return next((check for check, loss in enumerate(losses) if monitor.observe(10, 10 * loss)), None)

    assert end(memory=1.0) == 6
    assert end(memory=4.0) is None
