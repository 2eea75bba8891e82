# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of the shape of the selected tables: keys, types, kinds, constraints, what fires by itself when rows arrive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .catalog import Table, quote_ident, read_sequences
from .errors import certain
from .findings import INFO, WARNING, Finding, finding, listed
from .freeze import TRIGGER as FREEZE_TRIGGER
from .preflight_values import large_values, violated
from .selection import Selection

if TYPE_CHECKING:
    import psycopg

    from .catalog import Sequence as NumberSequence

MANY_COLUMNS = 1000
SEQUENCE_SHARE = 0.9
KEYS_SCANNED = 20
REG_TYPES = (
    "oid", "xid", "xid8", "tid", "cid", "regclass", "regproc", "regprocedure", "regoper", "regoperator", "regtype", "regrole", "regnamespace",
    "regconfig", "regdictionary", "regcollation", "oidvector",
)  # fmt: skip
_INTEGERS = {"pg_catalog.int2": 2**15 - 1, "pg_catalog.int4": 2**31 - 1}

_RELATIONS = """
SELECT c.oid::bigint, c.relreplident::text,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL),
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary AND c.relreplident = 'd' OR i.indisreplident AND c.relreplident = 'i')),
       coalesce((SELECT string_agg(DISTINCT p.pubname, ', ') FROM pg_publication p WHERE (p.pubupdate OR p.pubdelete) AND (p.puballtables
          OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid){by_schema})), ''),
       EXISTS (SELECT FROM pg_partitioned_table h WHERE h.partrelid = c.oid AND h.partstrat = 'h')
FROM pg_class c WHERE c.oid = ANY(%s::oid[])
"""
_BY_SCHEMA = " OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace)"
_TRIGGERS = """
SELECT t.tgrelid::bigint, t.tgname::text, t.tgenabled::text, t.tgisinternal, coalesce(k.conname::text, '') FROM pg_trigger t
LEFT JOIN pg_constraint k ON k.oid = t.tgconstraint AND k.contype = 'f'
WHERE t.tgrelid = ANY(%s::oid[]) AND t.tgname <> %s
  AND (NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') OR t.tgisinternal AND t.tgenabled = 'D' AND k.oid IS NOT NULL)
"""
_CONSTRAINTS = """
SELECT k.oid::bigint, k.conrelid::bigint, k.conname::text, k.contype::text FROM pg_constraint k
WHERE k.conrelid = ANY(%s::oid[]) AND NOT k.convalidated AND k.contype IN ('f', 'c')
"""
_INDEXES = """
SELECT i.indrelid::bigint, c.oid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY(%s::oid[]) AND c.relkind = 'i' AND NOT (i.indisvalid AND i.indisready)
"""
_OTHERS = """
SELECT c.relkind::text, n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('f', 'm') AND n.nspname !~ '^pg_' ORDER BY 2, 3
"""
_KEY_COLLATIONS = """
SELECT a.attrelid::bigint, a.attname::text, CASE WHEN c.collname <> 'default' THEN c.collname ELSE {default} END IN ('C', 'POSIX', 'ucs_basic')
FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation, pg_database d
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND d.datname = current_database()
"""


def look(conn: psycopg.Connection[Any], tables: Sequence[Table], selection: Selection) -> list[Finding]:
    """Findings about the selected tables and what belongs to them."""
    names = {table.oid: table for table in tables}
    found = of_tables(tables, _collated(conn, names))
    query = _RELATIONS.format(by_schema=_BY_SCHEMA if conn.info.server_version >= 150000 else "")
    for oid, identity, unique, identified, publications, hashed in conn.execute(query, (list(names),)).fetchall():
        found += _of_relation(names[oid], identity, unique, identified, publications, hashed)
    for oid, trigger, mode, internal, constraint in conn.execute(_TRIGGERS, (list(names), FREEZE_TRIGGER)).fetchall():
        table = names[oid]
        if internal:
            text = f"foreign key {constraint} is switched off (DISABLE TRIGGER ALL): rows may break it, and then it cannot be made on the target"
            fix = f"ALTER TABLE {table.sql} ENABLE TRIGGER ALL; after the rows that break it are mended."
            found.append(finding("fk-switched-off", table.dotted, text, fix))
        else:
            word = "ALWAYS" if mode == "A" else "REPLICA"
            text = f"trigger {trigger} is ENABLE {word} and fires on every moved row"
            fix = f"ALTER TABLE {table.sql} ENABLE TRIGGER {quote_ident(trigger)}; until after the move"
            found.append(finding("triggers-fire", table.dotted, text, fix))
    found += _constraints(conn, names)
    for oid, index in conn.execute(_INDEXES, (list(names),)).fetchall():
        text = f"index {index} is invalid: a build of it has failed; a unique one may have duplicates under it"
        found.append(finding("index-invalid", names[oid].dotted, text, f"REINDEX INDEX CONCURRENTLY {index}; or DROP INDEX {index};"))
    found += _others(conn, selection) + large_values(conn, tables)
    return found


def of_tables(tables: Sequence[Table], collated: Iterable[str] = ()) -> list[Finding]:
    """Findings that the catalogue's tables tell by themselves. Pure. collated: keys whose text is sorted by a language's rules."""
    found = []
    for table in tables:
        if table.kind == "r" and not table.key:
            text = "has no key: its rows are compared as a multiset, and updates of it cannot be streamed"
            found.append(finding("key-missing", table.dotted, text, f"ALTER TABLE {table.sql} ADD PRIMARY KEY (...);"))
        if table.persistence == "u":
            text = "is unlogged: it cannot be streamed, and is empty after a crash or a failover of the target"
            found.append(finding("unlogged", table.dotted, text, f"ALTER TABLE {table.sql} SET LOGGED;"))
        odd = [f"{c.name} {c.type_sql}" for c in table.columns if (c.element or c.base).removeprefix("pg_catalog.") in REG_TYPES]
        if odd and table.kind == "r" and not table.is_partition:
            text = f"has columns that name things by this server's numbers: {listed(odd)}; other servers number differently"
            found.append(
                finding("type-oid", table.dotted, text, "Check what they point to; large objects keep their numbers, tables do not.")
            )
    heads = [table for table in tables if not table.is_partition]
    for rule, what, text, fix, taken in (
        (
            "key-json",
            "json without a key",
            "tables compare json as text, since json has no equality",
            "Nothing to do; a key is better.",
            [t.dotted for t in tables if t.kind == "r" and not t.key and any(c.base == "pg_catalog.json" for c in t.columns)],
        ),
        (
            "key-text",
            "keys of text",
            "keys have texts in a language's order; the move compares and splits them by bytes",
            "Nothing to do.",
            list(collated),
        ),
        (
            "inheritance",
            "inheritance",
            "tables inherit from another; each is moved with its own rows only",
            "Nothing to do.",
            [t.dotted for t in tables if t.inherits],
        ),
        (
            "generated",
            "generated columns",
            "tables have them; they are computed again on the target and compared",
            "Nothing to do, if the functions that they use come along unchanged.",
            [t.dotted for t in heads if any(c.generated for c in t.columns)],
        ),
        (
            "type-money",
            "money",
            "tables have columns of money, whose text depends on lc_monetary; the move pins it",
            "Set the target's lc_monetary as on the source: SHOW lc_monetary;",
            [t.dotted for t in heads if any("pg_catalog.money" in (c.base, c.element) for c in t.columns)],
        ),
        (
            "columns-many",
            "wide tables",
            f"tables have more than {MANY_COLUMNS} columns of at most 1600",
            "Nothing to do; leave room for dropped ones.",
            [f"{t.dotted} ({len(t.columns)})" for t in heads if len(t.columns) > MANY_COLUMNS],
        ),
    ):
        if taken:
            found.append(finding(rule, what, f"{len(taken)} {text}: {listed(taken)}", fix))
    return found


def _collated(conn: psycopg.Connection[Any], names: dict[int, Table]) -> list[str]:
    keyed = {oid: set(table.key) for oid, table in names.items() if table.key and not table.is_partition}
    default = (
        "CASE d.datlocprovider WHEN 'c' THEN d.datcollate::name ELSE '' END" if conn.info.server_version >= 150000 else "d.datcollate::name"
    )
    rows = conn.execute(_KEY_COLLATIONS.format(default=default), (list(keyed),)).fetchall() if keyed else []
    return sorted({names[oid].dotted for oid, column, plain in rows if not plain and column in keyed[oid]})


def _of_relation(table: Table, identity: str, unique: bool, identified: bool, publications: str, hashed: bool) -> list[Finding]:
    found = []
    if table.kind == "r" and not table.key and unique:
        text = "has a unique index, which is no key: a column of it may be NULL, or it is deferrable"
        found.append(finding("key-nullable", table.dotted, text, f"ALTER TABLE {table.sql} ALTER COLUMN ... SET NOT NULL;"))
    if not identified and identity != "f" and table.kind == "r":
        fix = f"ALTER TABLE {table.sql} REPLICA IDENTITY FULL; or give it a primary key."
        found.append(finding("replica-identity", table.dotted, "has no replica identity: its updates and deletes cannot be streamed", fix))
        if publications:
            text = f"is published by {publications} without a replica identity: every UPDATE and DELETE of it fails on the source"
            found.append(finding("published-without-identity", table.dotted, text, fix))
    if hashed:
        text = "is partitioned by hash: where its key is an enum or a text, a row belongs into another partition on another server"
        fix = "Nothing to do: rows are sent to the root where it is so."
        found.append(finding("partition-hash", table.dotted, text, fix))
    return found


def _constraints(conn: psycopg.Connection[Any], names: dict[int, Table]) -> list[Finding]:
    found = []
    for place, (oid, table_oid, name, kind) in enumerate(conn.execute(_CONSTRAINTS, (list(names),)).fetchall()):
        table = names[table_oid]
        what = f"{'foreign key' if kind == 'f' else 'check'} {name} is NOT VALID, and stays so on the target"
        rows = violated(conn, table, oid) if kind == "f" and place < KEYS_SCANNED else None
        told = {None: "", True: "; rows break it", False: "; no row breaks it"}[rows]
        fix = f"ALTER TABLE {table.sql} VALIDATE CONSTRAINT {quote_ident(name)}; once no row breaks it."
        found.append(finding("not-valid", table.dotted, what + told, fix, INFO if rows is False else WARNING))
    return found


def _others(conn: psycopg.Connection[Any], selection: Selection) -> list[Finding]:
    found = []
    views = []
    for kind, schema, name in conn.execute(_OTHERS).fetchall():
        if not selection.matches(schema, name):
            continue
        if kind == "m":
            views.append(f"{schema}.{name}")
            continue
        text = "is a foreign table: its definition moves, its rows are elsewhere"
        found.append(finding("foreign-table", f"{schema}.{name}", text, "Check that the target reaches that server."))
    if views:
        text = f"{len(views)} are made empty and refreshed on the target: {listed(views)}"
        found.append(finding("matview", "materialized views", text, "Allow time for REFRESH MATERIALIZED VIEW after the rows."))
    return found


def large_object_count(conn: psycopg.Connection[Any], selection: Selection) -> list[Finding]:
    """The finding about large objects, whose writes no trigger stops."""
    count = certain(conn.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone(), "the number of large objects")[0]
    if not count:
        return []
    if not selection.large_objects:
        return [
            finding("large-objects", "large objects", f"{count} stay behind, since they are excluded", "Remove the pattern from exclude.")
        ]
    text = f"{count} are moved; writes to them alone (lo_put, lo_unlink) cannot be stopped by the freeze, since they have no triggers"
    return [finding("large-objects", "large objects", text, "Stop the applications that write them before the cutover.")]


def sequences(conn: psycopg.Connection[Any], tables: Sequence[Table], selection: Selection) -> list[Finding]:
    """Findings about sequences near their end. All selected ones must be readable."""
    types = {(*table.full_name, column.name): column.base for table in tables for column in table.columns}
    return near_end(read_sequences(conn, selection), types)


def near_end(known: Iterable[NumberSequence], types: dict[tuple[str, str, str], str]) -> list[Finding]:
    """Findings about sequences that have used most of their range, or of the range of the column that they fill. Pure."""
    found = []
    for one in known:
        column = types.get(one.owner, "") if one.owner else ""
        end = min(one.maximum, _INTEGERS.get(column, one.maximum)) if one.increment > 0 else one.minimum
        share = (one.last_value - one.start) / (end - one.start) if end != one.start else 1.0
        if share > SEQUENCE_SHARE and not one.cycle and one.is_called:
            where = f" (column {'.'.join(one.owner)} is {column.removeprefix('pg_catalog.')})" if one.owner and end != one.maximum else ""
            text = f"stands at {one.last_value} of {end}{where}: inserts fail when it ends"
            fix = "Widen column and sequence before: ALTER TABLE ... ALTER COLUMN ... TYPE bigint; ALTER SEQUENCE ... AS bigint;"
            found.append(finding("sequence-end", f"{one.schema}.{one.name}", text, fix))
    return found
