# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One process of a copy: claims chunks and builds from the ledger until none is left."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from . import builds, frames, large_objects, ledger, pipe, session
from .catalog import quote_ident, quote_literal
from .chunks import Chunk
from .endpoint import Endpoint
from .errors import TransferError, certain
from .pairing import Pair
from .selection import Name
from .snapshots import import_snapshot

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGconn

_PR_SET_PDEATHSIG = 1
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.5
# Several times as cheap as pglz for nearly the same size. Whoever has set something there has a reason.
_BEST_COMPRESSION = (
    "SELECT set_config(name, 'lz4', false) FROM pg_settings WHERE name = 'default_toast_compression' AND source = 'default'"
    " AND 'lz4' = ANY(enumvals)"
)
# The server's own words for "do it in another way": lock not free, no privilege, foreign keys, trigger, snapshot too old for FREEZE.
_UNFROZEN = ("55P03", "42501", "0A000", "25000", "55000", "2BP01")


@dataclass(frozen=True)
class Plan:
    """What every worker needs.

    content: what the snapshot must show once imported; pairs: by (schema, table) of the relation that is read
    workers: how many there are; memory: maintenance_work_mem of a build at most, in bytes; toast_compression: as :func:`.copy.copy` has it
    objects: large objects are to be copied
    """

    source: Endpoint
    target: Endpoint
    run: int
    snapshot: str
    content: str
    pairs: Mapping[Name, Pair]
    workers: int = 1
    memory: int = 512 * 1024**2
    toast_compression: str = "server"
    objects: bool = False


def main(plan: Plan, link: Connection, parent: int) -> None:
    """A worker's life. Leaves with os._exit, so that nothing of the parent's is closed or flushed twice."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # An orphan must not go on writing after its ledger's owner is gone.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            Worker(plan, link).work()
            code = 0
    except TransferError as error:
        link.send(("failed", error.message, error.remedy, error.details))
        code = 0
    except BrokenPipeError:
        code = 2
    except BaseException as error:
        link.send(
            (
                "failed",
                f"a worker failed with {type(error).__name__}: {error}",
                "Correct the cause and run again; finished chunks stay.",
                {},
            )
        )
        code = 0
    finally:
        os._exit(code)


class Worker:
    """Connections of one worker, made when they are needed and thrown away after any failure."""

    def __init__(self, plan: Plan, link: Connection) -> None:
        self.plan, self.link = plan, link
        self.source: psycopg.Connection[Any] | None = None
        self.target: psycopg.Connection[Any] | None = None
        self.pause = _PAUSE_SECONDS
        self.plain: bool | None = None

    def work(self) -> None:
        """Do what there is to do, and wait for what others must finish first, until nothing is left."""
        while session.retrying(self.step, on_retry=lambda _error: self.link.send(("idle",))):
            pass

    def step(self) -> bool:
        """Do one thing, or wait a moment for one; False when nothing is left."""
        try:
            if self._one():
                self.pause = _PAUSE_SECONDS
                return True
            return self._waited()
        except BaseException:
            self._drop_source()
            if self.target is not None:
                self.target.close()
                self.target = None
            raise

    def _one(self) -> bool:
        writer = self._writer()
        target = pipe.bare(writer)
        free = pipe.rows(target, ledger.LOOK.format(run=self.plan.run))
        before = certain(free[0][0], "the place of a chunk") if free else str(2**31 - 1)
        claimed = pipe.rows(target, ledger.CLAIM_BUILD.format(run=self.plan.run, before=before))
        if claimed:
            return self._build(target, *(certain(value, "a part of a build") for value in claimed[0]))
        claimed = pipe.rows(target, ledger.CLAIM.format(run=self.plan.run)) if free else []
        if claimed:
            return self._copy(pipe.bare(self._reader()), target, claimed[0])
        pipe.run(target, "ROLLBACK")
        if self.plan.objects and large_objects.chunks(writer, self.plan.run):
            return large_objects.next_range(self._reader(), writer, self.plan.run, self.link.send)
        return False

    def _waited(self) -> bool:
        """Nothing could be claimed. Whether others are still at something that may give us work, after a pause."""
        target = self._writer()
        chunks, steps = self._left(pipe.bare(target))
        if not chunks and not (self.plan.objects and large_objects.chunks(target, self.plan.run)):
            # The source may forget the snapshot; builds do not need it.
            self._drop_source()
            if not steps:
                return False
        self.link.send(("idle",))
        time.sleep(self.pause)
        self.pause = min(self.pause * 1.5, _LONGEST_PAUSE_SECONDS)
        return True

    def _left(self, target: PGconn) -> tuple[int, int]:
        chunks, steps = pipe.rows(target, ledger.LEFT.format(run=self.plan.run))[0]
        return int(chunks or 0), int(steps or 0)

    def _reader(self) -> psycopg.Connection[Any]:
        if self.source is None:
            self.source = session.connect(self.plan.source, application_name="cutover copy reader", read_only=True)
            self.source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            import_snapshot(self.source, self.plan.snapshot)
            row = self.source.execute("SELECT pg_current_snapshot()::text").fetchone()
            if row is None or row[0] != self.plan.content:
                raise TransferError(
                    f"snapshot {self.plan.snapshot} shows another moment than it did: the server was restarted",
                    "Run again.",
                    kind="snapshot_lost",
                )
        return self.source

    def _writer(self) -> psycopg.Connection[Any]:
        if self.target is None:
            target = session.connect(self.plan.target, application_name="cutover copy writer", replica=True)
            self.target = target
            # A build that nobody waits for any more is to end.
            target.execute("SELECT set_config('client_connection_check_interval', '5s', false)")
            if self.plan.toast_compression != "server":
                self._compress(target, self.plan.toast_compression)
        return self.target

    @staticmethod
    def _compress(target: psycopg.Connection[Any], method: str) -> None:
        if method == "auto":
            target.execute(_BEST_COMPRESSION)
            return
        try:
            target.execute("SELECT set_config('default_toast_compression', %s, false)", (method,))
        except session.psycopg.errors.InvalidParameterValue as error:
            raise TransferError(
                f"the target cannot compress with {method}: {str(error).splitlines()[0]}",
                "Leave toast_compression out, or use a server built with it.",
                kind="toast_compression",
            ) from error

    def _is_plain(self) -> bool:
        if self.plain is None:
            self.plain = frames.is_plain(self._reader()) and frames.is_plain(self._writer())
        return self.plain

    def _drop_source(self) -> None:
        if self.source is not None:
            self.source.close()
            self.source = None

    def _copy(self, source: PGconn, target: PGconn, claimed: list[str | None]) -> bool:
        total, kind, column, low, high, estimate = claimed[3:]
        schema, table, number = (certain(value, "the name of a chunk") for value in claimed[:3])
        chunk = Chunk(
            *(schema, table, int(number), int(total or 1), kind or "whole", column or ""),
            *(int(low) if low is not None else None, int(high) if high is not None else None, int(estimate or 0)),
        )
        pair = self.plan.pairs[chunk.schema, chunk.table]
        leaf = next(leaf for leaf in pair.leaves if leaf.full_name == (chunk.schema, chunk.table))
        identity = (chunk.schema, chunk.table, chunk.number)
        self.link.send(("moving", identity, 0, 0))
        began = time.monotonic()
        role = source.user.decode()
        # A key range is read through its index; a whole table never is.
        pipe.run(source, f"SET enable_seqscan = {'off' if chunk.kind == 'key' else 'on'}")
        out_sql, in_sql = pipe.statements(pair, f"ONLY {leaf.sql}", chunk.predicate)
        # libpq would hold a long row several times, and costs twice the processor time on short ones.
        flow = pipe.flow_plain if self._is_plain() else pipe.flow
        try:
            if not (chunk.total == 1 and pair.leaves == (leaf,) and self._begin_frozen(target, pair, in_sql)):
                pipe.run(target, in_sql)
            moved, size = flow(source, target, out_sql, lambda sent, rows: self.link.send(("moving", identity, sent, rows)))
            names = {"schema": quote_literal(chunk.schema), "table": quote_literal(chunk.table)}
            seconds = time.monotonic() - began
            done = ledger.FINISH.format(rows=moved, bytes=size, seconds=f"{seconds:.3f}", number=chunk.number, **names)
            pipe.run(target, f"{done}; COMMIT")
        except session.psycopg.Error as error:
            raise _explained(error, f"copying {leaf.dotted} into {pair.target.dotted}", leaf.dotted, role) from error
        self.link.send(("done", identity, moved, size))
        return True

    @staticmethod
    def _begin_frozen(target: PGconn, pair: Pair, in_sql: str) -> bool:
        """Begin the COPY into a table emptied in the same transaction, so that its rows need no later VACUUM. False where that is not allowed."""
        table = pair.target
        if table.kind != "r":
            return False
        pipe.run(target, "SAVEPOINT frozen")
        try:
            # The lock comes first: whoever else may have written a row must keep it.
            empty = pipe.rows(
                target, f"LOCK TABLE ONLY {table.sql} IN ACCESS EXCLUSIVE MODE NOWAIT; SELECT NOT EXISTS (SELECT FROM ONLY {table.sql})"
            )
            if empty == [["t"]]:
                pipe.run(target, f"TRUNCATE ONLY {table.sql}")
                pipe.run(target, in_sql.removesuffix(")") + ", FREEZE)")
                return True
        except session.psycopg.Error as error:
            if error.sqlstate not in _UNFROZEN:
                raise
        pipe.run(target, "ROLLBACK TO frozen")
        return False

    def _build(self, target: PGconn, schema: str, table: str, rank: str, name: str, method: str, statement: str, size: str) -> bool:
        build = builds.Build(schema, table, int(rank), name, method, statement, 0, int(size))
        tell = ("building", (schema, table), build.rank, name)
        self.link.send(tell)
        began = time.monotonic()
        names = {"schema": quote_literal(schema), "table": quote_literal(table), "rank": build.rank, "name": quote_literal(name)}
        if build.rank not in (builds.ANALYZE, builds.LINK):
            self._equip(target, build)
        try:
            pipe.run_watched(target, statement, lambda: self.link.send(tell))
            seconds = time.monotonic() - began
            pipe.run(target, ledger.FINISH_BUILD.format(seconds=f"{seconds:.3f}", **names) + "; COMMIT")
        except session.psycopg.Error as error:
            failure = _explained(error, f"building {build.told} of {schema}.{table}", f"{schema}.{table}")
            if not isinstance(failure, TransferError) or failure.details.get("kind") != "copy":
                raise failure from error
            # What is wrong with one index keeps nothing else from being done.
            pipe.run(target, "ROLLBACK")
            problem = quote_literal(failure.message)
            pipe.run(target, ledger.FAIL_BUILD.format(run=self.plan.run, problem=problem, **names))
            self.link.send(("unbuilt", (schema, table), build.rank, name))
            return True
        self.link.send(("built", (schema, table), build.rank, name))
        return True

    def _equip(self, target: PGconn, build: builds.Build) -> None:
        """Memory and helpers for one build, in its transaction. Workers that have nothing to do lend their cores to the last builds."""
        chunks, steps = self._left(target)
        idle = max(0, self.plan.workers - chunks - steps)
        memory = build.memory(self.plan.memory)
        pipe.run(target, f"SET LOCAL max_parallel_maintenance_workers = {idle}; SET LOCAL maintenance_work_mem = '{memory // 1024}kB'")


# What the server says when it cannot go on, though nothing is wrong with what it was told: kind, what it means, what to do.
_STOPS = {
    "53100": ("disk_full", "the disk is full", "Make room there (data, log and temporary files), then run again; what is finished stays."),
    "53200": ("out_of_memory", "the server is out of memory", "Use fewer workers or a smaller maintenance_work_mem, then run again."),
    "57014": (
        "cancelled",
        "the statement was cancelled",
        "Look for who or what ended it (a timeout of a pooler, an administrator), then run again.",
    ),
}


def _explained(error: session.psycopg.Error, doing: str, table: str, reader: str = "") -> Exception:
    """A lost link stays what it is, to be tried again; anything else names the table. reader: role that reads the source's rows."""
    if session.is_lost(error):
        return error
    text = str(error).strip()
    stop = _STOPS.get(error.sqlstate or "")
    if stop:
        kind, what, remedy = stop
        return TransferError(f"{doing} stopped, {what}: {text}", remedy, kind=kind, table=table, sqlstate=error.sqlstate)
    if reader and "row-level security" in text:
        return TransferError(
            f"{doing} failed: {text}",
            f"The role would see only some of the rows. Run as a superuser: ALTER ROLE {quote_ident(reader)} BYPASSRLS; then run again.",
            kind="row_security",
            table=table,
            sqlstate=error.sqlstate,
        )
    return TransferError(
        f"{doing} failed: {text}",
        "Correct the cause, for example a differing column type or a missing privilege, and run again; finished chunks stay.",
        kind="copy",
        table=table,
        sqlstate=error.sqlstate,
    )
