"""CPU seconds and memory of commands and of servers, read from /proc."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stat:
    """Of one process: own CPU seconds, those of children that it has waited for, and its parent."""

    parent: int
    name: str
    own: float
    reaped: float


@dataclass(frozen=True)
class Run:
    """A command that has ended. seconds: wall; cpu: seconds of it and of all that it waited for; peaks: {pid: MB} of its Python descendants."""

    seconds: float
    cpu: float
    output: str
    peaks: Mapping[int, float] = field(default_factory=dict)


class CommandError(Exception):
    """A command that failed, with the end of what it said."""


def parse_stat(text: str) -> Stat:
    """A line of /proc/PID/stat. Pure. The name stands in parentheses and may hold anything, parentheses and blanks among it."""
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    user, system, child_user, child_system = (int(value) for value in fields[11:15])
    return Stat(int(fields[1]), name, (user + system) / TICK, (child_user + child_system) / TICK)


def processes() -> dict[int, Stat]:
    """All processes of this machine by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def descendants(known: Mapping[int, Stat], top: int) -> set[int]:
    """pids below ``top``. Pure."""
    found: set[int] = set()
    level = {top}
    while level:
        level = {pid for pid, stat in known.items() if stat.parent in level and pid not in found}
        found |= level
    return found


def tree_cpu(known: Mapping[int, Stat], top: int) -> float:
    """CPU seconds of a process, of what runs below it and of what has run below it. Pure. Only differences mean something."""
    return sum(known[pid].own + known[pid].reaped for pid in ({top} & known.keys()) | descendants(known, top))


def server_cpu(postmaster: int) -> float:
    """CPU seconds of a server and all its sessions until now."""
    return tree_cpu(processes(), postmaster)


def peak_mb(pid: int) -> float:
    """Largest resident size that a process has had, MB; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


class _Watch(threading.Thread):
    """Samples the peak memory of the Python processes below one, until told to stop."""

    def __init__(self, top: int) -> None:
        super().__init__(daemon=True)
        self.top, self.peaks, self.over = top, dict[int, float](), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.2):
            known = processes()
            for pid in descendants(known, self.top):
                if known[pid].name.startswith("python"):
                    self.peaks[pid] = max(self.peaks.get(pid, 0.0), peak_mb(pid))


def run(
    command: Sequence[str] | str,
    *,
    environment: Mapping[str, str] | None = None,
    given: str = "",
    timeout: float = 1800.0,
    watch: bool = False,
) -> Run:
    """Run a command (a string: by bash, a failure anywhere in a pipe fails it) and measure it. Raises CommandError.

    given: for its standard input; watch: sample the memory of its Python descendants
    """
    parts = ["bash", "-o", "pipefail", "-ec", command] if isinstance(command, str) else list(command)
    before, began = os.times(), time.monotonic()
    process = subprocess.Popen(
        parts, env={**os.environ, **(environment or {})}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watcher = _Watch(process.pid)
    if watch:
        watcher.start()
    try:
        output, errors = process.communicate(given, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise CommandError(f"{parts[0]} has not ended within {timeout:.0f} s") from error
    finally:
        watcher.over.set()
    seconds, after = time.monotonic() - began, os.times()
    if process.returncode:
        raise CommandError(f"{' '.join(parts)[:300]} ended with {process.returncode}: {(errors or output)[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(seconds, cpu, output, watcher.peaks)
