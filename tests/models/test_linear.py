import dataclasses
import math
import pickle

import numpy as np
import pytest
import scipy.sparse as sp

from skdist.control.schedules import AutoRate
from skdist.exceptions import DivergedError
from skdist.models.linear import sweep_interval
from skdist.models.measuring import measure
from skdist.models.partition import convert
from tests.fakes import linear_model, rows_of

layouts = pytest.mark.parametrize("sparse", [False, True])


def model_of(sparse=False, n_classes=3, **params):
    X, y = rows_of(90, 4, n_classes)
    return linear_model(sp.csr_array(X) if sparse else X, y, **params)


@layouts
@pytest.mark.parametrize(("n_classes", "problems"), [(2, 1), (3, 3)])
@pytest.mark.parametrize(("rate", "states"), [("constant", 1), (AutoRate(), 2)])
def test_state_has_the_layout_of_its_kernel(sparse, n_classes, problems, rate, states):
    model, _ = model_of(sparse, n_classes, learning_rate=rate)
    expected = (states, 5, problems) if sparse else (states, problems, 5)
    state = model.initial_state()
    assert state.shape == expected
    assert state.flags.c_contiguous
    assert not state.any()


@layouts
def test_coefficients_are_those_the_state_began_with(sparse):
    model, _ = model_of(sparse, learning_rate=AutoRate())
    coef, intercept = np.arange(12.0).reshape(3, 4), np.array([7.0, 8.0, 9.0])
    back = model.coefficients(model.initial_state(coef, intercept))
    np.testing.assert_array_equal(back[0], coef)
    np.testing.assert_array_equal(back[1], intercept)


@layouts
def test_pack_and_unpack_are_inverse(sparse):
    model, _ = model_of(sparse)
    states = np.random.default_rng(0).normal(size=(2, 3, 5))
    np.testing.assert_array_equal(model.unpack(model.pack(states)), states)


def test_predictions_use_the_average():
    model, _ = model_of(learning_rate=AutoRate())
    states = np.stack([np.zeros((3, 5)), np.ones((3, 5))])
    np.testing.assert_array_equal(model.coefficients(model.pack(states))[0], 1.0)


def test_order_is_fixed_by_seed_epoch_and_partition():
    model, partition = model_of()
    order = model.order(partition, 4, 2)
    np.testing.assert_array_equal(order, model.order(partition, 4, 2))
    np.testing.assert_array_equal(np.sort(order), np.arange(90))
    others = [(model, 4, 3), (model, 5, 2), (dataclasses.replace(model, seed=99), 4, 2)]
    for other, number, epoch in others:
        assert not np.array_equal(order, other.order(partition, number, epoch))


def test_without_shuffle_rows_keep_their_order():
    model, partition = model_of(shuffle=False)
    np.testing.assert_array_equal(model.order(partition, 1, 5), np.arange(90))


@pytest.mark.parametrize(("rows", "steps"), [(0, 0), (1, 1), (8, 1), (9, 2), (80, 10)])
def test_a_short_last_step_is_a_step(rows, steps):
    assert model_of()[0].steps(rows) == steps


@layouts
@pytest.mark.parametrize("loss", ["hinge", "log_loss"])
def test_training_lowers_the_loss(sparse, loss):
    model, partition = model_of(sparse, 2, loss=loss, learning_rate=AutoRate())
    state = model.initial_state()
    losses = [
        model.train(state, partition, model.order(partition, 0, epoch), 0, 90, epoch * model.steps(90))
        for epoch in range(5)
    ]
    assert losses[-1] < 0.8 * losses[0]


@layouts
def test_divergence_is_an_error(sparse):
    model, partition = model_of(sparse, 2, eta0=1e308, loss="hinge", alpha=0.0)
    state = model.initial_state()
    with pytest.raises(DivergedError, match="diverged"):
        model.train(state, partition, model.order(partition, 0, 0), 0, 90, 0.0)


@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_infinity_in_the_last_row_is_divergence(penalty, fit_intercept):
    model, partition = model_of(
        False, 2, loss="hinge", eta0=0.01, penalty=penalty, fit_intercept=fit_intercept, shuffle=False
    )
    X, targets = partition.X.copy(), partition.targets.copy()
    X[-1], targets[-1] = 0.0, 1
    X[-1, 0] = np.inf  # as right as can be: its loss is zero, and so is its gradient
    partition = dataclasses.replace(partition, X=X, targets=targets)
    state = model.initial_state()
    state[:, :, 0] = 1.0
    with pytest.raises(DivergedError, match="diverged"):
        model.train(state, partition, model.order(partition, 0, 0), 0, 90, 0.0)


def test_dense_rows_of_a_sparse_model_are_searched_for_infinity():
    model, _ = model_of(True, 2)
    X, y = rows_of(90, 4, 2)
    X[7, 2] = np.inf
    with pytest.raises(ValueError, match=r"X contains infinity \(1 values; columns 2\)"):
        model.accept(convert(X, y), None)


@layouts
def test_rows_may_be_read_only(sparse):
    model, partition = model_of(sparse, learning_rate=AutoRate())
    ends = []
    for locked in (False, True):
        X = partition.X.copy()
        for array in (X.data, X.indices, X.indptr) if sparse else (X,):
            array.flags.writeable = not locked
        one = dataclasses.replace(partition, X=X)
        state = model.initial_state()
        model.train(state, one, model.order(one, 0, 0), 0, 90, 0.0)
        np.testing.assert_array_equal(measure(X, one.weights).low, measure(partition.X, one.weights).low)
        ends.append(state)
    np.testing.assert_array_equal(*ends)


def test_a_sweep_costs_at_most_a_quarter_of_the_steps_between_two():
    X = sp.random_array((200, 5000), density=0.002, rng=np.random.default_rng(0)).tocsr()
    moments = measure(sp.csr_array(X), np.ones(200))
    sweep = sweep_interval(moments, 8)
    touched = 8 * X.nnz / 200
    assert len(moments.columns) < 2500  # none of the others has a coefficient
    assert sweep == math.ceil(4 * len(moments.columns) / touched)


def test_narrow_data_is_swept_at_each_step():
    assert sweep_interval(measure(sp.csr_array(np.ones((50, 3))), np.ones(50)), 64) == 1


@pytest.mark.parametrize("sparse", [False, True])
def test_partitions_are_given_layout_dtype_and_codes_of_the_model(sparse):
    X = np.eye(3)
    rows = sp.csr_array(X.astype(np.float32)) if sparse else X.astype(np.float32)
    model, _ = linear_model(rows, [0, 1, 2])
    for given in (X, sp.csr_array(X), rows):
        taken = model.accept(convert(given, [0, 2, 2]), np.array([0, 1, 2]))
        assert sp.issparse(taken.X) == sparse
        assert taken.X.dtype == taken.weights.dtype == np.float32
        np.testing.assert_array_equal(taken.X.toarray() if sparse else taken.X, X)
        np.testing.assert_array_equal(taken.targets, [0, 2, 2])


def test_a_model_arrives_as_it_was_sent_without_what_it_keeps_for_itself():
    X = sp.random_array((200, 1_000), density=2e-3, rng=np.random.default_rng(0), format="csr")
    model, partition = linear_model(X, np.arange(200) % 3, learning_rate=AutoRate())
    before = pickle.dumps(model)
    narrow = model.accept(partition, np.arange(3)).X
    assert narrow.shape[1] == len(model.columns) < 500
    assert pickle.dumps(model) == before
    back = pickle.loads(before)
    for each in dataclasses.fields(model):
        np.testing.assert_array_equal(getattr(back, each.name), getattr(model, each.name))
        assert type(getattr(back, each.name)) is type(getattr(model, each.name))
    np.testing.assert_array_equal(back.accept(partition, np.arange(3)).X.toarray(), narrow.toarray())
