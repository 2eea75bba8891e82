# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writing load balancers and their certificates.

A load balancer has one writer, as the API refuses a second action meanwhile. Made or changed, it is always brought from what it is now to what is
declared: so a run that was interrupted goes on, and one whose answer was lost does nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import balancers, labels, reverse, services, writes
from .model import Change, Json, Observed, Resource
from .writes import Context, observed, wanted


def apply_certificate(context: Context, change: Change) -> None:
    """Carry out one change of a certificate."""
    fields = change.field_names()
    if change.action == "delete":
        writes.delete(context, change)
    elif change.action == "create":
        _make_certificate(context, wanted(change))
    elif fields & {"type", "fingerprint", "domain_names"}:
        _set_aside(context, observed(change))
        _make_certificate(context, wanted(change))
    else:
        if "issuance" in fields:
            context.api.act(f"/certificates/{observed(change).id}/actions/retry", done=("unsupported_error",))
        writes.update_plain(context, change)


def _make_certificate(context: Context, want: Resource) -> None:
    body: Json = {"name": want.name, "labels": dict(want.labels), "type": want.spec["type"]}
    if want.spec["type"] == "managed":
        body["domain_names"] = want.spec["domain_names"]
    else:
        body |= {"certificate": want.extra["certificate"], "private_key": want.extra["private_key"]}
    writes.post(context, want, body)


def _set_aside(context: Context, have: Observed) -> None:
    """Its name and key become free; both stay within what a label holds."""
    name = f"{have.name[:30].rstrip('._-')}.{have.id}"
    own = {**have.labels, labels.KEY: f"certificate.{name}", labels.RETIRED: "true"}
    context.api.call("PUT", f"/certificates/{have.id}", body={"name": name, "labels": own})
    with context.lock:
        context.ids.pop(have.key, None)


def apply(context: Context, change: Change) -> None:
    """Carry out one change of a load balancer."""
    if change.action in ("delete", "replace"):
        writes.delete(context, change)
    if change.action in ("create", "replace"):
        _bring(context, wanted(change), _make(context, wanted(change)))
        writes.protect(context, wanted(change), context.id(change.key))
    elif change.action == "update":
        _bring(context, wanted(change), observed(change).id)
        writes.update_plain(context, change)


def _make(context: Context, want: Resource) -> int:
    """Empty: its network has to come before its targets."""
    spec = want.spec
    place = {"location": spec["location"]} if spec["location"] else {"network_zone": spec["network_zone"]}
    body: Json = {
        "name": want.name,
        "labels": dict(want.labels),
        "load_balancer_type": spec["type"],
        "algorithm": {"type": spec["algorithm"]},
    }
    return int(writes.post(context, want, body | place)["id"])


def _bring(context: Context, want: Resource, ident: int) -> None:
    """From what it is to what is declared. A larger type comes first, a smaller one last; the public side goes when no target needs it."""
    spec, item = want.spec, _now(context, ident)
    larger = _targets_of_type(context, spec["type"]) >= item["load_balancer_type"]["max_targets"]
    if larger:
        _type(context, spec, item)
    if spec["public_interface"] and not item["public_net"]["enabled"]:
        _act(context, ident, "enable_public_interface")
    _network(context, want, item)
    _targets(context, want, _now(context, ident))
    if not spec["public_interface"] and item["public_net"]["enabled"]:
        _act(context, ident, "disable_public_interface")
    _services(context, want, item)
    if not larger:
        _type(context, spec, item)
    if item["algorithm"]["type"] != spec["algorithm"]:
        _act(context, ident, "change_algorithm", {"type": spec["algorithm"]})
    have = balancers.read(item, {})[0]["dns_ptr"]
    for family, name in (spec["dns_ptr"] or {}).items():
        if not reverse.same(have[family], name):
            _act(context, ident, "change_dns_ptr", {"ip": item["public_net"][family]["ip"], "dns_ptr": name or None})


def _now(context: Context, ident: int) -> Json:
    item: Json = context.api.get(f"/load_balancers/{ident}")["load_balancer"]
    return item


def _act(context: Context, ident: int, name: str, body: Json | None = None, done: tuple[str, ...] = ()) -> None:
    context.api.act(f"/load_balancers/{ident}/actions/{name}", body, done=done)


def _targets_of_type(context: Context, name: str) -> int:
    kind = context.catalogue.balancers.get(name)
    return int(kind["max_targets"]) if kind else 0


def _type(context: Context, spec: Mapping[str, Any], item: Json) -> None:
    name = spec["type"]
    if item["load_balancer_type"]["name"] != name:
        # After an answer that was lost it is refused: it has this type already. What does not fit was refused before the first write.
        _act(context, item["id"], "change_type", {"load_balancer_type": name}, ("invalid_load_balancer_type",))


def _network(context: Context, want: Resource, item: Json) -> None:
    """Into its network, at its address. On the way to another, private targets are taken out first and come back there."""
    name, ip = want.spec["network"], want.spec["private_ip"]
    wish = context.id(f"network.{name}") if name else None
    here = next(iter(item["private_net"]), None)
    if here is not None and (here["network"] != wish or (ip and here["ip"] != ip)):
        # Without its network it has to have a public side for a moment.
        if not item["public_net"]["enabled"]:
            _act(context, item["id"], "enable_public_interface")
            item["public_net"]["enabled"] = True
        for target in item["targets"]:
            if target.get("use_private_ip"):
                _remove(context, item["id"], target)
        _act(context, item["id"], "detach_from_network", {"network": here["network"]}, ("load_balancer_not_attached_to_network",))
        here = None
    if here is None and wish is not None:
        body: Json = {"network": wish} | ({"ip": ip} if ip else {})
        _act(context, item["id"], "attach_to_network", body, ("load_balancer_already_attached",))


def _identity(target: Json) -> Json:
    """What names a target to the API."""
    kind = target["type"]
    inner = {"id": target["server"]["id"]} if kind == "server" else dict(target[kind])
    return {"type": kind, kind: inner}


def _remove(context: Context, ident: int, target: Json) -> None:
    _act(context, ident, "remove_target", _identity(target), ("not_found", "load_balancer_target_not_found"))


def _targets(context: Context, want: Resource, item: Json) -> None:
    """New ones come before old ones go, so that there is always one, unless there is no room for both."""
    kinds = {"server": "id", "label_selector": "selector", "ip": "ip"}
    wished: list[Json] = []
    for one in want.spec["targets"]:
        value = context.id(f"server.{one['target']}") if one["type"] == "server" else one["target"]
        private = {} if one["type"] == "ip" else {"use_private_ip": one["use_private_ip"]}
        wished.append({"type": one["type"], one["type"]: {kinds[one["type"]]: value}, **private})

    def same(one: Json, other: Json) -> bool:
        return _identity(one) == _identity(other)

    def equal(one: Json, other: Json) -> bool:
        return same(one, other) and bool(one.get("use_private_ip")) == bool(other.get("use_private_ip"))

    fresh = [one for one in wished if not any(equal(one, other) for other in item["targets"])]
    gone = [one for one in item["targets"] if not any(equal(one, other) for other in wished)]
    room = item["load_balancer_type"]["max_targets"] - len(item["targets"])
    for target in list(gone):
        # One that only changes sides has to be out before it can come in.
        if any(same(target, other) for other in fresh) or len(fresh) > room:
            _remove(context, item["id"], target)
            gone.remove(target)
    for target in fresh:
        _act(context, item["id"], "add_target", target, ("target_already_defined",))
    for target in gone:
        _remove(context, item["id"], target)


def _services(context: Context, want: Resource, item: Json) -> None:
    """What goes makes room, then what gives up its redirect, then the rest."""
    ids = {name: context.id(f"certificate.{name}") for name in balancers.certificates_of(want.spec["services"])}
    # Of certificates only the ids tell: one that was made anew has the name of the old one.
    names = {ident: name for name, ident in ids.items()}
    have = services.read(item["services"], names)
    for port in sorted(set(have) - set(want.spec["services"]), key=int):
        _act(context, item["id"], "delete_service", {"listen_port": int(port)}, ("not_found",))
    changed = [port for port, service in want.spec["services"].items() if port in have and have[port] != service]
    changed.sort(key=lambda port: bool((want.spec["services"][port]["http"] or {}).get("redirect_http")))
    for port in changed:
        _act(context, item["id"], "update_service", services.body(want.spec["services"][port], ids))
    for port, service in want.spec["services"].items():
        if port not in have:
            _act(context, item["id"], "add_service", services.body(service, ids), ("source_port_already_used",))
