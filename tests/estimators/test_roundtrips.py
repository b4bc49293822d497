"""Estimators that had a client come back without a cluster, and go on; so do copies, clones and exports."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import cloudpickle
import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client, LocalCluster
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import AutoRate, LatencyBatchSizer, StalenessWindow
from tests.estimators.kinds import CLASSIFIERS, ESTIMATORS, make

rng = np.random.default_rng(0)
X = rng.standard_normal((600, 4)) * [1, 10, 0.1, 1] + 3
SCORES = X @ [1, -0.1, 5, 0]
Y = (np.median(SCORES) < SCORES).astype(int)

kinds = pytest.mark.parametrize("kind", ESTIMATORS)


@pytest.fixture(scope="module")
def fits():
    """Estimators that were trained on a cluster which is gone."""
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, Client(cluster, set_as_default=False) as client:
        settings = {"client": client, "batch_sizer": LatencyBatchSizer(window=7), "learning_rate": AutoRate()}
        found = {kind: make(kind, **settings).fit(X, Y) for kind in ESTIMATORS}
    assert client.status == "closed"
    return found


@pytest.fixture(params=ESTIMATORS, ids=lambda kind: kind.__name__)
def fitted(request, fits):
    return fits[request.param]


def through_joblib(estimator, path):
    joblib.dump(estimator, path / "estimator.joblib")
    return joblib.load(path / "estimator.joblib")


def through_skops(estimator, path):
    sio = pytest.importorskip("skops.io")
    sio.dump(estimator, path / "estimator.skops")
    types = sio.get_untrusted_types(file=path / "estimator.skops")
    assert {name.partition(".")[0] for name in types} == {"skdist"}
    return sio.load(path / "estimator.skops", trusted=types)


@pytest.mark.parametrize(
    "through",
    [
        lambda estimator, _: pickle.loads(pickle.dumps(estimator)),
        lambda estimator, _: cloudpickle.loads(cloudpickle.dumps(estimator)),
        through_joblib,
        through_skops,
    ],
    ids=["pickle", "cloudpickle", "joblib", "skops"],
)
def test_what_was_stored_predicts_and_goes_on(fitted, through, tmp_path):
    back = through(fitted, tmp_path)
    assert back.client is None
    assert fitted.client is not None
    assert back.batch_sizer.window == 7
    assert len(back.history_.rounds) == len(fitted.history_.rounds)
    np.testing.assert_array_equal(back.predict(X), fitted.predict(X))
    other = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.partial_fit(X, Y).coef_, other.partial_fit(X, Y).coef_)
    assert not np.array_equal(back.coef_, fitted.coef_)


def test_another_process_needs_no_cluster(fitted, tmp_path):
    joblib.dump(make_pipeline(StandardScaler().fit(X), fitted), tmp_path / "pipeline.joblib")
    code = (
        "import joblib, json, sys, numpy as np\n"
        f"X = np.array({X[:20].tolist()})\n"
        f"print(json.dumps(joblib.load({str(tmp_path / 'pipeline.joblib')!r}).predict(X).tolist()))\n"
        "assert 'distributed' not in sys.modules\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    expected = fitted.predict(StandardScaler().fit(X).transform(X[:20]))
    np.testing.assert_allclose(json.loads(found.stdout), expected)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_in_this_process_share_the_client(fitted, copied):
    twin = copied(fitted)
    assert twin.client is fitted.client
    assert (twin.coef_ is fitted.coef_) == (copied is copy.copy)
    np.testing.assert_array_equal(twin.predict(X), fitted.predict(X))


def test_clones_have_the_settings_and_nothing_fitted(fitted):
    twin = clone(fitted)
    assert twin.client is fitted.client
    assert twin.get_params()["batch_sizer__window"] == 7
    assert twin.batch_sizer is not fitted.batch_sizer
    with pytest.raises(NotFittedError):
        twin.predict(X)


@kinds
def test_nested_settings_are_set_and_found(kind):
    estimator = kind().set_params(batch_sizer__threshold=0.5, rate_adapter=StalenessWindow(window=3))
    found = estimator.get_params()
    assert (found["batch_sizer__threshold"], found["rate_adapter__window"]) == (0.5, 3)
    shallow = estimator.get_params(deep=False)
    assert "batch_sizer__threshold" not in shallow
    assert kind(**shallow).get_params()["batch_sizer__threshold"] == 0.5


def test_text_and_html_name_what_was_set(fitted):
    for text in (repr(fitted), repr(make_pipeline(fitted))):
        assert "LatencyBatchSizer(window=7)" in text.replace("\n", "").replace("  ", "")
        assert "<Client: No scheduler connected>" in " ".join(text.split())
    for html in (fitted._repr_html_(), make_pipeline(fitted)._repr_html_()):
        assert type(fitted).__name__ in html
        assert "LatencyBatchSizer" in html


@kinds
@pytest.mark.parametrize("rows", [X, sp.csr_array(X)], ids=["dense", "sparse"])
def test_sparse_coefficients_predict_the_same_and_train_on(kind, rows):
    import dask.array as da

    fitted = make(kind).fit(X, Y)
    dense = fitted.coef_.copy()
    expected = fitted.predict(rows)
    assert fitted.sparsify() is fitted
    assert sp.issparse(fitted.coef_)
    np.testing.assert_allclose(fitted.predict(rows), expected, atol=1e-10)
    chunks = da.from_array(X, chunks=(200, -1))
    if rows is not X:
        chunks = chunks.map_blocks(sp.csr_array)
    np.testing.assert_allclose(fitted.predict(chunks).compute(scheduler="sync"), expected, atol=1e-10)
    twin = pickle.loads(pickle.dumps(fitted))
    assert fitted.densify() is fitted
    np.testing.assert_array_equal(fitted.coef_, dense)
    np.testing.assert_array_equal(twin.partial_fit(X, Y).coef_, fitted.partial_fit(X, Y).coef_)
    for method in ("sparsify", "densify", "to_sklearn"):
        with pytest.raises(NotFittedError):
            getattr(kind(), method)()


@kinds
@pytest.mark.parametrize("average", [False, True, 100])
@pytest.mark.parametrize("rate", ["auto", "invscaling"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exports_predict_the_same_and_are_fitted_on(kind, average, rate, dtype):
    rows = X.astype(dtype) if rate == "auto" else StandardScaler().fit_transform(X).astype(dtype)
    fitted = make(kind, learning_rate=rate, average=average, eta0=0.1, alpha=1e-3, max_iter=20).fit(rows, Y)
    export = fitted.to_sklearn()
    assert type(export).__module__.startswith("sklearn.")
    assert (export.alpha, export.loss, export.random_state) == (1e-3, fitted.loss, 0)
    assert export.t_ == 1 + 20 * len(Y)
    assert export.coef_.dtype == dtype
    np.testing.assert_array_equal(export.predict(rows), fitted.predict(rows))
    before, coef = fitted.score(rows, Y), fitted.coef_.copy()
    for _ in range(3):
        export.partial_fit(rows, Y)
    assert export.score(rows, Y) > before - 0.03
    assert not np.array_equal(export.coef_, coef)
    np.testing.assert_array_equal(fitted.coef_, coef)


@kinds
def test_exports_train_on_although_features_are_not_standardised(kind):
    """scikit-learn's own rates would throw the solution away here."""
    rows = X * 1e3
    fitted = make(kind, max_iter=20).fit(rows, Y)
    export = fitted.to_sklearn()
    for _ in range(3):
        export.partial_fit(rows, Y)
    assert export.score(rows, Y) > fitted.score(rows, Y) - 0.03
    with np.errstate(all="ignore"):
        thrown = fitted.to_sklearn().set_params(learning_rate="optimal").partial_fit(rows, Y)
    assert np.linalg.norm(thrown.coef_) > 10 * np.linalg.norm(export.coef_)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_exports_of_several_classes_with_names(kind):
    import pandas as pd

    frame, labels = pd.DataFrame(X, columns=list("abcd")), np.array(["x", "y", "z"])[Y + (X[:, 0] > 4)]
    fitted = make(kind).fit(frame, labels)
    export = fitted.sparsify().to_sklearn()
    assert is_classifier(export)
    np.testing.assert_allclose(export.predict_proba(frame), fitted.predict_proba(frame))
    np.testing.assert_array_equal(export.classes_, fitted.classes_)
    assert export.partial_fit(frame, labels).feature_names_in_.tolist() == list("abcd")


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_what_scikit_learn_lacks_is_not_exported(kind):
    labels = Y + (X[:, 0] > 4)
    with pytest.raises(ValueError, match="has no multi_class='multinomial'"):
        make(kind, multi_class="multinomial").fit(X, labels).to_sklearn()
    binary = make(kind, multi_class="multinomial").fit(X, Y)
    np.testing.assert_allclose(binary.to_sklearn().predict_proba(X), binary.predict_proba(X))


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("labels", [Y, Y + (X[:, 0] > 4)], ids=["two classes", "three classes"])
def test_log_probabilities(kind, labels):
    import dask.array as da

    fitted = make(kind).fit(X, labels)
    expected = np.log(fitted.predict_proba(X))
    np.testing.assert_array_equal(fitted.predict_log_proba(X), expected)
    lazy = fitted.predict_log_proba(da.from_array(X, chunks=(200, -1)))
    assert isinstance(lazy, da.Array)
    assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(lazy.compute(scheduler="sync"), expected)
    fitted.intercept_ = fitted.intercept_ - 1e4
    assert not np.isnan(fitted.predict_log_proba(X)).any()
    assert not hasattr(kind("hinge"), "predict_log_proba")
