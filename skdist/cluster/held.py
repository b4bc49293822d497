"""Blocks that the workers hold: those of the user that need no conversion, and all of them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Of futures, the worst first.
STATUSES = ("cancelled", "error", "lost", "pending", "finished")


class Held:
    """Futures of X, y and sample weights that are the user's own: nothing is made of them, or released.

    For Dask a task costs more than there would be to do.
    """

    def __init__(self, part: tuple[Any, ...]) -> None:
        self.part = part
        self.futures = [future for future in part if future is not None]

    @property
    def key(self) -> Any:
        """Key of X, where the partition is."""
        return self.part[0].key

    @property
    def status(self) -> str:
        """The worst status of the futures."""
        statuses: list[str] = [future.status for future in self.futures]
        return min(statuses, key=STATUSES.index)


def argument(block: Any) -> Any:
    """Return what to give to a task for a block."""
    return block.part if isinstance(block, Held) else block


def futures_of_block(block: Any) -> list[Any]:
    """Return the futures that a block consists of."""
    return block.futures if isinstance(block, Held) else [block]


@dataclass(frozen=True)
class Named:
    """Stands for blocks in the arguments of a task, where its worker holds them.

    For each input of a task, the scheduler and the client do about as much as for the task itself.

    Attributes
    ----------
    keys : sequence
        Of each block: one, or those of X, y and sample weights.
    """

    keys: Sequence[Any]

    @classmethod
    def of(cls, blocks: Sequence[Any]) -> Named:
        """Return the names of some blocks."""
        return cls(
            [
                [None if future is None else future.key for future in block.part]
                if isinstance(block, Held)
                else block.key
                for block in blocks
            ]
        )

    def found(self, data: Mapping[Any, Any]) -> list[Any] | None:
        """Return the blocks among what a worker holds; None where it does not hold all of them."""
        try:
            return [
                tuple([None if name is None else data[name] for name in key])
                if isinstance(key, list)
                else data[key]
                for key in self.keys
            ]
        except KeyError:
            return None
