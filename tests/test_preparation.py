import numpy as np
import pytest
import scipy.sparse as sp

from skdist.control.schedules import AutoRate
from skdist.models.partition import convert
from skdist.models.targets import combine_classes, measure_targets
from skdist.preparation import automatic_batch_size, summarize
from tests.fakes import linear_model, rows_of


@pytest.mark.parametrize(("rows", "batch"), [(1, 8), (2048, 8), (2560, 10), (5000, 19), (10**6, 64)])
def test_automatic_batch_size(rows, batch):
    assert automatic_batch_size(rows) == batch


def test_a_summary_says_everything_but_the_rows():
    X = np.array([[1.0, 2.0], [3.0, 5.0]], dtype=np.float32)
    summary = summarize(convert(X, ["b", "a"]), "tcp://w")
    np.testing.assert_array_equal(summary.targets.labels, ["a", "b"])
    np.testing.assert_array_equal(summary.moments.mean, [2.0, 3.5])
    assert (summary.dtype, summary.nbytes, summary.worker) == (np.float32, 16, "tcp://w")


def test_classes_are_those_of_all_partitions_that_have_rows():
    parts = [convert(np.ones((len(y), 1)), np.array(y, dtype=int)) for y in ([3, 1], [], [1, 2])]
    classes = combine_classes([measure_targets(part) for part in parts])
    np.testing.assert_array_equal(classes.labels, [1, 2, 3])
    np.testing.assert_array_equal(classes.rows, [2, 1, 1])


def test_auto_rate_scales_by_the_moments_and_takes_its_step_from_them():
    X, y = rows_of(400, 3)
    model, _ = linear_model(X, y, learning_rate=AutoRate(scale=2.0), loss="log_loss", batch_size=16)
    np.testing.assert_allclose(model.scale, 1 / X.var(axis=0))
    np.testing.assert_allclose(model.center, X.mean(axis=0))
    # Noise bounds it: steps of 16 rows.
    assert model.schedule.eta0 == pytest.approx(2.0 * 16 / 8 / (0.25 * 4))
    assert model.averaged
    assert model.schedule.adaptive


@pytest.mark.parametrize(("n_learners", "passes"), [(1, 16), (2, 8), (16, 4)])
def test_steps_shrink_after_sixteen_passes_of_all_learners(n_learners, passes):
    X, y = rows_of(10_000, 3)
    model, _ = linear_model(X, y, learning_rate=AutoRate(), batch_size=10, n_learners=n_learners)
    assert model.schedule.parameter == 1000 * passes


def test_the_loss_is_in_units_of_that_of_the_frequencies():
    X, y = rows_of(1000, 3)
    rare = np.arange(1000) < 20
    even, odd = (linear_model(X, labels, learning_rate=AutoRate())[0] for labels in (y, rare))
    entropy = -(0.02 * np.log2(0.02) + 0.98 * np.log2(0.98))
    assert even.loss_unit == pytest.approx(1.0, abs=0.05)
    assert odd.loss_unit == pytest.approx(entropy)
    heavy, _ = linear_model(X, rare, np.full(1000, 7.0), learning_rate=AutoRate())
    assert heavy.loss_unit == pytest.approx(7 * entropy)
    assert linear_model(X, rare)[0].loss_unit == 1.0


def test_named_rates_leave_the_features_alone():
    X, y = rows_of(400, 3)
    model, _ = linear_model(X, y, learning_rate="constant")
    np.testing.assert_array_equal(model.scale, 1)
    np.testing.assert_array_equal(model.center, 0)
    assert not model.averaged


@pytest.mark.parametrize(("average", "begin"), [(False, np.inf), (True, 0.0), (1, 0.0), (81, 10.0)])
def test_averaging_begins_after_that_many_rows(average, begin):
    X, y = rows_of(100, 3)
    assert linear_model(X, y, average=average, batch_size=8)[0].schedule.average_from == begin


def test_sparse_rows_are_not_centred():
    X, y = rows_of(100, 3)
    model, _ = linear_model(sp.csr_array(X), y, learning_rate=AutoRate())
    assert model.sparse
    np.testing.assert_array_equal(model.center, 0)
    assert model.sweep >= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_has_the_dtype_of_the_rows(dtype):
    X, y = rows_of(50, 3, dtype=dtype)
    model, _ = linear_model(X, y, learning_rate=AutoRate())
    assert model.scale.dtype == model.center.dtype == model.initial_state().dtype == dtype


def test_weights_that_add_up_to_nothing_are_refused():
    X, y = rows_of(20, 2)
    with pytest.raises(ValueError, match="must be positive"):
        linear_model(X, y, np.zeros(20))
