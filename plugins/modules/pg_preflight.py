#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Everything that could break a move of a PostgreSQL database, found before it starts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_preflight
short_description: Find everything that could break the move of a PostgreSQL database, before it starts
version_added: 0.1.0
description:
  - Looks at both databases in read-only sessions and reports what would fail, what would lose rows and what needs a decision,
    each with the statement that mends it.
  - Among others, refused connections by their cause, poolers, versions, row level security that would hide rows from the reader, missing
    privileges, what the freeze and a stream need, tables without a key, unlogged and foreign tables, triggers that fire on moved rows,
    extensions that the target lacks with the columns that use them, rows on the target that no copy explains, and too little room.
    C(docs/preflight.md) lists every rule.
  - Without O(target) only the source is looked at, which needs nothing but a way to it.
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
  - cutover.hetzner.endpoint
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
  idempotent: {support: full}
options:
  target:
    description: The database to move to. Left out before it exists.
    required: false
    type: dict
    suboptions:
      dsn:
        description: A libpq connection string or URI. Excludes O(target.host) and O(target.rest).
        type: str
      host:
        description: Name or address of the server.
        type: str
      port:
        description: TCP port.
        type: int
        default: 5432
      dbname:
        description: Name of the database.
        type: str
      user:
        description: Role to log in as.
        type: str
      password:
        description: Its password. Never logged, never put on a command line.
        type: str
      sslmode:
        description: As in libpq.
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
        default: prefer
      sslrootcert:
        description: File with the certificate authorities to trust, on the machine where the module runs.
        type: path
      flavour:
        description: V(supabase) where the server has Supabase's own schemas and roles.
        type: str
        choices: [postgresql, supabase]
        default: postgresql
      rest:
        description: Only a source can be read through a REST address; refused here.
        type: dict
        suboptions:
          url:
            description: Base address of the REST interface.
            type: str
            required: true
          key:
            description: Service key.
            type: str
            required: true
          unique:
            description: As in O(source.rest).
            type: dict
            default: {}
          page_rows:
            description: As in O(source.rest).
            type: int
            default: 5000
  workers:
    description: Parallel sessions that the move will use.
    type: int
    default: 4
  max_connections:
    description: Sessions that the source, or a pooler in front of it, allows for the move. Supabase's session pooler (15) is known.
    type: int
  extensions:
    description: As in M(cutover.hetzner.pg_schema_transfer).
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
  bin_dir:
    description: Directory of pg_dump and pg_restore on the machine where the module runs, as in M(cutover.hetzner.pg_schema_transfer).
    type: path
  target_free_bytes:
    description:
      - Free space beside the target's data directory. Too little is an error before anything is copied.
      - Measured when the target runs on the machine where the module runs; otherwise a client cannot see it.
    type: int
  fail_on_error:
    description: Fail when a finding of severity V(error) exists. Otherwise only RV(ok) says so.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Look at the source before anything is made
  cutover.hetzner.pg_preflight:
    source:
      host: db.example.supabase.co
      dbname: postgres
      user: postgres
      password: "{{ vault_source_password }}"
      sslmode: require
      flavour: supabase
  delegate_to: localhost

- name: Look at both sides
  cutover.hetzner.pg_preflight:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    exclude: ["public.scratch_*"]
    workers: 4
"""

RETURN = r"""
findings:
  description: What was found, worst first.
  returned: always
  type: list
  elements: dict
  contains:
    rule:
      description: What was looked for; a key of the table in C(docs/preflight.md).
      type: str
      sample: rls
    severity:
      description: V(error) would fail or lose something, V(warning) needs a decision, V(info) is good to know.
      type: str
    object:
      description: What it is about.
      type: str
      sample: public.bookings
    problem:
      description: What was found.
      type: str
      sample: row level security hides rows from role mover
    fix:
      description: The statement or the sentence that mends it.
      type: str
      sample: ALTER ROLE "mover" BYPASSRLS;
ok:
  description: Whether no finding is an error.
  returned: always
  type: bool
facts:
  description:
    - C(source) and C(target), each with version, sizes, tables, rows estimated, tables without a key, sequences, extensions,
      large objects and settings.
  returned: always
  type: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import endpoint_options, fail, selection_options
from ..module_utils.transfer.endpoint import Endpoint
from ..module_utils.transfer.errors import TransferError
from ..module_utils.transfer.preflight import Wish, preflight
from ..module_utils.transfer.selection import Selection


def main() -> None:
    """Arguments in, findings out."""
    module = AnsibleModule(
        argument_spec={
            "source": endpoint_options(),
            "target": endpoint_options(required=False),
            **selection_options(),
            "workers": {"type": "int", "default": 4},
            "max_connections": {"type": "int"},
            "extensions": {
                "type": "dict",
                "default": {},
                "options": {"map": {"type": "dict", "default": {}}, "skip": {"type": "list", "elements": "str", "default": []}},
            },
            "bin_dir": {"type": "path"},
            "target_free_bytes": {"type": "int"},
            "fail_on_error": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params: dict[str, t.Any] = module.params
    try:
        source = Endpoint.from_args(params["source"])
        target = Endpoint.from_args(params["target"]) if params["target"] else None
        selection = Selection.from_args(params["include"], params["exclude"], params["rename"], source.flavour)
        extensions = params["extensions"]
        wish = Wish(
            params["workers"],
            params["max_connections"],
            extensions.get("map") or {},
            tuple(extensions.get("skip") or ()),
            params["bin_dir"],
            params["target_free_bytes"],
        )
        report = preflight(source, target, selection, wish)
    except TransferError as error:
        fail(module, error)
    result = report.plain()
    errors = [finding for finding in report.findings if finding.severity == "error"]
    if errors and params["fail_on_error"]:
        first = errors[0]
        message = f"{len(errors)} findings stand in the way, the first: {first.object}: {first.problem}"
        fail(module, TransferError(message, first.fix), changed=False, **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
