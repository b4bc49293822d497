"""DistributedTorchClassifier and DistributedTorchRegressor."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from torch import nn

from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.schedules import named_schedule
from skdist.control.staleness import StalenessWindow
from skdist.estimators.labels import announced_classes
from skdist.estimators.prefixed import PrefixedMixin
from skdist.estimators.routing import is_collection
from skdist.estimators.scoring import score_on_collections
from skdist.estimators.torch_base import TorchBase
from skdist.estimators.torch_plan import TorchPlan
from skdist.models.model import Decay
from skdist.models.torch.flat import seeded
from skdist.models.torch.losses import Criterion
from skdist.models.torch.model import StepFactor, TorchModel, raw_predictions
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
        self.client = client
        self._take(prefixed)

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
            batch_size=automatic_batch_size(plan.n_rows)
            if self.batch_size == "auto"
            else int(self.batch_size),
            shape=plan.shape,
            schedule=self._schedule(),
            class_weights=plan.class_factors,
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
        outputs = raw_predictions(copy.deepcopy(model.module).float().eval(), inputs, row)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"The module cannot take rows of shape {shape}: {error}. Change the module, reshape rows with "
            "transform=..., or give the module another input_dtype."
        ) from error
    found = outputs.shape[1]
    wanted = {1} if plan.regression else {model.n_classes}
    if not plan.regression and model.criterion.link == "logistic" and model.n_classes == 2:
        wanted = {1}
    if found not in wanted:
        what = "a regression" if plan.regression else f"{model.n_classes} classes"
        raise ValueError(
            f"The module has {found} outputs; for {what} and this criterion it needs {min(wanted)}."
        )


def _estimates_probabilities(estimator: DistributedTorchClassifier) -> bool:
    kind = estimator.criterion if estimator.criterion is not None else estimator._default_criterion
    if Criterion(kind).link is None:
        raise AttributeError(
            f"criterion={kind!r} says nothing of probabilities. Use CrossEntropyLoss, NLLLoss or "
            "BCEWithLogitsLoss."
        )
    return True


class DistributedTorchClassifier(ClassifierMixin, DistributedTorchBase):
    """Any module of torch as a classifier, trained on a Dask cluster or in this process.

    Each learner trains a copy of the module with an optimizer of its own; the engine of
    `DistributedSGDClassifier` exchanges the parameters, with the same modes, adapters, planner, history and
    callbacks.

    Parameters
    ----------
    module : type, callable or nn.Module
        Class of a module, which is made with the parameters ``module__...``, or an instance, which is copied.
        It gives one output for each class.
    criterion : type, nn.Module, callable or None, default=None
        Class of a loss, made with ``criterion__...``; None is ``nn.CrossEntropyLoss``. With ``nn.NLLLoss``
        the module gives log-probabilities, with ``nn.BCEWithLogitsLoss`` one logit for two classes. A
        function ``(outputs, targets)`` must give a loss for each row.
    optimizer : {'sgd', 'adam', 'adamw', 'rmsprop'} or type, default='sgd'
        Of each learner, made with ``optimizer__...``; it keeps its state from visit to visit. The step size
        of SGD is ``optimizer__lr=0.01``.
    learning_rate : {'constant', 'invscaling', 'adaptive'} or callable, default='constant'
        What becomes of the step size: it stays, is divided by ``(1 + t)^power_t`` after t steps, or by 5
        whenever training settles. A function takes t and returns a factor above 0.
    power_t : float, default=0.5
        For 'invscaling'.
    clip_norm : float or None, default=None
        Longer gradients are shortened to this norm.
    max_iter : int, default=10
        Passes over the data at most.
    tol : float or None, default=None
        Training ends when the mean loss of a pass did not get below ``best - tol`` for ``n_iter_no_change``
        passes; None makes all passes.
    batch_size : 'auto' or int, default='auto'
        Rows of a mini-batch step; ``'auto'`` is 64, for small data down to 8.
    transform : callable or None, default=None
        Applied to the rows of a mini-batch, a Tensor on the device, where it is trained on.
    input_dtype : str or None, default='float32'
        What mini-batches are converted to, one by one; the data itself stays as narrow as it is. None leaves
        them alone, ``'int64'`` is for embeddings.
    device : str, default='auto'
        ``'auto'`` is a GPU where a worker has one: learner k of a worker takes GPU k.
    autocast : bool, default=False
        Whether the module computes in bfloat16 where torch finds it safe.
    class_weight : dict, 'balanced' or None, default=None
        Factors of the sample weights by label.
    warm_start : bool, default=False
        Whether `fit` starts from the present parameters.
    shuffle, verbose, n_jobs, random_state, early_stopping, validation_fraction, n_iter_no_change, mode, \
            max_staleness, round_size, rate_adapter, batch_sizer, planner, aggregator, collect, client
        As in `DistributedSGDClassifier`. ``random_state`` seeds initial parameters and dropout too.
    server_momentum : 'auto' or float, default=0.0
        Nesterov momentum of the server, the outer optimizer of DiLoCo (arXiv:2311.08105); 0 is plain
        averaging. ``'auto'`` is that of `DistributedSGDClassifier`.
    **prefixed
        ``module__...``, ``criterion__...`` and ``optimizer__...``.

    Attributes
    ----------
    module_ : nn.Module
        The trained module.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    n_features_in_, feature_names_in_, n_iter_, t_, history_, loss_curve_, validation_scores_, \
            best_validation_score_
        As in `DistributedSGDClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from torch import nn
    >>> from skdist import DistributedTorchClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    >>> clf = DistributedTorchClassifier(net, optimizer="adam", optimizer__lr=0.02, random_state=0)
    >>> clf.set_params(max_iter=30).fit(X, y).score(X, y) > 0.9
    True
    """

    _default_criterion = nn.CrossEntropyLoss

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DistributedTorchBase._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> DistributedTorchClassifier:
        """Train on all rows, but for those that ``early_stopping`` holds out.

        Parameters
        ----------
        X : array-like, sparse, DataFrame, dask Array or dask DataFrame of shape (n_samples, ...)
            Training data, of any number of dimensions. Dask collections stay on the cluster.
        y, sample_weight, X_val, y_val, sample_weight_val
            As in `DistributedSGDClassifier.fit`.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For bad input, and where the module or the criterion does not fit it; the message says what to do.
        skdist.exceptions.DivergedError
            Where the loss is not finite any more.
        """
        self._fit((X, y, sample_weight), self._start(), (X_val, y_val, sample_weight_val))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, classes: np.ndarray | None = None, sample_weight: Any = None
    ) -> DistributedTorchClassifier:
        """Train one pass over some rows, from where the parameters stand; the optimizer begins anew.

        Parameters and errors as in `DistributedSGDClassifier.partial_fit`.

        Returns
        -------
        self
        """
        past = self._past() if hasattr(self, "module_") else None
        known = announced_classes(self, classes)
        self._train(X, y, sample_weight, past=past, max_iter=1, tol=None, going_on=True, classes=known)
        return self

    def predict(self, X: Any) -> Any:
        """Return the most likely label of each row.

        Parameters
        ----------
        X : as in `fit`
            Rows.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples,)
        """
        return self._predict("predict", X)

    @available_if(_estimates_probabilities)
    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, shape (n_samples, n_classes); X as in `fit`."""
        return self._predict("predict_proba", X)

    @available_if(_estimates_probabilities)
    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithm of `predict_proba`."""
        return self._predict("predict_log_proba", X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean accuracy; on Dask collections it is computed on the cluster."""
        if is_collection(X) or is_collection(y):
            return score_on_collections(self, X, y, sample_weight)
        return float(super().score(X, y, sample_weight))


class DistributedTorchRegressor(RegressorMixin, DistributedTorchBase):
    """Any module of torch with one output as a regressor, trained on a Dask cluster or in this process.

    Parameters
    ----------
    module, optimizer, learning_rate, power_t, clip_norm, max_iter, tol, batch_size, transform, input_dtype, \
            device, autocast, warm_start, shuffle, verbose, n_jobs, random_state, early_stopping, \
            validation_fraction, n_iter_no_change, mode, max_staleness, round_size, rate_adapter, \
            batch_sizer, planner, aggregator, collect, server_momentum, client, **prefixed
        As in `DistributedTorchClassifier`; scores are R^2.
    criterion : type, nn.Module, callable or None, default=None
        As there; None is ``nn.MSELoss``.
    class_weight : None
        There are no classes.

    Attributes
    ----------
    module_, n_features_in_, feature_names_in_, n_iter_, t_, history_, loss_curve_, validation_scores_, \
            best_validation_score_
        As in `DistributedTorchClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from skdist import DistributedTorchRegressor
    >>> X = np.linspace(-1, 1, 400).reshape(-1, 1)
    >>> reg = DistributedTorchRegressor(nn.Linear, module__in_features=1, module__out_features=1)
    >>> reg.set_params(random_state=0, optimizer__lr=0.1, max_iter=20).fit(X, 3 * X[:, 0] + 5)
    DistributedTorchRegressor(...)
    >>> reg.predict([[1.0]]).round(1)
    array([8.], dtype=float32)
    """

    _default_criterion = nn.MSELoss

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DistributedTorchBase._parameter_constraints,
        "class_weight": [None],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> DistributedTorchRegressor:
        """Train on all rows; parameters and errors as in `DistributedTorchClassifier.fit`.

        Returns
        -------
        self
        """
        self._fit((X, y, sample_weight), self._start(), (X_val, y_val, sample_weight_val))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> DistributedTorchRegressor:
        """Train one pass over some rows, from where the parameters stand; the optimizer begins anew.

        Returns
        -------
        self
        """
        past = self._past() if hasattr(self, "module_") else None
        self._train(X, y, sample_weight, past=past, max_iter=1, tol=None, going_on=True)
        return self

    def predict(self, X: Any) -> Any:
        """Return the predicted number of each row; X as in `DistributedTorchClassifier.fit`."""
        return self._predict("predict", X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R^2; of Dask collections on the cluster."""
        if is_collection(X) or is_collection(y):
            return score_on_collections(self, X, y, sample_weight)
        return float(super().score(X, y, sample_weight))
