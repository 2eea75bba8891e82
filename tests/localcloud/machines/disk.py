"""A machine's record and files below ``<instance>/m/<server id>``."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from localcloud.backend import BackendError, FirewallRule, Interface, MachineSpec, Volume
from localcloud.instance import locked, write_atomically
from localcloud.machines.network import Plug, batch, plugs
from localcloud.machines.shell import run


@dataclass(frozen=True)
class Machine:
    """What is remembered of a machine.

    directory: its files; slot: small number its links are named after; layers: directories under its disk, lowest first
    places: position of each private network's interface
    """

    directory: Path
    slot: int
    spec: MachineSpec
    layers: tuple[str, ...]
    places: dict[int, int]

    @property
    def group(self) -> str:
        return f"m{self.slot}"

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    def plugs(self, gateway: str) -> tuple[Plug, ...]:
        return plugs(self.spec, self.slot, self.places, gateway)

    @property
    def wanted_on(self) -> bool:
        return (self.directory / "on").exists()

    def want(self, on: bool) -> None:
        """Remember whether the machine should run, for the next start of the instance."""
        if on:
            (self.directory / "on").touch()
        else:
            (self.directory / "on").unlink(missing_ok=True)


def spec_from(data: dict[str, Any]) -> MachineSpec:
    """A MachineSpec from its JSON form."""
    rules = data["firewalls"]
    return MachineSpec(
        **{
            **data,
            "ssh_keys": tuple(data["ssh_keys"]),
            "interfaces": tuple(Interface(**item) for item in data["interfaces"]),
            "volumes": tuple(Volume(**item) for item in data["volumes"]),
            "firewalls": None if rules is None else tuple(FirewallRule(**{**rule, "cidrs": tuple(rule["cidrs"])}) for rule in rules),
        }
    )


def load(directory: Path) -> Machine | None:
    """The machine recorded in a directory, or None."""
    try:
        data = json.loads((directory / "machine.json").read_text())
    except FileNotFoundError:
        return None
    places = {int(key): value for key, value in data["places"].items()}
    return Machine(directory, data["slot"], spec_from(data["spec"]), tuple(data["layers"]), places)


def save(machine: Machine) -> None:
    data = {"slot": machine.slot, "spec": asdict(machine.spec), "layers": machine.layers, "places": machine.places}
    write_atomically(machine.directory / "machine.json", json.dumps(data))


def write_boot_files(machine: Machine, gateway: str, loops: dict[int, str]) -> None:
    """The files that run-machine.sh reads at every boot."""
    wires = machine.plugs(gateway)
    write_atomically(machine.directory / "links", batch([line for plug in wires for line in plug.outer]))
    write_atomically(machine.directory / "addresses", batch(["link set lo up", *(line for plug in wires for line in plug.inner)]))
    write_atomically(machine.directory / "bridges", batch([plug.bridge for plug in wires if plug.bridge]))
    layers = ":".join(reversed(machine.layers))
    work = machine.directory / "work"
    write_atomically(machine.directory / "overlay", f"lowerdir={layers},upperdir={machine.upper},workdir={work}\n")
    nodes = "".join(f"L+ /dev/disk/by-id/scsi-0HC_Volume_{volume} - - - - {loop}\n" for volume, loop in sorted(loops.items()))
    write_atomically(machine.directory / "volumes.conf", nodes)
    options = [
        f"--hostname={machine.spec.name.split('.')[0]}",
        f"--bind-ro={machine.directory / 'volumes.conf'}:/run/tmpfiles.d/localcloud-volumes.conf",
    ]
    write_atomically(machine.directory / "options", batch([*options, *(f"--bind={loop}" for _unused, loop in sorted(loops.items()))]))


def seed(machine: Machine) -> None:
    """A fresh upper layer: what makes this machine itself (name, keys, user data). There is none, or a whole one; never half of one."""
    spec, building = machine.spec, machine.directory / "upper.new"
    if building.exists():
        shutil.rmtree(building)
    for folder in (building, machine.directory / "work", machine.directory / "root"):
        folder.mkdir(parents=True, exist_ok=True)

    def put(path: str, text: str, mode: int = 0o644) -> None:
        file = building / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    short, _unused, domain = spec.name.partition(".")
    put("etc/hostname", short + "\n")
    put(
        "etc/hosts",
        f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {f'{spec.name} {short}' if domain else short}\n",
    )
    put("etc/machine-id", uuid.uuid4().hex + "\n", 0o444)
    put("root/.ssh/authorized_keys", "".join(key.strip() + "\n" for key in spec.ssh_keys), 0o600)
    (building / "root").chmod(0o700)
    (building / "root/.ssh").chmod(0o700)
    (building / "etc/ssh").mkdir()
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{short}", "-f", building / "etc/ssh/ssh_host_ed25519_key"])
    put("var/lib/cloud/instance/user-data.txt", decode_user_data(spec.user_data), 0o600)
    put("var/lib/cloud/data/instance-id", f"{spec.id}\n")
    building.rename(machine.upper)


def decode_user_data(text: str) -> str:
    """User data as it was meant: clients may send it in base64."""
    if text and not text.startswith("#"):
        with contextlib.suppress(ValueError, UnicodeDecodeError):
            decoded = base64.b64decode(text, validate=True).decode()
            if decoded.startswith("#"):
                return decoded
    return text


def wipe(machine: Machine) -> None:
    """Remove the disk (not the record)."""
    for name in ("upper.new", "upper", "work", "root"):
        if (machine.directory / name).exists():
            shutil.rmtree(machine.directory / name)


def freeze(machine: Machine, target: Path) -> float:
    """Copy the disk's own layer to ``target`` without what makes the machine itself; returns its size in GB."""
    building = target.with_name(f".{target.name}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    run(["cp", "-a", "--reflink=auto", f"{machine.upper}/.", building], seconds=1800)
    for pattern in ("etc/ssh/ssh_host_*", "var/lib/cloud/instance/*", "var/lib/systemd/random-seed", "var/log/journal/*"):
        for path in building.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    building.rename(target)
    size = sum(
        path.lstat().st_blocks * 512 for folder, _unused, files in os.walk(target) for path in (Path(folder) / name for name in files)
    )
    return round(size / 1e9, 6)


@contextlib.contextmanager
def plugging(machine: Machine, seconds: float = 20.0) -> Iterator[None]:
    """Keep a booting machine from plugging in while its interfaces change (run-machine.sh takes the same lock)."""
    with locked(machine.directory / "lock", seconds, f"machine {machine.spec.name} hangs while it boots: read {machine.directory}/log"):
        yield


def require(directory: Path, server_id: int) -> Machine:
    machine = load(directory)
    if machine is None:
        raise BackendError(
            f"server {server_id} has no machine here: expected {directory}/machine.json; delete the server and create it again"
        )
    return machine
