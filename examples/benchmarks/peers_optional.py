"""Peers that need not be installed: snapml and Vowpal Wabbit."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.sparse as sp
from ablation_runs import Data, progress
from peers_models import Curve, Entry

#: Bits of Vowpal Wabbit's table of weights for one class; several classes share one table.
BITS = 18

#: Where on the way through its pass Vowpal Wabbit is judged.
MARKS = (1 / 32, 1 / 8, 1 / 2, 1)


def optional(data: Data, repeat: int = 3) -> list[Entry]:
    """Return those that are installed; say who is not."""
    found = []
    for module, make in (("snapml", snap), ("vowpalwabbit", vowpal_wabbit)):
        if find_spec(module) is None:
            progress(f"{module} left out: it is not installed")
        else:
            found.append(make(data, repeat))
    return found


def snap(data: Data, repeat: int) -> Entry:
    """Return snapml's LogisticRegression with its defaults, and an intercept as all others have."""
    from snapml import LogisticRegression

    codes = np.searchsorted(data.classes, data.y)
    return Entry(
        "snapml LogisticRegression",
        data,
        lambda: LogisticRegression(fit_intercept=True).fit(data.X, codes),
        1 if len(data.classes) > 2 else repeat,
    )


def vowpal_wabbit(data: Data, repeat: int) -> Entry:
    """Return Vowpal Wabbit's one pass over examples that are parsed before the clock runs."""
    return Entry("Vowpal Wabbit, one pass", data, *_Wabbit(data).entry(repeat))


class _Wabbit:
    """A workspace, and the rows as its examples: they are parsed at the first use."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._examples: list[Any] = []
        self._tests: list[Any] = []
        self._parser: Any = None
        self._workspace: Any = None

    def entry(self, repeat: int) -> tuple[Any, int, Any]:
        """Return what an `Entry` takes; the examples are parsed here."""
        self._parser = self._new()
        began = time.perf_counter()
        self._examples = self._parse(self._data.X, self._data.y)
        self._tests = self._parse(self._data.X_test, None)
        progress(f"{self._data.name}: Vowpal Wabbit's examples parsed in {time.perf_counter() - began:.0f} s")
        return self.fit, repeat, self.curve

    def _new(self) -> Any:
        from vowpalwabbit import Workspace

        count = len(self._data.classes)
        if count == 2:
            return Workspace(f"--quiet --loss_function logistic --link logistic -b {BITS}")
        bits = BITS + int(np.ceil(np.log2(count)))
        return Workspace(f"--quiet --loss_function logistic --oaa {count} --probabilities -b {bits}")

    def _parse(self, X: Any, y: np.ndarray | None) -> list[Any]:
        """Return examples of rows; those without a label are to be predicted."""
        binary = len(self._data.classes) == 2
        labels = [""] * X.shape[0]
        if y is not None:
            codes = np.searchsorted(self._data.classes, y)
            labels = [f"{2 * code - 1 if binary else code + 1}" for code in codes]
        found = []
        names = [f" {j}:" for j in range(X.shape[1])]
        for i, label in enumerate(labels):
            if sp.issparse(X):
                places = X.indices[X.indptr[i] : X.indptr[i + 1]]
                values = X.data[X.indptr[i] : X.indptr[i + 1]]
                text = "".join(
                    [f" {j}:{v:.6g}" for j, v in zip(places.tolist(), values.tolist(), strict=True)]
                )
            else:
                text = "".join([f"{n}{v:.6g}" for n, v in zip(names, X[i].tolist(), strict=True) if v])
            found.append(self._parser.parse(f"{label} |{text}"))
        return found

    def fit(self) -> _Wabbit:
        """Learn all examples, once each."""
        workspace = self._new()
        learn = workspace.learn
        for example in self._examples:
            learn(example)
        self._workspace = workspace
        return self

    def curve(self) -> Curve:
        """Give the model on its way through the examples."""
        self._workspace, total, done = self._new(), 0.0, 0
        for mark in MARKS:
            goal = int(mark * len(self._examples))
            began = time.perf_counter()
            for example in self._examples[done:goal]:
                self._workspace.learn(example)
            total, done = total + time.perf_counter() - began, goal
            yield total, self

    def predict_proba(self, _: Any) -> np.ndarray:
        """Return the probabilities of the test rows."""
        shares = np.array([self._workspace.predict(example) for example in self._tests])
        return np.column_stack([1 - shares, shares]) if shares.ndim == 1 else shares
