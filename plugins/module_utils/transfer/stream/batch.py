# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Changes of many transactions to the least work per table. Pure.

Within a batch the changes of a row are joined: insert and update to an insert, insert and delete to nothing, updates to one, delete and insert to
both, update and delete to a delete. Then a table's rows are deleted, updated and inserted, in this order: whatever frees a unique value comes before
what takes it, but for values that updates exchange. What cannot be joined keeps its place among the changes of its table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from .pgoutput import Change, Insert, Update, Value
from .shapes import BATCHED, Shape

INSERT, UPDATE, DELETE = "insert", "update", "delete"
# An update that gives a row another key; a delete and an update that find their row by all that it holds; TRUNCATE.
REKEY, DELETE_ROW, UPDATE_ROW, TRUNCATE = "update of the key", "delete by contents", "update by contents", "truncate"
_INSERTED, _UPDATED, _DELETED, _REPLACED, _GONE = range(5)

Row = list[Value]
Key = Any
"""Of one column its value, else a tuple of values in the order of the shape's key."""


class DisorderError(Exception):
    """Changes that no sender can have made one after the other, so that something of them is missing or twice."""


@dataclass(slots=True)
class Work:
    """What one statement does.

    new: rows to write, empty for deletes; old: per row the key it has now, or all it holds (None: the key stands in new)
    absent: places of columns that stay as they are; shapes: all tables of a TRUNCATE; restart: RESTART IDENTITY
    """

    kind: str
    shape: Shape
    new: list[Row] = field(default_factory=list)
    old: list[Any] | None = None
    absent: tuple[int, ...] = ()
    shapes: tuple[Shape, ...] = ()
    restart: bool = False

    @property
    def rows(self) -> int:
        """Rows that it must touch."""
        return len(self.new) or len(self.old or ())


class Batch:
    """Takes changes in the sender's order and gives them back as work.

    exact: nothing is joined, every change is work of its own; record: keep the keys that are touched
    changes, size: how much was taken in, size in bytes of messages (counted by the caller)
    touched: {shape: keys of its rows as a verification names them}, None where a table has to be looked at as a whole
    """

    __slots__ = ("_tables", "_works", "changes", "exact", "record", "size", "touched")

    def __init__(self, exact: bool = False, record: bool = False) -> None:
        self.exact, self.record = exact, record
        self.changes = self.size = 0
        self.touched: dict[Shape, set[tuple[bytes, ...]] | None] = {}
        self._tables: dict[Shape, _Table] = {}
        self._works: list[Work] = []

    def take(self, shape: Shape, change: Change) -> None:
        """Take in an insert, an update or a delete. Raises DisorderError."""
        self.changes += 1
        table = self._tables.get(shape)
        if table is None:
            table = self._table(shape)
        if isinstance(change, Insert):
            if self.record:
                self._touch(shape, change.new)
            table.insert(change.new)
        elif isinstance(change, Update):
            if self.record:
                self._touch(shape, change.new, change.key or change.old)
            table.update(change)
        else:
            old = change.key or change.old
            if old is None:
                raise DisorderError("a delete without an old row")
            if self.record:
                self._touch(shape, old)
            table.delete(old)

    def truncate(self, shapes: Sequence[Shape], restart: bool) -> None:
        """Take in a TRUNCATE: what came before it is done before it."""
        self.changes += 1
        self._close()
        if self.record:
            self.touched.update(dict.fromkeys(shapes))
        self._works.append(Work(TRUNCATE, shapes[0], shapes=tuple(shapes), restart=restart))

    def works(self) -> list[Work]:
        """All of it, in the order in which it is to be done. The batch is empty afterwards but for what was touched."""
        self._close()
        works, self._works = self._works, []
        return works

    def _table(self, shape: Shape) -> _Table:
        if self.exact:
            return _Ordered(shape, self._works, runs=False)
        if shape.mode != BATCHED:
            # What its triggers read may be in any table: everything before comes first.
            self._close()
            return _Ordered(shape, self._works, runs=True)
        self._tables[shape] = made = _Keyed(shape) if shape.key else _Ordered(shape, [], runs=True)
        return made

    def _close(self) -> None:
        for table in self._tables.values():
            self._works += table.finish()
        self._tables.clear()

    def _touch(self, shape: Shape, *rows: Row | None) -> None:
        if shape.source_key is None:
            self.touched[shape] = None
            return
        known = self.touched.setdefault(shape, set())
        if known is None:
            return
        for row in rows:
            if row is None:
                continue
            key = tuple([row[place] for place in shape.source_key])
            # A part that the update left alone is in the old row.
            if None not in key:
                known.add(cast("tuple[bytes, ...]", key))


class _Table(Protocol):
    """Changes of one table."""

    def insert(self, new: Row) -> None: ...

    def update(self, change: Update) -> None: ...

    def delete(self, old: Row) -> None: ...

    def finish(self) -> list[Work]: ...


class _Keyed:
    """Joins the changes of each row."""

    __slots__ = ("keyed", "rows", "shape", "works")

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.keyed: Callable[[Sequence[Any]], Key] = shape.keyed
        self.rows: dict[Key, tuple[int, Row | None]] = {}
        self.works: list[Work] = []

    def insert(self, new: Row) -> None:
        key = self.keyed(new)
        before = self.rows.get(key)
        if before is None or before[0] == _GONE:
            self.rows[key] = (_INSERTED, new)
        elif before[0] == _DELETED:
            self.rows[key] = (_REPLACED, new)
        else:
            raise DisorderError("a row was inserted that was there")

    def update(self, change: Update) -> None:
        new = change.new
        old = change.key or change.old
        if old is not None:
            changed = rekeyed(self.shape, old, new)
            if changed is not None:
                self._join()
                self.works.append(Work(REKEY, self.shape, [new], [changed], absent(new)))
                return
        loose = None in new
        if loose:
            _refuse_unnamed(self.shape, new)
        key = self.keyed(new)
        before = self.rows.get(key)
        if before is None:
            self.rows[key] = (_UPDATED, new)
            return
        state, row = before
        if row is None:
            raise DisorderError("a row was updated that was gone")
        if loose:
            new = [was if value is None else value for was, value in zip(row, new, strict=True)]
        self.rows[key] = (state, new)

    def delete(self, old: Row) -> None:
        key = self.keyed(old)
        before = self.rows.get(key)
        if before is None or before[0] in (_UPDATED, _REPLACED):
            self.rows[key] = (_DELETED, None)
        elif before[0] == _INSERTED:
            self.rows[key] = (_GONE, None)
        else:
            raise DisorderError("a row was deleted that was gone")

    def finish(self) -> list[Work]:
        self._join()
        works, self.works = self.works, []
        return works

    def _join(self) -> None:
        deleted: list[Key] = []
        updated: dict[tuple[int, ...], list[Row]] = {}
        inserted: list[Row] = []
        for key, (state, row) in self.rows.items():
            if row is None:
                if state == _DELETED:
                    deleted.append(key)
            elif state == _UPDATED:
                left = absent(row) if None in row else ()
                if left in updated:
                    updated[left].append(row)
                else:
                    updated[left] = [row]
            else:
                if state == _REPLACED:
                    deleted.append(key)
                inserted.append(row)
        self.rows.clear()
        if deleted:
            self.works.append(Work(DELETE, self.shape, old=deleted))
        for left, rows in updated.items():
            self.works.append(Work(UPDATE, self.shape, rows, absent=left))
        if inserted:
            self.works.append(Work(INSERT, self.shape, inserted))


class _Ordered:
    """Change by change. runs: inserts that follow one another are one statement."""

    __slots__ = ("runs", "shape", "works")

    def __init__(self, shape: Shape, works: list[Work], runs: bool) -> None:
        self.shape, self.works, self.runs = shape, works, runs

    def insert(self, new: Row) -> None:
        last = self.works[-1] if self.runs and self.works else None
        if last is not None and last.shape is self.shape and last.kind == INSERT:
            last.new.append(new)
        else:
            self.works.append(Work(INSERT, self.shape, [new]))

    def update(self, change: Update) -> None:
        self.works.append(updating(self.shape, change))

    def delete(self, old: Row) -> None:
        if self.shape.key:
            self.works.append(Work(DELETE, self.shape, old=[self.shape.keyed(old)]))
        elif self.shape.full:
            self.works.append(Work(DELETE_ROW, self.shape, old=[old]))
        else:
            raise DisorderError("a delete of a table without a key")

    def finish(self) -> list[Work]:
        works, self.works = self.works, []
        return works


def updating(shape: Shape, change: Update) -> Work:
    """One update as work of its own. Raises DisorderError."""
    new, old = change.new, change.key or change.old
    if shape.key:
        changed = rekeyed(shape, old, new) if old is not None else None
        if changed is not None:
            return Work(REKEY, shape, [new], [changed], absent(new))
        _refuse_unnamed(shape, new)
        return Work(UPDATE, shape, [new], absent=absent(new))
    if change.old is None:
        raise DisorderError("an update without the old row of a table without a key")
    # Equal in the text is equal: such a column that only the server may fill is left to it.
    left = {one.place for one in shape.fields if one.identity == "a" and new[one.place] == change.old[one.place]}
    return Work(UPDATE_ROW, shape, [new], [change.old], tuple(sorted({*absent(new), *left})))


def rekeyed(shape: Shape, old: Row, new: Row) -> Key | None:
    """The old key where an update changes it, else None. Parts of the key that it left alone are put into ``new``."""
    for place in shape.key_places:
        if new[place] is None:
            new[place] = old[place]
    before = shape.keyed(old)
    return before if before != shape.keyed(new) else None


def _refuse_unnamed(shape: Shape, new: Row) -> None:
    """Raise DisorderError for an update that says nowhere which row it means: servers before 14.2 do so when the key is stored out of line."""
    if any(new[place] is None for place in shape.key_places):
        raise DisorderError("an update without its key, which is stored out of line")


def absent(row: Row) -> tuple[int, ...]:
    """Places of the columns that a row leaves alone."""
    return tuple([place for place, value in enumerate(row) if value is None])
