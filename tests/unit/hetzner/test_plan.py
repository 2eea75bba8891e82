from __future__ import annotations

import copy
import dataclasses
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import catalogue, cost, graph, labels, observe, plan, render
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.model import KINDS, Change, Observed, Snapshot, Topology
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.topology import parse
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4nq5ZxkJ0k1o8a2b9fXcNqk0mYb1n5p0uY7rQmT3sB x"
BASE: dict[str, Any] = {
    "location": "nbg1",
    "ssh_keys": [{"name": "deploy", "public_key": KEY}],
    "networks": [{"name": "private", "ip_range": "10.1.0.0/16", "subnets": [{"ip_range": "10.1.1.0/24"}], "protection": True}],
    "firewalls": [{"name": "web", "rules": [{"protocol": "tcp", "port": 22, "source_ips": ["0.0.0.0/0"]}]}],
    "placement_groups": [{"name": "apart"}],
    "primary_ips": [{"name": "front", "server": "app"}],
    "floating_ips": [{"name": "moving", "server": "db"}],
    "zones": [{"name": "example.org"}],
    "volumes": [{"name": "data", "size": 10, "format": "ext4", "server": "app"}],
    "servers": [
        {
            "name": "app",
            "type": "cx23",
            "image": "debian-12",
            "networks": [{"name": "private"}],
            "firewalls": ["web"],
            "placement_group": "apart",
            "ssh_keys": ["deploy"],
            "user_data": "#!",
        },
        {"name": "db", "type": "cx33", "image": "debian-12", "networks": [{"name": "private", "ip": "10.1.1.7"}], "backups": True},
    ],
}


def made(topology: Topology, **raw: Any) -> Snapshot:
    """What there is after everything was made as declared."""
    return Snapshot(
        {
            want.key: Observed(
                want.kind,
                want.name,
                number,
                want.key,
                dict(want.spec),
                dict(want.labels),
                bool(want.spec.get("protection")),
                tuple(ref for ref in want.refs if not ref.startswith("ssh_key.")),
                {"status": "running", "created": "2026-10-01T00:00:00Z", **raw},
            )
            for number, want in enumerate(topology.resources.values(), 1)
        }
    )


def alter(found: Snapshot, key: str, **parts: Any) -> Snapshot:
    return dataclasses.replace(found, resources={**found.resources, key: dataclasses.replace(found.resources[key], **parts)})


def varied(**fields: Any) -> dict[str, Any]:
    declared = copy.deepcopy(BASE)
    declared["servers"][0].update(fields)
    return declared


TOPOLOGY = parse("shop", BASE)
MADE = made(TOPOLOGY)


def test_what_is_as_declared_needs_no_plan() -> None:
    assert plan.plan(TOPOLOGY, MADE, prune=True) == []
    assert [change.action for change in plan.plan(TOPOLOGY, Snapshot({}))] == ["create"] * len(TOPOLOGY.resources)


@pytest.mark.parametrize(
    ("fields", "field", "how"),
    [
        ({"type": "cx43"}, "type", "power_off"),
        ({"placement_group": None}, "placement_group", "power_off"),
        ({"public_ipv6": False}, "public_ipv6", "power_off"),
        ({"image": "debian-13"}, "image", "replace"),
        ({"user_data": "other"}, "user_data", "replace"),
        ({"firewalls": []}, "firewalls", "in_place"),
        ({"backups": True}, "backups", "in_place"),
        ({"networks": []}, "networks", "in_place"),
        ({"networks": [{"name": "private", "ip": "10.1.1.8"}]}, "networks", "in_place"),
        ({"labels": {"a": "b"}}, "labels", "in_place"),
        ({"groups": ["new"]}, "labels", "in_place"),
        ({"protection": True}, "protection", "in_place"),
    ],
)
def test_each_field_of_a_server_says_what_it_takes(fields: dict[str, Any], field: str, how: str) -> None:
    found = alter(MADE, "server.app", spec={**MADE.resources["server.app"].spec, "networks": {"private": "10.1.1.2"}, "protection": False})
    (change,) = plan.plan(parse("shop", varied(**fields)), found)
    assert (change.key, change.action) == ("server.app", "replace" if how == "replace" else "update")
    assert {item.field: item.how for item in change.fields}[field] == how
    assert change.power_off == (how == "power_off")
    allowed = {"allow_replace": how == "replace", "allow_power_off": how == "power_off", "allow_destroy_protected": False}
    plan.check_switches([change], **allowed)
    if how != "in_place":
        with pytest.raises(HetznerError, match="allow_"):
            plan.check_switches([change], **dict.fromkeys(allowed, False))


def test_a_server_that_is_off_anyway_needs_no_permission() -> None:
    (change,) = plan.plan(parse("shop", varied(type="cx43")), made(TOPOLOGY, status="off"))
    plan.check_switches([change], allow_replace=False, allow_power_off=False, allow_destroy_protected=False)


def test_protection_that_is_not_declared_stays_and_stands() -> None:
    found = alter(MADE, "volume.data", protected=True, spec={**MADE.resources["volume.data"].spec, "protection": True})
    assert plan.plan(TOPOLOGY, found) == []
    with pytest.raises(HetznerError, match="is protected against deletion"):
        plan.check_switches(
            plan.removals(found.resources.values(), "x"), allow_replace=False, allow_power_off=False, allow_destroy_protected=False
        )


@pytest.mark.parametrize(("section", "parts"), [("volumes", {"size": 9999}), ("networks", {"ip_range": "10.0.0.0/8"})])
def test_growing_is_possible_and_shrinking_is_not(section: str, parts: dict[str, Any]) -> None:
    declared = copy.deepcopy(BASE)
    declared[section][0].update(parts)
    larger = parse("shop", declared)
    (grow,) = plan.plan(larger, MADE)
    (shrink,) = plan.plan(TOPOLOGY, made(larger))
    assert [item.how for item in grow.fields] == ["in_place"] and [item.how for item in shrink.fields] == ["refused"]
    with pytest.raises(HetznerError, match="new name"):
        plan.check_switches([shrink], allow_replace=True, allow_power_off=True, allow_destroy_protected=True)


def test_a_remembered_placement_is_no_drift_until_the_declaration_changes() -> None:
    own = MADE.resources["server.app"]
    placed = alter(
        MADE, "server.app", spec={**own.spec, "type": "cpx22"}, labels={**own.labels, labels.PLACED_FOR: labels.placed_for("cx23", "nbg1")}
    )
    assert plan.plan(TOPOLOGY, placed) == []
    (change,) = plan.plan(parse("shop", varied(type="cx33")), placed)
    assert {"type", "labels"} <= change.field_names()


def test_what_is_made_anew_is_priced_as_declared() -> None:
    own = MADE.resources["server.app"]
    memory = {labels.PLACED_FOR: labels.placed_for("cx23", "nbg1")}
    placed = alter(MADE, "server.app", spec={**own.spec, "type": "cpx22"}, labels={**own.labels, **memory})
    changes = plan.plan(parse("shop", varied(image="debian-13")), placed)
    lines = {(one["resource"], one["item"]): one for one in cost.estimate(changes, placed, OFFER).as_dict()["lines"]}
    assert (lines["server.app", "server cx23 in nbg1"]["before"], lines["server.app", "server cx23 in nbg1"]["after"]) == (19.49, 5.49)


def test_an_interrupted_server_is_started() -> None:
    own = MADE.resources["server.app"]
    (change,) = plan.plan(TOPOLOGY, alter(MADE, "server.app", labels={**own.labels, labels.UNFINISHED: "start"}))
    assert change.field_names() == {"start", "labels"}


def test_a_key_of_another_is_used_and_not_made() -> None:
    want = TOPOLOGY.resources["ssh_key.deploy"]
    shared = Snapshot({}, {want.spec["public_key"]: {"id": 7, "name": "theirs"}})
    assert "ssh_key.deploy" not in [change.key for change in plan.plan(TOPOLOGY, shared)]


def test_two_with_one_identity_are_refused() -> None:
    own = labels.identity("shop", "firewall", "web")
    found = observe.snapshot(
        {"firewall": [{"id": number, "name": f"web{number}", "labels": own, "rules": []} for number in (1, 2)]}, "shop"
    )
    with pytest.raises(HetznerError, match="ids 1 and 2|ambiguous"):
        plan.check_duplicates(found)


def test_strangers_are_those_without_our_label() -> None:
    lists = {"firewall": [{"id": 1, "name": "web", "labels": {}}, {"id": 2, "name": "db", "labels": {"cutover.stack": "shop"}}]}
    assert list(observe.foreign(lists, "shop", ["firewall.web", "firewall.db"])) == ["firewall.web"]


SUBSETS = st.sets(st.sampled_from(sorted(TOPOLOGY.resources)))


@given(SUBSETS, SUBSETS)
def test_any_part_can_be_made_or_removed_in_order(present: set[str], kept: set[str]) -> None:
    """Whatever is there and whatever stays declared: every step comes after what it needs, and all are done."""
    found = Snapshot({key: item for key, item in MADE.resources.items() if key in present})
    wanted = {key: item for key, item in TOPOLOGY.resources.items() if key in kept and {*item.refs} <= kept}
    changes = plan.plan(Topology("shop", wanted), found, prune=True)
    order: list[str] = []
    outcome = graph.run(changes, graph.dependencies(changes, found), lambda change: order.append(change.key))
    assert set(order) == {change.key for change in changes} and not outcome.failed and not outcome.skipped
    place = {key: number for number, key in enumerate(order)}
    for change in changes:
        if change.want and change.action == "create":
            assert all(place[ref] < place[change.key] for ref in change.want.refs if ref in place and ref not in present)
        if change.action == "delete":
            users = [one.key for one in changes if one.have and change.key in one.have.refs]
            assert all(place[user] < place[change.key] for user in users)


def test_volumes_that_change_places_make_no_cycle() -> None:
    declared = {
        "location": "nbg1",
        "volumes": [{"name": "v1", "size": 10, "server": "a"}, {"name": "v2", "size": 10, "server": "b"}],
        "servers": [{"name": name, "type": "cx23", "image": "debian-12"} for name in "ab"],
    }
    exchanged = copy.deepcopy(declared)
    for volume, server in zip(exchanged["volumes"], "ba", strict=True):
        volume["server"] = server  # type: ignore[index]
    found = made(parse("s", declared))
    changes = plan.plan(parse("s", exchanged), found)
    outcome = graph.run(changes, graph.dependencies(changes, found), lambda change: None)
    assert set(outcome.done) == {"server.a", "server.b"}


def test_a_failure_takes_only_what_needs_it() -> None:
    changes = plan.plan(TOPOLOGY, Snapshot({}))

    def work(change: Change) -> None:
        if change.key == "volume.data":
            raise HetznerError("no space")

    outcome = graph.run(changes, graph.dependencies(changes, Snapshot({})), work)
    assert set(outcome.failed) == {"volume.data"} and outcome.skipped == {"server.app": "volume.data"}
    assert "server.db" in outcome.done


def test_deletion_is_planned_backwards() -> None:
    kinds = [change.kind for change in plan.removals(MADE.resources.values(), "x")]
    assert list(dict.fromkeys(kinds)) == [kind for kind in reversed(KINDS) if kind in kinds]


def price(amount: str, place: str = "nbg1") -> dict[str, Any]:
    gross = str(Decimal(amount) * Decimal("1.19"))
    return {"location": place, "price_monthly": {"net": amount, "gross": gross}, "price_hourly": {"net": "0", "gross": "0"}}


def server_type(name: str, cores: int, memory: int, amount: str, ends: str | None = None, available: bool = True) -> dict[str, Any]:
    deprecation = {"announced": "2025-10-16T00:00:00+00:00", "unavailable_after": ends} if ends else None
    places = [
        {"id": 2, "name": place, "deprecation": deprecation, "available": available, "recommended": False} for place in ("nbg1", "fsn1")
    ]
    return {
        "name": name,
        "cores": cores,
        "memory": memory,
        "disk": 40,
        "cpu_type": "shared",
        "architecture": "arm" if name.startswith("cax") else "x86",
        "locations": places,
        "prices": [price(amount), price(amount, "fsn1"), price(amount, "ash")],
    }


PRICING = {
    "currency": "EUR",
    "volume": {"price_per_gb_month": {"net": "0.0572", "gross": "0.068068"}},
    "server_backup": {"percentage": "20"},
    "primary_ips": [{"type": "ipv4", "prices": [price("0.50"), price("0.50", "fsn1")]}],
    "floating_ips": [{"type": "ipv4", "prices": [price("3.00"), price("3.50", "fsn1")]}],
}
OFFER = catalogue.build(
    [
        server_type("cx23", 2, 4, "5.49"),
        server_type("cx33", 4, 8, "8.49"),
        server_type("cpx32", 4, 8, "35.49", available=False),
        server_type("cax21", 4, 8, "10.49"),
        server_type("cpx22", 2, 4, "19.49"),
        server_type("cpx21", 4, 8, "9.00", ends="2026-01-01T00:00:00+00:00"),
    ],
    [{"name": name, "network_zone": zone} for name, zone in (("nbg1", "eu-central"), ("fsn1", "eu-central"), ("ash", "us-east"))],
    [{"id": 1, "name": "debian-12", "architecture": "x86"}],
    PRICING,
)


def test_the_cost_is_exact_and_names_every_position() -> None:
    total = cost.estimate(plan.plan(TOPOLOGY, Snapshot({})), Snapshot({}), OFFER)
    # cx23 + primary IP + floating IP; cx33 + its address + backups; 10 GB
    assert total.after[0] == Decimal("5.49") + Decimal("3.50") + Decimal("8.49") * Decimal("1.2") + Decimal("0.50") + Decimal("0.572")
    assert total.before == cost.ZERO and len(total.pairs) == 7
    assert cost.estimate([], MADE, OFFER).before == cost.estimate([], MADE, OFFER).after == total.after
    assert sum(Decimal(str(line["after"])) for line in total.as_dict()["lines"]) == total.after[0]


def test_a_change_of_type_is_one_position_and_a_deletion_costs_nothing_after() -> None:
    total = cost.estimate(plan.plan(parse("shop", varied(type="cx33")), MADE), MADE, OFFER)
    (line,) = [one for one in total.as_dict()["lines"] if one["before"] != one["after"]]
    assert (line["resource"], line["before"], line["after"]) == ("server.app", 5.49, 8.49)
    assert cost.estimate(plan.removals(MADE.resources.values(), "x"), MADE, OFFER).after == cost.ZERO


def test_a_retired_type_is_priced_by_the_server_that_still_has_it() -> None:
    old = {**server_type("cx22", 2, 4, "4.00")}
    found = alter(
        MADE, "server.app", spec={**MADE.resources["server.app"].spec, "type": "cx22"}, raw={"server_type": old, "created": "2025-01-01"}
    )
    total = cost.estimate([], found, OFFER)
    line = next(one for one in total.as_dict()["lines"] if one["resource"] == "server.app")
    assert line["before"] == 4.0 and "list price" in line["note"]


def test_a_server_without_a_price_does_not_stop_the_rest_but_cannot_be_ordered() -> None:
    moved = {**MADE.resources["server.app"].spec, "location": "sin"}
    found = alter(MADE, "server.app", spec=moved, raw={"server_type": server_type("cx23", 2, 4, "5.49"), "created": "2026-10-01"})
    line = next(one for one in cost.estimate([], found, OFFER).as_dict()["lines"] if one["resource"] == "server.app")
    assert line["before"] == 0 and "no price" in line["note"]
    with pytest.raises(HetznerError, match="names no price"):
        cost.server_price(OFFER, "cx23", "sin")


@pytest.mark.parametrize(("vat", "most", "passes"), [(False, "22", False), (False, "23", True), (True, "23", False)])
def test_the_budget_counts_net_or_gross(vat: bool, most: str, passes: bool) -> None:
    total = dataclasses.replace(cost.estimate([], MADE, OFFER), after=(Decimal("22.5"), Decimal("26.8")))
    budget = cost.Budget(Decimal(most), "EUR", include_vat=vat)
    if passes:
        assert cost.check_budget(total, budget) == []
    else:
        with pytest.raises(HetznerError, match="too much"):
            cost.check_budget(total, budget)
    assert cost.check_budget(total, None) == []


def test_alternatives_have_the_same_size_and_can_be_ordered() -> None:
    assert catalogue.alternatives(OFFER, "cx32", "nbg1", NOW) == ["cx33", "cax21", "cpx32"]
    assert catalogue.alternatives(OFFER, "cpx21", "nbg1", NOW)[0] == "cpx32"
    assert "cx23" in catalogue.alternatives(OFFER, "cx2", "nbg1", NOW)


def refusal(declared: dict[str, Any], found: Snapshot | None = None) -> str:
    topology = parse("shop", declared)
    with pytest.raises(HetznerError) as caught:
        catalogue.check(topology, plan.plan(topology, found or Snapshot({})), OFFER, NOW)
    return caught.value.message


def test_what_cannot_be_ordered_is_refused_only_when_it_is_to_be_made() -> None:
    assert "cx33" in refusal(varied(type="cx32")) and "retired" in refusal(varied(type="cx32"))
    assert "cpx32" in refusal(varied(type="cpx21")) and "is not a server type" in refusal(varied(type="big"))
    assert "debian-12" in refusal(varied(image="debian-11"))
    assert "exists for x86, but cax21 is arm" in refusal(varied(type="cax21"))
    assert "fsn1" in refusal({**copy.deepcopy(BASE), "location": "moon"})
    old = parse("shop", varied(type="cpx21"))
    catalogue.check(old, plan.plan(old, made(old)), OFFER, NOW)
    assert "cpx21" in refusal(varied(type="cpx21"), MADE)


def test_candidates_keep_to_what_fits() -> None:
    types, places = ["cx33", "cax21", "cpx21", "cpx32"], ["fsn1", "ash"]
    names = {"server.app": [("cx23", "nbg1"), ("cx33", "nbg1"), ("cpx32", "nbg1")]}
    names["server.db"] = [("cx33", "nbg1"), ("cx33", "fsn1"), ("cpx32", "nbg1"), ("cpx32", "fsn1")]
    for key, expected in names.items():  # app is held in place by its volume; db knows no arm image and no network in us-east
        assert catalogue.candidates(TOPOLOGY.resources[key], TOPOLOGY, OFFER, types, places, NOW) == expected


def test_the_plan_reads_like_a_table() -> None:
    changes = plan.plan(parse("shop", varied(type="cx33", firewalls=[])), MADE)
    text = render.plan_text("shop", changes, cost.estimate(changes, MADE, OFFER), [MADE.resources["volume.data"]])
    assert "Stack shop: 1 to update." in text and "type: cx23 -> cx33  [power off]" in text and "firewalls: - web" in text
    assert "kept: volume.data" in text and text.splitlines()[-1].split()[0] == "total"
    creates = render.plan_text("shop", plan.plan(TOPOLOGY, Snapshot({})), None)
    assert "+ server.db  cx33 debian-12 in nbg1; private 10.1.1.7" in creates
    before_after = render.diff("shop", changes)
    assert "type: cx23" in before_after["before"] and "type: cx33" in before_after["after"]
    assert render.plan_text("shop", [], None) == "Stack shop: nothing to do.\n"


def test_hosts_are_reached_by_the_best_address() -> None:
    item = {
        "id": 5,
        "name": "app",
        "labels": {"cutover.key": "server.app", "cutover.groups": "a.b"},
        "server_type": {"name": "cx23"},
        "location": {"name": "nbg1"},
        "status": "running",
        "image": None,
        "public_net": {"ipv4": None, "ipv6": {"ip": "2001:db8:1::/64"}, "firewalls": []},
        "private_net": [{"network": 9, "ip": "10.1.1.2"}, {"network": 8, "ip": "10.9.9.9"}],
    }
    network = {"id": 9, "name": "private", "labels": {}, "ip_range": "10.1.0.0/16", "subnets": [], "routes": []}
    (host,) = observe.hosts(observe.snapshot({"server": [item], "network": [network]}, "shop"))
    assert host["ansible_host"] == "10.1.1.2" and host["public_ipv6"] == "2001:db8:1::1" and host["groups"] == ["a", "b"]
    (host,) = observe.hosts(observe.snapshot({"server": [{**item, "private_net": []}]}, "shop"))
    assert host["ansible_host"] == "2001:db8:1::1" and host["public_ipv4"] is None
