"""What would be lost with a server: rows that are trained, but are not in its latest backup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skdist.control.dispatch import Dispatcher
from skdist.messages import Segment, Visit


@dataclass(frozen=True, slots=True)
class Ended:
    """A visit that has ended.

    Attributes
    ----------
    visit : Visit
        The order.
    worker : str
        Where it ran.
    offset : int
        Rows of it that were done; others have become part of another visit.
    """

    visit: Visit
    worker: str
    offset: int


class Ledger:
    """The visits that have ended since the last backup.

    A backup tells how many rows of each visit it holds. With a server, what is not in its backup is lost:
    `rewind` gives these rows back to the dispatcher, so that those of each epoch count exactly once in what
    survives.
    """

    def __init__(self) -> None:
        self._open: dict[int, Ended] = {}

    def ended(self, visit: Visit, worker: str, offset: int) -> None:
        """Write down how far a visit came."""
        if offset:
            self._open[visit.number] = Ended(visit, worker, offset)

    def asked(self, dispatcher: Dispatcher) -> set[int]:
        """Return the visits of which the next backup must tell the rows."""
        return {*self._open, *dispatcher.in_flight}

    def settle(self, offsets: Mapping[int, int]) -> None:
        """Forget the visits all of whose rows are in a backup that will be there."""
        for number, offset in offsets.items():
            entry = self._open.get(number)
            if entry is not None and offset >= entry.offset:
                del self._open[number]

    def todo(self, dispatcher: Dispatcher, offsets: Mapping[int, int]) -> list[tuple[int, Segment]]:
        """Return the epochs and rows that a fit which goes on from a backup has to visit."""
        stretches = [(entry.visit, entry.offset) for entry in self._open.values()]
        stretches += [(visit, visit.rows) for visit, _ in dispatcher.in_flight.values()]
        left = [
            (visit.epoch + segment.ahead, segment)
            for visit, stop in stretches
            for segment in visit.between(min(offsets.get(visit.number, 0), stop), stop)
        ]
        return left + dispatcher.epochs.waiting()

    def rewind(self, dispatcher: Dispatcher, offsets: Mapping[int, int]) -> list[Ended]:
        """Give back what a backup does not hold.

        Parameters
        ----------
        dispatcher : Dispatcher
            Its visits in flight are taken to be lost.
        offsets : mapping of int to int
            Of the backup that training goes on from.

        Returns
        -------
        list of Ended
            What is left of each visit that was not settled.
        """
        left = []
        for number, entry in self._open.items():
            held = min(offsets.get(number, 0), entry.offset)
            dispatcher.reopen(entry.visit, held, entry.offset)
            left.append(Ended(entry.visit, entry.worker, held))
        for number, (_, worker) in list(dispatcher.in_flight.items()):
            held = offsets.get(number, 0)
            left.append(Ended(dispatcher.lost(number, held), worker, held))
        self._open.clear()
        return left
