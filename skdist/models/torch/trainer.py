"""The steps of a learner on a module, by torch's autograd and optimizers."""

from __future__ import annotations

import copy
import inspect
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from skdist.exceptions import DivergedError
from skdist.models.noise import GradientNoise
from skdist.models.partition import Partition
from skdist.models.torch.batches import Batches
from skdist.models.torch.flat import FlatModule
from skdist.models.torch.randomness import RandomNumbers

if TYPE_CHECKING:
    from skdist.models.torch.model import TorchModel

#: Optimizers that treat each number alone: one flat parameter is the same to them as many, and faster.
ELEMENTWISE = {
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.Adamax, torch.optim.RMSprop, torch.optim.Rprop,
}  # fmt: skip

#: Modules that scale a mini-batch by its own variance.
NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm

DIVERGED = (
    "Training diverged: the loss or a parameter is not finite although the data is. Lower the step size, "
    "scale the features, or clip the gradients."
)


class Memory(NamedTuple):
    """What the optimizer of a learner has gathered: momentum, second moments, steps.

    Attributes
    ----------
    kind : str
        Of the trainer that it is for.
    values : dict
        The numbers.
    """

    kind: str
    values: dict[str, Any]


class TorchTrainer:
    """Trains a copy of a module that belongs to one learner, with an optimizer of its own.

    The parameters come and go with the rounds; the optimizer's state (momentum, second moments) and the
    random numbers of dropout stay. An exchange replaces the parameters under the optimizer, as the inner
    optimizer of Douillard et al. (2023, arXiv:2311.08105).

    Parameters
    ----------
    model : TorchModel
        What is trained.
    name : str
        Of the learner; part of the seed.
    """

    def __init__(self, model: TorchModel, name: str) -> None:
        self.model = model
        self.device = model.place(name)
        self.flat = FlatModule(model.module, self.device)
        self.flat.module.train()
        self._norms = [each for each in self.flat.module.modules() if isinstance(each, NORMS)]
        self._criterion = model.criterion.make(self.device)
        self._inputs = model.inputs(self.device)
        self._batches = Batches(model.batch_size, model.class_weights, model.weight_unit)
        elementwise = model.optimizer in ELEMENTWISE
        self._whole = nn.Parameter(self.flat.values) if elementwise else None
        self._optimizer = optimizer_of(model, self.flat.parameters if self._whole is None else [self._whole])
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._decays: torch.Tensor | None = None
        if model.l2:
            decays = torch.from_numpy(self.flat.decays(model.l2 / model.batch_size))
            self._decays = torch.repeat_interleave(decays, torch.tensor(self.flat.sizes)).to(self.device)
        self._random = RandomNumbers(self.device, zlib.crc32(f"{model.seed}/{name}".encode()))

    @property
    def kind(self) -> str:
        """Tells whose `memory` it can recall."""
        return f"module {self.model.optimizer.__qualname__} {self.flat.sizes} {self.device.type}"

    def memory(self) -> Memory:
        """Return what the optimizer has gathered, and where the random numbers of dropout stand."""
        state = copy.deepcopy(self._optimizer.state_dict()["state"])
        return Memory(self.kind, {"state": _on_processor(state), "random": list(self._random.states)})

    def recall(self, memory: Memory | None) -> None:
        """Go on with what another optimizer had gathered, if there is one of this kind."""
        if memory is not None and memory.kind == self.kind:
            own = self._optimizer.state_dict()
            self._optimizer.load_state_dict({**own, "state": copy.deepcopy(memory.values["state"])})
            self._random.states = list(memory.values["random"])

    def train(
        self,
        state: np.ndarray,
        partition: Partition,
        order: np.ndarray,
        start: int,
        stop: int,
        t: float,
        noise: GradientNoise | None = None,
        rate: float = 1.0,
    ) -> float:
        """Train in place on ``order[start:stop]`` after ``t`` steps; return the sum of the losses.

        Parameters
        ----------
        state : ndarray of shape (n_members, n_parameters), float32
            Changed in place.
        partition, order, start, stop, t, noise, rate
            As in `skdist.models.linear.LinearModel.train`.

        Raises
        ------
        DivergedError
            Where the loss is not finite any more.
        """
        self.flat.bind(state)
        if self._whole is not None:
            self._whole.data, self._whole.grad = self.flat.values, self.flat.gradients
        total = torch.zeros((), device=self.device)
        here = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        with here, self._random.drawn(), torch.enable_grad():
            for rows, targets, weights in self._batches.over(partition, order, start, stop):
                total += self._step(rows, targets, weights, t, noise, rate)
                t += 1
        self.flat.release()
        loss = float(total)
        # The loss is that before each step, so the last step shows in the parameters alone.
        if not (math.isfinite(loss) and math.isfinite(self.flat.values.sum())):
            raise DivergedError(DIVERGED)
        return loss

    def _step(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        t: float,
        noise: GradientNoise | None,
        rate: float,
    ) -> torch.Tensor:
        """Make a step; return the sum of the losses before it."""
        model, gradients = self.model, self.flat.gradients
        gradients.zero_()
        # What is left over may be a single row, which has no variance.
        norms = self._norms if len(rows) == 1 < model.batch_size else []
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=model.autocast),
            by_running_statistics(norms),
        ):
            outputs = self.flat.module(self._inputs(rows))
        labels = model.criterion.targets(targets).to(self.device)
        losses = model.criterion.rows(self._criterion, outputs.float(), labels)
        loss = losses @ torch.from_numpy(weights).to(self.device)
        # Short mini-batches count by their share, and every row alike.
        (loss / model.batch_size).backward()  # type: ignore[no-untyped-call]
        if noise is not None:
            noise.add(gradients.cpu().numpy())
        if self._decays is not None:
            gradients.addcmul_(self.flat.values, self._decays)
        if model.clip_norm is not None:
            gradients.mul_(torch.clamp(model.clip_norm / (gradients.norm() + 1e-12), max=1.0))
        factor = rate / model.schedule.decay(t)
        for group, initial in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = initial * factor
        self._optimizer.step()
        return loss.detach()


@contextmanager
def by_running_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Let norms divide by what they have gathered, and gather nothing, in the meantime."""
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def _on_processor(values: Any) -> Any:
    """Return the state of an optimizer where any process can read it."""
    if isinstance(values, dict):
        return {key: _on_processor(value) for key, value in values.items()}
    return values.cpu() if isinstance(values, torch.Tensor) else values


def optimizer_of(model: TorchModel, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of a learner, in one kernel where torch has one."""
    params: dict[str, Any] = dict(model.optimizer_params)
    fuses = {"fused", "foreach"} <= set(inspect.signature(model.optimizer).parameters)
    if fuses and not {"fused", "foreach"} & set(params):
        params["fused"] = True
    return model.optimizer(parameters, **params)
