"""Floating IPs and reverse names: what may be declared, what a difference takes, in which order, at what price."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import catalogue, cost, graph, observe, plan, render, reverse
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.model import Change, Snapshot
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.schema import Problems
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.topology import parse
from hypothesis import given
from hypothesis import strategies as st

SERVER = {"type": "cx23", "image": "debian-12"}
BASE: dict[str, Any] = {
    "location": "nbg1",
    "servers": [{"name": "a", **SERVER}, {"name": "b", "location": "fsn1", **SERVER}],
    "primary_ips": [{"name": "fixed", "server": "a", "dns_ptr": "Fixed.example.org"}],
    "floating_ips": [
        {"name": "four", "server": "a", "dns_ptr": "four.example.org"},
        {"name": "six", "type": "ipv6", "server": "a", "dns_ptr": {"::1": "six.example.org", "0:0::2": None}},
        {"name": "idle"},
    ],
}
NUMBERS = {"a": 1, "b": 2}
HOLDERS: dict[str, int | None] = {"four": 1, "six": 1, "idle": None}
ADDRESSES = {"four": "192.0.2.4", "six": "2001:db8:6::/64", "idle": "192.0.2.5", "fixed": "192.0.2.6"}
NAMES: dict[str, dict[str, str]] = {
    "four": {"192.0.2.4": "four.example.org"},
    "six": {"2001:db8:6::1": "Six.example.org", "2001:db8:6::9": "other.example.org"},
    "idle": {"192.0.2.5": "static.5.2.0.192.clients.your-server.de"},
    "fixed": {"192.0.2.6": "fixed.example.org"},
}


def own(kind: str, name: str) -> dict[str, str]:
    return {"cutover.stack": "s", "cutover.key": f"{kind}.{name}"}


def there(holders: dict[str, int | None] | None = None, names: dict[str, dict[str, str]] | None = None) -> Snapshot:
    """BASE as the API would show it. holders: server ids by address; names: reverse names by address."""
    held, named = {**HOLDERS, **(holders or {})}, {**NAMES, **(names or {})}
    place = {"nbg1": {"name": "nbg1"}, "fsn1": {"name": "fsn1"}}

    def address(kind: str, name: str, number: int) -> dict[str, Any]:
        return {
            "id": number,
            "name": name,
            "type": "ipv6" if name == "six" else "ipv4",
            "ip": ADDRESSES[name],
            "labels": own(kind, name),
            "dns_ptr": [{"ip": ip, "dns_ptr": text} for ip, text in named[name].items()],
            "protection": {"delete": False},
        }

    primary = {**address("primary_ip", "fixed", 20), "location": place["nbg1"]}
    servers = [
        {
            "id": number,
            "name": name,
            "labels": own("server", name),
            "server_type": {"name": "cx23"},
            "location": place["nbg1" if name == "a" else "fsn1"],
            "status": "running",
            "image": {"id": 5, "name": "debian-12"},
            "public_net": {"ipv4": {"id": 20 if name == "a" else 21, "ip": ADDRESSES["fixed"]}, "ipv6": {"id": 22}, "firewalls": []},
            "private_net": [],
        }
        for name, number in NUMBERS.items()
    ]
    floating = [
        {**address("floating_ip", name, number), "home_location": place["nbg1"], "server": held[name], "description": None}
        for number, name in enumerate(("four", "six", "idle"), 10)
    ]
    return observe.snapshot({"server": servers, "primary_ip": [primary], "floating_ip": floating}, "s")


def varied(index: int, **fields: Any) -> dict[str, Any]:
    declared = copy.deepcopy(BASE)
    declared["floating_ips"][index].update(fields)
    return declared


def problems(declared: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(HetznerError) as caught:
        parse("s", declared)
    return {item["path"]: item["problem"] for item in caught.value.details["problems"]}


def planned(declared: dict[str, Any], found: Snapshot, prune: bool = False) -> list[Change]:
    return plan.plan(parse("s", declared), found, prune)


TOPOLOGY = parse("s", BASE)


def test_what_is_as_declared_needs_no_plan() -> None:
    assert plan.plan(TOPOLOGY, there(), prune=True) == []


def test_a_floating_ip_comes_after_its_server_and_where_that_is() -> None:
    declared = varied(0, server="b")
    keys = list(parse("s", declared).resources)
    four = parse("s", declared).resources["floating_ip.four"]
    assert four.refs == ("server.b",) and keys.index("server.b") < keys.index("floating_ip.four")
    assert (four.spec["home_location"], TOPOLOGY.resources["floating_ip.idle"].spec["home_location"]) == ("fsn1", "nbg1")
    assert TOPOLOGY.resources["floating_ip.six"].spec["dns_ptr"] == {"::1": "six.example.org", "::2": ""}
    assert TOPOLOGY.resources["primary_ip.fixed"].spec["dns_ptr"] == "fixed.example.org"


@pytest.mark.parametrize(
    ("index", "fields", "where", "told"),
    [
        (0, {"server": "aa"}, "server", "did you mean 'a'"),
        (0, {"server": 7}, "server", "text is expected"),
        (0, {"type": "ipv5"}, "type", "not one of ipv4, ipv6"),
        (0, {"location": "nbg1"}, "location", "did you mean 'home_location'"),
        (0, {"name": "x" * 52}, "name", "at most 51"),
        (0, {"name": "six"}, "name", ""),
        (0, {"dns_ptr": {"192.0.2.4": "a.example.org"}}, "dns_ptr", "has one name"),
        (0, {"dns_ptr": ["a.example.org"]}, "dns_ptr", "text is expected, found list"),
        (0, {"dns_ptr": True}, "dns_ptr", "text is expected, found bool"),
        (0, {"dns_ptr": "under_score.example.org"}, "dns_ptr", "'under_score' must be 1 to 63 of letters"),
        (0, {"dns_ptr": "-a.example.org"}, "dns_ptr", "RFC 1123"),
        (0, {"dns_ptr": "a..example.org"}, "dns_ptr", "RFC 1123"),
        (0, {"dns_ptr": "a.example.org."}, "dns_ptr", "leave the dot out"),
        (0, {"dns_ptr": "x" * 64 + ".example.org"}, "dns_ptr", "RFC 1123"),
        (0, {"dns_ptr": "a." * 130 + "org"}, "dns_ptr", "at most 253"),
        (0, {"dns_ptr": "192.0.2.4"}, "dns_ptr", "digits only"),
        (1, {"dns_ptr": "six.example.org"}, "dns_ptr", "{'::1': 'six.example.org'}"),
        (1, {"dns_ptr": {"192.0.2.4": "a.example.org"}}, "dns_ptr.192.0.2.4", "is not an IPv6 address"),
        (1, {"dns_ptr": {"fe80::1%eth0": "a.example.org"}}, "dns_ptr.fe80::1%eth0", "is not an IPv6 address"),
        (1, {"dns_ptr": {"::1": "a_b"}}, "dns_ptr.::1", "RFC 1123"),
        (1, {"dns_ptr": {"::1": 5}}, "dns_ptr.::1", "text is expected"),
        (1, {"dns_ptr": {"::1": "a", "0::1": "b"}}, "dns_ptr.0::1", "the same address"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(index: int, fields: dict[str, Any], where: str, told: str) -> None:
    if fields.get("name") == "six":
        assert "already declared" in problems(varied(0, **fields))["floating_ips[1].name"]
        return
    found = problems(varied(index, **fields))
    assert told in found[f"floating_ips[{index}].{where}"]


def test_a_place_is_needed_and_a_server_with_a_public_side() -> None:
    assert "neither its server" in problems({"floating_ips": [{"name": "x"}]})["floating_ips[0].home_location"]
    private = {
        "location": "nbg1",
        "networks": [{"name": "n", "ip_range": "10.1.0.0/16", "subnets": [{"ip_range": "10.1.1.0/24"}]}],
        "servers": [{"name": "a", "public_ipv4": False, "public_ipv6": False, "networks": [{"name": "n"}], **SERVER}],
        "floating_ips": [{"name": "x", "server": "a"}],
    }
    assert "no public address" in problems(private)["floating_ips[0].server"]


@pytest.mark.parametrize(
    ("fields", "field", "how"),
    [
        ({"type": "ipv6", "dns_ptr": None}, "type", "replace"),
        ({"home_location": "hel1"}, "home_location", "replace"),
        ({"server": "b"}, "server", "in_place"),
        ({"server": None}, "server", "in_place"),
        ({"description": "mail"}, "description", "in_place"),
        ({"protection": True}, "protection", "in_place"),
        ({"labels": {"a": "b"}}, "labels", "in_place"),
        ({"dns_ptr": "new.example.org"}, "dns_ptr", "in_place"),
        ({"dns_ptr": ""}, "dns_ptr", "in_place"),
    ],
)
def test_each_field_says_what_it_takes(fields: dict[str, Any], field: str, how: str) -> None:
    (change,) = planned(varied(0, **fields), there())
    assert {item.field: item.how for item in change.fields} == {field: how}
    assert change.action == ("replace" if how == "replace" else "update")
    switches = {"allow_replace": how == "replace", "allow_power_off": False, "allow_destroy_protected": False}
    plan.check_switches([change], **switches)
    if how == "replace":
        with pytest.raises(HetznerError, match=r"the address is lost.*allow_replace"):
            plan.check_switches([change], **dict.fromkeys(switches, False))


def test_another_family_is_one_difference_whatever_its_names() -> None:
    for index, fields in ((0, {"type": "ipv6", "dns_ptr": {"::1": "a.example.org"}}), (1, {"type": "ipv4", "dns_ptr": "a.example.org"})):
        (change,) = planned(varied(index, **fields), there())
        assert (change.action, change.field_names()) == ("replace", {"type"})


def test_where_it_was_made_need_not_follow_its_server() -> None:
    (change,) = planned(varied(0, server="b"), there())
    assert change.field_names() == {"server"}
    assert planned(varied(0, home_location="nbg1"), there()) == []


@pytest.mark.parametrize(("holder", "told"), [(2, "b"), (99, "id 99"), (None, None)])
def test_who_was_given_it_by_another_hand_is_found(holder: int | None, told: str | None) -> None:
    (change,) = plan.plan(TOPOLOGY, there(holders={"four": holder}))
    assert [(item.field, item.before, item.after) for item in change.fields] == [("server", told, "a")]
    assert change.have is not None and change.have.refs == (("server.b",) if holder == 2 else ())


def test_names_given_by_another_hand_are_found_and_undeclared_ones_left_alone() -> None:
    strange = {
        "four": {"192.0.2.4": "strange.example.org"},
        "six": {"2001:db8:6::1": "six.example.org", "2001:db8:6::2": "strange.example.org", "2001:db8:6::9": "any.example.org"},
        "idle": {"192.0.2.5": "strange.example.org"},
        "fixed": {"192.0.2.6": "static.6.2.0.192.clients.your-server.de"},
    }
    found = {change.key: change.fields[0] for change in plan.plan(TOPOLOGY, there(names=strange))}
    assert {key: (item.before, item.after) for key, item in found.items()} == {
        "floating_ip.four": ({"192.0.2.4": "strange.example.org"}, {"192.0.2.4": "four.example.org"}),
        "floating_ip.six": ({"2001:db8:6::2": "strange.example.org"}, {"2001:db8:6::2": ""}),
        "primary_ip.fixed": ({"192.0.2.6": "static.6.2.0.192.clients.your-server.de"}, {"192.0.2.6": "fixed.example.org"}),
    }
    default = there(names={"four": {"192.0.2.4": "static.4.2.0.192.clients.your-server.de"}})
    assert planned(varied(0, dns_ptr=""), default) == []


@pytest.mark.parametrize(
    ("names", "there_already", "told"),
    [
        ({"2001:db8:6::1": "a.example.org"}, True, None),
        ({"2001:db8:7::1": "a.example.org"}, True, "is not in 2001:db8:6::/64"),
        ({"2001:db8:7::1": ""}, True, "is not in 2001:db8:6::/64"),
        ({"::1": "a.example.org", "2001:db8:6::1": "b.example.org"}, True, "is the same address as ::1"),
        ({"2001:db8:6::1": "a.example.org"}, False, "not known before it is made"),
        ({"::1": "a.example.org"}, False, None),
    ],
)
def test_addresses_outside_of_the_network_are_refused(names: dict[str, str], there_already: bool, told: str | None) -> None:
    topology = parse("s", varied(1, dns_ptr=names))
    found = there() if there_already else Snapshot({})
    fresh = [change.key for change in plan.plan(topology, found) if change.action == "create"]
    if told is None:
        reverse.check(topology, found, fresh)
        return
    with pytest.raises(HetznerError, match=r"floating_ips\[1\]\.dns_ptr\.2001:db8") as caught:
        reverse.check(topology, found, fresh)
    assert told in caught.value.message and "nothing was changed" in caught.value.remedy


@given(st.from_regex(r"[A-Za-z0-9_.-]{0,80}", fullmatch=True))
def test_names_are_refused_or_kept_and_never_change_by_being_read_again(text: str) -> None:
    found = Problems()
    name = reverse.declared(text, "ipv4", "p", found)
    if not found.found:
        assert isinstance(name, str)
        item = {"ip": "192.0.2.4", "dns_ptr": [{"ip": "192.0.2.4", "dns_ptr": name}] if name else []}
        assert reverse.differences(name, item) == ({}, {})


def order(changes: list[Change], found: Snapshot) -> list[str]:
    done: list[str] = []
    outcome = graph.run(changes, graph.dependencies(changes, found), lambda change: done.append(change.key))
    assert not outcome.failed and not outcome.skipped and len(done) == len(changes)
    return done


def test_it_moves_before_its_old_server_goes_and_after_its_new_one_is_there() -> None:
    declared = varied(0, server="c")
    declared["servers"][0]["name"] = "c"
    declared["primary_ips"][0]["server"] = None
    declared["floating_ips"].pop(1)
    found = there()
    done = order(planned(declared, found, prune=True), found)
    assert done.index("server.c") < done.index("floating_ip.four") < done.index("server.a")
    assert done.index("floating_ip.six") < done.index("server.a")


def test_a_new_server_that_waits_for_the_old_one_makes_no_cycle() -> None:
    """The new server takes the old one's primary IP, so the old one goes first, and the floating IP can only follow."""
    declared = varied(0, server="c")
    declared["servers"][0]["name"] = declared["primary_ips"][0]["server"] = declared["floating_ips"][1]["server"] = "c"
    found = there()
    done = order(planned(declared, found, prune=True), found)
    assert done.index("server.a") < done.index("server.c") < done.index("floating_ip.four")


def test_it_is_not_moved_while_its_old_server_is_written_to() -> None:
    declared = varied(0, server="b")
    declared["servers"][0]["type"] = "cx33"
    changes = planned(declared, there())
    assert "server.a" in graph.dependencies(changes, there())["floating_ip.four"]


def test_two_of_one_server_do_not_wait_for_one_another() -> None:
    changes = planned(varied(0, server="b"), there(holders={"six": None}))
    steps = graph.dependencies(changes, there(holders={"six": None}))
    assert steps == {"floating_ip.four": set(), "floating_ip.six": set()}


def test_a_server_that_is_replaced_gets_its_addresses_again() -> None:
    declared = copy.deepcopy(BASE)
    declared["servers"][0]["image"] = "debian-13"
    changes = {change.key: change for change in planned(declared, there())}
    assert changes["server.a"].action == "replace" and set(changes) == {"server.a", "floating_ip.four", "floating_ip.six"}
    (field,) = changes["floating_ip.four"].fields
    assert (field.field, field.after) == ("server", "a") and "is replaced" in field.note
    assert "server.a" in graph.dependencies(changes.values(), there())["floating_ip.four"]


def price(net: str, place: str) -> dict[str, Any]:
    return {"location": place, "price_monthly": {"net": net, "gross": str(Decimal(net) * 2)}}


PRICING = {
    "currency": "EUR",
    "volume": {"price_per_gb_month": {"net": "0", "gross": "0"}},
    "server_backup": {"percentage": "20"},
    "primary_ips": [],
    "floating_ips": [
        {"type": "ipv4", "prices": [price("3.00", "nbg1"), price("4.00", "hel1")]},
        {"type": "ipv6", "prices": [price("1.00", "nbg1")]},
    ],
}
OFFER = catalogue.build([], [{"name": "nbg1", "network_zone": "eu-central"}], [], PRICING)
ADDRESS = {"location": "nbg1", "floating_ips": [{"name": "four"}, {"name": "six", "type": "ipv6"}]}


def test_each_address_has_its_price_by_family_and_place() -> None:
    changes = planned(ADDRESS, Snapshot({}))
    total = cost.estimate(changes, Snapshot({}), OFFER)
    assert total.after == (Decimal("4.00"), Decimal("8.00"))
    assert [(line["resource"], line["item"], line["after"]) for line in total.as_dict()["lines"]] == [
        ("floating_ip.four", "floating ipv4", 3.0),
        ("floating_ip.six", "floating ipv6", 1.0),
    ]
    elsewhere = cost.estimate(planned({**ADDRESS, "location": "fsn1"}, Snapshot({})), Snapshot({}), OFFER)
    assert elsewhere.after == cost.ZERO and "names no price" in elsewhere.as_dict()["lines"][0]["note"]


def test_an_address_that_stays_keeps_its_price_and_one_that_is_replaced_gets_the_new_one() -> None:
    found = there()
    found = Snapshot({key: item for key, item in found.resources.items() if item.kind == "floating_ip"})
    moved = {**BASE, "location": "hel1", "servers": [], "primary_ips": [], "floating_ips": [{"name": "four"}, {"name": "idle"}]}
    for home, expected in ((None, 3.0), ("hel1", 4.0)):
        moved["floating_ips"][1]["home_location"] = home
        lines = cost.estimate(planned(moved, found), found, OFFER).as_dict()["lines"]
        assert {line["resource"]: (line["before"], line["after"]) for line in lines}["floating_ip.idle"] == (3.0, expected)


def test_a_place_that_is_none_is_refused() -> None:
    declared = {**ADDRESS, "location": "nbg9"}
    with pytest.raises(HetznerError, match=r"floating_ips\[0\]\.home_location: 'nbg9' is not a location; there are nbg1"):
        catalogue.check(parse("s", declared), planned(declared, Snapshot({})), OFFER, datetime(2026, 11, 22, tzinfo=UTC))


def test_the_plan_and_its_diff_are_readable() -> None:
    assert "+ floating_ip.four  ipv4 in nbg1, on a" in render.plan_text("s", planned(BASE, Snapshot({})), None)
    changes = planned(varied(0, server="b", dns_ptr="new.example.org"), there())
    text = render.plan_text("s", changes, None)
    assert "server: a -> b  (connections through it break)" in text and "dns_ptr.192.0.2.4: four.example.org -> new.example.org" in text
    both = render.diff("s", changes)
    assert "192.0.2.4: four.example.org" in both["before"] and "192.0.2.4: new.example.org" in both["after"]


def test_hosts_and_resources_tell_the_addresses() -> None:
    first, second = observe.hosts(there())
    assert first["floating_ips"] == {"four": "192.0.2.4", "six": "2001:db8:6::1"} and second["floating_ips"] == {}
    told = {item["resource"]: item["ip"] for item in observe.resources(there())}
    assert told["floating_ip.idle"] == "192.0.2.5" and told["primary_ip.fixed"] == "192.0.2.6" and told["server.a"] is None
