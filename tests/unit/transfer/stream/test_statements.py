"""Statements name every column, look keys up by their index's equality, and carry the sender's very bytes."""

from __future__ import annotations

import struct

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import batch as batches
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.batch import Work, updating
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import NULL, Update
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.shapes import Shape
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.statements import Statements, array, statement_of
from hypothesis import given
from hypothesis import strategies as st
from unit.transfer.stream import made
from unit.transfer.stream.made import row, simple

ID, NOTE, SIZE = ("id", 20), ("note", 25), ("size", 23)
EQUALS = 'OPERATOR("pg_catalog".=)'


def sql(shape: Shape, kind: str, absent: tuple[int, ...] = (), lookup: bool = False) -> str:
    return statement_of(shape, kind, absent, lookup).sql.decode()


@given(st.lists(st.one_of(st.none(), st.text(max_size=5)), min_size=1, max_size=20))
def test_an_array_is_what_the_server_reads(texts: list[str | None]) -> None:
    data = array([made.val(text) for text in texts])
    assert struct.unpack_from(">iiIii", data) == (1, 0, 25, len(texts), 1)
    at, found = 20, []
    for _unused in texts:
        (length,) = struct.unpack_from(">i", data, at)
        found.append(None if length < 0 else data[at + 4 : at + 4 + length].decode())
        at += 4 + max(length, 0)
    assert found == texts and at == len(data)


def test_insert() -> None:
    shape = simple(ID, NOTE)
    bound = Statements().bind(Work(batches.INSERT, shape, [row("1", None), row("2", "b")]))
    assert bound.statement.sql.decode() == (
        'INSERT INTO "public"."t" ("id", "note") OVERRIDING SYSTEM VALUE SELECT v.n0::"pg_catalog"."int8", v.n1::"pg_catalog"."text"'
        " FROM (SELECT unnest($1) AS n0, unnest($2) AS n1) AS v"
    )
    assert bound.statement.types == (1009, 1009) and bound.rows == 2
    assert bound.params == [array([made.val("1"), made.val("2")]), array([NULL, made.val("b")])]


def test_update_sets_all_but_the_key_and_what_was_left_alone() -> None:
    shape = simple(ID, NOTE, SIZE)
    assert sql(shape, batches.UPDATE) == (
        'UPDATE ONLY "public"."t" AS t SET "note" = v.n1::"pg_catalog"."text", "size" = v.n2::"pg_catalog"."int4" FROM'
        f' (SELECT unnest($1) AS n0, unnest($2) AS n1, unnest($3) AS n2) AS v WHERE t."id" {EQUALS} ANY (ARRAY[v.n0::"pg_catalog"."int8"])'
    )
    assert 'SET "size"' in sql(shape, batches.UPDATE, (1,)) and "note" not in sql(shape, batches.UPDATE, (1,))
    assert sql(shape, batches.UPDATE, (1, 2)).startswith("SELECT FROM"), "nothing to set, but the row must be there"
    bound = Statements().bind(Work(batches.UPDATE, shape, [[*row("1"), None, *row("5")]], absent=(1,)))
    assert len(bound.params) == 2 and bound.rows == 1


def test_delete_and_new_key() -> None:
    pair = simple(ID, NOTE, SIZE, key=("size", "id"))
    assert sql(pair, batches.DELETE) == (
        f'DELETE FROM ONLY "public"."t" AS t USING (SELECT unnest($1) AS o0, unnest($2) AS o1) AS v'
        f' WHERE t."size" {EQUALS} ANY (ARRAY[v.o0::"pg_catalog"."int4"])'
        f' AND t."id" {EQUALS} ANY (ARRAY[v.o1::"pg_catalog"."int8"])'
    )
    bound = Statements().bind(Work(batches.DELETE, pair, old=[(made.val("5"), made.val("1")), (made.val("6"), made.val("2"))]))
    assert bound.params == [array([made.val("5"), made.val("6")]), array([made.val("1"), made.val("2")])] and bound.rows == 2
    single = simple(ID, NOTE)
    bound = Statements().bind(Work(batches.REKEY, single, [row("2", "b")], [made.val("1")]))
    text = bound.statement.sql.decode()
    assert 'SET "id" = v.n0::' in text and 'ARRAY[v.o0::"pg_catalog"."int8"]' in text
    assert bound.params == [array([made.val("1")]), array([made.val("2")]), array([made.val("b")])]


def test_a_collation_and_an_array_as_key() -> None:
    shape = simple(ID, NOTE)
    key = shape.key[0]
    collated = type(key)(key.field, 'OPERATOR("x".=)', '"pg_catalog"."C"')
    assert '(ARRAY[v.o0::"pg_catalog"."int8" COLLATE "pg_catalog"."C"])' in sql(_with(shape, collated), batches.DELETE)
    listed = type(key)(type(key.field)(0, "id", "id", '"pg_catalog"."_int4"', 25, True, ""), EQUALS, "")
    assert f't."id" {EQUALS} v.o0::"pg_catalog"."_int4"' in sql(_with(shape, listed), batches.DELETE)


def _with(shape: Shape, key: object) -> Shape:
    values = {name: getattr(shape, name) for name in Shape.__dataclass_fields__}
    return Shape(**{**values, "key": (key,)})


def test_a_column_that_only_the_server_may_fill_goes_in_with_its_row() -> None:
    shape = simple(ID, NOTE, SIZE, identity={"size": "a"})
    text = sql(shape, batches.UPDATE)
    assert text.startswith('WITH gone AS (DELETE FROM ONLY "public"."t" AS t USING (SELECT unnest')
    assert 'INSERT INTO "public"."t" ("id", "note", "size") OVERRIDING SYSTEM VALUE SELECT * FROM gone' in text
    assert 't."note" AS c1' in sql(shape, batches.UPDATE, (1,)), "what was left alone is taken over"
    assert sql(shape, batches.UPDATE, (2,)).startswith("UPDATE")
    own = simple(ID, NOTE, identity={"id": "a"})
    assert sql(own, batches.UPDATE).startswith("UPDATE") and sql(own, batches.REKEY).startswith("WITH gone")


def test_rows_without_a_key_are_found_by_all_that_they_hold() -> None:
    shape = simple(ID, NOTE, key=(), sent_identity="f", lookup=["id"])
    text = sql(shape, batches.DELETE_ROW, (), lookup=True)
    assert 'ROW(d."id", d."note")::text = ROW(v.o0::"pg_catalog"."int8", v.o1::"pg_catalog"."text")::text' in text
    assert f'd."id" {EQUALS} ANY' in text and "LIMIT 1" in text and "t.ctid = f.ctid AND t.tableoid = f.tableoid" in text
    assert "ANY" not in sql(shape, batches.DELETE_ROW)
    made_ = Statements()
    old = row("1", "a")
    assert "ANY" in made_.bind(Work(batches.DELETE_ROW, shape, old=[old])).statement.sql.decode()
    assert "ANY" not in made_.bind(Work(batches.DELETE_ROW, shape, old=[row(None, "a")])).statement.sql.decode()
    update = made_.bind(updating(shape, Update(1, None, list(old), row("2", "b"))))
    assert update.statement.sql.decode().startswith('UPDATE ONLY "public"."t" AS t SET "id" = v.n0::') and len(update.params) == 4


def test_an_update_by_contents_leaves_what_only_the_server_may_fill() -> None:
    shape = simple(ID, NOTE, key=(), sent_identity="f", identity={"id": "a"})
    same = updating(shape, Update(1, None, row("1", "a"), row("1", "b")))
    assert same.absent == (0,) and Statements().bind(same).statement.sql.startswith(b"UPDATE")
    other = updating(shape, Update(1, None, row("1", "a"), row("2", "b")))
    assert Statements().bind(other).statement.sql.startswith(b"WITH gone")


def test_tables_without_columns_and_truncate() -> None:
    bare = simple(key=(), sent_identity="f")
    bound = Statements().bind(Work(batches.INSERT, bare, [[], [], []]))
    assert bound.params == [b"3"] and bound.rows == 3 and bound.statement.types == (23,)
    shape, root = simple(ID), simple(ID, kind="p", name="t")
    bound = Statements().bind(Work(batches.TRUNCATE, shape, shapes=(shape, root), restart=True))
    assert bound.statement.sql == b'TRUNCATE ONLY "public"."t", "public"."t" RESTART IDENTITY' and bound.rows is None


def test_1600_columns_fit_into_one_statement() -> None:
    columns = [ID, *((f"c{number}", 25) for number in range(1599))]
    bound = Statements().bind(Work(batches.INSERT, simple(*columns), [row(*["1"] * 1600)]))
    assert len(bound.params) == 1600
