# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of the target alone: may we make everything there, does it take writes, is it set for a load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import preflight_platform
from .catalog import quote_ident
from .errors import certain
from .findings import ERROR, INFO, WARNING, Finding, finding
from .preflight_server import may_set_replica, settings
from .preflight_source import ages

if TYPE_CHECKING:
    import psycopg

# Setting, least value in its own unit, what to set. A load is held up by checkpoints, index builds by memory and workers.
LOAD_SETTINGS = (
    ("max_wal_size", 16 * 1024, "20GB"),
    ("maintenance_work_mem", 256 * 1024, "1GB"),
    ("max_parallel_maintenance_workers", 2, "4"),
    ("max_worker_processes", 8, "8"),
    ("checkpoint_timeout", 600, "30min"),
)
_FACTS = """
SELECT pg_is_in_recovery(), r.rolsuper, r.rolcreaterole, has_database_privilege(current_database(), 'CREATE'), current_setting('data_checksums'),
       current_setting('synchronous_standby_names'), (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
       current_setting('synchronous_commit'), pg_get_userbyid(d.datdba)::text, age(d.datfrozenxid), mxid_age(d.datminmxid)
FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()
"""


def look(conn: psycopg.Connection[Any]) -> list[Finding]:
    """Findings about the target's server and our role on it. conn: a read-only session."""
    role, database = str(conn.info.user), str(conn.info.dbname)
    row = certain(conn.execute(_FACTS).fetchone(), "the role in pg_roles")
    recovery, superuser, createrole, create, checksums, names, standbys, commit, owner, frozen_age, multi_age = row
    found = settings(conn, "target")
    if recovery:
        fix = "Give the leader's address, or add target_session_attrs=read-write to the dsn."
        found.append(finding("standby", "target", "is a replica and takes no writes", fix))
    if not create:
        fix = f"GRANT CREATE ON DATABASE {quote_ident(database)} TO {quote_ident(role)};"
        found.append(
            finding("database-create", f"database {database}", f"role {role} may not create schemas in it (owner is {owner})", fix)
        )
    if not superuser:
        text = "is not a superuser: it can neither set owners and BYPASSRLS of all roles nor create every extension"
        fix = "Use the cluster's superuser for the move."
        found.append(finding("role-rights", f"role {role}", text, fix, WARNING if createrole else ERROR))
    if not may_set_replica(conn):
        fix = f"GRANT SET ON PARAMETER session_replication_role TO {quote_ident(role)};"
        text = f"role {role} may not set it on the target: triggers would fire on moved rows"
        found.append(finding("replica-role", "session_replication_role", text, fix))
    if checksums == "off":
        found.append(finding("checksums", "target", "has no data checksums", "Run pg_checksums --enable while it is stopped."))
    if names and not standbys and commit not in ("off", "local"):
        text = f"is {names!r}, and no synchronous standby is connected: the first commit that waits for one hangs"
        fix = "Bring the standby back, or: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf(); (Patroni: synchronous_mode: false)"
        found.append(finding("synchronous", "synchronous_standby_names", text, fix))
    elif names:
        text = f"commits wait for standbys ({names}); the copy's own sessions do not"
        found.append(finding("synchronous", "target", text, "Nothing to do.", INFO))
    found += ages(database, frozen_age, multi_age)
    return found + _load(conn) + preflight_platform.event_triggers(conn, "target") + preflight_platform.jobs(conn, "target")


def _load(conn: psycopg.Connection[Any]) -> list[Finding]:
    names = [name for name, _least, _wanted in LOAD_SETTINGS]
    rows = conn.execute(
        "SELECT name, setting::bigint, coalesce(unit, ''), context FROM pg_settings WHERE name = ANY(%s)", (names,)
    ).fetchall()
    now = {name: (value, unit, context) for name, value, unit, context in rows}
    small = [(name, *now[name], wanted) for name, least, wanted in LOAD_SETTINGS if name in now and now[name][0] < least]
    if not small:
        return []
    text = "smaller than a load likes: " + ", ".join(f"{name} = {value}{unit}" for name, value, unit, _context, _wanted in small)
    fix = " ".join(f"ALTER SYSTEM SET {name} = '{wanted}';" for name, _value, _unit, _context, wanted in small)
    restart = "; restart the server" if any(context == "postmaster" for _name, _value, _unit, context, _wanted in small) else ""
    return [finding("load-settings", "target", text, f"{fix} SELECT pg_reload_conf();{restart}")]
