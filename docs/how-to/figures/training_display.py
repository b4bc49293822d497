"""Make training-display.png: a fit on a simulated cluster of four workers, of which one is slow.

python docs/how-to/figures/training_display.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from skdist import DistributedSGDClassifier, TrainingDisplay
from skdist.testing import SimulatedCluster

ROWS = 60_000


def main() -> None:
    matplotlib.use("Agg")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, 50))
    y = X @ rng.standard_normal(50) + 3 * rng.standard_normal(ROWS) > 0
    clf = DistributedSGDClassifier("log_loss", max_iter=8, tol=None, early_stopping=True, random_state=0)
    with SimulatedCluster(4, seconds_per_row=[1e-6] * 3 + [5e-6], exchange_seconds=1e-3):
        clf.fit(X, y)
    path = Path(__file__).parent / "training-display.png"
    TrainingDisplay.from_estimator(clf).figure_.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
