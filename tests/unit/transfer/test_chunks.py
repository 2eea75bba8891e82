"""Pieces of a table are disjoint, leave nothing out, and are cut where rows are."""

from __future__ import annotations

import re

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.catalog import Table
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.chunks import Chunk, KeyStats, in_order, split, trusted
from hypothesis import given
from hypothesis import strategies as st


def table(pages: int, size: int, name: str = "t") -> Table:
    return Table(1, "public", name, "r", (), ("id",), "primary", None, False, -1, pages, size, (), "p", "")


def inside(chunk: Chunk, position: int) -> bool:
    return (chunk.lo is None or position >= chunk.lo) and (chunk.hi is None or position < chunk.hi)


@given(st.integers(0, 5000), st.integers(0, 10**9), st.integers(1, 10**8), st.integers(0, 2**31))
def test_every_block_is_in_exactly_one_piece(pages: int, size: int, chunk_bytes: int, block: int) -> None:
    pieces = split(table(pages, size), chunk_bytes)
    assert sum(inside(piece, block) for piece in pieces) == 1
    assert [piece.number for piece in pieces] == list(range(len(pieces))) and {piece.total for piece in pieces} == {len(pieces)}
    assert len(pieces) <= max(pages, 1)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=101), st.integers(2, 120), st.integers(-(2**63), 2**63 - 1))
def test_every_key_is_in_exactly_one_piece(bounds: list[int], parts: int, key: int) -> None:
    ordered = tuple(sorted(bounds))
    pieces = split(table(10**6, parts * 1000), 1000, KeyStats("id", ordered, 1.0, ordered[0], ordered[-1]))
    assert sum(inside(piece, key if piece.kind == "key" else abs(key) % 2**32) for piece in pieces) == 1


def test_cuts_follow_the_histogram_over_a_gap() -> None:
    bounds = (*range(0, 1000, 10), 10**12)
    pieces = split(table(10**6, 10_000), 1000, KeyStats("id", bounds, 0.99, 0, 10**12))
    assert len(pieces) == 10 and all(piece.kind == "key" for piece in pieces)
    assert all(piece.hi is not None and piece.hi < 1000 for piece in pieces[:-1]), "no cut in the empty space"


def test_statistics_are_not_trusted_when_rows_are_scattered_or_new() -> None:
    bounds = tuple(range(0, 1010, 10))
    assert trusted(KeyStats("id", bounds, 0.95, 0, 1000), 10)
    assert not trusted(KeyStats("id", bounds, 0.2, 0, 1000), 10)
    assert not trusted(KeyStats("id", bounds, 0.95, 0, 100_000), 10), "the table has outgrown them"
    assert not trusted(KeyStats("id", bounds, 0.95, 0, 1000), 101)
    assert {piece.kind for piece in split(table(10**6, 10_000), 1000, KeyStats("id", bounds, 0.2, 0, 1000))} == {"blocks"}


def test_predicates_are_statements_parts() -> None:
    pieces = split(table(100, 4000), 1000)
    assert pieces[0].predicate == "WHERE ctid < '(25,0)'::tid" and pieces[-1].predicate == "WHERE ctid >= '(75,0)'::tid"
    assert split(table(1, 10), 1000)[0].predicate == ""
    keyed = Chunk("s", "t", 0, 2, "key", 'o"dd', -5, 7, 0)
    assert re.fullmatch(r'WHERE "o""dd" >= -5 AND "o""dd" < 7', keyed.predicate)


def test_largest_table_goes_first_and_pieces_stay_in_order() -> None:
    pieces = [*split(table(10, 100, "small"), 1000), *split(table(1000, 9000, "large"), 1000), *split(table(10, 8000, "middle"), 10**6)]
    ordered = in_order(reversed(pieces))
    assert [piece.table for piece in ordered] == ["large"] * 9 + ["middle", "small"]
    assert [piece.number for piece in ordered[:9]] == list(range(9))
