"""Verification against two real servers: equal is equal whatever the type, and every planted difference is named."""

from __future__ import annotations

import time

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import ledger, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.canonical import STRATEGIES
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import VerifiedTable, VerifyResult, verify
from integration.conftest import Pair
from integration.transfer.cases import ROWS, SCHEMA

ALL = Selection.from_args()


@pytest.fixture
def moved(pair: Pair) -> Pair:
    """Every type and shape, copied."""
    pair.on_both(*SCHEMA)
    pair.on_source(*ROWS)
    copy(pair.source, pair.target, ALL, workers=2)
    return pair


def table(result: VerifyResult, name: str) -> VerifiedTable:
    return next(one for one in result.tables if one.name == f"public.{name}")


def only_difference(result: VerifyResult, name: str) -> VerifiedTable:
    """The table, which must be the only one that differs."""
    assert [one.name for one in result.tables if not one.equal] == [f"public.{name}"] and not result.equal
    return table(result, name)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_copied_rows_are_equal_under_every_hash(moved: Pair, strategy: str) -> None:
    result = verify(moved.source, moved.target, ALL, hash=strategy)
    assert result.equal and result.hash == strategy
    assert {one.name: one.method for one in result.tables}.items() >= {
        "public.wide": "key", "public.text_key": "key_hash", "public.no_key": "row_hash", "public.nullable_key": "row_hash", "public.hashed": "row_hash"
    }.items()  # fmt: skip
    assert table(result, "parent").rows == 50 and table(result, "child").rows == 70 and table(result, "no_columns").rows == 2


def test_settings_of_roles_and_databases_change_nothing(moved: Pair) -> None:
    for setting in (
        "timezone = 'Asia/Kathmandu'",
        "datestyle = 'German'",
        "extra_float_digits = -5",
        "bytea_output = 'escape'",
        "intervalstyle = 'iso_8601'",
    ):
        moved.on_target(f"ALTER DATABASE {moved.dbname} SET {setting}")
    assert verify(moved.source, moved.target, ALL).equal
    assert verify(moved.source, moved.target, ALL, hash="md5").equal


CHANGES = {
    "i2": "7", "i4": "7", "f4": "0", "f8": "0", "n": "'1'", "n2": "1.01", "t": "NULL", "v": "' '", "c": "'x'", "b": "'\\x00'", "u": "NULL", "d": "'infinity'",
    "tm": "'24:00'", "tz": "'24:00:00-15:58'", "ts": "'infinity'", "tstz": "'-infinity'", "iv": "'-178000000 years 1 day -24:00'", "j": "'{\"a\": 1, \"a\":2}'",
    "jb": "'null'", "ip": "'::1/65'", "net": "'10.0.0.0/9'", "mac": "NULL", "bits": "B'00001'", "vbits": "B'0'", "m": "'calm'", "ms": "'{calm}'",
    "ia": "NULL", "ta": "'{NULL,\"\",\"NULL\"}'", "ma": "'{1.00,1.00,NaN}'", "p": "'(,\"\")'", "dom": "2", "r": "'(,)'", "mr": "'{(,)}'", "tsv": "NULL",
    "x": "'<a></a>'", "amount": "'-92233720368547758.07'", "o": "1", "rc": "'no_key'", "pt": "'(0,1e-310)'", "flag": "NULL", "ch": "'y'",
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_smallest_change_of_every_type_is_named(pair: Pair, strategy: str) -> None:
    """Hard neighbours: -0 and 0, 1.0 and 1, '' and NULL, equal intervals, json that differs in a blank. One copy of the row for each column."""
    pair.on_both(*SCHEMA)
    columns = ", ".join(CHANGES)
    pair.on_source(ROWS[0], f"INSERT INTO wide ({columns}) SELECT {columns} FROM wide, generate_series(1, {len(CHANGES)}) WHERE id = 1")
    copy(pair.source, pair.target, ALL)
    expected = {}
    for number, (column, literal) in enumerate(CHANGES.items(), start=5):
        pair.on_target(f"UPDATE wide SET {column} = {literal} WHERE id = {number}")
        expected[str(number)] = (column,)
    found = only_difference(verify(pair.source, pair.target, ALL, hash=strategy), "wide")
    assert {one.key["id"]: one.columns for one in found.changed if one.key} == expected
    assert (found.missing_count, found.extra_count, found.changed_count) == (0, 0, len(CHANGES))


def test_missing_extra_changed_and_swapped_rows_are_all_named(moved: Pair) -> None:
    moved.on_target(
        "DELETE FROM wide WHERE id IN (5, 2999)",
        "INSERT INTO wide (id, t) OVERRIDING SYSTEM VALUE VALUES (-4000000000000000000, 'far'), (4000000000000000000, 'far')",
        "UPDATE wide SET t = 'x', i4 = 0 WHERE id = 100",
        "UPDATE wide a SET jb = b.jb FROM wide b WHERE (a.id, b.id) IN ((200, 201), (201, 200))",
        "DELETE FROM text_key WHERE code = 'key:77'",
        "UPDATE text_key SET value = value || '{\"more\": 1}' WHERE code = 'key:78'",
        "INSERT INTO text_key VALUES ('Firma 1', 'SESSION', 'key:1', NULL)",
        "UPDATE pair_key SET note = 'swap' WHERE (a, b) IN ((1, 11), (11, 1))",
        "UPDATE ranged SET note = note || ' ' WHERE id = 400",
        'UPDATE "Odd ""Name\\" SET "Ümläut %s" = NULL WHERE id = 2',
    )  # fmt: skip
    result = verify(moved.source, moved.target, ALL, workers=2)
    assert not result.equal
    wide = table(result, "wide")
    assert sorted(one.key["id"] for one in wide.missing if one.key) == ["2999", "5"]
    assert sorted(one.key["id"] for one in wide.extra if one.key) == ["-4000000000000000000", "4000000000000000000"]
    assert {one.key["id"]: one.columns for one in wide.changed if one.key} == {"100": ("i4", "t"), "200": ("jb",), "201": ("jb",)}
    text = table(result, "text_key")
    assert [dict(one.key or {}) for one in text.missing] == [{"company": "Firma 0", "kind": "sëssion 😀", "code": "key:77"}]
    assert [dict(one.key or {}) for one in text.extra] == [{"company": "Firma 1", "kind": "SESSION", "code": "key:1"}]
    assert [one.columns for one in text.changed] == [("value",)]
    assert sorted((one.key["a"], one.key["b"]) for one in table(result, "pair_key").changed if one.key) == [("1", "11"), ("11", "1")]
    assert [one.name for one in result.tables if not one.equal and one.name.startswith("public.ranged")] == ["public.ranged_2_a"]
    assert [one.columns for one in table(result, 'Odd "Name\\').changed] == [("Ümläut %s",)]


def test_one_of_three_duplicates_lost_without_a_key(moved: Pair) -> None:
    moved.on_target(
        "DELETE FROM no_key WHERE ctid = (SELECT min(ctid) FROM no_key WHERE a = 7)",
        "UPDATE nullable_key SET b = '' WHERE a IS NULL AND b IS NULL",
    )
    result = verify(moved.source, moved.target, ALL)
    found = table(result, "no_key")
    assert found.missing_count == 1 and found.extra_count == 0 and found.changed_count == 0
    assert [(one.row, one.copies) for one in found.missing] == [("(7,b7)", (30, 29))]
    nullable = table(result, "nullable_key")
    assert [(one.row, one.copies) for one in nullable.missing] == [("(,)", (1, 0))] and [one.row for one in nullable.extra] == [('(,"")')]


def test_lists_are_capped_and_counts_are_not(moved: Pair) -> None:
    moved.on_target("DELETE FROM uuid_key", "UPDATE wide SET i4 = 1 WHERE id > 4", "DELETE FROM no_key")
    result = verify(moved.source, moved.target, ALL, max_reported=3)
    assert (table(result, "uuid_key").missing_count, len(table(result, "uuid_key").missing)) == (2000, 3)
    assert (table(result, "wide").changed_count, len(table(result, "wide").changed)) == (2999, 3)
    assert (table(result, "no_key").missing_count, len(table(result, "no_key").missing)) == (3000, 3)


def test_key_twice_on_a_target_without_its_index(pair: Pair) -> None:
    pair.on_source("CREATE TABLE a (id int PRIMARY KEY, b text)", "INSERT INTO a VALUES (1, 'x'), (2, 'y')")
    pair.on_target("CREATE TABLE a (id int, b text)", "INSERT INTO a VALUES (1, 'x'), (1, 'x'), (2, 'y'), (2, 'z')")
    found = table(verify(pair.source, pair.target, ALL), "a")
    assert (found.missing_count, found.extra_count, found.changed_count) == (0, 2, 0)


def test_counts_mode_compares_numbers_only(moved: Pair) -> None:
    moved.on_target("UPDATE wide SET i4 = 1", "DELETE FROM uuid_key WHERE note = 'note 1'")
    result = verify(moved.source, moved.target, ALL, mode="counts")
    found = only_difference(result, "uuid_key")
    assert (found.missing_count, found.missing, found.method) == (1, (), "count")


def test_dirty_mode_compares_the_named_keys_and_all_counts(moved: Pair) -> None:
    moved.on_target(
        "UPDATE wide SET i4 = 1 WHERE id = 50", "UPDATE wide SET i4 = 1 WHERE id = 60", "DELETE FROM uuid_key WHERE note = 'note 1'",
        "INSERT INTO cutover.dirty VALUES ('public', 'wide', '{50}'), ('public', 'wide', '{51}'), ('public', 'wide', '{999999}'),"
        " ('public', 'text_key', '{Firma 1,Session,key:1}'), ('public', 'no_key', '{}'), ('public', 'ranged', '{400,2025-02-04}')",
        "UPDATE ranged SET note = NULL WHERE id = 400",
    )  # fmt: skip
    with session.connect(moved.target, application_name="test") as conn:
        keys = ledger.read_dirty(conn)
    result = verify(moved.source, moved.target, ALL, mode="dirty", keys=keys)
    assert {one.name for one in result.tables if not one.equal} == {"public.wide", "public.uuid_key", "public.ranged_2_a"}
    assert [dict(one.key or {}) for one in table(result, "wide").changed] == [{"id": "50"}], "60 was not named, so it is not looked at"
    assert table(result, "uuid_key").missing_count == 1 and table(result, "text_key").method == "keys"
    named = verify(moved.source, moved.target, ALL, mode="dirty", keys=keys, counts=False)
    assert {one.name for one in named.tables if not one.equal} == {"public.wide", "public.ranged_2_a"}, "uuid_key was not named"
    assert (table(named, "wide").rows, table(named, "uuid_key").rows, table(named, "no_key").rows) == (3, 0, 3000)


def test_rename_is_honoured_in_the_proof(pair: Pair) -> None:
    pair.on_source(
        "CREATE SCHEMA old",
        "CREATE TABLE old.t (id int PRIMARY KEY, a text, n numeric)",
        "INSERT INTO old.t SELECT g, 'x', 1.0 FROM generate_series(1, 10) g",
    )
    pair.on_target("CREATE SCHEMA fresh", "CREATE TABLE fresh.tt (n numeric, aa text, id int PRIMARY KEY)")
    selection = Selection.from_args(["old.*"], [], {"schemas": {"old": "fresh"}, "tables": {"old.t": "tt"}, "columns": {"old.t.a": "aa"}})
    copy(pair.source, pair.target, selection)
    assert verify(pair.source, pair.target, selection).equal
    assert verify(pair.target, pair.source, selection.inverted()).equal
    pair.on_target("UPDATE fresh.tt SET aa = 'y' WHERE id = 4")
    back = verify(pair.target, pair.source, selection.inverted())
    assert [(one.name, [c.columns for c in one.changed]) for one in back.tables] == [("fresh.tt", [("aa",)])]


def test_different_partitions_are_compared_through_the_root(pair: Pair) -> None:
    pair.on_both("CREATE TABLE r (id int, note text) PARTITION BY RANGE (id)")
    pair.on_source(
        "CREATE TABLE r_a PARTITION OF r FOR VALUES FROM (0) TO (100)", "INSERT INTO r SELECT g, 'n' FROM generate_series(0, 99) g"
    )
    pair.on_target("CREATE TABLE r_b PARTITION OF r DEFAULT")
    copy(pair.source, pair.target, ALL)
    assert verify(pair.source, pair.target, ALL).equal
    pair.on_target("DELETE FROM r WHERE id = 5")
    assert [one.row for one in only_difference(verify(pair.source, pair.target, ALL), "r").missing] == ["(5,n)"]


def test_rows_of_a_partition_that_only_the_target_has_are_compared(pair: Pair) -> None:
    pair.on_both(
        "CREATE TABLE r (id int, note text) PARTITION BY RANGE (id)", "CREATE TABLE r_a PARTITION OF r FOR VALUES FROM (0) TO (100)"
    )
    pair.on_target("CREATE TABLE r_b PARTITION OF r DEFAULT")
    pair.on_source("INSERT INTO r SELECT g, 'n' FROM generate_series(0, 9) g")
    copy(pair.source, pair.target, ALL)
    assert verify(pair.source, pair.target, ALL).equal
    pair.on_target("INSERT INTO r VALUES (777, 'nobody asked for it')")
    assert [one.row for one in only_difference(verify(pair.source, pair.target, ALL), "r").extra] == ['(777,"nobody asked for it")']


def test_given_snapshots_are_what_is_compared(moved: Pair) -> None:
    with moved.target_server.connect(moved.dbname) as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        row = conn.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        moved.on_target("DELETE FROM wide")
        assert verify(moved.source, moved.target, ALL, target_snapshot=row[0]).equal
    assert not verify(moved.source, moved.target, ALL).equal


def test_wide_tables_and_huge_values(pair: Pair) -> None:
    columns = ", ".join(f"c{number} int" for number in range(1200))
    pair.on_both(f"CREATE TABLE many (id int PRIMARY KEY, {columns})", "CREATE TABLE large (id int PRIMARY KEY, b bytea, t text)")
    pair.on_source(
        "INSERT INTO many (id, c0, c1199) VALUES (1, 1, 1)",
        "INSERT INTO large VALUES (1, decode(repeat('00ff', 40000000), 'hex'), repeat('é', 50000000))",
    )
    copy(pair.source, pair.target, ALL)
    for strategy in ("record", "text", "md5"):
        assert verify(pair.source, pair.target, ALL, hash=strategy).equal
    pair.on_target("UPDATE many SET c1100 = 0", "UPDATE large SET t = overlay(t placing 'e' from 49999999)")
    result = verify(pair.source, pair.target, ALL, hash="text")
    assert table(result, "many").changed[0].columns == ("c1100",) and table(result, "large").changed[0].columns == ("t",)


def test_unknown_table_in_keys_is_refused(moved: Pair) -> None:
    with pytest.raises(TransferError, match=r"public\.typo"):
        verify(moved.source, moved.target, ALL, mode="dirty", keys={"public.typo": [("1",)]})


def test_gaps_and_outliers_in_keys_are_narrowed(pair: Pair) -> None:
    pair.on_both("CREATE TABLE big (id bigint PRIMARY KEY, b text)")
    pair.on_source(
        "INSERT INTO big SELECT CASE WHEN g % 50000 = 0 THEN g * 100000000000 ELSE g END, md5(g::text) FROM generate_series(1, 100000) g"
    )
    copy(pair.source, pair.target, ALL)
    pair.on_target("UPDATE big SET b = 'x' WHERE id IN (3, 77777, 5000000000000000)", "DELETE FROM big WHERE id = 10000000000000000")
    found = only_difference(verify(pair.source, pair.target, ALL), "big")
    assert [one.key["id"] for one in found.changed if one.key] == ["3", "77777", "5000000000000000"]
    assert [one.key["id"] for one in found.missing if one.key] == ["10000000000000000"]


def test_speed_is_shown(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    pair.on_both("CREATE TABLE big (id bigint PRIMARY KEY, at timestamptz, amount numeric, note text, data jsonb)")
    pair.on_source(
        "INSERT INTO big SELECT g, now(), g / 7.0, md5(g::text), jsonb_build_object('g', g, 'tags', array[g, g + 1]) FROM generate_series(1, 500000) g",
        "ANALYZE big",
    )
    copied = copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=16_000_000)
    began = time.monotonic()
    result = verify(pair.source, pair.target, ALL)
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(
            f"\n500,000 rows: copy {copied.seconds:.1f} s, {copied.mb_per_s:.0f} MB/s; verify {seconds:.1f} s, {500000 / seconds:,.0f} rows/s ({result.hash})"
        )
    assert copied.rows == 500000 and result.equal
