"""Small data in memory: ours against scikit-learn's, in one run on one machine.

``python small.py [--splits 20] [--repeat 25]`` prints a Markdown table. Both models have their defaults
but for the loss. The times are those of fits on all rows; only their ratio carries to another machine. The
accuracies are means over splits into three quarters to train on and one to judge by.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    load_digits,
    load_iris,
    load_wine,
    make_classification,
    make_moons,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import DistributedSGDClassifier

COLUMNS = (
    "| data | loss | ours ms | theirs ms | ratio | our passes | theirs | our accuracy | theirs | difference |"
)


class Result(NamedTuple):
    """Milliseconds and passes of fits on all rows, and accuracy on rows held out: medians, and a mean."""

    milliseconds: float
    passes: float
    accuracy: float


def load_sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return rows and labels by name."""
    return {
        "iris": load_iris(return_X_y=True),
        "digits": load_digits(return_X_y=True),
        "breast_cancer": load_breast_cancer(return_X_y=True),
        "wine": load_wine(return_X_y=True),
        "classification": make_classification(2000, 20, n_informative=5, n_classes=3, random_state=0),
        "moons": make_moons(1000, noise=0.3, random_state=0),
    }


def compare(X: np.ndarray, y: np.ndarray, loss: str, scaled: bool, repeat: int, splits: int) -> list[Result]:
    """Return the results of our model and of scikit-learn's."""
    models = DistributedSGDClassifier(loss=loss), SGDClassifier(loss=loss)
    rows = StandardScaler().fit_transform(X) if scaled else X
    seconds: list[list[float]] = [[], []]
    passes: list[list[int]] = [[], []]
    for turn in range(
        repeat + 1
    ):  # in turns, so that a busy spell of the machine hits both; the first may compile
        for place, model in enumerate(models):
            model.set_params(random_state=turn)
            began = time.perf_counter()
            model.fit(rows, y)
            seconds[place].append(time.perf_counter() - began)
            passes[place].append(model.n_iter_)
    scores: list[list[float]] = [[], []]
    for split in range(splits):
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=split, stratify=y)
        for place, model in enumerate(models):
            model.set_params(random_state=split)
            judged: Any = make_pipeline(StandardScaler(), model) if scaled else model
            scores[place].append(judged.fit(X_train, y_train).score(X_test, y_test))
    return [
        Result(1e3 * statistics.median(a[1:]), statistics.median(b), statistics.mean(c))
        for a, b, c in zip(seconds, passes, scores, strict=True)
    ]


def main() -> None:
    """Print the table."""
    sets = load_sets()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=25, help="fits of each model that are timed")
    parser.add_argument("--splits", type=int, default=20, help="splits that are judged")
    parser.add_argument("--sets", nargs="+", choices=sets, default=list(sets))
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # of some splits that are not standardised
    print("Goals: ratio <= 2 on the first three sets; difference >= 0.")
    print(f"\n{COLUMNS}\n|" + "---|" * (COLUMNS.count("|") - 1))
    for name in options.sets:
        for loss in ("hinge", "log_loss"):
            for scaled in (False, True):
                ours, theirs = compare(*sets[name], loss, scaled, options.repeat, options.splits)
                print(
                    f"| {name}{', standardised' if scaled else ''} | {loss} "
                    f"| {ours.milliseconds:.2f} | {theirs.milliseconds:.2f} "
                    f"| {ours.milliseconds / theirs.milliseconds:.2f} | {ours.passes:g} | {theirs.passes:g} "
                    f"| {ours.accuracy:.4f} | {theirs.accuracy:.4f} "
                    f"| {ours.accuracy - theirs.accuracy:+.4f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
