from __future__ import annotations

import itertools

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, wait
from distributed.comm import CommClosedError

from skdist import DistributedSGDClassifier
from skdist.cluster import partitions
from skdist.models.validation import HoldOut
from tests.cluster.conftest import assert_clean, wait_for
from tests.cluster.test_faults import train_and_kill, trio  # noqa: F401

SYNC = {"mode": "sync", "batch_sizer": None, "round_size": 256}


def make(**params):
    return DistributedSGDClassifier(
        **{"loss": "log_loss", "random_state": 0, "early_stopping": True, **params}
    )


def assert_whole_epochs(clf, rows):
    """Every training row was visited once per epoch."""
    epochs, visits = clf.history_.to_frame("epochs"), clf.history_.to_frame("visits")
    assert epochs.rows.tolist() == [rows] * clf.n_iter_
    for _, part in visits.groupby(["epoch", "partition"]):
        stretches = sorted(zip(part.start, part.rows, strict=True))
        assert stretches[0][0] == 0
        for (a, length), (b, _) in itertools.pairwise(stretches):
            assert a + length == b
    assert visits.groupby("epoch").rows.sum().tolist() == [rows] * clf.n_iter_


def test_a_worker_that_leaves_as_a_score_begins_costs_neither_score_nor_fit(client, persisted, monkeypatch):
    scatter = Client.scatter
    # What Dask raises where one of the workers has just died.
    errors = [KeyError("tcp://127.0.0.1:1"), CommClosedError("closed")]

    def failing(self, *args, **kwargs):
        if errors:
            raise errors.pop()
        return scatter(self, *args, **kwargs)

    monkeypatch.setattr(Client, "scatter", failing)
    clf = make(max_iter=4, n_iter_no_change=100, client=client).fit(*persisted)
    assert not errors
    assert len(clf.validation_scores_) == clf.n_iter_ == 4


@pytest.mark.parametrize("params", [{}, {"mode": "ssp"}, {"mode": "sync"}, SYNC], ids=str)
def test_training_stops_by_the_score_of_rows_that_are_not_trained_on(client, persisted, params):
    clf = make(tol=2.0, n_iter_no_change=3, **params).fit(*persisted)
    sync = params.get("mode") == "sync"
    assert clf.n_iter_ == 4 if sync else 4 <= clf.n_iter_ <= 8
    assert len(clf.validation_scores_) == clf.n_iter_
    assert clf.best_validation_score_ == max(clf.validation_scores_) > 0.8
    assert_whole_epochs(clf, 10_800)


def test_in_sync_mode_the_scores_are_the_same_on_every_run(client, persisted):
    first, second = (make(**SYNC, max_iter=4, tol=None).fit(*persisted) for _ in range(2))
    assert first.validation_scores_ == second.validation_scores_
    np.testing.assert_array_equal(first.coef_, second.coef_)


def test_rows_are_held_out_by_seed_and_partition_and_have_no_part_in_training(client, binary, monkeypatch):
    X, y = binary
    splits = {"seed": None}
    plain = HoldOut.__init__

    def keep(self, fraction, seed):
        splits["seed"] = seed
        plain(self, fraction, seed)

    monkeypatch.setattr(HoldOut, "__init__", keep)
    clf = make(**SYNC, max_iter=1, tol=None)

    def fit(X):
        return clf.fit(da.from_array(X, chunks=(1_200, -1)), da.from_array(y, chunks=1_200))

    clean = fit(X).coef_
    from skdist.models.partition import convert

    hold_out = HoldOut(0.1, splits["seed"])
    held = np.concatenate(
        [
            start + hold_out.split(convert(X[start : start + 1_200], y[start : start + 1_200]), n).held_out
            for n, start in enumerate(range(0, len(X), 1_200))
        ]
    )
    assert len(held) == 1_200
    assert clf.best_validation_score_ == clf.score(X[held], y[held])
    changed = X.copy()
    changed[held] *= -1e3
    score = clf.best_validation_score_
    np.testing.assert_array_equal(fit(changed).coef_, clean)
    assert clf.best_validation_score_ != score


def test_rows_sent_from_memory_are_held_out_too(client, binary):
    clf = make(client=client, max_iter=3, tol=None).fit(*binary)
    assert_whole_epochs(clf, 10_800)
    assert clf.best_validation_score_ > 0.8


def test_streamed_partitions_hold_the_same_rows_out_each_time(client, binary, monkeypatch):
    X, y = binary
    data = da.from_array(X, chunks=(1_200, -1)), da.from_array(y, chunks=1_200)
    held = make(**SYNC, max_iter=2, tol=None).fit(*data)
    monkeypatch.setattr(partitions, "HELD_SHARE", 0.0)
    streamed = make(max_iter=2, tol=None).fit(*data)
    assert_whole_epochs(streamed, 10_800)
    assert streamed.best_validation_score_ == pytest.approx(held.best_validation_score_, abs=0.03)


@pytest.mark.parametrize("train_lazy", [True, False])
@pytest.mark.parametrize("val_lazy", [True, False])
def test_validation_rows_of_ones_own_may_be_collections_or_not(client, binary, train_lazy, val_lazy):
    X, y = binary
    weights = np.random.default_rng(0).uniform(0, 2, 2_000)

    def lazily(lazy, *arrays):
        return [da.from_array(a, chunks=(500, *a.shape[1:])) if lazy else a for a in arrays]

    dX, dy = lazily(train_lazy, X[:10_000], y[:10_000])
    vX, vy, vw = lazily(val_lazy, X[10_000:], y[10_000:], weights)
    clf = make(client=client, tol=2.0, n_iter_no_change=1, mode="sync")
    clf.fit(dX, dy, X_val=vX, y_val=vy, sample_weight_val=vw)
    assert clf.n_iter_ == 2
    assert_whole_epochs(clf, 10_000)
    assert clf.score(X[10_000:], y[10_000:], weights) == pytest.approx(clf.best_validation_score_)


def test_validation_rows_may_be_a_dask_frame(client, binary):
    X, y = binary
    frame = pd.DataFrame(X, columns=[f"x{n}" for n in range(8)]).assign(y=y)
    train, val = dd.from_pandas(frame[:10_000], npartitions=4), dd.from_pandas(frame[10_000:], npartitions=3)
    clf = make(max_iter=2, tol=None, early_stopping=False)
    clf.fit(train.drop(columns="y"), train["y"], X_val=val.drop(columns="y"), y_val=val["y"])
    assert clf.score(X[10_000:], y[10_000:]) == clf.validation_scores_[-1]
    with pytest.raises(ValueError, match=r"X_val.*feature names should match"):
        clf.fit(
            train.drop(columns="y"), train["y"], X_val=val.drop(columns="y").rename(columns={"x0": "x"}),
            y_val=val["y"],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X_val": lambda X: X[:, :7]}, "X_val.*7 features"),
        ({"X_val": lambda X: X * np.nan}, "Validation partition .: X contains NaN"),
        ({"y_val": lambda y: y[:400]}, "X_val, y_val or sample_weight_val: .*different lengths"),
        ({"y_val": lambda y: y + 5}, "y_val contains labels that are not in y"),
        ({"X_val": lambda X: X[:0], "y_val": lambda y: y[:0]}, "X_val.*is empty"),
        ({"sample_weight_val": lambda _: da.zeros(800, chunks=400)}, "sample_weight_val must be positive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_bad_validation_rows_are_clear_errors(client, persisted, change, message):
    dX, dy = persisted
    good = {"X_val": dX[:800].rechunk((400, -1)), "y_val": dy[:800].rechunk(400)}
    bad = {name: make_bad(good.get(name)) for name, make_bad in change.items()}
    with pytest.raises(ValueError, match=message):
        make().fit(dX, dy, **{**good, **bad})


def test_a_split_that_is_of_no_use_is_refused(client, persisted):
    dX, dy = persisted
    with pytest.raises(ValueError, match=r"led to an empty set .* rows to train on, 0 to validate"):
        make(validation_fraction=1e-6).fit(dX[:600], dy[:600])


def test_only_sums_come_back_to_the_driver(client, persisted, monkeypatch):
    from skdist.cluster import fetch

    fetched = []
    plain = fetch.fetch

    async def watch(client, futures):
        results = await plain(client, futures)
        fetched.extend(results)
        return results

    monkeypatch.setattr(partitions, "fetch", watch)
    clf = make(max_iter=3, tol=None).fit(*persisted)
    sums = [part for part in fetched if hasattr(part, "score_sum")]
    assert sum(part.rows for part in sums) == 3 * 1_200
    # A task for each worker and epoch, not for each partition.
    assert len(sums) <= 3 * 2 + 2
    assert len(clf.validation_scores_) == 3


def test_without_validation_or_callbacks_the_server_is_asked_for_nothing_more(client, persisted, monkeypatch):
    from skdist.cluster.serving import Serving

    called = []
    plain = Serving.call

    async def watch(self, method, *args):
        called.append(method)
        return await plain(self, method, *args)

    monkeypatch.setattr(Serving, "call", watch)
    make(early_stopping=False, max_iter=5, tol=None).fit(*persisted)
    assert called == ["begin", "finish"]


def test_a_killed_worker_costs_no_row_and_no_score(trio, binary):  # noqa: F811
    client, dX, dy = trio
    outcome, victim = train_and_kill(client, dX, dy, holds_server=False, early_stopping=True)
    clf = outcome["clf"]
    assert_whole_epochs(clf, 10_800)
    assert len(clf.validation_scores_) == clf.n_iter_
    assert victim in set(clf.history_.to_frame("rounds").worker)
    assert clf.score(*binary) > 0.85
    assert_clean(client)


def test_an_interrupt_during_a_look_leaves_nothing(client, persisted):
    import contextlib
    import signal
    import threading

    from skdist.testing import leftovers

    def interrupt_when_scoring():
        with contextlib.suppress(AssertionError):
            wait_for(lambda: any("skdist-score" in key for key in leftovers(client)["keys"]), 20)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt_when_scoring)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        make(max_iter=10_000_000, tol=None).fit(*persisted)
    interrupter.join(30)
    assert_clean(client)


def test_validation_rows_that_are_lazy_are_made_once(client, persisted):
    dX, dy = persisted
    wait([dX, dy])
    made = client.submit(Count, actor=True).result()
    vX = dX[:1_200].map_blocks(counted, made, dtype=dX.dtype, meta=np.empty((0, 8), np.float32))
    make(early_stopping=False, max_iter=5, tol=None).fit(dX, dy, X_val=vX, y_val=dy[:1_200])
    assert made.count().result() == 1


class Count:
    def __init__(self):
        self.calls = 0

    def add(self):
        self.calls += 1

    def count(self):
        return self.calls


def counted(block, made):
    made.add().result()
    return block
