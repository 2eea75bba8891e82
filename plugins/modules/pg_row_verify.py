#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Proof that two PostgreSQL databases hold the same rows, or the names of those that differ."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_row_verify
short_description: Prove that two PostgreSQL databases hold the same rows, or name the rows that differ
version_added: 0.1.0
description:
  - Both servers hash all columns of all rows and send sums over blocks. Blocks that differ are divided until their rows are few, then
    keys and hashes are compared. Rows themselves do not travel.
  - Values are compared exactly. Minus zero and zero, C(1.0) and C(1.00), an empty text and NULL are different; all NaN are one.
  - Rows of a table without a key are compared as a multiset, so that one of three equal rows that is lost is found.
  - Each side is read under one snapshot. While the source is written to, later writes show up as differences; compare under a freeze,
    or give O(source_snapshot) and O(target_snapshot) of the same moment, or compare a target that stands still with O(pair=slot).
  - Before the first block both servers hash about seventy literals and take the fastest hash on which they agree.
  - With C(source.rest) every page of the source is read and its rows are hashed by the target, in a temporary table of its own session. Modes
    V(full) and V(counts) only. Such a comparison is never of one moment. See C(docs/rest.md).
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
  - cutover.hetzner.endpoint
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
  idempotent: {support: full}
options:
  mode:
    description:
      - V(full) compares every value of every row.
      - V(dirty) compares numbers of rows, and the values of the rows named in O(dirty_from).
      - V(counts) compares numbers of rows only.
    type: str
    choices: [full, dirty, counts]
    default: full
  dirty_from:
    description:
      - Table of the target with the keys for O(mode=dirty), in columns C(source_schema), C(source_table) and C(key), an array of texts in
        the order of the key's columns. Any entry of a table without a key has that table compared in full.
    type: str
    default: cutover.dirty
  max_reported:
    description: Rows listed per table and kind of difference. Counts are never capped.
    type: int
    default: 100
  workers:
    description:
      - Statements at a time, each with one session on either side. A large table is shared by all of them. One more session on each side
        holds the snapshot.
    type: int
    default: 2
  hash:
    description:
      - V(record) hashes values by their types, V(text) the text of rows, V(md5) and V(sha256) take digests of that text.
      - V(auto) takes the first of them on which the servers agree.
    type: str
    choices: [auto, record, text, md5, sha256]
    default: auto
  source_snapshot:
    description: Snapshot of the source to compare, exported by a session that stays open. By default a new one.
    type: str
  target_snapshot:
    description: The same for the target.
    type: str
  pair:
    description:
      - V(slot) takes position and snapshot of the source from a temporary replication slot, so that RV(lsn) is exact while the source is
        written to. It needs the right to replicate, a free slot, and no pooler in between.
      - Where M(cutover.hetzner.pg_change_stream) keeps the target in step, it pauses at that position for a moment, so that RV(exact) is true and every
        difference is one. When all rows are equal in O(mode=full), the proof of M(cutover.hetzner.pg_cutover) looks only at rows touched since.
      - V(none) takes plain snapshots. RV(lsn) is exact only while nobody writes.
    type: str
    choices: [none, slot]
    default: none
  check_indexes:
    description:
      - Also check every b-tree index of the compared tables on the target against its table. A damaged one makes RV(equal) false.
      - Needs the extension C(amcheck) in the target database and the right to call it.
    type: bool
    default: false
  fail_on_difference:
    description: Fail when a row differs, with the same values returned. Otherwise only RV(equal) says so.
    type: bool
    default: true
seealso:
  - module: cutover.hetzner.pg_row_copy
"""

EXAMPLES = r"""
- name: Prove that every row arrived
  cutover.hetzner.pg_row_verify:
    source:
      host: db.example.supabase.co
      dbname: postgres
      user: postgres
      password: "{{ vault_source_password }}"
      sslmode: require
      flavour: supabase
    target:
      host: 10.0.0.10
      dbname: app
      user: mover
      password: "{{ vault_target_password }}"
  register: proof

- name: Compare numbers of rows and decide later
  cutover.hetzner.pg_row_verify:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    mode: counts
    fail_on_difference: false
  register: counted
"""

RETURN = r"""
equal:
  description: Whether nothing differs.
  returned: always, once both sides were compared
  type: bool
tables:
  description: Every compared table.
  returned: always, once both sides were compared
  type: list
  elements: dict
  contains:
    name:
      description: Schema and name on the source.
      type: str
    target:
      description: Schema and name on the target.
      type: str
    rows:
      description: Rows on the source.
      type: int
    target_rows:
      description: Rows on the target.
      type: int
    missing:
      description: Rows of the source that the target lacks. With C(key), or with C(row) and C(copies) (source, target) without one.
      type: list
      elements: dict
    extra:
      description: Rows that only the target has, in the same form.
      type: list
      elements: dict
    changed:
      description: Rows that both have with different values. With C(key) and C(columns), the names on the source.
      type: list
      elements: dict
    missing_count:
      description: How many are missing, however few are listed.
      type: int
    extra_count:
      description: How many are extra.
      type: int
    changed_count:
      description: How many are changed.
      type: int
    checksum:
      description: Number of rows and two sums of hashes of the source, or empty where rows were only counted.
      type: str
    target_checksum:
      description: The same of the target.
      type: str
    method:
      description: How rows were told apart, C(key), C(key_hash), C(row_hash), C(keys) or C(count).
      type: str
    seconds:
      description: Time spent.
      type: float
large_objects:
  description:
    - Large objects compared, C(count), C(target_count) and C(bytes), with C(missing), C(extra) and C(changed) as of tables, by number.
    - C(changed) says C(what) differs, of content, owner, privileges and comment. Null where they are excluded.
  returned: always, once both sides were compared
  type: dict
lsn:
  description: Position in the source's log at its snapshot.
  returned: always, once both sides were compared
  type: str
exact:
  description: Whether both snapshots stand for exactly RV(lsn), so that every difference is one and none is lag.
  returned: always, once both sides were compared
  type: bool
indexes:
  description: What O(check_indexes) found on the target.
  returned: when O(check_indexes) is true
  type: dict
  contains:
    checked:
      description: Number of indexes looked at.
      type: int
    broken:
      description: Damaged indexes, each with C(index), C(table) and C(problem).
      type: list
      elements: dict
hash:
  description: Hash on which both servers agreed.
  returned: always, once both sides were compared
  type: str
mode:
  description: What was compared.
  returned: always, once both sides were compared
  type: str
seconds:
  description: Time spent on all.
  returned: always, once both sides were compared
  type: float
left_behind:
  description: Columns of the target that have no counterpart, one sentence each.
  returned: always, once both sides were compared
  type: list
  elements: str
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils._ansible import endpoint_options, fail, selection_options
from ..module_utils.transfer import ledger, rest_verify, session
from ..module_utils.transfer.endpoint import Endpoint
from ..module_utils.transfer.errors import TransferError
from ..module_utils.transfer.moment import PAIRINGS
from ..module_utils.transfer.selection import Selection
from ..module_utils.transfer.stream import state
from ..module_utils.transfer.stream.proof import verify_following
from ..module_utils.transfer.verify import MODES, Difference, VerifiedTable, VerifyResult, verify


def row_of(difference: Difference) -> dict[str, t.Any]:
    """A difference without the fields that do not apply to it."""
    found: dict[str, t.Any] = {"key": dict(difference.key)} if difference.key is not None else {"row": difference.row}
    if difference.columns:
        found["columns"] = list(difference.columns)
    if difference.copies is not None:
        found["copies"] = list(difference.copies)
    return found


def table_of(table: VerifiedTable) -> dict[str, t.Any]:
    """A table as plain data."""
    plain = {item.name: getattr(table, item.name) for item in dataclasses.fields(table)}
    for kind in ("missing", "extra", "changed"):
        plain[kind] = [row_of(one) for one in plain[kind]]
    return plain


def summary(result: VerifyResult) -> str:
    """The differing tables in one sentence, at most five by name."""
    wrong = [table for table in result.tables if not table.equal]
    named = [f"{one.name} ({one.missing_count} missing, {one.extra_count} extra, {one.changed_count} changed)" for one in wrong[:5]]
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    told = [f"{len(wrong)} of {len(result.tables)} tables differ: {', '.join(named)}{more}"] if wrong else []
    objects = result.large_objects
    if objects and not objects.equal:
        told.append(f"large objects differ: {objects.missing_count} missing, {objects.extra_count} extra, {objects.changed_count} changed")
    if result.indexes and result.indexes.broken:
        listed = ", ".join(f"{one.index} ({one.problem})" for one in result.indexes.broken[:5])
        told.append(f"{len(result.indexes.broken)} of {result.indexes.checked} indexes of the target are damaged: {listed}")
    return "; ".join(told)


def run(params: dict[str, t.Any]) -> VerifyResult:
    """Compare as the arguments say."""
    source, target = Endpoint.from_args(params["source"]), Endpoint.from_args(params["target"])
    if source.rest is not None:
        selection = Selection.from_args(params["include"], params["exclude"], params["rename"], source.flavour)
        return rest_verify.verify(
            source, target, selection, mode=params["mode"], workers=params["workers"] or 2, max_reported=params["max_reported"]
        )
    keys: dict[str, list[tuple[str, ...]]] = {}
    if params["mode"] == "dirty":
        with session.connect(target, application_name="cutover verify keys", read_only=True) as conn:
            keys = ledger.read_dirty(conn, params["dirty_from"])
    selection = Selection.from_args(params["include"], params["exclude"], params["rename"], source.flavour)
    options: dict[str, t.Any] = {
        "workers": params["workers"],
        "max_reported": params["max_reported"],
        "hash": None if params["hash"] == "auto" else params["hash"],
        "check_indexes": params["check_indexes"],
    }
    if params["pair"] == "slot" and params["mode"] == "full" and not (params["source_snapshot"] or params["target_snapshot"]):
        with session.connect(target, application_name="cutover verify stream", read_only=True) as conn:
            follows = state.read(conn, "forward") is not None and state.is_applying(conn, "forward")
        if follows:
            return verify_following(source, target, selection, **options)
    return verify(
        source,
        target,
        selection,
        mode=params["mode"],
        keys=keys,
        source_snapshot=params["source_snapshot"],
        target_snapshot=params["target_snapshot"],
        pairing=params["pair"],
        **options,
    )


def main() -> None:
    """Arguments in, verdict out."""
    module = AnsibleModule(
        argument_spec={
            "source": endpoint_options(),
            "target": endpoint_options(),
            **selection_options(),
            "mode": {"type": "str", "choices": list(MODES), "default": "full"},
            "dirty_from": {"type": "str", "default": "cutover.dirty"},
            "max_reported": {"type": "int", "default": 100},
            "workers": {"type": "int", "default": 2},
            "hash": {"type": "str", "choices": ["auto", "record", "text", "md5", "sha256"], "default": "auto"},
            "source_snapshot": {"type": "str"},
            "target_snapshot": {"type": "str"},
            "pair": {"type": "str", "choices": list(PAIRINGS), "default": "none"},
            "check_indexes": {"type": "bool", "default": False},
            "fail_on_difference": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    if session.PSYCOPG_ERROR is not None:
        module.fail_json(msg=missing_required_lib("psycopg"), exception=session.PSYCOPG_ERROR)
    try:
        result = run(module.params)
    except Exception as error:
        fail(module, error)
    for line in result.warnings:
        module.warn(line)
    plain: dict[str, t.Any] = {
        "changed": False,
        "equal": result.equal,
        "mode": result.mode,
        "hash": result.hash,
        "tables": [table_of(table) for table in result.tables],
        "lsn": result.lsn,
        "exact": result.exact,
        "seconds": result.seconds,
        "left_behind": list(result.skipped),
        "large_objects": dataclasses.asdict(result.large_objects) if result.large_objects else None,
    }
    if result.indexes is not None:
        plain["indexes"] = dataclasses.asdict(result.indexes)
    if not result.equal and module.params["fail_on_difference"]:
        remedy = "See missing, extra and changed of each table. Rows written to the source after the copy are brought over by pg_cutover."
        if result.indexes and result.indexes.broken:
            remedy += " Run REINDEX INDEX for each damaged index, and look for the cause: a failing disk, or another collation library."
        fail(module, TransferError(summary(result), remedy, kind="different"), **plain)
    module.exit_json(**plain)


if __name__ == "__main__":
    main()
