from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import catalogue, cost, labels, plan, render, requirements
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.model import Change, Observed, Requirements, Resource, Snapshot
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.topology import parse
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PLACES = {"fsn1": "eu-central", "nbg1": "eu-central", "ash": "us-east"}


def offer(name: str, cores: int, memory: float, disk: int, price: str, *, places: str = "fsn1 nbg1", **more: Any) -> dict[str, Any]:
    """One object of /server_types. out: places without capacity; ends: announced to be retired"""
    out, ends = more.get("out", ""), more.get("ends")
    deprecation = {"announced": "2026-10-01T00:00:00+00:00", "unavailable_after": ends} if ends else None
    amounts = {"net": price, "gross": price}
    return {
        "name": name,
        "cores": cores,
        "memory": memory,
        "disk": disk,
        "cpu_type": "dedicated" if name.startswith("ccx") else "shared",
        "architecture": "arm" if name.startswith("cax") else "x86",
        "locations": [{"name": one, "deprecation": deprecation, "available": one not in out.split()} for one in places.split()],
        "prices": [{"location": one, "price_monthly": amounts} for one in more.get("priced", "fsn1 nbg1 ash").split()],
    }


TYPES = [
    offer("cx23", 2, 4, 40, "5.49"),
    offer("cx33", 4, 8, 80, "8.49"),
    offer("cx34", 4, 8, 80, "7.00", ends="2027-02-01T00:00:00+00:00"),
    offer("cx43", 8, 16, 160, "15.99"),
    offer("cax21", 4, 8, 80, "10.49"),
    offer("cpx32", 4, 8, 160, "35.49"),
    offer("cpx31", 4, 8, 160, "62.49", places="ash"),
    offer("ccx13", 2, 8, 80, "42.99", places="fsn1 nbg1 ash"),
    offer("ccx23", 4, 16, 160, "85.99", places="fsn1 nbg1 ash"),
    offer("cx01", 9, 99, 999, "0.10", priced="ash"),
]
IMAGES = [
    {"id": 1, "name": "debian-12", "architecture": "x86", "disk_size": 5},
    {"id": 2, "name": "debian-12", "architecture": "arm", "disk_size": 5},
    {"id": 3, "name": None, "architecture": "x86", "disk_size": 80},
]
PRICING = {"currency": "EUR", "server_backup": {"percentage": "20"}, "primary_ips": []}


def made_of(types: list[dict[str, Any]]) -> catalogue.Catalogue:
    return catalogue.build(types, [{"name": name, "network_zone": zone} for name, zone in PLACES.items()], IMAGES, PRICING)


def without_capacity(name: str, places: str) -> catalogue.Catalogue:
    changed = [
        {**one, "locations": [{**place, "available": place["name"] not in places.split()} for place in one["locations"]]}
        if one["name"] == name
        else one
        for one in TYPES
    ]
    return made_of(changed)


OFFER = made_of(TYPES)


def declare(needs: dict[str, Any], **server: Any) -> dict[str, Any]:
    return {"location": "nbg1", "servers": [{"name": "app", "image": "debian-12", "requirements": needs, **server}]}


def running(name: str, location: str = "nbg1", *, own: dict[str, str] | None = None, **raw: Any) -> Snapshot:
    """What there is: the server as declared in all but its type and place."""
    want = parse("shop", declare({"cores": 1})).resources["server.app"]
    kind = next((one for one in TYPES if one["name"] == name), None)
    return Snapshot(
        {
            want.key: Observed(
                "server",
                "app",
                1,
                want.key,
                {**want.spec, "type": name, "location": location},
                {**want.labels, **(own or {})},
                False,
                (),
                {"status": "running", "created": "2026-10-01T00:00:00Z"} | ({"primary_disk_size": kind["disk"]} if kind else {}) | raw,
            )
        }
    )


def planned(
    needs: dict[str, Any], found: Snapshot | None = None, ordered: catalogue.Catalogue = OFFER, places: tuple[str, ...] = (), **server: Any
) -> list[Change]:
    """The plan, after the check that comes before the first write."""
    topology = parse("shop", declare(needs, **server))
    there = found or Snapshot({})
    changes = plan.plan(requirements.resolve(topology, there, ordered, places), there)
    catalogue.check(topology, changes, ordered, NOW)
    return changes


def chosen(needs: dict[str, Any], **more: Any) -> str:
    (change,) = planned(needs, **more)
    assert change.want is not None
    return str(change.want.spec["type"])


def refusal(needs: dict[str, Any], **more: Any) -> str:
    with pytest.raises(HetznerError) as caught:
        planned(needs, **more)
    (problem,) = caught.value.details["problems"]
    assert problem["path"] == "servers[0].requirements" and "nothing was changed" in caught.value.remedy
    return str(problem["problem"])


@pytest.mark.parametrize(
    ("needs", "name"),
    [
        ({"cores": 1}, "cx23"),
        ({"cores": "3"}, "cx33"),
        ({"memory": 4.5}, "cx33"),
        ({"disk": 81}, "cx43"),
        ({"cores": 4, "memory": 8, "disk": 80, "dedicated": False, "architecture": "x86", "price": 20.0}, "cx33"),
        ({"architecture": "arm"}, "cax21"),
        ({"dedicated": True}, "ccx13"),
        ({"dedicated": "yes", "memory": 16}, "ccx23"),
        ({"price": "5.49"}, "cx23"),
    ],
)
def test_the_cheapest_that_meets_all_of_it_is_taken(needs: dict[str, Any], name: str) -> None:
    assert chosen(needs) == name


def test_one_price_goes_to_more_cores_then_more_memory_then_the_name() -> None:
    same = [
        offer("b", 4, 8, 40, "9"), offer("a", 4, 8, 40, "9.00"), offer("m", 4, 16, 40, "9"), offer("z", 8, 4, 40, "9"), offer("y", 2, 2, 40, "9.01"),
    ]  # fmt: skip
    kinds = requirements.ranked(Requirements(), requirements.Bounds("x"), made_of(same), "nbg1")
    assert [kind.name for kind in kinds] == ["z", "m", "a", "b", "y"]


def test_only_what_can_be_had_there_is_taken() -> None:
    needs = {"cores": 4, "architecture": "x86"}
    assert chosen(needs, location="ash") == "cpx31"
    assert chosen(needs, ordered=without_capacity("cx33", "nbg1")) == "cx43"
    # A snapshot of 80 GB needs a disk of that size and its own architecture.
    assert chosen({"cores": 1}, image="3") == "cx33"
    assert "cx23 (2 cores, 4 GB, disk 40 GB, shared x86, 5.49 EUR): 40 GB of disk, the image 3 needs 80" in refusal({"price": 6}, image="3")
    assert "it is arm, the image 3 is x86" in refusal({"architecture": "arm"}, image="3")


def test_what_nothing_meets_is_refused_with_what_comes_nearest() -> None:
    told = refusal({"cores": 4, "memory": 8, "architecture": "x86", "price": 8})
    assert "that can be had in nbg1 has 4 cores, 8 GB of memory, architecture x86, a price of at most 8.00 EUR a month" in told
    assert "nearest: cx33 (4 cores, 8 GB, disk 80 GB, shared x86, 8.49 EUR): 8.49 a month, at most 8.00; " in told
    assert told.endswith("no other location has one")
    told = refusal({"cores": 4, "architecture": "arm"}, location="ash")
    assert "it is x86" in told and told.endswith("other locations have cax21 in fsn1 (10.49), cax21 in nbg1 (10.49)")
    out = without_capacity("ccx23", "nbg1 ash")
    told = refusal({"dedicated": True, "cores": 4}, ordered=out)
    assert "nearest: ccx23 (4 cores, 16 GB, disk 160 GB, dedicated x86, 85.99 EUR): no capacity now" in told
    assert told.endswith("other locations have ccx23 in fsn1 (85.99)")
    # Named as a fallback, that other location is where it goes.
    assert chosen({"dedicated": True, "cores": 4}, ordered=out, places=("ash", "fsn1")) == "ccx23"
    assert "no capacity now" in refusal({"dedicated": True, "cores": 4}, ordered=out, places=("ash",))


def test_a_problem_that_servers_have_in_common_is_told_once() -> None:
    assert "nearest" in refusal({"cores": 999}, count=3)


def test_an_unknown_place_or_image_is_told_as_such() -> None:
    for parts, told in (({"location": "moon"}, "is not a location"), ({"image": "debian-1"}, "is not an image")):
        with pytest.raises(HetznerError, match=told) as caught:
            planned({"cores": 1}, **parts)
        assert len(caught.value.details["problems"]) == 1


def test_the_next_cheapest_are_tried_in_turn() -> None:
    needs = {"cores": 4, "memory": 8, "price": 36}

    def turns(ordered: catalogue.Catalogue, places: tuple[str, ...] = (), **server: Any) -> list[tuple[str, str]]:
        topology = parse("shop", {**declare(needs, **server), "volumes": [{"name": "v", "size": 10}]})
        want = requirements.resolve(topology, Snapshot({}), ordered, places).resources["server.app"]
        return requirements.candidates(want, topology, ordered, places)

    names = ["cx33", "cax21", "cx43", "cpx32"]
    assert turns(OFFER) == [(name, "nbg1") for name in names]
    assert turns(OFFER, ("ash", "fsn1")) == [(name, place) for place in ("nbg1", "fsn1") for name in names]
    assert turns(without_capacity("cx33", "nbg1")) == [(name, "nbg1") for name in ("cax21", "cx43", "cpx32", "cx33")]


@pytest.mark.parametrize("name", ["cx33", "cx34", "cx43", "cpx32", "cax21", "ccx23"])
def test_what_runs_and_meets_the_requirements_is_left_as_it_is(name: str) -> None:
    assert planned({"cores": 4, "memory": 8}, running(name)) == []


def test_a_retired_type_is_judged_by_the_server_that_has_it() -> None:
    old = running("cx32", server_type=offer("cx32", 4, 8, 80, "6.80"))
    assert planned({"cores": 4, "price": 7}, old) == []
    (change,) = planned({"cores": 5}, old)
    assert change.fields[0].after == "cx43" and change.power_off


def test_what_runs_and_is_too_small_changes_its_type_while_it_is_off() -> None:
    (change,) = planned({"cores": 4, "memory": 8}, running("cx23"))
    (field,) = change.fields
    assert (change.action, field.field, field.before, field.after, field.how) == ("update", "type", "cx23", "cx33", "power_off")
    assert field.note.startswith(
        "the requirements are not met: 2 of 4 cores, 4 of 8 GB of memory; the new type is billed at today's list price"
    )
    with pytest.raises(
        HetznerError, match=r"servers\[0\]\.requirements: 'cx23' -> 'cx33' needs .* powered off \(the requirements are not met"
    ):
        plan.check_switches([change], allow_replace=False, allow_power_off=False, allow_destroy_protected=False)
    total = cost.estimate([change], running("cx23"), OFFER)
    assert (total.before[0], total.after[0]) == (Decimal("5.49"), Decimal("8.49"))


def test_a_list_that_rises_changes_nothing_of_what_runs_and_bounds_what_it_changes_to() -> None:
    assert planned({"cores": 2, "price": 10}, running("cpx32")) == []
    (change,) = planned({"cores": 8, "price": 16}, running("cpx32"))
    assert change.fields[0].after == "cx43" and "4 of 8 cores" in change.fields[0].note
    told = refusal({"cores": 8, "price": 10}, found=running("cpx32"))
    assert "its disk of 160 GB cannot shrink" in told and "this server needs 160" in told and "other locations" not in told


def test_a_disk_grows_only_when_more_of_it_is_required() -> None:
    def choice(needs: dict[str, Any], found: Snapshot) -> Any:
        (change,) = planned(needs, found)
        assert change.want is not None
        return change.want.extra["choice"]

    assert choice({"cores": 4}, running("cx23")).upgrade_disk is False
    grown = choice({"disk": 80}, running("cx23"))
    assert (grown.type, grown.upgrade_disk) == ("cx33", True) and "its disk grows and cannot shrink again" in grown.note
    # A type with 80 GB whose server kept the 40 GB it was made with: that type is no answer.
    kept = running("cx33", primary_disk_size=40)
    assert planned({"cores": 4}, kept) == []
    assert (choice({"cores": 4, "disk": 80}, kept).type, choice({"cores": 4, "disk": 80}, kept).upgrade_disk) == ("cx43", True)


def test_another_architecture_is_a_replacement() -> None:
    (change,) = planned({"cores": 4, "architecture": "arm"}, running("cx33"))
    assert (
        change.action == "replace" and change.fields[0].after == "cax21" and "it is x86; the server's disk is lost" in change.fields[0].note
    )
    with pytest.raises(HetznerError, match="allow_replace"):
        plan.check_switches([change], allow_replace=False, allow_power_off=True, allow_destroy_protected=False)


def test_what_is_made_anew_for_another_reason_is_chosen_anew() -> None:
    (change,) = planned({"cores": 4}, running("cpx32"), user_data="#!")
    assert change.action == "replace" and {item.field: (item.after, item.how) for item in change.fields}["type"] == ("cx33", "replace")
    (change,) = planned({"cores": 4}, running("cx33"), location="ash")
    assert change.want is not None and change.want.spec["type"] == "cpx31"
    assert cost.estimate([change], running("cx33"), OFFER).after[0] == Decimal("62.49")


def test_a_remembered_place_is_no_drift_also_after_the_requirements_have_changed() -> None:
    placed = running("cx43", "fsn1", own={labels.PLACED_FOR: labels.placed_for(labels.REQUIREMENTS, "nbg1")})
    assert planned({"cores": 4}, placed) == planned({"cores": 8}, placed) == []
    (change,) = planned({"memory": 16, "dedicated": True}, placed)
    assert change.action == "update" and change.field_names() == {"type"} and change.fields[0].after == "ccx23"
    # Not remembered, or remembered for another place: it stands where it was not declared.
    assert "location" in planned({"cores": 4}, running("cx43", "fsn1"))[0].field_names()
    assert "location" in planned({"cores": 4}, placed, location="ash")[0].field_names()


def test_the_label_can_be_one() -> None:
    assert labels.problem_of_label(labels.PLACED_FOR, labels.placed_for(labels.REQUIREMENTS, "nbg1")) is None


def test_a_server_may_change_from_type_to_requirements_and_back() -> None:
    assert planned({"cores": 4}, running("cpx32")) == []
    by_type = parse("shop", {"location": "nbg1", "servers": [{"name": "app", "image": "debian-12", "type": "cpx32"}]})
    assert requirements.resolve(by_type, Snapshot({}), OFFER) == by_type and plan.plan(by_type, running("cpx32")) == []


def test_the_plan_and_its_cost_name_the_type_that_was_chosen() -> None:
    changes = planned({"cores": 4, "memory": 8})
    total = cost.estimate(changes, Snapshot({}), OFFER)
    text = render.plan_text("shop", changes, total)
    assert "+ server.app  cx33 (by requirements) debian-12 in nbg1" in text and total.after[0] == Decimal("8.49")
    assert "type: cx33" in render.diff("shop", changes)["after"]


NEEDS = st.builds(
    Requirements,
    cores=st.none() | st.integers(1, 10),
    memory=st.none() | st.decimals("0.5", 20, places=1),
    disk=st.none() | st.integers(1, 200),
    dedicated=st.none() | st.booleans(),
    architecture=st.sampled_from([None, "x86", "arm"]),
    price=st.none() | st.decimals(1, 100, places=2),
)


@given(NEEDS, st.sampled_from(sorted(PLACES)), st.sampled_from([None, "cx23", "cx33", "cax21", "ccx23"]))
def test_whatever_is_asked_for_the_choice_meets_it_or_says_why_not_and_then_stands(
    needs: Requirements, place: str, has: str | None
) -> None:
    topology = parse("shop", declare({"cores": 1}, location=place))
    want: Resource = topology.resources["server.app"]
    topology = dataclasses.replace(topology, resources={want.key: dataclasses.replace(want, extra={**want.extra, "requirements": needs})})
    found = running(has, place) if has else Snapshot({})
    choice = requirements.resolve(topology, found, OFFER).resources["server.app"].extra["choice"]
    if choice.type is None:
        assert "nearest" in choice.note
        return
    lacks = requirements.lacks(OFFER.types[choice.type], needs, requirements.Bounds("x"), place)
    assert [lack.name for lack in lacks] == [] or (choice.type == has and [lack.name for lack in lacks] == ["price"])
    after = running(choice.type, place)
    assert plan.plan(requirements.resolve(topology, after, OFFER), after) == []
    if has and choice.how == "power_off":
        assert (
            OFFER.types[choice.type].disk >= OFFER.types[has].disk
            and OFFER.types[choice.type].architecture == OFFER.types[has].architecture
        )
