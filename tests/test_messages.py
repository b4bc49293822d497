import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.messages import Link, Segment, Visit

segments = st.lists(
    st.builds(
        lambda p, a, n: Segment(p, a, a + n), st.integers(0, 5), st.integers(0, 20), st.integers(1, 20)
    ),
    min_size=1,
    max_size=5,
).map(tuple)


def rows_of(parts):
    return [(s.partition, row) for s in parts for row in range(s.start, s.stop)]


@settings(deadline=None, max_examples=100)
@given(segments, st.integers(-3, 110))
def test_split_parts_the_rows_at_the_offset(parts, offset):
    visit = Visit(1, 0, parts)
    done, left = visit.split(offset)
    cut = min(max(offset, 0), visit.rows)
    assert rows_of(done) == rows_of(parts)[:cut]
    assert rows_of(left) == rows_of(parts)[cut:]
    assert all(segment.rows > 0 for segment in done + left)


def test_rows_of_a_visit_are_those_of_its_segments():
    assert Visit(1, 0, (Segment(0, 3, 10), Segment(4, 0, 5))).rows == 12


def test_median_of_a_link_leaves_missed_heartbeats_out():
    assert Link((0.001, float("inf"), 0.003, 0.002)).median == 0.002
    assert Link((float("inf"),)).median == 0.0
    assert Link().median == 0.0


def test_messages_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Segment(0, 0, 1).stop = 2


def test_a_visit_knows_the_epoch_of_each_row():
    visit = Visit(1, 4, (Segment(0, 0, 2), Segment(1, 3, 4), Segment(0, 0, 2, 1)))
    assert [visit.epoch_at(row) for row in range(6)] == [4, 4, 4, 5, 5, 6]
    assert [segment.ahead for segment in visit.split(4)[1]] == [1]
    assert [segment.ahead for segment in visit.split(4)[0]] == [0, 0, 1]
