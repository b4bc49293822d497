"""The rows of a visit, in the order in which they are trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from skdist.messages import Visit
from skdist.models.model import LoopModel, Trainer


class Rows:
    """Walks over the rows of a visit, from an offset on, segment by segment.

    Parameters
    ----------
    visit : Visit
        The order.
    partitions : mapping of int to Partition
        The partitions of its segments.
    model : LoopModel
        Orders rows.
    trainer : Trainer
        Trains on them.
    offset : int
        Rows along the segments that are done already.
    """

    def __init__(
        self, visit: Visit, partitions: Mapping[int, Any], model: LoopModel, trainer: Trainer, offset: int
    ) -> None:
        self.visit, self.partitions, self.model, self.offset = visit, partitions, model, offset
        self._trainer = trainer
        self.total = visit.rows
        self._order: tuple[int, int, np.ndarray] | None = None
        self._place, self._before = 0, 0  # of the segment under way, and the rows of those before it
        self._walk(0)

    def over(self, last_epoch: int) -> bool:
        """Whether there is no row left of an epoch up to the last one."""
        if self.offset >= self.total:
            return True
        return self.visit.epoch + self.visit.segments[self._place].ahead > last_epoch

    def _walk(self, rows: int) -> None:
        """Go on by some rows."""
        self.offset += rows
        segments = self.visit.segments
        while self._place < len(segments) - 1 and self.offset - self._before >= segments[self._place].rows:
            self._before += segments[self._place].rows
            self._place += 1

    def plan(self, rows: int) -> int:
        """Return how many rows of one epoch, at most ``rows`` but at least a step, end on a step's boundary.

        Mini-batches do not depend on the rounds: whatever the size of a round, a partition is cut into the
        same steps.
        """
        batch: int = self.model.batch_size
        segments, place = self.visit.segments, self._place
        ahead, begin, planned = segments[place].ahead, self.offset - self._before, 0
        while place < len(segments) and segments[place].ahead == ahead:
            left, room = segments[place].rows - begin, rows - planned
            if left > room:
                whole = room // batch * batch
                return planned + (whole if whole or planned else min(batch, left))
            planned, place, begin = planned + left, place + 1, 0
        return planned

    def up_to(self, rows: float) -> float:
        """Return the rows until the first end of a step that is ``rows`` away or more, or of the epoch."""
        if rows == math.inf:
            return math.inf
        batch: int = self.model.batch_size
        segments, place = self.visit.segments, self._place
        ahead, begin, before = segments[place].ahead, self.offset - self._before, 0
        while place < len(segments) and segments[place].ahead == ahead:
            left, wanted = segments[place].rows - begin, math.ceil(rows) - before
            if left >= wanted:
                return before + min(-(-wanted // batch) * batch, left)
            before, place, begin = before + left, place + 1, 0
        return before

    def train(
        self, state: np.ndarray, rows: int, t: float, noise: Any = None, rate: float = 1.0
    ) -> tuple[float, int]:
        """Train on the next ``rows`` rows; return the sum of the losses and the steps made."""
        loss, steps, goal = 0.0, 0, self.offset + rows
        while self.offset < goal:
            segment, begin = self.visit.segments[self._place], self.offset - self._before
            end = min(begin + goal - self.offset, segment.rows)
            partition = self.partitions[segment.partition]
            order = self._ordered(partition, segment.partition, segment.ahead)
            first, last = segment.start + begin, segment.start + end
            loss += self._trainer.train(state, partition, order, first, last, t + steps, noise, rate)
            steps += self.model.steps(end - begin)
            self._walk(end - begin)
        return loss, steps

    def _ordered(self, partition: Any, number: int, ahead: int) -> np.ndarray:
        if self._order is None or self._order[:2] != (number, ahead):
            order = self.model.order(partition, number, self.visit.epoch + ahead)
            self._order = (number, ahead, order)
        return self._order[2]
