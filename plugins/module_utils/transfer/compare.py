# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finding where two relations differ: sums over blocks, in parts that workers share, divided where they differ. Used to prove and to repair."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from . import session
from .blocks import Lens, integer_key, lenses
from .canonical import Agreement
from .catalog import Table, quote_literal
from .endpoint import Endpoint
from .pairing import Pair
from .spans import HIGHEST, LOWEST, PART_ROWS, Range, Sums, bounds, bucket_shift, checksum, cuts, differing, modulus
from .workers import import_snapshot

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

# A part of a table is worth a statement of its own from this size on.
PART_BYTES = 32_000_000
PARTS_PER_WORKER = 4
# Bytes of a row from which on grouping rows into buckets costs next to nothing beside hashing them.
WIDE_ROW = 1500
# Rows of a block that are read at once instead of dividing it.
FINE_ROWS = 4 * PART_ROWS
# More parts of a block than this: the block is read as one.
MANY_PARTS = 16
# Rows with the same first key column, on average, above which it is no position.
CROWD = 200
# Below this, rows lie so scattered that reading them by key would cost more than reading everything.
ORDERLY = 0.3
BLOCKS_PER_QUERY = 200


@dataclass(frozen=True)
class Comparison:
    """Sums of two relations: rows and checksums of each side, and the ranges that differ, ascending and disjoint."""

    source_rows: int
    target_rows: int
    source_checksum: str
    target_checksum: str
    ranges: tuple[Range, ...]


class Duo:
    """A connection to each side with a snapshot each; questions go to both servers at once."""

    def __init__(self, source: psycopg.Connection[Any], target: psycopg.Connection[Any]) -> None:
        self.source, self.target = source, target
        self.helper = ThreadPoolExecutor(max_workers=1)
        self._by_index = [False, False]

    def __enter__(self) -> Duo:
        return self

    def __exit__(self, *_details: object) -> None:
        # A question that still runs on the other side would make the exit wait for its answer.
        self.cancel()
        self.helper.shutdown(wait=True)
        self.source.close()
        self.target.close()

    def cancel(self) -> None:
        """End the questions that run."""
        for conn in (self.source, self.target):
            if not conn.closed and conn.info.transaction_status == session.pq.TransactionStatus.ACTIVE:
                with contextlib.suppress(session.psycopg.Error):
                    conn.cancel()

    def steer(self, by_index: tuple[bool, bool]) -> None:
        """Have the following statements of a side read through indexes only, or as its planner likes."""
        for side, conn in enumerate((self.source, self.target)):
            if self._by_index[side] != by_index[side]:
                word = "off" if by_index[side] else "on"
                conn.execute(f"SELECT set_config('enable_seqscan', '{word}', false), set_config('enable_bitmapscan', '{word}', false)")
                self._by_index[side] = by_index[side]

    def both(self, source_sql: str, target_sql: str, by_index: tuple[bool, bool] = (False, False)) -> tuple[list[Any], list[Any]]:
        """Rows of both."""
        self.steer(by_index)
        other = self.helper.submit(lambda: self.target.execute(target_sql).fetchall())
        try:
            ours = self.source.execute(source_sql).fetchall()
        except BaseException:
            self.cancel()
            raise
        return ours, other.result()


def open_duo(source: Endpoint, target: Endpoint, snapshots: tuple[str | None, str | None], purpose: str) -> Duo:
    """A Duo whose sides show these snapshots, or the present where None."""
    connections: list[psycopg.Connection[Any]] = []
    try:
        for endpoint, snapshot in ((source, snapshots[0]), (target, snapshots[1])):
            conn = session.connect(endpoint, application_name=f"cutover {purpose}", read_only=True)
            connections.append(conn)
            # Blocks are summed in one pass over the table; a sort of all rows would be the planner's other idea. Workers are ours, not the server's.
            conn.execute(
                "SELECT set_config('enable_sort', 'off', false), set_config('work_mem', '64MB', false),"
                " set_config('max_parallel_workers_per_gather', '0', false)"
            )
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if snapshot is not None:
                import_snapshot(conn, snapshot)
    except BaseException:
        for conn in connections:
            conn.close()
        raise
    return Duo(connections[0], connections[1])


class Crew:
    """One Duo per thread, all closed with the stack."""

    def __init__(self, source: Endpoint, target: Endpoint, snapshots: tuple[str, str], stack: ExitStack, purpose: str) -> None:
        self.source, self.target, self.snapshots, self.stack, self.purpose = source, target, snapshots, stack, purpose
        self.local = threading.local()
        self.lock = threading.Lock()
        self.all: list[Duo] = []

    def duo(self) -> Duo:
        """The calling thread's; a new one when its connections are lost."""
        found: Duo | None = getattr(self.local, "duo", None)
        if found is None or found.source.closed or found.target.closed:
            made = open_duo(self.source, self.target, self.snapshots, self.purpose)
            with self.lock:
                found = self.local.duo = self.stack.enter_context(made)
                self.all.append(made)
        return found

    def retrying(self, action: Callable[[Duo], T]) -> T:
        """Result of an action on the thread's Duo; again on new connections, under the same snapshots, when one of them was lost."""
        return session.retrying(lambda: action(self.duo()), budget_seconds=60.0, on_retry=lambda _error: self._abandon())

    def _abandon(self) -> None:
        for conn in (self.local.duo.source, self.local.duo.target) if hasattr(self.local, "duo") else ():
            conn.close()

    def cancel(self) -> None:
        """End everything that runs."""
        with self.lock:
            for one in self.all:
                one.cancel()


@dataclass(frozen=True)
class Plan:
    """How a pair is cut.

    starts: of all blocks of an integer key but the first; parts: statements per side
    shift: width of buckets of hashes, 0 for one block of everything; later: the same for a second pass over a relation that differs, 0 for none
    by_index: sides on which blocks are read through the index of the key, rather than everything in one pass
    """

    eyes: tuple[Lens, Lens]
    starts: tuple[int, ...]
    shift: int
    parts: int
    by_index: tuple[bool, bool]
    later: int = 0

    def range_of(self, block: int, source_rows: int = 0, target_rows: int = 0) -> Range:
        """Positions of a block."""
        if self.eyes[0].key:
            return Range(*bounds(block, self.starts), source_rows, target_rows)
        if not self.shift:
            return Range(LOWEST, HIGHEST, source_rows, target_rows)
        low = block << self.shift
        return Range(low, low + (1 << self.shift) - 1, source_rows, target_rows)

    def statement(self, side: int, table: Table, part: int) -> str | None:
        """Sums of one part of one side; None when this part of it is empty."""
        eye = self.eyes[side]
        if self.by_index[side]:
            blocks = len(self.starts) + 1
            first, last = blocks * part // self.parts, blocks * (part + 1) // self.parts - 1
            return eye.range_sums(self.starts, first, last) if first <= last else None
        where = _pages(table, part, self.parts)
        if where is None:
            return None
        if self.starts:
            return eye.block_sums(self.starts, where)
        return eye.bucket_sums(self.shift, where) if self.shift else eye.whole_sums(where)


def _pages(table: Table, part: int, parts: int) -> str | None:
    """Condition for one of so many parts of a table's pages. A partitioned table, whose partitions have pages of their own, is one part."""
    if parts == 1 or table.kind == "p":
        return "" if part == 0 else None
    first, last = table.pages * part // parts, table.pages * (part + 1) // parts
    ends = [f"ctid >= '({first},0)'::tid"] if part else []
    ends += [f"ctid < '({last},0)'::tid"] if part < parts - 1 else []
    return f"WHERE {' AND '.join(ends)}"


@dataclass
class Work:
    """A comparison in progress: what is left to ask and the sums so far."""

    pair: Pair
    plan: Plan
    sums: tuple[Sums, Sums] = field(default_factory=lambda: ({}, {}))
    left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.left = self.plan.parts

    def ask(self, duo: Duo, part: int) -> bool:
        """Sum one part on both sides; whether it was the last."""
        tables = (self.pair.source, self.pair.target)
        statements = [self.plan.statement(side, table, part) or "SELECT 0, 0, '0', '0' WHERE false" for side, table in enumerate(tables)]
        answers = duo.both(statements[0], statements[1], self.plan.by_index)
        with self.lock:
            for sums, rows in zip(self.sums, answers, strict=True):
                for block, count, first, second in rows:
                    if count:
                        old = sums.get(block, (0, 0, 0))
                        sums[block] = (old[0] + count, old[1] + int(first), old[2] + int(second))
            self.left -= 1
            return self.left == 0

    def result(self, duo: Duo) -> Comparison:
        """What all parts say, the blocks that differ divided."""
        ours, theirs = self.sums
        blocks = differing(ours, theirs)
        if blocks and self.plan.later:
            again = replace(self.plan, shift=self.plan.later, later=0, parts=1)
            second = Work(self.pair, again)
            second.ask(duo, 0)
            return second.result(duo)
        return Comparison(
            source_rows=sum(part[0] for part in ours.values()),
            target_rows=sum(part[0] for part in theirs.values()),
            source_checksum=checksum(ours),
            target_checksum=checksum(theirs),
            ranges=tuple(_divided(duo, self.plan, {block: (ours.get(block, (0,))[0], theirs.get(block, (0,))[0]) for block in blocks})),
        )


def _divided(duo: Duo, plan: Plan, blocks: dict[int, tuple[int, int]]) -> list[Range]:
    """Ranges of the blocks that differ; those of an integer key with many rows on both sides are divided once more."""
    coarse = [block for block, counts in blocks.items() if min(counts) and max(counts) > FINE_ROWS and plan.eyes[0].key]
    found = {block: [plan.range_of(block, *counts)] for block, counts in blocks.items()}
    by_index = plan.eyes[0].indexed, plan.eyes[1].indexed
    for start in range(0, len(coarse), BLOCKS_PER_QUERY):
        some = coarse[start : start + BLOCKS_PER_QUERY]
        parts = modulus(max(max(blocks[block]) for block in some))
        queries = [eye.part_sums(plan.starts, some, parts) for eye in plan.eyes]
        answers = duo.both(queries[0], queries[1], by_index)
        ours, theirs = ({(row[0], row[1]): tuple(row[2:]) for row in rows} for rows in answers)
        inside: dict[int, list[Range]] = {}
        for block, residue in sorted(ours.keys() | theirs.keys()):
            left, right = ours.get((block, residue)), theirs.get((block, residue))
            if left != right:
                counts = left[0] if left else 0, right[0] if right else 0
                inside.setdefault(block, []).append(Range(*bounds(block, plan.starts), *counts, parts, residue))
        # Many parts: one look at the whole block is cheaper than one for each.
        found.update({block: ranges for block, ranges in inside.items() if len(ranges) <= MANY_PARTS})
    return [one for block in sorted(found) for one in found[block]]


def plan(duo: Duo, pair: Pair, agreement: Agreement, workers: int = 1) -> Plan:
    """How to cut a pair, from what both servers' statistics say."""
    rows = rows_guess(pair)
    size = sum(leaf.size_bytes for leaf in pair.leaves)
    parts = max(1, min(workers * PARTS_PER_WORKER, round(size / PART_BYTES))) if workers > 1 else 1
    facts = _facts(duo, pair) if integer_key(pair, leading=True) else None
    eyes = lenses(pair, agreement, leading=facts is not None and 0 < rows <= facts.distinct(rows) * CROWD)
    if not eyes[0].key or facts is None:
        shift = bucket_shift(rows) if rows > FINE_ROWS else 0
        # Grouping narrow rows takes as long as hashing them, for nothing as long as the sides are equal.
        wide = size >= WIDE_ROW * rows
        return Plan(eyes, (), shift if wide else 0, parts, (False, False), 0 if wide else shift)
    queries = [f"SELECT min({eye.key})::bigint, max({eye.key})::bigint FROM {eye.relation}" for eye in eyes]
    ends = duo.both(queries[0], queries[1], (eyes[0].indexed, eyes[1].indexed))
    lows, highs = ([row[0][place] for row in ends if row[0][place] is not None] for place in (0, 1))
    starts = tuple(cuts(rows, min(lows), max(highs), facts.histogram)) if lows else ()
    by_index = tuple(bool(starts) and eye.indexed and orderly for eye, orderly in zip(eyes, facts.orderly, strict=True))
    return Plan(eyes, starts, 0, parts, (by_index[0], by_index[1]))


@dataclass(frozen=True)
class _Facts:
    """Statistics of the first key column. number: of distinct values as pg_stats has it, None for unknown; orderly: rows lie in its order, per side."""

    number: float | None
    histogram: tuple[int, ...]
    orderly: tuple[bool, bool]
    alone: bool

    def distinct(self, rows: float) -> float:
        if self.alone:
            return rows
        if self.number is None:
            return 0.0
        return -self.number * rows if self.number < 0 else self.number


def _facts(duo: Duo, pair: Pair) -> _Facts:
    queries = []
    for side, table in enumerate((pair.source, pair.target)):
        name = quote_literal(pair.key[0][side].name)
        queries.append(
            "SELECT n_distinct::float8, correlation::float8, histogram_bounds::text FROM pg_stats WHERE"
            f" schemaname = {quote_literal(table.schema)} AND tablename = {quote_literal(table.name)} AND attname = {name} ORDER BY inherited DESC LIMIT 1"
        )
    ours, theirs = duo.both(queries[0], queries[1])
    orderly = tuple(not rows or rows[0][1] is None or abs(rows[0][1]) >= ORDERLY for rows in (ours, theirs))
    number, _order, histogram = ours[0] if ours else (None, None, None)
    keys = tuple(int(key) for key in histogram.strip("{}").split(",") if key) if histogram else ()
    return _Facts(number, keys, (orderly[0], orderly[1]), len(pair.key) == 1)


def rows_guess(pair: Pair) -> float:
    """About how many rows the source has. Statistics may be older than the rows, so that the number of pages has a say."""
    return sum(max(leaf.reltuples, leaf.pages * (10.0 if leaf.reltuples >= 0 else 50.0)) for leaf in pair.leaves)


def compare(duo: Duo, pair: Pair, agreement: Agreement) -> tuple[Plan, Comparison]:
    """Sums of both sides of a pair, and where they differ, by one pair of connections."""
    work = Work(pair, plan(duo, pair, agreement))
    for part in range(work.plan.parts):
        work.ask(duo, part)
    return work.plan, work.result(duo)
