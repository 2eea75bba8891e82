"""Load balancers: what is recorded of them, and every change but that of services and targets. No packet is balanced."""

from __future__ import annotations

import ipaddress
from typing import Any, Literal

from .. import errors
from ..addresses import allocate, free_ipv4, free_ipv6
from ..balancing import attached, target_view
from ..engine import Commit, Job, command
from ..inputs import Address, Body, Cidr, DeleteProtection, DnsPtr, Ref
from ..kinds import Kind, action_reply, action_view, check_deletable, register, unlocked
from ..routing import Call, Reply, op
from ..store import Document, Tx
from .primary_ips import default_ptr


class Algorithm(Body):
    type: Literal["round_robin", "least_connections"]


class ChangeType(Body):
    load_balancer_type: Ref


class Attach(Body):
    network: int
    ip: Address | None = None
    ip_range: Cidr | None = None


class Detach(Body):
    network: int


def type_of(call: Call, ref: Ref) -> Document:
    found = next((one for one in call.cloud.catalogue.load_balancer_types if ref in (one["id"], str(one["id"]), one["name"])), None)
    if found is None:
        raise errors.invalid("load_balancer_type", f"load balancer type '{ref}' not found")
    return found


def addresses(tx: Tx, public: ipaddress.IPv4Network) -> Document:
    """The public side of a new load balancer: an IPv4 address, and the first one of an IPv6 network."""
    wide = ipaddress.IPv6Network(free_ipv6(tx, public, "load_balancer_limit"))
    return {"enabled": True, "ipv4": {"ip": free_ipv4(tx, public, "load_balancer_limit")}, "ipv6": {"ip": str(wide[1])}}


def _public(document: Document) -> Document:
    public, names = document["public_net"], document["dns"]
    ipv4, ipv6 = public["ipv4"]["ip"], public["ipv6"]["ip"]
    return {
        "enabled": public["enabled"],
        "ipv4": {"ip": ipv4, "dns_ptr": names.get(ipv4, default_ptr(ipv4)), "id": None, "blocked": False},
        "ipv6": {"ip": ipv6, "dns_ptr": names.get(ipv6), "id": None, "blocked": False},
    }


def present(call: Call, document: Document) -> Document:
    kind = type_of(call, document["type"])
    prices = [price for price in kind["prices"] if price["location"] == document["location"]]
    shown = {key: document[key] for key in ("id", "name", "labels", "created", "protection", "services", "algorithm")}
    return {
        **shown,
        "public_net": _public(document),
        "private_net": [{"network": entry["network"], "ip": entry["ip"]} for entry in document["nets"] if entry["status"] == "ok"],
        "location": call.cloud.catalogue.location(document["location"]),
        "load_balancer_type": kind,
        "targets": [target_view(call, document, target) for target in document["targets"]],
        "outgoing_traffic": 0,
        "ingoing_traffic": 0,
        "included_traffic": prices[0]["included_traffic"] if prices else 0,
    }


KIND = register(Kind("load_balancer", "load_balancers", present))


def free_balancer(call: Call) -> Document:
    """The load balancer of the path, not locked by another action."""
    document = call.get("load_balancer")
    unlocked(call, "load_balancer", document["id"])
    return document


def changed(call: Call, name: str, document: Document, **fields: Any) -> Reply:
    """Record the new fields and start the action; a failure brings the old ones back."""
    before = {key: document[key] for key in fields}
    call.tx.put("load_balancer", {**document, **fields})
    return action_reply(call, call.tx.start(name, [("load_balancer", document["id"])], args={"before": before}))


def _put_back(job: Job, tx: Tx) -> None:
    document = tx.get("load_balancer", job.resource("load_balancer"))
    if document is not None:
        tx.put("load_balancer", {**document, **job.args["before"]})


for _name in (
    "add_service",
    "add_target",
    "change_algorithm",
    "change_load_balancer_type",
    "delete_service",
    "disable_public_interface",
    "enable_public_interface",
    "load_balancer change_dns_ptr",
    "load_balancer change_protection",
    "load_balancer detach_from_network",
    "remove_target",
    "update_service",
):

    @command(_name, _put_back)
    def _recorded(_job: Job) -> None:
        """The records alone changed."""


@op("DELETE", "/load_balancers/{id}")
def delete(call: Call) -> Reply:
    document = call.get("load_balancer")
    check_deletable(call, KIND, document)
    return Reply(201, {"action": action_view(call, call.tx.start("delete_load_balancer", [("load_balancer", document["id"])]))})


@command("delete_load_balancer")
def _delete(job: Job) -> Commit:
    return lambda tx: tx.drop("load_balancer", job.resource("load_balancer"))


@op("POST", "/load_balancers/{id}/actions/change_algorithm")
def change_algorithm(call: Call) -> Reply:
    document, body = free_balancer(call), call.body(Algorithm)
    return changed(call, "change_algorithm", document, algorithm=body.model_dump())


@op("POST", "/load_balancers/{id}/actions/change_type")
def change_type(call: Call) -> Reply:
    document, kind = free_balancer(call), type_of(call, call.body(ChangeType).load_balancer_type)
    used = {ident for service in document["services"] for ident in service.get("http", {}).get("certificates", [])}
    room = ((document["services"], "max_services"), (document["targets"], "max_targets"), (used, "max_assigned_certificates"))
    if kind["name"] == document["type"] or any(len(items) > kind[most] for items, most in room):
        raise errors.unprocessable("invalid_load_balancer_type", f"load balancer type '{kind['name']}' does not fit for this load balancer")
    return changed(call, "change_load_balancer_type", document, type=kind["name"])


@op("POST", "/load_balancers/{id}/actions/change_protection")
def change_protection(call: Call) -> Reply:
    document, body = free_balancer(call), call.body(DeleteProtection)
    wish = document["protection"]["delete"] if body.delete is None else body.delete
    return changed(call, "change_protection", document, protection={"delete": wish})


@op("POST", "/load_balancers/{id}/actions/change_dns_ptr")
def change_dns_ptr(call: Call) -> Reply:
    document, body = free_balancer(call), call.body(DnsPtr)
    public = document["public_net"]
    if body.ip not in (public["ipv4"]["ip"], public["ipv6"]["ip"]):
        raise errors.invalid("ip", f"'{body.ip}' does not belong to the resource")
    names = {ip: name for ip, name in document["dns"].items() if ip != body.ip}
    return changed(call, "change_dns_ptr", document, dns=names | ({body.ip: body.dns_ptr} if body.dns_ptr is not None else {}))


def joined(call: Call, document: Document, body: Attach) -> list[Document]:
    """Its entry in the network it is to join. Raises 409 and 422."""
    network = call.get("network", body.network)
    if call.tx.is_locked("network", body.network):
        raise errors.ApiError(409, "conflict", "the network is being changed by another action, please retry")
    if document["nets"]:
        raise errors.unprocessable("load_balancer_already_attached", "load balancer is already attached to a network")
    place: Any = call.cloud.catalogue.location(document["location"])
    ip = allocate(call.tx, network, place["network_zone"], body.ip, body.ip_range)
    return [{"network": body.network, "ip": ip, "alias_ips": [], "status": "attaching"}]


@op("POST", "/load_balancers/{id}/actions/attach_to_network")
def attach_to_network(call: Call) -> Reply:
    document, body = free_balancer(call), call.body(Attach)
    return changed(call, "attach_to_network", document, nets=joined(call, document, body))


@command("load_balancer attach_to_network", _put_back)
def _attach(job: Job) -> Commit:
    return lambda tx: settle_nets(tx, job.resource("load_balancer"))


def settle_nets(tx: Tx, ident: int) -> None:
    document = tx.get("load_balancer", ident)
    if document is not None:
        tx.put("load_balancer", {**document, "nets": [{**entry, "status": "ok"} for entry in document["nets"]]})


@op("POST", "/load_balancers/{id}/actions/detach_from_network")
def detach_from_network(call: Call) -> Reply:
    document, body = free_balancer(call), call.body(Detach)
    if attached(document) != body.network:
        raise errors.unprocessable("load_balancer_not_attached_to_network", "load balancer is not attached to the network")
    if not document["public_net"]["enabled"] or any(target.get("use_private_ip") for target in document["targets"]):
        raise errors.unprocessable("service_error", "load balancer still needs the network")
    return changed(call, "detach_from_network", document, nets=[])


@op("POST", "/load_balancers/{id}/actions/enable_public_interface")
def enable_public_interface(call: Call) -> Reply:
    document = free_balancer(call)
    return changed(call, "enable_public_interface", document, public_net={**document["public_net"], "enabled": True})


def check_private(document: Document) -> None:
    """Whether it can do without its public side. Raises 422."""
    if not document["nets"]:
        raise errors.unprocessable("load_balancer_not_attached_to_network", "load balancer is not attached to a network")
    if any(not target.get("use_private_ip") for target in document["targets"]):
        raise errors.unprocessable("targets_without_use_private_ip", "load balancer has targets that use the public IP")


@op("POST", "/load_balancers/{id}/actions/disable_public_interface")
def disable_public_interface(call: Call) -> Reply:
    document = free_balancer(call)
    check_private(document)
    return changed(call, "disable_public_interface", document, public_net={**document["public_net"], "enabled": False})
