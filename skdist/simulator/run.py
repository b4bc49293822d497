"""The events of a simulated fit."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from skdist.control.gates import FIRST_LEASE_SECONDS
from skdist.exceptions import NoWorkersError
from skdist.fitting import (
    FitResult,
    FitSettings,
    build_dispatcher,
    build_server,
    conclude,
    lost_records,
    take_in,
)
from skdist.history import History
from skdist.learner import run_visit
from skdist.messages import Answer, Join, Update, Visit, VisitReport
from skdist.models.partition import Partition
from skdist.observers import Observers, Watch
from skdist.simulator.slot import Slot

if TYPE_CHECKING:
    from skdist.simulator.cluster import SimulatedCluster


class Run:
    """One fit: the events of its learners in the order of their times."""

    def __init__(
        self,
        cluster: SimulatedCluster,
        model: Any,
        partitions: Sequence[Partition],
        settings: FitSettings,
        state: np.ndarray,
        clock: float,
        observers: Observers | None = None,
    ) -> None:
        self.cluster, self.model, self.partitions = cluster, model, partitions
        cluster.now, cluster.snapshots = 0.0, []
        rows = [partition.n_rows for partition in partitions]
        count = cluster.n_learners
        arrivals = [arrival(0.0) for arrival in cluster.arrivals]
        present = arrivals.count(min(arrivals))
        longest = sum(rows) / count * max(per_row(0.0) for per_row in cluster.row_times)
        self.server = build_server(
            model, settings, state, sum(rows), present, clock, self._now, FIRST_LEASE_SECONDS + 2 * longest
        )
        self.dispatcher = build_dispatcher(
            settings,
            model,
            rows,
            {number: str(number * count // len(rows)) for number in range(len(rows))},
            seconds_per_row=min(per_row(0.0) for per_row in cluster.row_times) or 1e-9,
            # A visit costs an exchange or two.
            least_seconds=2 * max(min(exchange(0.0) for exchange in cluster.exchange_times), 1e-6),
        )
        # A look takes no virtual time.
        self._rows, self._settings, self._present = rows, settings, present
        self.watch = Watch(observers if observers is not None else Observers(), self.dispatcher, waits=True)
        self.slots = {str(number): Slot(cluster, number, model, settings) for number in range(count)}
        self.history = History()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._look = math.inf
        self._dispatching = False
        for slot, arrival in zip(self.slots.values(), cluster.arrivals, strict=True):
            if slot.departure > arrival(0.0):
                self._at(arrival(0.0), self._arrive, slot)
                if slot.departure < math.inf:
                    self._at(slot.departure, self._depart, slot)

    def result(self) -> FitResult:
        """Run to the end."""
        events = self._events
        while not self.dispatcher.done:
            if not events:
                raise NoWorkersError("All simulated learners have died before the end of the fit.")
            time, _, event, args = heapq.heappop(events)
            if self.cluster.snapshot_seconds is not None:
                self._keep(time)
            self.cluster.now = time
            event(*args)
        if self.cluster.snapshot_seconds is not None:
            self._keep(self.cluster.now)
        return conclude(
            self.server.finish(), self.history, self.dispatcher.last_epoch + 1, self._settings,
            rows=self._rows, workers=self._present, learners=self._present,
        )  # fmt: skip

    def _keep(self, time: float) -> None:
        """Keep the coefficients as they are until ``time``, if a snapshot is due before."""
        kept, interval = self.cluster.snapshots, self.cluster.snapshot_seconds
        assert interval is not None
        if time >= (len(kept) + 1) * interval:
            kept.append((self.cluster.now, *self.model.coefficients(self.server.state)))

    def _now(self) -> float:
        return self.cluster.now

    def _at(self, time: float, event: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, event, args))

    def _arrive(self, slot: Slot) -> None:
        slot.alive, slot.now = True, self.cluster.now
        self.dispatcher.add_worker(slot.name, 1)
        # Later, but at the same time: who comes together gets its orders together.
        if not self._dispatching:
            self._dispatching = True
            self._at(self.cluster.now, self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        for name, order in self.dispatcher.orders():
            slot = self.slots[name]
            slot.pending.append(order)
            if slot.visit is None:
                self._begin(slot)

    def _begin(self, slot: Slot) -> None:
        if not slot.pending or not slot.alive:
            return
        order = slot.visit = slot.pending.popleft()
        slot.now = slot.began = self.cluster.now
        slot.learner.begin()
        slot.attempt = f"{slot.name}/{order.number}"
        half = 0.5 * slot.seconds(slot.exchange)
        self._at(slot.now + half, self._join, slot, order, half)

    def _join(self, slot: Slot, order: Visit, half: float) -> None:
        answer = self.server.join(Join(order, slot.attempt, slot.name, slot.name, slot.link()))
        self._at(self.cluster.now + half, self._joined, slot, order, answer)

    def _joined(self, slot: Slot, order: Visit, answer: Answer) -> None:
        if not slot.alive:
            return
        slot.now, slot.answer, slot.waiting = self.cluster.now, None, False
        if answer.accepted:
            chosen = {segment.partition: self.partitions[segment.partition] for segment in order.segments}
            slot.loop = run_visit(order, chosen, slot.model, slot.learner, slot.attempt, answer)
            self._step(slot, None)
        else:
            self._end(slot, answer.offset, answer.last_epoch)

    def _step(self, slot: Slot, reply: Answer | None) -> None:
        """Run a learner until it has to be told something that is not known yet."""
        last_epoch = reply.last_epoch if reply is not None else self.dispatcher.last_epoch
        try:
            request = slot.loop.send(reply)
            while isinstance(request, Update):
                slot.posted = slot.now
                half = 0.5 * slot.seconds(slot.exchange)
                self._at(slot.now + half, self._push, slot, request, half)
                request = slot.loop.send(None)
        except StopIteration as end:
            self._at(slot.now, self._end, slot, end.value, last_epoch)
            return
        self._at(slot.now, self._listen, slot, request.must_wait)

    def _push(self, slot: Slot, update: Update, half: float) -> None:
        if slot.posted > slot.departure:
            return
        reply = self.server.push(update)
        if isinstance(reply, Future):
            reply.add_done_callback(
                lambda future: self._at(self.cluster.now + half, self._answered, slot, future.result())
            )
            self._look_again()
        else:
            self._at(self.cluster.now + half, self._answered, slot, reply)

    def _answered(self, slot: Slot, answer: Answer) -> None:
        slot.answer = answer
        slot.learner.seconds_exchange = self.cluster.now - slot.posted - answer.seconds_held
        if slot.waiting:
            self._listen(slot, True)

    def _listen(self, slot: Slot, must_wait: bool) -> None:
        if not slot.alive:
            return
        slot.now = max(slot.now, self.cluster.now)
        reply, slot.answer = slot.answer, None
        slot.waiting = must_wait and reply is None
        if not slot.waiting:
            self._step(slot, reply)

    def _end(self, slot: Slot, offset: int, last_epoch: int) -> None:
        if not slot.alive:
            return
        order = slot.visit
        assert order is not None
        self.server.leave(order.number, slot.attempt)
        seconds = self.cluster.now - slot.began
        report = VisitReport(
            order, slot.name, offset, 1, slot.began, seconds, last_epoch, slot.learner.seconds_waited,
            rounds=slot.learner.rounds, seconds_compute=slot.learner.seconds_compute,
            seconds_span=slot.learner.seconds_span,
        )  # fmt: skip
        slot.visit = None
        take_in(self.history, self.dispatcher, report, self.cluster.now)
        self.watch.look(self.server)
        self._begin(slot)
        self._dispatch()

    def _look_again(self) -> None:
        """Ask the server again when it may release somebody although nothing happens."""
        time = self.cluster.now + self.server.patience()
        if self.server.waits and time < self._look:
            self._look = time
            self._at(time, self._expire)

    def _expire(self) -> None:
        self._look = math.inf
        self.server.expire()
        self._look_again()

    def _depart(self, slot: Slot) -> None:
        slot.alive = False
        self._at(self.cluster.now + self.cluster.notice_seconds, self._notice, slot)

    def _notice(self, slot: Slot) -> None:
        self.dispatcher.remove_worker(slot.name)
        for number in [n for n, (_, name) in self.dispatcher.in_flight.items() if name == slot.name]:
            offset = self.server.retire(number)
            visit = self.dispatcher.lost(number, offset)
            self.history.visits.extend(lost_records(visit, slot.name, offset))
        self._dispatch()
