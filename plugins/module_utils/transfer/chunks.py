# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a table is cut into pieces that are copied independently. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .catalog import Table, quote_ident

MAX_PARTS = 10_000
CHUNK_BYTES = 256 * 1024 * 1024
# Below this a key range visits blocks all over the table and blocks are the better cut.
MIN_CORRELATION = 0.9


@dataclass(frozen=True)
class KeyStats:
    """What the statistics say about an integer key. bounds: ends of buckets that hold equally many rows; low, high: smallest and largest now."""

    column: str
    bounds: tuple[int, ...]
    correlation: float
    low: int
    high: int


@dataclass(frozen=True)
class Chunk:
    """A piece of a table. kind: whole, key or blocks; lo is inclusive, hi exclusive, None is open; bytes: estimate.

    Pieces of one table are disjoint and leave nothing out. Blocks mean something only inside one snapshot.
    """

    schema: str
    table: str
    number: int
    total: int
    kind: str
    column: str
    lo: int | None
    hi: int | None
    bytes: int

    @property
    def predicate(self) -> str:
        """WHERE clause, or '' for a whole table."""
        if self.kind == "whole":
            return ""
        if self.kind == "blocks":
            low = f"ctid >= '({self.lo},0)'::tid" if self.lo is not None else ""
            high = f"ctid < '({self.hi},0)'::tid" if self.hi is not None else ""
        else:
            low = f"{quote_ident(self.column)} >= {self.lo}" if self.lo is not None else ""
            high = f"{quote_ident(self.column)} < {self.hi}" if self.hi is not None else ""
        return "WHERE " + " AND ".join(part for part in (low, high) if part)


def split(table: Table, chunk_bytes: int = CHUNK_BYTES, stats: KeyStats | None = None) -> tuple[Chunk, ...]:
    """Pieces of about ``chunk_bytes``: by integer key when its statistics can be trusted to give even ones, else by blocks."""
    parts = min(-(-table.size_bytes // max(chunk_bytes, 1)), max(table.pages, 1), MAX_PARTS)
    if parts <= 1:
        return (Chunk(table.schema, table.name, 0, 1, "whole", "", None, None, table.size_bytes),)
    cuts: list[int]
    if stats is not None and trusted(stats, parts):
        kind, column = "key", stats.column
        buckets = len(stats.bounds) - 1
        cuts = sorted({stats.bounds[place * buckets // parts] for place in range(1, parts)})
    else:
        kind, column = "blocks", ""
        cuts = [place * table.pages // parts for place in range(1, parts)]
    edges: list[int | None] = [None, *cuts, None]
    share = table.size_bytes // (len(cuts) + 1)
    return tuple(
        Chunk(table.schema, table.name, number, len(cuts) + 1, kind, column, low, high, share)
        for number, (low, high) in enumerate(zip(edges, edges[1:], strict=False))
    )


def trusted(stats: KeyStats, parts: int) -> bool:
    """Whether cuts at the histogram's bounds give even pieces: rows lie in key order and the table has not outgrown its statistics."""
    if len(stats.bounds) <= parts or abs(stats.correlation) < MIN_CORRELATION:
        return False
    slack = (stats.bounds[-1] - stats.bounds[0]) // parts
    return stats.low >= stats.bounds[0] - slack and stats.high <= stats.bounds[-1] + slack


def in_order(chunks: Iterable[Chunk]) -> tuple[Chunk, ...]:
    """Largest table first, so that no worker begins the longest one last; within a table by number."""
    pieces = tuple(chunks)
    weight: dict[tuple[str, str], int] = {}
    for piece in pieces:
        weight[piece.schema, piece.table] = weight.get((piece.schema, piece.table), 0) + piece.bytes
    return tuple(sorted(pieces, key=lambda piece: (-weight[piece.schema, piece.table], piece.schema, piece.table, piece.number)))
