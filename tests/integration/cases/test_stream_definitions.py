"""Case 37: definitions that change on the sender stop the stream before wrong data, say what mends it, and it goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from integration.cases.independent import assert_same_rows
from integration.conftest import Pair
from integration.transfer.streaming import Stream, refused


@pytest.fixture
def stream(pair: Pair, tmp_path: Path) -> Iterator[Stream]:
    """Forward; nothing is copied yet."""
    made = Stream(pair, tmp_path / "spool")
    yield made
    made.drop_slot()


def same(made: Stream) -> None:
    """Everything is applied, and both sides hold the same rows by an independent measure as well as by our own."""
    made.apply_once()
    assert_same_rows(made.pair)
    assert made.verified().equal


def test_case_37_an_added_column_stops_the_stream_until_it_is_there(stream: Stream) -> None:
    stream.pair.on_both("CREATE TABLE t (id int PRIMARY KEY, n int)", "CREATE TABLE other (id int PRIMARY KEY)")
    stream.pair.on_source("INSERT INTO t SELECT g, 0 FROM generate_series(1, 5) g")
    stream.copy()
    stream.apply_once()
    stream.pair.on_source(
        "UPDATE t SET n = 1",
        "ALTER TABLE t ADD COLUMN price numeric(10, 2) NOT NULL DEFAULT 9.5",
        "INSERT INTO other VALUES (1)",
        "INSERT INTO t VALUES (6, 1, 7)",
    )
    error = refused(stream, "definition_changed", 'ALTER TABLE "public"."t" ADD COLUMN "price" numeric(10,2)', "default")
    assert error.details["table"] == "public.t"
    assert stream.pair.on_target("SELECT count(*), sum(n) FROM t") == [(5, 5)] and stream.pair.on_target("SELECT id FROM other") == [(1,)]
    refused(stream, "definition_changed", "price")
    stream.pair.on_target("ALTER TABLE t ADD COLUMN price numeric(10, 2) NOT NULL DEFAULT 9.5")
    same(stream)


@pytest.mark.parametrize(
    ("ddl", "change", "words", "mend"),
    [
        ("DROP COLUMN b", "INSERT INTO t (id, n) VALUES (9, 9)", ['DROP COLUMN "b"', "not sent any more"], "DROP COLUMN b"),
        ("RENAME b TO c", "UPDATE t SET c = 'x'", ['ADD COLUMN "c" text', "b is not sent"], "RENAME b TO c"),
        ("ALTER b TYPE varchar(9)", "UPDATE t SET b = 'x'", [], None),
        ("ALTER n TYPE bigint", "UPDATE t SET n = 5000000000", ['ALTER COLUMN "n" TYPE bigint', "integer"], "ALTER n TYPE bigint"),
        (
            "DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (n)",
            "UPDATE t SET b = 'x'",
            ['CREATE UNIQUE INDEX ON "public"."t" ("n")'],
            "ADD UNIQUE (n)",
        ),
        ("REPLICA IDENTITY FULL", "UPDATE t SET b = 'x'", [], None),
    ],
    ids=["drop", "rename", "narrower", "wider", "key", "identity"],
)
def test_case_37_other_changes_of_a_definition(stream: Stream, ddl: str, change: str, words: list[str], mend: str | None) -> None:
    """Those that fit go on at once, the others stop before the first change under the new definition."""
    stream.pair.on_both("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, b text)")
    stream.pair.on_source("INSERT INTO t SELECT g, g, 'b' FROM generate_series(1, 5) g")
    stream.copy()
    stream.pair.on_source("UPDATE t SET b = 'before'")
    stream.apply_once()
    stream.pair.on_source(f"ALTER TABLE t {ddl}", change)
    if words:
        refused(stream, "definition_changed", *words)
        assert {row[0] for row in stream.pair.on_target("SELECT b FROM t")} == {"before"}
    if mend:
        stream.pair.on_target(f"ALTER TABLE t {mend}")
    same(stream)


def test_case_37_a_new_table_is_not_ignored(stream: Stream) -> None:
    stream.pair.on_both("CREATE TABLE t (id int PRIMARY KEY)")
    stream.copy()
    stream.apply_once()
    stream.pair.on_source(
        "INSERT INTO t VALUES (1)", "CREATE TABLE fresh (id int PRIMARY KEY)", "INSERT INTO fresh VALUES (1)", "INSERT INTO t VALUES (2)"
    )
    refused(stream, "new_table", "public.fresh", "pg_schema_transfer", "pg_row_copy")
    assert stream.pair.on_target("SELECT id FROM t") == [(1,)]
    # There, but without the rows that were written before it was.
    stream.pair.on_target("CREATE TABLE fresh (id int PRIMARY KEY)")
    refused(stream, "new_table", "public.fresh", "no copy has brought it")
    stream.pair.on_source("INSERT INTO fresh VALUES (2)")
    copy(stream.pair.source, stream.pair.target, stream.config.selection, workers=1, slot=stream.slot)
    stream.pair.on_source("INSERT INTO fresh VALUES (3)", "DELETE FROM fresh WHERE id = 1")
    same(stream)
    assert stream.row.tables.keys() == {"public.fresh"}


def test_case_37_a_table_that_is_left_out_is_not_taken_in_halfway(stream: Stream) -> None:
    stream.pair.on_both("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE apart (id int PRIMARY KEY)")
    stream.exclude = ("public.apart",)
    stream.copy()
    stream.pair.on_source("INSERT INTO apart VALUES (1)", "INSERT INTO t VALUES (1)")
    stream.apply_once()
    assert stream.pair.on_target("SELECT count(*) FROM apart") == [(0,)] and stream.figures["ignored"] == 1
    stream.exclude = ()
    copy(stream.pair.source, stream.pair.target, stream.config.selection, workers=1, slot=stream.slot)
    stream.exclude = ("public.apart",)
    stream.pair.on_source("INSERT INTO apart VALUES (2)", "INSERT INTO t VALUES (2)")
    stream.apply_once()
    # The second row came after the copy, and was left out: the copy is too old to go on from.
    stream.exclude = ()
    stream.pair.on_source("INSERT INTO apart VALUES (3)")
    refused(stream, "new_table", "public.apart", "its copy is older")
    stream.pair.on_target("TRUNCATE apart", "DELETE FROM cutover.chunk WHERE source_table = 'apart'")
    copy(stream.pair.source, stream.pair.target, stream.config.selection, workers=1, slot=stream.slot)
    same(stream)


def test_case_37_new_partitions_go_through_the_root_or_are_asked_for(stream: Stream) -> None:
    create = (
        "CREATE TABLE p (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)",
        "CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100)",
    )
    stream.pair.on_both(*create)
    stream.pair.on_source("INSERT INTO p VALUES (1, 1)")
    stream.copy()
    stream.apply_once()
    stream.pair.on_source(
        "CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100) TO (200)", "INSERT INTO p VALUES (2, 2)", "INSERT INTO p VALUES (150, 1)"
    )
    refused(stream, "definition_changed", "no partition", "PARTITION OF", "id = '150'")
    assert stream.pair.on_target("SELECT id FROM p ORDER BY 1") == [(1,), (2,)]
    # Cut in another way, it takes the same rows.
    stream.pair.on_target("CREATE TABLE p_rest PARTITION OF p DEFAULT")
    stream.pair.on_source("UPDATE p SET id = id + 100 WHERE id = 2")
    same(stream)


def test_case_37_a_column_that_the_target_never_had_stops_when_it_is_given_data(stream: Stream) -> None:
    stream.pair.on_source("CREATE TABLE t (id int PRIMARY KEY, extra text, flag bool DEFAULT false)")
    stream.pair.on_target("CREATE TABLE t (id int PRIMARY KEY)")
    stream.pair.on_source("INSERT INTO t VALUES (1)")
    stream.copy()
    stream.pair.on_source("INSERT INTO t VALUES (2)", "UPDATE t SET id = 3 WHERE id = 2", "INSERT INTO t VALUES (4, NULL, NULL)")
    stream.apply_once()
    assert stream.pair.on_target("SELECT id FROM t ORDER BY 1") == [(1,), (3,), (4,)]
    stream.pair.on_source("UPDATE t SET extra = 'data' WHERE id = 3")
    error = refused(stream, "definition_changed", "extra of public.t holds data now")
    assert "'data'" not in f"{error.message} {error.details}"
    stream.pair.on_target("ALTER TABLE t ADD extra text", "ALTER TABLE t ADD flag bool DEFAULT false")
    stream.pair.on_source("UPDATE t SET flag = true WHERE id = 1")
    stream.apply_once()
    assert stream.pair.on_target("SELECT id, extra FROM t WHERE extra IS NOT NULL") == [(3, "data")]
