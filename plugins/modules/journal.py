#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The record of a move and the report from it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: journal
short_description: Append-only record of a move, and the report made from it
version_added: 0.1.0
description:
  - Every phase, probe, gate and step of a move becomes one JSON line.
  - C(report.json) and C(report.html) are made from these lines alone, so the report holds no number that was not measured.
  - Runs on the controller (C(delegate_to=localhost)).
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
  idempotent:
    support: partial
    details: An open run stays open and an unchanged report stays unchanged; every note is a new line.
options:
  path:
    description: Folder of the journal. Holds C(journal.jsonl), C(report.json) and C(report.html).
    type: path
    required: true
  state:
    description:
      - V(opened) begins a run, or continues the one that is open.
      - V(noted) adds one line.
      - V(closed) adds the run's result.
      - V(rendered) writes the report.
    type: str
    choices: [opened, noted, closed, rendered]
    default: noted
  what:
    description: What the line is about.
    type: str
    choices: [phase, task, probe, gate, step, figures, decision]
    default: step
  name:
    description: Name of the run, phase, probe, gate, step or group of figures.
    type: str
  phase:
    description: Phase that the line belongs to.
    type: str
    default: ""
  host:
    description: Host that it was measured on.
    type: str
    default: ""
  result:
    description: How it ended. With O(state=closed) the result of the run.
    type: str
    default: ok
  seconds:
    description: How long it took.
    type: float
  figures:
    description: Measured values.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Begin the record
  cutover.hetzner.journal:
    path: artifacts/demo
    state: opened
    name: demo
  delegate_to: localhost

- name: Note the latency
  cutover.hetzner.journal:
    path: artifacts/demo
    what: probe
    name: database
    phase: phase4_validate
    figures: {p95_ms: "{{ latency.p95_ms }}"}
  delegate_to: localhost

- name: Write the report
  cutover.hetzner.journal:
    path: artifacts/demo
    state: rendered
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The journal's file.
  returned: always
  type: str
report:
  description: The report as data, with O(state=rendered).
  returned: when rendered
  type: dict
report_html:
  description: Path of the report for people.
  returned: when rendered
  type: str
report_json:
  description: Path of the report for programs.
  returned: when rendered
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cutover.hetzner.plugins.module_utils._ansible import fail
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import journal, report, report_files
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError


def _render(folder: Path, events: list[journal.Event], check: bool) -> dict[str, object]:
    if not events and not check:
        raise OperationsError(f"there is no journal in {folder}", "Run a phase first, or give the folder that migration.artifacts names.")
    data, changed = (report.summarise(journal.current_run(events)), False) if check else report_files.write(folder, events)
    return {"changed": changed, "report": data, "report_json": str(folder / "report.json"), "report_html": str(folder / "report.html")}


def main() -> None:
    """Open, note, close or render."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["opened", "noted", "closed", "rendered"], "default": "noted"},
            "what": {"type": "str", "choices": [k for k in journal.KINDS if k != "run"], "default": "step"},
            "name": {"type": "str"},
            "phase": {"type": "str", "default": ""},
            "host": {"type": "str", "default": ""},
            "result": {"type": "str", "default": "ok"},
            "seconds": {"type": "float"},
            "figures": {"type": "dict", "default": {}},
        },
        required_if=[("state", "opened", ["name"]), ("state", "noted", ["name"])],
        supports_check_mode=True,
    )
    p = module.params
    folder = Path(p["path"])
    file = folder / "journal.jsonl"
    result: dict[str, object] = {"changed": False, "path": str(file)}
    try:
        events = journal.read(file)
        event: journal.Event | None = None
        if p["state"] == "opened" and not journal.is_open(events):
            event = journal.Event(journal.now(), "run", p["name"], "opened", figures=p["figures"])
        elif p["state"] == "noted":
            event = journal.Event(journal.now(), p["what"], p["name"], p["result"], p["phase"], p["host"], p["seconds"], p["figures"])
        elif p["state"] == "closed":
            name = p["name"] or next((e.name for e in reversed(events) if e.what == "run"), "run")
            event = journal.Event(journal.now(), "run", name, p["result"], figures=p["figures"])
        if event is not None:
            # A note is a record, not a change of the system it records.
            result["changed"] = p["state"] in ("opened", "closed")
            if not module.check_mode:
                journal.append(file, event)
        if p["state"] == "rendered":
            result.update(_render(folder, events, module.check_mode))
    except OperationsError as error:
        fail(module, error)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
