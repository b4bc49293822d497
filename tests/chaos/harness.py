"""Fits that are disturbed on purpose, and what must hold of them all the same."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss

from skdist import DistributedSGDClassifier
from skdist.exceptions import DataLostError
from skdist.testing import leftovers, on_servers

N_WORKERS = 3
TRAINED, TESTED, FEATURES, CHUNK = 24_000, 6_000, 20, 1_500

#: An undisturbed fit lasts about so many seconds.
FIT_SECONDS = 4.0

#: A disturbed one must not last longer.
LIMIT_SECONDS = 60.0

#: Relative to the log-loss of the undisturbed fit.
LOSS_MARGIN = 0.01


@dataclass
class Outcome:
    """How a disturbed fit went; `problems` is empty where all is well."""

    scenario: str
    seed: int
    seconds: float
    loss: float = float("nan")
    repeated: float = 0.0
    problems: list[str] = field(default_factory=list)


class Arena:
    """A cluster of processes, rows, and the log-loss that an undisturbed fit comes to."""

    def __init__(self) -> None:
        X, y = make_classification(
            TRAINED + TESTED, FEATURES, n_informative=10, flip_y=0.02, class_sep=1.0, random_state=0
        )
        X = X.astype(np.float32)
        self.X, self.y = X[:TRAINED], y[:TRAINED]
        self.X_test, self.y_test = X[TRAINED:], y[TRAINED:]
        self.epochs = 20
        self.reference = float("nan")
        self.adaptive: Any = None
        self._open()

    def _open(self) -> None:
        # Else Dask closes nannies whose worker it has seen leave, although that has come back since.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"})
        self.cluster = LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=":0")
        self.client = Client(self.cluster, set_as_default=False)

    def close(self) -> None:
        self.client.close(10)
        self.cluster.close(20)

    def reopen(self) -> None:
        """Begin with a new cluster, whatever state the old one is in."""
        try:
            self.close()
        finally:
            self._open()

    def calibrate(self) -> None:
        """Find out how many epochs take the time of a fit, and where they end."""
        self.fit("lazy")  # compiles
        began = time.perf_counter()
        self.fit("lazy")
        self.epochs = max(int(self.epochs * FIT_SECONDS / (time.perf_counter() - began)), 10)
        self.reference = self.loss_of(self.fit("lazy"))

    def rows(self, kind: str) -> tuple[Any, Any]:
        """Return rows in memory, lazy ones or persisted ones."""
        if kind == "memory":
            return self.X, self.y
        X, y = da.from_array(self.X, chunks=(CHUNK, -1)), da.from_array(self.y, chunks=CHUNK)
        if kind == "persisted":
            X, y = self.client.persist([X, y])
            with self.client.as_current():
                wait([X, y])
        return X, y

    def fit(self, kind: str, rows: tuple[Any, Any] | None = None) -> DistributedSGDClassifier:
        clf = DistributedSGDClassifier(
            "log_loss", random_state=0, max_iter=self.epochs, tol=None, client=self.client
        )
        return clf.fit(*(rows or self.rows(kind)))

    def loss_of(self, clf: DistributedSGDClassifier) -> float:
        return float(log_loss(self.y_test, clf.predict_proba(self.X_test)))


@dataclass(frozen=True)
class Scenario:
    """Something that happens to a cluster during a fit.

    Attributes
    ----------
    disturb : callable
        Called with the arena and a random number generator as soon as training is under way.
    kind : {'lazy', 'memory', 'persisted'}
        Of the rows.
    fits : int
        At once.
    prepare : callable or None
        Called with the arena before the fit.
    error : type or None
        What the fit must end with, if not with a model.
    """

    disturb: Callable[[Arena, random.Random], None]
    kind: str = "lazy"
    fits: int = 1
    error: type | None = None
    prepare: Callable[[Arena], None] | None = None


def _addresses(client: Client, with_server: bool) -> list[str]:
    servers = client.run(
        lambda dask_worker: any("skdist-server" in str(key) for key in dask_worker.state.actors),
        on_error="ignore",
    )
    return sorted(address for address, has in servers.items() if has == with_server)


def _pid(client: Client, address: str) -> int:
    return int(client.run(os.getpid, workers=[address])[address])


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, signal.SIGKILL)


def kill_learner(arena: Arena, chance: random.Random) -> None:
    victim = chance.choice(_addresses(arena.client, with_server=False))
    _kill(_pid(arena.client, victim))


def kill_server(arena: Arena, chance: random.Random) -> None:
    _kill(_pid(arena.client, _addresses(arena.client, with_server=True)[0]))


def kill_both(arena: Arena, chance: random.Random) -> None:
    victims = [_addresses(arena.client, True)[0], chance.choice(_addresses(arena.client, False))]
    pids = [_pid(arena.client, victim) for victim in victims]
    chance.shuffle(pids)
    _kill(pids[0])
    time.sleep(chance.uniform(0.0, 1.0))
    _kill(pids[1])


def freeze(arena: Arena, chance: random.Random) -> None:
    victim = chance.choice(_addresses(arena.client, True) + _addresses(arena.client, False))
    pid = _pid(arena.client, victim)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(5.0)
    finally:
        os.kill(pid, signal.SIGCONT)


def restart(arena: Arena, chance: random.Random) -> None:
    arena.client.restart(timeout=40)


def scale(arena: Arena, chance: random.Random) -> None:
    arena.cluster.scale(chance.choice([1, 2]))
    time.sleep(chance.uniform(1.0, 2.0))
    arena.cluster.scale(N_WORKERS)


def adapt(arena: Arena, chance: random.Random) -> None:
    adaptive = arena.cluster.adapt(minimum=1, maximum=4, interval="200 ms", wait_count=2)
    time.sleep(chance.uniform(1.0, 2.0))
    adaptive.stop()
    arena.cluster.scale(1)
    time.sleep(chance.uniform(0.5, 1.0))
    arena.cluster.scale(N_WORKERS)


def fall_idle(arena: Arena) -> None:
    """Let an adaptive cluster shrink while nothing is to do."""
    arena.adaptive = arena.cluster.adapt(minimum=1, maximum=4, interval="200 ms", wait_count=2)
    deadline = time.perf_counter() + LIMIT_SECONDS
    while len(arena.client.scheduler_info(n_workers=-1)["workers"]) > 1:
        if time.perf_counter() > deadline:
            raise TimeoutError("The adaptive cluster did not shrink.")
        time.sleep(0.05)


def grow(arena: Arena, chance: random.Random) -> None:
    time.sleep(chance.uniform(0.5, 2.0))
    arena.adaptive.maximum = chance.choice([1, 2, 4])
    time.sleep(chance.uniform(0.5, 2.0))
    arena.adaptive.stop()
    arena.cluster.scale(N_WORKERS)


def kill_any(arena: Arena, chance: random.Random) -> None:
    _kill(_pid(arena.client, chance.choice(list(arena.client.run(os.getpid)))))


SCENARIOS = {
    "a worker killed": Scenario(kill_learner),
    "a worker killed, rows in memory": Scenario(kill_learner, kind="memory"),
    "the server's worker killed": Scenario(kill_server),
    "both within a second": Scenario(kill_both, kind="memory"),
    "a worker frozen for 5 s": Scenario(freeze),
    "client.restart(), lazy": Scenario(restart),
    "client.restart(), in memory": Scenario(restart, kind="memory"),
    "client.restart(), persisted": Scenario(restart, kind="persisted", error=DataLostError),
    "scaled down and up": Scenario(scale),
    "adaptive, then one worker": Scenario(adapt),
    "adaptive, after it was idle": Scenario(grow, prepare=fall_idle),
    "two fits, a worker killed": Scenario(kill_any, fits=2),
}


def run(arena: Arena, name: str, seed: int) -> Outcome:
    """Disturb a fit, and return what is wrong with what came out."""
    scenario, chance = SCENARIOS[name], random.Random(f"{name}/{seed}")
    arena.client.wait_for_workers(N_WORKERS, timeout=60)
    if scenario.prepare is not None:
        scenario.prepare(arena)
    before = {thread.ident for thread in threading.enumerate()}
    results: list[Any] = []

    def train() -> None:
        try:
            results.append(arena.fit(scenario.kind))
        except BaseException as error:
            results.append(error)

    began = time.perf_counter()
    fits = [threading.Thread(target=train, daemon=True) for _ in range(scenario.fits)]
    for fit in fits:
        fit.start()
    outcome = Outcome(name, seed, 0.0)
    while len([p for p in on_servers(arena.client, "progress") if p[2]]) < scenario.fits:
        if time.perf_counter() - began > LIMIT_SECONDS or results:
            outcome.problems.append(f"no training to disturb: {results}")
            break
        time.sleep(0.02)
    else:
        # By epochs, as seconds would be others on a machine that is faster than when it was calibrated.
        epoch = chance.uniform(0.0, 0.5) * arena.epochs
        while not results and not any(p[0] >= epoch for p in on_servers(arena.client, "progress")):
            if time.perf_counter() - began > LIMIT_SECONDS:
                break
            time.sleep(0.02)
        if results:
            outcome.problems.append("the fit was over too early to be disturbed")
        else:
            scenario.disturb(arena, chance)
    for fit in fits:
        fit.join(max(LIMIT_SECONDS - (time.perf_counter() - began), 0.0))
    outcome.seconds = time.perf_counter() - began
    if any(fit.is_alive() for fit in fits):
        outcome.problems.append("a hang")
        return outcome
    for result in results:
        _judge(outcome, arena, scenario, result)
    _look_for_leftovers(outcome, arena, before)
    return outcome


def _judge(outcome: Outcome, arena: Arena, scenario: Scenario, result: Any) -> None:
    if scenario.error is not None:
        if not isinstance(result, scenario.error):
            outcome.problems.append(f"no {scenario.error.__name__}: {result!r}")
        return
    if isinstance(result, BaseException):
        outcome.problems.append(f"{type(result).__name__}: {result}")
        return
    outcome.loss = arena.loss_of(result)
    if not outcome.loss < (1 + LOSS_MARGIN) * arena.reference:
        outcome.problems.append(f"loss {outcome.loss:.4f} instead of {arena.reference:.4f}")
    outcome.problems += uncovered(result.history_, result.n_iter_, arena.epochs)


def uncovered(history: Any, n_iter: int, epochs: int) -> list[str]:
    """Return what the records say of rows that were not visited exactly once per epoch."""
    problems = []
    if n_iter != epochs:
        problems.append(f"{n_iter} epochs instead of {epochs}")
    counts = history.to_frame("epochs").rows.tolist()
    if counts != [TRAINED] * epochs:
        problems.append(f"rows of the epochs: {[rows for rows in counts if rows != TRAINED][:3]}")
    for (epoch, partition), records in history.to_frame("visits").groupby(["epoch", "partition"]):
        at = 0
        for record in records[records.rows > 0].sort_values("start").itertuples():
            if record.start != at:
                problems.append(f"epoch {epoch}, partition {partition}: row {record.start} follows {at}")
                break
            at += record.rows
    per_epoch = history.to_frame("visits").groupby("epoch").rows.sum()
    if (per_epoch != TRAINED).any() or len(per_epoch) != epochs:
        problems.append("the visits do not add up")
    if history.to_frame("rounds").rows.sum() != TRAINED * epochs:
        problems.append("the rounds do not add up")
    return problems[:5]


def _look_for_leftovers(outcome: Outcome, arena: Arena, before: set[int | None]) -> None:
    deadline = time.perf_counter() + 20.0
    while any((left := leftovers(arena.client)).values()) and time.perf_counter() < deadline:
        time.sleep(0.1)
    if any(left.values()):
        outcome.problems.append(f"left behind: { {k: v[:3] for k, v in left.items() if v} }")
    ours = [
        thread.name
        for thread in threading.enumerate()
        if thread.ident not in before and "skdist" in thread.name
    ]
    if ours:
        outcome.problems.append(f"threads left: {ours}")
