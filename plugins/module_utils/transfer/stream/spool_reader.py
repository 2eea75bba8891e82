# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reading the spool: whole transactions, while another process writes them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import TransferError
from . import records
from .pgoutput import lsn_text
from .records import BEGIN, COMMIT, DESCRIPTIONS, Tail

_TAIL_ATTEMPTS = 50
_POLL_SECONDS = 0.005


class Reader:
    """Hands out whole transactions in the order of their commits. Any number of them may read a folder, also before there is anything in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tail_file = self._descriptor = -1
        self._segment = self._offset = 0
        self._generation = -1
        # End of the last transaction that was handed out.
        self._passed = 0
        # Descriptions that were sent before the place we read from, and that the sender will not repeat.
        self._described: dict[bytes, tuple[int, bytes]] = {}
        # The tail that was last read up to.
        self._seen: Tail | None = None

    def seek(self, applied: int) -> None:
        """Go to the first transaction whose Commit.end_lsn is above a position (an end of a transaction, or where a slot began).

        Raises TransferError of kind spool_gap when the spool begins above it, spool_damaged when it cannot be read.
        """
        self._passed, self._described = applied, {}
        self._leave()
        tail = self._tail()
        if tail is None:
            return
        known = [segment for segment in records.segments(self.folder) if segment <= tail.segment]
        places = [segment for segment in known if segment <= applied]
        if not known:
            return
        if not places:
            raise TransferError(
                f"the spool in {self.folder} begins at {lsn_text(known[0])}, and changes since {lsn_text(applied)} are wanted: those in between are gone",
                "Copy the tables again under a new slot, or put the missing segments back.",
                kind="spool_gap",
                begins=lsn_text(known[0]),
                wanted=lsn_text(applied),
            )
        self._enter(places[-1])
        self._generation = tail.generation
        while not self._find(applied, tail):
            if self._segment == tail.segment:
                return
            self._next()

    def _find(self, applied: int, tail: Tail) -> bool:
        """Go to the transaction within this segment, else to its end; whether it is here."""
        end = self._end(tail)
        for place, position, data in records.scan(self._descriptor, self._offset, end):
            kind = data[0]
            if kind == BEGIN and records.begin_final(data) >= applied:
                return True
            if kind in DESCRIPTIONS:
                self._described[data[:5]] = (position, data)
            self._offset = place
        if self._offset != end:
            raise self._damaged(self._offset)
        return False

    def transactions(self) -> Iterator[tuple[int, bytes]]:
        """(position, message) of each message of the whole transactions that are there now, from where the last one handed out to its end was.

        A transaction whose Commit was not taken from the iterator comes again, from its Begin, in the next one. After a seek, descriptions (Relation,
        Type) that were sent earlier and still hold follow the first Begin.
        Raises TransferError of kind spool_damaged, or spool_cut when the writer has had to take back what was being read: begin again with seek.
        """
        tail = self._seen = self._tail()
        if tail is None:
            return
        if self._descriptor < 0 or tail.generation != self._generation:
            self.seek(self._passed)
            if self._descriptor < 0:
                return
        while True:
            end = self._end(tail)
            at, inside = self._offset, False
            for place, position, data in records.scan(self._descriptor, at, end):
                at = place
                kind = data[0]
                if kind == BEGIN:
                    inside = True
                    yield position, data
                    yield from self._described.values()
                    continue
                if kind == COMMIT:
                    inside = False
                    self._offset, self._passed = at, records.commit_end(data)
                    self._described = {}
                elif not inside:
                    # The head of a segment, which whoever has read the one before knows.
                    self._offset = at
                    continue
                yield position, data
            if at != end:
                raise self._damaged(at)
            if self._segment == tail.segment:
                return
            self._next()

    def spooled(self) -> int:
        """Position below which everything is in the spool; 0 when there is none."""
        tail = self._tail()
        return tail.spooled if tail else 0

    def wait(self, seconds: float) -> bool:
        """Wait until there is something that the last :meth:`transactions` did not see, a transaction or a position; False after this time without."""
        deadline = time.monotonic() + seconds
        while self._tail() == self._seen:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(_POLL_SECONDS, left))
        return True

    def close(self) -> None:
        """Let go of the files."""
        self._leave()
        if self._tail_file >= 0:
            os.close(self._tail_file)
            self._tail_file = -1

    def _tail(self) -> Tail | None:
        if self._tail_file < 0:
            try:
                self._tail_file = os.open(self.folder / "tail", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        for _unused in range(_TAIL_ATTEMPTS):
            found = records.read_tail(self._tail_file)
            if found:
                return found
            if not os.fstat(self._tail_file).st_size:
                return None
            time.sleep(0.001)
        # Torn when the machine stopped: the writer mends it when it opens the spool.
        return None

    def _end(self, tail: Tail) -> int:
        return tail.offset if self._segment == tail.segment else os.fstat(self._descriptor).st_size

    def _enter(self, segment: int) -> None:
        self._leave()
        try:
            self._descriptor = os.open(records.path_of(self.folder, segment), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise self._damaged(0, segment) from error
        self._segment, self._offset = segment, 0

    def _leave(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _next(self) -> None:
        """Go to the beginning of the segment that follows this one."""
        before = self._segment, self._offset
        following = [segment for segment in records.segments(self.folder) if segment > self._segment]
        if not following:
            raise self._damaged(self._offset)
        self._enter(following[0])
        head = next(records.scan(self._descriptor, 0, os.fstat(self._descriptor).st_size), None)
        if head is None or records.follows(head[2]) != before:
            raise self._damaged(0)

    def _damaged(self, offset: int, segment: int | None = None) -> TransferError:
        tail = self._tail()
        name = records.path_of(self.folder, self._segment if segment is None else segment).name
        if tail is not None and tail.generation != self._generation:
            return TransferError(
                f"the writer of the spool in {self.folder} took back what could not be written to disk",
                "Seek and read on.",
                kind="spool_cut",
            )
        return TransferError(
            f"the spool is damaged: {name} in {self.folder} cannot be read from byte {offset} on",
            "Look at the disk. The sending server does not have these changes any more: copy the tables again under a new slot.",
            kind="spool_damaged",
            segment=name,
            offset=offset,
        )
