"""Multilayer perceptrons: the module, and steps that are written out instead of recorded by autograd."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from skdist.exceptions import DivergedError
from skdist.models.model import Trainer
from skdist.models.noise import GradientNoise
from skdist.models.partition import Partition
from skdist.models.torch.batches import Batches
from skdist.models.torch.flat import FlatModule
from skdist.models.torch.kernels import (
    ACTIVATIONS,
    adam_step,
    column_sums,
    hidden_delta,
    logistic_delta,
    momentum_step,
    poisson_delta,
    softmax_delta,
    squared_delta,
)
from skdist.models.torch.losses import half_poisson_deviance, half_squared_error
from skdist.models.torch.model import TorchModel
from skdist.models.torch.trainer import DIVERGED, Memory, TorchTrainer

#: Modules of the activations, and the same in place.
MODULES: dict[str, type[nn.Module]] = {
    "identity": nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid,
}  # fmt: skip
IN_PLACE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda values: values, "relu": torch.relu_, "tanh": torch.tanh_, "logistic": torch.sigmoid_,
}  # fmt: skip


#: Kernel of the last layer, by criterion.
DELTAS: dict[Any, Any] = {
    nn.CrossEntropyLoss: softmax_delta,
    nn.BCEWithLogitsLoss: logistic_delta,
    half_squared_error: squared_delta,
    half_poisson_deviance: poisson_delta,
}


def perceptron(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Return a module of linear layers, initialised as scikit-learn does (Glorot and Bengio, 2010).

    Parameters
    ----------
    sizes : sequence of int
        Features, hidden units of each layer, and outputs.
    activation : {'identity', 'logistic', 'tanh', 'relu'}
        Of the hidden layers.
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = nn.Linear(fan_in, fan_out)
        bound = math.sqrt((2.0 if activation == "logistic" else 6.0) / (fan_in + fan_out))
        for value in layer.parameters():
            nn.init.uniform_(value, -bound, bound)
        layers += [layer, MODULES[activation]()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class MLPModel(TorchModel):
    """A perceptron, trained with SGD or Adam; attributes as in `TorchModel`.

    Attributes
    ----------
    activation : str
        Of the hidden layers.
    """

    activation: str = "relu"
    inner_parallel: bool = False

    def trainer(self, name: str) -> Trainer:
        """Return what makes the steps of the learner of that name."""
        here = self.place(name).type == "cpu"
        trainer: MLPTrainer | TorchTrainer = MLPTrainer(self, name) if here else TorchTrainer(self, name)
        trainer.recall(self.memories.get(name))
        return trainer


class MLPTrainer:
    """Trains a perceptron on the processor, without autograd and without allocating.

    A step of a small network takes a fraction of the time that autograd needs for it; the gradients are the
    same. Several learners use several processors better than one matrix product does: each uses one thread. A
    learner alone in its process uses those of torch, where its steps are large.

    Parameters
    ----------
    model : MLPModel
        What is trained.
    name : str
        Of the learner.
    """

    def __init__(self, model: MLPModel, name: str) -> None:
        self.model, batch = model, model.batch_size
        self.flat = FlatModule(model.module)
        self._inputs = model.inputs(torch.device("cpu"))
        self._batches = Batches(batch, model.class_weights, model.weight_unit, model.inner_parallel)
        self._state: np.ndarray | None = None
        self._delta = DELTAS[model.criterion.kind]
        self._activate, self._code = IN_PLACE[model.activation], ACTIVATIONS[model.activation]
        widths = [len(bias) for bias in self.flat.parameters[1::2]]
        self._outputs = [np.empty((batch, width), dtype=np.float32) for width in widths]
        self._hidden = [np.empty((batch, width), dtype=np.float32) for width in widths[:-1]]
        self._gradients = self.flat.gradients.numpy()
        self._slopes = [value.grad for value in self.flat.parameters[::2]]
        self._bias_slopes = [value.grad.numpy() for value in self.flat.parameters[1::2]]  # type: ignore[union-attr]
        edges = np.cumsum([0, *self.flat.sizes])
        self._spans = np.stack([edges[:-1], edges[1:]], axis=1)
        self._decays = self.flat.decays(model.l2 / batch)
        self._moments = np.zeros((2, self.flat.n_parameters), dtype=np.float32)
        self._made = 0
        self._views: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}

    @property
    def kind(self) -> str:
        """Tells whose `memory` it can recall."""
        return f"perceptron {self.model.optimizer.__name__} {self.flat.n_parameters}"

    def memory(self) -> Memory:
        """Return what the optimizer has gathered."""
        return Memory(self.kind, {"moments": self._moments, "made": self._made})

    def recall(self, memory: Memory | None) -> None:
        """Go on with what another optimizer had gathered, if there is one of this kind."""
        if memory is not None and memory.kind == self.kind:
            self._moments, self._made = memory.values["moments"].copy(), memory.values["made"]

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

        Parameters and errors as in `skdist.models.torch.trainer.TorchTrainer.train`.
        """
        self.flat.bind(state)
        if state is not self._state:
            self._state = state
            self._weights = [value.data for value in self.flat.parameters[::2]]
            self._transposed = [weight.t() for weight in self._weights]
            self._biases = [value.data for value in self.flat.parameters[1::2]]
        total, model = 0.0, self.model
        threads, before = nullcontext() if model.inner_parallel else one_thread(), takes_tiny_for_zero()
        with torch.inference_mode(), threads, np.errstate(invalid="ignore", over="ignore"):
            for rows, targets, weights in self._batches.over(partition, order, start, stop):
                total += self._gradient(rows, targets, weights / np.float32(model.batch_size))
                if noise is not None:
                    noise.add(self._gradients)
                with tiny_as_zero(before):
                    self._step(state[0], rate / model.schedule.decay(t))
                t += 1
            settled = math.isfinite(total) and math.isfinite(state[0].sum())
        if not settled:
            raise DivergedError(DIVERGED)
        return total * model.batch_size

    def _gradient(self, rows: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
        """Compute the gradient of a mini-batch; return the mean of the losses."""
        count, last = len(rows), len(self._weights) - 1
        inputs = [self._inputs(rows)]
        outputs, deltas = self._buffers(count)
        for layer, output in enumerate(outputs):
            torch.addmm(self._biases[layer], inputs[layer], self._transposed[layer], out=output)
            if layer < last:
                inputs.append(self._activate(output))
        loss: float = self._delta(self._outputs[last][:count], targets, weights)
        delta = outputs[last]
        column_sums(self._outputs[last][:count], self._bias_slopes[last])
        for layer in range(last, -1, -1):
            torch.mm(delta.t(), inputs[layer], out=self._slopes[layer])
            if layer:
                delta = torch.mm(delta, self._weights[layer], out=deltas[layer - 1])
                below = layer - 1
                hidden_delta(
                    self._hidden[below][:count],
                    self._outputs[below][:count],
                    self._code,
                    self._bias_slopes[below],
                )
        return loss

    def _buffers(self, count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the outputs of all layers and the deltas of the hidden ones, for so many rows."""
        if count not in self._views:
            self._views[count] = (
                [torch.from_numpy(part[:count]) for part in self._outputs],
                [torch.from_numpy(part[:count]) for part in self._hidden],
            )
        return self._views[count]

    def _step(self, values: np.ndarray, factor: float) -> None:
        """Move along the gradient."""
        params, f32 = self.model.optimizer_params, np.float32
        rate, (first, second) = params["lr"] * factor, self._moments
        if self.model.optimizer is torch.optim.Adam:
            self._made += 1
            beta_1, beta_2 = params["betas"]
            rate *= math.sqrt(1 - beta_2**self._made) / (1 - beta_1**self._made)
            adam_step(
                values, self._gradients, first, second, self._spans, self._decays,
                f32(rate), f32(beta_1), f32(beta_2), f32(params["eps"]),
            )  # fmt: skip
        else:
            momentum_step(
                values, self._gradients, first, self._spans, self._decays,
                f32(rate), f32(params["momentum"]), bool(params["nesterov"]),
            )  # fmt: skip


def takes_tiny_for_zero() -> bool:
    """Return whether this thread takes numbers below float32's normal ones for zero."""
    return float(torch.tensor(1e-39, dtype=torch.float32, device="cpu") * 1) == 0


@contextmanager
def tiny_as_zero(before: bool) -> Iterator[None]:
    """Let this thread take numbers below float32's normal ones for zero; ``before``: whether it did already.

    Moments and weights of what gets no gradient, as pixels that are always 0, decay to such numbers, with
    which a processor needs many times as long. Not while torch multiplies: threads that it starts meanwhile
    would keep the setting for good.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in the meantime."""
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)
