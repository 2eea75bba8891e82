# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writing one resource: create with adoption, update in place, delete. Servers are in ``servers``, addresses in ``ips``, DNS in ``dns``."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from . import addresses, certificates, labels, zones
from .actions import ActionFailedError
from .api import Api, ApiError, UncertainError, actions_of
from .catalogue import Catalogue
from .cost import Budget, Cost
from .errors import HetznerError
from .model import KINDS, Change, Json, Observed, Resource, Snapshot, Topology
from .plan import wanted_labels


@dataclass
class Context:
    """All that a step needs. ``ids`` grows as resources are made; ``refused`` are (type, location) without capacity in this run.

    seen: what records refer to, by key, as it was read when it was made
    """

    api: Api
    topology: Topology
    found: Snapshot
    catalogue: Catalogue
    now: datetime
    cost: Cost
    budget: Budget | None = None
    server_types: Sequence[str] = ()
    locations: Sequence[str] = ()
    ids: dict[str, int] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    extra_cost: Decimal = Decimal(0)
    lock: threading.Lock = field(default_factory=threading.Lock)
    server_locks: dict[int, threading.Lock] = field(default_factory=dict)
    seen: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ids.update({key: item.id for key, item in self.found.resources.items()})
        for want in self.topology.of("ssh_key"):
            shared = self.found.shared_ssh_keys.get(want.spec["public_key"])
            if shared and want.key not in self.ids:
                self.ids[want.key] = int(shared["id"])

    def id(self, key: str) -> int:
        """The id of a resource that exists by now."""
        found = self.ids.get(key)
        if found is None:
            raise HetznerError(f"{key} is needed, and is not there", "Run it again: it is made first then.")
        return found

    def alone(self, server: int) -> threading.Lock:
        """To be held while another resource's step acts on a server: the API refuses a second action meanwhile."""
        with self.lock:
            return self.server_locks.setdefault(server, threading.Lock())


def apply(context: Context, change: Change) -> None:
    """Carry out one change of any kind but servers and addresses."""
    if change.action == "delete":
        delete(context, change)
    elif change.action == "replace":
        delete(context, change)
        create(context, wanted(change))
    elif change.action == "create":
        create(context, wanted(change))
    else:
        _UPDATERS.get(change.kind, update_plain)(context, change)


def wanted(change: Change) -> Resource:
    if change.want is None:
        raise HetznerError(f"{change.key}: {change.action} without a declaration")
    return change.want


def observed(change: Change) -> Observed:
    if change.have is None:
        raise HetznerError(f"{change.key}: {change.action} without a resource")
    return change.have


def create(context: Context, want: Resource) -> None:
    """Make it, wait for it, protect it."""
    protect(context, want, int(make(context, want)["id"]))


def make(context: Context, want: Resource) -> Json:
    """Make it as declared but for its protection, and wait for it."""
    return post(context, want, {"name": want.name, "labels": dict(want.labels), **_BODIES[want.kind](want)})


def protect(context: Context, want: Resource, ident: int) -> None:
    """Protect what was just made, if that is declared."""
    if want.spec.get("protection") and KINDS[want.kind].protectable:
        context.api.act(f"{KINDS[want.kind].url}/{ident}/actions/change_protection", {"delete": True})


def post(context: Context, want: Resource, body: Json) -> Json:
    """POST a new resource and wait for its actions; what an earlier, lost POST has made is adopted instead."""
    made, actions = post_only(context, want, body)
    wait_or_remove(context, want, int(made["id"]), actions)
    return made


def wait_or_remove(context: Context, want: Resource, ident: int, actions: list[Json]) -> None:
    """Wait for what makes a resource. What failed in the making holds nothing yet and would look finished to the next run."""
    try:
        context.api.wait(actions)
    except ActionFailedError:
        context.ids.pop(want.key, None)
        context.api.wait(actions_of(context.api.call("DELETE", f"{KINDS[want.kind].url}/{ident}")))
        raise


def post_only(context: Context, want: Resource, body: Json) -> tuple[Json, list[Json]]:
    """As ``post``, without the waiting: the new object and its actions."""
    kind = KINDS[want.kind]
    for attempt in range(5):
        try:
            answer = context.api.call("POST", kind.url, body=body)
        except ApiError as error:
            if not isinstance(error, UncertainError) and error.code != "uniqueness_error":
                raise
            # The list may lag behind the write whose answer was lost.
            time.sleep(random.uniform(0.2, 0.4) * 2**attempt)
            made = find(context, want)
            if made is not None:
                context.ids[want.key] = int(made["id"])
                return made, running_actions(context.api, want.kind, int(made["id"]))
            if attempt == 4:
                raise
            continue
        made = answer[kind.name]
        context.ids[want.key] = int(made["id"])
        return made, actions_of(answer)
    raise AssertionError("unreachable")


def find(context: Context, want: Resource) -> Json | None:
    """The project's resource of that name if it is this one; raises if it is another's.

    A public key is there once in a project, under whatever name: one that another stack has just added is used as it is.
    """
    kind = KINDS[want.kind]
    if want.kind == "ssh_key":
        for item in context.api.pages(kind.url, kind.path):
            if addresses.ssh_public_key(item["public_key"]) == want.spec["public_key"]:
                return item
    for item in context.api.pages(kind.url, kind.path, name=want.name):
        own = item.get("labels") or {}
        if own.get(labels.STACK) == context.topology.stack and own.get(labels.KEY, want.key) == want.key:
            return item
        raise HetznerError(
            f"{want.key}: id {item['id']} has this name and is not of this stack",
            "It appeared while this ran. Choose another name, or delete or rename it.",
        )
    return None


def running_actions(api: Api, kind: str, ident: int) -> list[Json]:
    """What is still at work on a resource."""
    if not KINDS[kind].actions:
        return []
    return api.pages(f"{KINDS[kind].url}/{ident}/actions", "actions", status="running")


def settle(api: Api, found: Snapshot) -> bool:
    """Wait for what an interrupted run has left at work; True if there was any, so that it has to be read again.

    What failed in the making is removed, as ``wait_or_remove`` would have done; what else failed shows in the plan.
    """
    restless = [item for item in found.resources.values() if _is_restless(item.raw)]
    for item in restless:
        try:
            api.wait(running_actions(api, item.kind, item.id))
        except ActionFailedError as error:
            if error.command == f"create_{item.kind}":
                api.wait(actions_of(api.call("DELETE", f"{KINDS[item.kind].url}/{item.id}")))
    return bool(restless)


def _is_restless(item: Json) -> bool:
    status = item.get("status")
    return (isinstance(status, str) and status in _RESTLESS) or bool(item.get("locked")) or certificates.pending(item)


_RESTLESS = frozenset({"initializing", "starting", "stopping", "migrating", "rebuilding", "creating"})


def put_name_and_labels(context: Context, change: Change) -> None:
    """Name, labels and description in one PUT, if one of them differs."""
    if change.field_names() & {"name", "labels", "description"}:
        want = wanted(change)
        body = {"name": want.name, "labels": wanted_labels(want, change.have)}
        if "description" in change.field_names():
            body["description"] = want.spec["description"]
        context.api.call("PUT", f"{KINDS[change.kind].url}/{observed(change).id}", body=body)


def update_plain(context: Context, change: Change) -> None:
    """What all kinds have: name, labels and protection."""
    put_name_and_labels(context, change)
    if "protection" in change.field_names():
        url = f"{KINDS[change.kind].url}/{observed(change).id}/actions/change_protection"
        context.api.act(url, {"delete": bool(wanted(change).spec["protection"])})


def _update_firewall(context: Context, change: Change) -> None:
    if "rules" in change.field_names():
        rules = [addresses.rule_body(rule) for rule in wanted(change).spec["rules"]]
        context.api.act(f"/firewalls/{observed(change).id}/actions/set_rules", {"rules": rules})
    put_name_and_labels(context, change)


def _update_volume(context: Context, change: Change) -> None:
    if "size" in change.field_names():
        context.api.act(f"/volumes/{observed(change).id}/actions/resize", {"size": wanted(change).spec["size"]})
    update_plain(context, change)


def _update_network(context: Context, change: Change) -> None:
    url = f"/networks/{observed(change).id}/actions"
    want, have = wanted(change).spec, observed(change).spec
    if "ip_range" in change.field_names():
        context.api.act(f"{url}/change_ip_range", {"ip_range": want["ip_range"]})
    # What goes makes room first; routes before the subnets that they lead through.
    for route in [one for one in have["routes"] if one not in want["routes"]]:
        context.api.act(f"{url}/delete_route", route)
    for subnet in [one for one in have["subnets"] if one not in want["subnets"]]:
        context.api.act(f"{url}/delete_subnet", {"ip_range": subnet["ip_range"]})
    for subnet in [one for one in want["subnets"] if one not in have["subnets"]]:
        context.api.act(f"{url}/add_subnet", subnet)
    for route in [one for one in want["routes"] if one not in have["routes"]]:
        context.api.act(f"{url}/add_route", route)
    update_plain(context, change)


_UPDATERS: dict[str, Callable[[Context, Change], None]] = {
    "firewall": _update_firewall,
    "volume": _update_volume,
    "network": _update_network,
}

_BODIES: dict[str, Callable[[Resource], Json]] = {
    "ssh_key": lambda want: {"public_key": want.extra["public_key"]},
    "placement_group": lambda want: {"type": want.spec["type"]},
    "firewall": lambda want: {"rules": [addresses.rule_body(rule) for rule in want.spec["rules"]]},
    "network": lambda want: {key: want.spec[key] for key in ("ip_range", "subnets", "routes")},
    "zone": zones.body,
    "primary_ip": lambda want: {
        "type": want.spec["type"],
        "location": want.spec["location"],
        "assignee_type": "unassigned",
        "auto_delete": False,
    },
    "floating_ip": lambda want: {
        "type": want.spec["type"],
        "home_location": want.spec["home_location"],
        **({"description": want.spec["description"]} if want.spec["description"] else {}),
    },
    "volume": lambda want: {
        "size": want.spec["size"],
        "location": want.spec["location"],
        **({"format": want.spec["format"]} if want.spec["format"] else {}),
    },
}


def delete(context: Context, change: Change) -> None:
    """Lift the protection (it was permitted), release, delete; done also when it is already gone."""
    have = observed(change)
    url = f"{KINDS[have.kind].url}/{have.id}"
    if have.protected:
        body = {"delete": False, "rebuild": False} if have.kind == "server" else {"delete": False}
        context.api.act(f"{url}/actions/change_protection", body)
    if have.kind == "volume" and context.api.get(url)["volume"].get("server"):
        context.api.act(f"{url}/actions/detach", done=("volume_not_attached",))
    started = time.monotonic()
    attempt = 0
    while True:
        try:
            context.api.wait(actions_of(context.api.call("DELETE", url)))
            break
        except ApiError as error:
            if error.code == "not_found":
                break
            # Released by a server's deletion a moment ago: the API needs its time to notice.
            if error.code not in ("resource_in_use", "must_be_unassigned") or time.monotonic() - started > 60:
                raise
            time.sleep(random.uniform(0.5, 1.0) * min(4, 1 + attempt))
            attempt += 1
    with context.lock:
        context.ids.pop(have.key, None)
