"""``python -m tests`` runs all tests as they are to be run; with arguments, ``pytest`` with these."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Tests of clusters that several processes can run beside each other. All others kill, freeze and slow down
#: workers, or measure what that does: they are alone on the machine.
CALM = {
    "test_board", "test_dask_ml", "test_feed", "test_joblib", "test_objective", "test_search", "test_source",
    "test_streaming", "test_thin", "test_tls", "test_wide",
}  # fmt: skip

#: Threads of BLAS that wait for one another sleep meanwhile: other tests need the processors.
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}


def main(arguments: list[str]) -> int:
    """Return 0 where all tests pass, else 1."""
    clusters = sorted(Path("tests/cluster").glob("test_*.py"))
    alone = ["tests/chaos", "tests/torch/test_cluster.py", "tests/torch/test_faults.py"]
    alone += [str(path) for path in clusters if path.stem not in CALM]
    # More processes than a laptop's processors: the tests of clusters wait most of the time.
    others = ["-n", "4", *(f"--ignore={path}" for path in alone)]
    runs = [arguments] if arguments else [alone, others]
    command, environment = [sys.executable, "-m", "pytest"], os.environ | SLEEPING
    codes = [subprocess.run([*command, *run], env=environment).returncode for run in runs]
    return int(any(codes))  # that of a process that was killed is negative


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
