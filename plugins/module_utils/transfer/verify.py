# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Proof that two databases hold the same rows, or the names of those that differ."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import index_check, large_objects_compare, moment, session, skew
from .canonical import Agreement
from .catalog import Table, read_names, read_tables
from .compare import Comparison, Crew, Duo, Work, plan
from .differences import Difference, Tally
from .endpoint import Endpoint
from .errors import TransferError
from .evidence import collect, compare_keys, named
from .handshake import shake_hands
from .pairing import Pair, Pairing, pair_tables, relation
from .selection import Selection

if TYPE_CHECKING:
    import psycopg

__all__ = ["MODES", "Difference", "VerifiedTable", "VerifyResult", "matching", "used_types", "verify"]
MODES = ("full", "dirty", "counts")


@dataclass(frozen=True)
class VerifiedTable:
    """A table compared. Lists are capped at max_reported, counts never. missing: on the source only; extra: on the target only.

    rows, target_rows: of each side; checksum, target_checksum: '' where rows were counted only; method: key, key_hash, row_hash, keys or count
    """

    name: str
    target: str
    rows: int
    target_rows: int
    missing: tuple[Difference, ...]
    extra: tuple[Difference, ...]
    changed: tuple[Difference, ...]
    missing_count: int
    extra_count: int
    changed_count: int
    checksum: str
    target_checksum: str
    method: str
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing_count or self.extra_count or self.changed_count) and (
            self.rows == self.target_rows and self.checksum == self.target_checksum
        )


@dataclass(frozen=True)
class VerifyResult:
    """The verdict. lsn: of the source at its snapshot; hash: strategy both servers agreed on; skipped: what has no counterpart.

    exact: lsn is the very position of both sides' snapshots, so that no difference can be lag and none can hide behind it
    large_objects: None where they do not belong to the selection; indexes: None where they were not checked
    """

    equal: bool
    mode: str
    hash: str
    tables: tuple[VerifiedTable, ...]
    lsn: str | None
    seconds: float
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    large_objects: large_objects_compare.VerifiedObjects | None = None
    exact: bool = False
    indexes: index_check.CheckedIndexes | None = None

    @property
    def differing(self) -> tuple[str, ...]:
        """Names of the tables that differ."""
        return tuple(table.name for table in self.tables if not table.equal)


def verify(
    source: Endpoint,
    target: Endpoint,
    selection: Selection,
    *,
    mode: str = "full",
    workers: int = 2,
    max_reported: int = 100,
    keys: Mapping[str, Sequence[Sequence[str]]] | None = None,
    hash: str | None = None,
    source_snapshot: str | None = None,
    target_snapshot: str | None = None,
    pairing: str = "none",
    pause_at: Callable[[str], str] | None = None,
    slot_seconds: float = 120.0,
    check_indexes: bool = False,
    counts: bool = True,
    progress: Callable[[VerifiedTable], None] | None = None,
) -> VerifyResult:
    """Compare the rows of all selected tables, each side as of one snapshot.

    mode: ``full`` every value of every row; ``counts`` numbers of rows; ``dirty`` numbers of rows, and the values of the rows named in ``keys``
    keys: {``schema.table`` of the source: keys as texts in the order of the key's columns}; a table without a key is then compared in full, and one
        with a key of no columns among them
    workers: statements at a time, each with one connection to each side; a large table is shared by all of them
    hash: a strategy of :mod:`.canonical`, default the fastest; pairing, pause_at, slot_seconds: as for :func:`.moment.take`
    counts: without them ``dirty`` looks at nothing but the named rows, in a time that does not grow with the tables; rows are then those named
    check_indexes: also look for damage in the target's b-tree indexes. Lost connections are made anew as long as the snapshots live.
    Raises TransferError when tables or columns are missing, or the servers print and hash a used type differently.
    """
    if mode not in MODES:
        raise TransferError(f"unknown mode {mode!r} of a verification", f"Use one of {', '.join(MODES)}.")
    if workers < 1 or max_reported < 0:
        raise TransferError(f"workers is {workers} and max_reported {max_reported}", "Use at least 1 and 0.")
    started = time.monotonic()
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(session.connect(endpoint, application_name="cutover verify holder", read_only=True))
            for endpoint in (source, target)
        )
        held = moment.take(stack, source, ours, theirs, (source_snapshot, target_snapshot), pairing, pause_at, slot_seconds)
        warnings = tuple(selection.check(read_names(ours)))
        matched = matching(ours, theirs, selection)
        agreed = shake_hands(ours, theirs, used_types(matched), hash) if mode != "counts" else Agreement("")
        dirty = dict(keys or {})
        unknown = sorted(set(dirty) - {name for pair in matched.pairs for name in _names_of(pair)})
        if unknown:
            raise TransferError(f"keys name {', '.join(unknown)}, which is not among the compared tables", "Correct keys or the selection.")
        crew = Crew(source, target, held.snapshots, stack, "verify")
        indexes = objects = None
        with ThreadPoolExecutor(max_workers=workers) as pool:
            try:
                tables = _Run(crew, agreed, mode, max_reported, dirty, counts, progress).tables(pool, matched.pairs, workers)
                if selection.large_objects:
                    objects = large_objects_compare.verify(ours, theirs, crew.duo, pool, cap=max_reported, contents=mode != "counts")
                if check_indexes:
                    indexes = index_check.check(target, theirs, (pair.target for pair in matched.pairs), pool)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                crew.cancel()
                raise
    equal = all(table.equal for table in tables) and (objects is None or objects.equal) and not (indexes and indexes.broken)
    return VerifyResult(
        equal,
        mode,
        agreed.name,
        tuple(sorted(tables, key=lambda table: table.name)),
        held.lsn,
        time.monotonic() - started,
        matched.skipped,
        warnings,
        objects,
        held.exact,
        indexes,
    )


def matching(ours: psycopg.Connection[Any], theirs: psycopg.Connection[Any], selection: Selection) -> Pairing:
    """Tables of both sides in pairs. Raises TransferError that names what the target lacks."""
    pairing = pair_tables(read_tables(ours, selection), read_tables(theirs, selection.inverted()), selection, skew.probe(ours))
    if pairing.problems:
        raise TransferError(
            f"{len(pairing.problems)} objects do not fit the target: {pairing.problems[0]}",
            "Transfer the schema first, or exclude or rename what does not fit.",
            problems=list(pairing.problems),
        )
    return pairing


def used_types(pairing: Pairing) -> set[str]:
    """Types of all compared columns."""
    return {column.base for pair in pairing.pairs for columns in pair.columns for column in columns}


@dataclass
class _Table:
    """A table on its way through the workers. keys: to be looked at in mode dirty; seconds: spent by all workers together."""

    pair: Pair
    keys: list[tuple[str, ...]]
    full: bool
    work: Work | None = None
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def size(self) -> int:
        """Bytes on the source."""
        return sum(leaf.size_bytes for leaf in self.pair.leaves)


class _Run:
    """All tables of a verification, cut so that every worker is busy to the end."""

    def __init__(
        self,
        crew: Crew,
        agreed: Agreement,
        mode: str,
        cap: int,
        dirty: Mapping[str, Sequence[Sequence[str]]],
        counts: bool,
        progress: Callable[[VerifiedTable], None] | None,
    ) -> None:
        self.crew, self.agreed, self.mode, self.cap, self.dirty, self.counts, self.progress = (
            crew,
            agreed,
            mode,
            cap,
            dirty,
            counts,
            progress,
        )

    def tables(self, pool: Executor, pairs: Sequence[Pair], workers: int) -> list[VerifiedTable]:
        """Verdicts on all pairs, the largest first, so that no worker begins the longest one last."""
        todo = []
        for pair in pairs:
            keys = _keys_of(pair, self.dirty)
            todo.append(_Table(pair, keys, self.mode == "full" or (self.mode == "dirty" and bool(keys) and (not pair.key or () in keys))))
        todo.sort(key=lambda table: -table.size)
        # Plans first: they are short, and the parts of the largest table then come before the whole of the next.
        parts = [
            (table, part)
            for table, count in zip(todo, pool.map(lambda one: self._plan(one, workers), todo), strict=True)
            for part in range(count)
        ]
        return [found for found in pool.map(lambda one: self._ask(*one), parts) if found is not None]

    def _plan(self, table: _Table, workers: int) -> int:
        if not table.full:
            return 1
        table.work = self.crew.retrying(lambda duo: Work(table.pair, plan(duo, table.pair, self.agreed, workers)))
        return table.work.plan.parts

    def _ask(self, table: _Table, part: int) -> VerifiedTable | None:
        """Sum one part of a table; after its last one, its verdict."""
        started = time.monotonic()
        work = table.work
        last = work is None or self.crew.retrying(lambda duo: work.ask(duo, part))
        found = self.crew.retrying(lambda duo: self._finish(duo, table)) if last else None
        with table.lock:
            table.seconds += time.monotonic() - started
        if found is None:
            return None
        tally, sums, method, names = found
        verdict = _verdict(table, tally, sums, method, names)
        if self.progress is not None:
            self.progress(verdict)
        return verdict

    def _finish(self, duo: Duo, table: _Table) -> tuple[Tally, Comparison, str, tuple[tuple[Difference, ...], ...]]:
        pair, tally = table.pair, Tally(self.cap)
        if table.work is not None:
            found = table.work.result(duo)
            eye = table.work.plan.eyes[0]
            collect(duo, table.work.plan, found, tally)
            method = "key" if eye.key else "key_hash" if eye.position else "row_hash"
        else:
            ours = theirs = len(table.keys)
            if self.counts or self.mode == "counts":
                queries = [f"SELECT count(*) FROM {relation(one)}" for one in (pair.source, pair.target)]
                ours, theirs = (rows[0][0] for rows in duo.both(queries[0], queries[1]))
            found = Comparison(ours, theirs, "", "", ())
            if table.keys:
                compare_keys(duo, pair, self.agreed, table.keys, tally)
            if self.counts or self.mode == "counts":
                # Counts that differ by more than the rows named: as many rows are missing or extra, without their names.
                unnamed = (ours - theirs) - (tally.missing_count - tally.extra_count)
                tally.missing_count += max(unnamed, 0)
                tally.extra_count += max(-unnamed, 0)
            method = "keys" if table.keys else "count"
        return tally, found, method, named(duo, pair, self.agreed, tally)


def _keys_of(pair: Pair, dirty: Mapping[str, Sequence[Sequence[str]]]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(tuple(key) for name in _names_of(pair) for key in dirty.get(name, ())))


def _names_of(pair: Pair) -> list[str]:
    """Names under which keys of a pair may be given: its own, its partitions', and that of the partitioned table on top."""
    roots = (".".join(leaf.partition_root) for leaf in pair.leaves if leaf.partition_root)
    return list(dict.fromkeys((pair.name, *(leaf.dotted for leaf in pair.leaves), *roots)))


def _verdict(table: _Table, tally: Tally, sums: Comparison, method: str, names: tuple[tuple[Difference, ...], ...]) -> VerifiedTable:
    target: Table = table.pair.target
    return VerifiedTable(
        name=table.pair.name,
        target=target.dotted,
        rows=sums.source_rows,
        target_rows=sums.target_rows,
        missing=names[0],
        extra=names[1],
        changed=names[2],
        missing_count=tally.missing_count,
        extra_count=tally.extra_count,
        changed_count=tally.changed_count,
        checksum=sums.source_checksum,
        target_checksum=sums.target_checksum,
        method=method,
        seconds=table.seconds,
    )
