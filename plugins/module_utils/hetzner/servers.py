# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writing servers: complete before their first boot, changed in one go while powered off."""

from __future__ import annotations

import time

from . import labels, placement
from .actions import ActionFailedError
from .model import Change, Json, Observed, Resource
from .writes import Context, delete, observed, put_name_and_labels, wait_or_remove, wanted

SHUTDOWN_SECONDS = 60.0


def apply(context: Context, change: Change) -> None:
    """Carry out one change of a server."""
    if change.action == "delete":
        delete(context, change)
    elif change.action == "replace":
        delete(context, change)
        create(context, wanted(change))
    elif change.action == "create":
        create(context, wanted(change))
    else:
        update(context, change)


def create(context: Context, want: Resource) -> None:
    """POST to the first candidate that is taken; networks with a fixed address, then the first boot; backups and protection last."""
    fixed = {name: ip for name, ip in want.spec["networks"].items() if ip}
    made, actions = placement.place(context, want, unfinished=bool(fixed))
    ident = int(made["id"])
    making = [action for action in actions if action["command"] == "create_server"] or actions
    wait_or_remove(context, want, ident, making)
    try:
        context.api.wait([action for action in actions if action not in making])
    except ActionFailedError as error:
        if error.command not in ("start_server", "poweron_server"):
            raise
        context.api.act(f"/servers/{ident}/actions/poweron")
    for name, ip in fixed.items():
        _attach_network(context, ident, name, ip)
    if fixed:
        start(context, ident, dict(want.labels) | _placement_label(made, want))
    if want.spec["backups"]:
        context.api.act(f"/servers/{ident}/actions/enable_backup")
    if want.spec["protection"]:
        _protect(context, ident, True)


def start(context: Context, ident: int, own: dict[str, str]) -> None:
    """First boot, and only then is it called finished."""
    context.api.act(f"/servers/{ident}/actions/poweron")
    context.api.call("PUT", f"/servers/{ident}", body={"labels": own})


def _placement_label(made: Json, want: Resource) -> dict[str, str]:
    remembered = (made.get("labels") or {}).get(labels.PLACED_FOR)
    return {labels.PLACED_FOR: remembered} if remembered else {}


def _attach_network(context: Context, ident: int, name: str, ip: str | None) -> None:
    body: Json = {"network": context.id(f"network.{name}")} | ({"ip": ip} if ip else {})
    context.api.act(f"/servers/{ident}/actions/attach_to_network", body, done=("server_already_attached",))


def _protect(context: Context, ident: int, wish: bool) -> None:
    context.api.act(f"/servers/{ident}/actions/change_protection", {"delete": wish, "rebuild": wish})


def update(context: Context, change: Change) -> None:
    """What can change while it runs, then what needs the power off, in one power cycle."""
    want, have = wanted(change), observed(change)
    fields = change.field_names()
    url = f"/servers/{have.id}/actions"
    if "protection" in fields and not want.spec["protection"]:
        _protect(context, have.id, False)
    if "networks" in fields:
        _networks(context, want, have)
    if "firewalls" in fields:
        _firewalls(context, want, have)
    if "volumes" in fields:
        _volumes(context, want, have)
    if "backups" in fields:
        context.api.act(f"{url}/{'enable' if want.spec['backups'] else 'disable'}_backup")
    if change.power_off:
        running = have.raw.get("status") != "off"
        if running:
            power_off(context, have.id)
        _while_off(context, want, have, fields)
        if running:
            context.api.act(f"{url}/poweron")
    if "protection" in fields and want.spec["protection"]:
        _protect(context, have.id, True)
    if "start" in fields:
        context.api.act(f"{url}/poweron")
    put_name_and_labels(context, change)


def power_off(context: Context, ident: int) -> None:
    """Ask for an orderly stop; cut the power after a minute."""
    context.api.act(f"/servers/{ident}/actions/shutdown")
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    while time.monotonic() < deadline:
        if context.api.get(f"/servers/{ident}")["server"]["status"] == "off":
            return
        time.sleep(1.0)
    context.api.act(f"/servers/{ident}/actions/poweroff")


def _networks(context: Context, want: Resource, have: Observed) -> None:
    before, after = have.spec["networks"], want.spec["networks"]
    for name, ip in before.items():
        if name not in after or (after[name] and after[name] != ip):
            body = {"network": context.id(f"network.{name}")}
            context.api.act(f"/servers/{have.id}/actions/detach_from_network", body, done=("server_not_attached",))
    for name, ip in after.items():
        if name not in before or (ip and ip != before[name]):
            _attach_network(context, have.id, name, ip)


def _firewalls(context: Context, want: Resource, have: Observed) -> None:
    before, after = set(have.spec["firewalls"]), set(want.spec["firewalls"])
    target = [{"type": "server", "server": {"id": have.id}}]
    # The new one first: between the two calls the server is never open.
    for name in sorted(after - before):
        url = f"/firewalls/{context.id(f'firewall.{name}')}/actions/apply_to_resources"
        context.api.act(url, {"apply_to": target}, done=("firewall_already_applied", "server_already_added"))
    for name in sorted(before - after):
        url = f"/firewalls/{context.id(f'firewall.{name}')}/actions/remove_from_resources"
        context.api.act(url, {"remove_from": target}, done=("firewall_resource_not_found", "firewall_already_removed"))


def _volumes(context: Context, want: Resource, have: Observed) -> None:
    before, after = set(have.spec["volumes"]), set(want.spec["volumes"])
    for name in sorted(before - after):
        context.api.act(f"/volumes/{context.id(f'volume.{name}')}/actions/detach", done=("volume_not_attached",))
    for name in sorted(after - before):
        ident = context.id(f"volume.{name}")
        holder = context.api.get(f"/volumes/{ident}")["volume"].get("server")
        if holder is not None and holder != have.id:
            context.api.act(f"/volumes/{ident}/actions/detach", done=("volume_not_attached",))
        if holder != have.id:
            body = {"server": have.id, "automount": bool(want.extra["automount"])}
            context.api.act(f"/volumes/{ident}/actions/attach", body, done=("volume_already_attached",))


def _while_off(context: Context, want: Resource, have: Observed, fields: set[str]) -> None:
    url = f"/servers/{have.id}/actions"
    if "type" in fields:
        # The disk keeps its size, so that the way back to a smaller type stays open; unless more of it is what is asked for.
        choice = want.extra.get("choice")
        context.api.act(
            f"{url}/change_type", {"server_type": want.spec["type"], "upgrade_disk": bool(choice is not None and choice.upgrade_disk)}
        )
    if "placement_group" in fields:
        if have.spec["placement_group"]:
            context.api.act(f"{url}/remove_from_placement_group")
        if want.spec["placement_group"]:
            body = {"placement_group": context.id(f"placement_group.{want.spec['placement_group']}")}
            context.api.act(f"{url}/add_to_placement_group", body, done=("already_in_placement_group",))
    for family in ("ipv4", "ipv6"):
        if f"public_{family}" in fields:
            _public_address(context, want, have, family)


def _public_address(context: Context, want: Resource, have: Observed, family: str) -> None:
    before, after = have.spec[f"public_{family}"], want.spec[f"public_{family}"]
    old = ((have.raw.get("public_net") or {}).get(family) or {}).get("id")
    if before and old:
        context.api.act(f"/primary_ips/{old}/actions/unassign", done=("primary_ip_not_assigned",))
        # One that came with the server has no name of its own and nobody else to serve.
        if before is True and context.api.get(f"/primary_ips/{old}")["primary_ip"]["auto_delete"]:
            context.api.call("DELETE", f"/primary_ips/{old}")
    if isinstance(after, str):
        body = {"assignee_type": "server", "assignee_id": have.id}
        context.api.act(f"/primary_ips/{context.id(f'primary_ip.{after}')}/actions/assign", body, done=("primary_ip_already_assigned",))
    elif after:
        body = {
            "name": f"{want.name}-{family}-{have.id}",
            "type": family,
            "assignee_type": "server",
            "assignee_id": have.id,
            "auto_delete": True,
        }
        context.api.act("/primary_ips", body, done=("uniqueness_error", f"server_has_{family}"))
