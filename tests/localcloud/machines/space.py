"""The instance's namespaces: one supervisor process holds mounts, network and processes of all machines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from localcloud.backend import BackendError
from localcloud.instance import Instance, load_process, save_process
from localcloud.machines.firewall import NEVER_OUTSIDE
from localcloud.machines.host import unified_hierarchy
from localcloud.machines.inherit import GUEST, needed_private
from localcloud.machines.network import router_macs
from localcloud.machines.shell import attempt, run


class Space:
    """Start, enter and end the namespaces of one instance."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.record = instance.directory / "supervisor.json"
        self.group = unified_hierarchy() / instance.cgroup

    def pid(self) -> int | None:
        """Host pid of the namespaces' first process, or None when it is not up."""
        found = load_process(self.record)
        return found.pid if found else None

    def alive(self) -> bool:
        """Whether the namespaces can be entered; a supervisor that was just killed may look alive for a moment."""
        pid = self.pid()
        return pid is not None and attempt(["nsenter", "-t", str(pid), "-m", "-n", "-p", "--", "true"]).returncode == 0

    def enter(self, command: list[str | Path], *, stdin: str | None = None, seconds: float = 60.0) -> str:
        """Run a program in the mount, network and process namespaces."""
        pid = self.pid()
        if pid is None:
            raise BackendError(f"instance {self.instance.name} is not up: run `python -m localcloud up --name {self.instance.name}`")
        return run(["nsenter", "-t", str(pid), "-m", "-n", "-p", "--", *command], stdin=stdin, seconds=seconds)

    def start(self) -> int:
        """Start the supervisor; returns its pid once the namespaces can be entered."""
        ready = self.instance.directory / "supervisor.ready"
        ready.unlink(missing_ok=True)
        group = self.group / "supervisor"
        group.mkdir(parents=True, exist_ok=True)
        begin = 'echo $$ >"$1/cgroup.procs"; exec unshare -m -n -p --fork --mount-proc --kill-child=SIGKILL -- sh "$2" "$3"'
        log = self.instance.directory / "supervisor.log"
        with log.open("wb") as output:
            command = ["sh", "-c", begin, "sh", str(group), str(GUEST / "supervise.sh"), str(ready)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + 15
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise BackendError(
                    f"the namespaces did not come up: {log.read_text().strip()[-800:] or 'no message'}; run `python -m localcloud doctor`"
                )
            time.sleep(0.01)
        ready.unlink()
        pid = next(pid for pid in self._pids(group) if first_in_namespace(pid))
        save_process(self.record, pid)
        return pid

    def wire(self) -> None:
        """Routes and addresses inside, once the host has put the link ``up0`` there."""
        instance = self.instance
        lines = ["link set up0 up", f"route add {instance.gateway} dev up0", f"route add default via {instance.gateway} dev up0"]
        lines += [f"neigh replace {instance.gateway} lladdr {router_macs(instance.index)[0]} dev up0 nud permanent"]
        lines += [f"route add blackhole {network}" for network in NEVER_OUTSIDE]
        lines += [f"route add {address} via {instance.gateway} dev up0" for address in needed_private()]
        self.enter(["ip", "-batch", "-"], stdin="".join(line + "\n" for line in lines))
        # The host asks here for the machines' hardware addresses: the answer must not be delayed.
        settings = "echo 0 >ipv4/neigh/up0/proxy_delay; [ ! -e ipv6 ] || echo 1 >ipv6/conf/up0/disable_ipv6"
        self.enter(["sh", "-c", f"cd /proc/sys/net; {settings}"])

    def kill(self, name: str = "") -> None:
        """End every process of the instance, or of one machine's group, and remove the emptied groups."""
        end_group(self.group / name)

    def running(self, name: str) -> bool:
        """Whether a machine's group has processes."""
        return populated(self.group / name)

    def leader(self, name: str) -> int | None:
        """Host pid of a machine's init, once systemd has put it in its place."""
        pids = self._pids(self.group / name / "payload" / "init.scope")
        return pids[0] if pids else None

    def netns_exists(self, name: str) -> bool:
        pid = self.pid()
        return pid is not None and Path(f"/proc/{pid}/root/run/netns/{name}").exists()

    @staticmethod
    def _pids(group: Path) -> list[int]:
        try:
            return [int(word) for word in (group / "cgroup.procs").read_text().split()]
        except OSError:
            return []


def end_group(group: Path, seconds: float = 30.0) -> None:
    """Kill all processes of a group, wait until the last is gone, also one that the kernel cannot let go of at once, and remove the group."""
    if not group.exists():
        return
    with contextlib.suppress(OSError):
        (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + seconds
    while populated(group):
        if time.monotonic() > deadline:
            raise BackendError(f"processes in {group} did not end within {seconds:.0f} s of being killed: see `cat {group}/cgroup.procs`")
        time.sleep(0.01)
    for folder, _unused, _unused in os.walk(group, topdown=False):
        remove_group(Path(folder))


@contextlib.contextmanager
def in_control(instance: Instance) -> Iterator[None]:
    """Run as the only one who changes the instance from the command line.

    A killed predecessor may have left a program that is still about to change something (an `ip link del` waiting for the kernel's lock); all programs
    started in here share one group, so that the successor can end them, or wait for them, before it begins.
    """
    hierarchy = unified_hierarchy()
    group = hierarchy / f"{instance.cgroup}.control"
    end_group(group)
    home = own_group()
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (hierarchy / home / "cgroup.procs").write_text(str(os.getpid()))
        remove_group(group)


def own_group() -> str:
    """The group of this process, below the unified hierarchy."""
    return next(line.removeprefix("0::/") for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))


def populated(group: Path) -> bool:
    try:
        return "populated 1" in (group / "cgroup.events").read_text()
    except OSError:
        return False


def remove_group(group: Path) -> None:
    """The kernel takes a moment to let go of a group whose last process just ended."""
    deadline = time.monotonic() + 2
    while group.exists():
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise BackendError(f"the group {group} is still in use: end what `cat {group}/cgroup.procs` shows") from None
            time.sleep(0.01)


def first_in_namespace(pid: int) -> bool:
    """Whether the process is number 1 in its own namespace."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
    return len(numbers) > 1 and numbers[-1] == "1"
