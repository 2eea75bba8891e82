"""Runs actions: one lane per server (or other resource), lanes side by side, each action in its own transaction at the end.

An action's work is described by its command and arguments alone, so that after a restart it is simply done again: backends are idempotent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backend import BackendError
from .store import Document, Store, Tx

if TYPE_CHECKING:
    from .cloud import Cloud

LOG = logging.getLogger("localcloud.api")
WORKERS = 64
DEFAULT_SECONDS = 1.0
# What each command takes at speed 1 in the real cloud, by users' reports; the backend's own time counts towards it.
SECONDS = {
    "create_server": 8.0,
    "start_server": 6.0,
    "stop_server": 3.0,
    "reboot_server": 3.0,
    "reset_server": 3.0,
    "rebuild_server": 15.0,
    "delete_server": 4.0,
    "change_server_type": 160.0,
    "create_image": 30.0,
    "attach_to_network": 4.0,
    "detach_from_network": 4.0,
    "create_volume": 6.0,
    "attach_volume": 4.0,
    "detach_volume": 4.0,
    "add_subnet": 2.0,
    "delete_subnet": 2.0,
    "apply_firewall": 3.0,
    "remove_firewall": 3.0,
    "sync_firewalls": 3.0,
    "create_certificate": 70.0,
    "issue_certificate": 70.0,
}

Commit = Callable[[Tx], None]


@dataclass(frozen=True)
class Job:
    """One action being carried out."""

    cloud: Cloud
    action: Document

    @property
    def args(self) -> Any:
        return self.action["args"]

    def resource(self, kind: str) -> int:
        return next(int(item["id"]) for item in self.action["resources"] if item["type"] == kind)


@dataclass(frozen=True)
class Worker:
    """run: does the work and returns what to store on success. undo: what to store on failure."""

    run: Callable[[Job], Commit | None]
    undo: Callable[[Job, Tx], None] | None = None


COMMANDS: dict[str, Worker] = {}


def command(
    name: str, undo: Callable[[Job, Tx], None] | None = None
) -> Callable[[Callable[[Job], Commit | None]], Callable[[Job], Commit | None]]:
    """Register how the command is carried out."""

    def register(run: Callable[[Job], Commit | None]) -> Callable[[Job], Commit | None]:
        COMMANDS[name] = Worker(run, undo)
        return run

    return register


def _nothing(_job: Job) -> None:
    """The records alone changed."""


def _unknown(job: Job) -> None:
    raise LookupError(f"nothing carries out {job.action['command']}")


for _name in (
    "add_to_placement_group",
    "change_protection",
    "create_zone",
    "delete_zone",
    "disable_backup",
    "disable_rescue",
    "enable_backup",
    "enable_rescue",
    "remove_from_placement_group",
    "set_firewall_rules",
):
    command(_name)(_nothing)


class Engine:
    def __init__(self, store: Store, speed: float, planned_error: Callable[[str], Document | None]) -> None:
        """speed: factor on the real cloud's durations (0: as fast as the backend). planned_error: a fault to inject, by command."""
        self._store = store
        self._speed = speed
        self._planned_error = planned_error
        self._pool = ThreadPoolExecutor(WORKERS, "action")
        self._lock = threading.Lock()
        self._lanes: dict[str, deque[int]] = {}
        # Kept after the end: whoever has just read an action as running is still to be told how far it was, not zero.
        self._clock: dict[int, tuple[float, float]] = {}
        self._stop = threading.Event()
        self.cloud: Cloud | None = None

    def resume(self, cloud: Cloud) -> None:
        """Take up what an earlier process left running."""
        self.cloud = cloud
        self._store.on_commit = self.submit
        with self._store.read() as tx:
            self.submit(tx.running())

    def close(self) -> None:
        """Finish the backend calls under way; their actions stay recorded as running and are resumed by the next process."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, actions: list[Document]) -> None:
        for action in actions:
            with self._lock:
                waiting = self._lanes.get(action["lane"])
                if waiting is not None:
                    waiting.append(action["id"])
                    continue
                if self._stop.is_set():
                    return
                self._lanes[action["lane"]] = deque([action["id"]])
                self._pool.submit(self._drain, action["lane"])

    def progress(self, action: Document) -> int:
        """Percent done, by the clock, never 100 before the end."""
        if action["status"] != "running":
            return 100
        begun, seconds = self._clock.get(action["id"], (0.0, 0.0))
        if not begun:
            return 0
        passed = time.monotonic() - begun
        return min(95, int(100 * passed / seconds)) if seconds else min(95, int(20 * passed))

    def _drain(self, lane: str) -> None:
        while not self._stop.is_set():
            with self._lock:
                waiting = self._lanes[lane]
                if not waiting:
                    del self._lanes[lane]
                    return
                ident = waiting.popleft()
            try:
                self._carry_out(ident)
            except Exception:
                LOG.exception("action %s could not be recorded", ident)

    def _carry_out(self, ident: int) -> None:
        with self._store.read() as tx:
            action = tx.action(ident)
            before = tx.action(action["after"]) if action and action["after"] else None
        if action is None or action["status"] != "running" or self.cloud is None:
            return
        job = Job(self.cloud, action)
        # Some commands are carried out in another way for one kind of resource: "load_balancer attach_to_network".
        special = COMMANDS.get(f"{action['resources'][0]['type']} {action['command']}")
        worker = special or COMMANDS.get(action["command"], Worker(_unknown))
        seconds = SECONDS.get(action["command"], DEFAULT_SECONDS) * self._speed
        begun = time.monotonic()
        self._clock[ident] = (begun, seconds)
        commit: Commit | None = None
        error = self._planned_error(action["command"])
        if before is not None and before["status"] == "error":
            error = {"code": "action_failed", "message": f"action {before['id']} ({before['command']}) before this one failed"}
        if error is None:
            try:
                commit = worker.run(job)
            except BackendError as problem:
                error = {"code": "action_failed", "message": str(problem)}
            except Exception as problem:
                LOG.exception("action %s (%s) broke", ident, action["command"])
                error = {"code": "server_error", "message": f"{type(problem).__name__}: {problem}"}
        if self._stop.wait(max(0.0, seconds - (time.monotonic() - begun))) and error is None:
            return
        with self._store.write() as tx:
            if error is None and commit is not None:
                commit(tx)
            if error is not None and worker.undo is not None:
                worker.undo(job, tx)
            tx.finish(action, error)
        for item in action["resources"]:
            if item["type"] == "server":
                self.cloud.forget_power(item["id"])
