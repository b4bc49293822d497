"""Input of all kinds, mostly bad: each case ends in a model or in an error that names what is wrong."""

from __future__ import annotations

import dataclasses
import re
import warnings

import dask
import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import scipy.sparse as sp
from dask.base import is_dask_collection
from hypothesis import strategies as st
from sklearn.base import is_classifier
from sklearn.exceptions import NotFittedError

from skdist.exceptions import UnknownLabelsError
from tests.estimators.kinds import ESTIMATORS

X_FLAWS = [
    "NaN", "infinity", "-infinity", "huge", "tiny", "constant", "zeros", "one row",
    "no rows", "no features", "1d", "3d", "0d", "text", "None", "dict", "complex", "dates", "bools", "bytes",
    "int8", "int64", "uint64 extremes", "float16", "float32", "float32 huge", "longdouble", "objects",
    "ragged",
]  # fmt: skip
X_CONTAINERS = [
    "array", "fortran", "strided", "list", "frame", "nullable frame", "csr", "csc", "coo",
    "dask", "dask unknown", "dask columns", "dask csr", "dask frame", "dask mixed widths", "bag",
]  # fmt: skip
Y_FLAWS = [
    "words", "bools", "three", "whole floats", "fractions", "NaN", "infinity",
    "None", "two types", "one class", "column", "two columns", "short", "long", "empty", "complex", "dates",
    "bytes", "scalar", "missing", "text", "huge", "categories", "nullable", "tuples", "uint64", "objects",
    "unhashable",
]  # fmt: skip
Y_CONTAINERS = ["array", "list", "series", "dask", "dask other chunks"]
WEIGHTS = [
    "ones", "zeros", "some zeros", "negative", "one negative", "NaN", "infinity", "short",
    "long", "table", "column", "text", "scalar", "huge", "tiny", "complex", "dask", "dask other chunks",
    "objects", "bools",
]  # fmt: skip
CLASS_WEIGHTS = ["balanced", {0: 1.0}, {"no": 2.0}, {9: 1.0}, {0: -1.0}, {0: 0.0, 1: 0.0}, {}]
CLASSES = ["none", "unsorted", "repeated", "lacking", "table", "empty", "words", "NaN"]
PREDICTED = ["wider", "first row", "NaN", "text"]
INITS = ["right", "short", "NaN", "text", "table"]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is fitted with what, in words; as it stands, nothing is wrong with it."""

    kind: type
    seed: int
    rows: int
    width: int
    chunk: int
    x_container: str
    x_flaw: str = "none"
    y_flaw: str = "none"
    y_container: str = "same"
    weights: str = "none"
    early_stopping: bool = False
    validation: bool = False
    partial: bool = False
    classes: str = "right"
    class_weight: object = None
    coef_init: str = "none"
    loss: int = 0
    mode: str = "async"
    predict: str = "same"


VARIED = {
    "x_flaw": X_FLAWS,
    "y_flaw": Y_FLAWS,
    "y_container": Y_CONTAINERS,
    "weights": WEIGHTS,
    "early_stopping": [True],
    "validation": [True],
    "partial": [True],
    "classes": CLASSES,
    "class_weight": CLASS_WEIGHTS,
    "coef_init": INITS,
    "loss": [1],
    "mode": ["sync"],
    "predict": PREDICTED,
}


@st.composite
def cases(draw):
    """Return a case with up to three oddities: with more, only the first would ever be found."""
    odd = draw(st.lists(st.sampled_from(sorted(VARIED)), max_size=3, unique=True))
    return Case(
        kind=draw(st.sampled_from(ESTIMATORS)),
        seed=draw(st.integers(0, 99)),
        rows=draw(st.integers(2, 40)),
        width=draw(st.integers(1, 4)),
        chunk=draw(st.integers(1, 41)),
        x_container=draw(st.sampled_from(X_CONTAINERS)),
        **{name: draw(st.sampled_from(VARIED[name])) for name in odd},
    )


#: Text among the rows.
SECRET = "s3cret"

#: Other errors, also of subclasses like UnicodeError, were not meant for the user.
REFUSALS = (ValueError, TypeError, NotFittedError, UnknownLabelsError)

#: What an error may be about.
NAMED = re.compile(
    r"\b(X|y|X_val|y_val|sample_weight|sample_weight_val|classes|class_weight|coef_init|labels?|features?|columns?"
    r"|Columns?|early_stopping|array|sparse|target|classifier|regression|regressor|validation|random_state)\b"
)

#: What NumPy and Python say when nobody has looked before.
NAMELESS = re.compile(
    r"broadcast|out of bounds|not subscriptable|has no attribute|positional argument|unhashable|ambiguous"
    r"|cannot reshape|mismatch in its core|must be the same length|not iterable|has no len"
)


#: Rows are of numbers with many digits.
NUMBERS = re.compile(r"\d\.\d{4}")


def check(case, client=None):
    """Fit and predict; return 'model', or the type of the error, which must be one that names its cause."""
    found = None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            fit_and_predict(case, client)
    except Exception as error:
        found = error
    if found is None:
        return "model"
    if isinstance(found, AssertionError) or type(found) not in REFUSALS:
        raise found
    message = str(found)
    assert NAMED.search(message), f"names no cause: {message}"
    assert not NAMELESS.search(message), f"names no cause: {message}"
    printed = "\n".join(all_messages(found))
    assert SECRET not in printed, f"prints data: {printed}"
    assert not NUMBERS.search(printed), f"prints data: {printed}"
    return type(found).__name__


def all_messages(error):
    """Return what a traceback prints of an error and of those behind it."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def fit_and_predict(case, client):
    X, y, weights, classes, init = build(case)
    parameters = {} if not is_classifier(case.kind()) else {"class_weight": case.class_weight}
    losses = ["log_loss", "hinge"] if parameters else ["squared_error", "huber"]
    estimator = case.kind(
        losses[case.loss], max_iter=2, tol=None, random_state=case.seed, client=client, mode=case.mode,
        early_stopping=case.early_stopping, validation_fraction=0.3, **parameters,
    )  # fmt: skip
    if case.partial:
        given = {"classes": classes} if is_classifier(estimator) else {}
        for _ in range(2):
            estimator.partial_fit(X, y, sample_weight=weights, **given)
    else:
        held = {"X_val": X, "y_val": y} if case.validation else {}
        estimator.fit(X, y, coef_init=init, sample_weight=weights, **held)
    assert np.isfinite(estimator.coef_).all(), "coefficients are not finite"
    (found,) = dask.compute(estimator.predict(to_predict(case, X)))
    if is_classifier(estimator):
        known = estimator.classes_.tolist()
        assert all(label in known for label in found.tolist()), "predicts labels that are none"
    else:
        assert found.dtype.kind == "f", found.dtype


def to_predict(case, X):
    if case.predict == "same":
        return X
    rows = np.random.default_rng(case.seed).standard_normal((3, case.width + (case.predict == "wider")))
    if case.predict == "NaN":
        rows[1, 0] = np.nan
    if case.predict == "text":
        rows = rows.astype(str).astype(object)
        rows[1, 0] = SECRET
    if case.predict == "first row":
        rows = rows[0]
    return da.from_array(rows, chunks=(2, -1)[: rows.ndim]) if is_dask_collection(X) else rows


def build(case):
    """Return X, y, sample_weight, classes and coef_init of a case."""
    rng = np.random.default_rng(case.seed)
    n_rows = {"one row": 1, "no rows": 0}.get(case.x_flaw, case.rows)
    width = 0 if case.x_flaw == "no features" else case.width
    plain = rng.standard_normal((n_rows, width))
    X = in_container(case, flawed_rows(case, plain, rng))
    y = flawed_targets(case, n_rows, rng)
    weights = flawed_weights(case, n_rows, rng)
    y = placed(case, case.y_container, y, X)
    classes = {
        "right": np.unique(np.asarray(y))
        if isinstance(y, np.ndarray) and y.dtype.kind in "biuU"
        else np.arange(3),
        "none": None,
        "unsorted": [1, 0, 2],
        "repeated": [0, 0, 1, 2],
        "lacking": [0],
        "table": [[0, 1], [2, 3]],
        "empty": [],
        "words": ["no", "yes"],
        "NaN": [0.0, 1.0, np.nan],
    }[case.classes]
    init = {
        "none": None,
        "right": np.zeros(width),
        "short": np.zeros(width + 1),
        "NaN": np.full(width, np.nan),
        "text": [SECRET] * width,
        "table": np.zeros((7, width)),
    }[case.coef_init]
    return X, y, weights, classes, init


def flawed_rows(case, X, rng):
    flaw = case.x_flaw
    at = tuple(rng.integers(0, max(n, 1)) for n in X.shape)
    special = {
        "NaN": np.nan,
        "infinity": np.inf,
        "-infinity": -np.inf,
        "text": SECRET,
        "None": None,
        "dict": {},
    }
    if flaw in special and X.size:
        X = X.astype(object) if flaw in ("text", "None", "dict") else X
        X[at] = special[flaw]
        return X
    dtypes = {
        "complex": complex, "bools": bool, "int8": np.int8, "int64": np.int64, "float16": np.float16,
        "float32": np.float32, "longdouble": np.longdouble, "objects": object, "bytes": "S8",
    }  # fmt: skip
    if flaw in dtypes:
        return X.astype(dtypes[flaw])
    changes = {
        "huge": lambda: X * 1e300,
        "tiny": lambda: X * 1e-300,
        "float32 huge": lambda: (X * 1e37).astype(np.float32),
        "constant": lambda: np.ones_like(X) * 3,
        "zeros": lambda: np.zeros_like(X),
        "1d": lambda: X[:, 0] if X.shape[1] else X,
        "3d": lambda: X[:, :, None],
        "0d": lambda: np.array(1.0),
        "dates": lambda: (X * 1e9).astype("M8[s]"),
        "uint64 extremes": lambda: np.where(X > 0, np.uint64(2**64 - 1), np.uint64(0)),
        "ragged": lambda: [list(row[: 1 + i % 2]) for i, row in enumerate(X)],
    }
    return changes[flaw]() if flaw in changes else X


def in_container(case, X):
    name = case.x_container
    if isinstance(X, list):
        return X
    if name == "bag":
        return dask.bag.from_sequence([1, 2])
    if X.ndim != 2:
        return da.from_array(X, chunks=case.chunk) if name.startswith("dask") and X.ndim else X
    if name in ("csr", "csc", "coo") and X.dtype.kind in "biufc" and X.dtype != np.float16:
        return getattr(sp, f"{name}_array")(X)
    if name == "fortran":
        return np.asfortranarray(X)
    if name == "strided":
        return np.repeat(X, 2, axis=0)[::2]
    if name == "list":
        return X.tolist()
    if "frame" in name:
        frame = pd.DataFrame(X, columns=[f"c{j}" for j in range(X.shape[1])])
        if name == "nullable frame":
            return frame.convert_dtypes()
        if name == "frame":
            return frame
        return dd.from_pandas(frame, chunksize=case.chunk) if len(frame) and X.shape[1] else frame
    if not name.startswith("dask"):
        return X
    width = 1 if name == "dask columns" else -1
    blocks = da.from_array(X, chunks=(case.chunk, width if X.shape[1] else 1))
    if name == "dask unknown" and X.dtype.kind == "f" and X.shape[1]:
        return blocks[blocks[:, 0] > -1]
    if name == "dask csr" and X.dtype.kind in "biuf" and X.dtype != np.float16:
        return blocks.map_blocks(sp.csr_array)
    if name == "dask mixed widths":
        return blocks.map_blocks(lambda block: block[:, : 1 + len(block) % 2], dtype=X.dtype)
    return blocks


def flawed_targets(case, n_rows, rng):
    flaw = case.y_flaw
    y = rng.integers(0, 2, n_rows)
    if n_rows > 1:
        y[:2] = 0, 1
    words = np.array(["no", "yes"])[y]
    whole, objects = y * 1.0, words.astype(object)
    if n_rows:
        at = rng.integers(0, n_rows)
        whole[at] = {"NaN": np.nan, "infinity": np.inf, "huge": 1e308}.get(flaw, whole[at])
        objects[at] = {"None": None, "two types": 3, "unhashable": []}.get(flaw, objects[at])
    changes = {
        "words": lambda: words,
        "bools": lambda: y > 0,
        "three": lambda: np.arange(n_rows) % 3,
        "whole floats": lambda: whole,
        "fractions": lambda: rng.standard_normal(n_rows),
        "one class": lambda: np.zeros(n_rows, int),
        "column": lambda: y[:, None],
        "two columns": lambda: np.c_[y, y],
        "short": lambda: y[1:],
        "long": lambda: np.r_[y, 1],
        "empty": lambda: y[:0],
        "complex": lambda: y.astype(complex),
        "dates": lambda: y.astype("M8[s]"),
        "bytes": lambda: words.astype("S"),
        "scalar": lambda: 1,
        "missing": lambda: None,
        "text": lambda: "yes",
        "categories": lambda: pd.Series(words, dtype="category"),
        "nullable": lambda: pd.Series(y, dtype="Int64").mask(pd.Series(np.arange(n_rows) == 1)),
        "tuples": lambda: np.fromiter([(int(i), "a") for i in y], dtype=object, count=n_rows),
        "uint64": lambda: y.astype(np.uint64) + np.uint64(2**63),
    }
    if flaw in ("NaN", "infinity", "huge"):
        return whole
    if flaw in ("None", "two types", "objects", "unhashable"):
        return objects
    return changes[flaw]() if flaw in changes else y


def placed(case, container, values, X):
    """Return values in a container: where X is lazy, 'same' is lazy too."""
    if not isinstance(values, np.ndarray):
        return values
    if container == "list":
        return values.tolist()
    if container == "series" and values.ndim == 1:
        return pd.Series(values)
    if container.startswith("dask") or (container == "same" and is_dask_collection(X)):
        chunk = case.chunk + (container == "dask other chunks")
        lazy = da.from_array(values, chunks=(chunk, -1)[: values.ndim] if values.ndim < 3 else -1)
        if container == "same" and hasattr(X, "columns") and values.ndim == 1 and len(values):
            return dd.from_pandas(pd.Series(values), chunksize=case.chunk)
        if container == "same" and case.x_container == "dask unknown" and values.ndim == 1:
            return lazy[lazy == lazy]
        return lazy
    return values


def flawed_weights(case, n_rows, rng):
    flaw = case.weights
    weights = rng.random(n_rows) + 0.5
    at = rng.integers(0, max(n_rows, 1))
    special = {"NaN": np.nan, "infinity": np.inf, "one negative": -0.1}
    if flaw in special and n_rows:
        weights[at] = special[flaw]
    changes = {
        "none": lambda: None,
        "ones": lambda: np.ones(n_rows),
        "zeros": lambda: np.zeros(n_rows),
        "some zeros": lambda: weights * (weights > 1),
        "negative": lambda: -weights,
        "short": lambda: weights[1:],
        "long": lambda: np.r_[weights, 1],
        "table": lambda: np.c_[weights, weights],
        "column": lambda: weights[:, None],
        "text": lambda: np.array([SECRET] * n_rows),
        "scalar": lambda: 2.0,
        "huge": lambda: weights * 1e300,
        "tiny": lambda: weights * 1e-300,
        "complex": lambda: weights.astype(complex),
        "dask": lambda: da.from_array(weights, chunks=case.chunk),
        "dask other chunks": lambda: da.from_array(weights, chunks=case.chunk + 1),
        "objects": lambda: weights.astype(object),
        "bools": lambda: weights > 1,
    }
    return changes[flaw]() if flaw in changes else weights
