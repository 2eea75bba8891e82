"""Networks with their subnets, routes and members."""

from __future__ import annotations

import ipaddress
from typing import Literal

from .. import errors
from ..addresses import PRIVATE_RANGES, gateway, members
from ..engine import Commit, Job, command
from ..inputs import Address, Body, Cidr, Labels, Name
from ..kinds import Kind, action_reply, check_deletable, register, register_protection
from ..lists import page
from ..machine import follow
from ..routing import Call, Reply, op
from ..store import Document, Tx, now


class Subnet(Body):
    type: Literal["cloud", "server", "vswitch"]
    network_zone: Literal["eu-central", "us-east", "us-west", "ap-southeast"]
    ip_range: Cidr | None = None
    vswitch_id: int | None = None


class Route(Body):
    destination: Cidr
    gateway: Address


class Create(Body):
    name: Name
    ip_range: Cidr
    labels: Labels = {}
    subnets: list[Subnet] = []
    routes: list[Route] = []
    expose_routes_to_vswitch: bool = False


class Update(Body):
    name: Name | None = None
    labels: Labels | None = None
    expose_routes_to_vswitch: bool | None = None


class Range(Body):
    ip_range: Cidr


def present(call: Call, document: Document) -> Document:
    attached: dict[str, list[int]] = {"server": [], "load_balancer": []}
    for kind, owner, entry in members(call.tx, document["id"]):
        if entry["status"] != "attaching":
            attached[kind].append(owner["id"])
    subnets = [{**subnet, "gateway": gateway(document["ip_range"])} for subnet in document["subnets"]]
    return {**document, "subnets": subnets, "servers": attached["server"], "load_balancers": attached["load_balancer"]}


def check_range(text: str) -> None:
    wanted = ipaddress.IPv4Network(text)
    if wanted.prefixlen > 24 or not any(wanted.subnet_of(private) for private in PRIVATE_RANGES):
        raise errors.invalid("ip_range", "must be within one of the private IPv4 ranges of RFC 1918 and at least a /24")


def new_subnet(network: Document, wanted: Subnet) -> Document:
    """The subnet to add, its range chosen if not given. Raises 422 when it is outside, too small or overlaps."""
    whole = ipaddress.IPv4Network(network["ip_range"])
    others = [ipaddress.IPv4Network(item["ip_range"]) for item in network["subnets"]]
    others += [ipaddress.IPv4Network(item["destination"]) for item in network["routes"]]
    if wanted.ip_range is None:
        free = (item for item in whole.subnets(new_prefix=24) if not any(item.overlaps(other) for other in others))
        chosen = next(free, None)
        if chosen is None:
            raise errors.invalid("ip_range", "no free /24 range is left in the network")
    else:
        chosen = ipaddress.IPv4Network(wanted.ip_range)
    if chosen.prefixlen > 30 or not chosen.subnet_of(whole):
        raise errors.invalid("ip_range", f"must be within the network's range {whole} and at least a /30")
    if any(chosen.overlaps(other) for other in others):
        raise errors.invalid("ip_range", "overlaps with another subnet or a route's destination")
    if (wanted.type == "vswitch") != (wanted.vswitch_id is not None):
        raise errors.invalid("vswitch_id", "must be given for subnets of type vswitch and for no others")
    zones = {item["network_zone"] for item in network["subnets"]}
    if zones - {wanted.network_zone}:
        raise errors.invalid("network_zone", "all subnets of a network must be in the same network zone")
    return {"type": wanted.type, "ip_range": str(chosen), "network_zone": wanted.network_zone, "vswitch_id": wanted.vswitch_id}


def new_route(network: Document, wanted: Route) -> Document:
    destination = ipaddress.IPv4Network(wanted.destination)
    if wanted.destination in [item["destination"] for item in network["routes"]]:
        raise errors.invalid("destination", "a route to it already exists")
    if any(destination.overlaps(ipaddress.IPv4Network(item["ip_range"])) for item in network["subnets"]):
        raise errors.invalid("destination", "overlaps with a subnet")
    hop = ipaddress.IPv4Address(wanted.gateway)
    if hop not in ipaddress.IPv4Network(network["ip_range"]) or wanted.gateway == gateway(network["ip_range"]):
        raise errors.invalid("gateway", "must be an address of the network other than its own gateway")
    return wanted.model_dump()


KIND = register(Kind("network", "networks", present, update=Update))
register_protection(KIND)


@op("POST", "/networks")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("network", body.name)
    check_range(body.ip_range)
    document: Document = {
        "id": call.tx.next_id(),
        "name": body.name,
        "ip_range": body.ip_range,
        "subnets": [],
        "routes": [],
        "protection": {"delete": False},
        "labels": body.labels,
        "created": now(),
        "expose_routes_to_vswitch": body.expose_routes_to_vswitch,
    }
    for subnet in body.subnets:
        document["subnets"].append(new_subnet(document, subnet))
    for route in body.routes:
        document["routes"].append(new_route(document, route))
    call.tx.put("network", document)
    return Reply(201, {"network": present(call, document)})


@op("DELETE", "/networks/{id}")
def delete(call: Call) -> Reply:
    """Members are detached by themselves."""
    document = call.get("network")
    check_deletable(call, KIND, document)
    for kind, owner, entry in members(call.tx, document["id"]):
        owner["nets"].remove(entry)
        call.tx.put(kind, owner)
        if kind == "server":
            call.tx.start("follow_network", [("server", owner["id"])], locks=False, hidden=True)
    call.tx.drop("network", document["id"])
    return Reply(204)


@op("GET", "/networks/{id}/members")
def list_members(call: Call) -> Reply:
    network = call.get("network")
    found = []
    for kind, owner, entry in members(call.tx, network["id"]):
        inside = [
            item["ip_range"] for item in network["subnets"] if ipaddress.IPv4Address(entry["ip"]) in ipaddress.IPv4Network(item["ip_range"])
        ]
        view = {"type": kind, "id": owner["id"], "ip": entry["ip"], "status": entry["status"]}
        found.append({**view, "alias_ips": entry["alias_ips"], "subnet": inside[0] if inside else network["ip_range"]})
    for name in ("type", "status", "subnet"):
        wanted = call.query.many(name)
        found = [item for item in found if not wanted or item[name] in wanted]
    return Reply(200, *page(found, call.query, "members", call.path, dict))


def _change(call: Call, name: str, args: Document) -> Reply:
    ident = call.id
    if call.tx.is_locked("network", ident):
        raise errors.ApiError(409, "conflict", "the network is being changed by another action, please retry")
    return action_reply(call, call.tx.start(name, [("network", ident)], args=args))


@op("POST", "/networks/{id}/actions/add_subnet")
def add_subnet(call: Call) -> Reply:
    return _change(call, "add_subnet", new_subnet(call.get("network"), call.body(Subnet)))


@op("POST", "/networks/{id}/actions/delete_subnet")
def delete_subnet(call: Call) -> Reply:
    network, body = call.get("network"), call.body(Range)
    if body.ip_range not in [item["ip_range"] for item in network["subnets"]]:
        raise errors.ApiError(404, "not_found", f"subnet {body.ip_range} not found")
    inside = ipaddress.IPv4Network(body.ip_range)
    if any(ipaddress.IPv4Address(entry["ip"]) in inside for _kind, _owner, entry in members(call.tx, network["id"])):
        raise errors.unprocessable("service_error", "the subnet still has members")
    return _change(call, "delete_subnet", body.model_dump())


@op("POST", "/networks/{id}/actions/add_route")
def add_route(call: Call) -> Reply:
    return _change(call, "add_route", new_route(call.get("network"), call.body(Route)))


@op("POST", "/networks/{id}/actions/delete_route")
def delete_route(call: Call) -> Reply:
    network, body = call.get("network"), call.body(Route)
    if body.model_dump() not in network["routes"]:
        raise errors.ApiError(404, "not_found", f"route to {body.destination} via {body.gateway} not found")
    return _change(call, "delete_route", body.model_dump())


@op("POST", "/networks/{id}/actions/change_ip_range")
def change_ip_range(call: Call) -> Reply:
    network, body = call.get("network"), call.body(Range)
    check_range(body.ip_range)
    if not ipaddress.IPv4Network(network["ip_range"]).subnet_of(ipaddress.IPv4Network(body.ip_range)):
        raise errors.invalid("ip_range", "can only be extended")
    return _change(call, "change_ip_range", body.model_dump())


def _store(job: Job, change: str) -> Commit:
    def commit(tx: Tx) -> None:
        network = tx.get("network", job.resource("network"))
        if network is None:
            return
        if change == "change_ip_range":
            network["ip_range"] = job.args["ip_range"]
        elif change == "delete_subnet":
            network["subnets"] = [item for item in network["subnets"] if item["ip_range"] != job.args["ip_range"]]
        elif change == "delete_route":
            network["routes"].remove(job.args)
        else:
            network["subnets" if change == "add_subnet" else "routes"].append(job.args)
        tx.put("network", network)

    return commit


for _name in ("add_subnet", "delete_subnet", "add_route", "delete_route", "change_ip_range"):
    command(_name)(lambda job, _name=_name: _store(job, _name))  # type: ignore[misc]


@command("follow_network")
def _follow(job: Job) -> None:
    follow(job)
