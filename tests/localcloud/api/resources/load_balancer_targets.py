"""Targets of load balancers: servers, servers by label, addresses of machines elsewhere."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from .. import errors
from ..balancing import attached, owns, private_ip, public_ip
from ..inputs import Body
from ..labels import selector
from ..routing import Call, Reply, op
from ..store import Document
from .load_balancers import changed, free_balancer, type_of


class Server(Body):
    id: int
    ip: str | None = None


class Selector(Body):
    selector: Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class Ip(Body):
    ip: str


class Identity(Body):
    type: Literal["server", "label_selector", "ip"]
    server: Server | None = None
    label_selector: Selector | None = None
    ip: Ip | None = None


class Target(Identity):
    use_private_ip: bool | None = None


def _key(target: Document) -> Any:
    """What makes two targets the same one."""
    kind = target["type"]
    return kind, target["server"]["id"] if kind == "server" else target[kind]


def _chosen(body: Identity) -> Document:
    given = {kind: value.model_dump(exclude_none=True) for kind in ("server", "label_selector", "ip") if (value := getattr(body, kind))}
    if list(given) != [body.type]:
        raise errors.invalid(body.type, f"is required for type {body.type}, and no other")
    return {"type": body.type, **given}


def resolve(call: Call, balancer: Document, body: Target) -> Document:
    """The target as it is stored. Raises 403, 404 and 422."""
    target: Document = {**_chosen(body), "use_private_ip": bool(body.use_private_ip)}
    if _key(target) in map(_key, balancer["targets"]):
        raise errors.unprocessable("target_already_defined", "load balancer target is already defined")
    kind = type_of(call, balancer["type"])
    if len(balancer["targets"]) >= kind["max_targets"]:
        raise errors.limit_exceeded(f"a {kind['name']} can have at most {kind['max_targets']} targets", "load_balancer_target_limit")
    if target["use_private_ip"] and body.type == "ip":
        raise errors.invalid("use_private_ip", "is for types server and label_selector only")
    if target["use_private_ip"] and not balancer["nets"]:
        raise errors.unprocessable("load_balancer_not_attached_to_network", "load balancer is not attached to a network")
    if body.type != "ip" and not target["use_private_ip"] and not balancer["public_net"]["enabled"]:
        raise errors.unprocessable("load_balancer_public_interface_disabled", "the public interface of the load balancer is disabled")
    if body.server is not None:
        _check_server(call, balancer, body.server, target["use_private_ip"])
    if body.label_selector is not None:
        selector(body.label_selector.selector, "label_selector.selector")
    if body.ip is not None:
        _check_ip(call, balancer, body.ip.ip)
    return target


def _check_server(call: Call, balancer: Document, given: Server, private: bool) -> None:
    server = call.get("server", given.id)
    zones = [place["network_zone"] for name in (server["location"], balancer["location"]) if (place := call.cloud.catalogue.location(name))]
    if len(set(zones)) > 1:
        raise errors.invalid("server.id", f"server {given.id} is not in the network zone of the load balancer")
    if private:
        if given.ip is not None:
            raise errors.invalid("server.ip", "cannot be given with use_private_ip")
        if private_ip(server, attached(balancer)) is None:
            raise errors.unprocessable(
                "resolve_cloud_private_targets_error", "the server is not attached to the same network as the load balancer"
            )
        return
    if given.ip is not None and not owns(call.tx, given.id, str(_address(given.ip, "server.ip"))):
        raise errors.unprocessable("ip_not_assigned_to_server", f"IP {given.ip} is not assigned to the server")
    if given.ip is None and public_ip(call.tx, given.id) is None:
        raise errors.unprocessable("resolve_cloud_public_targets_error", "the server does not have a public IPv4 address")


def _address(text: str, field: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise errors.invalid(field, f"'{text}' is not an IP address") from error


def _check_ip(call: Call, balancer: Document, text: str) -> None:
    """Addresses of the cloud itself are nobody's; those of other machines are taken to be the project owner's."""
    address = _address(text, "ip.ip")
    if address in call.cloud.public_range or address.is_loopback or address.is_link_local:
        raise errors.unprocessable("ip_not_owned", f"IP {text} is not owned by the owner of the project")
    if not isinstance(address, ipaddress.IPv4Address) or not any(
        address in ipaddress.IPv4Network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    ):
        if not balancer["public_net"]["enabled"]:
            raise errors.unprocessable("load_balancer_public_interface_disabled", "the public interface of the load balancer is disabled")
        return
    network = attached(balancer)
    if network is None:
        raise errors.unprocessable("load_balancer_not_attached_to_network", "load balancer is not attached to a network")
    switched = [item for item in call.get("network", network)["subnets"] if item["type"] == "vswitch"]
    if not switched:
        raise errors.unprocessable("network_has_no_vswitch_subnet", "the network has no vswitch subnet")
    if not any(address in ipaddress.IPv4Network(item["ip_range"]) for item in switched):
        raise errors.unprocessable("ip_not_in_vswitch_subnet", f"IP {text} is not in the vswitch subnet of the network")


@op("POST", "/load_balancers/{id}/actions/add_target")
def add_target(call: Call) -> Reply:
    document, body = free_balancer(call), call.body(Target)
    return changed(call, "add_target", document, targets=[*document["targets"], resolve(call, document, body)])


@op("POST", "/load_balancers/{id}/actions/remove_target")
def remove_target(call: Call) -> Reply:
    document, wanted = free_balancer(call), _chosen(call.body(Identity))
    kept = [target for target in document["targets"] if _key(target) != _key(wanted)]
    if len(kept) == len(document["targets"]):
        raise errors.ApiError(404, "not_found", "load balancer target not found")
    return changed(call, "remove_target", document, targets=kept)
