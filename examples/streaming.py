"""Will the flight be late? Trained on more data than the cluster may hold.

Install with ``pip install "dask-skdist[examples]"`` and run ``python streaming.py``. All flights that left
New York City in 2013 are written to files, one for each week. From these the workers make wide rows: a
column for each carrier and each destination at each hour, and for each day. All rows together take more
memory than the workers are given, so the fit streams: in each pass a worker reads a few files, encodes
them, trains on them and lets them go.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
from dask.utils import format_bytes
from distributed import Client, LocalCluster
from quickstart import LATE_MINUTES, import_flights  # beside this file
from sklearn.metrics import roc_auc_score

from skdist import DistributedSGDClassifier

MEMORY = 900_000_000  # bytes of each worker


def write_weeks(folder: Path) -> tuple[list[tuple[Path, int]], int]:
    """Write columns and labels to a file for each week; return files, their rows and how many columns."""
    flights, _ = import_flights()
    flights = flights.dropna(subset="arr_delay")
    day, hour = flights["month"] * 100 + flights["day"], flights["hour"].astype(str)
    features = [flights["dest"] + hour, flights["carrier"] + hour, flights["origin"] + hour, day]
    codes = [pd.factorize(feature, sort=True)[0] for feature in features]
    ends = np.cumsum([code.max() + 1 for code in codes])
    columns = np.column_stack(codes) + np.r_[0, ends[:-1]]
    late = (flights["arr_delay"] > LATE_MINUTES).to_numpy("int8")
    week = codes[-1] // 7
    files = []
    for number in range(week.max() + 1):
        files.append((folder / f"week-{number:02}.npz", int((week == number).sum())))
        np.savez(files[-1][0], columns=columns[week == number], late=late[week == number])
    return files, int(ends[-1])


@dask.delayed(nout=2)
def read_week(path: Path, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of zeros and ones, and the labels."""
    with np.load(path) as week:
        columns, late = week["columns"], week["late"]
    rows = np.zeros((len(columns), width), dtype=np.float32)
    np.put_along_axis(rows, columns, 1, axis=1)
    return rows, late


def collections(files: list[tuple[Path, int]], width: int) -> tuple[da.Array, da.Array]:
    """Return lazy rows and labels, one block for each file."""
    pairs = [(read_week(path, width), n_rows) for path, n_rows in files]
    X = [da.from_delayed(rows, (n_rows, width), dtype="float32") for (rows, _), n_rows in pairs]
    y = [da.from_delayed(late, (n_rows,), dtype="int8") for (_, late), n_rows in pairs]
    return da.concatenate(X), da.concatenate(y)


def memory(dask_worker: Any) -> int:
    """Return the bytes that a worker's process holds."""
    return int(dask_worker.monitor.get_process_memory())


def main() -> None:
    """Write files, train from them and judge."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=MEMORY, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        files, width = write_weeks(Path(folder))
        X, y = collections([file for number, file in enumerate(files) if number % 5], width)
        X_test, y_test = collections(files[::5], width)
        print(
            f"{len(X):,} flights in {len(files) - len(X_test.chunks[0])} files; as {width} columns they take"
        )
        print(f"{format_bytes(X.nbytes)}, and all that the workers may hold is {format_bytes(2 * MEMORY)}")

        began = time.perf_counter()
        clf = DistributedSGDClassifier("log_loss", max_iter=3, random_state=0).fit(X, y)
        print(f"{clf.n_iter_} passes in {time.perf_counter() - began:.1f} s, reading included")

        late = y_test.compute()
        auc = roc_auc_score(late, clf.predict_proba(X_test)[:, 1].compute())
        print(f"every fifth week, held out: {late.mean():.1%} are late, ROC AUC {auc:.3f}")
        held = client.run(memory).values()
        print(f"memory of the workers at the end: {', '.join(map(format_bytes, held))}")


if __name__ == "__main__":
    main()
