import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.models.partition import (
    CACHE_BYTES,
    MOST_ROWS_PER_PAGE,
    convert,
    convert_rows,
    encode,
    row_order,
    rows_per_page,
)
from skdist.models.shuffle import RUNS_TOGETHER

LABELS = {
    "ints": np.array([3, -1, 3, 7, -1]),
    "far ints": np.array([10**12, -5, 10**12, 0, 5]),
    "small ints": np.array([-128, 127, 0, 127, 3], dtype=np.int8),
    "unsigned": np.array([200, 0, 200, 255, 1], dtype=np.uint8),
    "bools": np.array([True, False, True, True, False]),
    "strings": np.array(["cat", "ant", "cat", "bee", "ant"]),
    "objects": np.array(["cat", "ant", "cat", "bee", "ant"], dtype=object),
    "floats": np.array([3.0, -1.0, 3.0, 2.0, 2.0]),
    "one": np.array([4, 4, 4, 4, 4]),
    "two bools": np.array([True, True]),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_encode_gives_sorted_labels_and_their_places(labels):
    present, codes = encode(labels)
    np.testing.assert_array_equal(present, np.unique(labels))
    assert present.dtype == labels.dtype
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(present[codes], labels)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=1) | st.lists(st.integers(-600, 600), min_size=1))
def test_encode_is_what_unique_says(values):
    present, codes = encode(np.array(values))
    np.testing.assert_array_equal(present, np.unique(values))
    np.testing.assert_array_equal(codes, np.unique(values, return_inverse=True)[1])


def test_encode_of_no_labels():
    present, codes = encode(np.array([], dtype=int))
    assert len(present) == len(codes) == 0


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a", None], dtype=object),
        np.array(["a", np.nan], dtype=object),
        pd.Series(["a", pd.NA], dtype="string").to_numpy(),
        np.array([1.0, np.nan]),
        np.array([1.0, np.inf]),
    ],
    ids=["None", "nan among strings", "NA", "nan", "inf"],
)
def test_missing_labels_are_refused(labels):
    with pytest.raises(ValueError, match="y contains"):
        encode(labels)


DTYPES = {
    "bool": "float32",
    "int8": "float32",
    "uint8": "float32",
    "int16": "float32",
    "uint16": "float32",
    "float32": "float32",
    "int32": "float64",
    "int64": "float64",
    "uint64": "float64",
    "float64": "float64",
}
DENSE_DTYPES = {**DTYPES, "float16": "float32", ">f8": "float64", "object": "float64"}


@pytest.mark.parametrize(("dtype", "expected"), DENSE_DTYPES.items())
def test_rows_become_floats_that_hold_all_values(dtype, expected):
    X = np.array([[0, 1, 0], [1, 0, 1]]).astype(dtype)
    rows = convert_rows(X)
    assert rows.dtype == np.dtype(expected)
    np.testing.assert_array_equal(rows, [[0, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize(("dtype", "expected"), DTYPES.items())
def test_sparse_rows_become_floats_that_hold_all_values(dtype, expected):
    rows = convert_rows(sp.csr_array(np.array([[0, 1, 0], [1, 0, 1]]).astype(dtype)))
    assert rows.dtype == np.dtype(expected)
    np.testing.assert_array_equal(rows.toarray(), [[0, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_kernels_can_read_is_not_copied(dtype):
    X = np.ones((5, 3), dtype)
    partition = convert(X, np.arange(5))
    assert np.shares_memory(partition.X, X)
    assert partition.owned_bytes == 0
    assert partition.weights.dtype == dtype


@pytest.mark.parametrize("X", [np.ones((5, 3), order="F"), np.ones((5, 6))[:, ::2], np.ones((5, 3), int)])
def test_what_they_cannot_read_is_copied_and_counted(X):
    partition = convert(X, np.arange(5))
    assert partition.X.flags.c_contiguous
    assert partition.owned_bytes == partition.X.nbytes == partition.nbytes
    assert partition.__sizeof__() >= partition.owned_bytes


@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix])
def test_sparse_rows_become_csr_with_sorted_unique_columns(format, kind):
    X = sp.coo_array(([1.0, 2.0, 3.0, 4.0], ([0, 0, 1, 1], [2, 2, 1, 0])), shape=(2, 3))
    source = X.tocsr() if format == "csr" else X.asformat(format)
    rows = convert_rows(kind(source) if format == "csr" else source)
    assert rows.format == "csr"
    assert rows.has_canonical_format
    np.testing.assert_array_equal(rows.toarray(), [[0, 0, 3], [4, 3, 0]])


def test_duplicates_in_the_users_matrix_stay():
    X = sp.csr_array((np.array([1.0, 2.0]), np.array([1, 1]), np.array([0, 2])), shape=(1, 3))
    rows = convert_rows(X)
    assert X.nnz == 2
    np.testing.assert_array_equal(rows.toarray(), [[0, 3, 0]])


def test_canonical_csr_is_not_copied():
    X = sp.csr_array(np.eye(3))
    X.sum_duplicates()
    assert convert_rows(X) is X


def test_frames_become_one_float_array():
    frame = pd.DataFrame({"a": np.array([1, 2], np.int8), "b": np.array([0.5, 1.5], np.float32)})
    rows = convert_rows(frame)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, [[1, 0.5], [2, 1.5]])
    assert convert_rows(frame.assign(c=[1, 2])).dtype == np.float64


@pytest.mark.parametrize("column", [-1, 3])
def test_columns_that_there_are_not_are_refused(column):
    X = sp.csr_array((np.ones(2), np.array([0, column]), np.array([0, 1, 2])), shape=(2, 3))
    with pytest.raises(ValueError, match="columns that it does not have: it has 3"):
        convert_rows(X)


def test_missing_values_of_nullable_columns_become_nan():
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64")})
    np.testing.assert_array_equal(convert_rows(frame), [[1.0], [np.nan]])


def test_columns_that_hold_no_numbers_are_named():
    frame = pd.DataFrame({"a": [1.0], "city": ["Bonn"], "day": pd.to_datetime(["2020-01-01"])})
    with pytest.raises(ValueError, match="Columns city, day of X do not hold numbers"):
        convert_rows(frame)


@pytest.mark.parametrize("X", [np.array([["a"]]), np.ones((2, 2), complex)])
def test_arrays_that_hold_no_numbers_are_refused(X):
    with pytest.raises(ValueError, match="must hold numbers"):
        convert_rows(X)


def test_one_dimension_is_refused():
    with pytest.raises(ValueError, match="two dimensions"):
        convert_rows(np.ones(3))


def test_labels_may_be_a_column():
    partition = convert(np.eye(3), pd.DataFrame({"y": [2, 1, 2]}))
    np.testing.assert_array_equal(partition.targets, [1, 0, 1])
    np.testing.assert_array_equal(partition.labels, [1, 2])


@pytest.mark.parametrize(
    ("y", "weights", "message"),
    [
        (np.arange(4), None, "different lengths: 5 rows of X, 4 of y"),
        (np.ones((5, 2)), None, r"one column, it has shape \(5, 2\)"),
        (np.arange(5), np.ones(4), "sample_weight has 4 values for 5 rows"),
    ],
)
def test_parts_that_do_not_fit_are_refused(y, weights, message):
    with pytest.raises(ValueError, match=message):
        convert(np.ones((5, 3)), y, weights)


def test_codes_can_index_the_classes_of_all_partitions():
    partition = convert(np.eye(3), np.array(["b", "d", "b"]))
    moved = partition.globally(np.array(["a", "b", "c", "d"]))
    np.testing.assert_array_equal(moved.targets, [1, 3, 1])
    assert moved.X is partition.X
    assert partition.globally(np.array(["b", "d"])) is partition


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 500), st.integers(1, 16), st.tuples(*[st.integers(0, 2**31 - 1)] * 3))
def test_row_order_is_a_permutation_that_its_numbers_determine(n_rows, page, entropy):
    order = row_order(n_rows, page, entropy)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n_rows))
    np.testing.assert_array_equal(order, row_order(n_rows, page, entropy))


@pytest.mark.parametrize("page", [1, 8])
def test_row_order_changes_with_seed_epoch_and_partition(page):
    base = row_order(400, page, (1, 0, 0))
    for other in ((2, 0, 0), (1, 1, 0), (1, 0, 1)):
        assert not np.array_equal(base, row_order(400, page, other))


def test_pages_are_read_together_and_begin_elsewhere_in_each_epoch():
    page, begins = 8, set()
    for epoch in range(6):
        # The next row in memory is read after a turn of those that are read together.
        steps = np.diff(np.argsort(row_order(1600, page, (0, epoch, 0))))
        assert np.mean(steps == RUNS_TOGETHER) > 0.7
        begins.add(np.bincount(np.flatnonzero(steps != RUNS_TOGETHER) % page).argmax())
    assert len(begins) > 1


def test_a_mini_batch_has_rows_of_many_pages():
    order = row_order(10_000, 10, (0, 0, 0))
    places = [len(set(order[start : start + 64] // 100)) for start in range(0, 10_000 - 64, 64)]
    assert np.median(places) > 12


def test_rows_stay_together_only_where_reading_costs():
    assert rows_per_page(np.ones((100, 10))) == 1
    large = np.empty((CACHE_BYTES // 8, 2), np.float32)
    assert rows_per_page(np.repeat(large, 2, axis=0)) == MOST_ROWS_PER_PAGE
    assert rows_per_page(np.empty((600, 512))) == 1
    assert rows_per_page(np.empty((CACHE_BYTES // 1024, 256))) == 2


def test_numbers_with_fractions_are_no_labels():
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        encode(np.array([0.5, 1.0, 0.5]))
