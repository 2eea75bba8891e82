# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Columns that the target's own version of a table does not have: whether the source's rows hold anything in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .catalog import Column, Table, quote_ident
from .errors import TransferError
from .pairing import Pair

if TYPE_CHECKING:
    import psycopg

# A default without a call or a keyword that differs from session to session: what such a column holds says nothing about its row.
_CONSTANT = (
    "SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
    " WHERE a.attrelid = %s::oid AND a.attname = %s AND a.attgenerated = ''"
    " AND pg_get_expr(d.adbin, d.adrelid) !~ '[(]' AND pg_get_expr(d.adbin, d.adrelid) !~* '^(current|session|system)?_?(user|role|date|time)'"
)


@dataclass(frozen=True)
class Absent:
    """A column of the source that the table of the same name on the target lacks. data: its rows hold more than NULL and the default."""

    table: str
    column: str
    data: bool


def probe(conn: psycopg.Connection[Any]) -> Callable[[Table, Column], bool]:
    """Whether a column holds nothing but NULL and its constant default, asked of this side's server when it matters."""
    return lambda table, column: not holds_data(conn, table, column)


def constant_default(conn: psycopg.Connection[Any], table: Table, column: Column) -> str | None:
    """Expression of a column's default where it says the same in every session, else None."""
    row = conn.execute(_CONSTANT, (table.oid, column.name)).fetchone()
    return str(row[0]) if row else None


def holds_data(conn: psycopg.Connection[Any], table: Table, column: Column) -> bool:
    """Whether any row has something of its own in this column. A generated column never has."""
    if column.generated:
        return False
    name = quote_ident(column.name)
    default = constant_default(conn, table, column)
    same = f" AND {name}::text IS DISTINCT FROM ({default})::text" if default else ""
    row = conn.execute(f"SELECT EXISTS (SELECT FROM {table.sql} WHERE {name} IS NOT NULL{same})").fetchone()
    return bool(row and row[0])


def absent(conn: psycopg.Connection[Any], sources: Iterable[Table], targets: Iterable[Table]) -> list[Absent]:
    """Columns of tables on both sides under one name that only ``conn``'s side has."""
    there = {table.full_name: {column.name for column in table.columns} for table in targets}
    found = []
    for table in sources:
        known = there.get(table.full_name)
        if known is not None:
            found += [
                Absent(table.dotted, column.name, holds_data(conn, table, column)) for column in table.columns if column.name not in known
            ]
    return found


def refuse(found: Iterable[Absent]) -> None:
    """Raise TransferError (kind columns_missing) naming every absent column that holds data."""
    named = [f"{one.table}.{one.column}" for one in found if one.data]
    if named:
        raise TransferError(
            f"the target has tables without columns that hold data on the source: {', '.join(named)}",
            "Bring the target's service (for auth GoTrue, for storage the storage API) to the source's version so that it makes the"
            " columns, or add them by hand, then run again.",
            kind="columns_missing",
            columns=named,
        )


def unbuildable(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], pairs: Iterable[Pair]) -> set[tuple[str, str, str]]:
    """Indexes of the source, (schema, table, index), that use a column or an extension which the target does not have."""
    paired = {pair.source.oid: {ours.name for ours, _theirs in pair.columns} for pair in pairs}
    have = [name for (name,) in dst.execute("SELECT extname::text FROM pg_extension").fetchall()]
    rows = src.execute(
        "SELECT n.nspname::text, t.relname::text, c.relname::text, t.oid::bigint, array_agg(a.attname::text) FILTER (WHERE a.attname IS NOT NULL),"
        " coalesce(bool_or(e.extname <> ALL(%s)), false) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid"
        " JOIN pg_namespace n ON n.oid = t.relnamespace CROSS JOIN LATERAL ("
        " SELECT refclassid, refobjid, refobjsubid FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid"
        " UNION ALL SELECT refclassid, refobjid, refobjsubid FROM pg_constraint k JOIN pg_depend ON classid = 'pg_constraint'::regclass"
        " AND objid = k.oid WHERE k.conrelid = t.oid AND k.conindid = c.oid) d"
        " LEFT JOIN pg_attribute a ON d.refclassid = 'pg_class'::regclass AND a.attrelid = t.oid AND d.refobjid = t.oid AND a.attnum = d.refobjsubid"
        " AND a.attnum > 0 LEFT JOIN pg_depend m ON m.classid = d.refclassid AND m.objid = d.refobjid AND m.deptype = 'e'"
        " LEFT JOIN pg_extension e ON e.oid = m.refobjid WHERE t.oid = ANY(%s::oid[]) GROUP BY 1, 2, 3, 4",
        (have, list(paired)),
    ).fetchall()
    return {
        (schema, table, index) for schema, table, index, oid, columns, foreign in rows if foreign or not set(columns or ()) <= paired[oid]
    }
