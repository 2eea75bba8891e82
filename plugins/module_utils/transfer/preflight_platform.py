# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of what acts by itself, and of what a platform keeps where a copy does not reach: jobs, hooks, publications, secrets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .catalog import Table, qualified, quote_ident
from .findings import INFO, WARNING, Finding, finding, listed
from .selection import Selection

if TYPE_CHECKING:
    import psycopg

WEBHOOK_SCHEMAS = ("supabase_functions", "net")

_EVENT_TRIGGERS = """
SELECT evtname::text, evtevent::text, evtfoid::regproc::text FROM pg_event_trigger e WHERE evtenabled <> 'D'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e') ORDER BY 1
"""
_PUBLICATIONS = """
SELECT p.pubname::text, p.puballtables, (SELECT count(*) FROM pg_publication_rel r WHERE r.prpubid = p.oid) FROM pg_publication p ORDER BY 1
"""
_WEBHOOKS = """
SELECT t.tgrelid::bigint, t.tgname::text, n.nspname || '.' || p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE t.tgrelid = ANY(%s::oid[]) AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND n.nspname = ANY(%s) ORDER BY 2
"""
_TABLE = """
SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v')
"""
_COLUMN_KEYS = """
SELECT DISTINCT format('%I.%I.%I', n.nspname, c.relname, a.attname) FROM pg_seclabel s JOIN pg_class c ON s.classoid = 'pg_class'::regclass AND c.oid = s.objoid
JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = s.objsubid
WHERE s.provider = 'pgsodium'
"""


def look(conn: psycopg.Connection[Any], tables: Sequence[Table], selection: Selection) -> list[Finding]:
    """Findings about the source."""
    found = event_triggers(conn, "source")
    for name, everything, count in conn.execute(_PUBLICATIONS).fetchall():
        what = "all tables" if everything else f"{count} tables"
        text = f"publishes {what}; it does not come along before the cutover, or the target would publish the copy"
        found.append(finding("publication", f"publication {name}", text, "Make it on the target when it has taken over."))
    subscriptions = conn.execute("SELECT subname::text FROM pg_stat_subscription WHERE subname IS NOT NULL ORDER BY 1").fetchall()
    for (name,) in dict.fromkeys(subscriptions):
        text = "writes rows here that no freeze of applications stops: its worker passes ordinary triggers"
        found.append(
            finding(
                "subscription",
                f"subscription {name}",
                text,
                f"ALTER SUBSCRIPTION {quote_ident(name)} DISABLE; at the start of the cutover.",
            )
        )
    names = {table.oid: table for table in tables}
    for oid, trigger, function in conn.execute(_WEBHOOKS, (list(names), list(WEBHOOK_SCHEMAS))).fetchall():
        text = f"trigger {trigger} calls out through {function}: made on both sides it would call twice"
        fix = f"Nothing before the cutover: the copy passes it. Afterwards: ALTER TABLE {names[oid].sql} DISABLE TRIGGER {quote_ident(trigger)}; on the source."
        found.append(finding("webhooks", names[oid].dotted, text, fix))
    found += jobs(conn, "source") + _secrets(conn)
    if selection.flavour == "supabase":
        text = "sessions of users end unless the target's services get the same JWT secret; passwords of users come along, those of database roles do not"
        fix = "Carry the JWT secret and the keys made with it over to the target's services, and give role_passwords."
        found.append(finding("supabase-logins", "logins", text, fix))
    return found


def event_triggers(conn: psycopg.Connection[Any], side: str) -> list[Finding]:
    """Findings about event triggers: they fire on what the move creates there."""
    rows = conn.execute(_EVENT_TRIGGERS).fetchall()
    if not rows:
        return []
    told = listed([f"{name} ({event}, {function})" for name, event, function in rows])
    if side == "source":
        text = f"{told}: they fire, or write a log, when the freeze makes its schema and triggers"
        return [
            finding("event-trigger", "event triggers of the source", text, "Nothing, if they bear with foreign objects being made.", INFO)
        ]
    fix = " ".join(f"ALTER EVENT TRIGGER {quote_ident(name)} DISABLE;" for name, _event, _function in rows) + " until the schema is there."
    text = f"{told}: they fire on each object that the schema transfer makes"
    return [finding("event-trigger", "event triggers of the target", text, fix, WARNING)]


def jobs(conn: psycopg.Connection[Any], side: str) -> list[Finding]:
    """Findings about active jobs of pg_cron."""
    if not _readable(conn, "cron", "job"):
        return []
    rows = conn.execute(
        "SELECT coalesce(nullif(to_jsonb(j)->>'jobname', ''), j.jobid::text) FROM cron.job j WHERE coalesce(to_jsonb(j)->>'active', 'true') = 'true' ORDER BY 1"
    ).fetchall()
    if not rows:
        return []
    told = listed([str(name) for (name,) in rows])
    off = "SELECT cron.alter_job(jobid, active => false) FROM cron.job;"
    if side == "source":
        text = f"{told}: they do not come along, and run on the source until they are switched off there"
        return [finding("cron-jobs", "cron jobs of the source", text, f"At the cutover: {off} and schedule them on the target.")]
    text = f"{told}: they run on the target while rows are copied"
    return [finding("cron-jobs", "cron jobs of the target", text, f"{off} until the cutover.")]


def _secrets(conn: psycopg.Connection[Any]) -> list[Finding]:
    found = []
    readable = _readable(conn, "vault", "secrets")
    if readable is not None:
        row = conn.execute(f"SELECT count(*) FROM {qualified('vault', 'secrets')}").fetchone() if readable else None
        count = "an unknown number of" if row is None else row[0]
        if row is None or row[0]:
            text = f"holds {count} secrets, encrypted under a key of this server: their rows are worth nothing elsewhere"
            fix = "Let pg_schema_transfer make them again through vault.create_secret, or make them by hand."
            found.append(finding("vault", "vault.secrets", text, fix))
    columns = [name for (name,) in conn.execute(_COLUMN_KEYS).fetchall()]
    if columns:
        text = f"{listed(columns)} are encrypted by pgsodium under a key of this server"
        found.append(finding("column-keys", "encrypted columns", text, "Decrypt them before the move: read the view's decrypted column."))
    return found


def _readable(conn: psycopg.Connection[Any], schema: str, name: str) -> bool | None:
    """Whether our role may read a table; None where there is none."""
    row = conn.execute(_TABLE, (schema, name)).fetchone()
    return bool(row[0]) if row else None
