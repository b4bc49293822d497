import pickle
import re
import warnings
from dataclasses import replace

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdist import AutoRate, DistributedSGDClassifier, History, LatencyBatchSizer, StalenessWindow
from skdist.exceptions import DivergedError
from tests.fakes import rows_of

losses = pytest.mark.parametrize("loss", ["hinge", "log_loss"])


def classifier(loss="log_loss", **params):
    return DistributedSGDClassifier(loss, **{"random_state": 0, "max_iter": 5, "tol": None, **params})


def problem(n_classes=2, n_rows=2000, seed=0):
    return make_classification(
        n_rows, 10, n_informative=6, n_classes=n_classes, n_clusters_per_class=1, class_sep=1.5,
        random_state=seed,
    )  # fmt: skip


@losses
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("rate", ["auto", "optimal", "constant", "invscaling"])
def test_it_learns(loss, n_classes, rate):
    X, y = problem(n_classes)
    clf = classifier(loss, learning_rate=rate, eta0=0.1, alpha=1e-2).fit(X[:1500], y[:1500])
    assert clf.score(X[1500:], y[1500:]) > (0.93 if n_classes == 2 else 0.8)


@pytest.mark.parametrize(("n_classes", "problems"), [(2, 1), (3, 3)])
def test_shapes_of_a_fit_and_its_predictions(n_classes, problems):
    X, y = problem(n_classes, 300)
    clf = classifier().fit(X, y)
    assert clf.coef_.shape == (problems, 10)
    assert clf.intercept_.shape == (problems,)
    np.testing.assert_array_equal(clf.classes_, range(n_classes))
    assert clf.n_features_in_ == 10
    scores = clf.decision_function(X)
    assert scores.shape == ((300,) if n_classes == 2 else (300, 3))
    np.testing.assert_allclose(scores, np.squeeze(X @ clf.coef_.T + clf.intercept_))
    labels = clf.predict(X)
    np.testing.assert_array_equal(labels, scores > 0 if n_classes == 2 else scores.argmax(axis=1))
    probabilities = clf.predict_proba(X)
    assert probabilities.shape == (300, n_classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), labels)
    assert clf.score(X, y) == np.mean(labels == y)


def test_probabilities_of_binary_problems_are_those_of_the_logistic_function():
    X, y = problem(2, 300)
    clf = classifier().fit(X, y)
    np.testing.assert_allclose(clf.predict_proba(X)[:, 1], 1 / (1 + np.exp(-clf.decision_function(X))))


def test_probabilities_add_up_where_all_classes_are_impossible():
    X, y = problem(3, 300)
    clf = classifier().fit(X, y)
    clf.intercept_ = clf.intercept_ - 1e6
    np.testing.assert_allclose(clf.predict_proba(X[:5]), 1 / 3)


def test_hinge_has_no_probabilities():
    X, y = problem(2, 100)
    clf = classifier("hinge").fit(X, y)
    assert not hasattr(clf, "predict_proba")
    with pytest.raises(AttributeError, match="predict_proba"):
        clf.predict_proba(X)


def test_labels_may_be_strings():
    X, y = problem(3, 600)
    names = np.array(["cow", "ant", "bee"])
    clf = classifier().fit(X, names[y])
    assert list(clf.classes_) == ["ant", "bee", "cow"]
    assert set(clf.predict(X)) == set(names)
    plain = classifier().fit(X, np.array([2, 0, 1])[y])
    np.testing.assert_array_equal(clf.coef_, plain.coef_)


def test_labels_may_be_bools():
    X, y = problem(2, 300)
    clf = classifier().fit(X, y == 1)
    assert clf.predict(X).dtype == bool
    assert clf.score(X, y == 1) > 0.9


@pytest.mark.parametrize("rate", ["auto", "optimal"])
def test_rows_of_weight_zero_count_like_absent_ones(rate):
    X, y = problem(2, 4000)
    weights = np.ones(4000)
    weights[2000:] = 0
    poisoned = np.where(weights > 0, y, 1 - y)
    # The loss is a mean over all rows, those of weight zero included, so the penalty weighs twice as much.
    settings = {"learning_rate": rate, "max_iter": 100, "tol": None}
    zeroed = classifier(alpha=0.01, **settings).fit(X, poisoned, sample_weight=weights)
    absent = classifier(alpha=0.02, **settings).fit(X[:2000], y[:2000])
    np.testing.assert_allclose(zeroed.coef_, absent.coef_, atol=0.05 * abs(absent.coef_).max())
    np.testing.assert_allclose(zeroed.intercept_, absent.intercept_, atol=0.05 * abs(absent.coef_).max())


def test_weights_count_rows_several_times():
    X, y = problem(2, 1500)
    weights = np.where(y == 1, 20.0, 1.0)
    plain = classifier(max_iter=20).fit(X, y)
    weighted = classifier(max_iter=20).fit(X, y, sample_weight=weights)
    repeated = classifier(max_iter=20).fit(
        np.vstack([X, *[X[y == 1]] * 19]), np.append(y, [1] * 19 * (y == 1).sum())
    )
    assert weighted.predict(X).mean() > plain.predict(X).mean()
    scores = [clf.decision_function(X) for clf in (weighted, repeated)]
    assert np.corrcoef(*scores)[0, 1] > 0.99


@losses
@pytest.mark.parametrize("rate", ["auto", "optimal"])
@pytest.mark.parametrize("sparse", [False, True])
def test_one_job_is_deterministic_to_the_bit_whatever_the_round_size(loss, rate, sparse):
    X, y = problem(3, 700)
    X = sp.csr_array(np.where(X > 0, X, 0)) if sparse else X
    coefs = [
        classifier(loss, learning_rate=rate, round_size=size, **extra).fit(X, y).coef_
        for size, extra in (
            ("auto", {}),
            ("auto", {}),
            (1, {}),
            (100, {}),
            (10**6, {"rate_adapter": None, "batch_sizer": None}),
        )
    ]
    for coef in coefs[1:]:
        np.testing.assert_array_equal(coef, coefs[0])


def test_defaults_are_deterministic():
    X, y = problem(2, 3000)
    first, second = (DistributedSGDClassifier(random_state=3).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.coef_, second.coef_)
    assert first.n_iter_ == second.n_iter_


def test_another_seed_is_another_order():
    X, y = problem(2, 500)
    coefs = [classifier(random_state=seed, max_iter=1).fit(X, y).coef_ for seed in (1, 2)]
    assert not np.array_equal(*coefs)
    coefs = [classifier(random_state=seed, max_iter=1, shuffle=False).fit(X, y).coef_ for seed in (1, 2)]
    np.testing.assert_array_equal(*coefs)


def test_several_jobs_train_one_model():
    X, y = problem(2, 8000)
    alone = classifier(max_iter=8).fit(X, y)
    shared = classifier(max_iter=8, n_jobs=2).fit(X, y)
    assert {record.learner for record in shared.history_.rounds} == {"0", "1"}
    assert sum(record.rows for record in shared.history_.rounds) == 8 * 8000
    assert abs(shared.score(X, y) - alone.score(X, y)) < 0.01


@losses
@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix, sp.csc_array])
def test_sparse_input(loss, kind):
    X, y = problem(3, 1500)
    X = np.where(abs(X) > 0.8, X, 0)
    clf = classifier(loss, max_iter=10).fit(kind(X), y)
    dense = classifier(loss, max_iter=10).fit(X, y)
    assert clf.coef_.shape == (3, 10)
    assert abs(clf.score(kind(X), y) - dense.score(X, y)) < 0.03
    np.testing.assert_allclose(clf.decision_function(kind(X)), clf.decision_function(X))


def test_float32_in_gives_float32_out():
    X, y = problem(2, 300)
    for dtype in (np.float32, np.float64):
        for rows in (X.astype(dtype), sp.csr_array(X.astype(dtype))):
            clf = classifier().fit(rows, y)
            assert clf.coef_.dtype == clf.intercept_.dtype == dtype


def test_frames_give_feature_names():
    X, y = problem(2, 300)
    frame = pd.DataFrame(X, columns=[f"f{j}" for j in range(10)])
    clf = classifier().fit(frame, pd.Series(y))
    assert list(clf.feature_names_in_) == list(frame.columns)
    np.testing.assert_array_equal(clf.coef_, classifier().fit(X, y).coef_)
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(frame[frame.columns[::-1]])


def objective(X, y, coef, intercept, alpha):
    margin = np.where(y == 1, 1, -1) * (X @ coef.ravel() + intercept)
    return np.logaddexp(0, -margin).mean() + alpha / 2 * (coef**2).sum()


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("alpha", [1e-4, 1e-2])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_objective_comes_close_to_that_of_an_exact_solver(standardised, alpha, n_jobs):
    X, y = rows_of(10_000, 8, seed=3)
    X = X * np.array([1, 1, 3, 0.2, 1, 10, 0.5, 1]) + 2
    if standardised:
        X = StandardScaler().fit_transform(X)
    exact = LogisticRegression(C=1 / (alpha * len(y)), tol=1e-8, max_iter=10_000).fit(X, y)
    clf = DistributedSGDClassifier("log_loss", alpha=alpha, random_state=0, n_jobs=n_jobs).fit(X, y)
    best = objective(X, y, exact.coef_, exact.intercept_, alpha)
    assert best * (1 - 1e-9) <= objective(X, y, clf.coef_, clf.intercept_, alpha) <= 1.005 * best


def test_without_intercept_there_is_none():
    X, y = problem(2, 500)
    clf = classifier(fit_intercept=False).fit(X, y)
    np.testing.assert_array_equal(clf.intercept_, [0.0])
    assert clf.score(X, y) > 0.85


def test_without_penalty_alpha_does_not_matter():
    X, y = problem(2, 500)
    coefs = [classifier(penalty=None, alpha=alpha).fit(X, y).coef_ for alpha in (1e-4, 10.0)]
    np.testing.assert_array_equal(*coefs)
    strong = classifier(alpha=10.0).fit(X, y).coef_
    assert np.linalg.norm(strong) < 0.2 * np.linalg.norm(coefs[0])


def test_partial_fit_learns_from_one_chunk_after_the_other():
    X, y = problem(3, 3000)
    clf = classifier()
    for a in range(0, 2400, 400):
        part = slice(a, a + 400)
        assert clf.partial_fit(X[part], y[part], classes=[0, 1, 2]) is clf
    assert clf.score(X[2400:], y[2400:]) > 0.8
    assert sum(epoch.rows for epoch in clf.history_.epochs) == 2400
    assert clf.t_ == 1 + sum(record.steps for record in clf.history_.rounds)


def test_partial_fit_knows_classes_that_come_later():
    X, y = problem(3, 900)
    clf = classifier().partial_fit(X[y < 2], y[y < 2], classes=[2, 0, 1])
    np.testing.assert_array_equal(clf.classes_, [0, 1, 2])
    assert clf.coef_.shape == (3, 10)
    for _ in range(10):
        clf.partial_fit(X, y)
    assert clf.score(X, y) > 0.8


def test_partial_fit_goes_on_where_it_stood():
    X, y = problem(2, 512)
    params = {"learning_rate": "optimal", "shuffle": False, "batch_size": 8}
    pieces = classifier(**params)
    for a in range(0, 512, 128):
        pieces.partial_fit(X[a : a + 128], y[a : a + 128], classes=[0, 1])
    whole = classifier(**params, max_iter=1).fit(X, y)
    np.testing.assert_array_equal(pieces.coef_, whole.coef_)
    assert pieces.t_ == whole.t_ == 65


def test_partial_fit_sizes_its_steps_by_all_rows_it_has_seen():
    X, y = problem(2, 2048)
    clf = classifier().partial_fit(X[:1984], y[:1984], classes=[0, 1])
    before = clf.t_
    clf.partial_fit(X[1984:], y[1984:])
    assert clf.t_ - before == 64 / 8


def test_partial_fit_needs_its_classes_once_and_always_the_same():
    X, y = problem(2, 100)
    with pytest.raises(ValueError, match="classes must be passed"):
        classifier().partial_fit(X, y)
    clf = classifier().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="differs from"):
        clf.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="not in classes"):
        clf.partial_fit(X, y + 5)


def test_fit_after_partial_fit_starts_anew():
    X, y = problem(2, 300)
    clf = classifier().partial_fit(X, y, classes=[0, 1])
    np.testing.assert_array_equal(clf.fit(X, y).coef_, classifier().fit(X, y).coef_)


@pytest.mark.parametrize("rate", ["auto", "optimal"])
def test_warm_start_begins_at_the_present_solution(rate):
    X, y = problem(2, 2000)
    # With a weak penalty the first steps of 'optimal' are so long that they forget where they began.
    clf = classifier(warm_start=True, max_iter=20, learning_rate=rate, alpha=0.1).fit(X, y)
    first = clf.history_.epochs[0].loss
    clf.fit(X, y)
    assert clf.history_.epochs[0].loss < first
    with pytest.raises(ValueError, match="same classes"):
        clf.fit(X, y + 1)


def test_coef_init_is_where_training_starts():
    X, y = problem(2, 1000)
    solved = classifier(max_iter=20).fit(X, y)
    tiny = {"learning_rate": "constant", "eta0": 1e-12, "max_iter": 1}
    clf = classifier(**tiny).fit(X, y, coef_init=solved.coef_[0], intercept_init=solved.intercept_)
    np.testing.assert_allclose(clf.coef_, solved.coef_, atol=1e-6)
    np.testing.assert_allclose(clf.intercept_, solved.intercept_, atol=1e-6)
    with pytest.raises(ValueError, match="coef_init has shape"):
        classifier().fit(X, y, coef_init=np.ones(3))


def test_max_iter_warns_where_the_loss_has_not_settled():
    X, y = problem(2, 500)
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        clf = classifier(max_iter=2, tol=1e-3).fit(X, y)
    assert clf.n_iter_ == 2
    assert len(clf.history_.epochs) == 2


def test_without_tol_it_makes_all_passes_and_does_not_warn():
    X, y = problem(2, 500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = classifier(max_iter=7).fit(X, y)
    assert clf.n_iter_ == 7
    assert [epoch.rows for epoch in clf.history_.epochs] == [500] * 7


def test_it_stops_when_the_loss_settles():
    X, y = problem(2, 2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = classifier(max_iter=1000, tol=1e-3).fit(X, y)
    assert 2 <= clf.n_iter_ < 50


@pytest.mark.parametrize("average", [True, 100])
def test_averaging_settles_a_restless_iterate(average):
    X, y = problem(2, 2000)
    params = {"learning_rate": "constant", "eta0": 1.0, "max_iter": 10, "batch_size": 1}
    averaged = classifier(average=average, **params).fit(X, y)
    plain = classifier(**params).fit(X, y)
    alpha = 1e-4
    values = [objective(X, y, clf.coef_, clf.intercept_, alpha) for clf in (averaged, plain)]
    assert values[0] < values[1]


def test_collect_averages_updates():
    X, y = problem(2, 2000)
    clf = classifier(collect=3, round_size=64, max_iter=10).fit(X, y)
    rounds = clf.history_.rounds
    assert rounds[-1].version == len(rounds) // 3
    assert clf.score(X, y) > 0.9


def test_a_fit_leaves_a_history():
    X, y = problem(2, 500)
    clf = classifier(max_iter=3, round_size=100).fit(X, y)
    assert isinstance(clf.history_, History)
    assert clf.t_ == 1 + sum(record.steps for record in clf.history_.rounds)
    frame = clf.history_.to_frame("epochs")
    assert list(frame["epoch"]) == [0, 1, 2]
    assert frame["loss"].iloc[0] == pytest.approx(
        sum(r.loss * r.rows for r in clf.history_.rounds if r.epoch == 0) / 500
    )


def test_fitting_again_begins_a_new_history():
    X, y = problem(2, 200)
    clf = classifier(max_iter=2)
    clf.fit(X, y)
    assert len(clf.fit(X, y).history_.epochs) == 2


@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_pickles_predict_and_go_on(module):
    X, y = problem(2, 300)
    clf = classifier().partial_fit(X, y, classes=[0, 1])
    copy = pickle.loads(module.dumps(clf))
    np.testing.assert_array_equal(copy.predict_proba(X), clf.predict_proba(X))
    np.testing.assert_array_equal(copy.partial_fit(X, y).coef_, clf.partial_fit(X, y).coef_)


def test_clones_are_unfitted():
    X, y = problem(2, 100)
    copy = clone(classifier().fit(X, y))
    with pytest.raises(NotFittedError):
        copy.predict(X)


def test_settings_can_be_searched_in_a_pipeline():
    X, y = problem(2, 400)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), classifier()),
        {
            "distributedsgdclassifier__alpha": [1e-4, 100.0],
            "distributedsgdclassifier__rate_adapter__discount": [0.5],
            "distributedsgdclassifier__batch_sizer__window": [3],
        },
        cv=2,
    ).fit(X, y)
    best = search.best_estimator_[-1]
    assert best.alpha == 1e-4
    assert (best.rate_adapter.discount, best.batch_sizer.window) == (0.5, 3)
    assert search.best_score_ > 0.85


@pytest.mark.parametrize(
    "params",
    [
        {"loss": "poisson"},
        {"penalty": "l0"},
        {"multi_class": "ovo"},
        {"mode": "serial"},
        {"max_staleness": -1},
        {"aggregator": "median"},
        {"server_momentum": 1.0},
        {"server_momentum": -0.1},
        {"alpha": -1.0},
        {"max_iter": 0},
        {"batch_size": 0},
        {"round_size": "small"},
        {"class_weight": "heavy"},
        {"collect": 0},
        {"collect": "all"},
        {"n_servers": 0},
        {"eta0": 0.0},
        {"rate_adapter": "window"},
    ],
    ids=str,
)
def test_unsupported_parameters_are_refused(params):
    X, y = problem(2, 50)
    with pytest.raises(ValueError, match=next(iter(params))):
        DistributedSGDClassifier(**params).fit(X, y)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"rate_adapter": StalenessWindow(discount=2.0)}, "discount"),
        ({"batch_sizer": LatencyBatchSizer(window=0)}, "window"),
        ({"learning_rate": AutoRate(scale=-1.0)}, "scale"),
    ],
)
def test_settings_with_bad_parameters_are_refused(params, name):
    X, y = problem(2, 50)
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        DistributedSGDClassifier(**params).fit(X, y)


def test_optimal_rate_without_penalty_is_refused():
    X, y = problem(2, 50)
    with pytest.raises(ValueError, match="alpha must be > 0"):
        classifier(learning_rate="optimal", alpha=0.0).fit(X, y)
    classifier(learning_rate="optimal", penalty=None).fit(X, y)  # alpha still tells the rate


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"penalty": "elasticnet", "l1_ratio": None}, "l1_ratio must be set"),
        ({"learning_rate": "pa1", "loss": "log_loss"}, "made for loss='hinge'"),
        ({"learning_rate": "adaptive", "early_stopping": True}, "follows the training loss"),
        ({"multi_class": "multinomial", "loss": "hinge"}, "is for loss='log_loss'"),
    ],
)
def test_what_does_not_go_together_is_refused(params, message):
    X, y = problem(2, 50)
    with pytest.raises(ValueError, match=message):
        DistributedSGDClassifier(**params).fit(X, y)


X_OK, Y_OK = np.arange(20.0).reshape(10, 2), np.array([0, 1] * 5)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (X_OK, Y_OK[:9], "inconsistent numbers of samples"),
        (np.where(X_OK == 3, np.nan, X_OK), Y_OK, "NaN"),
        (np.where(X_OK == 3, np.inf, X_OK), Y_OK, "infinity"),
        (X_OK, np.zeros(10), "one class"),
        (X_OK[:0], Y_OK[:0], "0 sample"),
        (X_OK[:, :0], Y_OK, "0 feature"),
        (X_OK[:, 0], Y_OK, "Expected 2D array"),
        (X_OK, np.linspace(0, 1, 10), "continuous"),
        (X_OK, np.stack([Y_OK, Y_OK], axis=1), "1d array"),
        (X_OK, np.where(Y_OK == 1, np.nan, 0.0), "NaN"),
    ],
)
def test_bad_input_is_refused(X, y, message):
    with pytest.raises(ValueError, match=message):
        classifier().fit(X, y)


@pytest.mark.parametrize(
    ("weights", "message"),
    [(np.ones(9), "shape"), (np.full(10, np.nan), "NaN"), (np.zeros(10), "non-zero|must be positive")],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        classifier().fit(X_OK, Y_OK, sample_weight=weights)


def test_another_number_of_features_is_refused():
    clf = classifier().fit(X_OK, Y_OK)
    for rows in (X_OK[:, :1], sp.csr_array(X_OK[:, :1])):
        with pytest.raises(ValueError, match="expecting 2 features"):
            clf.predict(rows)
    with pytest.raises(ValueError, match="expecting 2 features"):
        classifier().partial_fit(X_OK, Y_OK, classes=[0, 1]).partial_fit(X_OK[:, :1], Y_OK)


def test_nothing_is_predicted_before_a_fit():
    for method in ("predict", "decision_function", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(classifier(), method)(X_OK)


def test_divergence_is_an_error():
    X, y = problem(2, 200)
    with pytest.raises(DivergedError, match="eta0"):
        classifier("hinge", learning_rate="constant", eta0=1e308, penalty=None).fit(X, y)


def test_the_input_is_not_changed():
    X, y = problem(2, 200)
    for rows in (X.copy(), sp.csr_array(X)):
        before = rows.copy()
        classifier().fit(rows, y)
        assert abs(rows - before).max() == 0


def test_score_weights_the_rows():
    X, y = problem(2, 300)
    clf = classifier().fit(X, y)
    right = clf.predict(X) == y
    weights = np.where(right, 1.0, 3.0)
    assert clf.score(X, y, weights) == pytest.approx(right.sum() / weights.sum())


def test_verbose_prints_progress(capsys):
    silent = classifier(max_iter=2).fit(X_OK, Y_OK)
    assert not capsys.readouterr().out
    loud = classifier(verbose=1, max_iter=2).fit(X_OK, Y_OK)
    assert re.match(r"2 epochs in .* s: loss 0\.\d+, .* rows/s, 1 thread", capsys.readouterr().out)
    np.testing.assert_array_equal(loud.coef_, silent.coef_)


@pytest.mark.parametrize(("share", "weight"), [(0.01, 100.0), (0.001, 1000.0)])
def test_heavy_rows_count_but_do_not_upset_the_objective(share, weight):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20_000, 5))
    y = (rng.random(len(X)) < 1 / (1 + np.exp(-X @ [1.0, -1.0, 0.5, 0.0, 2.0]))).astype(int)
    heavy = rng.permutation(len(X))[: int(share * len(X))]
    weights = np.ones(len(X))
    weights[heavy], y[heavy] = weight, rng.integers(0, 2, len(heavy))

    def objective(clf):
        margins = clf.decision_function(X) * (2 * y - 1)
        return weights @ np.logaddexp(0, -margins) / len(X) + 0.5e-4 * (clf.coef_**2).sum()

    exact = LogisticRegression(C=1 / (1e-4 * len(X)), tol=1e-8, max_iter=1_000).fit(
        X, y, sample_weight=weights
    )
    assert objective(classifier().fit(X, y, sample_weight=weights)) < 1.01 * objective(exact)


@pytest.mark.parametrize("batch_size", [1, 8, 64, 512])
def test_the_objective_does_not_depend_on_the_batch_size(batch_size):
    X, y = problem(2, 4_000)

    def objective(clf):
        margins = clf.decision_function(X) * (2 * y - 1)
        return np.logaddexp(0, -margins).mean() + 0.5e-2 * (clf.coef_**2).sum()

    exact = LogisticRegression(C=1 / (1e-2 * len(X)), tol=1e-8, max_iter=1_000).fit(X, y)
    clf = classifier(alpha=1e-2, batch_size=batch_size, max_iter=100, tol=None).fit(X, y)
    assert objective(clf) < 1.001 * objective(exact)


def test_a_coef_init_of_another_shape_is_refused():
    X, y = problem(3, 300)
    with pytest.raises(ValueError, match="coef_init has shape"):
        classifier().fit(X, y, coef_init=np.zeros((X.shape[1], 3)))


def test_partial_fit_keeps_the_layout_of_the_first_call():
    X, y = problem(2, 300)
    clf = classifier().partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="sparse in part and dense in part"):
        clf.partial_fit(sp.csr_array(X), y)


def test_partial_fit_goes_on_from_coefficients_that_were_changed():
    X, y = problem(2, 300)
    clf = classifier().partial_fit(X, y, classes=[0, 1])
    clf.coef_ = clf.coef_ + 100.0
    clf.partial_fit(X[:1], y[:1])
    assert clf.coef_.min() > 50


def test_the_average_still_moves_after_millions_of_steps():
    X, y = problem(2, 2_000)
    clf = classifier(batch_size=8).fit(X.astype(np.float32), y)
    seen = clf._training.moments
    more = {name: getattr(seen, name) * 5e6 for name in ("weight", "deviation", "present", "weight_square")}
    moments = replace(seen, rows=10**10, **more)
    clf._training = replace(clf._training, clock=1e9, moments=moments)
    before = clf.coef_.copy()
    for _ in range(3):
        clf.partial_fit(X.astype(np.float32), 1 - y)
    assert abs(clf.coef_ - before).max() > 0.01 * abs(before).max()


@pytest.mark.parametrize("params", [{"collect": 1}, {"mode": "ssp"}], ids=str)
def test_momentum_is_refused_where_updates_are_applied_alone(params):
    X, y = problem(2, 50)
    with pytest.raises(ValueError, match=r"server_momentum=0\.5"):
        DistributedSGDClassifier(server_momentum=0.5, **params).fit(X, y)


def test_collecting_is_refused_where_each_learner_is_waited_for():
    X, y = problem(2, 50)
    with pytest.raises(ValueError, match="collect=3"):
        DistributedSGDClassifier(mode="sync", collect=3).fit(X, y)


@pytest.mark.parametrize("params", [{}, {"n_jobs": 2}, {"mode": "sync"}, {"mode": "ssp"}], ids=str)
def test_adaptive_rates_go_on_with_shorter_steps_where_others_end(params):
    X, y = problem(2, 2_000)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    settings = {"eta0": 1.0, "alpha": 1e-3, "tol": 1e-3, "max_iter": 1_000, **params}
    long = classifier(learning_rate="adaptive", **settings).fit(X, y)
    short = classifier(learning_rate="constant", **settings).fit(X, y)

    def objective(clf):
        margins = (2 * y - 1) * clf.decision_function(X)
        return np.logaddexp(0, -margins).mean() + 0.5e-3 * (clf.coef_**2).sum()

    exact = LogisticRegression(C=1 / (1e-3 * len(X)), tol=1e-8, max_iter=1_000).fit(X, y)
    assert long.n_iter_ > short.n_iter_
    assert objective(long) < 1.005 * objective(exact)


def test_class_weights_that_leave_nothing_are_refused():
    X, y = problem(2, 50)
    with pytest.raises(ValueError, match=r"class_weight=.* leaves rows no weight"):
        classifier(class_weight={0: 0, 1: 0}).fit(X, y)
