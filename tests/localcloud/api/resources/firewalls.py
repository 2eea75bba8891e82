"""Firewalls: rules, and the servers they are applied to directly or by label selector."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from .. import errors
from ..engine import Job, command
from ..inputs import Body, Labels, Name
from ..kinds import Kind, action_view, actions_reply, check_deletable, register
from ..labels import matches, selector
from ..machine import firewalls_of, follow, has_public_net, sync_firewalls
from ..routing import Call, Reply, op
from ..store import Document, Tx, now

MOST_PER_SERVER = 5
PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


class Rule(Body):
    direction: Literal["in", "out"]
    protocol: Literal["tcp", "udp", "icmp", "esp", "gre"]
    source_ips: Annotated[list[str], Field(max_length=100)] = []
    destination_ips: Annotated[list[str], Field(max_length=100)] = []
    port: str | None = None
    description: Annotated[str, StringConstraints(max_length=255)] | None = None


class ServerRef(Body):
    id: int


class Selector(Body):
    selector: str


class Target(Body):
    type: Literal["server", "label_selector"]
    server: ServerRef | None = None
    label_selector: Selector | None = None


Rules = Annotated[list[Rule], Field(max_length=50)]


class Create(Body):
    name: Name
    labels: Labels = {}
    rules: Rules = []
    apply_to: list[Target] = []


class SetRules(Body):
    rules: Rules


class Apply(Body):
    apply_to: Annotated[list[Target], Field(min_length=1)]


class Remove(Body):
    remove_from: Annotated[list[Target], Field(min_length=1)]


def _cidr(text: str, field: str) -> str:
    if "/" not in text:
        raise errors.invalid(field, f"'{text}' is not in CIDR block notation")
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise errors.invalid(field, f"'{text}' is not a CIDR block with empty host bits") from error


def checked(rules: list[Rule]) -> list[Document]:
    """Rules as they are stored. Raises 422 naming ``rules.<n>.<field>``."""
    result = []
    for number, rule in enumerate(rules):
        where = f"rules.{number}"
        used, unused = ("source_ips", "destination_ips") if rule.direction == "in" else ("destination_ips", "source_ips")
        if getattr(rule, unused) or not getattr(rule, used):
            raise errors.invalid(f"{where}.{used}", f"direction '{rule.direction}' needs {used} and no {unused}")
        match = PORTS.fullmatch(rule.port or "")
        if rule.protocol in ("tcp", "udp"):
            bounds = [int(part) for part in match.groups() if part] if match else []
            if not bounds or min(bounds) < 1 or max(bounds) > 65535 or bounds != sorted(bounds):
                raise errors.invalid(f"{where}.port", "must be a port or a range of ports for protocols tcp and udp")
        elif rule.port is not None:
            raise errors.invalid(f"{where}.port", f"is not supported for protocol {rule.protocol}")
        ips = {used: [_cidr(text, f"{where}.{used}") for text in getattr(rule, used)], unused: []}
        result.append({**rule.model_dump(), **ips})
    return result


def present(call: Call, document: Document) -> Document:
    direct = [{"type": "server", "server": {"id": ident}} for ident in document["servers"]]
    servers = call.tx.all("server") if document["selectors"] else []
    selected = [
        {
            "type": "label_selector",
            "label_selector": {"selector": text},
            "applied_to_resources": [
                {"type": "server", "server": {"id": server["id"]}}
                for server in servers
                if matches(text, server["labels"]) and has_public_net(call.tx, server["id"])
            ],
        }
        for text in document["selectors"]
    ]
    shown = {key: document[key] for key in ("id", "name", "labels", "created", "rules")}
    return {**shown, "applied_to": direct + selected}


KIND = register(Kind("firewall", "firewalls", present))


def targets(call: Call, items: list[Target], field: str) -> tuple[list[int], list[str]]:
    """(server ids, selectors) of a request. Raises 422 for a target without its part and for selectors that do not parse."""
    servers, selectors = [], []
    for number, item in enumerate(items):
        if item.type == "server":
            if item.server is None:
                raise errors.invalid(f"{field}.{number}.server", "is required")
            servers.append(item.server.id)
        elif item.label_selector is None or not item.label_selector.selector:
            raise errors.invalid(f"{field}.{number}.label_selector", "is required")
        else:
            selector(item.label_selector.selector, f"{field}.{number}.label_selector.selector")
            selectors.append(item.label_selector.selector)
    return servers, selectors


def attach(call: Call, firewall: Document, servers: list[int], selectors: list[str]) -> list[Document]:
    """Record the new targets and start the actions that make them so."""
    for ident in servers:
        server = call.tx.get("server", ident)
        if server is None:
            raise errors.ApiError(404, "firewall_resource_not_found", f"server {ident} to apply the firewall to was not found")
        if ident in firewall["servers"]:
            raise errors.unprocessable("firewall_already_applied", f"firewall is already applied to server {ident}")
        if not has_public_net(call.tx, ident):
            raise errors.unprocessable("private_net_only_server", f"server {ident} has no public interface")
        if len(firewalls_of(call.tx, server)) >= MOST_PER_SERVER:
            raise errors.limit_exceeded(f"server {ident} already has {MOST_PER_SERVER} firewalls", "firewall_server_limit")
    for text in selectors:
        if text in firewall["selectors"]:
            raise errors.unprocessable("firewall_already_applied", f"firewall is already applied to label selector {text}")
    firewall["servers"] += servers
    firewall["selectors"] += selectors
    call.tx.put("firewall", firewall)
    actions = [_action(call.tx, "apply_firewall", firewall["id"], ident) for ident in servers]
    if selectors:
        actions.append(_action(call.tx, "apply_firewall", firewall["id"], None))
        sync_firewalls(call.tx, _selected(call.tx, selectors) - set(servers))
    return actions


def _action(tx: Tx, name: str, firewall_id: int, server_id: int | None) -> Document:
    touched = [("firewall", firewall_id)] if server_id is None else [("firewall", firewall_id), ("server", server_id)]
    lane = f"firewall-{firewall_id}" if server_id is None else f"server-{server_id}"
    return tx.start(name, touched, lane=lane, locks=False)


def _selected(tx: Tx, selectors: list[str]) -> set[int]:
    return {server["id"] for server in tx.all("server") if any(matches(text, server["labels"]) for text in selectors)}


def reach(tx: Tx, firewall: Document) -> set[int]:
    """Servers that a firewall concerns."""
    return set(firewall["servers"]) | _selected(tx, firewall["selectors"])


@op("POST", "/firewalls")
def create(call: Call) -> Reply:
    body = call.body(Create)
    call.unique("firewall", body.name)
    document: Document = {
        "id": call.tx.next_id(),
        "name": body.name,
        "labels": body.labels,
        "created": now(),
        "rules": checked(body.rules),
        "servers": [],
        "selectors": [],
    }
    wanted = targets(call, body.apply_to, "apply_to")
    call.tx.put("firewall", document)
    actions = [_action(call.tx, "set_firewall_rules", document["id"], None)] if body.rules else []
    actions += attach(call, document, *wanted)
    return Reply(201, {"firewall": present(call, document), "actions": [action_view(call, action) for action in actions]})


@op("DELETE", "/firewalls/{id}")
def delete(call: Call) -> Reply:
    document = call.get("firewall")
    check_deletable(call, KIND, document)
    if document["servers"] or document["selectors"]:
        raise errors.unprocessable("resource_in_use", f"firewall with ID '{document['id']}' is still in use")
    call.tx.drop("firewall", document["id"])
    return Reply(204)


@op("POST", "/firewalls/{id}/actions/set_rules")
def set_rules(call: Call) -> Reply:
    document = call.get("firewall")
    document["rules"] = checked(call.body(SetRules).rules)
    call.tx.put("firewall", document)
    actions = [_action(call.tx, "set_firewall_rules", document["id"], None)]
    actions += [_action(call.tx, "apply_firewall", document["id"], ident) for ident in sorted(reach(call.tx, document))]
    return actions_reply(call, actions)


@op("POST", "/firewalls/{id}/actions/apply_to_resources")
def apply_to_resources(call: Call) -> Reply:
    document = call.get("firewall")
    return actions_reply(call, attach(call, document, *targets(call, call.body(Apply).apply_to, "apply_to")))


@op("POST", "/firewalls/{id}/actions/remove_from_resources")
def remove_from_resources(call: Call) -> Reply:
    document = call.get("firewall")
    servers, selectors = targets(call, call.body(Remove).remove_from, "remove_from")
    for ident in servers:
        if ident not in document["servers"]:
            by_label = ident in _selected(call.tx, document["selectors"])
            code = "firewall_managed_by_label_selector" if by_label else "firewall_resource_not_found"
            raise errors.unprocessable(code, f"firewall is not applied directly to server {ident}")
    for text in selectors:
        if text not in document["selectors"]:
            raise errors.unprocessable("firewall_resource_not_found", f"firewall is not applied to label selector {text}")
    concerned = _selected(call.tx, selectors) - set(servers)
    document["servers"] = [ident for ident in document["servers"] if ident not in servers]
    document["selectors"] = [text for text in document["selectors"] if text not in selectors]
    call.tx.put("firewall", document)
    actions = [_action(call.tx, "remove_firewall", document["id"], ident) for ident in servers]
    if selectors:
        actions.append(_action(call.tx, "remove_firewall", document["id"], None))
        sync_firewalls(call.tx, concerned)
    return actions_reply(call, actions)


def _follow(job: Job) -> Any:
    if any(item["type"] == "server" for item in job.action["resources"]):
        follow(job)


for _name in ("apply_firewall", "remove_firewall", "sync_firewalls"):
    command(_name)(_follow)
