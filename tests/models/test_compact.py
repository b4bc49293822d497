import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from skdist.models.compact import fewest_bytes
from skdist.models.measuring import measure

NUMBERS = st.one_of(
    st.integers(-(2**40), 2**40),
    st.integers(0, 300),
    st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan, 0.5]),
)


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.integers(0, 20),
        elements=NUMBERS.map(lambda number: float(np.float32(number))),
    )
)
def test_what_comes_back_is_the_same_to_the_bit(values):
    back = fewest_bytes(values).wide()
    assert back.dtype == values.dtype
    assert back.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("values", "nbytes"),
    [
        (np.zeros(1000), 8),
        (np.full(1000, np.inf, np.float32), 4),
        (np.arange(200.0), 200),
        (np.arange(60_000.0), 120_000),
        (np.arange(300) - 7.0, 1200),
        (np.arange(300) + 0.5, 2400),
        (np.array([0.0, -0.0]), 16),
        (np.zeros(0), 0),
    ],
    ids=["zeros", "infinite", "bytes", "two bytes", "four bytes", "no whole numbers", "signed zeros", "none"],
)
def test_values_take_as_few_bytes_as_keep_them(values, nbytes):
    assert fewest_bytes(values).values.nbytes == nbytes


def test_moments_of_wide_rows_are_small_when_they_are_sent():
    X = sp.random_array(
        (2_000, 50_000), density=1e-3, rng=np.random.default_rng(0), format="csr", dtype=np.float32
    )
    X.data[:] = 1.0
    moments = measure(X, np.ones(2_000, np.float32))
    sent = pickle.dumps(moments)
    back = pickle.loads(sent)
    assert len(sent) < 10 * len(moments.mean)  # of 40 or 48 bytes for each column
    for name, value in vars(moments).items():
        np.testing.assert_array_equal(getattr(back, name), value)
        assert getattr(back, name).dtype == value.dtype if isinstance(value, np.ndarray) else True
