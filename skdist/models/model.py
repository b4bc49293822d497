"""What the server, the visit loop and the drivers ask of a model, whatever computes the update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from skdist.models.partition import Partition


class Decay(Protocol):
    """Step sizes over the steps made.

    Attributes
    ----------
    adaptive : bool
        Whether a pass is checked for convergence several times.
    cuts : int
        How often the rate is cut where training settles, before that is the end.
    """

    @property
    def adaptive(self) -> bool: ...  # noqa: D102

    @property
    def cuts(self) -> int: ...  # noqa: D102

    def decay(self, t: float) -> float:
        """Return what rate adapters may give back: ``eta_0 / eta_t``, or less."""
        ...


class Noise(Protocol):
    """Accumulates gradients; see `skdist.models.noise.GradientNoise`."""

    @property
    def volatility(self) -> float:
        """Return how much the gradients differ from one another; NaN for fewer than two steps."""
        ...


class Trainer(Protocol):
    """Makes the steps of one learner, and keeps what they need from visit to visit."""

    def train(
        self,
        state: np.ndarray,
        partition: Any,
        order: np.ndarray,
        start: int,
        stop: int,
        t: float,
        noise: Any = None,
        rate: float = 1.0,
    ) -> float:
        """Train in place on ``order[start:stop]`` after ``t`` steps; return the sum of the losses.

        ``start`` is a multiple of the batch size, and so is ``stop`` unless it is the end.
        """
        ...


class LoopModel(Protocol):
    """What the visit loop asks of a model: it turns rows and a state array into the next state.

    ``state[0]`` is the iterate, which the server's momentum moves; further members follow it by themselves.
    A model does not change while it trains, and all learners of a process share it.

    Attributes
    ----------
    batch_size : int
        Rows of a step.
    schedule : Decay
        Step sizes.
    statistics : bool
        Whether the further members are statistics of rows, such as means and variances: they are averaged and
        never moved by differences, which could leave the range that makes sense.
    """

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    @property
    def schedule(self) -> Decay: ...  # noqa: D102

    @property
    def statistics(self) -> bool: ...  # noqa: D102

    def order(self, partition: Partition, number: int, epoch: int) -> np.ndarray:
        """Return the order in which ``epoch`` reads the rows of partition ``number``."""
        ...

    def steps(self, rows: int) -> int:
        """Return the mini-batch steps that ``rows`` rows of one partition make."""
        ...

    def new_noise(self) -> Noise:
        """Return an empty accumulator for `Trainer.train`."""
        ...

    def trainer(self, name: str) -> Trainer:
        """Return what makes the steps of the learner of that name."""
        ...


class Model(LoopModel, Protocol):
    """What is trained.

    Attributes
    ----------
    inner_parallel : bool
        Whether training uses threads of BLAS or OpenMP.
    loss_unit : float
        What an improvement of the loss is measured in.
    exchange_rows : int
        Automatic rounds are no shorter: exchanging would take longer than training.
    """

    @property
    def exchange_rows(self) -> int: ...  # noqa: D102

    @property
    def inner_parallel(self) -> bool: ...  # noqa: D102

    @property
    def loss_unit(self) -> float: ...  # noqa: D102

    def problem(self) -> dict[str, Any]:
        """Return what must be the same where training goes on from a checkpoint, in terms of JSON."""
        ...

    def accept(self, partition: Partition, classes: np.ndarray | None) -> Partition:
        """Return a partition as the trainers read it, its codes those of ``classes``."""
        ...

    def refuse_unseen(self, partition: Partition) -> None:
        """Raise an UnlikeSampleError where it is not made for rows that were not measured."""
        ...

    def predictor(self, state: np.ndarray) -> Callable[[Any], np.ndarray]:
        """Return what turns rows into raw predictions of shape (n_rows, n_problems), float64."""
        ...

    def loss_sum(self, z: np.ndarray, partition: Partition) -> float:
        """Return the weighted sum of the losses of raw predictions, which may be overwritten."""
        ...
