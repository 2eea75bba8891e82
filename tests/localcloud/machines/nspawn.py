"""The backend whose servers are systemd-nspawn machines inside one instance's namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from localcloud.backend import BackendError, MachineSpec
from localcloud.instance import Instance, locked, write_atomically
from localcloud.machines import disk, image, network, volumes
from localcloud.machines.disk import Machine
from localcloud.machines.firewall import script
from localcloud.machines.inherit import GUEST, SUITES, needed_private, replace_settings
from localcloud.machines.space import Space


class NspawnBackend:
    """Implements ``backend.Backend``. All state is in files, so that another process (the next API, ``down``) can go on with it."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.space = Space(instance)
        self.machines_directory = instance.directory / "m"
        self.images_directory = instance.directory / "images"

    # What the protocol asks for

    def images(self) -> list[str]:
        return sorted(SUITES)

    def create(self, spec: MachineSpec, start: bool) -> None:
        directory = self.machines_directory / str(spec.id)
        machine = disk.load(directory)
        if machine is None:
            layers = self._layers(spec.image)
            with locked(self.instance.directory / "slots.lock", 60):
                taken = {other.slot for other in self.machines()}
                slot = next(number for number in range(1, 10000) if number not in taken)
                machine = Machine(directory, slot, spec, layers, network.positions(spec.interfaces, {}))
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir(parents=True)
                disk.save(machine)
        if not machine.upper.exists():
            disk.seed(machine)
        self.update(spec)
        if start:
            self.power_on(spec.id)

    def update(self, spec: MachineSpec) -> None:
        machine = self._machine(spec.id)
        after = replace(machine, spec=replace(spec, image=machine.spec.image), places=network.positions(spec.interfaces, machine.places))
        with disk.plugging(machine):
            disk.save(after)
            loops = volumes.attach(self.instance, machine, after)
            disk.write_boot_files(after, self.instance.gateway, loops)
            if self.space.netns_exists(after.group):
                gone, new = network.changes(machine.plugs(self.instance.gateway), after.plugs(self.instance.gateway))
                self._replug(gone, new, after)
            leader = self.space.leader(after.group)
            if leader:
                volumes.show(leader, machine, after, loops)
        if (machine.spec.firewalls, machine.spec.interfaces) != (after.spec.firewalls, after.spec.interfaces) or not (
            machine.directory / "filtered"
        ).exists():
            self.refresh_firewall()
            (machine.directory / "filtered").touch()

    def power_on(self, server_id: int) -> None:
        machine = self._machine(server_id)
        with locked(machine.directory / "power.lock", 60):
            machine.want(True)
            if self.space.running(machine.group):
                return
            starter = 'setsid sh "$0" "$1" "$2" "$3" </dev/null >"$1/log" 2>&1 &'
            self.space.enter(["sh", "-c", starter, GUEST / "run-machine.sh", machine.directory, str(machine.slot), self.instance.cgroup])
            self._wait(lambda: self.space.running(machine.group), 10, machine, "did not start")

    def power_off(self, server_id: int) -> None:
        machine = self._machine(server_id)
        machine.want(False)
        self._cut(machine)

    def shutdown(self, server_id: int) -> None:
        self._signal(self._machine(server_id), signal.SIGRTMIN + 4)

    def reboot(self, server_id: int) -> None:
        machine = self._machine(server_id)
        if self.space.running(machine.group):
            self._signal(machine, signal.SIGRTMIN + 5)
        else:
            self.power_on(server_id)

    def reset(self, server_id: int) -> None:
        self._cut(self._machine(server_id))
        self.power_on(server_id)

    def rebuild(self, spec: MachineSpec) -> None:
        machine = self._machine(spec.id)
        layers = self._layers(spec.image)
        was_on = self.space.running(machine.group)
        self._cut(machine)
        disk.wipe(machine)
        fresh = replace(
            machine,
            spec=replace(machine.spec, image=spec.image, ssh_keys=spec.ssh_keys, user_data=spec.user_data, name=spec.name),
            layers=layers,
        )
        disk.save(fresh)
        disk.seed(fresh)
        self.update(spec)
        self._collect_images()
        if was_on:
            self.power_on(spec.id)

    def delete(self, server_id: int) -> None:
        directory = self.machines_directory / str(server_id)
        machine = disk.load(directory)
        if machine is None:
            return
        machine.want(False)
        self._cut(machine)
        volumes.detach(self.instance, [volume.id for volume in machine.spec.volumes])
        gone = directory.with_name(f".gone-{server_id}-{time.monotonic_ns()}")
        directory.rename(gone)
        shutil.rmtree(gone)
        self.refresh_firewall()
        self._collect_images()

    def running(self, server_id: int) -> bool:
        machine = disk.load(self.machines_directory / str(server_id))
        return machine is not None and self.space.running(machine.group)

    def snapshot(self, server_id: int, image_id: int) -> float:
        machine = self._machine(server_id)
        target = self.images_directory / str(image_id)
        size = disk.freeze(machine, target / "layer")
        write_atomically(target / "layers", "\n".join([machine.spec.image.split("@")[0], *machine.layers, str(target / "layer")]))
        return size

    def delete_image(self, image_id: int) -> None:
        target = self.images_directory / str(image_id)
        if target.exists():
            (target / "deleted").touch()
            self._collect_images()

    def create_volume(self, volume_id: int, size_gb: int, fmt: str | None) -> None:
        volumes.create(self.instance, volume_id, size_gb, fmt)

    def resize_volume(self, volume_id: int, size_gb: int) -> None:
        volumes.resize(self.instance, volume_id, size_gb)

    def delete_volume(self, volume_id: int) -> None:
        volumes.delete(self.instance, volume_id)

    # For the command line

    def machines(self) -> list[Machine]:
        """All machines of the instance, by server id."""
        found = [disk.load(path.parent) for path in self.machines_directory.glob("[0-9]*/machine.json")]
        return sorted((machine for machine in found if machine), key=lambda machine: machine.spec.id)

    def refresh_firewall(self) -> None:
        """Load the packet filter for all machines as they are declared now."""
        with locked(self.instance.directory / "firewall.lock", 60):
            machines = self.machines()
            declared = {interface.ip_range for machine in machines for interface in machine.spec.interfaces}
            rules = [(machine.slot, machine.spec.firewalls) for machine in machines]
            self.space.enter(["nft", "-f", "-"], stdin=script(rules, self.instance.gateway, declared, needed_private()))

    def prepare_settings(self, names: list[str]) -> None:
        """Make the settings layers anew; only while nothing runs."""
        for name in names:
            replace_settings(self._settings(name), name, self.instance.gateway)

    # How

    def _machine(self, server_id: int) -> Machine:
        return disk.require(self.machines_directory / str(server_id), server_id)

    def _settings(self, name: str) -> Path:
        return self.instance.directory / "settings" / name

    def _layers(self, name: str) -> tuple[str, ...]:
        """Directories under a disk made from an image, lowest first."""
        if name.startswith("snapshot-"):
            path = self.images_directory / name.removeprefix("snapshot-") / "layers"
            if not path.exists() or path.with_name("deleted").exists():
                raise BackendError(f"image {name} is not here: expected {path}; create the snapshot again")
            return tuple(path.read_text().splitlines()[1:])
        base = image.ensure(name)
        settings = self._settings(name)
        if not settings.exists():
            with locked(self.instance.directory / "settings.lock", 60):
                if not settings.exists():
                    building = settings.with_name(f".{name}")
                    replace_settings(building, name, self.instance.gateway)
                    building.rename(settings)
        return (str(base), str(settings))

    def _collect_images(self) -> None:
        """Remove deleted snapshots that no machine and no other snapshot stands on."""
        for marker in self.images_directory.glob("*/deleted"):
            layer = str(marker.parent / "layer")
            others = [path.read_text().splitlines() for path in self.images_directory.glob("*/layers") if path.parent != marker.parent]
            if not any(layer in machine.layers for machine in self.machines()) and not any(layer in lines for lines in others):
                shutil.rmtree(marker.parent)

    def _replug(self, gone: tuple[network.Plug, ...], new: tuple[network.Plug, ...], machine: Machine) -> None:
        """Hot-plug: take interfaces out of a running machine and put others in."""
        for plug in gone:
            self.space.enter(["sh", "-c", '[ ! -e "/sys/class/net/$0" ] || ip link del "$0"', plug.port])
        bridges = [plug.bridge for plug in new if plug.bridge]
        for name in bridges:
            self.space.enter(["sh", "-c", 'ip link add "$0" type bridge 2>/dev/null; ip link set "$0" up', name])
        if new:
            self.space.enter(["ip", "-batch", "-"], stdin=network.batch([line for plug in new for line in plug.outer]))
            self.space.enter(["ip", "-n", machine.group, "-batch", "-"], stdin=network.batch([line for plug in new for line in plug.inner]))

    def _cut(self, machine: Machine) -> None:
        """End all processes of a machine at once and take its links away."""
        with locked(machine.directory / "power.lock", 60):
            self.space.kill(machine.group)
        if self.space.pid() is not None:
            links = 'for link in /sys/class/net/p$0 /sys/class/net/q$0-*; do [ ! -e "$link" ] || ip link del "${link##*/}"; done'
            clean = f"{links}; [ ! -e /run/netns/m$0 ] || ip netns del m$0"
            self.space.enter(["sh", "-c", clean, str(machine.slot)])

    def _signal(self, machine: Machine, number: int) -> None:
        """Ask the machine's init for an orderly stop; one that has just been started is given time to listen."""
        if not self.space.running(machine.group):
            return
        self._wait(
            lambda: self.space.leader(machine.group) is not None or not self.space.running(machine.group), 15, machine, "does not listen"
        )
        leader = self.space.leader(machine.group)
        if leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, number)

    @staticmethod
    def _wait(condition: Callable[[], bool], seconds: float, machine: Machine, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                log = machine.directory / "log"
                said = log.read_text(errors="replace").strip()[-600:] if log.exists() else "no log"
                raise BackendError(f"machine {machine.spec.name} {what} within {seconds:.0f} s: {said}; more in {log}")
            time.sleep(0.01)
