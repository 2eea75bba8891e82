"""Rows of two databases compared without the engine: COPY in text on plain sessions, every line digested, lines in any order."""

from __future__ import annotations

import hashlib
from typing import Any

import psycopg
from integration.conftest import Pair, Server

# Set here and not taken from the engine: a setting that it forgot must show.
_SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET IntervalStyle = 'postgres'",
    "SET extra_float_digits = 3",
    "SET bytea_output = 'hex'",
    "SET lc_monetary = 'C'",
    "SET search_path = pg_catalog",
)
# Tables on top of a partition tree and tables of their own; columns in the order of their names, which may differ between two servers.
_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname), c.relkind = 'p',
       coalesce((SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attname COLLATE "C") FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', 'cutover')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
"""


def contents(server: Server, dbname: str) -> dict[str, tuple[int, int]]:
    """{table: (rows, sum of its lines' digests)}: equal for equal multisets of rows, for nothing else."""
    with server.connect(dbname) as conn:
        for setting in _SETTINGS:
            conn.execute(setting)
        return {
            table: _digest(conn, columns, table if tree else f"ONLY {table}") for table, tree, columns in conn.execute(_TABLES).fetchall()
        }


def _digest(conn: psycopg.Connection[Any], columns: str, relation: str) -> tuple[int, int]:
    rows = total = 0
    with conn.cursor().copy(f"COPY (SELECT {columns} FROM {relation}) TO STDOUT") as lines:
        for line in lines:
            rows += 1
            total += int.from_bytes(hashlib.sha256(line).digest(), "big")
    return rows, total % (1 << 256)


def assert_same_rows(pair: Pair) -> dict[str, tuple[int, int]]:
    """Every table of the source is on the target with the same rows; what each holds."""
    source, target = contents(pair.source_server, pair.dbname), contents(pair.target_server, pair.dbname)
    assert source and source == target, sorted(name for name in source.keys() | target.keys() if source.get(name) != target.get(name))
    return source
