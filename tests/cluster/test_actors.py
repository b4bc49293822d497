import itertools
import time

import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from skdist import DistributedSGDClassifier
from skdist.cluster import actors, tasks
from skdist.cluster.actors import _apart
from skdist.cluster.blocks import Blocks
from skdist.cluster.held import Named


@given(n_workers=st.integers(1, 9), n_shards=st.integers(0, 12), holder=st.booleans())
def test_actors_get_workers_of_their_own_where_there_are_enough(n_workers, n_shards, holder):
    workers = [f"w{n}" for n in range(n_workers)]
    where = workers[:1] if holder else workers
    places = _apart(where, workers, n_shards)
    assert len(places) == 1 + n_shards
    assert all(place and set(place) <= set(workers) for place in places)
    assert set(places[0]) <= set(where)
    if n_workers > n_shards:
        assert not any(set(one) & set(other) for one, other in itertools.combinations(places, 2))
    counts = [sum(worker in place for place in places[1:]) for worker in workers]
    assert max(counts) <= -(-n_shards // max(n_workers - (n_workers > n_shards), 1))


def test_without_shards_the_server_may_be_anywhere():
    assert _apart(["a", "b"], ["a", "b"], 0) == [["a", "b"]]


@pytest.fixture
def sent(monkeypatch):
    """The keys of what is submitted."""
    submit, keys = Client.submit, []

    def noted(self, *args, key, **kwargs):
        keys.append(str(key))
        return submit(self, *args, key=key, **kwargs)

    monkeypatch.setattr(Client, "submit", noted)
    return keys


def test_the_server_starts_behind_the_tasks_that_measure_rows_which_are_held(persisted, sent):
    DistributedSGDClassifier(max_iter=1, tol=None).fit(*persisted)
    kinds = [next(kind for kind in ("measure", "server", "visit") if kind in key) for key in sent]
    assert [kind for kind, _ in itertools.groupby(kinds)] == ["measure", "server", "visit"]


def test_the_server_is_not_given_up_while_rows_are_measured(persisted, monkeypatch):
    measure = tasks.measure

    def slow(*args):
        time.sleep(2)  # reason=keeps the threads of the workers for longer than all starts that are tried
        return measure(*args)

    monkeypatch.setattr(tasks, "measure", slow)
    monkeypatch.setattr(actors, "START_SECONDS", 0.2)
    started = DistributedSGDClassifier(max_iter=1, tol=None).fit(*persisted)
    assert started.n_iter_ == 1


def test_rows_that_are_not_where_they_were_become_inputs(persisted, sent, monkeypatch):
    monkeypatch.setattr(Blocks, "named", lambda self, numbers, worker: Named(["nobody's"] * len(numbers)))
    clf = DistributedSGDClassifier("log_loss", max_iter=3, tol=None).fit(*persisted)
    assert [epoch.rows for epoch in clf.history_.epochs] == [12_000] * 3
    visits = [key for key in sent if "visit" in key]
    assert 2 * sum("-again" in key for key in visits) == len(visits)
    assert len({key.split("',")[0] for key in sent if "measure" in key}) == 2
