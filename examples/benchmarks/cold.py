"""What the first fit of a fresh process costs, without and with compiled kernels on disk, and the import.

``python cold.py`` prints medians of fresh processes: seconds by the wall, and of processors, which other work
on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

FIT = """
import json, sys, time
import numpy as np, scipy.sparse as sp
from skdist import DistributedSGDClassifier
rng = np.random.default_rng(0)
X = rng.normal(size=(20_000, 20)).astype(np.float32)
y = (X[:, 0] + rng.normal(size=20_000) > 0).astype(int)
X = sp.csr_array(X) if sys.argv[1] == "sparse" else X
times = []
for _ in range(3):
    began = time.perf_counter(), time.process_time()
    DistributedSGDClassifier("log_loss", random_state=0).fit(X, y)
    times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
print(json.dumps(times))
"""


def fits(layout: str, cache: str) -> tuple[float, float]:
    """Return by how much the first fit of a process takes longer than the third: wall and processor."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    done = subprocess.run(
        [sys.executable, "-c", FIT, layout], check=True, capture_output=True, text=True, env=environment
    )
    (wall, processor), _, (last_wall, last_processor) = json.loads(done.stdout)
    return wall - last_wall, processor - last_processor


def seconds(code: str) -> float:
    """Return how long a process takes that runs some code, whose modules are compiled to bytecode."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - began


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    imports = {
        "import sklearn.linear_model": [],
        "from skdist import DistributedSGDClassifier; DistributedSGDClassifier()": [],
    }  # type: dict[str, list[float]]
    for _ in range(repeats + 1):
        for code, times in imports.items():
            times.append(seconds(code))
    for code, times in imports.items():
        print(f"{code}: {statistics.median(times[1:]):.2f} s")
    for layout in ("dense", "sparse"):
        cold, warm = [], []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                cold.append(fits(layout, cache))
                warm.append(fits(layout, cache))
        for name, found, bar in (("empty", cold, 3.0), ("warm", warm, 0.3)):
            wall, processor = (statistics.median(times) for times in zip(*found, strict=True))
            print(
                f"first {layout} fit, {name} cache: {wall:.2f} s more than the third "
                f"({processor:.2f} s of processor; bar {bar:g} s)"
            )


if __name__ == "__main__":
    main()
