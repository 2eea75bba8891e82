# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of privileges on the source: may our role read every row, stop every writer, and clean up afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import large_objects
from .catalog import Table, qualified, quote_ident
from .findings import Finding, finding
from .selection import Selection

if TYPE_CHECKING:
    import psycopg

_TABLES = """
SELECT c.oid::bigint, has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'TRIGGER'),
       has_table_privilege(c.oid, 'UPDATE') OR has_table_privilege(c.oid, 'DELETE') OR has_table_privilege(c.oid, 'TRUNCATE'),
       pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner)::text, c.relforcerowsecurity,
       row_security_active(c.oid) OR (c.relrowsecurity AND c.relforcerowsecurity AND NOT coalesce(
           (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user), false))
FROM pg_class c WHERE c.oid = ANY(%s::oid[])
"""
_SEQUENCES = """
SELECT n.nspname::text, c.relname::text, tn.nspname::text, t.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 AND d.refclassid = 'pg_class'::regclass
     AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
LEFT JOIN pg_class t ON t.oid = d.refobjid LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'SELECT') ELSE false END
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
"""


def look(conn: psycopg.Connection[Any], tables: Sequence[Table], selection: Selection) -> list[Finding]:
    """Findings about what our role may not do with the selected tables, their sequences and the large objects, each with its grant."""
    role = str(conn.info.user)
    return _tables(conn, tables, role) + closed_sequences(conn, selection, role) + _large_objects(conn, selection, role)


def _tables(conn: psycopg.Connection[Any], tables: Sequence[Table], role: str) -> list[Finding]:
    names = {table.oid: table for table in tables}
    grantee = quote_ident(role)
    found: list[Finding] = []
    rows = conn.execute(_TABLES, (list(names),)).fetchall()
    for oid, usage, select, trigger, lock, owned, owner, forced, filtered in rows:
        table = names[oid]
        if not usage:
            fix = f"GRANT USAGE ON SCHEMA {quote_ident(table.schema)} TO {grantee};"
            found.append(finding("schema-usage", f"schema {table.schema}", f"role {role} may not use it", fix))
        if not select:
            fix = f"GRANT SELECT ON {table.sql} TO {grantee};"
            found.append(finding("table-select", table.dotted, f"role {role} may not read it", fix))
        elif filtered:
            # With row_security=off PostgreSQL refuses instead of filtering; without it we would read fewer rows and no error.
            fix = f"ALTER ROLE {grantee} BYPASSRLS;"
            if forced and owned:
                fix += f" or: ALTER TABLE {table.sql} NO FORCE ROW LEVEL SECURITY;"
            found.append(finding("rls", table.dotted, f"row level security hides rows from role {role}", fix))
        if not trigger:
            fix = f"GRANT TRIGGER ON {table.sql} TO {grantee};"
            found.append(finding("table-trigger", table.dotted, f"role {role} may not create the trigger that stops writes", fix))
        if not lock:
            fix = f"GRANT UPDATE ON {table.sql} TO {grantee};"
            found.append(finding("table-lock", table.dotted, f"role {role} may not lock it against writers", fix))
        if trigger and not owned:
            text = f"belongs to {owner}: after a thaw the trigger stays, refusing nothing, until finalize removes it"
            fix = f"GRANT {quote_ident(owner)} TO {grantee};"
            if owner.startswith("supabase_"):
                fix = f"Nothing, where the platform does not let {owner} be granted: the trigger that is left refuses nothing."
            found.append(finding("table-owner", table.dotted, text, fix))
    return found


def closed_sequences(conn: psycopg.Connection[Any], selection: Selection, role: str) -> list[Finding]:
    """Findings about selected sequences whose position our role may not read."""
    found = []
    for schema, name, owner_schema, owner in conn.execute(_SEQUENCES).fetchall():
        if selection.matches(*((owner_schema, owner) if owner is not None else (schema, name))):
            fix = f"GRANT SELECT ON SEQUENCE {qualified(schema, name)} TO {quote_ident(role)};"
            found.append(finding("sequence-select", f"{schema}.{name}", f"role {role} may not read this sequence", fix))
    return found


def _large_objects(conn: psycopg.Connection[Any], selection: Selection, role: str) -> list[Finding]:
    if not selection.large_objects:
        return []
    closed, first = large_objects.unreadable(conn)
    if not closed:
        return []
    text = f"role {role} may not read {closed} of them, the first {', '.join(map(str, first))}"
    return [finding("large-object-select", "large objects", text, large_objects.grant_read(role))]
