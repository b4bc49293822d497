from __future__ import annotations

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from skdist import (
    DistributedMLPClassifier,
    DistributedMLPRegressor,
    DistributedTorchClassifier,
    DistributedTorchRegressor,
    TopK,
)
from skdist.models.torch.batches import Inputs
from skdist.testing import SimulatedCluster
from tests.torch.modules import Dropping, Images, Net, scaled

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def rows():
    X, y = make_classification(800, 4, n_informative=4, n_redundant=0, n_classes=3, n_clusters_per_class=1,
                               class_sep=2.0, random_state=0)  # fmt: skip
    return X.astype(np.float32), np.array(["a", "b", "c"])[y]


@pytest.fixture(scope="module")
def images():
    """Pixels of dark and of bright images, as bytes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    return (rng.integers(0, 100, (300, 1, 6, 6)) + 100 * y[:, None, None, None]).astype(np.uint8), y


def net(module=Net, **params):
    return DistributedTorchClassifier(
        module, **{"optimizer": "adam", "optimizer__lr": 0.02, "max_iter": 8, "random_state": 0, **params}
    )


def perceptron(**params):
    return DistributedMLPClassifier(
        (16,), **{"learning_rate_init": 0.02, "max_iter": 8, "tol": None, "random_state": 0, **params}
    )


KINDS = [net, perceptron]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_classifiers_learn(rows, make, mode, n_jobs):
    clf = make(mode=mode, n_jobs=n_jobs).fit(*rows)
    assert clf.score(*rows) > 0.9
    assert clf.classes_.tolist() == ["a", "b", "c"]
    assert sum(epoch.rows for epoch in clf.history_.epochs) == 8 * 800
    np.testing.assert_allclose(clf.predict_proba(rows[0]).sum(axis=1), 1, rtol=1e-5)


def regressor(**params):
    module = {"module__n_outputs": 1, "module__hidden": 32}
    return DistributedTorchRegressor(Net, **module, optimizer="adam", optimizer__lr=0.02, **params)


def perceptron_regressor(**params):
    return DistributedMLPRegressor(hidden_layer_sizes=(32,), learning_rate_init=0.02, tol=None, **params)


@pytest.mark.parametrize("make", [regressor, perceptron_regressor])
def test_regressors_learn(make):
    X, y = make_regression(600, 4, random_state=0)
    reg = make(random_state=0, max_iter=40).fit(StandardScaler().fit_transform(X), y / y.std())
    assert reg.score(StandardScaler().fit_transform(X), y / y.std()) > 0.95
    assert reg.predict(X).shape == (600,)


@pytest.mark.parametrize("make", KINDS)
def test_one_learner_repeats_to_the_bit(rows, make):
    first, second = make().fit(*rows), make().fit(*rows)
    np.testing.assert_array_equal(first.predict_proba(rows[0]), second.predict_proba(rows[0]))
    other = make(random_state=1).fit(*rows)
    assert not np.array_equal(first.predict_proba(rows[0]), other.predict_proba(rows[0]))


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
def test_on_a_simulated_cluster(rows, make, mode):
    with SimulatedCluster(4, seconds_per_row=[1e-3, 1e-3, 1e-3, 5e-3], exchange_seconds=0.01):
        fits = [make(mode=mode, max_iter=20).fit(*rows) for _ in range(2)]
    np.testing.assert_array_equal(*(clf.predict_proba(rows[0]) for clf in fits))
    assert fits[0].score(*rows) > 0.9
    assert len({record.worker for record in fits[0].history_.rounds}) == 4


def test_the_state_of_the_optimizer_stays_with_its_learner(rows):
    """In sync mode with one round per pass, two learners are the mean of two loops of plain torch."""
    X, y = rows[0][:64], rows[1][:64]
    settings = {"mode": "sync", "round_size": 32, "batch_sizer": None, "aggregator": "uniform"}
    clf = net(optimizer="sgd", optimizer__momentum=0.9, batch_size=32, shuffle=False, max_iter=5, **settings)
    with SimulatedCluster(2):
        clf.fit(X, y)
    start = net(max_iter=1, optimizer="sgd", optimizer__lr=1e-30, batch_size=64).fit(X, y).to_torch()
    codes = torch.from_numpy(np.searchsorted(clf.classes_, y))
    modules = [pickle.loads(pickle.dumps(start)) for _ in range(2)]
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9) for module in modules]
    for _ in range(5):
        for number, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
            part = slice(32 * number, 32 * number + 32)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(torch.from_numpy(X[part])), codes[part]).backward()
            optimizer.step()
        with torch.no_grad():
            for first, second in zip(*(module.parameters() for module in modules), strict=True):
                first.copy_((first + second) / 2)
                second.copy_(first)
    for ours, theirs in zip(clf.module_.parameters(), modules[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


class TestParameters:
    def test_prefixes_go_where_they_belong(self, rows):
        clf = net(module__hidden=5, criterion__label_smoothing=0.1, optimizer__weight_decay=0.1).fit(*rows)
        assert clf.module_.first.out_features == 5
        assert clf._model.criterion.params == {"label_smoothing": 0.1}
        assert clf._model.optimizer_params == {"lr": 0.02, "weight_decay": 0.1}

    def test_get_set_and_clone(self):
        clf = net(module__hidden=5)
        assert clf.get_params()["module__hidden"] == 5
        twin = clone(clf).set_params(module__hidden=6, module__n_inputs=4, max_iter=2, rate_adapter__window=3)
        assert (twin.module__hidden, twin.max_iter, twin.rate_adapter.window) == (6, 2, 3)
        assert clf.module__hidden == 5
        assert "module__hidden=6" in repr(twin)

    def test_unknown_ones_are_refused(self):
        with pytest.raises(TypeError, match="no parameter 'modul__hidden'"):
            net(modul__hidden=3)
        with pytest.raises(ValueError, match="Invalid parameter"):
            net().set_params(modul__hidden=3)

    def test_search(self, rows):
        search = GridSearchCV(
            net(max_iter=2), {"module__hidden": [2, 8], "optimizer__lr": [1e-5, 0.05]}, cv=2
        )
        assert search.fit(*rows).best_params_["optimizer__lr"] == 0.05

    def test_instances_are_copied(self, rows):
        module = Net()
        before = module.first.weight.clone()
        clf = net(module).fit(*rows)
        assert torch.equal(module.first.weight, before)
        assert not torch.equal(clf.module_.first.weight, before)
        with pytest.raises(ValueError, match="module is an instance"):
            net(module, module__hidden=3).fit(*rows)

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"module__n_outputs": 2}, "has 2 outputs; for 3 classes"),
            ({"module__n_inputs": 5}, r"cannot take rows of shape \(4,\)"),
            ({"optimizer": torch.optim.LBFGS, "optimizer__lr": 1}, "several times for a step"),
            (
                {"learning_rate": "adaptive", "early_stopping": True, "tol": 1e-4},
                "'adaptive' follows the training loss",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, rows, params, message):
        with pytest.raises(ValueError, match=message):
            net(**params).fit(*rows)

    def test_no_module(self, rows):
        with pytest.raises(TypeError, match=r"must be a torch.nn.Module"):
            net(dict).fit(*rows)

    def test_probabilities_need_a_criterion_that_has_them(self, rows):
        assert not hasattr(net(criterion=nn.MultiMarginLoss), "predict_proba")
        assert net(criterion=nn.MultiMarginLoss).fit(*rows).score(*rows) > 0.9

    @pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss])
    def test_criteria(self, rows, criterion):
        np.testing.assert_array_equal(
            net(criterion=criterion).fit(*rows).predict_proba(rows[0]),
            net().fit(*rows).predict_proba(rows[0]),
        )

    def test_one_logit_for_two_classes(self, rows):
        X, y = rows[0], rows[1] == "a"
        clf = net(criterion=nn.BCEWithLogitsLoss, module__n_outputs=1).fit(X, y)
        assert clf.score(X, y) > 0.9
        np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1, rtol=1e-6)

    @pytest.mark.parametrize("solver", ["lbfgs", "sag"])
    def test_solvers(self, rows, solver):
        with pytest.raises(ValueError, match="solver"):
            perceptron(solver=solver).fit(*rows)

    @pytest.mark.parametrize("sizes", [(), (8, 4), 8])
    def test_layers(self, rows, sizes):
        clf = DistributedMLPClassifier(sizes, random_state=0, max_iter=2).fit(*rows)
        widths = [4, *np.atleast_1d(np.array(sizes, dtype=int)), 3]
        assert [coef.shape for coef in clf.coefs_] == list(itertools.pairwise(widths))
        assert (clf.n_layers_, clf.n_outputs_, clf.out_activation_) == (len(widths), 3, "softmax")
        assert clf.loss_ == clf.loss_curve_[-1]


class TestRows:
    def test_sparse_frames_and_wide_numbers_give_the_same(self, rows):
        X, y = rows
        expected = net().fit(X, y).predict_proba(X)
        others = X.astype(np.float64), sp.csr_array(X), pd.DataFrame(X, columns=list("wxyz"))
        for other in others:
            np.testing.assert_allclose(net().fit(other, y).predict_proba(other), expected, atol=1e-6)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float16])
    def test_narrow_rows_stay_narrow_until_they_are_trained_on(self, images, dtype, monkeypatch):
        X, y = images
        seen, plain = set(), Inputs.__call__

        def watched(self, rows):
            seen.add(rows.dtype)
            return plain(self, rows)

        monkeypatch.setattr(Inputs, "__call__", watched)
        clf = net(Images, transform=scaled, max_iter=30).fit(X.astype(dtype), y)
        assert seen == {np.dtype(dtype), np.dtype(np.float32)}  # a row of zeros comes first
        assert clf.score(X.astype(dtype), y) > 0.9

    def test_a_transform_sees_mini_batches(self, images):
        X, y = images
        shapes = []

        def watch(rows):
            shapes.append((tuple(rows.shape), rows.dtype))
            return rows / 255

        net(Images, transform=watch, batch_size=50, max_iter=1).fit(X, y)
        assert shapes.count(((50, 1, 6, 6), torch.float32)) == 6

    def test_embeddings(self):
        X = np.random.default_rng(0).integers(0, 20, (400, 3))
        module = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(24, 2))
        y = X[:, 0] > 9
        assert net(module, input_dtype="int64", max_iter=20).fit(X, y).score(X, y) > 0.9

    def test_wrong_shapes_at_prediction(self, images):
        clf = net(Images, max_iter=1).fit(*images)
        with pytest.raises(ValueError, match="features"):
            clf.predict(images[0][:, :, :, 0])

    @pytest.mark.parametrize("make", KINDS)
    def test_weights(self, rows, make):
        X, y = rows
        only = np.where(y == "a", 0.0, 1.0)
        assert "a" not in make().fit(X, y, sample_weight=only).predict(X)
        assert "a" not in make(class_weight={"a": 0, "b": 1, "c": 1}).fit(X, y).predict(X)
        with pytest.raises(ValueError, match="must be positive"):
            make(class_weight={"a": 0, "b": 0, "c": 0}).fit(X, y)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
    def test_values_that_are_not_finite(self, rows, bad):
        X = rows[0].astype(np.float64)
        X[3, 1] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            net().fit(X, rows[1])


class TestStatistics:
    def test_of_a_batch_norm_are_averaged_with_the_parameters(self, images):
        X, y = images
        with SimulatedCluster(3):
            clf = net(Images, transform=scaled, max_iter=30, server_momentum="auto").fit(X, y)
        norm = clf.module_.norm
        inputs = torch.from_numpy(X).float() / 255
        with torch.no_grad():
            values = clf.module_.conv(inputs)
        torch.testing.assert_close(norm.running_mean, values.mean(dim=(0, 2, 3)), rtol=0.3, atol=0.1)
        assert (norm.running_var > 0).all()
        assert norm.num_batches_tracked == 0
        assert clf.score(X, y) > 0.9

    def test_frozen_parameters_stay(self, images):
        module = Images()
        module.conv.requires_grad_(False)
        before = module.conv.weight.clone()
        clf = net(module, transform=scaled, max_iter=2).fit(*images)
        assert torch.equal(clf.module_.conv.weight, before)
        assert clf._model.new_noise().sums.size == sum(
            p.numel() for p in [*module.norm.parameters(), *module.out.parameters()]
        )


@pytest.mark.parametrize("make", KINDS)
class TestGoingOn:
    def test_early_stopping_keeps_the_best(self, rows, make):
        X, y = rows
        clf = make(early_stopping=True, max_iter=12).fit(X[:500], y[:500], X_val=X[500:], y_val=y[500:])
        assert clf.score(X[500:], y[500:]) == pytest.approx(max(clf.validation_scores_), abs=1e-6)
        assert 1 <= len(clf.validation_scores_) <= 12
        assert make(early_stopping=True).fit(X, y).best_validation_score_ > 0.8

    def test_partial_fit_goes_on(self, rows, make):
        X, y = rows
        clf = make()
        for _ in range(8):
            clf.partial_fit(X, y, classes=["a", "b", "c"])
        assert clf.score(X, y) > 0.9
        assert len(clf.history_.epochs) == 8
        assert clf.t_ == (8 * 800 if make is perceptron else 1 + 8 * -(-800 // clf._model.batch_size))
        with pytest.raises(ValueError, match="first call"):
            make().partial_fit(X, y)

    def test_warm_starts(self, rows, make):
        clf = make(warm_start=True, max_iter=4).fit(*rows)
        before = clf.loss_curve_[-1]
        warm = clf.fit(*rows).loss_curve_[4]  # the curve goes on
        assert (len(clf.loss_curve_), clf.n_iter_) == (8, 4)
        assert warm < 1.5 * before < clf.set_params(warm_start=False).fit(*rows).loss_curve_[0]
        with pytest.raises(ValueError, match="same classes"):
            clf.set_params(warm_start=True).fit(rows[0], np.char.add(rows[1], "!"))

    def test_pickles_predict_the_same(self, rows, make):
        clf = make().fit(*rows)
        twin = pickle.loads(pickle.dumps(clf))
        np.testing.assert_array_equal(twin.predict_proba(rows[0]), clf.predict_proba(rows[0]))

    def test_modules_of_ones_own_use(self, rows, make):
        clf = make().fit(*rows)
        module = clf.to_torch()
        with torch.no_grad():
            shares = torch.softmax(module(torch.from_numpy(rows[0])), dim=1).numpy()
        np.testing.assert_allclose(clf.predict_proba(rows[0]), shares, atol=1e-6)
        assert not module.training
        for value in module.parameters():
            value.data.zero_()
        np.testing.assert_allclose(clf.predict_proba(rows[0]), shares, atol=1e-6)

    def test_weights_come_back(self, rows, make, tmp_path):
        path = tmp_path / "weights.safetensors"
        clf, other = make().fit(*rows), make(random_state=1, max_iter=1).fit(*rows)
        clf.save_weights(path)
        other.load_weights(path)
        np.testing.assert_array_equal(other.predict_proba(rows[0]), clf.predict_proba(rows[0]))
        odd = DistributedMLPClassifier((3, 3), max_iter=1).fit(*rows)
        before = odd.predict_proba(rows[0])
        with pytest.raises(ValueError, match="does not hold the weights"):
            odd.load_weights(path)
        np.testing.assert_array_equal(odd.predict_proba(rows[0]), before)
        with pytest.raises(NotFittedError):
            make().save_weights(path)


def test_another_architecture_cannot_go_on(rows):
    clf = net(warm_start=True, max_iter=1).fit(*rows)
    with pytest.raises(ValueError, match="other parameters"):
        clf.set_params(module__hidden=3).fit(*rows)


def test_dropout_trains_and_predicts_without(rows):
    clf = net(Dropping, max_iter=15).fit(*rows)
    np.testing.assert_array_equal(clf.predict_proba(rows[0]), clf.predict_proba(rows[0]))
    assert clf.score(*rows) > 0.85


def test_autocast_computes_in_bfloat16(rows):
    seen = set()

    class Watching(Net):
        def forward(self, X):
            out = super().forward(X)
            if self.training:
                seen.add(out.dtype)
            return out

    assert net(Watching, autocast=True).fit(*rows).score(*rows) > 0.9
    assert seen == {torch.bfloat16}


def test_the_server_may_have_momentum(rows):
    settings = {"max_iter": 4, "optimizer": "sgd", "optimizer__lr": 0.05}
    with SimulatedCluster(4):
        plain = net(**settings).fit(*rows)
        moved = net(**settings, server_momentum="auto").fit(*rows)
    assert moved.loss_curve_[-1] < plain.loss_curve_[-1]


def test_digits_as_well_as_in_scikit_learn():
    X, y = load_digits(return_X_y=True)
    scores = np.empty((2, 5))
    for seed in range(5):
        X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=seed)
        for place, kind in enumerate((DistributedMLPClassifier, MLPClassifier)):
            clf = kind((32,), max_iter=40, learning_rate_init=0.005, random_state=seed).fit(X_train, y_train)
            scores[place, seed] = clf.score(X_test, y_test)
    ours, theirs = scores.mean(axis=1)
    assert ours > theirs - 0.005


class TestCompression:
    """Of the updates of learners."""

    @pytest.mark.parametrize("make", KINDS)
    @pytest.mark.parametrize(
        "compression", ["float16", pytest.param("bfloat16", marks=pytest.mark.long), "topk"]
    )
    @pytest.mark.parametrize("mode", ["async", pytest.param("sync", marks=pytest.mark.long)])
    def test_threads_learn_as_well(self, rows, make, compression, mode):
        clf = make(compression=compression, n_jobs=2, mode=mode, max_iter=20).fit(*rows)
        assert clf.score(*rows) > make(n_jobs=2, mode=mode, max_iter=20).fit(*rows).score(*rows) - 0.03

    @pytest.mark.parametrize("compression", ["float16", "bfloat16", "topk", TopK(share=0.01)])
    def test_digits_are_told_apart_as_well_on_a_simulated_cluster(self, compression):
        X, y = load_digits(return_X_y=True)
        parts = train_test_split(X / 16, y, random_state=0)
        scores = []
        for setting in (None, compression):
            clf = DistributedMLPClassifier(
                (64,), learning_rate_init=0.003, batch_size=16, round_size=64, max_iter=20, tol=None,
                random_state=0, compression=setting,
            )  # fmt: skip
            with SimulatedCluster(4, exchange_seconds=0.01):
                scores.append(clf.fit(parts[0], parts[2]).score(parts[1], parts[3]))
        assert scores[1] > scores[0] - 0.01
        assert scores[1] > 0.94

    def test_settings(self, rows):
        clf = net(compression=TopK())
        assert clone(clf).set_params(compression__share=0.5).compression.share == 0.5
        with pytest.raises(ValueError, match="'compression' parameter"):
            net(compression="zip").fit(*rows)
        with pytest.raises(ValueError, match="'share' parameter of TopK"):
            net(compression=TopK(share=2.0)).fit(*rows)

    def test_statistics_of_a_norm_are_exact(self, images):
        clf = net(Images, transform=scaled, max_iter=40, compression="topk", n_jobs=2).fit(*images)
        assert clf.score(*images) > 0.9
        assert (clf.module_.norm.running_var > 0).all()
