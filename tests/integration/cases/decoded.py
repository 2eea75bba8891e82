"""What a logical slot has to say, decoded by itself: the engine that is tested has no part in it. Messages of pgoutput, version 1."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

Row = tuple[str | None, ...]
Rows = dict[str, Row]
"""{key: row}, everything as text; the key is the first column."""


@dataclass(frozen=True)
class Change:
    """A change of a row. commit: where the record of its transaction's commit starts; key: None for an insert; row: None for a delete."""

    commit: int
    table: int
    key: str | None
    row: Row | None


def position(lsn: str) -> int:
    """A position as a number."""
    high, _unused, low = lsn.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def changes(conn: psycopg.Connection[Any], slot: str, publication: str) -> list[Change]:
    """Everything that is behind a slot, which stays as it is. Tables must have keys of one column that never change."""
    # A commit that is waited for brings those before it to the log, too.
    conn.execute("SET synchronous_commit = on")
    conn.execute("SELECT pg_logical_emit_message(true, 'test', '')")
    rows = conn.execute(
        "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL, 'proto_version', '1', 'publication_names', %s)",
        (slot, publication),
    )
    return list(_decoded(bytes(data) for (data,) in rows))


def _decoded(messages: Iterator[bytes]) -> Iterator[Change]:
    commit = 0
    for data in messages:
        kind = data[:1]
        if kind == b"B":
            commit = struct.unpack_from("!Q", data, 1)[0]
        elif kind in (b"I", b"U", b"D"):
            table, first = struct.unpack_from("!Ic", data, 1)
            row, _end = _tuple(data, 6)
            if kind == b"D":
                yield Change(commit, table, row[0], None)
            else:
                assert first == b"N", "a key has changed"
                yield Change(commit, table, None if kind == b"I" else row[0], row)
        else:
            assert kind in (b"C", b"R", b"O", b"Y", b"M"), kind


def _tuple(data: bytes, place: int) -> tuple[Row, int]:
    (count,) = struct.unpack_from("!H", data, place)
    place += 2
    values: list[str | None] = []
    for _unused in range(count):
        kind = data[place : place + 1]
        place += 1
        if kind == b"n":
            values.append(None)
            continue
        assert kind == b"t", "a value was left out"
        (length,) = struct.unpack_from("!I", data, place)
        values.append(data[place + 4 : place + 4 + length].decode())
        place += 4 + length
    return tuple(values), place


def applied(rows: Rows, heard: list[Change], table: int, belongs: Callable[[int], bool]) -> Rows:
    """A table after those changes whose commit belongs. Pure."""
    found = dict(rows)
    for change in heard:
        if change.table != table or not belongs(change.commit):
            continue
        if change.row is None:
            del found[str(change.key)]
        else:
            key = str(change.row[0])
            assert (key in found) is (change.key is not None), "the changes do not belong to these rows"
            found[key] = change.row
    return found


def read(conn: psycopg.Connection[Any], table: str) -> Rows:
    """What a table holds."""
    rows = conn.execute(f"SELECT id::text, a::text, b FROM ONLY {table}").fetchall()
    return {row[0]: tuple(row) for row in rows}
