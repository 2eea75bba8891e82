# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What must be so before a switch, what it will take, and what proves that it was right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from . import catalog, freeze, large_objects, ledger
from . import cutover_state as state
from .errors import TransferError
from .large_objects_compare import BroughtObjects
from .resync import ResyncResult
from .selection import Name, Selection
from .verify import VerifiedTable, VerifyResult, matching

if TYPE_CHECKING:
    import psycopg

METHOD = "copy_under_freeze"


def ready(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], selection: Selection, recorded: str) -> None:
    """Refuse a switch that cannot end well. Raises TransferError that names what is missing and the step that brings it."""
    if recorded == state.ROLLING_BACK:
        raise TransferError("a roll back was begun and not finished", "Run state=rolled_back again: only opening the source is left.")
    if freeze.status(src).state == "frozen" and recorded == state.CUT_OVER:
        raise TransferError("the target is in service already", "Nothing is to be done.")
    pairing = matching(src, dst, selection)
    lacking = second_half_missing(src, dst, selection)
    if lacking:
        raise TransferError(
            f"the target lacks {len(lacking)} keys, indexes, triggers or policies: {', '.join(lacking[:5])}",
            "Run pg_schema_transfer with section post_data.",
            missing=lacking,
        )
    _copied(dst, [pair.source.full_name for pair in pairing.pairs])
    closed = freeze.status(dst)
    open_tables = sorted({pair.target.dotted for pair in pairing.pairs} - set(closed.covered)) if closed.state == "frozen" else ["all"]
    if open_tables:
        raise TransferError(
            f"the target is not closed: {', '.join(open_tables[:5])} would accept writes before the proof",
            "Run pg_cutover with state=frozen side=target.",
        )


def second_half_missing(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], selection: Selection) -> list[str]:
    """Indexes, constraints, triggers and policies of the selected tables that the target lacks, and tables without their row security."""
    there = _second_half(dst, selection.inverted())
    found = []
    for kind, table, name in sorted(_second_half(src, selection)):
        target = selection.target_name(*table)
        if (kind, target, name) not in there:
            found.append(f"{kind} {name} on {'.'.join(target)}".replace("  ", " "))
    return found


def _second_half(conn: psycopg.Connection[Any], selection: Selection) -> set[tuple[str, Name, str]]:
    tables = catalog.read_tables(conn, selection)
    found = {("index", index.table, index.name) for index in catalog.read_indexes(conn, tables) if index.is_valid}
    selected = {table.full_name for table in tables}
    # A foreign key to a table that stays behind stays behind too.
    found |= {
        ("constraint", one.table, one.name)
        for one in catalog.read_constraints(conn, tables)
        if one.type in "pux" or (one.type == "f" and one.references in selected)
    }
    rows = conn.execute(
        "SELECT 'policy', c.oid::bigint, p.polname::text FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.oid = ANY(%(oids)s::oid[])"
        " UNION ALL SELECT 'row security', c.oid::bigint, '' FROM pg_class c WHERE c.relrowsecurity AND c.oid = ANY(%(oids)s::oid[])",
        {"oids": [table.oid for table in tables]},
    ).fetchall()
    names = {table.oid: table.full_name for table in tables}
    return found | {(kind, names[oid], name) for kind, oid, name in rows}


def _copied(dst: psycopg.Connection[Any], tables: Sequence[Name]) -> None:
    entries = ledger.load(dst) if ledger.exists(dst) else ()
    known = {(entry.chunk.schema, entry.chunk.table) for entry in entries}
    open_chunks = sum(1 for entry in entries if not entry.done)
    if open_chunks:
        raise TransferError(
            f"the copy is not finished: {open_chunks} of {len(entries)} chunks are left",
            "Run pg_row_copy again; it goes on where it stopped.",
        )
    if tables and not known:
        raise TransferError("the ledger of the target knows of no copy", "Run pg_row_copy first.")


def proven(result: VerifyResult, src: psycopg.Connection[Any], back: bool) -> dict[str, Any]:
    """Figures of a clean verification, tables under the source's names. Raises TransferError when one row differs, naming tables and counts.

    back: the verification compared the target with the source, as on the way back
    """
    if not result.equal:
        wrong = [table for table in result.tables if not table.equal]
        unlike = [(table.name, table.missing_count, table.extra_count, table.changed_count) for table in wrong[:5]]
        if result.large_objects and not result.large_objects.equal:
            objects = result.large_objects
            unlike.append(("large objects", objects.missing_count, objects.extra_count, objects.changed_count))
        listed = "; ".join(f"{name}: {missing} missing, {extra} extra, {changed} changed" for name, missing, extra, changed in unlike)
        raise TransferError(
            f"the sides differ under the freeze: {listed or 'see details'}",
            "Find out what wrote to the frozen side (session_replication_role=replica, or DDL), then run again.",
            differing=[table.name for table in wrong],
        )
    return {
        "equal": True,
        "mode": result.mode,
        "hash": result.hash,
        "tables": [_proven_table(table, back) for table in result.tables],
        "table_count": len(result.tables),
        "rows": sum(table.rows for table in result.tables),
        "seconds": round(result.seconds, 4),
        "large_objects": _proven_objects(result, src),
    }


def _proven_objects(result: VerifyResult, src: psycopg.Connection[Any]) -> dict[str, Any]:
    """How many were compared, or that they were left out although there are some."""
    objects = result.large_objects
    if objects is None:
        return {"compared": False, "count": large_objects.count(src)}
    return {"compared": True, "count": objects.count, "bytes": objects.bytes, "seconds": round(objects.seconds, 4)}


def _proven_table(table: VerifiedTable, back: bool) -> dict[str, Any]:
    source, target = (table.target, table.name) if back else (table.name, table.target)
    return {
        "name": source,
        "target": target,
        "rows": table.rows,
        "missing_count": table.missing_count,
        "extra_count": table.extra_count,
        "changed_count": table.changed_count,
        "checksum": table.checksum,
        "seconds": round(table.seconds, 4),
    }


def brought(result: ResyncResult | None) -> dict[str, Any]:
    """Figures of what was brought over under the freeze; None: there was nothing of the kind."""
    if result is None:
        return {"ranges": 0, "rows": 0, "rows_deleted": 0, "tables": [], "seconds": 0.0, "large_objects": asdict(BroughtObjects())}
    return {
        "ranges": result.ranges,
        "rows": result.rows_copied,
        "rows_deleted": result.rows_deleted,
        "tables": sorted(table.name for table in result.tables if table.ranges),
        "seconds": round(result.seconds, 4),
        "large_objects": asdict(result.large_objects),
    }


def expected(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], selection: Selection, workers: int) -> list[dict[str, Any]]:
    """Steps with expected seconds, None where this move has measured nothing to tell them by.

    rest and proof each read every row of both sides once; the estimate is the speed that the copy of this move had, for as many workers.
    """
    size = sum(table.size_bytes for table in catalog.read_tables(src, selection))
    entries = [entry for entry in (ledger.load(dst) if ledger.exists(dst) else ()) if entry.done and entry.seconds > 0]
    busy = sum(entry.seconds for entry in entries)
    rate = sum(entry.bytes for entry in entries) / busy * workers if busy else 0.0
    scan = round(size / rate, 2) if rate else None
    reading = ("rest", "proof")
    return [
        {"name": name, "expected_seconds": scan if name in reading else None, "bytes": size if name in reading else 0}
        for name in ("freeze", "rest", "sequences", "proof", "open")
    ]
