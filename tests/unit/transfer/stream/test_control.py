"""What is said of a stream from what was seen, what is written for its service, and what the service could read: without a server."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Rename
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.slots import Health
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream import (
    config_file,
    metrics,
    prerequisites,
    sight,
    unit,
    waiting,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.config import Config
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.sight import Seen
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.stream.state import Stream

SECRET = "not-for-any-eye"
RUNNING = unit.Unit("u", loaded=True, active=True, enabled=True, state="active")
CONFIG = Config(
    direction="forward",
    source=Endpoint(dsn=f"postgresql://mover:{SECRET}@old/app"),
    target=Endpoint(host="new", dbname="app", user="mover", password=SECRET, port=5433, sslmode="verify-full", sslrootcert="system"),
    slot="cutover_forward",
    publication="cutover",
    spool=Path("/var/lib/cutover-stream/forward"),
    exclude=("public.scratch",),
    rename=Rename(tables={"public.a": "b"}),
    flavour="supabase",
    metrics_port=9187,
)


def stream(applied: int, problem: dict[str, Any] | None = None) -> Stream:
    return Stream(
        "forward",
        "s",
        "cutover_forward",
        "cutover",
        0,
        applied,
        None,
        None,
        5,
        50,
        None,
        None,
        None,
        None,
        None,
        False,
        None,
        None,
        problem,
        {},
    )


def seen(unit_state: unit.Unit = RUNNING, row: Stream | None = None, applier: dict[str, Any] | None = None, **more: Any) -> Seen:
    now = time.time()
    place = dict.fromkeys(("spooled_lsn", "commit_lsn", "sender_lsn"), "0/64")
    receiver = {"state": "streaming", "updated": now, "problem": None, **place}
    view = metrics.View("forward", "cutover_forward", now, receiver, applier or {"state": "idle", "updated": now}, row or stream(100))
    return replace(Seen(unit_state, view), **more)


DOWN = unit.Unit("u", loaded=True, state="inactive")


def without_row(found: Seen) -> Seen:
    return replace(found, view=replace(found.view, stream=None))


def test_state() -> None:
    assert seen().state == "started" and seen().working and seen().spooling and seen().problem is None and not seen().stuck()
    assert seen(DOWN).state == "stopped" and not seen(DOWN).working and not seen(DOWN).spooling
    nothing = without_row(seen(DOWN))
    assert (
        nothing.state == "absent"
        and replace(nothing, configured=True).state == "stopped"
        and replace(nothing, published=True).state == "stopped"
    )
    assert replace(nothing, slot=Health("s", True)).state == "stopped" and replace(nothing, slot=Health("s", False)).state == "absent"
    silent = seen(applier={"state": "applying", "updated": time.time() - 60})
    assert not silent.working and silent.applier == "stopped"


def test_problem() -> None:
    trouble = {"kind": "conflict", "message": "m"}
    # What the database remembers counts until it is applied again.
    assert seen(DOWN, stream(1, trouble)).problem == trouble and seen(RUNNING, stream(1, trouble)).problem is None
    failed = seen(applier={"state": "failed", "updated": time.time(), "problem": trouble})
    assert failed.problem == trouble and failed.stuck() and not failed.stuck(time.time() + 1)


def test_it_follows_when_it_has_got_past_what_stopped_it() -> None:
    assert seen().following() and seen().arriving()
    # It says idle when it begins, before it has come to the change that it could not apply.
    stopped = seen(RUNNING, stream(1, {"kind": "conflict", "message": "m"}))
    assert stopped.working and stopped.arriving() and not stopped.following()
    # What is said from before a restart is about an earlier life.
    assert not seen().following(time.time() + 1) and not seen().arriving(time.time() + 1)
    assert not without_row(seen()).following() and not seen(DOWN).following()


def test_result_is_plain_and_complete() -> None:
    told = sight.plain(replace(seen(), slot=Health("s", True, active_pid=7, retained_bytes=5)))
    assert told["health"] == "streaming" and told["lag_bytes"] == 0 and told["lag_seconds"] == 0 and told["eta_seconds"] == 0
    assert told["slot"]["active"] and told["slot"]["retained_bytes"] == 5 and json.loads(json.dumps(told)) == told
    down = sight.plain(without_row(seen(DOWN)))
    assert down["health"] == down["state"] == "absent" and down["slot"] is None and down["transactions"] == 0


def test_the_file_says_the_same_and_is_shown_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "stream-forward.json"
    owner = os.geteuid(), os.getegid()
    renewed, before, after = config_file.write(path, CONFIG, owner, check=True)
    assert renewed and before == ["configuration: none"] and not path.exists() and SECRET not in "".join(after)
    assert config_file.write(path, CONFIG, owner, check=False)[0]
    assert path.stat().st_mode & 0o777 == 0o600 and Config.load(path) == CONFIG and [one.name for one in tmp_path.iterdir()] == [path.name]
    assert not config_file.write(path, CONFIG, owner, check=False)[0]
    path.chmod(0o640)
    assert config_file.write(path, CONFIG, owner, check=False)[0] and path.stat().st_mode & 0o777 == 0o600
    other = replace(CONFIG, target=replace(CONFIG.target, password="another-one"))
    renewed, before, after = config_file.write(path, other, owner, check=False)
    assert renewed and before != after and "another-one" not in "".join(after) and SECRET not in "".join(before)
    path.write_text("{")
    assert config_file.write(path, CONFIG, owner, check=False)[1] == ["configuration: no JSON"]
    assert json.loads(path.read_text())["source"]["dsn"].startswith("postgresql://")


def test_files_that_the_service_cannot_read_are_refused(tmp_path: Path) -> None:
    certificate = Path("/etc/hostname")
    prerequisites.readable(replace(CONFIG.target, sslrootcert=str(certificate)), 12345, frozenset())
    prerequisites.readable(CONFIG.target, 12345, frozenset())
    for path, reason in (
        ("/etc/shadow", "mode of /etc/shadow"),
        ("/root/ca.pem", "sandbox"),
        ("/etc/no-such.pem", "No such file"),
        (str(tmp_path), ""),
    ):
        with pytest.raises(TransferError) as caught:
            prerequisites.readable(replace(CONFIG.target, sslrootcert=path), 12345, frozenset())
        assert caught.value.details["kind"] == "unreadable" and reason in caught.value.message
    shadow = Path("/etc/shadow").stat()
    prerequisites.readable(replace(CONFIG.target, sslrootcert="/etc/shadow"), shadow.st_uid, frozenset())


def test_a_source_without_a_log_is_refused_with_the_other_way() -> None:
    rest = Endpoint.from_args({"rest": {"url": "https://x.example", "key": "k"}})
    with pytest.raises(TransferError) as caught:
        prerequisites.refuse_rest(rest)
    assert caught.value.details["kind"] == "rest" and "while the source is frozen" in caught.value.remedy


class Systemctl:
    """Answers as systemctl does, for one unit."""

    def __init__(self, **shown: str) -> None:
        self.shown, self.refuses = shown, ""
        self.asked: list[list[str]] = []

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[1] == "show":
            return 0, "".join(f"{name}={value}\n" for name, value in self.shown.items()), ""
        self.asked.append(command[2:])
        return (1, "", "Job failed.") if command[2] == self.refuses else (0, "", "")


def test_units() -> None:
    run = Systemctl(LoadState="loaded", ActiveState="inactive", UnitFileState="disabled", NRestarts="0", NeedDaemonReload="yes")
    found = unit.look(run, "u")
    unit.need(found)
    assert unit.bring_up(run, found, restart=False) and run.asked == [["daemon-reload"], ["enable", "u"], ["restart", "u"]]
    running = Systemctl(LoadState="loaded", ActiveState="active", UnitFileState="enabled", NRestarts="3", NeedDaemonReload="no")
    found = unit.look(running, "u")
    assert found.restarts == 3 and not unit.bring_up(running, found, restart=False) and not running.asked
    assert unit.bring_down(running, found, disable=True) and running.asked == [["stop", "u"], ["disable", "u"]]
    broken = Systemctl(LoadState="loaded", ActiveState="failed", UnitFileState="enabled", NRestarts="", NeedDaemonReload="no")
    broken.refuses = "restart"
    with pytest.raises(TransferError) as caught:
        unit.bring_up(broken, unit.look(broken, "u"), restart=False)
    assert caught.value.details["kind"] == "unit" and "Job failed" in caught.value.message and "journalctl --unit u" in caught.value.remedy
    with pytest.raises(TransferError) as caught:
        unit.need(unit.look(Systemctl(LoadState="not-found", ActiveState="inactive"), "u"))
    assert caught.value.details["kind"] == "not_installed" and "role" in caught.value.remedy
    with pytest.raises(TransferError) as caught:
        unit.look(lambda command: (127, "", "No such file"), "u")
    assert caught.value.details["kind"] == "no_systemd"


def test_what_is_shown_while_waiting() -> None:
    first = waiting.of(sight.plain(without_row(seen(DOWN))))
    assert waiting.lines([]) == [] and waiting.lines([first]) == ["receiver stopped, applier stopped"]
    later = replace(first, lag_bytes=30 * 1024**2, rate=5e6, write_rate=1e6, eta_seconds=8.0, changes=12345, health="streaming")
    assert waiting.lines([first, later]) == [
        "30.0 MiB behind, 12,345 changes applied, 5.0 MB/s applied, 1.0 MB/s written, 8 s left (streaming)"
    ]
    assert "not catching up" in waiting.lines([replace(later, eta_seconds=None)])[0]
    assert waiting.lines([replace(first, applier="waiting_for_copy", detail="rows of public.a")])[0].endswith("(rows of public.a)")
    assert waiting.parse(waiting.as_text(later)) == later and waiting.parse("") is None and waiting.parse('{"health": 1}') is None
