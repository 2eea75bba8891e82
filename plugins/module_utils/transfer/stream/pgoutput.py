# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Messages of the logical replication protocol, version 1 of pgoutput, decoded to slices of the record. Pure.

Layout: PostgreSQL documentation, "Logical Replication Message Formats"; checked against servers of majors 14 to 18 by the integration tests.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import TransferError

Value: TypeAlias = "bytes | None"
"""A column as the message has it: int32 length and bytes; :data:`NULL`; None for a value out of line that the update left alone."""

NULL = b"\xff\xff\xff\xff"
IDENTITIES = {"d": "default", "n": "nothing", "f": "full", "i": "index"}

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_BEGIN = struct.Struct(">QqI").unpack_from
_COMMIT = struct.Struct(">QQq").unpack_from
_OID = struct.Struct(">I").unpack_from
_LENGTH = struct.Struct(">i").unpack_from
_COUNT = struct.Struct(">H").unpack_from
_ATTRIBUTE = struct.Struct(">Ii").unpack_from
_TEXT, _ABSENT, _UNCHANGED = b"tnu"
_NEW, _KEY, _OLD = b"NKO"


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """type_oid, modifier: of the sender; key: belongs to the replica identity (all do when that is full)."""

    name: str
    type_oid: int
    modifier: int
    key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the sender has it from now on. identity: d (default), n (nothing), f (full) or i (index)."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]

    @property
    def dotted(self) -> str:
        """``schema.table`` for messages and results."""
        return f"{self.schema}.{self.name}"


@dataclass(slots=True)
class Begin:
    """final_lsn: where the commit record starts; commit_time: microseconds since 2000-01-01 UTC."""

    final_lsn: int
    commit_time: int
    xid: int


@dataclass(slots=True)
class Commit:
    """lsn: where the commit record starts; end_lsn: behind it; commit_time: microseconds since 2000-01-01 UTC."""

    lsn: int
    end_lsn: int
    commit_time: int


@dataclass(slots=True)
class Insert:
    """relation: its oid; new: one value per column of the relation."""

    relation: int
    new: list[Value]


@dataclass(slots=True)
class Update:
    """key: old values of the replica identity when they changed; old: the whole old row with identity full; neither: the key is in new."""

    relation: int
    key: list[Value] | None
    old: list[Value] | None
    new: list[Value]


@dataclass(slots=True)
class Delete:
    """key: values of the replica identity, NULL elsewhere; old: the whole row with identity full."""

    relation: int
    key: list[Value] | None
    old: list[Value] | None


@dataclass(slots=True)
class Truncate:
    """relations: their oids; restart: RESTART IDENTITY."""

    relations: tuple[int, ...]
    cascade: bool
    restart: bool


@dataclass(slots=True)
class Message:
    """A message of pg_logical_emit_message. A transactional one stands inside its transaction."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


@dataclass(slots=True)
class TypeName:
    """A type that is not built in. For a domain the name is that of the type under all its domains. schema: pg_catalog is spelled out."""

    oid: int
    schema: str
    name: str


@dataclass(slots=True)
class Origin:
    """Where the transaction came from before it reached the sender."""

    lsn: int
    name: str


Change: TypeAlias = "Insert | Update | Delete"
Decoded: TypeAlias = "Begin | Commit | Relation | Insert | Update | Delete | Truncate | Message | TypeName | Origin"


def lsn_text(value: int) -> str:
    """``16/B374D848``."""
    return f"{value >> 32:X}/{value & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """Number of ``16/B374D848``. Raises TransferError of kind protocol."""
    found = _LSN.fullmatch(text)
    if not found:
        raise TransferError(f"{text!r} is no position of a log", "Give it as 16/B374D848.", kind="protocol")
    return int(found[1], 16) << 32 | int(found[2], 16)


def value_text(value: Value) -> str | None:
    """The text of a value; None for NULL and for one that is not in the message."""
    return None if value is None or value == NULL else value[4:].decode(errors="replace")


def row_at(data: bytes, at: int) -> tuple[list[Value], int]:
    """(values of the row that begins at ``at``, the place behind it). Raises TransferError, struct.error or IndexError."""
    (count,) = _COUNT(data, at)
    at += 2
    values: list[Value] = []
    add, length = values.append, _LENGTH
    for _unused in range(count):
        kind = data[at]
        at += 1
        if kind == _TEXT:
            start = at
            at = start + 4 + length(data, start)[0]
            add(data[start:at])
        elif kind == _ABSENT:
            add(NULL)
        elif kind == _UNCHANGED:
            add(None)
        else:
            raise _refused(data, f"a value of form {chr(kind)!r}, expected text")
    return values, at


def begin_facts(data: bytes) -> tuple[int, int, int]:
    """(final_lsn, commit_time, xid) of a Begin, for those who read very many."""
    return _BEGIN(data, 1)


def commit_end(data: bytes) -> int:
    """``end_lsn`` of a Commit."""
    end: int = _COMMIT(data, 2)[1]
    return end


def decode(data: bytes) -> Decoded:
    """One message. Raises TransferError of kind protocol for what version 1 does not have, and for one that is cut short or too long."""
    try:
        return _DECODERS[data[0]](data)
    except KeyError as error:
        raise _refused(data, "a message of a type that version 1 of the protocol does not have") from error
    except (struct.error, IndexError, ValueError) as error:
        raise _refused(data, f"a message that does not fit its own lengths ({error})") from error


def decode_change(data: bytes) -> Change:
    """One insert, update or delete. Raises as :func:`decode`."""
    try:
        return _CHANGES[data[0]](data)
    except (struct.error, IndexError, ValueError) as error:
        raise _refused(data, f"a message that does not fit its own lengths ({error})") from error


def _refused(data: bytes, found: str) -> TransferError:
    return TransferError(
        f"the sender's stream holds {found}: type {data[:1]!r}, {len(data)} bytes",
        "Report this as a fault of cutover.hetzner, with the version of the sending server.",
        kind="protocol",
    )


def _whole(data: bytes, end: int) -> None:
    if end != len(data):
        raise ValueError(f"it ends at {end} of {len(data)}")


def _begin(data: bytes) -> Begin:
    _whole(data, 21)
    return Begin(*_BEGIN(data, 1))


def _commit(data: bytes) -> Commit:
    _whole(data, 26)
    return Commit(*_COMMIT(data, 2))


def _insert(data: bytes) -> Insert:
    if data[5] != _NEW:
        raise ValueError("an insert without a new row")
    new, end = row_at(data, 6)
    if end != len(data):
        _whole(data, end)
    return Insert(_OID(data, 1)[0], new)


def _update(data: bytes) -> Update:
    key = old = None
    kind, at = data[5], 6
    if kind == _KEY:
        key, at = row_at(data, 6)
        kind, at = data[at], at + 1
    elif kind == _OLD:
        old, at = row_at(data, 6)
        kind, at = data[at], at + 1
    if kind != _NEW:
        raise ValueError("an update without a new row")
    new, end = row_at(data, at)
    if end != len(data):
        _whole(data, end)
    return Update(_OID(data, 1)[0], key, old, new)


def _delete(data: bytes) -> Delete:
    kind = data[5]
    values, end = row_at(data, 6)
    _whole(data, end)
    if kind == _KEY:
        return Delete(_OID(data, 1)[0], values, None)
    if kind != _OLD:
        raise ValueError("a delete without an old row")
    return Delete(_OID(data, 1)[0], None, values)


def _truncate(data: bytes) -> Truncate:
    count, options = _LENGTH(data, 1)[0], data[5]
    relations = struct.unpack_from(f">{count}I", data, 6)
    _whole(data, 6 + 4 * count)
    return Truncate(relations, bool(options & 1), bool(options & 2))


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _name(data: bytes, at: int) -> tuple[str, str, int]:
    """(schema, name, place behind). An empty schema means pg_catalog."""
    schema, at = _string(data, at)
    name, at = _string(data, at)
    return schema or "pg_catalog", name, at


def _relation(data: bytes) -> Relation:
    schema, name, at = _name(data, 5)
    identity, (count,) = chr(data[at]), _COUNT(data, at + 1)
    if identity not in IDENTITIES:
        raise ValueError(f"replica identity {identity!r}")
    at += 3
    columns = []
    for _unused in range(count):
        key = bool(data[at] & 1)
        column, at = _string(data, at + 1)
        oid, modifier = _ATTRIBUTE(data, at)
        columns.append(RelationColumn(column, oid, modifier, key))
        at += 8
    _whole(data, at)
    return Relation(_OID(data, 1)[0], schema, name, identity, tuple(columns))


def _type(data: bytes) -> TypeName:
    schema, name, at = _name(data, 5)
    _whole(data, at)
    return TypeName(_OID(data, 1)[0], schema, name)


def _message(data: bytes) -> Message:
    prefix, at = _string(data, 10)
    content = data[at + 4 : at + 4 + _LENGTH(data, at)[0]]
    _whole(data, at + 4 + _LENGTH(data, at)[0])
    return Message(bool(data[1] & 1), int.from_bytes(data[2:10]), prefix, content)


def _origin(data: bytes) -> Origin:
    name, at = _string(data, 9)
    _whole(data, at)
    return Origin(int.from_bytes(data[1:9]), name)


_CHANGES: dict[int, Callable[[bytes], Change]] = {ord("I"): _insert, ord("U"): _update, ord("D"): _delete}
_DECODERS: dict[int, Callable[[bytes], Decoded]] = {
    **_CHANGES,
    ord("B"): _begin,
    ord("C"): _commit,
    ord("T"): _truncate,
    ord("R"): _relation,
    ord("Y"): _type,
    ord("M"): _message,
    ord("O"): _origin,
}
