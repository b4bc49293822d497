"""What the estimators of torch modules and of perceptrons share."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, ClassVar, NamedTuple, get_args

import numpy as np
from scipy.special import expit, log_expit, log_softmax
from sklearn.base import is_classifier
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skdist.compression import CODECS
from skdist.estimators.base import DistributedBase
from skdist.estimators.plan import Past, Plan
from skdist.estimators.torch_plan import TorchClassifierPlan, TorchPlan, TorchRegressorPlan, Training
from skdist.fitting import FitResult
from skdist.models.arrays import convert_arrays
from skdist.models.codecs import Codec
from skdist.models.torch.model import TorchModel, raw_predictions
from skdist.models.torch.trainer import Memory
from skdist.models.validation import decide


class ModulePredictor(NamedTuple):
    """What predictions are made of.

    Attributes
    ----------
    model : TorchModel
        With the trained module.
    classes : ndarray of shape (n_classes,) or None
        Labels; None in a regression.
    flat : bool
        Whether each row must be a vector.
    """

    model: TorchModel
    classes: np.ndarray | None
    flat: bool

    def width(self, method: str) -> int:
        """Return the columns of the result, 0 where it has one dimension."""
        return 0 if method == "predict" or self.classes is None else len(self.classes)

    def dtype(self, method: str) -> np.dtype:
        """Return the dtype of the result."""
        return (
            self.classes.dtype if method == "predict" and self.classes is not None else np.dtype(np.float32)
        )

    def convert(self, X: Any) -> Any:
        """Return rows in the dtype they come in."""
        return convert_arrays(X, self.flat)

    def __call__(self, method: str, X: Any) -> np.ndarray:
        """Return what ``method``, 'predict', 'predict_proba' or 'predict_log_proba', says of rows."""
        if X.shape[1:] != self.model.shape:
            raise ValueError(
                f"Rows of X have shape {X.shape[1:]}, but the features of the fit had {self.model.shape}."
            )
        device = self.model.place_to_predict()
        module = self.model.module if device.type == "cpu" else copy.deepcopy(self.model.module).to(device)
        z = raw_predictions(module, self.model.inputs(device), X)
        if self.classes is None:
            z = np.exp(z) if self.model.criterion.link == "exp" else z
            return (z[:, 0] if z.shape[1] == 1 else z).astype(np.float32)
        if method == "predict":
            return np.asarray(self.classes[decide(z)])
        logs = _log_probabilities(z, self.model.criterion.link)
        return np.asarray(logs if method == "predict_log_proba" else np.exp(logs), dtype=np.float32)


def _log_probabilities(z: np.ndarray, link: str | None) -> np.ndarray:
    if link == "softmax":
        return np.asarray(log_softmax(z, axis=1))
    if link == "logistic":
        if z.shape[1] == 1:
            return np.column_stack([log_expit(-z[:, 0]), log_expit(z[:, 0])])
        shares = expit(z)
        return np.asarray(np.log(shares) - np.log(shares.sum(axis=1, keepdims=True)))
    return z


class TorchBase(DistributedBase):
    """What estimators that train a module share; parameters and attributes are those of the estimators."""

    _keeps_history = True  # and so does the loss curve, as in scikit-learn's perceptrons and in skorch

    #: Integers stay what they are: indices of an embedding, or narrow pixels.
    _row_dtypes: ClassVar[list[Any]] = [
        np.float32, np.float16, np.uint8, np.int8, np.int16, np.int32, np.int64, np.bool_,
    ]  # fmt: skip

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DistributedBase._parameter_constraints,
        "compression": [StrOptions(set(CODECS)), *get_args(Codec), None],
    }

    _free: ClassVar[tuple[str, ...]] = (*DistributedBase._free, "device", "autocast", "compression")

    module_: nn.Module

    def _check_probabilities(self) -> None:
        """Raise an AttributeError where the criterion says nothing of probabilities."""

    def _make_model(self, plan: TorchPlan) -> TorchModel:
        """Return the model for the rows of a plan, its module initialised."""
        raise NotImplementedError

    def _check_combinations(self) -> None:
        super()._check_combinations()
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(
                f"device={self.device!r} is not one of 'auto', 'cpu', 'cuda' and, for one GPU, 'cuda:0' and "
                "so on."
            )
        if self._adaptive and self.tol is None:
            raise ValueError(
                "learning_rate='adaptive' cuts the step size when the loss settles by less than tol, and "
                "tol=None never says so. Give tol a number, such as 1e-4."
            )
        if self._adaptive and self.early_stopping:
            raise ValueError(
                "learning_rate='adaptive' follows the training loss, and early_stopping=True does without "
                "it. Use 'constant', or early_stopping=False."
            )

    @property
    def _adaptive(self) -> bool:
        """Whether step sizes follow the training loss."""
        return isinstance(self.learning_rate, str) and self.learning_rate == "adaptive"

    def _start(self) -> Past | None:
        """Return where `fit` starts, if not from the beginning."""
        return self._past() if self.warm_start and hasattr(self, "module_") else None

    def _past(self) -> Past:
        classes = getattr(self, "classes_", None)
        return Past(None, None, Training(self.module_, *self._training), classes, self.history_)

    def _plan(self, past: Past | None, seed: int, going_on: bool, classes: np.ndarray | None) -> Plan:
        if is_classifier(self):
            return TorchClassifierPlan(self, past, seed, going_on, classes)
        return TorchRegressorPlan(self, past, seed, going_on)

    def _fitted(self, plan: Plan, state: np.ndarray) -> dict[str, Any]:
        assert isinstance(plan, TorchPlan)
        assert plan.model is not None
        model = replace(plan.model, memories={})
        fitted = {**self._about_module(model.trained(state)), "_model": model}
        return {**fitted, "classes_": plan.classes} if plan.classes is not None else fitted

    def _about_module(self, module: nn.Module) -> dict[str, Any]:
        """Return the attributes that say what a trained module is."""
        return {"module_": module}

    def _training_of(self, plan: Plan, result: FitResult) -> tuple[float, dict[str, Memory]]:
        # They are twice as large as the parameters: what `fit` has trained is kept without.
        trainers: Mapping[str, Any] = result.trainers if plan.going_on else {}
        return result.clock, {name: trainer.memory() for name, trainer in trainers.items()}

    def _predictor(self) -> ModulePredictor:
        classes = getattr(self, "classes_", None)
        model = replace(self._model, module=self.module_.eval())
        return ModulePredictor(model, classes, not self._rows_of_any_shape)

    def _validated(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Any, Any, Any]:
        shape: tuple[int, ...] = getattr(y, "shape", ())
        if len(shape) == 2 and shape[1] > 1:
            what, tool = "labels", "MultiOutputClassifier"
            if not is_classifier(self):
                what, tool = "targets", "MultiOutputRegressor"
            raise ValueError(
                f"y should be a 1d array, got an array of shape {shape} instead: several {what} for a row "
                f"are not supported. Train a model for each of them: sklearn.multioutput.{tool}."
            )
        return super()._validated(X, y, sample_weight, reset)

    def to_torch(self) -> nn.Module:
        """Return a copy of the trained module, in evaluation mode: it predicts without skdist.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        return copy.deepcopy(self.module_).eval()

    def save_weights(self, path: str | PathLike[str]) -> None:
        """Write parameters and buffers of the trained module to a safetensors file, which holds no code.

        Parameters
        ----------
        path : path-like
            Where to.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        from safetensors.torch import save_model

        check_is_fitted(self)
        save_model(self.module_, str(path))

    def load_weights(self, path: str | PathLike[str]) -> None:
        """Read what `save_weights` of an estimator with the same module wrote.

        Parameters
        ----------
        path : path-like
            Where from.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`: the module does not exist yet, and neither do the labels.
        ValueError
            Where the file is of another module.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_model

        check_is_fitted(self)
        module = copy.deepcopy(self.module_)  # as it was, should the file not fit
        try:
            load_model(module, str(path))
        except (RuntimeError, SafetensorError) as error:
            raise ValueError(f"{path} does not hold the weights of this module: {error}") from error
        for name, value in self._about_module(module.eval()).items():
            setattr(self, name, value)
