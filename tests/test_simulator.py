import dataclasses
import math
from collections import Counter

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist import DistributedSGDClassifier
from skdist.control.aggregation import InverseVolatility
from skdist.control.latency import LatencyBatchSizer
from skdist.control.schedules import AutoRate
from skdist.control.staleness import StalenessWindow
from skdist.exceptions import NoWorkersError
from skdist.inline import train_inline
from skdist.simulator import active_cluster
from skdist.testing import SimulatedCluster
from tests.fakes import RowModel, fake_partitions, fit_settings, linear_model, rows_of

MODES = {
    "async": {"mode": "async"},
    "collecting": {"mode": "async", "collect": 3},
    "patient": {"mode": "async", "collect": "auto"},
    "ssp": {"mode": "ssp", "max_staleness": 1},
    "in step": {"mode": "ssp", "max_staleness": 0},
    "sync": {"mode": "sync"},
    "sized sync": {"mode": "sync", "sizer": LatencyBatchSizer()},
}
every_mode = pytest.mark.parametrize("mode", MODES)


def simulate(cluster, sizes, batch=8, **params):
    """Train a row model on partitions of the given sizes; return the result and the number of rows."""
    partitions, n = fake_partitions(sizes)
    return cluster.train(RowModel(batch), partitions, np.zeros(n), 0.0, fit_settings(**params)), n


def assert_every_row_once(result, sizes, epochs):
    visited = Counter(
        (v.epoch, v.partition, row) for v in result.history.visits for row in range(v.start, v.start + v.rows)
    )
    assert visited == Counter(
        (epoch, p, row) for epoch in range(epochs) for p, size in enumerate(sizes) for row in range(size)
    )
    assert [epoch.rows for epoch in result.history.epochs] == [sum(sizes)] * epochs
    assert sum(record.rows for record in result.history.rounds) == epochs * sum(sizes)
    assert result.n_iter == epochs


def story(cluster, result):
    """Return all that happened, in words: nan is equal to itself there."""
    return cluster.now, result.clock, result.state.tobytes(), repr(result.history.__dict__)


def rows_by_learner(result):
    rows = Counter()
    for record in result.history.rounds:
        rows[record.learner] += record.rows
    return rows


UNLIKE = {
    "seconds_per_row": [1e-4, 2e-4, 5e-5, 2e-3, 1e-4],
    "exchange_seconds": [1e-3, 5e-3, 1e-3, 2e-2, 0.0],
    "latency_seconds": [1e-3, 1e-2, 1e-3, 1e-3, 1e-3],
    "jitter": 0.2,
}


@every_mode
def test_the_same_seed_gives_the_same_run_to_the_bit(mode):
    X, y = rows_of(1000, 4)
    model, _ = linear_model(X, y, learning_rate=AutoRate())
    parts = [linear_model(X[a : a + 100], y[a : a + 100])[1] for a in range(0, 1000, 100)]
    params = {"adapter": StalenessWindow(), "sizer": LatencyBatchSizer(), "round_size": "auto", **MODES[mode]}
    stories = []
    for seed in (3, 3, 4):
        cluster = SimulatedCluster(5, seed=seed, **UNLIKE)
        for _ in range(2):
            fit = cluster.train(model, parts, model.initial_state(), 0.0, fit_settings(**params))
            stories.append(story(cluster, fit))
    assert stories[0] == stories[1] == stories[2] == stories[3]
    assert stories[4] == stories[5]
    now, _, _, history = stories[0]
    assert now != stories[4][0]
    assert history != stories[4][3]


def test_without_jitter_the_seed_does_not_matter():
    stories = set()
    for seed in (0, 1):
        cluster = SimulatedCluster(3, [1e-4, 2e-4, 3e-4], 1e-3, jitter=0.0, seed=seed)
        stories.add(story(cluster, simulate(cluster, [300, 300, 300])[0]))
    assert len(stories) == 1


@pytest.mark.parametrize("mode", ["async", "patient", "ssp", "sync", "sized sync"])
@pytest.mark.parametrize("aggregator", [None, InverseVolatility()])
def test_one_learner_trains_as_one_thread_does_to_the_bit(mode, aggregator):
    X, y = rows_of(500, 4)
    model, partition = linear_model(X, y, learning_rate=AutoRate())
    fit = fit_settings(adapter=StalenessWindow(), aggregator=aggregator, **MODES[mode])
    here = train_inline(model, [partition], fit, model.initial_state())
    for exchange in (0.0, 0.3):
        cluster = SimulatedCluster(1, 1e-3, exchange, jitter=0.3)
        there = cluster.train(model, [partition], model.initial_state(), 0.0, fit)
        np.testing.assert_array_equal(there.state, here.state)
        assert there.clock == here.clock


@pytest.mark.parametrize(("jitter", "tolerance"), [(0.0, 1e-9), (0.1, 0.03)])
def test_a_fit_of_one_learner_takes_the_time_of_its_rows(jitter, tolerance):
    cluster = SimulatedCluster(1, 0.5, jitter=jitter)
    result, n = simulate(cluster, [4000])
    assert cluster.now == pytest.approx(3 * n * 0.5, rel=tolerance)
    assert result.history.rounds[-1].time == pytest.approx(cluster.now)
    seconds = sum(record.seconds_compute for record in result.history.rounds)
    assert seconds == pytest.approx(3 * n * 0.5, rel=tolerance)
    assert sum(visit.seconds for visit in result.history.visits) == pytest.approx(cluster.now)


def test_exchanges_hide_behind_training_but_for_the_first_and_the_last_of_a_visit():
    cluster = SimulatedCluster(1, 1e-3, 0.01, jitter=0.0)
    simulate(cluster, [800], round_size=40)
    # An epoch is a visit: it joins, and waits for its last answer.
    assert cluster.now == pytest.approx(3 * (800 * 1e-3 + 2 * 0.01))


def test_synchronous_rounds_take_the_slowest_training_and_an_exchange():
    cluster = SimulatedCluster(4, [1e-3, 1e-3, 1e-3, 3e-3], 0.01, jitter=0.0)
    result, _ = simulate(cluster, [160] * 4, mode="sync", round_size=40)
    assert cluster.now == pytest.approx(3 * (0.01 + 4 * (40 * 3e-3 + 0.01)))
    assert Counter(record.version for record in result.history.rounds) == dict.fromkeys(range(1, 13), 4)
    exchanges = {record.seconds_exchange for record in result.history.rounds if record.version > 1}
    assert max(exchanges) == pytest.approx(0.01)  # not the time in which an answer was held back


@every_mode
def test_slow_learners_train_on_fewer_rows_and_every_row_is_trained_once(mode):
    sizes = [800] * 8
    cluster = SimulatedCluster(8, [1e-4] * 6 + [2e-3] * 2, 1e-3)
    result, _ = simulate(cluster, sizes, **MODES[mode])
    assert_every_row_once(result, sizes, 3)
    rows = rows_by_learner(result)
    assert set(rows) == set("01234567")
    if mode in ("async", "collecting", "patient"):
        assert max(rows["6"], rows["7"]) < 0.4 * min(rows[name] for name in "012345")
        # Two slow ones of eight do not make it much longer than the six alone would take.
        assert cluster.now < 2 * 3 * sum(sizes) * 1e-4 / 6
    if mode == "sync":
        assert rows == dict.fromkeys("01234567", 2400)
        assert cluster.now > 3 * 800 * 2e-3


@every_mode
def test_with_a_constant_gradient_rows_have_the_influence_that_the_mode_gives_them(mode):
    sizes = [240, 400, 160, 330, 90]
    result, _ = simulate(SimulatedCluster(5, **UNLIKE), sizes, **{"momentum": 0.0, **MODES[mode]})
    if "collect" not in MODES[mode] and MODES[mode]["mode"] != "sync":
        np.testing.assert_allclose(result.state, 3 / 8, rtol=1e-9)
        assert result.clock == sum(record.steps for record in result.history.rounds)
    elif mode == "collecting":
        np.testing.assert_allclose(result.state, 3 / 8 / 3, rtol=1e-9)
    else:
        assert (result.state > 0).all()
        assert (result.state <= 3 / 8 + 1e-9).all()


def test_a_speed_that_is_a_function_of_time_is_that_of_the_moment():
    cluster = SimulatedCluster(1, lambda now: 1e-3 if now < 2.0 else 4e-3, jitter=0.0)
    result, n = simulate(cluster, [1000], round_size=8)
    assert cluster.now == pytest.approx(2.0 + (3 * n - 2000) * 4e-3, abs=2 * 8 * 4e-3)
    for record in result.history.rounds:
        expected = 1e-3 if record.time <= 2.0 else 4e-3
        if abs(record.time - 2.0) > 0.1:
            assert record.seconds_compute / record.rows == pytest.approx(expected)


def test_a_learner_that_slows_down_half_way_hands_its_rows_to_others():
    sizes = [2000] * 4
    slows = SimulatedCluster(4, [lambda now: 1e-4 if now < 0.3 else 5e-3, 1e-4, 1e-4, 1e-4], 1e-3)
    result, _ = simulate(slows, sizes)
    assert_every_row_once(result, sizes, 3)
    epochs = {name: Counter() for name in "0123"}
    for record in result.history.rounds:
        epochs[record.learner][record.epoch] += record.rows
    assert epochs["0"][0] > 1000
    assert epochs["0"][2] < 500


moments = st.floats(0, 1.5)


@settings(deadline=None, max_examples=12)
@given(
    arrivals=st.lists(st.one_of(st.just(0.0), moments), min_size=5, max_size=5),
    stays=st.lists(st.one_of(st.just(math.inf), moments), min_size=5, max_size=5),
    notice=st.sampled_from([0.0, 0.05, 1.0]),
    survivor=st.integers(0, 4),
)
@every_mode
def test_learners_that_come_and_die_cost_no_row_and_no_row_twice(mode, arrivals, stays, notice, survivor):
    stays[survivor] = math.inf
    departures = [arrival + stay for arrival, stay in zip(arrivals, stays, strict=True)]
    sizes = [160] * 5
    cluster = SimulatedCluster(
        5, [1e-3, 1e-3, 3e-3, 2e-2, 1e-3], 0.02, arrival_seconds=arrivals, departure_seconds=departures,
        notice_seconds=notice,
    )  # fmt: skip
    result, _ = simulate(cluster, sizes, **MODES[mode])
    assert_every_row_once(result, sizes, 3)
    if mode in ("async", "ssp", "in step"):
        np.testing.assert_allclose(result.state, 3 / 8, rtol=1e-9)
    assert cluster.now < 1000


@every_mode
def test_a_lost_learner_holds_the_others_up_until_it_is_noticed_and_no_longer(mode):
    sizes = [400] * 4
    alone = SimulatedCluster(3, 1e-3, 0.01, jitter=0.0)
    simulate(alone, sizes, **MODES[mode])
    cluster = SimulatedCluster(
        4, 1e-3, 0.01, jitter=0.0, departure_seconds=[0.1, *[math.inf] * 3], notice_seconds=1.0
    )
    result, _ = simulate(cluster, sizes, **MODES[mode])
    assert_every_row_once(result, sizes, 3)
    assert cluster.now < 2 * alone.now + 1.0
    rows = rows_by_learner(result)
    assert rows["0"] < 120
    assert min(rows[name] for name in "123") > 800


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_what_a_learner_had_not_sent_when_it_died_is_lost(mode):
    departure = 0.3
    cluster = SimulatedCluster(
        2, 1e-3, 0.02, jitter=0.0, departure_seconds=[departure, math.inf], notice_seconds=5.0
    )
    result, _ = simulate(cluster, [2000, 2000], round_size=400, **MODES[mode])
    # The first round takes longer than it lived.
    assert "0" not in rows_by_learner(result)


def test_a_death_that_is_noticed_late_costs_the_time_until_then():
    ends = []
    for notice in (0.5, 10.0):
        cluster = SimulatedCluster(2, 1e-3, departure_seconds=[0.3, math.inf], notice_seconds=notice)
        simulate(cluster, [500, 500], max_iter=1)
        ends.append(cluster.now)
    assert ends[0] < 2.0
    assert ends[1] > 10.0


def test_a_learner_that_comes_late_gets_work_at_once():
    cluster = SimulatedCluster(3, 1e-3, 0.001, arrival_seconds=[0.0, 0.0, 0.5])
    result, _ = simulate(cluster, [800] * 6)
    assert_every_row_once(result, [800] * 6, 3)
    first = min(record.time for record in result.history.rounds if record.learner == "2")
    assert 0.5 < first < 0.6
    assert rows_by_learner(result)["2"] > 3000


def test_a_learner_that_comes_at_the_moment_of_another_event_gets_work_at_once():
    cluster = SimulatedCluster(
        3, 1e-3, jitter=0.0, arrival_seconds=[0.5, 0.0, 0.0], departure_seconds=[math.inf, math.inf, 0.5],
        notice_seconds=20.0,
    )  # fmt: skip
    result, _ = simulate(cluster, [8000] * 3, max_iter=1)
    first = min(record.time for record in result.history.rounds if record.learner == "0")
    assert first < 0.6


def test_all_learners_may_come_late():
    cluster = SimulatedCluster(2, 1e-3, arrival_seconds=[3.0, 4.0])
    result, _ = simulate(cluster, [100, 100])
    assert_every_row_once(result, [100, 100], 3)
    assert min(record.time for record in result.history.rounds) > 3.0


@every_mode
@pytest.mark.parametrize("departures", [[0.1, 0.1, 0.1], [0.0, 0.2, 0.05]])
def test_a_fit_whose_learners_have_all_died_is_an_error(mode, departures):
    cluster = SimulatedCluster(3, 1e-3, 0.01, departure_seconds=departures)
    with pytest.raises(NoWorkersError, match="died"):
        simulate(cluster, [400] * 3, **MODES[mode])


@pytest.mark.parametrize("threshold", ["auto", 0.05])
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_a_link_that_degrades_shrinks_the_rounds_of_its_learner_by_the_formula(threshold, rounding):
    def degrading(now):
        return 0.2 if now > 5.0 else 0.001

    sizer = LatencyBatchSizer(threshold=threshold, rounding=rounding)
    cluster = SimulatedCluster(4, 1e-3, 0.001, [degrading, 0.001, 0.001, 0.001])
    result, _ = simulate(cluster, [4000] * 4, sizer=sizer, round_size=320)
    seen = set()
    for record in result.history.rounds:
        assert record.round_size == max(sizer.size(record.efficiency, 320), 320 // 16)
        if record.learner != "0":
            assert record.efficiency == 1.0
            continue
        assert record.efficiency in {k / 5 for k in range(6)} | {k / 4 for k in range(5)} | {1 / 3, 2 / 3}
        seen.add(record.efficiency)
        if record.time < 5.0:
            assert record.efficiency == 1.0
        if record.time > 9.0:  # five heartbeats later
            assert record.efficiency == 0.0
            assert record.latency == pytest.approx(0.2, rel=0.3)
    assert seen >= {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}


def test_heartbeats_that_are_overdue_count_as_missed_before_they_come():
    cluster = SimulatedCluster(
        2, 1e-3, 0.001, [lambda now: 30.0 if now > 2.0 else 0.001, 0.001], heartbeat_seconds=0.5
    )
    result, _ = simulate(cluster, [8000] * 2, sizer=LatencyBatchSizer(threshold=0.05), round_size=320)
    late = [r.efficiency for r in result.history.rounds if r.learner == "0" and 10.0 < r.time < 15.0]
    assert late
    assert set(late) == {0.0}


def test_the_rate_of_a_learner_falls_with_its_link_before_late_updates_arrive():
    cluster = SimulatedCluster(4, 1e-3, 0.001, [lambda now: 0.5 if now > 3.0 else 0.001, 0.001, 0.001, 0.001])
    adapter = StalenessWindow(reference=3.0)
    result, _ = simulate(cluster, [3000] * 4, adapter=adapter, round_size=40)
    own = [record for record in result.history.rounds if record.learner == "0"]
    before = [record.rate_scale for record in own if 1.0 < record.time < 3.0]
    after = [record.rate_scale for record in own if record.time > 5.0]
    assert max(after) < 0.7 * min(before)
    assert {record.staleness for record in own if record.time > 5.0} <= set(range(8))


@pytest.mark.parametrize("bound", [0, 1, 4])
def test_no_learner_is_further_ahead_of_the_slowest_than_the_bound(bound):
    def excess(**params):
        """Return by how many rounds others were ahead of the slowest one during its first visit, at most."""
        cluster = SimulatedCluster(4, [1e-3, 1e-3, 2e-3, 1e-2], 1e-3)
        result, _ = simulate(cluster, [1600] * 4, round_size=16, max_iter=1, **params)
        rounds = result.history.rounds
        slow = next(record.visit for record in rounds if record.learner == "3")
        last = max(place for place, record in enumerate(rounds) if record.visit == slow)
        counts, ahead = Counter(), []
        for record in rounds[: last + 1]:
            counts[record.learner] += 1
            # All have joined at the same time: in its first visit the slow one is as far as it has rounds.
            ahead.append(counts[record.learner] - counts["3"])
        assert counts["3"] >= 3
        return max(ahead)

    assert excess(mode="ssp", max_staleness=bound) == bound + 1
    assert excess(mode="async") > 10


def test_many_learners_run():
    sizes = [64] * 256
    cluster = SimulatedCluster(256, np.linspace(1e-4, 3e-4, 256), 1e-3)
    result, _ = simulate(cluster, sizes, batch=8, max_iter=2, adapter=StalenessWindow(), **MODES["patient"])
    assert_every_row_once(result, sizes, 2)
    assert len(rows_by_learner(result)) > 250


@pytest.mark.parametrize("mode", ["ssp", "sync"])
def test_many_learners_wait_for_each_other(mode):
    sizes = [64] * 96
    result, _ = simulate(SimulatedCluster(96, 1e-4, 1e-3), sizes, max_iter=2, **MODES[mode])
    assert_every_row_once(result, sizes, 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_learners": 0}, "n_learners must be"),
        ({"partitions_per_learner": 0}, "partitions_per_learner must be"),
        ({"jitter": -0.1}, "jitter"),
        ({"seconds_per_row": -1.0}, "seconds_per_row"),
        ({"seconds_per_row": math.nan}, "seconds_per_row"),
        ({"seconds_per_row": [1e-6] * 2}, "seconds_per_row has 2 values for 3 learners"),
        ({"exchange_seconds": [1e-6] * 4}, "exchange_seconds has 4 values for 3 learners"),
        ({"exchange_seconds": -1e-3}, "exchange_seconds"),
        ({"latency_seconds": np.ones(2)}, "latency_seconds has 2 values"),
        ({"arrival_seconds": -1.0}, "arrival_seconds"),
        ({"departure_seconds": [1.0]}, "departure_seconds has 1 values"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        SimulatedCluster(**{"n_learners": 3, **params})


def small_fit(**params):
    X, y = rows_of(600, 3)
    clf = DistributedSGDClassifier("log_loss", max_iter=2, tol=None, random_state=0, **params)
    return clf.fit(X, y)


def test_an_estimator_trains_on_the_cluster_whose_context_it_is_in():
    cluster = SimulatedCluster(3, [1e-4, 1e-4, 2e-3], 1e-3)
    with cluster as entered:
        assert entered is cluster
        clf = small_fit()
        again = small_fit()
    assert {record.learner for record in clf.history_.rounds} <= {"0", "1", "2"}
    assert len({record.learner for record in clf.history_.rounds}) > 1
    assert [epoch.rows for epoch in clf.history_.epochs] == [600, 600]
    assert 0 < clf.history_.rounds[-1].time <= cluster.now
    np.testing.assert_array_equal(clf.coef_, again.coef_)
    assert {record.worker for record in small_fit().history_.rounds} == {"inline"}


def test_learners_hold_the_rows_in_order_in_as_many_partitions_as_asked():
    with SimulatedCluster(2, 1e-3, partitions_per_learner=3, jitter=0.0):
        clf = small_fit()
    visits = [visit for visit in clf.history_.visits if visit.epoch == 0]
    rows = Counter()
    for visit in visits:
        rows[visit.partition] += visit.rows
    assert rows == dict.fromkeys(range(6), 100)
    first = {visit.partition: visit.worker for visit in visits}
    assert {first[number] for number in (0, 3)} == {"0", "1"}


def test_the_context_is_left_whatever_happens():
    outer, inner = SimulatedCluster(1), SimulatedCluster(2)
    assert active_cluster() is None
    with outer:
        assert active_cluster() is outer
        with pytest.raises(ValueError, match="n_learners"), inner:
            SimulatedCluster(active_cluster().n_learners - 2)
        assert active_cluster() is outer
    assert active_cluster() is None


def test_a_cluster_can_be_entered_again_also_inside_itself():
    cluster, other = SimulatedCluster(1), SimulatedCluster(2)
    for _ in range(2):
        with cluster:
            assert active_cluster() is cluster
        assert active_cluster() is None
    with cluster, other:
        with cluster:
            assert active_cluster() is cluster
        assert active_cluster() is other
    assert active_cluster() is None


def test_dask_collections_are_refused_inside():
    X, y = rows_of(100, 3)
    with SimulatedCluster(2), pytest.raises(ValueError, match="Dask collection"):
        DistributedSGDClassifier().fit(da.from_array(X, chunks=(50, -1)), da.from_array(y, chunks=50))


def test_a_fit_that_fails_says_why():
    def fail(rows):
        raise RuntimeError("out of order")

    partitions, n = fake_partitions([64, 64])
    with pytest.raises(RuntimeError, match="out of order"):
        SimulatedCluster(2).train(RowModel(8, on_train=fail), partitions, np.zeros(n), 0.0, fit_settings())


def test_it_stops_when_the_loss_settles():
    settings_ = dataclasses.replace(fit_settings(), tol=1e-3, n_iter_no_change=2, max_iter=50)
    partitions, n = fake_partitions([64, 64])
    result = SimulatedCluster(2, 1e-3, 0.01).train(RowModel(8), partitions, np.zeros(n), 0.0, settings_)
    assert result.converged
    assert result.n_iter < 6


def test_visits_of_a_single_round_make_versions_too():
    X, y = rows_of(6_400, 4)
    with SimulatedCluster(8, 1e-2, 1e-3, partitions_per_learner=25):
        clf = DistributedSGDClassifier(loss="log_loss", max_iter=3, tol=None, random_state=0).fit(X, y)
    visits = Counter(record.visit for record in clf.history_.rounds)
    assert set(visits.values()) == {1}
    assert clf.history_.rounds[-1].version >= len(clf.history_.rounds) / 16


@pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
@pytest.mark.parametrize("loss", ["hinge", "log_loss"])
def test_a_single_learner_stops_when_one_thread_does(mode, loss):
    X, y = rows_of(20_000, 5)
    clf = DistributedSGDClassifier(loss=loss, mode=mode, max_iter=50, random_state=0)
    here = clf.fit(X, y)
    n_iter, coef = here.n_iter_, here.coef_
    with SimulatedCluster(1, 1e-6, 2e-3):
        there = clf.fit(X, y)
    assert there.n_iter_ == n_iter
    np.testing.assert_array_equal(there.coef_, coef)


@pytest.mark.parametrize("params", [{"batch_sizer": None}, {}], ids=["fixed shares", "sized"])
def test_rows_of_slow_learners_weigh_as_much_in_synchronous_rounds(params):
    X, y = rows_of(8_000, 4)
    clf = DistributedSGDClassifier(mode="sync", aggregator="uniform", max_iter=2, tol=None, **params)
    with SimulatedCluster(8, [1e-6] * 6 + [2e-5] * 2, 1e-4):
        clf.fit(X, y)
    assert {record.weight for record in clf.history_.rounds} == {1 / 8}


@pytest.mark.parametrize("arrivals", [[0.0] + [1e-3] * 7, [1e-3] * 8])
def test_learners_that_come_later_get_shares_of_their_own(arrivals):
    X, y = rows_of(8_000, 4)
    clf = DistributedSGDClassifier(mode="sync", batch_sizer=None, max_iter=4, tol=None)
    with SimulatedCluster(8, 1e-6, 1e-4, arrival_seconds=arrivals):
        clf.fit(X, y)
    assert len({record.learner for record in clf.history_.rounds}) == 8
    assert {record.rows for record in clf.history_.epochs} == {8_000}
