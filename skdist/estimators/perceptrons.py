"""What the perceptrons share: their parameters, and the model that these describe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, Options, StrOptions
from torch import nn

from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.schedules import PassSchedule, named_schedule
from skdist.control.staleness import StalenessWindow
from skdist.estimators.plan import Plan
from skdist.estimators.torch_base import TorchBase
from skdist.estimators.torch_plan import TorchPlan
from skdist.models.codecs import Codec
from skdist.models.model import Decay
from skdist.models.torch.losses import Criterion, half_poisson_deviance, half_squared_error
from skdist.models.torch.mlp import MLPModel, perceptron
from skdist.models.torch.randomness import seeded

if TYPE_CHECKING:
    from distributed import Client

#: Rows of a step for ``batch_size='auto'``, at most.
MOST_AUTOMATIC_BATCH = 200

#: Multiplications of a step, forwards, from which on threads of torch help more than they cost.
LEAST_PRODUCTS = 5_000_000

#: Losses of a regression.
REGRESSIONS: dict[str, Any] = {"squared_error": half_squared_error, "poisson": half_poisson_deviance}

#: What scikit-learn calls the function of the outputs that predicts.
OUT_ACTIVATIONS: dict[Any, str] = {
    half_squared_error: "identity",
    half_poisson_deviance: "exp",
    nn.BCEWithLogitsLoss: "logistic",
    nn.CrossEntropyLoss: "softmax",
}


class DistributedMLPBase(TorchBase):
    """What both perceptrons share; parameters and attributes are those of the estimators."""

    loss: str

    _row_dtypes: ClassVar[list[Any]] = [np.float32, np.float16, np.uint8, np.int8, np.bool_]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TorchBase._parameter_constraints,
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"identity", "logistic", "tanh", "relu"})],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: str | int = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float | None = 1e-4,
        verbose: int = 0,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15_000,
        class_weight: Any = None,
        device: str = "auto",
        n_jobs: int | None = None,
        mode: str = "async",
        max_staleness: int = 2,
        round_size: str | int = "auto",
        rate_adapter: str | StalenessWindow | None = "auto",
        batch_sizer: str | LatencyBatchSizer | None = "auto",
        planner: str | PressurePlanner | None = "auto",
        aggregator: str | InverseVolatility | None = "auto",
        collect: str | int = "auto",
        server_momentum: str | float = 0.0,
        compression: str | Codec | None = None,
        n_servers: int = 1,
        client: Client | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.class_weight = class_weight
        self.device = device
        self.n_jobs = n_jobs
        self.mode = mode
        self.max_staleness = max_staleness
        self.round_size = round_size
        self.rate_adapter = rate_adapter
        self.batch_sizer = batch_sizer
        self.planner = planner
        self.aggregator = aggregator
        self.collect = collect
        self.server_momentum = server_momentum
        self.compression = compression
        self.n_servers = n_servers
        self.client = client

    @property
    def _adaptive(self) -> bool:
        return self.solver == "sgd" and self.learning_rate == "adaptive"

    def _check_combinations(self) -> None:
        if self.solver == "lbfgs":
            raise ValueError(
                "solver='lbfgs' needs the loss of all rows, several times, for each step: nothing that "
                "learners could do apart. Use 'adam' or 'sgd', or scikit-learn's own for small data."
            )
        super()._check_combinations()

    def _criterion(self, classes: np.ndarray | None) -> Criterion:
        """Return the loss for these labels."""
        if classes is None:
            return Criterion(REGRESSIONS[self.loss], regression=True)
        return Criterion(nn.BCEWithLogitsLoss if len(classes) == 2 else nn.CrossEntropyLoss)

    def _make_model(self, plan: TorchPlan) -> MLPModel:
        hidden: Any = self.hidden_layer_sizes
        units = [hidden] if isinstance(hidden, Integral) else list(hidden)
        if any(not isinstance(width, Integral) or width < 1 for width in units):
            raise ValueError(
                f"hidden_layer_sizes={hidden!r} must be integers of at least 1, one for each layer."
            )
        outputs = 1 if plan.classes is None or len(plan.classes) == 2 else len(plan.classes)
        sizes = [*plan.shape, *map(int, units), outputs]
        batch = plan.batch_rows(self.batch_size, min(MOST_AUTOMATIC_BATCH, plan.n_rows))
        rate = float(self.learning_rate_init)
        optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
        nesterov = bool(self.nesterovs_momentum and self.momentum)
        params: dict[str, Any] = {"lr": rate, "momentum": self.momentum, "nesterov": nesterov}
        if self.solver == "adam":
            optimizer = torch.optim.Adam
            params = {"lr": rate, "betas": (self.beta_1, self.beta_2), "eps": self.epsilon}
        return MLPModel(
            seeded(lambda: perceptron(sizes, self.activation), plan.seed),
            self._criterion(plan.classes),
            optimizer,
            params,
            n_classes=0 if plan.classes is None else len(plan.classes),
            batch_size=batch,
            shape=plan.shape,
            schedule=self._schedule(plan.n_rows, batch),
            class_weights=plan.class_factors,
            weight_unit=plan.mean_weight,
            l2=float(self.alpha),
            device=self.device,
            shuffle=self.shuffle,
            seed=plan.seed,
            activation=self.activation,
            inner_parallel=plan.alone and batch * sum(map(math.prod, pairwise(sizes))) >= LEAST_PRODUCTS,
        )

    def _schedule(self, n_rows: int, batch_size: int) -> Decay:
        name = self.learning_rate if self.solver == "sgd" else "constant"
        if name == "invscaling":
            return PassSchedule(n_rows, -(-n_rows // batch_size), float(self.power_t))
        return named_schedule(
            name,
            eta0=float(self.learning_rate_init),
            power_t=self.power_t,
            alpha=self.alpha,
            average_from=np.inf,
        )

    def _time(self, clock: float) -> float:
        return sum(epoch.rows for epoch in self.history_.epochs)

    def _fitted(self, plan: Plan, state: np.ndarray) -> dict[str, Any]:
        fitted = super()._fitted(plan, state)
        link = OUT_ACTIVATIONS[self._criterion(plan.classes).kind]
        return {**fitted, "out_activation_": link}

    def _about_module(self, module: nn.Module) -> dict[str, Any]:
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        return {
            **super()._about_module(module),
            "coefs_": [layer.weight.detach().numpy().T.copy() for layer in layers],
            "intercepts_": [layer.bias.detach().numpy().copy() for layer in layers],
            "n_layers_": len(layers) + 1,
            "n_outputs_": layers[-1].out_features,
        }

    @property
    def loss_(self) -> float:
        """Mean training loss of the last pass."""
        return self.loss_curve_[-1]

    @property
    def best_loss_(self) -> float | None:
        """Lowest mean training loss of a pass; None with early stopping, as in scikit-learn."""
        return None if self.early_stopping else min(self.loss_curve_)
