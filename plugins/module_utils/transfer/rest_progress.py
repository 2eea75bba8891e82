# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a copy over REST is, gathered from its threads; a pass counts as the table's last tenth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import TransferError
from .progress import Progress, TableProgress

# Share of a table that is said to be done when all its rows are in and a pass is under way.
_COPIED = 0.9


@dataclass
class _Line:
    expected: int
    since: float
    rows: int = 0
    bytes: int = 0
    passing: bool = False
    done: bool = False

    @property
    def share(self) -> float:
        if self.done:
            return 1.0
        return _COPIED if self.passing else _COPIED * min(self.rows / max(self.expected, 1), 1.0)


class Board:
    """Where threads write what they did. total: tables in all; stopped: set to end them after the page they are at."""

    def __init__(self, tell: Callable[[Progress], None] | None, total: int) -> None:
        self.tell, self.stopped = tell, False
        self.lines: dict[str, _Line] = {}
        self.lock = threading.Lock()
        self.started = time.monotonic()
        self.total = total

    def begin(self, table: str, expected: int | None) -> None:
        """A table is begun, or taken up again."""
        with self.lock:
            self.lines[table] = _Line(expected or 1, time.monotonic())

    def add(self, table: str, rows: int, size: int) -> None:
        """A page is in."""
        with self.lock:
            self.lines[table].rows += rows
            self.lines[table].bytes += size

    def passing(self, table: str) -> None:
        """A pass over the whole table has begun."""
        with self.lock:
            self.lines[table].passing = True

    def end(self, table: str) -> None:
        """A table is done."""
        with self.lock:
            self.lines[table].done = True

    def check(self) -> None:
        """Raises TransferError when another table has failed."""
        if self.stopped:
            raise TransferError("stopped, because another table failed", "Run again; finished pages stay.")

    def show(self, last: bool = False) -> None:
        """Tell how far it is."""
        if self.tell is None:
            return
        now = time.monotonic()
        with self.lock:
            lines = dict(self.lines)
            weight = sum(line.expected for line in lines.values()) or 1
            share = 1.0 if last else sum(line.share * line.expected for line in lines.values()) / weight
            size, seconds = sum(line.bytes for line in lines.values()), now - self.started
            done = sum(line.done for line in lines.values())
            flying = tuple(
                TableProgress(name, line.rows, line.bytes, line.share, 0, 1, 1, now - line.since)
                for name, line in sorted(lines.items())
                if not line.done
            )
        self.tell(
            Progress(
                rows=sum(line.rows for line in lines.values()),
                bytes=size,
                bytes_total=size,
                share=share,
                chunks_done=done,
                chunks_total=max(len(lines), self.total),
                tables_done=done,
                tables_total=max(len(lines), self.total),
                seconds=seconds,
                bytes_per_second=size / seconds if seconds > 0 else 0.0,
                eta_seconds=seconds * (1 - share) / share if share > 0 else None,
                tables=flying,
            )
        )
