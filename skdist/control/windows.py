"""Sliding windows over what a learner and its worker have seen."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator


def smoothed(old: float, new: float) -> float:
    """Return an exponential average that begins with its first value; 0 is no value."""
    return new if old == 0.0 else 0.7 * old + 0.3 * new


class SlidingWindow:
    """The last ``size`` values, oldest dropped first.

    Parameters
    ----------
    size : int
        How many values are kept.
    """

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def append(self, value: float) -> float | None:
        """Take a value in; return the one that dropped out for it."""
        values = self._values
        dropped = values[0] if len(values) == values.maxlen else None
        values.append(float(value))
        return dropped

    def sample(self, stride: int = 1) -> tuple[float, ...]:
        """Return every ``stride``-th value, newest first."""
        return tuple(reversed(self._values))[::stride]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[float]:
        return iter(tuple(self._values))


class LatencyWindow(SlidingWindow):
    """Raw heartbeat round trips in seconds, with ``inf`` for each heartbeat that was missed.

    A gap of more than 1.5 intervals between two heartbeats means that some were missed.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._last: float | None = None

    def observe(self, latency: float, now: float, interval: float) -> None:
        """Take in a heartbeat.

        Parameters
        ----------
        latency : float
            Its round trip in seconds; negative values, which a clock that was set back can give, count
            as 0.
        now : float
            When it was seen, in seconds of any steady clock.
        interval : float
            Seconds between heartbeats.
        """
        for _ in range(self._missed(now, interval)):
            self.append(math.inf)
        self._last = now
        self.append(max(latency, 0.0))

    def until(self, now: float, interval: float) -> tuple[float, ...]:
        """Return the window as of ``now``, oldest first, with heartbeats that are overdue as missed."""
        overdue = (math.inf,) * self._missed(now, interval)
        return (*self._values, *overdue)[-(self._values.maxlen or 1) :]

    def _missed(self, now: float, interval: float) -> int:
        """Return how many heartbeats should have come since the last one, at most the size of the window."""
        if self._last is None or interval <= 0 or now - self._last <= 1.5 * interval:
            return 0
        return min(max(round((now - self._last) / interval) - 1, 1), self._values.maxlen or 1)
