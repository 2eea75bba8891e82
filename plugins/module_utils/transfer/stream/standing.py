# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the receiver stands, for others to read: ``receiver.json`` in the spool's folder."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from .. import session, slots
from ..errors import TransferError
from . import files
from .pgoutput import lsn_number, lsn_text

_SAY_SECONDS = 1.0
_RATE_SECONDS = 10.0


class Standing:
    """State and figures, written about once a second, at once when the state changes.

    received, spooled, synced, commit, sender: positions; commit: end of the last whole transaction; sender: end of the sender's log as far as known
    bytes, transactions, reconnects: since the process began; heard: time of the last message, 0 for none
    """

    def __init__(self, path: Path, direction: str, slot: str) -> None:
        self.path, self.direction, self.slot = path, direction, slot
        self.received = self.spooled = self.synced = self.commit = self.sender = 0
        self.bytes = self.transactions = self.reconnects = 0
        self.heard = 0.0
        self.health: slots.Health | None = None
        self._state, self._since = "", 0.0
        self._problem: dict[str, Any] | None = None
        self._said = 0.0
        self._samples: deque[tuple[float, int]] = deque()
        before = files.load(path)
        if before and before.get("slot") == slot:
            self._take_over(before)

    def _take_over(self, before: dict[str, Any]) -> None:
        """What an earlier process knew of positions, until there is something newer."""
        for name in ("received", "spooled", "synced", "commit", "sender"):
            setattr(self, name, lsn_number(str(before.get(f"{name}_lsn") or "0/0")))
        self.heard = float(before.get("last_message") or 0.0)

    def say(self, state: str, error: Exception | None = None, *, final: bool = False) -> None:
        """Note the state; error: why; final: it is the last that is said for a while."""
        problem = _told(error)
        changed = state != self._state or problem != self._problem
        if changed:
            self._state, self._problem, self._since = state, problem, time.time()
        if changed or final:
            self._write()
        else:
            self.beat()

    def beat(self) -> None:
        """Write the file again when a second has passed."""
        if time.monotonic() - self._said >= _SAY_SECONDS:
            self._write()

    def facts(self) -> dict[str, Any]:
        """What is written. Positions as text, rate in bytes a second over ten seconds, times as seconds since 1970."""
        health = self.health
        return {
            "state": self._state,
            "since": round(self._since, 3),
            "updated": round(time.time(), 3),
            "direction": self.direction,
            "slot": self.slot,
            "pid": os.getpid(),
            "received_lsn": lsn_text(self.received),
            "spooled_lsn": lsn_text(self.spooled),
            "synced_lsn": lsn_text(self.synced),
            "commit_lsn": lsn_text(self.commit),
            "sender_lsn": lsn_text(self.sender),
            "bytes": self.bytes,
            "transactions": self.transactions,
            "rate": self._rate(),
            "reconnects": self.reconnects,
            "last_message": round(self.heard, 3) or None,
            "slot_health": {
                "wal_status": health.wal_status,
                "safe_wal_bytes": health.safe_wal_bytes,
                "retained_bytes": health.retained_bytes,
                "confirmed_lsn": health.confirmed_lsn,
            }
            if health
            else None,
            "problem": self._problem,
        }

    def _rate(self) -> float:
        now = time.monotonic()
        self._samples.append((now, self.bytes))
        while now - self._samples[0][0] > _RATE_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return round((after - before) / (last - first), 1) if last - first > 0.5 else 0.0

    def _write(self) -> None:
        self._said = time.monotonic()
        files.show(self.path, self.facts())


def _told(error: Exception | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, TransferError):
        return {"kind": error.details.get("kind", "error"), "message": error.message, "remedy": error.remedy}
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if session.is_lost(error):
        remedy = "Nothing to do: the connection is made again by itself. If it lasts, look at the network and at the server."
        return {"kind": "lost", "message": text, "remedy": remedy}
    return {
        "kind": "internal",
        "message": f"the receiver failed with {type(error).__name__}: {text}",
        "remedy": "Look at the service's log; it is started again by itself.",
    }
