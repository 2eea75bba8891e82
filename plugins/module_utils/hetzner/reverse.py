# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reverse names (PTR records) of public addresses: what may be declared, what is there, and what differs. Pure.

An IPv4 address always has one name, the provider's until another is set. An IPv6 network has a name for each address that was given one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import Any

from .model import Json, Snapshot, Topology
from .schema import Problems

# What the provider calls an address that was given no name ends with this.
PROVIDER = ".your-server.de"
LONGEST = 253
_PART = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def problem_of_host_name(name: str) -> str | None:
    """Why this is no host name as RFC 1123 has it, or None. Upper and lower case are the same."""
    parts = name.lower().split(".")
    if len(name) > LONGEST:
        return f"{name[:40]!r}... has {len(name)} characters, a host name has at most {LONGEST}"
    if parts[-1] == "" and len(parts) > 1:
        return f"{name!r} ends with a dot: leave the dot out"
    wrong = [part for part in parts if not _PART.fullmatch(part)]
    if wrong:
        return (
            f"{name!r} is not a host name: {wrong[0]!r} must be 1 to 63 of letters, digits and '-', with a letter or digit at both ends "
            "(RFC 1123)"
        )
    if parts[-1].isdigit():
        return f"{name!r} is not a host name: its last part has digits only, as an address has"
    return None


def declared(value: Any, family: str, path: str, problems: Problems) -> str | dict[str, str] | None:
    """A declared ``dns_ptr`` in canonical form: a name for "ipv4", names by address for "ipv6", "" for the default, None for not declared.

    An IPv6 address is a whole one, or only the part behind the network ('::1').
    """
    if value is None:
        return None
    if family == "ipv4":
        if isinstance(value, str):
            return _name(value, path, problems)
        problems.add(path, "an IPv4 address has one name: write the name itself, not a mapping")
        return None
    if not isinstance(value, Mapping):
        problems.add(path, f"an IPv6 network has many addresses: write a mapping such as {{'::1': {value or 'mail.example.org'!r}}}")
        return None
    names: dict[str, str] = {}
    for key, name in value.items():
        address = _ipv6(key)
        if address is None:
            problems.add(f"{path}.{key}", "is not an IPv6 address such as '::1' or '2001:db8::1'")
        elif str(address) in names:
            problems.add(f"{path}.{key}", f"is the same address as another one here ({address})")
        else:
            names[str(address)] = _name(name, f"{path}.{key}", problems)
    return names


def _name(text: str, path: str, problems: Problems) -> str:
    problem = problem_of_host_name(text) if text else None
    if problem:
        problems.add(path, problem)
    return text.lower()


def _ipv6(text: str) -> ipaddress.IPv6Address | None:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return None if address.scope_id else address


def _whole(address: str, network: ipaddress.IPv6Network) -> ipaddress.IPv6Address:
    """'::1' is the part behind the network; what does not fit behind it is a whole address."""
    number = int(ipaddress.IPv6Address(address))
    return network[number] if number < network.num_addresses else ipaddress.IPv6Address(number)


def observed(item: Json) -> dict[str, str]:
    """Names by address of a primary or floating IP as the API shows it."""
    return {str(ipaddress.ip_address(one["ip"])): str(one["dns_ptr"]).lower() for one in item.get("dns_ptr") or [] if one["dns_ptr"]}


def differences(wish: str | Mapping[str, str], item: Json) -> tuple[dict[str, str], dict[str, str]]:
    """Names before and after, by whole address, of those that differ from the wish; "" is the default. Others' names are left alone."""
    have = observed(item)
    network = ipaddress.ip_network(item["ip"], strict=False)
    wanted: dict[str, str] = {}  # As it stays when another family is declared: the address is replaced as a whole.
    if isinstance(wish, str) and network.version == 4:
        wanted = {str(network.network_address): wish}
    elif not isinstance(wish, str) and isinstance(network, ipaddress.IPv6Network):
        wanted = {str(_whole(address, network)): name for address, name in wish.items()}
    after = {address: name for address, name in wanted.items() if not same(have.get(address, ""), name)}
    return {address: have.get(address, "") for address in after}, after


def same(have: str, wish: str) -> bool:
    """Whether a name that is there is the one wished; "" is the provider's."""
    return have == wish or (wish == "" and have.endswith(PROVIDER))


def check(topology: Topology, found: Snapshot, fresh: Collection[str]) -> None:
    """Refuse names for addresses outside of their network. fresh: keys of what is to be made, whose network nobody knows yet."""
    problems = Problems()
    for want in topology.resources.values():
        wish = want.spec.get("dns_ptr")
        if not isinstance(wish, Mapping) or want.kind == "load_balancer":
            continue
        have = None if want.key in fresh else found.resources.get(want.key)
        network = ipaddress.IPv6Network(have.raw["ip"], strict=False) if have else None
        seen: dict[str, str] = {}
        for address in wish:
            _check(address, network, f"{want.path}.dns_ptr.{address}", seen, problems)
    problems.raise_if_any("Reverse names cannot be set", "Correct these addresses; nothing was changed.")


def _check(address: str, network: ipaddress.IPv6Network | None, path: str, seen: dict[str, str], problems: Problems) -> None:
    if network is None:
        if int(ipaddress.IPv6Address(address)) >= 2**64:
            problems.add(path, "the network is not known before it is made: write only the part behind it, such as '::1'")
        return
    whole = _whole(address, network)
    other = seen.setdefault(str(whole), address)
    if whole not in network:
        problems.add(path, f"is not in {network}: write an address inside it, or only the part behind it, such as '::1'")
    elif other != address:
        problems.add(path, f"is the same address as {other}")
