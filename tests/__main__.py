"""``python -m tests`` runs all tests as they are to be run; with arguments, ``pytest`` with these."""

from __future__ import annotations

import subprocess
import sys

#: Kill, freeze and slow down workers, and measure what that does: alone on the machine.
ALONE = ["tests/chaos", "tests/cluster", "tests/torch/test_cluster.py", "tests/torch/test_faults.py"]


def main(arguments: list[str]) -> int:
    """Return the exit status of pytest."""
    others = ["-n", "2", *(f"--ignore={path}" for path in ALONE)]
    runs = [arguments] if arguments else [ALONE, others]
    return max([subprocess.run([sys.executable, "-m", "pytest", *run]).returncode for run in runs])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
