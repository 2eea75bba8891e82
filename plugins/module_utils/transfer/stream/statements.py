# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""SQL of a table's work, and its parameters: one binary array of texts per column, made of the very bytes that the sender sent. Pure.

A key is looked up as ``column = ANY (ARRAY[value])``: unlike a plain equality it cannot be merged or turned around, so that PostgreSQL always goes
from the given keys to the index and never reads a whole index for a table that was small when the plan was made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..catalog import quote_ident
from .batch import DELETE, DELETE_ROW, INSERT, REKEY, TRUNCATE, UPDATE, UPDATE_ROW, Work
from .facts import BPCHAR, TEXT, VARCHAR
from .pgoutput import NULL
from .shapes import Field, KeyField, Shape

# pg_type: arrays of text, bpchar and varchar.
ARRAYS = {TEXT: 1009, BPCHAR: 1014, VARCHAR: 1015}
TEXT_ARRAY = ARRAYS[TEXT]
# One dimension, no flag, type of the elements, their number, first subscript 1.
_HEADER = struct.Struct(">iiIii").pack
# Equality of these is equality of their texts, and cheap: it comes before the comparison of whole rows.
_PLAIN = frozenset(
    f'"pg_catalog"."{name}"' for name in ("int2", "int4", "int8", "uuid", "date", "bool", "text", "varchar", "timestamptz", "timestamp")
)
_NEW, _OLD = "n", "o"


@dataclass(frozen=True, slots=True)
class Statement:
    """sql with parameters $1 and so on, of these types; sources: per parameter (new or old row, place in it, type of its elements)."""

    sql: bytes
    types: tuple[int, ...]
    sources: tuple[tuple[str, int, int], ...]
    simple: bool
    """The old key is one value, not a tuple."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A statement with its parameters in binary. rows: how many it must touch, None for TRUNCATE."""

    work: Work
    statement: Statement
    params: list[bytes | None]
    rows: int | None


class Statements:
    """Makes each statement once."""

    def __init__(self) -> None:
        self._made: dict[tuple[Shape, str, tuple[int, ...], bool], Statement] = {}

    def bind(self, work: Work) -> Bound:
        """A work as a statement."""
        if work.kind == TRUNCATE:
            return Bound(work, _truncate(work), [], None)
        key = work.shape, work.kind, work.absent, _looks_up(work)
        statement = self._made.get(key) or self._made.setdefault(key, statement_of(*key))
        if not statement.sources:
            # A table without columns: only the number of its rows matters.
            return Bound(work, statement, [b"%d" % work.rows], work.rows)
        return Bound(work, statement, params(statement, work), work.rows)


def array(values: Sequence[bytes], element: int = TEXT) -> bytes:
    """A binary array of elements that have their lengths before them."""
    return _HEADER(1, 0, element, len(values), 1) + b"".join(values)


def params(statement: Statement, work: Work) -> list[bytes | None]:
    """One array per parameter."""
    new: Sequence[Sequence[Any]] = list(zip(*work.new, strict=True)) if work.new else ()
    old: Sequence[Sequence[Any]] = ()
    if work.old is not None:
        old = (work.old,) if statement.simple else list(zip(*work.old, strict=True))
    return [array(new[place] if side == _NEW else old[place], element) for side, place, element in statement.sources]


def _looks_up(work: Work) -> bool:
    """Whether an index can lead to a row without a key: none leads from NULL."""
    if work.kind not in (DELETE_ROW, UPDATE_ROW) or not work.old:
        return False
    return all(work.old[0][one.field.place] != NULL for one in work.shape.lookup)


def statement_of(shape: Shape, kind: str, absent: tuple[int, ...], lookup: bool = False) -> Statement:
    """The statement for work of this kind. lookup: through the index that the shape knows for rows without a key."""
    return _Maker(shape, kind, frozenset(absent), lookup).make()


class _Maker:
    """Collects parameters while it writes a statement."""

    def __init__(self, shape: Shape, kind: str, absent: frozenset[int], lookup: bool) -> None:
        self.shape, self.kind, self.absent, self.lookup = shape, kind, absent, lookup
        self.sources: dict[tuple[str, int], int] = {}

    def make(self) -> Statement:
        shape = self.shape
        if self.kind == INSERT:
            sql = self._insert()
        elif self.kind == DELETE:
            where = self._where(_OLD)
            sql = f"DELETE FROM {shape.only} AS t USING {self._given()} WHERE {where}"
        elif self.kind in (UPDATE, REKEY):
            sql = self._update()
        else:
            sql = self._by_contents()
        simple = len(shape.key) == 1 and self.kind in (DELETE, REKEY)
        sources = tuple((side, place, via) for (side, place), via in self.sources.items())
        return Statement(sql.encode(), tuple(ARRAYS[via] for via in self.sources.values()) or (23,), sources, simple)

    def _given(self, sides: str = _NEW + _OLD) -> str:
        """FROM item with the parameters that were used so far. Side by side in a SELECT list arrays are read without being stored once more."""
        columns = [f"unnest(${number}) AS {side}{place}" for number, (side, place) in enumerate(self.sources, 1) if side in sides]
        return f"(SELECT {', '.join(columns)}) AS v"

    def _value(self, one: Field, side: str = _NEW, place: int | None = None) -> str:
        """A given value as the column's type, without modifiers: a cast with them would cut silently what does not fit."""
        where = one.place if place is None else place
        self.sources.setdefault((side, where), one.via)
        return f"v.{side}{where}::{one.type_sql}"

    def _insert(self) -> str:
        fields = self.shape.fields
        if not fields:
            return f"INSERT INTO {self.shape.sql} SELECT FROM generate_series(1, $1)"
        columns = ", ".join(quote_ident(one.name) for one in fields)
        values = ", ".join(self._value(one) for one in fields)
        return f"INSERT INTO {self.shape.sql} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {self._given()}"

    def _where(self, side: str) -> str:
        """Condition for the rows with the given keys."""
        return " AND ".join(
            self._equals("t", one, self._value(one.field, side, position if side == _OLD else None))
            for position, one in enumerate(self.shape.key)
        )

    @staticmethod
    def _equals(table: str, key: KeyField, value: str) -> str:
        column = f"{table}.{quote_ident(key.field.name)}"
        collated = f" COLLATE {key.collation}" if key.collation else ""
        if key.field.array:
            return f"{column} {key.operator} {value}{collated}"
        return f"{column} {key.operator} ANY (ARRAY[{value}{collated}])"

    def _written(self) -> list[Field]:
        """Columns that the update gives a value."""
        kept = set() if self.kind != UPDATE else set(self.shape.key_places)
        return [one for one in self.shape.fields if one.place not in self.absent and one.place not in kept]

    def _update(self) -> str:
        written = self._written()
        where, assigned = self._where(_OLD if self.kind == REKEY else _NEW), self._assigned(written)
        if any(one.identity == "a" for one in written):
            return self._replace(written, self._given(), where)
        if not written:
            return f"SELECT FROM {self.shape.only} AS t, {self._given()} WHERE {where}"
        return f"UPDATE {self.shape.only} AS t SET {assigned} FROM {self._given()} WHERE {where}"

    def _assigned(self, written: Iterable[Field]) -> str:
        return ", ".join(f"{quote_ident(one.name)} = {self._value(one)}" for one in written)

    def _replace(self, written: Sequence[Field], given: str, where: str) -> str:
        """A column GENERATED ALWAYS AS IDENTITY can be given a value by an insert only: the row is taken out and put back."""
        values = {one.name: self._value(one) for one in written}
        columns = [*(one.name for one in self.shape.fields), *self.shape.spare]
        taken = ", ".join(f"{values.get(name) or 't.' + quote_ident(name)} AS c{number}" for number, name in enumerate(columns))
        listed = ", ".join(quote_ident(name) for name in columns)
        return (
            f"WITH gone AS (DELETE FROM {self.shape.only} AS t USING {given} WHERE {where} RETURNING {taken}) "
            f"INSERT INTO {self.shape.sql} ({listed}) OVERRIDING SYSTEM VALUE SELECT * FROM gone"
        )

    def _by_contents(self) -> str:
        """One row among those that hold exactly the same, found by what they print, which tells 1.0 from 1.00 and works for every type."""
        shape = self.shape
        lookup = shape.lookup if self.lookup else ()
        conditions = [self._equals("d", one, self._value(one.field, _OLD)) for one in lookup]
        known = {one.field.place for one in lookup}
        conditions += [
            f"d.{quote_ident(one.name)} IS NOT DISTINCT FROM {self._value(one, _OLD)}"
            for one in shape.fields
            if one.type_sql in _PLAIN and one.place not in known
        ]
        ours = ", ".join(f"d.{quote_ident(one.name)}" for one in shape.fields)
        theirs = ", ".join(self._value(one, _OLD) for one in shape.fields)
        conditions.append(f"ROW({ours})::text = ROW({theirs})::text")
        written = self._written() if self.kind == UPDATE_ROW else []
        assigned = self._assigned(written)
        # Old and new values apart: side by side the widest tables would have more columns than a list may have.
        given = self._given(_OLD) if self.sources else "generate_series(1, $1) AS v(n)"
        found = f"(SELECT d.ctid, d.tableoid FROM {shape.only} AS d, {given} WHERE {' AND '.join(conditions)} LIMIT 1) AS f"
        where = "t.ctid = f.ctid AND t.tableoid = f.tableoid"
        if self.kind == DELETE_ROW:
            return f"DELETE FROM {shape.only} AS t USING {found} WHERE {where}"
        if not written:
            return f"SELECT FROM {found}"
        if any(one.identity == "a" for one in written):
            return self._replace(written, f"{found}, {self._given(_NEW)}", where)
        return f"UPDATE {shape.only} AS t SET {assigned} FROM {found}, {self._given(_NEW)} WHERE {where}"


def _truncate(work: Work) -> Statement:
    tables = ", ".join(shape.only for shape in work.shapes)
    restart = "RESTART" if work.restart else "CONTINUE"
    # Never CASCADE: whatever the sender's reached is among the tables, and what else refers to them was not emptied there.
    return Statement(f"TRUNCATE {tables} {restart} IDENTITY".encode(), (), (), False)
