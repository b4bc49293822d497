import dask.array as da
import numpy as np
import pytest

from skdist import DistributedSGDClassifier
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


def delayed_rows(X, size):
    from dask import delayed

    return [delayed(X[start : start + size], pure=False) for start in range(0, X.shape[0], size)]
