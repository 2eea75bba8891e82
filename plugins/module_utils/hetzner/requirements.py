# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The type of a server that is declared by what it must have: the cheapest that will do, and what runs stays as long as it does. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal

from .catalogue import Catalogue, ServerType, places, server_type
from .model import Choice, Observed, Requirements, Resource, Snapshot, Topology
from .plan import differences

NEAREST = 3


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What else a type has to fit.

    architectures: those that are possible (None: any), because of ``holder`` ("the image x", "this server")
    disk: the least in GB, because of ``holder``
    without: the name of a type that is no choice
    """

    holder: str
    architectures: Collection[str] | None = None
    disk: int = 0
    without: str = ""


@dataclasses.dataclass(frozen=True)
class Lack:
    """One thing that a type does not meet: how far it is away (1: wholly), and that for people."""

    name: str
    distance: float
    text: str


def resolve(topology: Topology, found: Snapshot, catalogue: Catalogue, locations: Sequence[str] = ()) -> Topology:
    """The topology with ``spec["type"]`` and ``extra["choice"]`` filled in for every server that names no type.

    locations: fallbacks in order, as of the module's capacity.locations. Where nothing will do, the type is None and the choice's
    note says why and what comes next; nothing is raised.
    """
    resources = dict(topology.resources)
    for key, want in topology.resources.items():
        if "requirements" in want.extra:
            have = found.resources.get(key)
            choice = _choose(want, have, topology, catalogue, locations)
            resources[key] = dataclasses.replace(want, spec={**want.spec, "type": choice.type}, extra={**want.extra, "choice": choice})
    return dataclasses.replace(topology, resources=resources)


def candidates(want: Resource, topology: Topology, catalogue: Catalogue, locations: Sequence[str]) -> list[tuple[str, str]]:
    """(type, location) to try in turn: by price in one location, then in the next; those reported available before all others."""
    bounds = _bounds(want, catalogue)
    pairs = [
        (kind.name, place)
        for place in places(want, topology, catalogue, locations)
        for kind in ranked(want.extra["requirements"], bounds, catalogue, place)
    ]
    pairs.sort(key=lambda pair: not catalogue.types[pair[0]].available[pair[1]])
    # The plan and its price were told for this one.
    planned = (str(want.spec["type"]), str(want.spec["location"]))
    return [planned] + [pair for pair in pairs if pair != planned]


def ranked(needs: Requirements, bounds: Bounds, catalogue: Catalogue, place: str) -> list[ServerType]:
    """All types that will do in a location: the available ones first, the cheapest first, then those with more cores and memory."""
    fitting = [kind for kind in _offered(catalogue, place) if kind.name != bounds.without and not lacks(kind, needs, bounds, place)]
    fitting.sort(key=lambda kind: (not kind.available[place], kind.prices[place][0], -kind.cores, -kind.memory, kind.name))
    return fitting


def lacks(kind: ServerType, needs: Requirements, bounds: Bounds, place: str) -> list[Lack]:
    """What a type does not meet in a location; a price that is not known is no lack."""
    found: list[Lack] = []
    for name, has, least, unit in (
        ("cores", Decimal(kind.cores), needs.cores, "cores"),
        ("memory", Decimal(str(kind.memory)), needs.memory, "GB of memory"),
        ("disk", Decimal(kind.disk), needs.disk, "GB of disk"),
    ):
        if least is not None and has < least:
            found.append(Lack(name, float((least - has) / least), f"{_plain(has)} of {_plain(Decimal(least))} {unit}"))
    if kind.disk < bounds.disk:
        found.append(Lack("disk", 1.0, f"{kind.disk} GB of disk, {bounds.holder} needs {bounds.disk}"))
    if needs.dedicated is not None and kind.dedicated != needs.dedicated:
        found.append(Lack("dedicated", 1.0, f"its cores are {_cores(kind.dedicated)}"))
    if needs.architecture is not None and kind.architecture != needs.architecture:
        found.append(Lack("architecture", 1.0, f"it is {kind.architecture}"))
    elif bounds.architectures is not None and kind.architecture not in bounds.architectures:
        found.append(
            Lack("architecture", 1.0, f"it is {kind.architecture}, {bounds.holder} is {' or '.join(sorted(bounds.architectures))}")
        )
    price = kind.prices.get(place)
    if needs.price is not None and price is not None and price[0] > needs.price:
        found.append(Lack("price", float((price[0] - needs.price) / needs.price), f"{price[0]:.2f} a month, at most {needs.price:.2f}"))
    return found


def _offered(catalogue: Catalogue, place: str) -> Iterator[ServerType]:
    """What is ordered today: neither retired nor announced to be, and with a price."""
    return (
        kind
        for kind in catalogue.types.values()
        if place in kind.available and place not in kind.unavailable_after and place in kind.prices
    )


def _bounds(want: Resource, catalogue: Catalogue) -> Bounds:
    """Those of a new server. An image that is unknown is told of elsewhere."""
    image = str(want.spec["image"])
    return Bounds(f"the image {image}", catalogue.images.get(image), catalogue.image_disks.get(image, 0))


def _choose(want: Resource, have: Observed | None, topology: Topology, catalogue: Catalogue, locations: Sequence[str]) -> Choice:
    if have is None:
        return _for_new(want, topology, catalogue, locations)
    kept = dataclasses.replace(want, spec={**want.spec, "type": have.spec["type"]})
    if any(item.how == "replace" for item in differences(kept, have)):
        return _for_replacement(want, topology, catalogue, locations, "it is made anew")
    return _for_running(want, have, topology, catalogue, locations)


def _for_new(want: Resource, topology: Topology, catalogue: Catalogue, locations: Sequence[str]) -> Choice:
    needs, bounds, here = want.extra["requirements"], _bounds(want, catalogue), str(want.spec["location"])
    fitting = ranked(needs, bounds, catalogue, here)
    others = places(want, topology, catalogue, locations)[1:]
    # One without capacity will do when it may go elsewhere: there the choice is remembered.
    if fitting and (fitting[0].available[here] or any(_available(needs, bounds, catalogue, place) for place in others)):
        return Choice(fitting[0].name)
    elsewhere = _elsewhere(needs, bounds, catalogue, here)
    return Choice(None, "refused", f"{_refusal(needs, bounds, catalogue, here)}; {elsewhere}")


def _for_replacement(want: Resource, topology: Topology, catalogue: Catalogue, locations: Sequence[str], why: str) -> Choice:
    choice = _for_new(want, topology, catalogue, locations)
    return choice if choice.type is None else dataclasses.replace(choice, how="replace", note=why)


def _for_running(want: Resource, have: Observed, topology: Topology, catalogue: Catalogue, locations: Sequence[str]) -> Choice:
    """It stays if it meets the requirements, also where a cheaper type would; else it changes to the cheapest that fits in place."""
    needs, name, here = want.extra["requirements"], str(have.spec["type"]), str(have.spec["location"])
    embedded = have.raw.get("server_type")
    kind = catalogue.types.get(name) or (server_type(embedded) if embedded else None)
    if kind is None:
        return Choice(name)
    # A change of type may have left the disk as it was.
    disk = int(have.raw.get("primary_disk_size") or kind.disk)
    # Only an order is bounded by the price: a list that rises must not power off what runs, nor keep a run from anything else.
    judged = dataclasses.replace(needs, price=None)
    missing = lacks(dataclasses.replace(kind, disk=disk), judged, Bounds("this server"), here)
    if not missing:
        return Choice(name)
    why = f"the requirements are not met: {', '.join(item.text for item in missing)}"
    if any(item.name == "architecture" for item in missing):
        return _for_replacement(want, topology, catalogue, locations, f"{why}; the server's disk is lost")
    bounds = Bounds("this server", {kind.architecture}, disk, name)
    available = _available(needs, bounds, catalogue, here)
    if available is None:
        return Choice(None, "refused", f"{why}; {_refusal(needs, bounds, catalogue, here)}; its disk of {disk} GB cannot shrink")
    grow = needs.disk is not None and disk < needs.disk
    return Choice(available.name, "power_off", f"{why}{'; its disk grows and cannot shrink again' if grow else ''}", grow)


def _available(needs: Requirements, bounds: Bounds, catalogue: Catalogue, place: str) -> ServerType | None:
    return next((kind for kind in ranked(needs, bounds, catalogue, place) if kind.available[place]), None)


def _refusal(needs: Requirements, bounds: Bounds, catalogue: Catalogue, place: str) -> str:
    """Why nothing will do in a location, with the types that come nearest."""
    near: list[tuple[tuple[int, float, Decimal, str], str]] = []
    for kind in _offered(catalogue, place):
        if kind.name == bounds.without:
            continue
        missing = lacks(kind, needs, bounds, place)
        texts = [item.text for item in missing] or ["no capacity now"]
        order = (len(missing), sum(item.distance for item in missing), kind.prices[place][0], kind.name)
        near.append((order, f"{_told(kind, place, catalogue.currency)}: {', '.join(texts)}"))
    nearest = "; ".join(text for _order, text in sorted(near)[:NEAREST])
    return f"no server type that can be had in {place} has {describe(needs, catalogue.currency)}; nearest: {nearest or 'none is offered there'}"


def _elsewhere(needs: Requirements, bounds: Bounds, catalogue: Catalogue, here: str) -> str:
    found = [(place, kind) for place in sorted(catalogue.zones) if place != here and (kind := _available(needs, bounds, catalogue, place))]
    told = ", ".join(f"{kind.name} in {place} ({kind.prices[place][0]:.2f})" for place, kind in found)
    return f"other locations have {told}" if told else "no other location has one"


def _told(kind: ServerType, place: str, currency: str) -> str:
    size = f"{kind.cores} cores, {kind.memory:g} GB, disk {kind.disk} GB"
    return f"{kind.name} ({size}, {_cores(kind.dedicated)} {kind.architecture}, {kind.prices[place][0]:.2f} {currency})"


def describe(needs: Requirements, currency: str) -> str:
    """The requirements as a phrase."""
    parts = [
        f"{needs.cores} cores" if needs.cores is not None else "",
        f"{_plain(needs.memory)} GB of memory" if needs.memory is not None else "",
        f"{needs.disk} GB of disk" if needs.disk is not None else "",
        f"{_cores(needs.dedicated)} cores" if needs.dedicated is not None else "",
        f"architecture {needs.architecture}" if needs.architecture is not None else "",
        f"a price of at most {needs.price:.2f} {currency} a month" if needs.price is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _cores(dedicated: bool) -> str:
    return "dedicated" if dedicated else "shared"


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"
