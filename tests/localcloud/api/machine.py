"""From the records to the machine: what the backend is told, and which firewalls are in force."""

from __future__ import annotations

import ipaddress
from typing import Any

from ..backend import FirewallRule, Interface, MachineSpec, Volume
from .catalogue import Catalogue
from .engine import Job
from .labels import matches
from .store import Document, Tx


def server_ips(tx: Tx, server_id: int) -> dict[str, Document]:
    """The server's primary IPs by type."""
    return {item["type"]: item for item in tx.all("primary_ip") if item["server"] == server_id}


def has_public_net(tx: Tx, server_id: int) -> bool:
    return bool(server_ips(tx, server_id))


def firewalls_of(tx: Tx, server: Document) -> list[Document]:
    """Firewalls in force for a server, applied directly or by label selector."""
    if not has_public_net(tx, server["id"]):
        return []
    return [item for item in tx.all("firewall") if server["id"] in item["servers"] or _selected(item, server)]


def _selected(firewall: Document, server: Document) -> bool:
    return any(matches(text, server["labels"]) for text in firewall["selectors"])


def _rule(raw: Document) -> FirewallRule:
    cidrs = raw["source_ips"] if raw["direction"] == "in" else raw["destination_ips"]
    return FirewallRule(raw["direction"], raw["protocol"], raw["port"], tuple(cidrs))


def image_name(tx: Tx, catalogue: Catalogue, image_id: int) -> str:
    """What the backend calls an image: its name, or snapshot-<id>."""
    for image in catalogue.images:
        if image["id"] == image_id:
            return str(image["name"])
    return f"snapshot-{image_id}"


def spec(tx: Tx, catalogue: Catalogue, server: Document, *, plus_volume: int | None = None, minus_volume: int | None = None,
         minus_network: int | None = None, ) -> MachineSpec:  # fmt: skip
    """The machine as it shall be now. plus/minus: a change that is being made and is not recorded yet."""
    kind = catalogue.server_type(server["server_type"])
    if kind is None:
        raise LookupError(f"server type {server['server_type']} is not in the catalogue")
    ips = server_ips(tx, server["id"])
    ipv6 = ipaddress.IPv6Network(ips["ipv6"]["ip"]) if "ipv6" in ips else None
    rules = firewalls_of(tx, server)
    return MachineSpec(
        id=server["id"],
        name=server["name"],
        image=image_name(tx, catalogue, server["image"]),
        cores=kind["cores"],
        memory_gb=kind["memory"],
        disk_gb=server["primary_disk_size"],
        public_ipv4=ips["ipv4"]["ip"] if "ipv4" in ips else None,
        public_ipv6=str(ipv6.network_address + 1) if ipv6 else None,
        ssh_keys=tuple(server["ssh_keys"]),
        user_data=server["user_data"],
        interfaces=tuple(_interface(tx, entry) for entry in server["nets"] if entry["network"] != minus_network),
        firewalls=tuple(_rule(raw) for item in rules for raw in item["rules"]) if rules else None,
        volumes=tuple(
            Volume(item["id"], item["size"], item["format"])
            for item in tx.all("volume")
            if item["id"] != minus_volume and (item["server"] == server["id"] or item["id"] == plus_volume)
        ),
        labels=server["labels"],
    )


def _interface(tx: Tx, entry: Document) -> Interface:
    network = tx.get("network", entry["network"])
    if network is None:
        raise LookupError(f"network {entry['network']} of an interface is gone")
    return Interface(entry["network"], network["ip_range"], entry["ip"], entry["mac"])


def follow(job: Job, **change: Any) -> None:
    """Make the server's machine what the records say. A server deleted meanwhile needs nothing."""
    with job.cloud.store.read() as tx:
        server = tx.get("server", job.resource("server"))
        wanted = spec(tx, job.cloud.catalogue, server, **change) if server else None
    if wanted is not None:
        job.cloud.backend.update(wanted)


def sync_firewalls(tx: Tx, server_ids: set[int]) -> None:
    """Have the machines follow changed firewalls, without an action that clients see."""
    for ident in sorted(server_ids):
        tx.start("sync_firewalls", [("server", ident)], locks=False, hidden=True)
