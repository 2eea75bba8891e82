# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The applier's own row of ``cutover.stream``: read, moved within a batch's transaction, and what others have asked for found in the answer."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import TransferError
from .feed import Load
from .link import Link, Outcome
from .pgoutput import lsn_number, lsn_text
from .shapes import Shape
from .state import CHANNEL, PAUSE_KEYS
from .statements import TEXT_ARRAY, array

_INT8, _TEXT, _TID, _TIMESTAMPTZ, _LSN = 20, 25, 27, 1184, 3220
_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_ROW = "ctid::text, applied_lsn::text, dirty_from::text, stop_at::text, paused_at::text, fence, hold::text"
_READ = f"SELECT {_ROW} FROM cutover.stream WHERE direction = $1".encode()
# While a long snapshot keeps old versions of the row alive, its place finds the newest at once; the key would go through all of them.
_MOVE = f"""UPDATE cutover.stream SET applied_lsn = $2, source_time = $3, applied_at = clock_timestamp(), heartbeat = clock_timestamp(),
    transactions = transactions + $4, changes = changes + $5, problem = NULL,
    fence = CASE WHEN $6 IS DISTINCT FROM passed_fence THEN coalesce($6, fence) ELSE fence END,
    fence_lsn = CASE WHEN $6 IS DISTINCT FROM passed_fence THEN coalesce($7, fence_lsn) ELSE fence_lsn END
    WHERE direction = $1 {{place}} RETURNING {_ROW}"""
_MOVE_THERE, _MOVE_ANYWHERE = _MOVE.format(place="AND ctid = $8").encode(), _MOVE.format(place="AND applied_lsn = $8").encode()
_MOVE_TYPES = (_TEXT, _LSN, _TIMESTAMPTZ, _INT8, _INT8, _TEXT, _LSN)
_BEAT = f"UPDATE cutover.stream SET heartbeat = clock_timestamp() WHERE direction = $1 RETURNING {_ROW}".encode()
_ARRIVE = f"""UPDATE cutover.stream SET heartbeat = clock_timestamp(), applied_lsn = greatest(applied_lsn, $2), problem = NULL WHERE direction = $1
    RETURNING {_ROW}""".encode()
_PAUSED = f"UPDATE cutover.stream SET paused_at = stop_at WHERE direction = $1 AND stop_at = $2 RETURNING {_ROW}".encode()
_UNPAUSE = f"UPDATE cutover.stream SET stop_at = NULL, paused_at = NULL WHERE direction = $1 RETURNING {_ROW}".encode()
_PROBLEM = b"UPDATE cutover.stream SET problem = $2::jsonb, heartbeat = clock_timestamp() WHERE direction = $1"
_HELD = b"""SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND classid::bigint = $1 AND objid::bigint = $2 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
_DIRTY = "INSERT INTO cutover.dirty (source_schema, source_table, key) SELECT $1, $2, {key} ON CONFLICT DO NOTHING"


@dataclass(frozen=True, slots=True)
class Asked:
    """The row as it is now: progress, and what others ask for. Positions are numbers. place: of the row in its table."""

    place: str
    applied: int
    dirty_from: int | None
    stop_at: int | None
    paused_at: int | None
    fence: str | None
    hold: bool

    @property
    def stands(self) -> str:
        """State in which nothing may be applied, '' while something may."""
        if self.fence is not None:
            return "fenced"
        if self.hold:
            return "held"
        return "paused" if self.stop_at is not None and self.paused_at == self.stop_at else ""

    def withdraws(self, load: Load) -> bool:
        """Whether a load that was made without knowing this must not be committed."""
        if self.hold or (self.stop_at is not None and load.final >= self.stop_at):
            return True
        return self.dirty_from is not None and load.final >= self.dirty_from and not load.batch.record


class Progress:
    """Statements about the row of one direction, on the applier's link."""

    def __init__(self, link: Link, direction: str) -> None:
        self.link, self.direction = link, direction.encode()
        self._key = PAUSE_KEYS[direction]
        link.ask(f"LISTEN {CHANNEL}".encode())

    def read(self) -> Asked:
        """The row. Raises TransferError of kind no_stream."""
        return _asked(self.link.ask(_READ, (_TEXT,), (self.direction,)))

    def queue(self, load: Load, known: Asked) -> None:
        """Queue the move to the end of a load, in the transaction that is open; its outcome is for :meth:`result`."""
        self.link.queue(_MOVE_THERE, (*_MOVE_TYPES, _TID), (*self._moved(load), known.place.encode()))

    def result(self, outcome: Outcome, load: Load, known: Asked) -> Asked | None:
        """What the row says after the move: where others have written it meanwhile it has another place. None when they have moved the position."""
        if not outcome.rows:
            outcome = self.link.ask(_MOVE_ANYWHERE, (*_MOVE_TYPES, _LSN), (*self._moved(load), lsn_text(known.applied).encode()))
        return _asked(outcome) if outcome.rows else None

    def _moved(self, load: Load) -> tuple[bytes | None, ...]:
        at = _EPOCH + datetime.timedelta(microseconds=load.commit_time)
        fence, position = load.fence or (None, 0)
        return (
            self.direction,
            lsn_text(load.applied).encode(),
            at.isoformat().encode(),
            b"%d" % load.transactions,
            b"%d" % load.changes,
            None if fence is None else fence.encode(),
            None if fence is None else lsn_text(position).encode(),
        )

    def beat(self) -> Asked:
        """Show life."""
        return _asked(self.link.ask(_BEAT, (_TEXT,), (self.direction,)))

    def arrive(self, applied: int) -> Asked:
        """Show life, and that everything below a position is applied: whatever was in the way is not any more."""
        return _asked(self.link.ask(_ARRIVE, (_TEXT, _LSN), (self.direction, lsn_text(applied).encode())))

    def paused(self, position: int) -> None:
        """Say that the stream has paused where it was asked to, unless that was changed meanwhile."""
        self.link.ask(_PAUSED, (_TEXT, _LSN), (self.direction, lsn_text(position).encode()))

    def unpause(self) -> Asked:
        """Go on although nobody has said so."""
        return _asked(self.link.ask(_UNPAUSE, (_TEXT,), (self.direction,)))

    def attended(self) -> bool:
        """Whether the session that asked for the pause still lives."""
        halves = b"%d" % (self._key >> 32), b"%d" % (self._key & 0xFFFFFFFF)
        return self.link.ask(_HELD, (_INT8, _INT8), halves).rows[0][0] != "0"

    def problem(self, facts: Mapping[str, Any]) -> None:
        """Note why the stream stands still."""
        self.link.ask(_PROBLEM, (_TEXT, _TEXT), (self.direction, json.dumps(facts, ensure_ascii=False).encode()))

    def note_dirty(self, touched: Mapping[Shape, set[tuple[bytes, ...]] | None]) -> int:
        """Queue keys that were touched; how many statements that took. A table to be looked at as a whole has one key without columns."""
        count = 0
        for (schema, table), width, params in _dirty(touched):
            key = f"ARRAY[{', '.join(f'k{place}' for place in range(width))}] FROM unnest({', '.join(f'${place + 3}' for place in range(width))})"
            names = f" AS k({', '.join(f'k{place}' for place in range(width))})"
            sql = _DIRTY.format(key=f"{key}{names}" if width else "'{}'::text[]")
            types = (_TEXT, _TEXT, *[TEXT_ARRAY] * width)
            self.link.queue(sql.encode(), types, (schema.encode(), table.encode(), *params), (0, 0, *[1] * width))
            count += 1
        return count


def _dirty(touched: Mapping[Shape, set[tuple[bytes, ...]] | None]) -> Iterator[tuple[tuple[str, str], int, list[bytes]]]:
    for shape, keys in touched.items():
        if keys is None:
            yield shape.source, 0, []
        elif keys:
            columns = list(zip(*keys, strict=True))
            yield shape.source, len(columns), [array(column) for column in columns]


def _asked(outcome: Outcome) -> Asked:
    if not outcome.rows:
        raise TransferError(
            "the stream's row in cutover.stream is gone: it was ended while it was applied",
            "Start it again, if it is still wanted.",
            kind="no_stream",
        )
    place, applied, dirty_from, stop_at, paused_at, fence, hold = outcome.rows[0]
    return Asked(
        place or "", _position(applied) or 0, _position(dirty_from), _position(stop_at), _position(paused_at), fence, hold == "true"
    )


def _position(text: str | None) -> int | None:
    return None if text is None else lsn_number(text)
