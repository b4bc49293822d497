from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from skdist.models.torch.flat import FlatModule
from skdist.models.torch.randomness import seeded
from tests.torch.modules import Images, Net


def test_parameters_share_the_memory_of_the_state():
    flat = FlatModule(Net())
    state = flat.state()
    flat.bind(state)
    state[0] = np.arange(flat.n_parameters)
    first = flat.module.first.weight
    np.testing.assert_array_equal(first.detach().numpy().ravel(), np.arange(32))
    with torch.no_grad():
        first.mul_(2)
    np.testing.assert_array_equal(state[0, :32], 2 * np.arange(32))
    assert state.dtype == np.float32


def test_gradients_are_views_of_one_vector():
    flat = FlatModule(Net())
    flat.module(torch.ones(2, 4)).sum().backward()
    expected = torch.cat([value.grad.reshape(-1) for value in flat.module.parameters()])
    assert torch.equal(flat.gradients, expected)
    assert flat.gradients.abs().sum() > 0


def test_a_new_state_takes_the_place_of_the_old_one():
    flat = FlatModule(Net())
    old, new = flat.state(), flat.state() + 1
    flat.bind(old)
    flat.bind(new)
    with torch.no_grad():
        flat.module.second.bias.fill_(7)
    np.testing.assert_array_equal(new[0, -3:], 7)
    assert not (old[0, -3:] == 7).any()


def test_buffers_follow_in_a_member_of_their_own_and_counters_stay():
    flat = FlatModule(Images())
    state = flat.state()
    assert state.shape == (2, flat.n_parameters)
    np.testing.assert_array_equal(state[1], [*[0.0] * 4, *[1.0] * 4, *[0.0] * (flat.n_parameters - 8)])
    flat.bind(state)
    flat.module.train()
    flat.module(torch.randn(8, 1, 5, 5))
    np.testing.assert_array_equal(flat.module.norm.running_mean.numpy(), state[1, :4])
    assert (state[1, :8] != [*[0.0] * 4, *[1.0] * 4]).all()
    assert flat.module.norm.num_batches_tracked == 1
    again = FlatModule(flat.module)
    np.testing.assert_array_equal(again.state(), state)


def test_frozen_and_tied_parameters_do_not_travel_twice():
    net = Net(4, 4, 4)
    net.second.weight = net.first.weight
    assert FlatModule(net).n_parameters == 16 + 4 + 4
    net.first.bias.requires_grad_(False)
    flat = FlatModule(net)
    assert flat.n_parameters == 16 + 4
    before = flat.module.first.bias.clone()
    flat.bind(flat.state() + 1)
    assert torch.equal(flat.module.first.bias, before)
    assert flat.module.first.weight is flat.module.second.weight


def test_the_module_that_is_given_stays_as_it_is():
    net = Net().double()
    before = net.first.weight.clone()
    flat = FlatModule(net)
    flat.bind(flat.state() + 1)
    assert torch.equal(net.first.weight, before)
    assert net.first.weight.dtype == torch.float64
    assert flat.module.first.weight.dtype == torch.float32


def test_nothing_to_train_is_refused():
    net = Net()
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        FlatModule(net)


def test_seeded_modules_are_alike_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = seeded(Net, 1), seeded(Net, 1), seeded(Net, 2)
    assert torch.rand(1) == expected
    assert torch.equal(first.first.weight, second.first.weight)
    assert not torch.equal(first.first.weight, other.first.weight)
    assert isinstance(first, nn.Module)


def test_where_memory_is_not_shared_the_state_is_copied_there_and_back():
    flat = FlatModule(Images(), shared=False)
    state = flat.state()
    state[0] += 1
    flat.bind(state)
    np.testing.assert_array_equal(flat.module.out.bias.detach().numpy(), state[0, -2:])
    before = state.copy()
    with torch.no_grad():
        flat.module.out.bias.fill_(7)
        flat.module.norm.running_mean.fill_(3)
    np.testing.assert_array_equal(state, before)
    flat.release()
    np.testing.assert_array_equal(state[0, -2:], 7)
    np.testing.assert_array_equal(state[1, :4], 3)
