"""Criteria of torch, row by row: what they take, and what their predictions mean."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn


def half_squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the loss of a regression, as scikit-learn's MLPRegressor has it."""
    return 0.5 * (outputs - targets) ** 2


def half_poisson_deviance(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return that of counts, whose logarithms are the outputs."""
    return torch.xlogy(targets, targets) - targets * outputs - targets + torch.exp(outputs)


#: What turns outputs into probabilities or numbers, by criterion.
LINKS: dict[Any, str] = {
    nn.CrossEntropyLoss: "softmax",
    nn.NLLLoss: "log",
    nn.BCEWithLogitsLoss: "logistic",
    half_poisson_deviance: "exp",
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
        """How outputs become what is predicted; None where that is not known."""
        kind = type(self.kind) if isinstance(self.kind, nn.Module) else self.kind
        family = inspect.getmro(kind) if inspect.isclass(kind) else [kind]
        return next((LINKS[each] for each in family if each in LINKS), None)

    @property
    def name(self) -> str:
        """What errors call it."""
        return repr(getattr(self.kind, "__name__", self.kind))

    def make(self, device: torch.device | None = None) -> Any:
        """Return the criterion, without a reduction over rows, on a device; the processor by default."""
        made: Any = self.kind
        if isinstance(self.kind, nn.Module):
            made = copy.deepcopy(self.kind)
            made.reduction = "none"
        elif inspect.isclass(self.kind):
            reduces = "reduction" in inspect.signature(self.kind).parameters
            made = self.kind(**self.params, **({"reduction": "none"} if reduces else {}))
        # What it holds, as weights of classes, is compared with outputs.
        return made.to(device).float() if isinstance(made, nn.Module) else made

    def rows(self, made: Any, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each row, shape (n_rows,), of a criterion from `make`.

        Raises
        ------
        ValueError
            Where the criterion gives something else.
        """
        losses = self.compare(made, outputs, targets)
        if losses.ndim == 0 or len(losses) != len(outputs):
            raise ValueError(
                f"criterion={self.name} gives one loss for a mini-batch of "
                f"{len(outputs)} rows, so rows cannot be weighted. It must give a loss for each row: a class "
                "with reduction='none', or a function that does not take the mean."
            )
        return losses.reshape(len(losses), -1).mean(dim=1) if losses.ndim > 1 else losses

    def compare(self, made: Any, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return what a criterion from `make` says of outputs and targets."""
        if self.link == "logistic" and outputs.shape[1:].numel() > 1:  # each class against the others
            targets = nn.functional.one_hot(targets, outputs.shape[1:].numel())
        if self.regression or self.link == "logistic":
            targets = targets.to(outputs.dtype).reshape(outputs.shape)
        losses: torch.Tensor = made(outputs, targets)
        return losses

    def targets(self, targets: np.ndarray) -> torch.Tensor:
        """Return class codes as integers and numbers as they are."""
        return torch.from_numpy(np.array(targets, dtype=np.float32 if self.regression else np.int64))
