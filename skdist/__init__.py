"""Train scikit-learn classifiers on a Dask cluster, whatever its workers do.

Public names are imported when they are first used: ``import skdist`` loads neither distributed nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from skdist.control.aggregation import InverseVolatility
    from skdist.control.latency import LatencyBatchSizer
    from skdist.control.pressure import PressurePlanner
    from skdist.control.schedules import AutoRate
    from skdist.control.staleness import StalenessWindow
    from skdist.display import TrainingDisplay
    from skdist.estimators.classifier import DistributedSGDClassifier
    from skdist.estimators.mlp import DistributedMLPClassifier, DistributedMLPRegressor
    from skdist.estimators.regressor import DistributedSGDRegressor
    from skdist.estimators.torch import DistributedTorchClassifier, DistributedTorchRegressor
    from skdist.history import History
    from skdist.models.codecs import TopK
    from skdist.server import ParameterServer

_HOMES = {
    "AutoRate": "skdist.control.schedules",
    "DistributedMLPClassifier": "skdist.estimators.mlp",
    "DistributedMLPRegressor": "skdist.estimators.mlp",
    "DistributedSGDClassifier": "skdist.estimators.classifier",
    "DistributedSGDRegressor": "skdist.estimators.regressor",
    "DistributedTorchClassifier": "skdist.estimators.torch",
    "DistributedTorchRegressor": "skdist.estimators.torch",
    "History": "skdist.history",
    "InverseVolatility": "skdist.control.aggregation",
    "LatencyBatchSizer": "skdist.control.latency",
    "ParameterServer": "skdist.server",
    "PressurePlanner": "skdist.control.pressure",
    "StalenessWindow": "skdist.control.staleness",
    "TopK": "skdist.models.codecs",
    "TrainingDisplay": "skdist.display",
}

__all__ = [
    "AutoRate",
    "DistributedMLPClassifier",
    "DistributedMLPRegressor",
    "DistributedSGDClassifier",
    "DistributedSGDRegressor",
    "DistributedTorchClassifier",
    "DistributedTorchRegressor",
    "History",
    "InverseVolatility",
    "LatencyBatchSizer",
    "ParameterServer",
    "PressurePlanner",
    "StalenessWindow",
    "TopK",
    "TrainingDisplay",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        try:
            value = getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(
                f"{name} needs torch, which is not installed. Install it with: "
                "pip install 'dask-skdist[torch]'"
            ) from error
        globals()[name] = value
        return value
    raise AttributeError(f"module 'skdist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
