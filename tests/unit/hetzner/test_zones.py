"""Zones and record sets: what may be declared, what refers to what, what a difference takes, in which order."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import graph, observe, plan, records, references, render
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.model import Change, Snapshot, Topology
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.topology import parse
from hypothesis import given
from hypothesis import strategies as st

SERVER = {"type": "cx23", "image": "debian-12"}
BASE: dict[str, Any] = {
    "location": "nbg1",
    "networks": [
        {"name": "n", "ip_range": "10.1.0.0/16", "subnets": [{"ip_range": "10.1.1.0/24"}]},
        {"name": "m", "ip_range": "10.2.0.0/16", "subnets": [{"ip_range": "10.2.1.0/24"}]},
    ],
    "servers": [
        {"name": "app", "networks": [{"name": "n", "ip": "10.1.1.5"}], **SERVER},
        {"name": "db", "public_ipv4": False, "networks": [{"name": "n"}, {"name": "m"}], **SERVER},
        {"name": "bare", **SERVER},
    ],
    "primary_ips": [{"name": "front", "server": "app"}, {"name": "loose6", "type": "ipv6"}],
    "floating_ips": [{"name": "move", "server": "app"}],
    "zones": [{"name": "example.org", "records": [{"name": "www", "type": "A", "values": [{"server": "app"}]}]}],
}
ZONE = "zone.example.org"
WWW = "rrset.example.org/www/A"
IPV4 = {"app": "192.0.2.10", "bare": "192.0.2.11"}


def declared(*given: dict[str, Any], **zone: Any) -> dict[str, Any]:
    """BASE with these records in place of its own."""
    topology = copy.deepcopy(BASE)
    topology["zones"][0].update(zone)
    if given:
        topology["zones"][0]["records"] = list(given)
    return topology


def a(*values: Any, name: str = "www", kind: str = "A", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "values": list(values), **more}


def problems(topology: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(HetznerError) as caught:
        parse("s", topology)
    return {item["path"]: item["problem"] for item in caught.value.details["problems"]}


def rrset(name: str, kind: str, *values: str, ours: bool = True, **more: Any) -> dict[str, Any]:
    found = {"name": name, "type": kind, "ttl": None, "labels": {"cutover.stack": "s"} if ours else {}, "protection": {"change": False}}
    return {**found, "records": [{"value": value} for value in values], **more}


def own(kind: str, name: str) -> dict[str, str]:
    return {"cutover.stack": "s", "cutover.key": f"{kind}.{name}"}


def there(*sets: dict[str, Any], without: tuple[str, ...] = ()) -> Snapshot:
    """BASE as the API would show it, with these record sets."""
    place = {"name": "nbg1"}
    networks = [
        {"id": number, "name": name, "labels": own("network", name), "ip_range": f"10.{number}.0.0/16", "subnets": [], "routes": []}
        for number, name in ((1, "n"), (2, "m"))
    ]
    for network in networks:
        network["subnets"] = [{"ip_range": f"10.{network['id']}.1.0/24", "type": "cloud", "network_zone": "eu-central"}]
    private = {"app": [{"network": 1, "ip": "10.1.1.5"}], "db": [{"network": 1, "ip": "10.1.1.6"}, {"network": 2, "ip": "10.2.1.6"}]}
    servers = [
        {
            "id": number,
            "name": name,
            "labels": own("server", name),
            "server_type": {"name": "cx23"},
            "location": place,
            "status": "running",
            "image": {"id": 5, "name": "debian-12"},
            "public_net": {
                "ipv4": {"id": 20 if name == "app" else 29, "ip": IPV4[name]} if name in IPV4 else None,
                "ipv6": {"id": 28, "ip": f"2001:db8:{number}::/64"},
                "firewalls": [],
            },
            "private_net": private.get(name, []),
        }
        for number, name in enumerate(("app", "db", "bare"), 11)
        if name not in without
    ]
    primary = [
        {"id": 20, "name": "front", "type": "ipv4", "ip": IPV4["app"], "location": place, "labels": own("primary_ip", "front")},
        {"id": 21, "name": "loose6", "type": "ipv6", "ip": "2001:db8:99::/64", "location": place, "labels": own("primary_ip", "loose6")},
    ]
    floating = {"id": 30, "name": "move", "type": "ipv4", "ip": "192.0.2.30", "home_location": place, "server": 11}
    zone = {"id": 40, "name": "example.org", "mode": "primary", "ttl": 3600, "labels": own("zone", "example.org")}
    lists = {
        "network": networks,
        "server": servers,
        "primary_ip": [one for one in primary if one["name"] not in without],
        "floating_ip": [{**floating, "labels": own("floating_ip", "move")}],
        "zone": [] if "zone" in without else [zone],
    }
    fixed = [rrset("@", "SOA", "a. b. 1 1 1 1 1", ours=False), rrset("@", "NS", "ns1.example.net.", ours=False)]
    return observe.snapshot(lists, "s", (), {40: [*fixed, *sets]})


def planned(topology: dict[str, Any], found: Snapshot, prune: bool = False) -> list[Change]:
    return plan.plan(parse("s", topology), found, prune)


def values(change: Change) -> tuple[Any, Any]:
    return next((item.before, item.after) for item in change.fields if item.field == "values")


def test_what_is_as_declared_needs_no_plan_and_the_zone_s_own_sets_are_not_seen() -> None:
    found = there(rrset("www", "A", IPV4["app"]))
    assert planned(BASE, found, prune=True) == [] and planned(declared(exclusive=True), found, prune=True) == []
    assert [key for key in found.resources if key.startswith("rrset")] == [WWW] and found.strangers == {}


def test_zones_come_early_and_records_after_what_they_refer_to() -> None:
    keys = list(parse("s", BASE).resources)
    assert keys.index("zone.example.org") < keys.index("server.app") < keys.index(WWW)
    want = parse("s", declared(a({"server": "app"}, {"floating_ip": "move"}, {"primary_ip": "front"}))).resources[WWW]
    assert want.refs == ("zone.example.org", "server.app", "floating_ip.move", "primary_ip.front")
    assert want.labels == {"cutover.stack": "s"}
    long = f"{'x' * 60}.example"
    assert parse("s", {"zones": [{"name": long}]}).resources[f"zone.{long}"].labels == {"cutover.stack": "s"}


@pytest.mark.parametrize(
    ("record", "where", "told"),
    [
        (a("192.0.2.1", tttl=60), "tttl", "did you mean 'ttl'"),
        (a("192.0.2.1", kind="SPF"), "type", "not one of A, AAAA"),
        (a("192.0.2.1", kind="SOA"), "type", "not one of"),
        ({"name": "www", "type": "A"}, "values", "is required"),
        (a(), "values", "has 0 values"),
        (a(*(f"192.0.2.{number}" for number in range(51))), "values", "has 51 values"),
        (a("192.0.2.1", ttl=59), "ttl", "outside 60 to 2147483647"),
        (a("192.0.2.1", ttl=2147483648), "ttl", "outside"),
        (a("192.0.2.1", ttl=True), "ttl", "a whole number"),
        (a("192.0.2.1", labels={"cutover.x": "y"}), "labels", "belong to this collection"),
        (a("192.0.2.1", name="www.example.org"), "name", "write 'www'"),
        (a("192.0.2.1", name="a b"), "name", "1 to 63"),
        (a("2001:db8::1"), "values[0]", "not an IPv4 address"),
        (a("192.0.2.1", "192.0.2.1"), "values[1]", "is there twice"),
        (a(["192.0.2.1"]), "values[0]", "text is expected, found list"),
        (a("www", "mail", kind="CNAME"), "values", "a CNAME has one"),
        (a("www", name="@", kind="CNAME"), "", "cannot stand for the zone itself"),
        (a("ns1.example.net.", name="@", kind="NS"), "", "belong to the service"),
        (a({"server": "ap"}), "values[0].server", "servers declares no 'ap'; did you mean 'app'"),
        (a({"floating_ip": "x"}), "values[0].floating_ip", "floating_ips declares no 'x'"),
        (a({"load_balancer": "x"}), "values[0].load_balancer", "load_balancers declares no 'x'"),
        (a({"server": "app", "primary_ip": "front"}), "values[0]", "found server, primary_ip"),
        (a({"comment": "x"}), "values[0]", "found none"),
        (a({"value": "192.0.2.1", "address": "ipv4"}), "values[0].address", "no meaning beside value"),
        (a({"server": "app", "adress": "ipv4"}), "values[0].adress", "did you mean 'address'"),
        (a({"server": "app", "address": "ipv6"}), "values[0].address", "does not fit a record for ipv4"),
        (a({"server": "app", "address": "private"}, kind="AAAA"), "values[0].address", "does not fit a record for ipv6"),
        (a({"server": "db"}), "values[0].server", "declared with public_ipv4: false"),
        (a({"server": "bare", "address": "private"}), "values[0].server", "joins no network"),
        (a({"server": "db", "address": "private"}), "values[0].network", "is required: 'db' has an address in each of n, m"),
        (a({"server": "app", "address": "private", "network": "m"}), "values[0].network", "does not join 'm'"),
        (a({"server": "app", "network": "n"}), "values[0].network", "for address: private only"),
        (a({"primary_ip": "loose6"}), "values[0].primary_ip", "is an ipv6 address, the record is for ipv4"),
        (a({"floating_ip": "move", "address": "private"}), "values[0].floating_ip", "has no private one"),
        (a({"server": "app"}, kind="CNAME"), "values[0].server", "only of A and AAAA"),
    ],
)
def test_records_that_cannot_be_are_refused_with_their_path(record: dict[str, Any], where: str, told: str) -> None:
    found = problems(declared(record))
    assert told in found["zones[0].records[0]" + (f".{where}" if where else "")]


def test_sets_that_stand_in_each_other_s_way_are_refused() -> None:
    twice = problems(declared(a("192.0.2.1"), a("192.0.2.2", name="WWW")))
    assert "already declared at zones[0].records[0]" in twice["zones[0].records[1]"]
    beside = problems(declared(a("192.0.2.1"), a("mail", kind="CNAME"), a("x", kind="TXT")))
    assert "cannot stand beside" in beside["zones[0].records[1]"] and "cannot stand beside" in beside["zones[0].records[2]"]
    assert parse("s", declared(a("192.0.2.1"), a("2001:db8::1", kind="AAAA"), a("www", name="alias", kind="CNAME")))


@pytest.mark.parametrize(
    ("zone", "where", "told"),
    [
        ({"name": "org"}, "name", "single word"),
        ({"name": "example.org."}, "name", "leave the dot out"),
        ({"name": "example.org", "mode": "third"}, "mode", "primary, secondary"),
        ({"name": "example.org", "ttl": 1}, "ttl", "outside 60"),
        ({"name": "example.org", "record": []}, "record", "did you mean 'records'"),
        ({"name": "example.org", "mode": "secondary"}, "primary_nameservers", "is required"),
        ({"name": "example.org", "primary_nameservers": [{"address": "192.0.2.1"}]}, "primary_nameservers", "secondary only"),
        ({"name": "example.org", "mode": "secondary", "records": [a("192.0.2.1")]}, "records", "leave it out"),
        ({"name": "example.org", "mode": "secondary", "ttl": 60}, "ttl", "leave it out"),
        ({"name": "example.org", "mode": "secondary", "exclusive": True}, "exclusive", "no meaning"),
    ],
)
def test_zones_that_cannot_be_are_refused(zone: dict[str, Any], where: str, told: str) -> None:
    assert told in problems({"zones": [zone]})[f"zones[0].{where}"]


@pytest.mark.parametrize(
    ("server", "where", "told"),
    [
        ({"address": "ns1.example.net"}, ".address", "not an address"),
        ({"address": "10.1.1.1"}, ".address", "is not public"),
        ({"address": "fd00::1"}, ".address", "is not public"),
        ({"address": "127.0.0.1"}, ".address", "is not public"),
        ({"address": "192.0.2.1", "port": 0}, ".port", "outside 1 to 65535"),
        ({"address": "192.0.2.1", "tsig_key": "c2VjcmV0"}, "", "go together"),
        ({"address": "192.0.2.1", "tsig_key": "no base64!", "tsig_algorithm": "hmac-sha256"}, ".tsig_key", "not in base64"),
    ],
)
def test_name_servers_that_cannot_be_are_refused(server: dict[str, Any], where: str, told: str) -> None:
    found = problems({"zones": [{"name": "example.org", "mode": "secondary", "primary_nameservers": [server]}]})
    path = f"zones[0].primary_nameservers[0]{where}"
    assert told in found[path] and all("c2VjcmV0" not in text and "base64!" not in text for text in found.values())


def test_names_are_unique_however_they_are_written() -> None:
    found = problems({"zones": [{"name": "bücher.de"}, {"name": "XN--bcher-kva.de"}]})
    assert "already declared at zones[0]" in found["zones[1].name"]


@pytest.mark.parametrize(
    ("value", "kind", "address"),
    [
        ({"server": "app"}, "A", "192.0.2.10"),
        ({"server": "app"}, "AAAA", "2001:db8:11::1"),
        ({"server": "bare", "address": "ipv4"}, "A", "192.0.2.11"),
        ({"server": "app", "address": "private"}, "A", "10.1.1.5"),
        ({"server": "db", "address": "private", "network": "m"}, "A", "10.2.1.6"),
        ({"primary_ip": "front"}, "A", "192.0.2.10"),
        ({"primary_ip": "loose6"}, "AAAA", "2001:db8:99::1"),
        ({"floating_ip": "move"}, "A", "192.0.2.30"),
    ],
)
def test_an_address_that_is_there_is_a_value_like_any_other(value: dict[str, Any], kind: str, address: str) -> None:
    topology = declared(a(value, kind=kind))
    found = there(rrset("www", kind, address.replace("11::1", "0011:0::1")))
    assert planned(topology, found) == []
    (change,) = planned(topology, there())
    assert change.action == "create" and change.want is not None and change.want.spec["values"] == [address]


@pytest.mark.parametrize(
    ("alter", "value", "told"),
    [
        ({"image": "debian-13"}, {"server": "bare"}, "address of server.bare"),
        ({"image": "debian-13"}, {"server": "bare", "address": "ipv6"}, "address of server.bare"),
        ({"type": "cx33"}, {"server": "bare"}, "192.0.2.11"),
        ({"networks": [{"name": "n"}]}, {"server": "bare", "address": "private"}, "address of server.bare in n"),
        ({"networks": [{"name": "n", "ip": "10.1.1.77"}]}, {"server": "bare", "address": "private"}, "10.1.1.77"),
    ],
)
def test_an_address_that_changes_is_told_in_words_until_it_is_known(alter: dict[str, Any], value: dict[str, Any], told: str) -> None:
    topology = declared(a(value, kind="AAAA" if value.get("address") == "ipv6" else "A"))
    topology["servers"][2].update(alter)
    change = {one.key: one for one in planned(topology, there())}[f"rrset.example.org/www/{'AAAA' if 'ipv6' in value.values() else 'A'}"]
    assert change.want is not None and change.want.spec["values"] == [told]
    assert [str(one) for one in change.want.extra["open"]] == ([told] if told.startswith("address") else [])


def balanced(value: dict[str, Any], kind: str = "A", **more: Any) -> dict[str, Any]:
    return declared(a(value, kind=kind)) | {"load_balancers": [{"name": "edge", "type": "lb11", **more}]}


def test_a_record_follows_a_load_balancer_and_comes_after_it() -> None:
    topology = balanced({"load_balancer": "edge"})
    changes = planned(topology, there())
    assert next(change.want.spec["values"] for change in changes if change.kind == "rrset" and change.want) == [
        "address of load_balancer.edge"
    ]
    assert "load_balancer.edge" in graph.dependencies(changes, there())[WWW]
    shown = {
        "public_net": {"ipv4": {"ip": "192.0.2.60"}, "ipv6": {"ip": "2001:db8:60::1"}},
        "private_net": [{"network": 1, "ip": "10.1.1.60"}],
    }
    for address, network, told in (("ipv4", None, "192.0.2.60"), ("ipv6", None, "2001:db8:60::1"), ("private", "n", "10.1.1.60")):
        assert references.of(shown, references.Reference("load_balancer.edge", address, network), 1) == told


@pytest.mark.parametrize(
    ("value", "edge", "where", "told"),
    [
        ({}, {"public_interface": False, "network": "n"}, "load_balancer", "public_interface: false"),
        ({"address": "private"}, {}, "load_balancer", "joins no network"),
        ({"address": "private", "network": "m"}, {"network": "n"}, "network", "does not join 'm'"),
    ],
)
def test_an_address_that_a_load_balancer_does_not_have_is_refused(
    value: dict[str, Any], edge: dict[str, Any], where: str, told: str
) -> None:
    found = problems(balanced({"load_balancer": "edge", **value}, **edge))
    assert told in found[f"zones[0].records[0].values[0].{where}"]


def test_a_certificate_waits_for_the_zones_of_its_names() -> None:
    names = ["example.org", "*.example.org", "other.net"]
    topology = declared() | {"certificates": [{"name": "site", "type": "managed", "domain_names": names}]}
    assert parse("s", topology).resources["certificate.site"].refs == (ZONE,)
    assert ZONE in graph.dependencies(planned(topology, there(without=("zone",))), there())["certificate.site"]


def test_a_server_with_an_address_of_its_own_keeps_it_when_it_is_replaced() -> None:
    topology = declared(a({"server": "app"}))
    topology["servers"][0]["image"] = "debian-13"
    changes = {change.key: change.action for change in planned(topology, there(rrset("www", "A", IPV4["app"])))}
    assert changes["server.app"] == "replace" and WWW not in changes
    gone = planned(topology, there(rrset("www", "A", IPV4["app"]), without=("front",)))
    assert {change.key: change.action for change in gone}[WWW] == "update"


def test_values_are_sets_and_two_ways_to_one_address_are_one() -> None:
    topology = declared(a("192.0.2.2", "192.0.2.1", {"server": "app"}, {"primary_ip": "front"}))
    assert planned(topology, there(rrset("www", "A", IPV4["app"], "192.0.2.1", "192.0.2.2"))) == []
    (change,) = planned(topology, there(rrset("www", "A", "192.0.2.3", "192.0.2.1", "192.0.2.2")))
    assert values(change) == (["192.0.2.1", "192.0.2.2", "192.0.2.3"], ["192.0.2.1", IPV4["app"], "192.0.2.2"])


@pytest.mark.parametrize(
    ("record", "have", "field", "after"),
    [
        (a("192.0.2.1", ttl=60), {}, "ttl", 60),
        (a("192.0.2.1"), {"ttl": 60}, "ttl", None),
        (a("192.0.2.1", protection=True), {}, "protection", True),
        (a("192.0.2.1", labels={"a": "b"}), {}, "labels", {"a": "b", "cutover.stack": "s"}),
        (a({"value": "192.0.2.1", "comment": "new"}), {}, "comments", {"192.0.2.1": "new"}),
        (a({"value": "192.0.2.1", "comment": ""}), {"records": [{"value": "192.0.2.1", "comment": "x"}]}, "comments", {"192.0.2.1": ""}),
    ],
)
def test_each_field_of_a_set_is_changed_in_place(record: dict[str, Any], have: dict[str, Any], field: str, after: Any) -> None:
    (change,) = planned(declared(record), there(rrset("www", "A", "192.0.2.1", **have)))
    assert [(item.field, item.after, item.how) for item in change.fields] == [(field, after, "in_place")]
    assert change.action == "update" and change.as_dict()["id"] == 40


def test_what_is_not_declared_of_a_set_or_a_zone_stays() -> None:
    have = rrset("www", "A", protection={"change": True}, records=[{"value": "192.0.2.1", "comment": "theirs"}])
    assert planned(declared(a("192.0.2.1")), there(have)) == []
    (change,) = planned(declared(a("192.0.2.1"), ttl=60, protection=True), there(have))
    assert change.key == "zone.example.org" and change.field_names() == {"ttl", "protection"}


def test_another_mode_makes_the_zone_anew_with_all_its_records() -> None:
    topology = declared(a("192.0.2.1"))
    secondary = {**topology, "zones": [{"name": "example.org", "mode": "secondary", "primary_nameservers": [{"address": "192.0.2.53"}]}]}
    found = there(rrset("www", "A", "192.0.2.1"))
    (change,) = planned(secondary, found)
    assert change.action == "replace" and change.fields[0].field == "mode"
    switches = {"allow_replace": False, "allow_power_off": False, "allow_destroy_protected": False}
    with pytest.raises(HetznerError, match=r"all its records are lost.*allow_replace"):
        plan.check_switches([change], **switches)
    raw = {**found.resources["zone.example.org"].raw, "mode": "secondary", "primary_nameservers": [{"address": "192.0.2.53"}]}
    back = Snapshot({**observe.snapshot({"zone": [raw]}, "s").resources})
    again = {one.key: one.action for one in planned({"zones": topology["zones"]}, back)}
    assert again == {"zone.example.org": "replace", WWW: "create"}


def test_only_an_exclusive_zone_loses_what_another_hand_made() -> None:
    found = there(rrset("www", "A", IPV4["app"]), rrset("old", "A", "192.0.2.1"), rrset("hand", "TXT", '"x"', ours=False))
    assert planned(BASE, found) == [] and [item.key for item in plan.orphans(parse("s", BASE), found)] == ["rrset.example.org/old/A"]
    assert [change.key for change in planned(BASE, found, prune=True)] == ["rrset.example.org/old/A"]
    for prune in (False, True):
        changes = planned(declared(exclusive=True), found, prune=prune)
        assert [(change.action, change.key) for change in changes] == [
            ("delete", "rrset.example.org/hand/TXT"),
            ("delete", "rrset.example.org/old/A"),
        ]
    assert plan.orphans(parse("s", declared(exclusive=True)), found) == []


def test_a_zone_that_goes_takes_its_records_with_it_but_for_protected_ones() -> None:
    found = there(rrset("www", "A", "192.0.2.1"), rrset("kept", "A", "192.0.2.2", protection={"change": True}))
    none = {**BASE, "zones": []}
    assert [item.key for item in plan.orphans(parse("s", none), found)] == ["zone.example.org"]
    removed = plan.removals(found.resources.values(), "state: absent")
    assert [change.key for change in removed if change.kind in ("zone", "rrset")] == ["rrset.example.org/kept/A", "zone.example.org"]
    assert "rrset.example.org/kept/A" in graph.dependencies(removed, found)["zone.example.org"]
    with pytest.raises(HetznerError, match=r"rrset\.example\.org/kept/A: is protected"):
        plan.check_switches(removed, allow_replace=False, allow_power_off=False, allow_destroy_protected=False)


def test_a_set_of_another_hand_is_taken_over_and_says_so() -> None:
    found = there(rrset("www", "A", "192.0.2.9", ours=False))
    (change,) = planned(BASE, found)
    assert (change.action, change.field_names()) == ("update", {"values", "labels"}) and "another hand" in change.reason


def test_a_protected_set_is_changed_only_with_leave() -> None:
    found = there(rrset("www", "A", "192.0.2.1", protection={"change": True}))
    refused = {"allow_replace": False, "allow_power_off": False, "allow_destroy_protected": False}
    with pytest.raises(HetznerError, match=r"zones\[0\]\.records\[0\]: rrset\.example\.org/www/A is protected against changes"):
        plan.check_switches(planned(BASE, found), **refused)
    plan.check_switches(planned(BASE, found), **{**refused, "allow_destroy_protected": True})
    plan.check_switches(planned(declared(a("192.0.2.2", protection=False)), found), **refused)
    plan.check_switches(planned(declared(a("192.0.2.1", protection=False)), found), **refused)


def test_an_alias_comes_after_what_it_takes_the_place_of() -> None:
    found = there(rrset("www", "A", "192.0.2.1"), rrset("www", "TXT", '"x"'), rrset("wwwx", "A", "192.0.2.1"))
    changes = planned(declared(a("@", kind="CNAME")), found)
    assert {change.key: change.action for change in changes} == {
        "rrset.example.org/www/CNAME": "create",
        WWW: "delete",
        "rrset.example.org/www/TXT": "delete",
    }
    assert graph.dependencies(changes, found)["rrset.example.org/www/CNAME"] == {WWW, "rrset.example.org/www/TXT"}
    stranger = there(rrset("www", "A", "192.0.2.1", ours=False))
    topology = parse("s", declared(a("@", kind="CNAME")))
    with pytest.raises(HetznerError, match=r"zones\[0\]\.records\[0\]: example\.org/www/A is there, made by another hand"):
        records.check(topology, stranger, plan.plan(topology, stranger))
    exclusive = parse("s", declared(a("@", kind="CNAME"), exclusive=True))
    records.check(exclusive, stranger, plan.plan(exclusive, stranger))


def order(changes: list[Change], found: Snapshot) -> list[str]:
    done: list[str] = []
    outcome = graph.run(changes, graph.dependencies(changes, found), lambda change: done.append(change.key))
    assert not outcome.failed and not outcome.skipped and len(done) == len(changes)
    return done


def test_a_record_leaves_a_server_before_that_goes_and_follows_one_that_is_replaced() -> None:
    found = there(rrset("www", "A", IPV4["bare"]))
    topology = declared(a({"server": "app"}))
    topology["servers"].pop(2)
    done = order(planned(topology, found, prune=True), found)
    assert done == [WWW, "server.bare"]
    topology = declared(a({"server": "bare"}))
    topology["servers"][2]["image"] = "debian-13"
    assert order(planned(topology, found), found) == ["server.bare", WWW]


def test_a_new_server_that_waits_for_the_old_one_makes_no_cycle() -> None:
    topology = declared(a({"server": "new"}))
    topology["servers"][0]["name"] = topology["primary_ips"][0]["server"] = topology["floating_ips"][0]["server"] = "new"
    topology["servers"][0]["networks"] = []
    found = there(rrset("www", "A", "192.0.2.77"))
    done = order(planned(topology, found, prune=True), found)
    assert done.index("server.app") < done.index("server.new") < done.index(WWW)


MANY = declared(
    a({"server": "app"}, {"floating_ip": "move"}, "192.0.2.1"),
    a({"server": "bare", "address": "ipv6"}, kind="AAAA"),
    a({"server": "db", "address": "private", "network": "m"}, name="db"),
    a({"primary_ip": "loose6"}, name="@", kind="AAAA"),
    a("@", name="alias", kind="CNAME"),
)
WHOLE = parse("s", MANY)
FULL = there(
    rrset("www", "A", IPV4["app"], "192.0.2.30", "192.0.2.1"),
    rrset("www", "AAAA", "2001:db8:13::1"),
    rrset("db", "A", "10.2.1.6"),
    rrset("@", "AAAA", "2001:db8:99::1"),
    rrset("alias", "CNAME", "@"),
)
KEYS = st.sets(st.sampled_from(sorted(WHOLE.resources)))


def test_the_whole_of_it_needs_no_plan() -> None:
    assert plan.plan(WHOLE, FULL, prune=True) == [] and set(FULL.resources) == set(WHOLE.resources)


@given(KEYS, KEYS)
def test_any_part_can_be_made_or_removed_in_order(present: set[str], kept: set[str]) -> None:
    """Whatever is there and whatever stays declared: all is done, records after what they refer to and before what they leave."""
    found = Snapshot({key: item for key, item in FULL.resources.items() if key in present and (item.kind != "rrset" or ZONE in present)})
    wanted: dict[str, Any] = {}
    for key, item in WHOLE.resources.items():
        if key in kept and {*item.refs} <= wanted.keys():
            wanted[key] = item
    changes = plan.plan(Topology("s", wanted), found, prune=True)
    place = {key: number for number, key in enumerate(order(changes, found))}
    for change in changes:
        if change.kind == "rrset" and change.want:
            assert all(place[ref] < place[change.key] for ref in change.want.refs if ref in place)
        if change.kind == "rrset" and change.have and ZONE in place and change.action == "delete":
            assert place[change.key] < place[ZONE]


def test_the_plan_is_readable() -> None:
    fresh = {"location": "nbg1", "servers": [{"name": "new", **SERVER}]}
    topology = {**fresh, "zones": [{"name": "example.org", "records": [a({"server": "new"}, "192.0.2.1", ttl=60)]}]}
    text = render.plan_text("s", planned(topology, Snapshot({})), None)
    assert f"+ {WWW}  192.0.2.1, address of server.new for 60 s" in text and "+ zone.example.org  primary" in text
    changes = planned(declared(a("192.0.2.1", "192.0.2.2")), there(rrset("www", "A", "192.0.2.1", "192.0.2.3")))
    assert "values: - 192.0.2.3" in render.plan_text("s", changes, None) and "values: + 192.0.2.2" in render.plan_text("s", changes, None)
    both = render.diff("s", changes)
    assert "- 192.0.2.3" in both["before"] and "- 192.0.2.2" in both["after"]


def test_information_tells_our_sets_and_where_to_delegate_to() -> None:
    found = there(rrset("www", "A", IPV4["app"]), rrset("hand", "A", "192.0.2.1", ours=False))
    found.resources["zone.example.org"].raw["authoritative_nameservers"] = {"assigned": ["ns1.example.net."]}
    told = {item["resource"]: item for item in observe.resources(found)}
    assert told["zone.example.org"]["nameservers"] == ["ns1.example.net."]
    assert told[WWW]["fields"]["values"] == [IPV4["app"]] and "rrset.example.org/hand/A" not in told
