"""Bad input of all kinds: 150 cases here, and 2,000 with ``python -m pytest -m long tests/test_fuzz.py``."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings

from tests.cluster.conftest import assert_clean
from tests.fuzz import cases, check

EXAMPLES = [75, pytest.param(1_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]


@pytest.fixture(scope="module")
def in_process():
    """A client of a cluster in this process, that says nothing of the tasks that fail."""
    workers = logging.getLogger("distributed.worker")
    level = workers.level
    workers.setLevel(logging.CRITICAL)
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client
        assert_clean(client)
    workers.setLevel(level)


def run(examples, client):
    """Check so many cases; most of them must be no copies of one another."""
    ends = Counter()

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(case=cases())
    def each(case):
        ends[check(case, client)] += 1

    each()
    assert min(ends["model"], ends.total() - ends["model"]) > examples / 5, ends


@pytest.mark.parametrize("examples", EXAMPLES)
def test_bad_input_in_this_process(examples):
    run(examples, None)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_bad_input_on_a_cluster(examples, in_process):
    run(examples, in_process)
