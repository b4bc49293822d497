"""Arrays that go from a learner to its server, and back, through memory that both share."""

from __future__ import annotations

import gc
import glob
import os
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest

from skdist import DistributedSGDClassifier
from skdist.cluster import mailbox as mailboxes
from skdist.cluster.mailbox import ANSWERS, UPDATES, Mailbox
from tests.cluster.conftest import wait_for

pytestmark = pytest.mark.skipif(not os.path.isdir(mailboxes.FOLDER), reason="files are not memory here")

NBYTES = 40_000


@pytest.fixture
def nothing_left():
    """No file is left that was not there before, perhaps of somebody else."""

    def files():
        return set(glob.glob(os.path.join(mailboxes.FOLDER, "skdist-*")))

    before = files()
    yield
    assert files() <= before


@pytest.fixture
def sides():
    """A mailbox as the learner and the server have it."""
    path, mine = Mailbox.create(NBYTES)
    theirs = Mailbox.attach(path, NBYTES)
    assert theirs is not None
    return mine, theirs


def test_an_array_arrives_as_it_was_sent(sides):
    mine, theirs = sides
    sent = np.random.default_rng(0).normal(size=(2, 3, 100)).astype(np.float32)
    letter = mine.updates.put(sent)
    arrived = theirs.updates.get(letter)
    assert arrived.dtype == sent.dtype
    np.testing.assert_array_equal(arrived, sent)
    back = theirs.answers.put(arrived[::-1])
    np.testing.assert_array_equal(mine.answers.get(back), sent[::-1])


def test_a_place_is_taken_until_the_last_view_of_its_array_is_gone(sides):
    mine, theirs = sides
    sent = [np.full(10, number, np.float32) for number in range(UPDATES)]
    arrived = [theirs.updates.get(mine.updates.put(values)) for values in sent]
    assert mine.updates.put(sent[0]) is None
    view = arrived[1][3:]
    arrived[1] = None
    gc.collect()
    assert mine.updates.put(sent[0]) is None
    del view
    gc.collect()
    letter = mine.updates.put(np.full(10, -1, np.float32))
    np.testing.assert_array_equal(theirs.updates.get(letter), np.full(10, -1))
    np.testing.assert_array_equal(arrived[0], sent[0])
    np.testing.assert_array_equal(arrived[2], sent[2])


def test_a_place_that_is_read_twice_is_free_after_the_second_reader(sides):
    mine, theirs = sides
    letters = [theirs.answers.put(np.ones(3)) for _ in range(ANSWERS)]
    first, again = mine.answers.get(letters[0]), mine.answers.get(letters[0])
    del first
    gc.collect()
    assert theirs.answers.put(np.ones(3)) is None
    del again
    gc.collect()
    assert theirs.answers.put(np.ones(3)) == letters[0]


def test_a_draft_is_sent_from_where_it_was_written(sides):
    mine, theirs = sides
    state = np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)
    draft = mine.updates.draft(state)
    np.testing.assert_array_equal(draft, state)
    letter = mine.updates.put(draft)
    draft[1, 7] = 5.0  # written in the place itself
    arrived = theirs.updates.get(letter)
    np.testing.assert_array_equal(arrived, draft)
    assert arrived[1, 7] == 5.0
    # Another array is copied, also one of its rows, or in another order.
    assert mine.updates.put(draft[1:]).place != letter.place
    turned = mine.updates.put(draft[:, ::-1])
    np.testing.assert_array_equal(theirs.updates.get(turned), draft[:, ::-1])


def test_the_place_of_a_draft_is_free_when_neither_side_uses_it(sides):
    mine, theirs = sides

    def left():
        drafts = [mine.updates.draft(np.ones(10)) for _ in range(UPDATES)]
        return sum(draft is not None for draft in drafts)

    draft = mine.updates.draft(np.ones(10))
    assert left() == UPDATES - 1
    letter = mine.updates.put(draft)
    arrived = theirs.updates.get(letter)
    del arrived
    assert left() == UPDATES - 1  # the writer still reads it
    del draft
    assert left() == UPDATES
    draft = mine.updates.draft(np.ones(10))
    arrived = theirs.updates.get(mine.updates.put(draft))
    del draft
    assert left() == UPDATES - 1  # the reader does
    del arrived
    assert left() == UPDATES


def test_a_draft_that_is_too_large_is_none(sides):
    mine, _ = sides
    assert mine.updates.draft(np.ones(NBYTES, np.float32)) is None


def test_a_letter_that_is_read_again_is_not_overwritten(sides):
    mine, theirs = sides
    letter = mine.updates.put(np.full(10, 1, np.float32))
    theirs.updates.get(letter)
    gc.collect()
    again = theirs.updates.get(letter)
    others = [mine.updates.put(np.full(10, 2, np.float32)) for _ in range(UPDATES)]
    assert others.count(None) == 1
    np.testing.assert_array_equal(again, np.full(10, 1))


def test_a_forked_process_frees_nothing(sides):
    mine, theirs = sides
    view = theirs.updates.get(mine.updates.put(np.ones(10)))
    child = os.fork()
    if not child:
        del view
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert [mine.updates.put(np.ones(10)) for _ in range(UPDATES)].count(None) == 1
    assert view.sum() == 10


def test_what_is_too_large_is_not_written(sides):
    mine, _ = sides
    room = -(-NBYTES // 4096) * 4096
    assert mine.updates.put(np.ones(room + 1, np.uint8)) is None
    assert mine.updates.put(np.ones(room, np.uint8)) is not None


def test_a_file_that_is_not_here_belongs_to_another_machine():
    assert Mailbox.attach(os.path.join(mailboxes.FOLDER, "skdist-of-another-machine"), NBYTES) is None


@pytest.mark.usefixtures("nothing_left")
def test_too_little_memory_is_an_error_that_leaves_no_file():
    with pytest.raises(OSError, match=r"No space|too large|Cannot allocate"):
        Mailbox.create(1 << 55)


def test_the_mailbox_of_a_process_that_died_is_abandoned():
    script = (
        "import sys; from skdist.cluster.mailbox import Mailbox; path, mailbox = Mailbox.create(1000);"
        "print(path, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    path = process.stdout.readline().strip()
    theirs = Mailbox.attach(path, 1000)
    assert not theirs.abandoned
    process.kill()
    process.wait(30)
    wait_for(lambda: theirs.abandoned, what="the lock of a process that died")
    process.stdin.close()
    process.stdout.close()


def _written(dask_worker=None):
    """Count the arrays that this process writes into mailboxes, and those for which there is no place."""
    plain = mailboxes.Lane.put
    mailboxes.Lane.plain_put, mailboxes.Lane.writes = plain, []

    def put(self, values):
        letter = plain(self, values)
        type(self).writes.append(letter is not None)
        return letter

    mailboxes.Lane.put = put


def _writes(dask_worker=None):
    mailboxes.Lane.put = mailboxes.Lane.plain_put
    return mailboxes.Lane.writes


def test_there_is_a_place_for_every_answer(client):
    # Also where no garbage is collected for long: answers are let go as soon as they are not used any more.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4_000, 20_000), dtype=np.float32)
    y = rng.integers(0, 8, len(X))
    lazy = da.from_array(X, chunks=(1_000, -1)), da.from_array(y, chunks=1_000)
    client.run(gc.disable)
    client.run(_written)
    try:
        DistributedSGDClassifier(
            "log_loss", mode="ssp", random_state=0, client=client, batch_sizer=None, round_size=128,
            max_iter=3, tol=None,
        ).fit(*lazy)  # fmt: skip
    finally:
        client.run(gc.enable)
        writes = [written for each in client.run(_writes).values() for written in each]
    assert len(writes) > 50  # about 48 rounds of the learner that is not at the server, two for each
    assert all(writes)


def _elsewhere(folder, dask_worker=None):
    mailboxes.FOLDER = folder


def _sharing(share, dask_worker=None):
    mailboxes.MOST_SHARE = share


def _reads(counted, dask_worker=None):
    """Count the arrays that this process reads from mailboxes."""
    plain = getattr(mailboxes.Lane, "_plain_get", mailboxes.Lane.get)
    mailboxes.Lane._plain_get = plain
    mailboxes.Lane.reads = 0

    def get(self, letter):
        type(self).reads += 1
        return plain(self, letter)

    mailboxes.Lane.get = get if counted else plain


def _counted(dask_worker=None):
    return mailboxes.Lane.reads


@pytest.mark.usefixtures("nothing_left")
def test_a_fit_has_the_same_bits_with_shared_memory_and_without(client):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2_000, 20_000), dtype=np.float32)
    y = rng.integers(0, 8, len(X))
    lazy = da.from_array(X, chunks=(500, -1)), da.from_array(y, chunks=500)
    fixed = {"mode": "sync", "batch_sizer": None, "round_size": 512, "max_iter": 2, "tol": None}

    def fit():
        return DistributedSGDClassifier("log_loss", random_state=0, client=client, **fixed).fit(*lazy)

    client.run(_reads, True)
    try:
        shared = fit()
        # Each round of the worker that does not hold the server: an update and an answer.
        assert sum(client.run(_counted).values()) >= 2
        client.run(_reads, True)
        client.run(_elsewhere, "/nowhere")
        sent = fit()
        assert sum(client.run(_counted).values()) == 0
        client.run(_elsewhere, mailboxes.FOLDER)
        client.run(_sharing, 1e-4)  # of the memory that a worker may use
        fit()
        assert sum(client.run(_counted).values()) == 0
    finally:
        client.run(_reads, False)
        client.run(_elsewhere, mailboxes.FOLDER)
        client.run(_sharing, mailboxes.MOST_SHARE)
    np.testing.assert_array_equal(shared.coef_, sent.coef_)
