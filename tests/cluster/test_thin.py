import pickle

import numpy as np
import pytest

from skdist.cluster.thin import LEAST_RATIO, Thin, filled, thin


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 12, 13, 100])
def test_what_is_sent_of_an_array_is_all_of_it(dtype, count):
    rng = np.random.default_rng(count)
    array = np.zeros((2, 10, 5), dtype=dtype)
    array.flat[rng.permutation(100)[:count]] = rng.normal(size=count)
    if count:
        array[array != 0] = np.resize([1e-30, np.nan, -np.inf], count)
    sent = thin(array)
    assert isinstance(sent, Thin) is (count * LEAST_RATIO <= 100)
    back = filled(pickle.loads(pickle.dumps(sent)))
    np.testing.assert_array_equal(back, array)
    assert back.dtype == dtype
    assert back.flags.writeable


def test_a_model_begins_from_next_to_nothing():
    assert len(pickle.dumps(thin(np.zeros((2, 1000, 100))))) < 1000
