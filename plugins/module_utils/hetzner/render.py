# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A plan for people: a short table, and before/after texts for diff mode. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .cost import Cost
from .model import Change, Observed, Resource

_SIGNS = {"create": "+", "update": "~", "replace": "-/+", "delete": "-"}
_QUIET: dict[str, Any] = {
    "networks": {},
    "firewalls": [],
    "volumes": [],
    "placement_group": None,
    "user_data": "",
    "backups": False,
    "protection": None,
    "routes": [],
    "format": None,
    "server": None,
    "description": None,
    "dns_ptr": None,
    "ttl": None,
    "comments": {},
    "primary_nameservers": [],
}


def plan_text(stack: str, changes: Sequence[Change], cost: Cost | None, left: Iterable[Observed] = ()) -> str:
    """The plan as lines: one per resource, one per field, the cost positions that change, and both sums."""
    if not changes:
        lines = [f"Stack {stack}: nothing to do."]
    else:
        counts = {action: sum(change.action == action for change in changes) for action in _SIGNS}
        told = ", ".join(f"{count} to {action}" for action, count in counts.items() if count)
        lines = [f"Stack {stack}: {told}."]
    for change in changes:
        lines.append(f"{_SIGNS[change.action]:>3} {change.key}{_summary(change)}")
        for item in change.fields:
            note = f"  ({item.note})" if item.note else ""
            mark = {"power_off": "  [power off]", "replace": "  [replace]", "refused": "  [not possible]"}.get(item.how, "")
            lines += [f"        {line}{mark}{note}" for line in _field_lines(item.field, item.before, item.after)]
    orphans = sorted(item.key for item in left)
    if orphans:
        lines.append(f"    no longer declared, kept: {', '.join(orphans)} (prune: true deletes them)")
    return "\n".join(lines + _cost_lines(cost)) + "\n"


def _summary(change: Change) -> str:
    if change.action == "delete":
        return f"  ({change.reason})"
    if change.action != "create" or change.want is None:
        return f"  ({change.reason})"
    spec = change.want.spec
    if change.kind == "network":
        return f"  {spec['ip_range']}, subnets {', '.join(str(one['ip_range']) for one in spec['subnets']) or 'none'}"
    if change.kind == "firewall":
        return f"  {len(spec['rules'])} rules"
    if change.kind == "volume":
        return f"  {spec['size']} GB {spec['format'] or 'unformatted'} in {spec['location']}"
    if change.kind == "server":
        nets = ", ".join(f"{name} {ip or '(any address)'}" for name, ip in spec["networks"].items())
        by = " (by requirements)" if "requirements" in change.want.extra else ""
        return f"  {spec['type']}{by} {spec['image']} in {spec['location']}{'; ' + nets if nets else ''}"
    if change.kind == "primary_ip":
        return f"  {spec['type']} in {spec['location']}"
    if change.kind == "certificate":
        return f"  {spec['type']}{' for ' + ', '.join(spec['domain_names']) if spec['domain_names'] else ''}"
    if change.kind == "load_balancer":
        told = f"ports {', '.join(spec['services']) or 'none'}; {len(spec['targets'])} targets"
        return f"  {spec['type']} in {spec['location'] or spec['network_zone']}; {told}"
    if change.kind == "floating_ip":
        return f"  {spec['type']} in {spec['home_location']}{', on ' + spec['server'] if spec['server'] else ''}"
    if change.kind == "zone":
        return f"  {spec['mode']}{', exclusive' if change.want.extra['exclusive'] else ''}"
    if change.kind == "rrset":
        return f"  {_cut(', '.join(spec['values']))}{' for ' + str(spec['ttl']) + ' s' if spec['ttl'] else ''}"
    return ""


def _cut(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."


def _field_lines(field: str, before: Any, after: Any) -> list[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        return [f"{field}.{key}: {_text(before.get(key))} -> {_text(after.get(key))}" for key in changed]
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        return [f"{field}: - {_text(item)}" for item in before if item not in after] + [
            f"{field}: + {_text(item)}" for item in after if item not in before
        ]
    return [f"{field}: {_text(before)} -> {_text(after)}"]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(_text(one) for one in value.values() if one not in (None, "", []))
    if isinstance(value, (list, tuple)):
        return ",".join(_text(one) for one in value)
    if value is None or value == "":
        return "(none)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _cost_lines(cost: Cost | None) -> list[str]:
    if cost is None:
        return []
    lines = []
    for entry in cost.as_dict()["lines"]:
        if entry["before"] != entry["after"]:
            quantity = f" x {entry['quantity']:g} {entry['unit']}" if entry["quantity"] != 1 else ""
            lines.append(f"    {entry['resource']:<28} {entry['item'] + quantity:<34} {entry['before']:>9.2f} -> {entry['after']:>9.2f}")
    return [
        f"Cost a month, net, {cost.currency}, without traffic:",
        *lines,
        f"    {'total':<63} {cost.before[0]:>9.2f} -> {cost.after[0]:>9.2f}",
    ]


def diff(stack: str, changes: Sequence[Change]) -> dict[str, str]:
    """Ansible's diff of a plan: every changed resource as text, before and after."""
    before: list[str] = []
    after: list[str] = []
    for change in changes:
        whole = change.action in ("create", "delete")
        if change.have is not None:
            before += _block(change.have, None if whole else {item.field: item.before for item in change.fields})
        if change.want is not None:
            after += _block(change.want, None if whole else {item.field: item.after for item in change.fields})
    header = f"stack {stack}"
    return {"before_header": header, "after_header": header, "before": "\n".join(before) + "\n", "after": "\n".join(after) + "\n"}


def _block(item: Resource | Observed, fields: Mapping[str, Any] | None) -> list[str]:
    """All of a resource, or these fields of it."""
    values: Mapping[str, Any] = {**item.spec, "labels": dict(sorted(item.labels.items()))} if fields is None else fields
    lines = [f"{item.key}:"]
    for key, value in values.items():
        if fields is None and key in _QUIET and value == _QUIET[key]:
            continue
        if isinstance(value, (list, tuple)) and value:
            lines += [f"  {key}:"] + [f"    - {_text(one)}" for one in value]
        elif isinstance(value, Mapping) and value:
            lines += [f"  {key}:"] + [f"    {name}: {_text(one)}" for name, one in value.items()]
        else:
            lines.append(f"  {key}: {_text(value)}")
    return lines
