"""DNS zones. No name server answers for them yet: they are records."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from .. import errors
from ..inputs import Body, Labels
from ..kinds import Kind, action_reply, action_view, check_deletable, register, register_protection, unlocked
from ..routing import Call, Reply, op
from ..store import Document, Tx, now

NAME_SERVERS = ("hydrogen.ns.hetzner.com.", "oxygen.ns.hetzner.com.", "helium.ns.hetzner.de.")
LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
Ttl = Annotated[int, Field(ge=60, le=2147483647)]
Type = Literal["A", "AAAA", "CAA", "CNAME", "DS", "HINFO", "HTTPS", "MX", "NS", "PTR", "RP", "SOA", "SRV", "SVCB", "TLSA", "TXT"]


def _zone_name(value: str) -> str:
    if len(value) > 255 or "." not in value or not all(LABEL.fullmatch(part) for part in value.split(".")):
        raise ValueError("must be a domain name in lower case without a dot at the end")
    return value


def _rr_name(value: str) -> str:
    if value != "@" and not all(LABEL.fullmatch(part) or part == "*" for part in value.split(".")):
        raise ValueError("must be @ or a name in lower case without a dot at the end")
    return value


class Record(Body):
    value: str
    comment: str = ""


def distinct(records: list[Record]) -> list[Record]:
    if len({record.value for record in records}) != len(records):
        raise ValueError("must only contain distinct record values")
    return records


Records = Annotated[list[Record], Field(min_length=1, max_length=50), AfterValidator(distinct)]


class CreateRrset(Body):
    name: Annotated[str, AfterValidator(_rr_name)]
    type: Type
    records: Records
    ttl: Ttl | None = None
    labels: Labels = {}


class NameServer(Body):
    address: str
    port: Annotated[int, Field(ge=1, le=65535)] = 53
    tsig_key: str | None = None
    tsig_algorithm: Literal["hmac-md5", "hmac-sha1", "hmac-sha256"] | None = None


class Create(Body):
    name: Annotated[str, AfterValidator(_zone_name)]
    mode: Literal["primary", "secondary"]
    ttl: Ttl = 3600
    labels: Labels = {}
    primary_nameservers: list[NameServer] | None = None
    rrsets: list[CreateRrset] = []


class Update(Body):
    labels: Labels | None = None


class ZoneTtl(Body):
    ttl: Ttl


def rrsets_of(tx: Tx, zone_id: int) -> list[Document]:
    return [item for item in tx.all("rrset") if item["zone"] == zone_id]


def present(call: Call, document: Document) -> Document:
    servers = {"assigned": list(NAME_SERVERS), "delegated": [], "delegation_last_check": None, "delegation_status": "unknown"}
    count = sum(len(item["records"]) for item in rrsets_of(call.tx, document["id"]))
    return {**document, "status": "ok", "record_count": count, "authoritative_nameservers": servers, "registrar": "unknown"}


def check_values(kind: str, records: list[Record]) -> None:
    """The service's two traps: TXT values are quoted strings, and their parts hold at most 255 characters."""
    for number, record in enumerate(records):
        if kind == "TXT":
            parts = re.fullmatch(r'"((?:[^"\\]|\\.)*)"(?:\s+"((?:[^"\\]|\\.)*)")*', record.value)
            if not parts or any(len(part) > 257 for part in re.findall(r'"(?:[^"\\]|\\.)*"', record.value)):
                raise errors.invalid(f"records.{number}.value", "must be one or more quoted strings of at most 255 characters")


def add_rrset(tx: Tx, zone: Document, body: CreateRrset) -> Document:
    """Record a new set. Raises 409 when there is one of this name and type already, 422 beside or for a CNAME."""
    others = [item for item in rrsets_of(tx, zone["id"]) if item["name"] == body.name]
    if any(item["type"] == body.type for item in others):
        raise errors.ApiError(409, "uniqueness_error", f"RRSet with name '{body.name}' and type '{body.type}' already exists")
    if others and "CNAME" in (body.type, *(item["type"] for item in others)):
        raise errors.invalid("type", f"a CNAME cannot stand beside other records of '{body.name}'")
    check_values(body.type, body.records)
    document: Document = {
        "id": tx.next_id(),
        "name": body.name,
        "type": body.type,
        "ttl": body.ttl,
        "labels": body.labels,
        "protection": {"change": False},
        "records": [record.model_dump() for record in body.records],
        "zone": zone["id"],
    }
    tx.put("rrset", document)
    return document


KIND = register(Kind("zone", "zones", present, filters={"mode": lambda item, values: item["mode"] in values}, update=Update, by_name=True))
register_protection(KIND)


@op("POST", "/zones")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("zone", body.name)
    if (body.mode == "secondary") != bool(body.primary_nameservers) or (body.mode == "secondary" and body.rrsets):
        raise errors.unprocessable("incorrect_zone_mode", "primary_nameservers are for secondary zones, rrsets for primary ones")
    document: Document = {
        "id": call.tx.next_id(),
        "name": body.name,
        "mode": body.mode,
        "created": now(),
        "labels": body.labels,
        "protection": {"delete": False},
        "ttl": body.ttl,
    }
    if body.primary_nameservers:
        document["primary_nameservers"] = [item.model_dump(exclude_none=True) for item in body.primary_nameservers]
    call.tx.put("zone", document)
    if body.mode == "primary":
        start_of_authority = f"{NAME_SERVERS[0]} dns.hetzner.com. 1 86400 10800 3600000 3600"
        add_rrset(call.tx, document, CreateRrset(name="@", type="SOA", records=[Record(value=start_of_authority)]))
        add_rrset(call.tx, document, CreateRrset(name="@", type="NS", records=[Record(value=name) for name in NAME_SERVERS]))
    for number, rrset in enumerate(body.rrsets):
        if rrset.name == "@" and rrset.type in ("SOA", "NS"):
            raise errors.invalid(f"rrsets.{number}.type", "SOA and NS of the zone itself are made by the service")
        add_rrset(call.tx, document, rrset)
    action = call.tx.start("create_zone", [("zone", document["id"])])
    return action_reply(call, action, zone=present(call, document))


@op("DELETE", "/zones/{id_or_name}")
def delete(call: Call) -> Reply:
    document = KIND.find(call)
    check_deletable(call, KIND, document)
    for item in rrsets_of(call.tx, document["id"]):
        call.tx.drop("rrset", item["id"])
    call.tx.drop("zone", document["id"])
    return Reply(201, {"action": action_view(call, call.tx.start("delete_zone", [("zone", document["id"])]))})


@op("POST", "/zones/{id_or_name}/actions/change_ttl")
def change_ttl(call: Call) -> Reply:
    document, body = KIND.find(call), call.body(ZoneTtl)
    unlocked(call, "zone", document["id"])
    call.tx.put("zone", {**document, "ttl": body.ttl})
    return action_reply(call, call.tx.start("change_ttl", [("zone", document["id"])]))
