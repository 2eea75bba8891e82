# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of what only the rows tell, looked at with a bound on the time it may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .catalog import Table, qualified, quote_ident
from .errors import certain
from .findings import INFO, WARNING, Finding, finding

if TYPE_CHECKING:
    import psycopg

LARGE_VALUE = 64 * 1024**2
HUGE_VALUE = 256 * 1024**2
SCAN_PAGES = 32768  # 256 MB: a larger heap is looked at by a sample of its blocks
TABLES_SCANNED = 20
PATIENCE_MS = 3000

_FOREIGN_KEY = """
SELECT k.confrelid::bigint, fn.nspname::text, f.relname::text, k.confmatchtype::text,
       (SELECT array_agg(a.attname::text ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY u(num, place)
          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num),
       (SELECT array_agg(a.attname::text ORDER BY u.place) FROM unnest(k.confkey) WITH ORDINALITY u(num, place)
          JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num),
       (SELECT array_agg(format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) ORDER BY u.place) FROM unnest(k.conpfeqop) WITH ORDINALITY u(op, place)
          JOIN pg_operator o ON o.oid = u.op JOIN pg_namespace n ON n.oid = o.oprnamespace),
       has_table_privilege(k.confrelid, 'SELECT') AND NOT row_security_active(k.confrelid)
FROM pg_constraint k JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace WHERE k.oid = %s::oid
"""
# The in-line size of a value that is stored elsewhere is read from its pointer: nothing is unpacked.
_VARLENA = "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::oid AND attlen = -1 AND attnum > 0 AND NOT attisdropped AND attstorage <> 'p'"
_READABLE = "SELECT c.oid::bigint FROM pg_class c WHERE c.oid = ANY(%s::oid[]) AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid)"


def violated(conn: psycopg.Connection[Any], table: Table, constraint: int) -> bool | None:
    """Whether a row breaks a foreign key that is NOT VALID; None when that could not be seen in time or at all."""
    row = certain(conn.execute(_FOREIGN_KEY, (constraint,)).fetchone(), "a foreign key")
    _oid, schema, name, match, columns, others, operators, readable = row
    if not readable or not _readable(conn, [table]):
        return None
    joined = " AND ".join(
        f"o.{quote_ident(other)} {operator} r.{quote_ident(column)}"
        for column, other, operator in zip(columns, others, operators, strict=True)
    )
    given = [f"r.{quote_ident(column)} IS NOT NULL" for column in columns]
    whole = " OR ".join(given) if match == "f" else " AND ".join(given)
    query = (
        f"SELECT EXISTS (SELECT FROM {table.sql} r WHERE ({whole}) AND NOT EXISTS (SELECT FROM {qualified(schema, name)} o WHERE {joined}))"
    )
    answer = _bounded(conn, query)
    return bool(answer[0]) if answer else None


def large_values(conn: psycopg.Connection[Any], tables: Sequence[Table]) -> list[Finding]:
    """Findings about tables with single values that need much memory, by their stored size. The largest tables are looked at."""
    candidates = sorted((t for t in tables if t.kind == "r" and t.toast_bytes >= LARGE_VALUE), key=lambda t: -t.toast_bytes)[
        :TABLES_SCANNED
    ]
    readable = _readable(conn, candidates)
    found = []
    for table in candidates:
        names = [name for (name,) in conn.execute(_VARLENA, (table.oid,)).fetchall()] if table.oid in readable else []
        if not names:
            continue
        share = min(100.0, 100.0 * SCAN_PAGES / max(table.pages, 1))
        sample = f" TABLESAMPLE SYSTEM ({share:.4f})" if share < 100 else ""
        sizes = _bounded(
            conn, "SELECT " + ", ".join(f"max(pg_column_size({quote_ident(name)}))" for name in names) + f" FROM ONLY {table.sql}{sample}"
        )
        for name, size in zip(names, sizes or (), strict=bool(sizes)):
            if size is not None and size >= LARGE_VALUE:
                text = f"column {name} has a value of {size // 1024**2} MiB as stored: each worker on it needs several times that in memory"
                fix = "Give the mover memory for it or use fewer workers; a value near 1 GB cannot be read as text at all."
                found.append(finding("value-large", table.dotted, text, fix, WARNING if size >= HUGE_VALUE else INFO))
    return found


def _readable(conn: psycopg.Connection[Any], tables: Sequence[Table]) -> set[int]:
    oids = [table.oid for table in tables]
    return {oid for (oid,) in conn.execute(_READABLE, (oids,)).fetchall()} if oids else set()


def _bounded(conn: psycopg.Connection[Any], query: str) -> tuple[Any, ...] | None:
    """The one row of a query, None when it is not there in time."""
    import psycopg

    try:
        with conn.transaction():
            conn.execute(f"SET LOCAL statement_timeout = {PATIENCE_MS}")
            return conn.execute(query).fetchone()
    except psycopg.errors.QueryCanceled:
        return None
