"""The two modules as Ansible runs them: arguments, results, check mode, failures and the progress file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from integration.conftest import Pair

ROOT = Path(__file__).parents[3]


def run(module: str, arguments: dict[str, Any], tmp_path: Path, *flags: str) -> dict[str, Any]:
    """Result of one module on this machine; the arguments travel in a file, as secrets must."""
    playbook = tmp_path / "play.yml"
    result = tmp_path / "result.json"
    task = {f"cutover.hetzner.{module}": arguments, "register": "_done"}
    save = {"ansible.builtin.copy": {"content": "{{ _done | to_json }}", "dest": str(result), "mode": "0600"}, "check_mode": False}
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": sys.executable},
        "tasks": [{"block": [task], "rescue": [save], "always": [save]}],
    }
    playbook.write_text(json.dumps([play]))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", *flags, str(playbook)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "throw-away" not in done.stdout + done.stderr
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def arguments(pair: Pair) -> dict[str, Any]:
    return {"source": pair.source_server.args(pair.dbname), "target": pair.target_server.args(pair.dbname)}


def test_copy_then_verify_then_again(pair: Pair, tmp_path: Path) -> None:
    pair.on_both("CREATE TABLE a (id int PRIMARY KEY, b text)")
    pair.on_source("INSERT INTO a SELECT g, 'x' FROM generate_series(1, 1000) g")
    given = {**arguments(pair), "workers": 2, "progress_path": str(tmp_path / "progress.json")}
    planned = run("pg_row_copy", given, tmp_path, "--check", "--diff")
    assert planned["changed"] and planned["diff"]["after"] == "public.a -> public.a\n" and not (tmp_path / "progress.json").exists()
    assert pair.on_target("SELECT to_regnamespace('cutover') IS NULL, (SELECT count(*) FROM a)") == [(True, 0)]
    first = run("pg_row_copy", given, tmp_path)
    assert first["changed"] and first["rows"] == 1000 and first["consistent"] and first["snapshot_lsn"]
    assert json.loads((tmp_path / "progress.json").read_text())["rows"] == 1000
    assert not run("pg_row_copy", given, tmp_path)["changed"]
    proof = run("pg_row_verify", arguments(pair), tmp_path)
    assert proof["equal"] and not proof["changed"] and proof["tables"][0]["checksum"] == proof["tables"][0]["target_checksum"]


def test_difference_fails_with_names_and_can_be_taken_as_a_result(pair: Pair, tmp_path: Path) -> None:
    pair.on_both("CREATE TABLE a (id int PRIMARY KEY, b text)", "INSERT INTO a VALUES (1, 'x'), (2, 'y')")
    pair.on_target("UPDATE a SET b = 'z' WHERE id = 2")
    failed = run("pg_row_verify", arguments(pair), tmp_path)
    assert failed["failed"] and "public.a (0 missing, 0 extra, 1 changed)" in failed["msg"]
    assert failed["tables"][0]["changed"] == [{"key": {"id": "2"}, "columns": ["b"]}]
    taken = run("pg_row_verify", {**arguments(pair), "fail_on_difference": False}, tmp_path)
    assert not taken.get("failed") and not taken["equal"]


def test_failures_name_object_and_remedy(pair: Pair, tmp_path: Path) -> None:
    pair.on_both("CREATE TABLE a (id int)")
    pair.on_target("INSERT INTO a VALUES (1)")
    filled = run("pg_row_copy", arguments(pair), tmp_path)
    assert filled["failed"] and "public.a (about" in filled["problem"] and "TRUNCATE" in filled["remedy"]
    wrong = arguments(pair)
    wrong["source"]["password"] = "not-it"
    refused = run("pg_row_copy", wrong, tmp_path)
    assert refused["failed"] and "refuses the password" in refused["problem"] and refused["details"]["kind"] == "wrong_password"


def test_dirty_mode_reads_its_keys_from_the_target(pair: Pair, tmp_path: Path) -> None:
    pair.on_both("CREATE TABLE a (id int PRIMARY KEY, b text)")
    pair.on_source("INSERT INTO a VALUES (1, 'x'), (2, 'y')")
    run("pg_row_copy", arguments(pair), tmp_path)
    pair.on_target("UPDATE a SET b = 'z'", "INSERT INTO cutover.dirty VALUES ('public', 'a', '{2}')")
    found = run("pg_row_verify", {**arguments(pair), "mode": "dirty", "fail_on_difference": False}, tmp_path)
    assert [one["key"] for one in found["tables"][0]["changed"]] == [{"id": "2"}]
