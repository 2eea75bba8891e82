"""Indexes and constraints that a copy builds beside the rows: all of them, as on the source, once, and named when one cannot be built."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.progress import Progress
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.schema import transfer
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.schema_plan import Options
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.conftest import Pair

ALL = Selection.from_args()
SCHEMA = (
    "CREATE SCHEMA extra",
    "CREATE FUNCTION extra.low(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.lower($1)'",
    """CREATE TABLE a (id int PRIMARY KEY, code text, other int, doc jsonb, at int4range, p point, note text,
        CONSTRAINT a_code_key UNIQUE (code) DEFERRABLE INITIALLY DEFERRED,
        CONSTRAINT a_other_key UNIQUE NULLS NOT DISTINCT (other) INCLUDE (id),
        CONSTRAINT "a ""at"" excl" EXCLUDE USING gist (at WITH &&) WHERE (id > 0))""",
    "CREATE INDEX a_low ON a (extra.low(note) DESC NULLS LAST) WHERE id > 5",
    "ALTER INDEX a_low ALTER COLUMN 1 SET STATISTICS 77",
    "CREATE INDEX a_doc ON a USING gin (doc jsonb_path_ops) WITH (fastupdate = off)",
    "CREATE INDEX a_p ON a USING spgist (p)",
    "CREATE INDEX a_brin ON a USING brin (id)",
    "CREATE UNIQUE INDEX a_pair ON a (id, code) WITH (fillfactor = 70)",
    "COMMENT ON INDEX a_pair IS 'for upserts'",
    "ALTER TABLE a CLUSTER ON a_pkey",
    "CREATE TABLE no_key (x int NOT NULL, y int)",
    'CREATE UNIQUE INDEX "No Key" ON no_key (x)',
    'ALTER TABLE no_key REPLICA IDENTITY USING INDEX "No Key"',
    "CREATE TABLE child (id int PRIMARY KEY, a int REFERENCES a (id))",
    "CREATE TABLE parts (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20)",
    "CREATE INDEX parts_at ON parts (at)",
    "CREATE INDEX parts_1_own ON parts_1 (id)",
    "CREATE TABLE old_name (id int PRIMARY KEY, v int UNIQUE)",
)
ROWS = (
    """INSERT INTO a SELECT g, 'c' || g, g, jsonb_build_object('k', g), int4range(g, g + 1), point(g, g), 'Note ' || g FROM generate_series(1, 500) g""",
    "INSERT INTO no_key SELECT g, g FROM generate_series(1, 10) g",
    "INSERT INTO child SELECT g, g FROM generate_series(1, 10) g",
    "INSERT INTO parts SELECT g, g % 20 FROM generate_series(1, 100) g",
    "INSERT INTO old_name SELECT g, g FROM generate_series(1, 10) g",
)
FACTS = """
SELECT i.indrelid::regclass::text, c.relname::text, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisclustered, i.indisreplident, i.indimmediate,
       coalesce(obj_description(c.oid), ''), coalesce(k.conname::text, ''), coalesce(pg_get_constraintdef(k.oid), ''), k.condeferrable, k.condeferred,
       (SELECT array_agg(attstattarget ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid),
       (SELECT p.relname::text FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent WHERE h.inhrelid = c.oid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.conrelid = i.indrelid
WHERE n.nspname IN ('public', 'extra') ORDER BY 1, 2"""


def prepared(pair: Pair, selection: Selection = ALL) -> None:
    """Tables on both sides, rows on the source, indexes on the source only."""
    pair.on_source(*SCHEMA, *ROWS)
    transfer(pair.source, pair.target, selection, "pre_data", Options())


def test_indexes_and_constraints_are_those_of_the_source(pair: Pair) -> None:
    prepared(pair)
    assert pair.on_target(
        "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'public'::regnamespace"
    ) == [(0,)]
    planned = copy(pair.source, pair.target, ALL, workers=2, check=True)
    result = copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=20_000)
    leaves = "SELECT relname FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace ORDER BY 1"
    assert pair.on_target(leaves) == pair.on_source(leaves)
    assert (
        {index.name for index in planned.indexes} == {index.name for index in result.indexes} == {row[0] for row in pair.on_source(leaves)}
    )
    assert {index.name: index.constraint for index in result.indexes}["a_pkey"] and result.changed
    assert {index.name: index.constraint for index in result.indexes}["a_low"] is False
    # Statistics are there, of expressions too, before anything else runs.
    assert pair.on_target("SELECT count(*) FROM pg_stats WHERE tablename IN ('a', 'a_low', 'parts_1') AND attname IN ('id', 'low')") == [
        (3,)
    ]
    done = transfer(pair.source, pair.target, ALL, "post_data", Options())
    assert pair.on_target(FACTS) == pair.on_source(FACTS)
    assert not [what for what in done.applied if "_pkey on a" in what or "a_doc" in what], done.applied
    assert not copy(pair.source, pair.target, ALL, workers=2).changed
    assert not transfer(pair.source, pair.target, ALL, "post_data", Options()).changed


def test_only_missing_indexes_are_built_by_the_next_run(pair: Pair) -> None:
    prepared(pair)
    copy(pair.source, pair.target, ALL, workers=2)
    oids = dict(
        pair.on_target("SELECT relname::text, oid::bigint FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace")
    )
    pair.on_target("DROP INDEX a_doc", "ALTER TABLE a DROP CONSTRAINT a_code_key", "ALTER TABLE a SET WITHOUT CLUSTER")
    again = copy(pair.source, pair.target, ALL, workers=2)
    assert again.changed and again.resumed and again.moved_bytes == 0
    assert [(index.name, index.constraint) for index in again.indexes] == [("a_code_key", True), ("a_doc", False), ("a_pkey", False)]
    now = dict(
        pair.on_target("SELECT relname::text, oid::bigint FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace")
    )
    assert {name for name in oids if now[name] != oids[name]} == {"a_doc", "a_code_key"}
    assert pair.on_target("SELECT indisclustered FROM pg_index WHERE indexrelid = 'a_pkey'::regclass") == [(True,)]


def test_rows_only_when_asked(pair: Pair) -> None:
    prepared(pair)
    result = copy(pair.source, pair.target, ALL, workers=2, indexes=False)
    assert result.indexes == () and pair.on_target("SELECT count(*) FROM pg_class WHERE relname = 'a_pkey'") == [(0,)]


def test_renamed_tables_are_left_to_the_schema_transfer(pair: Pair) -> None:
    selection = Selection.from_args([], [], {"tables": {"public.old_name": "new_name"}, "schemas": {"extra": "more"}})
    prepared(pair, selection)
    result = copy(pair.source, pair.target, selection, workers=2)
    names = {index.name for index in result.indexes}
    assert "a_pkey" in names and not names & {"a_low", "old_name_pkey", "old_name_v_key"}
    transfer(pair.source, pair.target, selection, "post_data", Options())
    assert pair.on_target("SELECT indexdef FROM pg_indexes WHERE indexname IN ('a_low', 'old_name_v_key') ORDER BY 1") == [
        ("CREATE INDEX a_low ON public.a USING btree (more.low(note) DESC NULLS LAST) WHERE (id > 5)",),
        ("CREATE UNIQUE INDEX old_name_v_key ON public.new_name USING btree (v)",),
    ]
    assert not copy(pair.source, pair.target, selection, workers=2).changed


def test_an_index_that_cannot_be_built_is_named_and_all_else_is_done(pair: Pair) -> None:
    # The two databases see 'a' and 'A' differently, as two collations may.
    for side, body in (("on_source", "$1"), ("on_target", "pg_catalog.lower($1)")):
        on: Any = getattr(pair, side)
        on(
            f"CREATE FUNCTION fold(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT {body}'",
            "CREATE TABLE t (id int NOT NULL, code text, other int)",
        )
    pair.on_source(
        "INSERT INTO t VALUES (1, 'a', 1), (2, 'A', 2)",
        "CREATE UNIQUE INDEX t_code ON t (public.fold(code))",
        "ALTER TABLE t ADD PRIMARY KEY (id)",
        "CREATE INDEX t_other ON t (other)",
    )
    with pytest.raises(TransferError, match=r"(?s)index t_code of public\.t failed.*is duplicated") as caught:
        copy(pair.source, pair.target, ALL, workers=2)
    assert caught.value.details["kind"] == "index" and [one["name"] for one in caught.value.details["failed"]] == ["t_code"]
    assert pair.on_target("SELECT count(*) FROM t") == [(2,)]
    assert pair.on_target("SELECT relname::text FROM pg_class WHERE relkind = 'i' AND relname ~ '^t_' ORDER BY 1") == [
        ("t_other",),
        ("t_pkey",),
    ]
    pair.on_target("UPDATE t SET code = 'b' WHERE id = 2")
    again = copy(pair.source, pair.target, ALL, workers=2)
    assert [index.name for index in again.indexes] == ["t_code"] and again.moved_bytes == 0


def test_frozen_rows_and_the_tables_where_they_are_not_allowed(pair: Pair) -> None:
    pair.on_both(
        "CREATE TABLE plain (id int)", "CREATE TABLE pointed (id int PRIMARY KEY)", "CREATE TABLE points (id int REFERENCES pointed)"
    )
    for table in ("plain", "pointed", "points"):
        pair.on_source(f"INSERT INTO {table} SELECT generate_series(1, 100)")
    copy(pair.source, pair.target, ALL, workers=1)
    frozen = (
        "SELECT {t}, (SELECT count(*) FROM heap_page_items(get_raw_page('{t}', 0)) WHERE t_infomask & 768 = 768) FROM (SELECT 1) x(one)"
    )
    pair.on_target("CREATE EXTENSION pageinspect")
    counted = {
        t: pair.on_target(frozen.format(t=t).replace(f"SELECT {t},", f"SELECT '{t}',", 1))[0][1] for t in ("plain", "pointed", "points")
    }
    assert counted["plain"] == 100 and counted["points"] == 100, counted
    # TRUNCATE of a referenced table is not allowed: copied all the same, not frozen.
    assert counted["pointed"] == 0 and pair.on_target("SELECT count(*) FROM pointed") == [(100,)]


def test_toast_compression_is_the_columns_own_then_what_was_set_then_the_best(pair: Pair) -> None:
    pair.on_both("CREATE TABLE t (id int, free text, own text COMPRESSION pglz)")
    pair.on_source("INSERT INTO t VALUES (1, repeat('x', 20000), repeat('y', 20000))")
    query = "SELECT pg_column_compression(free), pg_column_compression(own) FROM t"

    def stored(**how: str) -> list[tuple[str, str]]:
        copy(pair.source, pair.target, ALL, workers=1, **how)
        found = pair.on_target(query)
        pair.on_target("DROP SCHEMA cutover CASCADE", "TRUNCATE t")
        return found

    assert stored() == [("lz4", "pglz")]
    assert stored(toast_compression="server") == [("pglz", "pglz")]
    pair.on_target(f"ALTER DATABASE {pair.target.dbname} SET default_toast_compression = 'pglz'")
    assert stored() == [("pglz", "pglz")]
    assert stored(toast_compression="lz4") == [("lz4", "pglz")]
    with pytest.raises(TransferError, match="unknown toast_compression"):
        copy(pair.source, pair.target, ALL, toast_compression="zip")


def test_builds_show_in_the_progress(pair: Pair) -> None:
    prepared(pair)
    seen: list[Progress] = []
    copy(pair.source, pair.target, ALL, workers=2, progress=seen.append)
    assert seen[-1].complete and seen[-1].builds_done == seen[-1].builds_total > 15 and not seen[-1].builds and seen[-1].share == 1
