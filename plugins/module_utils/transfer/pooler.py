# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What stands between us and the server: nothing, a pooler that gives us a session of our own, or one that shares sessions by transaction.

Found out before a session gets its settings: on a shared session they would stay behind and change what other clients see.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import certain

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

DIRECT = "direct"
SESSION = "session"
TRANSACTION = "transaction"
PATIENCE_SECONDS = 5.0
_PID = "SELECT pg_catalog.pg_backend_pid()"


def direct(conn: Conn) -> bool:
    """Whether this connection ends at the server itself: a pooler hands its clients process numbers of its own making."""
    return _pid(conn) == conn.info.backend_pid


def kind(conn: Conn, another: Callable[[], Conn]) -> str:
    """DIRECT, SESSION or TRANSACTION. another: opens a second connection of the same kind, for a moment and only behind a pooler.

    Two clients that are connected at once have two sessions, unless the pooler shares them: then the second one's transaction runs in the
    session that the first one has just used, or sends the first one to another session.
    """
    if direct(conn):
        return DIRECT
    for _attempt in range(2):
        own = _pid(conn)
        second = another()
        try:
            other = _held(second)
            # A second client that has to wait for a session shows that ours is kept for us.
            if other is not None and (other == own or _pid(conn) != own):
                return TRANSACTION
        finally:
            second.close()
    return SESSION


def _pid(conn: Conn) -> int:
    return int(certain(conn.execute(_PID).fetchone(), "the number of the session's process")[0])


def _held(conn: Conn) -> int | None:
    """Process that serves a transaction, which stays open; None when it does not begin in time."""
    link = conn.pgconn
    link.send_query(f"BEGIN; {_PID}".encode())
    link.flush()
    deadline = time.monotonic() + PATIENCE_SECONDS
    number = None
    while True:
        while link.is_busy():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([link.socket], [], [], left)[0]:
                return None
            link.consume_input()
        result = link.get_result()
        if result is None:
            return number
        value = result.get_value(0, 0) if result.ntuples else None
        number = int(value) if value is not None else number
