"""Copying between two real servers: everything arrives, interruptions cost nothing, refusals come before the first write."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import ledger, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import CopyResult, copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.progress import Progress
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from bench import faults
from bench.relay import Relay
from integration.conftest import Pair
from integration.transfer.cases import ROWS, SCHEMA, wait_until

ALL = Selection.from_args()
BIG = "CREATE TABLE big (id bigint PRIMARY KEY, a int, b text)"
BIG_ROWS = "INSERT INTO big SELECT g, g % 1000, repeat(md5(g::text), 6) FROM generate_series(1, 200000) g"
MOVER = """
import json, sys
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import copy, endpoint, selection
args = json.load(sys.stdin)
copy.copy(endpoint.Endpoint.from_args(args["source"]), endpoint.Endpoint.from_args(args["target"]), selection.Selection.from_args(),
          workers=2, chunk_bytes=args["chunk_bytes"], snapshot=args["snapshot"])
"""


def contents(pair: Pair, side: str, table: str) -> list[tuple[Any, ...]]:
    """All rows as text, sorted; under one setting on both sides."""
    on = pair.on_source if side == "source" else pair.on_target
    return on("SET extra_float_digits = 3", "SET lc_monetary = 'C'", f"SELECT x::text FROM ONLY {table} x ORDER BY 1")


def tables_of(pair: Pair) -> list[str]:
    rows = pair.on_source(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return [row[0] for row in rows]


def start_mover(pair: Pair, chunk_bytes: int, snapshot: str | None = None) -> subprocess.Popen[str]:
    """A mover in a process of its own, to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", MOVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / ".collections")},
    )
    assert process.stdin is not None
    args = {
        "source": pair.source_server.args(pair.dbname),
        "target": pair.target_server.args(pair.dbname),
        "chunk_bytes": chunk_bytes,
        "snapshot": snapshot,
    }
    process.stdin.write(json.dumps(args))
    process.stdin.close()
    return process


def chunks_done(pair: Pair) -> int:
    if not pair.on_target("SELECT to_regclass('cutover.chunk') IS NOT NULL")[0][0]:
        return 0
    return int(pair.on_target("SELECT count(*) FROM cutover.chunk WHERE state = 'done'")[0][0])


def test_every_type_and_shape_arrives_byte_for_byte(pair: Pair) -> None:
    pair.on_both(*SCHEMA)
    pair.on_source(*ROWS)
    result = copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=100_000)
    assert result.changed and result.consistent and not result.resumed
    for table in tables_of(pair):
        if not table.startswith("hashed_"):
            assert contents(pair, "source", table) == contents(pair, "target", table), table
    assert pair.on_source("SELECT m::text, id FROM hashed ORDER BY id") == pair.on_target("SELECT m::text, id FROM hashed ORDER BY id")
    counted = {table.name: table.rows for table in result.tables}
    assert (
        counted["public.wide"] == 3004
        and counted["public.no_columns"] == 2
        and counted["public.parent"] == 50
        and counted["public.child"] == 70
    )
    assert counted["public.hashed"] == 300 and counted["public.ranged_2_a"] == 181
    kinds = dict(pair.on_target("SELECT source_table, min(kind) FROM cutover.chunk WHERE total > 1 GROUP BY 1"))
    assert kinds["wide"] == "blocks"


def test_second_run_changes_nothing(pair: Pair) -> None:
    pair.on_both(*SCHEMA)
    pair.on_source(*ROWS)
    first = copy(pair.source, pair.target, ALL, workers=2)
    second = copy(pair.source, pair.target, ALL, workers=2)
    assert first.changed and not second.changed and second.resumed
    assert second.rows == first.rows and second.snapshot_lsn == first.snapshot_lsn and second.moved_bytes == 0


def test_check_writes_nothing(pair: Pair) -> None:
    pair.on_both(BIG)
    pair.on_source(BIG_ROWS)
    assert copy(pair.source, pair.target, ALL, check=True).changed
    assert pair.on_target("SELECT to_regnamespace('cutover') IS NULL, (SELECT count(*) FROM big)") == [(True, 0)]


def test_rename_of_schema_table_and_column(pair: Pair) -> None:
    pair.on_source(
        "CREATE SCHEMA old",
        "CREATE TABLE old.t (id int PRIMARY KEY, a text)",
        "INSERT INTO old.t VALUES (1, 'x')",
        "CREATE TABLE old.u (id int)",
    )
    pair.on_target("CREATE SCHEMA fresh", "CREATE TABLE fresh.tt (aa text, id int PRIMARY KEY)", "CREATE TABLE fresh.u (id int)")
    selection = Selection.from_args(["old.*"], [], {"schemas": {"old": "fresh"}, "tables": {"old.t": "tt"}, "columns": {"old.t.a": "aa"}})
    result = copy(pair.source, pair.target, selection)
    assert pair.on_target("SELECT id, aa FROM fresh.tt") == [(1, "x")]
    assert [(table.name, table.target) for table in result.tables] == [("old.t", "fresh.tt"), ("old.u", "fresh.u")]


def test_key_ranges_follow_the_statistics(pair: Pair) -> None:
    pair.on_both(BIG)
    # Two dense islands and a gap of nine billion between them.
    pair.on_source(
        "INSERT INTO big SELECT CASE WHEN g > 1000 THEN g + 9000000000 ELSE g END, g, repeat('x', 200) FROM generate_series(1, 50000) g",
        "ANALYZE big",
    )
    copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=2_000_000)
    rows = pair.on_target("SELECT kind, rows FROM cutover.chunk ORDER BY number")
    assert {kind for kind, _rows in rows} == {"key"} and len(rows) > 4
    assert sum(count for _kind, count in rows) == 50000 and max(count for _kind, count in rows) < 2 * 50000 / len(rows)


def test_different_partitions_on_the_target_get_their_rows_through_the_root(pair: Pair) -> None:
    pair.on_both(
        "CREATE TABLE r (id int, note text) PARTITION BY RANGE (id)", "CREATE TABLE r_a PARTITION OF r FOR VALUES FROM (0) TO (50)"
    )
    pair.on_source("CREATE TABLE r_b PARTITION OF r FOR VALUES FROM (50) TO (100)")
    pair.on_target(
        "CREATE TABLE r_b PARTITION OF r FOR VALUES FROM (50) TO (70)", "CREATE TABLE r_c PARTITION OF r FOR VALUES FROM (70) TO (100)"
    )
    pair.on_source("INSERT INTO r SELECT g, 'n' FROM generate_series(0, 99) g")
    result = copy(pair.source, pair.target, ALL)
    assert pair.on_target("SELECT tableoid::regclass::text, count(*) FROM r GROUP BY 1 ORDER BY 1") == [
        ("r_a", 50),
        ("r_b", 20),
        ("r_c", 30),
    ]
    assert [(table.name, table.rows) for table in result.tables] == [("public.r", 100)]


def test_rows_that_no_ledger_explains_are_refused_before_anything_is_written(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int)", "CREATE TABLE b (id int)")
    pair.on_source("INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)")
    pair.on_target("INSERT INTO b SELECT generate_series(1, 500)", "ANALYZE b")
    with pytest.raises(TransferError, match=r"public\.b \(about 500 rows\)") as caught:
        copy(pair.source, pair.target, ALL)
    assert 'TRUNCATE "public"."b"' in caught.value.remedy
    assert pair.on_target("SELECT count(*) FROM a") == [(0,)] and pair.on_target("SELECT to_regnamespace('cutover') IS NULL") == [(True,)]


def test_missing_tables_and_columns_are_named_before_anything_is_written(pair: Pair) -> None:
    pair.on_source("CREATE TABLE a (id int, gone text)", "CREATE TABLE b (id int)", "CREATE TABLE c (id int)")
    pair.on_source("INSERT INTO a VALUES (1, 'data')", "INSERT INTO c VALUES (1)")
    pair.on_target("CREATE TABLE a (id int, must int NOT NULL)", "CREATE TABLE c (id int)")
    with pytest.raises(TransferError) as caught:
        copy(pair.source, pair.target, ALL)
    text = "\n".join(caught.value.details["problems"])
    assert "public.a.gone" in text and "public.a.must is NOT NULL" in text and "table public.b" in text
    assert pair.on_target("SELECT count(*) FROM c") == [(0,)]


def test_rls_without_bypass_fails_instead_of_reading_nothing(pair: Pair) -> None:
    pair.on_both("CREATE TABLE secret (id int)")
    pair.on_source(
        "INSERT INTO secret VALUES (1)", "ALTER TABLE secret ENABLE ROW LEVEL SECURITY", "DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'r'",
        "GRANT SELECT ON secret TO reader",
    )  # fmt: skip
    with pytest.raises(TransferError, match=r"public\.secret.*row-level security"):
        copy(pair.source_server.endpoint(pair.dbname, "reader", "r"), pair.target, ALL)
    assert pair.on_target("SELECT count(*) FROM secret") == [(0,)]
    pair.on_source("DROP OWNED BY reader", "DROP ROLE reader")


def test_role_timeouts_do_not_reach_the_copy(pair: Pair) -> None:
    pair.on_both("CREATE TABLE slow (id int)")
    pair.on_source("INSERT INTO slow VALUES (1)", f"ALTER ROLE postgres IN DATABASE {pair.dbname} SET statement_timeout = '50ms'")
    pair.on_source("CREATE VIEW nothing AS SELECT 1")
    with session.connect(pair.source, application_name="test") as conn:
        conn.execute("SELECT pg_sleep(0.2)")
    assert copy(pair.source, pair.target, ALL).rows == 1


def test_given_snapshot_is_used_and_a_stale_one_is_named(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    pair.on_source("INSERT INTO a VALUES (1)")
    with pair.source_server.connect(pair.dbname) as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        row = conn.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        pair.on_source("INSERT INTO a VALUES (2)")
        result = copy(pair.source, pair.target, ALL, snapshot=row[0], snapshot_lsn="0/ABC")
        conn.execute("ROLLBACK")
    assert pair.on_target("SELECT id FROM a") == [(1,)] and result.snapshot_lsn == "0/ABC"
    pair.on_target("TRUNCATE a")
    with pytest.raises(TransferError, match="is not there any more"):
        copy(pair.source, pair.target, ALL, snapshot=row[0])


def test_table_emptied_after_the_given_snapshot_is_refused(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    pair.on_source("INSERT INTO a VALUES (1)")
    with pair.source_server.connect(pair.dbname) as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        row = conn.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        pair.on_source("TRUNCATE a")
        with pytest.raises(TransferError, match=r"public\.a was rewritten"):
            copy(pair.source, pair.target, ALL, snapshot=row[0])


def test_second_mover_is_refused_by_name(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    copy(pair.source, pair.target, ALL)
    with session.connect(pair.target, application_name="other mover") as conn:
        ledger.acquire(conn)
        with pytest.raises(TransferError, match="is moving data into this target") as caught:
            copy(pair.source, pair.target, ALL)
    assert ledger.owner_name() in caught.value.message and "pg_terminate_backend(" in caught.value.remedy


def test_what_a_dead_mover_holds_behind_a_vanished_link_is_ended(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    holder = (
        "import sys, json, time; from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import endpoint, ledger, predecessor, session;"
        "conn = session.connect(endpoint.Endpoint.from_args(json.load(sys.stdin)), application_name=predecessor.named('cutover copy ledger'));"
        "ledger.acquire(conn); print('held', flush=True); time.sleep(600)"
    )
    with Relay(pair.target_server.port) as relay:
        process = subprocess.Popen(
            [sys.executable, "-c", holder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / ".collections")},
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({**pair.target_server.args(pair.dbname), "port": relay.port}))
        process.stdin.close()
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(TransferError, match="is moving data into this target"):
                copy(pair.source, pair.target, ALL)
            relay.vanish()
        finally:
            process.kill()
            process.wait(30)
        assert copy(pair.source, pair.target, ALL).changed


def test_a_run_whose_end_nobody_could_note_is_closed_by_the_next(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int)", "CREATE TABLE b (id int)")
    copy(pair.source, pair.target, ALL)
    pair.on_target("UPDATE cutover.run SET finished = NULL")
    # As long as there is something to do that this selection leaves out, it is not over.
    pair.on_target("UPDATE cutover.chunk SET state = 'todo' WHERE source_table = 'b'")
    assert not copy(pair.source, pair.target, Selection.from_args(include=["public.a"])).changed
    assert pair.on_target("SELECT finished IS NULL FROM cutover.run") == [(True,)]
    pair.on_target("UPDATE cutover.chunk SET state = 'done' WHERE source_table = 'b'")
    assert not copy(pair.source, pair.target, ALL, check=True).changed
    assert pair.on_target("SELECT finished IS NULL FROM cutover.run") == [(True,)]
    assert not copy(pair.source, pair.target, ALL).changed
    assert pair.on_target("SELECT finished IS NULL FROM cutover.run") == [(False,)]


def test_what_is_reported_as_copied_outlives_a_crash_in_the_same_moment(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int PRIMARY KEY)")
    pair.on_source("INSERT INTO a SELECT generate_series(1, 1000)")
    with session.connect(pair.target, application_name="cutover victim"):
        # The writer of the log would come by in a fifth of a second, or five seconds later when it sleeps.
        copy(pair.source, pair.target, ALL)
        assert faults.crash(pair.target_server, pair.dbname, random.Random(1), "cutover victim") == "cutover victim"
    assert pair.on_target("SELECT count(*) FROM a", "SELECT finished IS NOT NULL FROM cutover.run") == [(True,)]
    assert pair.on_target("SELECT count(*) FROM a") == [(1000,)] and not copy(pair.source, pair.target, ALL).changed


def test_ledger_of_another_source_is_refused(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    copy(pair.source, pair.target, ALL)
    pair.on_target("UPDATE cutover.run SET source = '42/elsewhere'")
    with pytest.raises(TransferError, match="42/elsewhere"):
        copy(pair.source, pair.target, ALL)


def test_killed_worker_is_replaced_and_nothing_is_lost(pair: Pair) -> None:
    pair.on_both(BIG)
    pair.on_source(BIG_ROWS)
    found: list[CopyResult | BaseException] = []

    def run() -> None:
        try:
            found.append(copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=2_000_000))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: chunks_done(pair) >= 3, "three chunks")
    me = os.getpid()
    children = [int(pid) for pid in Path(f"/proc/{me}/task").glob("*/children") for pid in pid.read_text().split()]
    killed = [pid for pid in children if b"postgres" not in Path(f"/proc/{pid}/comm").read_bytes()][:1]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    thread.join(120)
    assert killed and isinstance(found[0], CopyResult), found
    assert found[0].rows == 200000 and found[0].consistent
    assert contents(pair, "source", "big") == contents(pair, "target", "big")


def test_killed_mover_continues_with_the_next_run(pair: Pair) -> None:
    pair.on_both(BIG, "CREATE TABLE small (id int)")
    pair.on_source(BIG_ROWS, "INSERT INTO small VALUES (1)")
    copy(pair.source, pair.target, Selection.from_args(["public.small"]))
    pair.on_source("INSERT INTO small VALUES (2)")
    process = start_mover(pair, 1_000_000)
    wait_until(lambda: chunks_done(pair) >= 6, "six chunks")
    process.kill()
    process.wait(30)
    assert 0 < pair.on_target("SELECT count(*) FROM big")[0][0] < 200000
    result = copy(pair.source, pair.target, ALL, workers=2)
    assert result.changed and result.resumed and result.rows == 200001
    assert {table.name: table.resumed for table in result.tables} == {"public.big": False, "public.small": True}
    assert not result.consistent, "small was copied under an earlier snapshot than big"
    assert contents(pair, "source", "big") == contents(pair, "target", "big")


def test_killed_mover_keeps_finished_chunks_while_the_snapshot_lives(pair: Pair) -> None:
    pair.on_both(BIG)
    pair.on_source(BIG_ROWS)
    done = "SELECT number, finished, xmin::text FROM cutover.chunk WHERE state = 'done' ORDER BY number"
    with pair.source_server.connect(pair.dbname) as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        row = conn.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        process = start_mover(pair, 1_000_000, row[0])
        wait_until(lambda: chunks_done(pair) >= 6, "six chunks")
        process.kill()
        process.wait(30)
        before = pair.on_target(done)
        total = pair.on_target("SELECT count(*) FROM cutover.chunk")[0][0]
        pair.on_source("UPDATE big SET b = 'later'")
        result = copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=1_000_000, snapshot=row[0])
        conn.execute("ROLLBACK")
    assert 6 <= len(before) < total, "the kill came too late to show anything"
    assert set(before) <= set(pair.on_target(done)), "a finished chunk was copied again"
    assert result.resumed and result.consistent and result.rows == 200000
    assert pair.on_target("SELECT count(*), count(DISTINCT id) FROM big WHERE b <> 'later'") == [(200000, 200000)]


def test_lost_ledger_connection_is_made_anew(pair: Pair) -> None:
    pair.on_both(BIG)
    pair.on_source(BIG_ROWS)
    ended: list[int] = []

    def interrupt() -> None:
        wait_until(lambda: chunks_done(pair) >= 4, "four chunks")
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name ~ '^cutover copy (ledger|writer)'"
        ended.append(pair.on_target(query)[0][0])

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=1_000_000)
    thread.join(60)
    assert ended and ended[0] >= 2 and result.rows == 200000 and result.consistent
    assert contents(pair, "source", "big") == contents(pair, "target", "big")


def test_lost_holder_starts_over_for_unfinished_tables_only(pair: Pair) -> None:
    pair.on_both(BIG)
    pair.on_source(BIG_ROWS)

    def interrupt() -> None:
        wait_until(lambda: chunks_done(pair) >= 3, "three chunks")
        pair.on_source("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cutover copy%'")

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = copy(pair.source, pair.target, ALL, workers=2, chunk_bytes=1_000_000)
    thread.join(60)
    assert result.rows == 200000 and result.consistent and result.resumed
    assert contents(pair, "source", "big") == contents(pair, "target", "big")


def test_progress_rises_to_the_end(pair: Pair) -> None:
    pair.on_both(BIG)
    pair.on_source(BIG_ROWS)
    seen: list[Progress] = []
    result = copy(pair.source, pair.target, ALL, workers=1, chunk_bytes=4_000_000, progress=seen.append)
    assert seen[-1].rows == result.rows == 200000 and seen[-1].chunks_done == seen[-1].chunks_total > 5 and seen[-1].bytes == result.bytes
    assert seen[-1].share == 1 and seen[-1].tables_done == seen[-1].tables_total == 1 and not seen[-1].tables


def test_error_in_the_middle_names_the_table_and_leaves_no_row(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int PRIMARY KEY, b text)")
    pair.on_target("ALTER TABLE a ADD CHECK (id < 900)")
    pair.on_source("INSERT INTO a SELECT g, 'x' FROM generate_series(1, 1000) g")
    with pytest.raises(TransferError, match=r"copying public\.a into public\.a failed.*a_id_check"):
        copy(pair.source, pair.target, ALL)
    assert pair.on_target("SELECT count(*) FROM a") == [(0,)]
    pair.on_target("ALTER TABLE a DROP CONSTRAINT a_id_check")
    assert copy(pair.source, pair.target, ALL).rows == 1000


def test_a_cancelled_statement_stops_the_copy_and_the_next_run_goes_on(pair: Pair) -> None:
    pair.on_both(BIG)
    pair.on_source(BIG_ROWS)
    cancelled: list[int] = []

    def cancel() -> None:
        wait_until(lambda: chunks_done(pair) >= 3, "three chunks")
        query = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE application_name = 'cutover copy writer' AND query LIKE 'COPY%'"
        wait_until(lambda: bool(pair.on_target(query)[0][0]), "a COPY")
        cancelled.append(1)

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(TransferError, match=r"copying public\.big into public\.big stopped, the statement was cancelled") as caught:
        copy(pair.source, pair.target, ALL, workers=1, chunk_bytes=1_000_000)
    thread.join(60)
    assert cancelled and caught.value.details["kind"] == "cancelled"
    done = dict(pair.on_target("SELECT number, xmin::text FROM cutover.chunk WHERE state = 'done'"))
    result = copy(pair.source, pair.target, ALL, workers=2)
    now = dict(pair.on_target("SELECT number, xmin::text FROM cutover.chunk WHERE state = 'done'"))
    assert done and all(now[number] == xmin for number, xmin in done.items()), "the keeper's snapshot lives: nothing is copied twice"
    assert result.resumed and result.consistent and contents(pair, "source", "big") == contents(pair, "target", "big")


def test_secrets_stay_out_of_sight(pair: Pair) -> None:
    pair.on_both(BIG)
    pair.on_source(BIG_ROWS)
    process = start_mover(pair, 1_000_000)
    wait_until(lambda: chunks_done(pair) >= 1, "a chunk")
    line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert process.wait(60) == 0, process.stderr.read() if process.stderr else ""
    rows = pair.on_target("SELECT r::text FROM cutover.run r UNION ALL SELECT c::text FROM cutover.chunk c")
    assert b"throw-away" not in line and "throw-away" not in str(rows)
