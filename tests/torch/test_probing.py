"""What does not fit together is found out before anything is trained, and says what to do."""

from __future__ import annotations

from functools import partial

import dask.array as da
import numpy as np
import pytest
import torch
from torch import nn

from skdist.models.torch.losses import Criterion
from tests.torch.modules import Images, Net
from tests.torch.test_estimators import images, net, perceptron, rows  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Lazy(nn.Sequential):
    """Learns the widths of its layers from its rows."""

    def __init__(self):
        super().__init__(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))


class Sharp(nn.CrossEntropyLoss):
    """A criterion of one's own."""


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"input_dtype": "floaty"}, "input_dtype='floaty' is no dtype of torch"),
        ({"input_dtype": "nn"}, "input_dtype='nn' is no dtype of torch"),
        ({"device": "gpu"}, "device='gpu' is not one of 'auto', 'cpu', 'cuda'"),
        ({"device": "meta"}, "device='meta' is not one of"),
        ({"criterion__reduction": "sum"}, "criterion__reduction cannot be chosen"),
        ({"criterion": partial(nn.CrossEntropyLoss)}, "must return a tensor of losses, it returned a Cross"),
        ({"optimizer__foo": 1}, r"optimizer=Adam cannot be made with .*'foo'.*optimizer__"),
        ({"optimizer__lr": -1.0}, "optimizer=Adam cannot be made with .*Invalid learning rate"),
    ],
)
def test_parameters_are_refused(rows, params, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        net(**params).fit(*rows)


@pytest.mark.parametrize(
    "criterion", [nn.CrossEntropyLoss(), partial(nn.functional.cross_entropy, reduction="none")]
)
def test_parameters_of_a_criterion_that_is_made_already_are_not_ignored(rows, criterion):  # noqa: F811
    with pytest.raises(ValueError, match=r"criterion is no class, so \['label_smoothing'\] cannot be given"):
        net(criterion=criterion, criterion__label_smoothing=0.1).fit(*rows)


def test_a_module_that_is_frozen_as_a_whole(rows):  # noqa: F811
    with pytest.raises(ValueError, match="no parameter to train: at least one must have requires_grad"):
        net(Net().requires_grad_(False)).fit(*rows)


def test_optimizers_that_are_particular_about_parameters(rows):  # noqa: F811
    """Muon takes matrices alone."""
    matrices = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))
    assert net(matrices, optimizer=torch.optim.Muon).fit(*rows).score(*rows) > 0.8
    with pytest.raises(ValueError, match="optimizer=Muon cannot be made"):
        net(optimizer=torch.optim.Muon).fit(*rows)


def test_a_module_that_is_none(rows):  # noqa: F811
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module or its class, got None"):
        net(None).fit(*rows)


def test_lazy_modules_learn_their_shapes_from_the_rows(rows):  # noqa: F811
    first, second = net(Lazy).fit(*rows), net(Lazy).fit(*rows)
    assert first.module_[0].in_features == 4
    assert first.score(*rows) > 0.9
    assert torch.equal(first.module_[3].weight, second.module_[3].weight)
    instance = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))
    assert net(instance).fit(*rows).score(*rows) > 0.9
    assert isinstance(instance[0], nn.LazyLinear)


def test_lazy_modules_that_do_not_fit_are_refused(images):  # noqa: F811
    with pytest.raises(ValueError, match=r"cannot take rows of shape \(1, 6, 6\)"):
        net(Lazy).fit(*images)


def test_a_criterion_of_ones_own_means_what_the_one_does_that_it_derives_from(rows):  # noqa: F811
    own, plain = net(criterion=Sharp).fit(*rows), net().fit(*rows)
    np.testing.assert_array_equal(own.predict_proba(rows[0]), plain.predict_proba(rows[0]))
    assert Criterion(Sharp()).link == "softmax"
    assert Criterion(nn.MultiMarginLoss).link is None


@pytest.mark.parametrize("make", [net, perceptron])
def test_blocks_without_rows_are_predicted(rows, make):  # noqa: F811
    X, y = rows
    clf, lazy = make().fit(X, y), da.from_array(X, chunks=(200, -1))
    none = lazy[lazy[:, 0] > np.inf]
    for method, width in (("predict", ()), ("predict_proba", (3,))):
        found = getattr(clf, method)(da.concatenate([lazy, none])).compute(scheduler="sync")
        np.testing.assert_array_equal(found, getattr(clf, method)(X))
        assert getattr(clf, method)(none).compute(scheduler="sync").shape == (0, *width)


def test_images_without_rows_are_predicted(images):  # noqa: F811
    X, y = images
    lazy = da.from_array(X, chunks=(100, 1, 6, 6))
    none = lazy[lazy[:, 0, 0, 0] > 255]
    assert net(Images, max_iter=1).fit(X, y).predict_proba(none).compute(scheduler="sync").shape == (0, 2)


def test_a_file_that_holds_no_weights(rows, tmp_path):  # noqa: F811
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not a header of safetensors")
    with pytest.raises(ValueError, match="does not hold the weights of this module"):
        net(max_iter=1).fit(*rows).load_weights(path)
