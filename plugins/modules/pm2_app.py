#!/usr/bin/python
# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: pm2_app
short_description: PM2 processes as declared
version_added: 0.1.0
description:
  - Makes the processes of a PM2 daemon run as an ecosystem declares them. What already runs so is left alone.
  - New values in the environment, in a file named under O(inputs), or a link under O(cwd) that leads to another release are met with a
    reload; a different definition (script, mode, instances, names of variables) with a new start.
  - After every change it waits until the processes are online, that they stay so for O(settle) seconds, and that they run in the folder
    that O(cwd) leads to now; then the list is saved for the next boot.
  - Keeps the definition in O(path) so that a later call needs only O(user) and O(state).
author:
  - cutover.hetzner contributors (@cutover)
extends_documentation_fragment:
  - cutover.hetzner.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: O(state=reloaded) reloads each time.
requirements:
  - pm2 on the target
  - setpriv (util-linux), when O(user) is not the user of the connection
options:
  ecosystem:
    description:
      - The applications, as PM2 takes them, as a dictionary with the key C(apps) or as a list; or the path of an ecosystem file
        (C(.json), C(.js), C(.cjs)) on the target.
      - Without it, what was declared last (O(path)).
    type: raw
  cwd:
    description: Working folder of the applications that name none, best the link to the current release.
    type: path
  inputs:
    description: Files that the applications read when they start. A reload follows when one of them has changed.
    type: list
    elements: path
    default: []
  state:
    description:
      - V(started) makes all run as declared, V(reloaded) also reloads those that do, V(stopped) stops them and keeps them so after a boot,
        V(absent) removes them, V(status) only looks.
    type: str
    choices: [started, stopped, absent, reloaded, status]
    default: started
  names:
    description: Only these of the declared applications.
    type: list
    elements: str
    default: []
  prune:
    description: Remove processes of this daemon that are not declared.
    type: bool
    default: false
  user:
    description: The user whose daemon it is. Default is the user of the connection.
    type: str
  pm2_home:
    description: The daemon's folder. Default is C(.pm2) in the user's home.
    type: path
  path:
    description: Where the definition is kept. Default is C(ecosystem.json) in O(pm2_home).
    type: path
  executable:
    description: The pm2 program.
    type: str
    default: pm2
  spawn:
    description:
      - Start a daemon when none runs. Leave it off where a service manager starts it, which could not take over such a daemon.
    type: bool
    default: false
  settle:
    description: Seconds that a process must have been online after a change.
    type: float
    default: 1.0
  timeout:
    description: Seconds to wait for that.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Run the API twice and the worker once
  cutover.hetzner.pm2_app:
    user: booking
    cwd: /opt/booking/current
    inputs: [/opt/booking/shared/.env]
    ecosystem:
      - {name: booking-api, script: api.js, exec_mode: cluster, instances: 2, wait_ready: true}
      - {name: booking-worker, script: worker.js, max_memory_restart: 300M}

- name: Take up the new environment file
  cutover.hetzner.pm2_app:
    user: booking

- name: Stop everything on the old server
  cutover.hetzner.pm2_app:
    user: booking
    state: stopped
"""

RETURN = r"""
processes:
  description: The processes of the daemon, after the change.
  type: list
  elements: dict
  returned: always
  contains:
    name: {description: Name of the application., type: str}
    id: {description: PM2's number., type: int}
    status: {description: "One of C(online), C(stopped), C(errored), C(launching) and others of PM2.", type: str}
    restarts: {description: How often it was started again., type: int}
    memory: {description: Bytes in use., type: int}
    pid: {description: Process id., type: int}
    uptime: {description: Seconds since its start., type: int}
actions:
  description: What was done, or in check mode would be.
  type: list
  elements: dict
  returned: always
  contains:
    kind: {description: "start, reload, recreate, stop or delete", type: str}
    name: {description: Name of the application., type: str}
    reason: {description: Why., type: str}
daemon:
  description: Whether a daemon runs.
  type: bool
  returned: always
"""

import hashlib
import json
import os
import pwd
import socket
import tempfile
import time
import typing as t
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cutover.hetzner.plugins.module_utils._ansible import fail
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import pm2
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError


class Daemon:
    """A user's PM2, reached through its command line."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        name = module.params["user"] or pwd.getpwuid(os.geteuid()).pw_name
        try:
            self.account = pwd.getpwnam(name)
        except KeyError as error:
            if not module.check_mode:
                raise OperationsError(f"there is no user {name}", "Create the user or correct the name.") from error
            # On a blank host the user would have been made by now.
            self.account = pwd.struct_passwd((name, "x", os.geteuid(), os.getegid(), "", f"/home/{name}", "/bin/false"))
        if os.geteuid() not in (0, self.account.pw_uid):
            raise OperationsError(f"this needs the rights of {self.account.pw_name} or root", "Use become.")
        self.home = Path(module.params["pm2_home"] or Path(self.account.pw_dir) / ".pm2")
        self.path = Path(module.params["path"] or self.home / "ecosystem.json")

    def alive(self) -> bool:
        """Whether it answers. Asking pm2 itself would start one."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            return probe.connect_ex(str(self.home / "rpc.sock")) == 0

    def run(self, *command: str) -> str:
        """Run a program as the user, with a clean environment: PM2 hands its own to the processes."""
        account = self.account
        clean = ["env", "-i", f"HOME={account.pw_dir}", f"USER={account.pw_name}", f"PM2_HOME={self.home}", "LANG=C.UTF-8"]
        clean += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *command]
        if os.geteuid() != account.pw_uid:
            clean = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "--", *clean]
        folder = account.pw_dir if Path(account.pw_dir).is_dir() else "/"
        code, out, error = self.module.run_command(clean, cwd=folder)
        if code:
            text = (error.strip() or out.strip())[-800:]
            shown = " ".join(command[:2])
            raise OperationsError(f"{shown} ended with {code}", "See details.output, and run it by hand as the user.", output=text)
        return str(out)

    def ask(self, *arguments: str) -> str:
        """What the pm2 program prints."""
        return self.run(self.module.params["executable"], *arguments)

    def processes(self) -> tuple[pm2.Process, ...]:
        return pm2.processes(self.ask("jlist", "--silent"))

    def save(self, running: t.Sequence[pm2.Process]) -> bool:
        """Save the list for the next boot, unless the dump already says the same. In check mode only tell."""
        dump = self.home / "dump.pm2"
        if pm2.saved(dump.read_text() if dump.exists() else "", running):
            return False
        if not self.module.check_mode:
            self.ask("save", "--force", "--silent")
        return True


def kept(daemon: Daemon) -> dict[str, t.Any]:
    """What an earlier call declared, empty when there was none."""
    return t.cast("dict[str, t.Any]", json.loads(daemon.path.read_text())) if daemon.path.exists() else {}


def declaration(daemon: Daemon, parameters: dict[str, t.Any]) -> tuple[tuple[pm2.App, ...], list[str]]:
    """The declared applications, all of them, and the paths of their inputs."""
    ecosystem, inputs = parameters["ecosystem"], parameters["inputs"]
    if isinstance(ecosystem, str) and ecosystem.startswith("/"):
        if not Path(ecosystem).is_file():
            raise OperationsError(
                f"there is no ecosystem file {ecosystem}", "Give the path of a file on the target, or the applications themselves."
            )
        ecosystem = json.loads(daemon.run("node", "-p", "JSON.stringify(require(process.argv[1]))", ecosystem))
    elif isinstance(ecosystem, str):
        ecosystem = daemon.module.from_json(ecosystem)
    if ecosystem is None:
        before = kept(daemon)
        if not before:
            return (), []
        ecosystem, inputs = before, before.get("inputs", [])
    digests = {}
    if parameters["cwd"]:
        ecosystem = through_link(ecosystem, parameters["cwd"])
    for path in inputs:
        try:
            digests[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except OSError as error:
            if not daemon.module.check_mode:
                raise OperationsError(
                    f"{path} cannot be read: {error.strerror}", "Make the file first, or take it out of inputs."
                ) from error
    return pm2.applications(ecosystem, parameters["cwd"], digests), inputs


def through_link(ecosystem: t.Any, cwd: str) -> t.Any:
    """An ecosystem file says C(__dirname), which is the release's own path; take the link that leads there instead."""
    apps = ecosystem.get("apps", ecosystem) if isinstance(ecosystem, dict) else ecosystem
    if not isinstance(apps, list) or not all(isinstance(app, dict) for app in apps):
        return ecosystem
    real = os.path.realpath(cwd)
    return [{**app, "cwd": cwd} if app.get("cwd") and os.path.realpath(app["cwd"]) == real else app for app in apps]


def shown(ecosystem: t.Any) -> t.Any:
    """The argument as it may be logged: of an environment only the names."""
    if isinstance(ecosystem, dict):
        return {
            key: sorted(value) if key.startswith("env") and isinstance(value, dict) else shown(value) for key, value in ecosystem.items()
        }
    return [shown(app) for app in ecosystem] if isinstance(ecosystem, list) else ecosystem


def stale(apps: t.Iterable[pm2.App], running: t.Iterable[pm2.Process]) -> dict[int, str]:
    """Processes that run in another folder than the one their cwd leads to now."""
    folders = {app.name: os.path.realpath(app.cwd) for app in apps}
    found = {}
    for process in running:
        if process.name in folders and process.status == "online" and process.pid:
            try:
                real = str(Path(f"/proc/{process.pid}/cwd").readlink())
            except OSError:
                continue
            if real != folders[process.name]:
                found[process.pid] = real
    return found


def write(daemon: Daemon, text: str) -> None:
    """Replace the kept definition; only the user reads it, for it may hold secrets."""
    handle, temporary = tempfile.mkstemp(dir=daemon.path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.chown(temporary, daemon.account.pw_uid, daemon.account.pw_gid)
    Path(temporary).replace(daemon.path)


def settled(daemon: Daemon, apps: t.Sequence[pm2.App], settle: float, timeout: int) -> tuple[pm2.Process, ...]:
    """Wait until all is as it must be. Raises OperationsError with the last lines of the log of what is not."""
    deadline = time.monotonic() + timeout
    while True:
        running = daemon.processes()
        waiting, broken = pm2.unsettled(apps, running, stale(apps, running), time.time(), settle)
        if not waiting and not broken:
            return running
        if broken or time.monotonic() > deadline:
            names = {line.partition(":")[0] for line in waiting} | {process.name for process in broken}
            logs = {process.name: process.error_log for process in running if process.name in names}
            tails = {name: tail(path) for name, path in logs.items()}
            problem = "; ".join([*waiting, *(f"{process.name}: gave up after {process.restarts} restarts" for process in broken)])
            raise OperationsError(problem, f"Read {', '.join(logs.values()) or 'the logs'}.", log=tails)
        time.sleep(0.3)


def tail(path: str, lines: int = 10) -> list[str]:
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


def run(module: AnsibleModule) -> dict[str, t.Any]:
    parameters = module.params
    state = parameters["state"]
    daemon = Daemon(module)
    declared, inputs = declaration(daemon, parameters)
    unknown = sorted(set(parameters["names"]) - {app.name for app in declared})
    if unknown or (not declared and state != "status"):
        raise OperationsError(f"{', '.join(unknown) or 'no application'} is declared in {daemon.path}", "Declare it under ecosystem.")
    apps = [app for app in declared if not parameters["names"] or app.name in parameters["names"]]
    alive = daemon.alive()
    starts = state in ("started", "reloaded")
    if not alive and starts and not module.check_mode and not parameters["spawn"]:
        raise OperationsError(
            f"no PM2 daemon of {daemon.account.pw_name} answers in {daemon.home}",
            "Start its service (systemctl start …), or set spawn: true where no service manager is in charge.",
        )
    running = daemon.processes() if alive or (starts and not module.check_mode) else ()
    actions = pm2.plan(state, apps, running, stale(apps, running), parameters["prune"] and not parameters["names"])
    text = json.dumps({"apps": [app.definition for app in declared], "inputs": inputs}, indent=2) + "\n"
    rewrite = starts and (not daemon.path.exists() or daemon.path.read_text() != text)
    changed = bool(actions) or rewrite
    result: dict[str, t.Any] = {"actions": [asdict(action) for action in actions], "daemon": alive}
    if module._diff:
        result["diff"] = [{"prepared": "".join(f"{action.kind} {action.name}: {action.reason}\n" for action in actions)}]
    if not module.check_mode:
        if rewrite:
            write(daemon, text)
        for command in pm2.commands(actions, str(daemon.path)):
            daemon.ask(*command, "--silent")
        if actions:
            running = settled(daemon, apps, parameters["settle"], parameters["timeout"]) if starts else daemon.processes()
    if state != "status" and alive and not (module.check_mode and actions):
        changed = daemon.save(running) or changed
    now = time.time()
    return {**result, "changed": changed, "daemon": alive or bool(running), "processes": [process.as_result(now) for process in running]}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "ecosystem": {"type": "raw"},
            "cwd": {"type": "path"},
            "inputs": {"type": "list", "elements": "path", "default": []},
            "state": {"type": "str", "choices": list(pm2.STATES), "default": "started"},
            "names": {"type": "list", "elements": "str", "default": []},
            "prune": {"type": "bool", "default": False},
            "user": {"type": "str"},
            "pm2_home": {"type": "path"},
            "path": {"type": "path"},
            "executable": {"type": "str", "default": "pm2"},
            "spawn": {"type": "bool", "default": False},
            "settle": {"type": "float", "default": 1.0},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except OperationsError as error:
        module.params["ecosystem"] = shown(module.params["ecosystem"])
        fail(module, error)
    module.params["ecosystem"] = shown(module.params["ecosystem"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
