# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Both sides held at one moment: a position in the source's log, the snapshot that belongs to it, and the target's snapshot for it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import slots
from .endpoint import Endpoint
from .errors import TransferError, certain
from .workers import import_snapshot

if TYPE_CHECKING:
    import psycopg

PAIRINGS = ("none", "slot")


@dataclass(frozen=True)
class Moment:
    """snapshots: names for other sessions, (source, target); lsn: of the source.

    exact: the source's snapshot shows what was committed before lsn and nothing else, and the target's stands for the same position
    """

    snapshots: tuple[str, str]
    lsn: str | None
    exact: bool


@dataclass(frozen=True)
class _Clock:
    """lsn: position of the log; next_xid: above the last finished transaction; alone: nobody else was writing; standby: nothing of it is reliable."""

    lsn: str
    next_xid: int
    alone: bool
    standby: bool


def _clock(conn: psycopg.Connection[Any]) -> _Clock:
    row = conn.execute(
        """SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text,
                  pg_snapshot_xmax(s)::text::bigint, NOT EXISTS (SELECT FROM pg_snapshot_xip(s)), pg_is_in_recovery()
           FROM pg_current_snapshot() s"""
    ).fetchone()
    return _Clock(*certain(row, "the row of the clock"))


def _stood_still(before: _Clock, after: _Clock) -> bool:
    """Whether nothing was committed between two looks, by anyone in the whole server."""
    return before.alone and after.alone and before.next_xid == after.next_xid and not (before.standby or after.standby)


def hold(conn: psycopg.Connection[Any], snapshot: str | None) -> str:
    """Begin a transaction under a snapshot, a new one when None; its name for other connections."""
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if snapshot is not None:
        import_snapshot(conn, snapshot)
        return snapshot
    return str(certain(conn.execute("SELECT pg_export_snapshot()").fetchone(), "the exported snapshot")[0])


def take(
    stack: ExitStack,
    source: Endpoint,
    ours: psycopg.Connection[Any],
    theirs: psycopg.Connection[Any],
    given: tuple[str | None, str | None] = (None, None),
    pairing: str = "none",
    pause_at: Callable[[str], str] | None = None,
    slot_seconds: float = 120.0,
) -> Moment:
    """Begin the transactions of both holders, at one moment if that can be had.

    given: snapshots of (source, target) to use instead of new ones
    pairing: ``slot`` takes the source's position and snapshot from a temporary slot, dropped with the stack
    pause_at: brings a target that follows the source to just before the first commit at or after a position, and returns the name of a snapshot
        of the target exported there, by a session that stays open until the verification has ended. Without it the target has to stand still.
    slot_seconds: for the slot, which waits until every transaction that runs has ended
    Raises TransferError, for a slot as :func:`.slots.create` does.
    """
    if pairing not in PAIRINGS:
        raise TransferError(f"unknown pairing {pairing!r} of a verification", f"Use one of {', '.join(PAIRINGS)}.")
    if pause_at is not None and pairing != "slot":
        raise TransferError("a target that follows the source can be paused only at the position of a slot", "Use the pairing slot.")
    if pairing == "slot" and any(given):
        raise TransferError("snapshots are given, and the pairing slot takes its own", "Leave one of the two out.")
    before = _clock(ours), _clock(theirs)
    if pairing == "slot":
        slot = stack.enter_context(
            slots.create(source, f"cutover_verify_{secrets.token_hex(4)}", temporary=True, deadline_seconds=slot_seconds)
        )
        shown = hold(ours, slot.snapshot)
        if pause_at is not None:
            return Moment((shown, hold(theirs, pause_at(slot.lsn))), slot.lsn, True)
        snapshots = shown, hold(theirs, None)
        return Moment(snapshots, slot.lsn, _stood_still(before[1], _clock(theirs)))
    snapshots = hold(ours, given[0]), hold(theirs, given[1])
    still = not any(given) and _stood_still(before[0], _clock(ours)) and _stood_still(before[1], _clock(theirs))
    return Moment(snapshots, before[0].lsn, still)
