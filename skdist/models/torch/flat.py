"""The parameters of a module as one flat vector, of which they are views."""

from __future__ import annotations

import copy
import hashlib
import math

import numpy as np
import torch
from torch import nn


class FlatModule:
    """A module whose trainable parameters are views into one float32 vector, and so are their gradients.

    Conventions
    -----------
    A *state* is an array of shape (n_members, n_parameters). Its first member holds the parameters that are
    trained, in the order of ``module.parameters()``. Where the module has persistent floating buffers, as the
    statistics of a BatchNorm, they fill the members after it, padded with zeros: averaged with the
    parameters, but out of reach of the server's momentum. Frozen parameters and buffers that count stay in
    the module and do not travel.

    Parameters
    ----------
    module : nn.Module
        It is copied, in float32.
    device : torch.device, optional
        Where it computes; the processor by default.
    shared : bool, optional
        Whether parameters share the memory of the state that is bound, as they can on the processor only;
        otherwise they are copied there and back.

    Attributes
    ----------
    module : nn.Module
        The copy.
    values, gradients : Tensor of shape (n_parameters,)
        What its parameters are views of.

    Raises
    ------
    ValueError
        Where the module has no parameter to train.

    Examples
    --------
    >>> flat = FlatModule(nn.Linear(2, 1))
    >>> state = flat.state()
    >>> flat.bind(state)
    >>> state[0] = [1.0, 2.0, 0.5]
    >>> flat.module(torch.ones(1, 2)).item()
    3.5
    """

    def __init__(
        self, module: nn.Module, device: torch.device | None = None, shared: bool | None = None
    ) -> None:
        self.device = device if device is not None else torch.device("cpu")
        self.shared = self.device.type == "cpu" if shared is None else shared
        self.module = in_single_precision(copy.deepcopy(module)).to(self.device)
        self.parameters = [value for value in self.module.parameters() if value.requires_grad]
        if not self.parameters:
            raise ValueError("The module has no parameter to train: at least one must have requires_grad.")
        self._buffers = _floating_buffers(self.module)
        self.sizes = [value.numel() for value in self.parameters]
        self.values = torch.cat([value.detach().reshape(-1) for value in self.parameters])
        self.gradients = torch.zeros_like(self.values)
        padded = (self.n_members - 1) * self.n_parameters
        self._statistics = torch.zeros(padded, dtype=torch.float32, device=self.device)
        self._views: list[torch.Tensor] = []
        self._bound: np.ndarray | None = None
        filled = 0
        for owner, name in self._buffers:
            buffer = getattr(owner, name)
            self._statistics[filled : filled + buffer.numel()] = buffer.reshape(-1)
            filled += buffer.numel()
        self._attach()

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(self.sizes)

    @property
    def n_members(self) -> int:
        """Members of the state: one, and more where there are buffers."""
        buffered: int = sum(getattr(owner, name).numel() for owner, name in self._buffers)
        return 1 + math.ceil(buffered / self.n_parameters)

    def decays(self, l2: float) -> np.ndarray:
        """Return the l2 strength of each parameter, which vectors, as biases, have none of; float32."""
        return np.array([l2 if value.ndim > 1 else 0.0 for value in self.parameters], dtype=np.float32)

    def state(self) -> np.ndarray:
        """Return the present parameters and buffers as a new state."""
        whole = torch.cat([self.values, self._statistics]).cpu().numpy()
        return whole.reshape(self.n_members, -1)

    def shapes(self) -> dict[str, list[int]]:
        """Return the shapes of the parameters and buffers of a state, by name and in its order."""
        trained = [item for item in self.module.named_parameters() if item[1].requires_grad]
        buffers = {id(getattr(owner, name)) for owner, name in self._buffers}
        found = [item for item in self.module.named_buffers() if id(item[1]) in buffers]
        return {name: list(value.shape) for name, value in [*trained, *found]}

    def frozen(self) -> str:
        """Return a SHA-256 of what is saved with the module but no part of a state."""
        digest, saved, moved = hashlib.sha256(), self.module.state_dict(), self.shapes()
        for name, value in (*self.module.named_parameters(), *self.module.named_buffers()):
            if name in saved and name not in moved:
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def bind(self, state: np.ndarray) -> None:
        """Make a state the parameters.

        Parameters
        ----------
        state : ndarray of shape (n_members, n_parameters), float32
            Nothing is done where its memory is shared already.
        """
        if not self.shared:
            self.values.copy_(torch.from_numpy(state[0]))
            self._statistics.copy_(torch.from_numpy(state[1:]).reshape(-1))
        elif state is not self._bound:
            self.values = torch.from_numpy(state[0])
            self._statistics = torch.from_numpy(state[1:]).reshape(-1)
            self._attach()
        self._bound = state

    def release(self) -> None:
        """Bring the bound state up to date, where it does not share the memory of the module.

        Raises
        ------
        ValueError
            Where a buffer has another shape than before.
        """
        for (owner, name), view in zip(self._buffers, self._views, strict=True):
            buffer = getattr(owner, name)
            if buffer is not view:  # the module has made it anew instead of changing it
                if buffer.shape != view.shape:
                    raise ValueError(
                        f"The buffer {name!r} of {type(owner).__name__} has changed its shape from "
                        f"{tuple(view.shape)} to {tuple(buffer.shape)}, but what learners exchange keeps its "
                        "shape. Register it with persistent=False."
                    )
                view.copy_(buffer.detach())
                setattr(owner, name, view)
        if not self.shared and self._bound is not None:
            self._bound[0] = self.values.cpu().numpy()
            self._bound[1:] = self._statistics.cpu().numpy().reshape(self._bound[1:].shape)

    def _attach(self) -> None:
        """Make parameters, gradients and buffers views into the flat vectors."""
        parts, slopes = torch.split(self.values, self.sizes), torch.split(self.gradients, self.sizes)
        for value, part, slope in zip(self.parameters, parts, slopes, strict=True):
            value.data = part.view(value.shape)
            value.grad = slope.view(value.shape)
        filled, self._views = 0, []
        for owner, name in self._buffers:
            buffer = getattr(owner, name)
            view = self._statistics[filled : filled + buffer.numel()].view(buffer.shape)
            setattr(owner, name, view)
            self._views.append(view)
            filled += buffer.numel()


def in_single_precision(module: nn.Module) -> nn.Module:
    """Return a module whose floating parameters and buffers have become float32, in place."""
    # One whose values alone were converted would go on to take gradients of its first dtype only.
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for name, value in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if value.is_floating_point() and value.dtype != torch.float32:
                if value not in made:
                    made[value] = nn.Parameter(value.detach().float(), value.requires_grad)
                setattr(owner, name, made[value])
    return module.float()


def _floating_buffers(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the owner and the name of each buffer that the module saves and that is no counter."""
    saved = module.state_dict(keep_vars=True)
    found: dict[int, tuple[nn.Module, str]] = {}
    for path, buffer in module.named_buffers():
        if path in saved and buffer.is_floating_point():
            owner, _, name = path.rpartition(".")
            found[id(buffer)] = (module.get_submodule(owner), name)
    return list(found.values())
