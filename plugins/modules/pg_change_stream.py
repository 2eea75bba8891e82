#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep a database in step with another one, by a service on the mover."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_change_stream
short_description: Keep a PostgreSQL database in step with another one, by a service on the mover
version_added: 0.1.0
description:
  - What one database writes is spooled on the mover's disk and applied to the other one, transaction by transaction, from days before a cutover
    (V(forward)) until the way back is given up (V(reverse)). The service comes from role P(cutover.hetzner.change_stream#role) and outlives the playbook.
  - V(started) looks at what the stream needs, makes the publication on the sending database, writes the configuration and starts the service.
  - It does not make the replication slot. M(cutover.hetzner.pg_row_copy) with O(slot) makes that of V(forward) together with the snapshot that it
    copies, and M(cutover.hetzner.pg_cutover) that of V(reverse). The service waits for it, then for the end of the copy. So start the stream first.
  - A published table without a replica identity would refuse updates and deletes on the live database. So identities are set before the publication is
    made, each in a transaction of its own that waits only shortly for its lock, and remembered in schema C(cutover) of the sending database;
    V(absent) puts every one back as it was.
  - Nothing is published that might refuse updates later. A partitioned table without a primary key is published partition by partition, and a table
    that cannot be streamed safely is left out; RV(not_streamed) says what happens to it instead.
  - Restarting the service, the mover or either server loses nothing and applies nothing twice.
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
  - cutover.hetzner.endpoint
attributes:
  check_mode:
    support: full
    details: Looks at both databases and at the machine, says what would be done, and opens read-only sessions only.
  diff_mode:
    support: full
    details: Publication, replica identities, configuration without secrets, slot and service.
  idempotent:
    support: full
    details: V(started) restarts a stream that stands still because somebody has to mend something, and only that one.
options:
  state:
    description:
      - V(started) publishes, configures and starts, now and at boot.
      - V(stopped) stops the service until it is started again or the machine boots. The slot stays, and the sending server keeps its log for it.
      - V(absent) stops the service, drops slot and publication, puts replica identities back, removes configuration, spool and the stream's row.
      - V(status) changes nothing, and tells what can be seen even when the service or one of the databases is down.
    type: str
    choices: [started, stopped, absent, status]
    default: started
  direction:
    description:
      - V(forward) has O(source) send and O(target) receive, V(reverse) the other way round. All other options mean the same in both.
      - Start V(reverse) before the cutover; it waits for the slot that the cutover makes.
    type: str
    choices: [forward, reverse]
    default: forward
  slot:
    description: Name of the replication slot on the sending server. By default V(cutover_forward) or V(cutover_reverse).
    type: str
  publication:
    description:
      - Name of the publication on the sending database.
      - One of that name that somebody else has made is used when it publishes all that is selected, is never changed, and stays when the stream is
        V(absent).
    type: str
    default: cutover
  full_identity:
    description:
      - Whether a table without a primary key and without a unique index of columns that are never null may get C(REPLICA IDENTITY FULL), so that it
        can be streamed. Every update and delete of it then logs the whole old row.
      - Without it such a table is brought over while writes are stopped.
    type: bool
    default: true
  home:
    description: Folder of the spools, made by role P(cutover.hetzner.change_stream#role). Its owner is the user of the service.
    type: path
    default: /var/lib/cutover-stream
  config_dir:
    description: Folder of the configurations, from the same role.
    type: path
    default: /etc/cutover
  unit:
    description: The service. By default V(cutover-stream@forward.service) or V(cutover-stream@reverse.service).
    type: str
  metrics_port:
    description: Port of the loopback address on which the service offers its figures for Prometheus. By default nowhere.
    type: int
  wait:
    description:
      - What V(started) waits for. V(spooling) until the sender's changes reach the mover's disk, V(caught_up) until no more than O(max_lag_bytes) of its
        log is missing on the receiver.
      - Neither can be reached before the slot exists, so V(none) is right for the first start.
    type: str
    choices: [none, spooling, caught_up]
    default: none
  timeout:
    description: Seconds to wait. A stream that stands still because somebody has to mend something ends the wait at once.
    type: float
    default: 300
  max_lag_bytes:
    description: With no more of the sender's log missing the stream has caught up. A server's own housekeeping writes some, too.
    type: int
    default: 1048576
  mend:
    description:
      - Tables whose rows V(started) makes equal after it has waited, as O(source) calls them, with C(*) and C(?).
      - The stream stands at one position for as long as they are compared and what differs is replaced, while the sender is written to; then it goes on.
        For rows that somebody has changed on the receiving side, and for partitions that were truncated, attached or detached. It needs a stream that
        runs, so it is no help where one stands still.
    type: list
    elements: str
    default: []
  force:
    description:
      - Remove the stream back although the target is in service; there is no way back without loss then.
      - Remove what can be reached although one database cannot. What is left there is said in a warning.
    type: bool
    default: false
  progress_path:
    description:
      - File that is replaced about twice a second by one line of JSON that says how far the stream is, while V(started) waits. Left in place at the end.
      - By default a file in a temporary folder, removed at the end, where progress is shown. A file that cannot be written is only warned of.
    type: path
seealso:
  - module: cutover.hetzner.pg_preflight
  - module: cutover.hetzner.pg_row_copy
  - module: cutover.hetzner.pg_row_verify
  - module: cutover.hetzner.pg_cutover
"""

EXAMPLES = r"""
- name: Capture what is written from now on
  cutover.hetzner.pg_change_stream:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    exclude: ["public.scratch_*"]

- name: Copy under the slot that the stream reads
  cutover.hetzner.pg_row_copy:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    exclude: ["public.scratch_*"]
    slot: cutover_forward

- name: Wait until both databases are in step
  cutover.hetzner.pg_change_stream:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    exclude: ["public.scratch_*"]
    wait: caught_up
    timeout: 3600

- name: Have the way back ready before the cutover
  cutover.hetzner.pg_change_stream:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    exclude: ["public.scratch_*"]
    direction: reverse

- name: Look how far it is
  cutover.hetzner.pg_change_stream:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    state: status
  register: stream

- name: Bring over what differs in one table, with the stream running
  cutover.hetzner.pg_change_stream:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    wait: caught_up
    mend: [public.orders]

- name: Remove it, with every replica identity as before
  cutover.hetzner.pg_change_stream:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    state: absent
"""

RETURN = r"""
state:
  description: started while the service runs, stopped while something of the stream is left, else absent.
  returned: success
  type: str
  sample: started
lag_bytes:
  description: Log of the sending server that is not in the receiving database. Null when it cannot be known.
  returned: unless O(state=absent)
  type: int
health:
  description:
    - The worst that holds, of failed, receiver_down, applier_down, what one of the two waits for, in_danger (of the slot being given up) and
      streaming. As RV(state) while the service does not run.
  returned: unless O(state=absent)
  type: str
lag_seconds:
  description: How old the contents of the receiving database are. 0 when nothing is missing that has reached the mover.
  returned: unless O(state=absent)
  type: float
rate:
  description: Bytes of the sending server's log applied per second, measured over a second. Null when nothing is missing or it is not applying.
  returned: unless O(state=absent)
  type: float
write_rate:
  description: Bytes that the sending server's log grows by per second, measured at the same time.
  returned: unless O(state=absent)
  type: float
eta_seconds:
  description: Seconds until nothing is missing, at these rates. Null when it is not known, or the sender writes faster than is applied.
  returned: unless O(state=absent)
  type: float
slot:
  description:
    - C(name), C(exists), C(active) (somebody reads it), C(wal_status), C(retained_bytes) (log that the server holds for it), C(safe_wal_bytes) (log that
      may still be written before the server gives it up, null without a limit), C(confirmed_lsn).
    - Null when the sending server was not reached.
  returned: unless O(state=absent)
  type: dict
received_lsn:
  description: Position that has reached the mover.
  returned: unless O(state=absent)
  type: str
spooled_lsn:
  description: Position up to which everything is on the mover's disk.
  returned: unless O(state=absent)
  type: str
applied_lsn:
  description: End of the last transaction that is in the receiving database.
  returned: unless O(state=absent)
  type: str
transactions:
  description: Transactions applied since the stream began.
  returned: unless O(state=absent)
  type: int
changes:
  description: Changes of rows applied since the stream began.
  returned: unless O(state=absent)
  type: int
receiver:
  description: State of the process that spools, as waiting_for_slot, streaming, in_danger (of the slot being given up), reconnecting, disk_full, failed.
  returned: unless O(state=absent)
  type: str
applier:
  description: State of the process that applies, as waiting_for_copy, waiting_for_begin, applying, idle, held, fenced, paused, reconnecting, failed.
  returned: unless O(state=absent)
  type: str
detail:
  description: What it waits for, in words.
  returned: unless O(state=absent)
  type: str
problem:
  description: Why the stream stands still or has to try again, with C(kind), C(message), C(remedy) and facts. Null when nothing is wrong.
  returned: unless O(state=absent)
  type: dict
unit:
  description: C(name), C(active), C(enabled) and C(restarts) of the service.
  returned: unless O(state=absent)
  type: dict
unseen:
  description: What could not be looked at, and why, one sentence each.
  returned: unless O(state=absent)
  type: list
  elements: str
streamed:
  description: Tables in the stream, as the sending database calls them; a partitioned table stands for its partitions.
  returned: unless O(state=absent)
  type: list
  elements: str
not_streamed:
  description: Selected objects that are not in the stream.
  returned: unless O(state=absent)
  type: list
  elements: dict
  contains:
    object:
      description: Schema and name.
      type: str
    reason:
      description: Why, and what happens to it instead.
      type: str
identities:
  description: Replica identities that were set, or would be, as C(table, before, after) in one line each.
  returned: when O(state=started)
  type: list
  elements: str
mended:
  description: Tables in which rows were replaced.
  returned: when O(mend) is given, unless in check mode
  type: list
  elements: dict
  contains:
    name:
      description: Schema and name, as the sending database calls it.
      type: str
    ranges:
      description: Ranges of rows that differed.
      type: int
    rows_deleted:
      description: Rows of these ranges on the receiving side before.
      type: int
    rows_copied:
      description: Rows of these ranges from the sending side.
      type: int
drift:
  description: What has moved since the publication was made, of C(new), C(identity), C(dropped) and C(renamed) tables.
  returned: unless O(state=absent)
  type: dict
"""

import dataclasses
import pathlib
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils._ansible import endpoint_options, fail, progress_writer, selection_options
from ..module_utils.transfer import session
from ..module_utils.transfer.endpoint import Endpoint
from ..module_utils.transfer.selection import Selection
from ..module_utils.transfer.stream import config_file, control, prerequisites
from ..module_utils.transfer.stream.config import Config


def main() -> None:
    """Arguments in, one state reached, result out."""
    module = AnsibleModule(
        argument_spec={
            "source": endpoint_options(),
            "target": endpoint_options(),
            **selection_options(),
            "state": {"type": "str", "choices": ["started", "stopped", "absent", "status"], "default": "started"},
            "direction": {"type": "str", "choices": ["forward", "reverse"], "default": "forward"},
            "slot": {"type": "str"},
            "publication": {"type": "str", "default": "cutover"},
            "full_identity": {"type": "bool", "default": True},
            "home": {"type": "path", "default": "/var/lib/cutover-stream"},
            "config_dir": {"type": "path", "default": "/etc/cutover"},
            "unit": {"type": "str"},
            "metrics_port": {"type": "int"},
            "wait": {"type": "str", "choices": ["none", "spooling", "caught_up"], "default": "none"},
            "timeout": {"type": "float", "default": 300},
            "max_lag_bytes": {"type": "int", "default": 1048576},
            "mend": {"type": "list", "elements": "str", "default": []},
            "force": {"type": "bool", "default": False},
            "progress_path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if session.PSYCOPG_ERROR is not None:
        module.fail_json(msg=missing_required_lib("psycopg"), exception=session.PSYCOPG_ERROR)

    def run(command: list[str]) -> tuple[int, str, str]:
        try:
            code, out, err = module.run_command(command, handle_exceptions=False)
        except OSError as error:
            return 127, "", str(error)
        return int(code), str(out), str(err)

    try:
        wish = dataclasses.replace(wished(module.params), tell=progress_writer(module))
        state = module.params["state"]
        if state == "status":
            done = control.status(wish, run)
        else:
            reach = {"started": control.started, "stopped": control.stopped, "absent": control.absent}[state]
            done = reach(wish, run, module.check_mode)
    except Exception as error:
        fail(module, error)
    for line in done.warnings:
        module.warn(line)
    result = {"changed": done.changed, **done.facts}
    if module._diff:
        result["diff"] = {side: "".join(f"{line}\n" for line in lines) for side, lines in (("before", done.before), ("after", done.after))}
    module.exit_json(**result)


def wished(params: dict[str, t.Any]) -> control.Wish:
    """What the arguments ask for. Raises TransferError."""
    source, target, direction = Endpoint.from_args(params["source"]), Endpoint.from_args(params["target"]), params["direction"]
    for endpoint in (source, target):
        prerequisites.refuse_rest(endpoint)
    selection = Selection.from_args(params["include"], params["exclude"], params["rename"], source.flavour)
    home = pathlib.Path(params["home"])
    spool, path = config_file.paths(direction, home, pathlib.Path(params["config_dir"]))
    config = Config(
        direction=direction,
        source=source,
        target=target,
        slot=params["slot"] or f"cutover_{direction}",
        publication=params["publication"],
        spool=spool,
        include=selection.include,
        exclude=selection.exclude,
        rename=selection.rename,
        flavour=selection.flavour,
        metrics_port=params["metrics_port"],
    )
    # The file is read by the service much later: what it would refuse is refused now.
    Config.from_args(config_file.arguments(config))
    return control.Wish(
        config=config,
        path=path,
        unit=params["unit"] or f"cutover-stream@{direction}.service",
        home=home,
        full_identity=params["full_identity"],
        wait=params["wait"],
        timeout=params["timeout"],
        max_lag_bytes=params["max_lag_bytes"],
        force=params["force"],
        mend=tuple(params["mend"]),
    )


if __name__ == "__main__":
    main()
