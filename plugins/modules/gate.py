#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Go or no-go."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gate
short_description: Judge measured results against named criteria, go or no-go
version_added: 0.1.0
description:
  - Compares results of earlier tasks (probes, verifications, process lists) with criteria and decides.
  - What was not measured does not hold, so a probe that was left out cannot let a move pass.
  - No criteria at all is a no-go.
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
  idempotent: {support: full}
options:
  name:
    description: Name of the gate, for the report.
    type: str
    required: true
  criteria:
    description:
      - List of C({name, result, field, op, value}).
      - C(result) is a key of O(results), C(field) a dotted path in it (default C(ok)), C(op) one of C(eq ne lt le gt ge in) (default C(eq)), C(value) what
        it is compared with (default V(true)).
    type: list
    elements: dict
    required: true
  results:
    description: What was measured, by name. Registered results of other tasks can be given as they are.
    type: dict
    required: true
  decision:
    description:
      - V(auto) decides by the criteria.
      - V(go) and V(no_go) record a person's decision; the failed criteria are still returned.
    type: str
    choices: [auto, go, no_go]
    default: auto
  by:
    description: Who decided, for the record.
    type: str
    default: criteria
  fail_on_no_go:
    description: Fail the task on no-go, so that nothing after it runs.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Decide whether the new world may take over
  cutover.hetzner.gate:
    name: before_cutover
    results:
      health: "{{ health }}"
      verify: "{{ verified }}"
    criteria:
      - {name: application answers, result: health}
      - {name: database is near, result: latency, field: p95_ms, op: lt, value: 1}
      - {name: every row is there, result: verify, field: equal}
"""

RETURN = r"""
decision:
  description: V(go) or V(no_go).
  returned: always
  type: str
failed_criteria:
  description: Names of the criteria that do not hold.
  returned: always
  type: list
  elements: str
judgements:
  description: Every criterion with C(name), C(holds), C(measured), C(wanted) and C(reason).
  returned: always
  type: list
  elements: dict
by:
  description: Who decided.
  returned: always
  type: str
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cutover.hetzner.plugins.module_utils._ansible import fail
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import gates
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError


def main() -> None:
    """Judge and decide."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "criteria": {"type": "list", "elements": "dict", "required": True},
            "results": {"type": "dict", "required": True},
            "decision": {"type": "str", "choices": ["auto", "go", "no_go"], "default": "auto"},
            "by": {"type": "str", "default": "criteria"},
            "fail_on_no_go": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        judgements = gates.judge([gates.criterion(raw) for raw in p["criteria"]], p["results"])
    except OperationsError as error:
        fail(module, error)
    decision = gates.decide(judgements, p["decision"])
    failed = [j.name for j in judgements if not j.holds]
    result = {
        "changed": False,
        "decision": decision,
        "failed_criteria": failed,
        "judgements": [asdict(j) for j in judgements],
        "by": p["by"],
        "name": p["name"],
    }
    if decision == "no_go" and p["fail_on_no_go"]:
        reasons = "; ".join(f"{j.name} ({j.reason})" for j in judgements if not j.holds) or "decided by a person, or no criteria were given"
        module.fail_json(
            msg=f"gate {p['name']}: no-go: {reasons}. Nothing was switched. Mend what is named and run this phase again.", **result
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
