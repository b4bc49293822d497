"""DistributedSGDClassifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.pressure import PressurePlanner
from skdist.control.schedules import AutoRate
from skdist.control.staleness import StalenessWindow
from skdist.estimators.labels import announced_classes
from skdist.estimators.linear import DistributedSGDBase
from skdist.estimators.linear_plan import LinearClassifierPlan
from skdist.estimators.plan import Past, Plan
from skdist.estimators.routing import is_collection
from skdist.estimators.scoring import score_on_collections
from skdist.models.losses import LOSSES

if TYPE_CHECKING:
    from distributed import Client


def _estimates_probabilities(estimator: DistributedSGDClassifier) -> bool:
    if estimator.loss not in ("log_loss", "modified_huber"):
        raise AttributeError(f"probability estimates are not available for loss={estimator.loss!r}")
    return True


class DistributedSGDClassifier(ClassifierMixin, DistributedSGDBase):
    """Linear classifiers trained with stochastic gradient descent on a Dask cluster.

    A drop-in for `sklearn.linear_model.SGDClassifier` that trains one model on all workers of a cluster: a
    parameter server lives in a Dask actor, tasks that visit the partitions of the data train on them, and
    what they learn is exchanged asynchronously. Without a cluster it trains in this process, with the
    same server and the same loop.

    It minimises ``(1/n) sum_i weight_i loss(y_i, x_i w + b) + alpha/2 |w|^2``, as scikit-learn does, whatever
    the number of workers.

    Parameters
    ----------
    loss : {'hinge', 'log_loss', 'modified_huber', 'squared_hinge', 'perceptron', 'squared_error', 'huber', \
            'epsilon_insensitive', 'squared_epsilon_insensitive'}, default='hinge'
        ``'log_loss'`` is logistic regression, the default a linear SVM. `skdist.models.losses` has the
        formulas; the losses of a regression take the classes of a problem as -1 and +1.
    penalty : {'l2', 'l1', 'elasticnet', None}, default='l2'
        Penalty on the coefficients. ``'l1'`` and ``'elasticnet'`` leave coefficients at exactly zero.
    alpha : float, default=0.0001
        Strength of the penalty.
    l1_ratio : float, default=0.15
        Share of l1 in ``'elasticnet'``: ``alpha (l1_ratio |w|_1 + (1 - l1_ratio) |w|^2 / 2)``.
    fit_intercept : bool, default=True
        Whether there is an intercept.
    max_iter : int, default=1000
        Passes over the data at most.
    tol : float or None, default=1e-3
        Training ends after the pass in which the training loss did not get below ``best - tol`` for
        ``n_iter_no_change`` checks. With ``learning_rate='auto'`` it is in units of the loss of predicting
        the class frequencies, 1 for a fair coin, and large data is checked several times per pass, else once.
    shuffle : bool, default=True
        Whether to visit partitions and rows in another order in each pass.
    verbose : int, default=0
        1 shows on standard output how training goes: epoch, loss, rows per second, workers, staleness. A
        terminal and a notebook get one line that changes, a file a line now and then, ever more rarely.
    epsilon : float, default=0.1
        Of 'huber', which is linear beyond it, and of the epsilon-insensitive losses, which are zero up to it.
    n_jobs : int or None, default=None
        Threads when training in this process; None is 1, -1 all processors.
    random_state : int, RandomState or None, default=None
        Seed of the order of the rows.
    learning_rate : {'auto', 'optimal', 'constant', 'invscaling', 'adaptive', 'pa1', 'pa2'} or AutoRate, \
            default='auto'
        ``'auto'`` is ``AutoRate()``: it needs neither tuning nor standardised data. The others mean what they
        mean in scikit-learn, with t counting mini-batch steps; the passive-aggressive ones step row by row,
        and 'optimal' begins with the step that the data allows where the loss is a squared one.
    eta0 : float, default=0.01
        Step size of 'constant' and 'invscaling', and the first one of 'adaptive', which divides it by 5
        whenever training settles, until it is below 1e-6; the aggressiveness of 'pa1' and 'pa2'.
    power_t : float, default=0.5
        Exponent of 'invscaling'.
    early_stopping : bool, default=False
        Whether training stops by the accuracy on validation rows after each pass instead of by the training
        loss: when it was below ``best + tol`` for ``n_iter_no_change`` passes. The parameters with the best
        accuracy are kept; scikit-learn keeps the last ones.
    validation_fraction : float, default=0.1
        Share of the rows that early stopping holds out and does not train on, by class and in each
        partition. Not used where `fit` is given ``X_val``.
    n_iter_no_change : int, default=5
        Checks without improvement before training ends; passes with ``early_stopping``.
    class_weight : dict, 'balanced' or None, default=None
        Factors of the sample weights by label; ``'balanced'`` is
        ``n_rows / (n_classes * rows of the class)``, counted over all partitions.
        One-vs-rest weighs the rows of a problem's own class, as scikit-learn does.
    warm_start : bool, default=False
        Whether `fit` starts from the present solution.
    average : bool or int, default=False
        Whether ``coef_`` is the average over all steps, or all after that many rows. ``'auto'`` rates
        average anyway.
    multi_class : {'ovr', 'multinomial'}, default='ovr'
        For more than two classes: one problem against the rest for each, or, with ``loss='log_loss'``, one
        softmax over all.
    mode : {'async', 'ssp', 'sync'}, default='async'
        Consistency. ``'async'``: nobody waits for who is late. ``'ssp'``: a learner more than
        ``max_staleness`` of its rounds ahead of the slowest one waits for it. ``'sync'``: all rounds end
        together, and the next begins from the mean of where they ended.
    max_staleness : int, default=2
        For ``mode='ssp'``, in rounds.
    batch_size : 'auto' or int, default='auto'
        Rows of a mini-batch step. ``'auto'`` is 64, for small data down to 8.
    round_size : 'auto' or int, default='auto'
        ``B0``: rows of a standard round, which a learner trains between two exchanges with the server. On a
        perfect link the default batch sizer gives half of it. ``'auto'`` makes a round last twice as long as
        an exchange; that of a single learner lasts until the next check for convergence, with a large state
        until training has touched as much memory as an exchange. Where an aggregator needs the volatility,
        rounds have two mini-batches at least.
    rate_adapter : 'auto', StalenessWindow or None, default='auto'
        Scales updates by their staleness; ``'auto'`` is ``StalenessWindow()``, None applies them in full.
    batch_sizer : 'auto', LatencyBatchSizer or None, default='auto'
        Sizes rounds by heartbeat latency; ``'auto'`` is ``LatencyBatchSizer()``, None gives ``round_size``.
    planner : 'auto', PressurePlanner or None, default='auto'
        How many visits a worker trains at once and how many wait there, by the load of its rounds; while a
        visit waits, its partition is loaded. ``'auto'`` is ``PressurePlanner()``, None trains one visit per
        thread and lets one wait. There is nothing to plan in this process, nor where sync mode has fixed
        shares.
    aggregator : 'auto', 'uniform', InverseVolatility or None, default='auto'
        How updates that are applied together are weighted: those of a round of ``mode='sync'`` and those
        that ``collect`` collects. ``'auto'`` is ``InverseVolatility()`` in sync mode, as the method has it,
        which is not neutral among learners (see there), and ``'uniform'`` elsewhere. None is ``'uniform'``:
        the same weight per step.
    collect : 'auto' or int, default='auto'
        Updates that the server collects and applies together. ``'auto'`` is one of each learner in async
        mode, without waiting for those that are late, and 1 in ssp mode; sync mode takes one of each.
        Learners train on meanwhile.
    server_momentum : 'auto' or float, default='auto'
        Nesterov momentum of the server, in [0, 1), at most ``1 - 1/n`` for n learners. The mean of n learners
        moves n times less per row than one learner; momentum gives that back. ``'auto'`` is 0.86 in async
        mode with ``collect='auto'`` and 0 elsewhere.
    n_servers : int, default=1
        Servers that hold the parameters on a cluster. For models of millions of coefficients: each holds a
        slice, on a worker of its own where there are enough, and exchanges go to all of them at once. There
        are no more than coefficients. Without effect in this process and on a simulated cluster.
    client : distributed.Client or None, default=None
        Trains there. None takes the active client for Dask collections and for in-memory data above
        64 MB; without one, Dask collections train on a temporary in-process cluster and in-memory data in
        this process. Clones and copies share the client; pickles leave it out.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where X has string names.
    n_iter_ : int
        Passes made.
    t_ : float
        Mini-batch steps made plus 1; asynchronous updates count by their rate scale.
    history_ : History
        What happened: rounds, visits, epochs and the plans of the workers.
    loss_curve_ : list of float
        Mean training loss of each pass: each row before its step, times its sample weight, without the
        penalty.
    validation_scores_ : list of float or None
        Accuracy on the validation rows after each pass; None where there are none. In async mode the next
        pass may have begun meanwhile.
    best_validation_score_ : float or None
        The highest of them.

    See Also
    --------
    sklearn.linear_model.SGDClassifier : One process, one row at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from skdist import DistributedSGDClassifier
    >>> X = np.array([[-1.0, -1], [-2, -1], [1, 1], [2, 1]] * 25)
    >>> y = np.array(["left", "left", "right", "right"] * 25)
    >>> clf = DistributedSGDClassifier(random_state=0).fit(X, y)
    >>> clf.predict([[-0.8, -1]])
    array(['left'], dtype='<U5')
    """

    _losses = tuple(name for name, loss in LOSSES.items() if not loss.joint)
    _passive_aggressive_loss = "hinge"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DistributedSGDBase._parameter_constraints,
        "loss": [StrOptions(set(_losses))],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "multi_class": [StrOptions({"ovr", "multinomial"})],
    }

    def __init__(
        self,
        loss: str = "hinge",
        *,
        penalty: str | None = "l2",
        alpha: float = 0.0001,
        l1_ratio: float = 0.15,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float | None = 1e-3,
        shuffle: bool = True,
        verbose: int = 0,
        epsilon: float = 0.1,
        n_jobs: int | None = None,
        random_state: Any = None,
        learning_rate: str | AutoRate = "auto",
        eta0: float = 0.01,
        power_t: float = 0.5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        class_weight: Any = None,
        warm_start: bool = False,
        average: bool | int = False,
        multi_class: str = "ovr",
        mode: str = "async",
        max_staleness: int = 2,
        batch_size: str | int = "auto",
        round_size: str | int = "auto",
        rate_adapter: str | StalenessWindow | None = "auto",
        batch_sizer: str | LatencyBatchSizer | None = "auto",
        planner: str | PressurePlanner | None = "auto",
        aggregator: str | InverseVolatility | None = "auto",
        collect: str | int = "auto",
        server_momentum: str | float = "auto",
        n_servers: int = 1,
        client: Client | None = None,
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.average = average
        self.multi_class = multi_class
        self.mode = mode
        self.max_staleness = max_staleness
        self.batch_size = batch_size
        self.round_size = round_size
        self.rate_adapter = rate_adapter
        self.batch_sizer = batch_sizer
        self.planner = planner
        self.aggregator = aggregator
        self.collect = collect
        self.server_momentum = server_momentum
        self.n_servers = n_servers
        self.client = client

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, classes: np.ndarray | None = None, sample_weight: Any = None
    ) -> DistributedSGDClassifier:
        """Train one pass over some rows, from where training stands.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes : array-like of shape (n_classes,), optional
            All labels that will ever come; needed at the first call.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            With ``early_stopping=True``; where ``classes`` is missing at the first call, differs from it
            later, or lacks a label of y; and for bad input as in `fit`.
        """
        past = self._past() if hasattr(self, "coef_") else None
        known = announced_classes(self, classes)
        self._train(X, y, sample_weight, past=past, max_iter=1, tol=None, going_on=True, classes=known)
        return self

    def _check_combinations(self) -> None:
        super()._check_combinations()
        if self.multi_class == "multinomial" and self.loss != "log_loss":
            raise ValueError(f"multi_class='multinomial' is for loss='log_loss', not for loss={self.loss!r}.")

    def _plan(self, past: Past | None, seed: int, going_on: bool, classes: np.ndarray | None) -> Plan:
        return LinearClassifierPlan(self, past, seed, going_on, classes)

    def _fitted(self, plan: Plan, state: np.ndarray) -> dict[str, Any]:
        return {**super()._fitted(plan, state), "classes_": plan.classes}

    def decision_function(self, X: Any) -> Any:
        """Return the signed distance to the boundary, times the norm of the coefficients.

        Parameters
        ----------
        X : array-like, sparse, DataFrame, dask Array or dask DataFrame of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples,) or (n_samples, n_classes)

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            Where the number or the names of the features differ from those of the fit, or X holds NaN or
            infinity (of a collection: when it is computed).
        """
        return self._predict("decision_function", X)

    def predict(self, X: Any) -> Any:
        """Return the most likely label of each row; parameters and errors as in `decision_function`.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples,)
        """
        return self._predict("predict", X)

    @available_if(_estimates_probabilities)
    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class, for ``loss='log_loss'``.

        One-vs-rest probabilities are normalised to add up to 1.

        Parameters
        ----------
        X
            As in `decision_function`.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples, n_classes)
            Columns in the order of ``classes_``.
        """
        return self._predict("predict_proba", X)

    @available_if(_estimates_probabilities)
    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithm of `predict_proba`; -inf where a probability is zero.

        Parameters
        ----------
        X
            As in `decision_function`.

        Returns
        -------
        ndarray or lazy dask Array of shape (n_samples, n_classes)
            Columns in the order of ``classes_``.
        """
        return self._predict("predict_log_proba", X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean accuracy; on Dask collections it is computed on the cluster.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Raises
        ------
        ValueError
            Where y is text and the classes are numbers, or the other way round, or X and y are not aligned.
        """
        if is_collection(X) or is_collection(y):
            return score_on_collections(self, X, y, sample_weight)
        return float(super().score(X, y, sample_weight))
