#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes a cloud project look like a declared topology."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hetzner_stack
short_description: Make a Hetzner Cloud project look like a declared topology
version_added: 0.1.0
author: cutover.hetzner contributors (@cutover)
description:
  - Reads what there is of a stack, compares it with the declaration, prices the difference, checks all of it, and only then writes, in parallel.
  - Labels are the only state. An interrupted run is simply run again; a second run changes nothing and needs about a dozen requests.
  - Resources without the stack's labels are never touched, also if they have a name that is needed.
  - In check mode nothing is written, and RV(plan), RV(plan_text) and RV(cost) say what would happen.
  - 'While it writes, lines show how many resources are done and which are waited for; on a terminal every second at first, else every five,
    later less often. Not in check mode, with C(async), with C(no_log), and over connections other than V(ssh) and V(local).'
options:
  state:
    description: V(absent) deletes everything that carries the label of the stack, whether declared or not.
    type: str
    choices: [present, absent]
    default: present
  prune:
    description: Delete what carries the stack's label and is no longer declared. Otherwise it is kept and told in RV(orphans).
    type: bool
    default: false
  allow_replace:
    description: Permit to delete and make again what cannot change in place. The data on it is lost.
    type: bool
    default: false
  allow_power_off:
    description: Permit to shut down running servers for changes that need it. They are started again.
    type: bool
    default: false
  allow_destroy_protected:
    description: Permit to lift the protection of what is to be deleted, and of record sets that are to be changed.
    type: bool
    default: false
  budget:
    description: The most that the stack may cost a month, by the account's list prices without traffic. Judged before the first write.
    type: dict
    suboptions:
      monthly_max:
        description: The amount.
        type: str
        required: true
      currency:
        description: Its currency. Must be the one the account is billed in.
        type: str
        default: EUR
      on_exceed:
        description: What to do when the plan costs more.
        type: str
        choices: [fail, warn]
        default: fail
      include_vat:
        description: The amount is gross.
        type: bool
        default: false
  capacity:
    description:
      - What to take for a new server when its own type has no capacity in its location. The choice is remembered in a label and is no difference later.
      - Servers with volumes or primary IPs stay in their location. A dearer choice is only taken within O(budget).
    type: dict
    suboptions:
      server_types:
        description: Other types, in this order. Not for servers with O(topology.servers[].requirements), which have a choice of their own.
        type: list
        elements: str
        default: []
      locations:
        description: Other locations, in this order, after all types have been tried in the declared one.
        type: list
        elements: str
        default: []
  parallelism:
    description: Requests in flight at once, 1 to 16.
    type: int
    default: 8
  timeout:
    description: Seconds to wait for one action, such as the creation of a server.
    type: int
    default: 900
  progress_path:
    description:
      - File that is replaced about once a second by one line of JSON that says how many resources are done and which are waited for.
        Left in place at the end.
      - By default a file in a temporary folder, removed at the end, where progress is shown. A file that cannot be written is only warned of.
    type: path
extends_documentation_fragment:
  - cutover.hetzner.hetzner
  - cutover.hetzner.hetzner.topology
  - cutover.hetzner.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
seealso:
  - module: cutover.hetzner.hetzner_stack_info
"""

EXAMPLES = r"""
- name: Show what would be made and what it would cost
  cutover.hetzner.hetzner_stack:
    name: shop
    topology: "{{ topology }}"
  check_mode: true
  register: planned

- name: Make one application and one database server in a private network
  cutover.hetzner.hetzner_stack:
    name: shop
    budget:
      monthly_max: 40
      currency: EUR
    capacity:
      server_types: [cpx32]
      locations: [fsn1, hel1]
    topology:
      location: nbg1
      ssh_keys:
        - name: deploy
          public_key: "{{ lookup('ansible.builtin.file', '~/.ssh/id_ed25519.pub') }}"
      networks:
        - name: private
          ip_range: 10.20.0.0/16
          subnets:
            - ip_range: 10.20.1.0/24
      firewalls:
        - name: web
          rules:
            - {protocol: tcp, port: "443", source_ips: ["0.0.0.0/0", "::/0"]}
            - {protocol: tcp, port: "22", source_ips: ["192.0.2.10/32"], description: office}
      servers:
        - {name: app, type: cx33, image: debian-12, ssh_keys: [deploy], firewalls: [web], networks: [{name: private, ip: 10.20.1.10}], groups: [application]}
        - {name: db, type: cx33, image: debian-12, ssh_keys: [deploy], firewalls: [web], networks: [{name: private, ip: 10.20.1.20}], groups: [database]}
  register: stack

- name: Make a server of the cheapest type that is large enough, wherever in Germany there is room
  cutover.hetzner.hetzner_stack:
    name: reports
    capacity:
      locations: [fsn1]
    topology:
      location: nbg1
      servers:
        - name: worker
          image: debian-12
          requirements: {cores: 4, memory: 8, disk: 80, dedicated: false, architecture: x86, price: 20.0}

- name: Make two mail servers with an address that moves between them, with reverse names
  cutover.hetzner.hetzner_stack:
    name: mail
    topology:
      location: nbg1
      servers:
        - {name: mx1, type: cx23, image: debian-12}
        - {name: mx2, type: cx23, image: debian-12}
      primary_ips:
        - {name: mx1, server: mx1, dns_ptr: mx1.example.org}
      floating_ips:
        - {name: mail, server: mx1, dns_ptr: mail.example.org, protection: true}
        - name: mail6
          type: ipv6
          server: mx1
          dns_ptr:
            "::1": mail.example.org

- name: Make a server, its zone and records that follow its addresses
  cutover.hetzner.hetzner_stack:
    name: site
    topology:
      location: nbg1
      servers:
        - {name: web, type: cx23, image: debian-12}
      zones:
        - name: example.org
          ttl: 300
          records:
            - {name: "@", type: A, values: [{server: web}]}
            - {name: "@", type: AAAA, values: [{server: web}]}
            - {name: www, type: CNAME, values: ["@"]}
            - {name: "@", type: MX, values: [10 mail.example.net.]}
            - {name: "@", type: TXT, values: [v=spf1 mx -all]}
            - {name: "@", type: CAA, values: [0 issue letsencrypt.org]}

- name: Put two web servers behind a load balancer that ends TLS
  cutover.hetzner.hetzner_stack:
    name: web
    topology:
      location: nbg1
      networks:
        - name: private
          ip_range: 10.20.0.0/16
          subnets:
            - ip_range: 10.20.1.0/24
      servers:
        - {name: web, count: 2, type: cx23, image: debian-12, networks: [{name: private}]}
      certificates:
        - name: site
          certificate: "{{ lookup('ansible.builtin.file', 'site.pem') }}"
          private_key: "{{ site_private_key }}"
      load_balancers:
        - name: edge
          type: lb11
          network: private
          dns_ptr: www.example.org
          services:
            - protocol: https
              destination_port: 8080
              http: {certificates: [site], redirect_http: true}
              health_check:
                http: {path: /health, status_codes: ["200"]}
          targets:
            - {server: web, use_private_ip: true}

- name: Take the servers into the inventory
  ansible.builtin.add_host:
    name: "{{ item.name }}"
    groups: "{{ item.groups }}"
    ansible_host: "{{ item.ansible_host }}"
    ansible_user: "{{ item.ansible_user }}"
    private_ips: "{{ item.private_ips }}"
  loop: "{{ stack.hosts }}"
  loop_control:
    label: "{{ item.name }}"

- name: Delete the whole stack
  cutover.hetzner.hetzner_stack:
    name: shop
    state: absent
"""

RETURN = r"""
plan:
  description: What is, or in check mode would be, done. Empty when everything is as declared.
  returned: always
  type: list
  elements: dict
  contains:
    action: {description: "V(create), V(update), V(replace) or V(delete).", type: str}
    resource: {description: Kind and name., type: str, sample: server.app}
    kind: {description: Kind., type: str}
    name: {description: Name., type: str}
    id: {description: "The API's number, if it exists. For a record set that of its zone.", type: int}
    reason: {description: Why., type: str}
    power_off: {description: Whether it is shut down for this., type: bool}
    fields:
      description: "Fields that differ: C(field), C(before), C(after), C(how) (V(in_place), V(power_off), V(replace) or V(refused)), C(note)."
      type: list
      elements: dict
plan_text:
  description: The plan and its cost as a table for people.
  returned: always
  type: str
cost:
  description: List prices a month, without traffic.
  returned: when everything could be read
  type: dict
  contains:
    before: {description: Sum of what is there. Net., type: float}
    after: {description: Sum when the plan is done. Net., type: float}
    before_gross: {description: The same with tax., type: float}
    after_gross: {description: The same with tax., type: float}
    currency: {description: Currency of the account., type: str, sample: EUR}
    lines:
      description: "Positions: C(resource), C(item), C(quantity), C(unit), C(before), C(after) (net, a month), C(note)."
      type: list
      elements: dict
hosts:
  description: The stack's servers as they are now, ready for M(ansible.builtin.add_host).
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Name of the server., type: str}
    groups: {description: Declared groups., type: list, elements: str}
    ansible_host: {description: "Public IPv4 address, else the first private one, else the public IPv6 address.", type: str}
    ansible_user: {description: Always root., type: str}
    ansible_port: {description: Always 22., type: int}
    public_ipv4: {description: Address or none., type: str}
    public_ipv6: {description: First address of its network or none., type: str}
    private_ips: {description: Address by network., type: dict}
    floating_ips: {description: "Address, or first address of its network, by name of the floating IP.", type: dict}
    load_balancers: {description: "Address by name of the load balancers that it is a target of.", type: dict}
    server_id: {description: "The API's number.", type: int}
    status: {description: "V(running), V(off) and others.", type: str}
    labels: {description: All labels., type: dict}
orphans:
  description: Resources with the stack's label that are no longer declared and were kept.
  returned: always
  type: list
  elements: str
done:
  description: Resources that were changed, also when others failed.
  returned: always
  type: list
  elements: str
failures:
  description: "What failed: C(resource), C(problem), C(remedy)."
  returned: always
  type: list
  elements: dict
not_tried:
  description: "What was not tried because something it needs failed: C(resource), C(because)."
  returned: always
  type: list
  elements: dict
requests:
  description: Requests sent to the API.
  returned: always
  type: int
timings:
  description: "Seconds of reading, writing and of every resource: C(name), C(seconds)."
  returned: always
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import env_fallback
from ansible_collections.cutover.hetzner.plugins.module_utils._ansible import fail, progress_writer
from ansible_collections.cutover.hetzner.plugins.module_utils._stack_module import StackModule
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import progress
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import stack as engine
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError


def argument_spec() -> dict[str, Any]:
    """Parameters of the module; the topology has its own validation, which names every wrong path at once."""
    return {
        "name": {"type": "str", "required": True},
        "api_token": {"type": "str", "no_log": True, "fallback": (env_fallback, ["HCLOUD_TOKEN"])},
        "api_endpoint": {"type": "str", "fallback": (env_fallback, ["HCLOUD_ENDPOINT"])},
        "topology": {"type": "dict"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "prune": {"type": "bool", "default": False},
        "allow_replace": {"type": "bool", "default": False},
        "allow_power_off": {"type": "bool", "default": False},
        "allow_destroy_protected": {"type": "bool", "default": False},
        "budget": {
            "type": "dict",
            "options": {
                "monthly_max": {"type": "str", "required": True},
                "currency": {"type": "str", "default": "EUR"},
                "on_exceed": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
                "include_vat": {"type": "bool", "default": False},
            },
        },
        "capacity": {
            "type": "dict",
            "options": {
                "server_types": {"type": "list", "elements": "str", "default": []},
                "locations": {"type": "list", "elements": "str", "default": []},
            },
        },
        "parallelism": {"type": "int", "default": 8},
        "timeout": {"type": "int", "default": 900},
        "progress_path": {"type": "path"},
    }


def main() -> None:
    module = StackModule(
        argument_spec=argument_spec(),
        required_if=[("state", "present", ["topology"])],
        supports_check_mode=True,
    )
    try:
        stack = engine.connect(module.params)
    except HetznerError as error:
        fail(module, error)
    write = progress_writer(module)
    if write:
        stack.progress = lambda reached: write(progress.as_text(reached))
    present = module.params["state"] == "present"
    try:
        result = stack.present(module.params["topology"], check=module.check_mode) if present else stack.absent(check=module.check_mode)
    except HetznerError as error:
        fail(module, error, changed=bool(stack.result.done), requests=stack.api.requests, **stack.result.as_dict())
    finally:
        stack.api.close()
    for warning in result.warnings:
        module.warn(warning)
    module.exit_json(changed=bool(result.changes), requests=stack.api.requests, diff=result.diff(), **result.as_dict())


if __name__ == "__main__":
    main()
