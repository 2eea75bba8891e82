# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can be ordered: types, locations, images, prices, from the API's own lists; and the check of a plan against it.

Pure: built from JSON, asked by functions. Time is given, never read.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from .errors import HetznerError
from .model import Change, Json, Resource, Topology
from .schema import Problems

# Sizes (cores, GB of memory) of types that the API no longer lists, to name today's type of the same size.
RETIRED = {
    "cx11": (1, 2), "cx21": (2, 4), "cx31": (2, 8), "cx41": (4, 16), "cx51": (8, 32),
    "cx22": (2, 4), "cx32": (4, 8), "cx42": (8, 16), "cx52": (16, 32),
    "ccx11": (2, 8), "ccx21": (4, 16), "ccx31": (8, 32), "ccx41": (16, 64), "ccx51": (32, 128),
    "ccx12": (2, 8), "ccx22": (4, 16), "ccx32": (8, 32), "ccx42": (16, 64), "ccx52": (32, 128), "ccx62": (48, 192),
}  # fmt: skip


@dataclass(frozen=True)
class ServerType:
    """A server type: where it is known (``locations``), can still be ordered, and what it costs per month there (net, gross)."""

    name: str
    cores: int
    memory: float
    disk: int
    dedicated: bool
    architecture: str
    available: Mapping[str, bool]
    unavailable_after: Mapping[str, str]
    prices: Mapping[str, tuple[Decimal, Decimal]]

    def orderable(self, location: str, now: datetime) -> bool:
        """Whether an order there is not refused for the type's age. Says nothing about capacity."""
        if location not in self.available:
            return False
        end = self.unavailable_after.get(location)
        return end is None or datetime.fromisoformat(end) > now


@dataclass(frozen=True)
class Catalogue:
    """Types by name, network zones by location, architectures and least disk (GB) by image name, and the account's prices.

    balancers: objects of /load_balancer_types by name, where load balancers are declared
    """

    types: Mapping[str, ServerType]
    zones: Mapping[str, str]
    images: Mapping[str, frozenset[str]]
    pricing: Json
    image_disks: Mapping[str, int] = field(default_factory=dict)
    balancers: Mapping[str, Json] = field(default_factory=dict)

    @property
    def currency(self) -> str:
        return str(self.pricing["currency"])


def build(server_types: Iterable[Json], locations: Iterable[Json], images: Iterable[Json], pricing: Json) -> Catalogue:
    """From the lists of the API (objects of /server_types, /locations, /images and /pricing)."""
    architectures: dict[str, set[str]] = {}
    disks: dict[str, int] = {}
    for image in images:
        for name in (image.get("name"), str(image["id"])):
            if name:
                architectures.setdefault(name, set()).add(image["architecture"])
                disks[name] = max(disks.get(name, 0), int(image.get("disk_size") or 0))
    return Catalogue(
        types={item["name"]: server_type(item) for item in server_types},
        zones={item["name"]: item["network_zone"] for item in locations},
        images={name: frozenset(found) for name, found in architectures.items()},
        pricing=pricing,
        image_disks=disks,
    )


def server_type(item: Json) -> ServerType:
    """One object of /server_types."""
    places = item.get("locations") or []
    return ServerType(
        name=item["name"],
        cores=int(item["cores"]),
        memory=float(item["memory"]),
        disk=int(item["disk"]),
        dedicated=item.get("cpu_type") == "dedicated",
        architecture=item.get("architecture", "x86"),
        available={place["name"]: bool(place.get("available", True)) for place in places},
        unavailable_after={
            place["name"]: place["deprecation"]["unavailable_after"]
            for place in places
            if place.get("deprecation") and place["deprecation"].get("unavailable_after")
        },
        prices={
            price["location"]: (Decimal(price["price_monthly"]["net"]), Decimal(price["price_monthly"]["gross"]))
            for price in item.get("prices", [])
        },
    )


def alternatives(catalogue: Catalogue, name: str, location: str, now: datetime) -> list[str]:
    """Types of the same size that can be ordered there, the same family first; for a name never heard of, similar names."""
    known = catalogue.types.get(name)
    size = (known.cores, known.memory) if known else RETIRED.get(name)
    current = [item for item in catalogue.types.values() if item.orderable(location, now)]
    if size is None:
        return difflib.get_close_matches(name, [item.name for item in current], n=4, cutoff=0.5) or sorted(item.name for item in current)
    family = name.rstrip("0123456789")
    same = [item for item in current if (item.cores, item.memory) == size]
    same.sort(key=lambda item: (item.name.rstrip("0123456789") != family, item.prices.get(location, (Decimal(0),))[0]))
    return [item.name for item in same]


def check(topology: Topology, changes: Sequence[Change], catalogue: Catalogue, now: datetime) -> None:
    """Refuse what the API would refuse after half the work is done: types, locations, images and zones of what is to be made."""
    problems = Problems()
    for change in changes:
        want = change.want
        if want is None or want.kind not in ("server", "volume", "primary_ip", "floating_ip"):
            continue
        making = change.action in ("create", "replace")
        if making and not _check_location(want, catalogue, problems):
            continue
        if want.kind == "server" and (making or "type" in change.field_names()):
            _check_type(want, catalogue, now, problems)
            _check_zone(want, topology, catalogue, problems)
        if want.kind == "server" and making:
            _check_image(want, catalogue, problems)
    problems.raise_if_any("The topology asks for what cannot be ordered", "Choose one of the alternatives named; nothing was changed.")


def _check_location(want: Resource, catalogue: Catalogue, problems: Problems) -> bool:
    field = "home_location" if want.kind == "floating_ip" else "location"
    location = want.spec[field]
    if location not in catalogue.zones:
        problems.add(f"{want.path}.{field}", f"{location!r} is not a location; there are {', '.join(sorted(catalogue.zones))}")
        return False
    return True


def _check_type(want: Resource, catalogue: Catalogue, now: datetime, problems: Problems) -> None:
    name, location = want.spec["type"], want.spec["location"]
    choice = want.extra.get("choice")
    if choice is not None:  # Chosen from what can be ordered; or there is nothing, and the choice says so.
        if choice.type is None:
            problems.add(f"{want.path}.requirements", choice.note)
        return
    known = catalogue.types.get(name)
    if known is not None and known.orderable(location, now):
        return
    others = alternatives(catalogue, name, location, now)
    current = ", ".join(others) if others else "none of that size; see hetzner_stack_info"
    if known is None and name not in RETIRED:
        problems.add(f"{want.path}.type", f"{name!r} is not a server type; in {location} there are {current}")
        return
    size = (known.cores, known.memory) if known else RETIRED[name]
    elsewhere = sorted(place for place in known.available if known.orderable(place, now)) if known else []
    where = f" (it can in {', '.join(elsewhere)})" if elsewhere else ""
    verb = "cannot be ordered" if elsewhere else "is retired and cannot be ordered"
    problems.add(
        f"{want.path}.type",
        f"{name!r} {verb} in {location}{where}; current types of its size, {size[0]} cores and {size[1]:g} GB: {current}",
    )


def _check_image(want: Resource, catalogue: Catalogue, problems: Problems) -> None:
    name = want.spec["image"]
    found = catalogue.images.get(name)
    if found is None:
        near = difflib.get_close_matches(name, catalogue.images, n=3, cutoff=0.5)
        known = ", ".join(near or sorted(one for one in catalogue.images if not one.isdigit()))
        problems.add(f"{want.path}.image", f"{name!r} is not an image of this project; there are {known}")
        return
    kind = catalogue.types.get(want.spec["type"])
    if kind is not None and kind.architecture not in found:
        problems.add(f"{want.path}.image", f"{name!r} exists for {', '.join(sorted(found))}, but {kind.name} is {kind.architecture}")


def _check_zone(want: Resource, topology: Topology, catalogue: Catalogue, problems: Problems) -> None:
    zone = catalogue.zones.get(want.spec["location"])
    for name in want.spec["networks"]:
        zones = {subnet["network_zone"] for subnet in topology.resources[f"network.{name}"].spec["subnets"]}
        if zone is not None and zone not in zones:
            problems.add(
                f"{want.path}.location",
                f"is in zone {zone}, but the network {name!r} has subnets in {', '.join(sorted(zones))} only: add one in {zone}",
            )


def places(want: Resource, topology: Topology, catalogue: Catalogue, locations: Sequence[str]) -> list[str]:
    """Where a server may go: its declared location, then the fallbacks that its networks reach; volumes and primary IPs hold it."""
    declared = str(want.spec["location"])
    zones = [{subnet["network_zone"] for subnet in topology.resources[f"network.{name}"].spec["subnets"]} for name in want.spec["networks"]]
    others = [place for place in locations if place != declared and not want.extra["pinned"]]
    return [declared] + [place for place in others if all(catalogue.zones.get(place) in some for some in zones)]


def candidates(
    want: Resource, topology: Topology, catalogue: Catalogue, server_types: Sequence[str], locations: Sequence[str], now: datetime
) -> list[tuple[str, str]]:
    """(type, location) to try in turn: the declared one, then the fallbacks that fit, those reported available first.

    One location is exhausted before the next; a server that has volumes or primary IPs stays where it is declared.
    """
    declared = (str(want.spec["type"]), str(want.spec["location"]))
    names = [declared[0]] + [name for name in server_types if name != declared[0]]
    architectures = catalogue.images.get(want.spec["image"], frozenset())
    fitting = [
        (name, place)
        for place in places(want, topology, catalogue, locations)
        for name in names
        if name in catalogue.types
        and catalogue.types[name].orderable(place, now)
        and catalogue.types[name].architecture in architectures
        and (name, place) != declared
    ]
    fitting.sort(key=lambda pair: not catalogue.types[pair[0]].available[pair[1]])
    return [declared, *fitting]


def check_capacity(server_types: Sequence[str], locations: Sequence[str], catalogue: Catalogue) -> None:
    """A fallback that does not exist would only be noticed on the day it is needed."""
    problems = Problems()
    for section, names, known in (("server_types", server_types, catalogue.types), ("locations", locations, catalogue.zones)):
        for index, name in enumerate(names):
            if name not in known:
                problems.add(f"capacity.{section}[{index}]", f"{name!r} is unknown; there are {', '.join(sorted(known))}")
    problems.raise_if_any("The capacity fallbacks cannot be used", "Correct them; nothing was changed.")


__all__ = [
    "Catalogue",
    "HetznerError",
    "ServerType",
    "alternatives",
    "build",
    "candidates",
    "check",
    "check_capacity",
    "places",
    "server_type",
]
