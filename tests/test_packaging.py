"""What a user's tools rely on: types, one version, lower bounds that are tested."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import skdist

ROOT = Path(__file__).parent.parent

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: A script of a user who checks types strictly.
SCRIPT = """
import numpy as np
from skdist import AutoRate, DistributedSGDClassifier, DistributedSGDRegressor, History, InverseVolatility
from skdist import LatencyBatchSizer, PressurePlanner, StalenessWindow
from skdist.exceptions import NoWorkersError, SkdistError
from skdist.testing import SimulatedCluster

X = np.zeros((4, 2))
y = np.array([0, 1, 0, 1])

clf: DistributedSGDClassifier = DistributedSGDClassifier(
    "log_loss", learning_rate=AutoRate(scale=0.5), rate_adapter=StalenessWindow(window=5),
    batch_sizer=LatencyBatchSizer(), planner=PressurePlanner(), aggregator=InverseVolatility(),
).fit(X, y)
history: History = clf.history_
losses: list[float] = [epoch.loss for epoch in history.epochs]
staleness: float = sum(record.staleness for record in history.rounds)
accuracy: float = clf.score(X, y)
rows = history.to_frame("rounds")["rows"].sum()
regressor = DistributedSGDRegressor(penalty="l1").partial_fit(X, y)
window = StalenessWindow().context([1.0, 2.0], predicted=None) + 1.0
with SimulatedCluster(4, seconds_per_row=[1e-6] * 4) as cluster:
    seconds: float = cluster.now
try:
    clf.fit(X, y, checkpoint="fit.npz", resume="auto")
except NoWorkersError as error:
    raise SystemExit(str(error)) from error
except SkdistError:
    pass
"""

#: To read the types of torch and pandas takes most of the time, and checks nothing of ours.
SETTINGS = """
[mypy]
strict = true
[mypy-torch.*,pandas.*]
follow_imports = skip
"""

#: What mypy has to find.
MISTAKES = {
    'DistributedSGDClassifier(los="hinge")': "Unexpected keyword argument",
    "StalenessWindow(window='long')": "incompatible type",
    "LatencyBatchSizer().size(1.0, 10).nothing": "has no attribute",
}


def check(folder, text):
    """Return what mypy, strict, says of a script."""
    pytest.importorskip("mypy")
    script = folder / "script.py"
    script.write_text(text)
    (folder / "mypy.ini").write_text(SETTINGS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            "mypy.ini",
            "--cache-dir",
            ROOT / ".mypy_cache" / "user",
            script,
        ],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=folder,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_types_of_a_users_script_are_accepted(tmp_path):
    assert check(tmp_path, SCRIPT).startswith("Success")


@pytest.mark.timeout(300)
def test_mistakes_of_a_users_script_are_found(tmp_path):
    begin = SCRIPT.count("\n")
    found = check(tmp_path, SCRIPT + "\n".join(MISTAKES) + "\n")
    for number, (line, message) in enumerate(MISTAKES.items(), begin + 1):
        assert re.search(rf"script.py:{number}: error: .*{message}", found), (line, found)


def test_the_package_says_that_it_has_types():
    assert (Path(skdist.__file__).parent / "py.typed").exists()


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab]|rc|\.dev)?\d*", skdist.__version__)
    elsewhere = [
        path for path in (ROOT / "skdist").rglob("*.py") if f'"{skdist.__version__}"' in path.read_text()
    ]
    assert elsewhere == [Path(skdist.__file__).resolve()]


def test_the_lowest_versions_allowed_are_those_tested():
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    tested = set(tox["testenv:minimum"]["deps"].split())
    for requirement in PROJECT["dependencies"]:
        name, lowest = requirement.split(">=")
        assert any(re.fullmatch(rf"{re.escape(name)}=={lowest}(\.0)*", pin) for pin in tested), requirement
