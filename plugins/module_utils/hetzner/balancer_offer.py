# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Load balancers held against what can be ordered: types, their limits, locations and network zones. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import datetime

from .balancers import certificates_of
from .catalogue import Catalogue
from .model import Change, Json, Resource, Topology
from .schema import Problems


def check(topology: Topology, changes: Sequence[Change], catalogue: Catalogue, now: datetime) -> None:
    """Refuse what the API would refuse after half the work is done. Raises HetznerError."""
    problems = Problems()
    for change in changes:
        want = change.want
        if want is None or want.kind != "load_balancer":
            continue
        making = change.action in ("create", "replace")
        if making and not _check_place(want, catalogue, problems):
            continue
        location = want.spec["location"] or (change.have.spec["location"] if change.have and not making else None)
        if making or "type" in change.field_names():
            _check_type(want, location, catalogue, now, problems)
        _check_limits(want, catalogue, now, problems)
        _check_zone(want, location, topology, catalogue, problems)
    problems.raise_if_any("The topology asks for what cannot be ordered", "Choose one of the alternatives named; nothing was changed.")


def _check_place(want: Resource, catalogue: Catalogue, problems: Problems) -> bool:
    location, zone = want.spec["location"], want.spec["network_zone"]
    if location and location not in catalogue.zones:
        problems.add(f"{want.path}.location", f"{location!r} is not a location; there are {', '.join(sorted(catalogue.zones))}")
        return False
    if zone and zone not in catalogue.zones.values():
        problems.add(f"{want.path}.network_zone", f"{zone!r} has no location; there are {', '.join(sorted(set(catalogue.zones.values())))}")
        return False
    return True


def orderable(kind: Json, location: str | None, now: datetime) -> bool:
    """Whether a type is still sold, and has a price in this location (None: anywhere)."""
    end = (kind.get("deprecation") or {}).get("unavailable_after")
    if end and datetime.fromisoformat(end) <= now:
        return False
    return location is None or any(price["location"] == location for price in kind["prices"])


def _check_type(want: Resource, location: str | None, catalogue: Catalogue, now: datetime, problems: Problems) -> None:
    name = want.spec["type"]
    kind = catalogue.balancers.get(name)
    if kind is not None and orderable(kind, location, now):
        return
    current = [one for one, other in catalogue.balancers.items() if orderable(other, location, now)]
    where = f" in {location}" if location else ""
    there = ", ".join(difflib.get_close_matches(name, current, n=3, cutoff=0.9) or current) or "none"
    problem = "is not a load balancer type" if kind is None else f"cannot be ordered{where}"
    problems.add(f"{want.path}.type", f"{name!r} {problem}; there are {there}")


def _check_limits(want: Resource, catalogue: Catalogue, now: datetime, problems: Problems) -> None:
    kind = catalogue.balancers.get(want.spec["type"])
    if kind is None:
        return
    needs = {
        "max_services": ("services", len(want.spec["services"])),
        "max_targets": ("targets", len(want.spec["targets"])),
        "max_assigned_certificates": ("services", len(certificates_of(want.spec["services"]))),
    }
    fitting = [
        name
        for name, one in catalogue.balancers.items()
        if orderable(one, None, now) and all(n <= one[key] for key, (_s, n) in needs.items())
    ]
    for key, (section, number) in needs.items():
        if number > kind[key]:
            what = "certificates" if key == "max_assigned_certificates" else section
            others = f"take {', '.join(fitting)}" if fitting else "divide them over several load balancers"
            problems.add(f"{want.path}.{section}", f"{number} {what} are declared, a {kind['name']} takes {kind[key]}: {others}")


def _check_zone(want: Resource, location: str | None, topology: Topology, catalogue: Catalogue, problems: Problems) -> None:
    """Its network and its servers have to be in its own network zone."""
    zone = want.spec["network_zone"] or catalogue.zones.get(location or "")
    if zone is None:
        return
    network = topology.resources.get(f"network.{want.spec['network']}")
    zones = sorted({subnet["network_zone"] for subnet in network.spec["subnets"]}) if network else [zone]
    if zone not in zones:
        problems.add(
            f"{want.path}.network", f"{want.spec['network']!r} has subnets in {', '.join(zones)} only, the load balancer is in {zone}"
        )
    for target in want.spec["targets"]:
        server = topology.resources.get(f"server.{target['target']}") if target["type"] == "server" else None
        there = catalogue.zones.get(str(server.spec["location"])) if server else None
        if there is not None and there != zone:
            problems.add(f"{want.path}.targets", f"server {target['target']!r} is in zone {there}, the load balancer is in {zone}")
