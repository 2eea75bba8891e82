# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one who watches over the processes of a copy."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from . import large_objects, ledger, session
from .builds import Build
from .chunks import Chunk
from .errors import TransferError
from .holding import Holder, touch
from .progress import Progress, Tally
from .snapshots import import_snapshot
from .worker import Plan, main

if TYPE_CHECKING:
    import psycopg

__all__ = ["HEARTBEAT_SECONDS", "STALL_SECONDS", "Plan", "import_snapshot", "supervise"]

HEARTBEAT_SECONDS = 15.0
STALL_SECONDS = 1800.0


def supervise(
    plan: Plan,
    chunks: tuple[Chunk, ...],
    builds: tuple[Build, ...],
    holder: Holder | None,
    control: psycopg.Connection[Any],
    progress: Callable[[Progress], None] | None,
) -> tuple[int, int]:
    """(bytes, steps) done by these workers; they run until nothing of the run is left, for others either.

    holder: released as soon as all rows are over, None where another mover holds snapshot and ledger; control: to the ledger
    A killed worker is replaced, a bounded number of times. Raises the error of the first worker that gave up; all workers are gone then.
    """
    watch = _Watch(plan, Tally(chunks, builds), min(plan.workers, len(chunks) + len(builds)), holder, control, progress)
    watch.run()
    return watch.moved, watch.steps


class _Watch:
    """Workers and what was last heard of them."""

    def __init__(
        self,
        plan: Plan,
        tally: Tally,
        count: int,
        holder: Holder | None,
        control: psycopg.Connection[Any],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.plan, self.tally, self.count, self.holder, self.control, self.progress = plan, tally, count, holder, control, progress
        self.context = multiprocessing.get_context("fork")
        self.crew: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self.heard: dict[Connection, float] = {}
        self.deaths = 0
        self.moved = self.steps = 0

    def run(self) -> None:
        """Until the last worker has left."""
        try:
            for _unused in range(self.count):
                self._hire()
            beat = shown = time.monotonic()
            while self.crew:
                ready = wait(list(self.crew), timeout=1.0)
                for link in [link for link in self.crew if link in ready]:
                    self._listen(link)
                now = time.monotonic()
                for link, process in self.crew.items():
                    if now - self.heard[link] > STALL_SECONDS:
                        process.kill()
                if now - beat > HEARTBEAT_SECONDS:
                    beat = now
                    self._beat()
                if now - shown >= 1.0:
                    shown = now
                    self._look()
                    if self.progress is not None:
                        self.progress(self.tally.progress())
            self._look()
            if self.progress is not None:
                self.progress(self.tally.progress())
        finally:
            for process in self.crew.values():
                process.kill()
            for process in self.crew.values():
                process.join(10)

    def _hire(self) -> None:
        here, there = self.context.Pipe(duplex=False)
        process = self.context.Process(target=main, args=(self.plan, there, os.getpid()), daemon=True)
        process.start()
        there.close()
        self.crew[here], self.heard[here] = process, time.monotonic()

    def _listen(self, link: Connection) -> None:
        process = self.crew[link]
        pid = process.pid or 0
        try:
            message = link.recv()
        except EOFError:
            process.join()
            del self.crew[link]
            self.tally.idle(pid)
            if process.exitcode:
                self.deaths += 1
                if self.deaths > 3 * self.count:
                    raise TransferError(
                        f"workers died {self.deaths} times, last with exit code {process.exitcode}",
                        "Look for the out-of-memory killer in the kernel log, use fewer workers, then run again.",
                        kind="workers_died",
                    ) from None
                self._hire()
            return
        self.heard[link] = time.monotonic()
        word, *facts = message
        if word == "failed":
            text, remedy, details = facts
            raise TransferError(text, remedy, **details)
        if word in ("done", "built"):
            self.steps += 1
            self.moved += facts[2] if word == "done" else 0
        heard: dict[str, Callable[..., None]] = {
            "idle": self.tally.idle,
            "moving": self.tally.moving,
            "done": self.tally.finished,
            "building": self.tally.building,
            "built": self.tally.built,
            "unbuilt": self.tally.built,
        }
        heard[word](pid, *facts)

    def _beat(self) -> None:
        touch(self.control, "holds the ledger")
        if self.holder is not None and self.holder.released:
            self.holder.look(self.plan.source)
        elif self.holder is not None:
            self.holder.beat()
            before = self.holder.kept
            if before is not None:
                self.holder.keep(self.plan.source)
                if self.holder.kept != before:
                    ledger.rename_snapshot(self.control, self.plan.run, self.holder.name)

    def _look(self) -> None:
        """Take in what other movers have done, and let the source go when all rows are over."""
        try:
            self.tally.others(ledger.done_chunks(self.control, self.plan.run), ledger.done_builds(self.control, self.plan.run))
            if self.holder is None:
                self._follow()
            elif not self.holder.released and not self._rows_left():
                self.holder.release()
        except session.psycopg.OperationalError as error:
            if not (self.control.closed or session.is_lost(error)):
                raise
            raise TransferError(
                f"the connection that holds the ledger was lost: {str(error).strip()}", "Run again; finished chunks stay.", kind="lost"
            ) from error

    def _follow(self) -> None:
        """As one who has joined: end when the mover that holds snapshot and ledger has gone before the end."""
        if not ledger.is_finished(self.control, self.plan.run) and not ledger.is_led(self.control):
            raise TransferError(
                "the mover whose copy this one has joined is gone, and its snapshot with it",
                "Run the first mover again; what is finished stays.",
                kind="snapshot_lost",
            )

    def _rows_left(self) -> bool:
        return bool(
            ledger.remaining(self.control, self.plan.run) or (self.plan.objects and large_objects.chunks(self.control, self.plan.run))
        )
