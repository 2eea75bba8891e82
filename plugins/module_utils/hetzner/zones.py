# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""DNS zones and their record sets as they may be declared, and zones as they are there. Pure."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from . import addresses, domains, rdata, references
from .model import Json, Resource
from .schema import Field, Problems

TTL = (60, 2147483647)
MOST_VALUES = 50
_ULA = ipaddress.IPv6Network("fc00::/7")


def _objects(keys: Mapping[str, Field]) -> Field:
    return Field("list", default=(), item=Field("object", keys=keys))


SECTION: dict[str, Field] = {
    "zones": _objects(
        {
            "name": Field("str", required=True),
            "mode": Field("str", default="primary", choices=("primary", "secondary")),
            "ttl": Field("int"),
            "primary_nameservers": _objects(
                {
                    "address": Field("str", required=True),
                    "port": Field("int", default=53),
                    "tsig_key": Field("str"),
                    "tsig_algorithm": Field("str", choices=("hmac-md5", "hmac-sha1", "hmac-sha256")),
                }
            ),
            "labels": Field("map", default={}),
            "protection": Field("bool"),
            "exclusive": Field("bool", default=False),
            "records": _objects(
                {
                    "name": Field("str", required=True),
                    "type": Field("str", required=True, choices=rdata.TYPES),
                    "ttl": Field("int"),
                    "values": Field(
                        "list",
                        required=True,
                        item=Field(
                            "either",
                            keys={
                                "value": Field("text"),
                                **{kind: Field("str") for kind in references.TARGETS},
                                "address": Field("str", choices=("ipv4", "ipv6", "private")),
                                "network": Field("str"),
                                "comment": Field("str"),
                            },
                        ),
                    ),
                    "labels": Field("map", default={}),
                    "protection": Field("bool"),
                }
            ),
        }
    )
}


def normalise(data: Mapping[str, Any], problems: Problems) -> None:
    """Write the names of zones and records as DNS has them."""
    for index, item in enumerate(data["zones"]):
        path = f"zones[{index}]"
        item["name"] = _tried(domains.zone, item["name"], f"{path}.name", problems)
        for number, record in enumerate(item["records"]):
            here = f"{path}.records[{number}].name"
            record["name"] = _tried(functools.partial(domains.record, zone_name=item["name"]), record["name"], here, problems)


def _tried(convert: Callable[[str], str], text: str, path: str, problems: Problems) -> str:
    try:
        return convert(text)
    except ValueError as error:
        problems.add(path, str(error))
        return text


def zone(item: Mapping[str, Any], own: Mapping[str, str], path: str, problems: Problems) -> Resource:
    """One declared zone without its records."""
    _check_ttl(item["ttl"], f"{path}.ttl", problems)
    secondary = item["mode"] == "secondary"
    if secondary:
        if not item["primary_nameservers"]:
            problems.add(f"{path}.primary_nameservers", "is required for a secondary zone: where it is fetched from")
        for key, what in (("records", "the records of a secondary zone"), ("ttl", "the TTL of a secondary zone")):
            if item[key]:
                problems.add(f"{path}.{key}", f"{what} is what its primary name servers say: leave it out, or make it mode: primary")
        if item["exclusive"]:
            problems.add(f"{path}.exclusive", "has no meaning for a secondary zone")
    elif item["primary_nameservers"]:
        problems.add(f"{path}.primary_nameservers", "is for zones with mode: secondary only")
    servers = [_server(one, f"{path}.primary_nameservers[{index}]", problems) for index, one in enumerate(item["primary_nameservers"])]
    spec = {
        "mode": item["mode"],
        "ttl": item["ttl"],
        "primary_nameservers": _servers(servers, f"{path}.primary_nameservers", problems),
        "protection": item["protection"],
    }
    return Resource("zone", item["name"], spec, own, path=path, extra={"exclusive": item["exclusive"], "primary_nameservers": servers})


def _check_ttl(ttl: int | None, path: str, problems: Problems) -> None:
    if ttl is not None and not TTL[0] <= ttl <= TTL[1]:
        problems.add(path, f"{ttl} is outside {TTL[0]} to {TTL[1]} seconds")


def _server(item: Mapping[str, Any], path: str, problems: Problems) -> Json:
    """A primary name server as the API wants it sent."""
    try:
        address = ipaddress.ip_address(item["address"])
    except ValueError:
        problems.add(f"{path}.address", f"{item['address']!r} is not an address such as '192.0.2.53'")
    else:
        inner = any(address in one for one in addresses.PRIVATE) or address in _ULA
        if inner or address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
            problems.add(f"{path}.address", f"{address} is not public: the service's name servers could not reach it")
    if not 1 <= item["port"] <= 65535:
        problems.add(f"{path}.port", f"{item['port']} is outside 1 to 65535")
    if (item["tsig_key"] is None) != (item["tsig_algorithm"] is None):
        problems.add(path, "tsig_key and tsig_algorithm go together")
    if item["tsig_key"] is not None:
        try:
            base64.b64decode(item["tsig_key"], validate=True)
        except (binascii.Error, ValueError):
            problems.add(f"{path}.tsig_key", "is not in base64")
    return {**{key: value for key, value in item.items() if value is not None}, "address": addresses.canonical_ip(item["address"])}


def _servers(servers: list[Json], path: str, problems: Problems) -> list[Json]:
    if len({one["address"] for one in servers}) != len(servers):
        problems.add(path, "names an address twice")
    return sorted(map(_shown, servers), key=lambda one: str(one["address"]))


def _shown(server: Json) -> Json:
    """A name server as it may be told: of its key only a hash."""
    key = server.get("tsig_key")
    return {
        "address": addresses.canonical_ip(server["address"]),
        "port": server.get("port", 53),
        "tsig_algorithm": server.get("tsig_algorithm"),
        "tsig_key": f"sha256:{hashlib.sha256(key.encode()).hexdigest()[:16]}" if key else None,
    }


def observed(item: Json, _keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    """A zone of the API in the fields of ``zone``."""
    return {
        "mode": item["mode"],
        "ttl": item["ttl"],
        "primary_nameservers": sorted(map(_shown, item.get("primary_nameservers") or []), key=lambda one: str(one["address"])),
        "protection": bool((item.get("protection") or {}).get("delete")),
    }, []


def body(want: Resource) -> Json:
    """What a zone is made with, beside its name and labels."""
    servers = want.extra["primary_nameservers"]
    ttl = {} if want.spec["ttl"] is None else {"ttl": want.spec["ttl"]}
    return {"mode": want.spec["mode"], **ttl, **({"primary_nameservers": servers} if servers else {})}


def records(
    item: Mapping[str, Any],
    path: str,
    names: Mapping[str, set[str]],
    items: Mapping[str, Mapping[str, Any]],
    label: Callable[[str, str, Mapping[str, Any]], dict[str, str]],
    problems: Problems,
) -> Iterator[Resource]:
    """The record sets of a declared zone. label: the labels of a set by its name, path and declaration."""
    seen: dict[tuple[str, str], str] = {}
    for index, record in enumerate(item["records"]):
        here = f"{path}.records[{index}]"
        _check_place(record, here, seen, problems)
        yield _record(item["name"], record, here, names, items, label, problems)


def _check_place(record: Mapping[str, Any], path: str, seen: dict[tuple[str, str], str], problems: Problems) -> None:
    """One set of each type at a name, a CNAME alone and not for the zone itself, whose NS are the service's."""
    name, kind = record["name"], record["type"]
    other = seen.setdefault((name, kind), path)
    if other != path:
        problems.add(path, f"{name} {kind} is already declared at {other}: give one record all its values")
    if name == "@" and kind == "CNAME":
        problems.add(path, "a CNAME cannot stand for the zone itself, which has SOA and NS records: use A and AAAA")
    if name == "@" and kind == "NS":
        problems.add(path, "the NS records of the zone itself belong to the service and are left alone: leave them out")
    beside = [(there, at) for (one, there), at in seen.items() if one == name and there != kind and "CNAME" in (there, kind)]
    if beside and other == path:
        problems.add(path, f"{name} has a {beside[0][0]} at {beside[0][1]}: a CNAME cannot stand beside other records")
    _check_ttl(record["ttl"], f"{path}.ttl", problems)


def _record(
    zone_name: str,
    record: Mapping[str, Any],
    path: str,
    names: Mapping[str, set[str]],
    items: Mapping[str, Mapping[str, Any]],
    label: Callable[[str, str, Mapping[str, Any]], dict[str, str]],
    problems: Problems,
) -> Resource:
    kind, values = record["type"], record["values"]
    plain: dict[str, str | None] = {}
    pointers: dict[references.Reference, str | None] = {}
    for index, value in enumerate(values):
        here = f"{path}.values[{index}]"
        item = value if isinstance(value, Mapping) else {"value": value, "comment": None}
        text = _text(item, kind, here, problems)
        if text is None and kind in rdata.ADDRESSES and isinstance(value, Mapping):
            reference = references.declared(value, rdata.ADDRESSES[kind], names, items, here, problems) if _points(value) else None
            if reference is not None:
                pointers[reference] = item["comment"]
        elif text is not None:
            known = _tried(lambda one: rdata.declared(kind, one, zone_name), text, here, problems)
            if known in plain:
                problems.add(here, f"{known!r} is there twice")
            plain[known] = item["comment"]
    if not 1 <= len(values) <= MOST_VALUES or (kind == "CNAME" and len(values) > 1):
        problems.add(
            f"{path}.values", f"has {len(values)} values; {'a CNAME has one' if kind == 'CNAME' else f'1 to {MOST_VALUES} are taken'}"
        )
    name = f"{zone_name}/{record['name']}/{kind}"
    return Resource(
        "rrset",
        name,
        {"ttl": record["ttl"], "values": [], "comments": {}, "protection": record["protection"]},
        label(name, path, record),
        (f"zone.{zone_name}", *dict.fromkeys(reference.key for reference in pointers)),
        path,
        {"plain": plain, "references": pointers},
    )


def _points(value: Mapping[str, Any]) -> bool:
    return any(value[kind] is not None for kind in references.TARGETS)


def _text(value: Mapping[str, Any], kind: str, path: str, problems: Problems) -> str | None:
    """The value where it is written out; None where it is a reference, or refused."""
    given = [key for key in ("value", *references.TARGETS) if value.get(key) is not None]
    if len(given) != 1:
        problems.add(path, f"exactly one of value, {', '.join(references.TARGETS)} is expected, found {', '.join(given) or 'none'}")
        return None
    if given != ["value"] and kind not in rdata.ADDRESSES:
        problems.add(f"{path}.{given[0]}", f"an address cannot be the value of a {kind} record, only of A and AAAA")
        return None
    if given == ["value"]:
        for key in ("address", "network"):
            if value.get(key) is not None:
                problems.add(f"{path}.{key}", "has no meaning beside value")
        return str(value["value"])
    return None
