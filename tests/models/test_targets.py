import numpy as np
import pytest
from sklearn.metrics import log_loss

from skdist.models.partition import convert
from skdist.models.targets import measure_targets

NONE = np.zeros(0)


def classes(*counts):
    """Return the classes of so many rows each."""
    y = np.repeat(np.arange(len(counts)), counts)
    return measure_targets(convert(np.zeros((len(y), 1)), y, None, False)), y


@pytest.mark.parametrize("counts", [(50, 50), (98, 2), (70, 20, 10)])
def test_entropy_is_the_loss_of_predicting_the_frequencies(counts):
    found, y = classes(*counts)
    shares = np.array(counts) / sum(counts)
    each = [log_loss(y == k, np.full(len(y), q)) for k, q in enumerate(shares)]
    assert found.entropy(NONE, joint=False) == pytest.approx(np.mean(each) / np.log(2))
    together = log_loss(y, np.tile(shares, (len(y), 1))) / np.log(2)
    assert found.entropy(NONE, joint=True) == pytest.approx(min(together, 1.0))


def test_entropy_of_a_class_without_weight_is_zero():
    assert classes(98, 2)[0].entropy(np.array([1.0, 0.0]), joint=False) == 0.0


def test_log_odds_predict_the_frequencies():
    assert classes(98, 2)[0].log_odds(NONE, joint=False) == pytest.approx(np.log(2 / 98))
    three = classes(70, 20, 10)[0]
    np.testing.assert_allclose(1 / (1 + np.exp(-three.log_odds(NONE, joint=False))), [0.7, 0.2, 0.1])
    np.testing.assert_allclose(np.exp(three.log_odds(NONE, joint=True)), [0.7, 0.2, 0.1])


def test_log_odds_take_the_weights_of_the_classes():
    balanced = np.array([1 / 98, 1 / 2])
    assert classes(98, 2)[0].log_odds(balanced, joint=False) == pytest.approx(0.0)
    # One against the rest weighs the rows of its own class alone.
    found = classes(70, 20, 10)[0].log_odds(np.array([1.0, 4.0, 1.0]), joint=False)
    np.testing.assert_allclose(np.exp(found), [70 / 30, 80 / 80, 10 / 90])


def test_log_odds_of_a_class_without_rows_are_finite():
    found = classes(50, 50)[0].log_odds(np.array([1.0, 0.0]), joint=False)
    assert found == pytest.approx(np.log(0.5 / 50))


def test_labels_leave_the_less_curvature_the_rarer_they_are():
    assert classes(50, 50)[0].spread(NONE) == pytest.approx(1.0)
    assert classes(90, 10)[0].spread(NONE) == pytest.approx(0.36)
    assert classes(999, 1)[0].spread(NONE) == 1 / 4
    assert classes(*[10] * 10)[0].spread(NONE) == pytest.approx(0.36)
    assert classes(*[10] * 100)[0].spread(NONE) == 1 / 16
