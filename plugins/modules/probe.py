#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One measured check."""

from __future__ import annotations

DOCUMENTATION = r"""
module: probe
short_description: One measured check of a service, from the host that depends on it
version_added: 0.1.0
description:
  - Measures a service one or more times and compares what it sees with what is expected.
  - Changes nothing, so it runs in check mode too.
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
  idempotent: {support: full}
options:
  name:
    description: Name of the probe, for messages and the report.
    type: str
  kind:
    description: What is checked.
    type: str
    required: true
    choices: [http, tcp, tls, dns, icmp, sql, redis, socks, log, command]
  target:
    description:
      - What is asked. Unknown keys are refused.
      - "C(http): url, method, headers, body, address (connect there instead of resolving the name), cafile, verify."
      - "C(tcp), C(redis): host, port (and user, password). C(tls): host, port, name, cafile, verify. C(dns): name, family. C(icmp): host, interface."
      - "C(sql): query and dsn, or host, port, dbname, user, password, sslmode, sslrootcert (needs psycopg on the host)."
      - "C(socks): proxy_host, proxy_port, host, port, path, tls, cafile. C(log): path, lines. C(command): argv, cwd."
    type: dict
    required: true
  expect:
    description:
      - What must hold. Unknown keys are refused.
      - Every kind knows C(p50_ms), C(p95_ms), C(max_ms) and C(loss) (share of samples that may fail).
      - "C(http), C(socks): status (default 200), contains, not_contains, json (dotted path to value). C(tls): versions, days_left. C(dns): addresses."
      - "C(sql): value. C(log): contains, not_contains. C(command): rc, contains, not_contains. Texts are regular expressions."
    type: dict
    default: {}
  samples:
    description: How many times it is measured.
    type: int
    default: 1
  interval:
    description: Seconds between samples.
    type: float
    default: 0.01
  timeout:
    description: Seconds that one sample may take.
    type: float
    default: 5
  retries:
    description: How often the whole probe is repeated until it holds.
    type: int
    default: 0
  delay:
    description: Seconds between repetitions.
    type: float
    default: 1
  required:
    description: Fail the task when the probe does not hold. Otherwise the result only says so, for a gate to judge.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: The database is near
  cutover.hetzner.probe:
    name: database over the private network
    kind: icmp
    target: {host: 10.0.0.2, interface: enp7s0}
    samples: 20
    expect: {p95_ms: 1}

- name: The application answers
  cutover.hetzner.probe:
    kind: http
    target: {url: "http://127.0.0.1:3000/api/health/database"}
    expect: {json: {status: ok}}
    retries: 10
"""

RETURN = r"""
ok:
  description: Whether everything holds.
  returned: always
  type: bool
samples:
  description: How many samples were taken.
  returned: always
  type: int
failed_samples:
  description: How many of them failed or lacked something.
  returned: always
  type: int
p50_ms:
  description: Median time in milliseconds.
  returned: always
  type: float
p95_ms:
  description: 95th percentile in milliseconds.
  returned: always
  type: float
max_ms:
  description: Longest time in milliseconds.
  returned: always
  type: float
problems:
  description: What does not hold.
  returned: always
  type: list
  elements: str
detail:
  description: What the last sample saw.
  returned: always
  type: dict
name:
  description: Name of the probe.
  returned: always
  type: str
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cutover.hetzner.plugins.module_utils._ansible import fail
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import probes
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError

#: Longest text of an answer that is returned.
TEXT_LIMIT = 4000


def main() -> None:
    """Measure, judge, repeat while it does not hold."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "kind": {"type": "str", "required": True, "choices": sorted(probes.TARGETS)},
            "target": {"type": "dict", "required": True},
            "expect": {"type": "dict", "default": {}},
            "samples": {"type": "int", "default": 1},
            "interval": {"type": "float", "default": 0.01},
            "timeout": {"type": "float", "default": 5.0},
            "retries": {"type": "int", "default": 0},
            "delay": {"type": "float", "default": 1.0},
            "required": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    p = module.params
    for secret in ("password", "dsn"):
        if p["target"].get(secret):
            module.no_log_values.add(str(p["target"][secret]))
    name = p["name"] or f"{p['kind']} probe"
    try:
        probes.check_arguments(p["kind"], p["target"], p["expect"])
        if p["samples"] < 1:
            raise OperationsError(f"samples is {p['samples']}", "Take at least one sample.")
        for attempt in range(p["retries"] + 1):
            if attempt:
                time.sleep(p["delay"])
            outcome = probes.judge(
                p["kind"], probes.measure(p["kind"], p["target"], p["samples"], p["interval"], p["timeout"]), p["expect"]
            )
            if outcome.ok:
                break
    except ImportError as error:
        module.fail_json(
            msg=f"{name}: {error}. A sql probe needs psycopg on this host: give ansible_python_interpreter of the mover's environment."
        )
    except OperationsError as error:
        fail(module, error)
    detail = {k: v[:TEXT_LIMIT] if isinstance(v, str) else v for k, v in outcome.detail.items()}
    result = {
        "changed": False,
        "name": name,
        "ok": outcome.ok,
        "samples": outcome.samples,
        "failed_samples": outcome.failed,
        "p50_ms": outcome.p50_ms,
        "p95_ms": outcome.p95_ms,
        "max_ms": outcome.max_ms,
        "problems": list(outcome.problems),
        "detail": detail,
    }
    if not outcome.ok and p["required"]:
        module.fail_json(msg=f"{name}: {'; '.join(outcome.problems)}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
