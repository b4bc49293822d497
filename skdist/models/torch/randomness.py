"""Torch's random numbers: one generator of the process for all, lent to training and put back afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")

#: Whoever needs the generator for itself waits so long for others, which have it for a piece of a round.
PATIENCE = 60.0


class Lender:
    """Lends the generator of a device to threads, and gives it back as it was before the first one.

    Modules draw from no other, and threads cannot have one each: those that train at the same time share the
    random numbers of the first one. What must not depend on others has the generator for itself.

    Parameters
    ----------
    generator : torch.Generator
        What is lent.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._changed = threading.Condition()
        self._users = self._waiting = 0
        self._before = generator.get_state()

    def begin(self, state: torch.Tensor) -> bool:
        """Let one more user draw; return whether it is the only one, which draws from ``state`` on."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, PATIENCE)
            alone = not self._users
            self._users += 1
            if alone:
                self._before = self._generator.get_state()
                self._generator.set_state(state)
            return alone

    def end(self) -> torch.Tensor:
        """Take the generator back from one user; return where it stands."""
        with self._changed:
            state, self._users = self._generator.get_state(), self._users - 1
            if not self._users:
                self._generator.set_state(self._before)
                self._changed.notify_all()
            return state

    @contextmanager
    def alone(self, seed: int) -> Iterator[None]:
        """Let one user draw from a seed on while nobody else does."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._users, PATIENCE)
            self._waiting -= 1
            before = self._generator.get_state()
            self._generator.manual_seed(seed)
            try:
                yield
            finally:
                self._generator.set_state(before)
                self._changed.notify_all()


@cache
def lender(device: torch.device) -> Lender:
    """Return the lender of the generator of a device."""
    if device.type == "cuda":
        return Lender(torch.cuda.default_generators[device.index])
    return Lender(torch.default_generator)


class RandomNumbers:
    """Random numbers of a learner, which go on from one piece of training to the next.

    Parameters
    ----------
    device : torch.device
        Where it trains; it draws on the processor too.
    seed : int
        Where they begin.

    Attributes
    ----------
    states : list of Tensor
        Where they stand, of each generator.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        devices = [torch.device("cpu"), *([device] if device.type == "cuda" else [])]
        self._lenders = [lender(each) for each in devices]
        self.states = [torch.Generator(each).manual_seed(seed).get_state() for each in devices]

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw them in the meantime, and leave the generators as they were."""
        with ExitStack() as stack:
            for place, each in enumerate(self._lenders):
                stack.enter_context(self._lent(place, each))
            yield

    @contextmanager
    def _lent(self, place: int, each: Lender) -> Iterator[None]:
        alone = each.begin(self.states[place])
        try:
            yield
        finally:
            state = each.end()
            if alone:
                self.states[place] = state


def seeded(make: Callable[[], T], seed: int) -> T:
    """Return what ``make`` makes with torch's random numbers of a seed, which are put back afterwards."""
    with lender(torch.device("cpu")).alone(seed):
        return make()
