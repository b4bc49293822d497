"""Criteria of torch, row by row: what they take, and what their predictions mean."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

#: What turns outputs into probabilities, by criterion.
LINKS: dict[type, str] = {
    nn.CrossEntropyLoss: "softmax",
    nn.NLLLoss: "log",
    nn.BCEWithLogitsLoss: "logistic",
}


@dataclass(frozen=True)
class Criterion:
    """A criterion that gives a loss for each row.

    Attributes
    ----------
    kind : type, nn.Module or callable
        A criterion of torch or its class, or a function ``(outputs, targets)`` that gives a loss for each
        row.
    params : dict
        For the class.
    regression : bool
        Whether targets are numbers.
    """

    kind: Any
    params: dict[str, Any] = field(default_factory=dict)
    regression: bool = False

    @property
    def link(self) -> str | None:
        """How outputs become probabilities; None where that is not known."""
        return LINKS.get(type(self.kind) if isinstance(self.kind, nn.Module) else self.kind)

    def make(self) -> Any:
        """Return the criterion, without a reduction over rows."""
        if isinstance(self.kind, nn.Module):
            made = copy.deepcopy(self.kind)
            made.reduction = "none"  # type: ignore[assignment]
            return made
        if not inspect.isclass(self.kind):
            return self.kind
        if "reduction" in inspect.signature(self.kind).parameters:
            return self.kind(**{**self.params, "reduction": "none"})
        return self.kind(**self.params)

    def rows(self, made: Any, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each row, shape (n_rows,), of a criterion from `make`.

        Raises
        ------
        ValueError
            Where the criterion gives something else.
        """
        if self.regression or self.link == "logistic":
            targets = targets.to(outputs.dtype).reshape(outputs.shape)
        losses: torch.Tensor = made(outputs, targets)
        if losses.ndim == 0 or len(losses) != len(outputs):
            raise ValueError(
                f"criterion={getattr(self.kind, '__name__', self.kind)!r} gives one loss for a mini-batch of "
                f"{len(outputs)} rows, so rows cannot be weighted. It must give a loss for each row: a class "
                "with reduction='none', or a function that does not take the mean."
            )
        return losses.reshape(len(losses), -1).mean(dim=1) if losses.ndim > 1 else losses

    def targets(self, targets: np.ndarray) -> torch.Tensor:
        """Return class codes as integers and numbers as they are."""
        return torch.from_numpy(np.array(targets, dtype=np.float32 if self.regression else np.int64))
