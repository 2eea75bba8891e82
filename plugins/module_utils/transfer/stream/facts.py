# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the receiving database says about its tables, as far as applying changes to them depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..catalog import Table, read_tables
from ..selection import Name, Selection

if TYPE_CHECKING:
    import psycopg

TEXT, BPCHAR, VARCHAR = 25, 1042, 1043


@dataclass(frozen=True)
class ColumnFact:
    """A column of the receiver and the type under all its domains.

    base_oid, base: of that type, the latter as (schema, name); modifier: of that type, from the column or the domain, -1 for none
    extension: the type belongs to one, so that its schema may be another than the sender's; via: oid of the type whose values are cast to it
    """

    name: str
    base_oid: int
    base: Name
    modifier: int
    extension: bool
    via: int


@dataclass(frozen=True)
class KeyColumn:
    """A column of an index. operator: (schema, name) of its equality; collation: (schema, name) where the index has another than the column."""

    name: str
    operator: Name
    collation: Name | None


@dataclass(frozen=True)
class KeyIndex:
    """A b-tree over whole rows' plain columns. unique: at once, for every row without NULLs in it."""

    name: str
    primary: bool
    unique: bool
    columns: tuple[KeyColumn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns in the order of the index."""
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True)
class Receiving:
    """A table of the receiver. firing: its triggers and rules that act in a replica's session, too."""

    table: Table
    columns: Mapping[str, ColumnFact]
    indexes: tuple[KeyIndex, ...]
    firing: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """tables: by (schema, table); types: oid to (schema, name) of all types that come with the server."""

    tables: Mapping[Name, Receiving]
    types: Mapping[int, Name]


_COLUMNS = """
WITH RECURSIVE base(start, oid, modifier) AS (
    SELECT DISTINCT a.atttypid, a.atttypid, -1 FROM pg_attribute a WHERE a.attrelid = ANY(%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.start, t.typbasetype, CASE WHEN b.modifier >= 0 THEN b.modifier ELSE t.typtypmod END
    FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
SELECT a.attrelid::bigint, a.attname::text, t.oid::bigint, n.nspname::text, t.typname::text,
       CASE WHEN a.atttypmod >= 0 THEN a.atttypmod ELSE b.modifier END,
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.deptype = 'e'
                 AND d.objid = CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE t.oid END),
       (SELECT coalesce(array_agg(c.castsource::bigint), '{}') FROM pg_cast c
          WHERE c.casttarget = t.oid AND c.castsource IN (25, 1042, 1043) AND (c.castmethod = 'f' OR c.castsource <> 25))
FROM pg_attribute a
JOIN base b ON b.start = a.atttypid
JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid = ANY(%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

# Equality is that of the index itself: no search path decides what two equal keys are.
_INDEXES = """
SELECT i.indrelid::bigint, c.relname::text, i.indisprimary, i.indisunique AND i.indimmediate, att.attname::text, opn.nspname::text, op.oprname::text,
       CASE WHEN k.colloid <> att.attcollation THEN con.nspname::text END, CASE WHEN k.colloid <> att.attcollation THEN co.collname::text END
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am am ON am.oid = c.relam AND am.amname = 'btree'
CROSS JOIN LATERAL ROWS FROM (unnest(i.indkey::int2[]), unnest(i.indclass::oid[]), unnest(i.indcollation::oid[])) WITH ORDINALITY
    k(num, opclass, colloid, place)
JOIN pg_attribute att ON att.attrelid = i.indrelid AND att.attnum = k.num
JOIN pg_opclass cl ON cl.oid = k.opclass
JOIN pg_amop am_op ON am_op.amopfamily = cl.opcfamily AND am_op.amopstrategy = 3 AND am_op.amoplefttype = cl.opcintype
     AND am_op.amoprighttype = cl.opcintype
JOIN pg_operator op ON op.oid = am_op.amopopr
JOIN pg_namespace opn ON opn.oid = op.oprnamespace
LEFT JOIN pg_collation co ON co.oid = k.colloid
LEFT JOIN pg_namespace con ON con.oid = co.collnamespace
WHERE i.indrelid = ANY(%(oids)s::oid[]) AND i.indisvalid AND i.indisready AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
ORDER BY i.indrelid, i.indisprimary DESC, i.indisunique AND i.indimmediate DESC, i.indnkeyatts, i.indexrelid, k.place
"""

_FIRING = """
SELECT t.tgrelid::bigint, t.tgname::text FROM pg_trigger t WHERE t.tgrelid = ANY(%(oids)s::oid[]) AND t.tgenabled IN ('A', 'R')
UNION ALL
SELECT r.ev_class::bigint, r.rulename::text FROM pg_rewrite r WHERE r.ev_class = ANY(%(oids)s::oid[]) AND r.ev_enabled IN ('A', 'R')
UNION ALL
SELECT p.root::bigint, t.tgname::text FROM (SELECT o AS root, (pg_partition_tree(o::regclass)).relid FROM unnest(%(oids)s::oid[]) o) p
  JOIN pg_trigger t ON t.tgrelid = p.relid WHERE t.tgenabled IN ('A', 'R') AND p.relid <> p.root
ORDER BY 1, 2
"""


def read(conn: psycopg.Connection[Any], selection: Selection) -> Facts:
    """Facts about every table that the selection, as seen from the receiver, takes."""
    tables = read_tables(conn, selection)
    arguments = {"oids": [table.oid for table in tables]}
    columns: dict[int, dict[str, ColumnFact]] = {}
    for oid, name, base_oid, schema, type_name, modifier, extension, taken in conn.execute(_COLUMNS, arguments).fetchall():
        columns.setdefault(oid, {})[name] = ColumnFact(name, base_oid, (schema, type_name), modifier, extension, _via(taken))
    indexes: dict[int, dict[str, KeyIndex]] = {}
    for oid, name, primary, unique, column, op_schema, op_name, co_schema, co_name in conn.execute(_INDEXES, arguments).fetchall():
        mine = indexes.setdefault(oid, {})
        before = mine.get(name)
        part = KeyColumn(column, (op_schema, op_name), (co_schema, co_name) if co_name is not None else None)
        mine[name] = KeyIndex(name, primary, unique, (*(before.columns if before else ()), part))
    firing: dict[int, list[str]] = {}
    for oid, name in conn.execute(_FIRING, arguments).fetchall():
        firing.setdefault(oid, []).append(name)
    types = {oid: (schema, name) for oid, schema, name in conn.execute(_TYPES).fetchall()}
    return Facts(
        {
            table.full_name: Receiving(
                table, columns.get(table.oid, {}), tuple(indexes.get(table.oid, {}).values()), tuple(firing.get(table.oid, ()))
            )
            for table in tables
        },
        types,
    )


_TYPES = "SELECT t.oid::bigint, n.nspname::text, t.typname::text FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid < 10000"


def _via(taken: list[int]) -> int:
    """Where a cast from text is a function of its own (regclass, PostGIS), one of a sibling without such a cast: it reads what the type prints."""
    if TEXT not in taken:
        return TEXT
    return next((oid for oid in (BPCHAR, VARCHAR) if oid not in taken), TEXT)
