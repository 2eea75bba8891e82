"""What stands between a real slot and a spool is told by its kind, and nothing is streamed that would leave a gap."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import receiver, spool
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.pgoutput import lsn_text
from integration.conftest import Pair, Server
from integration.transfer import streams
from integration.transfer.cases import wait_until
from integration.transfer.streams import QUICK, TABLES, WORK, Restart, reader_of, running, spooled


def test_a_lost_slot_stops_it(alone: Pair, tmp_path: Path) -> None:
    config = streams.config_of(alone, tmp_path)
    with running(config, QUICK) as found:
        found.wait("streaming")
        assert found.end() == 0
    with alone.source_server.connect(alone.dbname) as conn:

        def status() -> str:
            # One look at a time makes the server remove old log and see the slot as lost.
            conn.execute("INSERT INTO load SELECT 1, g, txid_current()::int, repeat(md5(g::text), 20) FROM generate_series(1, 20000) g")
            conn.execute("SELECT pg_switch_wal()")
            conn.execute("CHECKPOINT")
            row = conn.execute("SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", (config.slot,)).fetchone()
            return str(row[0]) if row else "gone"

        wait_until(lambda: status() == "lost", "a lost slot")
    with running(config, QUICK) as found:
        assert found.over() == 2
        facts = found.facts
    assert (
        facts["state"] == "failed"
        and facts["problem"]["kind"] == "slot_lost"
        and "was given up by the server" in facts["problem"]["message"]
    )


def test_a_slot_in_danger_is_told(alone: Pair, tmp_path: Path) -> None:
    with running(streams.config_of(alone, tmp_path), QUICK) as found, alone.source_server.connect(alone.dbname) as old:
        found.wait("streaming")
        # A transaction that does not end keeps the slot where it is, however well it is read.
        old.execute("BEGIN")
        old.execute("INSERT INTO load VALUES (0, 0, 0)")
        for session in range(30):
            alone.on_source(f"INSERT INTO load SELECT {session}, g, 1, repeat(md5(g::text), 20) FROM generate_series(1, 3000) g")
            if found.facts["state"] == "in_danger":
                break
            time.sleep(0.35)
        facts = found.wait("in_danger")
        assert facts["slot_health"]["safe_wal_bytes"] < 32 * 1024 * 1024 / 2 and facts["problem"] is None
        old.execute("COMMIT")


def test_it_waits_for_a_slot_that_is_not_there_yet(pair: Pair, tmp_path: Path) -> None:
    with streams.slots_dropped(pair.source_server, pair.dbname):
        pair.on_source(*TABLES)
        with running(streams.config_of(pair, tmp_path), QUICK) as found:
            found.wait("waiting_for_slot")
            streams.make_slots(pair)
            pair.on_source(*WORK[:2])
            found.wait("streaming")
            streams.wait_for_all(pair, tmp_path)
            assert found.end() == 0
        assert streams.received(tmp_path) == streams.wanted(pair) and len(streams.wanted(pair)) > 300
        # One that was there and is not any more will not come back.
        pair.on_source(f"SELECT pg_drop_replication_slot('{streams.slot_of(pair)}')")
        with running(streams.config_of(pair, tmp_path), QUICK) as found:
            assert found.over() == 2 and found.facts["problem"]["kind"] == "slot_lost"


def refused(pair: Pair, folder: Path, **more: str) -> TransferError:
    """What a receiver says before it streams anything."""
    deadline = time.monotonic() + 20
    with pytest.raises(TransferError) as caught:
        receiver.run(streams.config_of(pair, folder, **more), lambda: time.monotonic() > deadline, QUICK)
    return caught.value


def test_spools_and_slots_of_others_are_refused(stream: Pair, alone: Pair, tmp_path: Path) -> None:
    with running(streams.config_of(stream, tmp_path / "one")) as found:
        found.wait("streaming")
        error = refused(stream, tmp_path / "two")
        assert error.details["kind"] == "slot_in_use" and error.details["pid"] == reader_of(stream)
        assert found.end() == 0
    alone.on_source(f"SELECT pg_create_logical_replication_slot('{streams.slot_of(stream)}', 'pgoutput')")
    other = refused(alone, tmp_path / "one", slot=streams.slot_of(stream))
    assert other.details["kind"] == "other_spool" and f"of database {stream.dbname} on server" in other.message
    stream.on_source(*WORK[:1])
    nothing = refused(stream, tmp_path / "three", slot=streams.slot_of(stream, "_twin"), publication="none")
    assert nothing.details["kind"] == "publication_missing", nothing
    stream.on_source("SELECT pg_create_physical_replication_slot('physical_one', true)", "SELECT pg_drop_replication_slot('physical_one')")
    stream.on_source(f"SELECT pg_create_logical_replication_slot('{stream.dbname}_decoding', 'test_decoding')")
    decoding = refused(stream, tmp_path / "four", slot=f"{stream.dbname}_decoding")
    assert decoding.details["kind"] == "other_slot" and "plugin test_decoding" in decoding.message


def test_positions_that_do_not_meet_are_refused(stream: Pair, tmp_path: Path) -> None:
    config = streams.config_of(stream, tmp_path)
    with running(config) as found:
        found.wait("streaming")
        assert found.end() == 0
    stream.on_source(*WORK[:2])
    # Another reader took what the spool does not have.
    take = f"""SELECT count(*) FROM pg_logical_slot_get_binary_changes('{config.slot}', NULL, NULL,
        'proto_version', '1', 'publication_names', 'moved')"""
    # It gives what has reached the server's disk, which commits do not wait for here.
    wait_until(lambda: bool(stream.on_source(take)) and streams.confirmed(stream) > spooled(tmp_path), "a slot ahead of the spool")
    gap = refused(stream, tmp_path)
    assert gap.details["kind"] == "spool_gap" and gap.details["confirmed"] == lsn_text(streams.confirmed(stream))
    # A spool that knows more than the server does: that was restored from a backup.
    writer = spool.Writer(tmp_path, meta_of(tmp_path))
    writer.advance(streams.end_of_log(stream) + 1_000_000)
    writer.sync()
    writer.close()
    assert refused(stream, tmp_path).details["kind"] == "sender_behind"


def meta_of(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "meta.json").read_text())
    return {name: value for name, value in found.items() if name != "version"}


def test_a_promoted_server_goes_on_unless_it_lacks_what_the_spool_has(
    alone: Pair, impatient: tuple[Server, Restart], tmp_path: Path
) -> None:
    server, restart = impatient
    config = streams.config_of(alone, tmp_path)

    def promote() -> None:
        (server.data / "standby.signal").touch()
        os.chown(server.data / "standby.signal", server.data.stat().st_uid, server.data.stat().st_gid)
        restart(signal.SIGINT)
        server.execute("postgres", "SELECT pg_promote()")

    with running(config) as found:
        found.wait("streaming")
        alone.on_source(*WORK[:1])
        streams.wait_for_all(alone, tmp_path)
        assert found.end() == 0
    promote()
    alone.on_source(*WORK[1:2])
    with running(config) as found:
        streams.wait_for_all(alone, tmp_path)
        assert found.end() == 0
    assert streams.received(tmp_path) == streams.wanted(alone) and "2" in (tmp_path / "timeline.json").read_text()
    # The spool has a megabyte that the promoted server never got; by now its log is longer than that again.
    writer = spool.Writer(tmp_path, meta_of(tmp_path))
    writer.advance(streams.end_of_log(alone) + 1_000_000)
    writer.sync()
    writer.close()
    promote()
    alone.on_source("INSERT INTO load SELECT 5, g, 1, repeat('x', 500) FROM generate_series(1, 5000) g")
    error = refused(alone, tmp_path)
    assert error.details["kind"] == "sender_behind" and "timeline 3 left timeline 2 there" in error.message


def test_nobody_notices_a_wrong_password_in_the_files(stream: Pair, tmp_path: Path) -> None:
    config = streams.config_of(stream, tmp_path, source=stream.source_server.args(stream.dbname, password="wrong-and-secret"))
    with running(config, QUICK) as found:
        assert found.over() == 2 and found.facts["problem"]["kind"] == "wrong_password"
    assert not any("wrong-and-secret" in path.read_text(errors="replace") for path in tmp_path.iterdir())
