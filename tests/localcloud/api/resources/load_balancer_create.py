"""Creating a load balancer: network first, then services and targets, all checked before the first thing is recorded."""

from __future__ import annotations

from typing import Any

from .. import errors
from ..engine import Commit, Job, command
from ..inputs import Body, Labels, Name, Ref
from ..kinds import action_reply
from ..routing import Call, Reply, op
from ..store import Document, now
from . import load_balancer_services, load_balancer_targets
from .load_balancers import Algorithm, Attach, addresses, check_private, joined, present, settle_nets, type_of


class PublicNet(Body):
    ipv4: int | None = None
    ipv6: int | None = None


class Create(Body):
    name: Name
    load_balancer_type: Ref
    algorithm: Algorithm = Algorithm(type="round_robin")
    services: list[load_balancer_services.Service] = []
    targets: list[load_balancer_targets.Target] = []
    labels: Labels = {}
    public_interface: bool | None = None
    network: int | None = None
    network_zone: str | None = None
    location: Ref | None = None
    public_net: PublicNet | None = None


def _location(call: Call, body: Create) -> str:
    if (body.location is None) == (body.network_zone is None):
        raise errors.invalid("location", "exactly one of location and network_zone is required")
    if body.location is not None:
        place = call.cloud.catalogue.location(body.location)
        if place is None:
            raise errors.invalid("location", f"location '{body.location}' not found")
        return str(place["name"])
    for place in call.cloud.catalogue.locations:
        if place["network_zone"] == body.network_zone:
            return str(place["name"])
    raise errors.invalid("network_zone", f"network zone '{body.network_zone}' not found")


@op("POST", "/load_balancers")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("load_balancer", body.name)
    if body.public_net is not None and (body.public_net.ipv4, body.public_net.ipv6) != (None, None):
        raise errors.invalid("public_net", "addresses that are there already are not known to the local cloud")
    document: Document = {
        "id": call.tx.next_id(),
        "name": body.name,
        "labels": body.labels,
        "created": now(),
        "type": type_of(call, body.load_balancer_type)["name"],
        "location": _location(call, body),
        "algorithm": body.algorithm.model_dump(),
        "public_net": addresses(call.tx, call.cloud.public_range),
        "nets": [],
        "services": [],
        "targets": [],
        "dns": {},
        "protection": {"delete": False},
    }
    if body.network is not None:
        document["nets"] = joined(call, document, Attach(network=body.network))
    for service in body.services:
        document["services"].append(load_balancer_services.resolve(call, document, service))
    for target in body.targets:
        document["targets"].append(load_balancer_targets.resolve(call, document, target))
    if body.public_interface is False:
        check_private(document)
        document["public_net"]["enabled"] = False
    call.tx.put("load_balancer", document)
    action = call.tx.start("create_load_balancer", [("load_balancer", document["id"])])
    view: dict[str, Any] = present(call, document)
    return action_reply(call, action, load_balancer=view)


@command("create_load_balancer")
def _created(job: Job) -> Commit:
    return lambda tx: settle_nets(tx, job.resource("load_balancer"))
