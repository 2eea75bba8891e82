"""Phase 0's own tasks: the room on the database servers is measured there, and reaches the preflight on the mover."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from integration.conftest import Pair

ROOT = Path(__file__).parents[2]
PLAYS: list[dict[str, Any]] = yaml.safe_load((ROOT / "playbooks/phase0_database.yml").read_text())
MIB = 1024**2


def of_phase0(play: str) -> dict[str, Any]:
    return next(one for one in PLAYS if one["name"] == play)


def book(answer: Path) -> list[dict[str, Any]]:
    """The measuring and the preflight as phase 0 has them; what the preflight said goes into a file."""
    bring = of_phase0("Bring schema and rows over")
    examine = next(task for task in bring["tasks"] if "cutover.hetzner.pg_preflight" in task)
    note = {"ansible.builtin.copy": {"content": "{{ _preflight | to_json }}", "dest": str(answer), "mode": "0600"}}
    measure = of_phase0("Build the database cluster")["tasks"]
    return [
        {"hosts": "database", "tasks": measure},
        {"hosts": "mover", "gather_facts": False, "module_defaults": bring["module_defaults"], "tasks": [examine, note]},
    ]


def examined(pair: Pair, folder: Path, places: dict[str, Path], **declared: Any) -> tuple[dict[str, Any] | None, str]:
    """(what the preflight found, None when it stopped the play; all that was said)."""
    answer = folder / "answer.json"
    (folder / "book.yml").write_text(yaml.safe_dump(book(answer), sort_keys=False))
    (folder / "hosts.yml").write_text(
        yaml.safe_dump({"all": {"children": {"database": {"hosts": {name: {} for name in places}}, "mover": {"hosts": {"mover": {}}}}}})
    )
    database = {"source": pair.source_server.args(pair.dbname), "target": pair.target_server.args(pair.dbname), **declared}
    extra = {
        "migration": {"database": database, "artifacts": str(folder)},
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "__postgres_patroni_data": "{{ " + json.dumps({name: str(path) for name, path in places.items()}) + "[inventory_hostname] }}",
    }
    (folder / "extra.json").write_text(json.dumps(extra))
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            "-i",
            folder / "hosts.yml",
            folder / "book.yml",
            "-e",
            f"@{folder / 'extra.json'}",
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(folder / "home")},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode in (0, 2), said
    return (json.loads(answer.read_text()) if done.returncode == 0 else None), said


def free(place: Path) -> float:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize / MIB


@pytest.fixture
def small(tmp_path: Path) -> Any:
    """A file system of 48 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], check=True, timeout=30)
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=30)


def test_the_smallest_room_of_the_database_servers_is_what_the_preflight_judges(
    pair: Pair, tmp_path: Path, small: Path, clients: Path
) -> None:
    pair.on_both("CREATE TABLE t (id int PRIMARY KEY, b text)")
    roomy = {"db1": tmp_path, "db2": tmp_path}
    report, said = examined(pair, tmp_path, roomy, bin_dir=str(clients))
    assert report is not None, said
    (disk,) = [finding for finding in report["findings"] if finding["rule"] == "disk"]
    found = re.search(r"(\d+) MiB are free", disk["problem"])
    assert found is not None and abs(int(found.group(1)) - free(tmp_path)) < max(64, free(tmp_path) / 10) and disk["severity"] == "info"
    pair.on_source("INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 60000) g")
    report, said = examined(pair, tmp_path, {"db1": tmp_path, "db2": small})
    assert report is None and "48 MiB are free" in said and "Enlarge the target's volume by" in said
    report, said = examined(pair, tmp_path, {"db1": tmp_path, "db2": small}, target_free_bytes=10_000 * MIB)
    assert report is not None and "10000 MiB are free" in str(report["findings"]), said


def test_programs_are_looked_for_where_the_declaration_says(pair: Pair, tmp_path: Path) -> None:
    pair.on_both("CREATE TABLE t (id int PRIMARY KEY, b text)")
    report, said = examined(pair, tmp_path, {"db1": tmp_path}, bin_dir=str(tmp_path))
    assert report is None and re.search(rf"no pg_dump and pg_restore in\s+{re.escape(str(tmp_path))}", said), said
