"""Whether a module, its criterion and its optimizer fit the rows: found out before anything is trained."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from skdist.models.torch.batches import Inputs
from skdist.models.torch.flat import FlatModule, in_single_precision
from skdist.models.torch.losses import Criterion
from skdist.models.torch.model import TorchModel
from skdist.models.torch.trainer import optimizer_of


def initialised(module: nn.Module, inputs: Inputs, shape: tuple[int, ...]) -> nn.Module:
    """Return the module with its lazy parameters made, which a row tells the shapes of.

    Raises
    ------
    ValueError
        Where it cannot take rows of this shape.
    """
    if any(map(is_lazy, [*module.parameters(), *module.buffers()])):
        with torch.no_grad():
            _outputs(module.eval(), inputs, shape)
    return module.train()


def probe(model: TorchModel) -> None:
    """Run a row of zeros through everything, and refuse what does not fit together.

    Raises
    ------
    ValueError, TypeError
        Where the module cannot take the rows or has other outputs than the criterion needs, and where the
        criterion cannot compare them or the optimizer cannot be made.
    """
    _check_optimizer(model)
    with torch.inference_mode():
        inputs = model.inputs(torch.device("cpu"))
        outputs = _outputs(in_single_precision(copy.deepcopy(model.module)).eval(), inputs, model.shape)
    if not isinstance(outputs, torch.Tensor):
        raise ValueError(f"The module must return one tensor, it returned a {type(outputs).__name__}.")
    regression = model.criterion.regression
    wanted = 1 if regression else model.n_classes
    if model.criterion.link == "logistic" and model.n_classes == 2:
        wanted = 1
    if outputs.numel() != wanted:
        what = "a regression" if regression else f"{model.n_classes} classes"
        raise ValueError(
            f"The module has {outputs.numel()} outputs; for {what} and this criterion it needs {wanted}."
        )
    _check_criterion(model.criterion, outputs)


def _outputs(module: nn.Module, inputs: Inputs, shape: tuple[int, ...]) -> Any:
    try:
        return module(inputs(np.zeros((1, *shape), dtype=np.float32)))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"The module cannot take rows of shape {shape}: {error}. Change the module, reshape rows with "
            "transform=..., or give the module another input_dtype."
        ) from error


def _check_optimizer(model: TorchModel) -> None:
    kind = model.optimizer
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)):
        raise TypeError(f"optimizer must be a class of torch.optim, got {kind!r}.")
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer={kind.__name__} evaluates the loss several times for a step. Use one "
            "that steps along a gradient, such as 'sgd' or 'adam'."
        )
    try:
        optimizer_of(model, FlatModule(model.module).parameters)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"optimizer={kind.__name__} cannot be made with {model.optimizer_params}: {error}. Change the "
            "parameters optimizer__..."
        ) from error


def _check_criterion(criterion: Criterion, outputs: torch.Tensor) -> None:
    try:
        losses: Any = criterion.compare(criterion.make(), outputs.float(), criterion.targets(np.zeros(1)))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"criterion={criterion.name} cannot compare outputs of shape (n, "
            f"{', '.join(map(str, outputs.shape[1:]))}) with "
            f"{'numbers' if criterion.regression else 'class codes, integers from 0 on'}: {error}. Use "
            "CrossEntropyLoss, NLLLoss or BCEWithLogitsLoss for classes and MSELoss for numbers, or a "
            "function (outputs, targets) of your own that gives a loss for each row."
        ) from error
    if not isinstance(losses, torch.Tensor):
        raise ValueError(
            f"criterion={criterion.name} must return a tensor of losses, it returned a "
            f"{type(losses).__name__}. Give a class of a loss with criterion__..., an instance, or a "
            "function (outputs, targets)."
        )
