"""Partitions that are loaded for each visit: some of them are measured, and stand for all."""

import logging
import uuid
from collections import Counter, defaultdict

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from distributed import Client, LocalCluster

from skdist import DistributedSGDClassifier, DistributedSGDRegressor, DistributedTorchClassifier
from skdist.cluster import partitions, visits
from skdist.cluster.membership import Membership

PARTITIONS, ROWS = 20, 500


@pytest.fixture
def here(monkeypatch):
    """A client of workers in this process, whose loads can be counted."""
    monkeypatch.setattr(partitions, "HELD_SHARE", 0.0)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


#: By the name of the files; the workers are in this process.
LOADS = defaultdict(Counter)


class Files:
    """Partitions that count how often each was loaded."""

    def __init__(self, spoil=None, labels=(0, 1)):
        self._name, self._spoil, self._labels = uuid.uuid4().hex, spoil, labels

    @property
    def loads(self):
        return LOADS[self._name]

    def load(self, number):
        self.loads[number] += 1
        rng = np.random.default_rng(number)
        X = rng.normal(size=(ROWS, 5))
        y = np.asarray(self._labels)[(X[:, 0] > 0).astype(int)]
        if self._spoil is not None:
            self._spoil(number, X, y)
        return X, y

    def collections(self):
        parts = [dask.delayed(self.load, pure=True)(number) for number in range(PARTITIONS)]
        X = [da.from_delayed(part[0], (ROWS, 5), float) for part in parts]
        y = [da.from_delayed(part[1], (ROWS,), int) for part in parts]
        return da.concatenate(X), da.concatenate(y)


def visits_to(clf):
    """Count the visits to each partition: one in a pass, more where a slow one left rows to another."""
    return Counter(record.partition for record in clf.history_.visits)


def test_most_partitions_are_loaded_once_per_pass(here):
    files = Files()
    clf = DistributedSGDClassifier("log_loss", client=here, max_iter=1, tol=None, random_state=0)
    X, y = files.collections()
    clf.fit(X, y)
    assert sum(visit.rows for visit in clf.history_.visits) == PARTITIONS * ROWS
    visits = visits_to(clf)
    assert sorted(visits) == sorted(files.loads) == list(range(PARTITIONS))
    assert files.loads.total() == visits.total() + partitions.LEAST_SAMPLE
    assert clf.score(*files.load(100)) > 0.95
    moments = clf._training.moments
    assert moments.rows == PARTITIONS * ROWS
    assert moments.deviation == pytest.approx(moments.rows, rel=0.1)


def test_a_regression_too(here):
    files = Files(labels=(-100.0, 300.0))
    reg = DistributedSGDRegressor(client=here, random_state=0).fit(*files.collections())
    assert reg.score(*files.load(100)) > 0.5


def test_balanced_classes_are_counted_in_all_partitions(here):
    def spoil(number, X, y):
        y[:] = number % 4 == 0

    files = Files(spoil)
    clf = DistributedSGDClassifier(client=here, max_iter=1, tol=None, class_weight="balanced")
    clf.fit(*files.collections())
    assert files.loads - visits_to(clf) == Counter(range(PARTITIONS))
    assert clf._training.targets.rows.tolist() == [15 * ROWS, 5 * ROWS]


@pytest.mark.parametrize("labels", [(0, 1), (0, 1, 2)])
def test_a_class_that_the_sample_lacks_is_found(here, labels):
    def spoil(number, X, y):
        if number == 7:
            y[:100] = labels[-1] + 1

    files = Files(spoil, labels=labels[-2:])
    clf = DistributedSGDClassifier("log_loss", client=here, random_state=0, max_iter=5, tol=None)
    clf.fit(*files.collections())
    assert clf.classes_.tolist() == [*labels[-2:], labels[-1] + 1]
    assert clf._training.targets.rows[-1] == 100
    assert sum(visit.rows for visit in clf.history_.visits) == clf.n_iter_ * PARTITIONS * ROWS


def test_a_class_that_nobody_announced_is_an_error(here):
    def spoil(number, X, y):
        if number == 7:
            y[3] = 5

    clf = DistributedSGDClassifier(client=here)
    with pytest.raises(ValueError, match=r"not in classes.*5"):
        clf.partial_fit(*Files(spoil).collections(), classes=[0, 1])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("bad", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_bad_values_show_when_they_are_visited(here, caplog, bad, kind, sparse):
    def spoil(number, X, y):
        if number == 7:
            X[3, 2] = bad

    caplog.set_level(logging.INFO, "skdist")
    X, y = Files(spoil).collections()
    X = X.map_blocks(scipy.sparse.csr_array) if sparse else X
    with pytest.raises(ValueError, match=rf"Partition 7: X contains {kind} \(1 values; columns 2\)"):
        DistributedSGDClassifier(client=here).fit(X, y)
    assert "Now all are measured" not in caplog.text


def test_bad_rows_of_a_module_show_when_they_are_loaded(here):
    torch = pytest.importorskip("torch")

    def spoil(number, X, y):
        if number == 7:
            X[3, 2] = np.inf

    module = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(5, 2))  # the first layer hides infinity
    with pytest.raises(ValueError, match=r"Partition 7: X contains NaN or infinity"):
        DistributedTorchClassifier(module, client=here).fit(*Files(spoil).collections())


@pytest.mark.parametrize("sparse", [False, True])
def test_a_feature_that_the_sample_lacks_is_trained(here, sparse):
    def spoil(number, X, y):
        X[:, 3] = 0
        if number == 7:
            X[:, 3] = y - 0.5
            X[:, 0] = 0

    files = Files(spoil)
    X, y = files.collections()
    X = X.map_blocks(scipy.sparse.csr_array) if sparse else X
    clf = DistributedSGDClassifier("log_loss", client=here, random_state=0, max_iter=5, tol=None).fit(X, y)
    assert clf.coef_[0, 3] > 0.1
    assert sum(visit.rows for visit in clf.history_.visits) == clf.n_iter_ * PARTITIONS * ROWS


@pytest.mark.parametrize(
    ("share", "shape"), [(0.0, (ROWS - 1, 5)), (0.0, (ROWS + 1, 5)), (0.0, (ROWS, 4)), (0.5, (ROWS, 4))]
)
def test_chunks_that_are_not_what_they_say_are_refused(here, monkeypatch, share, shape):
    monkeypatch.setattr(partitions, "HELD_SHARE", share)

    def load(number):
        rows, features = shape if number == 7 else (ROWS, 5)
        return np.random.default_rng(number).normal(size=(rows, features)), np.arange(rows) % 2

    parts = [dask.delayed(load)(number) for number in range(PARTITIONS)]
    X = da.concatenate([da.from_delayed(part[0], (ROWS, 5), float) for part in parts])
    y = da.concatenate([da.from_delayed(part[1], (ROWS,), int) for part in parts])
    clf = DistributedSGDClassifier("log_loss", client=here, max_iter=2, tol=None)
    with pytest.raises(ValueError, match=r"partition 7|Partition 7 has .*compute_chunk_sizes"):
        clf.fit(X, y)


@pytest.mark.parametrize("kind", ["frame", "bytes"])
def test_rows_of_unknown_size_are_streamed_where_they_would_not_fit(here, monkeypatch, kind):
    X, y = Files().collections()
    X = (100 * X.clip(-1, 1)).astype(np.int8)
    rows = X.to_dask_dataframe(columns=list("abcde")), y.to_dask_dataframe(columns="y")
    (_, memory) = here.sync(_memory, here)
    for share, held in [(0.9, False), (1.1, True)]:  # of what 5 float32 per row take
        monkeypatch.setattr(partitions, "HELD_SHARE", share * PARTITIONS * ROWS * 5 * 4 / memory)
        clf = DistributedSGDClassifier("log_loss", client=here, max_iter=2, tol=None)
        keys = set()
        order = visits.Visits.order

        def watch(self, ahead=True, order=order, keys=keys):
            keys.add(self._partitions.streamed)
            order(self, ahead)

        monkeypatch.setattr(visits.Visits, "order", watch)
        clf.fit(*(rows if kind == "frame" else (X, y)))
        assert keys == {not held}


async def _memory(client):
    present = await Membership(client).look()
    return present.threads, present.memory


def test_rows_that_nobody_counted_are_all_measured(here):
    files = Files()
    X, y = files.collections()
    mask = da.from_array(np.arange(PARTITIONS * ROWS) % 3 > 0, chunks=ROWS)
    clf = DistributedSGDClassifier(client=here, max_iter=1, tol=None).fit(X[mask], y[mask])
    assert clf._training.moments.rows == int(mask.sum().compute())
    assert sum(visit.rows for visit in clf.history_.visits) == clf._training.moments.rows


def test_targets_that_are_made_from_the_rows_load_them_once(here):
    files = Files()
    X, _ = files.collections()
    clf = DistributedSGDClassifier("log_loss", client=here, max_iter=1, tol=None, random_state=0)
    clf.fit(X, X[:, 0] > 0)
    trained = files.loads.copy()
    assert trained.total() == visits_to(clf).total() + partitions.LEAST_SAMPLE
    clf.score(X, X[:, 0] > 0)
    assert files.loads - trained == Counter(range(PARTITIONS))


@pytest.mark.parametrize("params", [{}, {"class_weight": {0: 1.0, 1: 3.0}}], ids=str)
def test_a_sample_of_one_class_is_no_error_of_the_data(here, params):
    def spoil(number, X, y):
        if number != 7:
            y[:] = 0

    clf = DistributedSGDClassifier("log_loss", client=here, max_iter=1, tol=None, random_state=0, **params)
    clf.fit(*Files(spoil).collections())
    assert clf.classes_.tolist() == [0, 1]
    assert sum(visit.rows for visit in clf.history_.visits) == PARTITIONS * ROWS


def test_what_is_wrong_with_all_rows_is_an_error(here):
    def spoil(number, X, y):
        y[:] = 0

    with pytest.raises(ValueError, match="one class only"):
        DistributedSGDClassifier(client=here).fit(*Files(spoil).collections())
