"""What is sent and what is left out add up to what was trained."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils._param_validation import InvalidParameterError

from skdist.compression import Change, Feedback, codec_of
from skdist.control.gates import gate_of
from skdist.inline import train_inline
from skdist.learner import Learner, run_visit
from skdist.messages import Join
from skdist.models.codecs import HalfPrecision, TopK
from skdist.server import ParameterServer
from tests.fakes import RowModel, drive, fake_partitions, fit_settings, whole_visit

CODECS = [HalfPrecision(), HalfPrecision(brain=True), TopK(share=0.2)]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=["float16", "bfloat16", "topk"])


class FlatModel(RowModel):
    """Its parameters are the first member of a state, as those of modules."""

    def train(self, state, *args, **kwargs):
        return super().train(state[0], *args, **kwargs)


def server_of(n, model, **kwargs):
    """Return the server of a fit that nobody expects to end."""
    fit = {"round_size": 16, "n_rows": n, "max_iter": 9, "batch_size": model.batch_size, **kwargs}
    return ParameterServer(np.zeros((1, n)), schedule=model.schedule, **fit)


def test_settings():
    assert codec_of(None) is None
    assert codec_of("float16").brain is False
    assert codec_of("bfloat16").brain is True
    assert codec_of("topk").share == TopK().share
    with pytest.raises(InvalidParameterError, match="'share' parameter of TopK"):
        codec_of(TopK(share=0))


@every_codec
def test_statistics_travel_whole_and_without_their_padding(codec):
    rng = np.random.default_rng(0)
    base, end = rng.normal(size=(2, 3, 50)).astype(np.float32)
    end[1:] = 0
    end[1, :4] = [1e-9, np.inf, -np.inf, 0.1]
    change, arrived = Feedback(codec).compressed(end, base)
    assert isinstance(change, Change)
    assert len(change.rest) == 4
    np.testing.assert_array_equal(arrived[1:], end[1:])
    assert change.nbytes < base[:1].nbytes


@every_codec
@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    batch=st.integers(1, 7),
    round_size=st.integers(1, 60),
    overlap=st.booleans(),
)
def test_what_arrived_and_what_is_left_out_are_what_was_trained(codec, sizes, batch, round_size, overlap):
    partitions, n = fake_partitions(sizes)
    model, learner = FlatModel(batch), Learner("a", feedback=Feedback(codec))
    server = ParameterServer(
        np.zeros((1, n)),
        n_rows=n,
        schedule=model.schedule,
        batch_size=batch,
        max_iter=9,
        round_size=round_size,
    )
    for epoch in range(3):  # the fit would go on: nothing is sent whole
        delays = itertools.repeat(1) if overlap else None
        _, updates = drive(
            server, whole_visit(sizes, epoch, epoch), partitions, model, learner, f"{epoch}", delays
        )
        assert all(isinstance(update.state, Change) for update in updates)
        np.testing.assert_allclose(
            server.state[0] + learner.feedback.residual, (epoch + 1) / batch, rtol=1e-6
        )


@every_codec
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", ["async", "ssp"])
def test_a_fit_leaves_nothing_out(codec, threads, mode):
    partitions, n = fake_partitions([30, 7, 55, 1])
    fit = fit_settings(round_size=16, mode=mode, codec=codec)
    result = train_inline(FlatModel(4), partitions, fit, np.zeros((1, n)), threads)
    # With several threads one may have had its last visit before the last epoch.
    left = 0.0 if threads == 1 else 3 / 4
    assert (result.state <= 3 / 4 * (1 + 1e-3)).all()
    assert (result.state >= 3 / 4 - left - 1e-6).all()
    if threads == 1:
        np.testing.assert_allclose(result.state, 3 / 4, rtol=1e-6)
    assert [epoch.rows for epoch in result.history.epochs] == [n] * 3


def visited(taken_over):
    """Return the server and the learners after a visit that another one takes over before its second push."""
    partitions, n = fake_partitions([64])
    model, visit = FlatModel(4), whole_visit([64])
    server = server_of(n, model)
    first, second = (Learner(name, feedback=Feedback(TopK(share=0.1))) for name in "ab")
    kept = []

    def between(update):
        if update.start == 16 and not kept:
            kept.append(first.feedback.residual.copy())
            if taken_over:
                server.join(Join(visit, "second", "b", "b"))

    drive(server, visit, partitions, model, first, "first", between=between)
    if taken_over:
        drive(server, visit, partitions, model, second, "second")
    return server, first, second, kept[0]


def test_an_update_that_was_refused_leaves_the_residual_as_it_was():
    server, first, second, before = visited(taken_over=True)
    np.testing.assert_array_equal(first.feedback.residual, before)
    whole = server.state[0] + first.feedback.residual + second.feedback.residual
    np.testing.assert_allclose(whole, 1 / 4, rtol=1e-6)


def test_a_visit_that_nobody_takes_over_is_sent_by_one():
    server, first, second, before = visited(taken_over=False)
    assert not np.array_equal(first.feedback.residual, before)
    assert second.feedback.residual is None
    np.testing.assert_allclose(server.state[0] + first.feedback.residual, 1 / 4, rtol=1e-6)


def test_an_update_that_was_taken_in_counts_although_its_answer_is_a_refusal():
    """In sync mode the answer waits for others, and meanwhile somebody may take the visit over."""
    partitions, n = fake_partitions([32, 32])
    model = FlatModel(4)
    visit = whole_visit([32], 1, company=2)
    server = server_of(n, model, gate=gate_of("sync", 0, "auto", 60.0), n_learners=2)
    learner = Learner("a", overlap=False, feedback=Feedback(TopK(share=0.1)))
    server.join(Join(whole_visit([32], 2, company=2), "other", "b", "b"))
    answer = server.join(Join(visit, "first", "a", "a"))
    loop = run_visit(visit, partitions, model, learner, "first", answer)
    update = next(loop)
    ticket = server.push(update)
    assert not ticket.done()
    assert loop.send(None).must_wait
    server.join(Join(visit, "second", "c", "c"))
    refusal = ticket.result(0)
    assert not refusal.accepted
    with pytest.raises(StopIteration):
        loop.send(refusal)
    assert refusal.offset == 16
    arrived = update.state.on(np.zeros((1, n)))[0]
    trained = np.isin(np.arange(n), np.concatenate([np.array(rows) for rows in model.batches])) / 4
    np.testing.assert_allclose(arrived + learner.feedback.residual, trained, rtol=1e-6)


def test_another_server_gets_nothing_that_its_rows_bring_again():
    learner = Learner("a", feedback=Feedback(TopK(share=0.1)))
    learner.feedback.residual = np.ones(4)
    learner.begin()
    learner.begin(0)
    assert learner.feedback.residual is not None
    learner.begin(1)
    assert learner.feedback.residual is None


@every_codec
@pytest.mark.parametrize("members", [1, 2, 3])
def test_parts_of_a_change_are_changes_of_parts(codec, members):
    rng = np.random.default_rng(0)
    base, end = rng.normal(size=(2, members, 101)).astype(np.float32)
    end[-1, 60:] = 0  # its zeros at the end are not sent
    change, arrived = Feedback(codec).compressed(end, base)
    bounds = [0, 1, 40, 100, 101]
    parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
    pieces = [change.cut(part, 101).on(base[:, part]) for part in parts]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), arrived)
