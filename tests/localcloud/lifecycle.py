"""How an instance comes up, is made whole after any of its processes died, and goes down without leaving anything."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from localcloud import instance as instances
from localcloud.backend import Backend, BackendError, NoneBackend
from localcloud.instance import CACHE_ROOT, MIRROR_PORT, STATE_ROOT, Instance, LocalCloudError, load_process, locked, save_process
from localcloud.machines import NspawnBackend, host, image, volumes
from localcloud.machines.space import in_control

PACKAGE_PARENT = Path(__file__).resolve().parent.parent


def backend_of(instance: Instance) -> Backend:
    return NspawnBackend(instance) if instance.backend == "nspawn" else NoneBackend()


def up(instance: Instance, *, images: list[str], mirror: Path | None, speed: float = 0.0) -> None:
    """Start what does not run. Raises LocalCloudError or BackendError; what was started stays for the next try or ``down``."""
    if instance.backend == "nspawn" and not host.is_root():
        raise LocalCloudError("machines need root: run as root, or use --backend none")
    if mirror is not None and (instance.backend != "nspawn" or not mirror.is_dir()):
        raise LocalCloudError(f"--mirror {mirror}: expected a directory, and --backend nspawn")
    STATE_ROOT.mkdir(parents=True, exist_ok=True)
    with locked(STATE_ROOT / f".{instance.name}.lock", 1200, "another `up` or `down` of this instance takes too long"):
        with locked(STATE_ROOT / ".record.lock"):
            instances.record(instance)
        instance.token()
        with in_control(instance) if instance.backend == "nspawn" else contextlib.nullcontext():
            if instance.backend == "nspawn":
                machines_up(instance, images)
                before = instance.directory / "mirror.path"
                directory = mirror.resolve() if mirror else Path(before.read_text()) if before.exists() else None
                if directory is not None:
                    mirror_up(instance, directory)
            api_up(instance, speed)


def machines_up(instance: Instance, images: list[str]) -> None:
    """Packages, images, namespaces, the link to the host, and the machines that ran before."""
    host.install_packages()
    for name in images:
        image.ensure(name)
    backend = NspawnBackend(instance)
    wired = instance.directory / "wired"
    if not backend.space.alive() or not wired.exists() or not Path(f"/sys/class/net/{instance.link}").exists():
        wired.unlink(missing_ok=True)
        clean(instance)
        host.hold()
        backend.prepare_settings([path.name for path in (instance.directory / "settings").glob("debian-*")])
        host.connect(instance, backend.space.start())
        backend.space.wire()
        backend.refresh_firewall()
        for machine in backend.machines():
            backend.update(machine.spec)
        wired.touch()
    host.hold()
    for machine in backend.machines():
        if machine.wanted_on:
            backend.power_on(machine.spec.id)


def clean(instance: Instance) -> None:
    """Remove everything an earlier run of this instance left in the kernel. Files stay."""
    NspawnBackend(instance).space.kill()
    host.disconnect(instance)
    volumes.detach_all(instance)
    for leftover in (instance.directory / "m").glob(".gone-*"):
        shutil.rmtree(leftover)


def launch(instance: Instance, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """A background process of the instance, in a session of its own, recorded as ``<name>.json`` with its output in ``<name>.log``.

    With machines it also has a group of its own, so that one whose record was never written is found and ended all the same.
    """
    command = [sys.executable, "-m", "localcloud", *arguments]
    if instance.backend == "nspawn":
        space = NspawnBackend(instance).space
        (space.group / name).mkdir(parents=True, exist_ok=True)
        command = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(space.group / name), *command]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
    with (instance.directory / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment, cwd="/"
        )
    save_process(instance.directory / f"{name}.json", process.pid)
    return process


def answers(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def wait_listening(process: subprocess.Popen[bytes], address: str, port: int, log: Path, seconds: float = 30.0) -> None:
    """Return once something accepts connections, or say why it does not."""
    deadline = time.monotonic() + seconds
    while True:
        if answers(address, port):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            said = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise LocalCloudError(f"nothing answers on {address}:{port}; {log} says:\n{said}")
        time.sleep(0.05)


def refuse_taken(address: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise LocalCloudError(
                f"{address}:{port} cannot be used ({error.strerror}): see `ss -ltnp`, or choose another with --port"
            ) from None


def api_up(instance: Instance, speed: float) -> None:
    running = load_process(instance.directory / "api.json")
    if running and answers("127.0.0.1", instance.port):
        return
    if running:
        running.stop()
    if instance.backend == "nspawn":
        NspawnBackend(instance).space.kill("api")
    refuse_taken("127.0.0.1", instance.port)
    refuse_taken(*instance.name_server)
    process = launch(instance, "api", ["serve", "--name", instance.name, "--speed", str(speed)])
    wait_listening(process, "127.0.0.1", instance.port, instance.directory / "api.log")


def mirror_up(instance: Instance, directory: Path) -> None:
    """Serve a directory to the machines; another directory than before replaces it."""
    note = instance.directory / "mirror.path"
    running = load_process(instance.directory / "mirror.json")
    if running and note.exists() and note.read_text() == str(directory) and answers(instance.gateway, MIRROR_PORT):
        return
    if running:
        running.stop()
    note.write_text(str(directory))
    NspawnBackend(instance).space.kill("mirror")
    refuse_taken(instance.gateway, MIRROR_PORT)
    process = launch(instance, "mirror", ["files", "--name", instance.name, str(directory)])
    wait_listening(process, instance.gateway, MIRROR_PORT, instance.directory / "mirror.log")


def down(name: str, *, purge: bool = False) -> list[str]:
    """Remove an instance and what it left, also when it was only half up; returns what to tell."""
    said = []
    found = instances.load(name)
    if found is not None:
        alone = locked(STATE_ROOT / f".{name}.lock", 1200, "another `up` or `down` of this instance takes too long")
        with alone, in_control(found) if found.backend == "nspawn" else contextlib.nullcontext():
            for process in ("api", "mirror"):
                running = load_process(found.directory / f"{process}.json")
                if running:
                    running.stop()
            if found.backend == "nspawn":
                clean(found)
            remove_directory(found.directory)
        (STATE_ROOT / f".{name}.lock").unlink(missing_ok=True)
        said.append(f"instance {name} is gone")
    else:
        said.append(f"no instance {name!r} here: nothing to do")
        for gone in STATE_ROOT.glob(f".gone-{name}-*"):
            shutil.rmtree(gone)
    if host.is_root() and host.release():
        said.append("no instance is left: kernel settings and the route are as before")
    if purge:
        others = [other.name for other in instances.everyone() if other.backend == "nspawn"]
        if others:
            raise LocalCloudError(f"the images stay: instances {', '.join(others)} stand on them; run `down --name` for each first")
        image.purge()
        said.append(f"{CACHE_ROOT} is removed")
    return said


def remove_directory(directory: Path) -> None:
    """Remove state, unless something is mounted below it in the host's own mount table (it never should be)."""
    mounted = [
        line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if line.split()[1].startswith(f"{directory}/")
    ]
    if mounted:
        raise BackendError(f"{', '.join(mounted)} is mounted below {directory}: unmount it, then run `down` again")
    directory.rename(directory.with_name(f".gone-{directory.name}-{time.monotonic_ns()}"))
    for gone in directory.parent.glob(f".gone-{directory.name}-*"):
        shutil.rmtree(gone)


def status(instance: Instance) -> dict[str, Any]:
    """Instance, machines (id, name, image, addresses, state) and processes as plain data."""
    api = load_process(instance.directory / "api.json")
    state: dict[str, Any] = {
        "name": instance.name, "backend": instance.backend, "endpoint": instance.endpoint, "public_range": instance.public_range,
        "api": f"running (pid {api.pid})" if api else "not running: run `up` again", "dns": "{}:{}".format(*instance.name_server),
        "namespaces": "not used", "mirror": None, "machines": [],
    }  # fmt: skip
    if instance.backend != "nspawn":
        return state
    backend = NspawnBackend(instance)
    pid = backend.space.pid()
    state["namespaces"] = f"up (pid {pid})" if pid else "not up: run `up` again"
    if load_process(instance.directory / "mirror.json"):
        state["mirror"] = f"http://{instance.gateway}:{MIRROR_PORT}/"
    for machine in backend.machines():
        private = {f"enp{7 + machine.places[item.network_id]}s0": item.ip for item in machine.spec.interfaces}
        entry = {"id": machine.spec.id, "name": machine.spec.name, "image": machine.spec.image, "public_ipv4": machine.spec.public_ipv4}
        state["machines"].append({**entry, "private": private, "state": "running" if backend.running(machine.spec.id) else "off"})
    return state
