# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of the source's server: what our role is there, what runs, what a stream would need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .catalog import quote_ident
from .errors import certain
from .findings import ERROR, INFO, WARNING, Finding, finding
from .preflight_server import may_set_replica, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

LONG_TRANSACTION_SECONDS = 60
# A logical slot lives from the copy's first moment to the cutover: below this a busy day is enough to lose it.
KEEP_BYTES = 100 * 1024**3
SLOTS_WANTED = 2  # the stream's own and one for the pairs of a verification
AGE_WARNING, AGE_ERROR = 1_000_000_000, 1_900_000_000

_ROLE = """
SELECT r.rolsuper, has_database_privilege(current_database(), 'CREATE'), r.rolreplication, r.rolconnlimit,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') OR r.rolsuper,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = current_user),
       current_setting('wal_level'), current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_stat_replication),
       (SELECT setting::bigint * 1024 * 1024 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
       (SELECT reset_val::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'),
       (SELECT setting FROM pg_settings WHERE name = 'output_plugin_libraries'), -- only shown to those who may read all settings
       age(d.datfrozenxid), mxid_age(d.datminmxid), pg_database_size(d.oid), pg_is_in_recovery()
FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()
"""
_BUSY = """
SELECT pid, coalesce(usename::text, ''), coalesce(application_name, ''), extract(epoch FROM clock_timestamp() - xact_start)::int,
       state LIKE 'idle in transaction%%', left(coalesce(query, ''), 80)
FROM pg_stat_activity WHERE xact_start < clock_timestamp() - make_interval(secs => %s) AND pid <> pg_backend_pid() AND datname = current_database()
  AND backend_type = 'client backend' ORDER BY 4 DESC
"""
_PREPARED = """
SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::int FROM pg_prepared_xacts WHERE database = current_database() ORDER BY 3 DESC
"""
_SLOTS = """
SELECT slot_name::text, active, coalesce(wal_status, ''), pg_wal_lsn_diff(
         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn)::bigint, safe_wal_size
FROM pg_replication_slots WHERE NOT temporary
"""


def look(conn: psycopg.Connection[Any], workers: int) -> list[Finding]:
    """Findings about the source's server and our role on it. conn: a read-only session of :func:`.session.connect`."""
    role, database = str(conn.info.user), str(conn.info.dbname)
    row = certain(conn.execute(_ROLE).fetchone(), "the role in pg_roles")
    superuser, create, replication, limit, sees_all, room, busy, ours, *stream, frozen_age, multi_age, size, recovery = row
    found = settings(conn, "source")
    if recovery:
        text = "is a standby: it can be copied, and neither frozen nor given a publication"
        found.append(finding("standby", "source", text, "Give the primary's address, or add target_session_attrs=read-write to the dsn."))
    if not create:
        fix = f"GRANT CREATE ON DATABASE {quote_ident(database)} TO {quote_ident(role)};"
        found.append(
            finding(
                "database-create", f"database {database}", f"role {role} may not create schema cutover there, which the freeze needs", fix
            )
        )
    if not may_set_replica(conn):
        fix = f"GRANT SET ON PARAMETER session_replication_role TO {quote_ident(role)};"
        if conn.info.server_version < 150000:
            fix = "Use a superuser for the move: PostgreSQL 14 cannot grant a parameter."
        text = f"role {role} may not set it on the source, so there is no way back after the cutover"
        found.append(finding("replica-role", "session_replication_role", text, fix, WARNING))
    if not sees_all:
        text = f"role {role} does not see when others' transactions began, so a long one cannot be found"
        found.append(finding("activity-hidden", "pg_stat_activity", text, f"GRANT pg_read_all_stats TO {quote_ident(role)};"))
    free = min(room - busy, limit - ours if limit >= 0 else room)
    if free < workers + 4:
        text = f"{free} connections are free for role {role}, {workers + 4} are needed for {workers} workers"
        found.append(finding("connections", "connections", text, "Use fewer workers, raise max_connections or the role's limit."))
    found += _stream(conn, role, superuser or replication, size, stream)
    found += _activity(conn, database)
    found += ages(database, frozen_age, multi_age)
    return found


def ages(database: str, transactions: int, multixacts: int) -> list[Finding]:
    """Findings about the distance to the wraparound of transaction numbers. Pure."""
    found = []
    for rule, what, age in (("xid-age", "transactions", transactions), ("multixact-age", "multixacts", multixacts)):
        if age >= AGE_WARNING:
            text = f"its oldest rows are {age} {what} old, and the server stops taking writes at about 2100000000; the copy's snapshot holds vacuum up"
            severity = ERROR if age >= AGE_ERROR else WARNING
            found.append(finding(rule, f"database {database}", text, "VACUUM (FREEZE, SKIP_LOCKED);", severity))
    return found


def _stream(conn: psycopg.Connection[Any], role: str, may: bool, size: int, facts: Sequence[Any]) -> list[Finding]:
    wal_level, slots, slots_used, senders, senders_used, keep, timeout, plugins = facts
    if wal_level != "logical":
        text = f"is {wal_level}: changes cannot be streamed, the rest is brought over under the freeze"
        return [finding("wal-level", "wal_level", text, "ALTER SYSTEM SET wal_level = 'logical'; and restart the server, to stream.")]
    found = []
    if not may:
        text = "may not replicate, so changes cannot be streamed"
        found.append(finding("replication-right", f"role {role}", text, f"ALTER ROLE {quote_ident(role)} REPLICATION;"))
    for rule, name, total, used in (
        ("slots-free", "max_replication_slots", slots, slots_used),
        ("senders-free", "max_wal_senders", senders, senders_used),
    ):
        if total - used < SLOTS_WANTED:
            text = f"{used} of {total} are in use, {SLOTS_WANTED} are wanted for the stream and its verification"
            fix = f"ALTER SYSTEM SET {name} = {used + SLOTS_WANTED + 1}; and restart the server, or drop what nobody uses."
            found.append(finding(rule, name, text, fix))
    if 0 <= keep < max(KEEP_BYTES, size):
        text = f"is {keep // 1024**2} MiB: a slot that falls further behind is lost, and the copy has to begin again"
        fix = f"ALTER SYSTEM SET max_slot_wal_keep_size = '{max(KEEP_BYTES, size) // 1024**3} GB'; SELECT pg_reload_conf();"
        found.append(
            finding("slot-keep-size", "max_slot_wal_keep_size", text, f"{fix} (Supabase: supabase postgres-config update), given the disk.")
        )
    if 0 < timeout < 60_000:
        text = f"is {timeout} ms: a consumer that is busy for so long loses its connection"
        found.append(
            finding("sender-timeout", "wal_sender_timeout", text, f"ALTER ROLE {quote_ident(role)} SET wal_sender_timeout = '5min';")
        )
    if plugins is not None and "pgoutput" not in plugins and "*" not in plugins:
        text = f"is {plugins!r}, without pgoutput, the only one that the stream uses"
        found.append(
            finding(
                "output-plugin", "output_plugin_libraries", text, "ALTER SYSTEM RESET output_plugin_libraries; SELECT pg_reload_conf();"
            )
        )
    for name, active, status, behind, safe in conn.execute(_SLOTS).fetchall():
        lost = status in ("lost", "unreserved")
        if lost or (not active and (behind or 0) > 0):
            room = f", {safe // 1024**2} MiB before it is lost" if safe is not None else ""
            text = f"is {'active' if active else 'not read by anyone'} ({status or 'reserved'}) and holds {(behind or 0) // 1024**2} MiB of WAL{room}"
            found.append(
                finding(
                    "slot-existing",
                    f"slot {name}",
                    text,
                    f"SELECT pg_drop_replication_slot('{name}'); if nobody needs it.",
                    WARNING if lost or (behind or 0) > 1024**3 else INFO,
                )
            )
    return found


def _activity(conn: psycopg.Connection[Any], database: str) -> list[Finding]:
    found = []
    for pid, user, application, seconds, idle, query in conn.execute(_BUSY, (LONG_TRANSACTION_SECONDS,)).fetchall():
        what = "does nothing in a transaction that is" if idle else "has had a transaction"
        text = f"{user} {application} {what} open for {seconds} s ({query}); it holds up a new slot and the freeze"
        rule = "idle-in-transaction" if idle else "long-transaction"
        found.append(finding(rule, f"pid {pid}", text, f"SELECT pg_terminate_backend({pid});"))
    for gid, owner, seconds in conn.execute(_PREPARED).fetchall():
        quoted = gid.replace("'", "''")
        text = f"of {owner} is prepared since {seconds} s in {database}: until it ends neither a slot nor the freeze is possible"
        severity = ERROR if seconds >= LONG_TRANSACTION_SECONDS else WARNING
        fix = f"COMMIT PREPARED '{quoted}'; or ROLLBACK PREPARED '{quoted}';"
        found.append(finding("prepared-transaction", f"transaction {gid}", text, fix, severity))
    return found
