"""Compression of updates: what a learner sends instead of all numbers, and what it keeps for the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skdist.models.codecs import Codec, HalfPrecision, Payload, TopK
from skdist.models.spares import Spares

#: Codecs by name.
CODECS: dict[str, Callable[[], Codec]] = {
    "float16": HalfPrecision,
    "bfloat16": lambda: HalfPrecision(brain=True),
    "topk": TopK,
}


def codec_of(compression: str | Codec | None) -> Codec | None:
    """Return the codec of a setting, None for none.

    Raises
    ------
    sklearn.utils._param_validation.InvalidParameterError
        Where a parameter of it is out of its range.
    """
    codec = CODECS[compression]() if isinstance(compression, str) else compression
    if codec is not None:
        codec._validate_params()
    return codec


@dataclass(frozen=True)
class Change:
    """How a state differs from one that both sides know.

    Attributes
    ----------
    payload : Payload
        Of the change of its first member, the parameters.
    rest : ndarray of shape (n,)
        Its further members one after the other, as they are and without the zeros at their end: statistics,
        few and not to be rounded.
    """

    payload: Payload
    rest: np.ndarray

    @property
    def nbytes(self) -> int:
        """Size of its arrays."""
        return self.payload.nbytes + self.rest.nbytes

    def on(self, base: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the state that differs so from ``base``, in ``out`` where that is given."""
        state = np.empty_like(base) if out is None else out
        self.payload.add_to(base[0], state[0])
        further = state[1:].reshape(-1)
        further[: len(self.rest)] = self.rest
        further[len(self.rest) :] = 0
        return state

    def cut(self, part: slice, n_parameters: int) -> Change:
        """Return how a part of the parameters differs, of each member that there is."""
        members = -(-len(self.rest) // n_parameters)
        rest = np.zeros((members, n_parameters), self.rest.dtype)
        rest.reshape(-1)[: len(self.rest)] = self.rest
        return Change(self.payload.cut(part), rest[:, part].reshape(-1))


class Feedback:
    """Compresses the updates of one learner, and keeps what each leaves out for the next one.

    What is left out, the *residual*, stays in the learner's own copy of the parameters: it trains on from
    there, and its next update holds it. Only the residual of updates that were taken in is kept. The rows of
    another one are trained on again, by whoever does, and must count once.

    Parameters
    ----------
    codec : HalfPrecision or TopK
        How.

    Attributes
    ----------
    residual : ndarray of shape (n_parameters,) or None
        None while nothing is left out.
    """

    def __init__(self, codec: Codec) -> None:
        self.residual: np.ndarray | None = None
        self._codec = codec
        self._spares = Spares()
        self._left: np.ndarray | None = None

    def restore(self, state: np.ndarray) -> None:
        """Make the residual part of the parameters that a visit starts from, in place."""
        if self.residual is not None:
            state[0] += self.residual

    def compressed(self, end: np.ndarray, base: np.ndarray) -> tuple[Change, np.ndarray]:
        """Return an update from ``base`` to ``end``, and the state that the server makes of it, as copies."""
        rest = end[1:].reshape(-1)
        filled = np.flatnonzero(rest)
        rest = rest[: filled[-1] + 1 if len(filled) else 0].copy()
        moved = np.subtract(end[0], base[0], out=self._spares.empty_like(end[0]))
        change = Change(self._codec.encode(moved), rest)
        arrived = change.on(base, self._spares.empty_like(base))
        self._left = np.subtract(end[0], arrived[0], out=moved)
        return change, arrived

    def whole(self) -> None:
        """Take in that the next update leaves nothing out."""
        self._left = None

    def taken_in(self) -> None:
        """Take in that the last update was."""
        self.residual = self._left

    def forget(self) -> None:
        """Take in that updates that were taken in may come again: nothing of them must count twice."""
        self.residual = None
