import numpy as np
import pytest
import scipy.sparse as sp

from skdist.models.columns import Places, compacted, narrowed, spread, union


def rows_in(columns, n_features, n_rows=20, seed=0):
    X = sp.random_array((n_rows, len(columns)), density=0.4, rng=np.random.default_rng(seed), format="coo")
    return sp.csr_array((X.data, (X.row, np.asarray(columns)[X.col])), shape=(n_rows, n_features))


@pytest.mark.parametrize("columns", [[3, 5, 11], [0, 63, 64, 99], list(range(40, 80))])
def test_compacted_rows_have_the_columns_that_are_stored(columns):
    X = rows_in(columns, 100)
    found, rows = compacted(X)
    np.testing.assert_array_equal(found, columns)
    np.testing.assert_array_equal(rows.toarray(), X.toarray()[:, columns])


def test_rows_stay_as_they_are_where_most_columns_are_stored():
    X = rows_in([0, 1, 2], 5)
    assert compacted(X) == (None, X)
    assert compacted(rows_in(range(51), 100))[0] is None


def test_rows_that_store_nothing_have_no_columns():
    found, rows = compacted(sp.csr_array((4, 7)))
    assert len(found) == 0
    assert rows.shape == (4, 0)


def test_union():
    a, b = np.array([1, 4]), np.array([2, 4, 9])
    np.testing.assert_array_equal(union([a, b]), [1, 2, 4, 9])
    assert union([a, a.copy()]) is a
    assert union([a, None]) is None


@pytest.mark.parametrize("among", [None, np.array([1, 3, 4, 8])])
def test_spread_puts_values_at_their_columns(among):
    columns = np.array([1, 4])
    values = np.arange(6.0).reshape(3, 2)
    wide = spread(values, columns, among, 10)
    assert wide.shape == (3, 10 if among is None else 4)
    places = columns if among is None else [0, 2]
    np.testing.assert_array_equal(wide[:, places], values)
    assert np.count_nonzero(wide) == np.count_nonzero(values)
    assert spread(values, columns, columns, 10) is values


def test_narrowed_rows_keep_what_is_stored_in_the_columns():
    X = rows_in([2, 30, 31, 77], 90)
    np.testing.assert_array_equal(
        narrowed(X, np.array([2, 30, 31, 77])).toarray(), X.toarray()[:, [2, 30, 31, 77]]
    )
    np.testing.assert_array_equal(narrowed(X, np.array([2, 31])).toarray(), X.toarray()[:, [2, 31]])


@pytest.mark.parametrize("last", [9, 10**12])
def test_places_among_others(last):
    columns, among = np.array([2, 5, last]), np.array([1, 2, 5, 7, last])
    places = Places(among)
    np.testing.assert_array_equal(places.of(columns), [1, 2, 4])
    assert len(places.of(columns[:0])) == len(Places(among[:0]).of(columns[:0])) == 0
    assert places.of(among) == places.of(None) == slice(None)
    assert Places(None).of(columns) is columns
