import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss

from skdist.models.partition import convert
from skdist.models.validation import (
    ALL_ROWS,
    HoldOut,
    add_up,
    check_split,
    check_validation,
    score_sums,
    summarize_split,
)
from skdist.preparation import summarize
from tests.fakes import linear_model, rows_of


def partition_of(labels, weights=None, X=None):
    labels = np.asarray(labels)
    X = np.arange(len(labels), dtype=float)[:, None] if X is None else X
    return convert(X, labels, weights)


def splits_of(*partitions):
    return [summarize_split(partition) for partition in partitions]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.05, 0.95), st.integers(0, 5))
def test_each_class_and_the_whole_give_their_share_rounded_up_or_down(labels, fraction, number):
    split = HoldOut(fraction, seed=3).split(partition_of(labels), number)
    held = np.bincount(np.asarray(labels)[split.held_out], minlength=4)
    shares = fraction * np.bincount(labels, minlength=4)
    assert (held >= np.floor(shares - 1e-9)).all()
    assert (held <= np.ceil(shares + 1e-9)).all()
    assert abs(len(split.held_out) - fraction * len(labels)) < 1 + 1e-9
    assert sorted([*split.training, *split.held_out]) == list(range(len(labels)))


def test_a_split_follows_from_seed_and_number_alone():
    labels = np.arange(100) % 2
    hold_out = HoldOut(0.3, seed=1)
    first = hold_out.split(partition_of(labels), 0).held_out
    np.testing.assert_array_equal(first, HoldOut(0.3, seed=1).split(partition_of(labels), 0).held_out)
    assert set(first) != set(hold_out.split(partition_of(labels), 1).held_out)
    assert set(first) != set(HoldOut(0.3, seed=2).split(partition_of(labels), 0).held_out)


def test_small_partitions_give_their_share_on_average():
    held = [len(HoldOut(0.1, 0).split(partition_of([0, 1, 1]), n).held_out) for n in range(2000)]
    assert np.mean(held) == pytest.approx(0.3, abs=0.04)  # four standard deviations


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_reads_each_training_row_once_and_no_other(shuffle):
    X, y = rows_of(301, 3)
    model, partition = linear_model(X, y, shuffle=shuffle)
    split = HoldOut(0.2, 7).split(partition, 0)
    orders = [model.order(split, 0, epoch) for epoch in range(2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), split.training)
    assert (orders[0] != orders[1]).any() == shuffle


def test_parts_of_a_split_partition_hold_out_the_same_rows():
    whole = HoldOut(0.4, 7).split(partition_of(np.arange(50) % 3), 0)
    parts = [whole.part(a, b) for a, b in ((0, 11), (11, 12), (12, 50))]
    assert sum(part.n_rows for part in parts) == whole.n_rows
    held = np.concatenate([part.X[part.held_out, 0] for part in parts])
    np.testing.assert_array_equal(held, whole.X[whole.held_out, 0])


def test_a_summary_knows_nothing_of_rows_held_out_but_their_number():
    X, y = rows_of(200, 4)
    split = HoldOut(0.25, 7).split(convert(X, y), 0)
    summary, alone = summarize(split), summarize(convert(X[split.training], y[split.training]))
    assert summary.moments.rows == 150
    np.testing.assert_allclose(summary.moments.mean, alone.moments.mean, rtol=1e-12)
    np.testing.assert_array_equal(summary.targets.weights, alone.targets.weights)
    assert summary.split[:3] == (150, 50, 50.0)


def test_nan_in_rows_held_out_is_found():
    X, y = rows_of(20, 2)
    split = HoldOut(0.2, 7).split(convert(X, y), 0)
    X[split.held_out[0], 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        summarize(HoldOut(0.2, 7).split(convert(X, y), 0))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("make", [np.asarray, sp.csr_array])
def test_sums_over_partitions_are_score_and_loss_of_the_rows_held_out(n_classes, make, monkeypatch):
    monkeypatch.setattr("skdist.models.validation.BLOCK_ROWS", 16)
    X, y = rows_of(300, 4, n_classes)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X))
    model, whole = linear_model(make(X), y, weights, loss="log_loss")
    state = model.initial_state(*(np.random.default_rng(1).normal(size=s) for s in
                                  [(model.n_problems, 4), model.n_problems]))  # fmt: skip
    whole = HoldOut(0.3, 7).split(whole, 0)
    parts = [whole.part(0, 100), whole.part(100, 300)]
    sums = add_up([score_sums(model, state, part, np.arange(n_classes)) for part in parts])
    held = whole.held_out
    z = X[held] @ model.coefficients(state)[0].T + model.coefficients(state)[1]
    codes = (z[:, 0] > 0) if n_classes == 2 else z.argmax(axis=1)
    assert sums.score == pytest.approx(accuracy_score(y[held], codes, sample_weight=weights[held]))
    assert sums.rows == len(held)
    targets = y[held][:, None] == (1 if n_classes == 2 else np.arange(n_classes))
    losses = [
        log_loss(target, 1 / (1 + np.exp(-margins)), sample_weight=weights[held])
        for target, margins in zip(targets.T, z.T, strict=True)
    ]
    assert sums.mean_loss == pytest.approx(np.mean(losses) * weights[held].mean())


def test_rows_given_to_validate_are_all_held_out():
    split = ALL_ROWS.split(partition_of([0, 1, 1]), 0)
    assert (split.n_rows, list(split.held_out)) == (0, [0, 1, 2])


@pytest.mark.parametrize(
    ("labels", "weights", "fraction", "message"),
    [
        ([0, 1], None, 0.01, "led to an empty set .2 rows to train on, 0 to validate"),
        ([0, 1], None, 0.99, "led to an empty set .0 rows to train on, 2 to validate"),
        ([0] * 20 + [1] * 20, np.zeros(40), 0.2, "sample weights of all 8 validation rows are zero"),
        (list(range(10)) * 2, None, 0.25, "5 validation rows, fewer than the 10 classes"),
    ],
)
def test_splits_that_are_of_no_use_are_refused(labels, weights, fraction, message):
    split = HoldOut(fraction, seed=1).split(partition_of(labels, weights), 0)
    with pytest.raises(ValueError, match=message):
        check_split(splits_of(split), fraction)


def test_a_class_with_no_row_left_to_train_on_is_refused():
    hold_out = HoldOut(0.9, seed=0)
    partitions = [partition_of([0, 1] * 20), partition_of(["a"] * 0), partition_of([2] + [0] * 20)]
    number = next(n for n in range(2, 50) if 0 in hold_out.split(partitions[2], n).held_out)
    splits = splits_of(*(hold_out.split(p, n) for p, n in zip(partitions, (0, 1, number), strict=True)))
    with pytest.raises(ValueError, match=r"All rows of the classes array\(\[2\]\) were held out"):
        check_split(splits, 0.9)


@pytest.mark.parametrize(
    ("labels", "weights", "width", "message"),
    [
        ([], None, 1, "X_val is empty"),
        ([0, 1], [0.0, 0.0], 1, "sum of sample_weight_val must be positive"),
        ([0, 1], None, 2, "X_val has 2 features, X has 1"),
        ([0, 5], None, 1, r"labels that are not in y: array\(\[5\]"),
        (["0", "1"], None, 1, "labels that are not in y"),
    ],
)
def test_validation_rows_that_cannot_be_scored_are_refused(labels, weights, width, message):
    split = ALL_ROWS.split(partition_of(np.array(labels), weights), 0)
    with pytest.raises(ValueError, match=message):
        check_validation([(summarize_split(split), width)], np.array([0, 1, 2]), 1)
