# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The publication on the sending database: planned, made, watched, and removed with every replica identity as it was before.

``FOR ALL TABLES`` is never made: where a role may publish tables of others (a superuser; on Supabase the role that supautils lets create and
alter publications as its superuser) ``FOR TABLE`` takes them too, and does not reach for tables that nobody selected.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import session
from ..catalog import quote_ident, quote_literal
from ..errors import TransferError, certain
from ..findings import listed
from ..selection import Selection
from . import identities
from .publishable import Existing, Key, Outlook, Relation, decide, works

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

NAME = "cutover"
# By this a publication is known to be ours, to alter and to drop.
COMMENT = "made by cutover.hetzner for its change stream"
ATTEMPTS = 20
# Taking a member in conflicts with vacuum and other changes of the table only, so nobody queues behind it.
_MEMBER_TIMEOUT_MS = 3000
_OPTIONS = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"

_RELATIONS = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'), CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::bigint END,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attgenerated <> '' AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'm') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'cutover')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                  AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
"""
# What the server takes as a replica identity. A NOT NULL that was never validated (PostgreSQL 18) promises nothing about old rows.
_KEYS = """
SELECT i.indrelid::bigint, i.indexrelid::bigint, x.relname::text, i.indisprimary, bool_or(a.attgenerated <> ''), i.indisreplident
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace n ON n.oid = x.relnamespace
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(num, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
WHERE n.nspname !~ '^pg_' AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
  AND k.place <= i.indnkeyatts
GROUP BY i.indrelid, i.indexrelid, x.relname, i.indisprimary, i.indisreplident, i.indnkeyatts
HAVING bool_and(a.attnotnull AND NOT EXISTS (
    SELECT FROM pg_constraint o WHERE o.conrelid = a.attrelid AND o.contype = 'n' AND NOT o.convalidated AND o.conkey = ARRAY[a.attnum]))
ORDER BY i.indrelid, i.indisprimary DESC, i.indnkeyatts, i.indexrelid
"""


@dataclass(frozen=True)
class Made:
    """What :func:`create` did, or would do. identities: ``schema.table: before -> after``; added, removed: members of a publication that was there."""

    changed: bool
    outlook: Outlook
    identities: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Removed:
    """What :func:`remove` did, or would do. kept: tables whose identity somebody else has changed since, left as they are."""

    changed: bool
    dropped: bool = False
    restored: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drift:
    """What has moved away from the publication since it was made, by ``schema.table``.

    missing: the publication itself is gone; new: selected tables that it lacks; identity: members whose updates the server refuses now, or which
    the stream could not follow; dropped: members that are gone, from the database or from the publication; renamed: ``old -> new``
    """

    missing: bool = False
    new: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Whether anything has moved."""
        return bool(self.missing or self.new or self.identity or self.dropped or self.renamed)

    def sentences(self) -> list[str]:
        """What moved and what to do, for people."""
        again = "run pg_change_stream with state=started"
        told = {
            "The publication is gone, and the slot cannot be read without it": ("begin again with a new slot and a new copy",)
            * self.missing,
            f"New tables are not in the stream; {again}, then copy them": self.new,
            f"Updates of these tables are refused or cannot be followed; {again}, which sets their replica identity": self.identity,
            "Tables of the stream are gone; drop them on the other side, too, or exclude them": self.dropped,
            "Tables of the stream were renamed; rename them on the other side, too": self.renamed,
        }
        return [f"{what}: {listed(names)}." for what, names in told.items() if names]


def plan(conn: Conn, selection: Selection, name: str = NAME, *, full_identity: bool = True) -> Outlook:
    """What would be published and what would not. Changes nothing.

    conn: a session of :func:`..session.connect` on the sending database; selection: as seen from there
    """
    row = certain(
        conn.execute(
            "SELECT r.rolsuper, (SELECT pg_has_role(p.oid, 'USAGE') FROM pg_roles p WHERE p.rolname = current_setting('supautils.privileged_role', true)),"
            " EXISTS (SELECT FROM pg_largeobject_metadata) FROM pg_roles r WHERE r.rolname = current_user"
        ).fetchone(),
        "the role in pg_roles",
    )
    return decide(
        relations(conn),
        selection,
        conn.info.server_version,
        existing=existing(conn, name),
        full_identity=full_identity,
        elevated=bool(row[0] or row[1]),
        large_objects=row[2],
    )


def relations(conn: Conn) -> list[Relation]:
    """Every table, partition, foreign table and materialized view outside of the system's schemas and of extensions."""
    keys: dict[int, list[Key]] = {}
    for oid, *facts in conn.execute(_KEYS).fetchall():
        keys.setdefault(oid, []).append(Key(*facts))
    return [Relation(*(*row, tuple(keys.get(row[0], ())))) for row in conn.execute(_RELATIONS).fetchall()]


def existing(conn: Conn, name: str) -> Existing | None:
    """The publication of this name."""
    version = conn.info.server_version
    whole = "NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL))"
    by_schema = "EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid)"
    if version < 150000:
        whole, by_schema = "true", "false"
    if version >= 180000:
        whole += " AND p.pubgencols = 'n'"
    row = conn.execute(
        f"""SELECT coalesce(obj_description(p.oid, 'pg_publication'), '') = %s, p.puballtables, p.pubviaroot,
                   p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND {whole}, {by_schema},
                   (SELECT coalesce(array_agg(r.prrelid::bigint), '{{}}') FROM pg_publication_rel r WHERE r.prpubid = p.oid)
            FROM pg_publication p WHERE p.pubname = %s""",
        (COMMENT, name),
    ).fetchone()
    if row is None:
        return None
    ours, all_tables, via_root, complete, schemas, tables = row
    return Existing(ours, all_tables, via_root, complete, schemas, frozenset(tables))


def create(
    conn: Conn,
    selection: Selection,
    name: str = NAME,
    full_identity: bool = True,
    check: bool = False,
    *,
    attempts: int = ATTEMPTS,
    fault: Callable[[str], None] | None = None,
) -> Made:
    """Make the publication as planned, replica identities first; a second run changes nothing.

    attempts: for each lock; fault: called with ``identity:schema.table``, ``identities``, ``publication`` after each step, for rehearsals of failures
    Raises TransferError of kind nothing_to_stream, publication_exists, locked (details.blockers) or privilege; identities set by this call are
    put back then. A call that is killed leaves its identities set and remembered, for the next :func:`create` or :func:`remove`.
    """
    outlook = plan(conn, selection, name, full_identity=full_identity)
    _refuse(outlook, name)
    before = existing(conn, name)
    known = identities.noted(conn, name)
    unknown = {table.oid for table in outlook.tables} - {row.relation for row in known.values() if row.published}
    made = Made(outlook.changed or bool(unknown), outlook, tuple(_told(outlook)), *_members(outlook, before, known))
    if check or not made.changed:
        return made
    identities.prepare(conn)
    done: list[int] = []
    try:
        for change in outlook.identities:
            identities.apply(conn, name, change, attempts)
            done.append(change.relation.oid)
            if fault:
                fault(f"identity:{change.relation.dotted}")
        if fault:
            fault("identities")
        oids = [table.oid for table in outlook.tables]
        what = f"publication {name}"
        identities.locked(conn, lambda: _publish(conn, outlook, name, before), what, oids, attempts, _MEMBER_TIMEOUT_MS)
        if fault:
            fault("publication")
    except Exception as error:
        raise _undone(conn, name, done, error) from error
    return made


def remove(conn: Conn, name: str = NAME, check: bool = False, *, attempts: int = ATTEMPTS) -> Removed:
    """Drop our publication, then give every table the replica identity that it had. A second run changes nothing.

    Somebody else's publication of that name stays. Raises TransferError of kind locked or privilege for the tables that could not be put back;
    the others have been, and another run goes on with what is left.
    """
    found = existing(conn, name)
    ours = found is not None and found.ours
    rows = identities.noted(conn, name)
    restored = tuple(row.dotted for row in rows.values() if row.before is not None)
    if check or not (ours or rows):
        return Removed(ours or bool(rows), ours, restored)
    if ours:
        # Before the identities: a member without one would refuse the application's updates.
        conn.execute(f"DROP PUBLICATION IF EXISTS {quote_ident(name)}")
    failed: list[TransferError] = []
    kept: list[str] = []
    for row in rows.values():
        try:
            if not identities.put_back(conn, name, row, attempts):
                kept.append(row.dotted)
        except TransferError as error:
            failed.append(error)
    if failed:
        raise TransferError(
            f"publication {name} is gone, but not every replica identity is back: " + "; ".join(error.message for error in failed),
            failed[0].remedy,
            kind=failed[0].details.get("kind"),
            blockers=[blocker for error in failed for blocker in error.details.get("blockers", ())],
        )
    identities.clean(conn)
    return Removed(True, ours, tuple(one for one in restored if one not in kept), tuple(kept))


def drift(conn: Conn, selection: Selection, name: str = NAME) -> Drift:
    """What has moved since the publication was made. A few catalogue queries, nothing else."""
    found = existing(conn, name)
    if found is None:
        return Drift(missing=True)
    known = identities.noted(conn, name)
    there = {one.oid: one for one in relations(conn)}
    version = conn.info.server_version
    now = decide(there.values(), selection, version, existing=found)
    published = {row.relation for row in known.values() if row.published}
    members = found.tables or frozenset(published)
    new = tuple(table.dotted for table in now.tables if table.oid not in (published if found.all_tables else members))
    weak = _weak(there.values(), members, version)
    weak |= {change.relation.dotted for change in now.identities if {change.relation.oid, change.relation.root} & members}
    dropped, renamed = [], []
    for row in known.values():
        one = there.get(row.relation)
        if row.published and (one is None or (row.relation not in members and not found.all_tables)):
            dropped.append(row.dotted)
        elif row.published and one is not None and one.dotted != row.dotted:
            renamed.append(f"{row.dotted} -> {one.dotted}")
    return Drift(False, new, tuple(sorted(weak)), tuple(dropped), tuple(renamed))


def _weak(there: Iterable[Relation], members: Set[int], version: int) -> set[str]:
    """Tables whose updates the server refuses because they are published, a partition through its root for example."""
    carried = (one for one in there if one.kind == "r" and one.persistence == "p" and {one.oid, one.root} & members)
    return {one.dotted for one in carried if not works(one, version)}


def _refuse(outlook: Outlook, name: str) -> None:
    if not outlook.tables:
        why = listed([f"{one.object} ({one.reason})" for one in outlook.not_streamed]) or "no table is selected"
        raise TransferError(
            f"nothing can be streamed: {why}", "Correct include and exclude, or what is said of each table.", kind="nothing_to_stream"
        )
    if outlook.state == "foreign":
        raise TransferError(
            f"publication {name} exists, was not made by this collection, and does not publish every change of all selected tables through"
            " their roots",
            f"Give another name with publication, or drop it if nobody needs it: DROP PUBLICATION {quote_ident(name)};",
            kind="publication_exists",
        )


def _told(outlook: Outlook) -> list[str]:
    return [f"{change.relation.dotted}: {change.before.sql} -> {change.after.sql}" for change in outlook.identities]


def _members(outlook: Outlook, before: Existing | None, known: dict[int, identities.Noted]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if before is None or outlook.state != "differs":
        return (), ()
    wanted = {table.oid for table in outlook.tables}
    added = tuple(table.dotted for table in outlook.tables if table.oid not in before.tables)
    return added, tuple(known[oid].dotted if oid in known else str(oid) for oid in sorted(before.tables - wanted))


def _publish(conn: Conn, outlook: Outlook, name: str, before: Existing | None) -> None:
    """Inside the caller's transaction: the publication, what it consists of, and the certainty that no member would refuse updates."""
    quoted = quote_ident(name)
    tables = ", ".join(table.sql for table in outlook.tables)
    try:
        if outlook.state == "differs" and before is not None:
            if before.all_tables or before.by_schema or not before.complete:
                # These cannot be taken off a publication; readers find the new one under the same name.
                conn.execute(f"DROP PUBLICATION {quoted}")
                before = None
            else:
                conn.execute(f"ALTER PUBLICATION {quoted} SET ({_OPTIONS})")
                conn.execute(f"ALTER PUBLICATION {quoted} SET TABLE {tables}")
        if before is None:
            conn.execute(f"CREATE PUBLICATION {quoted} FOR TABLE {tables} WITH ({_OPTIONS})")
            conn.execute(f"COMMENT ON PUBLICATION {quoted} IS {quote_literal(COMMENT)}")
    except session.psycopg.errors.InsufficientPrivilege as error:
        raise TransferError(
            f"role {conn.info.user} may not publish the selected tables: {error.diag.message_primary}",
            f'Run GRANT CREATE ON DATABASE "{conn.info.dbname}" TO "{conn.info.user}"; and be the owner of each table, or exclude it.',
            kind="privilege",
        ) from error
    weak = _weak(relations(conn), {table.oid for table in outlook.tables}, conn.info.server_version)
    if weak:
        raise TransferError(
            f"{listed(sorted(weak))} lost the replica identity while the publication was made: updates of it would be refused",
            "Run this again when nobody changes these tables.",
            kind="identity_changed",
        )
    identities.publish(conn, name, outlook.tables)


def _undone(conn: Conn, name: str, done: list[int], error: Exception) -> Exception:
    """Put back what this call has set, as far as that is possible; the error to raise."""
    left = []
    for oid in reversed(done):
        row = identities.noted(conn, name).get(oid) if not conn.closed else None
        try:
            if row is None:
                left.append(oid)
            elif not row.published:
                identities.put_back(conn, name, row, 5)
        except (TransferError, session.psycopg.Error):
            left.append(oid)
    if not conn.closed:
        with contextlib.suppress(session.psycopg.Error):
            identities.clean(conn)
    if not isinstance(error, TransferError) or not done:
        return error
    told = f"{len(left)} replica identities are still as this run has set them" if left else "what this run had changed is as before"
    remedy = f"{error.remedy} Run with state=absent to put them back." if left else error.remedy
    return TransferError(f"{error.message}; {told}", remedy, **error.details)
