"""What can be fed: each kind of rows and labels is fitted, predicted and scored, or refused by name."""

from __future__ import annotations

import logging
import warnings

import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from distributed import Client, LocalCluster
from sklearn.exceptions import DataConversionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.cluster.conftest import assert_clean
from tests.estimators.kinds import CLASSIFIERS, ESTIMATORS, learned, make

rng = np.random.default_rng(0)
N_ROWS, NAMES = 1_200, list("abcdef")
X = rng.standard_normal((N_ROWS, len(NAMES)))
Y = (X @ [1, -1, 2, 0, 0, 1] > 0).astype(np.int64)
X_SPARSE = np.where(abs(X) > 0.5, X, 0)
FRAME = pd.DataFrame(X, columns=NAMES)
WORDS = np.array(["no", "yes"])[Y]
MIXED = FRAME.assign(
    a=(FRAME.a > 0),
    b=(FRAME.b * 9).round().astype("int8"),
    c=FRAME.c.astype("float32"),
    d=(FRAME.d > 0).astype("boolean"),
    e=(FRAME.e * 9).round().astype("Int32"),
)


@pytest.fixture(scope="module", autouse=True)
def client():
    """Two one-thread workers in this process; rows in memory are small and stay out of it."""
    workers = logging.getLogger("distributed.worker")
    level = workers.level
    workers.setLevel(logging.CRITICAL)  # refused partitions are logged with their traceback
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        yield client
        assert_clean(client)
    workers.setLevel(level)


@pytest.fixture(params=ESTIMATORS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture(params=CLASSIFIERS, ids=lambda kind: kind.__name__)
def classifier(request):
    return request.param


def learns(kind, rows, labels, least=0.85, **fit):
    """Fit, predict and score, without a warning; return the estimator."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="(scipy|distributed)")
        warnings.filterwarnings("ignore", message="X is in memory but y is a Dask collection")
        fitted = make(kind).fit(rows, labels, **fit)
        methods = [
            name for name in ("predict", "decision_function", "predict_proba") if hasattr(fitted, name)
        ]
        for lazy in [getattr(fitted, method)(rows) for method in methods]:
            (found,) = dask.compute(lazy)
            assert isinstance(found, np.ndarray)
            assert (found.dtype, found.ndim) == (lazy.dtype, lazy.ndim)
            assert len(found) == fitted.history_.epochs[0].rows
        assert learned(fitted, rows, labels, least)
    return fitted


def chunked(values, rows=300):
    return da.from_array(values, chunks=(rows, -1)[: values.ndim])


def framed(values):
    return dd.from_pandas(values, npartitions=4)


def with_long_indices(matrix):
    for name in {"indices", "indptr", "row", "col"} & set(dir(matrix)):
        setattr(matrix, name, getattr(matrix, name).astype(np.int64))
    return matrix


def read_only(values):
    for part in (getattr(values, name, None) for name in ("data", "indices", "indptr")):
        if isinstance(part, np.ndarray):
            part.flags.writeable = False
    if isinstance(values, np.ndarray):
        values.flags.writeable = False
    return values


class TestRowsInMemory:
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_orders(self, kind, order):
        fitted = learns(kind, np.array(X, order=order), Y)
        np.testing.assert_array_equal(fitted.coef_, make(kind).fit(X, Y).coef_)

    def test_views(self, kind):
        wide = np.zeros((2 * N_ROWS, 18))
        wide[::2, ::3] = X
        fitted = learns(kind, wide[::2, ::3], Y)
        np.testing.assert_array_equal(fitted.coef_, make(kind).fit(X, Y).coef_)
        learns(kind, X[::-1, ::-1], Y[::-1])

    @pytest.mark.parametrize(
        "dtype", ["int8", "int16", "int64", "uint8", "float16", "float32", ">f8", "longdouble", "object"]
    )
    def test_dtypes(self, kind, dtype):
        learns(kind, (X * 9 + 50).astype(dtype), Y)

    def test_bools(self, kind):
        learns(kind, X > 0, Y, least=0.75)

    @pytest.mark.parametrize("format", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
    @pytest.mark.parametrize("container", ["array", "matrix"])
    def test_sparse(self, kind, format, container):
        fitted = learns(kind, getattr(sp, f"{format}_{container}")(X_SPARSE), Y)
        np.testing.assert_array_equal(fitted.coef_, make(kind).fit(sp.csr_array(X_SPARSE), Y).coef_)

    @pytest.mark.parametrize("format", ["csr", "csc", "coo"])
    def test_sparse_with_long_indices(self, kind, format):
        learns(kind, with_long_indices(sp.coo_array(X_SPARSE).asformat(format)), Y)

    @pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32])
    def test_sparse_dtypes(self, kind, dtype):
        learns(kind, sp.csr_array((abs(X_SPARSE) * (X > 0) * 9).astype(dtype)), Y, least=0.7)

    @pytest.mark.parametrize(
        "frame",
        [FRAME, FRAME.astype("Float64"), MIXED, FRAME.set_index(np.arange(N_ROWS)[::-1])],
        ids=["plain", "nullable", "mixed", "indexed"],
    )
    def test_pandas(self, kind, frame):
        fitted = learns(kind, frame, pd.Series(Y, index=frame.index))
        assert fitted.feature_names_in_.tolist() == NAMES

    def test_pandas_on_arrow(self, kind):
        pytest.importorskip("pyarrow")
        learns(kind, MIXED.convert_dtypes(dtype_backend="pyarrow"), pd.Series(Y, dtype="int64[pyarrow]"))

    def test_polars(self, kind):
        pl = pytest.importorskip("polars")
        frame = pl.DataFrame({name: X[:, j] for j, name in enumerate(NAMES)}).with_columns(
            pl.col("a") > 0, (pl.col("b") * 9).cast(pl.Int32), pl.col("c").cast(pl.Float32)
        )
        fitted = learns(kind, frame, pl.Series(Y))
        assert fitted.feature_names_in_.tolist() == NAMES
        with pytest.raises(ValueError, match="feature names should match"):
            fitted.predict(frame[NAMES[::-1]])

    def test_lists(self, kind):
        learns(kind, X.tolist(), Y.tolist(), sample_weight=[1] * N_ROWS)

    def test_memory_maps(self, kind, tmp_path):
        np.save(tmp_path / "X.npy", X)
        learns(kind, np.load(tmp_path / "X.npy", mmap_mode="r"), Y)

    @pytest.mark.parametrize("container", [np.array, sp.csr_array])
    def test_read_only(self, kind, container):
        rows, labels, weights = (
            read_only(container(X_SPARSE)),
            read_only(Y.copy()),
            read_only(np.ones(N_ROWS)),
        )
        learns(kind, rows, labels, sample_weight=weights)
        learns(kind, chunked(read_only(X.copy())), chunked(labels), sample_weight=chunked(weights))


LABELS = {
    "bool": Y == 1,
    "int8": Y.astype(np.int8),
    "uint64": Y.astype(np.uint64) + np.uint64(2**63),
    "float": Y * 1.0,
    "str": WORDS,
    "object": WORDS.astype(object),
    "pandas": pd.Series(WORDS),
    "pandas string": pd.Series(WORDS, dtype="string"),
    "pandas Int64": pd.Series(Y, dtype="Int64"),
    "pandas boolean": pd.Series(Y == 1, dtype="boolean"),
    "categorical": pd.Series(WORDS, dtype="category"),
    "categorical ints": pd.Series(Y, dtype="category"),
}


class TestLabels:
    @pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
    def test_in_memory(self, classifier, labels):
        fitted = learns(classifier, X, labels)
        assert fitted.classes_.tolist() == np.unique(np.asarray(labels)).tolist()

    @pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
    def test_beside_a_collection(self, classifier, labels):
        fitted = learns(classifier, chunked(X), labels)
        assert fitted.classes_.tolist() == np.unique(np.asarray(labels)).tolist()

    @pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
    def test_in_a_collection(self, classifier, labels):
        if isinstance(labels, pd.Series):
            fitted = learns(classifier, framed(FRAME), framed(labels))
        else:
            fitted = learns(classifier, chunked(X), chunked(labels))
        assert fitted.classes_.tolist() == np.unique(np.asarray(labels)).tolist()

    def test_polars(self, classifier):
        pl = pytest.importorskip("polars")
        assert learns(classifier, X, pl.Series(WORDS.tolist())).classes_.tolist() == ["no", "yes"]

    def test_partitions_of_one_class(self, classifier):
        order = np.argsort(Y, kind="stable")
        for labels in (Y[order], WORDS[order]):
            assert len(learns(classifier, chunked(X[order]), chunked(labels)).classes_) == 2

    @pytest.mark.parametrize(
        ("rows", "labels"),
        [
            (X, Y[:, None]),
            (X, pd.DataFrame({"y": Y})),
            (chunked(X), Y[:, None]),
            (chunked(X), chunked(Y[:, None])),
            (framed(FRAME), framed(pd.DataFrame({"y": Y}))),
        ],
        ids=["numpy", "pandas", "beside", "Array", "DataFrame"],
    )
    def test_columns_are_taken_with_a_warning(self, classifier, rows, labels):
        with pytest.warns(DataConversionWarning, match="column-vector y was passed"):
            assert learned(make(classifier).fit(rows, labels), rows, labels)


class TestCollections:
    @pytest.mark.parametrize("dtype", ["int8", "int64", "float16", "float32", ">f8", "object"])
    def test_dtypes(self, kind, dtype):
        learns(kind, chunked((X * 9).astype(dtype)), chunked(Y))

    def test_orders_and_views(self, kind):
        learns(kind, chunked(np.asfortranarray(X)), chunked(Y))
        learns(kind, chunked(X)[::-1, ::-1], chunked(Y)[::-1])

    @pytest.mark.parametrize(
        "container",
        [sp.csr_array, sp.csr_matrix, sp.csc_array, sp.coo_matrix, sp.lil_array, sp.dok_matrix, sp.bsr_array],
    )
    def test_sparse_chunks(self, kind, container):
        fitted = learns(kind, chunked(X_SPARSE).map_blocks(container), chunked(Y))
        assert learned(fitted, sp.csr_array(X_SPARSE), Y)

    def test_sparse_chunks_with_long_indices(self, kind):
        learns(
            kind, chunked(X_SPARSE).map_blocks(lambda rows: with_long_indices(sp.csr_array(rows))), chunked(Y)
        )

    @pytest.mark.parametrize("name", ["COO", "GCXS", "DOK"])
    def test_pydata_sparse_chunks(self, kind, name):
        container = getattr(pytest.importorskip("sparse"), name)
        learns(kind, chunked(X_SPARSE).map_blocks(container.from_numpy), chunked(Y))

    @pytest.mark.parametrize(
        "frame", [FRAME, FRAME.astype("Float64"), MIXED], ids=["plain", "nullable", "mixed"]
    )
    def test_frames(self, kind, frame):
        fitted = learns(kind, framed(frame), framed(pd.Series(Y)))
        assert fitted.feature_names_in_.tolist() == NAMES
        with pytest.raises(ValueError, match="feature names should match"):
            fitted.predict(framed(frame)[NAMES[::-1]])
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            fitted.predict(chunked(X))

    def test_unknown_chunk_sizes(self, kind):
        rows, labels = chunked(X), chunked(Y)
        learns(kind, rows[rows[:, 0] > -9], labels[rows[:, 0] > -9])
        frame, series = framed(FRAME), framed(pd.Series(Y))
        learns(kind, frame[frame.a > 0], series[frame.a > 0])
        learns(kind, frame, frame.a > 0)

    def test_empty_partitions(self, kind):
        frame, series = framed(FRAME), framed(pd.Series(Y))
        fitted = learns(
            kind, dd.concat([frame[frame.a > 99], frame]), dd.concat([series[frame.a > 99], series])
        )
        assert sum(epoch.rows for epoch in fitted.history_.epochs) == 5 * N_ROWS
        rows = chunked(X)
        assert fitted.predict(dd.concat([frame[frame.a > 99], frame])).compute().shape == (N_ROWS,)
        assert make(kind).fit(X, Y).predict(rows[:0]).compute().shape == (0,)

    @pytest.mark.parametrize(
        "rows",
        [X, X.tolist(), FRAME, sp.csr_array(X_SPARSE), sp.csc_matrix(X_SPARSE)],
        ids=["numpy", "list", "pandas", "csr", "csc"],
    )
    def test_rows_in_memory_beside_labels_in_a_collection(self, kind, rows):
        fitted = learns(kind, rows, chunked(Y), sample_weight=np.ones(N_ROWS))
        assert hasattr(fitted, "feature_names_in_") == (rows is FRAME)
        learner = fitted.history_.to_frame("rounds").learner.iloc[0]
        assert "inproc://" in learner, learner

    def test_rows_that_a_step_before_has_pulled_into_memory_are_told_of(self, kind):
        pipeline = make_pipeline(StandardScaler(), make(kind))
        with pytest.warns(
            UserWarning, match=r"X is in memory but y is a Dask.*dask_ml\.preprocessing"
        ) as told:
            pipeline.fit(X, chunked(Y))
        assert any(warning.filename == __file__ or "sklearn" in warning.filename for warning in told)

    def test_rows_in_memory_score_with_labels_of_unknown_lengths(self, kind):
        fitted, lengths_unknown = make(kind).fit(X, Y), framed(pd.Series(Y))
        assert fitted.score(X, lengths_unknown) == pytest.approx(fitted.score(X, Y))

    @pytest.mark.parametrize("weights", [np.ones(N_ROWS), chunked(np.ones(N_ROWS))], ids=["numpy", "dask"])
    def test_weights_beside_a_collection(self, kind, weights):
        learns(kind, chunked(X), chunked(Y), sample_weight=weights)
        learns(kind, X, Y, sample_weight=weights)

    def test_rows_of_a_frame_and_labels_of_an_array(self, kind):
        learns(kind, framed(FRAME), chunked(Y))
        learns(kind, chunked(X), framed(pd.Series(Y)))


def put(values, place, value):
    values = values.copy()
    values[place] = value
    return values


OBJECTS = X.astype(object)
MANY = framed(FRAME), framed(pd.Series(Y))
REFUSED = {
    "NaN": (put(X, (5, 2), np.nan), Y, "X contains NaN"),
    "NaN in CSR": (sp.csr_array(put(X, (5, 2), np.nan)), Y, "X contains NaN"),
    "NA": (FRAME.astype("Float64").mask(FRAME > 2), Y, "X contains NaN"),
    "infinity": (put(X, (5, 2), np.inf), Y, "X contains infinity"),
    "complex": (X.astype(complex), Y, "Complex data not supported"),
    "text": (put(OBJECTS, (5, 2), "a"), Y, "X holds text where numbers are needed in row 5, column 2"),
    "dict": (put(OBJECTS, (5, 2), {}), Y, "not 'dict'"),
    "3d": (X[:, :, None], Y, "dim 3"),
    "1d": (X[:, 0], Y, "Expected 2D array"),
    "text column": (FRAME.assign(a="x"), Y, "X holds text where numbers are needed in row 0, column 0"),
    "y None": (X, None, "y to be passed"),
    "y NaN": (X, put(Y * 1.0, 3, np.nan), "y contains NaN"),
    "y complex": (X, Y.astype(complex), "Complex data"),
    "y short": (X, Y[1:], "inconsistent numbers of samples"),
    "y of two columns": (X, np.c_[Y, Y], "1d array"),
    "dask NaN": (chunked(put(X, (305, 2), np.nan)), Y, r"Partition 1: X contains NaN .*columns 2"),
    "dask complex": (chunked(X.astype(complex)), Y, "Partition 0: X must hold numbers.*complex128"),
    "dask text": (chunked(put(OBJECTS, (5, 2), "a")), Y, "X holds values .*: text in row 5, column 2"),
    "dask dict": (chunked(put(OBJECTS, (5, 2), {})), Y, "X holds values that are no numbers.*dict"),
    "dask dates": (chunked(X.astype("M8[s]")), Y, "Partition 0: X must hold numbers.*datetime"),
    "dask 3d": (chunked(X).reshape(N_ROWS, 2, 3), Y, "two dimensions"),
    "dask y of two columns": (chunked(X), np.c_[Y, Y], "y must have one column, it has 2"),
    "dask y complex": (chunked(X), Y.astype(complex), "y must hold .*, its dtype is complex"),
    "dask y short": (chunked(X), Y[1:], "y has 1199 rows .* 1200"),
    "frame with text": (framed(FRAME.assign(a="x")), MANY[1], "a of X do not hold numbers.*OneHotEncoder"),
    "frame with categories": (
        framed(FRAME.assign(a=pd.Categorical(["u"] * N_ROWS))), MANY[1], "Columns a of X do not hold numbers",
    ),
    "frame with dates": (framed(FRAME.assign(a=pd.Timestamp("2020"))), MANY[1], "Columns a of X do not hold"),
    "frame with NA": (framed(FRAME.astype("Float64").mask(FRAME > 2)), MANY[1], "X contains NaN"),
    "labels of unknown lengths": (FRAME, MANY[1], r"X is in memory but the lengths .* with compute\(\)"),
    "bag": (dask.bag.from_sequence([1]), Y, "X is a Bag; it must be a dask Array"),
}  # fmt: skip


LABELS_REFUSED = {
    "y holds None": (X, put(WORDS.astype(object), 3, None), "y contains missing values"),
    "y NA": (X, pd.Series(WORDS, dtype="string").where(Y > 0), "y contains missing values"),
    "y categorical NA": (X, pd.Series(WORDS).where(Y > 0).astype("category"), "y contains missing values"),
    "y of two types": (X, put(WORDS.astype(object), 3, 3), "'int' and 'str'"),
    "y continuous": (X, X[:, 0], "continuous"),
    "dask y None": (chunked(X), put(WORDS.astype(object), 3, None), "Partition 0: y contains missing values"),
    "dask y of two types": (chunked(X), put(WORDS.astype(object), 3, 3), "labels that cannot be sorted"),
    "labels with NA": (MANY[0], framed(pd.Series(WORDS).where(Y > 0)), "y contains missing values"),
}


@pytest.mark.parametrize(("rows", "labels", "message"), LABELS_REFUSED.values(), ids=LABELS_REFUSED)
def test_labels_that_are_refused_are_named(classifier, rows, labels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(classifier).fit(rows, labels)


@pytest.mark.parametrize(("rows", "labels", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named(kind, rows, labels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(kind).fit(rows, labels)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(9), "sample_weight has 9 rows"),
        (2.0, "sample_weight must have one value per row, got one float"),
        (np.ones((N_ROWS, 2)), "sample_weight must have one column"),
        (np.full(N_ROWS, np.nan), "sample_weight contains NaN"),
    ],
    ids=["short", "number", "table", "NaN"],
)
def test_weights_beside_a_collection_that_are_refused_are_named(kind, weights, message):
    with pytest.raises(ValueError, match=message):
        make(kind).fit(chunked(X), chunked(Y), sample_weight=weights)


def test_rows_that_cannot_be_predicted_are_named(kind):
    fitted = make(kind).fit(FRAME, Y)
    with pytest.raises(ValueError, match="Columns a of X do not hold numbers"):
        fitted.predict(framed(FRAME.assign(a="x")))
    with pytest.raises(ValueError, match="X contains NaN"):
        fitted.predict(framed(FRAME.where(FRAME < 2))).compute()
    for rows in (X[:, :3], chunked(X[:, :3])):
        with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 6"):
            make(kind).fit(X, Y).predict(rows)
