#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""State, configuration and switchover of a Patroni cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: patroni_cluster
short_description: Observe, configure, switch over and restart a Patroni cluster
version_added: 0.1.0
description:
  - Talks to Patroni's REST interface with nothing but Python's standard library.
  - Runs on any machine that reaches a member, usually on the member itself.
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment: cutover.hetzner.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  urls:
    description: Base addresses of the members' REST interfaces. They are tried in order; one that answers is enough.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(observed) only reads. With O(timeout) it waits until the cluster is healthy.
      - V(configured) makes the dynamic configuration hold O(config), and waits until the member that answers shows it.
      - V(switched_over) makes O(leader) the leader. Nothing happens when it already is. What Patroni refuses as not possible yet is asked for again.
      - V(restarted) restarts PostgreSQL where a changed setting waits for it, replicas first, the leader last.
    type: str
    choices: [observed, configured, switched_over, restarted]
    default: observed
  leader:
    description: Name of the member that shall lead, for O(state=switched_over).
    type: str
  config:
    description:
      - Part of the dynamic configuration, for O(state=configured). Keys that are not named stay as they are.
      - A key whose value is null is removed.
    type: dict
  members:
    description: How many members a healthy cluster has at least. V(0) means those that are known.
    type: int
    default: 0
  synchronous:
    description: Whether a healthy cluster of more than one member needs a synchronous standby.
    type: bool
    default: false
  username:
    description: User of the REST interface, for requests that change something.
    type: str
    default: ""
  password:
    description: Its password.
    type: str
    default: ""
  ca_path:
    description: File with the authority that signed the certificates of the REST interfaces.
    type: path
  validate_certs:
    description: Whether certificates are verified.
    type: bool
    default: true
  timeout:
    description:
      - Seconds to wait for a healthy cluster before and after a change, for a switchover to become possible, and, 60 at least, for a changed configuration
        to be shown.
      - V(0) with O(state=observed) returns at once whatever the health is.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Wait until three members run with a synchronous standby
  cutover.hetzner.patroni_cluster:
    urls: [https://10.0.1.11:8008, https://10.0.1.12:8008, https://10.0.1.13:8008]
    ca_path: /etc/patroni/tls/ca.crt
    members: 3
    synchronous: true
    timeout: 120
  register: database

- name: Declare a permanent slot for the way back
  cutover.hetzner.patroni_cluster:
    urls: [https://10.0.1.11:8008]
    ca_path: /etc/patroni/tls/ca.crt
    username: patroni
    password: "{{ vault_patroni_rest_password }}"
    state: configured
    config:
      slots:
        cutover_reverse: {type: logical, database: app, plugin: pgoutput}

- name: Hand over before maintenance
  cutover.hetzner.patroni_cluster:
    urls: [https://10.0.1.11:8008]
    ca_path: /etc/patroni/tls/ca.crt
    username: patroni
    password: "{{ vault_patroni_rest_password }}"
    state: switched_over
    leader: db2
"""

RETURN = r"""
scope:
  description: Name of the cluster.
  type: str
  returned: when a member answered
leader:
  description: Name of the leading member, or null.
  type: str
  returned: when a member answered
members:
  description: Members with C(name), C(role), C(state), C(host), C(port), C(api_url), C(timeline), C(lag) in bytes and C(pending_restart).
  type: list
  elements: dict
  returned: when a member answered
timeline:
  description: Timeline of the leader.
  type: int
  returned: when a member answered
lag:
  description: Bytes that the slowest replica is behind. Null when any replica's lag is unknown.
  type: int
  returned: when a member answered
paused:
  description: Whether automatic failover is switched off.
  type: bool
  returned: when a member answered
pending_restart:
  description: Names of members where a changed setting waits for a restart.
  type: list
  elements: str
  returned: when a member answered
healthy:
  description: Whether nothing in C(problems) was found.
  type: bool
  returned: when a member answered
problems:
  description: What keeps the cluster from being healthy, in words.
  type: list
  elements: str
  returned: when a member answered
config:
  description: The dynamic configuration after the change, or as it would be.
  type: dict
  returned: for state configured
patch:
  description: What was, or would be, sent to change the configuration.
  type: dict
  returned: for state configured
restarted:
  description: Members that were, or would be, restarted, in that order.
  type: list
  elements: str
  returned: for state restarted
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cutover.hetzner.plugins.module_utils._ansible import fail
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import patroni
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError

# Longer than any sensible loop_wait: by then every member has read what was stored.
_CONFIGURED_SECONDS = 60.0


def _report(cluster: patroni.Cluster, params: dict[str, t.Any]) -> dict[str, t.Any]:
    found = patroni.problems(cluster, params["members"], params["synchronous"])
    return {**cluster.as_dict(), "healthy": not found, "problems": found}


def _healthy(client: patroni.Client, params: dict[str, t.Any]) -> patroni.Cluster:
    return client.wait(lambda c: patroni.problems(c, params["members"], params["synchronous"]), params["timeout"])


def observed(client: patroni.Client, params: dict[str, t.Any], check: bool) -> dict[str, t.Any]:
    """Read only; waits for health when a timeout is given."""
    cluster = client.cluster() if check or params["timeout"] == 0 else _healthy(client, params)
    return {"changed": False, **_report(cluster, params)}


def configured(client: patroni.Client, params: dict[str, t.Any], check: bool) -> dict[str, t.Any]:
    """Send the smallest patch that makes the configuration hold what is wanted."""
    before = client.configuration()
    patch = patroni.difference(before, params["config"])
    after = patroni.patched(before, patch)
    if patch and not check:
        client.patch(patch)
        after = client.wait_configured(params["config"], max(params["timeout"], _CONFIGURED_SECONDS))
        if patroni.difference(after, params["config"]):
            raise OperationsError("the configuration does not hold what was sent", "Somebody else writes it too: run again.", patch=patch)
    return {
        "changed": bool(patch),
        "patch": patch,
        "config": after,
        "diff": {"before": before, "after": after},
        **_report(client.cluster(), params),
    }


def switched_over(client: patroni.Client, params: dict[str, t.Any], check: bool) -> dict[str, t.Any]:
    """Hand the lead to the named member and wait until the rest follows it."""
    cluster, wanted = client.cluster(), params["leader"]
    before = cluster.leader.name if cluster.leader else None
    if before != wanted:
        refusal = patroni.refuse_switchover(cluster, wanted)
        if refusal:
            raise refusal
        if not check:
            client.switch_over(cluster, wanted, params["timeout"])

            def unmet(seen: patroni.Cluster) -> list[str]:
                leads = seen.leader.name if seen.leader else None
                wrong = [] if leads == wanted else [f"{leads or 'nobody'} leads, expected {wanted}"]
                return wrong + patroni.problems(seen, params["members"], params["synchronous"])

            cluster = client.wait(unmet, params["timeout"])
    return {"changed": before != wanted, "diff": {"before": {"leader": before}, "after": {"leader": wanted}}, **_report(cluster, params)}


def restarted(client: patroni.Client, params: dict[str, t.Any], check: bool) -> dict[str, t.Any]:
    """Restart what waits for it, one member after the other, the cluster healthy between."""
    cluster = client.cluster()
    order = patroni.restart_order(cluster)
    if not check:
        for member in order:
            _healthy(client, params)
            client.restart(member, params["timeout"])
            cluster = _healthy(client, params)
    names = [member.name for member in order]
    diff = {"before": {"pending_restart": names}, "after": {"pending_restart": []}}
    return {"changed": bool(order), "restarted": names, "diff": diff, **_report(cluster, params)}


STATES = {"observed": observed, "configured": configured, "switched_over": switched_over, "restarted": restarted}


def main() -> None:
    """Arguments in, result out."""
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": list(STATES), "default": "observed"},
            "leader": {"type": "str"},
            "config": {"type": "dict"},
            "members": {"type": "int", "default": 0},
            "synchronous": {"type": "bool", "default": False},
            "username": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "ca_path": {"type": "path"},
            "validate_certs": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 60},
        },
        required_if=[("state", "switched_over", ["leader"]), ("state", "configured", ["config"])],
        supports_check_mode=True,
    )
    params = module.params
    if not params["urls"]:
        module.fail_json(msg="urls is empty. Give at least one address like https://10.0.0.2:8008.")
    try:
        client = patroni.Client(params["urls"], params["username"], params["password"], params["ca_path"], params["validate_certs"])
        result = STATES[params["state"]](client, params, module.check_mode)
    except OperationsError as error:
        fail(module, error)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
