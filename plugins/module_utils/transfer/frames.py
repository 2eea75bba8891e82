# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""COPY data from socket to socket, message frames as they come, in memory that does not grow with the rows.

libpq hands out whole rows and therefore holds them, several times over. Here the source's messages are read beside libpq while it is idle:
CopyData has one form in both directions, so frames go on verbatim, in pieces. Only for connections without encryption, where libpq is not
between us and the bytes.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from . import session

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGconn

SIZE = 256 * 1024
_HEADER = struct.Struct("!xI")
_FRAME = struct.Struct("!BI")
_DATA, _DONE, _ERROR, _READY, _BEGIN, _COMPLETE = b"dcEZHC"
_ASIDE = frozenset(b"NSA")  # notice, a setting's new value, notification: may come at any time
_LONGEST_ASIDE = 16 * 1024 * 1024


class TargetSpokeError(Exception):
    """The target sent something before it was to: the reason is for libpq to read."""


def is_plain(conn: psycopg.Connection[Any]) -> bool:
    """Whether the bytes on the socket of ``conn`` are the protocol itself."""
    if conn.pgconn.ssl_in_use:
        return False
    row = conn.execute("SELECT encrypted FROM pg_stat_gssapi WHERE pid = pg_backend_pid()").fetchone()
    return not (row and row[0])


def forward(source: PGconn, target: PGconn, out_sql: str, on_move: Callable[[int, int], None]) -> tuple[int, int]:
    """(rows that the source says it sent, bytes) of a COPY ... TO STDOUT, sent into a COPY ... FROM STDIN that libpq has begun on the target.

    on_move: called about once a second with bytes and rows so far, also while the source is silent
    Raises psycopg's error of the source, or TargetSpokeError; both connections are then unfit for use and are to be closed.
    """
    with ExitStack() as stack:
        ours = stack.enter_context(socket.socket(fileno=os.dup(source.socket)))
        theirs = stack.enter_context(socket.socket(fileno=os.dup(target.socket)))
        line = _Line(ours, theirs, on_move)
        try:
            line.ask(out_sql)
            return line.run()
        except OSError as error:
            raise session.psycopg.OperationalError(f"connection lost while rows moved: {error}") from error


class _Line:
    """A source, a target and what lies between them. buf[start:end]: received and not yet dealt with."""

    def __init__(self, ours: socket.socket, theirs: socket.socket, on_move: Callable[[int, int], None]) -> None:
        self.ours, self.theirs, self.on_move = ours, theirs, on_move
        self.buf = bytearray(SIZE)
        self.view = memoryview(self.buf)
        self.start = self.end = 0
        self.rows = self.sent = 0
        self.due = time.monotonic() + 1.0
        self.reading, self.writing = select.poll(), select.poll()
        self.reading.register(ours, select.POLLIN)
        self.reading.register(theirs, select.POLLIN)
        self.writing.register(theirs, select.POLLIN | select.POLLOUT)

    def ask(self, sql: str) -> None:
        """Send the statement to the source."""
        text = sql.encode() + b"\0"
        left = memoryview(b"Q" + struct.pack("!I", len(text) + 4) + text)
        waiting = select.poll()
        waiting.register(self.ours, select.POLLOUT)
        while left:
            try:
                left = left[self.ours.send(left) :]
            except BlockingIOError:
                waiting.poll(1000)

    def run(self) -> tuple[int, int]:
        """Everything from the answer to the statement to ReadyForQuery."""
        self._expect(_BEGIN)
        self._rows()
        tag = self._expect(_COMPLETE)
        self._expect(_READY)
        if self.start != self.end:
            raise session.psycopg.OperationalError("the source sent more than the end of the rows")
        return int(tag.rstrip(b"\0").split()[-1]), self.sent - 5 * self.rows

    def _rows(self) -> None:
        unpack, buf, wanted = _FRAME.unpack_from, self.buf, _DATA
        while True:
            place, end = self.start, self.end
            frames, last = 0, end - 5
            while place <= last:
                kind, length = unpack(buf, place)
                if kind != wanted:
                    break
                place += 1 + length
                frames += 1
            self.rows += frames
            if place > end:
                self._send(self.view[self.start : end])
                self._through(place - end)
                continue
            if place > self.start:
                self._send(self.view[self.start : place])
                self.start = place
            if end - place < 5:
                self._fill()
            elif buf[place] == _DONE:
                self._message()
                return
            else:
                self._aside()

    def _through(self, left: int) -> None:
        """Pass on the rest of a frame that is longer than what was received of it."""
        self.start = self.end = 0
        while left:
            count = self._receive(self.view[: min(left, SIZE)])
            self._send(self.view[:count])
            left -= count

    def _expect(self, kind: int) -> bytes:
        """Body of the next message, which is to be of this kind."""
        while True:
            while self.end - self.start < 5:
                self._fill()
            if self.buf[self.start] == kind:
                return self._message()
            self._aside()

    def _aside(self) -> None:
        """Take a message that is not part of the rows. Raises psycopg's error when it is one, or when it cannot be here."""
        kind = self.buf[self.start]
        if kind != _ERROR and kind not in _ASIDE:
            raise session.psycopg.OperationalError(f"unexpected message {chr(kind)!r} from the source while rows moved")
        body = self._message()
        if kind == _ERROR:
            raise _error(body)

    def _message(self) -> bytes:
        """Body of the message at the start of the buffer, all of it; the rows' own frames never come here."""
        length = _HEADER.unpack_from(self.buf, self.start)[0] - 4
        if not 0 <= length <= _LONGEST_ASIDE:
            raise session.psycopg.OperationalError("the source's messages cannot be told apart")
        self.start += 5
        body = bytearray()
        while len(body) < length:
            if self.start == self.end:
                self._fill()
            taken = self.view[self.start : min(self.end, self.start + length - len(body))]
            body += taken
            self.start += len(taken)
        return bytes(body)

    def _fill(self) -> None:
        """Receive more, after what is left."""
        left = self.end - self.start
        self.buf[:left] = self.buf[self.start : self.end]
        self.start, self.end = 0, left
        self.end += self._receive(self.view[left:])

    def _receive(self, room: memoryview) -> int:
        self._tell()
        while True:
            try:
                count = self.ours.recv_into(room)
            except BlockingIOError:
                if any(descriptor == self.theirs.fileno() for descriptor, _event in self.reading.poll(1000)):
                    self._heed()
                self._tell()
                continue
            if not count:
                raise session.psycopg.OperationalError("server closed the connection unexpectedly while rows moved")
            return count

    def _send(self, data: memoryview) -> None:
        self.sent += len(data)
        while data:
            try:
                data = data[self.theirs.send(data) :]
            except BlockingIOError:
                if any(event & ~select.POLLOUT for _descriptor, event in self.writing.poll(1000)):
                    self._heed()
                self._tell()
            except OSError as error:
                # Its last words may still be there to be read.
                raise TargetSpokeError from error

    def _heed(self) -> None:
        """Take what the target says aside. Raises TargetSpokeError when it is something else, which stays to be read."""
        try:
            head = self.theirs.recv(5, socket.MSG_PEEK)
            if len(head) == 5 and head[0] in _ASIDE:
                left = 1 + _HEADER.unpack(head)[0]
                while left:
                    try:
                        left -= len(self.theirs.recv(left))
                    except BlockingIOError:
                        select.select([self.theirs], [], [], 1.0)
                return
        except BlockingIOError:
            return
        except OSError as error:
            raise TargetSpokeError from error
        if len(head) == 5 or not head:
            raise TargetSpokeError

    def _tell(self) -> None:
        now = time.monotonic()
        if now > self.due:
            self.due = now + 1.0
            self.on_move(self.sent, self.rows)
            # Also when neither side ever waits: a target that has failed takes and drops everything.
            self._heed()


def _error(body: bytes) -> Exception:
    """psycopg's error of an ErrorResponse."""
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    text = f"{fields.get(b'S', 'ERROR')}:  {fields.get(b'M', '')}"
    if b"D" in fields:
        text += f"\nDETAIL:  {fields[b'D']}"
    try:
        kind: type[session.psycopg.Error] = session.psycopg.errors.lookup(fields.get(b"C", ""))
    except KeyError:
        kind = session.psycopg.DatabaseError
    return kind(text)
