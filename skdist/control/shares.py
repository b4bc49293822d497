"""Shares of the rows: fixed ones, for runs that must not depend on who is fast, and those of late workers.

And who has one where there are more workers than pay.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

from skdist.messages import Segment

#: A mean fair share is made of so many parts, at most: no partition is cut for a smaller one.
GRAINS = 16


def equal_shares(rows: Sequence[int], count: int, step: int) -> list[tuple[Segment, ...]]:
    """Cut the rows of some partitions, in their order, into shares of equal size.

    Parameters
    ----------
    rows : sequence of int
        Rows of each partition.
    count : int
        Shares.
    step : int
        Rows of a mini-batch; partitions are cut at multiples.

    Returns
    -------
    list of tuple of Segment
        At most ``count``, none of them empty.

    Examples
    --------
    >>> shares = equal_shares([10, 6], count=2, step=4)
    >>> [[(part.partition, part.start, part.stop) for part in share] for share in shares]
    [[(0, 0, 8)], [(0, 8, 10), (1, 0, 6)]]
    """
    total, done = sum(rows), 0
    shares: list[list[Segment]] = [[] for _ in range(count)]
    for partition, size in enumerate(rows):
        start = 0
        while start < size:
            share = min(done * count // total, count - 1)
            # Rows until the next share begins, to the nearest step of this partition.
            room = -(-((share + 1) * total) // count) - done
            whole = max(round(room / step), 1) * step
            stop = min(start + whole, size) if size - start > 1.5 * step else size
            parts = shares[share]
            if parts and (parts[-1].partition, parts[-1].stop) == (partition, start):
                parts[-1] = Segment(partition, parts[-1].start, stop)
            else:
                parts.append(Segment(partition, start, stop))
            done, start = done + stop - start, stop
    return [tuple(share) for share in shares if share]


def rows_at(workers: Iterable[str], rows: Sequence[int], homes: Mapping[int, str]) -> dict[str, int]:
    """Return the rows that sit with each of some workers."""
    own = dict.fromkeys(workers, 0)
    for partition, size in enumerate(rows):
        if homes.get(partition, "") in own:
            own[homes[partition]] += size
    return own


def fair_shares(
    rows: Sequence[int],
    homes: Mapping[int, str],
    speeds: Mapping[str, float],
    step: int,
    spare: float = math.inf,
) -> list[tuple[str, Segment]]:
    """Share out the rows of some partitions by the speed of the workers.

    They keep of their own what they can go over in the time that all take. It is always their last
    partitions that go elsewhere, as these have to be sent there.

    Parameters
    ----------
    rows : sequence of int
        Rows of each partition.
    homes : mapping of int to str
        The worker of each partition, perhaps one that has no speed.
    speeds : mapping of str to float
        Rows per second of each worker.
    step : int
        Rows of a mini-batch; partitions are cut at multiples.
    spare : float
        A worker gets about so many rows of others, at most; the others go over what is more themselves.

    Returns
    -------
    list of (str, Segment)
        Workers, and what each visits; all rows, in the order of the partitions.

    Examples
    --------
    >>> shares = fair_shares([60, 60], {0: "a", 1: "a"}, {"a": 200.0, "b": 100.0}, step=10)
    >>> [(name, part.partition, part.start, part.stop) for name, part in shares]
    [('a', 0, 0, 60), ('a', 1, 0, 20), ('b', 1, 20, 60)]
    """
    total, speed = sum(rows), sum(speeds.values())
    grain = -(-total // (GRAINS * len(speeds) * step)) * step
    own = rows_at(speeds, rows, homes)
    room = {name: min(total * value / speed, own[name] + spare) for name, value in speeds.items()}
    shares: list[tuple[str, Segment]] = []

    def give(name: str, partition: int, start: int, least: int) -> int:
        """Give a worker what it has room for; return where that ends."""
        left = rows[partition] - start
        count = min(max(round(room[name] / grain) * grain, least), left)
        if left - count < grain:  # that is not cut off
            count = left if count or room[name] >= left / 2 else 0
        if count:
            shares.append((name, Segment(partition, start, start + count)))
            room[name] -= count
        return start + count

    rest = []
    for partition, size in enumerate(rows):
        home = homes.get(partition, "")
        start = give(home, partition, 0, 0) if home in room and size else 0
        if start < size:
            rest.append((partition, start))
    roomiest = [(-value, name) for name, value in room.items()]
    heapq.heapify(roomiest)
    for partition, start in rest:
        while start < rows[partition]:
            name, home = roomiest[0][1], homes.get(partition, "")
            if room[name] <= 0 and home in room:  # nobody can take more from others
                start = give(home, partition, start, rows[partition])
                continue
            start = give(name, partition, start, grain)
            heapq.heapreplace(roomiest, (-room[name], name))
    return sorted(shares, key=lambda share: (share[1].partition, share[1].start))


def share_homes(
    shares: Sequence[Sequence[Segment]], homes: Mapping[int, str], slots: Mapping[str, int]
) -> dict[int, str]:
    """Return a worker for each share: the one that holds most of its rows, as long as it has slots."""
    free = dict(slots)
    held: list[tuple[int, int, str]] = []
    for number, share in enumerate(shares):
        rows: dict[str, int] = {}
        for segment in share:
            home = homes.get(segment.partition, "")
            rows[home] = rows.get(home, 0) + segment.rows
        held += [(-count, number, home) for home, count in rows.items()]
    placed: dict[int, str] = {}
    for _, number, home in sorted(held):
        if number not in placed and free.get(home, 0):
            placed[number] = home
            free[home] -= 1
    for number in range(len(shares)):
        left = [name for name, count in free.items() if count]
        if number not in placed and left:
            placed[number] = left[0]
            free[left[0]] -= 1
    return placed


def crew(threads: Mapping[str, int], most: float, first: Iterable[str]) -> dict[str, int]:
    """Return the slots of the workers that train, where no more than ``most`` learners pay.

    Parameters
    ----------
    threads : mapping of str to int
        Of each worker that there is.
    most : float
        Learners; at least one, and ``inf`` takes all.
    first : iterable of str
        Workers that are taken before others.

    Examples
    --------
    >>> crew({"a": 2, "b": 2, "c": 2}, 3, first=["c"])
    {'c': 2, 'a': 1}
    """
    if most >= sum(threads.values()):
        return dict(threads)
    chosen: dict[str, int] = {}
    for name in dict.fromkeys([*first, *threads]):
        slots = int(min(threads.get(name, 0), most - sum(chosen.values())))
        if slots > 0:
            chosen[name] = slots
    return chosen


def share_with(name: str, workers: Sequence[str], homes: dict[int, str], rows: Sequence[int]) -> None:
    """Make a worker the home of as many rows as others have: of those without one, and of who has most.

    Parameters
    ----------
    name : str
        Of the worker.
    workers : sequence of str
        Those that there are, this one among them.
    homes : dict of int to str
        The worker of each partition; changed.
    rows : sequence of int
        Of each partition.
    """
    held: dict[str, list[int]] = {worker: [] for worker in workers}
    orphans: list[int] = []
    for number, home in homes.items():
        if rows[number]:
            held.get(home, orphans).append(number)
    goal = sum([rows[number] for number in homes]) / len(workers)
    own = sum([rows[number] for number in held.pop(name)])
    while own < goal and (orphans or held):
        if orphans:
            number = orphans.pop()
        else:
            sizes = {worker: sum([rows[n] for n in numbers]) for worker, numbers in held.items()}
            donor = max(sizes, key=sizes.__getitem__)
            if sizes[donor] <= goal:
                break
            number = held[donor].pop()
        homes[number] = name
        own += rows[number]
