"""DistributedTorchClassifier and DistributedTorchRegressor."""

from __future__ import annotations

from typing import Any, ClassVar

from sklearn.utils._param_validation import StrOptions
from torch import nn

from skdist.estimators.modules import DistributedTorchBase
from skdist.estimators.torch_methods import ClassifierMethods, RegressorMethods


class DistributedTorchClassifier(ClassifierMethods, DistributedTorchBase):
    """Any module of torch as a classifier, trained on a Dask cluster or in this process.

    Each learner trains a copy of the module with an optimizer of its own; the engine of
    `DistributedSGDClassifier` exchanges the parameters, with the same modes, adapters, planner, history and
    callbacks.

    Parameters
    ----------
    module : type, callable or nn.Module
        Class of a module, which is made with the parameters ``module__...``, or an instance, which is copied.
        It gives one output for each class. Lazy modules learn their shapes from the rows.
    criterion : type, nn.Module, callable or None, default=None
        Class of a loss, made with ``criterion__...``; None is ``nn.CrossEntropyLoss``. With ``nn.NLLLoss``
        the module gives log-probabilities, with ``nn.BCEWithLogitsLoss`` one logit for two classes; what
        derives from these means the same. A function ``(outputs, targets)`` must give a loss for each row.
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
        Applied to the rows of a mini-batch, a Tensor on the device, where it is trained on, and to rows that
        are predicted. What is for training alone, as augmentation, belongs into the module.
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
            max_staleness, round_size, rate_adapter, batch_sizer, planner, aggregator, collect, n_servers, \
            client
        As in `DistributedSGDClassifier`. ``random_state`` seeds initial parameters and dropout too.
    server_momentum : 'auto' or float, default=0.0
        Nesterov momentum of the server, the outer optimizer of DiLoCo (arXiv:2311.08105); 0 is plain
        averaging. ``'auto'`` is that of `DistributedSGDClassifier`.
    compression : {'float16', 'bfloat16', 'topk'}, TopK or None, default=None
        Of the updates that learners send: 16 bits for each parameter, or the 5 % of the entries that are the
        largest (``TopK(share=0.05)``). What an update leaves out is part of the learner's next one.
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


class DistributedTorchRegressor(RegressorMethods, DistributedTorchBase):
    """Any module of torch with one output as a regressor, trained on a Dask cluster or in this process.

    Parameters
    ----------
    module, optimizer, learning_rate, power_t, clip_norm, max_iter, tol, batch_size, transform, input_dtype, \
            device, autocast, warm_start, shuffle, verbose, n_jobs, random_state, early_stopping, \
            validation_fraction, n_iter_no_change, mode, max_staleness, round_size, rate_adapter, \
            batch_sizer, planner, aggregator, collect, server_momentum, compression, n_servers, client, \
            **prefixed
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
