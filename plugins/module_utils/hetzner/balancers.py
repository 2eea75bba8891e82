# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Load balancers: what may be declared, what is there, and what differs. Pure.

A target is {type, target, use_private_ip}: type is "server" (target is its name), "label_selector" or "ip".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import addresses, reverse, services
from .model import FieldChange, Json, Observed, Resource
from .schema import Problems, suggest

_KEY = r"(?:[A-Za-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?"
_TERM = re.compile(rf"!?\s*{_KEY}|{_KEY}\s*(?:==|!=|=)\s*{_VALUE}|{_KEY}\s+(?:in|notin)\s*\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\)")
_FAMILIES = ("ipv4", "ipv6")


@dataclass(frozen=True)
class Around:
    """What a declaration says beside the load balancer.

    servers: by the name that a target may give, the names they have and their declaration; networks: subnets by name
    """

    servers: Mapping[str, tuple[list[str], Mapping[str, Any]]]
    networks: Mapping[str, addresses.Plan]
    certificates: Collection[str]
    location: str | None


def declared(item: Mapping[str, Any], own: dict[str, str], path: str, around: Around, problems: Problems) -> Resource:
    """One declared load balancer; what cannot be is added to ``problems``."""
    location = item["location"] or (None if item["network_zone"] else around.location)
    if item["location"] and item["network_zone"]:
        problems.add(f"{path}.network_zone", f"cannot stand beside location: {item['location']}; keep one of the two")
    if not location and not item["network_zone"]:
        problems.add(f"{path}.location", "is missing, and the topology has no 'location' either; or say a 'network_zone'")
    _check_network(item, path, around, problems)
    targets = _targets(item, path, around, problems)
    spec: Json = {field: item[field] for field in ("type", "network_zone", "algorithm", "network", "public_interface", "protection")}
    spec |= {
        "location": location,
        "private_ip": addresses.canonical_ip(item["private_ip"]),
        "services": services.canonical(item["services"], f"{path}.services", around.certificates, problems),
        "targets": targets,
        "dns_ptr": _names(item["dns_ptr"], f"{path}.dns_ptr", problems),
    }
    refs = [f"server.{one['target']}" for one in targets if one["type"] == "server"]
    refs += [f"network.{item['network']}"] if item["network"] in around.networks else []
    refs += [f"certificate.{name}" for name in certificates_of(spec["services"]) if name in around.certificates]
    return Resource("load_balancer", item["name"], spec, own, tuple(refs), path)


def certificates_of(by_port: Mapping[str, Json]) -> list[str]:
    """Names of the certificates that services use, each once."""
    return sorted({name for service in by_port.values() for name in (service["http"] or {}).get("certificates", [])})


def _check_network(item: Mapping[str, Any], path: str, around: Around, problems: Problems) -> None:
    name = item["network"]
    if name is None:
        if item["private_ip"]:
            problems.add(f"{path}.private_ip", "needs 'network'")
        if not item["public_interface"]:
            problems.add(f"{path}.public_interface", "is off and there is no 'network': nobody could reach it; name a network")
    elif name not in around.networks:
        problems.add(f"{path}.network", f"networks declares no {name!r}{suggest(name, sorted(around.networks))}")
    else:
        # The name of the key that a member's address has here is another one than with servers.
        found = Problems()
        addresses.check_member(around.networks[name], {"ip": item["private_ip"]}, path, found)
        for one in found.found:
            problems.add(f"{path}.{'private_ip' if one['path'].endswith('.ip') else 'network'}", one["problem"])


def _targets(item: Mapping[str, Any], path: str, around: Around, problems: Problems) -> list[Json]:
    result: list[Json] = []
    seen: dict[tuple[str, str], str] = {}
    for index, target in enumerate(item["targets"]):
        here = f"{path}.targets[{index}]"
        given = [kind for kind in ("server", "label_selector", "ip") if target[kind] is not None]
        if len(given) != 1:
            problems.add(here, f"names {' and '.join(given) or 'nothing'}: name exactly one of server, label_selector and ip")
            continue
        kind = given[0]
        private = target["use_private_ip"]
        if private and kind == "ip":
            problems.add(f"{here}.use_private_ip", "is for server and label_selector only")
        elif private and item["network"] is None:
            problems.add(f"{here}.use_private_ip", "needs the 'network' of the load balancer")
        elif not private and not item["public_interface"]:
            problems.add(f"{here}.use_private_ip", "is false, but public_interface is off: set use_private_ip: true, or leave it on")
        for value in _values(kind, target[kind], item, private, here, around, problems):
            other = seen.setdefault((kind, value), here)
            if other != here:
                problems.add(here, f"{kind} {value!r} is a target already, at {other}")
            result.append({"type": kind, "target": value, "use_private_ip": private})
    return sorted(result, key=lambda one: (one["type"], one["target"]))


def _values(kind: str, text: str, item: Mapping[str, Any], private: bool, path: str, around: Around, problems: Problems) -> list[str]:
    if kind == "server":
        if text not in around.servers:
            problems.add(f"{path}.server", f"servers declares no {text!r}{suggest(text, sorted(around.servers))}")
            return []
        names, server = around.servers[text]
        if private and item["network"] and item["network"] not in [one["name"] for one in server["networks"]]:
            joined = ", ".join(one["name"] for one in server["networks"]) or "none"
            problems.add(
                f"{path}.server",
                f"{text!r} is not in the network {item['network']!r} (it is in {joined}): add it there, or take the public side",
            )
        if not private and not server["public_ipv4"]:
            problems.add(f"{path}.server", f"{text!r} has no public IPv4 address: set use_private_ip: true, in a network that both are in")
        return names
    if kind == "label_selector":
        terms = re.split(r",(?![^(]*\))", text)
        wrong = next((term for term in terms if not _TERM.fullmatch(term.strip())), None)
        if wrong is not None or len(text) > 1000:
            problems.add(f"{path}.label_selector", f"{(wrong or text)[:60]!r} is not a selector such as 'role=web' or 'env in (a,b),!old'")
        return [text.strip()]
    return _ip(text, f"{path}.ip", problems)


def _ip(text: str, path: str, problems: Problems) -> list[str]:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        problems.add(path, f"{text!r} is not an IP address")
        return []
    if address.is_loopback or address.is_link_local or addresses.is_private(str(address)):
        problems.add(
            path, f"{text} is not public: only the addresses of your own dedicated servers can be targets; name a 'server' instead"
        )
    return [str(address)]


def _names(value: Any, path: str, problems: Problems) -> dict[str, str] | None:
    """Reverse names by family; a text is for both addresses, "" is the provider's, None is left as it is."""
    if value is None:
        return None
    given = dict.fromkeys(_FAMILIES, value) if isinstance(value, str) else dict(value)
    for family, name in given.items():
        if family not in _FAMILIES:
            problems.add(f"{path}.{family}", "is neither ipv4 nor ipv6")
        problem = reverse.problem_of_host_name(name) if name else None
        if problem:
            problems.add(path if isinstance(value, str) else f"{path}.{family}", problem)
    return {family: name.lower() for family, name in given.items()}


def read(item: Json, keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    """The fields of a load balancer as the API shows it, in the same form as declared, and our resources that it uses."""
    private: Json = next(iter(item.get("private_net") or []), {})
    network = keys.get(("network", private.get("network") or 0))
    names = {ident: key.partition(".")[2] for (kind, ident), key in keys.items() if kind == "certificate"}
    spec: Json = {
        "type": item["load_balancer_type"]["name"],
        "location": item["location"]["name"],
        "network_zone": item["location"]["network_zone"],
        "algorithm": item["algorithm"]["type"],
        "network": _named(network, private.get("network")),
        "private_ip": private.get("ip"),
        "public_interface": bool(item["public_net"]["enabled"]),
        "services": services.read(item["services"], names),
        "targets": sorted((_read_target(one, keys) for one in item["targets"]), key=lambda one: (one["type"], one["target"])),
        "protection": bool((item.get("protection") or {}).get("delete")),
        "dns_ptr": {family: str(item["public_net"][family].get("dns_ptr") or "").lower() for family in _FAMILIES},
    }
    used = [keys.get(("server", one["server"]["id"])) for one in item["targets"] if one["type"] == "server"]
    used += [f"certificate.{name}" for name in certificates_of(spec["services"]) if " " not in name]
    return spec, [key for key in (network, *used) if key]


def _named(key: str | None, ident: int | None) -> str | None:
    """One of ours by its name; a blank, which no name has, tells another's."""
    return key.partition(".")[2] if key else f"id {ident}" if ident else None


def _read_target(item: Json, keys: Mapping[tuple[str, int], str]) -> Json:
    if item["type"] == "server":
        ident = item["server"]["id"]
        value = _named(keys.get(("server", ident)), ident)
    else:
        value = item["label_selector"]["selector"] if item["type"] == "label_selector" else item["ip"]["ip"]
    return {"type": item["type"], "target": value, "use_private_ip": bool(item.get("use_private_ip"))}


def compared(field: str, want: Resource, have: Observed) -> tuple[Any, Any]:
    """Before and after of one field; the same where it does not differ, also where it is not declared."""
    before, after = have.spec[field], want.spec[field]
    if field == "dns_ptr":
        wished = {family: name for family, name in (after or {}).items() if not reverse.same(before[family], name)}
        return {family: before[family] for family in wished}, wished
    if after is None and (field in ("location", "network_zone", "protection") or (field == "private_ip" and want.spec["network"])):
        return before, before
    if field == "services":
        return {port: one for port, one in before.items() if after.get(port) != one}, {
            port: one for port, one in after.items() if before.get(port) != one
        }
    return before, after


def released(want: Resource, have: Observed, lost: Collection[str]) -> list[FieldChange]:
    """Servers that are replaced are no targets any more and have to become ones again."""
    gone = [
        one for one in want.spec["targets"] if one["type"] == "server" and f"server.{one['target']}" in lost and one in have.spec["targets"]
    ]
    note = "its servers are replaced, which takes them out"
    return [FieldChange("targets", [], gone, "in_place", note)] if gone else []


def holders(found: Iterable[Observed], server: int) -> dict[str, str | None]:
    """Address by name of the load balancers that have this server as a target, also by a selector."""
    result: dict[str, str | None] = {}
    for balancer in sorted(found, key=lambda one: one.name):
        direct = [one for one in balancer.raw["targets"] if one["type"] == "server"]
        chosen = [inner for one in balancer.raw["targets"] for inner in one.get("targets") or []]
        if any(one["server"]["id"] == server for one in (*direct, *chosen)):
            result[balancer.name] = address(balancer.raw)
    return result


def address(item: Json) -> str | None:
    """Where it is reached: its public IPv4 address, without a public side its private one."""
    public = item["public_net"]
    return public["ipv4"]["ip"] if public["enabled"] else next((one["ip"] for one in item["private_net"]), None)


def reached(item: Json) -> Json:
    """All its addresses, for ``resources[].addresses``."""
    public = item["public_net"]
    return {
        "public_ipv4": public["ipv4"]["ip"] if public["enabled"] else None,
        "public_ipv6": public["ipv6"]["ip"] if public["enabled"] else None,
        "private_ip": next((one["ip"] for one in item["private_net"]), None),
    }
