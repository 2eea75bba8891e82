# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Comparison of a target with a source that offers only its REST address: every page is read, hashed by the target and joined by key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from . import rest_survey, session
from .endpoint import Endpoint
from .errors import TransferError, certain
from .pairing import Pair, relation
from .rest_pairs import pair_up
from .rest_query import RestTable
from .rest_source import Key, Knowledge, Source
from .rest_survey import Moved
from .selection import Selection
from .verify import Difference, VerifiedTable, VerifyResult

if TYPE_CHECKING:
    import psycopg

MOST_WORKERS = 4


def verify(
    source: Endpoint,
    target: Endpoint,
    selection: Selection,
    *,
    mode: str = "full",
    workers: int = 2,
    max_reported: int = 100,
    progress: Callable[[VerifiedTable], None] | None = None,
) -> VerifyResult:
    """Compare the rows of all selected tables. mode: ``full`` every value of every row, ``counts`` numbers of rows.

    The result is never exact: the source is read page by page, not at one moment. Columns that the target computes are compared too.
    Makes a temporary table in its own session on the target, nothing else. Raises TransferError as the copy does.
    """
    if mode not in ("full", "counts"):
        raise TransferError(f"a REST source cannot be verified in mode {mode!r}", "Use full or counts.")
    if workers < 1 or max_reported < 0:
        raise TransferError(f"workers is {workers} and max_reported {max_reported}", "Use at least 1 and 0.")
    started = time.monotonic()
    knowledge = Knowledge()
    with (
        Source(source, knowledge) as asker,
        session.connect(target, application_name="cutover verify holder", read_only=True) as conn,
    ):
        pairing = pair_up(asker, source, conn, selection)

    def one(job: tuple[Pair, RestTable]) -> VerifiedTable:
        with (
            Source(source, knowledge) as asker,
            session.connect(target, application_name="cutover verify", read_only=False) as conn,
        ):
            done = _counted(asker, conn, *job) if mode == "counts" else _compared(asker, conn, *job, max_reported)
        if progress is not None:
            progress(done)
        return done

    with ThreadPoolExecutor(max_workers=min(workers, MOST_WORKERS)) as pool:
        tables = tuple(pool.map(one, pairing.pairs))
    return VerifyResult(
        equal=all(table.equal for table in tables),
        mode=mode,
        hash="" if mode == "counts" else "text",
        tables=tables,
        lsn=None,
        seconds=time.monotonic() - started,
        skipped=pairing.skipped,
        warnings=pairing.warnings,
        large_objects=None,
    )


def _counted(asker: Source, conn: psycopg.Connection[Any], pair: Pair, described: RestTable) -> VerifiedTable:
    began = time.monotonic()
    counted = asker.count(described)
    if counted is None:
        raise TransferError(
            f"the source gave up counting {pair.name}",
            "Raise statement_timeout of the API's role, or use mode full.",
            kind="too_big",
            table=pair.name,
        )
    held = int(certain(conn.execute(f"SELECT count(*) FROM {relation(pair.target)}").fetchone(), "a count")[0])
    return _table(pair, Moved(counted, held, max(counted - held, 0), 0, max(held - counted, 0)), {}, "count", began)


def _compared(asker: Source, conn: psycopg.Connection[Any], pair: Pair, described: RestTable, cap: int) -> VerifiedTable:
    began = time.monotonic()
    asker.check_unique(pair, described)
    columns = [left for left, _right in rest_survey.ordered_columns(pair)]
    rest_survey.begin(conn, pair)
    for rows in asker.pages(pair, columns):
        rest_survey.note(conn, pair, rows)
    moved = rest_survey.compare(conn, pair)
    counted = asker.count(described)
    if counted is not None and counted != moved.seen:
        raise TransferError(
            f"{pair.name}: {moved.seen} rows were read, but the source counts {counted}",
            "Stop writes to the source, look for empty values or duplicates in rest.unique, and run again.",
            kind="count_mismatch",
            table=pair.name,
        )
    listed: dict[str, list[Key]] = {}
    for kind, count in (("missing", moved.missing), ("changed", moved.changed), ("extra", moved.extra)):
        listed[kind] = [key for keys in rest_survey.differing(conn, pair, kind, cap) for key in keys] if count and cap else []
    rows = asker.by_key(pair, columns, listed["changed"])
    differing = rest_survey.changed_columns(conn, pair, rows) if rows else {}
    found = {
        kind: tuple(Difference(key=_named(pair, key), columns=differing.get(key, ()) if kind == "changed" else ()) for key in keys)
        for kind, keys in listed.items()
    }
    return _table(pair, moved, found, "key", began)


def _named(pair: Pair, key: Key) -> dict[str, str]:
    return {left.name: text for (left, _right), text in zip(pair.key, key, strict=True)}


def _table(pair: Pair, moved: Moved, listed: Mapping[str, tuple[Difference, ...]], method: str, began: float) -> VerifiedTable:
    return VerifiedTable(
        name=pair.name,
        target=pair.target.dotted,
        rows=moved.seen,
        target_rows=moved.held,
        missing=listed.get("missing", ()),
        extra=listed.get("extra", ()),
        changed=listed.get("changed", ()),
        missing_count=moved.missing,
        extra_count=moved.extra,
        changed_count=moved.changed,
        checksum="",
        target_checksum="",
        method=method,
        seconds=time.monotonic() - began,
    )
