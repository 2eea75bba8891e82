# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sequences follow their rows: the other side never hands out a value that was handed out here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import catalog
from .catalog import qualified, quote_literal
from .errors import TransferError
from .selection import Name, Selection

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class Position:
    """Where a sequence stands. called: last_value was handed out; else it is the next one."""

    name: Name
    last_value: int
    called: bool
    increment: int
    cycle: bool


@dataclass(frozen=True)
class Moved:
    """changed: sequences that were set; ahead: those that the other side had advanced further and that stayed; count: all of them."""

    changed: tuple[str, ...]
    ahead: tuple[str, ...]
    count: int


def read(conn: psycopg.Connection[Any], selection: Selection) -> tuple[Position, ...]:
    """Positions of the selected sequences, owned by a column or not."""
    return tuple(
        Position((found.schema, found.name), found.last_value, found.is_called, found.increment, found.cycle)
        for found in catalog.read_sequences(conn, selection)
    )


def further(one: Position, other: Position) -> bool:
    """Whether ``one`` has handed out more than ``other``. Pure. A cycling sequence has no order: it is further when it differs."""
    mine, theirs = (one.last_value, one.called), (other.last_value, other.called)
    if one.cycle:
        return mine != theirs
    return mine > theirs if one.increment > 0 else (-one.last_value, one.called) > (-other.last_value, other.called)


def plan(here: Iterable[Position], there: Iterable[Position], selection: Selection) -> tuple[list[tuple[Name, Position]], list[str]]:
    """Which sequences of the other side have to be set, under their names there, and which are ahead already. Pure.

    Raises TransferError for a sequence that the other side does not have.
    """
    others = {position.name: position for position in there}
    todo: list[tuple[Name, Position]] = []
    ahead: list[str] = []
    missing: list[str] = []
    for position in here:
        name = selection.target_name(*position.name)
        other = others.get(name)
        if other is None:
            missing.append(".".join(name))
        elif further(position, other):
            todo.append((name, position))
        elif further(other, position):
            ahead.append(".".join(name))
    if missing and selection.forward is None:
        raise TransferError(f"the target has no sequence {', '.join(missing)}", "Run pg_schema_transfer with section pre_data again.")
    return todo, ahead


def move(here: psycopg.Connection[Any], there: psycopg.Connection[Any], selection: Selection) -> Moved:
    """Set the sequences of ``there`` to those of ``here``, never below what they are, and compare afterwards.

    selection: as seen from ``here``; inverted on the way back. Raises TransferError when a position did not take.
    """
    mine = read(here, selection)
    todo, ahead = plan(mine, read(there, selection.inverted()), selection)
    set_to(there, todo)
    behind, _ahead = plan(mine, read(there, selection.inverted()), selection)
    if behind:
        listed = ", ".join(".".join(name) for name, _position in behind)
        raise TransferError(f"sequences did not take their position: {listed}", "Run again; check that nothing else sets them.")
    return Moved(tuple(".".join(name) for name, _position in todo), tuple(ahead), len(mine))


def set_to(conn: psycopg.Connection[Any], todo: Sequence[tuple[Name, Position]]) -> None:
    """Set positions, all in one statement."""
    if todo:
        calls = ", ".join(
            f"pg_catalog.setval({quote_literal(qualified(*name))}::pg_catalog.regclass, {position.last_value}, {str(position.called).lower()})"
            for name, position in todo
        )
        conn.execute(f"SELECT {calls}")
