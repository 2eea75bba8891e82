#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Schema, roles and privileges of a PostgreSQL database, brought to another server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_schema_transfer
short_description: Bring schema, roles and privileges of a PostgreSQL database to another server
version_added: 0.1.0
description:
  - Dumps the schema of the source with C(pg_dump) and restores what the target lacks, chosen from the archive's table of contents by
    catalogue identity. No SQL text is edited.
  - Roles that own, are granted or are named by a policy are made on the target with the same attributes, memberships and settings, but
    never as superusers and without passwords.
  - Owners and privileges are compared through the catalogues afterwards and are never wider than on the source; a difference that
    remains is a failure.
  - Of a Supabase source the platform's own schemas stay behind (C(auth) and C(storage) come along), as do extensions that the target does
    not offer. Each is reported in RV(left_behind). Tables of C(auth) and C(storage) that the target's own services have made are kept; a
    column that they lack stops the transfer when it holds data and is reported in RV(notes) when it does not.
  - Event triggers, publications, webhooks and cron jobs must act on one side only. They are listed in RV(deferred) with the statements that
    switch them on; M(cutover.hetzner.pg_cutover) runs them when the target serves. Webhooks and cron jobs are made on the target switched off,
    where it has the function and C(pg_cron).
  - Objects that are there are left alone, so an interrupted run can be repeated and a second run changes nothing.
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
  - cutover.hetzner.endpoint
requirements:
  - pg_dump and pg_restore, at least as new as both servers, on the machine where the module runs
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
  idempotent: {support: full}
options:
  section:
    description:
      - V(pre_data) brings everything that must be there before rows, with roles, privileges and renames.
      - V(post_data) brings keys and unique constraints first, then indexes in parallel, then foreign keys (those that are NOT VALID stay
        so), triggers, policies and row security, fills materialized views and analyzes.
      - V(all) does both, for a schema without rows.
    type: str
    choices: [pre_data, post_data, all]
    default: all
  extensions:
    description: What happens to extensions.
    type: dict
    default: {}
    suboptions:
      map:
        description: Name of an extension on the source to its name on the target.
        type: dict
        default: {}
      skip:
        description: Extensions that do not come along although the target offers them.
        type: list
        elements: str
        default: []
  roles:
    description: Roles of the source to take along although nothing in the database names them.
    type: list
    elements: str
    default: []
  role_passwords:
    description: Passwords for roles that may log in. Set only for a role that has none on the target; hashed before they leave this machine.
    type: dict
    default: {}
  bin_dir:
    description: Folder with C(pg_dump) and C(pg_restore). By default the newest below C(/usr/lib/postgresql).
    type: path
  jobs:
    description: Parallel sessions for indexes and constraints.
    type: int
    default: 2
  maintenance_work_mem:
    description: Memory of each of these sessions.
    type: str
    default: 256MB
  vault:
    description:
      - What happens to the secrets of Supabase's vault. Their ciphertext is useless on another server and never moves.
      - V(report) counts and names them.
      - V(recreate) reads C(vault.decrypted_secrets) and calls C(vault.create_secret) on the target, with statement logging off, then reads
        them back. They get new numbers. Where that is not possible they are counted as in V(report). Done after the rows (O(section)).
    type: str
    choices: [report, recreate]
    default: report
seealso:
  - module: cutover.hetzner.pg_preflight
  - module: cutover.hetzner.pg_row_copy
"""

EXAMPLES = r"""
- name: Everything before the rows
  cutover.hetzner.pg_schema_transfer:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    section: pre_data
    extensions:
      skip: [pg_stat_monitor]
    role_passwords:
      authenticator: "{{ vault_authenticator_password }}"
  register: schema

- name: Keys, indexes, policies after the rows
  cutover.hetzner.pg_schema_transfer:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    section: post_data
    jobs: 4
    vault: recreate
  register: late

- name: Show what the cutover will switch on
  ansible.builtin.debug:
    msg: "{{ late.deferred | map(attribute='statements') | flatten }}"
"""

RETURN = r"""
applied:
  description: What was done, in check mode what would be done.
  returned: success
  type: list
  elements: str
  sample: ["create role anon", "table public.bookings"]
left_behind:
  description: What stays on the source. (A result called C(skipped) would make Ansible show the whole task as skipped.)
  returned: success
  type: list
  elements: dict
  contains:
    object:
      description: What it is.
      type: str
    reason:
      description: Why it stays behind, or what to do about it.
      type: str
deferred:
  description: What acts on one side only and waits for the cutover. Texts that may hold keys of other services are never shown.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: V(event_trigger), V(publication), V(webhook), V(trigger) or V(cron_job).
      type: str
    object:
      description: Its name, for a trigger with its table on the target.
      type: str
    statements:
      description: Statements that switch it on, to be run on the target in this order.
      type: list
      elements: str
      sample: ["ALTER TABLE \"public\".\"bookings\" ENABLE TRIGGER \"hook\""]
    active:
      description: Whether it acts on the target already.
      type: bool
    needs:
      description: What has to be brought before the statements work, or an empty text.
      type: str
    undo:
      description: Statements that take the others back.
      type: list
      elements: str
    source:
      description: Statements that stop it on the source, where the freeze does not.
      type: list
      elements: str
    source_undo:
      description: Statements that let it act on the source again.
      type: list
      elements: str
extensions:
  description: Every extension of the source.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name on the source.
      type: str
    target_name:
      description: Its name on the target.
      type: str
    schema:
      description: Schema that it lives in.
      type: str
    version:
      description: Version on the source.
      type: str
    target_version:
      description: Version that the target has or would install; empty when it does not offer it.
      type: str
    left_behind:
      description: Why it stays behind; empty when it comes along.
      type: str
notes:
  description: What came along and should be known, such as constraints that are NOT VALID, other versions, roles that differ.
  returned: success
  type: list
  elements: dict
  contains:
    object:
      description: What it is about.
      type: str
    note:
      description: What to know.
      type: str
vault:
  description: Secrets of Supabase's vault. Names only, never plaintext.
  returned: success
  type: dict
  contains:
    found:
      description: How many the source has; null when our role cannot count them.
      type: int
    moved:
      description: Those made on the target now, in check mode those that would be.
      type: list
      elements: str
    present:
      description: How many were there already with the same plaintext.
      type: int
    not_moved:
      description: Those that are not on the target, with C(secret) and C(reason).
      type: list
      elements: dict
mentions:
  description: Functions whose text names something that was renamed, which the server cannot follow.
  returned: success
  type: list
  elements: dict
  contains:
    function:
      description: The function with its argument types.
      type: str
    mentions:
      description: The old name.
      type: str
roles_created:
  description: Roles made on the target.
  returned: success
  type: list
  elements: str
roles_without_password:
  description: Roles that may log in but have no password on the target yet.
  returned: success
  type: list
  elements: str
objects:
  description: How many objects of the source come along, those already there included.
  returned: success
  type: int
"""

import typing as t
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import endpoint_options, fail, selection_options
from ..module_utils.transfer import schema, schema_plan, vault
from ..module_utils.transfer.endpoint import Endpoint
from ..module_utils.transfer.selection import Selection


def main() -> None:
    """Arguments in, schema over, result out."""
    module = AnsibleModule(
        argument_spec={
            "source": endpoint_options(),
            "target": endpoint_options(),
            **selection_options(),
            "section": {"type": "str", "choices": list(schema.SECTIONS), "default": "all"},
            "extensions": {
                "type": "dict",
                "default": {},
                "options": {"map": {"type": "dict", "default": {}}, "skip": {"type": "list", "elements": "str", "default": []}},
            },
            "roles": {"type": "list", "elements": "str", "default": []},
            "role_passwords": {"type": "dict", "default": {}, "no_log": True},
            "bin_dir": {"type": "path"},
            "jobs": {"type": "int", "default": 2},
            "maintenance_work_mem": {"type": "str", "default": "256MB"},
            "vault": {"type": "str", "choices": list(vault.MODES), "default": "report"},
        },
        supports_check_mode=True,
    )
    params: dict[str, t.Any] = module.params
    try:
        source, target = Endpoint.from_args(params["source"]), Endpoint.from_args(params["target"])
        selection = Selection.from_args(params["include"], params["exclude"], params["rename"], source.flavour)
        extensions = params["extensions"]
        options = schema_plan.Options(
            bin_dir=params["bin_dir"],
            extension_map=extensions.get("map") or {},
            extension_skip=tuple(extensions.get("skip") or ()),
            role_names=tuple(params["roles"]),
            role_passwords=params["role_passwords"],
            jobs=params["jobs"],
            maintenance_work_mem=params["maintenance_work_mem"],
            vault=params["vault"],
        )
        done = schema.transfer(source, target, selection, params["section"], options, check=module.check_mode)
    except Exception as error:
        fail(module, error)
    result: dict[str, t.Any] = {
        "changed": done.changed,
        "applied": list(done.applied),
        "left_behind": [{"object": name, "reason": reason} for name, reason in done.skipped],
        "deferred": [asdict(item) for item in done.deferred],
        "extensions": list(done.extensions),
        "notes": [{"object": name, "note": note} for name, note in done.notes],
        "vault": done.vault.as_dict(),
        "mentions": list(done.mentions),
        "roles_created": list(done.roles_created),
        "roles_without_password": list(done.roles_without_password),
        "objects": done.objects,
    }
    if module._diff:
        result["diff"] = {"before": "", "after": "".join(f"{line}\n" for line in done.applied)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
