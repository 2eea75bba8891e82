#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells what there is of a stack, what it costs, and where it differs from its declaration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hetzner_stack_info
short_description: Tell what there is of a stack in Hetzner Cloud
version_added: 0.1.0
author: cutover.hetzner contributors (@cutover)
description:
  - Reads everything that carries the label of a stack. Writes nothing.
  - With O(topology) it also tells every difference from that declaration.
extends_documentation_fragment:
  - cutover.hetzner.hetzner
  - cutover.hetzner.hetzner.topology
  - cutover.hetzner.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details: Changes nothing.
  idempotent:
    support: full
seealso:
  - module: cutover.hetzner.hetzner_stack
"""

EXAMPLES = r"""
- name: Read the stack
  cutover.hetzner.hetzner_stack_info:
    name: shop
    topology: "{{ topology }}"
  register: stack

- name: Nothing was changed by hand
  ansible.builtin.assert:
    that: stack.drift | length == 0
    fail_msg: "{{ stack.drift | map(attribute='resource') | join(', ') }} differ from their declaration"
"""

RETURN = r"""
resources:
  description:
    - "Every resource of the stack: C(resource), C(kind), C(name), C(id), C(created), C(protected), C(fields), C(labels)."
    - C(ip) is the address of a primary or floating IP or a load balancer.
    - C(addresses), of load balancers only, has C(public_ipv4), C(public_ipv6) and C(private_ip).
    - A zone has C(nameservers), those to which the registrar of the domain has to delegate it. Record sets are told where they are of the stack.
  returned: success
  type: list
  elements: dict
drift:
  description:
    - What M(cutover.hetzner.hetzner_stack) with O(cutover.hetzner.hetzner_stack#module:prune=true) would do.
    - The shape is that of RV(cutover.hetzner.hetzner_stack#module:plan).
    - Empty without O(topology).
  returned: success
  type: list
  elements: dict
cost:
  description: List prices a month as in M(cutover.hetzner.hetzner_stack); C(before) and C(after) are the same.
  returned: success
  type: dict
hosts:
  description: The stack's servers, ready for M(ansible.builtin.add_host), in the shape of RV(cutover.hetzner.hetzner_stack#module:hosts).
  returned: success
  type: list
  elements: dict
requests:
  description: Requests sent to the API.
  returned: always
  type: int
timings:
  description: "Seconds of reading: C(name), C(seconds)."
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import env_fallback
from ansible_collections.cutover.hetzner.plugins.module_utils._ansible import fail
from ansible_collections.cutover.hetzner.plugins.module_utils._stack_module import StackModule
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import stack as engine
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError


def main() -> None:
    module = StackModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "topology": {"type": "dict"},
            "api_token": {"type": "str", "no_log": True, "fallback": (env_fallback, ["HCLOUD_TOKEN"])},
            "api_endpoint": {"type": "str", "fallback": (env_fallback, ["HCLOUD_ENDPOINT"])},
        },
        supports_check_mode=True,
    )
    try:
        stack = engine.connect(module.params)
    except HetznerError as error:
        fail(module, error, requests=0)
    try:
        told = stack.info(module.params["topology"])
    except HetznerError as error:
        fail(module, error, requests=stack.api.requests)
    finally:
        stack.api.close()
    module.exit_json(changed=False, requests=stack.api.requests, **told)


if __name__ == "__main__":
    main()
