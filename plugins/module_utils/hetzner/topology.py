# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From a declared topology (plain data) to resources: references resolved, combinations checked. Needs no connection.

Raises HetznerError with ``details.problems[]`` naming every path that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from . import addresses, balancer_schema, balancers, certificates, labels, reverse, zones
from .errors import HetznerError
from .model import KINDS, Requirements, Resource, Topology
from .schema import TOPOLOGY, Problems, check_object, suggest

USER_DATA_LIMIT = 32 * 1024
FIREWALLS_PER_SERVER = 5
SERVERS_PER_SPREAD_GROUP = 10
VOLUME_SIZES = (10, 10240)


def parse(stack: str, declared: Any) -> Topology:
    """Validate a topology and turn it into resources in the order of creation."""
    labels.check_stack_name(stack)
    problems = Problems()
    data = check_object(declared, TOPOLOGY | certificates.SECTION | balancer_schema.SECTION | zones.SECTION, "", problems)
    problems.raise_if_any("The topology of the stack does not have the expected shape", "Correct these keys; nothing was changed.")
    zones.normalise(data, problems)
    names = _names(data, problems)
    resources = [resource for build in _BUILDERS for resource in build(stack, data, names, problems)]
    networks = _check_addresses(data, problems)
    resources += _load_balancers(stack, data, names, networks, problems)
    resources += _records(stack, data, names, problems)
    _check_groups(data, problems)
    problems.raise_if_any("The topology of the stack cannot be built", "Correct these keys; nothing was changed.")
    return Topology(stack, {resource.key: resource for resource in resources})


def server_names(server: Mapping[str, Any]) -> list[str]:
    """One server without ``count``; name-1 ... name-N with it, also for N = 1, so that it can grow without renaming."""
    count = server["count"]
    return [server["name"]] if count is None else [f"{server['name']}-{number}" for number in range(1, count + 1)]


def _each(data: Mapping[str, Any], section: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"{section}[{index}]", item) for index, item in enumerate(data[section]))


def _names(data: Mapping[str, Any], problems: Problems) -> dict[str, set[str]]:
    """Declared names by kind; a name must be possible, and unique within its kind."""
    names: dict[str, set[str]] = {}
    for kind in KINDS.values():
        seen: dict[str, str] = {}
        for path, item in _each(data, kind.section):
            if kind.name == "server" and item["count"] is not None and not 1 <= item["count"] <= 100:
                problems.add(f"{path}.count", f"{item['count']} is outside 1 to 100")
                continue
            for name in server_names(item) if kind.name == "server" else [item["name"]]:
                problem = None if kind.name == "zone" else labels.problem_of_name(kind.name, name)
                if problem:
                    problems.add(f"{path}.name", problem)
                if name in seen:
                    problems.add(f"{path}.name", f"{name!r} is already declared at {seen[name]}")
                seen[name] = path
        names[kind.name] = set(seen)
    return names


def _known(name: str | None, kind: str, names: Mapping[str, set[str]], path: str, problems: Problems) -> bool:
    if name is None:
        return False
    if name not in names[kind]:
        problems.add(path, f"{KINDS[kind].section} declares no {name!r}{suggest(name, sorted(names[kind]))}")
        return False
    return True


def _simple(
    kind: str, stack: str, data: Mapping[str, Any], problems: Problems, fields: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], dict[str, str]]]:
    for path, item in _each(data, KINDS[kind].section):
        spec = {field: item[field] for field in fields}
        yield path, item, spec, labels.declared(stack, kind, item["name"], path, data, item, problems)


def _ssh_keys(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    seen: dict[str, str] = {}
    for path, item, spec, own in _simple("ssh_key", stack, data, problems, ()):
        public_key = addresses.ssh_public_key(item["public_key"])
        if public_key is None:
            problems.add(f"{path}.public_key", "is not an OpenSSH public key such as 'ssh-ed25519 AAAA… comment'")
            continue
        if public_key in seen:
            problems.add(f"{path}.public_key", f"is the same key as {seen[public_key]}: a project holds each key once")
        seen[public_key] = path
        yield Resource(
            "ssh_key", item["name"], {**spec, "public_key": public_key}, own, path=path, extra={"public_key": item["public_key"].strip()}
        )


def _placement_groups(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    for path, item, spec, own in _simple("placement_group", stack, data, problems, ("type",)):
        yield Resource("placement_group", item["name"], spec, own, path=path)


def _firewalls(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    for path, item, _spec, own in _simple("firewall", stack, data, problems, ()):
        rules = [addresses.rule(one, f"{path}.rules[{index}]", problems) for index, one in enumerate(item["rules"])]
        yield Resource("firewall", item["name"], {"rules": addresses.sorted_rules(rules)}, own, path=path)


def _networks(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    for path, item, spec, own in _simple("network", stack, data, problems, ("ip_range", "protection")):
        spec["subnets"] = sorted(({**subnet} for subnet in item["subnets"]), key=lambda one: str(one["ip_range"]))
        spec["routes"] = sorted(({**route} for route in item["routes"]), key=lambda one: (str(one["destination"]), str(one["gateway"])))
        yield Resource("network", item["name"], spec, own, path=path)


def _location(data: Mapping[str, Any], item: Mapping[str, Any], path: str, problems: Problems, fallback: str | None = None) -> str:
    location = item["location"] or fallback or data["location"]
    if not location:
        problems.add(f"{path}.location", "is missing, and the topology has no 'location' either")
    return location or ""


def _server_location(data: Mapping[str, Any], name: str | None) -> str | None:
    """Where the server of that name is declared: what is attached to it must be there too."""
    for server in data["servers"]:
        if name is not None and name in server_names(server):
            return str(server["location"] or data["location"] or "") or None
    return None


def _check_same_location(data: Mapping[str, Any], item: Mapping[str, Any], location: str, path: str, problems: Problems) -> None:
    there = _server_location(data, item["server"])
    if there and there != location:
        problems.add(
            f"{path}.location", f"is {location!r}, but its server {item['server']!r} is in {there!r}: both must be in one location"
        )


def _primary_ips(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    seen: dict[tuple[str, str], str] = {}
    for path, item, spec, own in _simple("primary_ip", stack, data, problems, ("type", "protection")):
        spec["location"] = _location(data, item, path, problems, _server_location(data, item["server"]))
        if _known(item["server"], "server", names, f"{path}.server", problems):
            _check_same_location(data, item, spec["location"], path, problems)
            other = seen.setdefault((item["server"], item["type"]), path)
            if other != path:
                problems.add(f"{path}.server", f"{item['server']!r} already has the {item['type']} of {other}")
            server = {name: one for one in data["servers"] for name in server_names(one)}[item["server"]]
            if not server[f"public_{item['type']}"]:
                problems.add(f"{path}.server", f"{item['server']!r} is declared with public_{item['type']}: false")
        spec["dns_ptr"] = reverse.declared(item["dns_ptr"], item["type"], f"{path}.dns_ptr", problems)
        yield Resource("primary_ip", item["name"], spec, own, path=path, extra={"server": item["server"]})


def _floating_ips(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    fields = ("type", "server", "description", "protection")
    for path, item, spec, own in _simple("floating_ip", stack, data, problems, fields):
        spec["home_location"] = item["home_location"] or _server_location(data, item["server"]) or data["location"] or ""
        if not spec["home_location"]:
            problems.add(f"{path}.home_location", "is missing, and neither its server nor the topology has a 'location'")
        spec["dns_ptr"] = reverse.declared(item["dns_ptr"], item["type"], f"{path}.dns_ptr", problems)
        known = _known(item["server"], "server", names, f"{path}.server", problems)
        server = next((one for one in data["servers"] if known and item["server"] in server_names(one)), None)
        if server and not (server["public_ipv4"] or server["public_ipv6"]):
            problems.add(
                f"{path}.server", f"{item['server']!r} has no public address, and so no public side: a floating IP comes on top of one"
            )
        refs = (f"server.{item['server']}",) if known else ()
        yield Resource("floating_ip", item["name"], spec, own, refs, path, {"home_location": item["home_location"]})


def _zones(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    for path, item, _spec, own in _simple("zone", stack, data, problems, ()):
        yield zones.zone(item, own, path, problems)


def _records(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    kinds = ("primary_ip", "floating_ip", "load_balancer")
    items = {f"{kind}.{item['name']}": item for kind in kinds for item in data[KINDS[kind].section]}
    items |= {f"server.{name}": item for item in data["servers"] if (item["count"] or 1) <= 100 for name in server_names(item)}

    def label(name: str, path: str, item: Mapping[str, Any]) -> dict[str, str]:
        return labels.declared(stack, "rrset", name, path, data, item, problems)

    for path, item in _each(data, "zones"):
        yield from zones.records(item, path, names, items, label, problems)


def _volumes(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    smallest, largest = VOLUME_SIZES
    for path, item, spec, own in _simple("volume", stack, data, problems, ("size", "format", "protection")):
        if not smallest <= item["size"] <= largest:
            problems.add(f"{path}.size", f"{item['size']} GB is outside {smallest} to {largest}")
        spec["location"] = _location(data, item, path, problems, _server_location(data, item["server"]))
        if _known(item["server"], "server", names, f"{path}.server", problems):
            _check_same_location(data, item, spec["location"], path, problems)
        if item["automount"] and not (item["server"] and item["format"]):
            problems.add(f"{path}.automount", "needs both 'server' and 'format'")
        yield Resource("volume", item["name"], spec, own, path=path, extra={"server": item["server"], "automount": item["automount"]})


def _servers(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    for path, item in _each(data, "servers"):
        _check_server(item, path, names, problems)
        if item["count"] is not None and not 1 <= item["count"] <= 100:
            continue
        for name in server_names(item):
            yield _server(stack, data, item, name, path, problems)


def _check_server(item: Mapping[str, Any], path: str, names: Mapping[str, set[str]], problems: Problems) -> None:
    _check_type(item, path, problems)
    for index, network in enumerate(item["networks"]):
        _known(network["name"], "network", names, f"{path}.networks[{index}].name", problems)
        if network["ip"] and (item["count"] or 1) > 1:
            problems.add(
                f"{path}.networks[{index}].ip", "one address cannot serve several servers: leave it out, or declare the servers one by one"
            )
        if network["name"] in [other["name"] for other in item["networks"][:index]]:
            problems.add(f"{path}.networks[{index}].name", f"{network['name']!r} is named twice")
    for section, kind in (("firewalls", "firewall"), ("ssh_keys", "ssh_key")):
        for index, name in enumerate(item[section]):
            _known(name, kind, names, f"{path}.{section}[{index}]", problems)
    _known(item["placement_group"], "placement_group", names, f"{path}.placement_group", problems)
    if len(set(item["firewalls"])) > FIREWALLS_PER_SERVER:
        problems.add(f"{path}.firewalls", f"{len(set(item['firewalls']))} are named, a server takes at most {FIREWALLS_PER_SERVER}")
    if len(item["user_data"].encode()) > USER_DATA_LIMIT:
        problems.add(f"{path}.user_data", f"is {len(item['user_data'].encode())} bytes, at most {USER_DATA_LIMIT} are taken")
    if not (item["networks"] or item["public_ipv4"] or item["public_ipv6"]):
        problems.add(
            f"{path}.networks", "is empty and both public addresses are off: nothing could reach the server; name a private network"
        )
    for index, group in enumerate(item["groups"]):
        problem = labels.problem_of_group(group)
        if problem:
            problems.add(f"{path}.groups[{index}]", problem)


def _check_type(item: Mapping[str, Any], path: str, problems: Problems) -> None:
    needs = item["requirements"]
    if needs is None:
        if item["type"] is None:
            problems.add(f"{path}.type", "is required; or say what the server must have, in 'requirements'")
        return
    if item["type"] is not None:
        problems.add(f"{path}.requirements", f"cannot stand beside type: {item['type']}; keep one of the two")
    given = {key: value for key, value in needs.items() if value is not None}
    if not given:
        problems.add(f"{path}.requirements", f"is empty; name at least one of {', '.join(needs)}")
    for key in ("cores", "memory", "disk", "price"):
        if key in given and given[key] <= 0:
            problems.add(f"{path}.requirements.{key}", f"{given[key]} is too little: give more than 0, or leave it out")


def _server(stack: str, data: Mapping[str, Any], item: Mapping[str, Any], name: str, path: str, problems: Problems) -> Resource:
    own = labels.declared(stack, "server", name, path, data, item, problems) | labels.pack_groups(item["groups"])
    if item["user_data"]:
        own[labels.USER_DATA] = labels.user_data_hash(item["user_data"])
    volumes = [one for one in data["volumes"] if one["server"] == name]
    addresses_of = {one["type"]: one["name"] for one in data["primary_ips"] if one["server"] == name}
    spec = {
        "type": item["type"],
        "image": item["image"],
        "location": _location(data, item, path, problems),
        "user_data": labels.user_data_hash(item["user_data"]),
        "networks": {one["name"]: addresses.canonical_ip(one["ip"]) for one in item["networks"]},
        "firewalls": sorted(set(item["firewalls"])),
        "volumes": sorted(one["name"] for one in volumes),
        "placement_group": item["placement_group"],
        "public_ipv4": addresses_of.get("ipv4", item["public_ipv4"]),
        "public_ipv6": addresses_of.get("ipv6", item["public_ipv6"]),
        "backups": item["backups"],
        "protection": item["protection"],
    }
    refs = (
        [f"ssh_key.{one}" for one in sorted(set(item["ssh_keys"]))]
        + [f"firewall.{one}" for one in spec["firewalls"]]
        + [f"network.{one}" for one in spec["networks"]]
        + [f"volume.{one}" for one in spec["volumes"]]
        + [f"primary_ip.{one}" for one in addresses_of.values()]
        + ([f"placement_group.{item['placement_group']}"] if item["placement_group"] else [])
    )
    extra = {
        "user_data": item["user_data"],
        "ssh_keys": sorted(set(item["ssh_keys"])),
        "automount": any(one["automount"] for one in volumes),
        "pinned": bool(volumes or addresses_of),
    }
    if item["requirements"] is not None:
        extra["requirements"] = Requirements(**item["requirements"])
    return Resource("server", name, spec, own, tuple(refs), path, extra)


def _check_addresses(data: Mapping[str, Any], problems: Problems) -> dict[str, addresses.Plan]:
    """The declared networks with the addresses that their servers take."""
    networks: dict[str, addresses.Plan] = {}
    for path, item in _each(data, "networks"):
        networks.setdefault(item["name"], addresses.check_network(item, path, problems))
    for path, item in _each(data, "servers"):
        for index, network in enumerate(item["networks"]):
            plan = networks.get(network["name"])
            if plan is not None:
                addresses.check_member(plan, network, f"{path}.networks[{index}]", problems)
    return networks


def _certificates(stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], problems: Problems) -> Iterator[Resource]:
    simple = _simple("certificate", stack, data, problems, ())
    return certificates.declared(((path, item, own) for path, item, _spec, own in simple), names["zone"], problems)


def _load_balancers(
    stack: str, data: Mapping[str, Any], names: Mapping[str, set[str]], networks: Mapping[str, addresses.Plan], problems: Problems
) -> Iterator[Resource]:
    servers: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for item in data["servers"]:
        if (item["count"] or 1) <= 100:
            # The name of servers that are declared together stands for all of them.
            servers |= {item["name"]: (server_names(item), item), **{name: ([name], item) for name in server_names(item)}}
    around = balancers.Around(servers, networks, names["certificate"], data["location"])
    for path, item, _spec, own in _simple("load_balancer", stack, data, problems, ()):
        yield balancers.declared(item, own, path, around, problems)


def _check_groups(data: Mapping[str, Any], problems: Problems) -> None:
    for path, group in _each(data, "placement_groups"):
        members = sum(item["count"] or 1 for item in data["servers"] if item["placement_group"] == group["name"])
        if members > SERVERS_PER_SPREAD_GROUP:
            problems.add(
                path,
                f"{group['name']!r} would hold {members} servers; a spread group takes {SERVERS_PER_SPREAD_GROUP}: declare a second one",
            )


_BUILDERS = (_ssh_keys, _placement_groups, _firewalls, _networks, _zones, _primary_ips, _volumes, _certificates, _servers, _floating_ips)

__all__ = ["HetznerError", "parse", "server_names"]
