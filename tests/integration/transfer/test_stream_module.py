"""A stream brought up, looked at and removed as the module does it, with the real service; and what it refuses before anything is made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import cutover_state, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import config_file, control, waiting
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.config import Config
from integration.cases import untouched
from integration.conftest import Pair, Server, own
from integration.transfer.cases import wait_until
from integration.transfer.streams import slots_dropped
from integration.transfer.test_row_modules import run as run_module
from pgservers import Fleet, bouncer, debian_programs

ROOT = Path(__file__).parents[3]
SERVICE = "ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.service"
TABLES = ("CREATE TABLE keyed (id int PRIMARY KEY, note text)", "CREATE TABLE loose (id int, note text)")
ROWS = "SELECT 1, id, note FROM keyed UNION ALL SELECT 2, id, note FROM loose ORDER BY 1, 2, 3"


class Systemd:
    """Does for one unit what systemctl asks: the service runs for real, as a process of this test."""

    def __init__(self, path: Path) -> None:
        self.path, self.enabled = path, False
        self.process: subprocess.Popen[bytes] | None = None
        self.log = path.parent / "log"

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        verb = next(word for word in command[1:] if not word.startswith("-"))
        if verb == "show":
            enabled = "enabled" if self.enabled else "disabled"
            active = "active" if self.running else "inactive"
            return 0, f"LoadState=loaded\nActiveState={active}\nUnitFileState={enabled}\nNRestarts=0\nNeedDaemonReload=no\n", ""
        if verb in ("enable", "disable"):
            self.enabled = verb == "enable"
        elif verb in ("stop", "restart"):
            self.stop()
        if verb == "restart":
            environment = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}
            with self.log.open("ab") as log:
                self.process = subprocess.Popen([sys.executable, "-m", SERVICE, str(self.path)], stdout=log, stderr=log, env=environment)
        return 0, "", ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is None:
            return
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        left = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        self.process.send_signal(number)
        self.process.wait(30)
        # As systemd does with what a main process leaves behind.
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def wish(pair: Pair, tmp_path: Path) -> control.Wish:
    spool, path = config_file.paths("forward", tmp_path / "home", tmp_path / "etc")
    for folder in (tmp_path / "home", tmp_path / "etc"):
        folder.mkdir()
    config = Config("forward", pair.source, pair.target, f"{pair.dbname}_forward", "cutover", spool)
    return control.Wish(config, path, "cutover-stream@forward.service", tmp_path / "home", timeout=120)


@pytest.fixture
def systemd(pair: Pair, wish: control.Wish) -> Iterator[Systemd]:
    with slots_dropped(pair.source_server, pair.dbname):
        made = Systemd(wish.path)
        try:
            yield made
        finally:
            made.stop(signal.SIGKILL)


def test_from_the_first_start_to_nothing(pair: Pair, wish: control.Wish, systemd: Systemd) -> None:
    pair.on_both(*TABLES)
    pair.on_source(
        "INSERT INTO keyed SELECT g, 'old' FROM generate_series(1, 2000) g",
        "INSERT INTO loose SELECT g % 50, 'old' FROM generate_series(1, 200) g",
    )
    identity = "SELECT relreplident::text FROM pg_class WHERE relname = 'loose'"
    first = control.started(wish, systemd)
    assert first.changed and first.facts["state"] == "started" and first.facts["identities"] == ["public.loose: DEFAULT -> FULL"]
    assert first.facts["streamed"] == ["public.keyed", "public.loose"] and not first.facts["slot"]["exists"]
    assert wish.path.stat().st_mode & 0o777 == 0o600 and systemd.enabled
    assert "throw-away" not in "".join(first.before + first.after) and any("********" in line for line in first.after)
    wait_until(lambda: control.status(wish, systemd).facts["receiver"] == "waiting_for_slot", "the receiver", 60)
    with pytest.raises(TransferError) as caught:
        control.started(replace(wish, wait="spooling", timeout=1), systemd)
    assert caught.value.details["kind"] == "timeout" and "pg_row_copy with this slot makes it" in caught.value.remedy
    again = control.started(wish, systemd)
    assert not again.changed and again.before == again.after

    stop = threading.Event()

    def write() -> None:
        with pair.source_server.connect(pair.dbname) as conn:
            number = 10000
            while not stop.is_set():
                number += 1
                conn.execute(f"INSERT INTO keyed VALUES ({number}, 'new'); UPDATE keyed SET note = 'seen' WHERE id = {number - 8500}")
                conn.execute(f"INSERT INTO loose VALUES ({number}, 'new'); DELETE FROM loose WHERE id = {number - 10}")
                stop.wait(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copy(pair.source, pair.target, Selection(), workers=2, slot=wish.config.slot)
        shown: list[str] = []
        caught_up = control.started(replace(wish, wait="caught_up", tell=shown.append), systemd)
        last = waiting.parse(shown[-1])
        assert last is not None and last.lag_bytes is not None and last.lag_bytes <= 1024 * 1024
        assert waiting.lines([last])[0].endswith("(streaming)")
        assert not caught_up.changed and caught_up.facts["applier"] in ("applying", "idle")
        systemd.stop(signal.SIGKILL)
        assert control.status(wish, systemd).facts["state"] == "stopped"
        assert control.started(replace(wish, wait="caught_up"), systemd).changed
    finally:
        stop.set()
        writer.join()
    wait_until(lambda: pair.on_source(ROWS) == pair.on_target(ROWS), "both sides being equal", 60)
    wait_until(lambda: control.status(wish, systemd).facts["lag_seconds"] == 0, "no lag being told", 60)
    told = control.status(wish, systemd)
    assert not told.changed and told.facts["transactions"] > 10 and told.facts["problem"] is None and not told.facts["unseen"]
    assert told.facts["eta_seconds"] == 0 and told.facts["slot"]["active"] and not told.facts["drift"]
    pair.on_target("DELETE FROM keyed WHERE id = 7")
    mended = control.started(replace(wish, wait="caught_up", mend=("public.key*",)), systemd)
    assert mended.changed and [one["name"] for one in mended.facts["mended"]] == ["public.keyed"]
    assert pair.on_source(ROWS) == pair.on_target(ROWS)
    assert not control.started(replace(wish, mend=("public.key*",)), systemd).changed
    pair.on_source("CREATE TABLE born (id int PRIMARY KEY)")
    assert control.status(wish, systemd).facts["drift"] == {"new": ["public.born"]}

    stopped = control.stopped(wish, systemd)
    assert (
        stopped.changed and stopped.facts["state"] == "stopped" and any(f"for slot {wish.config.slot}" in text for text in stopped.warnings)
    )
    assert not control.stopped(wish, systemd).changed
    planned = control.absent(wish, systemd, check=True)
    assert planned.changed and pair.on_source("SELECT count(*) FROM pg_publication") == [(1,)] and wish.path.exists()
    gone = control.absent(wish, systemd)
    assert gone.changed and gone.before == planned.before and gone.after == planned.after
    assert not control.absent(wish, systemd).changed
    assert pair.on_source(identity) == [("d",)] and pair.on_source("SELECT to_regnamespace('cutover') IS NULL") == [(True,)]
    left = "SELECT (SELECT count(*) FROM pg_publication), (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}')"
    assert pair.on_source(left.format(wish.config.slot)) == [(0, 0)] and pair.on_target("SELECT count(*) FROM cutover.stream") == [(0,)]
    assert not wish.path.exists() and not wish.config.spool.exists() and not systemd.enabled
    assert control.status(wish, systemd).facts["state"] == "absent"


def test_what_stops_it_ends_the_wait_and_is_tried_again_when_mended(pair: Pair, wish: control.Wish, systemd: Systemd) -> None:
    pair.on_both(*TABLES[:1])
    pair.on_source("INSERT INTO keyed VALUES (1, 'a')")
    control.started(wish, systemd)
    copy(pair.source, pair.target, Selection(), workers=1, slot=wish.config.slot)
    control.started(replace(wish, wait="caught_up"), systemd)
    pair.on_target("DELETE FROM keyed")
    pair.on_source("UPDATE keyed SET note = 'b'")
    wait_until(lambda: (control.status(wish, systemd).facts["problem"] or {}).get("kind") == "conflict", "the conflict", 60)
    with pytest.raises(TransferError) as caught:
        control.started(replace(wish, wait="caught_up"), systemd)
    assert (
        caught.value.details["kind"] == "conflict" and "public.keyed" in caught.value.message and caught.value.details["key"] == {"id": "1"}
    )
    pair.on_target("INSERT INTO keyed VALUES (1, 'a')")
    mended = control.started(replace(wish, wait="caught_up"), systemd)
    assert mended.changed and mended.facts["problem"] is None and pair.on_target("SELECT * FROM keyed") == [(1, "b")]
    assert not control.started(wish, systemd).changed


def test_check_mode_touches_neither_server_nor_machine(pair: Pair, wish: control.Wish, systemd: Systemd) -> None:
    pair.on_both(*TABLES)
    marked = untouched.mark(pair)
    planned = control.started(wish, systemd, check=True)
    assert planned.changed and planned.facts["state"] == "absent" and planned.facts["streamed"] == ["public.keyed", "public.loose"]
    assert not control.absent(wish, systemd, check=True).changed and not control.stopped(wish, systemd, check=True).changed
    assert untouched.mark(pair) == marked and not wish.path.exists() and not systemd.running
    bare = replace(wish, home=wish.home / "nowhere", path=wish.home / "nowhere" / "stream-forward.json")
    assert any("role cutover.hetzner.change_stream" in text for text in control.started(bare, systemd, check=True).warnings)
    with pytest.raises(TransferError) as caught:
        control.started(bare, systemd)
    assert caught.value.details["kind"] == "not_installed"


def test_status_and_removal_while_a_server_is_away(pair: Pair, wish: control.Wish, systemd: Systemd) -> None:
    pair.on_both(*TABLES)
    control.started(wish, systemd)
    away = replace(wish, config=replace(wish.config, target=replace(wish.config.target, port=1)))
    told = control.status(away, systemd)
    assert (
        told.facts["state"] == "started"
        and told.facts["applied_lsn"] is None
        and told.facts["streamed"] == ["public.keyed", "public.loose"]
    )
    assert len(told.facts["unseen"]) == 1 and "the receiving database" in told.facts["unseen"][0]
    with pytest.raises(TransferError) as caught:
        control.absent(away, systemd)
    assert caught.value.details["kind"] == "unreachable" and "force" in caught.value.remedy and systemd.running
    gone = control.absent(replace(away, force=True), systemd)
    assert gone.changed and not systemd.running and any("receiving database could not be reached" in text for text in gone.warnings)
    assert pair.on_source("SELECT count(*) FROM pg_publication") == [(0,)]


def test_the_way_back_is_kept_while_the_target_is_in_service(pair: Pair, wish: control.Wish, systemd: Systemd) -> None:
    pair.on_both(*TABLES)
    spool, path = config_file.paths("reverse", wish.home, wish.path.parent)
    back = replace(wish, path=path, config=replace(wish.config, direction="reverse", slot=f"{pair.dbname}_reverse", spool=spool))
    systemd.path = path
    assert control.started(back, systemd).facts["streamed"] == ["public.keyed", "public.loose"]
    assert pair.on_target("SELECT pubname::text FROM pg_publication") == [("cutover",)] and pair.on_source(
        "SELECT count(*) FROM pg_publication"
    ) == [(0,)]
    with session.connect(pair.target, application_name="cutover test") as conn:
        if conn.execute("SELECT to_regnamespace('cutover') IS NULL").fetchone() == (True,):
            conn.execute("CREATE SCHEMA cutover")
        cutover_state.record(conn, cutover_state.CUT_OVER, "f", {})
    with pytest.raises(TransferError) as caught:
        control.absent(back, systemd)
    assert caught.value.details["kind"] == "needed" and systemd.running
    assert control.absent(replace(back, force=True), systemd).changed and pair.on_target("SELECT count(*) FROM pg_publication") == [(0,)]


@pytest.fixture(scope="module")
def poor() -> Iterator[Server]:
    """A server whose log carries too little."""
    with Fleet({"wal_level": "replica", "shared_buffers": "32MB"}) as fleet:
        yield own(fleet.start(poor=debian_programs())[0])


def test_what_a_stream_needs_is_asked_before_anything_is_made(pair: Pair, poor: Server, wish: control.Wish, systemd: Systemd) -> None:
    def refused(source: Any, kind: str) -> TransferError:
        with pytest.raises(TransferError) as caught:
            control.started(replace(wish, config=replace(wish.config, source=source)), systemd)
        assert caught.value.details["kind"] == kind and not systemd.running and not wish.path.exists()
        return caught.value

    pair.on_both(*TABLES)
    error = refused(poor.endpoint("postgres"), "wal_level")
    assert "ALTER SYSTEM SET wal_level" in error.remedy and "copy without a slot" in error.remedy
    pair.on_source("DROP ROLE IF EXISTS stream_plain", "CREATE ROLE stream_plain LOGIN PASSWORD 'throw-away'")
    assert "REPLICATION" in refused(pair.source_server.endpoint(pair.dbname, user="stream_plain"), "no_replication_right").remedy
    pair.on_source("DROP ROLE stream_plain")
    with bouncer(pair.source_server, "session") as pooler:
        refused(type(pair.source).from_args(pooler.args(pair.dbname)), "pooler")
    assert refused(replace(pair.source, sslrootcert="/root/ca.pem"), "unreadable").details["path"] == "/root/ca.pem"
    pair.on_source("CREATE PUBLICATION cutover FOR TABLE keyed")
    refused(pair.source, "publication_exists")


def test_the_module_says_all_of_it_and_no_secret(pair: Pair, tmp_path: Path) -> None:
    pair.on_both(*TABLES)
    given = {
        "source": pair.source_server.args(pair.dbname),
        "target": pair.target_server.args(pair.dbname),
        "home": str(tmp_path / "home"),
        "config_dir": str(tmp_path),
        "slot": f"{pair.dbname}_forward",
        "unit": "no-such-stream.service",
    }
    status = run_module("pg_change_stream", {**given, "state": "status"}, tmp_path)
    planned = run_module("pg_change_stream", given, tmp_path, "--check", "--diff")
    for result in (status, planned):
        assert "throw-away" not in json.dumps(result)
    assert status["state"] == "absent" and not status["changed"] and status["slot"]["exists"] is False
    assert planned["changed"] and "publication cutover: public.keyed, public.loose" in planned["diff"]["after"]
    rest = run_module("pg_change_stream", {**given, "source": {"rest": {"url": "https://x.example", "key": "k" * 20}}}, tmp_path)
    assert rest["failed"] and rest["details"]["kind"] == "rest"
