import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import scipy.sparse

from skdist import DistributedSGDClassifier, DistributedSGDRegressor, checkpoint
from skdist.backup import Backup
from skdist.checkpoint import Checkpoint, Reached
from skdist.messages import Segment
from skdist.testing import SimulatedCluster


def make(**parameters):
    return DistributedSGDClassifier(
        **{"loss": "log_loss", "random_state": 0, "tol": None, "max_iter": 12, **parameters}
    )


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "new" / "fit.npz")


@pytest.fixture
def kept(monkeypatch):
    """Copies of all checkpoints that are written, which is as often as possible."""
    copies = []
    plain = Checkpoint.write

    def keep(self, *args):
        plain(self, *args)
        copies.append(f"{self.path}.{len(copies)}")
        shutil.copy(self.path, copies[-1])

    monkeypatch.setattr(Checkpoint, "write", keep)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 1e-4)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", 1.0)
    return copies


@pytest.mark.parametrize("parameters", [{}, {"learning_rate": "adaptive", "tol": 1e-3}, {"penalty": "l1"}])
def test_a_fit_goes_on_from_any_checkpoint_to_the_same_bits(binary, path, kept, parameters):
    parameters = {"max_iter": 300, **parameters}
    whole = make(**parameters).fit(*binary)
    make(**parameters).fit(*binary, checkpoint=path)
    assert len(kept) >= 3
    for copy in kept[:: max(len(kept) // 4, 1)]:
        again = make(**parameters).fit(*binary, checkpoint=copy, resume=True)
        assert np.array_equal(again.coef_, whole.coef_)
        assert np.array_equal(again.intercept_, whole.intercept_)
        assert again.loss_curve_ == whole.loss_curve_
        assert again.n_iter_ == whole.n_iter_


@pytest.mark.parametrize("threads", [1, 3])
def test_partitions_that_are_others_begin_the_epoch_anew_and_threads_lose_nothing(
    binary, path, kept, threads
):
    X, y = binary
    whole = make(max_iter=60).fit(X, y)
    make(max_iter=60, n_jobs=2).fit(X, y, checkpoint=path)
    for copy in kept[:: max(len(kept) // 4, 1)]:
        again = make(max_iter=60, n_jobs=threads).fit(X, y, checkpoint=copy, resume=True)
        assert again.n_iter_ == 60
        assert again.history_.to_frame("epochs").rows.tolist() == [len(y)] * 60
        assert again.score(X, y) == pytest.approx(whole.score(X, y), abs=0.01)


def test_a_fit_that_is_through_is_there_at_once_and_may_go_on(binary, path):
    first = make(max_iter=5).fit(*binary, checkpoint=path)
    again = make(max_iter=5).fit(*binary, checkpoint=path, resume=True)
    assert np.array_equal(again.coef_, first.coef_)
    assert again.history_.rounds == []
    longer = make(max_iter=9).fit(*binary, checkpoint=path, resume=True)
    assert np.array_equal(longer.coef_, make(max_iter=9).fit(*binary).coef_)


def test_auto_begins_where_there_is_none(binary, path):
    with pytest.raises(FileNotFoundError, match="resume='auto'"):
        make().fit(*binary, checkpoint=path, resume=True)
    first = make(max_iter=3).fit(*binary, checkpoint=path, resume="auto")
    again = make(max_iter=3).fit(*binary, checkpoint=path, resume="auto")
    assert np.array_equal(first.coef_, again.coef_)
    assert not again.history_.rounds


def test_seeds_that_nobody_chose_are_kept(binary, path, kept):
    clf = make(random_state=None, max_iter=200).fit(*binary, checkpoint=path)
    again = make(random_state=None, max_iter=200).fit(*binary, checkpoint=kept[0], resume=True)
    assert np.array_equal(clf.coef_, again.coef_)


def test_urls_are_written_to(binary):
    url = "memory://skdist-test/fit.npz"
    first = make().fit(*binary, checkpoint=url)
    assert [
        name.rsplit("/", 1)[1] for name in fsspec.filesystem("memory").ls("/skdist-test", detail=False)
    ] == ["fit.npz"]
    again = make().fit(*binary, checkpoint=url, resume=True)
    assert np.array_equal(first.coef_, again.coef_)


def test_a_regression_goes_on_too(path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4))
    y = X @ [1.0, 2.0, 3.0, 4.0] + 5
    reg = DistributedSGDRegressor(random_state=0, max_iter=4, tol=None).fit(X, y, checkpoint=path)
    longer = DistributedSGDRegressor(random_state=0, max_iter=8, tol=None)
    longer.fit(X, y, checkpoint=path, resume=True)
    assert longer.n_iter_ == 8
    assert reg.n_iter_ == 4


@pytest.mark.parametrize("cut", [0, 10, 500, -1])
def test_torn_files_are_refused(binary, path, cut):
    make().fit(*binary, checkpoint=path)
    with open(path, "r+b") as file:
        content = file.read()
        file.truncate(len(content) + cut if cut < 0 else cut)
    with pytest.raises(ValueError, match="no checkpoint of skdist, or a torn one"):
        make().fit(*binary, checkpoint=path, resume=True)


def rewrite(path, change):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez(path, **arrays)


def test_changed_and_foreign_files_are_refused(binary, path):
    make().fit(*binary, checkpoint=path)
    rewrite(path, lambda arrays: arrays.update(state=arrays["state"] + 1))
    with pytest.raises(ValueError, match="was changed since it was written"):
        make().fit(*binary, checkpoint=path, resume=True)
    rewrite(path, lambda arrays: arrays.pop("about"))
    with pytest.raises(ValueError, match="no checkpoint of skdist"):
        make().fit(*binary, checkpoint=path, resume=True)
    np.savez(path, about=np.frombuffer(json.dumps([1]).encode(), np.uint8))
    with pytest.raises(ValueError, match="no checkpoint"):
        make().fit(*binary, checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"alpha": 0.1}, "alpha=0.0001"),
        ({"loss": "hinge"}, "loss='log_loss'"),
        ({"random_state": 1}, "random_state"),
    ],
)
def test_other_parameters_are_refused(binary, path, parameters, name):
    make().fit(*binary, checkpoint=path)
    with pytest.raises(ValueError, match=f"was made with {name}"):
        make(**parameters).fit(*binary, checkpoint=path, resume=True)


def test_other_data_is_refused(binary, path):
    X, y = binary
    make().fit(X, y, checkpoint=path)
    others = {
        "features": (X[:, :-1], y),
        "classes": (X, y + 5),
        "rows": (X[:-10], y[:-10]),
        "dtype": (X.astype(np.float64 if X.dtype == np.float32 else np.float32), y),
    }
    for name, rows in others.items():
        with pytest.raises(ValueError, match=f"another problem: {name} is"):
            make().fit(*rows, checkpoint=path, resume=True)


def test_texts_of_other_words_are_refused(path):
    words = np.arange(60).reshape(20, 3)
    texts = [
        scipy.sparse.csr_array((np.ones(60), words.ravel() + first, np.arange(0, 61, 3)), shape=(20, 1000))
        for first in (0, 1)
    ]
    y = np.arange(20) % 2
    make().fit(texts[0], y, checkpoint=path)
    make().fit(texts[0], y, checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="another problem: columns is"):
        make().fit(texts[1], y, checkpoint=path, resume=True)


def test_what_a_checkpoint_cannot_hold_is_refused_at_once(binary, path):
    X, y = binary
    with pytest.raises(ValueError, match="early_stopping"):
        make(early_stopping=True).fit(X, y, checkpoint=path)
    with pytest.raises(ValueError, match="X_val"):
        make().fit(X, y, X_val=X, y_val=y, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint=path"):
        make().fit(X, y, resume=True)
    with pytest.raises(ValueError, match="resume='yes'"):
        make().fit(X, y, checkpoint=path, resume="yes")
    with SimulatedCluster(n_learners=2), pytest.raises(ValueError, match="simulated"):
        make().fit(X, y, checkpoint=path)


def test_a_place_that_cannot_be_written_to_is_an_error_before_training(binary, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("skdist.estimators.local.train_inline", pytest.fail)
    with pytest.raises(OSError, match="cannot be written"):
        make().fit(*binary, checkpoint=str(tmp_path / "file" / "fit.npz"))


def test_a_write_that_fails_leaves_the_last_checkpoint_and_is_an_error(binary, path, monkeypatch):
    make(max_iter=3).fit(*binary, checkpoint=path)
    before = Path(path).read_bytes()

    def full(self, content):
        raise OSError("disk full")

    monkeypatch.setattr(Checkpoint, "_replace", full)
    with pytest.raises(OSError, match="disk full"):
        make(max_iter=6).fit(*binary, checkpoint=path, resume=True)
    assert Path(path).read_bytes() == before
    assert not [thread for thread in threading.enumerate() if thread.name == "skdist-checkpoint"]


def test_an_epoch_whose_rows_came_after_the_backup_is_not_through():
    dispatcher = SimpleNamespace(epochs=SimpleNamespace(opened=6), complete=5)
    reached = Reached.of(
        Backup(None, None, {}, [], 5, 9, False, 0.0, {}), dispatcher, [(4, Segment(0, 10, 20))]
    )
    assert (reached.opened, reached.complete) == (6, 4)
    assert Reached.of(reached.backup, dispatcher, []).complete == 5
