"""Plans of modules of torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import nn

from skdist.estimators.plan import ClassifierPlan, Plan, RegressorPlan
from skdist.intake import Arrays
from skdist.models.targets import Classes, Numbers
from skdist.models.torch.flat import FlatModule
from skdist.models.torch.model import TorchModel
from skdist.models.torch.trainer import Memory
from skdist.preparation import Summary


class Training(NamedTuple):
    """Where training stands.

    Attributes
    ----------
    module : nn.Module
        As it is trained until now.
    clock : float
        Steps made.
    memories : mapping of str to Memory
        Of the optimizers of learners in this process.
    """

    module: nn.Module
    clock: float
    memories: Mapping[str, Memory]


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
    mean_weight : float
        Of the rows, class weights included.
    """

    model: TorchModel | None = None
    n_rows = 0
    shape: tuple[int, ...] = ()
    mean_weight = 1.0

    @property
    def intake(self) -> Arrays:
        """How rows are taken in."""
        return Arrays(self.regression, not self.estimator._rows_of_any_shape)

    @property
    def class_factors(self) -> np.ndarray:
        """Factors of the sample weights by class, none where nothing weighs classes."""
        weighting = getattr(self.estimator, "class_weight", None)
        return self.targets.factors(weighting) if isinstance(self.targets, Classes) else np.zeros(0)

    def _model(self, summaries: Sequence[Summary], fewer: bool) -> tuple[TorchModel, np.ndarray, float]:
        self.n_rows, self.shape = sum(summary.rows for summary in summaries), summaries[0].shape
        self.mean_weight = self._total_weight() / self.n_rows
        self.model, clock, past = self.estimator._make_model(self), 0.0, self.past
        if past is not None:
            self._check_classes(past)
            training: Training = past.training
            _check_alike(training.module, self.model.module)
            self.model = replace(self.model, module=training.module)
            # A warm start keeps the parameters, but its step sizes begin anew.
            if self.going_on:
                clock = training.clock
                self.model = replace(self.model, memories=training.memories)
        return self.model, FlatModule(self.model.module).state(), clock

    def batch_rows(self, wanted: str | int, automatic: int) -> int:
        """Return the rows of a step, no more than there are."""
        if isinstance(wanted, str):
            return automatic
        if wanted > self.n_rows:
            warnings.warn(
                f"batch_size={wanted} is larger than the {self.n_rows} rows: a step takes all of them.",
                stacklevel=2,
            )
        return min(int(wanted), self.n_rows)

    def _total_weight(self) -> float:
        targets = self.targets
        if isinstance(targets, Numbers):
            total = targets.weight
        else:
            assert targets is not None
            factors = self.class_factors
            total = float(targets.weights @ (factors if len(factors) else np.ones(len(targets.labels))))
        if not total > 0:
            raise ValueError("The sum of sample_weight, times class_weight, must be positive.")
        return total


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
