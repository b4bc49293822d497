import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from skdist.control.shares import crew, equal_shares, share_homes, share_with
from skdist.messages import Segment

layouts = st.lists(st.integers(0, 200), min_size=1, max_size=8).filter(any)


@settings(deadline=None, max_examples=150)
@given(layouts, st.integers(1, 9), st.sampled_from([1, 2, 7, 16, 64]))
def test_equal_shares_hold_every_row_once_and_are_equal_up_to_a_step(rows, count, step):
    shares = equal_shares(rows, count, step)
    assert len(shares) <= count
    assert all(shares)
    sizes = [sum(segment.rows for segment in share) for share in shares]
    sizes += [0] * (count - len(shares))
    assert max(abs(size - sum(rows) / count) for size in sizes) <= 1.5 * step
    segments = [segment for share in shares for segment in share]
    assert all(segment.start % step == 0 for segment in segments)
    covered = [(s.partition, row) for s in segments for row in range(s.start, s.stop)]
    assert covered == [(partition, row) for partition, n in enumerate(rows) for row in range(n)]


@settings(deadline=None, max_examples=100)
@given(
    layouts,
    st.lists(st.sampled_from("abc"), min_size=8, max_size=8),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3)),
)
def test_every_share_has_a_home_as_long_as_there_are_slots(rows, homes, slots):
    homes, slots = dict(enumerate(homes)), dict(zip("abc", slots, strict=True))
    shares = equal_shares(rows, sum(slots.values()), 8)
    placed = share_homes(shares, homes, slots)
    assert set(placed) == set(range(len(shares)))
    assert all(count <= slots[name] for name, count in Counter(placed.values()).items())
    # Nobody sits elsewhere while its rows are at a worker with a free slot.
    free = Counter(slots) - Counter(placed.values())
    for number, name in placed.items():
        held = Counter()
        for segment in shares[number]:
            held[homes[segment.partition]] += segment.rows
        assert all(held[name] >= held[other] for other in free if free[other])


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 4), min_size=1),
    st.one_of(st.integers(1, 30), st.just(math.inf)),
    st.lists(st.sampled_from("abcdef"), max_size=3),
)
def test_a_crew_has_as_many_slots_as_pay_and_those_who_come_first(threads, most, first):
    chosen = crew(threads, most, first)
    assert sum(chosen.values()) == min(most, sum(threads.values()))
    assert all(1 <= slots <= threads[name] for name, slots in chosen.items())
    # Who stays out, or is not in with all slots, comes after those who are.
    order = list(dict.fromkeys([*(name for name in first if name in threads), *threads]))
    full = [chosen.get(name, 0) == threads[name] for name in order]
    assert full == sorted(full, reverse=True)


def test_a_single_worker_gets_all_rows_of_those_who_stay_out():
    homes = {0: "a", 1: "b", 2: "b", 3: ""}
    share_with("a", ["a"], homes, [5, 5, 0, 5])
    assert [homes[number] for number in (0, 1, 3)] == ["a"] * 3


def test_shares_sit_where_most_of_their_rows_are():
    shares = [
        (Segment(0, 0, 10), Segment(1, 0, 90)),
        (Segment(1, 90, 100), Segment(2, 0, 90)),
        (Segment(3, 0, 5),),
    ]
    homes = {0: "a", 1: "b", 2: "a", 3: "a"}
    assert share_homes(shares, homes, {"a": 1, "b": 1, "c": 1}) == {0: "b", 1: "a", 2: "c"}
    assert share_homes(shares, {}, {"a": 2, "b": 1}) == {0: "a", 1: "a", 2: "b"}
