"""The provisioning engine against the local cloud's API, over real HTTP on loopback."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import labels
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.cost import Budget
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.stack import Result, connect
from integration.stacks import actions, get, kill, play, present, refused, stack, writes
from localcloud.api.testing import LocalApi, serve

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4nq5ZxkJ0k1o8a2b9fXcNqk0mYb1n5p0uY7rQmT3sB tester@example"
SHOP: dict[str, Any] = {
    "location": "nbg1",
    "labels": {"env": "test"},
    "ssh_keys": [{"name": "deploy", "public_key": KEY}],
    "networks": [
        {
            "name": "private",
            "ip_range": "10.20.0.0/16",
            "subnets": [{"ip_range": "10.20.1.0/24"}],
            "routes": [{"destination": "10.99.0.0/16", "gateway": "10.20.1.10"}],
        }
    ],
    "firewalls": [
        {
            "name": "web",
            "rules": [
                {"protocol": "tcp", "port": 22, "source_ips": ["0.0.0.0/0", "::/0"], "description": "ssh"},
                {"protocol": "tcp", "port": "443", "source_ips": ["0.0.0.0/0"]},
                {"protocol": "icmp", "source_ips": ["192.0.2.7"]},
            ],
        }
    ],
    "placement_groups": [{"name": "apart"}],
    "primary_ips": [{"name": "front", "type": "ipv4", "server": "app"}],
    "volumes": [{"name": "data", "size": 10, "format": "ext4", "server": "db"}, {"name": "spare", "size": 12}],
    "servers": [
        {
            "name": "app",
            "type": "cx23",
            "image": "debian-12",
            "ssh_keys": ["deploy"],
            "firewalls": ["web"],
            "placement_group": "apart",
            "networks": [{"name": "private", "ip": "10.20.1.10"}],
            "groups": ["application", "web_tier"],
            "user_data": "#cloud-config\nruncmd: []\n",
        },
        {
            "name": "db",
            "type": "cx33",
            "image": "debian-12",
            "ssh_keys": ["deploy"],
            "firewalls": ["web"],
            "placement_group": "apart",
            "networks": [{"name": "private"}],
            "public_ipv4": False,
            "backups": True,
            "protection": True,
            "groups": ["database"],
        },
        {"name": "worker", "type": "cx23", "image": "debian-13", "count": 2, "networks": [{"name": "private"}]},
    ],
}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[LocalApi]:
    with serve(tmp_path) as api:
        yield api
        assert api.violations() == []


def changed(declared: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {**copy.deepcopy(declared), **parts}


def small(**server: Any) -> dict[str, Any]:
    return {"location": "nbg1", "servers": [{"name": "one", "type": "cx23", "image": "debian-12", **server}]}


def test_a_topology_is_made_and_a_second_run_changes_nothing(cloud: LocalApi) -> None:
    planned = present(cloud, SHOP, check=True)
    assert writes(cloud) == []
    assert set(actions(planned).values()) == {"create"}
    made = present(cloud, SHOP)
    assert made.failures == [] and len(made.done) == len(made.changes) == len(planned.changes) == 11

    hosts = {host["name"]: host for host in made.as_dict()["hosts"]}
    assert sorted(hosts) == ["app", "db", "worker-1", "worker-2"]
    assert hosts["app"]["private_ips"] == {"private": "10.20.1.10"}
    assert hosts["app"]["groups"] == ["application", "web_tier"]
    front = get(cloud, "/primary_ips?name=front")["primary_ips"][0]
    assert hosts["app"]["ansible_host"] == hosts["app"]["public_ipv4"] == front["ip"]
    assert hosts["db"]["public_ipv4"] is None and hosts["db"]["ansible_host"].startswith("10.20.1.")
    assert {host["status"] for host in hosts.values()} == {"running"}
    server = get(cloud, "/servers?name=db")["servers"][0]
    assert server["backup_window"] and server["protection"] == {"delete": True, "rebuild": True}
    assert [get(cloud, f"/volumes/{one}")["volume"]["name"] for one in server["volumes"]] == ["data"]
    assert server["placement_group"]["name"] == "apart"

    with stack(cloud) as again:
        second = again.present(SHOP)
        assert second.changes == [] and again.api.requests < 20
    assert "nothing to do" in second.plan_text
    assert second.cost is not None and made.cost is not None and second.cost.before == made.cost.after


def test_the_price_is_the_sum_of_the_api_s_prices(cloud: LocalApi) -> None:
    cost = present(cloud, SHOP, check=True).cost
    assert cost is not None
    pricing = get(cloud, "/pricing")["pricing"]
    types = {one["name"]: one for one in pricing["server_types"]}

    def monthly(prices: list[dict[str, Any]]) -> Decimal:
        return next(Decimal(one["price_monthly"]["net"]) for one in prices if one["location"] == "nbg1")

    address = next(monthly(one["prices"]) for one in pricing["primary_ips"] if one["type"] == "ipv4")
    backups = 1 + Decimal(pricing["server_backup"]["percentage"]) / 100
    expected = 3 * monthly(types["cx23"]["prices"]) + monthly(types["cx33"]["prices"]) * backups + 3 * address
    expected += 22 * Decimal(pricing["volume"]["price_per_gb_month"]["net"])
    assert cost.after[0] == expected and cost.before[0] == 0 and cost.currency == pricing["currency"]


def test_rules_volumes_routes_and_labels_change_in_place(cloud: LocalApi) -> None:
    present(cloud, SHOP)
    declared = changed(SHOP, labels={"env": "live"})
    declared["firewalls"][0]["rules"].pop(1)
    declared["volumes"][0]["size"] = 20
    declared["networks"][0]["subnets"].append({"ip_range": "10.20.2.0/24"})
    declared["networks"][0]["routes"] = []
    declared["servers"][0]["firewalls"] = []
    declared["servers"][1]["backups"] = False
    declared["servers"][1]["networks"] = [{"name": "private", "ip": "10.20.2.7"}]
    result = present(cloud, declared)
    assert set(actions(result).values()) == {"update"} and result.failures == []
    assert present(cloud, declared).changes == []
    assert len(get(cloud, "/firewalls")["firewalls"][0]["rules"]) == 2
    assert get(cloud, "/volumes?name=data")["volumes"][0]["size"] == 20
    network = get(cloud, "/networks")["networks"][0]
    assert [one["ip_range"] for one in network["subnets"]] == ["10.20.1.0/24", "10.20.2.0/24"] and network["routes"] == []
    assert {one["labels"]["env"] for one in get(cloud, "/servers")["servers"]} == {"live"}
    assert {host["name"]: host["private_ips"] for host in result.as_dict()["hosts"]}["db"] == {"private": "10.20.2.7"}


def test_changes_that_need_the_power_off_have_their_switch(cloud: LocalApi) -> None:
    present(cloud, small())
    bigger = changed(small(type="cx33", public_ipv4=False, placement_group="apart"), placement_groups=[{"name": "apart"}])
    error = refused(cloud, bigger)
    assert "servers[0].type" in error.message and "allow_power_off" in error.message
    result = present(cloud, bigger, allow_power_off=True)
    assert result.changes[-1].power_off and present(cloud, bigger).changes == []
    server = get(cloud, "/servers")["servers"][0]
    assert (server["server_type"]["name"], server["status"], server["public_net"]["ipv4"]) == ("cx33", "running", None)
    assert get(cloud, "/primary_ips")["primary_ips"][0]["type"] == "ipv6"
    present(cloud, small(), allow_power_off=True)
    assert get(cloud, "/servers")["servers"][0]["public_net"]["ipv4"]["ip"]


def test_nothing_that_holds_data_is_replaced_silently(cloud: LocalApi) -> None:
    declared = changed(small(), volumes=[{"name": "data", "size": 10, "format": "ext4", "server": "one"}])
    present(cloud, declared)
    first = get(cloud, "/servers")["servers"][0]["id"]
    other = changed(declared)
    other["servers"][0]["image"] = "debian-13"
    assert "allow_replace" in refused(cloud, other).message
    shrunk = changed(declared, volumes=[{"name": "spare", "size": 10}])
    shrunk["volumes"] = [{"name": "data", "size": 9 + 1, "format": "xfs", "server": "one"}]
    assert "the volume's data is lost" in refused(cloud, shrunk).message
    present(cloud, other, allow_replace=True)
    server = get(cloud, "/servers")["servers"][0]
    assert server["id"] != first and server["image"]["name"] == "debian-13" and len(server["volumes"]) == 1
    present(cloud, changed(declared, volumes=[{**declared["volumes"][0], "size": 20}]), allow_replace=True)
    assert "cannot shrink" in refused(cloud, declared, allow_replace=True).message


def test_prune_deletes_what_is_no_longer_declared_and_only_ours(cloud: LocalApi) -> None:
    present(cloud, SHOP)
    cloud.call("POST", "/networks", {"name": "foreign", "ip_range": "10.50.0.0/16"})
    less = changed(SHOP, primary_ips=[], volumes=SHOP["volumes"][:1], firewalls=[])
    less["servers"] = [{**one, "firewalls": []} for one in less["servers"][1:2]]
    kept = present(cloud, less, allow_power_off=True)
    assert kept.left == ["firewall.web", "primary_ip.front", "server.app", "server.worker-1", "server.worker-2", "volume.spare"]
    pruned = present(cloud, less, prune=True)
    assert actions(pruned) == dict.fromkeys(kept.left, "delete")
    assert [one["name"] for one in get(cloud, "/servers")["servers"]] == ["db"]
    assert {one["name"] for one in get(cloud, "/networks")["networks"]} == {"private", "foreign"}
    assert get(cloud, "/firewalls")["firewalls"] == [] and present(cloud, less, prune=True).changes == []


def test_absent_removes_the_whole_stack_but_not_what_is_protected(cloud: LocalApi) -> None:
    present(cloud, SHOP)
    with stack(cloud) as one, pytest.raises(HetznerError, match=r"server\.db: is protected.*allow_destroy_protected"):
        one.absent()
    assert len(get(cloud, "/servers")["servers"]) == 4
    with stack(cloud, allow_destroy_protected=True) as one:
        result = one.absent()
    assert result.as_dict()["hosts"] == [] and result.cost is not None and result.cost.after[0] == 0 < result.cost.before[0]
    for path in ("servers", "volumes", "networks", "firewalls", "primary_ips", "placement_groups", "ssh_keys"):
        assert get(cloud, f"/{path}")[path] == []
    with stack(cloud) as one:
        assert one.absent().changes == []


def test_a_budget_is_judged_before_the_first_write(cloud: LocalApi) -> None:
    error = refused(cloud, SHOP, budget=Budget(Decimal(10), "EUR"))
    assert "budget.monthly_max" in error.message and any(line["resource"] == "server.db" for line in error.details["lines"])
    assert "billed in EUR" in refused(cloud, SHOP, budget=Budget(Decimal(1000), "USD")).message
    assert "would cost" in present(cloud, SHOP, check=True, budget=Budget(Decimal(10), "EUR", "warn")).warnings[0]
    present(cloud, small(), budget=Budget(Decimal(1000), "EUR"))


def test_what_cannot_be_ordered_is_refused_with_alternatives(cloud: LocalApi) -> None:
    error = refused(cloud, small(type="cx32"))
    assert "servers[0].type" in error.message and "cx33" in error.message and "retired" in error.message
    assert "debian-12" in refused(cloud, small(image="debian-21")).message
    assert "nbg1" in refused(cloud, small(location="nbg9")).message
    assert "capacity.server_types[0]" in refused(cloud, small(), server_types=("cx34",)).message
    other_zone = changed(
        small(networks=[{"name": "private"}]),
        networks=[{"name": "private", "ip_range": "10.1.0.0/16", "subnets": [{"ip_range": "10.1.0.0/24", "network_zone": "us-east"}]}],
    )
    assert "us-east" in refused(cloud, other_zone).message


def test_names_of_others_are_never_touched(cloud: LocalApi) -> None:
    cloud.call("POST", "/firewalls", {"name": "web"})
    error = refused(cloud, SHOP)
    assert "firewall.web" in error.message and "never touched" in error.message and "cutover.key" in error.remedy
    present(cloud, small(), name="first")
    assert "belongs to the stack 'first'" in refused(cloud, small(), name="second").message


def test_two_stacks_share_a_public_key(cloud: LocalApi) -> None:
    one = changed(small(name="old", ssh_keys=["deploy"]), ssh_keys=[{"name": "deploy", "public_key": KEY}])
    two = changed(
        small(name="new", ssh_keys=["mine"]), ssh_keys=[{"name": "mine", "public_key": KEY.partition(" t")[0] + " other comment"}]
    )
    present(cloud, one, name="first")
    assert list(actions(present(cloud, two, name="second"))) == ["server.new"]
    assert present(cloud, two, name="second").changes == []
    with stack(cloud, "second") as again:
        again.absent()
    assert [item["name"] for item in get(cloud, "/ssh_keys")["ssh_keys"]] == ["deploy"]


def test_stacks_that_add_the_same_public_key_at_the_same_moment_share_it(cloud: LocalApi) -> None:
    names = [f"s{number}" for number in range(6)]
    start = threading.Barrier(len(names))

    def run(name: str) -> Result:
        declared = changed(small(name=name, ssh_keys=[f"key-{name}"]), ssh_keys=[{"name": f"key-{name}", "public_key": KEY}])
        start.wait(20)
        return present(cloud, declared, name=name)

    with ThreadPoolExecutor(len(names)) as pool:
        results = list(pool.map(run, names))
    assert [(result.failures, result.not_tried) for result in results] == [([], [])] * len(names)
    assert len(get(cloud, "/ssh_keys")["ssh_keys"]) == 1
    assert len(get(cloud, "/servers")["servers"]) == len(names)


def test_information_is_read_without_a_write(cloud: LocalApi) -> None:
    present(cloud, SHOP)
    cloud.local("DELETE", "/journal")
    firewall = get(cloud, "/firewalls")["firewalls"][0]["id"]
    cloud.call("POST", f"/firewalls/{firewall}/actions/set_rules", {"rules": []})
    drifted = changed(SHOP)
    drifted["servers"].pop()
    with stack(cloud) as one:
        told = one.info(drifted)
    assert {item["resource"]: item["action"] for item in told["drift"]} == {
        "firewall.web": "update",
        "server.worker-1": "delete",
        "server.worker-2": "delete",
    }
    assert len(told["resources"]) == 11 and len(told["hosts"]) == 4 and told["cost"]["after"] > 0
    with stack(cloud) as one:
        assert one.info(None)["drift"] == []
    assert len(writes(cloud)) == 1


def rule(**parts: Any) -> dict[str, Any]:
    return {"method": "POST", **parts}


SERVERS = {"path": "/servers"}
FAULTS: dict[str, dict[str, Any]] = {
    "an answer lost after the server was made": rule(**SERVERS, effect="drop_after_commit"),
    "a call lost before anything was done": rule(**SERVERS, effect="drop"),
    "503 before anything was done": rule(**SERVERS, status=503, code="unavailable"),
    "504 after the server was made": rule(**SERVERS, effect="error_after_commit", status=504, code="timeout"),
    "429": rule(**SERVERS, status=429, code="rate_limit_exceeded"),
    "409 conflict on a network": rule(path=r"/servers/\d+/actions/attach_to_network", status=409, code="conflict", times=2),
    "423 locked": rule(path=r"/servers/\d+/actions/poweron", status=423, code="locked", times=2),
    "an attachment whose answer was lost": rule(path=r"/servers/\d+/actions/attach_to_network", effect="drop_after_commit"),
    "a network whose answer was lost": rule(path="/networks", effect="drop_after_commit"),
    "a key whose answer was lost": rule(path="/ssh_keys", effect="error_after_commit", status=502, code="bad_gateway"),
    "a list that fails": {"method": "GET", "path": "/servers", "status": 502, "code": "bad_gateway"},
    "a poll that fails": {"method": "GET", "path": "/actions", "status": 503},
    "a creation that fails": rule(effect="action_error", command="create_server", code="server_error"),
    "an attachment that fails": rule(effect="action_error", command="attach_to_network", code="network_error"),
    "a first boot that fails": rule(effect="action_error", command="start_server", code="server_error"),
    "a volume that fails": rule(effect="action_error", command="create_volume", code="server_error"),
    "backups that fail": rule(effect="action_error", command="enable_backup", code="server_error"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_one_fault_leaves_neither_an_orphan_nor_a_duplicate(cloud: LocalApi, fault: dict[str, Any]) -> None:
    cloud.local("POST", "/faults", {"rules": [fault]})
    result = present(cloud, SHOP)
    assert cloud.local("GET", "/faults")["rules"][0]["seen"] >= 1
    assert result.failures == [] and len(result.done) == 11
    assert {host["status"] for host in result.as_dict()["hosts"]} == {"running"}
    assert sorted(one["name"] for one in get(cloud, "/servers")["servers"]) == ["app", "db", "worker-1", "worker-2"]
    assert len(get(cloud, "/volumes")["volumes"]) == 2 and len(get(cloud, "/networks")["networks"]) == 1
    assert present(cloud, SHOP).changes == []


def test_a_lasting_fault_is_an_honest_partial_result_and_the_next_run_goes_on(cloud: LocalApi) -> None:
    cloud.local("POST", "/faults", {"rules": [rule(path="/networks", status=422, code="invalid_input", message="no", times=9)]})
    with stack(cloud) as one:
        with pytest.raises(HetznerError, match="steps done") as caught:
            one.present(SHOP)
        assert [item["resource"] for item in one.result.failures] == ["network.private"]
        assert {item["resource"] for item in one.result.not_tried} == {"server.app", "server.db", "server.worker-1", "server.worker-2"}
        assert "volume.data" in one.result.done and "no (invalid_input)" in caught.value.message
    cloud.local("POST", "/faults", {"rules": []})
    assert set(actions(present(cloud, SHOP))) == {"network.private", "server.app", "server.db", "server.worker-1", "server.worker-2"}


def test_a_server_interrupted_before_its_first_boot_is_finished_later(cloud: LocalApi) -> None:
    cloud.local("POST", "/faults", {"rules": [rule(path=r"/servers/\d+/actions/poweron", status=422, code="invalid_input", times=9)]})
    with pytest.raises(HetznerError):
        present(cloud, SHOP)
    server = get(cloud, "/servers?name=app")["servers"][0]
    assert server["status"] == "off" and labels.UNFINISHED in server["labels"]
    cloud.local("POST", "/faults", {"rules": []})
    present(cloud, SHOP)
    server = get(cloud, "/servers?name=app")["servers"][0]
    assert server["status"] == "running" and labels.UNFINISHED not in server["labels"]


MAIL: dict[str, Any] = {
    "location": "nbg1",
    "servers": [{"name": name, "type": "cx23", "image": "debian-12"} for name in ("mx1", "mx2")],
    "primary_ips": [{"name": "fixed", "server": "mx1", "dns_ptr": "mx1.example.org"}],
    "floating_ips": [
        {"name": "mail", "server": "mx1", "description": "moves", "dns_ptr": "Mail.example.org", "protection": True},
        {"name": "mail6", "type": "ipv6", "server": "mx1", "dns_ptr": {"::1": "mail.example.org"}},
        {"name": "spare", "home_location": "hel1"},
    ],
}


def floating(cloud: LocalApi, name: str = "mail") -> Any:
    return get(cloud, f"/floating_ips?name={name}")["floating_ips"][0]


def on(cloud: LocalApi, name: str = "mail") -> str | None:
    holder = floating(cloud, name)["server"]
    return get(cloud, f"/servers/{holder}")["server"]["name"] if holder else None


def mail(**fields: Any) -> dict[str, Any]:
    """MAIL with the first floating IP changed."""
    declared = changed(MAIL)
    declared["floating_ips"][0].update(fields)
    return declared


def test_floating_ips_and_reverse_names_are_made_with_their_servers(cloud: LocalApi) -> None:
    planned = present(cloud, MAIL, check=True)
    assert writes(cloud) == [] and "+ floating_ip.mail  ipv4 in nbg1, on mx1" in planned.plan_text
    made = present(cloud, MAIL)
    assert made.failures == [] and len(made.done) == 6 and made.cost is not None
    prices = {one["type"]: one["prices"][0] for one in get(cloud, "/pricing")["pricing"]["floating_ips"]}
    lines = {line["resource"]: line["after"] for line in made.cost.as_dict()["lines"]}
    assert lines["floating_ip.mail"] == float(prices["ipv4"]["price_monthly"]["net"]) and lines["floating_ip.mail6"] > 0

    address, wide = floating(cloud), floating(cloud, "mail6")
    first = wide["ip"].replace("::/64", "::1")
    assert (on(cloud), on(cloud, "mail6"), on(cloud, "spare")) == ("mx1", "mx1", None)
    assert (address["description"], address["protection"], address["home_location"]["name"]) == ("moves", {"delete": True}, "nbg1")
    assert floating(cloud, "spare")["home_location"]["name"] == "hel1"
    assert address["dns_ptr"] == [{"ip": address["ip"], "dns_ptr": "mail.example.org"}]
    assert wide["dns_ptr"] == [{"ip": first, "dns_ptr": "mail.example.org"}]
    assert get(cloud, "/primary_ips?name=fixed")["primary_ips"][0]["dns_ptr"][0]["dns_ptr"] == "mx1.example.org"
    hosts = {host["name"]: host["floating_ips"] for host in made.as_dict()["hosts"]}
    assert hosts == {"mx1": {"mail": address["ip"], "mail6": first}, "mx2": {}}
    assert present(cloud, MAIL).changes == []

    whole = changed(MAIL)
    whole["floating_ips"][1]["dns_ptr"] = {first: "other.example.org"}
    (change,) = present(cloud, whole).changes
    assert change.fields[0].before == {first: "mail.example.org"} and present(cloud, whole).changes == []
    whole["floating_ips"][1]["dns_ptr"] = {"2001:db8::1": "other.example.org"}
    assert "floating_ips[1].dns_ptr.2001:db8::1: is not in" in refused(cloud, whole).message


def test_what_others_did_to_a_floating_ip_is_found_and_put_right(cloud: LocalApi) -> None:
    present(cloud, MAIL)
    address = floating(cloud)
    url = f"/floating_ips/{address['id']}/actions"
    other = cloud.call("POST", "/servers", {"name": "other", "server_type": "cx23", "image": "debian-12", "location": "nbg1"})
    cloud.settle()
    for path, body in (
        ("unassign", None),
        ("assign", {"server": other.json()["server"]["id"]}),
        ("change_dns_ptr", {"ip": address["ip"], "dns_ptr": "strange.example.org"}),
        ("change_protection", {"delete": False}),
    ):
        assert cloud.call("POST", f"{url}/{path}", body).status_code == 201
        cloud.settle()
    before = len(writes(cloud))
    found = present(cloud, MAIL, check=True)
    assert {item.field for change in found.changes for item in change.fields} == {"server", "dns_ptr", "protection"}
    with stack(cloud) as one:
        assert [item["resource"] for item in one.info(MAIL)["drift"]] == ["floating_ip.mail"]
    assert len(writes(cloud)) == before
    assert present(cloud, MAIL).done == ["floating_ip.mail"]
    assert on(cloud) == "mx1" and floating(cloud)["dns_ptr"][0]["dns_ptr"] == "mail.example.org"
    assert floating(cloud)["protection"]["delete"] and floating(cloud)["ip"] == address["ip"]

    assert list(actions(present(cloud, mail(server="mx2", dns_ptr="")))) == ["floating_ip.mail"]
    assert on(cloud) == "mx2" and floating(cloud)["dns_ptr"][0]["dns_ptr"].endswith(".your-server.de")
    assert present(cloud, mail(server="mx2", dns_ptr="")).changes == []
    present(cloud, mail(server=None))
    assert on(cloud) is None and present(cloud, mail(server=None)).changes == []


def test_a_floating_ip_outlives_its_server_and_is_pruned_only_with_leave(cloud: LocalApi) -> None:
    present(cloud, MAIL)
    address = floating(cloud)
    rebuilt = changed(MAIL)
    rebuilt["servers"][0]["image"] = "debian-13"
    result = present(cloud, rebuilt, allow_replace=True)
    assert actions(result) == {"server.mx1": "replace", "floating_ip.mail": "update", "floating_ip.mail6": "update"}
    assert (on(cloud), floating(cloud)["ip"]) == ("mx1", address["ip"]) and present(cloud, rebuilt).changes == []
    assert "the address is lost" in refused(cloud, {**rebuilt, "floating_ips": [{"name": "mail", "home_location": "hel1"}]}).message

    # The address is on its new server before the old one goes.
    cloud.local("DELETE", "/journal")
    fewer = mail(server="mx2")
    fewer["servers"].pop(0)
    fewer["primary_ips"][0]["server"] = None
    fewer["floating_ips"].pop(1)
    present(cloud, fewer, prune=True)
    done = writes(cloud)
    assert on(cloud) == "mx2" and [one["name"] for one in get(cloud, "/servers")["servers"]] == ["mx2"]
    moved = done.index(f"POST /floating_ips/{address['id']}/actions/assign")
    assert moved < next(number for number, one in enumerate(done) if one.startswith("DELETE /servers/"))
    assert {one["name"] for one in get(cloud, "/floating_ips")["floating_ips"]} == {"mail", "spare"}
    nothing = {**fewer, "floating_ips": []}
    assert present(cloud, nothing).left == ["floating_ip.mail", "floating_ip.spare"]
    assert "floating_ip.mail: is protected" in refused(cloud, nothing, prune=True).message
    present(cloud, nothing, prune=True, allow_destroy_protected=True)
    assert get(cloud, "/floating_ips")["floating_ips"] == [] and present(cloud, nothing, prune=True).changes == []


ADDRESS_FAULTS: dict[str, dict[str, Any]] = {
    "an address whose answer was lost": {"path": "/floating_ips", "effect": "drop_after_commit"},
    "an assignment whose answer was lost": {"path": r"/floating_ips/\d+/actions/assign", "effect": "drop_after_commit"},
    "a release whose answer was lost": {"path": r"/floating_ips/\d+/actions/unassign", "effect": "drop_after_commit"},
    "a name whose answer was lost": {
        "path": r"/.*/actions/change_dns_ptr",
        "effect": "error_after_commit",
        "status": 504,
        "code": "timeout",
    },
    "423 locked": {"path": r"/floating_ips/\d+/actions/(un)?assign", "status": 423, "code": "locked", "times": 3},
    "an assignment that fails": {"effect": "action_error", "command": "assign_floating_ip", "code": "action_failed"},
    "a release that fails": {"effect": "action_error", "command": "unassign_floating_ip", "code": "action_failed"},
    "a name that fails": {"effect": "action_error", "command": "change_dns_ptr", "code": "action_failed"},
}


@pytest.mark.parametrize("fault", ADDRESS_FAULTS.values(), ids=ADDRESS_FAULTS.keys())
def test_one_fault_leaves_every_address_where_it_belongs(cloud: LocalApi, fault: dict[str, Any]) -> None:
    seen = 0
    for declared in (MAIL, mail(server="mx2")):
        cloud.local("POST", "/faults", {"rules": [rule(**fault)]})
        assert present(cloud, declared).failures == []
        seen += cloud.local("GET", "/faults")["rules"][0]["seen"]
        assert present(cloud, declared).changes == []
    assert seen >= 1
    assert (on(cloud), on(cloud, "mail6"), len(get(cloud, "/floating_ips")["floating_ips"])) == ("mx2", "mx1", 3)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5, 4.0])
def test_a_run_that_was_killed_is_finished_by_the_next(tmp_path: Path, seconds: float) -> None:
    with serve(tmp_path, speed=0.2) as cloud:
        kill(cloud, SHOP, bool, seconds)
        result = present(cloud, SHOP)
        assert {host["status"] for host in result.as_dict()["hosts"]} == {"running"}
        assert sorted(one["name"] for one in get(cloud, "/servers")["servers"]) == ["app", "db", "worker-1", "worker-2"]
        assert len(get(cloud, "/volumes")["volumes"]) == 2
        assert present(cloud, SHOP).changes == [] and cloud.violations() == []


OUT = [
    {"status": 412, "code": "resource_unavailable", "message": "error during placement"},
    {"status": 422, "code": "invalid_input", "message": "unsupported location for server type"},
]


@pytest.mark.parametrize("out", OUT, ids=["412", "422"])
def test_without_capacity_the_next_choice_is_taken_and_remembered(cloud: LocalApi, out: dict[str, Any]) -> None:
    cloud.local("POST", "/faults", {"rules": [rule(**SERVERS, **out)]})
    result = present(cloud, small(), server_types=("cpx22",), locations=("fsn1",))
    server = get(cloud, "/servers")["servers"][0]
    assert (server["server_type"]["name"], server["location"]["name"]) == ("cpx22", "nbg1")
    assert server["labels"][labels.PLACED_FOR] == "cx23.nbg1"
    assert result.cost is not None and result.cost.after[0] > Decimal(15)
    assert present(cloud, small()).changes == []
    assert "allow_power_off" in refused(cloud, small(type="cx33")).message


def test_a_fallback_keeps_to_the_budget_and_to_the_place_of_a_volume(cloud: LocalApi) -> None:
    always = rule(**SERVERS, **OUT[0], times=99)
    cloud.local("POST", "/faults", {"rules": [always]})
    with pytest.raises(HetznerError, match=r"cpx22 in nbg1: would exceed the budget"):
        present(cloud, small(), server_types=("cpx22",), budget=Budget(Decimal(8), "EUR"))
    declared = changed(small(), volumes=[{"name": "data", "size": 10, "server": "one"}])
    with pytest.raises(HetznerError, match="no capacity") as caught:
        present(cloud, declared, locations=("fsn1",))
    assert "fsn1" not in caught.value.message and "capacity.server_types" in caught.value.remedy


NEEDS = {"cores": 4, "memory": 8, "disk": 80, "dedicated": False, "architecture": "x86", "price": 36.0}


def by_requirements(needs: dict[str, Any], **server: Any) -> dict[str, Any]:
    return {"location": "nbg1", "servers": [{"name": "one", "image": "debian-12", "requirements": needs, **server}]}


def test_a_server_by_requirements_is_the_cheapest_that_will_do_and_stays(cloud: LocalApi) -> None:
    declared = by_requirements(NEEDS)
    planned = present(cloud, declared, check=True)
    assert "server.one  cx33 (by requirements) debian-12 in nbg1" in planned.plan_text and writes(cloud) == []
    assert "type: cx33" in planned.diff()["after"]
    made = present(cloud, declared)
    server = get(cloud, "/servers")["servers"][0]
    assert server["server_type"]["name"] == "cx33" and labels.PLACED_FOR not in server["labels"]
    assert planned.cost is not None and made.cost is not None and planned.cost.after == made.cost.after
    assert present(cloud, declared).changes == present(cloud, by_requirements({"cores": 2})).changes == []

    larger = by_requirements({**NEEDS, "memory": 16, "disk": 160})
    told = refused(cloud, larger).message
    assert "servers[0].requirements: 'cx33' -> 'cx43'" in told and "8 of 16 GB of memory" in told and "allow_power_off" in told
    present(cloud, larger, allow_power_off=True)
    server = get(cloud, "/servers")["servers"][0]
    assert (server["server_type"]["name"], server["primary_disk_size"], server["status"]) == ("cx43", 160, "running")
    assert present(cloud, larger).changes == present(cloud, declared).changes == []
    with stack(cloud) as one:
        assert one.info(declared)["drift"] == []
        (drift,) = one.info(by_requirements({"cores": 999}))["drift"]
    assert drift["fields"][0]["how"] == "refused" and "ccx63 (48 cores" in drift["fields"][0]["note"]

    assert present(cloud, by_requirements({"price": 9})).changes == [], "the price bounds orders, not what runs"
    assert "its disk of 160 GB cannot shrink" in refused(cloud, by_requirements({"cores": 9, "price": 9})).message
    error = refused(cloud, changed(by_requirements({"cores": 16, "architecture": "arm"}, count=2), location="ash"))
    assert "other locations have cax41 in fsn1 (40.99), cax41 in hel1" in error.message and len(error.details["problems"]) == 1


def test_without_capacity_the_next_cheapest_that_meets_the_requirements_is_taken_and_stays(cloud: LocalApi) -> None:
    declared = by_requirements(NEEDS)
    cloud.local("POST", "/faults", {"rules": [rule(**SERVERS, **OUT[0], times=2)]})
    result = present(cloud, declared, server_types=("cx23",))
    server = get(cloud, "/servers")["servers"][0]
    assert (server["server_type"]["name"], server["location"]["name"]) == ("cx53", "nbg1")  # after cx33 and cx43
    assert server["labels"][labels.PLACED_FOR] == "requirements.nbg1"
    assert result.cost is not None and result.cost.after[0] == Decimal("29.49") + Decimal("0.50")
    assert present(cloud, declared).changes == []


def test_a_fallback_for_requirements_keeps_to_price_and_budget_and_may_go_elsewhere(cloud: LocalApi) -> None:
    declared = by_requirements({**NEEDS, "price": 20})
    cloud.local("POST", "/faults", {"rules": [rule(**SERVERS, **OUT[1], times=2)]})
    with pytest.raises(HetznerError, match="no capacity: cx33 in nbg1: .*; cx43 in nbg1: would exceed the budget") as caught:
        present(cloud, declared, budget=Budget(Decimal(10), "EUR"))
    assert "cx53" not in caught.value.message and "capacity.locations" in caught.value.remedy
    cloud.local("POST", "/faults", {"rules": [rule(**SERVERS, **OUT[1], times=2)]})
    present(cloud, declared, locations=("fsn1",))
    server = get(cloud, "/servers")["servers"][0]
    assert (server["server_type"]["name"], server["location"]["name"]) == ("cx33", "fsn1")
    assert server["labels"][labels.PLACED_FOR] == "requirements.nbg1"
    assert present(cloud, declared).changes == present(cloud, by_requirements({"cores": 2})).changes == []


def test_thirty_servers_take_few_requests(cloud: LocalApi) -> None:
    with stack(cloud) as one:
        one.present({"location": "nbg1", "servers": [{"name": "n", "type": "cx23", "image": "debian-12", "count": 30}]})
        assert one.api.requests < 120
    assert len(get(cloud, "/servers?per_page=50")["servers"]) == 30


def test_a_wrong_token_and_an_unreachable_address_are_told(cloud: LocalApi) -> None:
    with pytest.raises(HetznerError, match="No token") as missing:
        connect({"name": "site", "api_token": "", "api_endpoint": cloud.endpoint})
    assert "HCLOUD_TOKEN" in missing.value.remedy
    for token, endpoint, told in (("wrong", cloud.endpoint, "HCLOUD_TOKEN"), (cloud.token, "http://127.0.0.1:9/v1", "HCLOUD_ENDPOINT")):
        one = connect({"name": "site", "api_token": token, "api_endpoint": endpoint})
        with pytest.raises(HetznerError) as caught:
            one.present(small())
        one.api.close()
        assert told in caught.value.remedy and cloud.token not in caught.value.message


PLAYBOOK = """
- name: Make and remove a stack
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Plan
      cutover.hetzner.hetzner_stack: {name: site, topology: "{{ topology }}", budget: {monthly_max: 100}}
      check_mode: true
      register: planned
      failed_when: planned is not changed or planned.hosts or 'server.app' not in planned.plan_text or 'server.app' not in planned.diff.after
    - name: Make
      cutover.hetzner.hetzner_stack: {name: site, topology: "{{ topology }}", budget: {monthly_max: 100}}
      register: made
      failed_when: made is not changed or made.hosts | length != 4 or made.cost.after != planned.cost.after
    - name: Make again
      cutover.hetzner.hetzner_stack: {name: site, topology: "{{ topology }}"}
      register: again
      failed_when: again is changed or again.plan or again.requests >= 20
    - name: Read
      cutover.hetzner.hetzner_stack_info: {name: site, topology: "{{ topology }}"}
      register: told
      failed_when: told.drift or told.hosts != made.hosts
    - name: Refuse
      cutover.hetzner.hetzner_stack: {name: site, topology: "{{ topology | combine({'serverz': []}) }}"}
      register: refused
      failed_when: "'Correct' not in refused.remedy or 'serverz' not in refused.msg or refused.requests != 0"
    - name: Remove
      cutover.hetzner.hetzner_stack: {name: site, state: absent, allow_destroy_protected: true}
      register: gone
      failed_when: gone.hosts or gone.cost.after != 0
"""


def test_the_modules_run_in_a_playbook(cloud: LocalApi, tmp_path: Path) -> None:
    told = play(cloud, tmp_path, PLAYBOOK, {"topology": SHOP})
    assert cloud.token not in told
    assert get(cloud, "/servers")["servers"] == []
