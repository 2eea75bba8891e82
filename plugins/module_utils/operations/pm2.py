# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""PM2: what is declared, what runs, and what has to be done about the difference.

PM2 itself cannot say whether a process runs as declared. So every definition carries a mark in its environment: a digest of its shape and one of
what only needs a reload. PM2 keeps it with the process and in its dump, so it also holds after a reboot.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .dotenv import as_text
from .errors import OperationsError

MARK = "CUTOVER_DEFINITION"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*\Z")
# What PM2 7 takes for an application, aliases included.
KEYS = frozenset(
    re.findall(
        r"\w+",
        "name name_prefix namespace script exec cwd args interpreter exec_interpreter node_args interpreterArgs interpreter_args out_file out output out_log"
        " error_file error err err_file err_log log_file log disable_logs log_type log_date_format time env filter_env max_memory_restart pid_file pid"
        " restart_delay exp_backoff_restart_delay source_map_support disable_source_map_support wait_ready instances exec_mode kill_timeout"
        " shutdown_with_message listen_timeout cron_restart cron merge_logs combine_logs vizion autostart autorestart stop_exit_codes watch watch_delay"
        " ignore_watch watch_options min_uptime max_restarts force trace disable_trace v8 event_loop_inspector deep_monitoring increment_var instance_var"
        " pmx automation treekill port kill_retry_time",
    )
)
STATES = ("started", "stopped", "absent", "reloaded", "status")


@dataclass(frozen=True)
class App:
    """One declared application.

    definition: what PM2 gets, the mark included
    instances: how many processes, None when PM2 decides ("max")
    stays: it is expected to be online all the time (not a job that ends)
    """

    name: str
    cwd: str
    mark: str
    instances: int | None
    stays: bool
    definition: Mapping[str, Any]


@dataclass(frozen=True)
class Process:
    """One process as PM2 lists it; started in milliseconds since the epoch, memory in bytes, mark "" for a foreign one."""

    name: str
    id: int
    status: str
    restarts: int
    memory: int
    pid: int
    started: int
    mark: str
    error_log: str

    def as_result(self, now: float) -> dict[str, Any]:
        """The module's shape; uptime in whole seconds, 0 when it does not run."""
        uptime = max(0, int(now - self.started / 1000)) if self.status == "online" else 0
        return {
            "name": self.name,
            "id": self.id,
            "status": self.status,
            "restarts": self.restarts,
            "memory": self.memory,
            "pid": self.pid,
            "uptime": uptime,
        }


@dataclass(frozen=True)
class Action:
    """kind: start, reload, recreate (delete and start), stop or delete."""

    kind: str
    name: str
    reason: str


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _app(raw: Mapping[str, Any], number: int, cwd: str | None, inputs: Mapping[str, str]) -> App:
    name = raw.get("name")
    if not isinstance(name, str) or not NAME.match(name) or name == "all":
        raise OperationsError(
            f"application {number + 1} of the ecosystem has the name {name!r}",
            "Give each a name of letters, digits, '.', '_', ':' and '-' (not 'all').",
        )
    unknown = sorted(key for key in raw if key not in KEYS and not re.match(r"env_\S*\Z", key))
    if unknown:
        raise OperationsError(
            f"{name}: {', '.join(unknown)} is nothing that PM2 knows of an application",
            "Correct the spelling; variables of the process belong under env.",
            keys=unknown,
        )
    if not (raw.get("script") or raw.get("exec")):
        raise OperationsError(f"{name} has no script", "Give the program to run, relative to cwd.")
    folder = raw.get("cwd") or cwd
    if not isinstance(folder, str) or not folder.startswith("/"):
        raise OperationsError(
            f"{name} has the working folder {folder!r}, expected an absolute path",
            "Set cwd, best to the link to the current release: PM2 otherwise keeps the release's own path and a reload runs old code.",
        )
    environment = {key: as_text(f"{name}.env.{key}", value) for key, value in (raw.get("env") or {}).items() if key != MARK}
    shape = {**raw, "cwd": folder, "env": sorted(environment)}
    instances = raw.get("instances", 1)
    count = instances if isinstance(instances, int) and instances > 0 else None
    mark = f"{_digest(shape)}.{_digest([environment, sorted(inputs.items())])}"
    return App(
        name=name,
        cwd=folder,
        mark=mark,
        instances=count,
        stays=raw.get("autorestart", True) is not False and raw.get("autostart", True) is not False,
        definition={**raw, "cwd": folder, "env": {**environment, MARK: mark}},
    )


def applications(ecosystem: object, cwd: str | None = None, inputs: Mapping[str, str] | None = None) -> tuple[App, ...]:
    """The declared applications of ``{apps: […]}``, a list of applications, or one.

    cwd: for those that name none
    inputs: digest of each file whose change calls for a reload, by path
    Raises OperationsError.
    """
    found = ecosystem.get("apps", ecosystem) if isinstance(ecosystem, Mapping) else ecosystem
    listed = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    if not listed or not all(isinstance(entry, Mapping) for entry in listed):
        raise OperationsError("the ecosystem declares no application", "Give a list of applications, or a dictionary with the key apps.")
    apps = tuple(_app(entry, number, cwd, inputs or {}) for number, entry in enumerate(listed))
    names = [app.name for app in apps]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OperationsError(
            f"{', '.join(twice)} is declared twice", "Give each application a name of its own; use instances for more processes."
        )
    return apps


def processes(listing: str) -> tuple[Process, ...]:
    """What ``pm2 jlist`` printed; its own messages before the list and its modules are left out."""
    starts = [line for line in listing.splitlines() if line.startswith(("[{", "[]"))]
    try:
        entries = json.loads(starts[-1])
    except (IndexError, ValueError) as error:
        raise OperationsError(
            "pm2 jlist printed no list of processes", "Run it by hand as the application's user.", output=listing[-500:]
        ) from error
    found = []
    for entry in entries:
        own = entry.get("pm2_env", {})
        if own.get("pmx_module"):
            continue
        usage = entry.get("monit") or {}
        found.append(
            Process(
                name=str(entry["name"]),
                id=int(entry["pm_id"]),
                status=str(own.get("status", "unknown")),
                restarts=int(own.get("restart_time") or 0),
                memory=int(usage.get("memory") or 0),
                pid=int(entry.get("pid") or 0),
                started=int(own.get("pm_uptime") or 0),
                mark=str(own.get(MARK) or (own.get("env") or {}).get(MARK) or ""),
                error_log=str(own.get("pm_err_log_path") or ""),
            )
        )
    return tuple(sorted(found, key=lambda process: (process.name, process.id)))


def _due(app: App, own: Sequence[Process], stale: Mapping[int, str]) -> tuple[str, str] | None:
    """What has to happen to a declared application, and why; None when it runs as declared."""
    if not own:
        return "start", "is not there"
    shapes = {process.mark.partition(".")[0] for process in own}
    if shapes != {app.mark.partition(".")[0]}:
        return "recreate", "is defined otherwise" if "" not in shapes else "was not started from this definition"
    down = sorted({process.status for process in own} - {"online", "launching"})
    if down and (app.stays or "errored" in down):
        return "recreate", f"is {', '.join(down)}"
    if app.instances is not None and len(own) != app.instances:
        return "recreate", f"runs {len(own)} times, declared are {app.instances}"
    if any(process.mark != app.mark for process in own):
        return "reload", "has other values in its environment or its files"
    old = sorted({stale[process.pid] for process in own if process.pid in stale})
    if old:
        return "reload", f"runs the code in {', '.join(old)}"
    return None


def plan(
    state: str, apps: Sequence[App], running: Sequence[Process], stale: Mapping[int, str] | None = None, prune: bool = False
) -> tuple[Action, ...]:
    """What makes the processes as declared.

    apps: the declared ones that the call is about
    stale: pid -> folder, of processes that do not run in the folder that their cwd leads to now
    prune: with ``started`` and ``reloaded``: remove what is not declared
    """
    own = {app.name: [process for process in running if process.name == app.name] for app in apps}
    actions = []
    for app in apps:
        if state in ("started", "reloaded"):
            due = _due(app, own[app.name], stale or {})
            if due is None and state == "reloaded":
                due = "reload", "asked for"
            if due:
                actions.append(Action(due[0], app.name, due[1]))
        elif state == "stopped" and any(process.status != "stopped" for process in own[app.name]):
            actions.append(Action("stop", app.name, "asked for"))
        elif state == "absent" and own[app.name]:
            actions.append(Action("delete", app.name, "asked for"))
    if prune and state in ("started", "reloaded"):
        actions += [Action("delete", name, "is not declared") for name in sorted({process.name for process in running} - set(own))]
    return tuple(actions)


def commands(actions: Iterable[Action], ecosystem: str) -> tuple[tuple[str, ...], ...]:
    """The arguments of the pm2 calls that carry out a plan, in their order."""
    names: dict[str, list[str]] = {}
    for action in actions:
        for step in ("delete", "start") if action.kind == "recreate" else (action.kind,):
            names.setdefault(step, []).append(action.name)
    calls: list[tuple[str, ...]] = []
    for step in ("delete", "stop"):
        if step in names:
            calls.append((step, *names[step]))
    for step in ("start", "reload"):
        if step in names:
            calls.append((step, ecosystem, "--only", ",".join(names[step]), "--update-env"))
    return tuple(calls)


def saved(dump: str, running: Sequence[Process]) -> bool:
    """Whether the dump brings back at boot what is there now: same names, definitions, and the stopped ones stopped."""
    try:
        entries = json.loads(dump)
        kept = sorted((str(entry["name"]), str(entry.get(MARK) or ""), entry.get("status") == "stopped") for entry in entries)
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    return kept == sorted((process.name, process.mark, process.status == "stopped") for process in running)


def unsettled(
    apps: Sequence[App], running: Sequence[Process], stale: Mapping[int, str], now: float, settle: float
) -> tuple[list[str], list[Process]]:
    """What is not yet as it must be, as sentences, and the processes that gave up (no use in waiting).

    settle: seconds that a process must have been online
    """
    waiting: list[str] = []
    broken: list[Process] = []
    for app in apps:
        own = [process for process in running if process.name == app.name]
        broken += [process for process in own if process.status == "errored"]
        if app.stays:
            online = [process for process in own if process.status == "online" and now - process.started / 1000 >= settle]
            wanted = app.instances or 1
            if len(online) < wanted or len(online) < len(own):
                states = ", ".join(process.status for process in own) or "not there"
                waiting.append(f"{app.name}: {len(online)} of {wanted} online for {settle:g} s ({states})")
        waiting += [
            f"{app.name}: process {process.pid} runs in {stale[process.pid]}, expected the folder that {app.cwd} leads to"
            for process in own
            if process.pid in stale
        ]
    return waiting, broken
