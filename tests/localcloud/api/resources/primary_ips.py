"""Primary IPs: public addresses that belong to the project and are lent to servers."""

from __future__ import annotations

import ipaddress
from typing import Literal

from .. import errors
from ..addresses import free_ip
from ..cloud import Cloud
from ..engine import Job, command
from ..inputs import Body, DnsPtr, Labels, Name, Ref
from ..kinds import Kind, action_reply, action_view, check_deletable, register, register_protection, unlocked
from ..machine import follow, server_ips
from ..routing import Call, Reply, op
from ..store import Document, Tx, now


class Create(Body):
    name: Name
    type: Literal["ipv4", "ipv6"]
    labels: Labels = {}
    location: Ref | None = None
    assignee_type: Literal["server", "unassigned"] | None = None
    assignee_id: int | None = None
    auto_delete: bool = False


class Update(Body):
    name: Name | None = None
    labels: Labels | None = None
    auto_delete: bool | None = None


class Assign(Body):
    assignee_type: Literal["server"]
    assignee_id: int


def default_ptr(ip: str) -> str:
    return f"static.{'.'.join(reversed(ip.split('.')))}.clients.your-server.de"


def dns_view(document: Document) -> list[Document]:
    """Reverse names: an IPv4 always has one, an IPv6 network those that were set."""
    names = document["dns"] if document["type"] == "ipv6" else {document["ip"]: default_ptr(document["ip"])} | document["dns"]
    return [{"ip": ip, "dns_ptr": name} for ip, name in names.items()]


def set_ptr(call: Call, kind: str, document: Document, body: DnsPtr) -> Document:
    """Record a reverse name (None goes back to the default) and give what its action has to know. Raises 422 for another's address."""
    before = dict(document["dns"])
    _set(document, body.ip, body.dns_ptr)
    call.tx.put(kind, document)
    return {"kind": kind, "id": document["id"], "before": before}


def _set(document: Document, ip: str, name: str | None) -> None:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError as error:
        raise errors.invalid("ip", f"'{ip}' is not an IP address") from error
    own = ipaddress.ip_network(document["ip"])
    if address.version != own.version or address not in own:
        raise errors.invalid("ip", f"'{ip}' does not belong to the resource")
    document["dns"].pop(str(address), None)
    if name is not None:
        document["dns"][str(address)] = name


def present(call: Call, document: Document) -> Document:
    shown = {key: document[key] for key in ("id", "name", "labels", "created", "ip", "type", "auto_delete", "protection")}
    return {
        **shown,
        "blocked": False,
        "location": call.cloud.catalogue.location(document["location"]),
        "dns_ptr": dns_view(document),
        "assignee_type": "unassigned" if document["server"] is None else "server",
        "assignee_id": document["server"],
    }


def make(
    tx: Tx,
    cloud: Cloud,
    kind: str,
    location: str,
    *,
    server: int | None = None,
    name: str | None = None,
    labels: dict[str, str] | None = None,
    auto_delete: bool = False,
) -> Document:
    """Record a new primary IP with the next free address."""
    ident = tx.next_id()
    document: Document = {
        "id": ident,
        "name": name or f"primary_ip-{ident}",
        "labels": labels or {},
        "created": now(),
        "type": kind,
        "ip": free_ip(tx, cloud.public_range, "primary_ip", kind),
        "location": location,
        "auto_delete": auto_delete,
        "server": server,
        "dns": {},
        "protection": {"delete": False},
    }
    tx.put("primary_ip", document)
    return document


def check_assignable(call: Call, kind: str, location: str | None, server_id: int) -> Document:
    """The server an address can be given to now. Raises 404, 422 or 423."""
    server = call.get("server", server_id)
    unlocked(call, "server", server_id)
    if call.cloud.power(server_id, fresh=True) != "off":
        raise errors.unprocessable("server_not_stopped", "server must be powered off")
    if kind in server_ips(call.tx, server_id):
        raise errors.unprocessable(f"server_has_{kind}", f"server already has an {kind} address")
    if location not in (None, server["location"]):
        raise errors.invalid("assignee_id", f"the server is in location {server['location']}, not {location}")
    return server


KIND = register(Kind("primary_ip", "primary_ips", present, filters={"ip": lambda item, values: item["ip"] in values}, update=Update))
register_protection(KIND)


@op("POST", "/primary_ips")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("primary_ip", body.name)
    place = None if body.location is None else call.cloud.catalogue.location(body.location)
    if body.location is not None and place is None:
        raise errors.invalid("location", f"location '{body.location}' not found")
    if body.assignee_id is None and place is None:
        raise errors.invalid("location", "is required unless assignee_id is given")
    if body.assignee_id is not None and body.assignee_type != "server":
        raise errors.invalid("assignee_type", "must be 'server' when assignee_id is given")
    server = None
    if body.assignee_id is not None:
        server = check_assignable(call, body.type, place["name"] if place else None, body.assignee_id)
    location = server["location"] if server else place["name"] if place else ""
    document = make(
        call.tx,
        call.cloud,
        body.type,
        location,
        server=body.assignee_id,
        name=body.name,
        labels=body.labels,
        auto_delete=body.auto_delete,
    )
    action = None
    if server:
        action = action_view(call, call.tx.start("assign_primary_ip", [("server", server["id"]), ("primary_ip", document["id"])]))
    return Reply(201, {"primary_ip": present(call, document), "action": action})


@op("DELETE", "/primary_ips/{id}")
def delete(call: Call) -> Reply:
    document = call.get("primary_ip")
    check_deletable(call, KIND, document)
    if document["server"] is not None:
        raise errors.unprocessable("must_be_unassigned", "primary IP must be unassigned before it can be deleted")
    call.tx.drop("primary_ip", document["id"])
    return Reply(204)


@op("POST", "/primary_ips/{id}/actions/assign")
def assign(call: Call) -> Reply:
    document, body = call.get("primary_ip"), call.body(Assign)
    unlocked(call, "primary_ip", document["id"])
    if document["server"] is not None:
        raise errors.unprocessable("primary_ip_already_assigned", f"primary IP is already assigned to server {document['server']}")
    check_assignable(call, document["type"], document["location"], body.assignee_id)
    document["server"] = body.assignee_id
    call.tx.put("primary_ip", document)
    return action_reply(call, call.tx.start("assign_primary_ip", [("server", body.assignee_id), ("primary_ip", document["id"])]))


@op("POST", "/primary_ips/{id}/actions/unassign")
def unassign(call: Call) -> Reply:
    document = call.get("primary_ip")
    server_id = document["server"]
    if server_id is None:
        raise errors.unprocessable("primary_ip_not_assigned", "primary IP is not assigned")
    unlocked(call, "server", server_id)
    unlocked(call, "primary_ip", document["id"])
    if call.cloud.power(server_id, fresh=True) != "off":
        raise errors.unprocessable("server_not_stopped", "server must be powered off")
    document["server"] = None
    call.tx.put("primary_ip", document)
    return action_reply(call, call.tx.start("unassign_primary_ip", [("server", server_id), ("primary_ip", document["id"])]))


@op("POST", "/primary_ips/{id}/actions/change_dns_ptr")
def change_dns_ptr(call: Call) -> Reply:
    document, body = call.get("primary_ip"), call.body(DnsPtr)
    unlocked(call, "primary_ip", document["id"])
    args = set_ptr(call, "primary_ip", document, body)
    return action_reply(call, call.tx.start("change_dns_ptr", [("primary_ip", document["id"])], args=args))


def _put_back(job: Job, tx: Tx) -> None:
    """A change that failed leaves the names as they were."""
    document = tx.get(job.args["kind"], job.args["id"])
    if document is not None:
        tx.put(job.args["kind"], {**document, "dns": job.args["before"]})


@command("change_dns_ptr", _put_back)
def _changed(_job: Job) -> None:
    """The records alone changed."""


@command("assign_primary_ip")
@command("unassign_primary_ip")
def _follow(job: Job) -> None:
    follow(job)
