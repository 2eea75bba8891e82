#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Switch from one PostgreSQL database to another, and back, without losing an acknowledged write."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_cutover
short_description: Switch from one PostgreSQL database to another, and back, without losing an acknowledged write
version_added: 0.1.0
description:
  - V(cut_over) freezes the source in one transaction, brings over what the target has not seen, sets the sequences, proves that both sides
    hold the same rows, and opens the target with the commit that also records it.
  - Where a change stream runs (M(cutover.hetzner.pg_change_stream)) the rest is only what it is behind by, the proof looks at the rows that
    were touched since M(cutover.hetzner.pg_row_verify) has last proven all of them, and a stream the other way begins before the target
    takes its first write. Without one the rest is found by comparing both sides, and writes stop for as long as that takes.
  - Any failure before that commit puts the source back into service at once, with its privileges as before; the target stays closed.
  - V(rolled_back) is the same with source and target exchanged, so rows that the target has taken are in the source before it opens.
  - Reads are served on both sides the whole time. At every moment at most one side accepts writes.
  - What was decided is recorded in schema C(cutover) of the target; a second run with the same O(state) returns what was recorded.
author: cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
  - cutover.hetzner.endpoint
attributes:
  check_mode:
    support: full
    details: Checks what can be checked beforehand and returns the steps with expected durations.
  diff_mode: {support: none}
  idempotent: {support: full}
options:
  state:
    description:
      - V(frozen) and V(thawed) stop writes on O(side) and let them pass again, nothing else.
      - V(cut_over) puts the target into service, V(rolled_back) the source again.
      - V(finalized) removes everything that the move left in both databases. There is no way back afterwards, and the source accepts
        writes again; take its address away from every client before.
    type: str
    choices: [frozen, thawed, cut_over, rolled_back, finalized]
    required: true
  side:
    description: Which side O(state=frozen) and O(state=thawed) are about. The target is closed this way from schema transfer to cutover.
    type: str
    choices: [source, target]
    default: source
  deadline:
    description: Seconds for the whole, from the pause of O(poolers) or the freeze on. When they have passed, the side in service is thawed.
    type: float
    default: 300
  step_deadlines:
    description:
      - Seconds for single steps, of C(pause), C(freeze), C(drain), C(rest), C(sequences), C(proof), C(reverse), C(record), C(open).
    type: dict
    default: {}
  lock_timeout_ms:
    description: How long one attempt to stop all writers may make them wait, in milliseconds.
    type: int
    default: 2000
  retries:
    description: Further attempts when sessions hold locks. The sessions are named when all fail.
    type: int
    default: 10
  workers:
    description: Parallel sessions for rest and proof.
    type: int
    default: 4
  api_roles:
    description: Roles whose write grants are revoked during the freeze as a second guard. V(PUBLIC) may be among them.
    type: list
    elements: str
    default: [anon, authenticated, service_role, authenticator]
  method:
    description:
      - How the rest gets over. V(auto) is by the change stream where one was begun.
      - V(copy_under_freeze) compares both sides although a stream runs, which holds from then on. The way back then has no stream either, and later
        switches need the same method, until the streams are made absent and begun anew.
    type: str
    choices: [auto, change_stream, copy_under_freeze]
    default: auto
  max_lag_bytes:
    description: How many bytes of the log the change stream may be behind when writes are to stop. Behind more than that nothing is begun.
    type: int
    default: 16777216
  rehearse:
    description:
      - Do everything but the switch, with writes stopped for as long as it takes, then let the side in service go on.
      - The result is that of the switch, with C(state) V(rehearsed); nothing is recorded.
    type: bool
    default: false
  afterwards:
    description:
      - What is compared once the other side serves, of what both held when it opened.
      - V(counts) are the numbers of rows of every table, V(full) every value. A difference fails the task; service stays where it is.
      - Only for a switch by change stream; otherwise everything was compared while writes were stopped.
    type: str
    choices: [none, counts, full]
    default: counts
  way_back_slot:
    description: Replication slot of the stream the other way, on the side that opens. It is made if it is not there.
    type: str
    default: cutover_reverse
  way_back_publication:
    description: Publication of the stream the other way, made by M(cutover.hetzner.pg_change_stream) with C(direction) V(reverse).
    type: str
    default: cutover
  poolers:
    description:
      - PgBouncers between the clients and the databases. They are paused before writes stop, so that clients wait instead of failing, then pointed
        to the side that opened and resumed. After any failure they are resumed where they were, also by V(thawed).
      - A pooler must let transactions end to be paused, so use O(poolers) with C(pool_mode=transaction). Clients wait at most for the pooler's
        C(query_wait_timeout).
      - Give the same list to V(rolled_back).
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Address of the pooler, or the folder of its socket.
        type: str
        required: true
      port:
        description: Its port.
        type: int
        default: 6432
      user:
        description: One of its C(admin_users).
        type: str
        required: true
      password:
        description: Of that user.
        type: str
      sslmode:
        description: As libpq has it.
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
        default: prefer
      database:
        description: Entry of C([databases]) that the clients use, with a line of its own.
        type: str
        required: true
      file:
        description: File with that line, on the machine where this module runs. The line is rewritten and the pooler reloads.
        type: path
      source:
        description: What the line says for the source, such as V(host=192.0.2.7 port=5432 dbname=app). With O(poolers[].file).
        type: str
      target:
        description: What the line says for the target.
        type: str
      command:
        description:
          - Program with arguments that points the pooler to a side instead of O(poolers[].file), for a pooler on another machine. C(CUTOVER_SIDE)
            in its environment is V(source) or V(target). The pooler reloads afterwards. It must end within 15 s, while clients wait.
        type: list
        elements: str
  pause_seconds:
    description: How long transactions that run may take to end when O(poolers) are paused. After that the switch is given up and clients go on.
    type: float
    default: 5
  force:
    description: Finalize although nothing was cut over, or freeze or thaw a side against what is recorded.
    type: bool
    default: false
seealso:
  - module: cutover.hetzner.pg_change_stream
  - module: cutover.hetzner.pg_row_copy
  - module: cutover.hetzner.pg_row_verify
"""

EXAMPLES = r"""
- name: Keep the target closed until it is opened
  cutover.hetzner.pg_cutover:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    state: frozen
    side: target

- name: Show what the switch would do and how long it would take
  cutover.hetzner.pg_cutover:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    state: cut_over
  check_mode: true

- name: Switch, with the writes stopped for at most two minutes
  cutover.hetzner.pg_cutover:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    state: cut_over
    deadline: 120
    step_deadlines:
      freeze: 30
  register: cutover

- name: Do everything but the switch, a day before
  cutover.hetzner.pg_cutover:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    state: cut_over
    rehearse: true

- name: Switch while the clients of a pooler wait
  cutover.hetzner.pg_cutover:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    state: cut_over
    poolers:
      - host: 10.0.0.4
        user: admin
        password: "{{ pooler_password }}"
        database: app
        file: /etc/pgbouncer/databases.ini
        source: host=192.0.2.7 port=5432 dbname=postgres
        target: host=10.0.0.21 port=5432 dbname=app

- name: Go back with everything that was written meanwhile
  cutover.hetzner.pg_cutover:
    source: "{{ migration.source }}"
    target: "{{ migration.target }}"
    state: rolled_back
"""

RETURN = r"""
state:
  description: What holds now.
  returned: success
  type: str
steps:
  description:
    - Steps in order. In check mode C(expected_seconds) and C(bytes) take the place of C(started) and C(seconds).
    - C(expected_seconds) is estimated from the speed of this move's copy for rest and proof, from the lag and the touched rows for drain and
      proof of a change stream, and null for the others.
  returned: when O(state) is V(cut_over) or V(rolled_back), also on failure
  type: list
  elements: dict
  contains:
    name:
      description:
        - pause (with O(poolers)), freeze, drain (with a change stream), rest, sequences, proof, reverse (with one), open; record before open on the
          way back.
      type: str
    started:
      description: ISO-8601 UTC with milliseconds.
      type: str
    seconds:
      description: Duration.
      type: float
write_stop_seconds:
  description: From the moment the first writer had to wait until the other side was open.
  returned: when O(state) is V(cut_over) or V(rolled_back)
  type: float
poolers:
  description: C(count) of them, and C(wait_seconds) from the moment when the first client had to wait until the last could go on.
  returned: when there are O(poolers) and a side was opened
  type: dict
ahead:
  description:
    - What was compared before writes stopped, so that the proof under the freeze is short. C(keys) looked at in C(rounds), C(seconds), and
      C(problem), why that ended early.
  returned: when a change stream brought the rest
  type: dict
fence:
  description: C(id) and C(lsn) of the message in the WAL of the side that was frozen, after its last write.
  returned: unless O(state) is V(thawed) or V(finalized)
  type: dict
proof:
  description:
    - C(equal), C(mode), C(hash), C(table_count), C(rows) and C(seconds) of the verification under the freeze.
    - C(tables) is a list with C(name), C(target), C(rows), C(missing_count), C(extra_count), C(changed_count), C(checksum) and C(seconds) of each.
    - C(large_objects) has C(compared), false where they are excluded, C(count), C(bytes) and C(seconds).
    - With a change stream C(mode) is V(dirty) and C(keys) the number of touched rows since C(since), an LSN of the side that was frozen, where all
      rows were proven equal; C(compared) of a table are the rows that were compared, C(rows) all of its rows, counted afterwards. Without such
      a proof C(mode) is V(full).
  returned: when O(state) is V(cut_over) or V(rolled_back)
  type: dict
resync:
  description:
    - C(ranges), C(rows), C(rows_deleted) and C(tables) that were brought over under the freeze.
    - C(large_objects) has the numbers C(created), C(changed), C(deleted), and C(bytes) sent for them.
  returned: when O(state) is V(cut_over) or V(rolled_back)
  type: dict
sequences:
  description: C(count), C(set), and those C(ahead) on the other side, which stay there.
  returned: when O(state) is V(cut_over) or V(rolled_back)
  type: dict
way_back:
  description: C(slot), C(lsn) and C(direction) of the stream that began before the first write on the side that opened.
  returned: when a change stream brought the rest
  type: dict
afterwards:
  description: C(mode), C(equal), C(rows), C(seconds) and names of C(differing) tables of the comparison once the other side served.
  returned: when a change stream brought the rest
  type: dict
method:
  description: How the rest was brought over.
  returned: when O(state) is V(cut_over) or V(rolled_back)
  type: str
  sample: copy_under_freeze
deferred:
  description:
    - What must act on one side only and has waited for the target to serve, of event triggers, publications, webhooks and jobs of pg_cron. They are
      switched on after the target was opened, each once for this cutover, and off again on the way back before the source is opened. Jobs are
      stopped on the source as well, and started there again on the way back.
    - What our roles may not switch stays in the list with the statements, and is warned of. It does not fail the switch; the next run with the
      same O(state) tries again.
  returned: when O(state) is V(cut_over) or V(rolled_back)
  type: list
  elements: dict
  contains:
    kind:
      description: As in RV(cutover.hetzner.pg_schema_transfer#module:deferred).
      type: str
    object:
      description: Its name, for a trigger with its table on the target.
      type: str
    state:
      description: What holds on the target, V(on), V(off), V(waiting) for something by hand, or V(unknown).
      type: str
    statements:
      description: To be run by hand on the target; empty when all is well.
      type: list
      elements: str
    source_statements:
      description: To be run by hand on the source; empty when all is well.
      type: list
      elements: str
    problem:
      description: Why, or an empty text.
      type: str
leftover_triggers:
  description: Tables that still carry a trigger, which refuses nothing any more. V(finalized) removes them.
  returned: when a side was opened
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._ansible import endpoint_options, fail, selection_options
from ..module_utils.transfer import cutover, cutover_deferred, cutover_sides, cutover_single, endpoint, pgbouncer
from ..module_utils.transfer.endpoint import Endpoint
from ..module_utils.transfer.errors import TransferError
from ..module_utils.transfer.selection import Selection

STEPS = ("pause", "freeze", "drain", "rest", "sequences", "proof", "reverse", "record", "open")


def main() -> None:
    """Arguments in, one state reached, result out."""
    module = AnsibleModule(
        argument_spec={
            "source": endpoint_options(),
            "target": endpoint_options(),
            **selection_options(),
            "state": {"type": "str", "choices": ["frozen", "thawed", "cut_over", "rolled_back", "finalized"], "required": True},
            "side": {"type": "str", "choices": ["source", "target"], "default": "source"},
            "deadline": {"type": "float", "default": 300},
            "step_deadlines": {"type": "dict", "default": {}},
            "lock_timeout_ms": {"type": "int", "default": 2000},
            "retries": {"type": "int", "default": 10},
            "workers": {"type": "int", "default": 4},
            "api_roles": {"type": "list", "elements": "str", "default": ["anon", "authenticated", "service_role", "authenticator"]},
            "method": {"type": "str", "choices": list(cutover.METHODS), "default": "auto"},
            "max_lag_bytes": {"type": "int", "default": 16 * 1024 * 1024},
            "rehearse": {"type": "bool", "default": False},
            "afterwards": {"type": "str", "choices": ["none", "counts", "full"], "default": "counts"},
            "way_back_slot": {"type": "str", "default": "cutover_reverse"},
            "way_back_publication": {"type": "str", "default": "cutover"},
            "poolers": {"type": "list", "elements": "dict", "default": [], "options": _pooler_options()},
            "pause_seconds": {"type": "float", "default": 5},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode)
    except Exception as error:
        fail(
            module,
            error,
            **{key: value for key, value in getattr(error, "details", {}).items() if key in ("step", "steps", "thawed", "blockers")},
        )
    for line in cutover_deferred.warnings(result):
        module.warn(line)
    module.exit_json(**result)


def run(params: dict[str, t.Any], check: bool) -> dict[str, t.Any]:
    """Result of one run. Raises TransferError."""
    source, target = Endpoint.from_args(params["source"]), Endpoint.from_args(params["target"])
    selection = Selection.from_args(params["include"], params["exclude"], params["rename"], source.flavour)
    limits = {}
    for name, seconds in params["step_deadlines"].items():
        if name not in STEPS:
            raise TransferError(f"step_deadlines has an unknown step {name}", f"Use {', '.join(STEPS)}.")
        limits[name] = _positive(f"step_deadlines.{name}", seconds)
    options = cutover_sides.Options(
        deadline=_positive("deadline", params["deadline"]),
        step_deadlines=limits,
        lock_timeout_ms=int(_positive("lock_timeout_ms", params["lock_timeout_ms"])),
        retries=max(0, params["retries"]),
        workers=int(_positive("workers", params["workers"])),
        api_roles=tuple(params["api_roles"]),
        force=params["force"],
        **{name: params[name] for name in ("method", "rehearse", "afterwards", "way_back_slot", "way_back_publication")},
        poolers=pgbouncer.from_args(params["poolers"]),
        pause_seconds=_positive("pause_seconds", params["pause_seconds"]),
        max_lag_bytes=int(_positive("max_lag_bytes", params["max_lag_bytes"])),
    )
    state, side = params["state"], params["side"]
    if check:
        return cutover_single.outlook(source, target, selection, state, side, options)
    if state == "cut_over":
        return cutover.cut_over(source, target, selection, options)
    if state == "rolled_back":
        return cutover.roll_back(source, target, selection, options)
    if state == "finalized":
        return cutover_single.finalized(source, target, selection, options)
    one_side = cutover_single.frozen if state == "frozen" else cutover_single.thawed
    return one_side(source, target, selection, side, options)


def _pooler_options() -> dict[str, t.Any]:
    text = {"type": "str"}
    return {
        "host": {**text, "required": True},
        "port": {"type": "int", "default": 6432},
        "user": {**text, "required": True},
        "password": {**text, "no_log": True},
        "sslmode": {**text, "choices": list(endpoint.SSLMODES), "default": "prefer"},
        "database": {**text, "required": True},
        "file": {"type": "path"},
        "source": text,
        "target": text,
        "command": {"type": "list", "elements": "str"},
    }


def _positive(name: str, value: t.Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not number > 0:
        raise TransferError(f"{name} is {value!r}, expected a number above 0", f"Correct {name}.")
    return number


if __name__ == "__main__":
    main()
