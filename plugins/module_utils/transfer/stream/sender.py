# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sending server: who it is, whether slot and spool still fit together, how the stream is begun, how the slot fares."""

from __future__ import annotations

import re
import struct
import threading
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import session, slots
from ..catalog import quote_ident, quote_literal
from ..endpoint import Endpoint
from ..errors import TransferError, certain
from .pgoutput import lsn_number, lsn_text

if TYPE_CHECKING:
    import psycopg

APPLICATION = "cutover receiver"
OLDEST = 140000
# Below this part of what it may hold back, a slot is in danger of being given up.
_DANGER = 0.25
_FEEDBACK = struct.Struct(">cQQQqB")
# Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
_EPOCH = 946_684_800_000_000
_SWITCH = re.compile(r"^\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)", re.MULTILINE)
_IN_USE = "55006"
_GONE = ("55000", "58P01", "42704")


@dataclass(frozen=True)
class Identity:
    """Who the sender is. system: its number, the same on all members of a cluster; position: the end of its log."""

    system: str
    timeline: int
    position: int
    database: str


def identify(conn: psycopg.Connection[Any]) -> Identity:
    """Who is at the other end of a replication connection. Raises TransferError of kind server_version for one that cannot send what we need."""
    if conn.info.server_version < OLDEST:
        raise TransferError(
            f"the sending server is PostgreSQL {conn.info.server_version // 10000}, and a stream needs {OLDEST // 10000} or later",
            "Copy under a freeze instead, or upgrade it first.",
            kind="server_version",
        )
    row = certain(conn.execute("IDENTIFY_SYSTEM").fetchone(), "the identity of the server")
    return Identity(str(row[0]), int(row[1]), lsn_number(str(row[2])), str(row[3]))


def check_slot(watch: psycopg.Connection[Any], found: slots.Health, database: str) -> None:
    """Raise TransferError of kind slot_lost, or other_slot for one that does not send this database's changes as pgoutput."""
    slots.require(found)
    row = watch.execute(
        f"SELECT coalesce(plugin, ''), coalesce(database, '') FROM pg_replication_slots WHERE slot_name = {quote_literal(found.name)}"
    ).fetchone()
    if row and tuple(row) != (slots.PLUGIN, database):
        what = f"plugin {row[0]} in database {row[1]}" if row[0] else "no logical slot"
        raise TransferError(
            f"replication slot {found.name} is {what}, expected plugin {slots.PLUGIN} in database {database}",
            "Give the stream a slot of its own.",
            kind="other_slot",
            slot=found.name,
        )


def check_positions(found: slots.Health, me: Identity, spooled: int) -> None:
    """Raise TransferError unless the stream can go on at the end of the spool. Pure.

    spooled: 0 for a spool that begins now
    kind spool_gap: the slot has let go of changes that the spool does not have; sender_behind: the sender does not know what the spool has
    """
    confirmed = lsn_number(found.confirmed_lsn or "0/0")
    if 0 < spooled < confirmed:
        raise TransferError(
            f"the spool ends at {lsn_text(spooled)}, and slot {found.name} has let go of everything below {lsn_text(confirmed)}:"
            " changes in between are gone",
            "Look for a second reader of the slot. Begin again with a new slot and a new spool.",
            kind="spool_gap",
            spooled=lsn_text(spooled),
            confirmed=lsn_text(confirmed),
        )
    if spooled > me.position:
        raise _behind(spooled, me.position)


def check_timeline(conn: psycopg.Connection[Any], me: Identity, known: int | None, spooled: int) -> None:
    """Raise TransferError of kind sender_behind when the server that sends now was promoted before it had all that the spool has.

    known: timeline of the sender that the spool is from, None for none
    """
    if known is None or known == me.timeline:
        return
    row = conn.execute(f"TIMELINE_HISTORY {me.timeline}").fetchone() if me.timeline > known else None
    # Text or bytea, by the server's version.
    history = row[1] if row else ""
    switched = switch_point(history if isinstance(history, str) else bytes(history).decode(), known)
    if switched < spooled:
        raise _behind(spooled, switched, f" (timeline {me.timeline} left timeline {known} there)")


def check_snapshot(watch: psycopg.Connection[Any], slot: str, known: int | None, timeline: int) -> None:
    """Raise TransferError of kind slot_incomplete when a server that was promoted may not decode all that its slot stands for.

    A copy of a slot, as Patroni makes on a replica, has the slot's position and not the snapshot that decoding begins with there: until the replica has made
    one of its own, at its second record of running transactions, decoding passes over transactions in silence. known, timeline: before, now.
    """
    # What lists these files is new in PostgreSQL 15.
    if known is None or known == timeline or watch.info.server_version < 150000:
        return
    try:
        row = watch.execute(
            f"""SELECT EXISTS (SELECT FROM pg_ls_logicalsnapdir() f WHERE f.name = replace(s.restart_lsn::text, '/', '-') || '.snap')
                FROM pg_replication_slots s WHERE s.slot_name = {quote_literal(slot)}"""
        ).fetchone()
    except session.psycopg.errors.InsufficientPrivilege:
        return
    if row and not row[0]:
        raise TransferError(
            f"the sending server was promoted before its copy of slot {slot} was complete, so it may leave out changes that were made before",
            "Compare both databases with pg_row_verify, mend what differs, and begin again with a new slot and a new spool.",
            kind="slot_incomplete",
            slot=slot,
        )


def switch_point(history: str, timeline: int) -> int:
    """Where a server left a timeline, as its history file tells; 0 when it never was on it. Pure."""
    return next((lsn_number(position) for number, position in _SWITCH.findall(history) if int(number) == timeline), 0)


def _behind(spooled: int, known: int, how: str = "") -> TransferError:
    return TransferError(
        f"the spool ends at {lsn_text(spooled)}, and the log of the sending server at {lsn_text(known)}{how}: it was restored, or failed over, without the last"
        " changes, some of which may have been applied",
        "Compare both databases with pg_row_verify, mend what differs, and begin again with a new slot and a new spool.",
        kind="sender_behind",
        spooled=lsn_text(spooled),
        sender=lsn_text(known),
    )


def in_danger(found: slots.Health) -> bool:
    """Whether the server may soon give the slot up. Pure."""
    if found.wal_status in slots.LOST:
        return True
    if found.safe_wal_bytes is None:
        return False
    return found.safe_wal_bytes < _DANGER * (max(found.safe_wal_bytes, 0) + found.retained_bytes)


def start(conn: psycopg.Connection[Any], slot: str, publication: str, position: int) -> bool:
    """Begin the stream at a position; False when another connection reads the slot now. Raises psycopg's error for anything else."""
    name = quote_literal(quote_ident(publication))
    pgconn = conn.pgconn
    pgconn.nonblocking = 0
    result = pgconn.exec_(
        f"START_REPLICATION SLOT {quote_ident(slot)} LOGICAL {lsn_text(position)}"
        f" (proto_version '1', publication_names {name}, messages 'true')".encode()
    )
    if result.status == session.pq.ExecStatus.COPY_BOTH:
        pgconn.nonblocking = 1
        return True
    error = session.psycopg.errors.error_from_result(result)
    if error.sqlstate == _IN_USE:
        return False
    raise error


def feedback(written: int, flushed: int, unix_seconds: float, ask: bool) -> bytes:
    """Standby status update; what was applied is left open. ask: the server shall answer. Pure."""
    return _FEEDBACK.pack(b"r", written, flushed, 0, int(unix_seconds * 1e6) - _EPOCH, ask)


def explained(error: session.psycopg.Error, endpoint: Endpoint, slot: str) -> Exception:
    """A lost link stays what it is, to be tried again; anything else is told with the way out."""
    if session.is_lost(error):
        return error
    where = endpoint.describe()
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if error.sqlstate in _GONE:
        try:
            with closing(session.connect(endpoint, application_name=f"{APPLICATION} check", read_only=True)) as conn:
                slots.require(slots.health(conn, slot))
        except (TransferError, session.psycopg.Error) as told:
            return told
    if error.sqlstate == "42704" and "publication" in text:
        return TransferError(
            f"{where} cannot decode its log: {text}",
            "A publication must be there before the slot is made. Make it, then begin again with a new slot and a new spool.",
            kind="publication_missing",
        )
    return TransferError(
        f"{where} ended the stream: {text}", "See the log of the sending server for the reason.", kind="sender", sqlstate=error.sqlstate
    )


class Watch(threading.Thread):
    """Looks after the slot on a connection of its own, so that a slow answer keeps nobody waiting.

    health: as last seen, None at first; position: end of the sender's log then; problem: what ended the watch, None while it goes on
    """

    def __init__(self, endpoint: Endpoint, slot: str, seconds: float) -> None:
        super().__init__(name="watch", daemon=True)
        self.endpoint, self.slot, self.seconds = endpoint, slot, seconds
        self.health: slots.Health | None = None
        self.position = 0
        self.problem: TransferError | None = None
        self._end = threading.Event()

    def run(self) -> None:
        """Until :meth:`stop`. A lost connection is made again; the stream's own connection decides whether the server is there."""
        while not self._end.wait(0 if self.health is None else self.seconds):
            try:
                with closing(session.connect(self.endpoint, application_name=f"{APPLICATION} watch", read_only=True)) as conn:
                    conn.execute("SET statement_timeout = '30s'")
                    self._look(conn)
            except (TransferError, session.psycopg.Error) as error:
                if isinstance(error, TransferError) and error.details.get("kind") == "slot_lost":
                    self.problem = error
                    return
                self._end.wait(self.seconds)

    def _look(self, conn: psycopg.Connection[Any]) -> None:
        while True:
            found = slots.health(conn, self.slot)
            self.health = found
            slots.require(found)
            if found.restart_lsn:
                self.position = lsn_number(found.restart_lsn) + found.retained_bytes
            if self._end.wait(self.seconds):
                return

    def stop(self) -> None:
        """End it; it is not waited for."""
        self._end.set()
