# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make the target equal to a source that stands still: ranges whose sums differ are replaced. Works in both directions."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from . import large_objects_compare, ledger, pipe, predecessor, session
from .blocks import batches
from .canonical import Agreement
from .compare import Crew, Duo, compare
from .endpoint import Endpoint
from .errors import TransferError
from .handshake import shake_hands
from .moment import hold
from .pairing import Pair, relation
from .selection import Selection
from .verify import matching, used_types
from .workers import import_snapshot


@dataclass(frozen=True)
class ResyncedTable:
    """A table brought up to date. name: ``schema.table`` of the side read from; ranges: replaced ones, 0 when it was equal."""

    name: str
    target: str
    ranges: int
    rows_deleted: int
    rows_copied: int
    seconds: float


@dataclass(frozen=True)
class ResyncResult:
    """What was replaced in all tables. lsn: of the side read from, at its snapshot; skipped: what has no counterpart.

    large_objects: what was done to make them equal
    """

    changed: bool
    ranges: int
    rows_deleted: int
    rows_copied: int
    tables: tuple[ResyncedTable, ...]
    lsn: str | None
    seconds: float
    skipped: tuple[str, ...]
    large_objects: large_objects_compare.BroughtObjects


def resync(
    source: Endpoint,
    target: Endpoint,
    selection: Selection,
    workers: int = 2,
    *,
    hash: str | None = None,
    check: bool = False,
    snapshot: str | None = None,
) -> ResyncResult:
    """Replace what differs on the target by what the source has, one transaction per table.

    The source must be frozen, since rows written to it meanwhile are not seen; or a snapshot of it says what is wanted. The target may carry
    triggers that refuse writes; they are passed. For the way back exchange the endpoints and give ``selection.inverted()``. check: only count ranges.
    A lost connection is tried again from the start: equal tables stay untouched. Raises TransferError.
    """
    if workers < 1:
        raise TransferError(f"workers is {workers}, must be at least 1", "Correct the number.")
    return session.retrying(lambda: _attempt(source, target, selection, workers, hash, check, snapshot), budget_seconds=60.0)


def _attempt(
    source: Endpoint, target: Endpoint, selection: Selection, workers: int, hash: str | None, check: bool, snapshot: str | None
) -> ResyncResult:
    started = time.monotonic()
    with ExitStack() as stack:
        if not check:
            # Proves the right to write past triggers before anything is read, and keeps every other mover out.
            ledger.acquire(
                stack.enter_context(session.connect(target, application_name=predecessor.named("cutover resync ledger"), replica=True))
            )
        ours, theirs = (
            stack.enter_context(session.connect(endpoint, application_name="cutover resync holder", read_only=True))
            for endpoint in (source, target)
        )
        snapshots = hold(ours, snapshot), hold(theirs, None)
        row = ours.execute(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text"
        ).fetchone()
        pairing = matching(ours, theirs, selection)
        agreed = shake_hands(ours, theirs, used_types(pairing), hash)
        crew = Crew(source, target, snapshots, stack, "resync")
        order = sorted(pairing.pairs, key=lambda pair: -sum(leaf.size_bytes for leaf in pair.leaves))
        with ThreadPoolExecutor(max_workers=workers) as pool:
            tables = list(pool.map(lambda pair: _table(crew.duo(), source, target, snapshots[0], pair, agreed, check), order))
            objects = large_objects_compare.BroughtObjects()
            if selection.large_objects:
                writer = partial(session.connect, target, application_name="cutover resync writer", replica=True)
                objects = large_objects_compare.resync(ours, theirs, crew.duo, pool, writer, check=check)
    return ResyncResult(
        changed=any(table.ranges for table in tables) or objects.any,
        ranges=sum(table.ranges for table in tables),
        rows_deleted=sum(table.rows_deleted for table in tables),
        rows_copied=sum(table.rows_copied for table in tables),
        tables=tuple(sorted(tables, key=lambda table: table.name)),
        lsn=row[0] if row else None,
        seconds=time.monotonic() - started,
        skipped=pairing.skipped,
        large_objects=objects,
    )


def _table(duo: Duo, source: Endpoint, target: Endpoint, snapshot: str, pair: Pair, agreed: Agreement, check: bool) -> ResyncedTable:
    started = time.monotonic()
    plan, found = compare(duo, pair, agreed)
    eyes, ranges = plan.eyes, found.ranges
    deleted = copied = 0
    if ranges and not check:
        with ExitStack() as stack:
            reader = stack.enter_context(session.connect(source, application_name="cutover resync reader", read_only=True))
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            import_snapshot(reader, snapshot)
            writer = stack.enter_context(session.connect(target, application_name="cutover resync writer", replica=True))
            there = pipe.bare(writer)
            try:
                pipe.run(there, "BEGIN")
                # All old rows go before the first new one comes: a unique value may have moved from one range to another.
                for batch in batches(eyes[1], ranges):
                    deleted += pipe.run(there, f"DELETE FROM {relation(pair.target)} WHERE {eyes[1].predicate(batch)}").command_tuples or 0
                for batch in batches(eyes[0], ranges):
                    out_sql, in_sql = pipe.statements(pair, relation(pair.source), f"WHERE {eyes[0].predicate(batch)}")
                    copied += pipe.stream(pipe.bare(reader), there, out_sql, in_sql, lambda _sent, _rows: None)[0]
                pipe.run(there, "COMMIT")
            except session.psycopg.Error as error:
                if session.is_lost(error):
                    raise
                raise TransferError(
                    f"replacing rows of {pair.target.dotted} failed: {str(error).strip()}",
                    "Correct the cause, for example a missing privilege, and run again; the table is as it was.",
                    kind="resync",
                    table=pair.name,
                    sqlstate=error.sqlstate,
                ) from error
    return ResyncedTable(pair.name, pair.target.dotted, len(ranges), deleted, copied, time.monotonic() - started)
