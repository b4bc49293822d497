"""The steps of a learner against loops of plain torch, and the perceptron's against autograd."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier
from torch import nn

from skdist import DistributedMLPClassifier
from skdist.control.schedules import INVERSE_POWER, Schedule
from skdist.exceptions import DivergedError
from skdist.intake import Arrays
from skdist.models.torch import trainer as trainers
from skdist.models.torch.flat import FlatModule
from skdist.models.torch.losses import Criterion
from skdist.models.torch.mlp import MLPModel, MLPTrainer, half_squared_error, perceptron
from skdist.models.torch.model import StepFactor, TorchModel
from skdist.models.torch.randomness import seeded
from skdist.models.torch.trainer import TorchTrainer
from tests.torch.modules import Dropping, Net

SGD, ADAM = {"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8}


def model_of(module=None, optimizer=torch.optim.SGD, params=SGD, **others):
    module = module if module is not None else seeded(Net, 0)
    criterion = others.pop("criterion", Criterion(nn.CrossEntropyLoss))
    return TorchModel(module, criterion, optimizer, params, 3, 16, device="cpu", shuffle=False, **others)


@pytest.fixture
def partition():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 4)).astype(np.float32)
    return Arrays().convert(X, rng.integers(0, 3, 100), rng.uniform(0.5, 2, 100))


def trained(model, partition, cuts=(), trainer=None, t=0.0, **others):
    """Return the state after a pass in several visits, each with an array of its own, and the loss."""
    trainer = trainer if trainer is not None else model.trainer("0")
    order, state, loss = model.order(partition, 0, 0), FlatModule(model.module).state(), 0.0
    edges = [0, *cuts, len(order)]
    for start, stop in itertools.pairwise(edges):
        state = state.copy()
        loss += trainer.train(state, partition, order, start, stop, t, **others)
        t += model.steps(stop - start)
    return state, loss


def plain_loop(model, partition, clip=None):
    """Return the same in plain torch."""
    module = FlatModule(model.module).module
    optimizer, total = model.optimizer(module.parameters(), **model.optimizer_params), 0.0
    X, y = torch.from_numpy(np.array(partition.X)), torch.from_numpy(partition.targets.astype(np.int64))
    weights = torch.from_numpy(np.array(partition.weights))
    for start in range(0, len(X), model.batch_size):
        rows = slice(start, start + model.batch_size)
        losses = nn.functional.cross_entropy(module(X[rows]), y[rows], reduction="none")
        loss = losses @ weights[rows]
        optimizer.zero_grad()
        (loss / model.batch_size).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        total += loss.item()
    return FlatModule(module).state(), total


@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        (torch.optim.SGD, SGD),
        (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
        (torch.optim.Adam, ADAM),
        (torch.optim.AdamW, {"lr": 0.01}),
        (torch.optim.ASGD, {"lr": 0.1}),
    ],
)
def test_steps_are_those_of_torch(partition, optimizer, params):
    model = model_of(optimizer=optimizer, params=params)
    state, loss = trained(model, partition)
    expected, total = plain_loop(model, partition)
    np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(total, rel=1e-5)
    assert not np.allclose(state, FlatModule(model.module).state(), atol=1e-3)


@pytest.mark.parametrize(("optimizer", "params"), [(torch.optim.SGD, SGD), (torch.optim.Adam, ADAM)])
def test_the_state_of_the_optimizer_outlives_visits(partition, optimizer, params):
    model = model_of(optimizer=optimizer, params=params)
    whole, _ = trained(model, partition)
    cut, _ = trained(model, partition, cuts=[32, 80])
    np.testing.assert_array_equal(whole, cut)
    fresh = [trained(model, partition.part(a, b))[0] for a, b in ((0, 32), (32, 100))]
    assert not np.allclose(whole, fresh[1])


def test_steps_elsewhere_are_those_of_shared_memory(partition, monkeypatch):
    """As on a GPU, where the state is copied before each call and after it."""
    expected, _ = trained(model_of(), partition, cuts=[32])
    monkeypatch.setattr(trainers, "FlatModule", partial(FlatModule, shared=False))
    np.testing.assert_array_equal(trained(model_of(), partition, cuts=[32])[0], expected)


def test_learners_are_dealt_out_over_the_devices_that_a_worker_sees(monkeypatch):
    automatic = replace(model_of(), device="auto")
    assert automatic.place("0") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    places = [automatic.place(f"tcp://host:1/{number}").index for number in (1, 2, 3)]
    assert places == [1, 0, 1]
    assert model_of().place("0") == torch.device("cpu")


def test_gradients_are_clipped(partition):
    model = model_of(clip_norm=0.05)
    expected, _ = plain_loop(model, partition, clip=0.05)
    np.testing.assert_allclose(trained(model, partition)[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", [Schedule(INVERSE_POWER, 1.0, 1.0), StepFactor(lambda t: 1 / (1 + t))])
def test_step_sizes_follow_the_schedule(partition, schedule):
    params = {"lr": 0.1}
    begun = trained(model_of(params=params, schedule=schedule), partition.part(0, 16), t=9.0)[0]
    tenth = trained(model_of(params={"lr": 0.01}), partition.part(0, 16))[0]
    np.testing.assert_allclose(begun, tenth, rtol=1e-6)
    halved = trained(model_of(params=params), partition.part(0, 16), rate=0.1)[0]
    np.testing.assert_allclose(halved, tenth, rtol=1e-6)


def test_a_schedule_that_ends_is_refused(partition):
    with pytest.raises(ValueError, match="must be above 0"):
        trained(model_of(schedule=StepFactor(lambda t: 0.0)), partition)


def test_class_weights_are_sample_weights(partition):
    factors = np.array([1.0, 2.0, 0.5])
    weighted = replace(partition, weights=(partition.weights * factors[partition.targets]).astype(np.float32))
    state, loss = trained(model_of(class_weights=factors), partition)
    expected, total = trained(model_of(), weighted)
    np.testing.assert_allclose(state, expected, rtol=1e-5, atol=1e-7)
    assert loss == pytest.approx(total)


def test_dropout_repeats_and_leaves_the_generator_alone(partition):
    model = model_of(seeded(Dropping, 0))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, _ = trained(model, partition)
    assert torch.rand(1) == expected
    again, _ = trained(model, partition, cuts=[48])
    np.testing.assert_array_equal(first, again)
    other, _ = trained(model, partition, trainer=model.trainer("1"))
    assert not np.array_equal(first, other)


def test_noise_is_that_of_the_gradients(partition):
    model = model_of(params={"lr": 1e-12})
    noise = model.new_noise()
    trained(model, partition, noise=noise)
    gradients = []
    for start in range(0, 100, 16):
        flat = FlatModule(model.module)
        rows = partition.part(start, min(start + 16, 100))
        losses = nn.functional.cross_entropy(
            flat.module(torch.from_numpy(np.array(rows.X))), torch.from_numpy(rows.targets.astype(np.int64)),
            reduction="none",
        )  # fmt: skip
        (losses @ torch.from_numpy(np.array(rows.weights)) / 16).backward()
        gradients.append(flat.gradients.numpy().copy())
    expected = np.sqrt(np.mean(np.sum((gradients - np.mean(gradients, axis=0)) ** 2, axis=1)))
    assert noise.volatility == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("trainer", [TorchTrainer, MLPTrainer])
def test_divergence_is_noticed(partition, trainer):
    model = perceptron_of("relu", Criterion(nn.CrossEntropyLoss), 3, {**SGD, "lr": 1e30})
    with pytest.raises(DivergedError, match="Lower the step size"):
        trained(model, partition, trainer=trainer(model, "0"))


def test_a_criterion_must_give_a_loss_for_each_row(partition):
    with pytest.raises(ValueError, match="a loss for each row"):
        trained(model_of(criterion=Criterion(nn.functional.cross_entropy)), partition)


def test_the_loss_of_predictions_is_that_of_training(partition):
    model = model_of(params={"lr": 1e-12}, class_weights=np.array([1.0, 2.0, 0.5]))
    state, loss = trained(model, partition)
    z = model.predictor(state)(partition.X)
    assert z.dtype == np.float64
    assert model.loss_sum(z, partition) == pytest.approx(loss, rel=1e-5)


def perceptron_of(activation, criterion, outputs, params, optimizer=torch.optim.SGD, l2=0.0):
    module = seeded(lambda: perceptron([4, 8, 6, outputs], activation), 0)
    return MLPModel(
        module, criterion, optimizer, params, outputs, 16, l2=l2, device="cpu", shuffle=False,
        activation=activation,
    )  # fmt: skip


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize(
    ("kind", "outputs"), [(nn.CrossEntropyLoss, 3), (nn.BCEWithLogitsLoss, 1), (half_squared_error, 1)]
)
@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        (torch.optim.SGD, SGD),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.5, "nesterov": False}),
        (torch.optim.Adam, ADAM),
    ],
)
def test_perceptrons_step_as_autograd_does(activation, kind, outputs, optimizer, params):
    regression = kind is half_squared_error
    rng = np.random.default_rng(0)
    X, weights = rng.standard_normal((100, 4)).astype(np.float32), rng.uniform(0.5, 2, 100)
    y = rng.standard_normal(100) if regression else rng.integers(0, max(outputs, 2), 100)
    partition = Arrays(regression).convert(X, y, weights)
    model = perceptron_of(activation, Criterion(kind, regression=regression), outputs, params, optimizer, 0.3)
    assert isinstance(model.trainer("0"), MLPTrainer)
    state, loss = trained(model, partition, cuts=[48])
    expected, total = trained(model, partition, trainer=TorchTrainer(model, "0"))
    np.testing.assert_allclose(state, expected, rtol=2e-3, atol=2e-5)
    assert loss == pytest.approx(total, rel=1e-4)
    assert not np.allclose(state, FlatModule(model.module).state(), atol=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_perceptrons_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((64, 4)).astype(np.float32), rng.integers(0, 3, 64)
    theirs = MLPClassifier((8,), solver="sgd", alpha=0.5, batch_size=16, shuffle=False, max_iter=1)
    theirs.set_params(learning_rate_init=0.1, warm_start=True, random_state=0).fit(X, y)
    module = perceptron([4, 8, 3], "relu")
    theirs.coefs_ = [value.detach().numpy().T.copy() for value in list(module.parameters())[::2]]
    theirs.intercepts_ = [value.detach().numpy().copy() for value in list(module.parameters())[1::2]]
    theirs.fit(X, y)  # with a new solver, from the weights of the module
    criterion, state = Criterion(nn.CrossEntropyLoss), FlatModule(module).state()
    model = MLPModel(module, criterion, torch.optim.SGD, SGD, 3, 16, l2=0.5, device="cpu")
    model.trainer("0").train(state, Arrays().convert(X, y), np.arange(64, dtype=np.int32), 0, 64, 0.0)
    layers = zip(theirs.coefs_, theirs.intercepts_, strict=True)
    expected = np.concatenate([part.T.ravel() for layer in layers for part in layer])
    np.testing.assert_allclose(state[0], expected, rtol=1e-3, atol=1e-5)


def test_a_single_row_that_is_left_over_is_scaled_by_the_running_statistics(partition):
    """It has no variance, and BatchNorm refuses it."""
    model = replace(model_of(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))), batch_size=33)
    before, _ = trained(model, partition.part(0, 99))
    after, _ = trained(model, partition)
    assert np.isfinite(after).all()
    assert not np.array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1:], before[1:])  # statistics
    trainer = model.trainer("0")
    trained(model, partition, trainer=trainer)
    assert all(each.training for each in trainer.flat.module.modules())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        trained(replace(model, batch_size=1), partition)


@pytest.mark.parametrize("inherited", [False, True])
def test_tiny_numbers_are_zero_while_training_and_as_before_afterwards(partition, monkeypatch, inherited):
    def tiny():
        return float(torch.tensor(1e-39) * 1)

    seen, step = [], MLPTrainer._step
    monkeypatch.setattr(MLPTrainer, "_step", lambda self, *args: (seen.append(tiny()), step(self, *args)))
    torch.set_flush_denormal(inherited)
    try:
        before = tiny()
        assert (before == 0) is inherited
        trained(perceptron_of("relu", Criterion(nn.CrossEntropyLoss), 3, SGD), partition)
        assert set(seen) == {0.0}
        assert tiny() == before
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("writeable", [False, True])
def test_a_learner_alone_trains_the_same_on_threads_of_torch(writeable):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4_000, 200)).astype(np.float32)
    y = X[:, :3].sum(axis=1) > 0
    X.flags.writeable = writeable
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        clf = DistributedMLPClassifier((150,), max_iter=3, tol=None, random_state=0).fit(X, y)
        assert torch.get_num_threads() == threads
        found.append(clf)
    for one, two in zip(found[0].coefs_, found[1].coefs_, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("hidden", "n_jobs", "shared"), [(150, None, True), (150, 2, False), (3, None, False)]
)
def test_threads_of_torch_are_for_large_steps_of_a_learner_alone(monkeypatch, hidden, n_jobs, shared):
    used, gradient = [], MLPTrainer._gradient

    def watched(self, *args):
        used.append(torch.get_num_threads())
        return gradient(self, *args)

    monkeypatch.setattr(MLPTrainer, "_gradient", watched)
    X = np.random.default_rng(0).standard_normal((1_000, 200)).astype(np.float32)
    torch.set_num_threads(2)
    DistributedMLPClassifier((hidden,), max_iter=1, tol=None, n_jobs=n_jobs).fit(X, X[:, 0] > 0)
    assert set(used) == {2 if shared else 1}
