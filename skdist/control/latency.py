"""Method B, steps 1 and 2: the size of a round follows the latency of the link."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

#: The least threshold that ``threshold='auto'`` chooses, in seconds: what lies below is noise of busy event
#: loops, not of the link.
LEAST_AUTO_THRESHOLD = 5e-3

#: A round takes about 0.2 ms of its learner's time beside training, also where the server is a function call
#: away; and rounds that are shorter than this do not make fits end lower either.
LEAST_ROUND_SECONDS = 4e-3

#: It takes several times that of processors that may have to train: rounds are so long where a learner makes
#: enough of them all the same. With fewer, it would be seen later that a fit has converged.
USUAL_ROUND_SECONDS = 8e-3
ENOUGH_ROUNDS = 8

#: No round is shorter than B0 over this, or than a mini-batch: a link that fails altogether must not end in
#: rounds that are nothing but exchanges.
LONGEST_OVER_SHORTEST = 16


class LatencyBatchSizer(BaseEstimator):
    """Size a learner's rounds by the efficiency of its worker's link.

    The heartbeat latency of every worker is sampled at each heartbeat. A sample below the threshold
    counts as effective time, all others and heartbeats that were missed do not::

        e = T_eff / T_obs                 link efficiency, in [0, 1]
        B = round(e / (1 + e) * B0)       rows of the next round

    A perfect link has ``e = 1`` and gets ``B0 / 2`` rows; a worker whose heartbeats are all late gets the
    smallest round. ``B0`` is the estimator's ``round_size``.

    Parameters
    ----------
    threshold : 'auto' or float, default='auto'
        Seconds; a sample strictly below is effective. ``'auto'`` is twice the median of the *other*
        workers' samples, at least 5 ms: a worker must not raise its own efficiency by being slow.
    window : int, default=5
        How many heartbeats are remembered. They come every 0.5 s on small clusters.
    rounding : {'floor', 'ceil'}, default='floor'
        How B is made whole.
    rule : {'efficiency', 'throughput'}, default='efficiency'
        ``'throughput'`` ignores the link and gives ``B0 * mean(t) / t`` rows, with ``t`` the learner's
        training time per row, so that all rounds last equally long. Not part of the published method;
        compare arXiv:2305.12213.
    dead_band : float, default=0.2
        Relative change of B below which ``'throughput'`` keeps the present size.

    Notes
    -----
    Published in CN120234158A, which leaves the threshold and B0 open; their choice is ours.

    Examples
    --------
    >>> sizer = LatencyBatchSizer(threshold=0.01)
    >>> sizer.efficiency([0.002, 0.003, 0.05, 0.002], others=[])
    0.75
    >>> sizer.size(0.75, standard=700)
    300
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "threshold": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "window": [Interval(Integral, 1, None, closed="left")],
        "rounding": [StrOptions({"floor", "ceil"})],
        "rule": [StrOptions({"efficiency", "throughput"})],
        "dead_band": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        threshold: str | float = "auto",
        window: int = 5,
        rounding: str = "floor",
        rule: str = "efficiency",
        dead_band: float = 0.2,
    ) -> None:
        self.threshold = threshold
        self.window = window
        self.rounding = rounding
        self.rule = rule
        self.dead_band = dead_band

    def efficiency(self, own: Sequence[float], others: Iterable[float]) -> float:
        """Return ``e = T_eff / T_obs`` in [0, 1]; 1 where nothing was observed.

        Parameters
        ----------
        own : sequence of float
            The worker's latencies in seconds, ``inf`` for missed heartbeats.
        others : iterable of float
            The latencies of all other workers; used by ``threshold='auto'`` only.
        """
        finite = [latency for latency in others if math.isfinite(latency)]
        return self.efficiency_below(own, self.limit(statistics.median(finite) if finite else None))

    def efficiency_below(self, own: Sequence[float], limit: float) -> float:
        """Return the efficiency of the latencies ``own`` for a threshold ``limit``, all in seconds."""
        if not len(own):
            return 1.0
        return sum(latency < limit for latency in own) / len(own)

    def limit(self, median: float | None) -> float:
        """Return the threshold in seconds; infinite where ``'auto'`` has nobody to compare with.

        Parameters
        ----------
        median : float or None
            Of the finite latencies of all other workers, in seconds.
        """
        if not isinstance(self.threshold, str):
            return float(self.threshold)
        return math.inf if median is None else max(2 * median, LEAST_AUTO_THRESHOLD)

    def size(self, efficiency: float, standard: int) -> int:
        """Return ``B = round(e / (1 + e) * B0)`` in rows, unclipped: e is ``efficiency``, B0 ``standard``."""
        exact = efficiency / (1 + efficiency) * standard
        return math.floor(exact) if self.rounding == "floor" else math.ceil(exact)

    def balanced_size(self, standard: int, seconds: float, mean: float, present: int) -> int:
        """Return the size under ``rule='throughput'``.

        Parameters
        ----------
        standard : int
            ``B0`` in rows.
        seconds, mean : float
            Training time per row of this learner, and its mean over all.
        present : int
            The size of the learner's last round.

        Returns
        -------
        int
            0, for the shortest round there is, where the learner's speed is not known yet.
        """
        if seconds <= 0 or mean <= 0:
            return 0
        exact = standard * mean / seconds
        if present > 0 and abs(exact - present) <= self.dead_band * present:
            return present
        return math.floor(exact) if self.rounding == "floor" else math.ceil(exact)


def automatic_standard(
    seconds_per_row: float,
    seconds_exchange: float,
    share: int,
    batch_size: int,
    doubled: bool,
    exchange_rows: int = 0,
) -> int:
    """Return ``B0`` in rows for ``round_size='auto'``.

    A round should train several times as long as an exchange takes, so that exchanges can hide behind
    training, but a learner should exchange several times while it goes over its share of the rows: four
    times, or twice where an exchange takes as long as training on a quarter of them.

    Parameters
    ----------
    seconds_per_row, seconds_exchange : float
        What the learner measured; 0 where it has not yet.
    share : int
        Rows of an epoch that fall to one learner.
    batch_size : int
        Rows of a mini-batch step.
    doubled : bool
        Whether the batch sizer will halve the size on a perfect link.
    exchange_rows : int
        Rows whose training touches as much memory as an exchange, as far as that can be told beforehand.
    """
    shortest = max(share // 32, 2 * batch_size, min(exchange_rows, share // 4))
    wanted, least = float(shortest), 0.0
    if seconds_per_row > 0:
        usual = min(max(seconds_per_row * share / ENOUGH_ROUNDS, LEAST_ROUND_SECONDS), USUAL_ROUND_SECONDS)
        wanted = max(2 * seconds_exchange, usual) / seconds_per_row
        least = seconds_exchange / seconds_per_row
    longest = max(share // 4, min(least, share // 2), shortest)
    rows = int(min(max(wanted, shortest), longest))
    return 2 * rows if doubled else rows
