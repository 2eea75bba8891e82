# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From tables to work: the chunks and builds of a run, and their way into the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import builds, cutover_state, foreign_keys, large_objects, ledger, session, skew
from .builds import Build
from .catalog import Table, quote_ident
from .chunks import Chunk, KeyStats, split
from .foreign_keys import ForeignKey
from .holding import Holder
from .pairing import Pair
from .selection import Name, Selection
from .todo import Todo

if TYPE_CHECKING:
    import psycopg

INTEGERS = ("pg_catalog.int2", "pg_catalog.int4", "pg_catalog.int8")


@dataclass(frozen=True)
class Work:
    """chunks: planned anew, with the pair of each; builds: after the rows; objects: large objects; warnings: what is left to others"""

    chunks: tuple[tuple[Chunk, Pair], ...]
    builds: tuple[Build, ...]
    objects: large_objects.Outlook
    warnings: tuple[str, ...] = ()


def plan_chunks(conn: psycopg.Connection[Any], pairs: Iterable[Pair], chunk_bytes: int) -> tuple[tuple[Chunk, Pair], ...]:
    """Chunks of these tables. Sizes are read after the snapshot exists: blocks added later hold nothing it shows."""
    found: list[tuple[Chunk, Pair]] = []
    for pair in pairs:
        for leaf in pair.leaves:
            stats = _key_stats(conn, leaf) if leaf.size_bytes > chunk_bytes else None
            found += [(piece, pair) for piece in split(leaf, chunk_bytes, stats)]
    return tuple(found)


def _key_stats(conn: psycopg.Connection[Any], table: Table) -> KeyStats | None:
    if len(table.key) != 1 or table.column(table.key[0]).base not in INTEGERS:
        return None
    row = conn.execute(
        """SELECT histogram_bounds::text::bigint[], correlation FROM pg_stats
           WHERE schemaname = %s AND tablename = %s AND attname = %s AND NOT inherited""",
        (table.schema, table.name, table.key[0]),
    ).fetchone()
    if row is None or row[0] is None or row[1] is None:
        return None
    column = quote_ident(table.key[0])
    ends = conn.execute(f"SELECT min({column}), max({column}) FROM ONLY {table.sql}").fetchone()
    if ends is None or ends[0] is None:
        return None
    return KeyStats(table.key[0], tuple(row[0]), row[1], ends[0], ends[1])


def plan_builds(
    source: psycopg.Connection[Any], target: psycopg.Connection[Any], pairs: Iterable[Pair], moving: Iterable[Pair], selection: Selection
) -> tuple[tuple[Build, ...], tuple[str, ...]]:
    """(builds that the target lacks, warnings). moving: pairs of which rows are copied, which want new statistics.

    What the rename map touches, and tables whose rows go through another table's partitions, are left to the schema's transfer.
    Nothing is built on a database that has been in service: its indexes are its own.
    """
    if cutover_state.current(target).state != cutover_state.NONE:
        return (), ()
    single = {pair.source.full_name: pair for pair in pairs if pair.leaves == (pair.source,) and pair.target.kind == "r"}
    owned = _owned(target, [pair.target.oid for pair in single.values()])
    wanted = [
        fact
        for fact in builds.read_indexes(source, [pair.source.oid for pair in single.values()])
        if single[fact.owner].target.full_name == fact.owner and not builds.renamed(fact, selection.rename)
    ]
    # What uses something that the target lacks is the schema's transfer to leave behind and tell.
    unbuildable = skew.unbuildable(source, target, single.values())
    wanted = [fact for fact in wanted if (*fact.owner, fact.name) not in unbuildable]
    there = builds.read_indexes(target, [pair.target.oid for pair in single.values()])
    sizes = {name: pair.source.size_bytes for name, pair in single.items()}
    missing = builds.missing(wanted, there, sizes)
    barred = sorted(
        {".".join((build.schema, build.table)) for build in missing if single[build.schema, build.table].target.oid not in owned}
    )
    missing = tuple(build for build in missing if single[build.schema, build.table].target.oid in owned)
    changed = {(build.schema, build.table) for build in missing} | {pair.source.full_name for pair in moving}
    if ledger.exists(target):
        changed |= ledger.unanalyzed(target)
    statistics = tuple(
        Build(*name, builds.ANALYZE, "", "", f"ANALYZE {pair.target.sql}", builds.analyze_weight(pair.source.size_bytes))
        for name, pair in sorted(single.items())
        if name in changed and pair.target.oid in owned
    )
    keys = foreign_keys.missing(_wanted_keys(source, single, owned, selection), foreign_keys.read(target), sizes)
    warnings = (f"indexes of {', '.join(barred)} are left out: role {target.info.user} does not own these tables",) if barred else ()
    return missing + statistics + keys, warnings


def _wanted_keys(
    source: psycopg.Connection[Any], single: Mapping[Name, Pair], owned: Collection[int], selection: Selection
) -> list[ForeignKey]:
    """Foreign keys between two of these tables, both under their own names, ours on the target, and with all columns that the keys name."""

    def fits(table: Name, columns: Iterable[str]) -> bool:
        pair = single.get(table)
        if pair is None or pair.target.full_name != table or pair.target.oid not in owned or builds.renames(table, selection.rename):
            return False
        return set(columns) <= {ours.name for ours, _theirs in pair.columns}

    return [key for key in foreign_keys.read(source) if fits(key.owner, key.columns) and fits(key.refers, key.keys)]


def _owned(conn: psycopg.Connection[Any], oids: list[int]) -> set[int]:
    query = "SELECT oid::bigint FROM pg_class WHERE oid = ANY(%s::oid[]) AND pg_has_role(relowner, 'USAGE')"
    return {oid for (oid,) in conn.execute(query, (oids,)).fetchall()}


def register(control: psycopg.Connection[Any], holder: Holder, mine: str, todo: Todo, work: Work, workers: int) -> int:
    """Write the plan, and empty what is redone, in one transaction; the run's number. mine: the source's name in the ledger."""
    ledger.create(control)
    pair_of: dict[tuple[str, str, int], Pair] = {(chunk.schema, chunk.table, chunk.number): pair for chunk, pair in work.chunks}
    with control.transaction():
        run = ledger.open_run(control, mine, holder.name, holder.content, holder.lsn, holder.slot)
        ledger.adopt(control, run, (leaf.full_name for pair in todo.adopt for leaf in pair.leaves))
        adopted = {entry.chunk for entry in ledger.load(control) if entry.run == run and not entry.done}
        ledger.forget(control, (leaf.full_name for pair in todo.redo for leaf in pair.leaves))
        for pair in todo.redo:
            _empty(control, pair.target)
        chunks, steps = builds.in_order((*(chunk for chunk, _pair in work.chunks), *adopted), work.builds, workers)
        fresh = [(place, chunk) for place, chunk in chunks if chunk not in adopted]
        targets: list[tuple[int, Chunk, Name, int]] = []
        for place, chunk in fresh:
            target = pair_of[chunk.schema, chunk.table, chunk.number].target
            targets.append((place, chunk, target.full_name, target.oid))
        ledger.plan(control, run, targets)
        ledger.move(control, [(place, chunk) for place, chunk in chunks if chunk in adopted])
        ledger.plan_builds(control, run, steps)
        large_objects.register(control, run, work.objects)
    return run


def _empty(control: psycopg.Connection[Any], target: Table) -> None:
    """Remove what an earlier, lost snapshot left. TRUNCATE where it is allowed, DELETE where foreign keys or privileges forbid it."""
    whole = target.sql if target.kind == "p" else f"ONLY {target.sql}"
    try:
        with control.transaction():
            control.execute(f"TRUNCATE {whole}")
    except (session.psycopg.errors.FeatureNotSupported, session.psycopg.errors.InsufficientPrivilege):
        control.execute(f"DELETE FROM {whole}")
