"""What a machine allows, and how near our fits come: memory, actor round trips, transfers."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask.array as da
import numba
import numpy as np
import scipy.sparse as sp
from ablation_runs import Data, Page, yes
from distributed import Client, get_worker, wait
from peers_models import on_cluster, ours, timed

from skdist import DistributedSGDClassifier

#: Bytes that the bandwidth is measured over, and float32 of a large message.
READ_BYTES, LARGE = 1 << 30, 10_000_000
SMALL = 100
PASSES = 9


class Echo:
    """An actor that returns what it is sent."""

    def echo(self, values: np.ndarray) -> np.ndarray:
        """Return the values."""
        return values


@numba.njit(nogil=True, fastmath=True)
def _sum(values):
    total = np.float32(0)
    for i in range(len(values)):
        total += values[i]
    return total


def median_seconds(work: Callable[[], Any], repeat: int) -> float:
    """Return the median seconds of some calls, after one that does not count."""
    work()
    return statistics.median(timed(work)[0] for _ in range(repeat))


def read_bandwidth(nbytes: int) -> tuple[float, float]:
    """Return the most gigabytes per second that one thread and two together read, measured in turns.

    The most, as a limit is what others have left of it: bandwidth that is lost to them would make ours
    look better than it is.
    """
    values = np.ones(nbytes // 4, np.float32)
    _sum(values[:1])
    best = [math.inf, math.inf]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(15):
            for place, threads in enumerate((1, 2)):
                parts = np.array_split(values, threads)
                seconds, _ = timed(lambda parts=parts: list(pool.map(_sum, parts)))
                best[place] = min(best[place], seconds)
    return values.nbytes / best[0] / 1e9, values.nbytes / best[1] / 1e9


def _trips(actor: Any, values: np.ndarray, repeat: int) -> float:
    """Return the median seconds of a call of an actor on another worker."""
    return median_seconds(lambda: actor.echo(values).result(), repeat)


def _wait_for(values: Any) -> str:
    return str(get_worker().address)


def round_trips(client: Client) -> tuple[float, float]:
    """Return the seconds of a raw actor call from the other worker: small and large."""
    home, other = sorted(client.scheduler_info()["workers"])
    future = client.submit(Echo, actor=True, workers=[home], pure=False)
    actor = future.result()
    seconds = [
        client.submit(_trips, actor, np.ones(count, np.float32), repeat, workers=[other], pure=False).result()
        for count, repeat in ((SMALL, 300), (LARGE, 10))
    ]
    return seconds[0], seconds[1]


def transfer_seconds(client: Client, repeat: int = 7) -> float:
    """Return the seconds that a large array takes from one worker to another as a task's input."""
    home, other = sorted(client.scheduler_info()["workers"])

    def once(count: int) -> float:
        block = client.submit(np.ones, count, np.float32, workers=[home], pure=False)
        with client.as_current():
            wait(block)
        return timed(client.submit(_wait_for, block, workers=[other], pure=False).result)[0]

    once(1)
    large, small = ([once(count) for _ in range(repeat)] for count in (LARGE, 1))
    return statistics.median(large) - statistics.median(small)


def exchange_seconds(model: Any) -> float:
    """Return the median seconds of the exchanges that left the server's process.

    On the server's own worker an exchange is a function call, but an answer that was held back is measured
    there too: so the worker whose exchanges take longer is the other one.
    """
    found: dict[str, list[float]] = {}
    for record in model.history_.rounds:
        if record.seconds_exchange > 0:
            found.setdefault(record.worker, []).append(record.seconds_exchange)
    return max((statistics.median(seconds) for seconds in found.values()), default=math.nan)


def wide_rows(client: Client, columns: int) -> tuple[Any, Any]:
    """Return sparse rows on the cluster, of so many columns that a model's state is a large message."""
    rng = np.random.default_rng(0)
    rows, stored = 40_000, 20
    X = sp.csr_matrix(
        (np.ones(rows * stored, np.float32), rng.integers(0, columns, rows * stored),
         np.arange(rows + 1) * stored), (rows, columns),
    )  # fmt: skip
    y = (rng.random(rows) < 0.5).astype(np.int8)
    return on_cluster(Data("wide", X, y, X[:10], y[:10]), client)


def pass_seconds(X: Any, y: Any, client: Client | None, repeat: int) -> tuple[float, float]:
    """Return the wall seconds of one more pass, and of a fit of one pass.

    Fits of one pass and of several are run in turns: a difference of two spells would be one of the load.
    """
    times: dict[int, list[float]] = {1: [], PASSES: []}
    for turn in range(repeat + 1):
        for count, seconds in times.items():
            model = DistributedSGDClassifier(
                loss="log_loss", random_state=0, client=client, max_iter=count, tol=None
            )
            spent, _ = timed(lambda model=model: model.fit(X, y))
            if turn:  # the first may compile
                seconds.append(spent)
    once, many = (statistics.median(seconds) for seconds in times.values())
    return (many - once) / (PASSES - 1), once


def speed_up(clients: dict[int, Client], rows: int) -> dict[int, float]:
    """Return the seconds of a fit of several passes over a gigabyte, by the number of workers."""
    fits = {}
    for count, client in clients.items():
        with client.as_current():
            X = da.random.default_rng(0).standard_normal(
                (rows, 100), chunks=(rows // 16, 100), dtype=np.float32
            )
            y = (X[:, 0] > 0).astype(np.int8)
            X, y = client.persist([X, y])
            wait([X, y])
        model = DistributedSGDClassifier(
            loss="log_loss", random_state=0, client=client, max_iter=PASSES, tol=None
        )
        fits[count] = lambda model=model, X=X, y=y: model.fit(X, y)
        fits[count]()
    times: dict[int, list[float]] = {count: [] for count in fits}
    for _ in range(3):
        for count, fit in fits.items():
            times[count].append(timed(fit)[0])
    return {count: statistics.median(seconds) for count, seconds in times.items()}


def _alone(rows: int, passes: int, start: float) -> float:
    """Return the seconds of a fit in this process, which begins at a time of the clock."""
    X = np.random.default_rng(0).standard_normal((rows, 100), dtype=np.float32)
    y = (X[:, 0] > 0).astype(np.int8)
    model = DistributedSGDClassifier(loss="log_loss", random_state=0, max_iter=passes, tol=None, n_jobs=1)
    model.fit(X, y)  # the first may compile
    time.sleep(max(start - time.time(), 0.0))
    return timed(lambda: model.fit(X, y))[0]


def speed_up_apart(client: Client, rows: int) -> float:
    """Return how much more two processes train than one, where they have nothing to do with each other."""
    workers = sorted(client.scheduler_info()["workers"])
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for count, seconds in found.items():
            start = time.time() + 6.0
            fits = [
                client.submit(_alone, rows, 4 * PASSES, start, workers=[name], pure=False)
                for name in workers[:count]
            ]
            seconds.append(statistics.mean(client.gather(fits)))
    return 2 * statistics.median(found[1]) / statistics.median(found[2])


def bench_limits(page: Page, client: Client, one: Client, dense: Data, repeat: int, quick: bool) -> None:
    """Measure the limits of the machine, and ours against them."""
    nbytes = READ_BYTES // (16 if quick else 1)
    single, double = read_bandwidth(nbytes)
    small, large = round_trips(client)
    moved = transfer_seconds(client)
    X, y = on_cluster(dense, client)
    per_pass, first = pass_seconds(X, y, client, repeat)
    inline, inline_first = pass_seconds(dense.X, dense.y, None, repeat)
    entry = ours(dense, 3, (X, y), client)
    narrow = statistics.median(exchange_seconds(entry.fit(batch_sizer=None)) for _ in range(3))
    columns = LARGE // (32 if quick else 2)
    # By default one learner alone would train so few rows of so wide a model.
    wide = DistributedSGDClassifier(
        loss="log_loss", random_state=0, client=client, max_iter=2, tol=None, mode="ssp", max_staleness=100
    )
    wide.fit(*wide_rows(client, columns))
    broad = exchange_seconds(wide)
    state = 2 * 2 * 4 * (columns + 1)  # iterate and average, there and back
    fits = speed_up({1: one, 2: client}, 2_800_000 // (16 if quick else 1))
    apart = speed_up_apart(client, 700_000 // (16 if quick else 1))
    speed, raw_speed = dense.X.nbytes / per_pass / 1e9, 4 * LARGE / moved / 1e9
    page.say(
        f"Memory: a compiled sum over {nbytes >> 20} MB of float32, the best of 15. Raw round trips: an "
        "actor that returns what it is sent, called by a task of the other worker; our exchange sends the "
        f"iterate and its average. A pass: the time that {PASSES - 1} more passes add to a fit of one, over "
        f"the bytes of the rows ({dense.X.nbytes >> 20} MB)."
    )
    lines = [
        ["fits of two processes that share nothing, against one", f"{apart:.2f}x", "", "", ""],
        ["read bandwidth, one core", f"{single:.1f} GB/s", "", "", ""],
        ["read bandwidth, two cores", f"{double:.1f} GB/s", "", "", ""],
        ["a pass, two workers", f"{speed:.1f} GB/s ({1e3 * per_pass:.0f} ms)",
         f"{speed / double:.0%} of two cores", "60 %", yes(speed >= 0.6 * double)],
        ["a pass, inline", f"{dense.X.nbytes / inline / 1e9:.1f} GB/s ({1e3 * inline:.0f} ms)",
         f"{dense.X.nbytes / inline / 1e9 / single:.0%} of one core", "", ""],
        ["a fit of one pass, two workers", f"{1e3 * first:.0f} ms", f"{first / per_pass:.1f} passes", "", ""],
        ["a fit of one pass, inline", f"{1e3 * inline_first:.0f} ms",
         f"{inline_first / inline:.1f} passes", "", ""],
        [f"raw actor round trip, {SMALL} float32", f"{1e3 * small:.2f} ms", "", "", ""],
        [f"our exchange, {2 * dense.X.shape[1] + 2} float32, while training", f"{1e3 * narrow:.2f} ms",
         f"{narrow / small:.2f}x raw", "1.5x", yes(narrow <= 1.5 * small)],
        [f"raw actor round trip, {LARGE:,} float32", f"{1e3 * large:.0f} ms",
         f"{8 * LARGE / large / 1e9:.2f} GB/s", "", ""],
        [f"raw transfer between workers, {LARGE:,} float32", f"{1e3 * moved:.0f} ms",
         f"{raw_speed:.2f} GB/s", "", ""],
        [f"our exchange, {state // 8:,} float32, while training", f"{1e3 * broad:.0f} ms",
         f"{state / broad / 1e9:.2f} GB/s, {state / broad / 1e9 / raw_speed:.0%} of a raw transfer", "70 %",
         yes(state / broad / 1e9 >= 0.7 * raw_speed)],
        [f"{PASSES} passes over 1.1 GB, one worker", f"{fits[1]:.2f} s", "", "", ""],
        [f"{PASSES} passes over 1.1 GB, two workers", f"{fits[2]:.2f} s", f"{fits[1] / fits[2]:.2f}x", "1.8x",
         yes(fits[1] / fits[2] >= 1.8)],
    ]  # fmt: skip
    page.table(["what", "measured", "that is", "bar", ""], lines)
