# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Statements that sum hashes over blocks of a relation and read the rows of blocks that differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .canonical import BIG_TOAST, Agreement, RowHash, hashed
from .catalog import Column, Table, quote_ident
from .pairing import Pair, relation
from .spans import HIGHEST, LOWEST, Range, bounds, merged

INTEGERS = ("pg_catalog.int2", "pg_catalog.int4", "pg_catalog.int8")
RANGES_PER_QUERY = 300
_SUMS = "count(*), sum(h1)::text, sum(h2)::text"


@dataclass(frozen=True)
class Lens:
    """How one side of a pair is looked at.

    position: a bigint that every row has, the same on both sides for the same row: an integer of its key, the hash of its key, or of the whole row ('')
    key: quoted column whose values are the positions, or '' for hashes; indexed: an index on it reads a range without the rest
    names: key columns as text, for people
    """

    relation: str
    position: str
    key: str
    indexed: bool
    names: tuple[str, ...]
    hashed: RowHash

    def rows(self, where: str = "") -> str:
        """Query of (pos, k, h1, h2), one row each; k: the key as an array of texts."""
        key = f"ARRAY[{', '.join(self.names)}]::text[]" if self.names else "NULL::text[]"
        if self.position:
            return self._select([(self.position, "pos"), (key, "k")], where)
        return f"SELECT h1 AS pos, k, h1, h2 FROM ({self._select([(key, 'k')], where)} OFFSET 0) r"

    def positions(self, where: str = "") -> str:
        """Query of (pos, h1, h2)."""
        if self.position:
            return self._select([(self.position, "pos")], where)
        return f"SELECT h1 AS pos, h1, h2 FROM ({self._select([], where)} OFFSET 0) r"

    def _select(self, extra: list[tuple[str, str]], where: str) -> str:
        return self.hashed.select(extra, f"{self.relation} t {where}".rstrip())

    def whole_sums(self, where: str = "") -> str:
        """Statement of (0, rows, sum of h1, sum of h2)."""
        return f"SELECT 0, {_SUMS} FROM ({self._select([], where)}) s"

    def bucket_sums(self, shift: int, where: str = "") -> str:
        """The same by blocks of ``2 ** shift`` positions."""
        return f"SELECT pos >> {shift}, {_SUMS} FROM ({self.positions(where)}) s GROUP BY 1"

    def block_sums(self, starts: Sequence[int], where: str = "") -> str:
        """The same by blocks of these starts, in one pass over the relation."""
        return f"SELECT width_bucket(pos, {_array(starts)}), {_SUMS} FROM ({self.positions(where)}) s GROUP BY 1"

    def range_sums(self, starts: Sequence[int], first: int, last: int) -> str:
        """The same for blocks first to last, each read through the index."""
        spans = [bounds(block, starts) for block in range(first, last + 1)]
        listed = ", ".join(_array(ends) for ends in zip(*spans, strict=True))
        blocks = f"unnest({listed}) WITH ORDINALITY AS b(low, high, n)"
        inner = self._select([], f"WHERE {self.key} >= b.low AND {self.key} <= b.high")
        found = f"SELECT count(*) AS rows, sum(h1)::text AS first, sum(h2)::text AS second FROM ({inner}) s"
        return f"SELECT b.n + {first - 1}, r.rows, r.first, r.second FROM {blocks}, LATERAL ({found}) r WHERE r.rows > 0"

    def part_sums(self, starts: Sequence[int], coarse: Sequence[int], modulus: int) -> str:
        """Statement of (block, remainder, rows, sum of h1, sum of h2) for some blocks divided by the remainder of their positions."""
        if self.indexed:
            spans = [(block, *bounds(block, starts)) for block in coarse]
            blocks = f"unnest({', '.join(_array(ends) for ends in zip(*spans, strict=True))}) AS b(n, low, high)"
            inner = self._select([(self.position, "pos")], f"WHERE {self.key} >= b.low AND {self.key} <= b.high")
            return f"SELECT b.n, pos % {modulus}, {_SUMS} FROM {blocks}, LATERAL ({inner}) s GROUP BY 1, 2"
        block = f"width_bucket({self.position}, {_array(starts)})" if starts else "0"
        inner = self._select([(self.position, "pos"), (block, "block")], f"WHERE {block} = ANY ({_array(coarse)})")
        return f"SELECT block, pos % {modulus}, {_SUMS} FROM ({inner}) s GROUP BY 1, 2"

    def predicate(self, ranges: Sequence[Range]) -> str:
        """Condition on the relation's columns for rows inside these ranges."""
        if any((one.low, one.high, one.modulus) == (LOWEST, HIGHEST, 1) for one in ranges):
            return "true"
        if self.key:
            return " OR ".join(_between(self.key, self.position, one) for one in ranges)
        return _in_buckets(self.position or self.hashed.whole, ranges)

    def detail(self, ranges: Sequence[Range]) -> str:
        """Statement of (pos, k, h1, h2) for rows inside these ranges, by position."""
        if self.indexed:
            fields = [(one.low, one.high, one.modulus, one.residue) for one in ranges]
            spans = f"unnest({', '.join(_array(field) for field in zip(*fields, strict=True))}) AS b(low, high, m, r)"
            inside = f"WHERE {self.key} >= b.low AND {self.key} <= b.high AND {self.position} % b.m = b.r"
            # No plain column, or the planner would take the order from the key's index and read all of it.
            return f"SELECT s.pos, s.k, s.h1, s.h2 FROM {spans}, LATERAL ({self.rows(inside)}) s ORDER BY s.pos + 0"
        if self.position:
            return f"SELECT pos, k, h1, h2 FROM ({self.rows(f'WHERE {self.predicate(ranges)}')}) s ORDER BY 1"
        whole = any((one.low, one.high) == (LOWEST, HIGHEST) for one in ranges)
        inside = "true" if whole else _in_buckets("pos", ranges)
        return f"SELECT pos, k, h1, h2 FROM ({self.rows()} OFFSET 0) d WHERE {inside} ORDER BY 1"


def _array(numbers: Sequence[int]) -> str:
    return f"'{{{','.join(map(str, numbers))}}}'::bigint[]"


def _between(key: str, position: str, one: Range) -> str:
    inside = f"{key} >= ({one.low})::bigint AND {key} <= ({one.high})::bigint"
    return f"({inside})" if one.modulus == 1 else f"({inside} AND {position} % {one.modulus} = {one.residue})"


def _in_buckets(what: str, ranges: Sequence[Range]) -> str:
    """One hashed lookup for any number of hash buckets, which all have the same width."""
    shift = (ranges[0].high - ranges[0].low).bit_length()
    return f"(({what}) >> {shift}) = ANY ({_array([one.low >> shift for one in ranges])})"


def columns_of(pair: Pair, side: int, chosen: Sequence[tuple[Column, Column]] | None = None) -> list[tuple[str, Column, Column]]:
    """(quoted name on this side, column of the source, of the target) of all columns, or of the chosen ones, in the source's order."""
    return [(quote_ident(both[side].name), *both) for both in (pair.columns if chosen is None else chosen)]


def is_big(pair: Pair) -> bool:
    """Whether a value of the pair may be so large that its text would not fit into a row's."""
    return max(pair.target.toast_bytes, *(leaf.toast_bytes for leaf in pair.leaves), 0) > BIG_TOAST


def lenses(pair: Pair, agreement: Agreement, leading: bool = False) -> tuple[Lens, Lens]:
    """(source, target). leading: the first of several key columns serves as the position, if it is an integer."""
    made = []
    tables: tuple[Table, Table] = (pair.source, pair.target)
    for side, table in enumerate(tables):
        row = hashed(agreement, columns_of(pair, side), is_big(pair))
        key = [columns[side] for columns in pair.key]
        names = tuple(f"{quote_ident(column.name)}::text" for column in key)
        if integer_key(pair, leading):
            column = quote_ident(key[0].name)
            indexed = table.key[:1] == (key[0].name,)
            made.append(Lens(relation(table), f"{column}::bigint", column, indexed, names, row))
        elif key:
            made.append(Lens(relation(table), hashed(agreement, columns_of(pair, side, pair.key)).whole, "", False, names, row))
        else:
            made.append(Lens(relation(table), "", "", False, (), row))
    return made[0], made[1]


def integer_key(pair: Pair, leading: bool = False) -> bool:
    """Whether positions are the values of one integer column: of the only key column, or of the first of several."""
    return (len(pair.key) == 1 or (leading and len(pair.key) > 1)) and all(column.base in INTEGERS for column in pair.key[0])


def batches(eye: Lens, ranges: Sequence[Range]) -> Iterator[list[Range]]:
    """Ranges for one statement each: neighbours as one and a bounded number for a key, all at once for hash buckets."""
    if not eye.key:
        if ranges:
            yield list(ranges)
        return
    fewer = merged(ranges)
    for start in range(0, len(fewer), RANGES_PER_QUERY):
        yield fewer[start : start + RANGES_PER_QUERY]
