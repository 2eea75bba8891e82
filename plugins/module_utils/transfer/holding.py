# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The session on the source that keeps the snapshot of a copy alive, and where that snapshot comes from."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import holder as keeper
from . import ledger, session, slots
from .catalog import Table, read_tables
from .endpoint import Endpoint
from .errors import TransferError, certain
from .selection import Selection
from .snapshots import import_snapshot

if TYPE_CHECKING:
    import psycopg

# On the target: what a copy has filled and what the ledger knows, and nothing else of schema cutover, which keeps the target closed.
BEGIN_AGAIN = """DO $$ BEGIN SET LOCAL session_replication_role = 'replica';
  EXECUTE (SELECT coalesce('TRUNCATE ' || string_agg(DISTINCT format('%I.%I', target_schema, target_table), ', '), 'SELECT') FROM cutover.chunk);
  IF to_regclass('cutover.large_object') IS NOT NULL AND EXISTS (SELECT FROM cutover.large_object) THEN
    PERFORM lo_unlink(oid) FROM pg_largeobject_metadata; END IF;
  TRUNCATE cutover.run CASCADE; END $$;"""


@dataclass(frozen=True)
class Origin:
    """Which snapshot to show: a given one, else that of an earlier run where it still lives, else one of a slot, else a new one.

    snapshot, lsn: given by the caller; earlier: the run that was not finished
    slot: name of the slot that keeps the changes since; used: tables were copied under it, so it has to be there
    """

    snapshot: str | None = None
    lsn: str | None = None
    earlier: ledger.Run | None = None
    slot: str | None = None
    used: bool = False


@dataclass
class Holder:
    """A transaction on the source that keeps a snapshot alive.

    snapshot: exported by this very session; content: what it shows, equal for equal snapshots; lsn: None when unknown
    slot: the slot that keeps the changes since; made: whether it was made for this snapshot just now
    kept: name of the snapshot at a keeper, which outlives us for some minutes, None without one
    doomed: heartbeats in a row that found the slot without a reader and with more log behind it than the server keeps
    """

    conn: psycopg.Connection[Any]
    snapshot: str
    content: str
    lsn: str | None
    tables: tuple[Table, ...]
    slot: str | None = None
    made: bool = False
    released: bool = False
    kept: str | None = None
    doomed: int = 0

    @property
    def name(self) -> str:
        """The snapshot for others, and for a later run."""
        return self.kept or self.snapshot

    def keep(self, source: Endpoint) -> str:
        """Have the snapshot kept beyond our own end, so that a rerun redoes nothing; what stands against it, or ''. One that lives is used on."""
        try:
            if self.kept is None or not keeper.alive(self.conn, self.kept):
                self.kept = keeper.keep(source, self.snapshot, [table.sql for table in self.tables]).snapshot
            keeper.attend(self.conn, self.kept)
        except TransferError as error:
            self.kept = None
            return f"a run that is killed will start its unfinished tables anew: {error.message}"
        return ""

    def release(self) -> None:
        """Let the source forget the snapshot; whoever has imported it keeps it."""
        self.released = True
        if self.kept is not None and not self.conn.closed:
            try:
                keeper.release(self.conn, self.kept)
            except session.psycopg.Error:
                # It ends by itself some minutes later.
                self.kept = None
        self.conn.close()

    def beat(self) -> None:
        """Touch the session. Raises TransferError of kind lost when it is gone, slot_lost when the slot is, slot_in_danger when it is about to be."""
        if self.released:
            return
        touch(self.conn, "holds the snapshot")
        if self.slot is not None:
            self._watch(slots.health(self.conn, self.slot))

    def look(self, source: Endpoint) -> None:
        """Look at the slot once the snapshot was let go, on a session of its own. A source that cannot be reached is asked again later: the rows are in."""
        if self.slot is None:
            return
        try:
            with session.connect(source, application_name="cutover copy watch", read_only=True) as conn:
                self._watch(slots.health(conn, self.slot))
        except (TransferError, session.psycopg.Error) as error:
            if not session.is_lost(error):
                raise

    def _watch(self, found: slots.Health) -> None:
        require_slot(found)
        # Once may be a reader that comes back in a moment.
        self.doomed = self.doomed + 1 if found.doomed else 0
        if self.doomed > 1:
            raise TransferError(
                f"replication slot {found.name} will be given up at the source's next checkpoint: {found.retained_bytes / 1e6:.0f} MB of log are"
                f" behind it, max_slot_wal_keep_size is {found.keep_size}, and nobody reads it",
                "At once, on the source: ALTER SYSTEM SET max_slot_wal_keep_size = '<room that its disk has for log>'; SELECT pg_reload_conf();"
                " or begin to read the slot. Then run again; what is finished stays.",
                kind="slot_in_danger",
                slot=found.name,
                retained_bytes=found.retained_bytes,
            )


def require_slot(found: slots.Health) -> None:
    """As :func:`.slots.require`, with what begins the copy again in ``details.restart``: statements by side, to be run in this order."""
    try:
        slots.require(found)
    except TransferError as error:
        restart = {"source": error.details.pop("statements"), "target": [BEGIN_AGAIN]}
        raise TransferError(
            error.message,
            f"{error.remedy} The source is as it was. To begin this copy again, end its change stream if it has one (pg_change_stream state=absent) and"
            f" empty what it has filled; on the target: {BEGIN_AGAIN} Then run it as before. Without a change stream leave slot out: what is written"
            " meanwhile is brought over under the freeze.",
            **error.details,
            restart=restart,
        ) from error


def touch(conn: psycopg.Connection[Any], what: str) -> None:
    """Use a connection. Raises TransferError of kind lost when it is gone. what: what it does, for the message."""
    try:
        conn.execute("SELECT 1")
    except session.psycopg.OperationalError as error:
        if not (conn.closed or session.is_lost(error)):
            raise
        raise TransferError(
            f"the connection to {conn.info.host}:{conn.info.port} that {what} was lost: {str(error).strip()}",
            "Run again; finished chunks stay.",
            kind="lost",
        ) from error


class Holding:
    """Context of a Holder: locks before the snapshot where the snapshot is ours, so that no table can be rewritten in between."""

    def __init__(self, source: Endpoint, selection: Selection, origin: Origin) -> None:
        self.source, self.selection, self.origin = source, selection, origin

    def __enter__(self) -> Holder:
        self.conn = session.connect(self.source, application_name="cutover copy holder", read_only=True)
        try:
            self.holder = self._hold()
            return self.holder
        except BaseException:
            self.conn.close()
            raise

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.conn.close()

    def _hold(self) -> Holder:
        origin = self.origin
        before = read_tables(self.conn, self.selection)
        self._begin(origin.snapshot)
        if origin.snapshot is not None:
            return self._finish(before, origin.lsn, given=True)
        if origin.earlier is not None and self._revive(origin.earlier):
            if origin.earlier.slot is not None:
                require_slot(slots.health(self.conn, origin.earlier.slot))
            found = self._finish(before, origin.earlier.lsn, given=True, slot=origin.earlier.slot)
            found.kept = origin.earlier.snapshot
            return found
        if origin.slot is not None:
            return self._from_slot(origin.slot, before)
        return self._finish(before, None, given=False)

    def _begin(self, snapshot: str | None) -> None:
        self.conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if snapshot is not None:
            import_snapshot(self.conn, snapshot)

    def _revive(self, run: ledger.Run) -> bool:
        """Show the snapshot of a run that was not finished, where some session still holds it."""
        try:
            import_snapshot(self.conn, run.snapshot)
            if self._content() == run.content:
                return True
        except TransferError as error:
            if error.details.get("kind") != "snapshot_lost":
                raise
        self.conn.execute("ROLLBACK")
        self._begin(None)
        return False

    def _from_slot(self, name: str, before: tuple[Table, ...]) -> Holder:
        """Under a new slot's snapshot. Where the slot is there already, a temporary one gives a later pair of position and snapshot."""
        found = slots.health(self.conn, name)
        if found.exists or self.origin.used:
            require_slot(found)
            self._refuse_foreign(name)
        with ExitStack() as stack:
            wanted = f"{name[:50]}_copy_{self.conn.info.backend_pid}" if found.exists else name
            slot = stack.enter_context(slots.create(self.source, wanted, temporary=found.exists))
            self.conn.execute("ROLLBACK")
            self._begin(slot.snapshot)
            return self._finish(before, slot.lsn, given=True, slot=name, made=not found.exists)

    def _refuse_foreign(self, name: str) -> None:
        row = self.conn.execute(
            "SELECT coalesce(plugin, 'none'), coalesce(database, 'none') FROM pg_replication_slots WHERE slot_name = %s", (name,)
        ).fetchone()
        plugin, database = certain(row, "the slot that was just there")
        if plugin != slots.PLUGIN or database != self.conn.info.dbname:
            raise TransferError(
                f"replication slot {name} has plugin {plugin} and belongs to database {database}, "
                f"expected {slots.PLUGIN} in {self.conn.info.dbname}",
                "Give another name in slot.",
                kind="slot_exists",
                slot=name,
            )

    def _finish(self, before: tuple[Table, ...], lsn: str | None, *, given: bool, slot: str | None = None, made: bool = False) -> Holder:
        conn = self.conn
        if before:
            try:
                conn.execute(f"LOCK TABLE ONLY {', ONLY '.join(table.sql for table in before)} IN ACCESS SHARE MODE")
            except session.psycopg.errors.InsufficientPrivilege as error:
                raise TransferError(
                    f"role {conn.info.user} may not read every selected table of the source: {str(error).splitlines()[0]}",
                    f'Grant SELECT on it to "{conn.info.user}", or exclude it.',
                    kind="privilege",
                ) from error
        row = conn.execute(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text"
        ).fetchone()
        here = certain(row, "the position of the log")[0]
        content = self._content()
        tables = read_tables(conn, self.selection)
        if given:
            self._refuse_rewritten(tables)
        # Exported again by ourselves: the first exporter may go, and everybody depends on one session only.
        exported = certain(conn.execute("SELECT pg_export_snapshot()").fetchone(), "the exported snapshot")
        return Holder(conn, str(exported[0]), content, lsn if given else here, tables, slot, made)

    def _content(self) -> str:
        return str(certain(self.conn.execute("SELECT pg_current_snapshot()::text").fetchone(), "the snapshot")[0])

    def _refuse_rewritten(self, tables: tuple[Table, ...]) -> None:
        """A table rewritten or emptied after the snapshot shows no rows in it: PostgreSQL does not version such changes."""
        query = "SELECT oid::bigint, relfilenode::bigint FROM pg_class WHERE oid = ANY(%s::oid[])"
        oids = [table.oid for table in tables]
        then = dict(self.conn.execute(query, (oids,)).fetchall())
        with session.connect(self.source, application_name="cutover copy check", read_only=True) as other:
            now = dict(other.execute(query, (oids,)).fetchall())
        changed = sorted(table.dotted for table in tables if now.get(table.oid) != then.get(table.oid))
        if changed:
            raise TransferError(
                f"{', '.join(changed)} was rewritten, emptied or dropped after the snapshot was taken",
                "Take a new snapshot and copy under that.",
                tables=changed,
            )
