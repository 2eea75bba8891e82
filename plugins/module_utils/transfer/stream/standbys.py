# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a failover of the sender cannot take back: nothing is taken over that its synchronous standbys do not have yet.

A server sends a commit when it is on its own disk. One that commits synchronously tells its client only when a standby has it too, and may fail over in
between: then the client was never told, the new leader does not have it, and a receiver that had applied it would have a row too much. PostgreSQL 17 has
``synchronized_standby_slots`` for this, with physical slots that must be listed; this works from 14 on and follows ``synchronous_standby_names``, which
Patroni changes by itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .pgoutput import lsn_number

if TYPE_CHECKING:
    import psycopg

APPLICATION = "cutover receiver standbys"
# While nobody is waited for, between two looks whether that is still so.
_LOOK_SECONDS = 0.05
_FORM = re.compile(r"^\s*(?:(?P<how>FIRST|ANY)\s+)?(?P<count>\d+)\s*\(", re.IGNORECASE)
_QUERY = """SELECT current_setting('synchronous_standby_names'), array_agg(sync_state), array_agg(flush_lsn::text)
    FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') OR sync_state IS NULL"""


def held(names: str, standbys: Sequence[tuple[str | None, int | None]]) -> int | None:
    """Up to which position enough standbys have the log; None when commits wait for none, or when a role may not see them. Pure.

    names: ``synchronous_standby_names``; standbys: (``sync_state``, position on its disk) of those that count
    """
    if not names.strip() or any(state is None for state, _position in standbys):
        return None
    form = _FORM.match(names)
    count = int(form["count"]) if form else 1
    positions = sorted((position or 0 for _state, position in standbys), reverse=True)
    if len(positions) < count:
        # Commits wait for one that is not there.
        return 0
    # The chosen ones of FIRST must all have it, of ANY that many.
    return positions[count - 1]


class Standbys:
    """Over a connection of its own to the sender."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self._held: int | None = 0
        self._looked = 0.0

    def have(self, position: int) -> bool:
        """Whether enough standbys have everything below a position. Raises psycopg's error for a lost connection."""
        if self._held is None and time.monotonic() - self._looked < _LOOK_SECONDS:
            return True
        if self._held is None or position > self._held:
            self._look()
        return self._held is None or position <= self._held

    def _look(self) -> None:
        row = self.conn.execute(_QUERY).fetchone()
        names, states, positions = row if row else ("", None, None)
        found = [(state, lsn_number(text) if text else None) for state, text in zip(states or (), positions or (), strict=True)]
        self._held = held(names, found)
        self._looked = time.monotonic()
