"""Fixed shares of the rows, for runs that must not depend on who is fast or where a partition sits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skdist.messages import Segment


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
