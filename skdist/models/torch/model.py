"""Any module of torch as a model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from skdist.control.schedules import CONSTANT, Schedule
from skdist.models.model import Decay, Trainer
from skdist.models.noise import GradientNoise
from skdist.models.partition import Partition, epoch_order
from skdist.models.torch.batches import Inputs, Transform, predicted_rows, rows_at, weighted
from skdist.models.torch.flat import FlatModule
from skdist.models.torch.losses import Criterion
from skdist.models.torch.randomness import RandomNumbers
from skdist.models.torch.trainer import Memory, TorchTrainer


@dataclass(frozen=True)
class StepFactor:
    """A schedule of one's own: the step size is the first one times a factor.

    Attributes
    ----------
    factor : callable
        Takes the steps made; returns a number above 0.
    """

    factor: Callable[[float], float]
    adaptive: bool = False
    cuts: int = 0

    def decay(self, t: float) -> float:
        """Return ``eta_0 / eta_t``."""
        factor = float(self.factor(t))
        if not factor > 0:
            raise ValueError(f"The learning rate schedule gave {factor!r} at step {t:g}; it must be above 0.")
        return 1.0 / factor


#: An exchange takes the processors as long as about 8 steps of a perceptron of 200,000 parameters; it shall
#: be no more than an eighth of a round.
ROUND_STEPS = 64


@dataclass(frozen=True)
class TorchModel:
    """A module, its criterion and its optimizer; see `skdist.models.torch.flat.FlatModule` for the state.

    The loss of a step is ``sum_i weight_i loss_i / (batch_size weight_unit)`` over the rows of a mini-batch.

    Attributes
    ----------
    module : nn.Module
        A template: it is never trained itself.
    criterion : Criterion
        Its loss.
    optimizer : type
        Of torch; each learner has one, with a state of its own.
    optimizer_params : dict
        For it, the first step size among them.
    n_classes : int
        0 in a regression.
    batch_size : int
        Rows of a step.
    shape : tuple of int
        Of a row.
    schedule : Schedule or StepFactor
        Of the step size.
    class_weights : ndarray of shape (n_classes,) or (0,)
        Factors of the sample weights by class; none where empty.
    weight_unit : float
        Mean weight of the rows, class weights included: the unit of the weights, so that a factor of all of
        them changes nothing.
    memories : mapping of str to Memory
        What the optimizers of learners remember of an earlier fit.
    l2 : float
        Strength of the penalty ``l2 / 2 |w|^2 / batch_size`` on matrices, as in scikit-learn's perceptrons.
    clip_norm : float or None
        The longest gradient.
    transform : callable or None
        Applied to the rows of a mini-batch.
    dtype : torch.dtype or None
        Of the rows that the module is given.
    device : str
        Where to train; 'auto' is a GPU where there is one.
    autocast : bool
        Whether the module computes in bfloat16 where torch finds it safe.
    shuffle : bool
        Whether `order` shuffles.
    seed : int
        For `order` and dropout.
    inner_parallel : bool
        Whether training uses threads of torch.
    loss_unit : float
        What an improvement of the loss is measured in.
    statistics : bool
        Whether the members after the first are statistics: they are buffers.
    """

    statistics: ClassVar[bool] = True

    module: nn.Module
    criterion: Criterion
    optimizer: type[torch.optim.Optimizer]
    optimizer_params: dict[str, Any]
    n_classes: int
    batch_size: int
    shape: tuple[int, ...] = ()
    schedule: Decay = field(default_factory=lambda: Schedule(CONSTANT, 1.0))
    class_weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    weight_unit: float = 1.0
    memories: Mapping[str, Memory] = field(default_factory=dict)
    l2: float = 0.0
    clip_norm: float | None = None
    transform: Transform | None = None
    dtype: torch.dtype | None = torch.float32
    device: str = "auto"
    autocast: bool = False
    shuffle: bool = True
    seed: int = 0
    inner_parallel: bool = True
    loss_unit: float = 1.0

    @property
    def exchange_rows(self) -> int:
        """Rows of the shortest automatic round."""
        return ROUND_STEPS * self.batch_size

    def place(self, name: str) -> torch.device:
        """Return the device of the learner of a name, one of those that this process sees.

        Raises
        ------
        ValueError
            Where it is a GPU that is not here.
        """
        wanted, here = self.device, torch.cuda.device_count() if torch.cuda.is_available() else 0
        if wanted == "auto":
            wanted = "cuda" if here else "cpu"
        device = torch.device(wanted)
        if device.type == "cuda" and here <= (device.index or 0):
            raise ValueError(
                f"device={wanted!r} is not here: this process sees {here} GPUs. Use device='auto', which "
                "takes one where there is one."
            )
        if wanted == "cuda":
            # The learners of a worker are numbered.
            tail = name.rpartition("/")[2]
            number = int(tail) if tail.isdigit() else zlib.crc32(name.encode())
            return torch.device("cuda", number % here)
        return device

    def place_to_predict(self) -> torch.device:
        """Return the device that predicts: the processor where that of the training is not here."""
        try:
            return self.place("0")
        except ValueError:
            return torch.device("cpu")

    def inputs(self, device: torch.device) -> Inputs:
        """Return how rows become the input of the module."""
        return Inputs(device, self.dtype, self.transform)

    def problem(self) -> dict[str, Any]:
        """Return what must be the same where training goes on from a checkpoint, in terms of JSON."""
        flat = FlatModule(self.module)
        shapes = {f"shape of {name}": shape for name, shape in flat.shapes().items()}
        return {"row": list(self.shape), "arrays": len(shapes), **shapes, "frozen": flat.frozen()}

    def accept(self, partition: Partition, classes: np.ndarray | None) -> Partition:
        """Return a partition whose codes are those of ``classes``; its rows stay as they are.

        Raises
        ------
        ValueError
            Where targets are below 0 and the criterion is for counts.
        """
        if self.criterion.link == "exp" and len(partition.targets) and partition.targets.min() < 0:
            raise ValueError(
                "loss='poisson' is for counts and rates: y must not be negative. Use loss='squared_error'."
            )
        return partition.globally(classes)

    def refuse_unseen(self, partition: Partition) -> None:
        """Do nothing: no part of a module depends on what was measured."""

    def order(self, partition: Partition, number: int, epoch: int) -> np.ndarray:
        """Return the order in which ``epoch`` reads the rows of partition ``number``."""
        return epoch_order(partition, (self.seed, epoch, number) if self.shuffle else None)

    def steps(self, rows: int) -> int:
        """Return the mini-batch steps that ``rows`` rows of one partition make, the last may be short."""
        return -(-rows // self.batch_size)

    def new_noise(self) -> GradientNoise:
        """Return an empty accumulator for the trainer."""
        trained = (value.numel() for value in self.module.parameters() if value.requires_grad)
        return GradientNoise((sum(trained),))

    def trainer(self, name: str) -> Trainer:
        """Return what makes the steps of the learner of that name."""
        trainer = TorchTrainer(self, name)
        trainer.recall(self.memories.get(name))
        return trainer

    def trained(self, state: np.ndarray) -> nn.Module:
        """Return a copy of the module with the parameters of a state, ready to predict."""
        flat = FlatModule(self.module)
        flat.bind(state.copy())
        return detached(flat.module)

    def predictor(self, state: np.ndarray) -> Callable[[Any], np.ndarray]:
        """Return what turns rows into raw predictions of shape (n_rows, n_outputs), float64."""
        device = self.place_to_predict()
        module, inputs = self.trained(state).to(device), self.inputs(device)
        numbers = RandomNumbers(device, self.seed)  # transforms may draw

        def predict(X: Any) -> np.ndarray:
            with numbers.drawn():
                z = raw_predictions(module, inputs, X)
            return np.exp(z) if self.criterion.link == "exp" else z

        return predict

    def loss_sum(self, z: np.ndarray, partition: Partition) -> float:
        """Return the weighted sum of the losses of raw predictions, as the trainer does."""
        weights = weighted(partition.weights, partition.targets, self.class_weights)
        targets = self.criterion.targets(partition.targets)
        z = np.log(z) if self.criterion.link == "exp" else z
        losses = self.criterion.rows(self.criterion.make(), torch.from_numpy(z).float(), targets)
        return float(weights @ losses.double().numpy())


def detached(module: nn.Module) -> nn.Module:
    """Return a module whose parameters are views no more, in evaluation mode."""
    for value in module.parameters():
        value.data, value.grad = value.data.clone(), None
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, buffer.clone())
    return module.eval()


def raw_predictions(module: nn.Module, inputs: Inputs, X: Any) -> np.ndarray:
    """Return the outputs of a module in evaluation mode, float64 of shape (n_rows, n_outputs)."""
    if not X.shape[0]:  # what a module makes of no rows need not tell how many outputs it has
        return raw_predictions(module, inputs, np.zeros((1, *X.shape[1:]), dtype=X.dtype))[:0]
    found = []
    with torch.inference_mode():
        block = predicted_rows(X)
        for start in range(0, X.shape[0], block):
            chosen = np.arange(start, min(start + block, X.shape[0]))
            outputs = module(inputs(rows_at(X, chosen)))
            found.append(outputs.reshape(len(chosen), -1).double().cpu().numpy())
    return np.concatenate(found)
