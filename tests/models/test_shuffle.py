import itertools
import math

import numpy as np
import pytest

from skdist.models.shuffle import shuffled_pages


def test_all_orders_are_equally_likely():
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    draws = 24_000
    for epoch in range(draws):
        counts[tuple(shuffled_pages(4, 1, (7, epoch, 0)).tolist())] += 1
    # Five standard deviations of each count.
    assert max(abs(count - draws / 24) for count in counts.values()) < 5 * math.sqrt(draws / 24)


@pytest.mark.parametrize("place", [0, 250, 499])
def test_any_row_may_be_anywhere(place):
    rows = [shuffled_pages(500, 1, (3, epoch, 1))[place] for epoch in range(2000)]
    histogram = np.histogram(rows, bins=10, range=(0, 500))[0]
    assert abs(histogram - 200).max() < 5 * math.sqrt(200)


def test_consecutive_entropies_give_unrelated_orders():
    a, b = shuffled_pages(2000, 1, (1, 0, 0)), shuffled_pages(2000, 1, (1, 1, 0))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.12
    assert np.mean(a == b) < 0.01


@pytest.mark.parametrize("n_rows", [0, 1, 15, 40, 999, 2000])
@pytest.mark.parametrize("page", [1, 2, 10, 16])
def test_each_row_comes_once(n_rows, page):
    for epoch in range(50):
        np.testing.assert_array_equal(np.sort(shuffled_pages(n_rows, page, (1, epoch))), np.arange(n_rows))


@pytest.mark.parametrize("row", [0, 1000, 1999])
def test_rows_of_a_page_that_is_cut_off_may_be_anywhere_too(row):
    places = [np.flatnonzero(shuffled_pages(2000, 16, (3, epoch)) == row)[0] for epoch in range(2000)]
    histogram = np.histogram(places, bins=5, range=(0, 2000))[0]
    assert abs(histogram - 400).max() < 5 * math.sqrt(400)
