"""DistributedMLPClassifier and DistributedMLPRegressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sklearn.utils._param_validation import StrOptions

from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.staleness import StalenessWindow
from skdist.estimators.perceptrons import REGRESSIONS, DistributedMLPBase
from skdist.estimators.torch_methods import ClassifierMethods, RegressorMethods
from skdist.models.codecs import Codec

if TYPE_CHECKING:
    from distributed import Client


class DistributedMLPClassifier(ClassifierMethods, DistributedMLPBase):
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
        the rows of the passes that are over, as scikit-learn's perceptrons do; divided by 5 whenever training
        settles.
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
        1 shows on standard output how training goes: epoch, loss, rows per second, workers, staleness. A
        terminal and a notebook get one line that changes, a file a line now and then, ever more rarely.
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
    n_iter_no_change : int or inf, default=10
        Passes without improvement before training ends.
    max_fun : int, default=15000
        For ``solver='lbfgs'``, which there is not.
    class_weight : dict, 'balanced' or None, default=None
        Factors of the sample weights by label.
    device : str, default='auto'
        Of torch; ``'auto'`` is a GPU where a worker has one.
    n_jobs, mode, max_staleness, round_size, rate_adapter, batch_sizer, planner, aggregator, collect, \
            server_momentum, n_servers, client
        As in `DistributedSGDClassifier`.
    compression : {'float16', 'bfloat16', 'topk'}, TopK or None, default=None
        Of the updates that learners send, as in `DistributedTorchClassifier`.

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
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where X has string names.
    n_iter_ : int
        Passes made.
    t_ : int
        Rows trained on, those of each pass and of earlier calls included.
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

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train one pass over some rows, from where training stands.

        Parameters
        ----------
        X, y, sample_weight, classes
            As in `DistributedTorchClassifier.partial_fit`, in the order that scikit-learn's perceptrons have
            them in.

        Returns
        -------
        self
        """
        super().partial_fit(X, y, classes, sample_weight)
        return self


class DistributedMLPRegressor(RegressorMethods, DistributedMLPBase):
    """A multilayer perceptron for regression, trained on a Dask cluster or in this process.

    A drop-in for `sklearn.neural_network.MLPRegressor`, for one target.

    Parameters
    ----------
    loss : {'squared_error', 'poisson'}, default='squared_error'
        Half of the squared error, or half of the Poisson deviance, for counts and rates: the prediction is
        then the exponential of the output.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, \
            max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, \
            early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun, \
            device, n_jobs, mode, max_staleness, round_size, rate_adapter, batch_sizer, planner, \
            aggregator, collect, server_momentum, compression, n_servers, client
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
    >>> reg = DistributedMLPRegressor(learning_rate_init=0.01, random_state=0)
    >>> reg.fit(X, y).score(X, y) > 0.95
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DistributedMLPBase._parameter_constraints,
        "loss": [StrOptions(set(REGRESSIONS))],
        "class_weight": [None],
    }

    def __init__(
        self,
        loss: str = "squared_error",
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
        super().__init__(
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
            class_weight=class_weight,
            device=device,
            n_jobs=n_jobs,
            mode=mode,
            max_staleness=max_staleness,
            round_size=round_size,
            rate_adapter=rate_adapter,
            batch_sizer=batch_sizer,
            planner=planner,
            aggregator=aggregator,
            collect=collect,
            server_momentum=server_momentum,
            compression=compression,
            n_servers=n_servers,
            client=client,
        )
        self.loss = loss
