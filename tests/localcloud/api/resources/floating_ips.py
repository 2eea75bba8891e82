"""Floating IPs: addresses that move between servers. The machines do not carry them yet: assignments are records."""

from __future__ import annotations

from typing import Literal

from .. import errors
from ..addresses import free_ip
from ..engine import Job, command
from ..inputs import Body, DnsPtr, Labels, Name, Ref
from ..kinds import Kind, action_reply, action_view, check_deletable, register, register_protection, unlocked
from ..routing import Call, Reply, op
from ..store import Document, Tx, now
from .primary_ips import dns_view, set_ptr


class Create(Body):
    type: Literal["ipv4", "ipv6"]
    name: Name | None = None
    description: str | None = None
    labels: Labels = {}
    home_location: Ref | None = None
    server: int | None = None


class Update(Body):
    name: Name | None = None
    description: str | None = None
    labels: Labels | None = None


class Assign(Body):
    server: int


def present(call: Call, document: Document) -> Document:
    shown = {key: document[key] for key in ("id", "name", "description", "ip", "type", "server", "protection", "labels", "created")}
    return {
        **shown,
        "blocked": False,
        "dns_ptr": dns_view(document),
        "home_location": call.cloud.catalogue.location(document["location"]),
    }


KIND = register(Kind("floating_ip", "floating_ips", present, sorts=("id", "created"), update=Update))
register_protection(KIND)


def _location(call: Call, body: Create) -> str:
    if body.server is not None:
        return str(call.get("server", body.server)["location"])
    if body.home_location is None:
        raise errors.invalid("home_location", "is required unless server is given")
    place = call.cloud.catalogue.location(body.home_location)
    if place is None:
        raise errors.invalid("home_location", f"location '{body.home_location}' not found")
    return str(place["name"])


@op("POST", "/floating_ips")
def create(call: Call) -> Reply:
    body = call.body(Create)
    location = _location(call, body)
    if body.name is not None:
        call.unique("floating_ip", body.name)
    if body.server is not None:
        unlocked(call, "server", body.server)
    ident = call.tx.next_id()
    document: Document = {
        "id": ident,
        "name": body.name or f"floating-ip-{ident}",
        "description": body.description,
        "labels": body.labels,
        "created": now(),
        "type": body.type,
        "ip": free_ip(call.tx, call.cloud.public_range, "floating_ip", body.type),
        "location": location,
        "server": body.server,
        "dns": {},
        "protection": {"delete": False},
    }
    call.tx.put("floating_ip", document)
    action = None
    if body.server is not None:
        touched = [("server", body.server), ("floating_ip", ident)]
        action = action_view(call, call.tx.start("assign_floating_ip", touched, args={"before": None}))
    return Reply(201, {"floating_ip": present(call, document), "action": action})


@op("DELETE", "/floating_ips/{id}")
def delete(call: Call) -> Reply:
    document = call.get("floating_ip")
    check_deletable(call, KIND, document)
    if document["server"] is not None:
        raise errors.unprocessable("must_be_unassigned", "floating IP must be unassigned before it can be deleted")
    call.tx.drop("floating_ip", document["id"])
    return Reply(204)


def _move(call: Call, name: str, document: Document, old: int | None, new: int | None) -> Reply:
    touched = [("floating_ip", document["id"])]
    for server in (old, new):
        if server is not None:
            unlocked(call, "server", call.get("server", server)["id"])
            touched.insert(0, ("server", server))
    unlocked(call, "floating_ip", document["id"])
    call.tx.put("floating_ip", {**document, "server": new})
    return action_reply(call, call.tx.start(name, touched, args={"before": old}))


@op("POST", "/floating_ips/{id}/actions/assign")
def assign(call: Call) -> Reply:
    document, body = call.get("floating_ip"), call.body(Assign)
    if document["server"] is not None:
        raise errors.unprocessable("floating_ip_assigned", f"floating IP is already assigned to server {document['server']}")
    return _move(call, "assign_floating_ip", document, None, body.server)


@op("POST", "/floating_ips/{id}/actions/unassign")
def unassign(call: Call) -> Reply:
    document = call.get("floating_ip")
    if document["server"] is None:
        raise errors.unprocessable("service_error", "floating IP is not assigned")
    return _move(call, "unassign_floating_ip", document, document["server"], None)


@op("POST", "/floating_ips/{id}/actions/change_dns_ptr")
def change_dns_ptr(call: Call) -> Reply:
    document, body = call.get("floating_ip"), call.body(DnsPtr)
    unlocked(call, "floating_ip", document["id"])
    args = set_ptr(call, "floating_ip", document, body)
    return action_reply(call, call.tx.start("change_dns_ptr", [("floating_ip", document["id"])], args=args))


def _put_back(job: Job, tx: Tx) -> None:
    """A move that failed leaves the address where it was."""
    document = tx.get("floating_ip", job.resource("floating_ip"))
    if document is not None:
        tx.put("floating_ip", {**document, "server": job.args["before"]})


@command("assign_floating_ip", _put_back)
@command("unassign_floating_ip", _put_back)
def _moved(_job: Job) -> None:
    """The records alone changed."""
