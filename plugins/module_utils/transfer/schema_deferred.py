# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What must act on one side only: event triggers, publications, webhooks and cron jobs. Not active on the target before the cutover.

Each becomes an item with the statements that switch it on. Texts that may hold keys of other services (a webhook's headers, a cron job's
command) never enter an item: such things are made on the target switched off, and the statement only names them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .catalog import qualified, quote_ident, quote_literal
from .errors import certain
from .selection import Selection

if TYPE_CHECKING:
    import psycopg

_FIRES = {"O": "", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


@dataclass(frozen=True)
class Deferred:
    """One thing that waits for the cutover.

    kind: event_trigger, publication, webhook, trigger or cron_job; object: its name; statements: to run on the target, in order
    active: whether it acts on the target already; needs: what a person has to bring before the statements work, or ''
    undo: what takes the statements back; source, source_undo: what stops it on the source, and lets it act there again, where the source's
    freeze does not: a job runs although no table takes writes, a trigger or a publication has nothing to tell then
    """

    kind: str
    object: str
    statements: tuple[str, ...]
    active: bool = False
    needs: str = ""
    undo: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    source_undo: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hook:
    """A trigger whose function stays behind. definition: CREATE TRIGGER under the source's names; it may hold secrets."""

    table: tuple[str, str]
    name: str
    function: str
    definition: str
    fires: str


def hooks(src: psycopg.Connection[Any], selection: Selection, left_out: Collection[str]) -> list[Hook]:
    """Triggers of selected tables whose function lives in a schema that does not come along."""
    rows = src.execute(
        "SELECT n.nspname::text, c.relname::text, t.tgname::text, t.tgfoid::regprocedure::text, pg_get_triggerdef(t.oid), t.tgenabled::text,"
        " rn.nspname::text, r.relname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace"
        " LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid) LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace"
        " WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND f.nspname = ANY(%s) AND f.nspname <> 'cutover' ORDER BY 1, 2, 3",
        (list(left_out),),
    ).fetchall()
    return [
        Hook((schema, table), name, function, definition, fires)
        for schema, table, name, function, definition, fires, root_schema, root in rows
        if selection.matches(schema, table, (root_schema, root) if root else None)
    ]


def make_hooks(dst: psycopg.Connection[Any], found: Collection[Hook]) -> list[str]:
    """Make, switched off and under the source's names, those whose function the target has. Returns what was made, in words."""
    made = []
    for hook in missing_hooks(dst, found):
        table = qualified(*hook.table)
        with dst.transaction():
            dst.execute(hook.definition)
            dst.execute(f"ALTER TABLE {table} DISABLE TRIGGER {quote_ident(hook.name)}")
        made.append(told(hook))
    return made


def missing_hooks(dst: psycopg.Connection[Any], found: Collection[Hook]) -> list[Hook]:
    """Those that :func:`make_hooks` would make. The target's tables under the source's names."""
    return [
        hook
        for hook in found
        if _one(dst, "SELECT to_regprocedure(%s) IS NOT NULL", hook.function)
        and _one(dst, "SELECT to_regclass(%s) IS NOT NULL", qualified(*hook.table))
        and _fires(dst, hook.table, hook.name) is None
    ]


def told(hook: Hook) -> str:
    return f"trigger {hook.name} on {'.'.join(hook.table)}, switched off"


def _fires(conn: psycopg.Connection[Any], table: tuple[str, str], name: str) -> str | None:
    row = conn.execute(
        "SELECT t.tgenabled::text FROM pg_trigger t WHERE t.tgrelid = to_regclass(%s) AND t.tgname = %s", (qualified(*table), name)
    ).fetchone()
    return row[0] if row else None


def read(
    src: psycopg.Connection[Any], dst: psycopg.Connection[Any], selection: Selection, left_out: Collection[str], found: Collection[Hook]
) -> tuple[Deferred, ...]:
    """Everything that waits, with the statements under the target's names."""
    items = [_hook(dst, selection, hook) for hook in found]
    items += _event_triggers(src, dst, selection, left_out)
    items += _publications(src, dst, selection)
    items += _cron_jobs(src, dst)
    return tuple(sorted(items, key=lambda item: (item.kind, item.object)))


def _hook(dst: psycopg.Connection[Any], selection: Selection, hook: Hook) -> Deferred:
    table = selection.target_name(*hook.table)
    kind = "webhook" if hook.function.split("(")[0].endswith(".http_request") else "trigger"
    fires = _fires(dst, table, hook.name)
    needs = "" if fires else f"{hook.function} on the target; then run pg_schema_transfer again, which makes the trigger switched off"
    verb = _FIRES.get(hook.fires) or "ENABLE"
    on, off = (f"ALTER TABLE {qualified(*table)} {word} TRIGGER {quote_ident(hook.name)}" for word in (verb, "DISABLE"))
    return Deferred(kind, f"{hook.name} on {'.'.join(table)}", (on,), fires not in (None, "D"), needs, (off,))


def _event_triggers(
    src: psycopg.Connection[Any], dst: psycopg.Connection[Any], selection: Selection, left_out: Collection[str]
) -> list[Deferred]:
    rows = src.execute(
        "SELECT e.evtname::text, e.evtevent::text, e.evttags, e.evtenabled::text, n.nspname::text, p.proname::text FROM pg_event_trigger e"
        " JOIN pg_proc p ON p.oid = e.evtfoid JOIN pg_namespace n ON n.oid = p.pronamespace WHERE NOT EXISTS (SELECT FROM pg_depend d"
        " WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e') ORDER BY 1"
    ).fetchall()
    there = dict(dst.execute("SELECT evtname::text, evtenabled::text FROM pg_event_trigger").fetchall())
    items = []
    for name, event, tags, fires, schema, function in rows:
        platform = schema in left_out
        place = qualified(selection.rename.schemas.get(schema, schema), function)
        when = f" WHEN TAG IN ({', '.join(quote_literal(tag) for tag in tags)})" if tags else ""
        ours = quote_ident(name)
        undo: list[str] = []
        statements: list[str] = []
        if name in there:
            statements.append(f"ALTER EVENT TRIGGER {ours} {_FIRES[fires] or 'ENABLE'}")
            undo.append(f"ALTER EVENT TRIGGER {ours} DISABLE")
        elif not platform:
            statements.append(f"CREATE EVENT TRIGGER {ours} ON {event}{when} EXECUTE FUNCTION {place}()")
            statements += [f"ALTER EVENT TRIGGER {ours} {_FIRES[fires]}"] if _FIRES[fires] else []
            undo.append(f"DROP EVENT TRIGGER {ours}")
        needs = f"function {place}(), which the platform's own installation brings together with this event trigger" if platform else ""
        items.append(Deferred("event_trigger", name, tuple(statements), there.get(name, "D") != "D", needs, tuple(undo)))
    return items


def _publications(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], selection: Selection) -> list[Deferred]:
    modern = src.info.server_version >= 150000
    filters = "pg_get_expr(r.prqual, r.prrelid), r.prattrs::int2[]" if modern else "NULL::text, NULL::int2[]"
    there = {name for (name,) in dst.execute("SELECT pubname::text FROM pg_publication").fetchall()}
    published = set(dst.execute("SELECT pubname::text, schemaname::text, tablename::text FROM pg_publication_tables").fetchall())
    items = []
    for oid, name, everything, via_root, *operations in src.execute(
        "SELECT oid::bigint, pubname::text, puballtables, pubviaroot, pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication"
        " WHERE pubname !~ '^cutover' ORDER BY 2"
    ).fetchall():
        parts, absent, added, needs = [], [], [], ""
        for schema, table, condition, columns, oid_of_table in src.execute(
            f"SELECT n.nspname::text, c.relname::text, {filters}, c.oid::bigint FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = %s::oid ORDER BY 1, 2",
            (oid,),
        ).fetchall():
            if not selection.matches(schema, table):
                continue
            target = selection.target_name(schema, table)
            part = qualified(*target)
            if columns:
                names = _column_names(src, oid_of_table, columns)
                part += f" ({', '.join(quote_ident(selection.target_column(schema, table, one)) for one in names)})"
            if condition:
                part += f" WHERE ({condition})"
                if any(old.startswith(f"{schema}.{table}.") for old in selection.rename.columns):
                    needs = f"a look at the row filter of {schema}.{table}, which names columns as on the source"
            parts.append(part)
            if (name, *target) not in published:
                absent.append(part)
                added.append(qualified(*target))
        schemas = []
        if modern:
            schemas = [
                quote_ident(selection.rename.schemas.get(schema, schema))
                for (schema,) in src.execute(
                    "SELECT n.nspname::text FROM pg_publication_namespace p JOIN pg_namespace n ON n.oid = p.pnnspid"
                    " WHERE p.pnpubid = %s::oid ORDER BY 1",
                    (oid,),
                ).fetchall()
            ]
        scope = " FOR ALL TABLES" if everything else _scope(parts, schemas)
        does = [word for word, on in zip(("insert", "update", "delete", "truncate"), operations, strict=True) if on]
        options = f" WITH (publish = {quote_literal(', '.join(does))}{', publish_via_partition_root = true' if via_root else ''})"
        if name in there:
            more = _scope(absent, []).removeprefix(" FOR")
            statements = (f"ALTER PUBLICATION {quote_ident(name)} ADD{more}",) if more else ()
            undo = (f"ALTER PUBLICATION {quote_ident(name)} DROP TABLE {', '.join(added)}",) if more else ()
        else:
            statements = (f"CREATE PUBLICATION {quote_ident(name)}{scope}{options}",)
            undo = (f"DROP PUBLICATION {quote_ident(name)}",)
        items.append(Deferred("publication", name, statements, name in there and not absent, needs, undo))
    return items


def _column_names(conn: psycopg.Connection[Any], table: int, positions: Collection[int]) -> list[str]:
    rows = conn.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::oid AND attnum = ANY(%s) ORDER BY attnum", (table, list(positions))
    ).fetchall()
    return [name for (name,) in rows]


def _scope(tables: Collection[str], schemas: Collection[str]) -> str:
    parts = [f"TABLE {', '.join(tables)}"] if tables else []
    parts += [f"TABLES IN SCHEMA {', '.join(schemas)}"] if schemas else []
    return f" FOR {', '.join(parts)}" if parts else ""


def _cron_jobs(src: psycopg.Connection[Any], dst: psycopg.Connection[Any]) -> list[Deferred]:
    there = {(job["name"], job["user"]): job for job in cron_jobs(dst) or []}
    items = []
    for job in cron_jobs(src) or []:
        if not job["active"]:
            continue
        other = there.get((job["name"], job["user"]))
        who = f"jobname = {quote_literal(job['name'])} AND username = {quote_literal(job['user'])}"
        on, off = (f"SELECT cron.alter_job(jobid, active := {word}) FROM cron.job WHERE {who}" for word in ("true", "false"))
        there_on, there_off = (
            f"SELECT cron.alter_job(jobid, active := {word}) FROM cron.job WHERE jobid = {job['id']}" for word in ("true", "false")
        )
        needs = (
            ""
            if other
            else "pg_cron on the target and this job; run pg_schema_transfer again once pg_cron is there, or schedule it by hand"
        )
        active = bool(other and other["active"])
        items.append(Deferred("cron_job", job["name"], (on,), active, needs, (off,), (there_off,), (there_on,)))
    return items


def cron_jobs(conn: psycopg.Connection[Any]) -> list[dict[str, Any]] | None:
    """Jobs of pg_cron that run in this database; None where our role may not see them all. A job without a name is called by its number."""
    if not readable(conn, "cron", "job"):
        return None if _one(conn, "SELECT to_regclass('cron.job') IS NOT NULL") else []
    rows = conn.execute("SELECT to_jsonb(j) FROM cron.job j ORDER BY jobid").fetchall()
    found = []
    for (job,) in rows:
        if job.get("database", conn.info.dbname) != conn.info.dbname:
            continue
        name = job.get("jobname") or f"job {job['jobid']}"
        found.append(
            {
                "id": int(job["jobid"]),
                "name": name,
                "user": job.get("username", ""),
                "active": job.get("active", True),
                **{k: job.get(k, "") for k in ("schedule", "command")},
            }
        )
    return found


def has_cron(conn: psycopg.Connection[Any]) -> bool:
    """Whether pg_cron is installed in this database."""
    return bool(_one(conn, "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron')"))


def missing_jobs(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], coming: bool = False) -> list[dict[str, Any]]:
    """Jobs that :func:`make_jobs` would make: the target has pg_cron in this database, and not the job. coming: it will have pg_cron."""
    if not coming and not has_cron(dst):
        return []
    there = {(job["name"], job["user"]) for job in cron_jobs(dst) or []}
    return [job for job in cron_jobs(src) or [] if (job["name"], job["user"]) not in there]


def make_jobs(dst: psycopg.Connection[Any], jobs: Collection[dict[str, Any]]) -> None:
    """Make jobs switched off, in one transaction, so that the scheduler never sees one that is on. They keep their user and name."""
    with dst.transaction():
        for job in jobs:
            dst.execute(
                "INSERT INTO cron.job (schedule, command, database, username, active, jobname) VALUES (%s, %s, current_database(), %s, false, %s)",
                (job["schedule"], job["command"], job["user"], job["name"]),
            )


def readable(conn: psycopg.Connection[Any], schema: str, table: str) -> bool:
    """Whether the table is there and our role sees all its rows."""
    return bool(
        _one(
            conn,
            "SELECT coalesce(bool_or(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid)"
            " AND (NOT c.relrowsecurity OR r.rolsuper OR r.rolbypassrls OR (pg_has_role(c.relowner, 'USAGE') AND NOT c.relforcerowsecurity))), false)"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.rolname = current_user"
            " WHERE n.nspname = %s AND c.relname = %s",
            schema,
            table,
        )
    )


def _one(conn: psycopg.Connection[Any], query: str, *values: str) -> Any:
    return certain(conn.execute(query, values).fetchone(), "the row of a catalogue query")[0]
