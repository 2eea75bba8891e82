"""What the API asks of a machine backend. The API keeps all state; a backend only makes it real.

All calls are blocking and are made from worker threads, one at a time per server. They raise BackendError with a text for
the action's error message. Every call is idempotent: asking for what is already so does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class BackendError(Exception):
    """What could not be made real, as text for the action's error."""


@dataclass(frozen=True)
class Interface:
    """A private network interface: network id, its range, this machine's address in it."""

    network_id: int
    ip_range: str
    ip: str
    mac: str


@dataclass(frozen=True)
class FirewallRule:
    """One inbound or outbound rule: CIDR lists, port "80", "80-90" or None (any)."""

    direction: str
    protocol: str
    port: str | None
    cidrs: tuple[str, ...]


@dataclass(frozen=True)
class Volume:
    """An attached volume: id, size in GB, format or None."""

    id: int
    size: int
    format: str | None


@dataclass(frozen=True)
class MachineSpec:
    """Everything a machine is made from.

    image: image name ("debian-12") or "snapshot-<id>"
    public_ipv4: address inside the instance's public range, or None
    firewalls: None when no firewall is attached (all traffic passes), else the union of all rules (inbound default deny)
    """

    id: int
    name: str
    image: str
    cores: int
    memory_gb: float
    disk_gb: int
    public_ipv4: str | None
    public_ipv6: str | None
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""
    interfaces: tuple[Interface, ...] = ()
    firewalls: tuple[FirewallRule, ...] | None = None
    volumes: tuple[Volume, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """Implemented by ``machines.NspawnBackend`` and ``backend.NoneBackend``."""

    def images(self) -> list[str]:
        """Names of images that can boot here."""

    def create(self, spec: MachineSpec, start: bool) -> None:
        """Make the machine's disk, and boot it if start. Returns when it is booting (power on), not when SSH answers."""

    def update(self, spec: MachineSpec) -> None:
        """Make a (running or stopped) machine follow changed interfaces, firewalls, volumes and name."""

    def power_on(self, server_id: int) -> None: ...

    def power_off(self, server_id: int) -> None:
        """Cut the power."""

    def shutdown(self, server_id: int) -> None:
        """Ask for an orderly stop; returns at once."""

    def reset(self, server_id: int) -> None: ...

    def reboot(self, server_id: int) -> None: ...

    def rebuild(self, spec: MachineSpec) -> None:
        """A fresh disk from spec.image; volumes stay."""

    def delete(self, server_id: int) -> None: ...

    def running(self, server_id: int) -> bool: ...

    def snapshot(self, server_id: int, image_id: int) -> float:
        """Freeze the disk as image "snapshot-<id>"; returns its size in GB."""

    def delete_image(self, image_id: int) -> None: ...

    def create_volume(self, volume_id: int, size_gb: int, fmt: str | None) -> None: ...

    def resize_volume(self, volume_id: int, size_gb: int) -> None: ...

    def delete_volume(self, volume_id: int) -> None: ...


class NoneBackend:
    """No machines: servers are records, power states are remembered."""

    def __init__(self) -> None:
        self._on: dict[int, bool] = {}

    def images(self) -> list[str]:
        return ["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"]

    def create(self, spec: MachineSpec, start: bool) -> None:
        self._on[spec.id] = start

    def update(self, spec: MachineSpec) -> None:
        return None

    def power_on(self, server_id: int) -> None:
        self._on[server_id] = True

    def power_off(self, server_id: int) -> None:
        self._on[server_id] = False

    def shutdown(self, server_id: int) -> None:
        self._on[server_id] = False

    def reset(self, server_id: int) -> None:
        self._on[server_id] = True

    def reboot(self, server_id: int) -> None:
        self._on[server_id] = True

    def rebuild(self, spec: MachineSpec) -> None:
        self._on[spec.id] = True

    def delete(self, server_id: int) -> None:
        self._on.pop(server_id, None)

    def running(self, server_id: int) -> bool:
        return self._on.get(server_id, False)

    def snapshot(self, server_id: int, image_id: int) -> float:
        return 1.0

    def delete_image(self, image_id: int) -> None:
        return None

    def create_volume(self, volume_id: int, size_gb: int, fmt: str | None) -> None:
        return None

    def resize_volume(self, volume_id: int, size_gb: int) -> None:
        return None

    def delete_volume(self, volume_id: int) -> None:
        return None
