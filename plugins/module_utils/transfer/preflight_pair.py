# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of both sides together: versions, locales, extensions, room, and what is on the target already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import catalog, large_objects, ledger, programs, schema_plan, skew
from .catalog import Table, qualified, quote_ident
from .errors import TransferError, certain
from .findings import INFO, WARNING, Finding, finding, listed
from .freeze import TRIGGER as FREEZE_TRIGGER
from .preflight_disk import disk
from .schema_catalog import Extension, available_extensions
from .selection import Selection

if TYPE_CHECKING:
    import psycopg

    from .preflight import Wish

    Conn = psycopg.Connection[Any]

OLDEST, NEWEST = 14, 18
_BATCH = 200
_LOCALE = """
SELECT pg_encoding_to_char(encoding), datcollate, datctype, {provider}::text, coalesce({locale}, '') FROM pg_database WHERE datname = current_database()
"""
_COLLATIONS_USED = """
SELECT c.collname::text, array_agg(DISTINCT format('%%s.%%s.%%s', n.nspname, t.relname, a.attname)) FROM pg_attribute a
JOIN pg_collation c ON c.oid = a.attcollation AND c.collnamespace = 'pg_catalog'::regnamespace AND c.collname <> 'default'
JOIN pg_class t ON t.oid = a.attrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped GROUP BY 1
"""
_TARGET_TABLES = """
SELECT c.oid::bigint, pg_relation_size(c.oid) > 0, row_security_active(c.oid), array(SELECT t.tgname::text FROM pg_trigger t
   WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') AND t.tgname <> %s)
FROM pg_class c WHERE c.oid = ANY(%s::oid[]) AND c.relkind = 'r'
"""
_OWNERS = """
SELECT DISTINCT r.rolname::text FROM pg_roles r WHERE r.oid IN (
    SELECT relowner FROM pg_class WHERE oid = ANY(%(oids)s::oid[]) UNION SELECT lomowner FROM pg_largeobject_metadata WHERE %(objects)s
    UNION SELECT x.grantee FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = ANY(%(oids)s::oid[])
    UNION SELECT x.grantee FROM pg_largeobject_metadata m, aclexplode(m.lomacl) x WHERE %(objects)s) ORDER BY 1
"""


def compare(
    src: Conn, dst: Conn, tables: Sequence[Table], selection: Selection, extensions: Sequence[Extension], wish: Wish
) -> list[Finding]:
    """Findings that need both sides. Sessions are read-only."""
    found = versions(src.info.server_version, dst.info.server_version)
    try:
        programs.find(wish.bin_dir, src.info.server_version, dst.info.server_version)
    except TransferError as error:
        found.append(finding("client-programs", "pg_dump", error.message, error.remedy))
    found += _locale(src, dst) + _collations(src, dst, tables)
    found += _extensions(dst, extensions, selection, wish.extension_map, wish.extension_skip)
    theirs = catalog.read_tables(dst, selection.inverted())
    found += _tables(src, dst, tables, theirs, selection) + _names(dst, tables, theirs, selection)
    found += _large_objects(src, dst, selection) + _roles(src, dst, tables, selection)
    found += disk(src, dst, tables, wish.target_free_bytes)
    row = dst.execute(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        " - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
    ).fetchone()
    free = certain(row, "the free connections")[0]
    if free < wish.workers + 3:
        text = f"{free} connections are free on the target, {wish.workers + 3} are needed"
        found.append(finding("connections", "connections of the target", text, "Use fewer workers or raise max_connections."))
    return found


def versions(source: int, target: int) -> list[Finding]:
    """Findings about two server versions (150018 is 15.18). Pure."""
    old, new = source // 10000, target // 10000
    found = []
    if new < old:
        text = f"the target is PostgreSQL {new}, older than the source ({old})"
        found.append(finding("version-older", "versions", text, f"Make the target with version {old} or newer."))
    for side, version in (("source", old), ("target", new)):
        if not OLDEST <= version <= NEWEST:
            text = f"the {side} is PostgreSQL {version}; {OLDEST} to {NEWEST} are supported"
            found.append(
                finding("version-unsupported", side, text, "Upgrade it first." if version < OLDEST else "Use a supported version.")
            )
    return found


def _locale(src: Conn, dst: Conn) -> list[Finding]:
    def read(conn: Conn) -> tuple[str, ...]:
        version = conn.info.server_version
        locale = "datlocale" if version >= 170000 else "daticulocale" if version >= 150000 else "NULL::text"
        query = _LOCALE.format(provider="datlocprovider" if version >= 150000 else "'c'", locale=locale)
        return tuple(certain(conn.execute(query).fetchone(), "the row in pg_database"))

    one, other = read(src), read(dst)
    found = []
    if one[0] != other[0]:
        fix = f"Create the target database with ENCODING '{one[0]}' TEMPLATE template0."
        found.append(finding("encoding", "encoding", f"the source has {one[0]}, the target {other[0]}", fix))
    if one[1:] != other[1:]:
        fix = f"Create the target database with LC_COLLATE '{one[1]}' and LC_CTYPE '{one[2]}'"
        fix += f" LOCALE_PROVIDER icu ICU_LOCALE '{one[4]}'" if one[3] == "i" else ""
        told = [f"{side[1]}/{side[2]} (provider {side[3]}{' ' + side[4] if side[4] else ''})" for side in (one, other)]
        text = f"the source has {told[0]}, the target {told[1]}: texts sort differently"
        found.append(finding("collation", "collation", text, f"{fix} if the order of texts matters to the application."))
    return found


def _collations(src: Conn, dst: Conn, tables: Sequence[Table]) -> list[Finding]:
    used = src.execute(_COLLATIONS_USED, ([table.oid for table in tables],)).fetchall()
    rows = dst.execute(
        "SELECT collname::text FROM pg_collation WHERE collname = ANY(%s)"
        " AND collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database()))",
        ([name for name, _columns in used],),
    ).fetchall()
    there = {name for (name,) in rows}
    return [
        finding(
            "collation-missing",
            f"collation {name}",
            f"is missing on the target's system and used by {listed(columns)}",
            "Install the locale on the target's servers (locale-gen), then: SELECT pg_import_system_collations('pg_catalog');",
        )
        for name, columns in used
        if name not in there
    ]


def _extensions(
    dst: Conn, extensions: Sequence[Extension], selection: Selection, extension_map: Mapping[str, str], extension_skip: Sequence[str]
) -> list[Finding]:
    offered = available_extensions(dst)
    options = schema_plan.Options(extension_map=extension_map, extension_skip=tuple(extension_skip))
    try:
        plan = schema_plan.plan_extensions(extensions, offered, options, selection.flavour)
    except TransferError as error:
        return [finding("extension-map", "extensions.map", error.message, error.remedy)]
    found = []
    for extension in extensions:
        reason = plan.unwanted.get((3079, extension.oid))
        used = [column for column in extension.columns if _taken(column, selection)]
        if reason and used:
            fix = f"Install {extension.name} on the target's servers, name another in extensions.map, or exclude the tables."
            text = f"{reason}, and columns use its types: {', '.join(used)}"
            found.append(finding("extension-missing", f"extension {extension.name}", text, fix))
        elif reason:
            fix = "Nothing, if the application does without it."
            found.append(finding("extension-missing", f"extension {extension.name}", f"does not come along: {reason}", fix, WARNING))
        elif offered.get(extension.name, extension.version) != extension.version:
            text = f"is {extension.version} on the source, {offered[extension.name]} on the target"
            found.append(finding("extension-version", f"extension {extension.name}", text, "Read its release notes."))
    return found


def _taken(column: str, selection: Selection) -> bool:
    schema_name, table, _unused = column.split(".", 2)
    return selection.matches(schema_name, table)


def _tables(src: Conn, dst: Conn, tables: Sequence[Table], theirs: Sequence[Table], selection: Selection) -> list[Finding]:
    """Tables that are on the target already: rows that no ledger entry explains, rules and triggers in the copy's way, other columns."""
    known = {entry.target for entry in ledger.load(dst)} if ledger.exists(dst) else set()
    there = {table.full_name: table for table in theirs}
    role = str(dst.info.user)
    pairs = [(table, there[name]) for table in tables if (name := selection.target_name(*table.full_name)) in there]
    found: list[Finding] = []
    facts = {oid: facts for oid, *facts in dst.execute(_TARGET_TABLES, (FREEZE_TRIGGER, [other.oid for _table, other in pairs])).fetchall()}
    closed = {oid for oid, (_filled, filtered, _triggers) in facts.items() if filtered}
    unexplained = [other for _table, other in pairs if other.oid in facts and other.full_name not in known]
    for other in _filled(dst, [other for other in unexplained if facts[other.oid][0] and other.oid not in closed]):
        fix = f"TRUNCATE {other.sql}; on the target if its rows are worth nothing, else exclude the table."
        found.append(finding("target-rows", other.dotted, "holds rows on the target that this move did not bring", fix))
    for table, other in pairs:
        if other.oid in closed:
            text = f"row level security of the target keeps role {role} from its rows"
            found.append(finding("target-rls", other.dotted, text, f"ALTER ROLE {quote_ident(role)} BYPASSRLS; on the target."))
        for trigger in facts.get(other.oid, (None, None, ()))[2] if other.full_name not in known else ():
            fix = f"ALTER TABLE {other.sql} DISABLE TRIGGER {quote_ident(trigger)}; on the target until the cutover."
            found.append(finding("target-triggers", other.dotted, f"trigger {trigger} of the target fires on every moved row", fix))
        found += _columns(src, table, other, selection)
    return found


def _filled(dst: Conn, tables: Sequence[Table]) -> list[Table]:
    found = []
    for first in range(0, len(tables), _BATCH):
        batch = tables[first : first + _BATCH]
        union = " UNION ALL ".join(f"SELECT {place} WHERE EXISTS (SELECT FROM ONLY {table.sql})" for place, table in enumerate(batch))
        found += [batch[place] for (place,) in dst.execute(union).fetchall()]
    return found


def _columns(src: Conn, table: Table, other: Table, selection: Selection) -> list[Finding]:
    if table.is_partition:
        return []
    # A rename is given for the table on top and reaches what inherits from it.
    names = {}
    for column in table.columns:
        given = (selection.target_column(*one, column.name) for one in (table.full_name, *table.inherits))
        names[next((name for name in given if name != column.name), column.name)] = column
    theirs = {column.name for column in other.columns}
    found = []
    for new, column in names.items():
        if new in theirs:
            continue
        if skew.holds_data(src, table, column):
            text = f"column {new} is missing on the target and holds data on the source"
            fix = f"Bring the target's service to the source's version, or: ALTER TABLE {other.sql} ADD COLUMN {quote_ident(new)} {column.type_sql};"
            found.append(finding("column-missing", other.dotted, text, fix))
        else:
            text = f"column {new} is missing on the target, and holds nothing on the source"
            found.append(finding("column-missing", other.dotted, text, "Nothing to do.", INFO))
    for column in other.columns:
        if column.name not in names and column.not_null and not (column.has_default or column.identity or column.generated):
            text = f"column {column.name} of the target may not be NULL and has no default, and the source has no such column"
            fix = f"ALTER TABLE {other.sql} ALTER COLUMN {quote_ident(column.name)} SET DEFAULT ...; on the target."
            found.append(finding("column-required", other.dotted, text, fix))
    return found


def _names(dst: Conn, tables: Sequence[Table], theirs: Sequence[Table], selection: Selection) -> list[Finding]:
    """Names that the move needs on the target and that something other than a table has."""
    wanted = {selection.target_name(*table.full_name): table for table in tables}
    rows = dst.execute(
        "SELECT n.nspname::text, c.relname::text, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind NOT IN ('r', 'p', 'i', 'I', 't') AND c.relname = ANY(%s)",
        ([name for _schema, name in wanted],),
    ).fetchall()
    words = {"v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE", "f": "FOREIGN TABLE", "c": "TYPE"}
    return [
        finding(
            "name-taken",
            f"{schema}.{name}",
            f"is a {words.get(kind, kind).lower()} on the target, and the move makes a table of that name",
            f"DROP {words.get(kind, 'TABLE')} {qualified(schema, name)}; on the target, or rename the table.",
        )
        for schema, name, kind in rows
        if (schema, name) in wanted
    ]


def _large_objects(src: Conn, dst: Conn, selection: Selection) -> list[Finding]:
    if not selection.large_objects or not large_objects.count(src):
        return []
    there = large_objects.count(dst)
    row = dst.execute("SELECT to_regclass('cutover.large_object') IS NOT NULL").fetchone()
    if not there or (row and row[0]):
        return []
    text = f"the target holds {there} that no copy has brought; numbers would collide"
    fix = "SELECT lo_unlink(oid) FROM pg_largeobject_metadata; on the target if they are worth nothing, else exclude pg_catalog.pg_largeobject."
    return [finding("target-large-objects", "large objects", text, fix)]


def _roles(src: Conn, dst: Conn, tables: Sequence[Table], selection: Selection) -> list[Finding]:
    names = {"oids": [table.oid for table in tables], "objects": selection.large_objects}
    wanted = [name for (name,) in src.execute(_OWNERS, names).fetchall()]
    there = {name for (name,) in dst.execute("SELECT rolname::text FROM pg_roles").fetchall()}
    missing = [name for name in wanted if name not in there and not name.startswith("pg_")]
    if not missing:
        return []
    text = f"{listed(missing)} own what moves or are granted on it, and are not on the target"
    fix = "Nothing, if pg_schema_transfer runs first: it makes them. Else: " + " ".join(
        f"CREATE ROLE {quote_ident(name)} NOLOGIN;" for name in missing
    )
    return [finding("role-missing", "roles", text, fix)]
