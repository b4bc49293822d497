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

from skdist.compression import Codec
from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.schedules import named_schedule
from skdist.control.staleness import StalenessWindow
from skdist.estimators.prefixed import PrefixedMixin
from skdist.estimators.torch_base import TorchBase
from skdist.estimators.torch_plan import TorchPlan
from skdist.models.model import Decay
from skdist.models.torch.flat import seeded
from skdist.models.torch.losses import Criterion
from skdist.models.torch.model import StepFactor, TorchModel
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
        params = self._params_for("optimizer__")
        if optimizer is torch.optim.SGD:
            params.setdefault("lr", SGD_RATE)
        criterion = self.criterion if self.criterion is not None else self._default_criterion
        model = TorchModel(
            seeded(self._make_module, plan.seed),
            Criterion(criterion, self._params_for("criterion__"), regression=plan.regression),
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
            dtype=None if self.input_dtype is None else getattr(torch, self.input_dtype),
            device=self.device,
            autocast=self.autocast,
            shuffle=self.shuffle,
            seed=plan.seed,
        )
        _probe(model, plan)
        return model

    def _make_module(self) -> nn.Module:
        params = self._params_for("module__")
        if isinstance(self.module, nn.Module):
            if params:
                raise ValueError(
                    f"module is an instance, so {sorted(params)} cannot be given to it. Pass its "
                    "class, or set them where it is made."
                )
            return copy.deepcopy(self.module)
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


def _probe(model: TorchModel, plan: TorchPlan) -> None:
    """Run the module on a row of zeros, and refuse outputs that are not as many as the criterion needs."""
    if not (inspect.isclass(model.optimizer) and issubclass(model.optimizer, torch.optim.Optimizer)):
        raise TypeError(f"optimizer must be a class of torch.optim, got {model.optimizer!r}.")
    closure = inspect.signature(model.optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer={model.optimizer.__name__} evaluates the loss several times for a step. Use one "
            "that steps along a gradient, such as 'sgd' or 'adam'."
        )
    shape, inputs = plan.shape, model.inputs(torch.device("cpu"))
    row = torch.zeros((1, *shape)).to(torch.float32).numpy()
    try:
        with torch.inference_mode():
            outputs = copy.deepcopy(model.module).float().eval()(inputs(row))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"The module cannot take rows of shape {shape}: {error}. Change the module, reshape rows with "
            "transform=..., or give the module another input_dtype."
        ) from error
    if not isinstance(outputs, torch.Tensor):
        raise ValueError(f"The module must return one tensor, it returned a {type(outputs).__name__}.")
    wanted = 1 if plan.regression else model.n_classes
    if model.criterion.link == "logistic" and model.n_classes == 2:
        wanted = 1
    if outputs.numel() != wanted:
        what = "a regression" if plan.regression else f"{model.n_classes} classes"
        raise ValueError(
            f"The module has {outputs.numel()} outputs; for {what} and this criterion it needs {wanted}."
        )
    try:
        model.criterion.compare(model.criterion.make(), outputs.float(), model.criterion.targets(np.zeros(1)))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"criterion={model.criterion.name} cannot compare outputs of shape (n, "
            f"{', '.join(map(str, outputs.shape[1:]))}) with "
            f"{'numbers' if plan.regression else 'class codes, integers from 0 on'}: {error}. Use "
            "CrossEntropyLoss, NLLLoss or BCEWithLogitsLoss for classes and MSELoss for numbers, or a "
            "function (outputs, targets) of your own that gives a loss for each row."
        ) from error
