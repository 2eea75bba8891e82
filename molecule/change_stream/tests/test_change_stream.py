"""What became of a stream that was killed, rebooted, stopped and removed, and what the role leaves on a machine."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

SECRET = "correct-horse-of-the-mover"
UNIT = "/etc/systemd/system/cutover-stream@.service"


@pytest.fixture
def findings(host: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file("/root/findings.json").content_string)
    return found


def sql(host: Any, port: int, statement: str) -> str:
    text: str = host.check_output(f'runuser -u postgres -- psql -XAtq -p {port} -c "{statement}" app').strip()
    return text


def test_every_process_was_killed_and_nothing_was_lost(findings: dict[str, Any]) -> None:
    assert findings["killed"] >= 6
    for moment in ("caught", "recovered", "rebooted"):
        assert findings[moment]["applier"] in ("applying", "idle") and findings[moment]["receiver"] == "streaming", moment
        assert findings[moment]["lag_bytes"] <= 1024 * 1024 and findings[moment]["problem"] is None, moment
    assert findings["caught"]["changes"] < findings["recovered"]["changes"] <= findings["rebooted"]["changes"]
    assert findings["verified"]["equal"] and {table["name"] for table in findings["verified"]["tables"]} >= {"public.keyed", "public.loose"}


def test_rows_are_the_same_on_both_sides(host: Any) -> None:
    rows = " UNION ALL ".join(f"SELECT '{table}', id, note FROM {table}" for table in ("keyed", "loose", "parted"))
    query = f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)), count(*) FROM ({rows}) t"
    old, new = sql(host, 5432, query), sql(host, 5433, query)
    assert old == new and int(old.split("|")[1]) > 21000
    assert sql(host, 5433, "SELECT count(*) > 100 FROM loose WHERE note LIKE 'seen %'") == "t"


def test_status_tells_and_changes_nothing(findings: dict[str, Any]) -> None:
    status = findings["status"]
    assert not status["changed"] and status["state"] == "started" and status["slot"]["active"] and status["lag_seconds"] == 0
    assert status["transactions"] > 100 and status["unit"]["enabled"] and not status["unseen"] and not status["drift"]


def test_status_works_while_a_server_is_away(findings: dict[str, Any]) -> None:
    blind = findings["blind"]
    assert blind["slot"] is None and blind["applied_lsn"] and blind["transactions"] > 100
    assert len(blind["unseen"]) == 1 and "the sending database" in blind["unseen"][0]


def test_stopping_tells_what_the_old_server_keeps(findings: dict[str, Any]) -> None:
    assert findings["stopped"]["changed"] and findings["stopped"]["state"] == "stopped"
    assert any("of its log for slot cutover_forward" in text for text in findings["stopped"]["warnings"])


def test_removed_means_gone(host: Any, findings: dict[str, Any]) -> None:
    assert findings["removed"]["changed"] and not findings["removed_again"]["changed"]
    assert sql(host, 5432, "SELECT count(*) FROM pg_replication_slots") == "0"
    assert sql(host, 5432, "SELECT count(*) FROM pg_publication") == "0"
    assert sql(host, 5432, "SELECT relreplident FROM pg_class WHERE relname = 'loose'") == "d"
    assert sql(host, 5432, "SELECT to_regnamespace('cutover') IS NULL") == "t"
    assert sql(host, 5433, "SELECT count(*) FROM cutover.stream") == "0"
    assert not host.file("/etc/cutover/stream-forward.json").exists and not host.file("/var/lib/cutover-stream/forward").exists
    assert not host.service("cutover-stream@forward").is_running and not host.service("cutover-stream@forward").is_enabled


def test_no_password_is_in_the_logs_or_on_a_command_line(host: Any, findings: dict[str, Any]) -> None:
    processes, with_password = map(int, findings["arguments"])
    assert processes >= 3 and with_password == 0
    assert host.run(f"journalctl --no-pager -a -u 'cutover-stream@*' | grep -q {SECRET[:-1]}[{SECRET[-1]}]").rc == 1


def test_folders_are_closed(host: Any) -> None:
    home, configs = host.file("/var/lib/cutover-stream"), host.file("/etc/cutover")
    assert (home.user, home.mode) == ("cutover-stream", 0o700)
    assert (configs.user, configs.group, configs.mode) == ("root", "cutover-stream", 0o750)
    assert host.user("cutover-stream").shell == "/usr/sbin/nologin"


def test_one_version_of_the_engine_is_there_and_named_by_the_unit(host: Any) -> None:
    versions = host.check_output("ls -A /opt/cutover/engine").split()
    assert len(versions) == 1 and re.fullmatch("[0-9a-f]{16}", versions[0])
    assert f"PYTHONPATH=/opt/cutover/engine/{versions[0]} " in host.file(UNIT).content_string
    assert (
        host.run(
            f"cd / && PYTHONPATH=/opt/cutover/engine/{versions[0]} /opt/cutover/bin/python -B -c 'import cutover_transfer.stream.applier'"
        ).rc
        == 0
    )


def test_the_sandbox_is_tight(host: Any) -> None:
    level = float(re.search(r"level for \S+: ([\d.]+)", host.check_output("systemd-analyze security --no-pager cutover-stream@forward"))[1])
    assert level <= 2.0
