# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What both sides had when a stream began, and from which position on each table follows it.

Without it nobody could tell a column that was dropped on the sender from one that only the receiver ever had.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import ledger, skew
from ..catalog import Column, Table, read_tables
from ..errors import TransferError
from ..ledger import Entry
from ..selection import Name, Selection
from .pgoutput import lsn_number
from .shapes import Route

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]


@dataclass(frozen=True)
class Roster:
    """routes: of every selected table and partition of the sender; leaves: those that hold rows; problems: what does not fit, one sentence each."""

    routes: tuple[Route, ...]
    leaves: tuple[Name, ...]
    problems: tuple[str, ...]


def draw_up(sender: Conn, receiver: Conn, sent: Selection, *, forward: bool) -> Roster:
    """Where each table of the sender goes. sent: as seen from the sender.

    On the way back the receiver never had some tables and columns: those are left out.
    """
    theirs = {table.full_name: table for table in read_tables(receiver, sent.inverted())}
    tables = read_tables(sender, sent)
    routes, problems = [], []
    for table in tables:
        # A partition that the receiver does not have goes through the table on top.
        target = theirs.get(sent.target_name(*table.full_name))
        if target is None and table.partition_root is not None:
            target = theirs.get(sent.target_name(*table.partition_root))
        if target is not None:
            route, wrong = _route(sender, table, target, sent, forward)
            routes.append(route)
            problems += wrong
            continue
        if forward:
            problems.append(f"table {'.'.join(sent.target_name(*table.full_name))} for {table.dotted} does not exist")
        routes.append(Route(table.full_name, None, root=table.partition_root))
    return Roster(tuple(routes), tuple(table.full_name for table in tables if table.kind == "r"), tuple(problems))


def refuse(roster: Roster) -> None:
    """Raise TransferError of kind definition_changed when something does not fit."""
    if roster.problems:
        raise TransferError(
            f"{len(roster.problems)} objects of the sender do not fit the receiver: {'; '.join(roster.problems[:5])}",
            "Transfer the schema first, or exclude or rename what does not fit.",
            kind="definition_changed",
            problems=list(roster.problems),
        )


def _route(sender: Conn, table: Table, target: Table, sent: Selection, forward: bool) -> tuple[Route, list[str]]:
    there = {column.name: column for column in target.columns}
    columns: dict[str, str] = {}
    left_out: dict[str, str | None] = {}
    problems = []
    for column in table.columns:
        name = _target_column(table, column.name, sent)
        other = there.get(name)
        if other is None:
            empty = not forward or not skew.holds_data(sender, table, column)
            if not empty:
                problems.append(f"column {target.dotted}.{name} for {table.dotted}.{column.name} does not exist and would hold data")
            elif not column.generated:
                left_out[column.name] = _default_text(sender, table, column)
        elif column.generated and not other.generated:
            problems.append(f"column {table.dotted}.{column.name} is generated, so that it is not sent, and {target.dotted}.{name} is not")
        elif not column.generated:
            columns[column.name] = name
    back = {name: old for old, name in columns.items()}
    key = table.key if forward else target.key
    if not forward and not set(key) <= back.keys():
        key = ()
    return Route(table.full_name, target.full_name, columns, left_out, key, table.partition_root), problems


def _target_column(table: Table, column: str, sent: Selection) -> str:
    """Its name on the other side. A rename is given for the table on top and reaches every table below it."""
    above = [table.partition_root] if table.partition_root else list(table.inherits)
    names = (sent.target_column(*name, column) for name in (table.full_name, *above))
    return next((name for name in names if name != column), column)


def _default_text(conn: Conn, table: Table, column: Column) -> str | None:
    """What a constant default prints, None without one."""
    default = skew.constant_default(conn, table, column)
    if default is None:
        return None
    row = conn.execute(
        f"SELECT pg_catalog.format('%s', v) FROM (SELECT ({default})::{column.type_sql} AS v) s WHERE v IS NOT NULL"
    ).fetchone()
    return str(row[0]) if row else None


def missing(conn: Conn, wanted: Collection[Name] = (), *, only: Collection[Name] | None = None, whole: bool = False) -> tuple[str, ...]:
    """What the copy to this database still lacks, for people; () when it is complete.

    wanted: tables of the source that must be in it; only: the others do not matter; whole: also its indexes and its end are waited for
    """
    known = ledger.load(conn) if ledger.exists(conn) else ()
    if not known:
        return ("the copy has not begun",)
    entries = [entry for entry in known if only is None or _name(entry) in only]
    found = []
    open_tables = sorted({".".join(_name(entry)) for entry in entries if not entry.done})
    if open_tables:
        found.append(f"rows of {_some(open_tables)}")
    elif whole and ledger.unfinished(conn) is not None:
        found.append("indexes and the end of the copy")
    never = sorted(".".join(name) for name in set(wanted) - {_name(entry) for entry in entries})
    if never:
        found.append(f"tables that no copy has brought: {_some(never)}")
    return tuple(found)


def positions(conn: Conn, slot: str, only: Collection[Name]) -> dict[Name, int]:
    """{(schema, table) of the source: position of its copy} of these tables. Raises TransferError of kind not_under_slot."""
    return positions_of((entry for entry in ledger.load(conn) if _name(entry) in only), slot) if ledger.exists(conn) else {}


def positions_of(entries: Iterable[Entry], slot: str) -> dict[Name, int]:
    """The same, of the ledger's entries. Pure."""
    found: dict[Name, int] = {}
    for entry in entries:
        name = _name(entry)
        if entry.slot != slot or entry.snapshot_lsn is None:
            raise TransferError(
                f"{'.'.join(name)} was copied {f'under slot {entry.slot}' if entry.slot else 'without a slot'}, not under slot {slot}:"
                " from where on changes are missing in it is not known exactly",
                f"Empty it on the target, run DELETE FROM cutover.chunk WHERE source_schema = '{name[0]}' AND source_table = '{name[1]}' there,"
                f" and copy it again with slot: {slot}.",
                kind="not_under_slot",
                table=".".join(name),
            )
        position = lsn_number(entry.snapshot_lsn)
        found[name] = max(found.get(name, position), position)
    return found


def _name(entry: Entry) -> Name:
    return entry.chunk.schema, entry.chunk.table


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
