"""From a real server's slot to the spool: everything once, nothing half, whatever is killed, and the slot follows."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import sender, spool
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import lsn_number
from bench.relay import Relay
from integration.cases.test_faults import relayed
from integration.conftest import MajorPair, Pair, Server, own
from integration.transfer import streams
from integration.transfer.cases import wait_until
from integration.transfer.streams import QUICK, TABLES, WORK, Load, Restart, reader_of, running, spooled
from pgservers import Fleet, debian_programs


@pytest.mark.parametrize("major", [14, 15, 17, 18])
def test_everything_arrives_once_and_the_slot_follows(major_pair: MajorPair, tmp_path: Path, major: int) -> None:
    pair = major_pair(major, major)
    with streams.slots_dropped(pair.source_server, pair.dbname):
        pair.on_source(*TABLES)
        streams.make_slots(pair)
        config = streams.config_of(pair, tmp_path)
        pair.on_source(*WORK[:3])
        with running(config) as found:
            found.wait("streaming")
            pair.on_source(*WORK[3:])
            streams.wait_for_all(pair, tmp_path)
            end = streams.end_of_log(pair)
            wait_until(lambda: streams.confirmed(pair) >= end, "confirmation", 5)
            assert found.end() == 0
        want = streams.wanted(pair)
        assert streams.received(tmp_path) == want and len(want) > 450
        facts = found.facts
        assert facts["state"] == "stopped" and facts["problem"] is None
        assert facts["slot_health"]["wal_status"] == "reserved"
        assert lsn_number(facts["sender_lsn"]) >= lsn_number(facts["spooled_lsn"]) >= end
        # Whoever begins in the middle gets what is left.
        places = [place for place, (_position, data) in enumerate(want) if data[:1] == b"C"]
        assert len(places) == (8 if major == 14 else 7)  # the oldest sends empty transactions too
        assert streams.received(tmp_path, want[places[2]][0]) == want[places[2] + 1 :]


def test_killed_at_random_points_under_load_it_has_everything_once(stream: Pair, tmp_path: Path) -> None:
    config = streams.config_of(stream, tmp_path)
    seen = 0
    with Load(stream):
        for _unused in range(8):
            with running(config) as found:
                wait_until(lambda seen=seen: spooled(tmp_path) > seen, "something new in the spool")  # type: ignore[misc]
                time.sleep(random.uniform(0.05, 0.5))
                seen = spooled(tmp_path)
                assert found.end(signal.SIGKILL) == -signal.SIGKILL
    with running(config) as found:
        streams.wait_for_all(stream, tmp_path)
        assert found.end() == 0
    want = streams.wanted(stream)
    assert streams.received(tmp_path) == want and len(want) > 1000


def test_a_link_that_is_cut_reset_silent_or_gone_is_made_again(stream: Pair, tmp_path: Path) -> None:
    with Relay(stream.source_server.port) as relay:
        config = streams.config_of(stream, tmp_path, source=relayed(stream.source_server.args(stream.dbname), relay))
        # The server lets go of a reader that it does not hear any more after two seconds as well.
        with running(config, replace(QUICK, busy=30.0, silence=2.0, sender_timeout=2.0)) as found, Load(stream, 1):

            def gone_on(since: int) -> None:
                wait_until(lambda: spooled(tmp_path) > max(since, streams.end_of_log(stream) - 1_000_000), "the stream to go on")

            found.wait("streaming")
            gone_on(0)
            for harm in (relay.reset, relay.vanish, relay.cut, relay.pause):
                # Not while a connection logs in: the server waits a minute for a login that does not go on, and keeps others waiting for that.
                time.sleep(1.0)
                seen, before = spooled(tmp_path), found.facts["reconnects"]
                harm()
                wait_until(lambda before=before: found.facts["reconnects"] > before, f"the loss after {harm.__name__}")  # type: ignore[misc]
                relay.resume()
                gone_on(seen)
                found.wait("streaming")
        with running(config) as found:
            streams.wait_for_all(stream, tmp_path)
            assert found.end() == 0
    want = streams.wanted(stream)
    assert streams.received(tmp_path) == want and len(want) > 1000


def test_what_a_killed_one_left_behind_a_vanished_link_is_ended(stream: Pair, tmp_path: Path) -> None:
    with Relay(stream.source_server.port) as relay:
        config = streams.config_of(stream, tmp_path, source=relayed(stream.source_server.args(stream.dbname), relay))
        with running(config) as found:
            found.wait("streaming")
            # A session that vanishes while it logs in is kept for a minute, and the test's database with it.
            watching = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cutover receiver watch' AND query LIKE '%pg_replication_slots%'"
            wait_until(lambda: stream.on_source(watching)[0][0] > 0, "the watch over the slot")
            relay.vanish()
            assert found.end(signal.SIGKILL) == -signal.SIGKILL
        left = stream.on_source("SELECT active_pid FROM pg_replication_slots WHERE active_pid IS NOT NULL")
        relay.resume()
        # The server would wait for a minute, and the receiver must not wait for the server.
        (tmp_path / "receiver.json").unlink()
        with running(config, replace(QUICK, busy=5.0)) as found, Load(stream, 1):
            found.wait("streaming")
            streams.wait_for_all(stream, tmp_path)
            assert found.end() == 0
    assert len(left) == 1 and stream.on_source(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {left[0][0]}") == [(0,)]


def test_a_promoted_server_that_cannot_decode_from_where_its_slot_stands_is_told(pair: Pair, tmp_path: Path) -> None:
    with streams.slots_dropped(pair.source_server, pair.dbname), pair.source_server.connect(pair.dbname) as conn:
        pair.on_source(*TABLES)
        streams.make_slots(pair, "TABLE t")
        slot = streams.slot_of(pair)
        # A new slot has no snapshot at its position, as a copy of one on a replica has none.
        sender.check_snapshot(conn, slot, None, 2)
        sender.check_snapshot(conn, slot, 2, 2)
        with pytest.raises(TransferError, match="was promoted before its copy of slot") as caught:
            sender.check_snapshot(conn, slot, 1, 2)
        assert caught.value.details["kind"] == "slot_incomplete" and "pg_row_verify" in caught.value.remedy
        # The receiver asks after every change of timeline; that the history has none is passed over here.
        (tmp_path / "timeline.json").write_text('{"timeline": 0}')
        with running(streams.config_of(pair, tmp_path), before=lambda: setattr(sender, "check_timeline", lambda *_unused: None)) as found:
            assert found.over() == 2 and found.facts["problem"]["kind"] == "slot_incomplete"
        (tmp_path / "timeline.json").unlink()
        conn.execute("CREATE ROLE unseeing")
        try:
            conn.execute("SET ROLE unseeing")
            sender.check_snapshot(conn, slot, 1, 2)
        finally:
            conn.execute("RESET ROLE")
            conn.execute("DROP ROLE unseeing")
        # Two records of running transactions and a reader later there is one.
        there = f"""SELECT replace(restart_lsn::text, '/', '-') || '.snap' IN (SELECT name FROM pg_ls_logicalsnapdir())
            FROM pg_replication_slots WHERE slot_name = '{slot}'"""

        def advanced() -> bool:
            conn.execute("CHECKPOINT")
            return bool(pair.on_source(there)[0][0])

        with running(streams.config_of(pair, tmp_path)) as found:
            found.wait("streaming")
            wait_until(advanced, "a snapshot where the slot stands", 30)
        sender.check_snapshot(conn, slot, 1, 2)


def test_an_idle_publication_confirms_what_is_not_published(pair: Pair, tmp_path: Path) -> None:
    with streams.slots_dropped(pair.source_server, pair.dbname):
        pair.on_source(*TABLES, "CREATE TABLE other (a text)")
        streams.make_slots(pair, "TABLE t")
        with running(streams.config_of(pair, tmp_path)) as found:
            found.wait("streaming")
            before = spool.usage(tmp_path)
            for _unused in range(3):
                pair.on_source("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
                end = streams.end_of_log(pair)
                wait_until(lambda end=end: streams.confirmed(pair) >= end, "confirmation", 5)  # type: ignore[misc]
            assert spool.usage(tmp_path) == before
        # Its position outlives the kill, so the slot is not ahead of it.
        with running(streams.config_of(pair, tmp_path)) as found:
            found.wait("streaming")


def test_half_a_huge_transaction_is_nowhere(stream: Pair, tmp_path: Path) -> None:
    config = streams.config_of(stream, tmp_path)
    stream.on_source("INSERT INTO t (m, note) VALUES ('calm', 'before')")
    with running(config) as found:
        streams.wait_for_all(stream, tmp_path)
        stream.on_source("INSERT INTO t (m, note) SELECT 'wild', repeat('x', 500) FROM generate_series(1, 120000)")
        for times in range(1, 4):
            wait_until(lambda: spool.usage(tmp_path)[1] > 10_000_000, "a part of the transaction")
            os.kill(found.pid, signal.SIGSTOP)
            assert [data[:1] for _position, data in streams.received(tmp_path)] == [b"B", b"I", b"C"]
            stream.on_source(f"SELECT pg_terminate_backend({reader_of(stream)})")
            os.kill(found.pid, signal.SIGCONT)
            wait_until(lambda times=times: found.facts["reconnects"] >= times, "a count of it")  # type: ignore[misc]
            found.wait("streaming")
        streams.wait_for_all(stream, tmp_path)
        assert found.facts["reconnects"] >= 3 and found.facts["problem"] is None
    want = streams.wanted(stream)
    assert len(want) == 120_005 and streams.received(tmp_path) == want


def test_rows_of_any_size_come_through_tls(tmp_path: Path) -> None:
    with with_tls() as server:
        pair = Pair(server, server, "postgres")
        pair.on_source(*TABLES)
        streams.make_slots(pair)
        with running(streams.config_of(pair, tmp_path, source=server.args("postgres", sslmode="require"))) as found:
            found.wait("streaming")
            for size in (1, 16_000, 3_000_000, 40, 8_192, 20_000_000):
                pair.on_source(f"INSERT INTO t (m, note) VALUES ('calm', repeat('x', {size}))")
                streams.wait_for_all(pair, tmp_path, 20)
            assert pair.on_source("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)") == [(True,)]
            assert found.end() == 0
        assert streams.received(tmp_path) == streams.wanted(pair)


@contextmanager
def with_tls() -> Iterator[Server]:
    with Fleet({"shared_buffers": "32MB"}) as fleet:
        server = own(fleet.start(encrypted=debian_programs())[0])
        key, certificate = server.data / "server.key", server.data / "server.crt"
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
        ]
        subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=60)
        for file in (key, certificate):
            os.chown(file, server.home.stat().st_uid, server.home.stat().st_gid)
            file.chmod(0o600)
        server.execute("postgres", "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
        yield server


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "spool", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_stops_it_with_the_spool_whole_and_room_lets_it_go_on(stream: Pair, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(5_000_000))
        folder = disk / "spool"
        with running(streams.config_of(stream, folder)) as found:
            found.wait("streaming")
            stream.on_source("INSERT INTO t (m, note) VALUES ('calm', 'fits')")
            streams.wait_for_all(stream, folder)
            stream.on_source("INSERT INTO t (m, note) SELECT 'wild', repeat('x', 500) FROM generate_series(1, 10000)")
            facts = found.wait("disk_full")
            assert facts["problem"]["kind"] == "disk_full" and "found no room" in facts["problem"]["message"]
            assert [data[:1] for _position, data in streams.received(folder)] == [b"B", b"I", b"C"]
            size = (folder / "receiver.json").stat().st_mtime
            wait_until(
                lambda: (folder / "receiver.json").stat().st_mtime > size + 2, "a state that is written on although the disk is full"
            )
            assert found.facts["state"] in ("disk_full", "streaming")
            filler.unlink()
            streams.wait_for_all(stream, folder, 90)
            assert found.wait("streaming")["problem"] is None
        want = streams.wanted(stream)
        assert streams.received(folder) == want and len(want) == 10_005


def slow_disk() -> None:
    """A disk that takes its time, as no disk here does on demand."""
    really = os.fdatasync

    def fdatasync(descriptor: Any) -> None:
        time.sleep(2.5)
        really(descriptor)

    os.fdatasync = fdatasync  # type: ignore[assignment]


def test_a_slow_disk_does_not_keep_the_sender_waiting(alone: Pair, tmp_path: Path) -> None:
    alone.on_source(f"SELECT pg_drop_replication_slot('{streams.slot_of(alone, '_twin')}')")
    with running(streams.config_of(alone, tmp_path), replace(QUICK, sender_timeout=None), slow_disk) as found:
        found.wait("streaming")
        pid = reader_of(alone)
        with Load(alone, 1):
            time.sleep(6)
        assert reader_of(alone) == pid and found.facts["reconnects"] == 0
        assert lsn_number(found.facts["synced_lsn"]) > 0
    assert any(data[:1] == b"C" for _position, data in streams.received(tmp_path))


def test_a_restarted_server_is_found_again(alone: Pair, impatient: tuple[Server, Restart], tmp_path: Path) -> None:
    with running(streams.config_of(alone, tmp_path)) as found:
        found.wait("streaming")
        alone.on_source("INSERT INTO t (m) VALUES ('calm')")
        for how in (signal.SIGINT, signal.SIGQUIT):
            impatient[1](how)
            alone.on_source("INSERT INTO t (m) VALUES ('wild')")
            streams.wait_for_all(alone, tmp_path)
        assert found.facts["reconnects"] > 0 and found.end() == 0
    assert streams.received(tmp_path) == streams.wanted(alone)
