# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a REST source shows against what the target holds: hashes of its rows gathered in a temporary table of the target, joined by key.

The source's texts are turned into values by the target itself, so both sides are printed and hashed by one server under pinned settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import session
from .canonical import RowHash, row_hash
from .catalog import Column, qualified, quote_ident
from .errors import TransferError, certain
from .pairing import Pair, relation
from .rest_source import Key, Row, named

if TYPE_CHECKING:
    import psycopg

SEEN = "pg_temp.cutover_seen"
_KINDS = ("missing", "changed", "extra")


@dataclass(frozen=True)
class Moved:
    """How the target differs. seen: rows the source showed; held: rows the target has; counts are exact, whatever is listed later."""

    seen: int
    held: int
    missing: int
    changed: int
    extra: int

    @property
    def none(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.changed or self.extra)


def ordered_columns(pair: Pair) -> tuple[tuple[Column, Column], ...]:
    """Columns of a pair, those of the key first."""
    key = pair.key
    names = {left.name for left, _right in key}
    return (*key, *(both for both in pair.columns if both[0].name not in names))


def begin(conn: psycopg.Connection[Any], pair: Pair) -> None:
    """Make the empty table of what is seen."""
    conn.execute(f"DROP TABLE IF EXISTS {SEEN}")
    listed = ", ".join(f"{quote_ident(right.name)} AS k{place}" for place, (_left, right) in enumerate(pair.key))
    hashes = "NULL::bigint AS h1, NULL::bigint AS h2"
    conn.execute(f"CREATE TEMPORARY TABLE cutover_seen AS SELECT {listed}, {hashes} FROM {relation(pair.target)} WITH NO DATA")


def note(conn: psycopg.Connection[Any], pair: Pair, rows: Sequence[Row]) -> None:
    """Add rows of the source, in the order of :func:`ordered_columns`, to what is seen. Raises TransferError for a value the target cannot read."""
    columns = ordered_columns(pair)
    hashed = _hash(right for _left, right in columns)
    keys = ", ".join(f"c{place} AS k{place}" for place in range(len(pair.key)))
    outer = ", ".join(f"k{place}" for place in range(len(pair.key)))
    inner = f"SELECT {keys}, {hashed.inner} AS x FROM ({_values(columns)}) s OFFSET 0"
    _run(conn, pair, rows, f"INSERT INTO {SEEN} SELECT {outer}, {hashed.first}, {hashed.second} FROM ({inner}) q", len(columns))


def compare(conn: psycopg.Connection[Any], pair: Pair) -> Moved:
    """How the target differs from what is seen."""
    conn.execute(f"ANALYZE {SEEN}")
    seen = int(certain(conn.execute(f"SELECT count(*) FROM {SEEN}").fetchone(), "a count")[0])
    sums = ", ".join(f"count(*) FILTER (WHERE kind = '{kind}')" for kind in _KINDS)
    row = certain(
        conn.execute(f"SELECT count(*) FILTER (WHERE kind <> 'missing'), {sums} FROM ({_joined(pair)}) j").fetchone(), "the comparison"
    )
    return Moved(seen, *(int(value) for value in row))


def differing(conn: psycopg.Connection[Any], pair: Pair, kind: str, limit: int | None = None) -> Iterator[list[Key]]:
    """Keys of the rows that are missing, changed or extra, as texts, some at a time."""
    texts = ", ".join(f"k{place}::text" for place in range(len(pair.key)))
    most = f" LIMIT {limit}" if limit is not None else ""
    with conn.transaction(), conn.cursor(name="cutover_moved") as cursor:
        cursor.execute(f"SELECT {texts} FROM ({_joined(pair)}) j WHERE kind = '{kind}'{most}")
        while some := cursor.fetchmany(1000):
            yield [tuple(row) for row in some]


def changed_columns(conn: psycopg.Connection[Any], pair: Pair, rows: Sequence[Row]) -> dict[Key, tuple[str, ...]]:
    """{key as the target prints it: names on the source of the columns that differ} of these rows of the source, where the target has them."""
    columns = ordered_columns(pair)
    flags = ", ".join(
        f"CASE WHEN ROW({_plain(right, f's.c{place}')})::text IS DISTINCT FROM ROW({_plain(right, f't.{quote_ident(right.name)}')})::text THEN {place} END"
        for place, (_left, right) in enumerate(columns)
    )
    keys = ", ".join(f"s.c{place}::text" for place in range(len(pair.key)))
    same = " AND ".join(f"t.{quote_ident(right.name)} = s.c{place}" for place, (_left, right) in enumerate(pair.key))
    sql = f"SELECT ARRAY[{keys}]::text[], array_remove(ARRAY[{flags}]::int[], NULL) FROM ({_values(columns)}) s JOIN {relation(pair.target)} t ON {same}"
    found = _run(conn, pair, rows, sql, len(columns)).fetchall()
    return {tuple(key): tuple(columns[place][0].name for place in places) for key, places in found}


def remove(conn: psycopg.Connection[Any], pair: Pair) -> int:
    """Delete from the target what differs and what the source does not have; how many rows."""
    same = " AND ".join(f"t.{quote_ident(right.name)} = j.k{place}" for place, (_left, right) in enumerate(pair.key))
    gone = conn.execute(f"DELETE FROM {relation(pair.target)} t USING ({_joined(pair)}) j WHERE j.kind IN ('changed', 'extra') AND {same}")
    return gone.rowcount


def insert_unclaimed(conn: psycopg.Connection[Any], pair: Pair, rows: Sequence[Row]) -> int:
    """Insert rows in the order of :func:`ordered_columns`, but for those whose unique values another row holds; how many went in."""
    columns = ordered_columns(pair)
    written = [(place, right) for place, (_left, right) in enumerate(columns) if not right.generated]
    names = ", ".join(quote_ident(right.name) for _place, right in written)
    picked = ", ".join(f"c{place}" for place, _right in written)
    sql = f"INSERT INTO {pair.target.sql} ({names}) OVERRIDING SYSTEM VALUE SELECT {picked} FROM ({_values(columns)}) s ON CONFLICT DO NOTHING"
    return _run(conn, pair, rows, sql, len(columns)).rowcount


def _joined(pair: Pair) -> str:
    """(kind, k0, k1, …) of every key on either side."""
    columns = ordered_columns(pair)
    hashed = _hash_of(columns)
    theirs = ", ".join(f"{quote_ident(right.name)} AS k{place}" for place, (_left, right) in enumerate(pair.key))
    names = ", ".join(f"k{place}" for place in range(len(pair.key)))
    held = f"SELECT {names}, {hashed.first} AS h1, {hashed.second} AS h2 FROM (SELECT {theirs}, {hashed.inner} AS x FROM {relation(pair.target)} OFFSET 0) i"
    kind = "CASE WHEN t.h1 IS NULL THEN 'missing' WHEN s.h1 IS NULL THEN 'extra' WHEN s.h1 <> t.h1 OR s.h2 <> t.h2 THEN 'changed' ELSE 'same' END"
    merged = ", ".join(f"coalesce(s.k{place}, t.k{place}) AS k{place}" for place in range(len(pair.key)))
    same = " AND ".join(f"s.k{place} = t.k{place}" for place in range(len(pair.key)))
    return f"SELECT {kind} AS kind, {merged} FROM {SEEN} s FULL JOIN ({held}) t ON {same}"


def _plain(column: Column, sql: str) -> str:
    """A value for comparison. Blanks at the end of char(n) are no part of it, and REST leaves them out."""
    return f"{sql}::text" if column.base == "pg_catalog.bpchar" else sql


def _hash(columns: Any) -> RowHash:
    return row_hash("text", [_plain(column, f"c{place}") for place, column in enumerate(columns)])


def _hash_of(columns: Sequence[tuple[Column, Column]]) -> RowHash:
    return row_hash("text", [_plain(right, quote_ident(right.name)) for _left, right in columns])


def _values(columns: Sequence[tuple[Column, Column]]) -> str:
    """Rows given as one array of texts per column, as values of the target's types. Modifiers stay away: they would shorten silently."""
    casts = ", ".join(f"c{place}::{qualified(*right.base.split('.', 1))} AS c{place}" for place, (_left, right) in enumerate(columns))
    names = ", ".join(f"c{place}" for place in range(len(columns)))
    arrays = ", ".join(["%s::text[]"] * len(columns))
    return f"SELECT {casts} FROM unnest({arrays}) u({names})"


def _run(conn: psycopg.Connection[Any], pair: Pair, rows: Sequence[Row], sql: str, width: int) -> psycopg.Cursor[Any]:
    escaped = sql.replace("%", "%%").replace("%%s::text[]", "%s::text[]")
    try:
        return conn.execute(escaped, [[row[place] for row in rows] for place in range(width)])
    except session.psycopg.errors.DataError as error:
        raise TransferError(
            f"the target cannot read a value of {pair.name} between {named(pair, rows[0])} and {named(pair, rows[-1])}: {str(error).splitlines()[0]}",
            "Give the target's column the source's type, or exclude the table.",
            kind="value",
            table=pair.name,
        ) from error
