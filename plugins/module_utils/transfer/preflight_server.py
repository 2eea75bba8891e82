# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of what is asked of either server: settings that roles and databases bring, collation versions, replica sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .catalog import quote_ident
from .findings import Finding, finding

if TYPE_CHECKING:
    import psycopg

TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
RENDERING = ("TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output", "lc_monetary", "xmloption", "row_security")

_DECLARED = """
SELECT concat_ws(' in ', CASE WHEN s.setrole <> 0 THEN 'role ' || r.rolname END, CASE WHEN s.setdatabase <> 0 THEN 'database ' || d.datname END),
       split_part(e, '=', 1), substr(e, strpos(e, '=') + 1)
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) e
WHERE (s.setrole = 0 OR r.rolname = current_user) AND (s.setdatabase = 0 OR d.datname = current_database())
UNION ALL SELECT 'server', name, reset_val FROM pg_settings WHERE name = ANY(%(timeouts)s) AND reset_val <> boot_val
UNION ALL SELECT 'server', name, reset_val FROM pg_settings WHERE name = 'extra_float_digits' AND reset_val::int < 1
"""
_READ_ONLY = "SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'"
_COLLATIONS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname), c.collversion, pg_collation_actual_version(c.oid)
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE c.collversion IS NOT NULL AND c.collversion IS DISTINCT FROM pg_collation_actual_version(c.oid)
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attcollation = c.oid AND NOT a.attisdropped AND a.attrelid >= 16384)
"""
_DATABASE_COLLATION = """
SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()
"""


def settings(conn: psycopg.Connection[Any], side: str) -> list[Finding]:
    """Findings about settings that a session gets before ours: ours are set and read back, theirs are worth knowing."""
    declared = conn.execute(_DECLARED, {"timeouts": list(TIMEOUTS)}).fetchall()
    found = []
    named = {name for where, name, _value in declared if where != "server"}
    for where, name, value in dict.fromkeys(declared):
        if where == "server" and name in named:
            continue
        place = where if where != "server" else side
        if name in TIMEOUTS and value.rstrip("minsh ") not in ("0", ""):
            text = f"{name} is {value}; the move's own sessions have it at 0, set at their start and read back"
            found.append(finding("settings-timeout", place, text, "Nothing to do."))
        elif name == "extra_float_digits" and int(value) < 1:
            text = f"{name} is {value}, at which different numbers print the same; the move's own sessions have 3, read back"
            found.append(finding("settings-render", place, text, "Nothing to do for the move."))
        elif name in RENDERING and where != "server":
            text = f"{name} is {value}, which changes how rows print; the move's own sessions pin it and read it back"
            found.append(finding("settings-render", place, text, "Nothing to do."))
    row = conn.execute(_READ_ONLY).fetchone()
    if row and row[0]:
        database = quote_ident(str(conn.info.dbname))
        fix = f"ALTER DATABASE {database} SET default_transaction_read_only = off; (Supabase sets it when the disk is full: enlarge that first)"
        found.append(finding("read-only", side, "default_transaction_read_only is on: neither copy nor freeze can write", fix))
    return found + _collations(conn, side)


def _collations(conn: psycopg.Connection[Any], side: str) -> list[Finding]:
    found = []
    for name, recorded, actual in conn.execute(_COLLATIONS).fetchall():
        text = f"was made with version {recorded}, the {side}'s system has {actual}: indexes on its texts may be out of order"
        fix = f"REINDEX what uses it, then ALTER COLLATION {name} REFRESH VERSION;"
        found.append(finding("collation-version", f"collation {name}", text, fix))
    if conn.info.server_version >= 150000:
        row = conn.execute(_DATABASE_COLLATION).fetchone()
        if row and row[0] is not None and row[0] != row[1]:
            database = quote_ident(str(conn.info.dbname))
            text = f"was made with version {row[0]} of its collation, the {side}'s system has {row[1]}: indexes on its texts may be out of order"
            fix = f"REINDEX DATABASE {database}; then ALTER DATABASE {database} REFRESH COLLATION VERSION;"
            found.append(finding("collation-version", f"database {conn.info.dbname}", text, fix))
    return found


def may_set_replica(conn: psycopg.Connection[Any]) -> bool:
    """Whether this session may set session_replication_role: tried and taken back, the catalogue does not know about hooks."""
    import psycopg

    try:
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL session_replication_role = 'replica'")
            row = conn.execute("SHOW session_replication_role").fetchone()
            return bool(row and row[0] == "replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
