"""One module per kind of resource; importing them fills the table of operations."""

from __future__ import annotations

from . import (
    catalogue,
    firewalls,
    floating_ips,
    images,
    networks,
    placement_groups,
    primary_ips,
    rrsets,
    server_actions,
    server_create,
    server_networks,
    server_power,
    servers,
    ssh_keys,
    volumes,
    zone_create,
    zonefiles,
    zones,
)

__all__ = [
    "catalogue",
    "firewalls",
    "floating_ips",
    "images",
    "networks",
    "placement_groups",
    "primary_ips",
    "rrsets",
    "server_actions",
    "server_create",
    "server_networks",
    "server_power",
    "servers",
    "ssh_keys",
    "volumes",
    "zone_create",
    "zonefiles",
    "zones",
]
