# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Statements in a pipeline to the receiving server: sent without waiting, so that it works while the next batch is made here."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import session
from .statements import Bound

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGresult

_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one statement. count: rows it touched, None where the server tells none; rows: as text; error: it, or what aborted it (``skipped``)."""

    count: int | None = None
    rows: tuple[tuple[str | None, ...], ...] = ()
    error: psycopg.Error | None = None
    skipped: bool = False


class Link:
    """A connection in pipeline mode. Raises psycopg's OperationalError when it is lost.

    most_prepared: statements that stay prepared; beyond it all are made anew
    """

    most_prepared = 2000

    def __init__(self, conn: psycopg.Connection[Any], idle: Callable[[], None]) -> None:
        """idle: called now and then while the server is waited for; what it raises ends the wait."""
        self.conn, self.pgconn, self.idle = conn, conn.pgconn, idle
        self.pgconn.nonblocking = 1
        self.pgconn.enter_pipeline_mode()
        self._names: dict[bytes, bytes] = {}
        self._made = 0
        # Between two syncs: whether each result is a statement's (True), or of preparing one or letting go of it (False).
        self._open: list[bool] = []
        self._sent: deque[list[bool]] = deque()
        self._outcomes: list[Outcome] = []
        self._asked = 0

    def run(self, bound: Bound) -> None:
        """Queue a bound statement."""
        statement = bound.statement
        form = 1 if statement.sources else 0
        self.queue(statement.sql, statement.types, bound.params, [form] * len(bound.params))

    def queue(self, sql: bytes, types: Sequence[int] = (), params: Sequence[bytes | None] = (), formats: Sequence[int] = ()) -> None:
        """Queue a statement, prepared when it comes for the first time. formats: 0 text, 1 binary."""
        name = self._names.get(sql)
        if name is None:
            if len(self._names) >= self.most_prepared:
                self.pgconn.send_query_params(b"DEALLOCATE ALL", None)
                self._open.append(False)
                self._names.clear()
            self._made += 1
            name = self._names[sql] = b"c%d" % self._made
            self.pgconn.send_prepare(name, sql, list(types) or None)
            self._open.append(False)
        self.pgconn.send_query_prepared(name, list(params) or None, list(formats) or None)
        self._open.append(True)

    def plain(self, sql: bytes) -> None:
        """Queue a statement without parameters that is not worth preparing."""
        self.pgconn.send_query_params(sql, None)
        self._open.append(True)

    def sync(self) -> None:
        """End of what belongs together: after an error the server skips what is queued up to here."""
        self.pgconn.pipeline_sync()
        self._sent.append(self._open)
        self._open = []
        self.push()

    def push(self) -> None:
        """Send and take in what is possible without waiting."""
        self.pgconn.flush()
        self.pgconn.consume_input()

    @property
    def waiting(self) -> bool:
        """Whether results of an earlier :meth:`sync` are to be collected."""
        return bool(self._sent)

    def collect(self) -> list[Outcome]:
        """Results of the statements up to the next sync, waited for."""
        asked = self._sent[0]
        outcomes: list[Outcome] = []
        place = 0
        unprepared: Outcome | None = None
        while True:
            result = self._next()
            if result is None:
                # Ends the results of one statement.
                place += 1
                continue
            if result.status == session.pq.ExecStatus.PIPELINE_SYNC:
                break
            found = _outcome(result)
            if not asked[place]:
                unprepared = found if found.error is not None and not found.skipped else unprepared
            elif unprepared is not None:
                # Its execution is skipped, for this reason.
                outcomes.append(unprepared)
                unprepared = None
            else:
                outcomes.append(found)
        self._sent.popleft()
        if any(found.error is not None for found in outcomes):
            self._forget_failed()
        return outcomes

    def ask(self, sql: bytes, types: Sequence[int] = (), params: Sequence[bytes | None] = ()) -> Outcome:
        """Run one statement by itself. Raises psycopg's error."""
        self.queue(sql, types, params)
        self.sync()
        outcomes = self.collect()
        for found in outcomes:
            if found.error is not None:
                raise found.error
        return outcomes[-1]

    def notified(self) -> bool:
        """Whether a notification has come."""
        self.pgconn.consume_input()
        found = False
        while self.pgconn.notifies() is not None:
            found = True
        return found

    def _forget_failed(self) -> None:
        """After an error nobody knows which of the new statements were prepared: the next time they get other names."""
        self._names.clear()

    def _next(self) -> PGresult | None:
        pgconn = self.pgconn
        while True:
            unsent = pgconn.flush()
            if not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None and pgconn.status != session.pq.ConnStatus.OK:
                    raise session.psycopg.OperationalError(
                        pgconn.error_message.decode(errors="replace").strip() or "the connection was lost"
                    )
                return result
            ready = select.select([pgconn.socket], [pgconn.socket] if unsent else [], [], _POLL_SECONDS)
            if ready[0]:
                pgconn.consume_input()
            elif not ready[1]:
                self.idle()


def _outcome(result: PGresult) -> Outcome:
    status = session.pq.ExecStatus
    if result.status in (status.COMMAND_OK, status.TUPLES_OK):
        rows = tuple(
            tuple(None if (value := result.get_value(row, column)) is None else value.decode() for column in range(result.nfields))
            for row in range(result.ntuples)
        )
        return Outcome(result.command_tuples, rows)
    if result.status == status.PIPELINE_ABORTED:
        return Outcome(error=session.psycopg.errors.InFailedSqlTransaction("skipped after an earlier error"), skipped=True)
    if result.error_field(session.pq.DiagnosticField.SQLSTATE) is None:
        raise session.psycopg.OperationalError((result.error_message or b"").decode(errors="replace").strip() or "the connection was lost")
    return Outcome(error=session.psycopg.errors.error_from_result(result))
