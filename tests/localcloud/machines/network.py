"""Pure: which links, addresses and routes a machine gets, as lines for ``ip -batch``.

The public side is routed as at Hetzner: every machine has its own link to the instance's router, a /32 and a gateway outside of it.
Private networks are bridges that nothing else is attached to: what is sent there cannot leave.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

from localcloud.backend import Interface, MachineSpec

PRIVATE_MTU = 1450
ROUTER_MAC = "d2:74:7f:6e:37:e3"


@dataclass(frozen=True)
class Plug:
    """One interface of a machine.

    port: link in the instance's namespace; bridge: what it is attached to, or None for the public side
    outer: lines for the instance's namespace; inner: lines for the machine's
    """

    port: str
    bridge: str | None
    outer: tuple[str, ...]
    inner: tuple[str, ...]


def netns(slot: int) -> str:
    return f"m{slot}"


def bridge(network_id: int) -> str:
    return f"n{network_id}"


def public_mac(server_id: int) -> str:
    """A hardware address that a server keeps for life."""
    digest = hashlib.sha256(f"public-{server_id}".encode()).digest()
    return "96:00:" + ":".join(f"{byte:02x}" for byte in digest[:4])


def router_macs(index: int) -> tuple[str, str]:
    """Hardware addresses of the host's and the instance's end of the link between them."""
    return f"02:00:5d:{index:02x}:00:01", f"02:00:5d:{index:02x}:00:02"


def first_address(text: str) -> str:
    """An IPv6 address, also when a whole network was given: its ::1."""
    if "/" not in text:
        return text
    interface = ipaddress.ip_interface(text)
    return str(interface.ip if interface.ip != interface.network.network_address else interface.ip + 1)


def public_plug(spec: MachineSpec, slot: int, gateway: str) -> Plug | None:
    """``eth0``, or None for a server without a public address."""
    if not spec.public_ipv4 and not spec.public_ipv6:
        return None
    port, mac = f"p{slot}", public_mac(spec.id)
    outer = [f"link add {port} address {ROUTER_MAC} type veth peer name eth0 address {mac} netns {netns(slot)}", f"link set {port} up"]
    inner = ["link set eth0 up"]
    if spec.public_ipv4:
        outer += [
            f"route replace {spec.public_ipv4}/32 dev {port}",
            f"neigh replace {spec.public_ipv4} lladdr {mac} dev {port} nud permanent",
        ]
        inner += [
            f"address add {spec.public_ipv4}/32 dev eth0",
            f"route add {gateway} dev eth0",
            f"route add default via {gateway} dev eth0",
        ]
    if spec.public_ipv6:
        address = first_address(spec.public_ipv6)
        outer += [f"address add fe80::1/64 dev {port} nodad", f"route replace {address}/128 dev {port}"]
        inner += [f"address add {address}/64 dev eth0 nodad", "route add ::/0 via fe80::1 dev eth0"]
    return Plug(port, None, tuple(outer), tuple(inner))


def private_plug(interface: Interface, slot: int, position: int) -> Plug:
    """``enp7s0`` for position 0, ``enp8s0`` for 1 and so on."""
    port, name, home = f"q{slot}-{position}", f"enp{7 + position}s0", bridge(interface.network_id)
    prefix = ipaddress.ip_network(interface.ip_range).prefixlen
    outer = (
        f"link add {port} mtu {PRIVATE_MTU} type veth peer name {name} mtu {PRIVATE_MTU} address {interface.mac} netns {netns(slot)}",
        f"link set {port} master {home} up",
    )
    return Plug(port, home, outer, (f"link set {name} up", f"address add {interface.ip}/{prefix} dev {name}"))


def positions(interfaces: tuple[Interface, ...], before: dict[int, int]) -> dict[int, int]:
    """Position by network id: an interface keeps its name while it is attached, a new one takes the lowest free."""
    kept = {item.network_id: before[item.network_id] for item in interfaces if item.network_id in before}
    for item in interfaces:
        if item.network_id not in kept:
            kept[item.network_id] = next(number for number in range(len(interfaces) + 1) if number not in kept.values())
    return kept


def plugs(spec: MachineSpec, slot: int, places: dict[int, int], gateway: str) -> tuple[Plug, ...]:
    """All interfaces of a machine, the public one first."""
    public = public_plug(spec, slot, gateway)
    return ((public,) if public else ()) + tuple(private_plug(item, slot, places[item.network_id]) for item in spec.interfaces)


def changes(before: tuple[Plug, ...], after: tuple[Plug, ...]) -> tuple[tuple[Plug, ...], tuple[Plug, ...]]:
    """What a running machine loses and gains; an interface that differs in anything is both."""
    return tuple(plug for plug in before if plug not in after), tuple(plug for plug in after if plug not in before)


def batch(lines: list[str] | tuple[str, ...]) -> str:
    return "".join(line + "\n" for line in lines)
