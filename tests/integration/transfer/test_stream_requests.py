"""What others ask of the applier, and what becomes of it when it is interrupted: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import ledger, predecessor, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import applier, state
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.feed import Limits
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pause import pause_at
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import lsn_number
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.verify import verify
from bench.relay import Relay
from integration.conftest import Pair, Server
from integration.transfer.cases import wait_until
from integration.transfer.streaming import Stream, kind_of
from pgservers import Fleet, debian_programs


@pytest.fixture
def stream(pair: Pair, tmp_path: Path) -> Iterator[Stream]:
    """A table with some rows, copied."""
    made = Stream(pair, tmp_path / "spool")
    pair.on_both("CREATE TABLE t (id int PRIMARY KEY, n int)", "CREATE TABLE loose (a int)")
    pair.on_source("ALTER TABLE loose REPLICA IDENTITY FULL", "INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g")
    made.copy()
    yield made
    made.drop_slot()


@contextmanager
def asking(made: Stream) -> Iterator[state.Conn]:
    with closing(session.connect(made.config.receiving, application_name="test asks")) as conn:
        yield conn


@contextmanager
def writing(
    made: Stream, statement: str = "UPDATE t SET n = n + 1 WHERE id = 1 + {number} % 100", pause: float = 0.0005
) -> Iterator[Callable[[], int]]:
    """Somebody writes all the time; how many transactions so far."""
    over = threading.Event()
    count = 0

    def write() -> None:
        nonlocal count
        with made.pair.source_server.connect(made.pair.dbname) as conn:
            while not over.is_set():
                conn.execute(statement.format(number=count))
                count += 1
                time.sleep(pause)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield lambda: count
    finally:
        over.set()
        thread.join(30)


def deadline(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def test_hold_and_release(stream: Stream) -> None:
    with stream.running(), asking(stream) as conn:
        stream.pair.on_source("UPDATE t SET n = 1")
        stream.caught_up()
        state.hold(conn, "forward")
        stream.pair.on_source("UPDATE t SET n = 2")
        wait_until(lambda: stream.figures["state"] == "held", "the hold")
        time.sleep(0.3)
        assert stream.pair.on_target("SELECT sum(n) FROM t") == [(100,)]
        state.release(conn, "forward")
        stream.caught_up()
        assert stream.pair.on_target("SELECT sum(n) FROM t") == [(200,)]


def test_nothing_is_applied_behind_a_fence_until_it_is_released(stream: Stream) -> None:
    stream.pair.on_source("UPDATE t SET n = 1", "SELECT pg_logical_emit_message(true, 'cutover', 'fence:f-1')", "UPDATE t SET n = 2")
    with stream.running(), asking(stream) as conn:
        found = state.wait_for(conn, "forward", lambda row: row.fence == "f-1", deadline(), "the fence")
        assert found.fence_lsn is not None and found.begin < found.fence_lsn <= found.applied
        wait_until(lambda: stream.figures["state"] == "fenced", "the stand at the fence")
        time.sleep(0.2)
        assert stream.pair.on_target("SELECT sum(n) FROM t") == [(100,)]
    with stream.running(), asking(stream) as conn:
        wait_until(lambda: stream.figures["state"] == "fenced", "the stand at the fence after a restart")
        assert stream.pair.on_target("SELECT sum(n) FROM t") == [(100,)]
        state.release(conn, "forward")
        stream.caught_up()
        assert stream.pair.on_target("SELECT sum(n) FROM t") == [(200,)]
        assert stream.row.fence is None


def test_pause_is_exactly_before_the_first_commit_at_a_position(stream: Stream) -> None:
    with stream.running():
        with asking(stream) as conn, writing(stream):
            for _unused in range(5):
                state.request_pause(conn, "forward", 0)
                state.wait_for(conn, "forward", lambda row: row.paused_at == 0, deadline(), "the pause")
                # Everything below the position is seen by this sum, as nothing else is while the table is locked.
                with stream.pair.source_server.connect(stream.pair.dbname) as source, source.transaction():
                    source.execute("LOCK TABLE t IN EXCLUSIVE MODE")
                    row = source.execute("SELECT sum(n), pg_current_wal_insert_lsn()::text FROM t").fetchone()
                assert row is not None
                position = lsn_number(row[1])
                state.request_pause(conn, "forward", position)
                state.wait_for(conn, "forward", lambda found, at=position: found.paused_at == at, deadline(), "the pause")  # type: ignore[misc]
                time.sleep(0.05)
                assert stream.pair.on_target("SELECT sum(n) FROM t")[0][0] == row[0]
                state.clear_pause(conn, "forward")
        stream.caught_up()
    assert stream.pair.on_target("SELECT sum(n) FROM t") == stream.pair.on_source("SELECT sum(n) FROM t")


@pytest.mark.parametrize("what", ["hold", "stop_at", "dirty_from"])
def test_a_batch_that_was_under_way_when_something_was_asked_is_not_committed_without_it(stream: Stream, what: str) -> None:
    with stream.running(), asking(stream) as conn:
        stream.pair.on_source("UPDATE t SET n = 1")
        stream.caught_up()
        position = stream.pair.on_source("SELECT pg_current_wal_insert_lsn()::text")[0][0]
        with conn.transaction():
            value = "true" if what == "hold" else f"'{position}'"
            conn.execute(f"UPDATE cutover.stream SET {what} = {value}")
            # The applier has written its rows, and waits for the row of the stream.
            stream.pair.on_source(
                "UPDATE t SET n = 2 WHERE id = 7", "SET synchronous_commit = on", "SELECT pg_logical_emit_message(true, 'test', '')"
            )
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cutover applier%' AND wait_event_type = 'Lock'"
            wait_until(lambda: stream.pair.on_target(waiting) == [(1,)], "the applier at the row")
        if what == "dirty_from":
            stream.caught_up()
            assert ledger.read_dirty(conn) == {"public.t": [("7",)]}
        else:
            wait_until(lambda: stream.figures["state"] in ("held", "paused"), "the stand")
            assert stream.pair.on_target("SELECT n FROM t WHERE id = 7") == [(1,)]
            conn.execute("UPDATE cutover.stream SET hold = false, stop_at = NULL, paused_at = NULL")
            stream.caught_up()
        assert stream.pair.on_target("SELECT n FROM t WHERE id = 7") == [(2,)]


def test_an_idle_stream_pauses_where_it_stands_and_one_that_was_asked_too_late_does_not(stream: Stream) -> None:
    with stream.running(), asking(stream) as conn, asking(stream) as other:
        stream.pair.on_source("UPDATE t SET n = 1")
        stream.caught_up()
        state.request_pause(conn, "forward", 0)
        state.wait_for(conn, "forward", lambda row: row.paused_at == 0, deadline(), "the pause")
        with pytest.raises(TransferError) as caught:
            state.request_pause(other, "forward", 0)
        assert kind_of(caught.value) == "pause_taken"
        state.clear_pause(conn, "forward")
        with pytest.raises(TransferError) as caught:
            state.request_pause(conn, "forward", stream.row.begin)
        assert kind_of(caught.value) == "too_late"
        state.request_pause(other, "forward", 0)
        state.clear_pause(other, "forward")
        with pytest.raises(TransferError) as caught:
            state.request_dirty_from(conn, "forward", stream.row.begin)
        assert kind_of(caught.value) == "too_late"


def test_a_pause_ends_when_the_one_who_asked_for_it_has_gone(stream: Stream) -> None:
    with stream.running():
        stream.pair.on_source("UPDATE t SET n = 1")
        stream.caught_up()
        with asking(stream) as conn:
            state.request_pause(conn, "forward", 0)
            state.wait_for(conn, "forward", lambda row: row.paused_at == 0, deadline(), "the pause")
        stream.pair.on_source("UPDATE t SET n = 2")
        stream.caught_up()
        assert stream.row.stop_at is None and stream.pair.on_target("SELECT sum(n) FROM t") == [(200,)]


def test_keys_are_noted_from_a_position_on_and_are_all_that_changed(stream: Stream) -> None:
    with stream.running(), asking(stream) as conn:
        stream.pair.on_source("UPDATE t SET n = 5 WHERE id = 50")
        stream.caught_up()
        with writing(stream, "UPDATE t SET n = n + 1 WHERE id = 1 + {number} % 7"):
            with pause_at(stream.pair.source, stream.pair.target, note_dirty=True) as hook:
                result = verify(stream.pair.source, stream.pair.target, stream.config.selection, workers=1, pairing="slot", pause_at=hook)
            assert result.equal and result.exact
            stream.pair.on_source(
                "DELETE FROM t WHERE id = 60",
                "UPDATE t SET id = 200 WHERE id = 61",
                "INSERT INTO loose VALUES (1)",
                "INSERT INTO t VALUES (300, 1)",
            )
        stream.caught_up()
        dirty = ledger.read_dirty(conn)
        assert {"60", "61", "200", "300"} < {key[0] for key in dirty["public.t"]} <= {"60", "61", "200", "300", *map(str, range(1, 8))}
        assert dirty["public.loose"] == [()], "without a key the table is to be looked at as a whole"
        state.request_dirty_from(conn, "forward", None)
        stream.pair.on_source("UPDATE t SET n = 1 WHERE id = 99")
        stream.caught_up()
        assert ledger.read_dirty(conn) == dirty
        keyed = {"public.t": dirty["public.t"]}
        assert verify(stream.pair.source, stream.pair.target, stream.config.selection, workers=1, mode="dirty", keys=keyed).equal
        stream.pair.on_target("UPDATE t SET n = -1 WHERE id = 300")
        found = verify(stream.pair.source, stream.pair.target, stream.config.selection, workers=1, mode="dirty", keys=keyed)
        assert [difference.key for table in found.tables for difference in table.changed] == [{"id": "300"}]


def test_a_table_whose_changes_do_not_carry_its_key_is_looked_at_as_a_whole(pair: Pair, tmp_path: Path) -> None:
    made = Stream(pair, tmp_path / "spool")
    pair.on_both("CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL, n int)", "CREATE UNIQUE INDEX t_code ON t (code)")
    pair.on_source("ALTER TABLE t REPLICA IDENTITY USING INDEX t_code", "INSERT INTO t SELECT g, g, 0 FROM generate_series(1, 9) g")
    try:
        made.copy()
        made.apply_once()
        with asking(made) as conn:
            state.request_dirty_from(conn, "forward", made.row.applied)
            pair.on_source("DELETE FROM t WHERE id = 3")
            made.apply_once()
            dirty = ledger.read_dirty(conn)
        assert dirty == {"public.t": [()]}
        pair.on_target("UPDATE t SET n = 1 WHERE id = 5")
        found = verify(pair.source, pair.target, made.config.selection, workers=1, mode="dirty", keys=dirty)
        assert [difference.key for difference in found.tables[0].changed] == [{"id": "5"}]
    finally:
        made.drop_slot()


def test_a_second_applier_is_refused_and_names_the_first(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    with stream.running():
        stream.caught_up()
        # As if the second one ran on another machine: what an earlier process of this one left behind is ended instead.
        monkeypatch.setattr(predecessor, "machine", lambda: "elsewhere")
        other = replace(stream.config, spool=stream.folder.parent / "second")
        with pytest.raises(TransferError, match=f"{ledger.owner_name()} applies the forward stream") as caught:
            applier.run(other, lambda: False, replace(stream.timing, lock=0.3))
        assert kind_of(caught.value) == "second_applier" and "pg_terminate_backend" in caught.value.remedy
        assert stream.row.problem is None, "it is no problem of the one that works"


def test_what_an_applier_left_behind_a_vanished_link_before_there_was_a_row_is_ended(stream: Stream) -> None:
    stream.pair.on_target("UPDATE cutover.run SET finished = NULL")
    stop, failed = threading.Event(), []
    with Relay(stream.pair.target_server.port) as relay:
        config = replace(stream.config, target=replace(stream.config.target, port=relay.port))

        def run() -> None:
            try:
                applier.run(config, stop.is_set, replace(stream.timing, lock=1.0))
            except TransferError as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait_until(lambda: relay.accepted > 0 and stream.figures["state"] == "waiting_for_copy", "the wait for the copy")
            relay.vanish()
            relay.resume()
            stream.pair.on_target("UPDATE cutover.run SET finished = now()")
            wait_until(lambda: bool(failed) or stream.begun is not None, "the beginning of the stream")
        finally:
            stop.set()
            thread.join(30)
    assert not failed and not thread.is_alive()


def test_lost_connections_are_made_again_and_nothing_is_done_twice(stream: Stream) -> None:
    stream.limits = Limits(changes=20)
    with stream.running(), writing(stream, pause=0.0), closing(stream.pair.target_server.connect()) as admin:
        for _unused in range(8):
            time.sleep(0.15)
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cutover applier%'")
    with stream.running():
        stream.caught_up()
    assert stream.pair.on_target("TABLE t ORDER BY 1") == stream.pair.on_source("TABLE t ORDER BY 1")
    assert stream.pair.on_target("SELECT sum(n) FROM t")[0][0] > 100


def test_a_crash_of_the_receiving_server_takes_progress_and_rows_back_together(tmp_path: Path) -> None:
    with Fleet({"shared_buffers": "32MB"}) as fleet:
        source, target = (
            Server(one.name, one.bin, one.home, one.port) for one in fleet.start(source=debian_programs(), target=debian_programs())
        )
        for server in (source, target):
            server.execute("postgres", "CREATE DATABASE crash")
        made = Stream(Pair(source, target, "crash"), tmp_path / "spool")
        made.pair.on_both("CREATE TABLE t (id int PRIMARY KEY, n int)")
        made.pair.on_source("INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g")
        made.copy()
        fell_back = 0
        for _unused in range(2):
            with made.running(), writing(made):
                # Commits that nobody waits for stay in memory as long as the one who writes the log stands still.
                pid = walwriter(target)
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.5)
            before = made.row.applied
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda gone=pid: walwriter(target) not in (0, gone), "the restart of the server")  # type: ignore[misc]
            # Even its beginning may have been lost, and is made again.
            now = made.begun
            fell_back += now is None or now.applied < before
        with made.running(), writing(made):
            time.sleep(0.3)
            os.kill(walwriter(target), signal.SIGKILL)
            time.sleep(0.3)
        with made.running():
            made.caught_up()
        assert made.pair.on_target("TABLE t ORDER BY 1") == made.pair.on_source("TABLE t ORDER BY 1")
        assert fell_back == 2, "commits that nobody waited for were lost, and brought again"


def walwriter(server: Server) -> int:
    """Its process, 0 while the server does not answer."""
    try:
        return int(server.execute("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")[0][0])
    except (psycopg.OperationalError, IndexError):
        return 0


def test_others_read_without_rights_and_without_a_stream(pair: Pair) -> None:
    with closing(session.connect(pair.target, application_name="test", read_only=True)) as conn:
        assert state.read(conn, "forward") is None and not state.exists(conn)
    with closing(session.connect(pair.target, application_name="test")) as conn:
        assert state.drop(conn, "forward") is False
        for move in (state.hold, state.release):
            with pytest.raises(TransferError) as caught:
                move(conn, "forward")
            assert kind_of(caught.value) == "no_stream"
        state.create(conn)
        # As a version before had it.
        conn.execute("ALTER TABLE cutover.stream DROP COLUMN passed_fence")
        state.create(conn)
        state.create(conn)
        for ask in (
            lambda: state.request_pause(conn, "forward", 5),
            lambda: state.request_dirty_from(conn, "forward", 5),
            lambda: state.wait_for(conn, "forward", lambda _row: True, deadline(), "nothing"),
        ):
            with pytest.raises(TransferError) as caught:
                ask()
            assert kind_of(caught.value) == "no_stream"
        state.begin(conn, "forward", "s", "slot", "p", 16)
        assert state.begin(conn, "forward", "s", "slot", "p", 99).begin == 16, "the first beginning counts"
        with pytest.raises(TransferError) as caught:
            state.begin(conn, "forward", "s", "another", "p", 16)
        assert kind_of(caught.value) == "other_stream"
        with pytest.raises(TransferError, match="nobody applies it") as caught:
            state.wait_for(conn, "forward", lambda _row: False, time.monotonic() + 0.1, "the moon")
        assert kind_of(caught.value) == "deadline"
        conn.execute("""UPDATE cutover.stream SET problem = '{"kind": "conflict", "message": "no row", "remedy": "mend"}'""")
        with pytest.raises(TransferError, match="no row") as caught:
            state.wait_for(conn, "forward", lambda _row: False, deadline(), "the moon")
        assert kind_of(caught.value) == "conflict"
        assert state.drop(conn, "forward") is True and state.read(conn, "forward") is None


def test_a_stream_that_is_dropped_while_it_is_applied_ends(stream: Stream) -> None:
    with pytest.raises(TransferError) as caught, stream.running():
        stream.caught_up()
        with asking(stream) as conn:
            with pytest.raises(TransferError) as refused:
                state.drop(conn, "forward")
            assert kind_of(refused.value) == "in_use"
            conn.execute("DELETE FROM cutover.stream")
        wait_until(lambda: stream.error is not None, "the end of the applier")
    assert kind_of(caught.value) == "no_stream"
