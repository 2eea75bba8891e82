"""DNS zones of both modes: primary ones hold record sets, secondary ones fetch theirs from elsewhere."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from .. import errors, rdata
from ..addresses import PRIVATE_RANGES
from ..engine import Job, command
from ..inputs import Body, Labels
from ..kinds import Kind, action_reply, action_view, check_deletable, register, register_protection, unlocked
from ..routing import Call, Reply, op
from ..store import Document, Tx, now

NAME_SERVERS = ("hydrogen.ns.hetzner.com.", "oxygen.ns.hetzner.com.", "helium.ns.hetzner.de.")
LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
Ttl = Annotated[int, Field(ge=60, le=2147483647)]
Type = Literal["A", "AAAA", "CAA", "CNAME", "DS", "HINFO", "HTTPS", "MX", "NS", "PTR", "RP", "SOA", "SRV", "SVCB", "TLSA", "TXT"]


def _rr_name(value: str) -> str:
    first, *others = value.split(".")
    if value != "@" and not ((first == "*" or LABEL.fullmatch(first)) and all(LABEL.fullmatch(part) for part in others)):
        raise ValueError("must be @ or a name in lower case without a dot at the end")
    return value


class Record(Body):
    value: str
    comment: str = ""


def distinct(records: list[Record]) -> list[Record]:
    if len({record.value for record in records}) != len(records):
        raise ValueError("must only contain distinct record values")
    return records


Records = Annotated[list[Record], Field(min_length=1, max_length=rdata.MOST_RECORDS), AfterValidator(distinct)]


class CreateRrset(Body):
    name: Annotated[str, AfterValidator(_rr_name)]
    type: Type
    records: Records
    ttl: Ttl | None = None
    labels: Labels = {}


def _public(value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError as error:
        raise ValueError("must be an IPv4 or IPv6 address") from error
    private = any(address in one for one in PRIVATE_RANGES) or address in ipaddress.IPv6Network("fc00::/7")
    if private or address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        raise ValueError("must be a public address")
    return value


def _base64(value: str) -> str:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("must be base64 encoded") from error
    return value


class NameServer(Body):
    address: Annotated[str, AfterValidator(_public)]
    port: Annotated[int, Field(ge=1, le=65535)] = 53
    tsig_key: Annotated[str, AfterValidator(_base64)] | None = None
    tsig_algorithm: Literal["hmac-md5", "hmac-sha1", "hmac-sha256"] | None = None


def _apart(servers: list[NameServer]) -> list[NameServer]:
    if len({ipaddress.ip_address(item.address) for item in servers}) != len(servers):
        raise ValueError("must only contain distinct addresses")
    return servers


NameServers = Annotated[list[NameServer], Field(min_length=1), AfterValidator(_apart)]


class Update(Body):
    labels: Labels | None = None


class ZoneTtl(Body):
    ttl: Ttl


class ChangeNameServers(Body):
    primary_nameservers: NameServers


def rrsets_of(tx: Tx, zone_id: int) -> list[Document]:
    return [item for item in tx.all("rrset") if item["zone"] == zone_id]


def present(call: Call, document: Document) -> Document:
    servers = {"assigned": list(NAME_SERVERS), "delegated": [], "delegation_last_check": None, "delegation_status": "unknown"}
    count = sum(len(item["records"]) for item in rrsets_of(call.tx, document["id"]))
    status = "updating" if call.tx.running("zone", document["id"]) else "ok"
    return {**document, "status": status, "record_count": count, "authoritative_nameservers": servers, "registrar": "unknown"}


def is_own(name: str, kind: str) -> bool:
    """Whether a set belongs to the zone itself: made with it, and there as long as it."""
    return name == "@" and kind in ("SOA", "NS")


def check_values(kind: str, records: list[Record], where: str = "records") -> None:
    """Raises 422 for the first value that is none of the type."""
    for number, record in enumerate(records):
        problem = rdata.problem(kind, record.value)
        if problem:
            raise errors.invalid(f"{where}.{number}.value", problem)
    if kind in ("CNAME", "SOA") and len(records) > 1:
        raise errors.invalid(where, f"a {kind} has one record")


def add_rrset(tx: Tx, zone: Document, body: CreateRrset) -> Document:
    """Record a new set. Raises 409 when there is one of this name and type already, 422 beside or for a CNAME."""
    if body.name == zone["name"] or body.name.endswith("." + zone["name"]):
        raise errors.invalid("name", "must not end with the zone's name")
    if len(body.name) + 1 + len(zone["name"]) > 253:
        raise errors.invalid("name", "is too long")
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
        "created": now(),
    }
    tx.put("rrset", document)
    return document


def next_serial(tx: Tx, zone_id: int) -> None:
    """Raise the serial number: the date and two digits, or one more when that is used up."""
    for item in rrsets_of(tx, zone_id):
        if item["type"] == "SOA":
            words = item["records"][0]["value"].split()
            words[2] = str(max(int(words[2]) + 1, int(datetime.now(UTC).strftime("%Y%m%d00"))) % 2**32)
            item["records"][0]["value"] = " ".join(words)
            tx.put("rrset", item)


KIND = register(Kind("zone", "zones", present, filters={"mode": lambda item, values: item["mode"] in values}, update=Update, by_name=True))
register_protection(KIND)


def of_mode(document: Document, mode: str) -> Document:
    """Raises 422 for what a zone of the other mode does not have."""
    if document["mode"] != mode:
        raise errors.unprocessable("incorrect_zone_mode", f"this operation is not supported for zones in {document['mode']} mode")
    return document


def name_servers(servers: list[NameServer]) -> list[Document]:
    return [item.model_dump(exclude_none=True) for item in servers]


@op("DELETE", "/zones/{id_or_name}")
def delete(call: Call) -> Reply:
    document = KIND.find(call)
    check_deletable(call, KIND, document)
    for item in rrsets_of(call.tx, document["id"]):
        call.tx.drop("rrset", item["id"])
    call.tx.drop("zone", document["id"])
    return Reply(201, {"action": action_view(call, call.tx.start("delete_zone", [("zone", document["id"])]))})


def _changed(call: Call, name: str, document: Document, **fields: object) -> Reply:
    unlocked(call, "zone", document["id"])
    call.tx.put("zone", {**document, **fields})
    before = {key: document[key] for key in fields}
    return action_reply(call, call.tx.start(name, [("zone", document["id"])], args={"before": before}))


@op("POST", "/zones/{id_or_name}/actions/change_ttl")
def change_ttl(call: Call) -> Reply:
    document, body = of_mode(KIND.find(call), "primary"), call.body(ZoneTtl)
    return _changed(call, "change_ttl", document, ttl=body.ttl)


@op("POST", "/zones/{id_or_name}/actions/change_primary_nameservers")
def change_primary_nameservers(call: Call) -> Reply:
    document, body = of_mode(KIND.find(call), "secondary"), call.body(ChangeNameServers)
    return _changed(call, "change_primary_nameservers", document, primary_nameservers=name_servers(body.primary_nameservers))


def _put_back(job: Job, tx: Tx) -> None:
    """A change that failed leaves the zone as it was."""
    document = tx.get("zone", job.resource("zone"))
    if document is not None:
        tx.put("zone", {**document, **job.args["before"]})


@command("change_ttl", _put_back)
@command("change_primary_nameservers", _put_back)
def _recorded(_job: Job) -> None:
    """The records alone changed."""
