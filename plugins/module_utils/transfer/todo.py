# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a copy still has to do: the ledger and the target as they are, judged table by table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import ledger
from .catalog import quote_literal
from .endpoint import Endpoint
from .errors import TransferError
from .ledger import Entry
from .pairing import Pair
from .selection import Name

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class Todo:
    """fresh: never begun; redo: begun under a snapshot that is gone, emptied first; adopt: begun under this very snapshot."""

    fresh: tuple[Pair, ...]
    redo: tuple[Pair, ...]
    adopt: tuple[Pair, ...]

    @property
    def anew(self) -> tuple[Pair, ...]:
        """Tables that are planned anew."""
        return self.fresh + self.redo

    @property
    def all(self) -> tuple[Pair, ...]:
        """Tables of which rows move."""
        return self.fresh + self.redo + self.adopt


def identity(conn: psycopg.Connection[Any], source: Endpoint) -> str:
    """The source's name in the ledger: the same through every address that leads to it, where the server tells."""
    row = conn.execute("SELECT has_function_privilege('pg_control_system()', 'execute')").fetchone()
    if row and row[0]:
        system = conn.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
        if system:
            return f"{system[0]}/{conn.info.dbname}"
    return source.describe()


def inspect(control: psycopg.Connection[Any], pairs: tuple[Pair, ...], mine: str) -> tuple[dict[str, list[Entry]], set[Name]]:
    """({pair: its ledger entries}, target tables that hold rows), both as of one moment: a dying worker may still commit a chunk."""
    filled: set[Name] = set()
    with control.transaction():
        control.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        entries: tuple[Entry, ...] = ()
        if ledger.exists(control):
            strangers = ledger.sources(control) - {mine}
            if strangers:
                raise TransferError(
                    f"the ledger on the target belongs to a copy from {', '.join(sorted(strangers))}, not from {mine}",
                    "Finalize that move first, or run DROP SCHEMA cutover CASCADE on the target if it is over.",
                    kind="other_source",
                )
            entries = ledger.load(control)
        for pair in pairs:
            row = control.execute(f"SELECT EXISTS (SELECT FROM {pair.target.sql})").fetchone()
            if row and row[0]:
                filled.add(pair.target.full_name)
    return by_pair(pairs, entries), filled


def by_pair(pairs: Iterable[Pair], entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """{pair: its entries}. An entry about another target table, or one that was dropped and made again, explains nothing."""
    owner = {leaf.full_name: pair for pair in pairs for leaf in pair.leaves}
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        pair = owner.get((entry.chunk.schema, entry.chunk.table))
        if pair is not None and entry.target == pair.target.full_name and entry.target_oid == pair.target.oid:
            found.setdefault(pair.name, []).append(entry)
    return found


def decide(pairs: tuple[Pair, ...], known: Mapping[str, list[Entry]], content: str) -> Todo:
    """What is to be done with each table. Pure. content: what the snapshot shows that is copied now."""
    fresh, redo, adopt = [], [], []
    for pair in pairs:
        entries = known.get(pair.name, [])
        done = [entry for entry in entries if entry.done]
        covered = {(entry.chunk.schema, entry.chunk.table) for entry in entries} == {leaf.full_name for leaf in pair.leaves}
        if not pair.leaves:
            continue
        if not done:
            fresh.append(pair)
        elif covered and len(done) == len(entries):
            continue
        elif covered and all(entry.snapshot_content == content for entry in entries):
            adopt.append(pair)
        else:
            redo.append(pair)
    return Todo(tuple(fresh), tuple(redo), tuple(adopt))


def emptied(pairs: tuple[Pair, ...], known: Mapping[str, list[Entry]], filled: set[Name]) -> tuple[str, ...]:
    """Copied tables that are empty now. They stay so: after a cutover the target's own writes may have emptied them."""
    found = []
    for pair in pairs:
        rows = sum(entry.rows for entry in known.get(pair.name, ()) if entry.done)
        if rows and pair.target.full_name not in filled:
            owner = f"source_schema = {quote_literal(pair.source.schema)} AND source_table = {quote_literal(pair.source.name)}"
            found.append(
                f"{pair.target.dotted} was copied with {rows} rows and is empty now; to copy it again: DELETE FROM cutover.chunk WHERE {owner}"
            )
    return tuple(found)


def refuse_unexplained(control: psycopg.Connection[Any], todo: Todo, filled: set[Name]) -> None:
    """Raise TransferError for target tables that hold rows which no copy has brought."""
    offenders = [pair for pair in todo.fresh if pair.target.full_name in filled]
    if not offenders:
        return
    named = []
    for pair in offenders:
        row = control.execute(
            "SELECT CASE WHEN reltuples < 0 THEN pg_relation_size(oid) / 100 ELSE reltuples END::bigint FROM pg_class WHERE oid = %s",
            (pair.target.oid,),
        ).fetchone()
        named.append(f"{pair.target.dotted} (about {max(int(row[0]) if row else 0, 1)} rows)")
    raise TransferError(
        f"the target already holds rows that no copy has brought: {', '.join(named)}",
        f"If they may go, run on the target: TRUNCATE {', '.join(pair.target.sql for pair in offenders)}; else exclude these tables.",
        kind="target_not_empty",
        tables=[pair.target.dotted for pair in offenders],
    )
