"""What changes do to tables of every make, and what stops them: conflicts, copies that are not there, names, keys, triggers, partitions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import ledger, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Rename
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import applier, pgoutput, roster, state
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.feed import Limits
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify
from integration.conftest import Pair
from integration.transfer.cases import wait_until
from integration.transfer.streaming import Stream, applied_equal, kind_of, refused


@pytest.fixture
def stream(pair: Pair, tmp_path: Path) -> Iterator[Stream]:
    """Nothing is copied yet."""
    made = Stream(pair, tmp_path / "spool")
    yield made
    made.drop_slot()


def test_a_change_that_finds_no_row_stops_the_stream_and_goes_on_when_it_is_mended(stream: Stream) -> None:
    stream.pair.on_both("CREATE TABLE t (a int, b text, note text, PRIMARY KEY (b, a))", "CREATE TABLE other (id int PRIMARY KEY)")
    stream.pair.on_source("INSERT INTO t SELECT g, 'k', 'secret' FROM generate_series(1, 9) g")
    stream.copy()
    stream.pair.on_target("DELETE FROM t WHERE a = 5")
    stream.pair.on_source("INSERT INTO other VALUES (1)", "UPDATE t SET note = 'hidden' WHERE a > 3", "INSERT INTO other VALUES (2)")
    error = refused(stream, "conflict")
    assert error.details["key"] == {"b": "k", "a": "5"} and error.details["operation"] == "update" and error.details["table"] == "public.t"
    assert "found 0 rows" in error.message and "hidden" not in str(stream.row.problem) and "secret" not in str(stream.row.problem)
    # Everything before the transaction is there, nothing of it, nothing after it.
    assert stream.pair.on_target("SELECT id FROM other ORDER BY 1") == [(1,)]
    assert stream.pair.on_target("SELECT count(*) FROM t WHERE note = 'hidden'") == [(0,)]
    assert pgoutput.lsn_number(error.details["lsn"]) >= stream.row.applied
    refused(stream, "conflict")
    stream.pair.on_target("INSERT INTO t VALUES (5, 'k', 'secret')")
    applied_equal(stream)
    assert stream.row.problem is None


@pytest.mark.parametrize(
    ("plant", "change", "sqlstate"),
    [
        ("INSERT INTO t VALUES (20, 'x')", "INSERT INTO t VALUES (20, 'y')", "23505"),
        ("UPDATE t SET u = 'taken' WHERE id = 2", "UPDATE t SET u = 'taken' WHERE id = 1", "23505"),
        ("ALTER TABLE t ADD CHECK (u <> 'bad')", "UPDATE t SET u = 'bad' WHERE id = 1", "23514"),
        ("DELETE FROM t WHERE id = 3", "UPDATE t SET id = 30 WHERE id = 3", None),
        ("DELETE FROM t WHERE id = 3", "DELETE FROM t WHERE id = 3", None),
        ("DELETE FROM loose WHERE a = 1", "DELETE FROM loose WHERE a = 1", None),
        ("UPDATE loose SET b = 'y' WHERE a = 1", "UPDATE loose SET b = 'z' WHERE a = 1", None),
    ],
)
def test_every_kind_of_conflict_is_named(stream: Stream, plant: str, change: str, sqlstate: str | None) -> None:
    stream.pair.on_both("CREATE TABLE t (id int PRIMARY KEY, u text UNIQUE)", "CREATE TABLE loose (a int, b text)")
    stream.pair.on_source(
        "ALTER TABLE loose REPLICA IDENTITY FULL",
        "INSERT INTO t SELECT g, g FROM generate_series(1, 9) g",
        "INSERT INTO loose VALUES (1, 'x')",
    )
    stream.copy()
    stream.pair.on_target(plant)
    stream.pair.on_source(change)
    error = refused(stream, "conflict")
    assert error.details.get("sqlstate") == sqlstate and error.details["xid"] > 0
    assert "'bad'" not in error.message and "taken" not in str(error.details)


def test_what_is_exchanged_goes_in_at_once_where_the_constraint_waits_for_the_commit(stream: Stream) -> None:
    stream.pair.on_both("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    stream.pair.on_source("INSERT INTO t VALUES (1, 1), (2, 2)")
    stream.copy()
    stream.pair.on_source("UPDATE t SET u = 3 - u")
    applied_equal(stream)
    assert stream.exact == 0


def test_names_follow_the_rename_map_and_lead_back(pair: Pair, tmp_path: Path) -> None:
    rename = Rename.from_args(
        {"schemas": {"app": "shop"}, "tables": {"app.orders": "sales"}, "columns": {"app.orders.note": "remark", "app.parts.v": "value"}}
    )
    forward = Stream(pair, tmp_path / "forward", rename=rename)
    back = Stream(pair, tmp_path / "back", direction="reverse", rename=rename)
    parts = "(id int, at date, {v} text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)"
    bounds = "FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')"
    pair.on_source(
        "CREATE SCHEMA app",
        "CREATE TYPE app.mood AS ENUM ('calm', 'wild')",
        "CREATE TABLE app.orders (id int PRIMARY KEY, note text, m app.mood)",
        f"CREATE TABLE app.parts {parts.format(v='v')}",
        f"CREATE TABLE app.parts_1 PARTITION OF app.parts {bounds}",
        "INSERT INTO app.orders SELECT g, 'n', 'calm' FROM generate_series(1, 20) g",
    )
    pair.on_target(
        "CREATE SCHEMA shop",
        "CREATE TYPE shop.mood AS ENUM ('calm', 'wild')",
        "CREATE TABLE shop.sales (id int PRIMARY KEY, remark text, m shop.mood)",
        f"CREATE TABLE shop.parts {parts.format(v='value')}",
        f"CREATE TABLE shop.parts_1 PARTITION OF shop.parts {bounds}",
    )
    try:
        forward.copy()
        pair.on_source("UPDATE app.orders SET note = 'x', m = 'wild' WHERE id < 5", "INSERT INTO app.parts VALUES (1, '2024-05-05', 'p')")
        applied_equal(forward)
        pair.on_target("CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root = true)")
        lsn = pair.on_target(f"SELECT lsn::text FROM pg_create_logical_replication_slot('{back.slot}', 'pgoutput')")[0][0]
        with (
            session.connect(pair.source, application_name="test") as here,
            session.connect(pair.target, application_name="test") as there,
        ):
            drawn = roster.draw_up(there, here, back.config.sent, forward=False)
            assert drawn.problems == ()
            state.begin(here, "reverse", "target", back.slot, "p", pgoutput.lsn_number(lsn), drawn.routes)
            state.request_dirty_from(here, "reverse", pgoutput.lsn_number(lsn))
        pair.on_target(
            "DELETE FROM shop.sales WHERE id = 7",
            "UPDATE shop.sales SET remark = 'back', m = 'calm' WHERE id = 8",
            "UPDATE shop.parts SET value = 'q'",
            "INSERT INTO shop.sales VALUES (99, 'new', 'wild')",
        )
        applied_equal(back)
        with session.connect(pair.source, application_name="test", read_only=True) as conn:
            dirty = ledger.read_dirty(conn)
        # Rows are named as the migration's source names them, in both directions.
        assert {name: sorted(keys) for name, keys in dirty.items()} == {
            "app.orders": [("7",), ("8",), ("99",)],
            "app.parts": [("1", "2024-05-05")],
        }
        assert verify(pair.source, pair.target, back.config.selection, mode="dirty", keys=dirty, workers=1).equal
    finally:
        forward.drop_slot()
        back.drop_slot()


def test_triggers_that_fire_in_a_replica_see_the_senders_order(stream: Stream) -> None:
    stream.pair.on_both(
        "CREATE TABLE seen (id int PRIMARY KEY, total int)",
        "CREATE TABLE told (id int PRIMARY KEY, plain int)",
        "CREATE TABLE plain (id int PRIMARY KEY)",
    )
    stream.copy()
    stream.pair.on_target(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " NEW.plain := (SELECT count(*) FROM public.plain); RETURN NEW; END$$",
        "CREATE TRIGGER note BEFORE INSERT ON told FOR EACH ROW EXECUTE FUNCTION note()",
        "ALTER TABLE told ENABLE ALWAYS TRIGGER note",
    )
    stream.pair.on_source(
        *(f"INSERT INTO {table} VALUES ({number}{', 0' if table == 'told' else ''})" for number in range(5) for table in ("plain", "told"))
    )
    stream.apply_once()
    assert stream.pair.on_target("SELECT id, plain FROM told ORDER BY 1") == [(number, number + 1) for number in range(5)]
    assert stream.figures["batches"] == 1


def test_no_table_is_ever_read_as_a_whole_although_it_was_empty_when_the_plan_was_made(stream: Stream) -> None:
    """One session, so that every statement keeps the plan of its first time."""
    stream.limits = Limits(changes=500)
    stream.pair.on_both(
        "CREATE TABLE grown (id bigint PRIMARY KEY, n int)", "CREATE TABLE pairs (a int, b text, n int, PRIMARY KEY (a, b))"
    )
    stream.copy()
    for table, key in (("grown", "g"), ("pairs", "g, g::text")):
        stream.pair.on_source(
            f"INSERT INTO {table} SELECT {key}, 0 FROM generate_series(1, 2) g",
            f"UPDATE {table} SET n = 1",
            f"INSERT INTO {table} SELECT {key}, 0 FROM generate_series(10, 4000) g",
            *(f"UPDATE {table} SET n = {number}" for number in range(3)),
            f"DELETE FROM {table} WHERE n = 2",
        )
    applied_equal(stream)
    rows = stream.pair.on_target(
        "SELECT relname::text, seq_scan, idx_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE relname IN ('grown', 'pairs') ORDER BY 1"
    )
    wait_until(
        lambda: stream.pair.on_target("SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE relname = 'pairs'")[0][0] >= 3993, "statistics"
    )
    rows = stream.pair.on_target(
        "SELECT relname::text, coalesce(idx_tup_fetch, 0), n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname IN ('grown', 'pairs') ORDER BY 1"
    )
    assert [row[0] for row in rows] == ["grown", "pairs"]
    for name, fetched, touched in rows:
        # The comparison at the end reads each table in order of its key, too.
        assert touched > 15000 and fetched < touched + 3 * 4000, name


def test_a_copy_that_is_not_complete_is_waited_for(stream: Stream) -> None:
    stream.pair.on_both("CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
    stream.pair.on_source("INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)")
    with stream.running(pump=False):
        wait_until(
            lambda: (stream.folder / "applier.json").exists() and stream.figures["state"] == "waiting_for_copy", "the wait for the copy"
        )
        assert stream.figures["detail"] == "the copy has not begun"
        stream.copy()
        wait_until(lambda: stream.begun is not None, "the beginning of the stream")
    assert stream.row.begin == pgoutput.lsn_number(stream.begin()) and stream.row.tables == {}
    # A table that was copied again later begins later.
    stream.pair.on_target("DELETE FROM cutover.chunk WHERE source_table = 'b'", "TRUNCATE b")
    stream.pair.on_source("INSERT INTO a VALUES (2)", "INSERT INTO b VALUES (2)")
    assert "no copy has brought it" in refused(stream, "new_table").message
    assert stream.pair.on_target("SELECT id FROM a ORDER BY 1") == [(1,), (2,)]
    copy(stream.pair.source, stream.pair.target, stream.config.selection, workers=1, slot=stream.slot)
    stream.pair.on_source("INSERT INTO b VALUES (3)", "UPDATE b SET id = 20 WHERE id = 2")
    applied_equal(stream)
    assert list(stream.row.tables) == ["public.b"] and pgoutput.lsn_number(stream.row.tables["public.b"]) > stream.row.begin
    assert stream.figures["ignored"] >= 0 and stream.pair.on_target("SELECT id FROM b ORDER BY 1") == [(1,), (3,), (20,)]


def test_a_copy_without_the_slot_is_no_beginning(stream: Stream) -> None:
    stream.pair.on_both("CREATE TABLE a (id int PRIMARY KEY)")
    stream.pair.on_source("INSERT INTO a VALUES (1)", "CREATE PUBLICATION p FOR ALL TABLES")
    copy(stream.pair.source, stream.pair.target, stream.config.selection, workers=1)
    with pytest.raises(TransferError, match="copied without a slot") as caught:
        applier.run(stream.config, lambda: False, stream.timing)
    assert kind_of(caught.value) == "not_under_slot" and "slot: " in caught.value.remedy


def test_partitions_copied_at_different_positions_each_follow_their_own(stream: Stream) -> None:
    stream.pair.on_both(
        "CREATE TABLE p (id int, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE p_high PARTITION OF p DEFAULT",
    )
    stream.pair.on_source("INSERT INTO p SELECT g, 0 FROM generate_series(1, 199) g")
    stream.copy()
    stream.pair.on_source("UPDATE p SET n = 1", "DELETE FROM p WHERE id IN (5, 150)", "INSERT INTO p VALUES (500, 1)")
    # As after a lost snapshot: one of them is copied again, at a later position.
    stream.pair.on_target("DELETE FROM cutover.chunk WHERE source_table = 'p_high'", "TRUNCATE p_high")
    copy(stream.pair.source, stream.pair.target, stream.config.selection, workers=1, slot=stream.slot)
    stream.pair.on_source("UPDATE p SET n = 2 WHERE id % 2 = 0", "DELETE FROM p WHERE id IN (6, 160, 500)")
    applied_equal(stream)
    assert set(stream.row.tables) == {"public.p_high"} and stream.figures["ignored"] == 199 - 99 + 2


def test_a_key_in_another_order_a_case_blind_type_and_a_collation_of_its_own(stream: Stream) -> None:
    stream.pair.on_both(
        "CREATE SCHEMA extensions",
        "CREATE EXTENSION citext SCHEMA extensions",
        "CREATE TABLE blind (name extensions.citext PRIMARY KEY, n int)",
        'CREATE TABLE sorted (name text COLLATE "C" NOT NULL, other text NOT NULL, n int)',
        'CREATE UNIQUE INDEX sorted_key ON sorted (other COLLATE "C", name)',
        "CREATE TABLE listed (id int[] PRIMARY KEY, n int)",
    )
    stream.pair.on_source(
        "ALTER TABLE sorted REPLICA IDENTITY USING INDEX sorted_key",
        "INSERT INTO blind VALUES ('Mixed', 1), ('other', 1)",
        "INSERT INTO sorted VALUES ('b', 'Ä', 1), ('a', 'z', 1)",
        "INSERT INTO listed VALUES ('{1,2}', 1), ('{2,1}', 1)",
    )
    stream.copy()
    stream.pair.on_source(
        "SET search_path = public, extensions",
        "UPDATE blind SET n = 2 WHERE name = 'mixed'",
        "UPDATE blind SET name = 'MIXED' WHERE name = 'mixed'",
        "DELETE FROM blind WHERE name = 'OTHER'",
        "UPDATE sorted SET n = 2",
        "DELETE FROM sorted WHERE name = 'a'",
        "UPDATE listed SET n = 2 WHERE id = '{1,2}'",
        "DELETE FROM listed WHERE id = '{2,1}'",
    )
    applied_equal(stream)
    assert stream.pair.on_target("SELECT name::text, n FROM blind") == [("MIXED", 2)]


def test_keys_of_every_type_go_through_their_index(stream: Stream) -> None:
    keys = {
        "varchar(20)": ("'a'", "'b'", "'c'"),
        "char(6)": ("'a'", "'b'", "'c'"),
        "cidr": ("'10.0.0.0/8'", "'10.1.0.0/16'", "'::/0'"),
        "mood": ("'calm'", "'wild'", "'odd'"),
        "int4range": ("'[1,2)'", "'[2,4)'", "'empty'"),
        "two": ("'(1,a)'", "'(2,)'", "'(,b)'"),
        "few": ("1", "2", "3"),
        "timestamptz": ("'2024-01-01'", "'infinity'", "'4713-01-01 BC'"),
        "numeric": ("1.0", "2.00", "'NaN'"),
        "float8": ("0.1", "'-0'", "'Infinity'"),
        "uuid": tuple(f"md5('{number}')::uuid" for number in range(3)),
        "bytea": ("'\\x00'", "'\\x01ff'", "''"),
        "jsonb": ("'{\"a\": 1}'", "'[]'", "'null'"),
        "extensions.citext": ("'Mixed'", "'other'", "''"),
        "name": ("'a'", "'b'", "'c'"),
        "bit(3)": ("B'101'", "B'000'", "B'111'"),
    }
    stream.pair.on_both(
        "CREATE SCHEMA extensions",
        "CREATE EXTENSION citext SCHEMA extensions",
        "CREATE TYPE mood AS ENUM ('calm', 'wild', 'odd')",
        "CREATE TYPE two AS (a int, b text)",
        "CREATE DOMAIN few AS int CHECK (value < 10)",
        *(f"CREATE TABLE k{number} (k {kind} PRIMARY KEY, n int)" for number, kind in enumerate(keys)),
    )
    for number, values in enumerate(keys.values()):
        stream.pair.on_source(f"INSERT INTO k{number} VALUES ({values[0]}, 0), ({values[1]}, 0)")
    stream.copy()
    for number, (kind, values) in enumerate(keys.items()):
        first, second, third = (f"{value}::{kind}" for value in values)
        stream.pair.on_source(
            "SET search_path = public, extensions",
            f"UPDATE k{number} SET n = 1",
            f"UPDATE k{number} SET k = {third} WHERE k = {first}",
            f"DELETE FROM k{number} WHERE k = {second}",
            f"INSERT INTO k{number} VALUES ({first}, 5)",
        )
    before = dict(stream.pair.on_target("SELECT relname::text, seq_scan FROM pg_stat_user_tables"))
    stream.apply_once()
    assert stream.exact == 0
    wait_until(lambda: stream.pair.on_target("SELECT n_tup_ins >= 3 FROM pg_stat_user_tables WHERE relname = 'k15'")[0][0], "statistics")
    after = dict(stream.pair.on_target("SELECT relname::text, seq_scan FROM pg_stat_user_tables"))
    assert {name: after[name] - count for name, count in before.items() if name.startswith("k")} == {
        f"k{number}": 0 for number in range(len(keys))
    }
    assert stream.verified().equal


def test_1600_columns_and_none_at_all(stream: Stream) -> None:
    columns = ", ".join(f"c{number} int" for number in range(1599))
    stream.pair.on_both(f"CREATE TABLE wide (id int PRIMARY KEY, {columns})", f"CREATE TABLE loose ({columns})", "CREATE TABLE none ()")
    stream.pair.on_source(
        "ALTER TABLE loose REPLICA IDENTITY FULL", "ALTER TABLE none REPLICA IDENTITY FULL", "INSERT INTO wide (id, c1) VALUES (1, 1)"
    )
    stream.copy()
    everything = ", ".join(f"c{number} = {number}" for number in range(1599))
    stream.pair.on_source(
        "INSERT INTO wide (id, c5) SELECT g, g FROM generate_series(2, 20) g",
        f"UPDATE wide SET {everything} WHERE id < 10",
        "UPDATE wide SET id = 100 WHERE id = 5",
        "DELETE FROM wide WHERE id = 6",
        "INSERT INTO loose (c7) VALUES (1), (1), (2)",
        f"UPDATE loose SET {everything} WHERE c7 = 2",
        "DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose WHERE c7 = 1)",
        "INSERT INTO none SELECT FROM generate_series(1, 5)",
        "DELETE FROM none WHERE ctid = '(0,1)'",
    )
    applied_equal(stream)
    assert stream.exact == 0 and stream.pair.on_target("SELECT count(*) FROM none") == [(4,)]
