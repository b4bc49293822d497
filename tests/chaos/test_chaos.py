"""The short version of the chaos suite; ``python -m tests.chaos`` is the long one."""

from __future__ import annotations

import logging

import pytest

from tests.chaos import harness


@pytest.fixture(scope="module")
def arena():
    level = logging.getLogger("distributed").level
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    arena = harness.Arena()
    try:
        arena.calibrate()
        yield arena
    finally:
        arena.close()
        logging.getLogger("distributed").setLevel(level)


@pytest.mark.parametrize("name", ["the server's worker killed", "both within a second", "scaled down and up"])
def test_a_disturbed_fit_ends_like_an_undisturbed_one(arena, name):
    outcome = harness.run(arena, name, seed=1)
    assert not outcome.problems, outcome
