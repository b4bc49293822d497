"""DistributedMLPClassifier and DistributedMLPRegressor."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.schedules import named_schedule
from skdist.control.staleness import StalenessWindow
from skdist.estimators.labels import announced_classes
from skdist.estimators.plan import Plan
from skdist.estimators.routing import is_collection
from skdist.estimators.scoring import score_on_collections
from skdist.estimators.torch_base import TorchBase
from skdist.estimators.torch_plan import TorchPlan
from skdist.models.torch.flat import seeded
from skdist.models.torch.losses import Criterion
from skdist.models.torch.mlp import MLPModel, half_squared_error, perceptron

if TYPE_CHECKING:
    from distributed import Client

#: Rows of a step for ``batch_size='auto'``, at most.
MOST_AUTOMATIC_BATCH = 200


class DistributedMLPBase(TorchBase):
    """What both perceptrons share; parameters and attributes are those of the estimators."""

    _row_dtypes: ClassVar[list[Any]] = [np.float32, np.float16, np.uint8, np.int8, np.bool_]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **TorchBase._parameter_constraints,
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"identity", "logistic", "tanh", "relu"})],
        "solver": [StrOptions({"sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
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
        n_iter_no_change: int = 10,
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
        self.client = client

    def _criterion(self, classes: np.ndarray | None) -> Criterion:
        """Return the loss for these labels."""
        if classes is None:
            return Criterion(half_squared_error, regression=True)
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
        batch = min(MOST_AUTOMATIC_BATCH, plan.n_rows) if self.batch_size == "auto" else int(self.batch_size)
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
            schedule=named_schedule(
                self.learning_rate if self.solver == "sgd" else "constant",
                eta0=rate, power_t=self.power_t, alpha=self.alpha, average_from=np.inf,
            ),
            class_weights=plan.class_factors,
            l2=float(self.alpha),
            device=self.device,
            shuffle=self.shuffle,
            seed=plan.seed,
            activation=self.activation,
        )  # fmt: skip

    def _fitted(self, plan: Plan, state: np.ndarray) -> dict[str, Any]:
        fitted = super()._fitted(plan, state)
        layers = [layer for layer in fitted["module_"] if isinstance(layer, nn.Linear)]
        regression = plan.classes is None
        link = "identity" if regression else "softmax" if layers[-1].out_features > 1 else "logistic"
        return {
            **fitted,
            "coefs_": [layer.weight.detach().numpy().T.copy() for layer in layers],
            "intercepts_": [layer.bias.detach().numpy().copy() for layer in layers],
            "n_layers_": len(layers) + 1,
            "n_outputs_": layers[-1].out_features,
            "out_activation_": link,
        }

    @property
    def loss_(self) -> float:
        """Mean training loss of the last pass."""
        return self.loss_curve_[-1]

    @property
    def best_loss_(self) -> float | None:
        """Lowest mean training loss of a pass; None with early stopping, as in scikit-learn."""
        return None if self.early_stopping else min(self.loss_curve_)


class DistributedMLPClassifier(ClassifierMixin, DistributedMLPBase):
    """A multilayer perceptron trained on a Dask cluster, or in this process.

    A drop-in for `sklearn.neural_network.MLPClassifier`: the same architecture, initialisation, loss and
    solvers, in float32, on the engine of `DistributedSGDClassifier`.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of each hidden layer.
    activation : {'identity', 'logistic', 'tanh', 'relu'}, default='relu'
        Of the hidden layers.
    solver : {'sgd', 'adam'}, default='adam'
        Of each learner, which keeps momentum and second moments from visit to visit. ``'lbfgs'``, which needs
        all rows for a step, there is not.
    alpha : float, default=0.0001
        Strength of the l2 penalty on the weights, divided by the rows of a mini-batch as in scikit-learn.
    batch_size : 'auto' or int, default='auto'
        Rows of a mini-batch step; ``'auto'`` is ``min(200, n_samples)``.
    learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
        For ``solver='sgd'``: ``learning_rate_init``; ``learning_rate_init / (1 + t)^power_t`` with t counting
        steps; divided by 5 whenever training settles.
    learning_rate_init : float, default=0.001
        The first step size.
    power_t : float, default=0.5
        Exponent of 'invscaling'.
    max_iter : int, default=200
        Passes over the data at most.
    shuffle : bool, default=True
        Whether to visit partitions and rows in another order in each pass.
    random_state : int, RandomState or None, default=None
        Seed of the initial weights and of the order of the rows.
    tol : float or None, default=1e-4
        Training ends when the mean loss of a pass, without the penalty, did not get below ``best - tol`` for
        ``n_iter_no_change`` passes; None makes all passes.
    verbose : int, default=0
        1 prints progress.
    warm_start : bool, default=False
        Whether `fit` starts from the present weights.
    momentum : float, default=0.9
        For ``solver='sgd'``, in [0, 1].
    nesterovs_momentum : bool, default=True
        Whether it is Nesterov's.
    early_stopping : bool, default=False
        Whether training stops by the accuracy on validation rows; the weights with the best one are kept.
    validation_fraction : float, default=0.1
        Share of the rows that early stopping holds out.
    beta_1, beta_2, epsilon : float, default=0.9, 0.999, 1e-8
        For ``solver='adam'``.
    n_iter_no_change : int, default=10
        Passes without improvement before training ends.
    class_weight : dict, 'balanced' or None, default=None
        Factors of the sample weights by label.
    device : str, default='auto'
        Of torch; ``'auto'`` is a GPU where a worker has one.
    n_jobs, mode, max_staleness, round_size, rate_adapter, batch_sizer, planner, aggregator, collect, \
            server_momentum, client
        As in `DistributedSGDClassifier`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels.
    coefs_, intercepts_ : list of ndarray
        Weights of shape (n_inputs, n_units) and biases of each layer.
    module_ : nn.Sequential
        The same, as a module of torch.
    n_layers_, n_outputs_, out_activation_
        As in scikit-learn.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where X has string names.
    n_iter_ : int
        Passes made.
    t_ : float
        Mini-batch steps made plus 1.
    loss_, best_loss_, loss_curve_
        Mean training losses of the passes, without the penalty.
    history_ : History
        What happened.
    validation_scores_, best_validation_score_
        As in `DistributedSGDClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skdist import DistributedMLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistributedMLPClassifier((16,), learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> clf.score(X, y) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DistributedMLPBase._parameter_constraints,
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
    ) -> DistributedMLPClassifier:
        """Train on all rows, but for those that ``early_stopping`` holds out.

        Parameters and errors as in `DistributedSGDClassifier.fit`.

        Returns
        -------
        self
        """
        self._fit((X, y, sample_weight), self._start(), (X_val, y_val, sample_weight_val))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, classes: np.ndarray | None = None, sample_weight: Any = None
    ) -> DistributedMLPClassifier:
        """Train one pass over some rows, from where the weights stand; the solver begins anew.

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
        X : array-like, sparse, DataFrame, dask Array or dask DataFrame of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples,)
        """
        return self._predict("predict", X)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, shape (n_samples, n_classes); X as in `predict`."""
        return self._predict("predict_proba", X)

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithm of `predict_proba`."""
        return self._predict("predict_log_proba", X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean accuracy; on Dask collections it is computed on the cluster."""
        if is_collection(X) or is_collection(y):
            return score_on_collections(self, X, y, sample_weight)
        return float(super().score(X, y, sample_weight))


class DistributedMLPRegressor(RegressorMixin, DistributedMLPBase):
    """A multilayer perceptron for regression, trained on a Dask cluster or in this process.

    A drop-in for `sklearn.neural_network.MLPRegressor`, for one target.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, \
            max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, \
            early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, device, n_jobs, \
            mode, max_staleness, round_size, rate_adapter, batch_sizer, planner, aggregator, collect, \
            server_momentum, client
        As in `DistributedMLPClassifier`; scores are R^2.
    class_weight : None
        There are no classes.

    Attributes
    ----------
    coefs_, intercepts_, module_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_, \
            n_iter_, t_, loss_, best_loss_, loss_curve_, history_, validation_scores_, best_validation_score_
        As in `DistributedMLPClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from skdist import DistributedMLPRegressor
    >>> X = np.random.default_rng(0).uniform(-1, 1, (500, 1))
    >>> y = np.sin(3 * X[:, 0])
    >>> reg = DistributedMLPRegressor((32,), learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> reg.score(X, y) > 0.95
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DistributedMLPBase._parameter_constraints,
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
    ) -> DistributedMLPRegressor:
        """Train on all rows; parameters and errors as in `DistributedSGDRegressor.fit`.

        Returns
        -------
        self
        """
        self._fit((X, y, sample_weight), self._start(), (X_val, y_val, sample_weight_val))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> DistributedMLPRegressor:
        """Train one pass over some rows, from where the weights stand; the solver begins anew.

        Returns
        -------
        self
        """
        past = self._past() if hasattr(self, "module_") else None
        self._train(X, y, sample_weight, past=past, max_iter=1, tol=None, going_on=True)
        return self

    def predict(self, X: Any) -> Any:
        """Return the predicted number of each row; X as in `DistributedMLPClassifier.predict`."""
        return self._predict("predict", X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R^2; of Dask collections on the cluster."""
        if is_collection(X) or is_collection(y):
            return score_on_collections(self, X, y, sample_weight)
        return float(super().score(X, y, sample_weight))
