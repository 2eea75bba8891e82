# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Append-only record of a move: one JSON line per event."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import OperationsError

#: What a line can be about.
KINDS = ("run", "phase", "task", "probe", "gate", "step", "figures", "decision")
#: Results after which the next ``opened`` begins another run.
FINAL_RESULTS = ("rolled_back", "finalized")


@dataclass(frozen=True)
class Event:
    """One line. time: ISO 8601 UTC with milliseconds; seconds: duration or None; figures: measured values only."""

    time: str
    what: str
    name: str
    result: str
    phase: str = ""
    host: str = ""
    seconds: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The JSON text of this event, without a line break."""
        return json.dumps(
            {
                "time": self.time,
                "phase": self.phase,
                "host": self.host,
                "what": self.what,
                "name": self.name,
                "result": self.result,
                "seconds": None if self.seconds is None else round(self.seconds, 3),
                "figures": self.figures,
            },
            ensure_ascii=False,
            default=str,
        )


def now() -> str:
    """The present moment as the journal writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def moment(text: str) -> float:
    """Seconds since the epoch of a journal time."""
    return datetime.fromisoformat(text).timestamp()


def parse(text: str) -> list[Event]:
    """Events of a journal's text. A last line that was cut off by a crash is left out; any other bad line is an error."""
    events: list[Event] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            events.append(
                Event(
                    time=raw["time"],
                    what=raw["what"],
                    name=raw["name"],
                    result=raw["result"],
                    phase=raw.get("phase", ""),
                    host=raw.get("host", ""),
                    seconds=raw.get("seconds"),
                    figures=raw.get("figures") or {},
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise OperationsError(
                f"line {number} of the journal is not an event: {error}",
                "Somebody else wrote into this file. Move it away and run again; the databases hold the state, not the journal.",
                line=number,
            ) from error
    return events


def current_run(events: list[Event]) -> list[Event]:
    """The events since the last run was opened."""
    start = max((i for i, e in enumerate(events) if e.what == "run" and e.result == "opened"), default=0)
    return events[start:]


def is_open(events: list[Event]) -> bool:
    """True when the last run may be continued: opened, and not ended by a rollback or by finalize."""
    run = [e for e in events if e.what == "run"]
    return bool(run) and run[-1].result not in FINAL_RESULTS


def read(path: str | os.PathLike[str]) -> list[Event]:
    """All events of the file, an empty list when there is none."""
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []


def append(path: str | os.PathLike[str], event: Event) -> None:
    """Add one line, whole or not at all, also when several processes write."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = handle.seek(0, os.SEEK_END)
            if size:
                handle.seek(size - 1)
                if handle.read(1) != b"\n":  # a crash cut the last line off
                    handle.truncate(_last_line_start(handle, size))
            handle.write(event.line().encode() + b"\n")
    except OSError as error:
        raise OperationsError(
            f"cannot write the journal {target}: {error.strerror}", "Make the folder writable for the user who runs the playbook."
        ) from error


def _last_line_start(handle: Any, size: int) -> int:
    handle.seek(0)
    data: bytes = handle.read(size)
    return data.rfind(b"\n") + 1
