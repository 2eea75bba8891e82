from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.cutover.hetzner.plugins.doc_fragments.hetzner import ModuleDocFragment
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import addresses, balancer_schema, certificates, labels, zones
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.model import RANK
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.schema import TOPOLOGY, Field, Problems
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.topology import parse
from hypothesis import given
from hypothesis import strategies as st

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4nq5ZxkJ0k1o8a2b9fXcNqk0mYb1n5p0uY7rQmT3sB someone@example"
BASE: dict[str, Any] = {
    "location": "nbg1",
    "ssh_keys": [{"name": "deploy", "public_key": KEY}],
    "networks": [{"name": "private", "ip_range": "10.1.0.0/16", "subnets": [{"ip_range": "10.1.1.0/24"}]}],
    "firewalls": [{"name": "web", "rules": [{"protocol": "tcp", "port": 22, "source_ips": ["0.0.0.0/0"]}]}],
    "placement_groups": [{"name": "apart"}],
    "primary_ips": [{"name": "front", "server": "app"}],
    "volumes": [{"name": "data", "size": 10, "format": "ext4", "server": "app"}],
    "servers": [
        {
            "name": "app",
            "type": "cx23",
            "image": "debian-12",
            "networks": [{"name": "private", "ip": "10.1.1.9"}],
            "firewalls": ["web"],
            "ssh_keys": ["deploy"],
            "placement_group": "apart",
            "groups": ["b", "a"],
        }
    ],
}


def problems(declared: Any) -> dict[str, str]:
    with pytest.raises(HetznerError) as caught:
        parse("shop", declared)
    assert "nothing was changed" in caught.value.remedy
    return {item["path"]: item["problem"] for item in caught.value.details["problems"]}


def put(path: str, value: Any) -> dict[str, Any]:
    """BASE with one key changed: 'servers.0.type'."""
    declared = copy.deepcopy(BASE)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = declared
    for part in way:
        place = place[part]
    if isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return declared


def test_references_become_dependencies_in_the_order_of_creation() -> None:
    topology = parse("shop", BASE)
    kinds = [resource.kind for resource in topology.resources.values()]
    assert kinds == sorted(kinds, key=RANK.__getitem__)
    server = topology.resources["server.app"]
    assert set(server.refs) == set(topology.resources) - {"server.app"}
    assert server.spec["networks"] == {"private": "10.1.1.9"} and server.spec["volumes"] == ["data"]
    assert server.spec["public_ipv4"] == "front" and server.spec["public_ipv6"] is True
    assert server.labels == {"cutover.stack": "shop", "cutover.key": "server.app", "cutover.groups": "a.b"}


def test_count_numbers_the_servers_also_when_it_is_one() -> None:
    declared = {"location": "nbg1", "servers": [{"name": "w", "type": "cx23", "image": "debian-12", "count": 1}]}
    assert list(parse("s", declared).resources) == ["server.w-1"]
    declared["servers"][0]["count"] = "3"  # type: ignore[index]
    assert list(parse("s", declared).resources) == ["server.w-1", "server.w-2", "server.w-3"]


@pytest.mark.parametrize(
    ("path", "value", "where", "told"),
    [
        ("serverz", [], "serverz", "did you mean 'servers'"),
        ("load_balancer", [], "load_balancer", "did you mean 'load_balancers'"),
        ("servers.0.netwroks", [], "servers[0].netwroks", "did you mean 'networks'"),
        ("servers.0.type", None, "servers[0].type", "is required"),
        ("servers.0.type", None, "servers[0].type", "'requirements'"),
        ("servers.0.requirements", {"cores": 2}, "servers[0].requirements", "cannot stand beside type: cx23"),
        ("servers.0.requirements", {}, "servers[0].requirements", "name at least one of cores, memory"),
        ("servers.0.requirements", {"cores": None}, "servers[0].requirements", "is empty"),
        ("servers.0.requirements", {"core": 2}, "servers[0].requirements.core", "did you mean 'cores'"),
        ("servers.0.requirements", {"cores": 0}, "servers[0].requirements.cores", "0 is too little"),
        ("servers.0.requirements", {"cores": 1.5}, "servers[0].requirements.cores", "a whole number is expected"),
        ("servers.0.requirements", {"memory": "-8"}, "servers[0].requirements.memory", "-8 is too little"),
        ("servers.0.requirements", {"memory": "8 GB"}, "servers[0].requirements.memory", "a number is expected, found '8 GB'"),
        ("servers.0.requirements", {"memory": True}, "servers[0].requirements.memory", "a number is expected"),
        ("servers.0.requirements", {"disk": -1}, "servers[0].requirements.disk", "-1 is too little"),
        ("servers.0.requirements", {"price": 0.0}, "servers[0].requirements.price", "0.0 is too little"),
        ("servers.0.requirements", {"price": float("nan")}, "servers[0].requirements.price", "a number is expected"),
        ("servers.0.requirements", {"price": "1e99"}, "servers[0].requirements.price", "a number is expected"),
        ("servers.0.requirements", {"dedicated": "maybe"}, "servers[0].requirements.dedicated", "true or false"),
        ("servers.0.requirements", {"architecture": "amd64"}, "servers[0].requirements.architecture", "not one of x86, arm"),
        ("servers.0.requirements", "large", "servers[0].requirements", "a mapping is expected"),
        ("servers.0.networks.0.name", "privat", "servers[0].networks[0].name", "did you mean 'private'"),
        ("servers.0.networks.0.ip", "10.2.0.1", "servers[0].networks[0].ip", "is in no subnet"),
        ("servers.0.networks.0.ip", "10.1.1.1", "servers[0].networks[0].ip", "gateway"),
        ("servers.0.networks.0.ip", "10.1.1.255", "servers[0].networks[0].ip", "reserved"),
        ("servers.0.networks.0.ip", "nonsense", "servers[0].networks[0].ip", "is in no subnet"),
        ("servers.0.firewalls", ["wbe"], "servers[0].firewalls[0]", "did you mean 'web'"),
        ("servers.0.firewalls", "web", "servers[0].firewalls", "a list is expected"),
        ("servers.0.ssh_keys", ["other"], "servers[0].ssh_keys[0]", "declares no 'other'"),
        ("servers.0.placement_group", "x", "servers[0].placement_group", "declares no 'x'"),
        ("servers.0.count", 2, "servers[0].networks[0].ip", "one address cannot serve several"),
        ("servers.0.count", 0, "servers[0].count", "outside 1 to 100"),
        ("servers.0.name", "App_1", "servers[0].name", "host name"),
        ("servers.0.groups", ["a-b"], "servers[0].groups[0]", "not a group name"),
        ("servers.0.labels", {"cutover.key": "x"}, "servers[0].labels", "belong to this collection"),
        ("servers.0.labels", {"a b": "x"}, "servers[0].labels", "not a label key"),
        ("servers.0.labels", {"hetzner.cloud/x": "x"}, "servers[0].labels", "reserved"),
        ("servers.0.user_data", "x" * 32769, "servers[0].user_data", "32768"),
        ("servers.0.backups", "maybe", "servers[0].backups", "true or false"),
        ("servers.0.public_ipv4", False, "primary_ips[0].server", "public_ipv4: false"),
        ("servers.0.location", "fsn1", "volumes[0].location", "no such path"),
        ("networks.0.ip_range", "10.1.0.0/33", "networks[0].ip_range", "is not a network"),
        ("networks.0.ip_range", "10.1.0.1/16", "networks[0].ip_range", "the network is 10.1.0.0/16"),
        ("networks.0.ip_range", "8.8.0.0/16", "networks[0].ip_range", "not private"),
        ("networks.0.subnets", [], "servers[0].networks[0].name", "has no subnet"),
        ("networks.0.subnets.1", {"ip_range": "10.1.1.128/25"}, "networks[0].subnets[1].ip_range", "overlaps"),
        ("networks.0.subnets.1", {"ip_range": "10.2.0.0/24"}, "networks[0].subnets[1].ip_range", "outside"),
        (
            "networks.0.routes",
            [{"destination": "10.9.0.0/24", "gateway": "9.9.9.9"}],
            "networks[0].routes[0].gateway",
            "not an address inside",
        ),
        ("networks.1", {"name": "private", "ip_range": "10.3.0.0/16"}, "networks[1].name", "already declared at networks[0]"),
        ("firewalls.0.rules.0.port", "70000", "firewalls[0].rules[0].port", "neither a port"),
        ("firewalls.0.rules.0.port", "90-80", "firewalls[0].rules[0].port", "neither a port"),
        ("firewalls.0.rules.0.port", None, "firewalls[0].rules[0].port", "required for tcp"),
        ("firewalls.0.rules.0.protocol", "icmp", "firewalls[0].rules[0].port", "no meaning for icmp"),
        ("firewalls.0.rules.0.protocol", "tpc", "firewalls[0].rules[0].protocol", "not one of tcp"),
        ("firewalls.0.rules.0.source_ips", [], "firewalls[0].rules[0].source_ips", "everyone"),
        ("firewalls.0.rules.0.source_ips", ["10.0.0.1/8"], "firewalls[0].rules[0].source_ips[0]", "the network is 10.0.0.0/8"),
        ("firewalls.0.rules.0.direction", "out", "firewalls[0].rules[0].destination_ips", "needs it"),
        ("volumes.0.size", 9, "volumes[0].size", "outside 10 to 10240"),
        ("volumes.0.size", "big", "volumes[0].size", "whole number"),
        ("volumes.0.server", "ap", "volumes[0].server", "did you mean 'app'"),
        ("volumes.0.location", "fsn1", "volumes[0].location", "both must be in one location"),
        ("primary_ips.1", {"name": "second", "server": "app"}, "primary_ips[1].server", "already has the ipv4"),
        ("ssh_keys.0.public_key", "ssh-ed25519 nonsense", "ssh_keys[0].public_key", "not an OpenSSH public key"),
        ("ssh_keys.1", {"name": "again", "public_key": KEY}, "ssh_keys[1].public_key", "the same key"),
        ("location", None, "servers[0].location", "is missing"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(path: str, value: Any, where: str, told: str) -> None:
    declared = put(path, value)
    if told == "no such path":  # what hangs on a server follows it
        spec = parse("shop", declared).resources
        assert spec["volume.data"].spec["location"] == spec["primary_ip.front"].spec["location"] == "fsn1"
        return
    found = problems(declared)
    assert where in found and told in found[where]


def test_all_problems_are_told_at_once() -> None:
    declared = put("servers.0.firewalls", ["nope"])
    declared["volumes"][0]["size"] = 1
    assert set(problems(declared)) == {"servers[0].firewalls[0]", "volumes[0].size"}


def test_a_server_nobody_could_reach_is_refused() -> None:
    lonely = {"name": "db", "type": "cx23", "image": "debian-12", "public_ipv4": False, "public_ipv6": False}
    assert "private network" in problems({"location": "nbg1", "servers": [lonely]})["servers[0].networks"]


def test_limits_of_groups_and_firewalls() -> None:
    many = put("servers.0", {"name": "n", "type": "cx23", "image": "debian-12", "count": 11, "placement_group": "apart"})
    many["primary_ips"] = many["volumes"] = []
    assert "takes 10" in problems(many)["placement_groups[0]"]
    walls = put("firewalls", [{"name": f"f{number}"} for number in range(6)])
    walls["servers"][0]["firewalls"] = [f"f{number}" for number in range(6)]
    assert "at most 5" in problems(walls)["servers[0].firewalls"]


@pytest.mark.parametrize("declared", [None, [], "text", {"servers": {}}, {"servers": ["x"]}, {"labels": []}])
def test_other_shapes_are_refused(declared: Any) -> None:
    assert problems(declared)


@pytest.mark.parametrize("name", ["", "-a", "a b", "x" * 64])
def test_a_stack_needs_a_name_that_fits_a_label(name: str) -> None:
    with pytest.raises(HetznerError, match="cannot name a stack"):
        parse(name, {})


WORDS = [
    *TOPOLOGY,
    "name",
    "type",
    "image",
    "ip_range",
    "subnets",
    "rules",
    "port",
    "count",
    "size",
    "public_key",
    "requirements",
    "price",
    "server",
    "dns_ptr",
    "unknown",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_input_is_parsed_or_refused_never_a_crash(declared: Any) -> None:
    try:
        parse("shop", declared)
    except HetznerError as error:
        assert error.details["problems"] and error.remedy


GROUP = st.from_regex(r"[a-z0-9]([a-z0-9_]{0,40}[a-z0-9])?", fullmatch=True)


@given(st.lists(GROUP, max_size=20))
def test_groups_survive_their_labels(groups: list[str]) -> None:
    packed = labels.pack_groups(groups)
    assert labels.unpack_groups(packed) == sorted(set(groups))
    assert all(labels.problem_of_label(key, value) is None for key, value in packed.items())


CIDR = st.ip_addresses(v=4).map(lambda ip: f"{ip}/32")
RULE = st.fixed_dictionaries(
    {
        "direction": st.just("in"),
        "protocol": st.just("tcp"),
        "port": st.integers(1, 65535).map(str) | st.just("any"),
        "source_ips": st.lists(CIDR, min_size=1, max_size=4),
        "destination_ips": st.just([]),
        "description": st.text(max_size=5),
    }
)


@given(st.lists(RULE, max_size=6), st.randoms())
def test_rules_come_back_equal_in_any_order(rules: list[dict[str, Any]], chance: Any) -> None:
    found = Problems()
    wanted = addresses.sorted_rules(addresses.rule(one, "r", found) for one in rules)
    stored = [{**addresses.rule_body(one), "destination_ips": []} for one in wanted]
    chance.shuffle(stored)
    for one in stored:
        chance.shuffle(one["source_ips"])
    assert found.found == []
    assert addresses.sorted_rules(addresses.observed_rule(one) for one in stored) == wanted


def test_the_documentation_names_exactly_the_keys_of_the_table() -> None:
    def shape(keys: Any) -> Any:
        result = {}
        for key, field in keys.items():
            inner: Field = field.item if field.type == "list" else field
            result[key] = (
                shape(inner.keys) if inner.type == "object" else (bool(field.required), tuple(field.choices), field.default or None)
            )
        return result

    def documented(options: Any) -> Any:
        return {
            key: documented(one["suboptions"])
            if "suboptions" in one
            else (bool(one.get("required")), tuple(one.get("choices", ())), one.get("default") or None)
            for key, one in options.items()
        }

    fragment = yaml.safe_load(ModuleDocFragment.TOPOLOGY)["options"]["topology"]["suboptions"]
    expected = shape(TOPOLOGY | balancer_schema.SECTION | certificates.SECTION | zones.SECTION)

    def plain(tree: Any) -> Any:
        return {key: plain(one) if isinstance(one, dict) else one for key, one in tree.items()}

    assert plain(documented(fragment)) == plain(expected)


def test_the_engine_imports_nothing_of_ansible_nor_of_its_neighbours() -> None:
    room = Path(addresses.__file__).parent
    for file in room.glob("*.py"):
        text = file.read_text()
        assert "import ansible" not in text and "from ansible" not in text and "from .." not in text, file
