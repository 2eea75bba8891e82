# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The spool: what the sending database said, on the mover's disk until it is applied, and for a while after.

One process writes (:class:`Writer`), others read (:class:`Reader`). Readers see whole transactions only. Whatever happens to the writer or the
machine, opening it again leaves every whole transaction that :meth:`Writer.sync` had returned for, and never a part of one.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

from ..errors import TransferError
from . import files, records
from .pgoutput import lsn_text
from .records import BEGIN, COMMIT, DESCRIPTIONS, HEADER, MESSAGE, POSITION, START, Mark, Tail
from .spool_keeping import remove_applied, usage
from .spool_reader import Reader

__all__ = ["Reader", "Writer", "remove_applied", "usage"]

VERSION = 1
SEGMENT_BYTES = 64 * 1024 * 1024
BLOCK_BYTES = 256 * 1024
# Of a transaction that does not end, so that its end need not bring all of it to disk at once.
_SYNC_BYTES = 64 * 1024 * 1024
_SPECIAL = frozenset((BEGIN, COMMIT, *DESCRIPTIONS))


class Writer:
    """Takes in what the sender says, in its order. One at a time for a folder.

    spooled: everything below it has been taken in; synced: the same, safe on disk
    commit: end of the last whole transaction, where there is none the beginning; transactions: taken in by this writer
    inside: whether a transaction has begun and not ended
    After an error it is of no use any more: close it and open another.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any], *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open the spool of a sender, or begin one; what was not whole is cut off.

        meta: ``{"system", "database", "slot"}`` of the sender
        Raises TransferError of kind other_spool, spool_in_use, disk_full or disk.
        """
        self.folder, self._segment_bytes = folder, segment_bytes
        self._buffer = bytearray()
        # Descriptions of this session of the sender, by first byte and oid.
        self._described: dict[bytes, bytes] = {}
        self._behind: list[int] = []
        self._descriptor = self._tail_file = self._mark_file = -1
        self._broken = self._new = False
        self._base = self._unsynced = 0
        self.transactions = 0
        self.inside = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(folder)
        except OSError as error:
            raise files.explained(error, "opening the spool", folder) from error
        try:
            _introduce(folder, meta)
            self._open()
        except OSError as error:
            self.close()
            raise files.explained(error, "opening the spool", folder) from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._tail_file = os.open(self.folder / "tail", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._mark_file = os.open(self.folder / "synced", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        marks, before = records.read_marks(self._mark_file), records.read_tail(self._tail_file)
        found = _recover(self.folder, marks)
        if found and before and (before.segment, before.offset) == (found.segment, found.offset):
            found = replace(found, spooled=max(found.spooled, before.spooled))
        self._marked = found or Mark(0, 0, 0, 0)
        # The older one is written over next, so that the newer one stays whole meanwhile.
        self._next_mark = 0 if marks[0] is None or (marks[1] is not None and marks[0].spooled <= marks[1].spooled) else 1
        self._segment, self._whole, self.spooled, self.commit = (
            self._marked.segment,
            self._marked.offset,
            self._marked.spooled,
            self._marked.commit,
        )
        self.synced = 0
        self._generation = before.generation if before else int(time.time()) & 0xFFFFFFFF
        if before and found and (found.segment, found.offset) < (before.segment, before.offset):
            self._generation = (self._generation + 1) & 0xFFFFFFFF
        self._shown: Tail | None = None
        if found:
            self._descriptor = os.open(records.path_of(self.folder, found.segment), os.O_RDWR | os.O_CLOEXEC)
            os.lseek(self._descriptor, found.offset, os.SEEK_SET)
            self._base = found.offset
            records.write_mark(self._mark_file, self._next_mark, found)
            self._next_mark = 1 - self._next_mark
            self.synced = found.spooled
        files.sync_folder(self.folder)
        self.flush()

    def append(self, position: int, data: bytes | memoryview) -> None:
        """Take in a message. position: of it in the log. Buffered: neither readers nor a crash know of it before :meth:`flush` or :meth:`sync`.

        Raises TransferError of kind protocol for messages in an order that no sender has, disk_full or disk.
        """
        kind = data[0]
        if not self.inside:
            if kind != BEGIN:
                # A message outside of a transaction is for nobody here, and moves no position: keepalives do.
                if kind != MESSAGE:
                    raise self._disorder(f"a message of type {chr(kind)!r} outside of a transaction")
                return
            self._begin(data)
        elif kind == BEGIN:
            raise self._disorder("a transaction inside of another one")
        length = len(data)
        buffer = self._buffer
        buffer += HEADER.pack(length, crc32(data, crc32(POSITION.pack(position))), position)
        buffer += data
        if kind in _SPECIAL:
            if kind == COMMIT:
                self.inside = False
                self.transactions += 1
                self.spooled = self.commit = records.commit_end(data)
                self._whole = self._base + len(buffer)
            elif kind in DESCRIPTIONS:
                kept = bytes(data)
                self._described[kept[:5]] = kept
        if len(buffer) >= BLOCK_BYTES:
            self._write()

    def _begin(self, data: bytes | memoryview) -> None:
        final = records.begin_final(data)
        if final < self.spooled:
            raise self._disorder(
                f"a transaction whose commit is at {lsn_text(final)}, below {lsn_text(self.spooled)} where everything was said to be known"
            )
        if self._descriptor < 0 or (self._base + len(self._buffer) >= self._segment_bytes and self.spooled > self._segment):
            self._rotate()
        self.inside = True

    def advance(self, position: int) -> None:
        """Take in that the sender has nothing more to say below a position. Nothing between Begin and Commit, and when it moves nothing.

        Only the tail and the mark say so, which are written over: an idle sender costs no room.
        """
        if self.inside or position <= self.spooled:
            return
        self.spooled = position
        if self._descriptor < 0:
            self.commit = position
            self._rotate()

    def flush(self) -> None:
        """Write, and let readers see whole transactions. Raises TransferError of kind disk_full or disk."""
        self._write()
        if self._descriptor < 0:
            return
        tail = Tail(self._segment, self._whole, self.spooled, self._generation)
        if tail == self._shown:
            return
        try:
            records.write_tail(self._tail_file, tail)
        except OSError as error:
            raise self._failed(error) from error
        self._shown = tail

    def sync(self) -> int:
        """Bring what was taken in to disk; the position that may be confirmed to the sender. Raises as :meth:`flush`."""
        self.flush()
        mark = Mark(self._segment, self._whole, self.spooled, self.commit)
        if mark == self._marked:
            return self.synced
        self._to_disk(mark)
        self._next_mark = 1 - self._next_mark
        self._marked, self.synced = mark, self.spooled
        return self.synced

    def _to_disk(self, mark: Mark | None) -> None:
        try:
            if self._new:
                files.sync_folder(self.folder)
                self._new = False
            while self._behind:
                os.fdatasync(self._behind[0])
                os.close(self._behind.pop(0))
            if self._unsynced:
                os.fdatasync(self._descriptor)
                self._unsynced = 0
            if mark:
                records.write_mark(self._mark_file, self._next_mark, mark)
        except OSError as error:
            # The system may have dropped what it could not write, and show it all the same: only what was safe before is believed.
            self._cut()
            raise self._failed(error) from error

    def close(self) -> None:
        """Let go of the files. What was not flushed is lost, and the sender says it again."""
        for descriptor in (self._descriptor, self._tail_file, self._mark_file, *self._behind, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._tail_file = self._mark_file = self._lock = -1
        self._behind = []
        self._broken = True

    def _write(self) -> None:
        if self._broken:
            raise TransferError("the spool's writer has failed or is closed", "Open it again.", kind="spool_closed")
        if not self._buffer:
            return
        data = memoryview(self._buffer)
        self._buffer = bytearray()
        try:
            while data:
                count = os.write(self._descriptor, data)
                self._base += count
                self._unsynced += count
                data = data[count:]
        except OSError as error:
            raise self._failed(error) from error
        if self.inside and self._unsynced >= _SYNC_BYTES:
            self._to_disk(None)

    def _rotate(self) -> None:
        """Begin a segment where the last whole transaction ends."""
        self._write()
        previous, end = self._segment, self._whole
        first = self._descriptor < 0
        try:
            descriptor = os.open(records.path_of(self.folder, self.spooled), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        if not first:
            self._behind.append(self._descriptor)
        self._descriptor, self._segment, self._base, self._new = descriptor, self.spooled, 0, True
        self._buffer += records.start(self._segment, *((0, 0) if first else (previous, end)))
        for data in self._described.values():
            self._buffer += records.record(self.spooled, data)
        self._whole = len(self._buffer)

    def _cut(self) -> None:
        """Take back what is not known to be safe, also from readers."""
        self._generation = (self._generation + 1) & 0xFFFFFFFF
        mark = self._marked
        try:
            _remove_after(self.folder, mark)
            records.write_tail(self._tail_file, Tail(mark.segment, mark.offset, mark.spooled, self._generation))
        except OSError:
            return

    def _failed(self, error: OSError) -> TransferError:
        self._broken = True
        return files.explained(error, "writing the spool", self.folder)

    def _disorder(self, what: str) -> TransferError:
        self._broken = True
        return TransferError(
            f"the sending server sent {what}", "Report this with the version of the server; nothing of it was applied.", kind="protocol"
        )


def _locked(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise TransferError(
            f"another process on this machine writes the spool in {folder}",
            f"Find it with fuser {folder / 'lock'}, and let only one of them run.",
            kind="spool_in_use",
        ) from error
    return descriptor


def _introduce(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write down whose spool this is, or raise TransferError of kind other_spool when it is another sender's."""
    path = folder / "meta.json"
    wanted = {**meta, "version": VERSION}
    found = files.load(path)
    if found is None and not records.segments(folder):
        files.replace(path, json.dumps(wanted) + "\n", durable=True)
    elif found != wanted:
        raise TransferError(
            f"the spool in {folder} is of {_told(found)}, not of {_told(wanted)}",
            "Give this stream a folder of its own. Move the old spool away only when nothing of it is wanted any more.",
            kind="other_spool",
            found=found,
            wanted=wanted,
        )


def _told(meta: Mapping[str, Any] | None) -> str:
    if meta is None:
        return "an unknown sender (meta.json is missing)"
    return f"slot {meta.get('slot')} of database {meta.get('database')} on server {meta.get('system')} (version {meta.get('version')})"


def _recover(folder: Path, marks: list[Mark | None]) -> Mark | None:
    """Cut off what is not whole, bring the rest to disk, and say where it ends; None for an empty spool."""
    known = records.segments(folder)
    sizes = {segment: records.path_of(folder, segment).stat().st_size for segment in known}
    usable = [mark for mark in marks if mark and mark.offset <= sizes.get(mark.segment, -1)]
    if usable:
        found = max(usable, key=lambda mark: (mark.spooled, mark.offset))
    elif known:
        found = Mark(known[0], 0, known[0], known[0])
    else:
        return None
    while True:
        found = _checked(folder, found, sizes[found.segment])
        following = next((segment for segment in known if segment > found.segment), None)
        if following is None or not _continues(folder, following, found, sizes[following]):
            _remove_after(folder, found)
            return found
        found = Mark(following, 0, max(found.spooled, following), found.commit)


def _checked(folder: Path, mark: Mark, size: int) -> Mark:
    """The end of the last whole transaction of a segment, from a place that is one."""
    offset, spooled, commit = mark.offset, mark.spooled, mark.commit
    descriptor = os.open(records.path_of(folder, mark.segment), os.O_RDWR | os.O_CLOEXEC)
    try:
        inside = False
        for place, _position, data in records.scan(descriptor, offset, size):
            kind = data[0]
            if kind == COMMIT:
                inside, offset = False, place
                spooled = commit = records.commit_end(data)
            elif kind == BEGIN:
                inside = True
            elif not inside and (kind == START or kind in DESCRIPTIONS):
                offset = place
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    return Mark(mark.segment, offset, spooled, commit)


def _continues(folder: Path, segment: int, end: Mark, size: int) -> bool:
    """Whether a segment begins where the one before it ends."""
    descriptor = os.open(records.path_of(folder, segment), os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = next(records.scan(descriptor, 0, size), None)
    finally:
        os.close(descriptor)
    return head is not None and records.follows(head[2]) == (end.segment, end.offset)


def _remove_after(folder: Path, mark: Mark) -> None:
    """Everything behind a place."""
    for segment in reversed(records.segments(folder)):
        if segment > mark.segment:
            records.path_of(folder, segment).unlink()
        elif segment == mark.segment:
            os.truncate(records.path_of(folder, segment), mark.offset)
