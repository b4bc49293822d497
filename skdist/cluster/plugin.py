"""The worker's side between visits: heartbeat latencies, the slots and their learners."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
from distributed import WorkerPlugin
from threadpoolctl import ThreadpoolController

from skdist.backup import Backup
from skdist.cluster.connection import EXCHANGE_SECONDS, Connection, ServerRef
from skdist.cluster.shards import ShardedConnection
from skdist.cluster.sharing import Neighbours, SharingConnection
from skdist.cluster.slots import Slots
from skdist.control.windows import LatencyWindow
from skdist.exceptions import NotBegunError
from skdist.fitting import FitSettings, build_learner
from skdist.learner import Learner
from skdist.messages import Answer, Join, Link
from skdist.models.compile import as_input
from skdist.models.partition import Partition

#: Heartbeats sent at once at the start, so that the window is not empty for seconds.
FIRST_HEARTBEATS = 5
FIRST_HEARTBEATS_SECONDS = 0.005

#: Who joins a server that has not begun asks again after so many seconds, and after twice as many each time.
BEGIN_POLL_SECONDS, MOST_POLL_SECONDS = 0.001, 0.05


class LearnerPlugin(WorkerPlugin):
    """Samples a worker's heartbeat latency and keeps its slots and their learners.

    Dask calls a metric once per heartbeat; between two calls the worker's total of latencies grows by
    the raw round trip of the heartbeat in between. (`worker.latency` is the same, heavily smoothed.)

    Parameters
    ----------
    name : str
        Unique per fit: a plugin of the same name would be replaced.
    settings : FitSettings
        Of the fit.

    Attributes
    ----------
    backups : dict of int to Backup
        Of the server, those that this worker keeps: the latest, and the one before, as the driver may never
        have heard of the latest.
    """

    def __init__(self, name: str, settings: FitSettings) -> None:
        self.name = name
        self._settings = settings

    async def setup(self, worker: Any) -> None:
        """Start to sample, and fill the window with a few quick heartbeats."""
        self.worker = worker
        self.latencies = LatencyWindow(self._settings.window)
        self.slots = Slots()
        self._neighbours = Neighbours()
        self.backups: dict[int, Backup] = {}
        self._incarnation = 0
        self._gone: Future[None] = Future()
        self._pools: ThreadpoolController | None = None
        self._limits: Any = None
        self._model: Any = None
        self._model_lock = threading.Lock()
        self._lock = threading.Lock()
        self._idle: list[Learner] = []
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._made = 0
        self._total = worker.digests_total["latency"]
        worker.metrics[self.name] = self.sample
        for beat in range(FIRST_HEARTBEATS):
            if beat:  # apart, so that one hiccup of a busy machine does not make all of them late
                await asyncio.sleep(FIRST_HEARTBEATS_SECONDS)
            await worker.heartbeat()

    def teardown(self, worker: Any) -> None:
        """Stop to sample, and let go whoever waits."""
        worker.metrics.pop(self.name, None)
        self.slots.lift()
        self._partitions.clear()
        self._neighbours.end()
        self.backups.clear()
        with self._lock:
            if self._limits is not None:
                self._limits.restore_original_limits()

    def sample(self, worker: Any) -> float:
        """Take in the round trip of the last heartbeat and return it; the metric Dask calls."""
        total = worker.digests_total["latency"]
        grown, self._total = total - self._total, total
        if grown > 0:
            self.latencies.observe(grown, time.monotonic(), self._interval())
        return float(grown)

    def link(self) -> Link:
        """Return what is known of the link to the scheduler, heartbeats that are overdue included."""
        return Link(self.latencies.until(time.monotonic(), self._interval()))

    def _interval(self) -> float:
        """Return the seconds between heartbeats."""
        return float(self.worker.periodic_callbacks["heartbeat"].callback_time) / 1000

    def connect(self, ref: ServerRef) -> Connection:
        """Return a connection to a server; that to an earlier one ends."""
        self.renew(ref.incarnation)
        with self._lock:
            gone, neighbours = self._gone, self._neighbours
            if ref.incarnation != self._incarnation:
                gone, neighbours = Future(), Neighbours()
                gone.set_result(None)
        if ref.shards:
            return ShardedConnection(ref, self.worker, gone)
        if ref.address == self.worker.address or ref.address.startswith("inproc:"):
            return Connection(ref, self.worker, gone)
        return SharingConnection(ref, self.worker, gone, neighbours)

    def renew(self, incarnation: int) -> None:
        """Take in which server is the present one: nobody waits for an earlier one any more."""
        with self._lock:
            if incarnation <= self._incarnation:
                return
            self._incarnation, gone, self._gone = incarnation, self._gone, Future()
            # Others: who joins the earlier server right now must not leave its line to the next one.
            neighbours, self._neighbours = self._neighbours, Neighbours()
        neighbours.end()
        gone.set_result(None)

    def join(self, server: Connection, join: Join) -> tuple[Answer, float]:
        """Join a visit, once the server has begun; the first one to do so learns what is trained as well.

        Returns
        -------
        answer : Answer
            Of the server.
        seconds : float
            Waited for it to begin.
        """
        began, pause, waited = time.monotonic(), BEGIN_POLL_SECONDS, 0.0
        while True:
            try:
                answer, model = server.join(join, self._model is None)
                break
            except NotBegunError:
                if time.monotonic() - began > EXCHANGE_SECONDS:
                    raise
                time.sleep(pause)
                pause, waited = min(2 * pause, MOST_POLL_SECONDS), time.monotonic() - began
        self._model = self._model or model
        return answer, waited

    def model_of(self, server: Connection) -> Any:
        """Return the model and the classes of the fit; who has not joined a visit asks the server."""
        with self._model_lock:
            if self._model is None:
                self._model = server.call("model")
            return self._model

    def partition(self, key: tuple[str, int], rows: Any, make: Callable[[], Partition]) -> Partition:
        """Return a partition that is not a key of its own on the cluster; it is made once.

        ``key`` says of which kind it is, and which one.

        Kept without its rows where these are the user's own: Dask is to be free to spill or move them.
        """
        known = self._partitions.get(key)
        if known is not None:
            if known.X is None:
                known = replace(known, X=as_input(rows) if isinstance(rows, np.ndarray) else rows)
            return known
        partition = make()
        shared = partition.X is rows or (not partition.owned_bytes and isinstance(rows, np.ndarray))
        self._partitions[key] = replace(partition, X=None) if shared else partition
        return partition

    def keep(self, number: int, backup: Backup) -> None:
        """Keep a backup of the server, and let go all but the one before."""
        self.backups[number] = backup
        for old in sorted(self.backups)[:-2]:
            del self.backups[old]

    def limit_inner_threads(self, count: int) -> None:
        """Limit the threads of BLAS and OpenMP; each visit calls this, as OpenMP counts by thread."""
        with self._lock:
            self._pools = self._pools or ThreadpoolController()
            limits = self._pools.limit(limits=count)
            self._limits = self._limits or limits  # the first ones know what was before

    def take_learner(self) -> Learner:
        """Return a learner that no other visit on this worker uses."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            self._made += 1
            name = f"{self.worker.address}/{self._made}"
        return build_learner(self._settings, name, self.worker.address, self.link)

    def return_learner(self, learner: Learner) -> None:
        """Make a learner free for the next visit."""
        with self._lock:
            self._idle.append(learner)
