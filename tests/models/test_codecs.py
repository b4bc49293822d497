"""Vectors in fewer bits say what NumPy and a sort would say."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.exceptions import DivergedError
from skdist.models.codecs import Entries, HalfPrecision, Halves, TopK

numbers = st.floats(-(2.0**100), 2.0**100, width=32)
vectors = st.lists(numbers, min_size=1, max_size=40).map(lambda values: np.array(values, np.float32))


def decoded(payload, size):
    vector = np.zeros(size, np.float32)
    payload.add_to(vector, vector)
    return vector


@pytest.mark.parametrize(("brain", "precision"), [(False, 2.0**-11), (True, 2.0**-8)])
@settings(deadline=None)
@given(change=vectors)
def test_halves_round_to_the_nearest_and_never_overflow(brain, precision, change):
    payload = pickle.loads(pickle.dumps(HalfPrecision(brain).encode(change)))
    assert payload.nbytes == 2 * len(change)
    # How far the smallest numbers are apart: 2^-24 of the scale, and 2^-133.
    least = 2.0**-134 if brain else payload.scale * 2.0**-25
    error = np.abs(decoded(payload, len(change)).astype(float) - change)
    assert (error <= np.maximum(precision * np.abs(change.astype(float)), least) * (1 + 1e-6) + 1e-44).all()


@settings(deadline=None)
@given(change=vectors, share=st.floats(0.01, 1.0))
def test_the_largest_entries_are_sent_as_they_are(change, share):
    payload = TopK(share).encode(change)
    count = max(int(np.ceil(share * len(change))), 1)
    assert payload.nbytes == 8 * count
    sent = decoded(payload, len(change))
    np.testing.assert_array_equal(sent[payload.positions], change[payload.positions])
    left_out = np.delete(change, payload.positions)
    assert np.abs(left_out).max(initial=0) <= np.abs(payload.values).min()
    assert len(np.unique(payload.positions)) == count


def every_half() -> np.ndarray:
    """Return all finite numbers of float16, as float32."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return values[np.isfinite(values)].astype(np.float32)


def test_all_numbers_of_half_precision_arrive_as_they_are():
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]
    for scale in (1.0, 2.0**-40, 2.0**60):
        arrived = decoded(Halves(bits, scale, brain=False), len(bits))
        np.testing.assert_array_equal(arrived, bits.view(np.float16).astype(np.float32) * np.float32(scale))


def test_half_precision_rounds_as_numpy_does():
    exact = every_half()
    exact = np.sort(exact[np.abs(exact) < 2])
    middles = (exact[1:] + exact[:-1]) / 2  # ties, which float32 holds
    rng = np.random.default_rng(0)
    spread = rng.normal(size=20_000) * 2.0 ** rng.integers(-30, 0, 20_000)
    near = np.concatenate([np.nextafter(middles, np.float32(side)) for side in (-9, 9)])
    values = np.concatenate([exact, middles, near, np.clip(spread, -1.9, 1.9), [0.0, -0.0, 1.5]])
    values = values.astype(np.float32)
    sent = HalfPrecision().encode(values)
    assert sent.scale == 1.0
    np.testing.assert_array_equal(sent.bits, values.astype(np.float16).view(np.uint16))


def test_brain_floats_round_to_the_nearest_and_ties_to_even():
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    upper = upper[np.isfinite(upper.view(np.float32)) & (upper & 0x7FFF0000 < 0x7F7F0000)]
    for below, up in ((0, 0), (0x7FFF, 0), (0x8000, (upper >> 16) & 1), (0x8001, 1)):
        sent = HalfPrecision(brain=True).encode((upper | np.uint32(below)).view(np.float32))
        np.testing.assert_array_equal(sent.bits, (upper >> 16) + up)
    exact = upper.view(np.float32)
    np.testing.assert_array_equal(decoded(Halves(sent.bits - 1, 1.0, True), len(upper)), exact)


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.25, 0.5, 1.0])
def test_of_equal_entries_the_first_are_sent(share):
    values = np.tile(np.array([1, -1, 2, 0, -2, 1 + 2**-12], np.float32), 10)
    sent = TopK(share).encode(values)
    order = np.argsort(-np.abs(values), kind="stable")
    count = max(int(np.ceil(share * len(values))), 1)
    np.testing.assert_array_equal(sent.positions, np.sort(order[:count]))
    np.testing.assert_array_equal(sent.values, values[sent.positions])


def test_double_precision_is_kept():
    rng = np.random.default_rng(0)
    values = 1 + rng.random(1_000) * 1e-9  # all the same in float32
    sent = TopK(0.1).encode(values)
    np.testing.assert_array_equal(sent.positions, np.sort(np.argsort(-values)[:100]))
    assert sent.values.dtype == np.float64


@pytest.mark.parametrize("codec", [HalfPrecision(), HalfPrecision(brain=True), TopK(0.3)], ids=str)
def test_what_arrives_is_added_to_a_base_that_stays(codec):
    base, change = np.random.default_rng(0).normal(size=(2, 500)).astype(np.float32)
    before, out = base.copy(), np.empty_like(base)
    payload = codec.encode(change)
    assert isinstance(payload, Halves | Entries)
    payload.add_to(base, out)
    np.testing.assert_array_equal(base, before)
    np.testing.assert_array_equal(out, base + decoded(payload, 500))
    payload.add_to(base, base)
    np.testing.assert_array_equal(base, out)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 13, 99])
def test_what_is_not_finite_never_becomes_a_number(bad, place):
    change = np.linspace(-3, 3, 100, dtype=np.float32)
    change[place] = bad
    for codec in (HalfPrecision(), TopK(0.3)):
        with pytest.raises(DivergedError, match="Lower the step size"):
            codec.encode(change)
    arrived = decoded(HalfPrecision(brain=True).encode(change), 100)
    np.testing.assert_array_equal(arrived[place], np.float32(bad))


def test_any_finite_number_is_taken():
    largest = np.float32(3.4e38)
    for change in (np.array([largest, -largest, 1e-45], np.float32), np.zeros(3, np.float32)):
        for codec in (HalfPrecision(), TopK(1.0)):
            np.testing.assert_allclose(decoded(codec.encode(change), 3), change, rtol=1e-3, atol=1e-44)
