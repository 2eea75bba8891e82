"""Power, rebuilding, resizing and images of servers."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from .. import errors
from ..engine import Commit, Job, command
from ..inputs import Body, Labels, Ref
from ..kinds import action_reply
from ..machine import spec
from ..routing import Call, Reply, op
from ..store import Document, Tx
from . import images
from .server_create import usable_type
from .servers import check_stopped, free_server, started


class Rebuild(Body):
    image: Ref
    user_data: str | None = None


class ChangeType(Body):
    server_type: Ref
    upgrade_disk: bool


class CreateImage(Body):
    description: str = ""
    type: Literal["snapshot", "backup"] = "snapshot"
    labels: Labels = {}


POWER = {
    "poweron": ("start_server", "power_on"),
    "poweroff": ("stop_server", "power_off"),
    "shutdown": ("shutdown_server", "shutdown"),
    "reboot": ("reboot_server", "reboot"),
    "reset": ("reset_server", "reset"),
}


def _register_power(verb: str, name: str, method: str) -> None:
    @op("POST", f"/servers/{{id}}/actions/{verb}")
    def _call(call: Call) -> Reply:
        return started(call, name, free_server(call))

    @command(name)
    def _run(job: Job) -> None:
        getattr(job.cloud.backend, method)(job.resource("server"))


for _verb, (_name, _method) in POWER.items():
    _register_power(_verb, _name, _method)


@op("POST", "/servers/{id}/actions/rebuild")
def rebuild(call: Call) -> Reply:
    server, body = free_server(call), call.body(Rebuild)
    if server["protection"]["rebuild"]:
        raise errors.protected("server rebuild")
    kind: Any = call.cloud.catalogue.server_type(server["server_type"])
    image = images.find(call, body.image, kind["architecture"])
    server |= {"image": image["id"], "os": [image["os_flavor"], image["os_version"]]}
    if body.user_data is not None:
        server["user_data"] = body.user_data
    call.tx.put("server", server)
    reply = started(call, "rebuild_server", server)
    return Reply(201, {**reply.body, "root_password": None if server["ssh_keys"] else secrets.token_urlsafe(18)})


@command("rebuild_server")
def _rebuild(job: Job) -> None:
    with job.cloud.store.read() as tx:
        server = tx.get("server", job.resource("server"))
        wanted = spec(tx, job.cloud.catalogue, server) if server else None
    if wanted is not None:
        job.cloud.backend.rebuild(wanted)


@op("POST", "/servers/{id}/actions/change_type")
def change_type(call: Call) -> Reply:
    server, body = free_server(call), call.body(ChangeType)
    new: Any = call.cloud.catalogue.server_type(body.server_type)
    if new is None or new["name"] in call.cloud.catalogue.retired:
        raise errors.unprocessable("invalid_server_type", f"server type '{body.server_type}' is unknown or deprecated")
    usable_type(call, body.server_type, server["location"])
    old: Any = call.cloud.catalogue.server_type(server["server_type"])
    if new["name"] == old["name"] or new["architecture"] != old["architecture"] or new["disk"] < server["primary_disk_size"]:
        raise errors.unprocessable("invalid_server_type", "the server type is the same, of another architecture or has a smaller disk")
    check_stopped(call, server)
    return started(
        call, "change_server_type", server, args={"server_type": new["name"], "disk": new["disk"] if body.upgrade_disk else None}
    )


def _resized(tx: Tx, job: Job) -> Document | None:
    server = tx.get("server", job.resource("server"))
    if server is not None:
        server["server_type"] = job.args["server_type"]
        server["primary_disk_size"] = job.args["disk"] or server["primary_disk_size"]
    return server


@command("change_server_type")
def _change_type(job: Job) -> Commit:
    with job.cloud.store.read() as tx:
        server = _resized(tx, job)
        wanted = spec(tx, job.cloud.catalogue, server) if server else None
    if wanted is not None:
        job.cloud.backend.update(wanted)

    def commit(tx: Tx) -> None:
        changed = _resized(tx, job)
        if changed is not None:
            tx.put("server", changed)

    return commit


@op("POST", "/servers/{id}/actions/create_image")
def create_image(call: Call) -> Reply:
    server, body = free_server(call), call.body(CreateImage)
    if body.type == "backup" and server["backup_window"] is None:
        raise errors.unprocessable("service_error", "backups are not enabled for the server")
    kind: Any = call.cloud.catalogue.server_type(server["server_type"])
    image = images.make(call.tx, server, kind["architecture"], body.type, body.description, body.labels)
    action = call.tx.start("create_image", [("server", server["id"]), ("image", image["id"])])
    return action_reply(call, action, image=image)


def _drop_image(job: Job, tx: Tx) -> None:
    tx.drop("image", job.resource("image"))


@command("create_image", undo=_drop_image)
def _create_image(job: Job) -> Commit:
    ident = job.resource("image")
    size = job.cloud.backend.snapshot(job.resource("server"), ident)

    def commit(tx: Tx) -> None:
        image = tx.get("image", ident)
        if image is not None:
            tx.put("image", {**image, "status": "available", "image_size": round(size, 3)})

    return commit
