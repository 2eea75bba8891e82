# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writing public addresses: primary and floating IPs with their reverse names, and which server a floating IP is on."""

from __future__ import annotations

from . import reverse, writes
from .api import ApiError
from .model import KINDS, Change, Json, Resource
from .writes import Context, observed, wanted


def apply(context: Context, change: Change) -> None:
    """Carry out one change of a primary or floating IP."""
    if change.action == "update":
        _update(context, change)
        return
    if change.action in ("delete", "replace"):
        _delete(context, change)
    if change.action in ("create", "replace"):
        _create(context, wanted(change))


def _create(context: Context, want: Resource) -> None:
    """Made without a server: what the API does with a server and a home elsewhere is nowhere said."""
    made = writes.make(context, want)
    _name(context, want, made)
    if want.kind == "floating_ip" and want.spec["server"]:
        _assign(context, int(made["id"]), context.id(f"server.{want.spec['server']}"))
    writes.protect(context, want, int(made["id"]))


def _update(context: Context, change: Change) -> None:
    want, have = wanted(change), observed(change)
    if "dns_ptr" in change.field_names():
        _name(context, want, have.raw)
    if "server" in change.field_names():
        server = want.spec["server"]
        _assign(context, have.id, context.id(f"server.{server}") if server else None)
    writes.update_plain(context, change)


def _delete(context: Context, change: Change) -> None:
    if change.kind == "floating_ip":
        _assign(context, observed(change).id, None)
    writes.delete(context, change)


def _name(context: Context, want: Resource, item: Json) -> None:
    """Set the names that differ, one after the other: each locks the address."""
    if want.spec["dns_ptr"] is None:
        return
    _before, after = reverse.differences(want.spec["dns_ptr"], item)
    for ip, name in after.items():
        context.api.act(f"{KINDS[want.kind].url}/{item['id']}/actions/change_dns_ptr", {"ip": ip, "dns_ptr": name or None})


def _holder(context: Context, ident: int) -> int | None:
    """The server it is on now; None also when it is gone."""
    try:
        holder: int | None = context.api.get(f"/floating_ips/{ident}")["floating_ip"]["server"]
    except ApiError as error:
        if error.code != "not_found":
            raise
        return None
    return holder


def _assign(context: Context, ident: int, server: int | None) -> None:
    """Bring it to this server, or to none. Looks where it is first: since the plan was made, its server may have been replaced."""
    holder = _holder(context, ident)
    if holder == server:
        return
    if holder is not None:
        with context.alone(holder):
            _release(context, ident)
    if server is not None:
        with context.alone(server):
            context.api.act(f"/floating_ips/{ident}/actions/assign", {"server": server}, done=("floating_ip_assigned",))


def _release(context: Context, ident: int) -> None:
    try:
        context.api.act(f"/floating_ips/{ident}/actions/unassign")
    except ApiError:
        # When an answer is lost it is asked for again, and then there may be nothing left to release.
        if _holder(context, ident) is not None:
            raise
