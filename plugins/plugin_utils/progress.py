# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a long module and shows meanwhile how far it is. Base of the action plugins of such modules."""

from __future__ import annotations

import contextvars
import copy
import shlex
import sys
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Tasks run in forks whose output goes elsewhere. This file is loaded before the fork.
ON_TERMINAL = sys.stdout.isatty()
# Connections that start a program for every command, so that two at a time do not meet.
SIDE_BY_SIDE = ("local", "ssh")
SNAPSHOTS = 10
MOST_FAILURES = 3
GOODBYE_SECONDS = 10.0

display = Display()


def interval(age: float, terminal: bool) -> float:
    """Seconds between two reports after ``age`` seconds: few lines for an hour's work, quick ones for a minute's."""
    return min(max(1.0, age / 60), 10.0) if terminal else min(max(5.0, age / 60), 60.0)


def pause(took: float, misses: int) -> float:
    """Seconds until the file is read again: a second, more where reading is slow or there has been nothing to read."""
    return max(1.0, 10 * took, min(misses / 5, 10.0))


def last_line(found: dict[str, Any]) -> str:
    """Of a command's output, '' when it failed. An escalation with a password may have put lines of its own before it."""
    lines = str(found["stdout"]).strip().splitlines()
    return lines[-1] if lines and found["rc"] == 0 else ""


class Watch:
    """Reads the file beside the running module and prints. Whatever fails here ends the display, never the task."""

    def __init__(self, action: ProgressAction, path: str, host: str) -> None:
        # Commands leave traces in their connection (what the escalation says, a pipe for the password): the reader has one of its own.
        self.reader = copy.copy(action)
        self.reader._connection = copy.copy(action._connection)
        if action._connection.become is not None:
            self.reader._connection.set_become_plugin(copy.copy(action._connection.become))
        self.action = action
        self.command = f"cat {shlex.quote(path)}"
        self.host = host
        self.history: deque[Any] = deque(maxlen=SNAPSHOTS)
        self.stopped = threading.Event()
        self.printing = threading.Lock()
        self.began = time.monotonic()
        self.last = ""
        self.shown = self.began
        self.told: list[str] = []

    def start(self) -> None:
        """Remember what an earlier run may have left in the file, then watch."""
        self.last = self._read()
        self.thread = threading.Thread(target=contextvars.copy_context().run, args=(self._watch,), name="progress", daemon=True)
        self.thread.start()

    def stop(self, look: bool) -> None:
        """End the watch. look: read once more and tell how it ended."""
        # No line may be under way when the task's process ends: others would wait for the lock on the way to the screen.
        with self.printing:
            self.stopped.set()
        self.thread.join(GOODBYE_SECONDS)
        if look and not self.thread.is_alive():
            self._take(self._read())
            self._tell()

    def _watch(self) -> None:
        failures = misses = 0
        wait = 1.0
        while failures < MOST_FAILURES and not self.stopped.wait(wait):
            asked = time.monotonic()
            try:
                new = self._take(self._read())
            except Exception as error:
                failures += 1
                display.vvv(f"progress of {self.host} cannot be read: {error}")
                new = False
            misses = 0 if new else misses + 1
            now = time.monotonic()
            wait = pause(now - asked, misses)
            if new and now - self.shown >= interval(now - self.began, ON_TERMINAL):
                self.shown = now
                with self.printing:
                    if not self.stopped.is_set():
                        self._tell()

    def _read(self) -> str:
        return last_line(self.reader._low_level_execute_command(self.command))

    def _take(self, text: str) -> bool:
        """Whether the text was a snapshot that has not been seen."""
        if not text or text == self.last:
            return False
        self.last = text
        snapshot = self.action.parse(text)
        if snapshot is None:
            return False
        self.history.append(snapshot)
        return True

    def _tell(self) -> None:
        lines = self.action.lines(self.history)
        if lines != self.told:
            self.told = lines
            display.display("\n".join(f"[{self.host}] {line}" for line in lines))


class ProgressAction(ActionBase):
    """Runs the module of its own name, whose option ``progress_path`` names a file that it replaces about once a second.

    A subclass says what the file means: ``parse`` makes a snapshot of its text (None for what is none), ``lines`` makes lines of the last
    snapshots, oldest first.
    """

    _supports_check_mode = True
    _supports_async = True

    @staticmethod
    @abstractmethod
    def parse(text: str) -> Any | None:
        """A snapshot, or None."""

    @staticmethod
    @abstractmethod
    def lines(history: Sequence[Any]) -> list[str]:
        """Lines for people."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result, as without this plugin."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        later = bool(self._task.async_val) and not self._connection.has_native_async
        folder = ""
        try:
            if later or not self._watchable():
                result.update(self._execute_module(task_vars=task_vars, wrap_async=later))
            else:
                path = self._task.args.get("progress_path")
                if not path:
                    folder = self._folder()
                    path = f"{folder}/progress.json" if folder else None
                result.update(self._watched(path, task_vars or {}) if path else self._execute_module(task_vars=task_vars))
        finally:
            if folder:
                self._quietly(f"rm -rf {shlex.quote(folder)}")
        if not later:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _watchable(self) -> bool:
        return self._connection.transport in SIDE_BY_SIDE and not (self._task.check_mode or self._task.no_log or self._task.async_val)

    def _watched(self, path: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        """The module runs in this thread, where a timeout of the task and an interrupt reach it; the display has another."""
        watch = Watch(self, path, str(task_vars.get("inventory_hostname", "")))
        try:
            watch.start()
        except Exception as error:
            display.vvv(f"progress is not shown: {error}")
            result: dict[str, Any] = self._execute_module(task_vars=task_vars)
            return result
        ended = False
        try:
            result = self._execute_module(module_args={**self._task.args, "progress_path": path}, task_vars=task_vars)
            ended = True
        finally:
            self._end(watch, ended)
        return result

    @staticmethod
    def _end(watch: Watch, look: bool) -> None:
        try:
            watch.stop(look)
        except Exception as error:
            display.vvv(f"the end of the progress is not shown: {error}")

    def _folder(self) -> str:
        """A folder that only the module's user can enter; '' when there is none to be had."""
        return self._quietly("mktemp -d -t cutover-progress-XXXXXXXXXX")

    def _quietly(self, command: str) -> str:
        """Last line of a command on the module's host; '' when it fails."""
        try:
            return last_line(self._low_level_execute_command(command))
        except Exception as error:
            display.vvv(f"{command} failed: {error}")
            return ""
