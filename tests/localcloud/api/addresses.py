"""Which addresses are free, in the public range and in private networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from . import errors
from .store import Document, Tx

FIRST_PUBLIC_HOST = 10
PRIVATE_RANGES = tuple(ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
NEVER_GIVEN = ipaddress.IPv4Address("172.31.1.1")


def free_ip(tx: Tx, public: ipaddress.IPv4Network, kind: str, family: str) -> str:
    """An address or /64 for a resource of this kind ("primary_ip", "floating_ip"). Raises 403 when the range is used up."""
    return (free_ipv4 if family == "ipv4" else free_ipv6)(tx, public, f"{kind}_limit")


def free_ipv4(tx: Tx, public: ipaddress.IPv4Network, limit: str) -> str:
    """The lowest free public address from host .10 up. Raises 403 with this limit's name when the range is used up."""
    taken = {item["ip"] for kind in ("primary_ip", "floating_ip") for item in tx.all(kind)}
    taken |= {item["public_net"]["ipv4"]["ip"] for item in tx.all("load_balancer") if item["public_net"]["ipv4"]["ip"]}
    for number in range(int(public.network_address) + FIRST_PUBLIC_HOST, int(public.broadcast_address)):
        text = str(ipaddress.IPv4Address(number))
        if text not in taken:
            return text
    raise errors.limit_exceeded(f"no public IPv4 address is free in {public}", limit)


def free_ipv6(tx: Tx, public: ipaddress.IPv4Network, limit: str) -> str:
    """The lowest free /64 of the unique local range that mirrors the public range."""
    taken = {item["ip"] for kind in ("primary_ip", "floating_ip") for item in tx.all(kind)}
    taken |= {str(ipaddress.IPv6Network((item["public_net"]["ipv6"]["ip"], 64), strict=False)) for item in tx.all("load_balancer")}
    first, second, third, _unused = public.network_address.packed
    for number in range(1, 0x10000):
        text = str(ipaddress.IPv6Network(f"fd{first:02x}:{second:02x}{third:02x}:0:{number:x}::/64"))
        if text not in taken:
            return text
    raise errors.limit_exceeded("no IPv6 range is free", limit)


def gateway(ip_range: str) -> str:
    """The first host of a network is its gateway."""
    return str(ipaddress.IPv4Network(ip_range).network_address + 1)


def members(tx: Tx, network_id: int) -> list[tuple[str, Document, Document]]:
    """(kind, owner, entry) of everything attached to a network, also while it is being attached."""
    return [
        (kind, owner, entry)
        for kind in ("server", "load_balancer")
        for owner in tx.all(kind)
        for entry in owner["nets"]
        if entry["network"] == network_id
    ]


def taken(tx: Tx, network_id: int) -> set[str]:
    return {ip for _kind, _owner, entry in members(tx, network_id) for ip in (entry["ip"], *entry["alias_ips"])}


def _usable(network: Document, subnet: ipaddress.IPv4Network, address: ipaddress.IPv4Address) -> bool:
    reserved = (subnet.network_address, subnet.broadcast_address, ipaddress.IPv4Address(gateway(network["ip_range"])), NEVER_GIVEN)
    return address in subnet and address not in reserved


def allocate(tx: Tx, network: Document, zone: str, ip: str | None = None, ip_range: str | None = None, extra: Iterable[str] = ()) -> str:
    """A private address for a server in this network zone.

    ip: exactly this one. ip_range: any of this subnet. extra: addresses spoken for beside those recorded.
    Raises 422 no_subnet_available or ip_not_available.
    """
    subnets = [
        ipaddress.IPv4Network(subnet["ip_range"])
        for subnet in network["subnets"]
        if subnet["network_zone"] == zone and subnet["type"] != "vswitch" and ip_range in (None, subnet["ip_range"])
    ]
    if not subnets:
        raise errors.unprocessable("no_subnet_available", "no subnet or IP is available for the server within the network")
    used = taken(tx, network["id"]) | set(extra)
    if ip is not None:
        address = ipaddress.IPv4Address(ip)
        if ip in used or not any(_usable(network, subnet, address) for subnet in subnets):
            raise errors.unprocessable("ip_not_available", f"IP {ip} is not available")
        return ip
    for subnet in subnets:
        for number in range(int(subnet.network_address) + 1, int(subnet.broadcast_address)):
            address = ipaddress.IPv4Address(number)
            if str(address) not in used and _usable(network, subnet, address):
                return str(address)
    raise errors.unprocessable("no_subnet_available", "no subnet or IP is available for the server within the network")


def mac(network_id: int, ip: str) -> str:
    """A stable address in the block that the real cloud uses for private interfaces."""
    number = (network_id * 2654435761 + int(ipaddress.IPv4Address(ip))) & 0xFFFFFFFF
    return "86:00:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(4, "big"))
