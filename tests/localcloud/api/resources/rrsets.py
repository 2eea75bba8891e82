"""Record sets of primary DNS zones."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .. import errors
from ..inputs import Body, Labels, parse
from ..kinds import action_reply, action_view
from ..lists import chosen, ordered, page
from ..routing import Call, Reply, op
from ..store import Document
from .zones import KIND, CreateRrset, Record, Records, Ttl, add_rrset, check_values, distinct, rrsets_of

ONE = "/zones/{id_or_name}/rrsets/{rr_name}/{rr_type}"


class Update(Body):
    labels: Labels | None = None


class Protection(Body):
    change: bool


class RrsetTtl(Body):
    ttl: Ttl | None


class SetRecords(Body):
    records: Records


class AddRecords(Body):
    records: Records
    ttl: Ttl | None = None


class Comment(Body):
    value: str
    comment: str


class UpdateRecords(Body):
    records: Annotated[list[Comment], Field(min_length=1, max_length=50)]


def present(document: Document) -> Document:
    """Outside, a set's id is its name and type."""
    return {**document, "id": f"{document['name']}/{document['type']}"}


def _zone(call: Call) -> Document:
    zone = KIND.find(call)
    if zone["mode"] != "primary":
        raise errors.unprocessable("incorrect_zone_mode", "this operation is not supported for secondary zones")
    return zone


def _lookup(call: Call, zone: Document) -> Document | None:
    name, kind = call.params["rr_name"], call.params["rr_type"]
    return next((item for item in rrsets_of(call.tx, zone["id"]) if (item["name"], item["type"]) == (name, kind)), None)


def _rrset(call: Call, zone: Document) -> Document:
    found = _lookup(call, zone)
    if found is None:
        raise errors.not_found("rrset", f"{call.params['rr_name']}/{call.params['rr_type']}")
    return found


def _changeable(call: Call, zone: Document) -> Document:
    found = _rrset(call, zone)
    if found["protection"]["change"]:
        raise errors.protected("rrset change")
    return found


def _started(call: Call, command: str, zone: Document) -> Reply:
    # Changes of records may follow one another without waiting: the zone is not locked.
    return action_reply(call, call.tx.start(command, [("zone", zone["id"])], locks=False))


@op("GET", "/zones/{id_or_name}/rrsets")
def list_all(call: Call) -> Reply:
    kinds = call.query.many("type")
    found = [item for item in chosen(rrsets_of(call.tx, KIND.find(call)["id"]), call.query) if not kinds or item["type"] in kinds]
    return Reply(200, *page(ordered(found, call.query, ("id", "name")), call.query, "rrsets", call.path, present, 100))


@op("POST", "/zones/{id_or_name}/rrsets")
def create(call: Call) -> Reply:
    zone = _zone(call)
    document = add_rrset(call.tx, zone, call.body(CreateRrset))
    action = call.tx.start("create_rrset", [("zone", zone["id"])], locks=False)
    return action_reply(call, action, rrset=present(document))


@op("GET", ONE)
def get(call: Call) -> Reply:
    return Reply(200, {"rrset": present(_rrset(call, KIND.find(call)))})


@op("PUT", ONE)
def update(call: Call) -> Reply:
    document = _changeable(call, _zone(call))
    document |= call.body(Update).model_dump(exclude_none=True)
    call.tx.put("rrset", document)
    return Reply(200, {"rrset": present(document)})


@op("DELETE", ONE)
def delete(call: Call) -> Reply:
    zone = _zone(call)
    call.tx.drop("rrset", _changeable(call, zone)["id"])
    return Reply(201, {"action": action_view(call, call.tx.start("delete_rrset", [("zone", zone["id"])], locks=False))})


@op("POST", ONE + "/actions/change_protection")
def change_protection(call: Call) -> Reply:
    zone, body = _zone(call), call.body(Protection)
    call.tx.put("rrset", {**_rrset(call, zone), "protection": {"change": body.change}})
    return _started(call, "change_rrset_protection", zone)


@op("POST", ONE + "/actions/change_ttl")
def change_ttl(call: Call) -> Reply:
    zone, body = _zone(call), call.body(RrsetTtl)
    call.tx.put("rrset", {**_changeable(call, zone), "ttl": body.ttl})
    return _started(call, "change_rrset_ttl", zone)


def _set(call: Call, zone: Document, document: Document, records: list[Record], command: str) -> Reply:
    check_values(document["type"], records)
    call.tx.put("rrset", {**document, "records": [record.model_dump() for record in records]})
    return _started(call, command, zone)


@op("POST", ONE + "/actions/set_records")
def set_records(call: Call) -> Reply:
    zone, body = _zone(call), call.body(SetRecords)
    return _set(call, zone, _changeable(call, zone), body.records, "set_rrset_records")


@op("POST", ONE + "/actions/add_records")
def add_records(call: Call) -> Reply:
    """Makes the set when there is none."""
    zone, body = _zone(call), call.body(AddRecords)
    if _lookup(call, zone) is None:
        wanted = {"name": call.params["rr_name"], "type": call.params["rr_type"], "ttl": body.ttl, "records": body.records}
        add_rrset(call.tx, zone, parse(CreateRrset, wanted))
        return _started(call, "add_rrset_records", zone)
    document = _changeable(call, zone)
    if body.ttl not in (None, document["ttl"]):
        raise errors.invalid("ttl", f"differs from that of the existing RRSet ({document['ttl']})")
    records = [Record(**item) for item in document["records"]] + body.records
    try:
        distinct(records)
    except ValueError as error:
        raise errors.invalid("records", str(error)) from error
    return _set(call, zone, document, records, "add_rrset_records")


@op("POST", ONE + "/actions/remove_records")
def remove_records(call: Call) -> Reply:
    """Drops the set with its last record."""
    zone, body = _zone(call), call.body(SetRecords)
    document = _changeable(call, zone)
    gone = {record.value for record in body.records}
    if gone - {item["value"] for item in document["records"]}:
        raise errors.invalid("records", "contains records that the RRSet does not have")
    left = [Record(**item) for item in document["records"] if item["value"] not in gone]
    if left:
        return _set(call, zone, document, left, "remove_rrset_records")
    call.tx.drop("rrset", document["id"])
    return _started(call, "remove_rrset_records", zone)


@op("POST", ONE + "/actions/update_records")
def update_records(call: Call) -> Reply:
    zone, body = _zone(call), call.body(UpdateRecords)
    document = _changeable(call, zone)
    comments = {item.value: item.comment for item in body.records}
    if comments.keys() - {item["value"] for item in document["records"]}:
        raise errors.invalid("records", "contains records that the RRSet does not have")
    for item in document["records"]:
        item["comment"] = comments.get(item["value"], item["comment"])
    call.tx.put("rrset", document)
    return Reply(200, _started(call, "update_rrset_records", zone).body)
