"""``python -m tests`` runs all tests as they are to be run; with arguments, ``pytest`` with these."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

#: Tests of clusters that several processes can run beside each other. All others kill, freeze and slow down
#: workers, or measure what that does: they are alone on the machine.
CALM = {
    "test_board", "test_dask_ml", "test_feed", "test_joblib", "test_objective", "test_search", "test_source",
    "test_streaming", "test_thin", "test_tls", "test_wide",
}  # fmt: skip

#: Tests without clusters of processes, but for some files: they take the processor time that those which are
#: alone leave over.
PATIENT = {"control", "estimators", "models", "torch"}
IMPATIENT = {"test_callbacks", "test_checkpoint", "test_cluster", "test_faults"}

#: Threads of BLAS that wait for one another sleep meanwhile: other tests need the processors.
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}


def step_back() -> None:
    """Let this process, and those that it starts, run only while no other one wants to."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main(arguments: list[str]) -> int:
    """Return 0 where all tests pass, else 1."""
    command, environment = [sys.executable, "-m", "pytest"], os.environ | SLEEPING
    if arguments:
        return int(subprocess.run([*command, *arguments], env=environment).returncode != 0)
    alone, patient = ["tests/chaos"], []
    for path in sorted(Path("tests").glob("*/test_*.py")):
        folder, name = path.parent.name, path.stem
        if folder in PATIENT and name not in IMPATIENT:
            patient.append(str(path))
        elif (folder == "cluster" and name not in CALM) or (folder == "torch" and name != "test_checkpoint"):
            alone.append(str(path))
    # More processes than a laptop's processors: the tests of clusters wait most of the time.
    others = ["-n", "4", *(f"--ignore={path}" for path in [*alone, *patient])]
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        beside = subprocess.Popen(
            [*command, "-n", "2", "--timeout", "600", *patient],
            env=environment, stdout=printed, stderr=printed, preexec_fn=step_back,
        )  # fmt: skip
        try:
            codes = [subprocess.run([*command, *alone], env=environment).returncode]
            codes.append(beside.wait())
        finally:
            beside.terminate()  # where this process is interrupted
            beside.wait(60)
        printed.seek(0)
        print(printed.read(), flush=True)
    codes.append(subprocess.run([*command, *others], env=environment).returncode)
    return int(any(codes))  # that of a process that was killed is negative


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
