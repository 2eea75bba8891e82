# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Before anything is applied: being the only applier, a copy that is complete, and the stream's row with what both sides had."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import ledger, predecessor, session, todo
from ..errors import TransferError
from ..selection import Name
from . import facts, roster, state
from .config import FORWARD, Config
from .figures import Figures
from .pgoutput import lsn_number
from .shapes import Route
from .spool import Reader, remove_applied
from .state import Stream

if TYPE_CHECKING:
    import psycopg

APPLICATION = "cutover applier"
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Begun:
    """A stream that can be applied. positions: of the copies of the sender's tables, {} on the way back; known: what the receiver has now."""

    stream: Stream
    routes: dict[Name, Route]
    positions: dict[Name, int]
    known: facts.Facts


def prepare(
    conn: psycopg.Connection[Any], config: Config, stop: Callable[[], bool], figures: Figures, patience_seconds: float
) -> Begun | None:
    """Wait until everything is there; None when it is time to stop before. patience_seconds: for another applier, which may be about to end.

    Raises TransferError of kind second_applier, other_stream, other_source, not_under_slot, definition_changed or privilege.
    """
    state.create(conn)
    take_lock(conn, config.direction, stop, patience_seconds)
    while not stop():
        found = state.read(conn, config.direction)
        if found is not None:
            state.refuse_other(found, slot=config.slot)
            begun = _go_on(conn, config, found, figures)
        elif config.direction == FORWARD:
            begun = _begin(conn, config, figures)
        else:
            figures.say("waiting_for_begin", detail="the cutover begins the way back")
            _forget(config)
            begun = None
        if begun is not None:
            conn.execute(
                "UPDATE cutover.stream SET owner = %s, heartbeat = clock_timestamp() WHERE direction = %s",
                (ledger.owner_name(), config.direction),
            )
            return begun
        _pause(stop, figures)
    return None


def _forget(config: Config) -> None:
    """Let go what was spooled before the way back begins. It begins where its sender is then, beyond all that has been here for ``keep_seconds``."""
    with closing(Reader(config.spool)) as reader:
        spooled = reader.spooled()
    if spooled:
        remove_applied(config.spool, spooled, config.keep_seconds)


def _pause(stop: Callable[[], bool], figures: Figures) -> None:
    deadline = time.monotonic() + _LOOK_SECONDS
    while not stop() and time.monotonic() < deadline:
        figures.beat()
        time.sleep(0.05)


def take_lock(conn: psycopg.Connection[Any], direction: str, stop: Callable[[], bool], patience_seconds: float) -> None:
    """Become the only applier of a direction for as long as ``conn`` lives. Raises TransferError of kind second_applier that names the other one.

    What an earlier process of this machine has left behind on the server is ended.
    """
    pids = predecessor.take(conn, state.APPLIER_KEYS[direction], patience_seconds, stop)
    if pids is None:
        return
    found = state.read(conn, direction)
    owner = found.owner if found else None
    raise TransferError(
        f"{owner or 'another applier'} applies the {direction} stream to this database",
        f"Stop it first; if it is dead, run SELECT pg_terminate_backend({pids[0] if pids else 'pid'}) there. Then start this one again.",
        kind="second_applier",
        owner=owner,
    )


def _begin(conn: psycopg.Connection[Any], config: Config, figures: Figures) -> Begun | None:
    """Write the row down once the copy is complete."""
    missing = roster.missing(conn, whole=True)
    if missing:
        figures.say("waiting_for_copy", detail="; ".join(missing))
        return None
    with session.connect(config.sending, application_name=f"{APPLICATION} catalogue", read_only=True) as sender:
        source = todo.identity(sender, config.sending)
        strangers = ledger.sources(conn) - {source}
        if strangers:
            raise TransferError(
                f"the ledger on the target belongs to a copy from {', '.join(sorted(strangers))}, not from {source}",
                "Give the source that was copied, or finalize that move first.",
                kind="other_source",
            )
        drawn = roster.draw_up(sender, conn, config.sent, forward=True)
        roster.refuse(drawn)
    if not drawn.leaves:
        raise TransferError(
            "no table of the source is selected, so there is nothing to apply", "Correct include and exclude.", kind="nothing_to_stream"
        )
    missing = roster.missing(conn, drawn.leaves, only=drawn.leaves)
    if missing:
        figures.say("waiting_for_copy", detail="; ".join(missing))
        return None
    positions = roster.positions(conn, config.slot, drawn.leaves)
    begin = min(positions.values())
    later = {".".join(name): position for name, position in positions.items() if position != begin}
    found = state.begin(conn, config.direction, source, config.slot, config.publication, begin, drawn.routes, later)
    return _begun(conn, config, found, positions)


def _go_on(conn: psycopg.Connection[Any], config: Config, found: Stream, figures: Figures) -> Begun | None:
    """A stream that was begun before."""
    positions: dict[Name, int] = {}
    if config.direction == FORWARD:
        mine = [name for name, route in state.routes(conn, config.direction).items() if route.target is not None]
        missing = roster.missing(conn, only=mine)
        if missing:
            figures.say("waiting_for_copy", detail="; ".join(missing))
            return None
        positions = roster.positions(conn, config.slot, mine)
        later = {".".join(name): position for name, position in positions.items() if position != found.begin}
        if later != {name: lsn_number(text) for name, text in found.tables.items()}:
            state.note_tables(conn, config.direction, later)
    elif not state.routes(conn, config.direction):
        with session.connect(config.sending, application_name=f"{APPLICATION} catalogue", read_only=True) as sender:
            state.remember(conn, config.direction, roster.draw_up(sender, conn, config.sent, forward=False).routes)
    return _begun(conn, config, found, positions)


def _begun(conn: psycopg.Connection[Any], config: Config, found: Stream, positions: dict[Name, int]) -> Begun:
    return Begun(found, state.routes(conn, config.direction), positions, facts.read(conn, config.sent.inverted()))
