# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Consistent, parallel, resumable copy of rows and their indexes: one snapshot, many workers, a ledger beside the rows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import budget, builds, large_objects, ledger, predecessor, session, skew, slots, tasks, todo
from . import workers as crew
from .builds import Build
from .catalog import Table, read_names, read_tables
from .chunks import CHUNK_BYTES, Chunk
from .endpoint import Endpoint
from .errors import TransferError
from .holding import Holder, Holding, Origin
from .ledger import Entry
from .pairing import Pairing, pair_tables
from .progress import Progress
from .selection import Selection
from .tasks import Work

if TYPE_CHECKING:
    import psycopg

# A lost snapshot costs a new attempt, which redoes only tables that were not finished.
MAX_ATTEMPTS = 5
MEMORY = "512MB"
# How long one who joins waits for the other mover to begin.
JOIN_SECONDS = 60.0
COMPRESSIONS = ("auto", "lz4", "pglz", "server")


@dataclass(frozen=True)
class CopiedTable:
    """A table after the copy. name: ``schema.table`` of the source; seconds: sum over its chunks; resumed: rows come from an earlier run."""

    name: str
    target: str
    rows: int
    bytes: int
    seconds: float
    resumed: bool
    snapshot_lsn: str | None


@dataclass(frozen=True)
class BuiltIndex:
    """An index made by this run, or to be made. table: ``schema.table``; constraint: it carries one; seconds: of the index alone."""

    name: str
    table: str
    method: str
    constraint: bool
    seconds: float


@dataclass(frozen=True)
class CopyResult:
    """What a copy did.

    rows, bytes: of all selected tables; moved_bytes, seconds, mb_per_s: of this run; snapshot_lsn: of the snapshot used last
    resumed: an earlier run had done a part; consistent: all tables show one snapshot; skipped: objects without a counterpart
    large_objects: ``count`` and ``bytes`` of those copied, by all runs; indexes: made by this run; workers: as many as there was room for
    """

    changed: bool
    tables: tuple[CopiedTable, ...]
    rows: int
    bytes: int
    moved_bytes: int
    seconds: float
    mb_per_s: float
    snapshot_lsn: str | None
    resumed: bool
    consistent: bool
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    large_objects: dict[str, int]
    indexes: tuple[BuiltIndex, ...] = ()
    workers: int = 0


@dataclass(frozen=True)
class Job:
    """The arguments of a copy, as :func:`copy` has them."""

    source: Endpoint
    target: Endpoint
    selection: Selection
    workers: int
    chunk_bytes: int
    snapshot: str | None
    snapshot_lsn: str | None
    indexes: bool
    memory: int
    toast_compression: str
    slot: str | None
    connections: int | None
    progress: Callable[[Progress], None] | None
    check: bool


def copy(
    source: Endpoint,
    target: Endpoint,
    selection: Selection,
    *,
    workers: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    snapshot: str | None = None,
    snapshot_lsn: str | None = None,
    indexes: bool = True,
    maintenance_work_mem: str = MEMORY,
    toast_compression: str = COMPRESSIONS[0],
    slot: str | None = None,
    connections: int | None = None,
    join: bool = False,
    progress: Callable[[Progress], None] | None = None,
    check: bool = False,
) -> CopyResult:
    """Copy the rows of all selected tables into existing, empty tables of the target, and build their indexes as soon as a table's rows are in.

    workers: as many as this machine has cores by default, at least 2
    snapshot: exported by another session that stays open, with its LSN where known; without one a snapshot of our own
    indexes: also make indexes, primary keys, unique and exclusion constraints and foreign keys of the source that the target lacks
    maintenance_work_mem: of a build at most, e.g. ``512MB``
    toast_compression: of long values in columns that name none: lz4, pglz, ``server`` for the target's setting, or ``auto`` for lz4 where the
        target has it and nobody has set another there
    slot: name of a replication slot that is made for the copy, whose snapshot is copied, so that every table's snapshot_lsn is exact; tables left
        by an earlier run are copied under a later snapshot with its own position, those that are done keep theirs
    connections: sessions on the source at most, by default what the server has free or the session pooler lends; fewer workers follow from it
    join: work for the run of a mover on another machine, under its snapshot, until nothing is left of it
    progress: called about once a second; check: say what would be done and write nothing
    A rerun after any interruption continues. Raises TransferError before anything is written when tables or columns are missing, when a
    target table holds rows that no ledger entry explains, or when another mover is at work; of kind ``index`` after everything else is
    done when an index could not be built.
    """
    count = max(2, os.cpu_count() or 2) if workers is None else workers
    if count < 1 or chunk_bytes < 1:
        raise TransferError(f"workers is {count} and chunk_bytes {chunk_bytes}, both must be at least 1", "Correct the numbers.")
    memory = builds.memory_bytes(maintenance_work_mem)
    if toast_compression not in COMPRESSIONS:
        raise TransferError(f"unknown toast_compression {toast_compression!r}", f"Use one of {', '.join(COMPRESSIONS)}.")
    if slot is not None and snapshot is not None:
        raise TransferError("slot and snapshot are both given", "Give one of them: the slot brings a snapshot of its own.")
    how = (indexes, memory, toast_compression, slot, connections)
    job = Job(source, target, selection, count, chunk_bytes, snapshot, snapshot_lsn, *how, progress, check)
    if join and (snapshot is not None or slot is not None):
        raise TransferError("join goes with neither snapshot nor slot", "Leave them to the mover that is joined.")
    if join and not check:
        return session.retrying(lambda: _join(job))
    attempts = 0

    def attempt() -> CopyResult:
        nonlocal attempts
        attempts += 1
        try:
            return _attempt(job)
        except TransferError as error:
            if error.details.get("kind") == "snapshot_lost" and snapshot is None and attempts < MAX_ATTEMPTS:
                error.details["kind"] = "lost"
            raise

    return session.retrying(attempt)


def _attempt(job: Job) -> CopyResult:
    started = time.monotonic()
    with ExitStack() as stack:
        control = stack.enter_context(
            session.connect(job.target, application_name=predecessor.named("cutover copy ledger"), replica=not job.check)
        )
        earlier = _claim_target(control) if not job.check else None
        origin = Origin(job.snapshot, job.snapshot_lsn, earlier if earlier and earlier.slot == job.slot else None)
        holder = stack.enter_context(Holding(job.source, job.selection, origin))
        warnings = tuple(job.selection.check(read_names(holder.conn)))
        pairing = _paired(holder.conn, holder.tables, control, job)
        mine = todo.identity(holder.conn, job.source)
        known, filled = todo.inspect(control, pairing.pairs, mine)
        plan = todo.decide(pairing.pairs, known, holder.content)
        todo.refuse_unexplained(control, plan, filled)
        objects = large_objects.survey(holder.conn, control, job.selection)
        steps, left_out = tasks.plan_builds(holder.conn, control, pairing.pairs, plan.all, job.selection) if job.indexes else ((), ())
        count, fewer = _fitting(holder.conn, control, job)
        warnings += (*todo.emptied(pairing.pairs, known, filled), *objects.warnings, *left_out, *fewer)
        resumed = any(entry.done for pair in pairing.pairs for entry in known.get(pair.name, ()))
        pending = bool(plan.all or objects.pending or steps)
        report = _Report(pairing, resumed, started, warnings, count)
        if job.check or not pending:
            if earlier is not None and not job.check:
                # Its mover was gone after the last piece and before it could say so.
                ledger.close_if_done(control, earlier.id)
            return report.result(control, known, pending, made=tuple((step, "todo", 0.0, "") for step in steps))
        if plan.all:
            holder = _under_slot(stack, job, holder, control, known)
            plan = todo.decide(pairing.pairs, known, holder.content)
        if plan.all or objects.pending:
            against = holder.keep(job.source)
            report = replace(report, warnings=(*warnings, *([against] if against else [])))
        work = Work(tasks.plan_chunks(holder.conn, plan.anew, job.chunk_bytes), steps, objects)
        run = tasks.register(control, holder, mine, plan, work, count)
        crew.supervise(*_work(job, control, pairing, run, holder.snapshot, holder.content, count), holder, control, job.progress)
        left = ledger.remaining(control, run) + len(large_objects.chunks(control, run))
        if left:
            raise TransferError(f"{left} chunks were left undone by the workers", "Run again; finished chunks stay.", kind="lost")
        ledger.close_run(control, run)
        made = ledger.built(control, run)
        _refuse_unbuilt(made)
        report = replace(report, warnings=(*report.warnings, *_unlinked(made)))
        final = todo.by_pair(pairing.pairs, ledger.load(control))
        moved = sum(entry.bytes for entries in final.values() for entry in entries if entry.run == run)
        return report.result(control, final, True, moved, {pair.name for pair in plan.all}, made)


def _join(job: Job) -> CopyResult:
    """Work for the run of another mover. Its pieces, its builds, its snapshot; our workers."""
    started = time.monotonic()
    with ExitStack() as stack:
        control = stack.enter_context(session.connect(job.target, application_name="cutover copy joiner"))
        source = stack.enter_context(session.connect(job.source, application_name="cutover copy joiner", read_only=True))
        pairing = _paired(source, read_tables(source, job.selection), control, job)
        mine = todo.identity(source, job.source)
        run = _run_to_join(control, pairing, mine)
        known, _filled = todo.inspect(control, pairing.pairs, mine)
        count, fewer = _fitting(source, control, job)
        report = _Report(pairing, True, started, fewer, count)
        if run is None:
            return report.result(control, known, False)
        source.close()
        chunks = _work(job, control, pairing, run.id, run.snapshot, run.content, count)
        strange = sorted(
            {f"{c.schema}.{c.table}" for c in chunks[1] if c.kind != "objects"} - {leaf.dotted for p in pairing.pairs for leaf in p.leaves}
        )
        if strange:
            raise TransferError(
                f"the run to be joined copies {', '.join(strange)}, which this selection leaves out",
                "Give every mover the same include, exclude and rename.",
                kind="selection",
            )
        moved, steps = crew.supervise(*chunks, None, control, job.progress)
        if ledger.remaining(control, run.id):
            raise TransferError(
                "another mover has taken the place of the run that was joined",
                "Run this again to join that one; what is finished stays.",
                kind="snapshot_lost",
            )
        return report.result(control, todo.by_pair(pairing.pairs, ledger.load(control)), bool(steps), moved)


def _run_to_join(control: psycopg.Connection[Any], pairing: Pairing, mine: str) -> ledger.Run | None:
    """The run in progress, waited for; None when there is nothing left to do. Raises TransferError of kind no_run or other_source."""
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        if ledger.exists(control):
            run = ledger.unfinished(control)
            if run is not None and not run.abandoned and ledger.is_led(control):
                if run.source != mine:
                    raise TransferError(
                        f"the run in progress copies from {run.source}, not from {mine}", "Give the same source.", kind="other_source"
                    )
                return run
            known, _filled = todo.inspect(control, pairing.pairs, mine)
            if not todo.decide(pairing.pairs, known, "").all and not ledger.is_led(control):
                return None
        if time.monotonic() > deadline:
            raise TransferError(
                f"no copy into this target has begun within {JOIN_SECONDS:.0f} s that could be joined",
                "Start one mover without join, the others with it.",
                kind="no_run",
            )
        time.sleep(0.25)


def _paired(source: psycopg.Connection[Any], tables: tuple[Table, ...], control: psycopg.Connection[Any], job: Job) -> Pairing:
    pairing = pair_tables(tables, read_tables(control, job.selection.inverted()), job.selection, skew.probe(source))
    if pairing.problems:
        raise TransferError(
            f"{len(pairing.problems)} objects do not fit the target: {pairing.problems[0]}",
            "Transfer the schema first, or exclude or rename what does not fit.",
            problems=list(pairing.problems),
        )
    return pairing


def _fitting(source: psycopg.Connection[Any], target: psycopg.Connection[Any], job: Job) -> tuple[int, tuple[str, ...]]:
    """(workers, warnings) that both servers have room for; each has one session of ours."""
    rooms = budget.room(source, job.source, 1, job.connections), budget.room(target, job.target, 1, None)
    return budget.workers(job.workers, *rooms)


def _work(
    job: Job, control: psycopg.Connection[Any], pairing: Pairing, run: int, snapshot: str, content: str, count: int
) -> tuple[crew.Plan, tuple[Chunk, ...], tuple[Build, ...]]:
    """(plan of the workers, chunks, builds) that the ledger has for a run."""
    objects = large_objects.chunks(control, run)
    pairs = {leaf.full_name: pair for pair in pairing.pairs for leaf in pair.leaves}
    how = (count, job.memory, job.toast_compression, bool(objects))
    plan = crew.Plan(job.source, job.target, run, snapshot, content, pairs, *how)
    chunks = tuple(entry.chunk for entry in ledger.load(control) if entry.run == run and not entry.done)
    builds_left = tuple(build for build, state, _seconds, _problem in ledger.built(control, run) if state == "todo")
    return plan, (*chunks, *objects), builds_left


def _under_slot(stack: ExitStack, job: Job, holder: Holder, control: psycopg.Connection[Any], known: Mapping[str, list[Entry]]) -> Holder:
    """The holder, or one under the snapshot of a slot where that is wanted and the holder's is not of it."""
    used = _check_slots(job.slot, known)
    if job.slot is None or holder.slot is not None:
        return holder
    # The first holder's locks keep every table as it is until the second one has its own.
    second = stack.enter_context(Holding(job.source, job.selection, Origin(slot=job.slot, used=used)))
    holder.release()
    if second.made:
        stack.callback(_drop_unused, job.source, job.slot, control)
    return second


def _claim_target(control: psycopg.Connection[Any]) -> ledger.Run | None:
    """Become the only mover; the run that was not finished, whose workers are gone then."""
    ledger.acquire(control)
    if not ledger.exists(control):
        return None
    ledger.create(control)
    earlier = ledger.unfinished(control)
    ledger.fence(control)
    return earlier


def _check_slots(slot: str | None, known: Mapping[str, list[Entry]]) -> bool:
    """Whether tables were copied under this slot. Raises TransferError when some were copied under another one, or under none."""
    found = {entry.slot for entries in known.values() for entry in entries if entry.done}
    others = sorted(name or "none" for name in found if name != slot)
    if others:
        raise TransferError(
            f"tables were copied under replication slot {', '.join(others)}, and the rest is to be copied under {slot or 'none'}",
            "Give the same slot in every run; or begin again: TRUNCATE the tables and DROP SCHEMA cutover CASCADE on the target.",
            kind="slot_mismatch",
            slots=others,
        )
    return slot in found


def _drop_unused(source: Endpoint, slot: str, control: psycopg.Connection[Any]) -> None:
    """A slot just made, which no run in the ledger knows, would hold back the source's log for nobody."""
    if control.closed:
        return
    row = control.execute("SELECT EXISTS (SELECT FROM cutover.run WHERE slot = %s)", (slot,)).fetchone() if ledger.exists(control) else None
    if not row or not row[0]:
        with session.connect(source, application_name="cutover slot") as conn:
            slots.drop(conn, slot)


def _refuse_unbuilt(made: Sequence[tuple[Build, str, float, str]]) -> None:
    failed = [(build, problem) for build, state, _seconds, problem in made if state == "failed" and build.rank == builds.INDEX]
    failed = failed or [(build, problem) for build, state, _seconds, problem in made if state == "failed" and build.rank <= builds.ANALYZE]
    if failed:
        raise TransferError(
            f"all rows are copied, but {len(failed)} builds failed: {'; '.join(problem for _build, problem in failed)}",
            "Correct the rows or the target (for duplicates: compare collations on both sides), then run again; only what is missing is built.",
            kind="index",
            failed=[{"table": f"{b.schema}.{b.table}", "name": b.name, "statement": b.statement, "problem": p} for b, p in failed],
        )


def _unlinked(made: Sequence[tuple[Build, str, float, str]]) -> tuple[str, ...]:
    """Warnings for foreign keys that could not be made or proved. Tables of two snapshots may not fit yet, so this is no failure of the copy."""
    return tuple(
        f"{problem}; pg_schema_transfer (section post_data) makes and proves what is missing"
        for build, state, _seconds, problem in made
        if state == "failed" and build.rank > builds.ANALYZE
    )


@dataclass(frozen=True)
class _Report:
    """What is known of a copy before it moves anything."""

    pairing: Pairing
    resumed: bool
    started: float
    warnings: tuple[str, ...]
    workers: int

    def result(
        self,
        control: psycopg.Connection[Any],
        entries: Mapping[str, list[Entry]],
        changed: bool,
        moved: int = 0,
        redone: Iterable[str] = (),
        made: Sequence[tuple[Build, str, float, str]] = (),
    ) -> CopyResult:
        """The result. moved: bytes of this run; redone: names of tables that it copied; made: builds as the ledger has them."""
        fresh = set(redone)
        tables = []
        contents = set()
        latest: tuple[int, str | None] = (0, None)
        for pair in self.pairing.pairs:
            done = [entry for entry in entries.get(pair.name, ()) if entry.done]
            for entry in done:
                contents.add(entry.snapshot_content)
                latest = max(latest, (entry.run, entry.snapshot_lsn), key=lambda found: found[0])
            lsn = done[-1].snapshot_lsn if done else None
            sums = sum(entry.rows for entry in done), sum(entry.bytes for entry in done), sum(entry.seconds for entry in done)
            resumed = bool(done) and pair.name not in fresh
            tables.append(CopiedTable(pair.name, pair.target.dotted, *sums, resumed=resumed, snapshot_lsn=lsn))
        seconds = time.monotonic() - self.started
        return CopyResult(
            changed=changed,
            tables=tuple(tables),
            rows=sum(table.rows for table in tables),
            bytes=sum(table.bytes for table in tables),
            moved_bytes=moved,
            seconds=seconds,
            mb_per_s=moved / 1e6 / seconds if moved and seconds > 0 else 0.0,
            snapshot_lsn=latest[1],
            resumed=self.resumed,
            consistent=len(contents) <= 1,
            skipped=self.pairing.skipped,
            warnings=self.warnings,
            large_objects=large_objects.total(control),
            indexes=_indexes(made),
            workers=self.workers,
        )


def _indexes(made: Sequence[tuple[Build, str, float, str]]) -> tuple[BuiltIndex, ...]:
    settled = {
        (build.schema, build.table, build.name)
        for build, *_rest in made
        if build.rank == builds.SETTLE and "ADD CONSTRAINT" in build.statement
    }
    seconds = {(build.schema, build.table, build.name): took for build, _state, took, _problem in made if build.rank == builds.INDEX}
    methods = {(build.schema, build.table, build.name): build.method for build, *_rest in made if build.rank < builds.ANALYZE}
    return tuple(
        BuiltIndex(name, f"{schema}.{table}", method, (schema, table, name) in settled, seconds.get((schema, table, name), 0.0))
        for (schema, table, name), method in sorted(methods.items())
    )
