"""Damage to a running copy: the processes and sessions that it consists of, and ways to end them."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgservers
import psycopg
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import holder

from .usage import descendants, processes

TESTS = Path(__file__).parents[1]
# Seconds after which something that always happens counts as not happening; nothing here waits so long when all is well.
PATIENCE = 600.0
# Our own sessions on a server; the one that asks is not among them.
_SESSIONS = """SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'cutover%%' AND application_name LIKE %s
    AND backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid() ORDER BY pid"""
_LEDGER = """SELECT c.source_table, c.number, c.finished, r.snapshot_content FROM cutover.chunk c JOIN cutover.run r ON r.id = c.run WHERE c.state = 'done'"""


@dataclass(frozen=True)
class Done:
    """A chunk that the ledger calls done. finished: by the target's clock; content: of the snapshot that it shows."""

    table: str
    number: int
    finished: Any
    content: str


class Mover:
    """A copy in a process of its own."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        """args: as bench.mover takes them."""
        # Its keeper is no child of it for long, but has the same command line.
        self.token = f"mover-{secrets.token_hex(6)}"
        paths = [str(TESTS), str(TESTS.parent / ".collections")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.mover", self.token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(args))
        self.process.stdin.close()
        self.process.stdin = None

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def result(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """What it said; with ``error`` when it has given up, and {} when it was killed. Raises AssertionError when it said anything else."""
        try:
            output, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"a mover has not ended within {seconds:.0f} s") from None
        if self.process.returncode == -signal.SIGKILL:
            return {}
        assert self.process.returncode == 0 and output, f"the mover ended with {self.process.returncode}: {errors[-3000:]}"
        found: dict[str, Any] = json.loads(output)
        return found

    def kill(self) -> None:
        """kill -9 of the mover itself."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def workers(self) -> list[int]:
        """pids of its workers."""
        return sorted(descendants(processes(), self.process.pid))

    def keepers(self) -> list[int]:
        """pids of processes that it has left behind on purpose, so that its snapshot outlives it."""
        mine = {self.process.pid, *self.workers()}
        return sorted(pid for pid in processes() if pid not in mine and self.token in _command(pid))


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def sessions(server: pgservers.Server, dbname: str, like: str = "%") -> list[tuple[int, str]]:
    """[(pid, application name)] of our sessions."""
    with server.connect(dbname) as conn:
        return [(row[0], row[1]) for row in conn.execute(_SESSIONS, (like,)).fetchall()]


@contextmanager
def running(args: Mapping[str, Any]) -> Iterator[Mover]:
    """A copy in a process of its own, which is gone afterwards with all that it has left."""
    mover = Mover(args)
    try:
        yield mover
    finally:
        mover.kill()
        for pid in mover.keepers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kept(source: pgservers.Server, target: pgservers.Server, dbname: str) -> bool:
    """Whether the snapshot that the ledger names for the unfinished run would outlive its mover."""
    query = "SELECT snapshot FROM cutover.run WHERE finished IS NULL AND abandoned IS NULL ORDER BY id DESC LIMIT 1"
    try:
        rows = target.execute(dbname, query)
        with source.connect(dbname) as conn:
            return bool(rows) and holder.alive(conn, rows[0][0])
    except psycopg.Error:  # no ledger yet, or a server that recovers
        return False


def flush(server: pgservers.Server, dbname: str) -> None:
    """Have everything that is committed on disk: with asynchronous commit a crash would take its last moments along."""
    server.execute(dbname, "SET synchronous_commit = on", "SELECT pg_logical_emit_message(true, 'flush', '')")


def done(server: pgservers.Server, dbname: str) -> dict[tuple[str, int], Done]:
    """Chunks that are done, by (table, number)."""
    with server.connect(dbname) as conn:
        row = conn.execute("SELECT to_regclass('cutover.chunk') IS NOT NULL").fetchone()
        if row is None or not row[0]:
            return {}
        return {(entry[0], entry[1]): Done(*entry) for entry in conn.execute(_LEDGER).fetchall()}


def end_session(server: pgservers.Server, dbname: str, dice: random.Random, like: str = "%") -> str:
    """Have the server end one of our sessions; its name, '' when there is none."""
    found = sessions(server, dbname, like)
    if not found:
        return ""
    pid, name = dice.choice(found)
    server.execute(dbname, f"SELECT pg_terminate_backend({pid})")
    wait_until(lambda: pid not in {one for one, _name in sessions(server, dbname)}, "the end of a session", PATIENCE)
    return name


def crash(server: pgservers.Server, dbname: str, dice: random.Random, like: str = "%") -> str:
    """kill -9 of one of our sessions: the server ends all others, recovers and comes back. The session's name, '' when there is none."""
    found = sessions(server, dbname, like)
    if not found:
        return ""
    pid, name = dice.choice(found)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    # Until the postmaster has noticed, new sessions are let in and thrown out again.
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of a killed session", PATIENCE)
    wait_until(lambda: _answers(server), f"the recovery of server {server.name}", PATIENCE)
    return name


def _answers(server: pgservers.Server) -> bool:
    try:
        server.execute("postgres", "SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def kill_one(pids: list[int], dice: random.Random) -> bool:
    """kill -9 of one of these processes; whether there was one."""
    if not pids:
        return False
    with suppress(ProcessLookupError):
        os.kill(dice.choice(pids), signal.SIGKILL)
    return True


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition, at most so long. Raises AssertionError."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)
