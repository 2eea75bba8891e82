"""Record sets of primary DNS zones."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field

from .. import errors, rdata
from ..engine import Job, command
from ..inputs import Body, Labels, parse
from ..kinds import action_reply
from ..lists import chosen, ordered, page
from ..routing import Call, Reply, op
from ..store import Document, Tx
from .zones import KIND, CreateRrset, Record, Records, Ttl, add_rrset, check_values, distinct, is_own, next_serial, of_mode, rrsets_of

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
    records: Annotated[list[Comment], Field(min_length=1, max_length=rdata.MOST_RECORDS)]


def present(document: Document) -> Document:
    """Outside, a set's id is its name and type, and its records come in any order."""
    shown = {key: value for key, value in document.items() if key != "created"}
    return {
        **shown,
        "id": f"{document['name']}/{document['type']}",
        "records": random.sample(document["records"], len(document["records"])),
    }


def _zone(call: Call) -> Document:
    return of_mode(KIND.find(call), "primary")


def _find(tx: Tx, zone_id: int, name: str, kind: str) -> Document | None:
    return next((item for item in rrsets_of(tx, zone_id) if (item["name"], item["type"]) == (name, kind)), None)


def _lookup(call: Call, zone: Document) -> Document | None:
    kind = call.params["rr_type"]
    if kind not in rdata.TYPES:
        raise errors.invalid("rr_type", f"'{kind}' is not a type that is supported")
    return _find(call.tx, zone["id"], call.params["rr_name"], kind)


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


def _removable(document: Document) -> Document:
    if is_own(document["name"], document["type"]):
        raise errors.invalid("type", "SOA and NS of the zone itself cannot be deleted")
    return document


def _started(call: Call, name: str, zone: Document, key: tuple[str, str], before: Document | None) -> Reply:
    # Changes of records may follow one another without waiting: the zone is not locked.
    next_serial(call.tx, zone["id"])
    args = {"name": key[0], "type": key[1], "before": before}
    return action_reply(call, call.tx.start(name, [("zone", zone["id"])], args=args, locks=False))


@op("GET", "/zones/{id_or_name}/rrsets")
def list_all(call: Call) -> Reply:
    kinds = call.query.many("type")
    found = [item for item in chosen(rrsets_of(call.tx, _zone(call)["id"]), call.query) if not kinds or item["type"] in kinds]
    shown = [{**present(item), "created": item["created"]} for item in found]
    items = ordered(shown, call.query, ("id", "name", "created"))
    return Reply(200, *page(items, call.query, "rrsets", call.path, _without_created, 100))


def _without_created(document: Document) -> Document:
    return {key: value for key, value in document.items() if key != "created"}


@op("POST", "/zones/{id_or_name}/rrsets")
def create(call: Call) -> Reply:
    zone = _zone(call)
    document = add_rrset(call.tx, zone, call.body(CreateRrset))
    reply = _started(call, "create_rrset", zone, (document["name"], document["type"]), None)
    return Reply(201, {**reply.body, "rrset": present(document)})


@op("GET", ONE)
def get(call: Call) -> Reply:
    return Reply(200, {"rrset": present(_rrset(call, _zone(call)))})


@op("PUT", ONE)
def update(call: Call) -> Reply:
    document = _changeable(call, _zone(call))
    document |= call.body(Update).model_dump(exclude_none=True)
    call.tx.put("rrset", document)
    return Reply(200, {"rrset": present(document)})


def _dropped(call: Call, name: str, zone: Document, document: Document) -> Reply:
    call.tx.drop("rrset", _removable(document)["id"])
    return _started(call, name, zone, (document["name"], document["type"]), document)


@op("DELETE", ONE)
def delete(call: Call) -> Reply:
    zone = _zone(call)
    return _dropped(call, "delete_rrset", zone, _changeable(call, zone))


def _put(call: Call, name: str, zone: Document, document: Document, **fields: object) -> Reply:
    call.tx.put("rrset", {**document, **fields})
    return _started(call, name, zone, (document["name"], document["type"]), document)


@op("POST", ONE + "/actions/change_protection")
def change_protection(call: Call) -> Reply:
    zone, body = _zone(call), call.body(Protection)
    return _put(call, "change_rrset_protection", zone, _rrset(call, zone), protection={"change": body.change})


@op("POST", ONE + "/actions/change_ttl")
def change_ttl(call: Call) -> Reply:
    zone, body = _zone(call), call.body(RrsetTtl)
    return _put(call, "change_rrset_ttl", zone, _changeable(call, zone), ttl=body.ttl)


def _set(call: Call, name: str, zone: Document, document: Document, records: list[Record], ttl: int | None) -> Reply:
    check_values(document["type"], records)
    return _put(call, name, zone, document, records=[record.model_dump() for record in records], ttl=ttl)


@op("POST", ONE + "/actions/set_records")
def set_records(call: Call) -> Reply:
    zone, body = _zone(call), call.body(SetRecords)
    document = _changeable(call, zone)
    return _set(call, "set_rrset_records", zone, document, body.records, document["ttl"])


@op("POST", ONE + "/actions/add_records")
def add_records(call: Call) -> Reply:
    """Makes the set when there is none."""
    zone, body = _zone(call), call.body(AddRecords)
    if _lookup(call, zone) is None:
        name, kind = call.params["rr_name"], call.params["rr_type"]
        add_rrset(call.tx, zone, parse(CreateRrset, {"name": name, "type": kind, "ttl": body.ttl, "records": body.records}))
        return _started(call, "add_rrset_records", zone, (name, kind), None)
    document = _changeable(call, zone)
    if None not in (body.ttl, document["ttl"]) and body.ttl != document["ttl"]:
        raise errors.invalid("ttl", f"differs from that of the existing RRSet ({document['ttl']})")
    records = [Record(**item) for item in document["records"]] + body.records
    if len(records) > rdata.MOST_RECORDS:
        raise errors.invalid("records", f"an RRSet has at most {rdata.MOST_RECORDS} records")
    try:
        distinct(records)
    except ValueError as error:
        raise errors.invalid("records", str(error)) from error
    return _set(call, "add_rrset_records", zone, document, records, body.ttl or document["ttl"])


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
        return _set(call, "remove_rrset_records", zone, document, left, document["ttl"])
    return _dropped(call, "remove_rrset_records", zone, document)


@op("POST", ONE + "/actions/update_records")
def update_records(call: Call) -> Reply:
    zone, body = _zone(call), call.body(UpdateRecords)
    document = _changeable(call, zone)
    comments = {item.value: item.comment for item in body.records}
    if comments.keys() - {item["value"] for item in document["records"]}:
        raise errors.invalid("records", "contains records that the RRSet does not have")
    records = [{**item, "comment": comments.get(item["value"], item["comment"])} for item in document["records"]]
    return Reply(200, _put(call, "update_rrset_records", zone, document, records=records).body)


def _put_back(job: Job, tx: Tx) -> None:
    """A change that failed leaves the set as it was."""
    zone_id = job.resource("zone")
    if tx.get("zone", zone_id) is None:
        return
    now = _find(tx, zone_id, job.args["name"], job.args["type"])
    if now is not None:
        tx.drop("rrset", now["id"])
    if job.args["before"] is not None:
        tx.put("rrset", job.args["before"])


def _recorded(_job: Job) -> None:
    """The records alone changed."""


for _name in (
    "add_rrset_records",
    "change_rrset_protection",
    "change_rrset_ttl",
    "create_rrset",
    "delete_rrset",
    "remove_rrset_records",
    "set_rrset_records",
    "update_rrset_records",
):
    command(_name, _put_back)(_recorded)
