# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Addresses of declared resources, used as values of records: what may be asked for, and what is known of it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .addresses import first_address
from .model import KINDS, Change, Json, Snapshot, Topology
from .schema import Problems, suggest

TARGETS = ("server", "primary_ip", "floating_ip", "load_balancer")


@dataclass(frozen=True)
class Reference:
    """key: of the resource, such as "server.app"; address: "ipv4", "ipv6" or "private"; network: the name of a private address's network."""

    key: str
    address: str
    network: str | None = None

    def __str__(self) -> str:
        """What stands for the address while nobody can know it."""
        return f"address of {self.key}" + (f" in {self.network}" if self.network else "")


def declared(
    item: Mapping[str, Any],
    family: str,
    names: Mapping[str, set[str]],
    items: Mapping[str, Mapping[str, Any]],
    path: str,
    problems: Problems,
) -> Reference | None:
    """What a value such as {server: app, address: private} refers to; None where it is refused.

    family: of the record's type, "ipv4" or "ipv6". items: what is declared of each resource, by key.
    """
    kind = next(one for one in TARGETS if item[one] is not None)
    name, address, network = item[kind], item["address"] or family, item["network"]
    if name not in names.get(kind, ()):
        problems.add(f"{path}.{kind}", f"{KINDS[kind].section} declares no {name!r}{suggest(name, sorted(names.get(kind, ())))}")
        return None
    before = len(problems.found)
    if address not in (family, "private") or (address == "private" and family != "ipv4"):
        problems.add(f"{path}.address", f"{address!r} does not fit a record for {family} addresses")
    if network is not None and address != "private":
        problems.add(f"{path}.network", "is for address: private only")
    if kind in ("primary_ip", "floating_ip"):
        _check_ip(items[f"{kind}.{name}"], address, family, f"{path}.{kind}", problems)
    elif kind == "load_balancer":
        network = _check_balancer(items[f"{kind}.{name}"], address, network, path, problems)
    else:
        network = _check_server(items[f"{kind}.{name}"], name, address, network, path, problems)
    return Reference(f"{kind}.{name}", address, network) if len(problems.found) == before else None


def _check_ip(item: Mapping[str, Any], address: str, family: str, path: str, problems: Problems) -> None:
    if address == "private":
        problems.add(path, f"{item['name']!r} is a public address, it has no private one")
    elif item["type"] != family:
        problems.add(path, f"{item['name']!r} is an {item['type']} address, the record is for {family}")


def _check_balancer(item: Mapping[str, Any], address: str, network: str | None, path: str, problems: Problems) -> str | None:
    """The network of a private address: the only one that a load balancer can join."""
    if address != "private":
        if not item["public_interface"]:
            problems.add(f"{path}.load_balancer", f"{item['name']!r} is declared with public_interface: false, it has no such address")
    elif item["network"] is None:
        problems.add(f"{path}.load_balancer", f"{item['name']!r} joins no network, it has no private address")
    elif network not in (None, item["network"]):
        problems.add(f"{path}.network", f"{item['name']!r} does not join {network!r}{suggest(str(network), [item['network']])}")
    else:
        return str(item["network"])
    return network


def _check_server(item: Mapping[str, Any], name: str, address: str, network: str | None, path: str, problems: Problems) -> str | None:
    """The network of a private address: the named one, or the only one."""
    if address != "private":
        if not item[f"public_{address}"]:
            problems.add(f"{path}.server", f"{name!r} is declared with public_{address}: false, it has no such address")
        return network
    joined = [one["name"] for one in item["networks"]]
    if not joined:
        problems.add(f"{path}.server", f"{name!r} joins no network, it has no private address")
    elif network is None and len(joined) > 1:
        problems.add(f"{path}.network", f"is required: {name!r} has an address in each of {', '.join(joined)}")
    elif network is not None and network not in joined:
        problems.add(f"{path}.network", f"{name!r} does not join {network!r}{suggest(network, joined)}")
    return network or next(iter(joined), None)


def known(reference: Reference, topology: Topology, found: Snapshot, changes: Mapping[str, Change]) -> str | None:
    """The address as it will be when the plan is done; None while nobody can know it. changes: of all that may be referred to, by key."""
    want, have, change = topology.resources[reference.key], found.resources.get(reference.key), changes.get(reference.key)
    stays = have is not None and (change is None or change.action == "update")
    if want.kind == "server" and reference.address == "private":
        fixed = want.spec["networks"].get(reference.network)
        before = have.spec["networks"].get(reference.network) if have and stays else None
        return str(fixed or before) if fixed or before else None
    if want.kind == "server":
        wish = want.spec[f"public_{reference.address}"]
        if isinstance(wish, str):
            return known(Reference(f"primary_ip.{wish}", reference.address), topology, found, changes)
        stays = stays and have is not None and have.spec[f"public_{reference.address}"] == wish
    return of(have.raw, reference, found.id_of(f"network.{reference.network}")) if have and stays else None


def of(item: Json, reference: Reference, network: int | None) -> str | None:
    """The address that a resource has, as the API shows it. network: id of the network of a private one, None where it has only one."""
    if reference.address == "private":
        own = (one for one in item.get("private_net") or [] if network in (None, one["network"]))
        return next((str(one["ip"]) for one in own if one.get("ip")), None)
    text = item["ip"] if "ip" in item else ((item.get("public_net") or {}).get(reference.address) or {}).get("ip")
    address = first_address(text)
    return str(ipaddress.ip_address(address)) if address else None


def addresses(item: Json) -> set[str]:
    """All addresses that a resource has."""
    public = item.get("public_net") or {}
    texts = [item.get("ip"), *((public.get(family) or {}).get("ip") for family in ("ipv4", "ipv6"))]
    return {one for text in texts if (one := first_address(text))} | {one["ip"] for one in item.get("private_net") or [] if one.get("ip")}
