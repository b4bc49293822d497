"""A look at the model when an epoch is complete: who looks, when, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from skdist.control.dispatch import Dispatcher
from skdist.control.stopping import ScoreMonitor
from skdist.fitting import FitResult
from skdist.messages import Snapshot
from skdist.models.partition import Partition
from skdist.models.validation import ScoreSums, add_up, score_sums
from skdist.server import ParameterServer

#: Returns whether training shall end; what it raises ends the fit at once.
Observer = Callable[[Snapshot], bool]


class Validation:
    """The scores on validation rows, one per epoch, and the parameters that had the best one.

    Parameters
    ----------
    monitor : ScoreMonitor or None
        Decides when training ends, and the best parameters are kept; None records the scores, and the last
        parameters are kept.

    Attributes
    ----------
    sums : list of ScoreSums
        By epoch.
    """

    def __init__(self, monitor: ScoreMonitor | None) -> None:
        self.sums: list[ScoreSums] = []
        self._monitor = monitor
        self._best: Snapshot | None = None

    @property
    def scores(self) -> list[float]:
        """Score of each epoch."""
        return [sums.score for sums in self.sums]

    def observe(self, snapshot: Snapshot, sums: ScoreSums) -> bool:
        """Take in what the validation rows say of an epoch; return whether training shall end."""
        self.sums.append(sums)
        if self._monitor is None:
            return False
        if self._monitor.observe(sums.score):
            self._best = snapshot
        return self._monitor.converged

    def conclude(self, result: FitResult) -> FitResult:
        """Return the result of the fit with the parameters that are kept, and the scores in its history."""
        epochs = result.history.epochs
        for place, record in enumerate(epochs):
            sums = self.sums[record.epoch]
            epochs[place] = record._replace(val_loss=sums.mean_loss, val_score=sums.score)
        if self._monitor is None or self._best is None:
            return result
        best = self._best
        return replace(result, state=best.state, clock=best.clock, converged=self._monitor.converged)


class Observers:
    """Those who look at the model at the end of each epoch; false where there is nobody.

    Parameters
    ----------
    validation : Validation, optional
        It is shown what the validation rows say, which the driver finds out.
    others : sequence of Observer
        They are shown the snapshot, in turn, after it.

    Attributes
    ----------
    evaluate : callable or None
        Returns the sums over the validation rows, where they are in this process; see `here`.
    """

    def __init__(self, validation: Validation | None = None, others: Sequence[Observer] = ()) -> None:
        self.validation, self.others = validation, tuple(others)
        self.evaluate: Callable[[Snapshot], ScoreSums] | None = None

    def __bool__(self) -> bool:
        return self.validation is not None or bool(self.others)

    def here(self, model: Any, partitions: Sequence[Partition], classes: Any) -> None:
        """Say that the validation rows are in this process, held out of these partitions."""

        def evaluate(snapshot: Snapshot) -> ScoreSums:
            return add_up([score_sums(model, snapshot.state, part, classes) for part in partitions])

        self.evaluate = evaluate

    def show(self, snapshot: Snapshot, sums: ScoreSums | None = None) -> bool:
        """Let everybody look; return whether training shall end.

        Parameters
        ----------
        snapshot : Snapshot
            Of the epoch after that of the last call.
        sums : ScoreSums, optional
            Over the validation rows, where they are not in this process.
        """
        stop = False
        if self.validation is not None:
            if sums is None:
                assert self.evaluate is not None
                sums = self.evaluate(snapshot)
            stop = self.validation.observe(snapshot, sums)
        for observer in self.others:
            stop = observer(snapshot) or stop
        return stop


class Watch:
    """When to look, for the driver of a fit. Looks are taken one after the other, in the order of the epochs.

    Training goes on during a look, but not into the end of yet another epoch. In sync mode it waits.

    Parameters
    ----------
    observers : Observers
        Where there are none, nothing is ever due.
    dispatcher : Dispatcher
        Knows when an epoch is complete.
    waits : bool
        Whether the next epoch begins after the look.

    Attributes
    ----------
    looks : list of future
        Those under way, of threads or of an event loop; they result in whether training shall end.
    """

    def __init__(self, observers: Observers, dispatcher: Dispatcher, waits: bool) -> None:
        self.looks: list[Any] = []
        self._observers, self._dispatcher, self._waits = observers, dispatcher, waits
        self._seen = 0

    def due(self) -> Iterator[int]:
        """Give the epochs that have become complete; the driver takes a snapshot of each at once."""
        while self._observers and self._seen < self._dispatcher.complete:
            self._seen += 1
            yield self._seen - 1

    @property
    def holds(self) -> bool:
        """Whether no visits may be ordered now."""
        return len(self.looks) > (0 if self._waits else 1)

    def settle(self) -> bool:
        """Take in the looks that have ended; return whether training shall end."""
        ended = [look for look in self.looks if look.done()]
        self.looks = [look for look in self.looks if look not in ended]
        results = [look.result() for look in ended]
        return any(results)

    def look(self, server: ParameterServer) -> None:
        """Look at once at all that is due, where server and validation rows are in this process."""
        for epoch in self.due():
            if self._observers.show(server.snapshot(epoch)):
                self._dispatcher.end_after(server.stop())
