import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone

from skdist import DistributedSGDClassifier
from skdist.cluster.source import collection_source
from skdist.models import linear
from tests.estimators.test_wide import COLUMNS, WIDTH, problem


def test_partitions_that_store_different_columns(client):
    X, y = problem(n_rows=900)
    place = X.tocoo().row
    X.data[((place < 300) & (X.indices == 17)) | ((place >= 600) & (X.indices == 999))] = 0
    X.eliminate_zeros()
    blocks = da.concatenate([da.from_delayed(p, (300, WIDTH), float) for p in delayed_rows(X, 300)])
    clf = DistributedSGDClassifier("log_loss", random_state=0, client=client, max_iter=30, tol=None)
    clf.fit(blocks, da.from_array(y, chunks=300))
    assert clf.coef_.shape == (3, WIDTH)
    assert set(np.flatnonzero(clf.coef_.any(axis=0))) == set(COLUMNS)
    assert clf.score(X, y) > 0.8


def test_a_bad_value_is_named_by_its_own_column(client):
    X, y = problem(n_rows=600)
    X.data[X.indices == 400] = np.inf
    blocks = da.concatenate([da.from_delayed(p, (300, WIDTH), float) for p in delayed_rows(X, 300)])
    with pytest.raises(ValueError, match="columns 400"):
        DistributedSGDClassifier("log_loss", client=client).fit(blocks, da.from_array(y, chunks=300))


@pytest.mark.parametrize("kind", ["float", "int", "csc"])
def test_rows_that_kernels_can_read_are_trained_on_where_they_are(client, kind):
    X, y = problem(n_rows=900)
    meta = sp.csr_array((0, 0), dtype=float)
    if kind == "int":
        X, meta = X.astype(bool).astype(int), meta.astype(int)
    meta = meta.tocsc() if kind == "csc" else meta
    parts = [part.tocsc() if kind == "csc" else part for part in delayed_rows(X, 300)]
    blocks = [da.from_delayed(part, (300, WIDTH), meta.dtype, meta=meta) for part in parts]
    rows = client.persist([da.concatenate(blocks), da.from_array(y, chunks=300)])
    assert collection_source(*rows, None).held is (kind == "float")
    clf = DistributedSGDClassifier("log_loss", random_state=0, client=client, max_iter=30, tol=None)
    clf.fit(*rows)
    assert set(np.flatnonzero(clf.coef_.any(axis=0))) == set(COLUMNS)
    assert clf.score(X, y) > 0.8
    weighted = clone(clf).set_params(early_stopping=True, tol=1e-3)
    weighted.fit(*rows, sample_weight=client.persist(da.ones(900, chunks=300)))
    assert weighted.best_validation_score_ > 0.8
    assert (rows[0].compute() != X).nnz == 0


@pytest.mark.parametrize(
    ("params", "learners"),
    [({}, 1), ({"mode": "ssp"}, 2), ({"mode": "sync"}, 2), ({"n_servers": 2}, 2)],
    ids=str,
)
def test_as_many_learners_train_as_save_more_than_their_exchanges_cost(client, monkeypatch, params, learners):
    monkeypatch.setattr(linear, "LARGE_STATE", 0)
    X, y = problem(n_rows=900)
    blocks = da.concatenate([da.from_delayed(p, (100, WIDTH), float) for p in delayed_rows(X, 100)])
    clf = DistributedSGDClassifier("log_loss", random_state=0, client=client, max_iter=9, tol=None, **params)
    clf.fit(blocks, da.from_array(y, chunks=100))
    assert clf.history_.fits[-1].learners == clf.history_.fits[-1].workers == learners
    visits = clf.history_.to_frame("visits")
    assert visits.groupby("epoch").rows.sum().tolist() == [900] * 9
    assert visits.worker.nunique() == learners
    assert clf.score(X, y) > 0.8


def delayed_rows(X, size):
    from dask import delayed

    return [delayed(X[start : start + size], pure=False) for start in range(0, X.shape[0], size)]
