# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Adds the time of every task to the journal of a move."""

from __future__ import annotations

DOCUMENTATION = r"""
name: journal
type: notification
short_description: Adds the time of every task, and the failure that ended a phase, to the journal of a move
version_added: 0.1.0
author: cutover.hetzner contributors (@cutover)
description:
  - Writes one line per task and host into the journal of a move, so that the report shows where the time went.
  - Writes names, hosts, results and seconds; never arguments or results.
  - When a playbook ends while a phase has failed, notes the phase as failed with the task, the host and the message, from which passwords,
    keys and tokens are removed, and writes the report. A task with C(no_log) is named without its message.
  - Learns the folder from the first C(cutover.hetzner.journal) task of the run, or from the option.
requirements:
  - enabled in configuration (C(callbacks_enabled = cutover.hetzner.journal))
options:
  path:
    description: Folder of the journal. Empty means the folder that the journal module names.
    type: str
    default: ""
    env:
      - name: CUTOVER_JOURNAL
    ini:
      - section: callback_journal
        key: path
"""

import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import failure, journal, report_files

OWN_MODULE = "cutover.hetzner.journal"


class CallbackModule(CallbackBase):
    """Times every task per host, and remembers what failed."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "cutover.hetzner.journal"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._file: Path | None = None
        self._phase = ""
        self._started: dict[tuple[str, str], float] = {}
        self._failures: list[failure.Failure] = []

    def set_options(self, task_keys: Any = None, var_options: Any = None, direct: Any = None) -> None:
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        folder = self.get_option("path")
        if folder:
            self._file = Path(folder) / "journal.jsonl"

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Remember when a host began a task."""
        self._started[(host.get_name(), task._uuid)] = time.monotonic()

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task ended well."""
        self._learn(result)
        self._note(result, "changed" if result._result.get("changed") else "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task failed."""
        self._note(result, "failed")
        if not ignore_errors:
            self._remember(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host did not answer."""
        self._note(result, "unreachable")
        self._remember(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The run is over: a phase that began, has no end and has lost a host has failed. A rescued failure does not count."""
        hosts = {host for counts in (stats.failures, stats.dark) for host, number in counts.items() if number}
        ended = failure.decisive(self._failures, hosts, self._phase) if self._phase else None
        if ended is None or self._file is None or not self._file.exists():
            return
        figures = {"task": ended.task, "host": ended.host, "message": ended.message}
        try:
            journal.append(
                self._file, journal.Event(journal.now(), "phase", self._phase, "failed", self._phase, ended.host, figures=figures)
            )
            report_files.write(self._file.parent, journal.read(self._file))
        except Exception as error:
            # The run has failed already; its own message must stay the last one.
            self._display.warning(f"The report of the failed phase could not be written: {error}")

    def _remember(self, result: Any) -> None:
        task = result._task
        told = failure.message_of(result._result, bool(task.no_log))
        self._failures.append(failure.Failure(self._phase, failure.clean(task.get_name().strip()), result._host.get_name(), told))

    def _learn(self, result: Any) -> None:
        # In check mode the module names a record and writes nothing, so nothing is written here either.
        if result._task.action != OWN_MODULE or result._task.check_mode:
            return
        arguments = result._result.get("invocation", {}).get("module_args", {})
        if arguments.get("what") == "phase":
            self._phase = str(arguments.get("name") or "") if arguments.get("result") == "started" else ""
        path = result._result.get("path")
        if path and self._file is None:
            self._file = Path(path)

    def _note(self, result: Any, outcome: str) -> None:
        begun = self._started.pop((result._host.get_name(), result._task._uuid), None)
        if self._file is None or begun is None or result._task.action == OWN_MODULE or not self._file.exists():
            return
        seconds = time.monotonic() - begun
        journal.append(
            self._file,
            journal.Event(journal.now(), "task", result._task.get_name().strip(), outcome, self._phase, result._host.get_name(), seconds),
        )
