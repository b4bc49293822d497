"""Peers that need not be installed: snapml and Vowpal Wabbit."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np
import scipy.sparse as sp
from ablation_runs import Data, progress
from peers_models import Entry

#: Bits of Vowpal Wabbit's table of weights for one class; several classes share one table.
BITS = 18

#: Rows whose examples are in memory at the same time; they take some 20 kB each.
CHUNK = 20_000


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
    """Return Vowpal Wabbit's one pass over parsed examples; the clock stands while they are parsed."""
    return Entry("Vowpal Wabbit, one pass", data, lambda: _Wabbit(data, repeat).fit())


class _Wabbit:
    """Some workspaces that learn the same examples side by side: all of them would fill the memory."""

    def __init__(self, data: Data, repeat: int) -> None:
        self._data = data
        self._workspaces = [self._new() for _ in range(repeat)]
        self.seconds = [0.0] * repeat

    def _new(self) -> Any:
        from vowpalwabbit import Workspace

        count = len(self._data.classes)
        if count == 2:
            return Workspace(f"--quiet --loss_function logistic --link logistic -b {BITS}")
        bits = BITS + int(np.ceil(np.log2(count)))
        return Workspace(f"--quiet --loss_function logistic --oaa {count} --probabilities -b {bits}")

    def fit(self) -> _Wabbit:
        """Learn all rows, once each, and note the seconds of each workspace."""
        binary = len(self._data.classes) == 2
        codes = np.searchsorted(self._data.classes, self._data.y)
        labels = [f"{2 * code - 1 if binary else code + 1}" for code in codes.tolist()]
        for first in range(0, len(labels), CHUNK):
            examples = self._parse(self._data.X[first : first + CHUNK], labels[first : first + CHUNK])
            for number, workspace in enumerate(self._workspaces):
                learn = workspace.learn
                began = time.perf_counter()
                for example in examples:
                    learn(example)
                self.seconds[number] += time.perf_counter() - began
            self._forget(examples)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of some rows."""
        shares = []
        for first in range(0, X.shape[0], CHUNK):
            rows = X[first : first + CHUNK]
            examples = self._parse(rows, [""] * rows.shape[0])
            shares += [self._workspaces[0].predict(example) for example in examples]
            self._forget(examples)
        found = np.array(shares)
        return np.column_stack([1 - found, found]) if found.ndim == 1 else found

    def _parse(self, X: Any, labels: list[str]) -> list[Any]:
        """Return examples of rows, without the columns that are zero."""
        rows = sp.csr_array(X)
        columns, values = rows.indices.tolist(), [f"{value:.6g}" for value in rows.data.tolist()]
        found = []
        for label, first, last in zip(
            labels, rows.indptr[:-1].tolist(), rows.indptr[1:].tolist(), strict=True
        ):
            pairs = zip(columns[first:last], values[first:last], strict=True)
            text = " ".join([f"{column}:{value}" for column, value in pairs])
            found.append(self._workspaces[0].parse(f"{label} | {text}"))
        return found

    def _forget(self, examples: list[Any]) -> None:
        for example in examples:
            self._workspaces[0].finish_example(example)
