from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from skdist.intake import Arrays
from skdist.models.arrays import convert_arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int64, np.bool_])
def test_narrow_rows_are_not_copied(dtype):
    X = np.ones((5, 2, 3), dtype=dtype)
    assert convert_arrays(X) is X


@pytest.mark.parametrize("dtype", [np.float64, object])
def test_wide_rows_become_float32(dtype):
    X = np.arange(6).reshape(3, 2).astype(dtype)
    assert convert_arrays(X).dtype == np.float32
    np.testing.assert_array_equal(convert_arrays(X), X.astype(float))


def test_frames_and_sparse_rows():
    X = np.array([[1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_array_equal(convert_arrays(pd.DataFrame(X)), X)
    sparse = convert_arrays(sp.coo_array(X))
    assert (sparse.format, sparse.dtype) == ("csr", np.float32)


def test_rows_that_lie_askew_are_put_straight():
    X = np.frombuffer(b"\0" + np.arange(6, dtype=np.float32).tobytes(), dtype=np.uint8)[1:]
    X = X.view(np.float32).reshape(3, 2)
    assert not X.flags.aligned
    partition = Arrays().convert(X, [0, 1, 0])
    assert partition.X.flags.aligned
    assert partition.owned_bytes == X.nbytes
    np.testing.assert_array_equal(partition.X, X)


@pytest.mark.parametrize(
    ("X", "flat", "message"),
    [
        (np.ones(3), False, "two dimensions or more"),
        (np.ones((3, 2, 2)), True, "must have two dimensions, it has 3"),
        (np.array([["a", "b"]], dtype=object), False, "no numbers"),
        (np.array([["a", "b"]]), False, "must hold numbers"),
    ],
)
def test_what_is_no_row_is_refused(X, flat, message):
    with pytest.raises(ValueError, match=message):
        convert_arrays(X, flat)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_found(bad):
    X = np.ones((9_000, 2))
    X[8_999, 1] = bad
    intake = Arrays()
    with pytest.raises(ValueError, match="NaN or infinity, or numbers that are too large"):
        intake.summarize(intake.convert(X, np.zeros(9_000)))
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        intake.summarize(intake.convert(np.ones((2, 2)), [0, 1], [1.0, bad]))


def test_partitions_are_counted():
    summary = Arrays().summarize(Arrays().convert(np.ones((5, 2, 3), dtype=np.uint8), [0, 1, 1, 1, 0]))
    assert (summary.rows, summary.shape, summary.dtype, summary.nbytes) == (5, (2, 3), np.uint8, 30)
    assert summary.moments is None
    assert summary.targets.rows.tolist() == [2, 3]
