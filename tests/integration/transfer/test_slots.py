"""Replication slots against real servers: the pair of position and snapshot is exact, and whatever stands in the way is named."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import session, slots
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from integration.conftest import MajorServers, Pair, Server
from integration.transfer.cases import wait_until
from pgservers import Fleet, debian_programs
from pgservers import Server as Plain


@pytest.fixture(scope="module")
def poor() -> Iterator[tuple[Server, Callable[[], None]]]:
    """A server with one slot, one WAL sender and little log kept for them; and its restart."""
    settings = {
        "max_replication_slots": "1",
        "max_wal_senders": "1",
        "max_slot_wal_keep_size": "1MB",
        "max_prepared_transactions": "5",
        "shared_buffers": "32MB",
    }
    with Fleet(settings) as fleet:
        plain: Plain = fleet.start(poor=debian_programs())[0]
        yield Server(plain.name, plain.bin, plain.home, plain.port), lambda: fleet.restart(plain)


def kind_of(caught: pytest.ExceptionInfo[TransferError]) -> object:
    return caught.value.details["kind"]


def inserts_before(conn: psycopg.Connection[tuple[object, ...]], slot: str, lsn: str) -> int:
    """Rows inserted by transactions whose commit is before a position, as the log tells it."""
    high, low = lsn.split("/")
    limit = (int(high, 16) << 32) + int(low, 16)
    rows = conn.execute(
        "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL, 'proto_version', '1', 'publication_names', 'all_of_it')",
        (slot,),
    ).fetchall()
    found, commit = 0, 0
    for row in rows:
        data = bytes(row[0])  # type: ignore[call-overload]
        if data[:1] == b"B":
            commit = struct.unpack(">Q", data[1:9])[0]
        found += data[:1] == b"I" and commit < limit
    return found


def test_snapshot_holds_exactly_what_was_committed_before_the_position(pair: Pair) -> None:
    pair.on_source(
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int)", "CREATE PUBLICATION all_of_it FOR ALL TABLES"
    )
    stop = threading.Event()

    def write() -> None:
        with pair.source_server.connect(pair.dbname) as conn:
            while not stop.is_set():
                conn.execute("INSERT INTO t (a) SELECT 1 FROM generate_series(1, 3)")

    with slots.create(pair.source, "main_one") as main, session.connect(pair.source, application_name="test") as conn:
        assert slots.health(conn, "main_one").exists
    writers = [threading.Thread(target=write) for _unused in range(2)]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: pair.on_source("SELECT count(*) > 100 FROM t")[0][0], "writing")
        held = []
        for number in range(3):
            with slots.create(pair.source, f"check_{number}", temporary=True) as slot:
                with session.connect(pair.source, application_name="test", read_only=True) as conn:
                    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                    conn.execute(f"SET TRANSACTION SNAPSHOT '{slot.snapshot}'")
                    count = (conn.execute("SELECT count(*) FROM public.t").fetchone() or (0,))[0]
                    assert slot.alive()
                held.append((slot.lsn, count))
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    with pair.source_server.connect(pair.dbname) as conn:
        assert [inserts_before(conn, "main_one", lsn) for lsn, _count in held] == [count for _lsn, count in held]
        assert held[0][1] > 100 and held[-1][1] > held[0][1]
        assert conn.execute("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()").fetchall() == [("main_one",)]
        assert slots.drop(conn, "main_one") and not slots.drop(conn, "main_one")
    assert not main.alive()


@pytest.mark.parametrize("major", [14, 15, 18])
def test_every_major_takes_its_own_syntax(major_servers: MajorServers, major: int) -> None:
    (server,) = major_servers(major)
    with slots.create(server.endpoint("postgres"), "of_major", temporary=True) as slot, server.connect() as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        conn.execute(f"SET TRANSACTION SNAPSHOT '{slot.snapshot}'")
        found = slots.health(conn, "of_major")
    assert found.temporary and found.usable and found.wal_status == "reserved" and found.confirmed_lsn == slot.lsn


def test_old_transactions_are_waited_for_and_named(poor: tuple[Server, Callable[[], None]]) -> None:
    server = poor[0]
    server.execute("postgres", "CREATE TABLE IF NOT EXISTS w (a int)")
    heard: list[tuple[slots.Blocker, ...]] = []
    with server.connect() as old:
        old.execute("BEGIN")
        old.execute("INSERT INTO w VALUES (4711)")
        address = server.endpoint("postgres")
        impatient = slots.create(address, "late", deadline_seconds=1.5, on_wait=heard.append)
        with pytest.raises(TransferError, match="4711") as caught:
            ExitStack().enter_context(impatient)
        assert kind_of(caught) == "slot_blocked" and f"pid {old.info.backend_pid} (postgres@postgres, idle in transaction" in str(
            caught.value
        )
        assert [one.pid for one in heard[0]] == [old.info.backend_pid]
        old.execute("PREPARE TRANSACTION 'left over'")
        impatient = slots.create(address, "late", deadline_seconds=0.5)
        with pytest.raises(TransferError, match="prepared transaction 'left over' in database postgres"), impatient:
            pass
        timer = threading.Timer(0.7, lambda: server.execute("postgres", "ROLLBACK PREPARED 'left over'"))
        timer.start()
        with slots.create(server.endpoint("postgres"), "late", temporary=True, deadline_seconds=60):
            timer.join()
    wait_until(lambda: server.execute("postgres", "SELECT count(*) FROM pg_replication_slots") == [(0,)], "the end of the temporary slot")


def test_what_stands_in_the_way_is_said_with_the_remedy(poor: tuple[Server, Callable[[], None]]) -> None:
    server, restart = poor
    server.execute("postgres", "CREATE ROLE plain LOGIN PASSWORD 'plain'")
    with pytest.raises(TransferError) as caught, slots.create(server.endpoint("postgres", "plain", "plain"), "one"):
        pass
    assert kind_of(caught) == "no_replication_right" and "REPLICATION" in caught.value.remedy
    with pytest.raises(TransferError) as caught, slots.create(server.endpoint("postgres"), "Not Allowed"):
        pass
    assert kind_of(caught) == "slot_name"
    pooler = server.endpoint("postgres", flavour="supabase", host="aws-0-eu-central-1.pooler.supabase.com")
    with pytest.raises(TransferError) as caught, slots.create(pooler, "one"):
        pass
    assert kind_of(caught) == "pooler"
    with slots.create(server.endpoint("postgres"), "one"):
        with pytest.raises(TransferError) as caught, slots.create(server.endpoint("postgres"), "two"):
            pass
        assert kind_of(caught) == "no_wal_sender"
    # The only WAL sender has just gone, each time: its place is waited for.
    with pytest.raises(TransferError) as caught, slots.create(server.endpoint("postgres"), "one"):
        pass
    assert kind_of(caught) == "slot_exists" and "pg_drop_replication_slot('one')" in caught.value.remedy
    with pytest.raises(TransferError, match=r"one \(idle\)") as caught, slots.create(server.endpoint("postgres"), "two"):
        pass
    assert kind_of(caught) == "no_free_slot" and "max_replication_slots" in caught.value.remedy
    with server.connect() as conn:
        assert slots.drop(conn, "one")
        conn.execute("ALTER SYSTEM SET wal_level = 'replica'")
    restart()
    with pytest.raises(TransferError, match="wal_level of .* is replica") as caught, slots.create(server.endpoint("postgres"), "two"):
        pass
    assert kind_of(caught) == "wal_level"
    server.execute("postgres", "ALTER SYSTEM RESET wal_level")
    restart()


def test_slot_that_the_server_gives_up_is_seen_coming(poor: tuple[Server, Callable[[], None]]) -> None:
    server = poor[0]
    with slots.create(server.endpoint("postgres"), "slow"), server.connect() as conn:
        assert slots.lagging(conn, ["slow"], 1_000_000) == ()
        slots.require(slots.health(conn, "slow"))
        conn.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 14000000))")
        (danger,) = slots.lagging(conn, ["slow"], 40_000_000)
        assert danger.usable and danger.retained_bytes > 10_000_000 and (danger.safe_wal_bytes or 0) < 40_000_000
    with server.connect() as conn:
        for _unused in range(3):
            conn.execute("SELECT pg_logical_emit_message(false, 'x', 'x'), pg_switch_wal()")
        conn.execute("CHECKPOINT")
        lost = slots.health(conn, "slow")
        assert not lost.usable and lost.wal_status == "lost" and lost.reason == "wal_removed"
        with pytest.raises(TransferError, match=r"slow was given up by the server \(wal_removed\)") as caught:
            slots.require(lost)
        assert kind_of(caught) == "slot_lost"
        assert slots.drop(conn, "slow")
        with pytest.raises(TransferError, match="does not exist any more"):
            slots.require(slots.health(conn, "slow"))


def test_lost_holder_is_noticed_and_a_slot_in_use_is_not_dropped(pair: Pair) -> None:
    with slots.create(pair.source, "held", temporary=True) as slot, pair.source_server.connect(pair.dbname) as conn:
        with pytest.raises(TransferError, match=f"read by pid {slot.conn.info.backend_pid}") as caught:
            slots.drop(conn, "held", wait_seconds=0.2)
        assert kind_of(caught) == "slot_in_use" and slot.alive()
        conn.execute("SELECT pg_terminate_backend(%s)", (slot.conn.info.backend_pid,))
        wait_until(lambda: not slot.alive(), "notice of the lost holder")
        assert not slots.health(conn, "held").exists
