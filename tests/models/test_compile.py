import gc
import importlib.util
import sys
from collections import Counter

import numba
import numpy as np
import pytest
from numba import types

from skdist.models import compile
from skdist.models.compile import FASTMATH, as_input, callback, kernel


def add(a, b):
    return a + b


def test_a_kernel_computes_and_releases_the_lock():
    compiled = kernel(add)
    assert compiled(2, 3) == 5
    assert compiled.targetoptions["nogil"]


@pytest.fixture
def no_place(monkeypatch):
    def cache(function):
        raise RuntimeError("cannot cache function 'add': no locator available for file 'compile.py'")

    monkeypatch.setattr(compile, "SharedCache", cache)


@pytest.mark.usefixtures("no_place")
def test_without_a_place_for_the_cache_it_compiles_all_the_same():
    compiled = kernel(add)
    assert compiled(2, 3) == 5
    assert compiled.targetoptions["nogil"]
    assert callback(types.int64(types.int64, types.int64), add).ctypes(2, 3) == 5


def test_nan_is_not_optimised_away():
    assert not {"nnan", "ninf", "fast"} & FASTMATH


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """Make kernels of a function, as processes of their own would that share a folder."""
    path = tmp_path / "apart.py"
    path.write_text("def double(a):\n    return a + a\n")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("apart", path)

    def load():
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "apart", module)  # where numba looks for it
        spec.loader.exec_module(module)
        return kernel(module.double)

    return load


def test_a_kernel_is_compiled_once_for_all_processes(apart):
    assert apart()(2) == 4
    again = apart()
    assert again(2) == 4
    assert again.stats.cache_hits == Counter(again.signatures)


def test_processes_that_compile_at_once_do_not_get_what_was_compiled_for_other_types(apart, monkeypatch):
    file, first, second = compile.SharedFile, apart(), apart()
    load, write = file._load_index, file._save_data

    def write_late(self, name, data):
        """Let the other one save all it has, for which it has read the index before."""
        monkeypatch.setattr(file, "_save_data", write)
        monkeypatch.setattr(file, "_load_index", lambda self: {})
        assert second(2.5) == 5.0
        monkeypatch.setattr(file, "_load_index", load)
        write(self, name, data)

    monkeypatch.setattr(file, "_save_data", write_late)
    assert first(2) == 4
    third = apart()
    for value in (2.5, 2):
        assert type(third(value)) is type(value)
        assert third(value) == 2 * value


def test_what_the_index_names_is_there(apart, monkeypatch):
    # A reader that comes between the two would find what an older version of the kernel has left.
    written = []
    for method in ("_save_data", "_save_index"):
        monkeypatch.setattr(
            compile.SharedFile, method, lambda self, *args, method=method: written.append(method)
        )
    assert apart()(2) == 4
    assert written == ["_save_data", "_save_index"]


def test_the_collector_goes_on_when_nobody_compiles_any_more(monkeypatch):
    seen, compile_of = [], numba.core.registry.CPUDispatcher.compile

    def watched(self, signature):
        seen.append(gc.isenabled())
        return compile_of(self, signature)

    monkeypatch.setattr(numba.core.registry.CPUDispatcher, "compile", watched)
    assert gc.isenabled()
    with compile.collector_paused:  # another thread compiles
        assert kernel(add)(1.5, 2) == 3.5
        assert not gc.isenabled()
    assert gc.isenabled()
    assert seen == [False]
    gc.disable()
    try:
        assert kernel(add)(2, 2.5) == 4.5
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_input_is_a_read_only_view():
    array = np.arange(3.0)
    view = as_input(array)
    assert np.shares_memory(view, array)
    assert not view.flags.writeable
    assert array.flags.writeable
