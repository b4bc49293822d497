"""Where the rows come from: aligned blocks of collections, or slices of arrays in memory."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np
import scipy.sparse as sp
from dask.array.optimization import optimize
from dask.core import flatten
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull
from distributed import Future
from sklearn.exceptions import DataConversionWarning

from skdist.models.partition import bytes_of, frame_to_numpy

#: In-memory data is sent in slices of at most this size.
SLICE_BYTES = 32 << 20

#: Rows of these are not converted.
FLOATS = (np.float32, np.float64)


@dataclass(frozen=True)
class Source:
    """Rows in parts that are aligned.

    Attributes
    ----------
    parts : sequence of (X, y, sample_weight or None)
        Blocks: Delayed where ``lazy``, else slices of arrays in this process.
    lazy : bool
        Whether the parts are on the cluster.
    nbytes : float
        Of the converted rows that the workers do not hold yet; nan where it is unknown.
    lengths : tuple of int or None
        Rows of each part, where they are known.
    held : bool
        Whether the parts are futures of rows that the workers hold and kernels can read as they are.
    """

    parts: Sequence[tuple[Any, Any, Any]] = field(repr=False)
    lazy: bool
    nbytes: float
    lengths: tuple[int, ...] | None = None
    held: bool = False


def memory_source(X: Any, y: np.ndarray, sample_weight: np.ndarray | None) -> Source:
    """Return slices of arrays in memory, at least eight so that several workers get some."""
    n_rows = X.shape[0]
    nbytes = bytes_of(X)
    count = min(max(8, -(-nbytes // SLICE_BYTES)), n_rows)
    edges = np.linspace(0, n_rows, count + 1).astype(int)
    parts = [
        (X[a:b], y[a:b], None if sample_weight is None else sample_weight[a:b])
        for a, b in itertools.pairwise(edges)
    ]
    return Source(parts, lazy=False, nbytes=nbytes)


def collection_source(
    X: Any, y: Any, sample_weight: Any, flat: bool = True, dtypes: Collection[Any] = FLOATS
) -> Source:
    """Return the blocks of collections, of which X or y may be in memory.

    Parameters
    ----------
    X, y, sample_weight
        Dask collections or arrays.
    flat : bool
        Whether each row of X must be a vector.
    dtypes : collection of type
        Of rows that are read as they are.

    Raises
    ------
    ValueError
        Where X and y are not aligned, or X is not a table.
    """
    if not _is_table(X):
        if hasattr(X, "__dask_graph__"):
            raise ValueError(
                f"X is a {type(X).__name__}; it must be a dask Array or a dask DataFrame. "
                "dask.array.from_delayed makes an Array of Delayed objects."
            )
        X = _like("X", X, y)
    frame = hasattr(X, "columns")
    if frame:
        frame_to_numpy(X._meta)  # refuses columns that are no numbers before anything is computed
    else:
        if X.ndim != 2 and (flat or X.ndim < 2):
            raise ValueError(
                f"X must have two dimensions, it has {X.ndim}. Reshape it to (n_rows, n_features)."
            )
        for axis in range(1, X.ndim):
            if X.numblocks[axis] > 1:
                what = "columns of X are" if X.ndim == 2 else f"rows of X are, along axis {axis},"
                raise ValueError(
                    f"The {what} split over {X.numblocks[axis]} chunks; a row must lie in one. "
                    f"Call X.rechunk({{{axis}: -1}})."
                )
        if X.shape[0] == 0:
            raise ValueError("X is empty: it has 0 rows.")
        if 0 in X.shape[1:]:
            raise ValueError("X has 0 features; at least 1 is needed.")
    if y is None:
        raise ValueError("y must not be None: a classifier needs labels.")
    together = [X, aligned("y", y, X)]
    if sample_weight is not None:
        together.append(aligned("sample_weight", sample_weight, X))
    columns: list[list[Any]] = blocks_of(together)
    persisted = [all(_is_future(block) for block in column) for column in columns]
    held = (_readable(X) or _is_csr(X)) and X.dtype in dtypes and all(persisted)
    if held:
        columns = [[block.dask[block.key] for block in column] for column in columns]
    if sample_weight is None:
        columns.append([None] * len(columns[0]))
    # Dask does not know how much of a sparse array is stored, nor what numbers become that are no floats.
    size = float(X.nbytes) if _readable(X) else np.nan
    if persisted[0] and not frame and X.dtype in FLOATS:
        size = 0.0
    lengths = _lengths(X)
    known = lengths is not None and not np.isnan(lengths).any()
    rows = tuple(int(length) for length in lengths) if known and lengths is not None else None
    return Source(list(zip(*columns, strict=True)), lazy=True, nbytes=size, lengths=rows, held=held)


def _readable(X: Any) -> bool:
    """Return whether blocks of X need no conversion, as far as that is known here."""
    return hasattr(X, "chunks") and X.dtype in FLOATS and not hasattr(X._meta, "asformat")


def _is_csr(X: Any) -> bool:
    """Return whether blocks of X are CSR rows that need no conversion, as far as that is known here."""
    return hasattr(X, "chunks") and X.dtype in FLOATS and sp.issparse(X._meta) and X._meta.format == "csr"


def _is_future(block: Delayed) -> bool:
    return isinstance(block.dask[block.key], Future)


def _is_table(X: Any) -> bool:
    # A Delayed object seems to have any attribute.
    is_delayed = isinstance(X, Delayed)
    return hasattr(X, "__dask_graph__") and not is_delayed and (hasattr(X, "columns") or hasattr(X, "chunks"))


def _lengths(values: Any) -> tuple[float, ...] | None:
    return tuple(values.chunks[0]) if hasattr(values, "chunks") else None


def _like(name: str, values: Any, X: Any) -> Any:
    """Return values in memory as an Array with the row chunks of X."""
    import dask.array as da

    lengths = _lengths(X)
    array = values if sp.issparse(values) else np.asarray(values)
    if array.ndim == 0:
        raise ValueError(f"{name} must have one value per row, got one {type(values).__name__}.")
    if lengths is None or np.isnan(lengths).any():
        raise ValueError(
            f"{name} is in memory but the lengths of the Dask partitions are unknown, so the rows cannot "
            f"be aligned. Pass {name} as a Dask collection too, give a dask Array after "
            "compute_chunk_sizes(), or take what is beside it into memory with compute()."
        )
    if array.shape[0] != sum(lengths):
        raise ValueError(
            f"{name} has {array.shape[0]} rows but the Dask collection beside it has {int(sum(lengths))}."
        )
    chunks = (lengths, *array.shape[1:])
    return da.from_array(array, chunks=chunks, asarray=False)


def aligned(name: str, values: Any, X: Any) -> Any:
    """Return ``values``, a collection or in memory, as a collection with the partitions of X.

    Raises
    ------
    ValueError
        Where they are not aligned; ``name`` says what.
    """
    if not hasattr(values, "__dask_graph__"):
        values = _like(name, values, X)
    if not hasattr(values, "npartitions") or not hasattr(values, "to_delayed"):
        raise ValueError(f"{name} is a {type(values).__name__}; it must be a dask Array or Series.")
    if name != "X" and getattr(values, "ndim", 1) == 2 and values.shape[1] != 1:
        raise ValueError(f"{name} must have one column, it has {values.shape[1]}.")
    if name == "y" and getattr(values, "ndim", 1) == 2:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
            "(n_samples,), for example using y[:, 0] of a dask Array or a column of a DataFrame.",
            DataConversionWarning,
            stacklevel=2,
        )
    mine, other = _lengths(values), _lengths(X)
    if mine is None or other is None or np.isnan((*mine, *other)).any():
        mine = other = ()  # unknown: the tasks will compare
    if sum(mine) != sum(other):
        raise ValueError(
            f"X and {name} have different lengths: {int(sum(other))} rows of X, {int(sum(mine))} of {name}."
        )
    if values.npartitions != X.npartitions:
        raise ValueError(
            f"X has {X.npartitions} partitions, {name} has {values.npartitions}. " + _advice(name, values, X)
        )
    if mine != other:
        first = next(i for i, (a, b) in enumerate(zip(other, mine, strict=True)) if a != b)
        raise ValueError(
            f"Partition {first} has {int(other[first])} rows of X but {int(mine[first])} of {name}. "
            + _advice(name, values, X)
        )
    return values


def blocks_of(collections: Sequence[Any]) -> list[list[Delayed]]:
    """Return the blocks of each of some collections, each with no more of the graph than it needs.

    Arrays are optimised together: what several are made from, such as one file for X and y, is loaded once.
    (`to_delayed` optimises each alone, and fuses the loading into both.)
    """
    arrays = [values for values in collections if hasattr(values, "chunks")]
    keys = [list(flatten(values.__dask_keys__())) for values in arrays]
    graph = _joint_graph(arrays, list(itertools.chain.from_iterable(keys))) if arrays else {}
    parts = iter(keys)
    return [
        _blocks(graph, next(parts)) if hasattr(values, "chunks") else frame_blocks(values)
        for values in collections
    ]


def _joint_graph(arrays: Sequence[Any], keys: Sequence[Any]) -> dict[Any, Any]:
    merged = HighLevelGraph.merge(*(values.__dask_graph__() for values in arrays))
    graph = dict(optimize(merged, keys))
    # Where y is made from X, Dask fuses X into it and drops it, although it is wanted too.
    return graph if all(key in graph for key in keys) else dict(merged)


def frame_blocks(frame: Any) -> list[Delayed]:
    """Return the blocks of a DataFrame, a Series or a Bag: as many as it says that it has partitions.

    `to_delayed` merges partitions where few columns of files are read: more of y than of X.
    """
    if not hasattr(frame, "expr"):
        return list(frame.to_delayed())
    plan = frame.expr.simplify().lower_completely().simplify().fuse()
    return _blocks(dict(plan.__dask_graph__()), plan.__dask_keys__())


def _blocks(graph: Any, keys: Sequence[Any]) -> list[Delayed]:
    return [Delayed(key, cull(graph, [key])[0]) for key in keys]


def _advice(name: str, values: Any, X: Any) -> str:
    if hasattr(values, "rechunk") and hasattr(X, "chunks"):
        return f"Call {name}.rechunk((X.chunks[0],)) to give it the partitions of X."
    return f"Repartition both alike, for example by taking X and {name} from one DataFrame."


def delayed_call(function: Any, key: Any, *args: Any) -> Any:
    """Return ``function(*args)`` as a Delayed with a key of our choice."""
    return dask.delayed(function, pure=False)(*args, dask_key_name=key)
