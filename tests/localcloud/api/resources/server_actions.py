"""Settings of servers: protection, backups, placement, reverse names, rescue."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from .. import errors
from ..inputs import Body, DnsPtr
from ..machine import server_ips
from ..routing import Call, Reply, op
from ..store import Document
from . import placement_groups, primary_ips
from .servers import address_of, check_stopped, free_server, started

BACKUP_WINDOW = "22-02"


class Protection(Body):
    delete: bool | None = None
    rebuild: bool | None = None


class Group(Body):
    placement_group: int


class Rescue(Body):
    type: Literal["linux64"] = "linux64"
    ssh_keys: list[int] = []


def _update(call: Call, name: str, server: Document, **fields: Any) -> Reply:
    """Record a change that needs nothing of the machine."""
    call.tx.put("server", {**server, **fields})
    return started(call, name, server)


@op("POST", "/servers/{id}/actions/change_protection")
def change_protection(call: Call) -> Reply:
    server, body = free_server(call), call.body(Protection)
    wanted = {**server["protection"], **body.model_dump(exclude_none=True)}
    if wanted["delete"] != wanted["rebuild"]:
        raise errors.invalid("rebuild", "delete and rebuild protection must have the same value")
    return _update(call, "change_protection", server, protection=wanted)


@op("POST", "/servers/{id}/actions/enable_backup")
def enable_backup(call: Call) -> Reply:
    return _update(call, "enable_backup", free_server(call), backup_window=BACKUP_WINDOW)


@op("POST", "/servers/{id}/actions/disable_backup")
def disable_backup(call: Call) -> Reply:
    """Existing backups go with it."""
    server = free_server(call)
    for image in call.tx.all("image"):
        if image["bound_to"] == server["id"]:
            call.tx.drop("image", image["id"])
            call.tx.start("delete_image", [("image", image["id"])], hidden=True)
    return _update(call, "disable_backup", server, backup_window=None)


@op("POST", "/servers/{id}/actions/add_to_placement_group")
def add_to_placement_group(call: Call) -> Reply:
    server, body = free_server(call), call.body(Group)
    call.get("placement_group", body.placement_group)
    if server["placement_group"] is not None:
        raise errors.unprocessable("already_in_placement_group", "server is already part of a placement group")
    placement_groups.check_room(call.tx, body.placement_group)
    check_stopped(call, server)
    return _update(call, "add_to_placement_group", server, placement_group=body.placement_group)


@op("POST", "/servers/{id}/actions/remove_from_placement_group")
def remove_from_placement_group(call: Call) -> Reply:
    server = free_server(call)
    if server["placement_group"] is None:
        raise errors.unprocessable("service_error", "server is not part of a placement group")
    return _update(call, "remove_from_placement_group", server, placement_group=None)


@op("POST", "/servers/{id}/actions/change_dns_ptr")
def change_dns_ptr(call: Call) -> Reply:
    server, body = free_server(call), call.body(DnsPtr)
    document = address_of(server_ips(call.tx, server["id"]), body.ip)
    return started(call, "change_dns_ptr", server, args=primary_ips.set_ptr(call, "primary_ip", document, body))


@op("POST", "/servers/{id}/actions/enable_rescue")
def enable_rescue(call: Call) -> Reply:
    server, body = free_server(call), call.body(Rescue)
    for ident in body.ssh_keys:
        call.get("ssh_key", ident)
    reply = _update(call, "enable_rescue", server, rescue=True)
    return Reply(201, {**reply.body, "root_password": secrets.token_urlsafe(18)})


@op("POST", "/servers/{id}/actions/disable_rescue")
def disable_rescue(call: Call) -> Reply:
    return _update(call, "disable_rescue", free_server(call), rescue=False)
