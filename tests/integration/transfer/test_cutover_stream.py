"""The switch that a change stream prepared, and the way back, under writers that never stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import (
    cutover_single,
    cutover_stream,
    ledger,
    pgbouncer,
    predecessor,
    session,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import applier, records, state, turning
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.proof import verify_following
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.spool import Writer
from bench import load
from integration.conftest import Pair
from integration.transfer.cases import wait_until
from integration.transfer.moving import Move, moved
from integration.transfer.streaming import OPTIONS
from pgservers import bouncer

ALL = Selection()
MORE = (
    "CREATE TABLE loose (memo text, n int)",
    "ALTER TABLE loose REPLICA IDENTITY FULL",
    "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY, memo text)",
    "INSERT INTO loose SELECT 'memo', g % 3 FROM generate_series(1, 9) g",
    "INSERT INTO fleeting SELECT g, 'memo' FROM generate_series(1, 9) g",
    "CREATE SEQUENCE numbers",
)


@pytest.fixture
def move(pair: Pair, tmp_path: Path) -> Iterator[Move]:
    """Copied under the forward slot, everything built, the target closed, both sides published."""
    with moved(pair, tmp_path, *MORE) as made:
        yield made


def test_there_and_back_and_there_again_by_stream_loses_and_doubles_nothing(move: Move) -> None:
    with move.forward.running():
        move.forward.caught_up()
        result = verify_following(move.pair.source, move.pair.target, ALL, workers=2)
        assert result.equal and result.exact
        with move.clients() as clients:
            time.sleep(0.7)
            move.pair.on_source(
                "UPDATE fleeting SET memo = 'late' WHERE id = 3", "DELETE FROM loose WHERE ctid = (SELECT min(ctid) FROM loose)"
            )
            first = move.switch(fault=lambda point: clients.switch() if point == "open:done" else None)
            with move.reverse.running():
                time.sleep(0.5)
                memories, reading = clients.stop()
                assert [step["name"] for step in first["steps"]] == ["freeze", "drain", "rest", "sequences", "proof", "reverse", "open"]
                assert (first["method"], first["proof"]["mode"], first["afterwards"]["equal"]) == ("change_stream", "dirty", True)
                assert first["proof"]["keys"] > 50 and first["resync"]["tables"] == ["public.fleeting"]
                verdict = move.judged(memories, "target")
                assert (verdict.lost, verdict.doubled, reading.failed) == (0, 0, 0), verdict.examples
                assert verdict.acknowledged > 100 and {state for _client, one in memories for state in one.refused} == {"25006"}
                assert not move.writable("source") and move.writable("target")
                move.pair.on_target("SELECT nextval('numbers') FROM generate_series(1, 5)")

                back = move.back()
                assert (back["method"], back["proof"]["mode"], back["proof"]["equal"]) == ("change_stream", "dirty", True)
                assert back["afterwards"]["equal"] and back["proof"]["keys"] > 20
                assert move.judged(memories, "source").lost == 0 and move.judged(memories, "source").doubled == 0
                assert move.writable("source") and not move.writable("target")
                assert move.pair.on_source("SELECT nextval('numbers')") == [(6,)]

                move.pair.on_source("UPDATE load_1 SET note = 'after the way back'", "INSERT INTO loose VALUES ('again', 7)")
                move.forward.caught_up()
                again = move.switch()
                assert again["proof"]["mode"] == "dirty" and again["afterwards"]["equal"]
                assert move.pair.on_target("SELECT count(*) FROM load_1 WHERE note IS DISTINCT FROM 'after the way back'") == [(0,)]
                assert move.pair.on_target("SELECT count(*) FROM loose WHERE memo = 'again'") == [(1,)]


@pytest.mark.parametrize("step", ["freeze:fenced", "drain", "rest", "sequences", "proof", "reverse", "reverse:done", "open"])
def test_case_41_a_failure_at_any_step_leaves_the_source_serving_and_the_stream_going_on(move: Move, step: str) -> None:
    def fail(point: str) -> None:
        if point == step:
            raise RuntimeError("planned")

    with move.forward.running(), move.reverse.running():
        move.forward.caught_up()
        with pytest.raises(TransferError, match="planned") as caught:
            move.switch(fault=fail)
        assert caught.value.details["thawed"] and caught.value.details["thaw_seconds"] < 1, (caught.value.message, caught.value.details)
        assert move.writable("source") and not move.writable("target")
        move.pair.on_source("INSERT INTO loose VALUES ('after', 1)")
        move.forward.caught_up()
        assert move.pair.on_target("SELECT count(*) FROM loose WHERE memo = 'after'") == [(1,)]
        time.sleep(0.3)
        assert move.pair.on_source("SELECT count(*) FROM loose WHERE memo = 'after'") == [(1,)], "nothing came back"
        done = move.switch()
        assert done["changed"] and move.writable("target") and not move.writable("source")


def test_a_rehearsal_does_everything_but_the_switch(move: Move) -> None:
    with move.forward.running():
        move.forward.caught_up()
        before = move.pair.on_source("SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
        done = move.switch(rehearse=True)
        assert done["state"] == "rehearsed" and [step["name"] for step in done["steps"]][-1] == "proof" and done["proof"]["equal"]
        assert move.writable("source") and not move.writable("target")
        assert (
            move.pair.on_source("SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
            == before
        )
        move.forward.caught_up()
        assert move.forward.verified().equal
        outlook = cutover_single.outlook(move.pair.source, move.pair.target, ALL, "cut_over", "source", move.options())
        assert [step["name"] for step in outlook["steps"]] == ["freeze", "drain", "rest", "sequences", "proof", "reverse", "open"]
        assert outlook["method"] == "change_stream"


def test_a_stream_that_stopped_or_fell_silent_or_is_far_behind_keeps_writes_going(move: Move) -> None:
    with move.forward.running():
        move.forward.caught_up()
    with session.connect(move.pair.target, application_name="test") as conn:
        conn.execute("UPDATE cutover.stream SET heartbeat = now() - interval '5 minutes'")
    with pytest.raises(TransferError) as caught:
        move.switch()
    assert caught.value.details["kind"] == "stream_silent"
    with move.forward.running():
        move.forward.caught_up()
        wait_until(lambda: move.forward.row.heartbeat is not None, "a heartbeat", 10)
        with session.connect(move.pair.target, application_name="test") as conn:
            state.hold(conn, "forward")
        move.pair.on_source(
            "INSERT INTO load_1 (client, seq, version, note) SELECT 99, g, 1, repeat('x', 1000) FROM generate_series(1, 2000) g"
        )
        with pytest.raises(TransferError) as caught:
            move.switch(max_lag_bytes=100_000)
        assert caught.value.details["kind"] == "stream_behind"
    assert move.writable("source")


def test_what_is_not_published_is_brought_over_and_compared_under_the_freeze(move: Move) -> None:
    with move.forward.running():
        move.forward.caught_up()
        assert verify_following(move.pair.source, move.pair.target, ALL, workers=2).equal
        move.pair.on_source("DROP PUBLICATION p", "CREATE PUBLICATION p FOR TABLE load_1, loose")
        for table in ("load_1", "load_2", "load_3"):
            move.pair.on_source(f"INSERT INTO {table} (client, seq, version) SELECT 77, g, 1 FROM generate_series(1, 40) g")
        move.forward.caught_up()
        done = move.switch(afterwards="full")
        assert done["resync"]["tables"] == ["public.load_2", "public.load_3"] and done["resync"]["rows"] == 80
        assert done["proof"]["mode"] == "dirty" and done["afterwards"]["equal"]
        by_name = {table["name"]: table["rows"] for table in done["proof"]["tables"]}
        assert (by_name["public.load_1"], by_name["public.load_2"]) == (40, 40)


def test_without_a_proof_of_all_rows_all_are_compared_under_the_freeze(move: Move) -> None:
    with move.forward.running():
        move.forward.caught_up()
        with session.connect(move.pair.target, application_name="test") as conn:
            assert turning.proven_at(conn, "forward") is None
        done = move.switch(afterwards="full")
        assert done["proof"]["mode"] == "full" and done["afterwards"] == {**done["afterwards"], "mode": "full", "equal": True}


def test_a_row_spoiled_since_the_proof_is_found_under_the_freeze_where_it_was_touched_and_afterwards_where_not(move: Move) -> None:
    move.pair.on_source("INSERT INTO load_0 (client, seq, version) SELECT 50, g, 1 FROM generate_series(1, 20) g")
    with move.forward.running():
        move.forward.caught_up()
        assert verify_following(move.pair.source, move.pair.target, ALL, workers=2).equal
        move.pair.on_source("UPDATE load_0 SET version = 2 WHERE seq = 3")
        move.forward.caught_up()
        spoil = "SET session_replication_role = replica"
        move.pair.on_target(spoil, "UPDATE load_0 SET version = 9 WHERE seq = 3")
        with pytest.raises(TransferError, match="the sides differ under the freeze") as caught:
            move.switch()
        assert caught.value.details["differing"] == ["public.load_0"] and move.writable("source")
        move.pair.on_target(spoil, "UPDATE load_0 SET version = 2 WHERE seq = 3", "DELETE FROM load_0 WHERE seq = 7")
        with pytest.raises(TransferError) as caught:
            move.switch()
        assert caught.value.details["kind"] == "afterwards" and caught.value.details["differing"] == ["public.load_0"]
        assert move.writable("target"), "it says so, and service stays where it is"


def test_case_40_clients_of_every_kind_under_load_lose_nothing_and_those_of_a_pooler_wait_instead_of_failing(move: Move) -> None:
    """2,000 writes a second are asked for; what the machine gives is what is written. Prepared statements, the tables' owner, plain and pooled sessions."""
    pair = move.pair
    there = [server.endpoint(pair.dbname).conninfo() for server in (pair.source_server, pair.target_server)]
    leads = {
        side: f"host=127.0.0.1 port={server.port} dbname={pair.dbname}"
        for side, server in (("source", pair.source_server), ("target", pair.target_server))
    }
    with (
        bouncer(pair.source_server, "transaction", lines=(f"clients = {leads['source']}",)) as front,
        move.forward.running(),
    ):
        pooler = {**front.args("clients"), **leads, "file": front.file}
        del pooler["dbname"]
        poolers = pgbouncer.from_args([{**pooler, "database": "clients"}])
        pooled = session.psycopg.conninfo.make_conninfo(**front.args("clients"))
        assert verify_following(pair.source, pair.target, ALL, workers=2).equal
        kinds = load.clients(8, 2000.0, (there[0], there[1]), (there[0], there[1]), pooled, 40)
        with load.Load(kinds, reader=(pooled, pooled)) as clients:
            time.sleep(2.0)
            done = move.switch(poolers=poolers, fault=lambda point: clients.switch() if point == "open:done" else None)
            with move.reverse.running():
                time.sleep(1.0)
                back = move.back(poolers=poolers)
                assert back["poolers"]["count"] == 1 and f"port={pair.source_server.port}" in front.file.read_text()
                move.forward.caught_up()
                move.switch(poolers=poolers)
                time.sleep(0.5)
                memories, reading = clients.stop()
    assert done["steps"][0]["name"] == "pause" and done["ahead"]["problem"] == "" and done["proof"]["mode"] == "dirty"
    verdict = move.judged(memories, "target")
    assert (verdict.lost, verdict.doubled) == (0, 0) and verdict.acknowledged > 1000, verdict.examples
    assert reading.failed == 0 and reading.reads > 50
    refused = {client.kind: set(memory.refused) for client, memory in memories}
    assert refused["pooled"] == set() and refused["plain"] == refused["owner"] == refused["prepared"] == {"25006"}


def test_what_is_compared_afterwards_is_the_moment_of_the_opening_also_when_the_stream_back_writes_at_once(move: Move) -> None:
    """The stream back runs when the side opens, and new writes reach the closed side before anything is compared."""
    with move.forward.running(), move.reverse.running():
        move.forward.caught_up()
        with move.clients(3, 300.0) as clients:
            time.sleep(0.5)

            def wait_for_it(point: str) -> None:
                if point == "open:done":
                    clients.switch()
                    time.sleep(1.0)

            done = move.switch(fault=wait_for_it, afterwards="full")
            assert done["afterwards"]["equal"]
            memories, _reading = clients.stop()
        move.reverse.caught_up()
        for side in ("source", "target"):
            verdict = move.judged(memories, side)
            assert (verdict.lost, verdict.doubled) == (0, 0), (side, verdict.examples)


def test_a_way_back_that_has_not_begun_keeps_no_more_than_it_may_need_and_begins_all_the_same(move: Move) -> None:
    pair, back = move.pair, move.reverse
    pair.on_target(f"SELECT pg_create_logical_replication_slot('{back.slot}', 'pgoutput')")
    with closing(Writer(back.folder, {"system": "test", "database": pair.dbname, "slot": back.slot}, segment_bytes=2000)) as writer:
        for number in range(8):
            write = f"INSERT INTO load_5 (client, seq, version) SELECT 0, {number * 100} + g, 1 FROM generate_series(1, 50) g"
            pair.on_target("SET session_replication_role = replica", "SET synchronous_commit = on", write, "DELETE FROM load_5")
            for position, data in pair.on_target(
                f"SELECT lsn - '0/0'::pg_lsn, data FROM pg_logical_slot_get_binary_changes('{back.slot}', NULL, NULL, {OPTIONS})"
            ):
                writer.append(int(position), bytes(data))
            writer.sync()
    before = records.segments(back.folder)
    assert len(before) > 5
    config, deadline = replace(back.config, keep_seconds=0.4), time.monotonic() + 20
    applier.run(config, lambda: len(records.segments(back.folder)) <= 2 or time.monotonic() > deadline, back.timing)
    assert records.segments(back.folder) == before[-2:]
    with move.forward.running():
        move.forward.caught_up()
        move.switch()
        with back.running():
            pair.on_target("INSERT INTO loose VALUES ('back', 1)")
            back.caught_up()
            assert pair.on_source("SELECT count(*) FROM loose WHERE memo = 'back'") == [(1,)]


def test_case_39_an_idle_source_and_one_with_unpublished_traffic_only_reach_the_fence_within_a_second(move: Move) -> None:
    def drained(result: dict[str, Any]) -> float:
        return next(float(step["seconds"]) for step in result["steps"] if step["name"] == "drain")

    with move.forward.running(), move.reverse.running():
        move.forward.caught_up()
        time.sleep(1.0)
        assert drained(move.switch()) < 1
        # Another database of the same server fills the log with what is for nobody here.
        over = threading.Event()

        def elsewhere() -> None:
            with move.pair.target_server.connect() as conn:
                while not over.is_set():
                    conn.execute("SELECT pg_logical_emit_message(false, 'elsewhere', repeat('x', 20000))")
                    time.sleep(0.01)

        other = threading.Thread(target=elsewhere)
        other.start()
        try:
            time.sleep(1.0)
            assert drained(move.back()) < 1
        finally:
            over.set()
            other.join()


def test_case_39_a_transaction_that_does_not_end_is_named_and_nobody_hangs(move: Move) -> None:
    pair = move.pair
    with move.forward.running():
        move.forward.caught_up()
        assert verify_following(pair.source, pair.target, ALL, workers=2).equal
        rows = cutover_stream.FEW_KEYS + 500
        pair.on_source(f"INSERT INTO load_1 (client, seq, version) SELECT 98, g, 1 FROM generate_series(1, {rows}) g")
        move.forward.caught_up()
        with pair.source_server.connect(pair.dbname) as conn:
            conn.execute("BEGIN")
            conn.execute("INSERT INTO load_1 (client, seq, version) VALUES (99, 1, 1)")
            began = time.monotonic()
            with pytest.raises(TransferError, match="could not lock all tables of the source") as caught:
                move.switch(lock_timeout_ms=200, retries=1)
            assert time.monotonic() - began < 20
            assert [found["pid"] for found in caught.value.details["blockers"]] == [conn.info.backend_pid]
            assert caught.value.details["thawed"] and move.writable("source")
            conn.execute("COMMIT")
        done = move.switch()
        assert done["ahead"]["rounds"] == 1 and done["ahead"]["keys"] >= rows and done["proof"]["keys"] < 100
        assert pair.on_target("SELECT count(*) FROM load_1 WHERE client IN (98, 99)") == [(rows + 1,)]


def test_case_43_both_directions_at_once_make_no_loop_and_a_second_applier_is_refused_by_name(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = move.pair

    def written(side: str, memo: str) -> None:
        run = pair.on_source if side == "source" else pair.on_target
        run(f"INSERT INTO loose SELECT '{memo}', g FROM generate_series(1, 50) g", f"UPDATE loose SET n = n + 1 WHERE memo = '{memo}'")

    def seen(memo: str) -> list[tuple[Any, ...]]:
        query = f"SELECT count(*), sum(n) FROM loose WHERE memo = '{memo}'"
        return [*pair.on_source(query), *pair.on_target(query)]

    with move.forward.running(), move.reverse.running():
        written("source", "before")
        move.forward.caught_up()
        time.sleep(0.5)
        assert seen("before") == [(50, 1325)] * 2
        move.switch()
        written("target", "after")
        move.reverse.caught_up()
        time.sleep(0.5)
        assert seen("after") == seen("before") == [(50, 1325)] * 2
        assert move.forward.row.changes == 100, "nothing has come back to where it was written"
        # As if the second one ran on another machine: what an earlier process of this one left behind is ended instead.
        monkeypatch.setattr(predecessor, "machine", lambda: "elsewhere")
        for stream in (move.forward, move.reverse):
            with pytest.raises(TransferError, match=f"{ledger.owner_name()} applies the") as caught:
                applier.run(replace(stream.config, spool=stream.folder.parent / "second"), lambda: False, replace(stream.timing, lock=0.5))
            assert caught.value.details["kind"] == "second_applier"
