"""How the scale of the automatic step size shows in the loss, after one and three passes.

``python step_size.py`` trains in this process and prints test log-loss of the averaged model. covtype is
read from ``covtype.npz`` (arrays X and y) in the folder ``$SKDIST_DATA``, where there is one.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss

from skdist import AutoRate, DistributedSGDClassifier

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def synthetic() -> tuple[np.ndarray, np.ndarray]:
    """Return independent features and labels of a logistic model."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500_000, 100), dtype=np.float32)
    scores = X @ (rng.standard_normal(100) / 4) + 0.3
    return X, (rng.random(len(X)) < 1 / (1 + np.exp(-scores))).astype(int)


def covtype() -> tuple[np.ndarray, np.ndarray] | None:
    """Return the forest cover types as they come, shuffled."""
    path = Path(os.environ.get("SKDIST_DATA", "")) / "covtype.npz"
    if not path.is_file():
        print(f"covtype left out: there is no {path}; set SKDIST_DATA.")
        return None
    stored = np.load(path)
    order = np.random.default_rng(0).permutation(len(stored["y"]))
    return stored["X"].astype(np.float32)[order], stored["y"][order]


def main() -> None:
    """Print a table."""
    print("| data | scale | 1 pass | 3 passes |")
    print("|---|---|---|---|")
    for name, data in (("synthetic", synthetic()), ("covtype as it comes", covtype())):
        if data is None:
            continue
        X, y = data
        cut = len(y) * 4 // 5
        for scale in SCALES:
            losses = []
            for passes in (1, 3):
                clf = DistributedSGDClassifier(
                    "log_loss", learning_rate=AutoRate(scale), max_iter=passes, tol=None, random_state=0
                ).fit(X[:cut], y[:cut])
                losses.append(log_loss(y[cut:], clf.predict_proba(X[cut:])))
            print(f"| {name} | {scale:g} | {losses[0]:.4f} | {losses[1]:.4f} |")


if __name__ == "__main__":
    main()
