# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A table of the sender against the one of the receiver: which column goes where, what identifies a row, and what does not fit. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from ..catalog import Column, qualified, quote_ident
from ..errors import TransferError
from ..selection import Name, Selection
from .facts import ColumnFact, Facts, KeyIndex, Receiving
from .modifiers import narrower, wider
from .pgoutput import Relation, RelationColumn, TypeName

BATCHED, ORDERED = "batched", "ordered"
# Types with an oid below this come with every server under the same number; the others are named by a message of their own.
FIRST_NAMED = 10000


@dataclass(frozen=True)
class Route:
    """Where a table of the sender goes, as it was when the stream began.

    target: None for one that the receiver never had (on the way back)
    columns: {sender's name: receiver's name}; left_out: {sender's column that the receiver never had: text of its constant default, or None}
    key: columns that identify a row for a verification, in the order of its key, by the names of the migration's source
    root: partitioned table on top, on the sender
    """

    sender: Name
    target: Name | None
    columns: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str | None] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    root: Name | None = None


@dataclass(frozen=True)
class Field:
    """A column that is written. place: in the sender's rows; type_sql: quoted, without modifiers; identity: of the receiver's column, '', a or d."""

    place: int
    sender: str
    name: str
    type_sql: str
    via: int
    array: bool
    identity: str


@dataclass(frozen=True)
class KeyField:
    """A column of the key. operator: of its index; collation: quoted name where the index has one of its own, else ''."""

    field: Field
    operator: str
    collation: str


@dataclass(frozen=True, eq=False)
class Shape:
    """How changes of a relation are written. Two shapes are the same only if they are one object.

    sql: the receiver's table; only: the same without children of plain inheritance
    key: in the order of the index, () when nothing identifies a row; full: old rows come whole
    mode: ``batched``, or ``ordered`` with the reason; spare: receiver's columns that the sender does not have and the server does not compute
    empty: (place, column, text that may stand there beside NULL) of columns without a counterpart
    source, source_key: how a verification names the table and a row's key: places of the key's columns, None when changes do not carry them
    lookup: columns of an index that leads to rows without a key
    """

    relation: Relation
    target: Name
    sql: str
    only: str
    fields: tuple[Field, ...]
    key: tuple[KeyField, ...]
    full: bool
    mode: str
    reason: str
    spare: tuple[str, ...]
    empty: tuple[tuple[int, str, bytes | None], ...]
    source: Name
    source_key: tuple[int, ...] | None
    lookup: tuple[KeyField, ...]

    @property
    def key_places(self) -> tuple[int, ...]:
        """Of the key's columns in the sender's rows."""
        return tuple(one.field.place for one in self.key)

    @property
    def keyed(self) -> Callable[[Sequence[Any]], Any]:
        """Key of a row: one value, or a tuple of them."""
        return itemgetter(*self.key_places)


def route_of(relation: Relation, selection: Selection) -> Route:
    """Of a table that came later. selection: as seen from the sender."""
    name = relation.schema, relation.name
    columns = {column.name: selection.target_column(*name, column.name) for column in relation.columns}
    return Route(name, selection.target_name(*name), columns)


def shape(
    relation: Relation,
    types: Mapping[int, TypeName],
    facts: Facts,
    selection: Selection,
    route: Route,
    *,
    forward: bool,
    known: bool,
    type_name: Callable[[int, int], str],
) -> Shape:
    """The shape of a relation.

    types: by oid, as the sender named them; selection: as seen from the sender; known: the route is from when the stream began
    type_name: SQL of a type that comes with the server and its modifier, asked only for a message
    Raises TransferError of kind new_table, definition_changed or key_missing, with the statement that mends it.
    """
    there = facts.tables.get(route.target) if route.target is not None else None
    if there is None:
        raise _new_table(relation, route, known)
    reader = _Reader(relation, types, facts, selection, route, there, forward, known, type_name)
    fields = tuple(reader.fields())
    problems = [*reader.problems, *reader.unserved(fields)]
    if problems:
        raise _changed(relation, there, problems)
    by_name = {one.name: one for one in fields}
    key = _key(relation, there, by_name)
    firing = f"triggers or rules that fire in a replica: {', '.join(there.firing)}" if there.firing else ""
    name = qualified(*there.table.full_name)
    only = name if there.table.kind == "p" else f"ONLY {name}"
    generated = {column.name for column in there.table.columns if column.generated}
    spare = tuple(column.name for column in there.table.columns if column.name not in by_name and column.name not in generated)
    source, source_key = _source(relation, there, route, fields, key, forward)
    return Shape(
        relation,
        there.table.full_name,
        name,
        only,
        fields,
        key,
        relation.identity == "f",
        ORDERED if firing else BATCHED,
        firing,
        spare,
        tuple(reader.empty),
        source,
        source_key,
        () if key else _lookup(there, by_name),
    )


@dataclass
class _Reader:
    """Goes through the sender's columns and collects (what does not fit, statement that mends it)."""

    relation: Relation
    types: Mapping[int, TypeName]
    facts: Facts
    selection: Selection
    route: Route
    there: Receiving
    forward: bool
    known: bool
    type_name: Callable[[int, int], str]
    problems: list[tuple[str, str]] = field(default_factory=list)
    empty: list[tuple[int, str, bytes | None]] = field(default_factory=list)

    def fields(self) -> Iterator[Field]:
        table = self.there.table
        named = {column.name: column for column in table.columns}
        for place, column in enumerate(self.relation.columns):
            name = self.route.columns.get(column.name) or self.selection.target_column(
                self.relation.schema, self.relation.name, column.name
            )
            received = named.get(name)
            if received is None:
                self._without(place, column, name)
            elif received.generated:
                continue
            else:
                yield self._field(place, column, received)

    def _without(self, place: int, column: RelationColumn, name: str) -> None:
        if column.name in self.route.left_out:
            # On the way back the old side is never given what it never had.
            if self.forward:
                text = self.route.left_out[column.name]
                self.empty.append((place, column.name, None if text is None else len(text.encode()).to_bytes(4) + text.encode()))
            return
        statement = f"ALTER TABLE {self.there.table.sql} ADD COLUMN {quote_ident(name)} {self._sent_type(column)}"
        self.problems.append(
            (
                f"column {column.name} ({self._sent_type(column)}) is not there",
                f"{statement} with the sender's default: rows that have it already are not sent again;",
            )
        )

    def _field(self, place: int, column: RelationColumn, received: Column) -> Field:
        fact = self.there.columns[received.name]
        wrong = self._misfit(column, fact)
        if wrong:
            statement = f"ALTER TABLE {self.there.table.sql} ALTER COLUMN {quote_ident(received.name)} TYPE {self._sent_type(column)};"
            self.problems.append((f"column {received.name} is {received.type_sql} and the sender's is {wrong}", statement))
        array = bool(received.element)
        return Field(place, column.name, received.name, qualified(*fact.base), fact.via, array, received.identity)

    def _misfit(self, column: RelationColumn, fact: ColumnFact) -> str:
        """The sender's type where the receiver's cannot hold all of it, else ''."""
        if column.type_oid < FIRST_NAMED:
            if column.type_oid == fact.base_oid:
                return self._sent_type(column) if narrower(column.type_oid, column.modifier, fact.modifier) else ""
            return "" if wider(column.type_oid, fact.base_oid, fact.modifier) else self._sent_type(column)
        sent = self.types.get(column.type_oid)
        if sent is None:
            return f"of an unnamed type {column.type_oid}"
        schema = sent.schema if sent.schema == "pg_catalog" else self.selection.rename.schemas.get(sent.schema, sent.schema)
        same = sent.name == fact.base[1] and (schema == fact.base[0] or fact.extension)
        return "" if same else self._sent_type(column)

    def _sent_type(self, column: RelationColumn) -> str:
        if column.type_oid < FIRST_NAMED:
            if column.type_oid in self.facts.types:
                return self.type_name(column.type_oid, column.modifier)
            return f"type {column.type_oid}, which this server does not have"
        sent = self.types.get(column.type_oid)
        if sent is None:
            return f"type {column.type_oid}"
        schema = self.selection.rename.schemas.get(sent.schema, sent.schema)
        element = sent.name.startswith("_")
        return qualified(schema, sent.name[1:] if element else sent.name) + ("[]" if element else "")

    def unserved(self, fields: Sequence[Field]) -> Iterator[tuple[str, str]]:
        """Columns of the receiver that nothing comes for although something should."""
        table = self.there.table
        taken = {one.name for one in fields}
        sent = {column.name for column in self.relation.columns}
        gone = {target: sender for sender, target in self.route.columns.items() if sender not in sent}
        for column in table.columns:
            if column.name in taken or column.generated:
                continue
            where = f"{table.sql} ALTER COLUMN {quote_ident(column.name)}"
            if self.known and column.name in gone:
                yield (
                    f"column {gone[column.name]} is not sent any more: it was dropped, renamed, or is generated there now",
                    f"ALTER TABLE {table.sql} DROP COLUMN {quote_ident(column.name)};",
                )
            elif column.not_null and not column.has_default and not column.identity:
                yield (
                    f"column {column.name} is NOT NULL without a default, and nothing is sent for it",
                    f"ALTER TABLE {where} DROP NOT NULL;",
                )


def _key(relation: Relation, there: Receiving, by_name: Mapping[str, Field]) -> tuple[KeyField, ...]:
    unique = [index for index in there.indexes if index.unique]
    if relation.identity == "f":
        # The receiver's own key names a row as well as the whole old row does, and finds it at once.
        found = next((index for index in unique if there.table.key and set(index.names) == set(there.table.key)), None)
        return _key_fields(found, by_name) if found is not None and set(found.names) <= by_name.keys() else ()
    sent = {column.name for column in relation.columns if column.key}
    if not sent:
        return ()
    wanted = [one.name for one in by_name.values() if one.sender in sent]
    found = next((index for index in unique if set(index.names) == set(wanted)), None)
    if found is not None and len(wanted) == len(sent):
        return _key_fields(found, by_name)
    listed = ", ".join(quote_ident(name) for name in wanted)
    name = there.table.dotted
    other = next((index for index in unique if index.primary), None)
    if other is not None:
        raise TransferError(
            f"{name} has its key on {', '.join(other.names)}, and changes of {relation.dotted} name rows by {', '.join(sorted(sent))}",
            f"Run on the receiver: CREATE UNIQUE INDEX ON {there.table.sql} ({listed});",
            kind="definition_changed",
            table=relation.dotted,
        )
    raise TransferError(
        f"{name} has no valid unique index on {', '.join(wanted)}, by which changes of {relation.dotted} name their rows",
        f"Run pg_schema_transfer with section=post_data, or on the receiver: ALTER TABLE {there.table.sql} ADD PRIMARY KEY ({listed});",
        kind="key_missing",
        table=relation.dotted,
    )


def _key_fields(index: KeyIndex, by_name: Mapping[str, Field]) -> tuple[KeyField, ...]:
    def operator(name: Name) -> str:
        return f"OPERATOR({quote_ident(name[0])}.{name[1]})"

    return tuple(
        KeyField(by_name[column.name], operator(column.operator), qualified(*column.collation) if column.collation else "")
        for column in index.columns
    )


def _lookup(there: Receiving, by_name: Mapping[str, Field]) -> tuple[KeyField, ...]:
    """The widest index whose columns all are in the stream: it narrows the search for a row without a key."""
    fitting = [index for index in there.indexes if set(index.names) <= by_name.keys()]
    best = max(fitting, key=lambda index: (index.unique, len(index.columns)), default=None)
    return _key_fields(best, by_name) if best is not None else ()


def _source(
    relation: Relation, there: Receiving, route: Route, fields: Sequence[Field], key: Sequence[KeyField], forward: bool
) -> tuple[Name, tuple[int, ...] | None]:
    """(name of the migration's source table, places of its key in its own order)."""
    if forward:
        names, places = route.key or tuple(one.field.sender for one in key), {one.sender: one.place for one in fields}
        name = relation.schema, relation.name
    else:
        names, places = there.table.key, {one.name: one.place for one in fields}
        name = there.table.full_name
    sent = {one.field.place for one in key}
    found = tuple(places[one] for one in names if one in places)
    # With the whole old row any key is known, else only the one that the sender identifies rows by.
    complete = bool(names) and len(found) == len(names) and (relation.identity == "f" or set(found) <= sent)
    return name, found if complete else None


def _new_table(relation: Relation, route: Route, known: bool) -> TransferError:
    target = ".".join(route.target or (relation.schema, relation.name))
    if known:
        return TransferError(
            f"table {target}, where changes of {relation.dotted} go, is not in the receiving database any more",
            f"Put it back under that name, or exclude {relation.dotted}, and start the stream again.",
            kind="definition_changed",
            table=relation.dotted,
        )
    return TransferError(
        f"table {relation.dotted} is new on the sending side, and {target} is not in the receiving database",
        f"Run pg_schema_transfer and then pg_row_copy with the slot of this stream for {relation.dotted}, or exclude it; then start the stream again.",
        kind="new_table",
        table=relation.dotted,
    )


def _changed(relation: Relation, there: Receiving, problems: Sequence[tuple[str, str]]) -> TransferError:
    return TransferError(
        f"{relation.dotted} and {there.table.dotted} of the receiver do not fit any more: {'; '.join(what for what, _statement in problems)}",
        "Run on the receiver, then start the stream again: " + " ".join(statement for _what, statement in problems),
        kind="definition_changed",
        table=relation.dotted,
        problems=[what for what, _statement in problems],
    )
