"""Modules on a cluster of two processes."""

from __future__ import annotations

import pickle

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from distributed import wait

from skdist import DistributedMLPClassifier, DistributedTorchClassifier, DistributedTorchRegressor, TopK
from skdist.cluster.plugin import LearnerPlugin
from skdist.exceptions import DivergedError
from skdist.testing import slow_down
from tests.cluster.conftest import client, cluster  # noqa: F401
from tests.torch.modules import Images, Net, scaled
from tests.torch.test_estimators import images, net, perceptron, rows  # noqa: F401


@pytest.fixture
def blocks(client, rows):  # noqa: F811
    X, y = da.from_array(rows[0], chunks=(100, -1)).persist(), da.from_array(rows[1], chunks=100).persist()
    wait([X, y])
    return X, y


@pytest.mark.parametrize("make", [net, perceptron])
@pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
def test_modules_learn(client, blocks, rows, make, mode):  # noqa: F811
    clf = make(mode=mode, max_iter=20, early_stopping=mode == "sync", client=client).fit(*blocks)
    assert clf.score(*blocks) == pytest.approx(clf.score(*rows))
    assert clf.score(*rows) > 0.9
    assert len({record.worker for record in clf.history_.rounds}) == 2
    lazy = clf.predict_proba(blocks[0])
    assert lazy.shape == (800, 3)
    np.testing.assert_allclose(lazy.compute(), clf.predict_proba(rows[0]), atol=1e-6)
    assert pickle.loads(pickle.dumps(clf)).client is None


@pytest.mark.parametrize("make", [net, perceptron])
@pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
@pytest.mark.parametrize("there", [True, False], ids=["cluster", "here"])
def test_bar_and_line_show_how_modules_train(client, blocks, rows, capsys, make, mode, there):  # noqa: F811
    pytest.importorskip("rich")
    bar = pytest.importorskip("sklearn.callback").ProgressBar()
    clf = make(mode=mode, max_iter=3, tol=None, verbose=1, client=client if there else None)
    clf.set_callbacks(bar).fit(*(blocks if there else rows))
    out = capsys.readouterr().out
    assert "100%" in out
    assert "3 epochs in " in out
    assert ("2 workers" if there else "1 thread") in out


def test_images_stay_bytes_on_the_workers(client, images):  # noqa: F811
    X, y = images
    dX, dy = da.from_array(X, chunks=(50, -1, -1, -1)), da.from_array(y, chunks=50)
    clf = net(Images, transform=scaled, max_iter=40, client=client).fit(dX, dy)
    assert clf.score(dX, dy) > 0.9
    assert clf.predict(dX).compute().shape == (300,)
    np.testing.assert_array_equal(clf.predict(dX), clf.predict(X))
    np.testing.assert_array_equal(clf.predict(dX.rechunk((60, 1, 3, 6))), clf.predict(X))
    with pytest.raises(ValueError, match=r"rechunk\(\{2: -1\}\)"):
        clf.fit(dX.rechunk({2: 3}), dy)


def test_frames_and_regressions(client, rows):  # noqa: F811
    X = rows[0]
    frame = dd.from_pandas(pd.DataFrame(X, columns=list("wxyz")), npartitions=4)
    target = (frame.w - frame.z).rename("target")
    reg = DistributedTorchRegressor(
        torch.nn.Linear(4, 1), optimizer__lr=0.05, max_iter=20, random_state=0, client=client
    ).fit(frame, target)
    assert reg.score(frame, target) > 0.99
    assert reg.feature_names_in_.tolist() == list("wxyz")


def test_rounds_that_do_not_depend_on_who_is_fast_repeat_to_the_bit(client, blocks):  # noqa: F811
    fixed = {"mode": "sync", "round_size": 64, "batch_sizer": None, "client": client}
    fits = [net(**fixed).fit(*blocks) for _ in range(2)]
    for first, second in zip(*(clf.module_.parameters() for clf in fits), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    "params", [{}, {"compression": "float16"}, {"compression": TopK(share=0.3)}], ids=str
)
@pytest.mark.parametrize("server_momentum", [0.0, 0.5])
def test_modules_with_buffers_are_the_same_to_the_bit_however_many_servers(
    client, images, params, server_momentum  # noqa: F811
):  # fmt: skip
    X, y = images
    blocks = da.from_array(X, chunks=(50, -1, -1, -1)).persist(), da.from_array(y, chunks=50).persist()
    wait(blocks)
    fits = [
        net(
            Images, transform=scaled, mode="sync", round_size=64, batch_sizer=None, client=client, max_iter=4,
            server_momentum=server_momentum, n_servers=n_servers, **params,
        ).fit(*blocks)
        for n_servers in (1, 2, 4)
    ]  # fmt: skip
    expected, *others = [clf.module_.state_dict() for clf in fits]
    assert not torch.equal(expected["norm.running_mean"], torch.zeros(4))
    for found in others:
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("compression", [None, "bfloat16", TopK(share=0.1)], ids=str)
def test_perceptrons_learn_with_several_servers(client, blocks, rows, compression):  # noqa: F811
    clf = perceptron(max_iter=20, compression=compression, client=client, n_servers=3).fit(*blocks)
    assert clf.score(*rows) > 0.9
    assert [epoch.rows for epoch in clf.history_.epochs] == [800] * 20


def test_every_row_counts_once_per_pass_beside_a_slow_worker(client, blocks):  # noqa: F811
    slow = next(iter(client.scheduler_info()["workers"]))
    slow_down(client, slow, 5)
    try:
        clf = perceptron(client=client, max_iter=5).fit(*blocks)
    finally:
        slow_down(client, slow, 1)
    assert [epoch.rows for epoch in clf.history_.epochs] == [800] * 5


def test_errors_of_workers_arrive(client, blocks):  # noqa: F811
    with pytest.raises(DivergedError, match="Lower the step size"):
        net(optimizer="sgd", optimizer__lr=1e38, client=client).fit(*blocks)
    X = blocks[0].map_blocks(lambda block: block * np.float32(np.nan))
    with pytest.raises(ValueError, match=r"Partition \d: X contains NaN"):
        net(client=client).fit(X, blocks[1])


def test_modules_of_the_session_travel(client, blocks):  # noqa: F811
    class Local(Net):
        """Not to be found by import."""

    clf = DistributedTorchClassifier(Local, max_iter=2, client=client).fit(*blocks)
    assert type(clf.to_torch()).__name__ == "Local"


def test_perceptrons_of_rows_in_memory(client, rows):  # noqa: F811
    clf = DistributedMLPClassifier(max_iter=3, client=client, tol=None, random_state=0).fit(*rows)
    assert clf.n_iter_ == 3
    assert clf.predict(rows[0]).shape == (800,)


@pytest.mark.parametrize("compression", ["float16", "bfloat16", TopK(share=0.1)])
@pytest.mark.parametrize("make", [net, perceptron])
def test_compressed_updates_train_as_well(client, blocks, rows, make, compression):  # noqa: F811
    clf = make(max_iter=30, compression=compression, client=client).fit(*blocks)
    assert clf.score(*rows) > make(max_iter=30, client=client).fit(*blocks).score(*rows) - 0.03
    assert [epoch.rows for epoch in clf.history_.epochs] == [800] * 30
    assert len({record.worker for record in clf.history_.rounds}) == 2


def trainers_of(dask_worker):
    """Return the trainers of the learners on a worker that are between two visits."""
    plugins = [each for each in dask_worker.plugins.values() if isinstance(each, LearnerPlugin)]
    return [learner.trainer for each in plugins for learner in each._idle if learner.trainer is not None]


def steps_behind(dask_worker):
    """Return how many steps their optimizers remember."""
    return [trainer._made for trainer in trainers_of(dask_worker)]


def sent_sizes(dask_worker):
    """Return the sizes of the parameters that they train."""
    return [trainer.flat.n_parameters for trainer in trainers_of(dask_worker)]


@pytest.mark.parametrize("compression", [None, "topk"])
def test_optimizers_remember_the_visits_before(client, blocks, compression):  # noqa: F811
    """What they have gathered outlives visits: each step of a fit is one of theirs."""
    seen = []

    class Look(EpochLook):
        def look(self):
            seen.append(client.run(steps_behind))

    clf = perceptron(max_iter=4, batch_size=50, client=client, mode="sync", compression=compression)
    clf.set_callbacks(Look()).fit(*blocks)
    made = [sum(sum(counts) for counts in each.values()) for each in seen]
    assert made == [16, 32, 48, 64]
    assert len({record.visit for record in clf.history_.rounds}) > 4


class EpochLook:
    """Calls `look` after each epoch."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, **kwargs):
        if context.task_name == "epoch":
            self.look()


def test_frozen_parameters_are_neither_sent_nor_changed_nor_counted(client, blocks, rows):  # noqa: F811
    module = Net(hidden=50)
    module.first.requires_grad_(False)
    before = module.first.weight.clone()
    sizes = []

    class Look(EpochLook):
        def look(self):
            sizes.extend(size for part in client.run(sent_sizes).values() for size in part)

    clf = net(module, max_iter=10, client=client, mode="sync").set_callbacks(Look()).fit(*blocks)
    assert set(sizes) == {50 * 3 + 3}
    assert torch.equal(clf.module_.first.weight, before)
    assert clf.score(*rows) > 0.8
