import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.models.measuring import measure
from skdist.models.moments import combine


def weighted_rows(n_rows, n_features, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, n_features)) * rng.uniform(0.01, 100, n_features) + rng.normal(
        size=n_features
    )
    return X.astype(dtype), rng.uniform(0, 3, n_rows).astype(dtype)


def assert_same(one, other):
    for name in ("rows", "weight", "mean", "deviation", "low", "high", "present", "stored"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=1e-7, atol=1e-9, err_msg=name
        )
    assert one.sparse == other.sparse


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 1000))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_dense_moments_are_those_of_numpy(dtype, n_rows, n_features, seed):
    X, weights = weighted_rows(n_rows, n_features, seed, dtype)
    moments = measure(X, weights)
    exact, w = X.astype(np.float64), weights.astype(np.float64)
    mean = w @ exact / w.sum()
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moments.deviation, w @ (exact - mean) ** 2, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(moments.low, X.min(axis=0))
    np.testing.assert_array_equal(moments.high, X.max(axis=0))
    assert (moments.rows, moments.stored) == (n_rows, n_rows * n_features)
    np.testing.assert_allclose(moments.weight, w.sum())
    np.testing.assert_allclose(moments.present, w.sum())


def test_variance_survives_a_large_mean():
    X = 1e8 + np.random.default_rng(0).normal(size=(1000, 1))
    moments = measure(X, np.ones(1000))
    np.testing.assert_allclose(moments.deviation / 1000, X.var(axis=0), rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000))
def test_sparse_moments_are_about_stored_values(n_rows, n_features, seed):
    rng = np.random.default_rng(seed)
    X = sp.random_array((n_rows, n_features), density=0.4, rng=rng, data_sampler=rng.normal).tocsr()
    X, weights = sp.csr_array(X), rng.uniform(0, 3, n_rows)
    moments = measure(X, weights).over(None)
    full = X.toarray()
    np.testing.assert_array_equal(moments.mean, 0)
    np.testing.assert_allclose(moments.deviation, weights @ full**2, rtol=1e-9)
    np.testing.assert_allclose(moments.present, weights @ (full != 0), rtol=1e-9)
    np.testing.assert_array_equal(moments.low, np.minimum(full.min(axis=0), 0))
    np.testing.assert_array_equal(moments.high, np.maximum(full.max(axis=0), 0))
    assert moments.sparse
    assert moments.stored == X.nnz


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 1000), st.booleans())
def test_moments_of_parts_combine_to_those_of_the_whole(sizes, seed, sparse):
    X, weights = weighted_rows(sum(sizes), 4, seed)
    if sparse:
        X = sp.csr_array(np.where(X > 0, X, 0.0))
    ends = np.cumsum(sizes)
    parts = [measure(X[b - n : b], weights[b - n : b]) for n, b in zip(sizes, ends, strict=True)]
    assert_same(combine(parts), measure(X, weights))


@pytest.mark.parametrize("sparse", [False, True])
@settings(deadline=None, max_examples=40)
@given(n_rows=st.integers(2, 60), seed=st.integers(0, 1000), batch=st.integers(1, 64), centered=st.booleans())
def test_scale_is_bounded_by_the_farthest_value(sparse, n_rows, seed, batch, centered):
    X, weights = weighted_rows(n_rows, 4, seed)
    X[seed % n_rows, seed % 4] *= 1e4
    rows = sp.csr_array(X) if sparse else X
    scale, center, norm = measure(rows, weights).preconditioner(batch, centered)
    reach = abs(X - center).max(axis=0)
    if sparse:
        reach = np.maximum(reach, 0)
    assert (scale * reach**2 <= batch * (1 + X.shape[1]) * (1 + 1e-9)).all()
    assert (scale > 0).all()
    direct = np.average(1 + ((X - center) ** 2 * scale).sum(axis=1), weights=weights)
    assert norm == pytest.approx(direct, rel=1e-6)


@pytest.mark.parametrize(("sparse", "most"), [(False, 12), (True, 24)])
def test_far_values_are_bounded_more_where_slopes_are_not(sparse, most):
    X, weights = weighted_rows(500, 4, 0)
    X[3, 1] *= 1e4
    moments = measure(sp.csr_array(X) if sparse else X, weights)
    scale, center, norm = moments.preconditioner(64, unbounded=True)
    assert scale[1] * (X[3, 1] - center[1]) ** 2 == pytest.approx(most * norm, rel=0.01)
    assert (scale <= moments.preconditioner(64)[0]).all()
    short = measure(X, weights)
    np.testing.assert_array_equal(short.preconditioner(8, unbounded=True)[0], short.preconditioner(8)[0])


def test_without_outliers_scale_is_the_inverse_variance():
    X, weights = weighted_rows(500, 4, 0)
    scale, center, _ = measure(X, weights).preconditioner(64)
    mean = weights @ X / weights.sum()
    np.testing.assert_allclose(center, mean)
    np.testing.assert_allclose(scale, weights.sum() / (weights @ (X - mean) ** 2))


def test_without_centring_scale_is_the_inverse_mean_square():
    X, weights = weighted_rows(500, 4, 0)
    scale, center, _ = measure(X, weights).preconditioner(64, centered=False)
    np.testing.assert_array_equal(center, 0)
    np.testing.assert_allclose(scale, weights.sum() / (weights @ X**2))


def test_a_rare_indicator_is_scaled_by_the_rows_that_have_it():
    X = np.zeros((1000, 2))
    X[:500, 0], X[:5, 1] = 3.0, 3.0
    scale, _, _ = measure(sp.csr_array(X), np.ones(1000)).preconditioner(64)
    np.testing.assert_allclose(scale, 1 / 9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 1e-20])
def test_a_constant_column_has_scale_zero(dtype, value):
    X, weights = weighted_rows(300, 3, 0, dtype)
    X[:, 1] = value
    whole = measure(X, weights)
    parts = combine([measure(X[:100], weights[:100]), measure(X[100:], weights[100:])])
    for moments in (whole, parts):
        scale, _, norm = moments.preconditioner(8)
        assert scale[1] == 0
        assert (scale[[0, 2]] > 0).all()
        assert np.isfinite(norm)


def test_moments_of_other_columns_are_the_same():
    X = sp.csr_array(
        (np.array([1.0, -2.0, 3.0]), (np.array([0, 1, 1]), np.array([4, 4, 90]))), shape=(3, 100)
    )
    moments = measure(X, np.ones(3))
    np.testing.assert_array_equal(moments.columns, [4, 90])
    wide, all_of_them = moments.over(np.array([4, 7, 90])), moments.over(None)
    np.testing.assert_array_equal(wide.deviation, [5, 0, 9])
    np.testing.assert_array_equal(np.flatnonzero(all_of_them.present), [4, 90])
    norms = [m.preconditioner(8)[2] for m in (moments, wide, all_of_them)]
    assert norms == pytest.approx([norms[0]] * 3)
    assert all_of_them.mean_square_norm == moments.mean_square_norm


@pytest.mark.parametrize("columns", [([1, 2], [2, 5]), ([1, 2], None)])
def test_parts_that_store_different_columns_combine(columns):
    rng = np.random.default_rng(0)
    blocks = [np.zeros((10, 9)) for _ in columns]
    for block, chosen in zip(blocks, columns, strict=True):
        block[:, chosen] = rng.normal(size=block[:, chosen].shape)
    whole = combine([measure(sp.csr_array(block), np.ones(10)) for block in blocks]).over(None)
    expected = measure(sp.csr_array(np.vstack(blocks)), np.ones(20)).over(None)
    for name in ("mean", "deviation", "low", "high", "present"):
        np.testing.assert_allclose(getattr(whole, name), getattr(expected, name))


def test_a_column_without_stored_values_has_scale_zero():
    X = sp.csr_array(np.array([[1.0, 0.0], [2.0, 0.0]]))
    scale, _, norm = measure(X, np.ones(2)).over(None).preconditioner(8)
    assert scale[1] == 0
    assert scale[0] > 0
    assert np.isfinite(norm)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("bad", "kind"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_values_that_are_no_numbers_are_named_by_column(sparse, bad, kind):
    X = np.ones((20, 9))
    X[3, 7], X[5, 2], X[6, 2] = bad, bad, bad
    rows = sp.csr_array(X) if sparse else X
    with pytest.raises(ValueError, match=rf"contains {kind} \(3 values; columns 2, 7\)"):
        measure(rows, np.ones(20))


def test_many_bad_columns_are_abridged():
    with pytest.raises(ValueError, match=r"columns 0, 1, 2, 3, 4 \.\.\."):
        measure(np.full((3, 9), np.nan), np.ones(3))


def test_weights_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="sample_weight contains NaN"):
        measure(np.ones((3, 2)), np.array([1.0, np.nan, 1.0]))


def test_values_too_large_to_be_squared_are_refused():
    with pytest.raises(ValueError, match="too large"):
        measure(np.array([[1e200], [-1e200]]), np.ones(2))


def test_moments_of_no_rows_add_nothing():
    X, weights = weighted_rows(20, 3, 0)
    whole = measure(X, weights)
    assert_same(combine([whole, measure(X[:0], weights[:0])]), whole)


def correlated(rng, n_features, share):
    """Return standard normal rows whose features have ``share`` of their variance in common."""
    common = rng.standard_normal((4_000, 1))
    own = rng.standard_normal((4_000, n_features))
    return np.sqrt(share) * common + np.sqrt(1 - share) * own


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_alignment_is_the_share_of_the_largest_eigenvalue(share):
    X = correlated(np.random.default_rng(0), 10, share)
    spectrum = np.linalg.eigvalsh(np.corrcoef(X.T))
    estimated = measure(X * np.arange(1, 11), np.ones(len(X))).alignment
    # Estimated from some rows only: those of independent features seem a little aligned.
    assert spectrum[-1] / 10 * 0.85 < estimated < spectrum[-1] / 10 * 1.25 + 0.05


def test_alignment_of_sparse_rows_is_the_share_of_the_largest_eigenvalue():
    X = sp.random_array((256, 40), density=0.2, rng=np.random.default_rng(0), format="csr")
    rows = X.toarray()
    scaled = rows / np.sqrt((rows**2).sum(axis=0) / (rows != 0).sum(axis=0))
    spectrum = np.linalg.eigvalsh(scaled.T @ scaled)
    assert measure(X, np.ones(256)).alignment == pytest.approx(spectrum[-1] / spectrum.sum(), rel=1e-3)


def test_alignment_of_parts_is_that_of_the_whole_where_they_are_alike():
    X = correlated(np.random.default_rng(1), 10, 0.4)
    parts = [measure(X[i::4], np.ones(1_000)) for i in range(4)]
    assert combine(parts).alignment == pytest.approx(measure(X, np.ones(4_000)).alignment, abs=0.05)


def test_parts_that_differ_in_one_direction_are_aligned():
    rng = np.random.default_rng(2)
    parts = [rng.standard_normal((500, 10)) + shift for shift in (-5, 5)]
    combined = combine([measure(part, np.ones(500)) for part in parts])
    assert combined.alignment > 0.9


@pytest.mark.parametrize("sparse", [False, True])
def test_steepness_is_about_the_curvature_of_partitions_that_are_unlike_all_rows(sparse):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6_000, 4)) * [1, 5, 0.1, 1] + [3, 0, 1, -2]
    if sparse:
        X *= rng.random(X.shape) < 0.3
    X = X[np.argsort(X[:, 0])]
    parts = [sp.csr_array(part) if sparse else part for part in np.split(X, 6)]
    measured = [measure(part, np.ones(1_000)) for part in parts]
    scale, center, _ = combine(measured).preconditioner(64)
    for part, moments in zip(parts, measured, strict=True):
        rows = (part.toarray() if sparse else part - center) * np.sqrt(scale)
        if not sparse:
            rows = np.column_stack([np.ones(len(rows)), rows])
        largest = np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]
        # Steps are three quarters of what would be unstable.
        assert 0.9 * largest <= moments.steepness(scale, center) <= 3 * largest
