"""The epochs under way: which rows wait for a visit, and where."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skdist.control.shares import equal_shares, fair_shares, share_homes
from skdist.messages import Segment


@dataclass
class Queue:
    """Stretches that wait for a visit; ``home`` is the worker where they sit."""

    home: str
    segments: deque[Segment] = field(default_factory=deque)
    rows: int = 0

    def append(self, segment: Segment) -> None:
        """Let rows wait behind all others."""
        self.segments.append(segment)
        self.rows += segment.rows

    def put_back(self, segment: Segment) -> None:
        """Let rows wait in front of all others."""
        self.segments.appendleft(segment)
        self.rows += segment.rows

    def take(self) -> Segment:
        """Return the rows in front."""
        segment = self.segments.popleft()
        self.rows -= segment.rows
        return segment

    def take_all(self) -> list[Segment]:
        """Return all rows."""
        return [self.take() for _ in range(len(self.segments))]


@dataclass
class Epoch:
    """One epoch.

    Attributes
    ----------
    queues : list of Queue
        What waits.
    homes : dict of str to list of Queue
        The same by worker.
    waiting, flying, helped : int
        Rows that wait, that are visited, and of those the ones that sit elsewhere.
    """

    queues: list[Queue]
    homes: dict[str, list[Queue]]
    waiting: int
    flying: int = 0
    helped: int = 0

    def take_all(self, queue: Queue) -> list[Segment]:
        """Return all that waits in a queue; it is visited from now on."""
        self.flying, self.waiting = self.flying + queue.rows, self.waiting - queue.rows
        return queue.take_all()


class Epochs:
    """The epochs that were opened and are not through.

    Parameters
    ----------
    rows : sequence of int
        Rows of each partition; empty ones never wait.
    homes : mapping of int to str
        The worker where a partition sits, of which nobody makes a copy: it changes.
    step : int
        Partitions are cut at multiples of so many rows.
    equal : bool
        Whether an epoch is cut into equal shares, one for each slot there is.
    spare : float
        A worker gets so many rows of others in a fair share, at most.
    seed : int
        For the order of the partitions in an epoch.
    shuffle : bool
        Whether that order changes.

    Attributes
    ----------
    opened : int
        How many were.
    """

    def __init__(
        self,
        rows: Sequence[int],
        homes: Mapping[int, str],
        step: int,
        equal: bool,
        spare: float,
        seed: int,
        shuffle: bool,
    ) -> None:
        self.opened = 0
        self._rows, self._homes, self._step, self._equal, self._spare = rows, homes, step, equal, spare
        self._seed, self._shuffle = seed, shuffle
        self._epochs: dict[int, Epoch] = {}
        self._fresh: set[int] = set()

    def __getitem__(self, number: int) -> Epoch:
        return self._epochs[number]

    def get(self, number: int) -> Epoch | None:
        """Return an epoch; None where it is through, or not open."""
        return self._epochs.get(number)

    def fresh(self) -> set[int]:
        """Return the epochs that were opened since this was asked for the last time."""
        fresh, self._fresh = self._fresh, set()
        return fresh

    def oldest(self) -> int:
        """Return the first epoch that has rows waiting or in flight, or else the next to open."""
        for number in sorted(self._epochs):
            epoch = self._epochs[number]
            if epoch.waiting or epoch.flying:
                return number
            del self._epochs[number]
        return self.opened

    def waiting(self) -> list[tuple[int, Segment]]:
        """Return the epochs and rows that wait for a visit."""
        return [
            (number, segment)
            for number, epoch in sorted(self._epochs.items())
            for queue in epoch.queues
            for segment in queue.segments
        ]

    def wait(self, todo: Sequence[tuple[int, Segment]]) -> None:
        """Let rows of epochs that were opened wait, in front of all others."""
        queues: dict[tuple[int, str], Queue] = {}
        for number, segment in reversed(todo):
            epoch = self._epochs.setdefault(number, Epoch([], {}, 0))
            home = self._homes.get(segment.partition, "")
            queue = queues.get((number, home))
            if queue is None:
                theirs = epoch.homes.setdefault(home, [])
                # Shares stay in queues of their own.
                if self._equal or not theirs:
                    theirs.append(Queue(home))
                    epoch.queues.append(theirs[-1])
                queue = queues[number, home] = theirs[-1]
            queue.put_back(Segment(segment.partition, segment.start, segment.stop))
            epoch.waiting += segment.rows

    def open(self, slots: Mapping[str, int], speeds: Mapping[str, float] | None = None) -> None:
        """Open the next epoch: all rows wait.

        Parameters
        ----------
        slots : mapping of str to int
            Of each worker, for equal shares.
        speeds : mapping of str to float, optional
            Of each worker, where shares are to be fair; None leaves rows where they sit.
        """
        number = self.opened
        self.opened += 1
        self._fresh.add(number)
        if self._equal:
            shares = equal_shares(self._rows, max(sum(slots.values()), 1), self._step)
            places = share_homes(shares, self._homes, slots)
            queues = [Queue(places.get(place, "")) for place in range(len(shares))]
            parts = [(part, queue) for share, queue in zip(shares, queues, strict=True) for part in share]
        else:
            if speeds:
                placed = fair_shares(self._rows, self._homes, speeds, self._step, self._spare)
            else:
                placed = [
                    (self._homes.get(partition, ""), Segment(partition, 0, rows))
                    for partition, rows in enumerate(self._rows)
                    if rows
                ]
            own = {home: Queue(home) for home, _ in placed}
            queues = list(own.values())
            parts = [(segment, own[home]) for home, segment in placed]
        if self._shuffle and len(parts) > 1:  # seeding takes as long as a small pass
            random.Random(f"{self._seed}/{number}").shuffle(parts)
        for segment, queue in parts:
            queue.append(segment)
        by_home: dict[str, list[Queue]] = {}
        for queue in queues:
            by_home.setdefault(queue.home, []).append(queue)
        self._epochs[number] = Epoch(queues, by_home, sum(queue.rows for queue in queues))
