# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a copy is: counted by the one who watches the workers, told in lines for people. Pure but for the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .builds import Build
from .chunks import Chunk
from .selection import Name

Identity = tuple[str, str, int]
Step = tuple[Name, int, str]
"""(table, rank, name) of a build"""


@dataclass(frozen=True)
class TableProgress:
    """A table of which at least one chunk is on its way.

    rows, bytes: of this run, with what is on its way; share: done, 0 to 1, an estimate; in_flight: chunks on their way
    """

    name: str
    rows: int
    bytes: int
    share: float
    chunks_done: int
    chunks_total: int
    in_flight: int
    seconds: float


@dataclass(frozen=True)
class BuildProgress:
    """An index, constraint or statistics being made. name: what it is."""

    table: str
    name: str
    seconds: float


@dataclass(frozen=True)
class Progress:
    """Where a copy stands; figures are those of this run, so a resumed copy begins at zero with what is left.

    bytes_total: sizes on disk, which are not the bytes sent; share: done, 0 to 1, an estimate from them and the cost of what is built
    eta_seconds: None while unknown; bytes_per_second: since the beginning of the run, while rows moved
    tables: those in flight; builds: those under way
    """

    rows: int
    bytes: int
    bytes_total: int
    share: float
    chunks_done: int
    chunks_total: int
    tables_done: int
    tables_total: int
    seconds: float
    bytes_per_second: float
    eta_seconds: float | None
    tables: tuple[TableProgress, ...]
    builds_done: int = 0
    builds_total: int = 0
    builds: tuple[BuildProgress, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is left."""
        return self.chunks_done == self.chunks_total and self.builds_done == self.builds_total


@dataclass
class _Flight:
    """A chunk on its way, as its worker last told."""

    chunk: Chunk
    since: float
    bytes: int
    rows: int


@dataclass
class _Count:
    """Figures of one table. weight: sizes of its chunks on disk; finished: the part of it that is done."""

    chunks: int = 0
    weight: int = 0
    done: int = 0
    finished: int = 0
    rows: int = 0
    bytes: int = 0
    since: float | None = None


def _weight(chunk: Chunk) -> int:
    return max(chunk.bytes, 1)


class Tally:
    """Running figures of the watcher. Workers are told apart by any number; clock: seconds from any beginning."""

    def __init__(self, chunks: Iterable[Chunk], builds: Iterable[Build] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.started = clock()
        self.rows_over: float | None = None
        self.builds: dict[Step, Build] = {((build.schema, build.table), build.rank, build.name): build for build in builds}
        self.built_weight = 0
        self.steps_over: set[Step] = set()
        self.under_way: dict[int, tuple[Step, float]] = {}
        self.over: set[Identity] = set()
        self.chunks: dict[Identity, Chunk] = {}
        self.tables: dict[Name, _Count] = {}
        self.active: dict[int, _Flight] = {}
        for chunk in chunks:
            self.chunks[chunk.schema, chunk.table, chunk.number] = chunk
            count = self.tables.setdefault((chunk.schema, chunk.table), _Count())
            count.chunks += 1
            count.weight += _weight(chunk)

    def moving(self, worker: int, identity: Identity, sent: int, rows: int) -> None:
        """A worker has sent so much of a chunk."""
        chunk, flight = self.chunks[identity], self.active.get(worker)
        if flight is None or flight.chunk is not chunk:
            flight = self.active[worker] = _Flight(chunk, self.clock(), 0, 0)
        flight.bytes, flight.rows = sent, rows
        count = self.tables[identity[:2]]
        count.since = flight.since if count.since is None else count.since

    def finished(self, worker: int, identity: Identity, rows: int, sent: int) -> None:
        """A worker has finished a chunk."""
        self.idle(worker)
        if identity in self.over:
            return
        self.over.add(identity)
        if len(self.over) == len(self.chunks):
            self.rows_over = self.clock()
        count = self.tables[identity[:2]]
        count.done += 1
        count.finished += _weight(self.chunks[identity])
        count.rows += rows
        count.bytes += sent

    def idle(self, worker: int) -> None:
        """A worker has dropped what it had, or is gone."""
        self.active.pop(worker, None)
        self.under_way.pop(worker, None)

    def building(self, worker: int, table: Name, rank: int, name: str) -> None:
        """A worker builds something."""
        step = (table, rank, name)
        if worker not in self.under_way or self.under_way[worker][0] != step:
            self.under_way[worker] = (step, self.clock())

    def built(self, worker: int, table: Name, rank: int, name: str) -> None:
        """A worker has finished a build, or given it up."""
        self.idle(worker)
        step = (table, rank, name)
        if step in self.builds and step not in self.steps_over:
            self.steps_over.add(step)
            self.built_weight += self.builds[step].weight

    def others(self, chunks: Iterable[tuple[str, str, int, int, int]], steps: Iterable[tuple[str, str, int, str]]) -> None:
        """Take in what the ledger has as finished: (schema, table, number, rows, bytes), (schema, table, rank, name)."""
        for schema, table, number, rows, size in chunks:
            if (schema, table, number) in self.chunks:
                self.finished(0, (schema, table, number), rows, size)
        for schema, table, rank, name in steps:
            self.built(0, (schema, table), rank, name)

    def progress(self) -> Progress:
        """Where the copy stands now."""
        now = self.clock()
        seconds = now - self.started
        flying: dict[Name, list[_Flight]] = {}
        for flight in self.active.values():
            flying.setdefault((flight.chunk.schema, flight.chunk.table), []).append(flight)
        moved = sum(count.finished + self._part(count, flying.get(name, ())) for name, count in self.tables.items())
        on_disk = sum(count.weight for count in self.tables.values())
        reached = moved + self.built_weight
        weight = on_disk + sum(build.weight for build in self.builds.values())
        moving = (self.rows_over if self.rows_over is not None else now) - self.started
        sent = sum(count.bytes for count in self.tables.values()) + sum(flight.bytes for flight in self.active.values())
        return Progress(
            rows=sum(count.rows for count in self.tables.values()) + sum(flight.rows for flight in self.active.values()),
            bytes=sent,
            bytes_total=on_disk,
            share=reached / weight if weight else 1.0,
            chunks_done=sum(count.done for count in self.tables.values()),
            chunks_total=len(self.chunks),
            tables_done=sum(count.done == count.chunks for count in self.tables.values()),
            tables_total=len(self.tables),
            seconds=seconds,
            bytes_per_second=sent / moving if moving > 0 else 0.0,
            eta_seconds=seconds * (weight - reached) / reached if reached > 0 else None,
            tables=tuple(self._table(name, flights, now) for name, flights in sorted(flying.items())),
            builds_done=len(self.steps_over),
            builds_total=len(self.builds),
            builds=tuple(
                BuildProgress(".".join(step[0]), self.builds[step].told, now - since)
                for step, since in sorted(self.under_way.values())
                if step in self.builds
            ),
        )

    def _table(self, name: Name, flights: Sequence[_Flight], now: float) -> TableProgress:
        count = self.tables[name]
        return TableProgress(
            name=".".join(name),
            rows=count.rows + sum(flight.rows for flight in flights),
            bytes=count.bytes + sum(flight.bytes for flight in flights),
            share=(count.finished + self._part(count, flights)) / count.weight,
            chunks_done=count.done,
            chunks_total=count.chunks,
            in_flight=len(flights),
            seconds=now - (count.since if count.since is not None else now),
        )

    @staticmethod
    def _part(count: _Count, flights: Iterable[_Flight]) -> float:
        """Weight of what is on its way. A row has another size on disk than in COPY; the table's finished chunks tell how much another."""
        scale = count.bytes / count.finished if count.finished and count.bytes else 1.0
        return sum(min(flight.bytes / scale, _weight(flight.chunk)) for flight in flights)


def as_text(progress: Progress) -> str:
    """One line of JSON."""
    return json.dumps(asdict(progress)) + "\n"


def parse(text: str) -> Progress | None:
    """What ``as_text`` wrote; None for anything else, such as half a file or one of another release."""
    try:
        found: dict[str, Any] = json.loads(text)
        tables = tuple(TableProgress(**one) for one in found.pop("tables"))
        steps = tuple(BuildProgress(**one) for one in found.pop("builds"))
        progress = Progress(**found, tables=tables, builds=steps)
        lines([progress])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return progress


def rate(history: Sequence[Progress]) -> float:
    """Bytes per second over the snapshots given, oldest first; since the beginning where they tell nothing."""
    first, last = history[0], history[-1]
    if last.seconds > first.seconds and last.bytes >= first.bytes:
        return (last.bytes - first.bytes) / (last.seconds - first.seconds)
    return last.bytes_per_second


def lines(history: Sequence[Progress]) -> list[str]:
    """A line for the whole and one for each table in flight, from the last snapshots, oldest first. Nothing without a snapshot."""
    if not history:
        return []
    now = history[-1]
    counted = f"{now.chunks_done} of {now.chunks_total} chunks, {now.tables_done} of {now.tables_total} tables done"
    if now.builds_total:
        counted += f", {now.builds_done} of {now.builds_total} builds"
    done = now.complete
    amounts = f"{now.rows:,} rows, {size(now.bytes)}, {percent(now.share, done)}"
    if done:
        return [f"{amounts}, {size(now.bytes_per_second)}/s, in {duration(now.seconds)}; {counted}"]
    left = f"{duration(now.eta_seconds)} left" if now.eta_seconds is not None else "time left unknown"
    return [
        f"{amounts}, {size(rate(history))}/s, {left}; {counted}",
        *(_line(table) for table in now.tables),
        *(_build_line(build) for build in now.builds),
    ]


def _line(table: TableProgress) -> str:
    speed = f"{size(table.bytes / table.seconds)}/s, " if table.seconds > 0 else ""
    chunks = f"{table.chunks_done} of {table.chunks_total} chunks done, {table.in_flight} in flight"
    return f"  {table.name}: {table.rows:,} rows, {size(table.bytes)}, {percent(table.share, False)}, {speed}{chunks}"


def _build_line(build: BuildProgress) -> str:
    return f"  {build.table}: makes {build.name}, for {duration(build.seconds)}"


def percent(share: float, done: bool) -> str:
    """26 %, for 0.26. Shares are estimates: 100 % is said when all is done, and only then."""
    return "100 %" if done else f"{max(0, min(int(share * 100), 99))} %"


def size(count: float) -> str:
    """312.4 MB, in powers of 1000."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} TB"


def duration(seconds: float) -> str:
    """7 s, 1 min 12 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"
