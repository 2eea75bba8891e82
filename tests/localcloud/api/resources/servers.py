"""Servers: what they look like, renaming and deletion. Creating and the actions have modules of their own."""

from __future__ import annotations

import ipaddress
from typing import Any

from .. import errors
from ..engine import Commit, Job, command
from ..inputs import Body, Hostname, Labels
from ..kinds import Kind, action_reply, action_view, register, unlocked
from ..machine import firewalls_of, server_ips, sync_firewalls
from ..routing import Call, Reply, op
from ..store import Document, Tx
from . import placement_groups
from .primary_ips import dns_view

PHASES = {
    "create_server": "initializing",
    "start_server": "starting",
    "stop_server": "stopping",
    "rebuild_server": "rebuilding",
    "change_server_type": "migrating",
    "delete_server": "deleting",
}


class Update(Body):
    name: Hostname | None = None
    labels: Labels | None = None


def status(call: Call, server_id: int, running: list[Document]) -> str:
    """The phase of the action under way, else what the machine does."""
    phase = next((PHASES[action["command"]] for action in running if action["command"] in PHASES), None)
    return phase or call.cloud.power(server_id)


def _public_net(call: Call, server: Document, running: list[Document]) -> Document:
    ips = server_ips(call.tx, server["id"])
    ipv4, ipv6 = ips.get("ipv4"), ips.get("ipv6")
    pending = any(action["command"] in ("apply_firewall", "sync_firewalls", "create_server") for action in running)
    return {
        "ipv4": ipv4 and {"id": ipv4["id"], "ip": ipv4["ip"], "blocked": False, "dns_ptr": dns_view(ipv4)[0]["dns_ptr"]},
        "ipv6": ipv6 and {"id": ipv6["id"], "ip": ipv6["ip"], "blocked": False, "dns_ptr": dns_view(ipv6)},
        "floating_ips": [item["id"] for item in call.tx.all("floating_ip") if item["server"] == server["id"]],
        "firewalls": [{"id": item["id"], "status": "pending" if pending else "applied"} for item in firewalls_of(call.tx, server)],
    }


def private_net(owner: Document) -> list[Document]:
    return [
        {"network": entry["network"], "ip": entry["ip"], "alias_ips": entry["alias_ips"], "mac_address": entry["mac"]}
        for entry in owner["nets"]
        if entry["status"] != "attaching"
    ]


def _image(call: Call, image_id: int) -> Document | None:
    system = next((item for item in call.cloud.catalogue.images if item["id"] == image_id), None)
    return system or call.tx.get("image", image_id)


def present(call: Call, server: Document) -> Document:
    running = call.tx.running("server", server["id"])
    kind: Any = call.cloud.catalogue.server_type(server["server_type"])
    group = server["placement_group"] and call.tx.get("placement_group", server["placement_group"])
    prices = [price for price in kind["prices"] if price["location"] == server["location"]]
    shown = {key: server[key] for key in ("id", "name", "labels", "created", "backup_window", "protection", "primary_disk_size")}
    return {
        **shown,
        "status": status(call, server["id"], running),
        "public_net": _public_net(call, server, running),
        "private_net": private_net(server),
        "server_type": kind,
        "location": call.cloud.catalogue.location(server["location"]),
        "image": _image(call, server["image"]),
        "iso": None,
        "rescue_enabled": server["rescue"],
        "locked": any(action["locks"] for action in running),
        "ingoing_traffic": 0,
        "outgoing_traffic": 0,
        "included_traffic": prices[0]["included_traffic"] if prices else 0,
        "volumes": [item["id"] for item in call.tx.all("volume") if item["server"] == server["id"]],
        "load_balancers": [
            item["id"]
            for item in call.tx.all("load_balancer")
            if any(target.get("server", {}).get("id") == server["id"] for target in item["targets"])
        ],
        "placement_group": placement_groups.present(call, group) if group else None,
    }


def _after_update(call: Call, server: Document) -> None:
    """New labels can bring other firewalls, a new name another host name."""
    sync_firewalls(call.tx, {server["id"]})


KIND = register(
    Kind(
        "server",
        "servers",
        present,
        filters={"status": lambda item, values: item["status"] in values},
        update=Update,
        after_update=_after_update,
    )
)


def free_server(call: Call) -> Document:
    """The server of the path, not locked by another action."""
    server = call.get("server")
    unlocked(call, "server", server["id"])
    return server


def check_stopped(call: Call, server: Document) -> None:
    if call.cloud.power(server["id"], fresh=True) != "off":
        raise errors.unprocessable("server_not_stopped", "server must be stopped for this action")


def started(call: Call, name: str, server: Document, network: int | None = None, **options: Any) -> Reply:
    touched = [("server", server["id"])] + ([("network", network)] if network is not None else [])
    return action_reply(call, call.tx.start(name, touched, **options))


@op("DELETE", "/servers/{id}")
def delete(call: Call) -> Reply:
    server = call.get("server")
    if server["protection"]["delete"]:
        raise errors.protected("server deletion")
    unlocked(call, "server", server["id"])
    return Reply(200, {"action": action_view(call, call.tx.start("delete_server", [("server", server["id"])]))})


@command("delete_server")
def _delete(job: Job) -> Commit:
    """The machine goes first, then the record with all that hung on it."""
    ident = job.resource("server")
    job.cloud.backend.delete(ident)

    def commit(tx: Tx) -> None:
        for ip in tx.all("primary_ip"):
            if ip["server"] == ident and ip["auto_delete"] and not ip["protection"]["delete"]:
                tx.drop("primary_ip", ip["id"])
            elif ip["server"] == ident:
                tx.put("primary_ip", {**ip, "server": None})
        for kind in ("volume", "floating_ip"):
            for item in tx.all(kind):
                if item["server"] == ident:
                    tx.put(kind, {**item, "server": None})
        for firewall in tx.all("firewall"):
            if ident in firewall["servers"]:
                firewall["servers"].remove(ident)
                tx.put("firewall", firewall)
        for image in tx.all("image"):
            if image["bound_to"] == ident:
                tx.drop("image", image["id"])
                tx.start("delete_image", [("image", image["id"])], hidden=True)
        for balancer in tx.all("load_balancer"):
            kept = [target for target in balancer["targets"] if target.get("server", {}).get("id") != ident]
            tx.put("load_balancer", {**balancer, "targets": kept})
        tx.drop("server", ident)

    return commit


def address_of(server_ips_by_type: dict[str, Document], ip: str) -> Document:
    """The primary IP an address belongs to. Raises 422."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError as error:
        raise errors.invalid("ip", f"'{ip}' is not an IP address") from error
    for document in server_ips_by_type.values():
        own = ipaddress.ip_network(document["ip"])
        if own.version == address.version and address in own:
            return document
    raise errors.invalid("ip", f"'{ip}' does not belong to the server")
