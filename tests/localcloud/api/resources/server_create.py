"""Creating a server: everything is checked before the first thing is recorded."""

from __future__ import annotations

import secrets
from typing import Any

from .. import errors
from ..addresses import allocate, mac
from ..engine import Job, command
from ..inputs import Body, Hostname, Labels, Ref
from ..kinds import action_view
from ..machine import spec
from ..routing import Call, Reply, op
from ..store import Document, Tx, now
from . import images, placement_groups, primary_ips, volumes
from .firewalls import MOST_PER_SERVER
from .servers import present

MOST_USER_DATA = 32 * 1024
MOST_NETWORKS = 3


class FirewallRef(Body):
    firewall: int


class PublicNet(Body):
    enable_ipv4: bool = True
    enable_ipv6: bool = True
    ipv4: int | None = None
    ipv6: int | None = None


class Create(Body):
    name: Hostname
    server_type: Ref
    image: Ref
    location: Ref | None = None
    start_after_create: bool = True
    placement_group: int | None = None
    ssh_keys: list[Ref] = []
    volumes: list[int] = []
    networks: list[int] = []
    firewalls: list[FirewallRef] = []
    user_data: str = ""
    labels: Labels = {}
    automount: bool | None = None
    public_net: PublicNet = PublicNet()


def usable_type(call: Call, ref: Ref, location: str | None) -> Document:
    """A type that can be ordered there. Raises 422 for unknown and retired types and for a location without it."""
    catalogue = call.cloud.catalogue
    kind = catalogue.server_type(ref)
    if kind is None:
        raise errors.invalid("server_type", f"server type '{ref}' not found")
    if kind["name"] in catalogue.retired:
        raise errors.refused(f"server type {kind['id']} is deprecated")
    if location is not None and location not in [item["name"] for item in kind["locations"]]:
        raise errors.refused("unsupported location for server type")
    return kind


def _location(call: Call, body: Create, kind: Document) -> str:
    if body.location is None:
        return str(kind["locations"][0]["name"])
    place = call.cloud.catalogue.location(body.location)
    if place is None:
        raise errors.invalid("location", f"location '{body.location}' not found")
    return str(place["name"])


def _keys(call: Call, refs: list[Ref]) -> list[str]:
    known = call.tx.all("ssh_key")
    result = []
    for ref in refs:
        key = next((item for item in known if ref in (item["id"], str(item["id"]), item["name"])), None)
        if key is None:
            raise errors.not_found("ssh_key", ref)
        result.append(key["public_key"])
    return result


def _given_ip(call: Call, ident: int, kind: str, location: str) -> Document:
    document = call.get("primary_ip", ident)
    if document["type"] != kind:
        raise errors.ApiError(412, "primary_ip_version_mismatch", f"primary IP {ident} is not an {kind} address")
    if document["server"] is not None:
        raise errors.unprocessable("primary_ip_assigned", f"primary IP {ident} is already assigned to a server")
    if document["location"] != location:
        raise errors.unprocessable(
            "primary_ip_datacenter_mismatch", f"primary IP {ident} is in location {document['location']}, not {location}"
        )
    return document


def _nets(call: Call, ids: list[int], zone: str) -> list[Document]:
    if len(set(ids)) != len(ids):
        raise errors.invalid("networks", "must not contain a network twice")
    if len(ids) > MOST_NETWORKS:
        raise errors.limit_exceeded(f"a server can be in at most {MOST_NETWORKS} networks", "server_network_limit")
    result = []
    for ident in ids:
        ip = allocate(call.tx, call.get("network", ident), zone)
        result.append({"network": ident, "ip": ip, "alias_ips": [], "mac": mac(ident, ip), "status": "attaching"})
    return result


def _check_parts(call: Call, body: Create, location: str) -> None:
    net = body.public_net
    if len(body.user_data.encode()) > MOST_USER_DATA:
        raise errors.invalid("user_data", f"is longer than {MOST_USER_DATA} bytes")
    if (net.ipv4 and not net.enable_ipv4) or (net.ipv6 and not net.enable_ipv6):
        raise errors.invalid("public_net", "an address is given for a protocol that is not enabled")
    if not (net.enable_ipv4 or net.enable_ipv6 or body.networks):
        raise errors.invalid("public_net", "a server without public addresses needs at least one network")
    if body.firewalls and not (net.enable_ipv4 or net.enable_ipv6):
        raise errors.unprocessable("private_net_only_server", "a server without public addresses cannot have firewalls")
    if len({item.firewall for item in body.firewalls}) > MOST_PER_SERVER:
        raise errors.limit_exceeded(f"a server can have at most {MOST_PER_SERVER} firewalls", "firewall_server_limit")
    for item in body.firewalls:
        call.get("firewall", item.firewall)
    for ident in body.volumes:
        volume = call.get("volume", ident)
        if call.tx.is_locked("volume", ident):
            raise errors.locked("volume")
        if volume["server"] is not None or volume["location"] != location:
            raise errors.invalid("volumes", f"volume {ident} is attached to a server or not in location {location}")
    if len(body.volumes) > volumes.MOST_PER_SERVER:
        raise errors.limit_exceeded(f"a server can have at most {volumes.MOST_PER_SERVER} volumes", "volume_server_limit")
    if body.placement_group is not None:
        call.get("placement_group", body.placement_group)
        placement_groups.check_room(call.tx, body.placement_group)


def _public(call: Call, body: Create, server_id: int, location: str) -> None:
    """Lend the addresses asked for, make those that are missing."""
    for kind, wanted, ident in (
        ("ipv4", body.public_net.enable_ipv4, body.public_net.ipv4),
        ("ipv6", body.public_net.enable_ipv6, body.public_net.ipv6),
    ):
        if ident is not None:
            call.tx.put("primary_ip", {**_given_ip(call, ident, kind, location), "server": server_id})
        elif wanted:
            primary_ips.make(call.tx, call.cloud, kind, location, server=server_id, auto_delete=True)


@op("POST", "/servers")
def create(call: Call) -> Reply:
    body = call.body(Create)
    kind = usable_type(call, body.server_type, None)
    location = _location(call, body, kind)
    usable_type(call, body.server_type, location)
    image = images.find(call, body.image, kind["architecture"])
    if image["disk_size"] > kind["disk"]:
        raise errors.invalid("image", f"needs a disk of {image['disk_size']} GB, server type {kind['name']} has {kind['disk']} GB")
    call.unique("server", body.name)
    keys = _keys(call, body.ssh_keys)
    _check_parts(call, body, location)
    place: Any = call.cloud.catalogue.location(location)
    server: Document = {
        "id": call.tx.next_id(),
        "name": body.name,
        "labels": body.labels,
        "created": now(),
        "server_type": kind["name"],
        "location": location,
        "image": image["id"],
        "os": [image["os_flavor"], image["os_version"]],
        "primary_disk_size": kind["disk"],
        "placement_group": body.placement_group,
        "rescue": False,
        "backup_window": None,
        "protection": {"delete": False, "rebuild": False},
        "ssh_keys": keys,
        "user_data": body.user_data,
        "nets": _nets(call, body.networks, place["network_zone"]),
    }
    call.tx.put("server", server)
    _public(call, body, server["id"], location)
    for ident in dict.fromkeys(item.firewall for item in body.firewalls):
        firewall = call.get("firewall", ident)
        firewall["servers"].append(server["id"])
        call.tx.put("firewall", firewall)
    first, following = _actions(call.tx, server, body)
    return Reply(
        201,
        {
            "server": present(call, server),
            "action": action_view(call, first),
            "next_actions": [action_view(call, action) for action in following],
            "root_password": None if keys else secrets.token_urlsafe(18),
        },
    )


def _actions(tx: Tx, server: Document, body: Create) -> tuple[Document, list[Document]]:
    """Create, then attach, then start: the machine boots with everything in place."""
    ident = server["id"]
    first = tx.start("create_server", [("server", ident)])
    following = [
        tx.start("attach_to_network", [("server", ident), ("network", item["network"])], after=first["id"]) for item in server["nets"]
    ]
    following += [tx.start("attach_volume", [("server", ident), ("volume", volume)], after=first["id"]) for volume in body.volumes]
    if body.start_after_create:
        following.append(tx.start("start_server", [("server", ident)], after=first["id"]))
    return first, following


@command("create_server")
def _create(job: Job) -> None:
    ident = job.resource("server")
    with job.cloud.store.read() as tx:
        server = tx.get("server", ident)
        wanted = spec(tx, job.cloud.catalogue, server) if server else None
    if wanted is not None:
        job.cloud.backend.create(wanted, start=False)
