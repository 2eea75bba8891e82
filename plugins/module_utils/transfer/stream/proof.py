# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A verification at one position while the stream runs, after which only rows that are touched later need another look.

The keys that were noted before the position are set aside when it is taken, and forgotten only when every row was equal there: however this ends, what the
proof under the freeze looks at (:func:`touched`) is all that was touched since the last verification that found everything equal.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from .. import ledger, session
from ..endpoint import Endpoint
from ..errors import TransferError, certain
from ..selection import Selection
from ..verify import VerifyResult, verify
from . import leaves, pause, state, turning
from .pgoutput import lsn_number

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

Keys = dict[str, list[tuple[str, ...]]]

_MOVE = """
WITH gone AS (DELETE FROM cutover.{old} RETURNING source_schema, source_table, key)
INSERT INTO cutover.{new} (source_schema, source_table, key) SELECT source_schema, source_table, key FROM gone ON CONFLICT DO NOTHING
"""
_ASIDE = "dirty_before"
# Before a switch nobody waits long for somebody's transaction: the proof is longer then, and the freeze names the session.
_SLOT_SECONDS = 10.0


def verify_following(source: Endpoint, target: Endpoint, selection: Selection, **options: Any) -> VerifyResult:
    """Compare all rows at one position of the source, of which both sides' snapshots are, while the stream goes on. options: of :func:`..verify.verify`

    When all that is streamed is selected and equal, the position is noted, and the proof of a cutover looks only at what was touched since.
    Raises TransferError as :func:`.pause.pause_at` does, or of kind not_applying when nobody applies the stream.
    """
    return _at_one_position(source, target, selection, "forward", None, **options)


def catch_up(sending: Endpoint, receiving: Endpoint, selection: Selection, direction: str, workers: int) -> VerifyResult:
    """Compare the rows touched since all were proven equal, at one position of the sender, while the stream goes on. selection: as the sender calls it

    What was proven then holds for all rows at the new position, by induction: the others have not been touched. So the proof under a freeze is
    left with what is touched from here on. Large objects no stream carries; they are compared under the freeze.
    Raises TransferError as :func:`verify_following` does.
    """
    keys: dict[str, list[tuple[str, ...]]] = {}

    def note(aside: Keys) -> None:
        keys.update(named(aside, selection, direction))

    tables = selection.without_large_objects()
    return _at_one_position(
        sending, receiving, tables, direction, note, mode="dirty", keys=keys, counts=False, workers=workers, slot_seconds=_SLOT_SECONDS
    )


def _at_one_position(
    sending: Endpoint, receiving: Endpoint, selection: Selection, direction: str, note: Callable[[Keys], None] | None, **options: Any
) -> VerifyResult:
    """note: is given the keys set aside before both sides are looked at, when only those are compared"""
    with session.connect(receiving, application_name="cutover proof") as conn:
        if not state.is_applying(conn, direction):
            raise TransferError(
                "the change stream is not running, so it cannot stand at a position of the sending side",
                "Start it with pg_change_stream state=started, or compare with pair: none while nobody writes.",
                kind="not_applying",
            )
        row = certain(state.read(conn, direction), "the stream that is applied")
        noting = row.dirty_from is not None
        partitions = None
        if note is None:
            # Before the position: what becomes of a partition afterwards is seen, at the worst for nothing.
            with closing(session.connect(sending, application_name="cutover proof", read_only=True)) as looking:
                partitions = leaves.read(looking, row.publication)
        with pause.pause_at(sending, receiving, direction, note_dirty=not noting) as hook:

            def at(position: str) -> str:
                _set_aside(conn)
                if note is not None:
                    note(ledger.read_dirty(conn, f"cutover.{_ASIDE}"))
                return hook(position)

            result = verify(sending, receiving, selection, pairing="slot", pause_at=at, **options)
        _settle(conn, result, direction, note is not None or _all(conn, selection, direction), partitions)
    return result


def _all(conn: Conn, selection: Selection, direction: str) -> bool:
    """Whether everything that the stream carries is selected."""
    return all(selection.matches(*name, route.root) for name, route in state.routes(conn, direction).items() if route.target is not None)


def named(keys: Keys, selection: Selection, direction: str) -> Keys:
    """Keys by the names that the sender's side has for the tables. They are noted under those of the migration's source in both directions. Pure.

    selection: as the sender calls its tables
    """
    if direction == "forward":
        return keys
    forward = selection.forward or selection
    found: Keys = {}
    for name, some in keys.items():
        schema, _unused, table = name.partition(".")
        found[".".join(forward.target_name(schema, table))] = some
    return found


def touched(conn: Conn) -> Keys:
    """{``schema.table`` of the migration's source: keys as texts} noted since the last proof of all rows."""
    found = ledger.read_dirty(conn)
    if _there(conn):
        for name, keys in ledger.read_dirty(conn, f"cutover.{_ASIDE}").items():
            found[name] = list(dict.fromkeys([*found.get(name, ()), *keys]))
    return found


def _set_aside(conn: Conn) -> None:
    """The stream stands: everything noted so far was touched before the position that is about to be taken."""
    with conn.transaction():
        if not _there(conn):
            conn.execute(f"CREATE TABLE cutover.{_ASIDE} (LIKE cutover.dirty INCLUDING ALL)")
        conn.execute(_MOVE.format(old="dirty", new=_ASIDE))


def _settle(conn: Conn, result: VerifyResult, direction: str, whole: bool, partitions: leaves.Leaves | None) -> None:
    """whole: what was not looked at was not touched, or there is nothing of the kind"""
    with conn.transaction():
        if whole and result.equal and result.exact and result.lsn is not None:
            conn.execute(f"DELETE FROM cutover.{_ASIDE}")
            turning.proven(conn, direction, lsn_number(result.lsn), partitions)
            return
        conn.execute(_MOVE.format(old=_ASIDE, new="dirty"))
        if not result.equal:
            turning.unproven(conn, direction)


def _there(conn: Conn) -> bool:
    row = conn.execute(f"SELECT pg_catalog.to_regclass('cutover.{_ASIDE}') IS NOT NULL").fetchone()
    return bool(row and row[0])
