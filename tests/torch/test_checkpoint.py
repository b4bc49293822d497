"""Fits of modules that go on from a checkpoint."""

from __future__ import annotations

import pickle
import shutil
from functools import partial

import dask.array as da
import numpy as np
import pytest
import torch
from torch import nn

from skdist import DistributedMLPRegressor, DistributedTorchClassifier, checkpoint
from skdist.checkpoint import Checkpoint
from skdist.estimators.resuming import written_out
from tests.cluster.conftest import client, cluster  # noqa: F401
from tests.torch.modules import Images, Net, scaled
from tests.torch.test_estimators import images, net, perceptron, rows  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "fit.npz")


@pytest.fixture
def kept(monkeypatch):
    """Copies of all checkpoints that are written, which is as often as possible."""
    copies, plain = [], Checkpoint.write

    def keep(self, *args):
        plain(self, *args)
        copies.append(f"{self.path}.{len(copies)}")
        shutil.copy(self.path, copies[-1])

    monkeypatch.setattr(Checkpoint, "write", keep)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 1e-4)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", 1.0)
    return copies


def values(clf):
    return torch.cat([value.reshape(-1).double() for value in clf.module_.state_dict().values()])


PLAIN = {
    "module": {"optimizer": "sgd", "optimizer__lr": 0.05, "learning_rate": "invscaling", "max_iter": 30},
    "perceptron": {"solver": "sgd", "momentum": 0.0, "learning_rate": "invscaling", "max_iter": 60},
}


@pytest.mark.parametrize(("make", "kind"), [(net, "module"), (perceptron, "perceptron")])
def test_optimizers_without_state_go_on_to_the_same_bits(rows, path, kept, make, kind):  # noqa: F811
    whole = make(**PLAIN[kind]).fit(*rows)
    make(**PLAIN[kind]).fit(*rows, checkpoint=path)
    assert len(kept) >= 3
    for copy in kept[:: max(len(kept) // 4, 1)]:
        again = make(**PLAIN[kind]).fit(*rows, checkpoint=copy, resume=True)
        assert torch.equal(values(again), values(whole))
        assert again.loss_curve_ == whole.loss_curve_


@pytest.mark.parametrize("compression", [None, "topk"])
@pytest.mark.parametrize("threads", [1, 2])
def test_optimizers_with_state_begin_anew(rows, path, kept, threads, compression):  # noqa: F811
    clf = net(n_jobs=threads, max_iter=20, compression=compression).fit(*rows, checkpoint=path)
    again = net(n_jobs=threads, max_iter=20).fit(*rows, checkpoint=kept[len(kept) // 2], resume=True)
    assert again.score(*rows) > clf.score(*rows) - 0.03
    assert again.history_.to_frame("epochs").rows.tolist() == [800] * 20


def test_buffers_and_regressions_go_on(images, path):  # noqa: F811
    first = net(Images, transform=scaled, max_iter=3).fit(*images, checkpoint=path)
    again = net(Images, transform=scaled, max_iter=3).fit(*images, checkpoint=path, resume=True)
    assert not again.history_.rounds
    assert torch.equal(first.module_.norm.running_var, again.module_.norm.running_var)
    assert torch.equal(first.module_.out.weight, again.module_.out.weight)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    target = path + ".target"
    reg = DistributedMLPRegressor(hidden_layer_sizes=(4,), max_iter=2, tol=None, random_state=0).fit(
        X, X[:, 0], checkpoint=target
    )
    longer = DistributedMLPRegressor(hidden_layer_sizes=(4,), max_iter=5, tol=None, random_state=0)
    assert longer.fit(X, X[:, 0], checkpoint=target, resume=True).n_iter_ == 5
    assert reg.n_iter_ == 2


def test_on_a_cluster_and_from_there_in_this_process(client, rows, path):  # noqa: F811
    X, y = da.from_array(rows[0], chunks=(100, -1)), da.from_array(rows[1], chunks=100)
    net(max_iter=4, client=client).fit(X, y, checkpoint=path)
    there = net(max_iter=8, client=client).fit(X, y, checkpoint=path, resume=True)
    assert there.n_iter_ == 8
    here = net(max_iter=12).fit(*rows, checkpoint=path, resume=True)
    assert [epoch.rows for epoch in here.history_.epochs] == [800] * 12
    assert here.score(*rows) > 0.9


def test_other_modules_are_refused(rows, path):  # noqa: F811
    net().fit(*rows, checkpoint=path)
    with pytest.raises(ValueError, match=r"made with module__hidden=None, this fit has module__hidden=9"):
        net(module__hidden=9).fit(*rows, checkpoint=path, resume=True)
    with pytest.raises(ValueError, match=r"made with module=tests\.torch\.modules\.Net, this fit"):
        net(Images).fit(*rows, checkpoint=path, resume=True)
    net(WidthOf).fit(*rows, checkpoint=path)
    with pytest.raises(ValueError, match=r"another problem: row is \[4\] there and \[3\] here"):
        net(WidthOf).fit(rows[0][:, :3], rows[1], checkpoint=path, resume=True)


class WidthOf(nn.Module):
    """Takes rows of any width."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(1, 3)

    def forward(self, X):
        return self.out(X.mean(dim=1, keepdim=True))


def linear(rows, width, frozen):  # noqa: F811
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
    module[0].requires_grad_(False)
    nn.init.constant_(module[0].weight, frozen)
    return DistributedTorchClassifier(partial(pickle.loads, pickle.dumps(module)), max_iter=1, random_state=0)


def test_other_shapes_and_other_frozen_parameters_are_refused(rows, path, monkeypatch):  # noqa: F811
    # As if the class of the module had changed between two processes.
    monkeypatch.setattr("skdist.estimators.resuming.written_out", lambda value: "the same")
    linear(rows, 5, 1.0).fit(*rows, checkpoint=path)
    with pytest.raises(ValueError, match=r"shape of 1\.weight is \[5, 4\] there and \[6, 4\] here"):
        linear(rows, 6, 1.0).fit(*rows, checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="another problem: frozen is"):
        linear(rows, 5, 2.0).fit(*rows, checkpoint=path, resume=True)


def test_no_pickle_is_read(rows, path):  # noqa: F811
    net().fit(*rows, checkpoint=path)
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == ["about", "state"]
    with open(path, "wb") as file:
        pickle.dump({"state": 1}, file)
    with pytest.raises(ValueError, match="no checkpoint of skdist"):
        net().fit(*rows, checkpoint=path, resume=True)


def test_parameters_are_written_out_alike_in_any_process():
    class Callable:
        def __call__(self):
            return 0

    assert written_out(scaled) == "tests.torch.modules.scaled"
    assert written_out(Net) == "tests.torch.modules.Net"
    assert written_out(partial(scaled, 3)) == "partial([tests.torch.modules.scaled, [3], {}])"
    assert "0x" not in written_out([Callable(), {"a": Callable()}, nn.Linear(2, 1), print, nn.ReLU])
    assert written_out("adam") == "'adam'"
    first, second = torch.zeros(3000), torch.zeros(3000)
    second[1500] = 1
    assert written_out(first) != written_out(second)
    assert written_out(first) == written_out(torch.zeros(3000))
