"""The executions of visits: which one is the newest, how far it is, and who waits for an answer."""

from __future__ import annotations

import math
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass

from skdist.messages import Answer, Update, Visit


@dataclass(slots=True)
class Attempt:
    """The newest execution of a visit, the rows acknowledged so far, and the last answer it got.

    A request that comes again gets the same answer again. The parameters in it are what the next update
    starts from.

    Attributes
    ----------
    visit : Visit
        The order.
    learner : str
        Who executes it.
    name : str
        Of the execution; '' while there is none.
    offset : int
        Rows acknowledged.
    answer : Answer or None
        To the last request.
    ticket : Future or None
        Of the next answer, while the gate holds it back.
    last : tuple of int
        The rows of the last update.
    started : int
        Executions until now.
    staleness : float
        Of the last update; nan before the first.
    arrived : float
        When it came.
    ends : bool
        Whether it was the last one of the execution.
    """

    visit: Visit
    learner: str
    name: str = ""
    offset: int = 0
    answer: Answer | None = None
    ticket: Future[Answer] | None = None
    last: tuple[int, int] = (-1, -1)
    started: int = 0
    staleness: float = math.nan
    arrived: float = 0.0
    ends: bool = False

    def accept(self, update: Update, staleness: float, now: float) -> None:
        """Acknowledge the rows of an update."""
        self.last, self.offset = (update.start, update.stop), update.stop
        self.staleness, self.arrived, self.ends = staleness, now, update.last


class Attempts:
    """The newest execution of each visit, and who waits in one.

    It keeps what was decided and decides nothing: `skdist.server` does.
    """

    def __init__(self) -> None:
        self._newest: dict[int, Attempt] = {}
        self._under_way: dict[int, Attempt] = {}  # by visit
        self._waiting: dict[str, Attempt] = {}  # by learner
        self._epochs: dict[str, int] = {}  # in which each learner was last at work
        self._retired: set[int] = set()
        self._settled, self._unsettled = -1, frozenset[int]()

    @property
    def under_way(self) -> list[Attempt]:
        """Those that somebody executes."""
        return list(self._under_way.values())

    def get(self, visit: int) -> Attempt | None:
        """Return the newest execution of a visit; None where nobody ever joined it."""
        return self._newest.get(visit)

    def offsets(self, visits: Collection[int], newest: int) -> dict[int, int]:
        """Return the rows acknowledged of some visits, and of all with a number above ``newest``."""
        return {
            number: attempt.offset
            for number, attempt in self._newest.items()
            if number > newest or number in visits
        }

    def enlist(self, visit: Visit, learner: str) -> Attempt:
        """Return the newest execution of a visit, made if need be."""
        attempt = self._newest.get(visit.number)
        if attempt is None:
            attempt = self._newest[visit.number] = Attempt(visit, learner)
        return attempt

    def begin(self, attempt: Attempt, name: str, learner: str) -> None:
        """Take in that a learner executes a visit from where it is."""
        attempt.name, attempt.learner, attempt.last = name, learner, (-1, -1)
        self._under_way[attempt.visit.number] = attempt
        attempt.started, attempt.staleness, attempt.ends = attempt.started + 1, math.nan, False
        self.reached(learner, attempt.visit.epoch)

    def reached(self, learner: str, epoch: int) -> None:
        """Take in that a learner is at work in an epoch."""
        self._epochs[learner] = epoch

    def end(self, attempt: Attempt) -> None:
        """Take in that the present execution of a visit is over."""
        # The end of an earlier visit may come when its learner is in the next one already.
        if self._waiting.get(attempt.learner) is attempt:
            del self._waiting[attempt.learner]
        self._under_way.pop(attempt.visit.number, None)
        attempt.name, attempt.answer = "", None

    def answered(self) -> dict[tuple[int, str], int]:
        """Return the version of the last answer of each that is under way, by number and name."""
        return {
            (number, attempt.name): attempt.answer.version
            for number, attempt in self._under_way.items()
            if attempt.answer is not None
        }

    def retire(self, visit: int) -> None:
        """Take in that a visit is not to be executed again."""
        self._retired.add(visit)

    def retired(self, visit: int) -> bool:
        """Return whether a visit is not to be executed again."""
        return visit in self._retired or (visit <= self._settled and visit not in self._unsettled)

    def settle(self, visits: Collection[int], newest: int) -> None:
        """Forget all visits up to number ``newest`` but some: who ordered them knows how they ended."""
        if newest < self._settled:  # asked long ago, by a call that came late
            return
        self._settled, self._unsettled = newest, frozenset(visits)
        self._retired = {number for number in self._retired if number > newest or number in visits}
        for number in [number for number, attempt in self._newest.items() if not attempt.name]:
            if number <= newest and number not in self._unsettled:
                del self._newest[number]

    def hold(self, attempt: Attempt) -> None:
        """Take in that a learner waits for an answer."""
        self._waiting[attempt.learner] = attempt

    def release(self, learner: str) -> Attempt:
        """Take in that it need not wait any more; return the execution that it waits in."""
        return self._waiting.pop(learner)

    @property
    def waiting(self) -> Collection[str]:
        """Learners that wait."""
        return self._waiting.keys()

    def forget(self, learner: str) -> None:
        """Take in that a learner may be gone."""
        self._epochs.pop(learner, None)

    def at_work(self, oldest: int) -> set[str]:
        """Return the learners that began a visit of epoch ``oldest`` or a later one."""
        return {learner for learner, epoch in self._epochs.items() if epoch >= oldest}
