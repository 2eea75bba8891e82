"""Relations, shapes and messages made by hand, for the tests of the change stream."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.catalog import Column, Table
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.facts import (
    TEXT,
    ColumnFact,
    Facts,
    KeyColumn,
    KeyIndex,
    Receiving,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import (
    NULL,
    Relation,
    RelationColumn,
    TypeName,
    Value,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.shapes import Route, Shape, shape

TYPES = {20: "int8", 23: "int4", 25: "text", 1043: "varchar", 1700: "numeric", 16: "bool", 3802: "jsonb"}
ALL = Selection.from_args()


def val(text: str | None) -> bytes:
    """A value as a message has it."""
    return NULL if text is None else struct.pack(">i", len(text.encode())) + text.encode()


def row(*texts: str | None) -> list[Value]:
    """A row; ``...`` is not needed: None is NULL."""
    return [val(text) for text in texts]


def encoded(values: Sequence[Value]) -> bytes:
    """A row inside a message."""
    parts = [b"u" if value is None else b"n" if value == NULL else b"t" + value for value in values]
    return struct.pack(">H", len(values)) + b"".join(parts)


def insert(oid: int, new: Sequence[Value]) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + encoded(new)


def update(oid: int, new: Sequence[Value], key: Sequence[Value] | None = None, old: Sequence[Value] | None = None) -> bytes:
    before = b"K" + encoded(key) if key is not None else b"O" + encoded(old) if old is not None else b""
    return b"U" + struct.pack(">I", oid) + before + b"N" + encoded(new)


def delete(oid: int, key: Sequence[Value] | None = None, old: Sequence[Value] | None = None) -> bytes:
    return b"D" + struct.pack(">I", oid) + (b"K" + encoded(key) if key is not None else b"O" + encoded(old or ()))


def truncate(*oids: int, cascade: bool = False, restart: bool = False) -> bytes:
    return b"T" + struct.pack(">iB", len(oids), cascade | restart << 1) + struct.pack(f">{len(oids)}I", *oids)


def begin(final: int, xid: int = 7) -> bytes:
    return b"B" + struct.pack(">QqI", final, 5, xid)


def commit(final: int, end: int) -> bytes:
    return b"C\0" + struct.pack(">QQq", final, end, 5)


def message(prefix: str, content: str, *, transactional: bool = True, lsn: int = 99) -> bytes:
    body = content.encode()
    return b"M" + struct.pack(">BQ", transactional, lsn) + prefix.encode() + b"\0" + struct.pack(">i", len(body)) + body


def described(relation: Relation) -> bytes:
    """The message of a relation."""
    schema = b"" if relation.schema == "pg_catalog" else relation.schema.encode()
    head = b"R" + struct.pack(">I", relation.oid) + schema + b"\0" + relation.name.encode() + b"\0" + relation.identity.encode()
    columns = [
        bytes([column.key]) + column.name.encode() + b"\0" + struct.pack(">Ii", column.type_oid, column.modifier)
        for column in relation.columns
    ]
    return head + struct.pack(">H", len(columns)) + b"".join(columns)


def relation(
    *columns: tuple[str, int] | tuple[str, int, int], key: Sequence[str] = ("id",), identity: str = "d", name: str = "t"
) -> Relation:
    """Columns as (name, type) or (name, type, modifier)."""
    made = [RelationColumn(one[0], one[1], one[2] if len(one) > 2 else -1, one[0] in key or identity == "f") for one in columns]
    return Relation(16400, "public", name, identity, tuple(made))


def received(
    *columns: tuple[str, int] | tuple[str, int, int],
    key: Sequence[str] = ("id",),
    name: str = "t",
    schema: str = "public",
    kind: str = "r",
    firing: Sequence[str] = (),
    identity: Mapping[str, str] | None = None,
    generated: Sequence[str] = (),
    not_null: Sequence[str] = (),
    lookup: Sequence[str] = (),
    user: Mapping[str, tuple[str, str]] | None = None,
    extension: bool = False,
) -> Receiving:
    """A table of the receiver. user: types by column that are not built in; lookup: columns of an index that is not unique."""
    found, facts = [], {}
    for position, one in enumerate(columns):
        base = (user or {}).get(one[0]) or ("pg_catalog", TYPES[one[1]])
        facts[one[0]] = ColumnFact(one[0], one[1], base, one[2] if len(one) > 2 else -1, extension, TEXT)
        computed = "s" if one[0] in generated else ""
        column = Column(
            one[0], base[1], ".".join(base), "b", "", "", one[0] in not_null, computed, (identity or {}).get(one[0], ""), "", position
        )
        found.append(column)
    indexes = []
    if key:
        indexes.append(KeyIndex("t_pkey", True, True, tuple(KeyColumn(one, ("pg_catalog", "="), None) for one in key)))
    if lookup:
        indexes.append(KeyIndex("t_idx", False, False, tuple(KeyColumn(one, ("pg_catalog", "="), None) for one in lookup)))
    table = Table(1, schema, name, kind, tuple(found), tuple(key), "primary" if key else "", None, False, -1, 0, 0, (), "p", "")
    return Receiving(table, facts, tuple(indexes), tuple(firing))


def shaped(
    sent: Relation,
    there: Receiving,
    *,
    types: Mapping[int, TypeName] | None = None,
    selection: Selection = ALL,
    route: Route | None = None,
    forward: bool = True,
    known: bool = True,
) -> Shape:
    """The shape of the one for the other."""
    name = sent.schema, sent.name
    columns = {column.name: selection.target_column(*name, column.name) for column in sent.columns}
    facts = Facts({there.table.full_name: there}, {oid: ("pg_catalog", type_name) for oid, type_name in TYPES.items()})
    return shape(
        sent,
        types or {},
        facts,
        selection,
        route or Route(name, selection.target_name(*name), columns),
        forward=forward,
        known=known,
        type_name=lambda oid, modifier: TYPES[oid] if modifier < 0 else f"{TYPES[oid]}({modifier})",
    )


def simple(*columns: Any, **more: Any) -> Shape:
    """A shape of the same columns on both sides."""
    identity = more.pop("sent_identity", "d")
    key = more.get("key", ("id",))
    return shaped(relation(*columns, key=key, identity=identity), received(*columns, **more))
