"""Linear models: a state array, and what training does to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import safe_sparse_dot

from skdist.control.schedules import PASSIVE_AGGRESSIVE_1, Schedule
from skdist.exceptions import DivergedError, UnlikeSampleError
from skdist.models.columns import digest_of, narrowed, spread, table_of
from skdist.models.compact import received, sent
from skdist.models.compile import as_input
from skdist.models.dense_kernels import dense_steps
from skdist.models.kernels import working_memory
from skdist.models.loss_kernels import fill_gradients, gradient_filler
from skdist.models.losses import LOSSES, NO_CLASS
from skdist.models.measuring import refuse_infinite
from skdist.models.moments import Moments
from skdist.models.noise import GradientNoise
from skdist.models.partition import Partition, epoch_order
from skdist.models.sparse_kernels import sparse_steps

#: The average of adaptive schedules weighs the iterate after t steps by about this power of t.
AVERAGE_POWER = 8.0

#: A state of so many bytes is in no cache; exchanging a smaller one costs little more than the round trip.
#: Learner and server together copy and add a large one about so many times as often as a sweep goes over it.
LARGE_STATE, EXCHANGE_TOUCHES = 4 << 20, 4

#: Where the state is large, another learner pays if all have the rows of so many exchanges in an epoch.
EXCHANGES_TO_PAY = 8


@dataclass(frozen=True)
class LinearModel:
    """``n_problems`` linear problems over the same rows: one, or one per class.

    Conventions
    -----------
    ``state`` has shape (n_states, n_problems, width + 1) for dense rows and (n_states, width + 1,
    n_problems) for sparse ones, with a width of ``n_features`` or ``len(columns)``: the iterate, under
    averaging its running average, and with an l1 penalty the running average of the gradients, see
    `coefficients`.

    Attributes
    ----------
    loss : str
        Key of `skdist.models.losses.LOSSES`.
    n_classes, n_features : int
        Size of the problem; two classes are one problem, and so is a regression, which has none.
    columns : ndarray or None
        Of sparse rows: the features that have coefficients, ascending; the others' are 0. All where None.
    l1, l2 : float
        Strengths of the penalties ``l1 |w|_1 + l2 / 2 |w|^2``.
    fit_intercept : bool
        Whether the intercept moves.
    batch_size : int
        Rows of a step.
    schedule : Schedule
        Step sizes and averaging.
    scale, center : ndarray of shape (width,)
        See `skdist.models.kernels`.
    dtype : dtype
        Of rows and state.
    sparse : bool
        Which of the two layouts.
    epsilon : float
        Of the losses that have one.
    class_weights : ndarray of shape (n_classes,) or (0,)
        Factors of the sample weights by class; none where empty.
    final_pace : ndarray of shape (width,) or (0,)
        Step sizes of the last proximal step, see `coefficients`; only with an l1 penalty.
    loss_unit : float
        What an improvement of the loss is measured in.
    share : ndarray of shape (width,) or (0,)
        Part of the penalties of a coefficient that a row takes by its weight; sparse only, see
        `skdist.models.sparse_kernels.sparse_steps`.
    sweep : int
        Steps between two looks at all coefficients; sparse only.
    shuffle : bool
        Whether `order` shuffles.
    seed : int
        For `order`.
    inner_parallel : bool
        Whether training uses threads of BLAS or OpenMP; it does not.
    statistics : bool
        Whether further members are statistics; they are averages of iterates.
    """

    inner_parallel: ClassVar[bool] = False
    statistics: ClassVar[bool] = False

    loss: str
    n_classes: int
    n_features: int
    l1: float
    l2: float
    fit_intercept: bool
    batch_size: int
    schedule: Schedule
    scale: np.ndarray
    center: np.ndarray
    dtype: np.dtype
    sparse: bool
    epsilon: float = 0.0
    class_weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    final_pace: np.ndarray = field(default_factory=lambda: np.zeros(0))
    loss_unit: float = 1.0
    columns: np.ndarray | None = None
    share: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sweep: int = 1
    shuffle: bool = True
    seed: int = 0

    def __getstate__(self) -> dict[str, Any]:
        return sent({each.name: getattr(self, each.name) for each in fields(self)})  # nothing that is cached

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(received(state))

    def problem(self) -> dict[str, Any]:
        """Return what must be the same where training goes on from a checkpoint, in terms of JSON."""
        return {
            "features": self.n_features,
            "dtype": str(self.dtype),
            "sparse": bool(self.sparse),
            "members": list(self.members),
            "columns": None if self.columns is None else digest_of(self.columns),
        }

    @property
    def n_problems(self) -> int:
        """Number of problems."""
        return 1 if self.n_classes in (0, 2) else self.n_classes

    @property
    def width(self) -> int:
        """Number of features that have coefficients."""
        return self.n_features if self.columns is None else len(self.columns)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members of the state."""
        return ("iterate", *(["average"] if self.averaged else []), *(["slopes"] if self.l1 > 0 else []))

    @property
    def n_states(self) -> int:
        """Number of members of the state."""
        return len(self.members)

    @property
    def averaged(self) -> bool:
        """Whether the state carries an average."""
        return math.isfinite(self.schedule.average_from)

    @property
    def exchange_rows(self) -> int:
        """Rows whose training touches as much memory as an exchange of the state, roughly."""
        rows = self.batch_size * (self.sweep if self.sparse else 1)
        return rows * EXCHANGE_TOUCHES if self._large else rows

    @property
    def learner_rows(self) -> int:
        """Rows of an epoch that each learner should have, or exchanges take longer than they save."""
        return EXCHANGES_TO_PAY * self.exchange_rows if self._large else 1

    @property
    def _large(self) -> bool:
        nbytes = self.n_states * self.n_problems * (self.width + 1) * np.dtype(self.dtype).itemsize
        return self.sparse and nbytes >= LARGE_STATE

    @cached_property
    def _least(self) -> float:
        """The least weight of an average: smaller ones would be lost in the precision of the numbers."""
        return 1000.0 * float(np.finfo(self.dtype).eps)

    @cached_property
    def _table(self) -> np.ndarray:
        assert self.columns is not None
        return table_of(self.columns, self.n_features)

    @property
    def _positive(self) -> int:
        """The code that problem 0 calls +1; see `skdist.models.loss_kernels`."""
        if not self.n_classes:
            return NO_CLASS
        return 1 if self.n_problems == 1 else 0

    def initial_state(
        self, coef: np.ndarray | None = None, intercept: np.ndarray | None = None
    ) -> np.ndarray:
        """Return a state that starts from zeros or from given coefficients.

        Parameters
        ----------
        coef : ndarray of shape (n_problems, n_features), optional
        intercept : ndarray of shape (n_problems,), optional
        """
        shape = self.n_problems, self.width + 1
        state = np.zeros((self.n_states, *(shape[::-1] if self.sparse else shape)), self.dtype)
        blocks = (state.transpose(0, 2, 1) if self.sparse else state)[: 1 + self.averaged]
        if coef is not None:
            blocks[..., :-1] = coef if self.columns is None else coef[:, self.columns]
        if intercept is not None:
            blocks[..., -1] = intercept
        return state

    def pack(self, states: np.ndarray) -> np.ndarray:
        """Return the state of arrays of shape (n_states, n_problems, width + 1)."""
        return np.array(states.transpose(0, 2, 1) if self.sparse else states, order="C")

    def unpack(self, state: np.ndarray) -> np.ndarray:
        """Return the arrays of shape (n_states, n_problems, width + 1) of a state, which share its memory."""
        return state.transpose(0, 2, 1) if self.sparse else state

    def coefficients(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``coef`` (n_problems, n_features) and ``intercept`` (n_problems,) to predict with.

        The mean of many sparse iterates is not sparse. So an l1 penalty takes one more proximal step from
        there, with the mean of the gradients: coefficients that only noise holds away from zero are zero.
        """
        states = state.transpose(0, 2, 1) if self.sparse else state
        block = states[int(self.averaged)]
        known = np.array(block[:, :-1], order="C")  # of their own: users may change them
        if self.l1 > 0:
            slopes, pace = states[-1][:, :-1], self.final_pace
            moved = known - pace * (slopes + self.l2 * known)
            known = np.copysign(np.maximum(abs(moved) - pace * self.l1, 0), moved) + self.dtype.type(0)
        return spread(known, self.columns, None, self.n_features), block[:, -1].copy()

    def accept(self, partition: Partition, classes: np.ndarray | None) -> Partition:
        """Return a partition in the layout and dtype of the model, its codes those of ``classes``."""
        rows = partition.X
        if self.sparse and not sp.issparse(rows):
            refuse_infinite(rows, partition.weights)  # steps on sparse rows would not show it
            rows = sp.csr_array(rows.astype(self.dtype, copy=False))
        elif sp.issparse(rows) and not self.sparse:
            rows = np.ascontiguousarray(rows.toarray(), dtype=self.dtype)
        if self.columns is not None:
            rows = narrowed(rows, self.columns, self._table)
        partition = partition.globally(classes)
        targets = partition.targets
        return replace(
            partition,
            X=rows.astype(self.dtype, copy=False),
            targets=targets if self.n_classes else targets.astype(self.dtype, copy=False),
            weights=partition.weights.astype(self.dtype, copy=False),
        )

    def refuse_unseen(self, partition: Partition) -> None:
        """Raise where a feature of these rows was constant in those that were measured: nothing trains it.

        Raises
        ------
        UnlikeSampleError
            In that case.
        """
        rows = partition.X
        if sp.issparse(rows):
            seen = np.zeros(self.n_features, dtype=bool)
            seen[slice(None) if self.columns is None else self.columns] = self.scale > 0
            unseen = np.unique(rows.indices[~seen[rows.indices] & (rows.data != 0)])
        else:
            still = np.flatnonzero(self.scale == 0)
            values = rows[:, still].astype(np.float64)
            # The same bound as where the scale comes from: what is left of a constant after rounding.
            noise = np.finfo(np.float32).eps * abs(values).max(axis=0, initial=0.0)
            spread = np.sqrt(np.square(values - self.center[still]).mean(axis=0)) if len(values) else noise
            unseen = still[spread > noise]
        if len(unseen):
            raise UnlikeSampleError(f"{len(unseen)} features vary here that did not in the sample.")

    def order(self, partition: Partition, number: int, epoch: int) -> np.ndarray:
        """Return the order in which ``epoch`` reads the rows of partition ``number``."""
        return epoch_order(partition, (self.seed, epoch, number) if self.shuffle else None)

    def trainer(self, name: str) -> LinearModel:
        """Return what makes the steps of a learner: they need nothing that lasts."""
        return self

    def predictor(self, state: np.ndarray) -> Callable[[Any], np.ndarray]:
        """Return what turns rows into raw predictions of shape (n_rows, n_problems), float64."""
        coef, intercept = self.coefficients(state)

        def predict(X: Any) -> np.ndarray:
            return np.asarray(safe_sparse_dot(X, coef.T, dense_output=True) + intercept, dtype=np.float64)

        return predict

    def loss_sum(self, z: np.ndarray, partition: Partition) -> float:
        """Return the weighted sum of the losses of raw predictions, as `train` does; overwrites ``z``.

        Parameters
        ----------
        z : ndarray of shape (n_rows, n_problems), float64
        partition : Partition
            The rows, all of them.
        """
        loss = LOSSES[self.loss]
        # Writable, as what the other kernels give to the filler.
        targets = np.require(partition.targets, None, ["C", "W"])
        weights = np.require(partition.weights, z.dtype, ["C", "W"])
        total = fill_gradients(
            self._filler(z.dtype, targets.dtype), loss.code, self.epsilon,
            np.ascontiguousarray(z), np.empty(z.shape), targets, weights,
            as_input(self.class_weights), self._positive,
        )  # fmt: skip
        return float(total) / (1 if loss.joint else self.n_problems)

    def _filler(self, dtype: np.dtype, target_dtype: np.dtype) -> Any:
        """Return the function that fills in gradients of predictions and targets of some types."""
        alone = self.n_problems == 1 and not len(self.class_weights)
        return gradient_filler(LOSSES[self.loss].code, dtype, target_dtype, alone)

    def steps(self, rows: int) -> int:
        """Return the mini-batch steps that ``rows`` rows of one partition make, the last may be short."""
        return -(-rows // self.batch_size)

    def new_noise(self) -> GradientNoise:
        """Return an empty accumulator for `train`."""
        width = self.width + 1
        return GradientNoise((width, self.n_problems) if self.sparse else (self.n_problems, width))

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
        state : ndarray
            Changed in place.
        partition : Partition
            The rows.
        order : ndarray of int32
            From `order`.
        start, stop : int
            ``start`` is a multiple of the batch size, and so is ``stop`` unless it is the end.
        t : float
            Steps made before.
        noise : GradientNoise, optional
            Takes in the gradients of the steps. The state ends the same with it and without.
        rate : float
            Factor of the step sizes.

        Raises
        ------
        DivergedError
            Where the loss is not finite any more, or coefficients of dense rows.
        """
        schedule, averaged = self.schedule, self.averaged
        average_from = schedule.average_from if averaged else 0.0
        power = AVERAGE_POWER if schedule.adaptive or not averaged else 0.0
        targets, weights, X = as_input(partition.targets), as_input(partition.weights), partition.X
        order, scale, center = as_input(order), as_input(self.scale), as_input(self.center)
        loss, class_weights = LOSSES[self.loss], as_input(self.class_weights)
        fill = self._filler(self.dtype, targets.dtype)
        # numba leaves out of a kernel what it gets None for: a common one has half the code to compile.
        passive = schedule.code if schedule.code >= PASSIVE_AGGRESSIVE_1 else None
        l1 = self.l1 if self.l1 > 0 else None
        sums, squares = (None, None) if noise is None else (noise.sums, noise.squares)
        memory = working_memory(self.batch_size, self.n_problems, self.dtype, targets.dtype)
        if self.sparse:
            total = sparse_steps(
                as_input(X.data), as_input(X.indices), as_input(X.indptr), targets, weights,
                order, start, stop, self.batch_size, state[..., 0] if self.n_problems == 1 else state,
                float(t), fill, loss.code, self.epsilon, class_weights, self._positive, l1, self.l2,
                self.fit_intercept, scale, as_input(self.share), schedule.code, passive,
                schedule.eta0 * rate, schedule.parameter, averaged, power, average_from, self._least,
                self.sweep, sums, squares, *memory,
            )  # fmt: skip
        else:
            total = dense_steps(
                as_input(X), targets, weights,
                order, start, stop, self.batch_size, state, float(t), fill,
                loss.code, self.epsilon, class_weights, self._positive, l1, self.l2,
                self.fit_intercept, scale, center, schedule.code, passive,
                schedule.eta0 * rate, schedule.parameter, averaged, power, average_from, self._least, sums,
                squares, *memory, np.empty((self.n_problems, self.n_features), self.dtype),
            )  # fmt: skip
        if noise is not None:
            noise.steps += self.steps(stop - start)
        # The loss is that before each step; the last step on dense rows shows in the coefficients alone.
        if not (math.isfinite(total) and (self.sparse or np.isfinite(state[0]).all())):
            raise DivergedError(
                "Training diverged: the loss, or a coefficient, is not finite. Lower the step size "
                "(AutoRate(scale=...) or eta0)."
            )
        return float(total) / (1 if loss.joint else self.n_problems)


def sweep_interval(moments: Moments, batch_size: int) -> int:
    """Return the steps between two sweeps over all coefficients of a sparse model.

    A sweep then costs at most about a quarter of the steps between two.
    """
    touched = batch_size * max(moments.stored / max(moments.rows, 1), 1.0)
    return max(1, math.ceil(4 * len(moments.mean) / touched))
