"""Placement groups: at most ten servers, each on its own host."""

from __future__ import annotations

from typing import Literal

from .. import errors
from ..inputs import Body, Labels, Name
from ..kinds import Kind, register
from ..routing import Call, Reply, op
from ..store import Document, Tx, now

MOST_SERVERS = 10


class Create(Body):
    name: Name
    type: Literal["spread"]
    labels: Labels = {}


def member_ids(tx: Tx, group_id: int) -> list[int]:
    return [item["id"] for item in tx.all("server") if item["placement_group"] == group_id]


def present(call: Call, document: Document) -> Document:
    return {**document, "servers": member_ids(call.tx, document["id"])}


def check_room(tx: Tx, group_id: int) -> None:
    if len(member_ids(tx, group_id)) >= MOST_SERVERS:
        raise errors.limit_exceeded(f"placement group {group_id} already has {MOST_SERVERS} servers", "placement_group_server_limit")


register(Kind("placement_group", "placement_groups", present, filters={"type": lambda item, values: item["type"] in values}, actions=False))


@op("POST", "/placement_groups")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("placement_group", body.name)
    document: Document = {"id": call.tx.next_id(), "name": body.name, "labels": body.labels, "type": body.type, "created": now()}
    call.tx.put("placement_group", document)
    return Reply(201, {"placement_group": present(call, document), "action": None})


@op("DELETE", "/placement_groups/{id}")
def delete(call: Call) -> Reply:
    document = call.get("placement_group")
    if member_ids(call.tx, document["id"]):
        raise errors.unprocessable("resource_in_use", "placement group still has servers")
    call.tx.drop("placement_group", document["id"])
    return Reply(204)
