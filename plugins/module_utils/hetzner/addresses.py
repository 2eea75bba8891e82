# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Addresses, networks, firewall rules and SSH keys in one canonical form, so that what is declared and what is there compare equal."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .schema import Problems

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
PRIVATE = tuple(ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
RULE_FIELDS = ("direction", "protocol", "port", "source_ips", "destination_ips", "description")


@dataclass
class Plan:
    """A declared network while its members are checked: its subnets, and which path took which address."""

    name: str
    subnets: list[ipaddress.IPv4Network]
    taken: dict[str, str] = field(default_factory=dict)


def canonical_ip(text: str | None) -> str | None:
    """An address in its shortest form; text that is none is returned as it is (and refused elsewhere)."""
    if not text:
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def first_address(network: str | None) -> str | None:
    """A server owns a /64 and answers on its first address."""
    if not network:
        return None
    whole = ipaddress.ip_network(network, strict=False)
    return str(whole[1] if whole.num_addresses > 1 else whole[0])


def canonical_cidr(text: str) -> str:
    """'10.0.0.7' and '10.0.0.7/32' are the same source; raises ValueError when host bits are set."""
    return str(ipaddress.ip_network(text.strip(), strict=True))


def is_private(text: str) -> bool:
    """Whether an address lies in one of the ranges for private networks."""
    address = ipaddress.ip_address(text)
    return isinstance(address, ipaddress.IPv4Address) and any(address in network for network in PRIVATE)


def ssh_public_key(text: str) -> str | None:
    """Type and key of an OpenSSH public key without its comment, or None if it is none."""
    words = text.split()
    if len(words) < 2 or not re.fullmatch(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+", words[0]):
        return None
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(blob) < 4 + len(words[0]) or blob[4 : 4 + len(words[0])] != words[0].encode():
        return None
    return f"{words[0]} {words[1]}"


def rule(item: Mapping[str, Any], path: str, problems: Problems) -> dict[str, Any]:
    """One firewall rule in canonical form."""
    side, other = ("source_ips", "destination_ips") if item["direction"] == "in" else ("destination_ips", "source_ips")
    if not item[side]:
        problems.add(
            f"{path}.{side}", f"is empty: a rule with direction {item['direction']!r} needs it ('0.0.0.0/0' and '::/0' mean everyone)"
        )
    if item[other]:
        problems.add(f"{path}.{other}", f"has no meaning with direction {item['direction']!r}; use {side}")
    port = item["port"]
    if item["protocol"] in ("tcp", "udp"):
        if port is None:
            problems.add(f"{path}.port", f"is required for {item['protocol']}: '22', '8000-8100' or 'any'")
        elif port != "any" and not _is_port(port):
            problems.add(f"{path}.port", f"{port!r} is neither a port, nor a range like '8000-8100', nor 'any'")
    elif port is not None:
        problems.add(f"{path}.port", f"has no meaning for {item['protocol']}")
    return {
        "direction": item["direction"],
        "protocol": item["protocol"],
        "port": port,
        "source_ips": _cidrs(item["source_ips"], f"{path}.source_ips", problems),
        "destination_ips": _cidrs(item["destination_ips"], f"{path}.destination_ips", problems),
        "description": item["description"],
    }


def observed_rule(item: Mapping[str, Any]) -> dict[str, Any]:
    """A rule as the API returns it, in the same form as ``rule``."""
    port = item.get("port") or None
    return {
        "direction": item["direction"],
        "protocol": item["protocol"],
        # The API knows no "any": it is stored as the whole range.
        "port": "any" if port in ("1-65535", "any") else port,
        "source_ips": sorted(_lenient(text) for text in item.get("source_ips") or []),
        "destination_ips": sorted(_lenient(text) for text in item.get("destination_ips") or []),
        "description": item.get("description") or "",
    }


def sorted_rules(rules: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The order of rules has no meaning to the API, so it must make no difference."""
    return sorted(rules, key=lambda one: [str(one[name]) for name in RULE_FIELDS])


def rule_body(item: Mapping[str, Any]) -> dict[str, Any]:
    """A canonical rule as the API wants it sent."""
    body: dict[str, Any] = {"direction": item["direction"], "protocol": item["protocol"]}
    if item["port"] is not None:
        body["port"] = "1-65535" if item["port"] == "any" else item["port"]
    for side in ("source_ips", "destination_ips"):
        if item[side]:
            body[side] = list(item[side])
    if item["description"]:
        body["description"] = item["description"]
    return body


def check_network(item: Mapping[str, Any], path: str, problems: Problems) -> Plan:
    """Range private, subnets inside it and apart from one another, routes sensible."""
    whole = _network(item["ip_range"], f"{path}.ip_range", problems)
    if whole is not None and not any(whole.subnet_of(private) for private in PRIVATE):
        problems.add(f"{path}.ip_range", f"{whole} is not private: it must lie in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")
    subnets: list[ipaddress.IPv4Network] = []
    for index, subnet in enumerate(item["subnets"]):
        here = f"{path}.subnets[{index}].ip_range"
        one = _network(subnet["ip_range"], here, problems)
        if one is None:
            continue
        if whole is not None and not one.subnet_of(whole):
            problems.add(here, f"{one} is outside the network's range {whole}")
        for other in subnets:
            if one.overlaps(other):
                problems.add(here, f"{one} overlaps with {other}")
        subnets.append(one)
    for index, route in enumerate(item["routes"]):
        _network(route["destination"], f"{path}.routes[{index}].destination", problems)
        gateway = canonical_ip(route["gateway"])
        if not _address_in(gateway, [whole] if whole else []):
            problems.add(f"{path}.routes[{index}].gateway", f"{route['gateway']!r} is not an address inside {whole}")
    return Plan(item["name"], subnets)


def check_member(plan: Plan, member: Mapping[str, Any], path: str, problems: Problems) -> None:
    """A server's place in a network: there is a subnet, and a fixed address is free and not the gateway's."""
    if not plan.subnets:
        problems.add(f"{path}.name", f"the network {plan.name!r} has no subnet, so no server can join it: declare one under its 'subnets'")
        return
    if not member["ip"]:
        return
    ip = canonical_ip(member["ip"]) or ""
    subnet = _address_in(ip, plan.subnets)
    if subnet is None:
        problems.add(f"{path}.ip", f"{ip!r} is in no subnet of {plan.name!r} ({', '.join(map(str, plan.subnets))})")
        return
    address = ipaddress.IPv4Address(ip)
    if address in (subnet.network_address, subnet.broadcast_address, subnet.network_address + 1):
        problems.add(f"{path}.ip", f"{ip} is reserved in {subnet}: its first host is the gateway, its ends are no hosts")
    if ip in plan.taken:
        problems.add(f"{path}.ip", f"{ip} is already taken by {plan.taken[ip]}")
    plan.taken[ip] = path


def _address_in(ip: str | None, networks: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network | None:
    try:
        address = ipaddress.IPv4Address(ip or "")
    except ValueError:
        return None
    return next((network for network in networks if address in network), None)


def _network(text: str, path: str, problems: Problems) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(text, strict=True)
    except ValueError:
        problems.add(path, _explain(text, ipaddress.IPv4Network))
        return None


def _explain(text: str, kind: Any) -> str:
    try:
        return f"{text!r} has host bits set; the network is {kind(text, strict=False)}"
    except ValueError:
        return f"{text!r} is not a network such as '10.0.0.0/24'"


def _is_port(text: str) -> bool:
    match = _PORT.fullmatch(text)
    if not match:
        return False
    first, last = int(match[1]), int(match[2] or match[1])
    return 1 <= first <= last <= 65535


def _cidrs(items: Iterable[str], path: str, problems: Problems) -> list[str]:
    result: set[str] = set()
    for index, text in enumerate(items):
        try:
            result.add(canonical_cidr(text))
        except ValueError:
            problems.add(f"{path}[{index}]", _explain(text, ipaddress.ip_network))
    return sorted(result)


def _lenient(text: str) -> str:
    try:
        return canonical_cidr(text)
    except ValueError:
        return text
