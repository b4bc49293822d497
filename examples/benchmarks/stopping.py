"""When default fits stop, and how good they are then: SKDIST_DATA=... python examples/benchmarks/stopping.py.

All checks of long fits are recorded once, and each rule is then played on them: where it would have stopped,
and how far the loss on the test rows is above that of the last pass.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterator
from unittest import mock

import numpy as np
from ablation_runs import Data, load_covtype, load_fashion, load_flights

from skdist import DistributedSGDClassifier
from skdist.control.stopping import MEMORY, ConvergenceMonitor

PASSES = 14
TOL = 1e-3
N_ITER_NO_CHANGE = 5


def record(data: Data, seed: int) -> tuple[list[float], list[float]]:
    """Return the mean loss of every check of a long fit, and the loss on the test rows after every pass."""
    checks: list[float] = []
    observe = ConvergenceMonitor.observe

    def watch(self: ConvergenceMonitor, rows: int, loss: float) -> bool:
        made, total = self._rows + rows, self._loss + loss
        if made >= self.interval:
            checks.append(total / made)
        return observe(self, rows, loss)

    clf = DistributedSGDClassifier("log_loss", max_iter=PASSES, tol=None, random_state=seed)
    with mock.patch.object(ConvergenceMonitor, "observe", watch):
        clf.fit(data.X, data.y, X_val=data.X_test, y_val=data.y_test)
    return checks, clf.history_.to_frame("epochs").val_loss.tolist()


def stops_after(checks: list[float], tol: float, memory: float) -> int:
    """Return the passes after which a rule stops."""
    monitor = ConvergenceMonitor(1, tol, N_ITER_NO_CHANGE, memory=memory)
    stop = next((place for place, loss in enumerate(checks) if monitor.observe(1, loss)), len(checks) - 1)
    return min(stop * PASSES // len(checks) + 1, PASSES)


def rules(n_classes: int) -> Iterator[tuple[str, float, float]]:
    """Give the rules: what a table calls them, tol and memory."""
    units = {"mean": 1.0}
    if n_classes > 2:
        units |= {"sqrt(2/K)": np.sqrt(2 / n_classes), "2/K": 2 / n_classes}
    for (unit, factor), memory in itertools.product(units.items(), (1.0, MEMORY, 2 * MEMORY)):
        yield f"{unit}, {memory:g}", TOL * factor, memory


def main() -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name, load in {
        "covtype": load_covtype,
        "fashion-mnist": load_fashion,
        "flights": load_flights,
    }.items():
        data = load()
        fits = [record(data, seed) for seed in range(args.seeds)]
        print(f"\n{name}\n\n| unit, checks averaged | passes by seed | loss above that of pass {PASSES} |")
        print("|---|---|---|")
        for rule, tol, memory in rules(len(np.unique(data.y))):
            passes = [stops_after(checks, tol, memory) for checks, _ in fits]
            above = [losses[n - 1] / losses[-1] - 1 for n, (_, losses) in zip(passes, fits, strict=True)]
            print(f"| {rule} | {', '.join(map(str, passes))} | {100 * np.mean(above):.2f} % |", flush=True)


if __name__ == "__main__":
    main()
