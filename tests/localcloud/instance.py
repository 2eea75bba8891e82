"""An instance of the local cloud: its name, index, addresses, files and background processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

STATE_ROOT = Path(os.environ.get("CUTOVER_LOCALCLOUD_STATE", "/var/lib/cutover-localcloud"))
CACHE_ROOT = Path(os.environ.get("CUTOVER_LOCALCLOUD_CACHE", "/var/cache/cutover-localcloud"))
WHOLE_RANGE = "10.93.0.0/16"
MIRROR_PORT = 8099
# The name server's port for machines, on the gateway; port 53 there is the way to the host's own resolver.
DNS_PORT = 8053
DNS_PORT_OFFSET = 1000
NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,30}")


class LocalCloudError(Exception):
    """Why a command cannot go on: what was found, what was expected, what to do."""


@dataclass(frozen=True)
class Instance:
    """Identity of one instance; everything else (addresses, file names, link names) follows from it."""

    name: str
    index: int
    port: int
    backend: str

    @property
    def directory(self) -> Path:
        return STATE_ROOT / self.name

    @property
    def public_range(self) -> str:
        return f"10.93.{self.index}.0/24"

    @property
    def gateway(self) -> str:
        return f"10.93.{self.index}.1"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def name_server(self) -> tuple[str, int]:
        """Where its zones and reverse names are answered for this host, by UDP and TCP."""
        return "127.0.0.1", self.port + (DNS_PORT_OFFSET if self.port + DNS_PORT_OFFSET < 65536 else -DNS_PORT_OFFSET)

    @property
    def link(self) -> str:
        """The host's end of the instance's only way out."""
        return f"lc{self.index}"

    @property
    def table(self) -> str:
        """The host's nft table of this instance."""
        return f"cutover_localcloud_{self.index}"

    @property
    def cgroup(self) -> str:
        """Name of the instance's group at the root of the unified hierarchy."""
        return f"cutover-localcloud-{self.name}"

    @property
    def token_file(self) -> Path:
        return self.directory / "token"

    def token(self) -> str:
        """The API token, made at first use and kept in a file only root reads."""
        if not self.token_file.exists():
            descriptor = os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        return self.token_file.read_text()


def make(name: str, index: int, port: int | None, backend: str) -> Instance:
    """Check the words of the command line."""
    if not NAME_PATTERN.fullmatch(name):
        raise LocalCloudError(f"name {name!r}: expected a lower-case letter, then up to 30 letters, digits or dashes")
    if not 0 <= index <= 99:
        raise LocalCloudError(f"index {index}: expected 0 to 99")
    return Instance(name, index, port or 8600 + index, backend)


def load(name: str) -> Instance | None:
    """The instance recorded under this name, or None."""
    path = STATE_ROOT / name / "instance.json"
    if not NAME_PATTERN.fullmatch(name) or not path.exists():
        return None
    return Instance(**json.loads(path.read_text()))


def everyone() -> list[Instance]:
    """All recorded instances of this host."""
    names = sorted(path.parent.name for path in STATE_ROOT.glob("*/instance.json"))
    return [instance for name in names if (instance := load(name))]


def record(instance: Instance) -> None:
    """Remember the instance, or refuse when its name, index or port is another one's."""
    for other in everyone():
        if other.name == instance.name and other != instance:
            raise LocalCloudError(
                f"instance {other.name} is up with index {other.index}, port {other.port}, backend {other.backend}: "
                f"give the same, or run `down --name {other.name}` first"
            )
        if other.name != instance.name and (other.index == instance.index or other.port == instance.port):
            raise LocalCloudError(
                f"index {other.index} / port {other.port} belong to instance {other.name}: choose others, or run `down --name {other.name}`"
            )
    instance.directory.mkdir(parents=True, exist_ok=True)
    write_atomically(instance.directory / "instance.json", json.dumps(asdict(instance)))


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old or the new text, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    temporary.write_text(text)
    temporary.replace(path)


@contextlib.contextmanager
def locked(path: Path, wait_seconds: float = 600.0, what: str = "") -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel lets go of it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LocalCloudError(
                        f"{path} is held by another process for {wait_seconds:.0f} s: {what or 'see who with `fuser -v`'}"
                    ) from None
                time.sleep(0.01)
        yield


@dataclass(frozen=True)
class ProcessRecord:
    """A process by pid and start time: a pid alone may already be somebody else's."""

    pid: int
    started: int

    def alive(self) -> bool:
        return start_time(self.pid) == self.started

    def stop(self, wait_seconds: float = 5.0) -> None:
        """SIGTERM, then SIGKILL; nothing when it is gone already."""
        for number, seconds in ((signal.SIGTERM, wait_seconds), (signal.SIGKILL, 5.0)):
            if not self.alive():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            deadline = time.monotonic() + seconds
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.02)


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a live process began; None when there is none (or only a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def save_process(path: Path, pid: int) -> ProcessRecord:
    started = start_time(pid)
    if started is None:
        raise LocalCloudError(f"the process for {path.name} ended at once: read {path.with_suffix('.log')}")
    found = ProcessRecord(pid, started)
    write_atomically(path, json.dumps(asdict(found)))
    return found


def load_process(path: Path) -> ProcessRecord | None:
    """The recorded process, if it still lives."""
    try:
        found = ProcessRecord(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return found if found.alive() else None
