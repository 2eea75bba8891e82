# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps a receiver and an applier alive: ``python -m <package>.stream.service CONFIG.json``.

Each is a process of its own, so that the one that is dead, stuck or out of memory takes nothing of the other with it. SIGTERM and SIGINT stop both.
To systemd (``Type=notify``) it tells when it is ready, how the stream stands, and that it lives.

Exit status: 0 stopped as asked; 64 wrong use; 78 the configuration is refused (why is on standard error). A process of it ends with 69 for something
that a person must mend, which its file in the spool's folder names; it is tried again after half a minute. 70 is a fault of ours.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import TransferError
from .config import Config
from .reporter import Reporter

OK, USAGE, PROBLEM, FAULT, CONFIG = 0, 64, 69, 70, 78
ROLES = ("receiver", "applier")
_PR_SET_PDEATHSIG = 1
_PACKAGE = __package__ or __name__.rpartition(".")[0]
_LOOK_SECONDS, _TOUCH_SECONDS, _STATUS_SECONDS = 0.2, 1.0, 5.0
# After what only a person can mend, and at most after anything else.
_LONG_PAUSE, _LONGEST_PAUSE, _FIRST_PAUSE = 30.0, 30.0, 1.0
# A process that has lived for so long begins with the shortest pause again.
_SETTLED_SECONDS = 60.0
# From the start of a process to its first sign of life, on a machine that has no time for it.
_GRACE_SECONDS = 60.0
# Both together are less than systemd waits, and less than ten seconds.
_STOP_SECONDS, _KILL_SECONDS = 8.0, 1.5


def pause_after(code: int, lived: float, before: float) -> float:
    """Seconds until a process is started again. code: as subprocess tells it; lived: seconds; before: the last pause, 0 for none. Pure."""
    if code == PROBLEM:
        return _LONG_PAUSE
    if lived >= _SETTLED_SECONDS or not before:
        return _FIRST_PAUSE
    return min(2 * before, _LONGEST_PAUSE)


def alive_file(folder: Path, role: str) -> Path:
    """What a process touches as long as it asks whether it is to stop."""
    return folder / f"{role}.alive"


@dataclass
class _Child:
    """A process of the service. due: not started before; seen: newest sign of life in files, heard: when that was noticed; clocks are monotonic.

    shown: whether it has shown life since it was started
    """

    role: str
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    due: float = 0.0
    pause: float = 0.0
    starts: int = 0
    seen: float = 0.0
    heard: float = 0.0
    shown: bool = False


class Service:
    """Starts, watches, replaces and stops the two."""

    def __init__(self, config: Config, path: Path) -> None:
        self.config, self.path = config, path
        self.children = [_Child(role) for role in ROLES]
        self.stopping = False
        self.systemd = Notifier()
        self.reporter = Reporter(config, lambda: {child.role: child.starts for child in self.children})

    def run(self) -> int:
        """Until SIGTERM or SIGINT; the exit status."""
        self.config.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            for child in self.children:
                self._start(child)
            self.reporter.start()
            self.systemd.tell("READY=1\nSTATUS=starting")
            told = time.monotonic()
            while not self.stopping:
                for child in self.children:
                    self._look(child)
                self.systemd.beat()
                if time.monotonic() - told > _STATUS_SECONDS:
                    told = time.monotonic()
                    self.systemd.tell(f"STATUS={self.reporter.line}")
                time.sleep(_LOOK_SECONDS)
            self.systemd.tell("STOPPING=1\nSTATUS=stopping")
        finally:
            self._end()
        return OK

    def _stop(self, _number: int, _frame: object) -> None:
        self.stopping = True

    def _start(self, child: _Child) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
        child.process = subprocess.Popen(
            [sys.executable, "-m", f"{_PACKAGE}.service", str(self.path), child.role, str(os.getpid())],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        child.began = child.heard = time.monotonic()
        child.starts += 1
        child.seen, child.shown = _newest(self.config.spool, child.role), False

    def _look(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.due:
                self._start(child)
            return
        code = child.process.poll()
        if code is None:
            seen = _newest(self.config.spool, child.role)
            if seen != child.seen:
                child.seen, child.heard, child.shown = seen, now, True
            patience = self.config.heartbeat_seconds
            if now - child.heard > (patience if child.shown else max(patience, _GRACE_SECONDS)):
                _say(f"the {child.role} (pid {child.process.pid}) has not shown life for {now - child.heard:.0f} s and is replaced")
                child.process.kill()
                child.process.wait()
            return
        child.process = None
        child.pause = pause_after(code, now - child.began, child.pause)
        child.due = now + child.pause
        _say(f"the {child.role} has ended with {_how(code)}; it is started again in {child.pause:.0f} s")

    def _end(self) -> None:
        running = [child.process for child in self.children if child.process is not None]
        for process in running:
            with suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _say(f"pid {process.pid} does not stop and is killed; nothing is lost by that")
                process.kill()
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_SECONDS)


class Notifier:
    """systemd's side of ``Type=notify``: datagrams to the socket in NOTIFY_SOCKET, nothing without it. See sd_notify(3)."""

    def __init__(self) -> None:
        self.address = os.environ.get("NOTIFY_SOCKET", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit = os.environ.get("WATCHDOG_USEC", "")
        self.every = int(limit) / 2e6 if ours and limit.isdigit() else 0.0
        self._last = 0.0

    def tell(self, text: str) -> None:
        """Send assignments, one a line."""
        if not self.address:
            return
        # Not waited for when it does not listen: the streams matter more.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as link:
            link.connect(f"\0{self.address[1:]}" if self.address.startswith("@") else self.address)
            link.sendall(text.encode())

    def beat(self) -> bool:
        """Feed the watchdog, twice in its time; whether it was fed now."""
        if not self.every or time.monotonic() - self._last < self.every:
            return False
        self._last = time.monotonic()
        self.tell("WATCHDOG=1")
        return True


class Alive:
    """``stop`` of a process of the service: True when it is asked to stop or its parent is gone. Whoever asks it shows life by that."""

    def __init__(self, path: Path, parent: int) -> None:
        self.path, self.parent, self.asked, self._touched = path, parent, False, 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._touched >= _TOUCH_SECONDS:
            self._touched = now
            # A full disk takes no new file, but a new time of an old one.
            with suppress(OSError):
                try:
                    os.utime(self.path)
                except FileNotFoundError:
                    self.path.touch(mode=0o600)
        return self.asked or os.getppid() != self.parent

    def ask(self, _number: int, _frame: object) -> None:
        """Signal handler."""
        self.asked = True


def _child(config: Config, role: str, parent: int) -> int:
    """A process of the service; its exit status. parent: told by the service, which may be gone by the time that this is asked."""
    # Where the system forbids it, a process that is left behind notices that by itself.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    stop = Alive(alive_file(config.spool, role), parent)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.ask)
    config.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        importlib.import_module(f".{role}", _PACKAGE).run(config, stop)
    except TransferError as error:
        _say(f"{role}: {error.message} {error.remedy}")
        return PROBLEM
    except Exception:
        traceback.print_exc()
        return FAULT
    return OK


def _newest(folder: Path, role: str) -> float:
    """Newest sign of life in files: what it touches, and its figures, which it also writes while it waits for a long statement."""
    times = [0.0]
    for path in (alive_file(folder, role), folder / f"{role}.json"):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _how(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return {PROBLEM: "a problem that a person must mend", FAULT: "a fault"}.get(code, f"status {code}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """The exit status. arguments: the file of the configuration, and for a process of the service which one and the service's pid."""
    if len(arguments) not in (1, 3) or (len(arguments) == 3 and not (arguments[1] in ROLES and arguments[2].isdigit())):
        _say(f"use: python -m {_PACKAGE}.service CONFIG.json")
        return USAGE
    path = Path(arguments[0]).absolute()
    try:
        config = Config.load(path)
    except TransferError as error:
        _say(f"{error.message} {error.remedy}")
        return CONFIG
    return _child(config, arguments[1], int(arguments[2])) if len(arguments) == 3 else Service(config, path).run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
