"""Torch's generator belongs to the process: a fit must neither change it nor depend on who else draws."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from skdist.models.torch import randomness
from skdist.models.torch.randomness import Lender, RandomNumbers, seeded
from tests.torch.modules import Dropping, Net
from tests.torch.test_estimators import net, rows  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def noisy(batch):
    """Add noise to rows."""
    return batch + 0.01 * torch.randn(batch.shape)


@pytest.mark.parametrize(
    "params",
    [
        {"n_jobs": 1},
        {"n_jobs": 4, "max_iter": 20},
        {"transform": noisy},
        {"transform": noisy, "early_stopping": True},
        {"transform": noisy, "early_stopping": True, "n_jobs": 2},
    ],
)
def test_a_fit_leaves_the_generator_alone(rows, params):  # noqa: F811
    before = torch.get_rng_state()
    net(Dropping, **params).fit(*rows)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_random_transform_repeats(rows):  # noqa: F811
    first, second = (net(Dropping, transform=noisy).fit(*rows).module_ for _ in range(2))
    assert torch.equal(first.first.weight, second.first.weight)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def lent(generator, monkeypatch):
    lender = Lender(generator)
    monkeypatch.setattr(randomness, "lender", lambda device: lender)
    return lender


def test_those_who_train_at_the_same_time_leave_it_as_it_was(generator, lent):
    before = generator.get_state()
    first, second = (RandomNumbers(torch.device("cpu"), seed) for seed in (1, 2))
    begun = second.states[0]
    one, other = first.drawn(), second.drawn()
    one.__enter__()
    drawn = torch.rand(3, generator=generator)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(1)))
    other.__enter__()
    one.__exit__(None, None, None)
    torch.rand(3, generator=generator)
    other.__exit__(None, None, None)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(second.states[0], begun)  # it drew from those of the first one


def test_initial_parameters_do_not_depend_on_who_trains(lent, generator):
    """They are drawn while nobody else draws."""
    numbers, made = RandomNumbers(torch.device("cpu"), 1), []

    def make():
        made.append(seeded(lambda: torch.rand(4, generator=generator), 5))

    maker = threading.Thread(target=make)
    with numbers.drawn():
        maker.start()
        maker.join(0.1)
        assert not made
    maker.join(10)
    assert torch.equal(made[0], torch.rand(4, generator=torch.Generator().manual_seed(5)))


def test_fits_beside_each_other_give_what_each_gives_alone(rows):  # noqa: F811
    X, y = rows[0][:100], rows[1][:100]
    expected, found = net(Net, max_iter=1).fit(X, y).predict_proba(X), []

    def fits():
        for _ in range(15):
            found.append(np.array_equal(net(Net, max_iter=1).fit(X, y).predict_proba(X), expected))

    threads = [threading.Thread(target=fits) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 60
