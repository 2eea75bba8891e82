# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Large objects: copied beside the rows by the same workers, under the same snapshot, with their numbers, owners, privileges and comments.

They are read and written through functions that every role may call, so that their own privileges decide and no superuser is needed.
Ranges of numbers are to them what chunks are to tables: one transaction each, with its entry in the ledger.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import acl, session
from .catalog import quote_ident, quote_literal
from .chunks import Chunk
from .errors import TransferError, certain
from .selection import LARGE_OBJECTS, Selection

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

PIECE_BYTES = 4 * 1024 * 1024
RANGE_BYTES = 64 * 1024 * 1024
# PostgreSQL keeps a lock for every commented, granted or removed object until the end of a transaction, and has room for about 6,400.
RANGE_OBJECTS = 1000
LAST_OID = 2**32 - 1
LISTED = 5
_READ, _READ_WRITE = 0x40000, 0x60000

_DDL = """CREATE TABLE IF NOT EXISTS cutover.large_object (
    number int PRIMARY KEY, total int NOT NULL, lo bigint NOT NULL, hi bigint NOT NULL, estimate bigint NOT NULL,
    run bigint NOT NULL REFERENCES cutover.run, state text NOT NULL CHECK (state IN ('todo', 'done')),
    objects bigint, bytes bigint, seconds double precision, finished timestamptz)"""

# Opened and closed row by row, since a transaction that forgets to close looks for a free handle ever longer.
_STATES = f"""SELECT s.oid, s.owner, s.acl, s.comment, s.size, {{digest}} FROM (
    SELECT o.*, lo_lseek64(o.handle, 0, 2) AS size FROM (
        SELECT m.oid::bigint AS oid, pg_get_userbyid(m.lomowner)::text AS owner, obj_description(m.oid, 'pg_largeobject') AS comment,
               (SELECT coalesce(jsonb_agg(jsonb_build_array(coalesce(g.rolname, ''), r.rolname, x.privilege, x.grantable) ORDER BY x.place), '[]')
                FROM aclexplode(coalesce(m.lomacl, acldefault('L', m.lomowner))) WITH ORDINALITY x(grantor, grantee, privilege, grantable, place)
                JOIN pg_roles r ON r.oid = x.grantor LEFT JOIN pg_roles g ON g.oid = x.grantee) AS acl,
               lo_open(m.oid, {_READ}) AS handle
        FROM pg_largeobject_metadata m WHERE m.oid >= '{{lo}}'::oid AND m.oid <= '{{hi}}'::oid OFFSET 0) o OFFSET 0) s
    WHERE lo_close(s.handle) = 0 ORDER BY s.oid"""
# The digest of an object is that of its pieces' digests: none of them has to fit into memory.
_DIGEST = f"""(SELECT sha256(coalesce(string_agg(sha256(lo_get(s.oid::oid, at, {PIECE_BYTES})), ''::bytea ORDER BY at), ''::bytea))
    FROM generate_series(0::bigint, s.size - 1, {PIECE_BYTES}) at)"""


@dataclass(frozen=True)
class State:
    """A large object. items: who may do what, as it takes effect, in the list's order; size: bytes; digest: None where it was not asked for."""

    oid: int
    owner: str
    items: tuple[acl.Item, ...]
    comment: str | None
    size: int
    digest: bytes | None


@dataclass(frozen=True)
class Outlook:
    """What a copy has to do. fresh: ranges to plan, none where an earlier run has planned; left: planned ones that are not done."""

    fresh: tuple[Chunk, ...] = ()
    objects: int = 0
    left: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether anything is left to copy."""
        return bool(self.left or self.objects)


def count(conn: Conn) -> int:
    """Large objects of a database, as the transaction sees them."""
    return int(certain(conn.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone(), "the number of large objects")[0])


def states(conn: Conn, lo: int, hi: int, digest: bool) -> list[State]:
    """Objects numbered ``lo`` to ``hi``, both included, in order."""
    return [state_of(row) for row in conn.execute(states_sql(lo, hi, digest)).fetchall()]


def states_sql(lo: int, hi: int, digest: bool) -> str:
    """The query behind :func:`states`; its rows are for :func:`state_of`."""
    return _STATES.format(lo=lo, hi=hi, digest=_DIGEST if digest else "NULL::bytea")


def state_of(row: Sequence[Any]) -> State:
    """A row of :func:`states_sql`."""
    oid, owner, items, comment, size, digest = row
    return State(oid, owner, acl.items_of(items), comment, size, bytes(digest) if digest is not None else None)


def unreadable(conn: Conn) -> tuple[int, tuple[int, ...]]:
    """(how many large objects our role may not read, the first of them)."""
    may = "has_largeobject_privilege(m.oid, 'SELECT')"
    if conn.info.server_version < 180000:
        may = """(current_setting('lo_compat_privileges')::boolean OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
            OR EXISTS (SELECT FROM aclexplode(coalesce(m.lomacl, acldefault('L', m.lomowner))) x
                       WHERE x.privilege_type = 'SELECT' AND (x.grantee = 0 OR pg_has_role(x.grantee, 'USAGE'))))"""
    row = conn.execute(
        f"SELECT count(*), coalesce((array_agg(m.oid::bigint ORDER BY m.oid))[1:{LISTED}], '{{}}') FROM pg_largeobject_metadata m WHERE NOT {may}"
    ).fetchone()
    found, first = certain(row, "the unreadable large objects")
    return int(found), tuple(first)


def grant_read(role: str) -> str:
    """One statement that lets a role read every large object of a database."""
    return (
        "DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_largeobject_metadata LOOP "
        f"EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO %I', o, {quote_literal(role)}); END LOOP; END $$;"
    )


def refuse_unreadable(conn: Conn, side: str) -> None:
    """Raise TransferError with the grant that is missing when our role may not read every large object."""
    found, first = unreadable(conn)
    if found:
        role = str(certain(conn.execute("SELECT current_user").fetchone(), "the role")[0])
        raise TransferError(
            f"role {role} may not read {found} large objects of the {side}, the first are {', '.join(map(str, first))}",
            f"Run there as their owner or as a superuser: {grant_read(role)} Or leave all large objects behind: exclude {LARGE_OBJECTS}.",
            kind="privilege",
            large_objects=list(first),
        )


def survey(src: Conn, dst: Conn, selection: Selection, range_bytes: int = RANGE_BYTES) -> Outlook:
    """What is to be copied. src: in the transaction of the snapshot.

    Raises TransferError when an object cannot be read, when a role that owns or may use one is missing on the target or may not be assumed
    there, or when the target holds large objects that no copy has brought.
    """
    here = count(src)
    if not selection.large_objects:
        return Outlook(warnings=(f"{here} large objects stay behind, since {LARGE_OBJECTS} is excluded",) if here else ())
    planned = _known(dst)
    left = (
        int(certain(dst.execute("SELECT count(*) FROM cutover.large_object WHERE state = 'todo'").fetchone(), "a count")[0])
        if planned
        else 0
    )
    if planned and not left:
        return Outlook()
    if here:
        refuse_unreadable(src, "source")
        refuse_roles(src, dst)
    if planned:
        return Outlook(left=left)
    there = count(dst)
    if there:
        first = [row[0] for row in dst.execute(f"SELECT oid::bigint FROM pg_largeobject_metadata ORDER BY 1 LIMIT {LISTED}").fetchall()]
        raise TransferError(
            f"the target already holds {there} large objects that no copy has brought, the first are {', '.join(map(str, first))}",
            "If they may go, run on the target: SELECT lo_unlink(oid) FROM pg_largeobject_metadata; else leave those of the source behind: "
            f"exclude {LARGE_OBJECTS}.",
            kind="target_not_empty",
            large_objects=first,
        )
    return Outlook(tuple(_cut(_sizes(src) if here else (), range_bytes)), here)


def refuse_roles(src: Conn, dst: Conn) -> None:
    """Raise TransferError when a role that owns or may use a large object of ``src`` is missing on ``dst``, or may not be assumed there."""
    rows = src.execute(
        """SELECT pg_get_userbyid(x.role)::text, bool_or(x.acts) FROM pg_largeobject_metadata m CROSS JOIN LATERAL (
               SELECT m.lomowner, true UNION ALL SELECT a.grantor, true FROM aclexplode(m.lomacl) a
               UNION ALL SELECT a.grantee, false FROM aclexplode(m.lomacl) a WHERE a.grantee <> 0) x(role, acts) GROUP BY 1 ORDER BY 1"""
    ).fetchall()
    how = "SET" if dst.info.server_version >= 160000 else "MEMBER"
    there = dict(dst.execute(f"SELECT rolname::text, pg_has_role(oid, '{how}') FROM pg_roles").fetchall())
    missing = [name for name, _acts in rows if name not in there]
    if missing:
        raise TransferError(
            f"large objects belong to roles that the other side lacks: {', '.join(missing)}",
            f"Run pg_schema_transfer first, or there: {' '.join(f'CREATE ROLE {quote_ident(name)};' for name in missing)}",
            kind="role",
            roles=missing,
        )
    barred = [name for name, acts in rows if acts and not there[name]]
    if barred:
        us = str(certain(dst.execute("SELECT current_user").fetchone(), "the role")[0])
        raise TransferError(
            f"role {us} may not make large objects for {', '.join(barred)}, which own them on the other side",
            f"Run there: {' '.join(f'GRANT {quote_ident(name)} TO {quote_ident(us)};' for name in barred)}",
            kind="privilege",
            roles=barred,
        )


def _known(dst: Conn) -> bool:
    row = dst.execute("SELECT to_regclass('cutover.large_object') IS NOT NULL").fetchone()
    if not row or not row[0]:
        return False
    return bool(certain(dst.execute("SELECT EXISTS (SELECT FROM cutover.large_object)").fetchone(), "the ledger")[0])


def _sizes(src: Conn) -> Iterator[tuple[int, int]]:
    query = f"""SELECT s.oid, s.size FROM (SELECT o.*, lo_lseek64(o.handle, 0, 2) AS size FROM (
        SELECT m.oid::bigint AS oid, lo_open(m.oid, {_READ}) AS handle FROM pg_largeobject_metadata m ORDER BY m.oid OFFSET 0) o OFFSET 0) s
        WHERE lo_close(s.handle) = 0"""
    with src.cursor(name="cutover_large_objects") as cursor:
        cursor.itersize = 10_000
        yield from cursor.execute(query)


def _cut(sizes: Iterable[tuple[int, int]], range_bytes: int) -> list[Chunk]:
    """Ranges that leave no number out, from (number, size) in order: whatever is made later in between has its place too."""
    starts: list[int] = []
    weights: list[int] = []
    objects = 0
    for oid, size in sizes:
        if not starts or objects == RANGE_OBJECTS or weights[-1] + size > range_bytes:
            starts.append(oid)
            weights.append(0)
            objects = 0
        objects += 1
        weights[-1] += size
    edges = [0, *starts[1:], LAST_OID + 1]
    schema, _unused, table = LARGE_OBJECTS.partition(".")
    return [
        Chunk(schema, table, number, len(edges) - 1, "objects", "", lo, following - 1, weight)
        for number, (lo, following, weight) in enumerate(zip(edges[:-1], edges[1:], weights or [0], strict=True))
    ]


def register(control: Conn, run: int, outlook: Outlook) -> None:
    """Write the plan into the ledger, in the caller's transaction. What an earlier run has left undone becomes this run's."""
    if outlook.left:
        control.execute("UPDATE cutover.large_object SET run = %s WHERE state = 'todo'", (run,))
    if not outlook.fresh:
        return
    control.execute(_DDL)
    # A source without large objects is done at once; its entry says so to later runs, which would find those of the time after the copy.
    done = "'done', 0, 0, 0, clock_timestamp()" if not outlook.objects else "'todo', NULL, NULL, NULL, NULL"
    with control.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO cutover.large_object VALUES (%s, %s, %s, %s, %s, %s, {done})",
            [(one.number, one.total, one.lo, one.hi, one.bytes, run) for one in outlook.fresh],
        )


def chunks(control: Conn, run: int) -> tuple[Chunk, ...]:
    """Ranges of a run that are not done, as chunks of :data:`.selection.LARGE_OBJECTS`."""
    if not _known(control):
        return ()
    schema, _unused, table = LARGE_OBJECTS.partition(".")
    rows = control.execute(
        "SELECT number, total, lo, hi, estimate FROM cutover.large_object WHERE run = %s AND state = 'todo' ORDER BY number", (run,)
    ).fetchall()
    return tuple(Chunk(schema, table, number, total, "objects", "", lo, hi, size) for number, total, lo, hi, size in rows)


def total(control: Conn) -> dict[str, int]:
    """``count`` and ``bytes`` of what has been copied, by all runs."""
    if not _known(control):
        return {"count": 0, "bytes": 0}
    row = control.execute(
        "SELECT coalesce(sum(objects), 0), coalesce(sum(bytes), 0) FROM cutover.large_object WHERE state = 'done'"
    ).fetchone()
    objects, size = certain(row, "the sums of the ledger")
    return {"count": int(objects), "bytes": int(size)}


def next_range(source: Conn, target: Conn, run: int, tell: Callable[[tuple[Any, ...]], None]) -> bool:
    """Copy one range that nobody has claimed; whether there was one. source: under the snapshot; tell: as the workers tell of chunks."""
    if not _known(target):
        return False
    target.execute("BEGIN")
    row = target.execute(
        "SELECT number, lo, hi FROM cutover.large_object WHERE run = %s AND state = 'todo' ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED",
        (run,),
    ).fetchone()
    if row is None:
        target.execute("ROLLBACK")
        return False
    number, lo, hi = row
    identity = (*LARGE_OBJECTS.split("."), number)
    began = time.monotonic()
    tell(("moving", identity, 0, 0))
    try:
        objects, size = bring(source, target, states(source, lo, hi, False), lambda sent, seen: tell(("moving", identity, sent, seen)))
    except session.psycopg.Error as error:
        raise explained(error, f"copying large objects {lo} to {hi}") from error
    target.execute(
        "UPDATE cutover.large_object SET state = 'done', objects = %s, bytes = %s, seconds = %s, finished = clock_timestamp() WHERE number = %s",
        (objects, size, time.monotonic() - began, number),
    )
    target.execute("COMMIT")
    tell(("done", identity, objects, size))
    return True


def explained(error: Exception, doing: str) -> Exception:
    """A lost link stays what it is, to be tried again; anything else says what was being done."""
    if session.is_lost(error):
        return error
    state = getattr(error, "sqlstate", None)
    return TransferError(
        f"{doing} failed: {str(error).strip()}", "Correct the cause and run again; finished ones stay.", kind="copy", sqlstate=state
    )


def bring(source: Conn, target: Conn, wanted: Iterable[State], tell: Callable[[int, int], None]) -> tuple[int, int]:
    """(objects, bytes) made on the target, in the transaction that is open there. tell: bytes and objects so far."""
    sent = seen = 0
    for batch in _batches(wanted):
        owner = quote_ident(batch[0].owner)
        # Made by their owner: changing owners afterwards would take a lock for each.
        target.execute(f"SET LOCAL ROLE {owner}")
        if batch[0].size > PIECE_BYTES:
            target.execute("SELECT lo_create(%s::oid)", (batch[0].oid,))
            for moved in _fill(source, target, batch[0], range(0, batch[0].size, PIECE_BYTES), 0):
                tell(sent + moved, seen)
        else:
            with source.cursor(binary=True) as cursor:
                rows = cursor.execute(
                    "SELECT o::bigint, lo_get(o) FROM unnest(%s::oid[]) o", (_array(state.oid for state in batch),)
                ).fetchall()
            target.execute(
                "SELECT count(lo_from_bytea(o, data)) FROM unnest(%s::oid[], %b::bytea[]) u(o, data)",
                (_array(oid for oid, _data in rows), [data for _oid, data in rows]),
            )
        statements = [statement for state in batch for statement in decorations(state, None)]
        target.execute("; ".join([*statements, "SET LOCAL ROLE NONE"]))
        sent, seen = sent + sum(state.size for state in batch), seen + len(batch)
        tell(sent, seen)
    return seen, sent


def patch(source: Conn, target: Conn, wanted: State, there: State) -> int:
    """Make an object of the target equal, piece by piece, in the transaction that is open there; bytes sent."""
    if wanted.owner != there.owner:
        target.execute(f"ALTER LARGE OBJECT {wanted.oid} OWNER TO {quote_ident(wanted.owner)}")
    sent = 0
    if (wanted.size, wanted.digest) != (there.size, there.digest):
        query = (
            f"SELECT at, sha256(lo_get('{wanted.oid}'::oid, at, {PIECE_BYTES})) FROM generate_series(0::bigint, {{}} - 1, {PIECE_BYTES}) at"
        )
        ours, theirs = (
            {at: bytes(digest) for at, digest in conn.execute(query.format(size)).fetchall()}
            for conn, size in ((source, wanted.size), (target, there.size))
        )
        target.execute(f"SET LOCAL ROLE {quote_ident(wanted.owner)}")
        differing = sorted(at for at, digest in ours.items() if theirs.get(at) != digest)
        sent = max(_fill(source, target, wanted, differing, there.size), default=0)
        target.execute("SET LOCAL ROLE NONE")
    statements = decorations(wanted, there)
    if statements:
        target.execute("; ".join([*statements, "SET LOCAL ROLE NONE"]))
    return sent


def decorations(wanted: State, there: State | None) -> list[str]:
    """Statements for comment and privileges, each as the owner. there: None for an object that was just made."""
    now = _as_owned(there, wanted.owner) if there else tuple(acl.Item(wanted.owner, wanted.owner, kind) for kind in ("SELECT", "UPDATE"))
    statements = []
    if wanted.comment != (there.comment if there else None):
        text = quote_literal(wanted.comment) if wanted.comment is not None else "NULL"
        statements.append(f"COMMENT ON LARGE OBJECT {wanted.oid} IS {text}")
    if set(wanted.items) != set(now):
        statements += acl.rebuild(acl.Subject("LARGE OBJECT", str(wanted.oid), wanted.owner), now, wanted.items)
    return [f"SET LOCAL ROLE {quote_ident(wanted.owner)}; {statement}" for statement in statements]


def _as_owned(state: State, owner: str) -> tuple[acl.Item, ...]:
    """Privileges after a change of owner: what the old one held and gave is the new one's."""

    def new(name: str) -> str:
        return owner if name == state.owner else name

    return tuple(dict.fromkeys(acl.Item(new(one.grantee), new(one.grantor), one.privilege, one.grantable) for one in state.items))


def _batches(wanted: Iterable[State]) -> Iterator[list[State]]:
    """Objects of one owner that together fit into a piece, a larger object alone."""
    batch: list[State] = []
    for state in wanted:
        full = sum(one.size for one in batch) + state.size > PIECE_BYTES
        if batch and (full or state.owner != batch[0].owner):
            yield batch
            batch = []
        batch.append(state)
    if batch:
        yield batch


def _fill(source: Conn, target: Conn, wanted: State, pieces: Iterable[int], size: int) -> Iterator[int]:
    """Write pieces at these places, by and by yielding the bytes sent. size: of the object on the target before."""
    sent = 0
    end = size
    for at in pieces:
        with source.cursor(binary=True) as cursor:
            row = cursor.execute(f"SELECT lo_get(%s::oid, %s, {PIECE_BYTES})", (wanted.oid, at)).fetchone()
        data: bytes = certain(row, "a piece of a large object")[0]
        begin, body = at, data
        if at >= size:
            # A hole stays a hole: it reads as zeros and takes no room.
            body = data.lstrip(b"\0")
            begin, body = at + len(data) - len(body), body.rstrip(b"\0")
        if body:
            target.execute("SELECT lo_put(%s::oid, %s, %b)", (wanted.oid, begin, body))
            end = max(end, begin + len(body))
        sent += len(data)
        yield sent
    if end != wanted.size:
        target.execute(f"SELECT lo_truncate64(lo_open(%s::oid, {_READ_WRITE}), %s)", (wanted.oid, wanted.size))


def _array(numbers: Iterable[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def remove(target: Conn, oids: Sequence[int]) -> None:
    """Remove these objects, in transactions of their own, small enough for the server's lock table."""
    numbers = iter(oids)
    while some := list(itertools.islice(numbers, RANGE_OBJECTS)):
        target.execute("SELECT count(lo_unlink(o)) FROM unnest(%s::oid[]) o", (_array(some),))
