"""What a name server says: from zones to the answer to one question (RFC 1034, 2308, 4592). Pure."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .wire import NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Query, Record

# Where names stand in a value, by type.
_TARGETS = {"CNAME": (0,), "NS": (0,), "PTR": (0,), "MX": (1,), "SRV": (3,), "RP": (0, 1), "SOA": (0, 1), "HTTPS": (1,), "SVCB": (1,)}
MOST_ALIASES = 8
Sets = Mapping[str, tuple[int, list[str]]]


@dataclass(frozen=True)
class Zone:
    """name: without the dot. names: whole name -> type -> (TTL, values with whole names); empty for a zone that holds nothing."""

    name: str
    names: dict[str, dict[str, tuple[int, list[str]]]] = field(default_factory=dict)

    def add(self, owner: str, kind: str, ttl: int, values: Iterable[str]) -> None:
        self.names.setdefault(owner, {})[kind] = (ttl, [whole(kind, value, self.name) for value in values])

    def exists(self, owner: str) -> bool:
        """Also of a name that only has others below it."""
        return owner in self.names or any(one.endswith(f".{owner}") for one in self.names)

    def soa(self) -> list[Record]:
        return [Record(self.name, "SOA", ttl, value) for ttl, values in [self.names[self.name]["SOA"]] for value in values]


@dataclass(frozen=True)
class Answer:
    code: int
    authoritative: bool = False
    answer: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()


def absolute(text: str, zone: str) -> str:
    """'www' and 'www.example.org.' of the zone example.org are both 'www.example.org'."""
    if text == "@":
        return zone
    return text.lower().removesuffix(".") if text.endswith(".") else f"{text.lower()}.{zone}"


def whole(kind: str, value: str, zone: str) -> str:
    """A value with its names whole."""
    if kind not in _TARGETS:
        return value
    words = value.split()
    for place in _TARGETS[kind]:
        words[place] = f"{absolute(words[place], zone)}."
    return " ".join(words)


def answer(zones: Mapping[str, Zone], query: Query) -> Answer:
    """Authoritative within the zones, refused elsewhere. Aliases are followed as far as the zones reach."""
    found: list[Record] = []
    owner = query.name
    for _unused in range(MOST_ALIASES):
        zone = _zone_of(zones, owner)
        if zone is None:
            return Answer(NOERROR, True, tuple(found)) if found else Answer(REFUSED)
        if not zone.names:
            return Answer(SERVFAIL)
        cut = _delegation(zone, owner, query.kind)
        if cut:
            return Answer(NOERROR, bool(found), tuple(found), tuple(_records(cut, "NS", zone.names[cut])))
        sets = _sets(zone, owner)
        if sets is None:
            code = NOERROR if zone.exists(owner) else NXDOMAIN
            return Answer(code, True, tuple(found), tuple(zone.soa()))
        alias = sets.get("CNAME")
        if alias and query.kind not in ("CNAME", "ANY"):
            found += _records(owner, "CNAME", sets)
            owner = alias[1][0].removesuffix(".")
            continue
        kinds = list(sets) if query.kind == "ANY" else [query.kind]
        records = [record for kind in kinds if kind in sets for record in _records(owner, kind, sets)]
        return Answer(NOERROR, True, (*found, *records), () if records else tuple(zone.soa()))
    return Answer(SERVFAIL)


def _zone_of(zones: Mapping[str, Zone], owner: str) -> Zone | None:
    parts = owner.split(".")
    return next((zones[name] for at in range(len(parts)) if (name := ".".join(parts[at:])) in zones), None)


def _delegation(zone: Zone, owner: str, kind: str) -> str | None:
    """The highest name between the zone and the owner that has name servers of its own."""
    parts = owner.removesuffix(zone.name).removesuffix(".").split(".") if owner != zone.name else []
    for at in reversed(range(len(parts))):
        name = f"{'.'.join(parts[at:])}.{zone.name}"
        if "NS" in zone.names.get(name, {}) and not (kind == "DS" and name == owner):
            return name
    return None


def _sets(zone: Zone, owner: str) -> Sets | None:
    """The sets of a name, by a wildcard where there is no such name. None: it has none."""
    if owner in zone.names:
        return zone.names[owner]
    if zone.exists(owner):
        return None
    above = owner
    while above != zone.name:
        above = above.partition(".")[2]
        if zone.exists(above) or above == zone.name:
            return zone.names.get(f"*.{above}")
    return None


def _records(owner: str, kind: str, sets: Sets) -> list[Record]:
    ttl, values = sets[kind]
    return [Record(owner, kind, ttl, value) for value in random.sample(values, len(values))]


def reverse_name(ip: str) -> str:
    return ipaddress.ip_address(ip).reverse_pointer


def reverse_zones(public_range: ipaddress.IPv4Network, names: Mapping[str, str]) -> dict[str, Zone]:
    """The zones of a /24 and of the /48 beside it. names: by address."""
    first, second, third, _unused = public_range.network_address.packed
    prefix = ipaddress.IPv6Address(f"fd{first:02x}:{second:02x}{third:02x}::").reverse_pointer
    zones = {name: Zone(name) for name in (f"{third}.{second}.{first}.in-addr.arpa", prefix.split(".", 20)[20])}
    for zone in zones.values():
        zone.add(zone.name, "SOA", 3600, ["ns.localcloud. dns.localcloud. 1 86400 10800 3600000 3600"])
        zone.add(zone.name, "NS", 3600, ["ns.localcloud."])
        for ip, name in names.items():
            if reverse_name(ip).endswith(f".{zone.name}"):
                zone.add(reverse_name(ip), "PTR", 3600, [f"{name}."])
    return zones
