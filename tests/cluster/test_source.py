from __future__ import annotations

import warnings

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from distributed import Client
from sklearn.exceptions import DataConversionWarning

from skdist import DistributedSGDClassifier
from tests.cluster.conftest import assert_clean


def make(**parameters):
    return DistributedSGDClassifier(**{"loss": "log_loss", "random_state": 0, **parameters})


def csr_chunks(X, rows):
    return da.from_array(X, chunks=(rows, -1)).map_blocks(sp.csr_array, dtype=X.dtype)


class TestInputs:
    def test_frame_with_unknown_partition_lengths(self, client, binary):
        X, y = binary
        frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(8)]).assign(y=y)
        collection = dd.from_pandas(frame, npartitions=5)
        collection = collection[collection.x0 > -10]
        clf = make().fit(collection[[f"x{i}" for i in range(8)]], collection["y"])
        assert clf.feature_names_in_.tolist() == [f"x{i}" for i in range(8)]
        assert clf.score(frame[[f"x{i}" for i in range(8)]], y) > 0.8
        assert clf.score(collection[[f"x{i}" for i in range(8)]], collection["y"]) > 0.8

    @pytest.mark.parametrize("labels", ["y", ["y"]], ids=["series", "frame"])
    @pytest.mark.parametrize("columns", [["x0"], [f"x{i}" for i in range(8)]], ids=["few", "all"])
    def test_files_of_which_dask_would_merge_more_where_fewer_columns_are_read(
        self, client, binary, tmp_path, columns, labels
    ):
        X, y = binary
        frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(8)]).assign(y=y)
        dd.from_pandas(frame, npartitions=6).to_parquet(tmp_path)
        table = dd.read_parquet(tmp_path)
        rows = table[columns]
        assert len(table["y"].to_delayed()) < table.npartitions == 6
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataConversionWarning)
            clf = make(max_iter=2, tol=None).fit(rows, table[labels])
        assert clf.history_.fits[0].partitions == 6
        predicted = clf.predict(rows)
        assert predicted.npartitions == 6
        assert clf.score(rows, table["y"]) == pytest.approx((predicted.compute() == y).mean())

    def test_sparse_chunks(self, client, binary):
        X, y = binary
        X = np.where(X > 0.5, X, 0).astype(np.float32)
        dX, dy = csr_chunks(X, 3_000), da.from_array(y, chunks=3_000)
        clf = make().fit(dX, dy)
        assert clf.score(sp.csr_array(X), y) > 0.7
        assert clf.predict(dX).compute().shape == y.shape

    def test_persisted_sparse_chunks_of_a_collection_that_says_they_are_dense(self, client, binary):
        X, y = binary
        blocks = [sp.csr_matrix(X[start : start + 3_000]) for start in range(0, len(X), 3_000)]
        parts = [da.from_delayed(dask.delayed(block), (3_000, 8), dtype=np.float32) for block in blocks]
        dX, dy = client.persist([da.concatenate(parts), da.from_array(y, chunks=3_000)])
        clf = make(max_iter=4, tol=None).fit(dX, dy)
        assert clf.score(X, y) > 0.8

    @pytest.mark.parametrize("kind", ["numpy", "pandas", "csr"])
    def test_data_in_memory_is_sliced_and_sent(self, client, binary, kind):
        X, y = binary
        X = {"numpy": X, "pandas": pd.DataFrame(X), "csr": sp.csr_array(X)}[kind]
        clf = make(client=client).fit(X, y)
        rounds = clf.history_.to_frame("rounds")
        assert rounds.worker.nunique() == 2
        assert clf.score(X, y) > 0.8

    def test_small_data_in_memory_stays_in_this_process(self, client, binary):
        clf = make().fit(*binary)
        assert clf.history_.to_frame("rounds").worker.unique().tolist() == ["inline"]

    def test_string_labels_and_partitions_that_hold_one_class(self, client, binary):
        X, y = binary
        order = np.argsort(y, kind="stable")
        names = np.array(["no", "yes"])[y[order]]
        clf = make().fit(da.from_array(X[order], chunks=(1_000, -1)), da.from_array(names, chunks=1_000))
        assert clf.classes_.tolist() == ["no", "yes"]
        assert clf.score(X[order], names) > 0.8

    def test_several_classes(self, client, binary):
        X, y = binary
        labels = y + 2 * (X[:, 0] > 0)
        clf = make().fit(da.from_array(X, chunks=(3_000, -1)), da.from_array(labels, chunks=3_000))
        assert clf.coef_.shape == (4, 8)
        assert clf.score(X, labels) > 0.6
        probabilities = clf.predict_proba(da.from_array(X, chunks=(3_000, -1))).compute()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)

    def test_uneven_and_empty_partitions(self, client, binary):
        X, y = binary
        chunks = (10, 0, 5_990, 1, 5_999)
        dX = da.from_array(X, chunks=(12_000, -1)).rechunk((chunks, -1))
        dy = da.from_array(y, chunks=12_000).rechunk((chunks,))
        clf = make(max_iter=2, tol=None).fit(dX, dy)
        visits = clf.history_.to_frame("visits")
        rows = visits.groupby(["epoch", "partition"]).rows.sum()
        assert rows.tolist() == [10, 5_990, 1, 5_999] * 2

    def test_weights_count(self, client, binary):
        X, y = binary
        # Most rows lie, and weigh nothing.
        both, labels = np.concatenate([X, X, X]), np.concatenate([y, 1 - y, 1 - y])
        weights = np.repeat([1.0, 0.0, 0.0], len(X))
        chunked = (da.from_array(v, chunks=(3_000, -1)[: v.ndim]) for v in (both, labels, weights))
        dX, dy, dw = chunked
        assert make().fit(dX, dy).score(X, y) < 0.5
        plain = make(max_iter=3, tol=None).fit(X, y).score(X, y)
        assert make(max_iter=3, tol=None).fit(dX, dy, sample_weight=dw).score(X, y) > plain - 0.01

    def test_labels_in_memory_beside_a_collection(self, client, binary):
        X, y = binary
        assert make().fit(da.from_array(X, chunks=(3_000, -1)), y).score(X, y) > 0.8

    def test_rows_in_memory_beside_labels_on_the_cluster(self, client, binary):
        X, y = binary
        clf = make().fit(X, da.from_array(y, chunks=3_000))
        assert clf.history_.to_frame("rounds").worker.str.startswith("tcp://").all()
        assert clf.score(X, y) > 0.8

    def test_small_integers(self, client, binary):
        X, y = binary
        coarse = np.round(X * 20).astype(np.int8)
        clf = make().fit(da.from_array(coarse, chunks=(3_000, -1)), da.from_array(y, chunks=3_000))
        assert clf.coef_.dtype == np.float32
        assert clf.score(coarse, y) > 0.8


class TestPrediction:
    def test_lazy_with_the_same_chunks(self, client, persisted, binary):
        dX, dy = persisted
        clf = make().fit(dX, dy)
        for method, columns in (("predict", None), ("decision_function", None), ("predict_proba", 2)):
            lazy = getattr(clf, method)(dX)
            assert isinstance(lazy, da.Array)
            assert lazy.chunks[0] == dX.chunks[0]
            eager = getattr(clf, method)(binary[0])
            assert isinstance(eager, np.ndarray)
            assert lazy.dtype == eager.dtype
            assert eager.shape == ((12_000,) if columns is None else (12_000, columns))
            np.testing.assert_allclose(lazy.compute(), eager, rtol=1e-4, atol=1e-6)

    def test_another_number_of_features(self, client, persisted):
        clf = make().fit(*persisted)
        with pytest.raises(ValueError, match=r"X has 7 features, but .* is expecting 8"):
            clf.predict(persisted[0][:, :7])
        with pytest.raises(ValueError, match=r"X has 7 features, but .* is expecting 8"):
            clf.predict(np.zeros((2, 7)))

    def test_names_that_differ(self, client, binary):
        frame = pd.DataFrame(binary[0], columns=list("abcdefgh"))
        clf = make().fit(dd.from_pandas(frame, npartitions=2), da.from_array(binary[1], chunks=6_000))
        with pytest.raises(ValueError, match="feature names should match"):
            clf.predict(dd.from_pandas(frame[list("hgfedcba")], npartitions=2))

    def test_labels_of_another_dtype_score(self, client, persisted):
        clf = make().fit(*persisted)
        assert clf.score(persisted[0], persisted[1].astype(float)) == clf.score(*persisted)

    def test_labels_that_cannot_be_compared_are_an_error(self, client, persisted):
        clf = make().fit(*persisted)
        with pytest.raises(ValueError, match="Mix of label input types"):
            clf.score(persisted[0], persisted[1].astype(str))


class TestBadInput:
    @pytest.fixture(autouse=True)
    def nothing_left(self, client):
        yield
        assert_clean(client)

    def refused(self, message, X, y, **fit):
        with pytest.raises(ValueError, match=message):
            make().fit(X, y, **fit)

    def test_lengths(self, binary):
        X, y = (da.from_array(v, chunks=(3_000, -1)[: v.ndim]) for v in binary)
        self.refused("different lengths: 12000 rows of X, 11000 of y", X, y[:11_000])
        self.refused("different lengths: 12000 rows of X, 9 of sample_weight", X, y, sample_weight=da.ones(9))

    def test_partitions(self, binary):
        X, y = (da.from_array(v, chunks=(3_000, -1)[: v.ndim]) for v in binary)
        self.refused(r"X has 4 partitions, y has 2.*y\.rechunk", X, y.rechunk(6_000))
        self.refused(
            r"Partition 0 has 3000 rows of X but 2000 of y.*rechunk",
            X,
            y.rechunk(((2_000, 4_000, 3_000, 3_000),)),
        )

    def test_lengths_that_only_the_workers_can_see(self, binary):
        X, y = binary
        frame = dd.from_pandas(pd.DataFrame(X), npartitions=3)
        labels = dd.from_pandas(pd.Series(y[:11_000]), npartitions=3)
        self.refused(r"Partition \d: X and y have different lengths: \d+ rows of X, \d+ of y", frame, labels)

    @pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
    def test_numbers_that_are_none(self, binary, value, kind):
        X, y = binary
        X = X.copy()
        X[7_000, 3] = value
        dX, dy = da.from_array(X, chunks=(3_000, -1)), da.from_array(y, chunks=3_000)
        self.refused(rf"Partition 2: X contains {kind} \(1 values; columns 3\)", dX, dy)

    def test_labels_that_are_missing(self, binary):
        X, y = binary
        labels = y.astype(float)
        labels[4_000] = np.nan
        dX, dy = da.from_array(X, chunks=(3_000, -1)), da.from_array(labels, chunks=3_000)
        self.refused("Partition 1: y contains NaN", dX, dy)

    def test_one_class(self, binary):
        X, y = (da.from_array(v, chunks=(3_000, -1)[: v.ndim]) for v in binary)
        self.refused("one class only", X, y * 0)

    def test_empty(self, binary):
        X, y = (da.from_array(v, chunks=(3_000, -1)[: v.ndim]) for v in binary)
        self.refused("X is empty", X[:0], y[:0])
        unknown = X[X[:, 0] > 1e9], y[X[:, 0] > 1e9]
        self.refused("X is empty", *unknown)

    def test_columns_in_several_chunks(self, binary):
        X, y = (da.from_array(v, chunks=(3_000, 4)[: v.ndim]) for v in binary)
        self.refused(r"split over 2 chunks.*X\.rechunk\(\{1: -1\}\)", X, y)

    def test_columns_that_are_no_numbers(self, binary):
        X, y = binary
        frame = pd.DataFrame(X).assign(word="a")
        self.refused("word.*do not hold numbers", dd.from_pandas(frame, npartitions=2), y)

    def test_labels_with_fractions(self, binary):
        X, y = (da.from_array(v, chunks=(3_000, -1)[: v.ndim]) for v in binary)
        self.refused("Partition 0: Unknown label type: continuous", X, y + X[:, 0])

    def test_partitions_of_two_layouts(self, binary):
        X, y = binary
        both = da.concatenate([da.from_array(X[:6_000], chunks=(3_000, -1)), csr_chunks(X[6_000:], 3_000)])
        self.refused("sparse in part and dense in part", both, da.from_array(y, chunks=3_000))

    def test_collections_that_are_no_tables(self, binary):
        self.refused("must be a dask Array or a dask DataFrame", dask.delayed(binary[0]), binary[1])

    def test_what_is_no_client(self, binary):
        with pytest.raises(TypeError, match=r"must be a distributed\.Client or None, got 'here'"):
            make(client="here").fit(*binary)

    def test_one_dimension(self, binary):
        X, y = (da.from_array(v, chunks=(3_000, -1)[: v.ndim]) for v in binary)
        self.refused("two dimensions", X[:, 0], y)

    def test_asynchronous_client(self, cluster, binary):
        import asyncio

        async def attempt():
            async with Client(cluster.scheduler_address, asynchronous=True) as client:
                with pytest.raises(ValueError, match="asynchronous"):
                    make(client=client).fit(*binary)

        asyncio.run(attempt())
