"""Load balancers and certificates: what may be declared, what a difference takes, in which order, at what price."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import (
    balancer_offer,
    catalogue,
    certificates,
    cost,
    graph,
    observe,
    plan,
    render,
    services,
)
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.model import Change, Snapshot
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.schema import Problems
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.topology import parse
from hypothesis import given
from hypothesis import strategies as st
from localcloud.api.pems import self_signed

PEM, SECRET = self_signed("example.org")
SERVER = {"type": "cx23", "image": "debian-12", "networks": [{"name": "net"}]}
BASE: dict[str, Any] = {
    "location": "nbg1",
    "networks": [{"name": "net", "ip_range": "10.20.0.0/16", "subnets": [{"ip_range": "10.20.1.0/24"}]}],
    "servers": [{"name": "a", **SERVER}, {"name": "b", **SERVER}],
    "certificates": [
        {"name": "site", "certificate": PEM, "private_key": SECRET},
        {"name": "auto", "type": "managed", "domain_names": ["WWW.example.org", "*.example.org"]},
    ],
    "load_balancers": [
        {
            "name": "edge",
            "type": "lb11",
            "network": "net",
            "private_ip": "10.20.1.50",
            "services": [
                {"protocol": "https", "destination_port": 8080, "http": {"certificates": ["site"], "redirect_http": True}},
                {"protocol": "tcp", "listen_port": 5432, "proxyprotocol": True},
            ],
            "targets": [
                {"server": "a", "use_private_ip": True},
                {"label_selector": "role=web", "use_private_ip": True},
                {"ip": "192.0.2.9"},
            ],
            "dns_ptr": "Edge.example.org",
            "protection": True,
        }
    ],
}
TOPOLOGY = parse("s", BASE)
CHECK = {"interval": 15, "timeout": 10, "retries": 3}
# As the API shows what BASE declares: other order, more fields, and all that was left out.
SERVICES = [
    {"protocol": "tcp", "listen_port": 5432, "destination_port": 5432, "proxyprotocol": True, "health_check": {"protocol": "tcp", "port": 5432, **CHECK}},
    {
        "protocol": "https",
        "listen_port": 443,
        "destination_port": 8080,
        "proxyprotocol": False,
        "health_check": {"protocol": "http", "port": 8080, **CHECK, "http": {"domain": None, "path": "/", "status_codes": ["3??", "2??"]}},
        "http": {"cookie_name": "HCLBSTICKY", "cookie_lifetime": 300, "timeout_idle": 50, "sticky_sessions": False,
                 "redirect_http": True, "certificates": [31]},
    },
]  # fmt: skip
TARGETS = [
    {"type": "ip", "ip": {"ip": "192.0.2.9"}, "health_status": []},
    {"type": "label_selector", "label_selector": {"selector": "role=web"}, "use_private_ip": True,
     "targets": [{"type": "server", "server": {"id": 2, "ip": "10.20.1.3"}}]},
    {"type": "server", "server": {"id": 1, "ip": "10.20.1.2"}, "use_private_ip": True, "health_status": []},
]  # fmt: skip


def own(kind: str, name: str) -> dict[str, str]:
    return {"cutover.stack": "s", "cutover.key": f"{kind}.{name}"}


def there(balancer: dict[str, Any] | None = None, certificate: dict[str, Any] | None = None) -> Snapshot:
    """BASE as the API would show it, with these fields of the load balancer and of the uploaded certificate."""
    place = {"name": "nbg1", "network_zone": "eu-central"}
    network = {
        "id": 5,
        "name": "net",
        "labels": own("network", "net"),
        "ip_range": "10.20.0.0/16",
        "routes": [],
        "protection": {"delete": False},
    }
    subnets = [{"ip_range": "10.20.1.0/24", "type": "cloud", "network_zone": "eu-central"}]
    servers = [
        {
            "id": number,
            "name": name,
            "labels": own("server", name),
            "server_type": {"name": "cx23"},
            "location": place,
            "status": "running",
            "image": {"id": 5, "name": "debian-12"},
            "public_net": {"ipv4": {"id": 20, "ip": "192.0.2.1"}, "ipv6": {"id": 22}, "firewalls": []},
            "private_net": [{"network": 5, "ip": f"10.20.1.{number + 1}"}],
        }
        for name, number in (("a", 1), ("b", 2))
    ]
    site = {
        "id": 31,
        "name": "site",
        "type": "uploaded",
        "labels": own("certificate", "site"),
        "certificate": PEM,
        "domain_names": [],
        "status": None,
    }
    auto = {
        "id": 32,
        "name": "auto",
        "type": "managed",
        "labels": own("certificate", "auto"),
        "domain_names": ["*.example.org", "www.example.org"],
    }
    edge = {
        "id": 40,
        "name": "edge",
        "labels": own("load_balancer", "edge"),
        "load_balancer_type": {"name": "lb11"},
        "location": place,
        "algorithm": {"type": "round_robin"},
        "private_net": [{"network": 5, "ip": "10.20.1.50"}],
        "public_net": {
            "enabled": True,
            "ipv4": {"ip": "192.0.2.40", "dns_ptr": "edge.example.org"},
            "ipv6": {"ip": "2001:db8::1", "dns_ptr": "edge.example.org"},
        },
        "services": SERVICES,
        "targets": TARGETS,
        "protection": {"delete": True},
    }
    lists = {
        "network": [{**network, "subnets": subnets}],
        "server": servers,
        "certificate": [{**site, **(certificate or {})}, {**auto, "status": {"issuance": "completed"}}],
        "load_balancer": [{**edge, **(balancer or {})}],
    }
    return observe.snapshot(lists, "s")


def varied(**fields: Any) -> dict[str, Any]:
    declared = copy.deepcopy(BASE)
    declared["load_balancers"][0].update(fields)
    return declared


def service(**fields: Any) -> dict[str, Any]:
    """BASE with one service only."""
    return varied(services=[fields])


def problems(declared: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(HetznerError) as caught:
        parse("s", declared)
    return {item["path"]: item["problem"] for item in caught.value.details["problems"]}


def planned(declared: dict[str, Any], found: Snapshot, prune: bool = False) -> list[Change]:
    return plan.plan(parse("s", declared), found, prune)


def test_what_is_as_declared_needs_no_plan_whatever_was_left_out() -> None:
    assert plan.plan(TOPOLOGY, there(), prune=True) == []


def test_it_comes_after_all_that_it_uses() -> None:
    edge = TOPOLOGY.resources["load_balancer.edge"]
    assert set(edge.refs) == {"server.a", "network.net", "certificate.site"}
    order = graph.dependencies(planned(BASE, Snapshot({})), Snapshot({}))
    assert order["load_balancer.edge"] == set(edge.refs)


def test_servers_that_are_declared_together_are_named_together() -> None:
    declared = varied(targets=[{"server": "a"}])
    declared["servers"][0]["count"] = 2
    assert [one["target"] for one in parse("s", declared).resources["load_balancer.edge"].spec["targets"]] == ["a-1", "a-2"]
    declared["load_balancers"][0]["targets"].append({"server": "a-2"})
    assert "is a target already" in problems(declared)["load_balancers[0].targets[1]"]


@pytest.mark.parametrize(
    ("fields", "where", "told"),
    [
        ({"typ": "lb11"}, "typ", "did you mean 'type'"),
        ({"type": None}, "type", "is required"),
        ({"algorithm": "random"}, "algorithm", "least_connections"),
        ({"location": "nbg1", "network_zone": "eu-central"}, "network_zone", "keep one of the two"),
        ({"network": "nett"}, "network", "did you mean 'net'"),
        ({"private_ip": "10.30.0.1"}, "private_ip", "is in no subnet"),
        ({"private_ip": "10.20.1.1"}, "private_ip", "is reserved"),
        ({"network": None, "targets": []}, "private_ip", "needs 'network'"),
        ({"network": None, "private_ip": None}, "targets[0].use_private_ip", "needs the 'network'"),
        ({"network": None, "private_ip": None, "targets": [], "public_interface": False}, "public_interface", "name a network"),
        ({"public_interface": False, "targets": [{"server": "a"}]}, "targets[0].use_private_ip", "set use_private_ip: true"),
        ({"targets": [{}]}, "targets[0]", "names nothing"),
        ({"targets": [{"server": "a", "ip": "192.0.2.1"}]}, "targets[0]", "server and ip"),
        ({"targets": [{"server": "aa"}]}, "targets[0].server", "did you mean 'a'"),
        ({"targets": [{"ip": "x"}]}, "targets[0].ip", "is not an IP address"),
        ({"targets": [{"ip": "10.20.1.9"}]}, "targets[0].ip", "is not public"),
        ({"targets": [{"ip": "192.0.2.9", "use_private_ip": True}]}, "targets[0].use_private_ip", "is for server and label_selector"),
        ({"targets": [{"label_selector": "a b"}]}, "targets[0].label_selector", "'a b' is not a selector"),
        ({"targets": [{"label_selector": "a=b,"}]}, "targets[0].label_selector", "is not a selector"),
        ({"targets": [{"ip": "192.0.2.9"}, {"ip": "192.0.2.9"}]}, "targets[1]", "is a target already, at load_balancers[0].targets[0]"),
        ({"dns_ptr": "a_b"}, "dns_ptr", "RFC 1123"),
        ({"dns_ptr": {"ipv5": "a.example.org"}}, "dns_ptr.ipv5", "neither ipv4 nor ipv6"),
        ({"name": "x" * 50}, "name", "at most 49"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(fields: dict[str, Any], where: str, told: str) -> None:
    assert told in problems(varied(**fields))[f"load_balancers[0].{where}"]


@pytest.mark.parametrize(
    ("fields", "where", "told"),
    [
        ({"protocol": "udp"}, "protocol", "not one of tcp, http, https"),
        ({"protocol": "tcp"}, "listen_port", "is required for protocol: tcp"),
        ({"protocol": "http", "listen_port": 0}, "listen_port", "outside 1 to 65535"),
        ({"protocol": "https"}, "http.certificates", "to hand TLS through to the targets take protocol: tcp"),
        ({"protocol": "https", "http": {"certificates": ["sites"]}}, "http.certificates[0]", "did you mean 'site'"),
        ({"protocol": "http", "http": {"certificates": ["site"]}}, "http.certificates", "is for protocol: https only"),
        ({"protocol": "http", "http": {"redirect_http": True}}, "http.redirect_http", "is for protocol: https only"),
        ({"protocol": "tcp", "listen_port": 1, "http": {}}, "http", "has no meaning for protocol: tcp"),
        ({"protocol": "http", "http": {"cookie_lifetime": 5}}, "http.cookie_lifetime", "outside 30 to 86400"),
        ({"protocol": "http", "http": {"timeout_idle": 5}}, "http.timeout_idle", "outside 30 to 300"),
        ({"protocol": "http", "health_check": {"interval": 1}}, "health_check.interval", "outside 3 to 60"),
        ({"protocol": "http", "health_check": {"retries": 9}}, "health_check.retries", "outside 1 to 5"),
        ({"protocol": "http", "health_check": {"protocol": "tcp", "http": {}}}, "health_check.http", "has no meaning"),
        ({"protocol": "http", "health_check": {"http": {"path": "x"}}}, "health_check.http.path", "must begin with '/'"),
        ({"protocol": "http", "health_check": {"http": {"domain": "a b"}}}, "health_check.http.domain", "no blank"),
        ({"protocol": "http", "health_check": {"http": {"status_codes": ["abc"]}}}, "health_check.http.status_codes[0]", "'2??'"),
    ],
)
def test_services_that_cannot_be_are_refused(fields: dict[str, Any], where: str, told: str) -> None:
    assert told in problems(service(**fields))[f"load_balancers[0].services[0].{where}"]


def test_a_port_is_taken_once_also_by_a_redirect() -> None:
    https = BASE["load_balancers"][0]["services"][0]
    assert "port 80 is taken" in problems(varied(services=[https, {"protocol": "http"}]))["load_balancers[0].services[1].listen_port"]
    assert (
        "port 443"
        in problems(varied(services=[https, {"protocol": "tcp", "listen_port": 443}]))["load_balancers[0].services[1].listen_port"]
    )
    turned = problems(varied(services=[{"protocol": "http"}, https]))["load_balancers[0].services[1].listen_port"]
    assert "by its redirect_http" in turned and "load_balancers[0].services[0]" in turned


def test_targets_have_to_be_reachable_on_the_side_named() -> None:
    declared = varied()
    declared["servers"][0]["networks"] = []
    assert "is not in the network 'net' (it is in none)" in problems(declared)["load_balancers[0].targets[0].server"]
    hidden = varied(targets=[{"server": "a"}])
    hidden["servers"][0]["public_ipv4"] = False
    assert "set use_private_ip: true" in problems(hidden)["load_balancers[0].targets[0].server"]
    taken = varied(private_ip="10.20.1.10")
    taken["servers"][0]["networks"] = [{"name": "net", "ip": "10.20.1.10"}]
    assert "already taken by servers[0]" in problems(taken)["load_balancers[0].private_ip"]
    nowhere = varied()
    nowhere["location"] = None
    assert "or say a 'network_zone'" in problems(nowhere)["load_balancers[0].location"]


@pytest.mark.parametrize(
    ("fields", "where", "told"),
    [
        ({"certificate": None}, "certificate", "is required for type: uploaded"),
        ({"private_key": ""}, "private_key", "is required for type: uploaded"),
        ({"certificate": "x"}, "certificate", "is not a certificate in PEM"),
        ({"private_key": "x"}, "private_key", "is not an unencrypted private key"),
        ({"domain_names": ["example.org"]}, "domain_names", "is for type: managed only"),
        ({"type": "managed"}, "certificate", "is for type: uploaded only"),
        ({"type": "managed"}, "domain_names", "is required for type: managed"),
        ({"type": "managed", "domain_names": ["a_b"]}, "domain_names[0]", "RFC 1123"),
        ({"type": "other"}, "type", "not one of uploaded, managed"),
    ],
)
def test_certificates_that_cannot_be_are_refused_without_telling_the_key(fields: dict[str, Any], where: str, told: str) -> None:
    declared = copy.deepcopy(BASE)
    declared["certificates"][0].update(fields)
    found = problems(declared)
    assert told in found[f"certificates[0].{where}"] and SECRET not in str(found)


@pytest.mark.parametrize(
    ("fields", "field", "how"),
    [
        ({"type": "lb21"}, "type", "in_place"),
        ({"location": "hel1"}, "location", "replace"),
        ({"location": None, "network_zone": "us-east"}, "network_zone", "replace"),
        ({"algorithm": "least_connections"}, "algorithm", "in_place"),
        ({"private_ip": "10.20.1.60"}, "private_ip", "in_place"),
        ({"services": BASE["load_balancers"][0]["services"][:1]}, "services", "in_place"),
        ({"targets": BASE["load_balancers"][0]["targets"][:1]}, "targets", "in_place"),
        ({"dns_ptr": {"ipv6": ""}}, "dns_ptr", "in_place"),
        ({"protection": False}, "protection", "in_place"),
        ({"labels": {"a": "b"}}, "labels", "in_place"),
    ],
)
def test_each_field_says_what_it_takes(fields: dict[str, Any], field: str, how: str) -> None:
    (change,) = planned(varied(**fields), there())
    assert {item.field: item.how for item in change.fields} == {field: how}
    if how == "replace":
        with pytest.raises(HetznerError, match=r"its addresses are lost.*allow_replace"):
            plan.check_switches([change], allow_replace=False, allow_power_off=False, allow_destroy_protected=True)


@pytest.mark.parametrize(
    "fields", [{"private_ip": None}, {"protection": None}, {"dns_ptr": None}, {"location": None, "network_zone": "eu-central"}]
)
def test_what_is_not_declared_is_left_as_it_is(fields: dict[str, Any]) -> None:
    assert planned(varied(**fields), there()) == []


def test_what_another_hand_did_is_found_as_data() -> None:
    strange = {
        "services": [SERVICES[0]],
        "targets": [*TARGETS[:2], {"type": "server", "server": {"id": 99, "ip": "192.0.2.1"}, "use_private_ip": False}],
        "private_net": [],
        "algorithm": {"type": "least_connections"},
    }
    (change,) = plan.plan(TOPOLOGY, there(strange))
    fields = {item.field: item for item in change.fields}
    assert set(fields) == {"services", "targets", "network", "private_ip", "algorithm"}
    assert fields["services"].before == {} and list(fields["services"].after) == ["443"]
    assert {"type": "server", "target": "id 99", "use_private_ip": False} in fields["targets"].before
    assert (fields["network"].before, fields["network"].after) == (None, "net")


def test_a_certificate_with_other_content_is_made_beside_the_old_one() -> None:
    (change,) = plan.plan(TOPOLOGY, there(certificate={"certificate": self_signed("example.org")[0]}))
    assert (change.action, change.field_names(), change.fields[0].how) == ("update", {"fingerprint"}, "in_place")
    assert "change over" in change.fields[0].note
    old = there(certificate={"labels": {**own("certificate", "site.31"), "cutover.retired": "true"}, "name": "site.31"})
    changes = plan.plan(TOPOLOGY, old)
    assert {change.key: change.action for change in changes} == {
        "certificate.site": "create",
        "load_balancer.edge": "update",
        "certificate.site.31": "delete",
    }
    steps = graph.dependencies(changes, old)
    assert "load_balancer.edge" in steps["certificate.site.31"] and "certificate.site" in steps["load_balancer.edge"]
    assert plan.orphans(TOPOLOGY, old) == []
    # Another's load balancer keeps it, and so does one of ours that is kept though it is no longer declared.
    used = there(certificate={**old.resources["certificate.site.31"].raw, "used_by": [{"id": 99, "type": "load_balancer"}]})
    assert {change.action for change in plan.plan(TOPOLOGY, used)} == {"create", "update"}
    kept = there(certificate={**old.resources["certificate.site.31"].raw, "used_by": [{"id": 40, "type": "load_balancer"}]})
    fewer = {**BASE, "load_balancers": []}
    assert [change.key for change in planned(fewer, kept)] == ["certificate.site"]
    assert [change.key for change in planned(fewer, kept, prune=True)] == ["certificate.site", "certificate.site.31", "load_balancer.edge"]


def test_an_issuance_that_failed_is_tried_again() -> None:
    found = there()
    have = found.resources["certificate.auto"]
    have.raw["status"] = {"issuance": "failed", "error": {"code": "dns_zone_not_found", "message": "DNS zone not found"}}
    (change,) = plan.plan(TOPOLOGY, found)
    assert change.field_names() == {"issuance"} and "DNS zone not found" in change.fields[0].note


def test_a_fingerprint_is_that_of_the_first_certificate() -> None:
    other = self_signed("other.example.org")[0]
    assert certificates.fingerprint(PEM) == certificates.fingerprint(f"text\n{PEM}\n{other}") != certificates.fingerprint(other)
    assert certificates.fingerprint("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----") is None
    assert certificates.secrets(BASE) == {SECRET}
    for broken in (None, [], {"certificates": 5}, {"certificates": ["x", {"private_key": 5}]}):
        assert certificates.secrets(broken) == set()


def test_a_target_that_is_replaced_or_goes_is_reckoned_with() -> None:
    declared = copy.deepcopy(BASE)
    declared["servers"][0]["image"] = "debian-13"
    changes = {change.key: change for change in planned(declared, there())}
    assert changes["server.a"].action == "replace" and changes["load_balancer.edge"].field_names() == {"targets"}
    assert "server.a" in graph.dependencies(changes.values(), there())["load_balancer.edge"]
    fewer = varied(targets=[{"server": "b", "use_private_ip": True}])
    fewer["servers"].pop(0)
    steps = graph.dependencies(planned(fewer, there(), prune=True), there())
    assert "load_balancer.edge" in steps["server.a"]
    all_gone = graph.dependencies(plan.removals(there().resources.values(), "x"), there())
    assert {"certificate.site", "network.net", "server.a"} <= {key for key, needs in all_gone.items() if "load_balancer.edge" in needs}


def price(net: str, place: str) -> dict[str, Any]:
    return {"location": place, "price_monthly": {"net": net, "gross": str(Decimal(net) * 2)}}


def kind(name: str, most: int, end: str | None = None) -> dict[str, Any]:
    limits = {"max_services": most, "max_targets": most * 5, "max_assigned_certificates": most * 2}
    return {
        "name": name,
        **limits,
        "prices": [price("7.49", "nbg1"), price("7.49", "ash")],
        "deprecation": end and {"unavailable_after": end},
    }


PRICING = {
    "currency": "EUR",
    "volume": {"price_per_gb_month": {"net": "0", "gross": "0"}},
    "server_backup": {"percentage": "20"},
    "load_balancer_types": [{"name": "lb11", "prices": [price("7.49", "nbg1")]}, {"name": "lb21", "prices": [price("22.49", "nbg1")]}],
}
PLACES = [
    {"name": "nbg1", "network_zone": "eu-central"},
    {"name": "hel1", "network_zone": "eu-central"},
    {"name": "ash", "network_zone": "us-east"},
]
PLAIN = catalogue.build([], PLACES, [], PRICING)
OFFER = catalogue.Catalogue(
    {},
    PLAIN.zones,
    {},
    PRICING,
    balancers={one["name"]: one for one in (kind("lb11", 2), kind("lb21", 15), kind("lb01", 5, "2026-01-01T00:00:00Z"))},
)
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def refused_offer(declared: dict[str, Any], found: Snapshot | None = None) -> str:
    topology = parse("s", declared)
    with pytest.raises(HetznerError) as caught:
        balancer_offer.check(topology, plan.plan(topology, found or Snapshot({})), OFFER, NOW)
    return caught.value.message


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"type": "lb99"}, "'lb99' is not a load balancer type; there are lb11, lb21"),
        ({"type": "lb01"}, "'lb01' cannot be ordered in nbg1; there are lb11, lb21"),
        ({"location": "nbg9"}, "'nbg9' is not a location; there are ash, hel1, nbg1"),
        ({"location": "hel1"}, "'lb11' cannot be ordered in hel1; there are none"),
        ({"location": "ash"}, "'net' has subnets in eu-central only, the load balancer is in us-east"),
        ({"location": "ash"}, "server 'a' is in zone eu-central, the load balancer is in us-east"),
        ({"network_zone": "us-west"}, "'us-west' has no location; there are eu-central, us-east"),
        (
            {"services": [{"protocol": "tcp", "listen_port": port} for port in (1, 2, 3)]},
            "3 services are declared, a lb11 takes 2: take lb21",
        ),
        ({"services": [{"protocol": "tcp", "listen_port": port} for port in range(1, 20)]}, "divide them over several load balancers"),
        ({"targets": [{"ip": f"192.0.2.{number}"} for number in range(1, 12)]}, "11 targets are declared, a lb11 takes 10: take lb21"),
    ],
)
def test_what_cannot_be_ordered_is_refused_with_what_can(fields: dict[str, Any], told: str) -> None:
    assert told in refused_offer(varied(**fields))


def test_one_that_is_there_keeps_a_retired_type_but_not_more_than_that_takes() -> None:
    old = there({"load_balancer_type": {"name": "lb01"}})
    topology = parse("s", varied(type="lb01", algorithm="least_connections"))
    balancer_offer.check(topology, plan.plan(topology, old), OFFER, NOW)
    assert "6 services" in refused_offer(
        varied(type="lb01", services=[{"protocol": "tcp", "listen_port": port} for port in range(1, 7)]), old
    )


def test_it_has_its_price_by_type() -> None:
    only = {
        "location": "nbg1",
        "load_balancers": [{"name": "edge", "type": "lb11"}, {"name": "wide", "type": "lb21", "network_zone": "eu-central"}],
    }
    lines = cost.estimate(planned(only, Snapshot({})), Snapshot({}), OFFER).as_dict()["lines"]
    assert {line["resource"]: line["after"] for line in lines} == {"load_balancer.edge": 7.49, "load_balancer.wide": 22.49}
    found = Snapshot({"load_balancer.edge": there().resources["load_balancer.edge"]})
    (line,) = cost.estimate(planned(only | {"load_balancers": [{"name": "edge", "type": "lb21"}]}, found), found, OFFER).as_dict()["lines"]
    assert (line["before"], line["after"]) == (7.49, 22.49)


def test_the_plan_and_its_diff_are_readable_and_hold_no_key() -> None:
    fresh = planned(BASE, Snapshot({}))
    text = render.plan_text("s", fresh, None)
    assert (
        "+ load_balancer.edge  lb11 in nbg1; ports 443, 5432; 3 targets" in text and "+ certificate.auto  managed for *.example.org" in text
    )
    assert "PRIVATE KEY" not in text + str(render.diff("s", fresh)) + str([change.as_dict() for change in fresh])
    changes = planned(varied(targets=BASE["load_balancers"][0]["targets"][:2]), there())
    assert "targets: - ip 192.0.2.9 no" in render.plan_text("s", changes, None)


def test_hosts_and_resources_tell_the_addresses() -> None:
    first, second = observe.hosts(there())
    assert first["load_balancers"] == second["load_balancers"] == {"edge": "192.0.2.40"}
    told = {item["resource"]: item for item in observe.resources(there())}["load_balancer.edge"]
    assert told["ip"] == "192.0.2.40" and told["addresses"] == {
        "public_ipv4": "192.0.2.40",
        "public_ipv6": "2001:db8::1",
        "private_ip": "10.20.1.50",
    }


PORT = st.integers(1, 65535)
CHECKS = st.fixed_dictionaries(
    {}, optional={"port": PORT, "interval": st.integers(3, 60), "timeout": st.integers(1, 60), "retries": st.integers(1, 5)}
)
HTTP = st.fixed_dictionaries(
    {}, optional={"sticky_sessions": st.booleans(), "cookie_lifetime": st.integers(30, 86400), "timeout_idle": st.integers(30, 300)}
)


@given(
    st.fixed_dictionaries(
        {"protocol": st.just("http")},
        optional={"listen_port": PORT, "destination_port": PORT, "proxyprotocol": st.booleans(), "http": HTTP, "health_check": CHECKS},
    )
)
def test_what_is_sent_reads_back_as_it_was_declared(declared: dict[str, Any]) -> None:
    wanted = parse("s", service(**declared)).resources["load_balancer.edge"].spec["services"]
    assert services.read([services.body(one, {}) for one in wanted.values()], {}) == wanted
    again = services.canonical(
        [{**one, "http": {**one["http"], "certificates": [], "redirect_http": False}} for one in wanted.values()], "p", (), Problems()
    )
    assert again == wanted
