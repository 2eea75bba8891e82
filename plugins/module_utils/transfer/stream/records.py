# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The spool's files byte by byte: records of a segment, the tail that readers follow, the mark that is safe on disk.

A segment is a row of records: length of the data, crc32 of position and data, position, data. Its name is the position below which everything was
spooled before it; its first record says which segment it follows and where that one ended. After that come the descriptions (Relation, Type) that
the sender will not repeat, so that every segment can be read without those before it, then whole transactions.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

HEADER = struct.Struct(">IIQ")
POSITION = struct.Struct(">Q")
BLOCK = 1024 * 1024
# PostgreSQL cannot send more than this in one message; a longer record is damage.
_LONGEST = 1 << 30
# First byte of the data. START is ours, the others are pgoutput's.
START, BEGIN, COMMIT, RELATION, TYPE, MESSAGE = b"\0BCRYM"
DESCRIPTIONS = frozenset((RELATION, TYPE))
_START = struct.Struct(">BQQ")
_TAIL = struct.Struct(">QQQII")
_MARK = struct.Struct(">QQQQI")
# Two marks, each in a disk sector of its own: a crash in the middle of writing one leaves the other.
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Tail:
    """How far readers may go: the end of the last whole transaction, and the position below which everything is spooled.

    segment: its name as a number; offset: in it; generation: changes when what readers have seen was cut off again
    """

    segment: int
    offset: int
    spooled: int
    generation: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What is safe on disk. commit: end of the last whole transaction, at most spooled."""

    segment: int
    offset: int
    spooled: int
    commit: int


def record(position: int, data: bytes) -> bytes:
    """A record. Pure."""
    return HEADER.pack(len(data), crc32(data, crc32(POSITION.pack(position))), position) + data


def start(segment: int, previous: int, end: int) -> bytes:
    """First record of a segment that follows ``previous``, whose last transaction ends at offset ``end``. Pure."""
    return record(segment, _START.pack(START, previous, end))


def follows(data: bytes) -> tuple[int, int]:
    """(previous segment, its end) of a segment's first record. Pure."""
    if len(data) != _START.size or data[0] != START:
        return -1, -1
    _kind, previous, end = _START.unpack(data)
    return previous, end


def commit_end(data: bytes | memoryview) -> int:
    """``Commit.end_lsn``. Pure."""
    return int(POSITION.unpack_from(data, 10)[0])


def begin_final(data: bytes | memoryview) -> int:
    """``Begin.final_lsn``: where the commit record starts. Pure."""
    return int(POSITION.unpack_from(data, 1)[0])


def scan(descriptor: int, offset: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """(offset after it, position, data) of each record between two offsets; ends early at the first one that is torn or damaged."""
    unpack, head, check = HEADER.unpack_from, HEADER.size, crc32
    wanted = BLOCK
    while end - offset >= head:
        block = os.pread(descriptor, min(wanted, end - offset), offset)
        at, size = 0, len(block)
        while size - at >= head:
            length, crc, position = unpack(block, at)
            stop = at + head + length
            if stop > size:
                break
            if check(block[at + 8 : stop]) != crc or not length:
                return
            yield offset + stop, position, block[at + head : stop]
            at = stop
        if not at:
            # The first record is longer than a block, or the file ends before it does.
            if size < head or length > _LONGEST or offset + stop > end or wanted >= stop:
                return
            wanted = stop
            continue
        wanted = BLOCK
        offset += at


def segments(folder: Path) -> list[int]:
    """Names of the segments as numbers, in order."""
    return sorted(int(path.stem, 16) for path in folder.glob("*.seg"))


def path_of(folder: Path, segment: int) -> Path:
    """File of a segment."""
    return folder / f"{segment:016X}.seg"


def read_tail(descriptor: int) -> Tail | None:
    """The tail, None where it is torn: it is written now, or was when the machine stopped."""
    data = os.pread(descriptor, _TAIL.size, 0)
    if len(data) != _TAIL.size:
        return None
    *values, crc = _TAIL.unpack(data)
    return Tail(*values) if crc32(data[:-4]) == crc else None


def write_tail(descriptor: int, tail: Tail) -> None:
    """Let readers see it."""
    body = _TAIL.pack(tail.segment, tail.offset, tail.spooled, tail.generation, 0)[:-4]
    os.pwrite(descriptor, body + crc32(body).to_bytes(4), 0)


def read_marks(descriptor: int) -> list[Mark | None]:
    """Both marks, None for one that is torn or was never written."""
    found: list[Mark | None] = []
    for place in (0, _SECTOR):
        data = os.pread(descriptor, _MARK.size, place)
        valid = len(data) == _MARK.size and crc32(data[:-4]).to_bytes(4) == data[-4:]
        found.append(Mark(*_MARK.unpack(data)[:-1]) if valid else None)
    return found


def write_mark(descriptor: int, place: int, mark: Mark) -> None:
    """Write the first (0) or the second (1) mark and bring it to disk."""
    body = _MARK.pack(mark.segment, mark.offset, mark.spooled, mark.commit, 0)[:-4]
    os.pwrite(descriptor, body + crc32(body).to_bytes(4), place * _SECTOR)
    os.fdatasync(descriptor)
