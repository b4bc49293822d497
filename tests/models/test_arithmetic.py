import numpy as np
import pytest

from skdist.models.arithmetic import add_difference, add_velocity


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1,), (2, 3, 5)])
def test_a_scaled_difference_is_added(dtype, shape):
    start, end, base = np.random.default_rng(0).normal(size=(3, *shape)).astype(dtype)
    out = np.empty_like(start)
    add_difference(out, start, end, base, 0.25)
    np.testing.assert_allclose(out, start + 0.25 * (end - base), rtol=1e-5)
    add_difference(start, start, end, base, 0.25)
    np.testing.assert_array_equal(start, out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_velocity_takes_changes_in_and_moves_on(dtype):
    out, before, velocity = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(dtype)
    expected = dtype(0.5) * velocity + (out - before)
    ahead = out + dtype(0.5) * expected
    add_velocity(out, before, velocity, 0.5)
    np.testing.assert_allclose(velocity, expected, rtol=1e-5)
    np.testing.assert_allclose(out, ahead, rtol=1e-5)
