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
    if "Torch" in name or "MLP" in name:
        pytest.importorskip("torch")
    assert getattr(skdist, name).__name__ == name
    assert name in dir(skdist)


def test_unknown_names_raise_as_in_any_module():
    with pytest.raises(AttributeError, match="'Nothing'"):
        _ = skdist.Nothing


@pytest.mark.parametrize("name", ["DistributedTorchClassifier", "DistributedMLPRegressor"])
def test_without_torch_its_estimators_say_what_to_install(name):
    code = (
        "import sys\n"
        "class NotThere:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
        "sys.meta_path.insert(0, NotThere())\n"
        "import skdist\n"
        "skdist.DistributedSGDClassifier\n"
        "try:\n"
        f"    skdist.{name}\n"
        "except ImportError as error:\n"
        "    assert \"pip install 'dask-skdist[torch]'\" in str(error), error\n"
        "else:\n"
        "    raise AssertionError"
    )
    assert loaded_after(code) == []
