# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copy of rows from a source that offers only its REST address: what is to be done, tables at a time, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import ledger, predecessor, rest_ledger, session
from .endpoint import Endpoint
from .errors import TransferError, certain
from .pairing import Pair, relation
from .progress import Progress
from .rest_pairs import RestPairing, pair_up
from .rest_progress import Board
from .rest_source import Knowledge, Source
from .rest_table import Work, copy_table
from .selection import Selection

if TYPE_CHECKING:
    import psycopg

# Public interfaces limit how many requests may run at once.
MOST_WORKERS = 4


@dataclass(frozen=True)
class RestCopiedTable:
    """A table after the copy.

    rows: on the target; bytes, seconds: of all runs; resumed: done by an earlier run; counted_before, counted_after: what the source counted,
    None where it gave up counting or was not asked; passes: over the whole table after the copy; moved: rows brought over by them
    """

    name: str
    target: str
    rows: int
    bytes: int
    seconds: float
    resumed: bool
    counted_before: int | None
    counted_after: int | None
    passes: int
    moved: int
    snapshot_lsn: str | None = None


@dataclass(frozen=True)
class RestCopyResult:
    """What a copy did; fields as in :class:`.copy.CopyResult`. consistent is never true: pages of different moments were read.

    page_rows: rows of the largest page the source sent; requests, retries: HTTP requests of this run; indexes: always empty
    """

    changed: bool
    tables: tuple[RestCopiedTable, ...]
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
    page_rows: int
    requests: int
    retries: int
    indexes: tuple[Any, ...] = ()


def copy(
    source: Endpoint,
    target: Endpoint,
    selection: Selection,
    *,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    check: bool = False,
) -> RestCopyResult:
    """Copy the rows of all selected tables that the source exposes into existing, empty tables of the target.

    workers: tables at a time, at most 4, which is the default; check: say what would be done and write nothing
    A rerun continues after the last page that is in. Raises TransferError before anything is written for a table without a key, tables or
    columns that the target lacks, or rows that no copy has brought; later when the source refuses, moves faster than it is read, or counts
    other numbers of rows than were read.
    """
    if workers is not None and workers < 1:
        raise TransferError(f"workers is {workers}, it must be at least 1", "Correct the number.")
    count = min(workers or MOST_WORKERS, MOST_WORKERS)
    return session.retrying(lambda: _attempt(source, target, selection, count, progress, check))


def refuse_options(**given: object) -> None:
    """Raises TransferError for options of a copy that a REST source cannot honour, if they are set."""
    unfit = sorted(name for name, value in given.items() if value)
    if unfit:
        raise TransferError(f"a REST source has no snapshots, slots or movers to join, but {', '.join(unfit)} is given", "Leave it out.")


def _attempt(
    source: Endpoint, target: Endpoint, selection: Selection, workers: int, progress: Callable[[Progress], None] | None, check: bool
) -> RestCopyResult:
    started = time.monotonic()
    knowledge = Knowledge()
    with ExitStack() as stack:
        control = stack.enter_context(
            session.connect(target, application_name=predecessor.named("cutover copy ledger"), replica=not check, read_only=check)
        )
        if not check:
            ledger.acquire(control)
        asker = stack.enter_context(Source(source, knowledge))
        pairing = pair_up(asker, source, control, selection)
        pairs = [pair for pair, _described in pairing.pairs]
        known = _inspect(control, source, pairs)
        todo = [
            (pair, described)
            for pair, described in pairing.pairs
            if not (known[pair.name] and certain(known[pair.name], "a position").done)
        ]
        resumed = any(position is not None for position in known.values())
        if check or not todo:
            works = {pair.name: Work(pair, described, known[pair.name] or _NOTHING) for pair, described in pairing.pairs}
            return _result(control, pairing, works, resumed, bool(todo), started, knowledge, 0, {pair.name for pair, _described in todo})
        run = _register(control, source, [pair for pair, _described in todo], known)
        works = {
            pair.name: Work(pair, described, certain(rest_ledger.position(control, pair) if run else None, "a position of the ledger"))
            for pair, described in pairing.pairs
        }
        before = sum(work.position.bytes for work in works.values())
        board = Board(progress, len(todo))
        _work_off(source, target, [works[pair.name] for pair, _described in todo], workers, control, knowledge, board)
        ledger.close_run(control, run)
        works = {
            name: replace(work, position=certain(rest_ledger.position(control, work.pair), "a position of the ledger"))
            for name, work in works.items()
        }
        moved = sum(work.position.bytes for work in works.values()) - before
        return _result(control, pairing, works, resumed, True, started, knowledge, moved, {pair.name for pair, _described in todo})


_NOTHING = rest_ledger.Position(0, None, 0, 0, 0.0, done=False)


def _inspect(control: psycopg.Connection[Any], source: Endpoint, pairs: Sequence[Pair]) -> dict[str, rest_ledger.Position | None]:
    """{table: where it stands}. Refuses a ledger of another source, and rows that no page has brought."""
    known: dict[str, rest_ledger.Position | None] = {}
    offenders = []
    exists = ledger.exists(control)
    strangers = ledger.sources(control) - {source.describe()} if exists else set()
    if strangers:
        raise TransferError(
            f"the ledger on the target belongs to a copy from {', '.join(sorted(strangers))}, not from {source.describe()}",
            "Finalize that move first, or run DROP SCHEMA cutover CASCADE on the target if it is over.",
            kind="other_source",
        )
    for pair in pairs:
        known[pair.name] = rest_ledger.position(control, pair) if exists else None
        filled = certain(control.execute(f"SELECT EXISTS (SELECT FROM {pair.target.sql})").fetchone(), "an answer")[0]
        if filled and known[pair.name] is None:
            offenders.append(pair)
    if offenders:
        raise TransferError(
            f"the target already holds rows that no copy has brought: {', '.join(pair.target.dotted for pair in offenders)}",
            f"If they may go, run on the target: TRUNCATE {', '.join(pair.target.sql for pair in offenders)}; else exclude these tables.",
            kind="target_not_empty",
            tables=[pair.target.dotted for pair in offenders],
        )
    return known


def _register(
    control: psycopg.Connection[Any], source: Endpoint, pairs: Sequence[Pair], known: dict[str, rest_ledger.Position | None]
) -> int:
    ledger.create(control)
    with control.transaction():
        run = ledger.open_run(control, source.describe(), "", "", None)
        rest_ledger.start(control, run, [pair for pair in pairs if known[pair.name] is None])
        for pair in pairs:
            if known[pair.name] is not None:
                rest_ledger.adopt(control, run, pair)
    return run


def _work_off(
    source: Endpoint,
    target: Endpoint,
    works: Sequence[Work],
    workers: int,
    control: psycopg.Connection[Any],
    knowledge: Knowledge,
    board: Board,
) -> None:
    """Copy the tables, some at a time; the first error ends all of them after the page they are at."""

    def one(work: Work) -> None:
        session.retrying(lambda: copy_table(source, target, work, knowledge, board))

    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        waiting: set[Future[None]] = {pool.submit(one, work) for work in works}
        beat = time.monotonic()
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            board.show()
            if time.monotonic() - beat > 15.0:
                beat = time.monotonic()
                # The lock of the only mover lives with this session.
                control.execute("SELECT 1")
        board.show(last=True)
    finally:
        board.stopped = True
        pool.shutdown(wait=True, cancel_futures=True)


def _result(
    control: psycopg.Connection[Any],
    pairing: RestPairing,
    works: dict[str, Work],
    resumed: bool,
    changed: bool,
    started: float,
    knowledge: Knowledge,
    moved: int,
    worked: set[str],
) -> RestCopyResult:
    tables = []
    for name, work in works.items():
        held = int(certain(control.execute(f"SELECT count(*) FROM {relation(work.pair.target)}").fetchone(), "a count")[0])
        at = work.position
        facts = (held, at.bytes, at.seconds, name not in worked, work.before, work.after, work.passes, work.moved)
        tables.append(RestCopiedTable(name, work.pair.target.dotted, *facts))
    seconds = time.monotonic() - started
    return RestCopyResult(
        changed=changed,
        tables=tuple(tables),
        rows=sum(table.rows for table in tables),
        bytes=sum(table.bytes for table in tables),
        moved_bytes=moved,
        seconds=seconds,
        mb_per_s=moved / 1e6 / seconds if moved and seconds > 0 else 0.0,
        snapshot_lsn=None,
        resumed=resumed,
        consistent=False,
        skipped=pairing.skipped,
        warnings=pairing.warnings,
        page_rows=knowledge.largest_page,
        requests=knowledge.requests,
        retries=knowledge.retries,
    )
