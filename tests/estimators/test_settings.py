import pickle

import cloudpickle
import pytest
from sklearn.base import clone

from skdist import AutoRate, DistributedSGDClassifier, LatencyBatchSizer, StalenessWindow


class LiveClient:
    """Like a client: shared, but neither copied nor pickled."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot copy a client")

    def __reduce__(self):
        raise TypeError("cannot pickle a client")


@pytest.mark.parametrize(
    ("parameter", "nested", "value", "kind"),
    [
        ("batch_sizer", "window", 8, LatencyBatchSizer),
        ("rate_adapter", "discount", 0.5, StalenessWindow),
        ("learning_rate", "scale", 2.0, AutoRate),
    ],
)
def test_a_nested_parameter_turns_auto_into_its_object(parameter, nested, value, kind):
    clf = DistributedSGDClassifier()
    assert clf.set_params(**{f"{parameter}__{nested}": value}) is clf
    assert isinstance(getattr(clf, parameter), kind)
    assert clf.get_params()[f"{parameter}__{nested}"] == value


def test_several_nested_parameters_at_once_and_later_ones_keep_the_first():
    clf = DistributedSGDClassifier()
    clf.set_params(batch_sizer__window=8, batch_sizer__rounding="ceil", alpha=0.5)
    clf.set_params(batch_sizer__threshold=0.1)
    sizer = clf.batch_sizer
    assert (sizer.window, sizer.rounding, sizer.threshold, clf.alpha) == (8, "ceil", 0.1, 0.5)


def test_auto_may_be_given_with_its_nested_parameters():
    clf = DistributedSGDClassifier(batch_sizer=LatencyBatchSizer(rounding="ceil"))
    clf.set_params(batch_sizer="auto", batch_sizer__window=9)
    assert (clf.batch_sizer.window, clf.batch_sizer.rounding) == (9, "floor")


def test_what_is_off_has_no_nested_parameters():
    with pytest.raises((ValueError, AttributeError)):
        DistributedSGDClassifier(batch_sizer=None).set_params(batch_sizer__window=8)


@pytest.mark.parametrize("name", ["batch_sizer__size", "windows", "alpha__x"])
def test_unknown_parameters_are_refused(name):
    with pytest.raises((ValueError, AttributeError)):
        DistributedSGDClassifier().set_params(**{name: 1})


def test_get_params_gives_what_was_passed():
    sizer = LatencyBatchSizer(window=3)
    clf = DistributedSGDClassifier("log_loss", batch_sizer=sizer, alpha=0.1)
    params = clf.get_params(deep=False)
    assert params["batch_sizer"] is sizer
    assert (params["loss"], params["alpha"], params["rate_adapter"]) == ("log_loss", 0.1, "auto")


def test_clones_copy_the_settings_and_share_the_client():
    client = LiveClient()
    clf = DistributedSGDClassifier(client=client, batch_sizer=LatencyBatchSizer(window=3), alpha=0.1)
    clf.coef_ = "fitted"
    copy = clone(clf)
    assert copy.client is client
    assert copy.batch_sizer is not clf.batch_sizer
    assert copy.batch_sizer.window == 3
    assert copy.alpha == 0.1
    assert not hasattr(copy, "coef_")


def test_clones_keep_metadata_requests(enable_routing):
    clf = DistributedSGDClassifier().set_fit_request(sample_weight=True)
    assert clone(clf).get_metadata_routing().fit.requests["sample_weight"] is True


@pytest.fixture
def enable_routing():
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_pickles_leave_the_client_out(dumps):
    clf = DistributedSGDClassifier(client=LiveClient(), alpha=0.1)
    copy = pickle.loads(dumps(clf))
    assert copy.client is None
    assert copy.alpha == 0.1
    assert isinstance(clf.client, LiveClient)


def test_repr_shows_what_was_changed():
    clf = DistributedSGDClassifier("log_loss", batch_sizer=LatencyBatchSizer(window=3))
    text = " ".join(repr(clf).split())
    assert "batch_sizer=LatencyBatchSizer(window=3)" in text
    assert "loss='log_loss'" in text
    assert "alpha" not in text
