"""Servers joining and leaving private networks."""

from __future__ import annotations

import ipaddress
from typing import Any

from .. import errors
from ..addresses import allocate, mac, taken
from ..engine import Commit, Job, command
from ..inputs import Address, Body, Cidr
from ..machine import follow
from ..routing import Call, Reply, op
from ..store import Document, Tx
from .server_create import MOST_NETWORKS
from .servers import free_server, started

MOST_ALIASES = 5
CHANGES = ("add_subnet", "delete_subnet", "change_ip_range")


class Attach(Body):
    network: int
    ip: Address | None = None
    alias_ips: list[Address] = []
    ip_range: Cidr | None = None


class Network(Body):
    network: int


class Aliases(Body):
    network: int
    alias_ips: list[Address]


def _entry(server: Document, network: int) -> Document:
    for entry in server["nets"]:
        if entry["network"] == network:
            return dict(entry)
    raise errors.unprocessable("service_error", f"server is not attached to network {network}")


@op("POST", "/servers/{id}/actions/attach_to_network")
def attach_to_network(call: Call) -> Reply:
    server, body = free_server(call), call.body(Attach)
    network = call.get("network", body.network)
    if any(action["command"] in CHANGES for action in call.tx.running("network", body.network)):
        raise errors.ApiError(409, "conflict", "the network is being changed by another action, please retry")
    own = ipaddress.IPv4Network(network["ip_range"])
    for entry in server["nets"]:
        if entry["network"] == body.network:
            raise errors.unprocessable("server_already_attached", "server is already attached to the network")
        if own.overlaps(ipaddress.IPv4Network(call.get("network", entry["network"])["ip_range"])):
            raise errors.unprocessable("networks_overlap", f"the network's range overlaps with that of network {entry['network']}")
    if len(server["nets"]) >= MOST_NETWORKS:
        raise errors.limit_exceeded(f"a server can be in at most {MOST_NETWORKS} networks", "server_network_limit")
    place: Any = call.cloud.catalogue.location(server["location"])
    ip = allocate(call.tx, network, place["network_zone"], body.ip, body.ip_range, body.alias_ips)
    _check_aliases(call.tx, network, body.alias_ips, {ip})
    entry = {"network": body.network, "ip": ip, "alias_ips": body.alias_ips, "mac": mac(body.network, ip), "status": "attaching"}
    server["nets"].append(entry)
    call.tx.put("server", server)
    # Only the server is locked: many servers join one network at the same time.
    return started(call, "attach_to_network", server, body.network)


def _check_aliases(tx: Tx, network: Document, aliases: list[str], own: set[str]) -> None:
    if len(aliases) > MOST_ALIASES or len(set(aliases)) != len(aliases):
        raise errors.invalid("alias_ips", f"must be at most {MOST_ALIASES} different addresses")
    for ip in aliases:
        inside = any(ipaddress.IPv4Address(ip) in ipaddress.IPv4Network(item["ip_range"]) for item in network["subnets"])
        if not inside or ip in own or ip in taken(tx, network["id"]):
            raise errors.unprocessable("ip_not_available", f"IP {ip} is not available")


def _set_entry(job: Job, tx: Tx, **fields: Any) -> None:
    """Change the server's entry for the network of the job, or remove it when no fields are given."""
    server = tx.get("server", job.resource("server"))
    if server is None:
        return
    ident = job.resource("network")
    changed = [{**entry, **fields} if entry["network"] == ident else entry for entry in server["nets"]]
    server["nets"] = changed if fields else [entry for entry in server["nets"] if entry["network"] != ident]
    tx.put("server", server)


@command("attach_to_network", undo=_set_entry)
def _attach(job: Job) -> Commit:
    follow(job)
    return lambda tx: _set_entry(job, tx, status="ok")


@op("POST", "/servers/{id}/actions/detach_from_network")
def detach_from_network(call: Call) -> Reply:
    server, body = free_server(call), call.body(Network)
    _entry(server, body.network)
    return started(call, "detach_from_network", server, body.network)


@command("detach_from_network")
def _detach(job: Job) -> Commit:
    follow(job, minus_network=job.resource("network"))
    return lambda tx: _set_entry(job, tx)


@op("POST", "/servers/{id}/actions/change_alias_ips")
def change_alias_ips(call: Call) -> Reply:
    server, body = free_server(call), call.body(Aliases)
    own = _entry(server, body.network)
    fresh = [ip for ip in body.alias_ips if ip not in own["alias_ips"]]
    _check_aliases(call.tx, call.get("network", body.network), fresh, {own["ip"]})
    return started(call, "change_alias_ips", server, body.network, args={"alias_ips": body.alias_ips})


@command("change_alias_ips")
def _alias(job: Job) -> Commit:
    return lambda tx: _set_entry(job, tx, alias_ips=job.args["alias_ips"])
