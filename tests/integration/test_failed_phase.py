"""A playbook that fails in a phase leaves a report that says so; one that goes well afterwards takes it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  module_defaults:
    cutover.hetzner.journal: {path: "{{ folder }}", phase: phase0_database}
  tasks:
    - name: Open the record
      cutover.hetzner.journal: {state: opened, name: demo}
    - name: Begin
      cutover.hetzner.journal: {what: phase, name: phase0_database, result: started}

- hosts: one:two
  connection: local
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - name: Something that is mended
      block:
        - name: A failure that does not count
          ansible.builtin.fail: {msg: rescued}
      rescue:
        - name: Mend it
          ansible.builtin.debug: {msg: mended}
    - name: A failure that is ignored
      ansible.builtin.fail: {msg: ignored}
      ignore_errors: true
    - name: Copy the rows
      ansible.builtin.fail: {msg: "cannot reach postgresql://mover:hunter2@db/app"}
      when: broken | bool and inventory_hostname == 'two' and not hidden | bool
    - name: Set the keys
      ansible.builtin.fail: {msg: hunter2}
      no_log: true
      when: broken | bool and inventory_hostname == 'two'

- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: End
      cutover.hetzner.journal: {path: "{{ folder }}", what: phase, name: phase0_database}
    - name: Write the report
      cutover.hetzner.journal: {path: "{{ folder }}", state: rendered}
"""


def play(folder: Path, *arguments: str) -> int:
    book = folder / "play.yml"
    book.write_text(PLAYBOOK)
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,one,two", book),
            *("-e", f"folder={folder}", "-e", f"ansible_python_interpreter={sys.executable}", *arguments),
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(folder / "home")},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "[WARNING]: Failure using method" not in done.stderr, done.stderr
    return done.returncode


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("hidden", [False, True])
def test_a_failed_play_leaves_a_report_that_names_task_host_and_reason(tmp_path: Path, hidden: bool) -> None:
    assert play(tmp_path, "-e", "broken=true", "-e", f"hidden={hidden}") != 0
    data = report(tmp_path)
    assert data["result"] == "failed"
    assert [(phase["name"], phase["result"]) for phase in data["phases"]] == [("phase0_database", "failed")]
    failure = data["phases"][0]["failure"]
    if hidden:
        assert failure == {"task": "Set the keys", "host": "two", "message": "the task hides its result (no_log)"}
    else:
        assert failure == {"task": "Copy the rows", "host": "two", "message": "cannot reach postgresql://mover:***@db/app"}
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.suffix in (".json", ".jsonl", ".html"))
    assert "hunter2" not in written and "two" in written


def test_a_rerun_that_goes_well_takes_it_back(tmp_path: Path) -> None:
    assert play(tmp_path, "-e", "broken=true", "-e", "hidden=false") != 0
    assert report(tmp_path)["result"] == "failed"
    assert play(tmp_path, "-e", "broken=false", "-e", "hidden=false") == 0
    data = report(tmp_path)
    assert data["result"] == "running" and data["phases"][0]["result"] == "ok" and data["phases"][0]["failure"] is None


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    assert play(tmp_path, "-e", "broken=true", "-e", "hidden=false", "--check") != 0
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".json", ".jsonl", ".html")]
