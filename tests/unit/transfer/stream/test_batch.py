"""What a batch makes of changes does the same as the changes one after the other, in as few rows as possible."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import batch as batches
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.batch import Batch, DisorderError, Work
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import NULL, Delete, Insert, Update, Value
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.shapes import Shape
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.transfer.stream import made

COLUMNS = (("id", 20), ("part", 23), ("note", 25), ("big", 25))
Row = tuple[Any, ...]


@dataclass
class Sender:
    """A table as the sender has it, and the changes that it sends. key: number of columns of the key, 0 for none."""

    key: int
    full: bool
    rows: list[Row]
    batch: Batch
    shape: Shape = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(name for name, _type in COLUMNS[: self.key])
        self.shape = made.simple(*COLUMNS, key=names, sent_identity="f" if self.full else "d")

    def key_of(self, row: Row) -> Row:
        return row[: self.key] if self.key else row

    def insert(self, row: Row) -> None:
        if self.key and any(self.key_of(one) == self.key_of(row) for one in self.rows):
            return
        self.rows.append(row)
        self.batch.take(self.shape, Insert(1, list(row)))

    def update(self, place: int, row: Row, keep_key: bool, keep_big: bool) -> None:
        if not self.rows:
            return
        old = self.rows[place % len(self.rows)]
        new = (*(old[: self.key] if keep_key else row[: self.key]), *row[self.key :])
        if keep_big:
            new = (*new[:3], old[3])
        others = [one for one in self.rows if one is not old]
        if self.key and any(self.key_of(one) == self.key_of(new) for one in others):
            return
        self.rows = [*others, new]
        sent: list[Value] = [*new[:3], None if keep_big else new[3]]
        key: list[Value] | None = None
        if not self.full and self.key_of(old) != self.key_of(new):
            key = [value if place < self.key else NULL for place, value in enumerate(old)]
        self.batch.take(self.shape, Update(1, key, list(old) if self.full else None, sent))

    def delete(self, place: int) -> None:
        if not self.rows:
            return
        old = self.rows.pop(place % len(self.rows))
        key: list[Value] = [value if place < self.key else NULL for place, value in enumerate(old)]
        self.batch.take(self.shape, Delete(1, None if self.full else key, list(old) if self.full else None))


def done(rows: list[Row], works: list[Work], key: int) -> list[Row]:
    """Rows of a receiver after the works; every work finds exactly the rows that it names, and no key is there twice."""
    rows = list(rows)
    for work in works:
        olds: list[Any] = work.old or [None] * len(work.new)
        news: list[Any] = work.new or [None] * len(olds)
        # Rows of one statement see what was there before it.
        found = []
        for old, new in zip(olds, news, strict=True):
            if work.kind == batches.INSERT:
                continue
            if work.kind in (batches.DELETE_ROW, batches.UPDATE_ROW):
                wanted: Row = tuple(old or ())
                matching = [one for one in rows if one == wanted][:1]
            else:
                named = old if old is not None else new[0] if key == 1 else tuple(new[:key])
                matching = [one for one in rows if (one[0] if key == 1 else one[:key]) == named]
            assert len(matching) == 1, (work, rows)
            found.append((matching[0], new))
        for before, new in found:
            rows.remove(before)
            if new is not None:
                rows.append(
                    tuple(was if place in work.absent else value for place, (was, value) in enumerate(zip(before, new, strict=True)))
                )
        if work.kind == batches.INSERT:
            rows += [tuple(new) for new in work.new]
        assert not key or max(Counter(one[:key] for one in rows).values(), default=1) == 1
    return rows


def rows_of(ids: range) -> st.SearchStrategy[Row]:
    return st.tuples(
        st.integers(ids.start, ids.stop).map(lambda number: made.val(str(number))),
        st.integers(0, 1).map(lambda number: made.val(str(number))),
        st.sampled_from(["x", "y", None]).map(made.val),
        st.sampled_from(["big", "bigger"]).map(made.val),
    )


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), rows_of(range(6))),
        st.tuples(st.just("update"), st.integers(0, 20), rows_of(range(6)), st.sampled_from([True, True, False]), st.booleans()),
        st.tuples(st.just("delete"), st.integers(0, 20)),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(STEPS, st.sampled_from([0, 1, 2]), st.booleans(), st.booleans(), st.lists(rows_of(range(6)), max_size=6))
def test_a_batch_does_what_its_changes_do(steps: list[tuple[object, ...]], key: int, full: bool, exact: bool, at_first: list[Row]) -> None:
    start: list[Row] = []
    for row in at_first:
        if not key or row[:key] not in {one[:key] for one in start}:
            start.append(row)
    sender = Sender(key, full or not key, list(start), Batch(exact=exact))
    for name, *arguments in steps:
        getattr(sender, str(name))(*arguments)
    changes = sender.batch.changes
    works = sender.batch.works()
    assert sorted(done(start, works, key)) == sorted(sender.rows)
    assert sum(work.rows for work in works) <= changes
    if key and not exact and not any(work.kind == batches.REKEY for work in works):
        kinds = [work.kind for work in works]
        assert kinds == sorted(kinds, key=[batches.DELETE, batches.UPDATE, batches.INSERT].index)
    assert sender.batch.works() == []


def keyed(exact: bool = False) -> tuple[Batch, Shape]:
    return Batch(exact=exact), made.simple(*COLUMNS)


def told(batch: Batch) -> list[tuple[str, int]]:
    return [(work.kind, work.rows) for work in batch.works()]


def test_changes_of_a_row_are_joined() -> None:
    batch, shape = keyed()
    one, two = made.row("1", "0", "a", "b"), made.row("1", "0", "c", "d")
    batch.take(shape, Insert(1, one))
    batch.take(shape, Update(1, None, None, [*two[:3], None]))
    (work,) = batch.works()
    assert work.kind == batches.INSERT and work.new == [[*two[:3], one[3]]], "a value that the update left alone is the insert's"
    batch.take(shape, Insert(1, one))
    batch.take(shape, Delete(1, one, None))
    assert batch.works() == []
    batch.take(shape, Delete(1, one, None))
    batch.take(shape, Insert(1, two))
    batch.take(shape, Update(1, None, None, one))
    assert told(batch) == [(batches.DELETE, 1), (batches.INSERT, 1)]
    batch.take(shape, Update(1, None, None, one))
    batch.take(shape, Update(1, None, None, two))
    batch.take(shape, Delete(1, one, None))
    assert told(batch) == [(batches.DELETE, 1)]


def test_what_a_sender_cannot_have_done_is_noticed() -> None:
    row = made.row("1", "0", "a", "b")
    for first, second in (("insert", "insert"), ("delete", "update"), ("delete", "delete"), ("update", "insert")):
        batch, shape = keyed()
        actions = {
            "insert": lambda batch=batch, shape=shape: batch.take(shape, Insert(1, list(row))),
            "update": lambda batch=batch, shape=shape: batch.take(shape, Update(1, None, None, list(row))),
            "delete": lambda batch=batch, shape=shape: batch.take(shape, Delete(1, list(row), None)),
        }
        actions[first]()
        with pytest.raises(DisorderError):
            actions[second]()


def test_a_key_that_is_stored_out_of_line_is_taken_from_the_old_row() -> None:
    batch, shape = keyed()
    old, new = made.row("1", None, None, None), [None, *made.row("0", "a", "b")]
    batch.take(shape, Update(1, old, None, new))
    (work,) = batch.works()
    assert work.kind == batches.UPDATE and work.new[0][0] == made.val("1")
    with pytest.raises(DisorderError, match="out of line"):
        batch.take(shape, Update(1, None, None, [None, *made.row("0", "a", "b")]))


def test_updates_that_leave_the_same_columns_alone_go_together() -> None:
    batch, shape = keyed()
    for number in range(6):
        row = made.row(str(number), "0", "a", "b")
        batch.take(shape, Update(1, None, None, [*row[:3], None] if number % 2 else row))
    assert [(work.kind, work.rows, work.absent) for work in batch.works()] == [(batches.UPDATE, 3, ()), (batches.UPDATE, 3, (3,))]


def test_a_new_key_keeps_its_place_and_the_rest_is_joined_before_and_after() -> None:
    batch, shape = keyed()
    batch.take(shape, Update(1, None, None, made.row("1", "0", "a", "b")))
    batch.take(shape, Update(1, None, None, made.row("1", "0", "c", "b")))
    batch.take(shape, Update(1, made.row("1", None, None, None), None, made.row("2", "0", "d", "b")))
    batch.take(shape, Insert(1, made.row("1", "0", "e", "b")))
    assert told(batch) == [(batches.UPDATE, 1), (batches.REKEY, 1), (batches.INSERT, 1)]


def test_tables_with_triggers_keep_the_senders_order_among_all_tables() -> None:
    batch = Batch()
    plain, firing = made.simple(*COLUMNS), made.simple(*COLUMNS, firing=("audit",))
    assert firing.mode == "ordered" and "audit" in firing.reason
    row = made.row("1", "0", "a", "b")
    batch.take(plain, Insert(1, row))
    batch.take(firing, Insert(1, row))
    batch.take(firing, Insert(1, made.row("2", "0", "a", "b")))
    batch.take(firing, Update(1, None, None, row))
    batch.take(plain, Delete(1, row, None))
    works = batch.works()
    assert [(work.kind, work.rows, work.shape is firing) for work in works] == [
        (batches.INSERT, 1, False),
        (batches.INSERT, 2, True),
        (batches.UPDATE, 1, True),
        (batches.DELETE, 1, False),
    ]


def test_truncate_ends_what_came_before() -> None:
    batch, shape = keyed()
    row = made.row("1", "0", "a", "b")
    batch.take(shape, Insert(1, row))
    batch.truncate([shape], True)
    batch.take(shape, Insert(1, list(row)))
    works = batch.works()
    assert [work.kind for work in works] == [batches.INSERT, batches.TRUNCATE, batches.INSERT]
    assert works[1].shapes == (shape,) and works[1].restart


def test_exact_keeps_every_change() -> None:
    batch, shape = keyed(exact=True)
    row = made.row("1", "0", "a", "b")
    batch.take(shape, Insert(1, row))
    batch.take(shape, Insert(1, made.row("2", "0", "a", "b")))
    batch.take(shape, Update(1, None, None, list(row)))
    batch.take(shape, Delete(1, list(row), None))
    assert told(batch) == [(batches.INSERT, 1), (batches.INSERT, 1), (batches.UPDATE, 1), (batches.DELETE, 1)]


def test_keys_that_are_touched_are_noted_before_and_after_a_change_of_key() -> None:
    batch, shape = Batch(record=True), made.simple(*COLUMNS, key=("id", "part"))
    loose = made.simple(*COLUMNS, key=(), sent_identity="f")
    one, two = made.row("1", "0", "a", "b"), made.row("2", "0", "a", "b")
    batch.take(shape, Update(1, made.row("1", "0", None, None), None, list(two)))
    batch.take(shape, Insert(1, list(one)))
    batch.take(shape, Delete(1, list(one), None))
    assert batch.touched == {shape: {(one[0], one[1]), (two[0], two[1])}}
    batch.take(loose, Insert(1, list(one)))
    assert batch.touched[loose] is None, "without a key the table is looked at as a whole"
    batch.truncate([shape], False)
    assert batch.touched[shape] is None
    assert Batch().record is False
