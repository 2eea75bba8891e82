"""The whole move, judged by its own report and by its clients: there, again, back, and gone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from e2e.conftest import ask_old, servers
from e2e.demo import ROOT, Demo, clear, clients, judge, verdict


def changed(said: str) -> dict[str, int]:
    """Host to number of changes, from a playbook's recap."""
    return {host: int(count) for host, count in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", said, re.MULTILINE)}


def record(demo: Demo) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((demo.artifacts / "report.json").read_text())
    return report


def test_move(demo: Demo) -> None:
    with clients(demo) as log:
        demo.playbook("migrate", "playbooks/migrate.yml")
        time.sleep(10)
    report = judge(demo, log)
    assert verdict(report) == []
    assert [(p["name"], p["result"]) for p in report["phases"]] == [
        (name, "ok") for name in ("phase0_database", "phase1_prepare", "phase2_setup", "phase3_deploy", "phase4_validate", "phase5_cutover")
    ]
    assert [(g["name"], g["decision"], g["failed"]) for g in report["gates"]] == [("before_cutover", "go", [])]
    assert report["provision"]["servers"] == 2 and report["provision"]["cost_monthly"] > 0
    assert report["method"] == "change_stream" and report["verification"]["mode"] == "dirty"
    assert report["cutover"]["afterwards"]["equal"] and report["cutover"]["way_back"]["slot"] == "cutover_reverse"
    client = report["client"]
    assert client["failed_reads"] == 0, client["failed_read_examples"]
    assert client["altered"] == 0 and client["unacknowledged"] == 0
    assert len(client["addresses"]) == 2, "clients did not move"
    # What the databases and the client measured apart must agree: no client writes while both are closed.
    assert 0 < report["cutover"]["database_write_stop_seconds"] < report["write_stop_seconds"]
    assert client["longest_write_gap_seconds"] >= report["cutover"]["database_write_stop_seconds"]
    assert report["tables"]["rows"] > 600_000
    assert {t["name"] for t in report["critical_tables"]} == {"public.whatsapp_auth", "public.whatsapp_keys"}
    page = (demo.artifacts / "report.html").read_text()
    assert "cut over" in page
    assert servers(demo) == ["app1", "db1", "old"]


def test_no_secret_is_written_down(demo: Demo) -> None:
    secrets = [file.read_text().strip() for file in (demo.cache / "secrets").iterdir()] + [(demo.cache / "token").read_text()]
    assert len(secrets) >= 9
    for file in demo.artifacts.rglob("*"):
        if file.is_file() and file.parent.name != "private":
            text = file.read_text(errors="replace")
            found = [secret[:3] + "…" for secret in secrets if secret in text]
            assert not found, f"{file} holds secrets that begin with {found}"


def test_a_second_run_changes_nothing(demo: Demo) -> None:
    said = demo.playbook("migrate-again", "playbooks/migrate.yml")
    assert {host: count for host, count in changed(said).items() if host != "localhost"} == {"app1": 0, "db1": 0, "mover-db1": 0}
    assert record(demo)["result"] == "cut_over"


def test_a_phase_from_the_installed_archive(demo: Demo) -> None:
    """Away from the checkout's ansible.cfg, and with nothing but the archive on the collection path."""
    subprocess.run(["bash", "tests/tools/build.sh"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    built = ROOT / ".cache/build"
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "cutover.hetzner.phase2_setup", "-i", str(ROOT / "inventories/demo")]
    keep = {k: v for k, v in os.environ.items() if k not in ("ANSIBLE_CONFIG", "PYTHONPATH")}
    env = {**keep, "CUTOVER_DEMO": demo.name, "ANSIBLE_COLLECTIONS_PATH": str(built / "installed")}
    done = subprocess.run(argv, cwd=built, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert {host: count for host, count in changed(done.stdout).items() if host != "localhost"} == {"app1": 0}


def test_check_mode_on_the_finished_hosts(demo: Demo) -> None:
    said = demo.playbook("migrate-check", "playbooks/migrate.yml", "--check", "--diff")
    assert {host: count for host, count in changed(said).items() if host != "localhost"} == {"app1": 0, "db1": 0, "mover-db1": 0}


def test_back_without_losing_a_write(demo: Demo) -> None:
    with clients(demo) as log:
        time.sleep(8)
        demo.playbook("rollback", "playbooks/rollback.yml")
        time.sleep(8)
    report = judge(demo, log, judge_host="old", judge_dbname="postgres")
    client = report["client"]
    assert (report["result"], report["method"], report["verification"]["mode"]) == ("rolled_back", "change_stream", "dirty")
    assert (client["lost"], client["doubled"], client["altered"], client["unacknowledged"]) == (0, 0, 0, 0)
    assert client["acknowledged"] > 100 and len(client["addresses"]) == 2
    assert client["failed_reads"] == 0, client["failed_read_examples"]
    assert report["tables"]["verified"] == report["tables"]["count"] > 0


def test_finalize_removes_everything_and_foreign_rows_are_refused(demo: Demo) -> None:
    refused = demo.playbook("finalize-unasked", "playbooks/finalize.yml", check=False)
    assert "finalize_confirm=demo" in re.sub(r"\s+", " ", refused)
    demo.playbook("finalize", "playbooks/finalize.yml", "-e", "finalize_confirm=demo", "-e", "finalize_force=true")
    assert ask_old(demo, "select count(*) from pg_namespace where nspname = 'cutover'") == "0"
    assert ask_old(demo, "select count(*) from pg_trigger where tgname like '%cutover%'") == "0"
    assert ask_old(demo, "select count(*) from pg_replication_slots") == "0"
    assert ask_old(demo, "select count(*) from pg_publication where pubname = 'cutover'") == "0"
    # The target's rows are now nobody's: a new move must not mix its rows with them.
    said = re.sub(r"\s+", " ", demo.playbook("foreign-rows", "playbooks/phase0_database.yml", check=False))
    assert "failed=1" in said and "holds" in said and re.search(r"(public|flights|auth)\.\w+", said)


def test_nothing_is_left(demo: Demo) -> None:
    clear(demo)
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    mounts = subprocess.run(["findmnt", "-rno", "TARGET"], capture_output=True, text=True, check=True).stdout
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    assert "e2e" not in links + mounts + tables
    assert "10.93.12.0/24" not in routes
    assert not (ROOT / ".cache" / demo.name).exists()
