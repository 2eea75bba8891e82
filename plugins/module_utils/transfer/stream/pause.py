# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The receiving database at one position of the sender's log, while the sender is written to: what a verification needs to be exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from .. import predecessor, session
from ..endpoint import Endpoint
from ..errors import certain
from . import state
from .pgoutput import lsn_number, lsn_text

APPLICATION = "cutover pause"
_PATIENCE_SECONDS = 60.0


@contextmanager
def pause_at(
    sending: Endpoint,
    receiving: Endpoint,
    direction: str = "forward",
    *,
    patience_seconds: float = _PATIENCE_SECONDS,
    note_dirty: bool = False,
    keep: bool = False,
) -> Iterator[Callable[[str], str]]:
    """A hook for :func:`..moment.take`: brings the receiving database to just before the first commit at or after a position; name of its snapshot.

    From entering on nothing is applied, so that the position, which is taken meanwhile, cannot be missed; the hook lets the stream go on to it, and
    on from it as soon as the snapshot is there. The snapshot lives until the context is left. note_dirty: keys of everything from the position on
    are noted in ``cutover.dirty``; keep: it stands until the context is left.
    Raises TransferError of kind no_stream, pause_taken, too_late, deadline, or the stream's own problem.
    """
    with (
        closing(session.connect(receiving, application_name=predecessor.named(APPLICATION))) as asking,
        closing(session.connect(receiving, application_name=APPLICATION, read_only=True)) as holding,
        closing(session.connect(sending, application_name=APPLICATION)) as nudging,
    ):
        # The sender speaks of a transaction when it is on disk.
        nudging.execute("SET synchronous_commit = local")

        def hook(position: str) -> str:
            stop_at = lsn_number(position)
            if note_dirty:
                state.request_dirty_from(asking, direction, stop_at)
            _paused(stop_at)
            holding.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            row = certain(holding.execute("SELECT pg_export_snapshot()").fetchone(), "the exported snapshot")
            if not keep:
                state.clear_pause(asking, direction)
            return str(row[0])

        def _paused(stop_at: int) -> None:
            state.request_pause(asking, direction, stop_at)
            # An idle sender has nothing to send: this is the first commit at or after the position.
            nudging.execute("SELECT pg_logical_emit_message(true, 'cutover', 'nudge')")
            deadline = time.monotonic() + patience_seconds
            state.wait_for(asking, direction, lambda found: found.paused_at == stop_at, deadline, f"the pause at {lsn_text(stop_at)}")

        try:
            _paused(0)
            yield hook
        finally:
            if not asking.closed:
                _cleared(asking, direction)


def _cleared(conn: state.Conn, direction: str) -> None:
    """Let the stream go on, whatever came; a session that cannot say so is missed by the applier after a while."""
    try:
        state.clear_pause(conn, direction)
    except session.psycopg.Error:
        conn.close()
