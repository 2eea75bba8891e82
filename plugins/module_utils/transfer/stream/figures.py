# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the applier stands, for others to read: ``applier.json`` in the spool's folder."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import TransferError
from . import files
from .pgoutput import lsn_text

NAME = "applier.json"
_SAY_SECONDS = 1.0
_RATE_SECONDS = 10.0


@dataclass
class Figures:
    """State and counts since the process began, written once a second, at once when the state changes.

    state: starting, waiting_for_copy, waiting_for_begin, applying, idle, held, fenced, paused, reconnecting, waiting_for_room, stopped or failed
    applied: position; exact: batches applied change by change; ignored: changes of tables that are not selected or that a copy holds already
    """

    path: Path
    direction: str
    slot: str
    applied: int = 0
    transactions: int = 0
    changes: int = 0
    batches: int = 0
    exact: int = 0
    ignored: int = 0
    reconnects: int = 0
    source_time: float = 0.0
    detail: str = ""
    _state: str = ""
    _since: float = 0.0
    _problem: dict[str, Any] | None = None
    _said: float = 0.0
    _samples: deque[tuple[float, int, int]] = field(default_factory=deque)

    def say(self, state: str, error: BaseException | None = None, detail: str = "", *, final: bool = False) -> None:
        """Note the state; error: why; detail: for people; final: it is the last that is said for a while."""
        problem = told(error) if error is not None else None
        changed = (state, problem, detail) != (self._state, self._problem, self.detail)
        if state != self._state:
            self._since = time.time()
        self._state, self._problem, self.detail = state, problem, detail
        if final or (changed and time.monotonic() - self._said > 0.1):
            self._write()
        else:
            self.beat()

    def beat(self) -> None:
        """Write the file again when a second has passed."""
        if time.monotonic() - self._said >= _SAY_SECONDS:
            self._write()

    def facts(self) -> dict[str, Any]:
        """What is written. Position as text, rates a second over ten seconds, times as seconds since 1970."""
        transactions, changes = self._rates()
        return {
            "state": self._state,
            "since": round(self._since, 3),
            "updated": round(time.time(), 3),
            "direction": self.direction,
            "slot": self.slot,
            "pid": os.getpid(),
            "applied_lsn": lsn_text(self.applied),
            "source_time": round(self.source_time, 6) or None,
            "transactions": self.transactions,
            "changes": self.changes,
            "batches": self.batches,
            "exact_batches": self.exact,
            "ignored": self.ignored,
            "reconnects": self.reconnects,
            "transactions_per_second": transactions,
            "changes_per_second": changes,
            "detail": self.detail,
            "problem": self._problem,
        }

    def _rates(self) -> tuple[float, float]:
        now = time.monotonic()
        self._samples.append((now, self.transactions, self.changes))
        while now - self._samples[0][0] > _RATE_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        first, last = self._samples[0], self._samples[-1]
        seconds = last[0] - first[0]
        if seconds < 0.5:
            return 0.0, 0.0
        return round((last[1] - first[1]) / seconds, 1), round((last[2] - first[2]) / seconds, 1)

    def _write(self) -> None:
        self._said = time.monotonic()
        files.show(self.path, self.facts())


def told(error: BaseException) -> dict[str, Any]:
    """An error as plain data, with what to do next."""
    if isinstance(error, TransferError):
        plain = {name: value for name, value in error.details.items() if isinstance(value, str | int | float | list | dict | None)}
        return {"kind": "error", **plain, "message": error.message, "remedy": error.remedy}
    text = str(error).strip().splitlines()
    return {
        "kind": "lost",
        "message": text[0] if text else type(error).__name__,
        "remedy": "Nothing to do: the connection is made again by itself. If it lasts, look at the network and at the server.",
    }
