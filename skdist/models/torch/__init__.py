"""Modules of torch as models: flat parameters, trainers, and multilayer perceptrons."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        "The estimators of torch modules and perceptrons need torch, which is not installed. "
        "Install it with: pip install 'dask-skdist[torch]'"
    ) from error
