"""Inputs, settings and machines that are not as usual."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import nn

from skdist import DistributedMLPClassifier, DistributedMLPRegressor
from skdist.exceptions import DivergedError
from skdist.intake import Arrays
from skdist.models.torch import batches
from skdist.models.torch.flat import FlatModule
from skdist.models.torch.losses import Criterion
from skdist.testing import SimulatedCluster
from tests.torch.modules import Dropping, Images, Net
from tests.torch.test_estimators import images, net, perceptron, rows  # noqa: F401
from tests.torch.test_trainer import model_of, partition, perceptron_of, trained  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = [net, perceptron]


def values(clf):
    return torch.cat([value.reshape(-1) for value in clf.module_.parameters()])


class TestStatistics:
    """Buffers that are merged."""

    class Bounds(Net):
        """Keeps the extremes of its rows, which nothing has reached at first."""

        def __init__(self):
            super().__init__()
            self.register_buffer("least", torch.full((4,), torch.inf))
            self.register_buffer("never", torch.full((2,), -torch.inf))

        def forward(self, X):
            if self.training:
                with torch.no_grad():
                    self.least.copy_(torch.minimum(self.least, X.min(dim=0).values))
            return super().forward(X)

    @pytest.mark.parametrize("mode", ["async", "ssp", "sync"])
    def test_infinite_ones_are_not_averaged(self, rows, mode):  # noqa: F811
        with SimulatedCluster(3, exchange_seconds=0.01):
            clf = net(self.Bounds, mode=mode, max_iter=3).fit(*rows)
        assert torch.isfinite(clf.module_.least).all()
        assert torch.isneginf(clf.module_.never).all()
        assert (clf.module_.least <= torch.from_numpy(rows[0].min(axis=0)) + 1).all()

    class Anew(Net):
        """Makes its buffer anew instead of changing it, and perhaps a longer one."""

        def __init__(self, grows=False):
            super().__init__()
            self.grows = grows
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, X):
            if self.training:
                self.mean = 0.5 * self.mean + 0.5 * X.mean(dim=0)
                if self.grows:
                    self.mean = torch.cat([self.mean, self.mean])
            return super().forward(X)

    @pytest.mark.parametrize("learners", [1, 3])
    def test_those_that_are_made_anew_are_kept(self, rows, learners):  # noqa: F811
        X, y = rows[0] * 0.1 + 2, rows[1]
        with SimulatedCluster(learners):
            clf = net(self.Anew, max_iter=3).fit(X, y)
        torch.testing.assert_close(clf.module_.mean, torch.from_numpy(X.mean(axis=0)), rtol=0.1, atol=0.05)

    def test_those_that_grow_are_refused(self, rows):  # noqa: F811
        with pytest.raises(ValueError, match=r"'mean' of Anew has changed its shape from \(4,\) to \(8,\)"):
            net(self.Anew, module__grows=True, batch_size=800, max_iter=1).fit(*rows)

    @pytest.mark.parametrize("mode", ["async", "ssp"])
    def test_variances_stay_positive(self, images, mode):  # noqa: F811
        """Differences of stale variances that shrink would add up to less than nothing."""
        X, y = images
        with SimulatedCluster(8, exchange_seconds=0.5, seconds_per_row=1e-3):
            clf = net(Images, mode=mode, collect=1, max_iter=6, batch_size=4, round_size=16)
            clf.fit((X * 0).astype(np.uint8), y)
        assert (clf.module_.norm.running_var >= 0).all()


class TestRows:
    def test_sparse_rows_are_gathered_by_their_dense_size(self, monkeypatch):
        monkeypatch.setattr(batches, "GATHERED_BYTES", 4 * 100 * 40)
        X = sp.random(400, 100, 0.01, format="csr", dtype=np.float32, random_state=0)
        part = Arrays().convert(X, np.arange(400) % 2)
        dense, gathered = batches.rows_at, []
        monkeypatch.setattr(
            batches, "rows_at", lambda X, chosen: gathered.append(len(chosen)) or dense(X, chosen)
        )
        list(batches.Batches(10, np.zeros(0)).over(part, np.arange(400), 0, 400))
        assert gathered == [40] * 10

    @pytest.mark.parametrize(("width", "expected"), [(8, 4096), (1 << 12, 256), (1 << 21, 1)])
    def test_wide_rows_are_predicted_in_short_blocks(self, width, expected):
        X = np.broadcast_to(np.float32(0), (10_000, width))
        assert batches.predicted_rows(X) == expected
        assert batches.predicted_rows(sp.csr_matrix((3, width), dtype=np.float32)) == expected

    def test_blocks_make_no_difference(self, rows, monkeypatch):  # noqa: F811
        clf = net(max_iter=1).fit(*rows)
        whole = clf.predict_proba(rows[0])
        monkeypatch.setattr(batches, "PREDICTED_BYTES", 16 * 7)
        np.testing.assert_allclose(clf.predict_proba(rows[0]), whole, rtol=1e-5)

    @pytest.mark.parametrize("make", KINDS)
    def test_a_constant_weight_changes_nothing(self, rows, make):  # noqa: F811
        plain, heavy = make().fit(*rows), make().fit(*rows, sample_weight=np.full(800, 1024.0))
        assert torch.equal(values(plain), values(heavy))
        assert plain.loss_curve_ == pytest.approx(heavy.loss_curve_)
        other = make().fit(*rows, sample_weight=np.linspace(0, 2, 800))
        assert not torch.equal(values(plain), values(other))
        doubled = make(class_weight={"a": 2.0, "b": 2.0, "c": 2.0}).fit(*rows)
        assert torch.equal(values(plain), values(doubled))

    @pytest.mark.parametrize("make", KINDS)
    def test_a_batch_larger_than_the_data_is_all_of_it(self, rows, make):  # noqa: F811
        with pytest.warns(UserWarning, match="batch_size=5000 is larger than the 800 rows"):
            large = make(batch_size=5000).fit(*rows)
        assert torch.equal(values(large), values(make(batch_size=800).fit(*rows)))

    def test_several_labels_or_targets_for_a_row_are_refused_with_what_to_use(self, rows):  # noqa: F811
        X, Y = rows[0], np.stack([rows[0][:, 0] > 0, rows[0][:, 1] > 0], axis=1).astype(int)
        with pytest.raises(ValueError, match=r"several labels for a row .*\.MultiOutputClassifier"):
            perceptron().fit(X, Y)
        with pytest.raises(ValueError, match=r"several targets for a row .*\.MultiOutputRegressor"):
            DistributedMLPRegressor().fit(X, Y)
        assert MultiOutputClassifier(perceptron()).fit(X, Y).predict(X).shape == (800, 2)


class TestModesOfTorch:
    """What the caller has told torch for all its work."""

    @pytest.fixture
    def wide(self):
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)

    @pytest.mark.parametrize("make", KINDS)
    def test_parameters_may_be_made_in_double_precision(self, rows, make, wide):  # noqa: F811
        assert make().fit(*rows).score(*rows) > 0.9

    def test_shared_parameters_stay_shared_in_single_precision(self, wide):
        module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
        module[1].weight = module[0].weight
        flat = FlatModule(module)
        assert flat.module[1].weight is flat.module[0].weight
        assert {value.dtype for value in flat.module.state_dict().values()} == {torch.float32, torch.int64}
        assert flat.state().dtype == np.float32
        assert flat.module[0].weight.grad.dtype == torch.float32

    def test_gradients_may_be_off(self, rows):  # noqa: F811
        with torch.no_grad():
            clf = net().fit(*rows)
        assert torch.equal(values(clf), values(net().fit(*rows)))

    def test_nothing_is_trained_in_inference_mode(self, rows):  # noqa: F811
        with torch.inference_mode(), pytest.raises(ValueError, match="Call fit outside of it"):
            net().fit(*rows)


class TestCriteria:
    def test_each_class_against_the_others(self, rows):  # noqa: F811
        clf = net(criterion=nn.BCEWithLogitsLoss, max_iter=20).fit(*rows)
        assert clf.score(*rows) > 0.9
        np.testing.assert_allclose(clf.predict_proba(rows[0]).sum(axis=1), 1, rtol=1e-5)
        # As torch has it, on targets of one class each.
        outputs, targets = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
        criterion = Criterion(nn.BCEWithLogitsLoss)
        expected = nn.functional.binary_cross_entropy_with_logits(
            outputs, nn.functional.one_hot(targets, 3).float(), reduction="none"
        ).mean(dim=1)
        torch.testing.assert_close(criterion.rows(criterion.make(), outputs, targets), expected)

    @pytest.mark.parametrize("criterion", [nn.BCELoss, nn.CTCLoss])
    def test_what_cannot_compare_outputs_with_classes_is_refused(self, rows, criterion):  # noqa: F811
        with pytest.raises(ValueError, match=r"criterion='\w+' cannot compare outputs of shape \(n, 3\)"):
            net(criterion=criterion).fit(*rows)

    def test_modules_of_several_outputs_are_refused(self, rows):  # noqa: F811
        class Two(Net):
            def forward(self, X):
                return super().forward(X), X

        with pytest.raises(ValueError, match="must return one tensor, it returned a tuple"):
            net(Two).fit(*rows)

    def test_what_a_criterion_holds_goes_where_the_outputs_are(self, rows, monkeypatch):  # noqa: F811
        weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        assert Criterion(weighted).make().weight.dtype == torch.float32
        assert Criterion(weighted).make(torch.device("meta")).weight.device.type == "meta"
        assert net(criterion=weighted, max_iter=15).fit(*rows).score(*rows) > 0.9

    def test_counts(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(600, 3)).astype(np.float32)
        y = rng.poisson(np.exp(X[:, 0] - 0.5 * X[:, 1])).astype(float)
        params = {"hidden_layer_sizes": (16,), "learning_rate_init": 0.01, "max_iter": 40, "random_state": 0}
        ours = DistributedMLPRegressor("poisson", **params, tol=None).fit(X, y)
        theirs = MLPRegressor("poisson", **params, n_iter_no_change=np.inf).fit(X, y)
        assert ours.out_activation_ == theirs.out_activation_ == "exp"
        assert (ours.predict(X) > 0).all()
        assert ours.score(X, y) > theirs.score(X, y) - 0.02
        assert ours.loss_ == pytest.approx(theirs.loss_, abs=0.05)
        stopped = DistributedMLPRegressor("poisson", **params, early_stopping=True).fit(
            X, y, X_val=X, y_val=y
        )
        assert stopped.best_validation_score_ == pytest.approx(stopped.score(X, y), abs=1e-6)
        with pytest.raises(ValueError, match="y must not be negative"):
            DistributedMLPRegressor("poisson", **params).fit(X, y - 1)


class TestSteps:
    @pytest.mark.parametrize("make", [lambda: model_of(params={"lr": 1e300}), None])
    def test_divergence_in_the_last_step_is_noticed(self, partition, make):  # noqa: F811
        model = make() if make else perceptron_of("relu", Criterion(nn.CrossEntropyLoss), 3, PLAIN)
        first = partition.part(0, 16)
        first = replace(first, X=first.X * np.float32(1e20))
        with pytest.raises(DivergedError, match="a parameter is not finite"):
            trained(model, first)

    def test_schedules_may_rise_above_the_first_step_size(self, rows):  # noqa: F811
        """Rates that rise are no reason to count late updates less."""
        scales = {}
        for name, factor in (("flat", 1.0), ("risen", 8.0)):
            with SimulatedCluster(4, exchange_seconds=0.05, seconds_per_row=1e-3):
                clf = net(
                    learning_rate=lambda t, factor=factor: factor, optimizer__lr=0.02 / factor, mode="async",
                    collect=1, max_iter=4,
                ).fit(*rows)  # fmt: skip
            scales[name] = [record.rate_scale for record in clf.history_.rounds]
        assert np.mean(scales["risen"]) == pytest.approx(np.mean(scales["flat"]), rel=0.1)

    def test_adaptive_steps_need_a_tolerance(self, rows):  # noqa: F811
        with pytest.raises(ValueError, match="Give tol a number"):
            net(learning_rate="adaptive").fit(*rows)
        with pytest.raises(ValueError, match="Give tol a number"):
            perceptron(solver="sgd", learning_rate="adaptive").fit(*rows)
        perceptron(solver="adam", learning_rate="adaptive", max_iter=1).fit(*rows)  # which does without
        perceptron(learning_rate="adaptive", early_stopping=True, max_iter=1).fit(*rows)
        net(learning_rate="adaptive", tol=1e-3, max_iter=1).fit(*rows)


PLAIN = {"lr": 1e38, "momentum": 0.0, "nesterov": False}


class TestDevices:
    def test_a_gpu_that_is_not_here_is_refused_to_train_and_not_needed_to_predict(
        self, rows, monkeypatch  # noqa: F811
    ):  # fmt: skip
        clf = net(max_iter=1).fit(*rows)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        for device in ("cuda", "cuda:1"):
            with pytest.raises(ValueError, match=f"device='{device}' is not here: this process sees 0 GPUs"):
                net(device=device).fit(*rows)
            clf._model = replace(clf._model, device=device)
            assert clf.predict(rows[0]).shape == (800,)
            assert clf._model.place_to_predict().type == "cpu"

    def test_the_second_of_one_is_not_here(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        model = replace(model_of(), device="cuda:1")
        with pytest.raises(ValueError, match="sees 1 GPUs"):
            model.place("0")
        assert replace(model, device="cuda:0").place("0").index == 0


class TestDropIns:
    """Perceptrons are used as scikit-learn's are."""

    def test_they_take_the_same_parameters(self):
        for ours, theirs in (
            (DistributedMLPClassifier, MLPClassifier),
            (DistributedMLPRegressor, MLPRegressor),
        ):
            params = theirs().get_params()
            assert ours(**params).get_params().items() >= params.items()
        assert DistributedMLPRegressor("poisson", (3,), "tanh").hidden_layer_sizes == (3,)

    def test_lbfgs_is_refused_with_the_reason(self, rows):  # noqa: F811
        with pytest.raises(ValueError, match="needs the loss of all rows"):
            perceptron(solver="lbfgs").fit(*rows)

    def test_no_change_may_last_for_ever(self, rows):  # noqa: F811
        clf = perceptron(n_iter_no_change=np.inf, tol=1e9, max_iter=12)
        assert clf.fit(*rows).n_iter_ == 12
        assert clf.set_params(n_iter_no_change=3).fit(*rows).n_iter_ < 12

    def test_weights_that_are_loaded_are_told(self, rows, tmp_path):  # noqa: F811
        first, second = perceptron(max_iter=1).fit(*rows), perceptron(max_iter=1, random_state=1).fit(*rows)
        first.save_weights(tmp_path / "weights")
        second.load_weights(tmp_path / "weights")
        for ours, theirs in zip(
            second.coefs_ + second.intercepts_, first.coefs_ + first.intercepts_, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)

    def test_a_warm_start_goes_on_with_the_curve(self, rows):  # noqa: F811
        clf = perceptron(max_iter=3, warm_start=True).fit(*rows)
        before = list(clf.loss_curve_)
        clf.fit(*rows)
        assert clf.loss_curve_[:3] == before
        assert len(clf.loss_curve_) == 6
        assert clf.n_iter_ == 3
        assert clf.best_loss_ == min(clf.loss_curve_)
        assert len(perceptron(max_iter=3).fit(*rows).fit(*rows).loss_curve_) == 3

    @pytest.mark.parametrize("n_jobs", [1, 2])
    @pytest.mark.parametrize("make", [
        lambda **k: perceptron(**k), lambda **k: perceptron(solver="sgd", **k),
        lambda n_jobs, **k: net(Dropping, **k),
        lambda **k: net(optimizer="sgd", optimizer__momentum=0.9, **k),
    ])  # fmt: skip
    def test_partial_fit_goes_on_with_the_optimizer(self, rows, make, n_jobs):  # noqa: F811
        settings = {"shuffle": False, "n_jobs": n_jobs, "mode": "sync", "round_size": 64, "batch_sizer": None}
        settings |= {"batch_size": 16, "random_state": 0, "aggregator": "uniform"}
        whole = make(max_iter=3, **settings).fit(*rows)
        parts = make(**settings)
        for number in range(3):
            parts.partial_fit(*rows, classes=["a", "b", "c"])
            if number == 1:
                parts = pickle.loads(pickle.dumps(parts))
        torch.testing.assert_close(values(parts), values(whole), rtol=1e-4, atol=1e-6)
        assert not parts._model.memories

    def test_an_optimizer_of_another_kind_begins_anew(self, rows):  # noqa: F811
        clf = net().partial_fit(*rows, classes=["a", "b", "c"])
        clf.set_params(optimizer="sgd").partial_fit(*rows)
        assert clf.n_iter_ == 1

    def test_digits_are_told_apart_as_well(self):
        X, y = load_digits(return_X_y=True)
        parts = train_test_split(X / 16, y, random_state=0)
        params = {"max_iter": 25, "random_state": 0}
        ours, theirs = DistributedMLPClassifier(**params), MLPClassifier(**params)
        scores = [clf.fit(parts[0], parts[2]).score(parts[1], parts[3]) for clf in (ours, theirs)]
        assert scores[0] > scores[1] - 0.01
