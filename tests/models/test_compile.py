import numba
import numpy as np
import pytest

from skdist.models.compile import FASTMATH, as_input, kernel


def add(a, b):
    return a + b


def test_a_kernel_computes_and_releases_the_lock():
    compiled = kernel(add)
    assert compiled(2, 3) == 5
    assert compiled.targetoptions["nogil"]


def test_without_a_place_for_the_cache_it_compiles_all_the_same(monkeypatch):
    plain, asked = numba.njit, []

    def njit(**options):
        asked.append(options["cache"])
        if options["cache"]:
            raise RuntimeError("cannot cache function 'add': no locator available for file 'compile.py'")
        return plain(**options)

    monkeypatch.setattr(numba, "njit", njit)
    compiled = kernel(add)
    assert asked == [True, False]
    assert compiled(2, 3) == 5
    assert compiled.targetoptions["nogil"]


def test_nan_is_not_optimised_away():
    assert not {"nnan", "ninf", "fast"} & FASTMATH


def test_other_errors_are_not_swallowed(monkeypatch):
    def njit(**options):
        raise ValueError("bad option")

    monkeypatch.setattr(numba, "njit", njit)
    with pytest.raises(ValueError, match="bad option"):
        kernel(add)


def test_an_input_is_a_read_only_view():
    array = np.arange(3.0)
    view = as_input(array)
    assert np.shares_memory(view, array)
    assert not view.flags.writeable
    assert array.flags.writeable
