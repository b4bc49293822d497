import subprocess
import sys

import pytest

import skdist


def loaded_after(code):
    """Return which of torch, distributed and dask a fresh interpreter has loaded."""
    check = "import sys; print(*({'torch', 'distributed', 'dask'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_importing_loads_nothing_but_the_package():
    assert loaded_after("import skdist, sys; assert 'sklearn' not in sys.modules") == []


def test_an_estimator_trains_without_dask_and_torch():
    code = (
        "import numpy as np\n"
        "from skdist import DistributedSGDClassifier\n"
        "DistributedSGDClassifier(max_iter=1, tol=None).fit(np.eye(4), [0, 0, 1, 1]).predict(np.eye(4))"
    )
    assert loaded_after(code) == []


@pytest.mark.parametrize("name", skdist.__all__)
def test_public_names_are_there_and_listed(name):
    assert getattr(skdist, name).__name__ == name
    assert name in dir(skdist)


def test_unknown_names_raise_as_in_any_module():
    with pytest.raises(AttributeError, match="'Nothing'"):
        _ = skdist.Nothing
