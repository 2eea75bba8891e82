"""New DNS zones, with their record sets or from a zone file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from .. import errors
from ..inputs import Body, Labels
from ..kinds import action_reply
from ..routing import Call, Reply, op
from ..store import Document, now
from .zonefiles import take
from .zones import LABEL, NAME_SERVERS, CreateRrset, NameServers, Record, Ttl, add_rrset, is_own, name_servers, next_serial, present

FIRST_SOA = f"{NAME_SERVERS[0]} dns.hetzner.com. 1 86400 10800 3600000 3600"
# Some of the public suffixes with two parts; any single part is one.
SUFFIXES = frozenset({"ac.uk", "co.uk", "org.uk", "co.at", "or.at", "com.au", "net.au", "co.jp", "co.nz", "com.br", "co.za", "com.tr"})


def _zone_name(value: str) -> str:
    parts = value.split(".")
    if len(value) > 255 or len(parts) < 2 or "_" in value or not all(LABEL.fullmatch(part) for part in parts):
        raise ValueError("must be a domain name in lower case without a dot at the end")
    suffix = 2 if ".".join(parts[-2:]) in SUFFIXES else 1
    if len(parts) != suffix + 1:
        raise ValueError("must be a public suffix and one part before it: subdomains are not supported")
    return value


class Create(Body):
    name: Annotated[str, AfterValidator(_zone_name)]
    mode: Literal["primary", "secondary"]
    ttl: Ttl = 3600
    labels: Labels = {}
    primary_nameservers: NameServers | None = None
    rrsets: list[CreateRrset] = []
    zonefile: str | None = None


@op("POST", "/zones")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("zone", body.name)
    document: Document = {
        "id": call.tx.next_id(),
        "name": body.name,
        "mode": body.mode,
        "created": now(),
        "labels": body.labels,
        "protection": {"delete": False},
        "ttl": body.ttl,
    }
    if body.mode == "secondary":
        if not body.primary_nameservers:
            raise errors.invalid("primary_nameservers", "is required for zones in secondary mode")
        document["primary_nameservers"] = name_servers(body.primary_nameservers)
    call.tx.put("zone", document)
    if body.mode == "primary" and body.zonefile is not None:
        if body.rrsets:
            raise errors.invalid("rrsets", "must be empty when a zone file is given")
        document = take(call.tx, document, body.zonefile)
    elif body.mode == "primary":
        add_rrset(call.tx, document, CreateRrset(name="@", type="SOA", records=[Record(value=FIRST_SOA)]))
        add_rrset(call.tx, document, CreateRrset(name="@", type="NS", records=[Record(value=name) for name in NAME_SERVERS]))
        for number, rrset in enumerate(body.rrsets):
            if is_own(rrset.name, rrset.type):
                raise errors.invalid(f"rrsets.{number}.type", "SOA and NS of the zone itself are made by the service")
            add_rrset(call.tx, document, rrset)
        next_serial(call.tx, document["id"])
    action = call.tx.start("create_zone", [("zone", document["id"])])
    return action_reply(call, action, zone=present(call, document))
