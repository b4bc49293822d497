"""What the estimators of modules of torch share: their parameters, and the model that these describe."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.schedules import named_schedule
from skdist.control.staleness import StalenessWindow
from skdist.estimators.prefixed import PrefixedMixin
from skdist.estimators.torch_base import TorchBase
from skdist.estimators.torch_plan import TorchPlan
from skdist.models.codecs import Codec
from skdist.models.model import Decay
from skdist.models.torch.batches import Inputs
from skdist.models.torch.losses import Criterion
from skdist.models.torch.model import StepFactor, TorchModel
from skdist.models.torch.probing import initialised, probe
from skdist.models.torch.randomness import seeded
from skdist.preparation import automatic_batch_size

if TYPE_CHECKING:
    from distributed import Client

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}

#: Step size of SGD where none is given, as in skorch; other optimizers have one of their own.
SGD_RATE = 0.01


class DistributedTorchBase(PrefixedMixin, TorchBase):
    """What both estimators of modules share; parameters and attributes are those of the estimators."""

    _rows_of_any_shape: ClassVar[bool] = True
    _prefixes = ("module__", "criterion__", "optimizer__")
    _default_criterion: ClassVar[type[nn.Module]]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TorchBase._parameter_constraints,
        "criterion": [None, callable],
        "optimizer": [StrOptions(set(OPTIMIZERS)), callable],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), callable],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "clip_norm": [None, Interval(Real, 0, None, closed="neither")],
        "transform": [None, callable],
        "input_dtype": [None, str],
        "device": [str],
        "autocast": ["boolean"],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        module: Any,
        *,
        criterion: Any = None,
        optimizer: str | type[torch.optim.Optimizer] = "sgd",
        learning_rate: str | Callable[[float], float] = "constant",
        power_t: float = 0.5,
        clip_norm: float | None = None,
        max_iter: int = 10,
        tol: float | None = None,
        batch_size: str | int = "auto",
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        input_dtype: str | None = "float32",
        device: str = "auto",
        autocast: bool = False,
        shuffle: bool = True,
        verbose: int = 0,
        n_jobs: int | None = None,
        random_state: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        class_weight: Any = None,
        warm_start: bool = False,
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
        **prefixed: Any,
    ) -> None:
        self.module = module
        self.criterion = criterion
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.power_t = power_t
        self.clip_norm = clip_norm
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.transform = transform
        self.input_dtype = input_dtype
        self.device = device
        self.autocast = autocast
        self.shuffle = shuffle
        self.verbose = verbose
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
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
        self._take(prefixed)

    def _check_probabilities(self) -> None:
        kind = self.criterion if self.criterion is not None else self._default_criterion
        if Criterion(kind).link is None:
            raise AttributeError(
                f"criterion={kind!r} says nothing of probabilities. Use CrossEntropyLoss, NLLLoss or "
                "BCEWithLogitsLoss."
            )

    def _make_model(self, plan: TorchPlan) -> TorchModel:
        chosen: Any = self.optimizer
        optimizer = OPTIMIZERS[chosen] if isinstance(chosen, str) else chosen
        dtype = None if self.input_dtype is None else getattr(torch, self.input_dtype)
        inputs = Inputs(torch.device("cpu"), dtype, self.transform)
        params = self._params_for("optimizer__")
        if optimizer is torch.optim.SGD:
            params.setdefault("lr", SGD_RATE)
        model = TorchModel(
            seeded(lambda: initialised(self._make_module(), inputs, plan.shape), plan.seed),
            self._make_criterion(plan.regression),
            optimizer,
            params,
            n_classes=0 if plan.classes is None else len(plan.classes),
            batch_size=plan.batch_rows(self.batch_size, automatic_batch_size(plan.n_rows)),
            shape=plan.shape,
            schedule=self._schedule(),
            class_weights=plan.class_factors,
            weight_unit=plan.mean_weight,
            clip_norm=self.clip_norm,
            transform=self.transform,
            dtype=dtype,
            device=self.device,
            autocast=self.autocast,
            shuffle=self.shuffle,
            seed=plan.seed,
        )
        seeded(lambda: probe(model), plan.seed)
        return model

    def _check_combinations(self) -> None:
        super()._check_combinations()
        if torch.is_inference_mode_enabled():
            raise ValueError("Nothing can be trained within torch.inference_mode(). Call fit outside of it.")
        name = self.input_dtype
        if name is not None and not isinstance(getattr(torch, name, None), torch.dtype):
            raise ValueError(f"input_dtype={name!r} is no dtype of torch. Use 'float32', 'int64' or another.")

    def _make_criterion(self, regression: bool) -> Criterion:
        kind, params = self.criterion, self._params_for("criterion__")
        kind = kind if kind is not None else self._default_criterion
        if params and not inspect.isclass(kind):
            raise ValueError(
                f"criterion is no class, so {sorted(params)} cannot be given to it. Pass its class, or set "
                "them where it is made."
            )
        if "reduction" in params:
            raise ValueError(
                "criterion__reduction cannot be chosen: rows have weights, so each has a loss of its own, "
                "and a step follows their mean."
            )
        return Criterion(kind, params, regression=regression)

    def _make_module(self) -> nn.Module:
        params = self._params_for("module__")
        if isinstance(self.module, nn.Module):
            if params:
                raise ValueError(
                    f"module is an instance, so {sorted(params)} cannot be given to it. Pass its "
                    "class, or set them where it is made."
                )
            return copy.deepcopy(self.module)
        if not callable(self.module):
            raise TypeError(f"module must be a torch.nn.Module or its class, got {self.module!r}.")
        made = self.module(**params)
        if not isinstance(made, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, its class, or make one; it gave {made!r}.")
        return made

    def _schedule(self) -> Decay:
        if callable(self.learning_rate):
            return StepFactor(self.learning_rate)
        # Rates relative to the optimizer's own.
        return named_schedule(
            self.learning_rate, eta0=1.0, power_t=self.power_t, alpha=1.0, average_from=np.inf
        )
