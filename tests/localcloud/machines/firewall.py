"""Pure: the instance's packet filter, as one nft script that replaces the whole table at once."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from localcloud.backend import FirewallRule
from localcloud.instance import WHOLE_RANGE

TABLE = "localcloud"
# Ranges that only exist inside a machine's own networks: nothing sent there may ever reach the host.
NEVER_OUTSIDE = (WHOLE_RANGE, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")


def rule_lines(rule: FirewallRule) -> list[str]:
    """nft statements that let the rule's packets pass. An empty list of addresses lets nothing pass."""
    side = "saddr" if rule.direction == "in" else "daddr"
    match rule.protocol:
        case "tcp" | "udp":
            what = (
                f"{rule.protocol} dport {rule.port.replace(' ', '')}"
                if rule.port and rule.port != "any"
                else f"meta l4proto {rule.protocol}"
            )
        case "icmp":
            what = "meta l4proto { icmp, icmpv6 }"
        case other:
            what = f"meta l4proto {other}"
    lines = []
    for family, version in (("ip", 4), ("ip6", 6)):
        networks = [network for network in (ipaddress.ip_network(cidr, strict=False) for cidr in rule.cidrs) if network.version == version]
        collapsed = [str(network) for network in ipaddress.collapse_addresses(networks)]  # type: ignore[type-var]
        if collapsed:
            lines.append(f"{family} {side} {{ {', '.join(collapsed)} }} {what} return")
    return lines


def chains(slot: int, rules: tuple[FirewallRule, ...]) -> dict[str, list[str]]:
    """Chain name -> lines. Inbound ends in drop; outbound only when a rule speaks of it."""
    inbound = [line for rule in rules if rule.direction == "in" for line in rule_lines(rule)]
    outbound = [rule for rule in rules if rule.direction == "out"]
    found = {f"to_{slot}": [*inbound, "counter drop"]}
    if outbound:
        found[f"from_{slot}"] = [*(line for rule in outbound for line in rule_lines(rule)), "counter drop"]
    return found


def collapse(networks: Iterable[str]) -> str:
    """IPv4 networks as the elements of an nft set, without overlaps."""
    return ", ".join(
        str(network) for network in ipaddress.collapse_addresses(ipaddress.IPv4Network(text, strict=False) for text in networks)
    )


def outside_lines(gateway: str, declared: Iterable[str], needed: Iterable[str]) -> list[str]:
    """What may go to the host: its own end, never a private range, except for single addresses there that packages come from."""
    private, exceptions = collapse(declared), collapse(needed)
    return [
        f"ip daddr {gateway} return",
        *([f"ip daddr {{ {private} }} counter drop"] if private else []),
        *([f"ip daddr {{ {exceptions} }} return"] if exceptions else []),
        f"ip daddr {{ {collapse(NEVER_OUTSIDE)} }} counter drop",
        "meta nfproto ipv6 counter drop",
    ]


def script(
    machines: Iterable[tuple[int, tuple[FirewallRule, ...] | None]], gateway: str, declared: Iterable[str], needed: Iterable[str]
) -> str:
    """The table for all machines: (slot, rules or None). Runs in the instance's network namespace, where public traffic is routed.

    declared: private ranges of the machines' networks; needed: private addresses that machines must reach outside all the same
    """
    found: dict[str, list[str]] = {"outside": outside_lines(gateway, declared, needed)}
    jumps = []
    for slot, rules in sorted(machines, key=lambda pair: pair[0]):
        own = chains(slot, rules) if rules is not None else {}
        found |= own
        jumps += [f"{'oifname' if name.startswith('to_') else 'iifname'} p{slot} jump {name}" for name in own]
    found["forward"] = [
        "type filter hook forward priority 0; policy drop;",
        "oifname up0 jump outside",
        "ct state established,related accept",
        *jumps,
        'iifname { up0, "p*" } accept',
    ]
    body = "".join(f"  chain {name} {{\n" + "".join(f"    {line}\n" for line in lines) + "  }\n" for name, lines in found.items())
    return f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{body}}}\n"
