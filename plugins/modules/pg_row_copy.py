#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Consistent, parallel, resumable copy of rows between two PostgreSQL databases."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_row_copy
short_description: Copy the rows of a PostgreSQL database into another and build their indexes, under one snapshot and in parallel
version_added: 0.1.0
description:
  - Copies the rows of all selected tables into tables that exist and are empty, C(COPY) to C(COPY) without looking at the rows, all
    workers under one snapshot of the source. Large tables are cut into pieces by integer key or by blocks.
  - Each piece is one transaction on the target that holds its rows and its entry in the ledger (schema C(cutover) of the target). A run
    that was interrupted at any point, even killed, is continued by the next one. Pieces that are done are kept while the snapshot lives;
    without it the tables that were not finished are emptied and copied again, and RV(consistent) says whether all tables show one moment.
  - Indexes, primary keys, unique and exclusion constraints that the target lacks are built by the same workers, each table's as soon as its rows
    are in and while those of others still move; then its statistics are gathered. What carries the longest way to the end is begun first. An
    index that cannot be built, because of duplicates for example, is named after everything else is done. Left to
    M(cutover.hetzner.pg_schema_transfer) are foreign keys, indexes of partitioned tables themselves, and whatever O(rename) touches.
  - A table that is copied in one piece is emptied and filled in one transaction with C(FREEZE), where foreign keys and privileges allow it, so
    that its rows need no later C(VACUUM).
  - Refused before anything is written are a target table that holds rows which no copy has brought, tables or columns that the target
    lacks, a ledger of another source, and a second mover.
  - A worker needs little memory whatever the size of a row, where neither connection is encrypted. With TLS it needs about three times the size of
    the longest row.
  - With C(source.rest) the rows come page by page in the order of their key, every value as text, and are read again as a whole until nothing has
    moved. Tables without a primary key need C(source.rest.unique). No indexes are made. See C(docs/rest.md).
  - Triggers and foreign keys of the target do not fire. Generated columns are computed by the target. Sequences are not set.
  - 'While it runs, lines show how far it is: rows, bytes, percent, rate and time left, and one line for each table in flight; on a terminal
    every second at first, else every five, later less often. Not in check mode, with C(async), with C(no_log), and over connections other
    than V(ssh) and V(local). Percent and time left are estimates from sizes on disk.'
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
  - cutover.hetzner.endpoint
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
  idempotent: {support: full}
options:
  workers:
    description:
      - Pieces copied or indexes built at a time, each by a process with one session on either side. Two more sessions hold snapshot and ledger.
      - By default as many as the machine that runs this has processors, at least two.
    type: int
  chunk_bytes:
    description: Size of a piece in bytes on the source's disk. Smaller ones lose less when a run is interrupted.
    type: int
    default: 268435456
  indexes:
    description:
      - Whether to build indexes, their constraints, and foreign keys between tables that both move under their own names. They need tables that the
        target's role owns.
      - A foreign key that the rows break is told in a warning; M(cutover.hetzner.pg_schema_transfer) fails for it.
    type: bool
    default: true
  maintenance_work_mem:
    description:
      - Memory of the target for building one index at most, times O(workers). With a unit of V(kB), V(MB) or V(GB).
      - Most builds get less of it, since they are faster with what the processor's cache holds. GIN indexes get 16 MB, B-trees as much as one pass of
        merging needs, 16 MB for an index of 100 MB and 150 MB for one of 10 GB.
    type: str
    default: 512MB
  toast_compression:
    description:
      - How the target compresses long values of columns that name no method of their own. V(lz4) is several times as fast as V(pglz) for nearly the
        same size, and needs a server built with it.
      - V(auto) is V(lz4) where the target has it and nobody has set C(default_toast_compression) there. V(server) is the target's setting.
    type: str
    choices: [auto, lz4, pglz, server]
    default: auto
  snapshot:
    description: Snapshot to copy, exported by a session that stays open until the copy ends. By default a new one.
    type: str
  snapshot_lsn:
    description: Position in the source's write-ahead log that belongs to O(snapshot), as its exporter told. Noted in the ledger.
    type: str
  slot:
    description:
      - Name of a logical replication slot (plugin C(pgoutput)) that is made before the copy and whose snapshot is copied, so that changes can be
        applied from there on. RV(tables[].snapshot_lsn) is exact then. Needs the replication right and a free slot on the source.
      - Give the same name in every run. When the snapshot is lost, tables that are done keep their position, the others are copied under the snapshot
        of a temporary slot and have a later one. A slot that the source has given up stops the run with kind V(slot_lost).
      - The slot stays and holds back the source's log until it is read or dropped.
    type: str
  connections:
    description:
      - Sessions on the source that this run may have at most. Three of them are not workers'. Fewer workers are warned of.
      - By default what the server has free, less three for others; through Supabase's session pooler 12 of its 15.
    type: int
  join:
    description:
      - Work for the run of another mover, on another machine for example, under its snapshot and ledger until nothing of it is left. Waits up to a
        minute for it to begin. The first mover waits for all that have joined.
      - Without this a second mover is refused by name. When the first mover dies, those that have joined end with kind V(snapshot_lost), and its next
        run continues.
    type: bool
    default: false
  progress_path:
    description:
      - File that is replaced about once a second by one line of JSON that says how far the copy is. Left in place at the end.
      - By default a file in a temporary folder, removed at the end, where progress is shown. A file that cannot be written is only warned of.
    type: path
seealso:
  - module: cutover.hetzner.pg_schema_transfer
  - module: cutover.hetzner.pg_row_verify
"""

EXAMPLES = r"""
- name: Copy everything but scratch tables
  cutover.hetzner.pg_row_copy:
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
    exclude: ["public.scratch_*"]
    workers: 6
    progress_path: /var/lib/cutover/copy.json
  register: copied
"""

RETURN = r"""
tables:
  description: Every selected table.
  returned: success
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
      description: Rows copied, by this run and earlier ones.
      type: int
    bytes:
      description: Bytes sent for them.
      type: int
    seconds:
      description: Time spent on its pieces, added up over the workers.
      type: float
    resumed:
      description: Whether the table was finished by an earlier run.
      type: bool
    snapshot_lsn:
      description: Position in the source's log of the snapshot that the table shows.
      type: str
    counted_before:
      description: Rows that a REST source counted before its pages were read; empty when it gave up counting or the table was done before.
      type: int
    counted_after:
      description: The same after the last pass.
      type: int
    passes:
      description: How often a table of a REST source was read again as a whole.
      type: int
    moved:
      description: Rows of a REST source that these passes brought over, changed or removed.
      type: int
rows:
  description: Rows in all tables.
  returned: success
  type: int
bytes:
  description: Bytes sent for all tables, by this run and earlier ones.
  returned: success
  type: int
moved_bytes:
  description: Bytes sent by this run.
  returned: success
  type: int
seconds:
  description: Length of this run.
  returned: success
  type: float
mb_per_s:
  description: Millions of bytes sent per second of this run.
  returned: success
  type: float
snapshot_lsn:
  description: Position in the source's log of the snapshot used last. Exact only for a snapshot that came with a replication slot.
  returned: success
  type: str
resumed:
  description: Whether an earlier run had done a part.
  returned: success
  type: bool
consistent:
  description: Whether all tables show one moment of the source. Never with a REST source.
  returned: success
  type: bool
indexes:
  description: Indexes made by this run; in check mode those that would be.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    table:
      description: Schema and name of its table.
      type: str
    method:
      description: Its access method.
      type: str
    constraint:
      description: Whether a constraint was added on it.
      type: bool
    seconds:
      description: Time that the index took.
      type: float
workers:
  description: Workers that there was room for.
  returned: success
  type: int
large_objects:
  description: Large objects copied, by this run and earlier ones.
  returned: success, but with a REST source
  type: dict
  contains:
    count:
      description: How many.
      type: int
    bytes:
      description: Their size.
      type: int
page_rows:
  description: Rows of the largest page that a REST source sent.
  returned: success, with a REST source
  type: int
requests:
  description: Requests to a REST source in this run.
  returned: success, with a REST source
  type: int
retries:
  description: How many of them had to be repeated.
  returned: success, with a REST source
  type: int
left_behind:
  description: Columns of the target that have no counterpart, and what a REST source cannot show, one sentence each.
  returned: success
  type: list
  elements: str
"""

import dataclasses
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils._ansible import endpoint_options, fail, progress_writer, selection_options
from ..module_utils.transfer import rest_copy, session
from ..module_utils.transfer.chunks import CHUNK_BYTES
from ..module_utils.transfer.copy import COMPRESSIONS, MEMORY, CopyResult, copy
from ..module_utils.transfer.endpoint import Endpoint
from ..module_utils.transfer.progress import as_text
from ..module_utils.transfer.selection import Selection


def main() -> None:
    """Arguments in, rows over, result out."""
    module = AnsibleModule(
        argument_spec={
            "source": endpoint_options(),
            "target": endpoint_options(),
            **selection_options(),
            "workers": {"type": "int"},
            "chunk_bytes": {"type": "int", "default": CHUNK_BYTES},
            "indexes": {"type": "bool", "default": True},
            "maintenance_work_mem": {"type": "str", "default": MEMORY},
            "toast_compression": {"type": "str", "choices": list(COMPRESSIONS), "default": COMPRESSIONS[0]},
            "snapshot": {"type": "str"},
            "snapshot_lsn": {"type": "str"},
            "slot": {"type": "str"},
            "connections": {"type": "int"},
            "join": {"type": "bool", "default": False},
            "progress_path": {"type": "path"},
        },
        required_by={"snapshot_lsn": "snapshot"},
        mutually_exclusive=[("slot", "snapshot"), ("slot", "join"), ("snapshot", "join")],
        supports_check_mode=True,
    )
    if session.PSYCOPG_ERROR is not None:
        module.fail_json(msg=missing_required_lib("psycopg"), exception=session.PSYCOPG_ERROR)
    params: dict[str, t.Any] = module.params
    write = progress_writer(module)
    try:
        source, target = Endpoint.from_args(params["source"]), Endpoint.from_args(params["target"])
        selection = Selection.from_args(params["include"], params["exclude"], params["rename"], source.flavour)
        tell = (lambda progress: write(as_text(progress))) if write else None
        done: CopyResult | rest_copy.RestCopyResult
        if source.rest is not None:
            rest_copy.refuse_options(snapshot=params["snapshot"], slot=params["slot"], join=params["join"])
            done = rest_copy.copy(source, target, selection, workers=params["workers"], progress=tell, check=module.check_mode)
        else:
            done = copy(
                source,
                target,
                selection,
                workers=params["workers"],
                chunk_bytes=params["chunk_bytes"],
                snapshot=params["snapshot"],
                snapshot_lsn=params["snapshot_lsn"],
                indexes=params["indexes"],
                maintenance_work_mem=params["maintenance_work_mem"],
                toast_compression=params["toast_compression"],
                slot=params["slot"],
                connections=params["connections"],
                join=params["join"],
                progress=tell,
                check=module.check_mode,
            )
    except Exception as error:
        fail(module, error)
    for line in done.warnings:
        module.warn(line)
    result = dataclasses.asdict(done)
    del result["warnings"]
    # A result called "skipped" would make Ansible show the whole task as skipped.
    result["left_behind"] = result.pop("skipped")
    if module._diff:
        lines = [f"{table.name} -> {table.target}" for table in done.tables if not table.resumed] if done.changed else []
        lines += [f"{index.table}: {index.name}" for index in done.indexes]
        result["diff"] = {"before": "", "after": "".join(f"{line}\n" for line in lines)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
