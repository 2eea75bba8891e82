"""Blocks and streams of rows are compared without a server: nothing is overlooked, nothing accused wrongly."""

from __future__ import annotations

from collections import Counter

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import spans
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.differences import Hit, Tally, merge
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.spans import Range, checksum
from hypothesis import given
from hypothesis import strategies as st

positions = st.integers(-(2**63), 2**63 - 1)


@given(st.dictionaries(positions, st.integers(0, 3), max_size=30), st.dictionaries(positions, st.integers(0, 3), max_size=30))
def test_merge_finds_exactly_what_differs_for_unique_keys(left: dict[int, int], right: dict[int, int]) -> None:
    def hits(rows: dict[int, int]) -> list[Hit]:
        return [(position, (str(position),), value, value * 7) for position, value in sorted(rows.items())]

    tally = Tally(cap=1000)
    merge(hits(left), hits(right), tally)
    assert {hit[0] for hit in tally.missing} == left.keys() - right.keys() and tally.missing_count == len(tally.missing)
    assert {hit[0] for hit in tally.extra} == right.keys() - left.keys() and tally.extra_count == len(tally.extra)
    assert {hit[0] for hit in tally.changed} == {key for key in left.keys() & right.keys() if left[key] != right[key]}


@given(st.lists(st.integers(0, 5), max_size=40), st.lists(st.integers(0, 5), max_size=40))
def test_merge_counts_multiplicity_without_a_key(left: list[int], right: list[int]) -> None:
    tally = Tally(cap=0)
    merge([(value, None, value, 1) for value in sorted(left)], [(value, None, value, 1) for value in sorted(right)], tally)
    assert (tally.missing_count, tally.extra_count) == ((Counter(left) - Counter(right)).total(), (Counter(right) - Counter(left)).total())
    assert tally.changed_count == 0 and not tally.missing and not tally.extra


def test_keys_that_share_a_position_are_told_apart() -> None:
    tally = Tally(cap=10)
    merge([(1, ("a",), 5, 5), (1, ("b",), 6, 6)], [(1, ("b",), 6, 6), (1, ("c",), 5, 5)], tally)
    assert [hit[1] for hit in tally.missing] == [("a",)] and [hit[1] for hit in tally.extra] == [("c",)] and not tally.changed_count


@given(st.lists(st.tuples(positions, st.integers(-(2**63), 2**63 - 1)), max_size=40), st.integers(0, 63), st.integers(0, 63))
def test_checksum_does_not_depend_on_the_cut(rows: list[tuple[int, int]], one: int, other: int) -> None:
    def sums(shift: int) -> dict[int, tuple[int, int, int]]:
        found: dict[int, tuple[int, int, int]] = {}
        for position, value in rows:
            count, first, second = found.get(position >> shift, (0, 0, 0))
            found[position >> shift] = (count + 1, first + value, second - value)
        return found

    assert checksum(sums(one)) == checksum(sums(other))
    assert spans.differing(sums(one), sums(one)) == []


def test_sums_of_equal_rows_add_up_instead_of_cancelling() -> None:
    assert spans.differing({0: (2, 10, 10)}, {0: (4, 20, 20)}) == [0] and spans.differing({0: (2, 0, 0)}, {0: (4, 0, 0)}) == [0]
    assert spans.differing({1: (1, 5, 5)}, {0: (1, 5, 5)}) == [0, 1] and spans.differing({0: (1, 5, 5)}, {0: (1, 5, 6)}) == [0]


@given(st.lists(positions, max_size=60), st.lists(positions, max_size=60), st.floats(0, 1e7))
def test_every_position_is_in_exactly_one_block(keys: list[int], histogram: list[int], rows: float) -> None:
    low, high = (min(keys), max(keys)) if keys else (0, 0)
    starts = spans.cuts(rows, low, high, sorted(histogram))
    assert starts == sorted(set(starts)) and all(low < start <= high for start in starts)
    for key in (*keys, spans.LOWEST, spans.HIGHEST):
        first, last = spans.bounds(spans.block_of(key, starts), starts)
        assert first <= key <= last
    edges = [spans.bounds(block, starts) for block in range(len(starts) + 1)]
    assert edges[0][0] == spans.LOWEST and edges[-1][1] == spans.HIGHEST
    assert all(one[1] + 1 == other[0] for one, other in zip(edges, edges[1:], strict=False))


@pytest.mark.parametrize("gap", [1, 1000, 10**12])
def test_blocks_are_filled_evenly_whatever_the_gaps_between_keys(gap: int) -> None:
    """Four fifths of the rows lie close together, the others far apart; the server's statistics know."""
    keys = [*range(800_000), *range(800_000, 800_000 + 200_000 * gap, gap)]
    histogram = [keys[place * (len(keys) - 1) // 100] for place in range(101)]
    starts = spans.cuts(len(keys), keys[0], keys[-1], histogram)
    filled = Counter(spans.block_of(key, starts) for key in keys[::7])
    assert len(starts) >= len(keys) / spans.BLOCK_ROWS - 1 and max(filled.values()) * 7 < 2 * spans.BLOCK_ROWS


def test_keys_given_since_the_statistics_were_made_are_divided_too() -> None:
    starts = spans.cuts(2_000_000, 0, 2_000_000, [place * 10_000 for place in range(101)])
    filled = Counter(spans.block_of(key, starts) for key in range(0, 2_000_000, 11))
    assert max(filled.values()) * 11 < 2 * spans.BLOCK_ROWS


def test_small_tables_are_one_block_and_buckets_are_neither_too_many_nor_too_full() -> None:
    assert spans.cuts(5000, 1, 5000) == [] and spans.cuts(1e6, 7, 7) == [] and spans.bounds(0, []) == (spans.LOWEST, spans.HIGHEST)
    assert spans.bucket_shift(0) == 63 and spans.bucket_shift(1_000_000) == 54 and spans.bucket_shift(1e15) == 64 - spans.MAX_BUCKET_BITS


def test_parts_of_a_block_are_small_and_neighbours_are_read_as_one() -> None:
    assert [spans.modulus(rows) for rows in (600, 8192, 1_000_000)] == [61, 251, 16381]
    one, other, part = Range(0, 9, 1, 2), Range(10, 19, 3, 4), Range(20, 29, 1, 1, 61, 5)
    assert spans.merged([one, other, part, Range(20, 29, 1, 1, 61, 6)]) == [Range(0, 19, 4, 6), part, Range(20, 29, 1, 1, 61, 6)]


@given(st.lists(st.tuples(positions, st.booleans()), max_size=30), st.integers(0, 10))
def test_one_sided_blocks_count_every_row_and_list_a_few(rows: list[tuple[int, bool]], cap: int) -> None:
    tally = Tally(cap)
    hits: list[Hit] = [(position, (str(position),), 1, 1) for position, _unused in rows]
    tally.one_sided(True, len(rows), hits)
    assert tally.missing_count == len(rows) and tally.extra_count == 0
    assert len(tally.missing) == min(cap, len({hit[1] for hit in hits}))
