# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waiting for actions: one thread polls all that are pending, 25 in a request, for everyone who waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from .errors import HetznerError
from .model import Json

CHUNK = 25


class ActionFailedError(HetznerError):
    """An action ended in an error. command: "create_server"; code: "action_failed"."""

    def __init__(self, action: Json) -> None:
        error = action.get("error") or {}
        self.command = str(action.get("command"))
        self.code = str(error.get("code", "unknown"))
        super().__init__(
            f"the action {self.command} (id {action.get('id')}) failed: {error.get('message', 'no message')} ({self.code})",
            "Run it again: what is done is kept.",
            action=action.get("id"),
            command=self.command,
            code=self.code,
        )


def interval(age: float) -> float:
    """Seconds until the next poll when the youngest pending action is ``age`` seconds old: quick at first, then patient."""
    if age < 2:
        return 0.2
    return 0.6 if age < 15 else 1.5


class ActionWaiter:
    """fetch: ids (at most 25) -> actions. Thread-safe; the thread starts with the first wait."""

    def __init__(self, fetch: Callable[[list[int]], list[Json]], pause: Callable[[float], float] = interval) -> None:
        self._fetch = fetch
        self._pause = pause
        self._changed = threading.Condition()
        self._pending: dict[int, float] = {}
        self._done: dict[int, Json] = {}
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def wait(self, actions: Iterable[Json], timeout: float) -> None:
        """Until every action has ended; raises ActionFailedError for the first that failed, HetznerError after ``timeout`` seconds."""
        given = list(actions)
        ids = [int(action["id"]) for action in given if action["status"] == "running"]
        for action in given:
            if action["status"] == "error":
                raise ActionFailedError(action)
        if not ids:
            return
        deadline = time.monotonic() + timeout
        with self._changed:
            now = time.monotonic()
            self._pending.update(dict.fromkeys(ids, now))
            self._start()
            self._changed.notify_all()
            while any(one in self._pending for one in ids):
                left = deadline - time.monotonic()
                if self._failure is not None or left <= 0:
                    for one in ids:
                        self._pending.pop(one, None)
                    raise self._failure or self._overdue(ids, timeout)
                self._changed.wait(min(left, 1.0))
            ended = [self._done.pop(one) for one in ids if one in self._done]
        for action in ended:
            if action["status"] == "error":
                raise ActionFailedError(action)

    @staticmethod
    def _overdue(ids: list[int], timeout: float) -> HetznerError:
        return HetznerError(
            f"actions {', '.join(map(str, ids))} were not finished after {timeout:.0f} s",
            "Run it again: it goes on from what is there. A longer 'timeout' waits longer.",
            actions=ids,
        )

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._poll, name="actions", daemon=True)
            self._thread.start()

    def _poll(self) -> None:
        while True:
            with self._changed:
                while not self._pending and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                youngest = time.monotonic() - max(self._pending.values())
                self._changed.wait_for(lambda: self._closed, timeout=self._pause(youngest))
                ids = sorted(self._pending)
            try:
                found = [action for at in range(0, len(ids), CHUNK) for action in self._fetch(ids[at : at + CHUNK])]
            except Exception as error:  # handed to every waiter: none may wait for a thread that died
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            with self._changed:
                for action in found:
                    if action["status"] != "running" and self._pending.pop(action["id"], None) is not None:
                        self._done[action["id"]] = action
                self._changed.notify_all()
