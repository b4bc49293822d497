"""Blocks that the user holds on the workers, and that need no conversion."""

from __future__ import annotations

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
