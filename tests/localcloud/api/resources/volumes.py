"""Volumes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .. import errors
from ..engine import Commit, Job, command
from ..inputs import Body, Labels, Ref, VolumeName
from ..kinds import Kind, action_reply, action_view, check_deletable, register, register_protection, unlocked
from ..machine import follow
from ..routing import Call, Reply, op
from ..store import Document, Tx, now

MOST_PER_SERVER = 16
Size = Annotated[int, Field(ge=10, le=10240)]


class Create(Body):
    name: VolumeName
    size: Size
    labels: Labels = {}
    automount: bool | None = None
    format: Literal["xfs", "ext4"] | None = None
    location: Ref | None = None
    server: int | None = None


class Update(Body):
    name: VolumeName | None = None
    labels: Labels | None = None


class Attach(Body):
    server: int
    automount: bool | None = None


class Resize(Body):
    size: Size


def present(call: Call, document: Document) -> Document:
    creating = any(action["command"] == "create_volume" for action in call.tx.running("volume", document["id"]))
    return {
        **document,
        "location": call.cloud.catalogue.location(document["location"]),
        "linux_device": f"/dev/disk/by-id/scsi-0HC_Volume_{document['id']}",
        "status": "creating" if creating else "available",
    }


def check_attachable(call: Call, location: str, server_id: int) -> None:
    server = call.get("server", server_id)
    unlocked(call, "server", server_id)
    if server["location"] != location:
        raise errors.invalid("server", f"the server is in location {server['location']}, the volume in {location}")
    if sum(item["server"] == server_id for item in call.tx.all("volume")) >= MOST_PER_SERVER:
        raise errors.limit_exceeded(f"server {server_id} already has {MOST_PER_SERVER} volumes", "volume_server_limit")


KIND = register(Kind("volume", "volumes", present, filters={"status": lambda item, values: item["status"] in values}, update=Update))
register_protection(KIND)


@op("POST", "/volumes")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("volume", body.name)
    place = None if body.location is None else call.cloud.catalogue.location(body.location)
    if body.location is not None and place is None:
        raise errors.invalid("location", f"location '{body.location}' not found")
    if body.server is None and place is None:
        raise errors.invalid("location", "is required unless server is given")
    if body.automount and body.server is None:
        raise errors.invalid("automount", "needs a server")
    location = place["name"] if place else call.get("server", body.server)["location"]
    if body.server is not None:
        check_attachable(call, location, body.server)
    document: Document = {
        "id": call.tx.next_id(),
        "created": now(),
        "name": body.name,
        "server": None,
        "location": location,
        "size": body.size,
        "protection": {"delete": False},
        "labels": body.labels,
        "format": body.format,
    }
    call.tx.put("volume", document)
    # On the server's lane when there is one, so that attaching comes after making.
    lane = None if body.server is None else f"server-{body.server}"
    action = call.tx.start("create_volume", [("volume", document["id"])], lane=lane)
    following = []
    if body.server is not None:
        touched = [("server", body.server), ("volume", document["id"])]
        following.append(call.tx.start("attach_volume", touched, after=action["id"]))
    views = [action_view(call, item) for item in following]
    return Reply(201, {"volume": present(call, document), "action": action_view(call, action), "next_actions": views})


@op("DELETE", "/volumes/{id}")
def delete(call: Call) -> Reply:
    document = call.get("volume")
    check_deletable(call, KIND, document)
    if document["server"] is not None:
        raise errors.unprocessable("resource_in_use", f"volume with ID '{document['id']}' is still attached to server {document['server']}")
    call.tx.drop("volume", document["id"])
    call.tx.start("delete_volume", [("volume", document["id"])], hidden=True)
    return Reply(204)


@op("POST", "/volumes/{id}/actions/attach")
def attach(call: Call) -> Reply:
    document, body = call.get("volume"), call.body(Attach)
    unlocked(call, "volume", document["id"])
    if document["server"] is not None:
        raise errors.unprocessable("volume_already_attached", f"volume is already attached to server {document['server']}")
    check_attachable(call, document["location"], body.server)
    return action_reply(call, call.tx.start("attach_volume", [("server", body.server), ("volume", document["id"])]))


@op("POST", "/volumes/{id}/actions/detach")
def detach(call: Call) -> Reply:
    document = call.get("volume")
    unlocked(call, "volume", document["id"])
    if document["server"] is None:
        raise errors.unprocessable("volume_not_attached", "volume is not attached to a server")
    unlocked(call, "server", document["server"])
    return action_reply(call, call.tx.start("detach_volume", [("server", document["server"]), ("volume", document["id"])]))


@op("POST", "/volumes/{id}/actions/resize")
def resize(call: Call) -> Reply:
    document, body = call.get("volume"), call.body(Resize)
    unlocked(call, "volume", document["id"])
    if body.size <= document["size"]:
        raise errors.invalid("size", f"must be larger than the current size of {document['size']} GB")
    lane = None if document["server"] is None else f"server-{document['server']}"
    return action_reply(call, call.tx.start("resize_volume", [("volume", document["id"])], lane=lane, args=body.model_dump()))


def _record(job: Job, **fields: object) -> Commit:
    def commit(tx: Tx) -> None:
        document = tx.get("volume", job.resource("volume"))
        if document is not None:
            tx.put("volume", {**document, **fields})

    return commit


@command("create_volume")
def _create(job: Job) -> None:
    with job.cloud.store.read() as tx:
        document = tx.get("volume", job.resource("volume"))
    if document is not None:
        job.cloud.backend.create_volume(document["id"], document["size"], document["format"])


@command("attach_volume")
def _attach(job: Job) -> Commit:
    follow(job, plus_volume=job.resource("volume"))
    return _record(job, server=job.resource("server"))


@command("detach_volume")
def _detach(job: Job) -> Commit:
    follow(job, minus_volume=job.resource("volume"))
    return _record(job, server=None)


@command("resize_volume")
def _resize(job: Job) -> Commit:
    job.cloud.backend.resize_volume(job.resource("volume"), job.args["size"])
    return _record(job, size=job.args["size"])


@command("delete_volume")
def _delete(job: Job) -> None:
    job.cloud.backend.delete_volume(job.resource("volume"))
