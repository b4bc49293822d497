import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.compression import Feedback, TopK
from skdist.control.schedules import INVERSE_TIME, AutoRate, Schedule
from skdist.control.staleness import StalenessWindow
from skdist.control.stopping import ConvergenceMonitor
from skdist.learner import Learner, Listen, run_visit
from skdist.messages import Answer, Join, Link, Segment, Visit
from skdist.rows import Rows
from skdist.server import ParameterServer
from tests.fakes import (
    CONSTANT_RATE,
    Clock,
    RowModel,
    drive,
    fake_partitions,
    linear_model,
    rows_of,
    whole_visit,
)

ANSWER = Answer(
    accepted=True, state=np.zeros(1), offset=0, version=0, foreign=0, clock=0.0, staleness=0.0, round_size=8,
    efficiency=1.0, peers=0.0, reference=0.0, last_epoch=0,
)  # fmt: skip

batches = st.integers(1, 7)
sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def rows_server(n_rows, model, **kwargs):
    return ParameterServer(
        np.zeros(n_rows),
        **{
            "n_rows": n_rows,
            "schedule": model.schedule,
            "batch_size": model.batch_size,
            "max_iter": 3,
            **kwargs,
        },
    )


def ends_of_steps(sizes, batch):
    """Return where steps begin and end, counted along partitions of these sizes."""
    firsts = itertools.accumulate([0, *sizes])
    return sorted(
        {a + min(row, m) for a, m in zip(firsts, sizes, strict=False) for row in range(0, m + batch, batch)}
    )


def partial_visit(sizes, batch, cuts):
    """Return a visit that begins and ends somewhere in each partition, on the boundary of a step."""
    segments = []
    for number, (n, (a, b)) in enumerate(zip(sizes, cuts, strict=False)):
        first, last = (-(-n // batch) * share // 10 * batch for share in sorted((a, b)))
        if first < min(last, n):
            segments.append(Segment(number, first, min(last, n)))
    return Visit(1, 2, tuple(segments))


cuts = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=5, max_size=5)


@settings(deadline=None, max_examples=80)
@given(sizes, cuts, batches, st.integers(1, 60), st.booleans())
def test_a_visit_trains_each_of_its_rows_once(sizes, cuts, batch, round_size, overlap):
    partitions, n = fake_partitions(sizes)
    model = RowModel(batch)
    visit = partial_visit(sizes, batch, cuts)
    server = rows_server(n, model, round_size=round_size)
    delays = itertools.repeat(1) if overlap else None
    offset, updates = drive(server, visit, partitions, model, Learner("a"), delays=delays)
    expected = Counter(
        partitions[s.partition].first + row
        for s in visit.segments
        for row in model.order(partitions[s.partition], s.partition, 2)[s.start : s.stop]
    )
    assert Counter(row for rows in model.batches for row in rows) == expected
    assert offset == visit.rows == sum(update.stop - update.start for update in updates)
    influence = np.zeros(n)
    influence[list(expected)] = 1 / batch
    np.testing.assert_allclose(server.finish()[0], influence, rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(sizes, cuts, batches, st.integers(1, 300), st.booleans())
def test_mini_batches_do_not_depend_on_the_rounds(sizes, cuts, batch, round_size, overlap):
    partitions, n = fake_partitions(sizes)
    visit = partial_visit(sizes, batch, cuts)
    cut = []
    for size in (10**6, round_size):
        model = RowModel(batch)
        server = rows_server(n, model, round_size=size)
        delays = itertools.repeat(0) if overlap else None
        _, updates = drive(server, visit, partitions, model, Learner("a"), delays=delays)
        cut.append(model.batches)
        assert sum(update.steps for update in updates) == len(model.batches)
    assert cut[0] == cut[1]
    assert all(len(rows) <= batch for rows in cut[0])


@settings(deadline=None, max_examples=60)
@given(sizes, batches, st.integers(1, 60), st.integers(0, 30))
def test_planned_rows_end_at_a_step_and_keep_to_the_size(sizes, batch, wanted, steps):
    partitions, n = fake_partitions(sizes)
    ends = ends_of_steps(sizes, batch)
    rows = Rows(
        whole_visit(sizes), partitions, RowModel(batch), RowModel(batch), ends[min(steps, len(ends) - 1)]
    )
    planned = rows.plan(wanted)
    left = n - rows.offset
    following = next((end for end in ends if end > rows.offset), n)
    assert rows.offset + planned in ends
    assert min(left, 1) <= planned <= min(max(wanted, following - rows.offset), left)
    assert planned == left or planned > wanted - batch


@settings(deadline=None, max_examples=60)
@given(sizes, batches, st.integers(0, 30), st.integers(1, 90))
def test_rows_up_to_a_step_are_as_few_as_reach_it(sizes, batch, steps, wanted):
    partitions, n = fake_partitions(sizes)
    ends = ends_of_steps(sizes, batch)
    start = ends[min(steps, len(ends) - 2)]
    rows = Rows(whole_visit(sizes), partitions, RowModel(batch), RowModel(batch), start)
    assert start + rows.up_to(wanted) == next((end for end in ends if end >= start + wanted), n)


@settings(deadline=None, max_examples=60)
@given(sizes, batches, st.integers(1, 60), st.integers(1, 60), st.integers(0, 200), st.booleans())
def test_losses_are_cut_where_somebody_looks_at_them(sizes, batch, round_size, interval, least, overlap):
    partitions, n = fake_partitions(sizes)
    model = RowModel(batch)
    monitor = ConvergenceMonitor(interval, None, 5)
    server = rows_server(n, model, round_size=round_size, monitor=monitor, exchange_rows=least)
    delays = itertools.repeat(1) if overlap else None
    _, updates = drive(server, whole_visit(sizes), partitions, model, Learner("a"), delays=delays)
    since = 0
    for update in updates:
        assert sum(rows for rows, _ in update.checks) == update.stop - update.start
        assert sum(loss for _, loss in update.checks) == update.loss
        for rows, loss in update.checks:
            assert rows == loss  # of each row, it is 1
            assert since < interval
            since = since + rows if since + rows < interval else 0


@settings(deadline=None, max_examples=30)
@given(sizes, batches, st.integers(1, 30), st.integers(0, 40))
def test_a_visit_goes_on_where_an_earlier_attempt_was_acknowledged(sizes, batch, round_size, stop_after):
    partitions, n = fake_partitions(sizes)
    visit, model = whole_visit(sizes), RowModel(batch)
    server = rows_server(n, model, round_size=round_size)
    learner = Learner("a")
    answer = server.join(Join(visit, "lost", "a", "w"))
    loop = run_visit(visit, partitions, model, learner, "lost", answer)
    request = next(loop)
    for _ in range(stop_after):
        try:
            request = loop.send(server.push(request))
        except StopIteration:
            break
    offset, _ = drive(server, visit, partitions, model, Learner("b"), attempt="second")
    assert offset == visit.rows
    np.testing.assert_allclose(server.finish()[0], 1 / batch, rtol=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(8, 200), st.booleans())
def test_overlap_with_one_learner_is_sequential_to_the_bit(delays, round_size, averaged):
    X, y = rows_of(300, 4)
    rate = AutoRate() if averaged else "optimal"
    model, partition = linear_model(X, y, learning_rate=rate)
    visit = whole_visit([300])
    ends = []
    for pattern in (None, itertools.cycle(delays)):
        server = ParameterServer(
            model.initial_state(), n_rows=300, schedule=model.schedule, adapter=StalenessWindow(),
            round_size=round_size, batch_size=8,
        )  # fmt: skip
        drive(server, visit, [partition], model, Learner("a", "", StalenessWindow()), delays=pattern)
        ends.append(server.finish())
    alone = model.initial_state()
    model.train(alone, partition, model.order(partition, 0, 0), 0, 300, 0.0)
    np.testing.assert_array_equal(ends[0][0], alone)
    np.testing.assert_array_equal(ends[1][0], alone)
    assert ends[0][2] == ends[1][2] == model.steps(300)


def test_an_answer_that_comes_late_is_merged_under_what_was_trained_since():
    partitions, n = fake_partitions([64])
    model = RowModel(8)
    server = ParameterServer(np.zeros(n + 1), n_rows=n, schedule=CONSTANT_RATE, round_size=32, batch_size=8)

    def foreign(update):
        stage = server._parameters.stage()
        state = stage.state + np.eye(n + 1)[n]
        server._parameters.go_on(stage._replace(state=state, version=stage.version + 1))

    visit = whole_visit([64])
    drive(server, visit, partitions, model, Learner("a"), delays=itertools.repeat(2), between=foreign)
    state = server.finish()[0]
    np.testing.assert_allclose(state[:n], 1 / 8)
    assert state[n] == pytest.approx(2.0)


def test_steps_count_on_from_the_clock_of_the_answer():
    seen = []

    class Model(RowModel):
        def train(self, state, partition, order, start, stop, t, noise=None, rate=1.0):
            seen.append(t)
            return super().train(state, partition, order, start, stop, t, noise)

    partitions, n = fake_partitions([20, 12])
    model = Model(8)
    server = rows_server(n, model, round_size=8, clock=50.0)
    drive(server, whole_visit([20, 12]), partitions, model, Learner("a"))
    assert seen == [50.0, 51.0, 52.0, 53.0, 54.0]


def test_after_its_time_budget_a_visit_hands_its_rows_back():
    clock = Clock()

    def on_train(rows):
        clock.now += rows

    partitions, n = fake_partitions([100])
    model = RowModel(10, on_train=on_train)
    server = rows_server(n, model, round_size=20)
    visit = whole_visit([100], budget_seconds=45.0)
    offset, updates = drive(server, visit, partitions, model, Learner("a", clock=clock))
    assert offset == 50
    # The last round is as short as the time that is left, but a step at least.
    assert [update.stop - update.start for update in updates] == [20, 20, 10]
    assert visit.split(offset)[1] == (Segment(0, 50, 100),)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_visit_without_time_trains_one_round_all_the_same(overlap):
    ticks = itertools.count().__next__
    partitions, n = fake_partitions([100])
    server = rows_server(n, RowModel(10), round_size=20)
    visit = whole_visit([100], budget_seconds=0.0)
    delays = itertools.repeat(0) if overlap else None
    offset, _ = drive(server, visit, partitions, RowModel(10), Learner("a", clock=ticks), delays=delays)
    assert offset == 20


@pytest.mark.parametrize("overlap", [False, True])
def test_a_refused_update_ends_the_visit(overlap):
    partitions, n = fake_partitions([100])
    model = RowModel(10)
    server = rows_server(n, model, round_size=20)
    visit = whole_visit([100])

    def takeover(update):
        if update.start == 40:
            server.join(Join(visit, "newer", "b", "w"))

    delays = itertools.repeat(0) if overlap else None
    offset, _ = drive(server, visit, partitions, model, Learner("a"), delays=delays, between=takeover)
    assert offset == 40
    assert server.version == 2


@pytest.mark.parametrize("epochs", [1, 8])
def test_what_compression_left_out_is_sent_before_training_ends(epochs):
    class VectorModel(RowModel):
        def train(self, state, *args):
            return super().train(state[0], *args)

    partitions, n = fake_partitions([20])
    model = VectorModel(10)
    server = ParameterServer(
        np.zeros((1, n), np.float32),
        n_rows=n,
        schedule=model.schedule,
        batch_size=10,
        round_size=10,
        max_iter=50,
    )
    learner = Learner("a", overlap=False, feedback=Feedback(TopK(0.25)))
    push, trained = server.push, 0

    def stop(update):
        nonlocal trained
        trained += update.stop - update.start
        answer = push(update)
        # Somebody stops it in the third epoch.
        return answer._replace(last_epoch=server.stop()) if trained == 50 else answer

    server.push = stop
    for epoch in range(0, 3, epochs):
        segments = tuple(Segment(0, 0, 20, ahead) for ahead in range(epochs))
        visit = Visit(epoch, epoch, segments, budget_seconds=math.inf)
        drive(server, visit, partitions, model, learner)
    assert trained == 60
    np.testing.assert_allclose(server.finish().state, 3 / 10, rtol=1e-6)


def test_a_loop_that_overlaps_polls_between_slices_and_waits_before_it_sends():
    partitions, n = fake_partitions([160])
    model = RowModel(10)
    server = rows_server(n, model, round_size=80)
    visit = whole_visit([160])
    loop = run_visit(visit, partitions, model, Learner("a"), "x", server.join(Join(visit, "x", "a", "")))
    requests, held = [next(loop)], None
    try:
        while True:
            last, reply = requests[-1], None
            if not isinstance(last, Listen):
                held = server.push(last)
            elif last.must_wait:
                reply = held
            requests.append(loop.send(reply))
    except StopIteration:
        pass
    kinds = ["update" if not isinstance(r, Listen) else "await" if r.must_wait else "poll" for r in requests]
    first, second = kinds.index("update"), len(kinds) - 2
    assert kinds[:first] == []  # nothing to ask for before the first update
    assert kinds[first + 1 : second] == ["poll"] * 4 + ["await"]
    assert kinds[second:] == ["update", "await"]


def test_updates_carry_what_the_server_needs_to_know():
    clock = Clock()

    def on_train(rows):
        clock.now += rows * 0.5

    partitions, n = fake_partitions([24])
    model = RowModel(8, on_train=on_train)
    link = Link((0.25,))
    server = rows_server(n, model, round_size=16)
    learner = Learner("a", "w", StalenessWindow(), link=lambda: link, clock=clock)
    _, (first, second) = drive(server, whole_visit([24], budget_seconds=math.inf), partitions, model, learner)
    assert (first.start, first.stop, first.steps) == (0, 16, 2)
    assert (second.start, second.stop, second.steps) == (16, 24, 1)
    assert (first.loss, first.seconds_compute, first.seconds_per_row) == (16.0, 8.0, 0.5)
    assert first.link is link
    assert first.round_size == 16
    assert (first.context, first.rate_scale) == (0.0, 1.0)


def test_the_duration_of_an_exchange_is_told_with_the_next_update():
    clock = Clock()

    def on_train(rows):
        clock.now += 1.0

    partitions, n = fake_partitions([64])
    model = RowModel(8, on_train=on_train)
    server = rows_server(n, model, round_size=32)
    learner = Learner("a", clock=clock)
    visit = whole_visit([64], budget_seconds=math.inf)
    _, updates = drive(server, visit, partitions, model, learner, delays=itertools.repeat(2))
    assert [update.seconds_exchange for update in updates] == [0.0, 3.0]


def test_a_learner_without_adapter_applies_its_updates_in_full():
    busy = ANSWER._replace(peers=100.0)
    assert Learner("a", seconds_per_row=1.0).rate_scale(100, busy, 1.0) == (0.0, 1.0)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(0, 20), max_size=30),
    st.floats(0, 5),
    st.floats(0, 0.5),
    st.floats(0, 3),
    st.integers(1, 4),
)
def test_context_of_a_learner_blends_its_window_and_the_predicted_rounds(
    window, peers, latency, reference, collect
):
    adapter = StalenessWindow(window=6, stride=2, prior_weight=3)
    link = Link((latency,))
    learner = Learner("a", "w", adapter, collect, link=lambda: link, seconds_per_row=0.01)
    for value in window:
        learner.staleness.append(value)
    answer = ANSWER._replace(peers=peers, reference=reference)
    context, scale = learner.rate_scale(50, answer, decay=1.5)
    samples = window[-6:][::-1][::2]
    predicted = (50 * 0.01 + 2 * latency) * peers / collect
    expected = (sum(samples) + 3 * predicted) / (len(samples) + 3)
    assert context == pytest.approx(expected)
    assert scale == pytest.approx(min(1, 1.5 * (1 + reference) / (1 + max(context, reference))))


def test_a_link_that_degrades_lowers_the_rate_before_late_updates_arrive():
    latency = [0.001]
    learner = Learner("a", "w", StalenessWindow(), link=lambda: Link((latency[0],)), seconds_per_row=1e-3)
    answer = ANSWER._replace(peers=20.0)
    quick = learner.rate_scale(100, answer, 1.0)[1]
    latency[0] = 0.5
    assert learner.rate_scale(100, answer, 1.0)[1] < quick


def test_scale_goes_to_one_as_the_step_decays():
    schedule = Schedule(INVERSE_TIME, 0.1, 10.0)
    learner = Learner("a", "w", StalenessWindow())
    for _ in range(20):
        learner.staleness.append(9.0)
    scales = [learner.rate_scale(10, ANSWER, schedule.decay(t))[1] for t in (0.0, 10.0, 1000.0)]
    assert scales[0] < scales[1] < scales[2] == 1.0


def test_training_times_are_smoothed_from_the_first_on():
    learner = Learner("a")
    learner.trained(10, 1.0)
    assert learner.seconds_per_row == 0.1
    learner.trained(10, 2.0)
    assert learner.seconds_per_row == pytest.approx(0.7 * 0.1 + 0.3 * 0.2)
    learner.trained(0, 5.0)
    assert learner.seconds_per_row == pytest.approx(0.13)
