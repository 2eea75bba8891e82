# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the API's lists to what there is of a stack: the same fields as declared, names instead of ids. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import addresses, balancers, certificates, labels, records, references, reverse, zones
from .model import KINDS, Json, Observed, Snapshot

# Until this day orders were billed at older prices, which the API does not show.
REPRICED = "2026-06-15"


def snapshot(
    lists: Mapping[str, Iterable[Json]],
    stack: str,
    all_ssh_keys: Iterable[Json] = (),
    rrsets: Mapping[int, Iterable[Json]] | None = None,
) -> Snapshot:
    """lists: objects by kind, as answered to the stack's label selector. all_ssh_keys: every key of the project.

    rrsets: all record sets of the stack's zones, by the zone's id
    """
    keys: dict[tuple[str, int], str] = {}
    for kind, items in lists.items():
        for item in items:
            keys[kind, item["id"]] = _key(kind, item)
    found: dict[str, Observed] = {}
    duplicates: list[str] = []
    for kind in KINDS:
        for item in sorted(lists.get(kind, ()), key=lambda one: int(one["id"])):
            observed = _observe(kind, item, keys)
            if observed.key in found:
                duplicates.append(f"{observed.key}: ids {found[observed.key].id} and {observed.id}")
                continue
            found[observed.key] = observed
    shared = {
        key: item
        for item in all_ssh_keys
        if (key := addresses.ssh_public_key(item["public_key"])) and item.get("labels", {}).get(labels.STACK) != stack
    }
    sets = _record_sets(found, rrsets or {})
    ours = {item.key: item for item in sets if records.is_ours(item, stack)}
    return Snapshot(found | ours, shared, tuple(duplicates), {item.key: item for item in sets if item.key not in ours})


def _record_sets(found: Mapping[str, Observed], rrsets: Mapping[int, Iterable[Json]]) -> list[Observed]:
    owners: dict[str, list[str]] = {}
    for key, item in found.items():
        for address in references.addresses(item.raw) if item.kind in references.TARGETS else ():
            owners.setdefault(address, []).append(key)
    here = [item for item in found.values() if item.kind == "zone"]
    return [one for zone in here for one in records.observed(zone, rrsets.get(zone.id, ()), owners)]


def _key(kind: str, item: Json) -> str:
    key = str((item.get("labels") or {}).get(labels.KEY, ""))
    return key if key.startswith(f"{kind}.") else f"{kind}.{item['name']}"


def _observe(kind: str, item: Json, keys: Mapping[tuple[str, int], str]) -> Observed:
    spec, refs = _READERS[kind](item, keys)
    protection = item.get("protection") or {}
    return Observed(
        kind=kind,
        name=item["name"],
        id=int(item["id"]),
        key=_key(kind, item),
        spec=spec,
        labels=dict(item.get("labels") or {}),
        protected=bool(protection.get("delete")),
        refs=tuple(refs),
        raw=item,
    )


def _names(kind: str, ids: Iterable[int], keys: Mapping[tuple[str, int], str]) -> list[str]:
    """Names of those that are ours; what others attached is not ours to see."""
    return sorted(keys[kind, one].partition(".")[2] for one in ids if (kind, one) in keys)


def _ssh_key(item: Json, keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    return {"public_key": addresses.ssh_public_key(item["public_key"]) or item["public_key"]}, []


def _placement_group(item: Json, keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    return {"type": item["type"]}, []


def _firewall(item: Json, keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    return {"rules": addresses.sorted_rules(addresses.observed_rule(rule) for rule in item["rules"])}, []


def _network(item: Json, keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    subnets = [{"ip_range": one.get("ip_range"), "type": one["type"], "network_zone": one["network_zone"]} for one in item["subnets"]]
    routes = [{"destination": one["destination"], "gateway": one["gateway"]} for one in item["routes"]]
    return {
        "ip_range": item["ip_range"],
        "protection": bool((item.get("protection") or {}).get("delete")),
        "subnets": sorted(subnets, key=lambda one: str(one["ip_range"])),
        "routes": sorted(routes, key=lambda one: (str(one["destination"]), str(one["gateway"]))),
    }, []


def _primary_ip(item: Json, keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    return {
        "type": item["type"],
        "location": item["location"]["name"],
        "protection": bool((item.get("protection") or {}).get("delete")),
        "dns_ptr": reverse.observed(item),
    }, []


def _floating_ip(item: Json, keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    holder = item.get("server")
    key = keys.get(("server", holder or 0))
    return {
        "type": item["type"],
        "home_location": item["home_location"]["name"],
        # One of ours by its name; a blank, which no name has, tells another's.
        "server": key.partition(".")[2] if key else f"id {holder}" if holder else None,
        "description": item.get("description") or "",
        "protection": bool((item.get("protection") or {}).get("delete")),
        "dns_ptr": reverse.observed(item),
    }, [key] if key else []


def _volume(item: Json, keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    return {
        "size": int(item["size"]),
        "format": item.get("format"),
        "location": item["location"]["name"],
        "protection": bool((item.get("protection") or {}).get("delete")),
    }, []


def _server(item: Json, keys: Mapping[tuple[str, int], str]) -> tuple[Json, list[str]]:
    public = item.get("public_net") or {}
    own = item.get("labels") or {}
    group = item.get("placement_group") or {}
    image = item.get("image") or {}
    protection = item.get("protection") or {}
    networks = {
        keys["network", one["network"]].partition(".")[2]: one.get("ip")
        for one in item.get("private_net") or []
        if ("network", one["network"]) in keys
    }
    firewalls = _names("firewall", [one["id"] for one in public.get("firewalls") or []], keys)
    volumes = _names("volume", item.get("volumes") or [], keys)
    group_name = next(iter(_names("placement_group", [group["id"]] if group else [], keys)), group.get("name"))
    spec: dict[str, Any] = {
        "type": item["server_type"]["name"],
        "image": image.get("name") or (str(image["id"]) if image else None),
        "location": item["location"]["name"],
        "user_data": own.get(labels.USER_DATA, ""),
        "networks": dict(sorted(networks.items())),
        "firewalls": firewalls,
        "volumes": volumes,
        "placement_group": group_name,
        "public_ipv4": _public(public.get("ipv4"), keys),
        "public_ipv6": _public(public.get("ipv6"), keys),
        "backups": bool(item.get("backup_window")),
        "protection": bool(protection.get("delete")) if protection.get("delete") == protection.get("rebuild") else "partly",
    }
    refs = [f"firewall.{one}" for one in firewalls] + [f"network.{one}" for one in networks] + [f"volume.{one}" for one in volumes]
    refs += [f"primary_ip.{one}" for one in (spec["public_ipv4"], spec["public_ipv6"]) if isinstance(one, str)]
    if group and ("placement_group", group["id"]) in keys:
        refs.append(f"placement_group.{group_name}")
    return spec, refs


def _public(part: Json | None, keys: Mapping[tuple[str, int], str]) -> bool | str:
    """False without an address, the primary IP's name when it is one of ours, else True."""
    if not part:
        return False
    key = keys.get(("primary_ip", part.get("id") or 0))
    return key.partition(".")[2] if key else True


_READERS: dict[str, Callable[[Json, Mapping[tuple[str, int], str]], tuple[Json, list[str]]]] = {
    "ssh_key": _ssh_key,
    "placement_group": _placement_group,
    "firewall": _firewall,
    "network": _network,
    "zone": zones.observed,
    "primary_ip": _primary_ip,
    "volume": _volume,
    "server": _server,
    "floating_ip": _floating_ip,
    "certificate": lambda item, _keys: (certificates.read(item), []),
    "load_balancer": balancers.read,
}


def hosts(found: Snapshot) -> list[Json]:
    """The stack's servers, ready for ``add_host``, by name."""
    floating = sorted(found.of("floating_ip"), key=lambda one: one.name)
    balancing = list(found.of("load_balancer"))
    servers = sorted(found.of("server"), key=lambda one: one.name)
    return [_host(server, floating) | {"load_balancers": balancers.holders(balancing, server.id)} for server in servers]


def _host(server: Observed, floating: Iterable[Observed]) -> Json:
    public = server.raw.get("public_net") or {}
    ipv4 = (public.get("ipv4") or {}).get("ip")
    ipv6 = addresses.first_address((public.get("ipv6") or {}).get("ip"))
    private = {name: ip for name, ip in server.spec["networks"].items() if ip}
    return {
        "name": server.name,
        "groups": labels.unpack_groups(server.labels),
        "ansible_host": ipv4 or next(iter(private.values()), None) or ipv6,
        "ansible_user": "root",
        "ansible_port": 22,
        "public_ipv4": ipv4,
        "public_ipv6": ipv6,
        "private_ips": private,
        "floating_ips": {one.name: addresses.first_address(one.raw.get("ip")) for one in floating if one.raw.get("server") == server.id},
        "server_id": server.id,
        "status": server.raw.get("status"),
        "labels": dict(server.labels),
    }


def resources(found: Snapshot) -> list[Json]:
    """What hetzner_stack_info returns: kind, name, id, address (if it is one), fields and labels of every resource of the stack."""
    return [
        {
            "resource": item.key,
            "kind": item.kind,
            "name": item.name,
            "id": item.id,
            "ip": balancers.address(item.raw) if item.kind == "load_balancer" else item.raw.get("ip"),
            **({"addresses": balancers.reached(item.raw)} if item.kind == "load_balancer" else {}),
            "created": item.raw.get("created"),
            "protected": item.protected,
            "fields": dict(item.spec),
            "labels": dict(item.labels),
            **({"nameservers": item.raw["authoritative_nameservers"]["assigned"]} if item.kind == "zone" else {}),
        }
        for item in found.resources.values()
    ]


def foreign(lists: Mapping[str, Sequence[Json]], stack: str, wanted: Iterable[str]) -> dict[str, Json]:
    """Resources that have the name of a wanted key and are not ours. lists: all objects of the project by kind."""
    wanted_keys = set(wanted)
    return {
        f"{kind}.{item['name']}": item
        for kind, items in lists.items()
        for item in items
        if f"{kind}.{item['name']}" in wanted_keys and (item.get("labels") or {}).get(labels.STACK) != stack
    }
