"""Bringing the rest over under a freeze, in both directions, against two real servers."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.resync import resync
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify
from integration.conftest import Pair
from integration.transfer.cases import ROWS, SCHEMA

ALL = Selection.from_args()
REFUSE = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'closed' USING ERRCODE = '25006'; END $$",
    """DO $$ DECLARE t regclass; BEGIN
        FOR t IN SELECT oid FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace LOOP
            EXECUTE format('CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s EXECUTE FUNCTION refuse()', t);
        END LOOP; END $$""",
)
LATER = (
    "UPDATE wide SET t = t || '!', jb = '{}' WHERE id % 500 = 0",
    "DELETE FROM wide WHERE id = 7",
    "INSERT INTO wide (id, f8, t) OVERRIDING SYSTEM VALUE VALUES (-5, '-0', NULL), (4000000000000000000, 'NaN', '')",
    "DELETE FROM text_key WHERE code LIKE 'key:1%'",
    "UPDATE text_key SET value = NULL WHERE code = 'key:2'",
    "INSERT INTO uuid_key VALUES ('00000000-0000-0000-0000-000000000001', 'new')",
    "DELETE FROM no_key WHERE ctid = (SELECT min(ctid) FROM no_key)",
    "INSERT INTO no_key VALUES (NULL, NULL), (NULL, NULL), (1, '')",
    "UPDATE hashed SET m = 'calm' WHERE id < 10",
    "UPDATE ranged SET at = at + 400 WHERE id = 3",
    "TRUNCATE pair_key",
    "INSERT INTO empty_one VALUES (1)",
    "DELETE FROM child WHERE id = 3",
    "UPDATE ONLY parent SET note = 'n' WHERE id = 3",
    "INSERT INTO no_columns DEFAULT VALUES",
)


@pytest.fixture
def moved(pair: Pair) -> Pair:
    pair.on_both(*SCHEMA)
    pair.on_source(*ROWS)
    copy(pair.source, pair.target, ALL, workers=2)
    return pair


@pytest.mark.parametrize("strategy", ["record", "md5"])
def test_writes_after_the_copy_are_brought_past_closing_triggers(moved: Pair, strategy: str) -> None:
    moved.on_target(*REFUSE)
    moved.on_source(*LATER)
    assert not verify(moved.source, moved.target, ALL).equal
    result = resync(moved.source, moved.target, ALL, hash=strategy)
    assert result.changed and result.rows_copied > 0 and result.rows_deleted > 0
    assert verify(moved.source, moved.target, ALL).equal
    again = resync(moved.source, moved.target, ALL)
    assert not again.changed and (again.ranges, again.rows_deleted, again.rows_copied) == (0, 0, 0)


def test_only_differing_ranges_are_replaced(pair: Pair) -> None:
    pair.on_both("CREATE TABLE big (id bigint PRIMARY KEY, b text)")
    pair.on_source("INSERT INTO big SELECT g, md5(g::text) FROM generate_series(1, 200000) g")
    copy(pair.source, pair.target, ALL)
    pair.on_source("UPDATE big SET b = 'x' WHERE id IN (5, 100000)", "DELETE FROM big WHERE id = 150000")
    result = resync(pair.source, pair.target, ALL)
    assert result.ranges == 3 and result.rows_deleted == result.rows_copied + 1 < 3 * 513
    assert verify(pair.source, pair.target, ALL).equal


def test_unique_value_that_moved_between_ranges(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id bigint PRIMARY KEY, mail text UNIQUE)")
    pair.on_source("INSERT INTO a SELECT g, g || '@x' FROM generate_series(1, 100000) g")
    copy(pair.source, pair.target, ALL)
    pair.on_source(
        "UPDATE a SET mail = NULL WHERE id = 90000",
        "UPDATE a SET mail = '90000@x' WHERE id = 1",
        "UPDATE a SET mail = '1@x' WHERE id = 90000",
    )
    resync(pair.source, pair.target, ALL)
    assert verify(pair.source, pair.target, ALL).equal


def test_foreign_keys_do_not_cascade_or_stop(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int PRIMARY KEY, n int)", "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE)")
    pair.on_source("INSERT INTO a SELECT g, 0 FROM generate_series(1, 100) g", "INSERT INTO b SELECT g, g FROM generate_series(1, 100) g")
    copy(pair.source, pair.target, ALL)
    pair.on_source("UPDATE a SET n = 1 WHERE id = 50")
    resync(pair.source, pair.target, ALL)
    assert verify(pair.source, pair.target, ALL).equal and pair.on_target("SELECT count(*) FROM b") == [(100,)]


def test_the_way_back_with_names_and_columns_of_the_old_side(pair: Pair) -> None:
    pair.on_source(
        "CREATE SCHEMA old",
        "CREATE TABLE old.t (id int PRIMARY KEY, a text)",
        "INSERT INTO old.t SELECT g, 'x' FROM generate_series(1, 10) g",
    )
    pair.on_target("CREATE SCHEMA fresh", "CREATE TABLE fresh.tt (aa text, id int PRIMARY KEY, added int)")
    selection = Selection.from_args(["old.*"], [], {"schemas": {"old": "fresh"}, "tables": {"old.t": "tt"}, "columns": {"old.t.a": "aa"}})
    copy(pair.source, pair.target, selection)
    pair.on_target(
        "UPDATE fresh.tt SET aa = 'y' WHERE id = 4", "INSERT INTO fresh.tt VALUES ('z', 11, 1)", "CREATE TABLE fresh.only_here (id int)"
    )
    back = resync(pair.target, pair.source, selection.inverted())
    assert back.changed and pair.on_source("SELECT id, a FROM old.t WHERE a <> 'x' ORDER BY id") == [(4, "y"), (11, "z")]
    assert [line for line in back.skipped if "fresh.tt.added" in line] and [line for line in back.skipped if "only_here" in line]


def test_check_counts_and_writes_nothing(moved: Pair) -> None:
    moved.on_source(*LATER)
    result = resync(moved.source, moved.target, ALL, check=True)
    assert result.changed and result.ranges > 0 and result.rows_copied == 0
    assert moved.on_target("SELECT count(*) FROM pair_key") == [(1600,)]


def test_role_that_may_not_pass_triggers_is_refused_with_the_grant(moved: Pair) -> None:
    moved.on_target(
        "DROP ROLE IF EXISTS modest", "CREATE ROLE modest LOGIN PASSWORD 'm'", "GRANT ALL ON ALL TABLES IN SCHEMA public TO modest"
    )
    modest = moved.target_server.endpoint(moved.dbname, "modest", "m")
    moved.on_source(*LATER)
    with pytest.raises(TransferError, match="session_replication_role") as caught:
        resync(moved.source, modest, ALL)
    assert "GRANT SET ON PARAMETER" in caught.value.remedy
    moved.on_target(*REFUSE, "GRANT SET ON PARAMETER session_replication_role TO modest")
    assert resync(moved.source, modest, ALL).changed
    assert verify(moved.source, moved.target, ALL).equal
    moved.on_target("DROP OWNED BY modest", "REVOKE ALL ON PARAMETER session_replication_role FROM modest", "DROP ROLE modest")
