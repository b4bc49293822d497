"""Plans of modules of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import nn

from skdist.estimators.plan import ClassifierPlan, Plan, RegressorPlan
from skdist.intake import Arrays
from skdist.models.targets import Classes, Numbers
from skdist.models.torch.flat import FlatModule
from skdist.models.torch.model import TorchModel
from skdist.preparation import Summary


class Training(NamedTuple):
    """Where training stands.

    Attributes
    ----------
    module : nn.Module
        As it is trained until now.
    clock : float
        Steps made.
    """

    module: nn.Module
    clock: float


class TorchPlan(Plan):
    """Makes a model of a module; parameters as in `Plan`.

    Attributes
    ----------
    model : TorchModel or None
        Set by `build`.
    n_rows : int
        Rows to train on.
    shape : tuple of int
        Of a row.
    """

    model: TorchModel | None = None
    n_rows = 0
    shape: tuple[int, ...] = ()

    @property
    def intake(self) -> Arrays:
        """How rows are taken in."""
        return Arrays(self.regression, not self.estimator._rows_of_any_shape)

    @property
    def class_factors(self) -> np.ndarray:
        """Factors of the sample weights by class, none where nothing weighs classes."""
        weighting = getattr(self.estimator, "class_weight", None)
        return self.targets.factors(weighting) if isinstance(self.targets, Classes) else np.zeros(0)

    def _model(self, summaries: Sequence[Summary]) -> tuple[TorchModel, np.ndarray, float]:
        self.n_rows, self.shape = sum(summary.rows for summary in summaries), summaries[0].shape
        self._check_weights()
        self.model, clock, past = self.estimator._make_model(self), 0.0, self.past
        if past is not None:
            self._check_classes(past)
            training: Training = past.training
            _check_alike(training.module, self.model.module)
            self.model = replace(self.model, module=training.module)
            # A warm start keeps the parameters, but its step sizes begin anew.
            clock = training.clock if self.going_on else 0.0
        return self.model, FlatModule(self.model.module).state(), clock

    def _check_weights(self) -> None:
        targets = self.targets
        if isinstance(targets, Numbers):
            total = targets.weight
        else:
            assert targets is not None
            factors = self.class_factors
            total = float(targets.weights @ (factors if len(factors) else np.ones(len(targets.labels))))
        if not total > 0:
            raise ValueError("The sum of sample_weight, times class_weight, must be positive.")


def _check_alike(before: nn.Module, now: nn.Module) -> None:
    shapes = [{name: tuple(v.shape) for name, v in each.state_dict().items()} for each in (before, now)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "Training cannot go on: the module has other parameters than that of the earlier fit "
            f"({shapes[1]} now, {shapes[0]} before). Set warm_start=False, or use the same architecture."
        )


class TorchClassifierPlan(ClassifierPlan, TorchPlan):
    """The plan of a classifier; parameters as in `ClassifierPlan`."""


class TorchRegressorPlan(RegressorPlan, TorchPlan):
    """The plan of a regressor; parameters as in `Plan`."""
