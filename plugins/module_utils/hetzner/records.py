# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Record sets: what is there, what the addresses they refer to will be, and what goes without being declared. Pure.

A set is known by its zone, name and type; of the stack's labels it carries the first. The SOA and NS sets of a zone itself are never seen here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from . import labels, rdata, references
from .model import Change, Json, Observed, Resource, Snapshot, Topology
from .schema import Problems


def zone_of(name: str) -> str:
    """Key of the zone of a set: of "example.org/www/A", "zone.example.org"."""
    return f"zone.{name.split('/')[0]}"


def observed(zone: Observed, items: Iterable[Json], owners: Mapping[str, Collection[str]]) -> list[Observed]:
    """The sets of a zone. owners: keys of ours by address; who is pointed to is written to after the set has let go of it."""
    return [_observed(zone, item, owners) for item in items if item["name"] != "@" or item["type"] not in ("SOA", "NS")]


def _observed(zone: Observed, item: Json, owners: Mapping[str, Collection[str]]) -> Observed:
    kind, name = item["type"], f"{zone.name}/{item['name']}/{item['type']}"
    comments = {rdata.observed(kind, one["value"], zone.name): one.get("comment") or "" for one in item["records"]}
    users = sorted({key for value in comments for key in owners.get(value, ())}) if kind in rdata.ADDRESSES else []
    protected = bool((item.get("protection") or {}).get("change"))
    return Observed(
        kind="rrset",
        name=name,
        id=zone.id,
        key=f"rrset.{name}",
        spec={
            "ttl": item.get("ttl"),
            "values": sorted(comments),
            "comments": {value: text for value, text in sorted(comments.items()) if text},
            "protection": protected,
        },
        labels=dict(item.get("labels") or {}),
        protected=protected,
        refs=(zone.key, *users),
        raw=item,
    )


def is_ours(item: Observed, stack: str) -> bool:
    return item.labels.get(labels.STACK) == stack


def resolved(want: Resource, topology: Topology, found: Snapshot, changes: Mapping[str, Change]) -> Resource:
    """With the addresses it refers to as values; what nobody can know yet is told in words, and kept in ``extra["open"]``.

    changes: of all that comes before it in the order of creation, by key.
    """
    values: dict[str, str | None] = dict(want.extra["plain"])
    unknown: dict[references.Reference, str | None] = {}
    for reference, comment in want.extra["references"].items():
        address = references.known(reference, topology, found, changes)
        if address is None:
            unknown[reference] = comment
        else:
            values[address] = values.get(address) or comment
    spec = {
        **want.spec,
        "values": sorted(values) + sorted(map(str, unknown)),
        "comments": {value: comment for value, comment in sorted(values.items()) if comment is not None},
    }
    return dataclasses.replace(want, spec=spec, extra={**want.extra, "known": values, "open": unknown})


def surplus(topology: Topology, found: Snapshot, lost: Collection[str] = ()) -> list[Change]:
    """Sets that go though prune may be off: undeclared ones of exclusive zones, and ours that a declared CNAME or its name leaves no room.

    lost: keys of zones that will be replaced, with all they hold.
    """
    gone: list[Change] = []
    for item in _sets(found):
        zone = topology.resources.get(zone_of(item.name))
        if item.key in topology.resources or zone is None or zone.key in lost:
            continue
        if zone.extra["exclusive"]:
            gone.append(_removal(item, "not declared, and its zone is exclusive"))
        elif item.key in found.resources and (other := _rival(item, topology)):
            gone.append(_removal(item, f"no longer declared, and {other} takes its name: a CNAME stands alone"))
    return sorted(gone, key=lambda change: change.key)


def _removal(item: Observed, reason: str) -> Change:
    return Change("delete", item.kind, item.name, item.key, reason, have=item)


def _sets(found: Snapshot) -> Iterable[Observed]:
    return [item for item in (*found.resources.values(), *found.strangers.values()) if item.kind == "rrset"]


def _rival(item: Observed, topology: Topology) -> str | None:
    """The declared set that cannot stand beside it."""
    place, _unused, kind = item.name.rpartition("/")
    names = ["CNAME"] if kind != "CNAME" else [one for one in rdata.TYPES if one != "CNAME"]
    return next((key for one in names if (key := f"rrset.{place}/{one}") in topology.resources), None)


def told_with(item: Observed) -> str:
    """What goes with a zone, whoever made it: all records but the SOA and NS of the zone itself."""
    count = int(item.raw.get("record_count") or 0) - len((item.raw.get("authoritative_nameservers") or {}).get("assigned") or []) - 1
    return f"; its {count} records go with it" if item.kind == "zone" and count > 0 else ""


def check(topology: Topology, found: Snapshot, changes: Iterable[Change]) -> None:
    """Refuse what the API would: a CNAME beside sets of another hand that stay."""
    problems = Problems()
    lost = {change.key for change in changes if change.action in ("delete", "replace")}
    for item in found.strangers.values():
        rival = _rival(item, topology)
        if rival and item.key not in topology.resources and not lost & {item.key, zone_of(item.name)}:
            problems.add(
                topology.resources[rival].path,
                f"{item.name} is there, made by another hand, and a CNAME stands alone: delete it, or say exclusive: true for the zone",
            )
    problems.raise_if_any("Records cannot be made", "Correct these records; nothing was changed.")
