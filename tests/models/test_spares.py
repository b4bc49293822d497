"""Arrays made from the memory of others that are gone."""

from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np
import pytest

from skdist.models.spares import LEAST_BYTES, MOST_SPARES, Spares


def large(value: float, rows: int = 2) -> np.ndarray:
    return np.full((rows, LEAST_BYTES // 4), value, np.float32)


def address(values: np.ndarray) -> int:
    return values.ctypes.data


@pytest.mark.parametrize("values", [np.arange(6.0).reshape(2, 3), large(1.5), np.asfortranarray(large(2.5))])
def test_a_copy_is_equal_and_of_its_own(values):
    copy = Spares().copy(values)
    assert copy.dtype == values.dtype
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, values)
    copy += 1
    assert not np.shares_memory(copy, values)
    np.testing.assert_array_equal(copy, values + 1)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(copy)), copy)


def test_memory_is_used_again_once_its_last_view_is_gone():
    spares = Spares()
    first = spares.copy(large(1.0))
    place, view = address(first), first[1, 5:]
    del first
    second = spares.copy(large(2.0))
    assert address(second) != place
    np.testing.assert_array_equal(view, 1.0)
    del view
    third = spares.copy(large(3.0))
    assert address(third) == place
    np.testing.assert_array_equal(second, 2.0)
    np.testing.assert_array_equal(third, 3.0)


def test_memory_of_another_size_is_not_used():
    spares = Spares()
    spares.copy(large(1.0))
    other = spares.copy(large(2.0, rows=3))
    assert other.shape == (3, LEAST_BYTES // 4)
    np.testing.assert_array_equal(other, 2.0)


def test_arrays_of_two_sizes_are_made_in_turns_from_the_same_memory():
    spares = Spares()

    def addresses():
        arrays = [spares.copy(large(1.0, rows)) for rows in (1, 2)]
        return [address(array) for array in arrays]

    assert addresses() == addresses() == addresses()


def test_few_are_kept_and_none_when_it_is_gone():
    spares = Spares()
    arrays = [spares.copy(large(n)) for n in range(MOST_SPARES + 2)]
    last = spares.copy(large(9.0))
    arrays.clear()
    (unused,) = spares._unused.values()
    assert len(unused) == MOST_SPARES
    gone = weakref.ref(unused[0])
    del unused
    gc.disable()
    try:
        del spares
        assert gone() is None
        del last  # nobody takes it back
    finally:
        gc.enable()
