# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What differs between a declaration and what is there, and what that takes. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from . import balancers, certificates, labels, records, reverse
from .model import RANK, Change, FieldChange, Observed, Resource, Snapshot, Topology
from .schema import Problems

HOLDS_DATA = ("server", "volume", "primary_ip", "floating_ip")

# What a difference in a field takes. A field that is not listed is changed in place.
_HOW: dict[str, dict[str, str]] = {
    "ssh_key": {"public_key": "replace"},
    "placement_group": {"type": "replace"},
    "primary_ip": {"type": "replace", "location": "replace"},
    "floating_ip": {"type": "replace", "home_location": "replace"},
    "zone": {"mode": "replace"},
    "load_balancer": {"location": "replace", "network_zone": "replace"},
    "volume": {"format": "replace", "location": "replace"},
    "server": {
        "type": "power_off",
        "placement_group": "power_off",
        "public_ipv4": "power_off",
        "public_ipv6": "power_off",
        "image": "replace",
        "location": "replace",
        "user_data": "replace",
    },
}
_NOTES = {
    ("server", "type"): "the new type is billed at today's list price, also where the old one was ordered at a lower price",
    ("server", "image"): "the server's disk is lost",
    ("server", "location"): "the server's disk is lost",
    ("server", "user_data"): "user data is read at the first boot only; the server's disk is lost",
    ("volume", "format"): "the volume's data is lost",
    ("volume", "location"): "the volume's data is lost",
    ("primary_ip", "type"): "the address is lost",
    ("primary_ip", "location"): "the address is lost",
    ("floating_ip", "type"): "the address is lost",
    ("floating_ip", "home_location"): "the address is lost",
    ("zone", "mode"): "all its records are lost, and until those that are declared are made again it answers nothing",
    ("certificate", "type"): certificates.NOTE,
    ("certificate", "fingerprint"): certificates.NOTE,
    ("certificate", "domain_names"): certificates.NOTE,
    ("load_balancer", "location"): "its addresses are lost",
    ("load_balancer", "network_zone"): "its addresses are lost",
    ("load_balancer", "network"): "its private targets are out of reach on the way",
    ("load_balancer", "private_ip"): "its private targets are out of reach on the way",
    ("network", "subnets"): "a subnet goes only when no server is in it",
}


def plan(topology: Topology, found: Snapshot, prune: bool = False) -> list[Change]:
    """All changes in the order of creation, deletions last and in reverse. With ``prune`` also what is no longer declared."""
    by_key: dict[str, Change] = {}
    lost: set[str] = set()
    for want in topology.resources.values():
        change = _change(records.resolved(want, topology, found, by_key) if want.kind == "rrset" else want, found, lost)
        if change is not None:
            by_key[change.key] = change
        if change is not None and change.action == "replace":
            lost.add(change.key)
    changes = [*by_key.values(), *records.surplus(topology, found, lost)]
    changes += removals(certificates.superseded(topology, found, prune), "superseded")
    if prune:
        changes += removals(orphans(topology, found), "no longer declared")
    return changes


def orphans(topology: Topology, found: Snapshot) -> list[Observed]:
    """What carries the stack's label and is not declared. A declared key found elsewhere in the project is not ours to hold twice."""
    gone = {change.key for change in records.surplus(topology, found)}
    items = [item for key, item in found.resources.items() if key not in topology.resources and key not in gone]
    # What is in a zone that is not declared either goes, or stays, with it.
    items = [item for item in items if item.kind != "rrset" or records.zone_of(item.name) in topology.resources]
    return [item for item in items if not certificates.retired(item)]


def removals(items: Iterable[Observed], reason: str) -> list[Change]:
    """Deletions in the reverse order of creation. A zone takes its records with it; those that are protected are told."""
    given = list(items)
    keys = {item.key for item in given}
    left = [item for item in given if item.kind != "rrset" or item.protected or records.zone_of(item.name) not in keys]
    ordered = sorted(left, key=lambda item: (-RANK[item.kind], item.name))
    return [Change("delete", item.kind, item.name, item.key, reason + records.told_with(item), have=item) for item in ordered]


def _change(want: Resource, found: Snapshot, lost: Collection[str]) -> Change | None:
    """lost: keys of what comes before it in the order of creation and will be replaced."""
    have = found.resources.get(want.key) or found.strangers.get(want.key)
    if want.kind == "rrset" and records.zone_of(want.name) in lost:
        have = None
    if have is None:
        if want.kind == "ssh_key" and want.spec["public_key"] in found.shared_ssh_keys:
            return None  # A project holds each public key once: another's is used as it is, and stays another's.
        return Change("create", want.kind, want.name, want.key, "declared, and not there", want=want)
    fields = tuple(differences(want, have))
    if want.kind == "floating_ip" and f"server.{want.spec['server']}" in lost and have.spec["server"] == want.spec["server"]:
        fields += (FieldChange("server", None, want.spec["server"], "in_place", "its server is replaced, which releases it"),)
    if want.kind == "load_balancer" and "targets" not in {item.field for item in fields}:
        fields += tuple(balancers.released(want, have, lost))
    if not fields:
        return None
    fixed = [item.field for item in fields if item.how == "replace"]
    if fixed:
        return Change("replace", want.kind, want.name, want.key, f"{', '.join(fixed)} cannot change in place", fields, want, have)
    off = [item.field for item in fields if item.how == "power_off"]
    reason = f"{', '.join(off)} can change only while it is powered off" if off else "differs from its declaration"
    if want.key in found.strangers:
        reason = "declared, and there already, made by another hand"
    return Change("update", want.kind, want.name, want.key, reason, fields, want, have)


def differences(want: Resource, have: Observed) -> list[FieldChange]:
    """The fields that differ, with what each takes."""
    result: list[FieldChange] = []
    placed = want.kind == "server" and have.labels.get(labels.PLACED_FOR) == placed_label(want)
    if want.name != have.name:
        result.append(FieldChange("name", have.name, want.name, "in_place"))
    for field, after in want.spec.items():
        before = have.spec.get(field)
        # Chosen when capacity was out for exactly this declaration. A type for requirements is judged by what it has.
        if placed and (field == "location" or (field == "type" and "requirements" not in want.extra)):
            continue
        if field == "networks":
            attached: Mapping[str, Any] = before or {}
            after = {name: ip or attached.get(name) for name, ip in after.items()}
        if field in ("format", "protection", "description", "dns_ptr") and after is None:
            continue  # not declared: left as it is
        if want.kind == "zone" and field == "ttl" and after is None:
            continue
        if field == "comments":
            before = {value: (before or {}).get(value, "") for value in after}
        if field == "home_location" and not want.extra.get("home_location"):
            continue  # where it was made follows from its server at that time; it need not follow it elsewhere
        if field == "dns_ptr" and want.kind != "load_balancer":
            before, after = reverse.differences(after, have.raw)
        if field == "user_data" and not before and not after:
            continue
        if want.kind == "load_balancer":
            before, after = balancers.compared(field, want, have)
        if before != after:
            result.append(_field(want, have, field, before, after))
    again = certificates.failed(have) if want.kind == "certificate" else None
    if again is not None:
        result.append(again)
    own = wanted_labels(want, have)
    if own != have.labels:
        if labels.UNFINISHED in have.labels:
            result.append(
                FieldChange("start", have.raw.get("status"), "running", "in_place", "an earlier run was interrupted before the first boot")
            )
        result.append(FieldChange("labels", dict(sorted(have.labels.items())), dict(sorted(own.items())), "in_place"))
    return result


def wanted_labels(want: Resource, have: Observed | None) -> dict[str, str]:
    """The declared labels, and the memory of a placement as long as it stands for this declaration."""
    own = dict(want.labels)
    placed = have.labels.get(labels.PLACED_FOR) if have else None
    if placed and want.kind == "server" and placed == placed_label(want):
        own[labels.PLACED_FOR] = placed
    return own


def placed_label(want: Resource) -> str:
    """How a server's label remembers its declaration when it went elsewhere.

    Of requirements only the place counts: a server that meets them stays where it is, also after they have changed.
    """
    return labels.placed_for(labels.REQUIREMENTS if "requirements" in want.extra else str(want.spec["type"]), str(want.spec["location"]))


def _field(want: Resource, have: Observed, field: str, before: Any, after: Any) -> FieldChange:
    how = _HOW.get(want.kind, {}).get(field, "in_place")
    note = _NOTES.get((want.kind, field), "")
    choice = want.extra.get("choice") if field == "type" else None
    if choice is not None:
        how, note = choice.how or how, "; ".join(part for part in (choice.note, note if choice.how == "power_off" else "") if part)
    if want.kind == "volume" and field == "size" and after < before:
        how, note = "refused", "a volume cannot shrink: make a smaller one under a new name and copy"
    if want.kind == "network" and field == "ip_range" and not _contains(after, before):
        how, note = "refused", "a network's range can only grow: make a new network under a new name and move the servers"
    if want.kind == "floating_ip" and field == "server" and before:
        note = "connections through it break"
    if field == "networks":
        moved = sorted(name for name, ip in after.items() if name in before and before[name] != ip)
        note = f"{', '.join(moved)}: the private address changes, connections through it break" if moved else ""
    return FieldChange(field, before, after, how, note)


def _contains(outer: str, inner: str) -> bool:
    return ipaddress.IPv4Network(inner, strict=False).subnet_of(ipaddress.IPv4Network(outer, strict=False))


def check_switches(changes: Iterable[Change], *, allow_replace: bool, allow_power_off: bool, allow_destroy_protected: bool) -> None:
    """Refuse what loses data or interrupts a service unless its switch is set, and what cannot be done at all."""
    problems = Problems()
    for change in changes:
        path = change.want.path if change.want else change.key
        for item in change.fields:
            # Of a type that is chosen, the declaration only has the requirements.
            choice = change.want.extra.get("choice") if change.want and item.field == "type" else None
            where = f"{path}.{'requirements' if choice else item.field}"
            why = f" ({choice.note})" if choice and choice.note else ""
            told = f"{_short(item.before)} -> {_short(item.after)}"
            if item.how == "refused":
                problems.add(where, f"{told}: {item.note}")
            elif item.how == "replace" and not allow_replace:
                problems.add(
                    where, f"{told} would replace {change.key}{f' ({item.note})' if item.note else ''}; allow_replace: true permits it"
                )
            elif item.how == "power_off" and not allow_power_off and (change.have and change.have.raw.get("status") != "off"):
                problems.add(where, f"{told} needs {change.key} powered off{why}; allow_power_off: true permits it")
        if change.have is None or not change.have.protected or allow_destroy_protected:
            continue
        if change.action in ("delete", "replace"):
            problems.add(change.key, "is protected against deletion; allow_destroy_protected: true lifts the protection and deletes it")
        elif (
            change.kind == "rrset"
            and change.field_names() != {"protection"}
            and (change.want and change.want.spec["protection"] is not False)
        ):
            problems.add(
                path,
                f"{change.key} is protected against changes; allow_destroy_protected: true lifts the protection for this one, "
                "protection: false for good",
            )
    problems.raise_if_any(
        "The plan holds steps that are not permitted", "Correct the topology or set the switch named; nothing was changed."
    )


def check_duplicates(found: Snapshot) -> None:
    """Two resources with one identity: which is the right one cannot be known here."""
    problems = Problems()
    for text in found.duplicates:
        problems.add(text.partition(":")[0], f"two resources carry this identity ({text.partition(': ')[2]})")
    problems.raise_if_any("The stack is ambiguous", "Delete the wrong one, or take its cutover.* labels away; nothing was changed.")


def check_foreign(strangers: Mapping[str, Mapping[str, Any]]) -> None:
    """Another's resource has the name that is needed."""
    problems = Problems()
    for key, item in strangers.items():
        owner = (item.get("labels") or {}).get(labels.STACK)
        problems.add(
            key, f"id {item['id']} has this name and " + (f"belongs to the stack {owner!r}" if owner else "does not belong to any stack")
        )
    problems.raise_if_any(
        "Names are taken by resources that are not of this stack, and those are never touched",
        "Choose other names, delete or rename those resources, or hand them over by giving them the labels "
        "cutover.stack=<name> and cutover.key=<kind>.<name>; nothing was changed.",
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
