# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a database holds, read from its catalogues into plain dataclasses. Needs a session of :mod:`.session` (search_path pg_catalog)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .selection import Name, Selection

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class Column:
    """A column.

    type_sql: with modifiers and schema where needed, e.g. ``numeric(10,2)`` or ``public.mood[]``
    base: the type under all domains as ``schema.name``; base_kind: its pg_type.typtype (b, c, d, e, m, p, r)
    element, element_kind: the same for the elements of an array, else empty
    generated: '' or 's' (stored) or 'v' (virtual); identity: '' or 'a' (always) or 'd' (by default)
    collation: ``schema.name`` where it is not the type's own, else ''
    has_default: a default or a generation expression exists
    """

    name: str
    type_sql: str
    base: str
    base_kind: str
    element: str
    element_kind: str
    not_null: bool
    generated: str
    identity: str
    collation: str
    position: int
    has_default: bool = False


@dataclass(frozen=True)
class Table:
    """A table. kind: r ordinary or p partitioned; key: columns that identify a row, () without a usable one.

    key_source: primary, unique or ''; partition_root: top of the tree a partition belongs to; inherits: parents of plain inheritance
    reltuples: rows at the last ANALYZE, -1 never; pages: blocks of 8 kB now; size_bytes: with TOAST, without indexes
    extension: name of the extension it belongs to, or ''; partition_bound: ``FOR VALUES ...``; toast_bytes: size of its TOAST table
    """

    oid: int
    schema: str
    name: str
    kind: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    key_source: str
    partition_root: Name | None
    is_partition: bool
    reltuples: float
    pages: int
    size_bytes: int
    inherits: tuple[Name, ...]
    persistence: str
    extension: str
    partition_bound: str = ""
    toast_bytes: int = 0

    @property
    def full_name(self) -> Name:
        """(schema, table)."""
        return self.schema, self.name

    @property
    def dotted(self) -> str:
        """``schema.table`` for messages and results."""
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """Quoted name for a statement."""
        return qualified(self.schema, self.name)

    @property
    def stored(self) -> tuple[Column, ...]:
        """Columns that a copy writes: all but the generated ones."""
        return tuple(column for column in self.columns if not column.generated)

    def column(self, name: str) -> Column:
        """The column of this name; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True)
class Index:
    """An index.

    definition: statement of pg_get_indexdef; constraint: name of the constraint that it carries, or ''; parent: index it is a partition of
    """

    oid: int
    schema: str
    name: str
    table: Name
    definition: str
    method: str
    is_primary: bool
    is_unique: bool
    is_valid: bool
    constraint: str
    size_bytes: int
    parent: Name | None


@dataclass(frozen=True)
class Constraint:
    """A constraint of a table.

    type: c check, f foreign, p primary, u unique, x exclusion, n not null; inherited: comes from a partitioned parent
    """

    table: Name
    name: str
    type: str
    definition: str
    validated: bool
    deferrable: bool
    deferred: bool
    references: Name | None
    inherited: bool


@dataclass(frozen=True)
class Sequence:
    """A sequence and where it stands. owner: (schema, table, column) or None; identity: belongs to an identity column."""

    oid: int
    schema: str
    name: str
    data_type: str
    start: int
    minimum: int
    maximum: int
    increment: int
    cache: int
    cycle: bool
    last_value: int
    is_called: bool
    owner: tuple[str, str, str] | None
    identity: bool


def quote_ident(name: str) -> str:
    """A name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A text as a literal that reads the same whatever standard_conforming_strings says."""
    doubled = text.replace("'", "''")
    if "\\" not in text:
        return f"'{doubled}'"
    return " E'" + doubled.replace("\\", "\\\\") + "'"


def qualified(schema: str, name: str) -> str:
    """``"schema"."name"``."""
    return f"{quote_ident(schema)}.{quote_ident(name)}"


def server_version(conn: psycopg.Connection[Any]) -> int:
    """150018 for 15.18."""
    return conn.info.server_version


_TABLES = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relispartition, c.reltuples::float8,
       CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) / current_setting('block_size')::bigint ELSE 0 END,
       CASE WHEN c.relkind = 'r' THEN pg_table_size(c.oid) ELSE 0 END,
       c.relpersistence::text,
       CASE WHEN c.relispartition THEN
         (SELECT ARRAY[rn.nspname, rc.relname]::text[] FROM pg_class rc JOIN pg_namespace rn ON rn.oid = rc.relnamespace
          WHERE rc.oid = pg_partition_root(c.oid)) END,
       CASE WHEN NOT c.relispartition THEN
         (SELECT array_agg(ARRAY[pn.nspname, p.relname]::text[] ORDER BY i.inhseqno) FROM pg_inherits i
          JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid) END,
       coalesce((SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid WHERE d.classid = 'pg_class'::regclass
          AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' LIMIT 1), ''),
       coalesce(pg_get_expr(c.relpartbound, c.oid), ''), CASE WHEN c.reltoastrelid <> 0 THEN pg_relation_size(c.reltoastrelid) ELSE 0 END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_(catalog|toast|temp)' AND n.nspname <> 'information_schema'
ORDER BY n.nspname, c.relname
"""

# From PostgreSQL 18 on a NOT NULL that was never validated says nothing about the rows that were there before.
_SURE = "NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conrelid = a.attrelid AND o.contype = 'n' AND NOT o.convalidated AND o.conkey = ARRAY[a.attnum])"

_COLUMNS = f"""
WITH RECURSIVE base(oid, base) AS (
    SELECT t.oid, t.oid FROM pg_type t
    WHERE t.oid IN (SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0)
    UNION ALL SELECT b.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.base WHERE t.typtype = 'd'),
ground AS (
    SELECT b.oid, tn.nspname || '.' || t.typname AS name, t.typtype::text AS kind, CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END AS elem
    FROM base b JOIN pg_type t ON t.oid = b.base AND t.typtype <> 'd' JOIN pg_namespace tn ON tn.oid = t.typnamespace)
SELECT a.attrelid::bigint, a.attname, format_type(a.atttypid, a.atttypmod), g.name, g.kind, coalesce(en.nspname || '.' || e.typname, ''),
       coalesce(e.typtype::text, ''), a.attnotnull AND {_SURE}, a.attgenerated::text, a.attidentity::text,
       CASE WHEN a.attcollation <> t.typcollation THEN cn.nspname || '.' || co.collname ELSE '' END, a.attnum::int, a.atthasdef
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN ground g ON g.oid = a.atttypid
LEFT JOIN pg_type e ON e.oid = g.elem AND g.elem <> 0
LEFT JOIN pg_namespace en ON en.oid = e.typnamespace
LEFT JOIN pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

# The primary key, else the narrowest unique index that every row is in: complete, immediate, on plain columns, all NOT NULL.
_KEYS = f"""
SELECT DISTINCT ON (i.indrelid) i.indrelid::bigint, CASE WHEN i.indisprimary THEN 'primary' ELSE 'unique' END,
       (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(num, place)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num WHERE k.place <= i.indnkeyatts)
FROM pg_index i
WHERE i.indrelid = ANY(%s::oid[]) AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
  AND (SELECT bool_and(a.attnotnull AND {_SURE}) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(num, place)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num WHERE k.place <= i.indnkeyatts)
ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, i.indexrelid
"""


def read_tables(conn: psycopg.Connection[Any], selection: Selection) -> tuple[Table, ...]:
    """Tables and partitioned tables that the selection takes, by name. Tables that belong to an extension stay with it."""
    found = []
    for row in conn.execute(_TABLES).fetchall():
        root = (row[9][0], row[9][1]) if row[9] else None
        if not row[11] and selection.matches(row[1], row[2], root):
            found.append((row, root))
    oids = [row[0] for row, _root in found]
    if not oids:
        return ()
    columns: dict[int, list[Column]] = {}
    for oid, *facts in conn.execute(_COLUMNS, (oids, oids)).fetchall():
        columns.setdefault(oid, []).append(Column(*facts))
    keys = {oid: (source, tuple(names)) for oid, source, names in conn.execute(_KEYS, (oids,)).fetchall()}
    tables = []
    for row, root in found:
        oid, schema, name, kind, is_partition, reltuples, pages, size, persistence, _root, parents, extension, bound, toast = row
        key_source, key = keys.get(oid, ("", ()))
        inherits = tuple((parent[0], parent[1]) for parent in parents or ())
        own = tuple(columns.get(oid, ()))
        facts = (oid, schema, name, kind, own, key, key_source, root, is_partition, reltuples, pages, size)
        tables.append(Table(*facts, inherits, persistence, extension, bound, toast))
    return tuple(tables)


def read_names(conn: psycopg.Connection[Any]) -> dict[Name, tuple[str, ...]]:
    """Every table outside the system's schemas with its column names: what ``Selection.check`` judges."""
    rows = conn.execute(
        """SELECT n.nspname, c.relname, coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}')
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
             AND n.nspname !~ '^pg_(catalog|toast|temp)' AND n.nspname <> 'information_schema'"""
    ).fetchall()
    return {(schema, name): tuple(columns) for schema, name, columns in rows}


def read_indexes(conn: psycopg.Connection[Any], tables: Iterable[Table]) -> tuple[Index, ...]:
    """Indexes of these tables, largest first."""
    rows = conn.execute(
        """SELECT i.indexrelid::bigint, n.nspname, c.relname, tn.nspname, t.relname, pg_get_indexdef(i.indexrelid), am.amname::text,
                  i.indisprimary, i.indisunique, i.indisvalid, coalesce(k.conname::text, ''), pg_relation_size(i.indexrelid),
                  pn.nspname, p.relname
           FROM pg_index i
           JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am am ON am.oid = c.relam
           JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
           LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
           LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid
           LEFT JOIN pg_class p ON p.oid = h.inhparent LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
           WHERE i.indrelid = ANY(%s::oid[])
           ORDER BY 12 DESC, 2, 3""",
        ([table.oid for table in tables],),
    ).fetchall()
    return tuple(
        Index(
            oid=row[0],
            schema=row[1],
            name=row[2],
            table=(row[3], row[4]),
            definition=row[5],
            method=row[6],
            is_primary=row[7],
            is_unique=row[8],
            is_valid=row[9],
            constraint=row[10],
            size_bytes=row[11],
            parent=(row[12], row[13]) if row[12] is not None else None,
        )
        for row in rows
    )


def read_constraints(conn: psycopg.Connection[Any], tables: Iterable[Table]) -> tuple[Constraint, ...]:
    """Constraints of these tables, by table and name."""
    rows = conn.execute(
        """SELECT n.nspname, t.relname, k.conname, k.contype::text, pg_get_constraintdef(k.oid), k.convalidated, k.condeferrable,
                  k.condeferred, fn.nspname, f.relname, k.conparentid <> 0
           FROM pg_constraint k
           JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
           LEFT JOIN pg_class f ON f.oid = k.confrelid LEFT JOIN pg_namespace fn ON fn.oid = f.relnamespace
           WHERE k.conrelid = ANY(%s::oid[]) AND k.contype <> 't'
           ORDER BY 1, 2, 3""",
        ([table.oid for table in tables],),
    ).fetchall()
    found = []
    for schema, table, name, kind, definition, validated, deferrable, deferred, ref_schema, ref_table, inherited in rows:
        references = (ref_schema, ref_table) if ref_schema is not None else None
        found.append(Constraint((schema, table), name, kind, definition, validated, deferrable, deferred, references, inherited))
    return tuple(found)


def read_sequences(conn: psycopg.Connection[Any], selection: Selection) -> tuple[Sequence, ...]:
    """Sequences with their positions, by name. One that belongs to a column follows its table, a free one its own name."""
    rows = conn.execute(
        """SELECT c.oid::bigint, n.nspname, c.relname, format_type(s.seqtypid, NULL), s.seqstart, s.seqmin, s.seqmax, s.seqincrement,
                  s.seqcache, s.seqcycle, tn.nspname, t.relname, a.attname, coalesce(d.deptype = 'i', false),
                  pn.nspname, p.relname
           FROM pg_sequence s
           JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
           LEFT JOIN pg_class t ON t.oid = d.refobjid LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
           LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
           LEFT JOIN pg_class p ON t.relispartition AND p.oid = pg_partition_root(t.oid)
           LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
           WHERE c.relpersistence <> 't' AND n.nspname !~ '^pg_'
             AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
           ORDER BY 2, 3"""
    ).fetchall()
    taken = []
    for row in rows:
        root = (row[14], row[15]) if row[14] is not None else None
        decisive = (row[10], row[11]) if row[10] is not None else (row[1], row[2])
        if selection.matches(*decisive, root):
            taken.append(row)
    if not taken:
        return ()
    positions: dict[int, tuple[int, bool]] = {}
    # The time to plan a union grows with the square of its parts: thousands in one take minutes.
    for first in range(0, len(taken), 100):
        parts = (f"SELECT {row[0]}::bigint, last_value, is_called FROM {qualified(row[1], row[2])}" for row in taken[first : first + 100])
        positions |= {oid: (last, called) for oid, last, called in conn.execute(" UNION ALL ".join(parts)).fetchall()}
    found = []
    for oid, schema, name, data_type, start, low, high, step, cache, cycle, own_schema, own_table, own_column, identity, *_root in taken:
        last, called = positions[oid]
        owner = (own_schema, own_table, own_column) if own_schema is not None else None
        found.append(Sequence(oid, schema, name, data_type, start, low, high, step, cache, cycle, last, called, owner, identity))
    return tuple(found)
