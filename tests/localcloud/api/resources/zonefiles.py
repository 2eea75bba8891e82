"""Zone files of primary zones, exported and imported."""

from __future__ import annotations

from pydantic import ValidationError

from .. import errors, zonefile
from ..engine import Job, command
from ..inputs import Body, parse
from ..kinds import action_reply, unlocked
from ..routing import Call, Reply, op
from ..store import Document, Tx
from .zones import KIND, NAME_SERVERS, CreateRrset, add_rrset, next_serial, of_mode, rrsets_of


class Import(Body):
    zonefile: str


def take(tx: Tx, zone: Document, text: str) -> Document:
    """Replace all record sets of a zone by those of a zone file; returns the zone with its new TTL. Raises 422."""
    try:
        found = zonefile.parse(text, zone["name"])
    except zonefile.ZonefileError as error:
        raise errors.invalid("zonefile", str(error)) from error
    if ("@", "SOA") not in found.sets:
        raise errors.invalid("zonefile", "must have a SOA record")
    missing = set(NAME_SERVERS) - set(found.sets.get(("@", "NS"), (None, []))[1])
    if missing:
        raise errors.invalid("zonefile", f"must have the assigned name servers as NS records: {', '.join(sorted(missing))}")
    for item in rrsets_of(tx, zone["id"]):
        tx.drop("rrset", item["id"])
    if found.ttl is not None:
        zone = {**zone, "ttl": found.ttl}
        tx.put("zone", zone)
    for (name, kind), (ttl, values) in found.sets.items():
        wanted = {"name": name, "type": kind, "ttl": ttl, "records": [{"value": value} for value in values]}
        try:
            add_rrset(tx, zone, parse(CreateRrset, wanted))
        except (errors.ApiError, ValidationError) as error:
            raise errors.invalid("zonefile", f"{name} {kind}: {error}") from error
    next_serial(tx, zone["id"])
    return zone


@op("GET", "/zones/{id_or_name}/zonefile")
def export(call: Call) -> Reply:
    zone = of_mode(KIND.find(call), "primary")
    sets = [
        (item["name"], item["type"], item["ttl"], [(one["value"], one["comment"]) for one in item["records"]])
        for item in rrsets_of(call.tx, zone["id"])
    ]
    return Reply(200, {"zonefile": zonefile.write(zone["name"], zone["ttl"], sets)})


@op("POST", "/zones/{id_or_name}/actions/import_zonefile")
def import_zonefile(call: Call) -> Reply:
    zone, body = of_mode(KIND.find(call), "primary"), call.body(Import)
    unlocked(call, "zone", zone["id"])
    before = rrsets_of(call.tx, zone["id"])
    if any(item["protection"]["change"] for item in before):
        raise errors.protected("rrset change")
    take(call.tx, zone, body.zonefile)
    action = call.tx.start("import_zonefile", [("zone", zone["id"])], args={"zone": zone, "rrsets": before})
    return action_reply(call, action)


def _put_back(job: Job, tx: Tx) -> None:
    """An import that failed leaves the zone as it was."""
    if tx.get("zone", job.resource("zone")) is None:
        return
    for item in rrsets_of(tx, job.resource("zone")):
        tx.drop("rrset", item["id"])
    for item in job.args["rrsets"]:
        tx.put("rrset", item)
    tx.put("zone", job.args["zone"])


@command("import_zonefile", _put_back)
def _imported(_job: Job) -> None:
    """The records alone changed."""
