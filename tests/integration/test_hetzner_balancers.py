"""Load balancers and certificates of a stack against the local cloud's API, over real HTTP on loopback."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.api import Api
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.stack import Options, Stack
from integration.stacks import actions, get, kill, play, present, refused, writes
from localcloud.api.pems import self_signed
from localcloud.api.testing import LocalApi, serve

PEM, SECRET = self_signed("example.org")
SERVER = {"type": "cx23", "image": "debian-12", "networks": [{"name": "net"}], "labels": {"role": "web"}}
SITE: dict[str, Any] = {
    "location": "nbg1",
    "networks": [{"name": "net", "ip_range": "10.20.0.0/16", "subnets": [{"ip_range": "10.20.1.0/24"}]}],
    "servers": [{"name": name, **SERVER} for name in ("a", "b")],
    "certificates": [{"name": "site", "certificate": PEM, "private_key": SECRET}],
    "load_balancers": [
        {
            "name": "edge",
            "type": "lb11",
            "network": "net",
            "private_ip": "10.20.1.50",
            "public_interface": True,
            "services": [
                {"protocol": "https", "destination_port": 8080, "http": {"certificates": ["site"], "redirect_http": True}},
                {"protocol": "tcp", "listen_port": 5432, "proxyprotocol": True},
            ],
            "targets": [{"server": "a", "use_private_ip": True}, {"label_selector": "role=web", "use_private_ip": True}],
            "dns_ptr": "edge.example.org",
            "protection": True,
        },
        {
            "name": "inner",
            "type": "lb11",
            "network": "net",
            "public_interface": False,
            "algorithm": "least_connections",
            "services": [{"protocol": "http", "health_check": {"http": {"path": "/health", "status_codes": [200]}}}],
            "targets": [{"server": "b", "use_private_ip": True}],
        },
    ],
}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[LocalApi]:
    with serve(tmp_path) as api:
        yield api
        assert api.violations() == []


def balancer(cloud: LocalApi, name: str = "edge") -> Any:
    return get(cloud, f"/load_balancers?name={name}")["load_balancers"][0]


def certificate(cloud: LocalApi, name: str = "site") -> Any:
    return get(cloud, f"/certificates?name={name}")["certificates"][0]


def site(**fields: Any) -> dict[str, Any]:
    """SITE with the first load balancer changed."""
    declared = copy.deepcopy(SITE)
    declared["load_balancers"][0].update(fields)
    return declared


def test_load_balancers_are_made_with_all_they_need_and_a_second_run_changes_nothing(cloud: LocalApi) -> None:
    planned = present(cloud, SITE, check=True)
    assert writes(cloud) == [] and "+ load_balancer.edge  lb11 in nbg1; ports 443, 5432; 2 targets" in planned.plan_text
    made = present(cloud, SITE)
    assert made.failures == [] and set(actions(made).values()) == {"create"} and len(made.done) == len(planned.changes) == 6
    edge, inner = balancer(cloud), balancer(cloud, "inner")
    assert made.cost is not None
    lines = {line["resource"]: line["after"] for line in made.cost.as_dict()["lines"]}
    prices = {one["name"]: one["prices"] for one in get(cloud, "/pricing")["pricing"]["load_balancer_types"]}
    assert lines["load_balancer.edge"] == float(next(one for one in prices["lb11"] if one["location"] == "nbg1")["price_monthly"]["net"])

    assert (
        edge["private_net"][0]["ip"] == "10.20.1.50"
        and edge["protection"]["delete"]
        and edge["public_net"]["ipv6"]["dns_ptr"] == "edge.example.org"
    )
    assert [one["listen_port"] for one in edge["services"]] == [443, 5432] and edge["services"][0]["http"]["certificates"] == [
        certificate(cloud)["id"]
    ]
    assert {one["type"] for one in edge["targets"]} == {"server", "label_selector"} and all(
        one["use_private_ip"] for one in edge["targets"]
    )
    assert (inner["public_net"]["enabled"], inner["algorithm"]["type"]) == (False, "least_connections")
    assert inner["services"][0]["health_check"]["http"] == {
        "domain": "",
        "path": "/health",
        "response": "",
        "status_codes": ["200"],
        "tls": False,
    }
    order = [path for path in writes(cloud) if f"/load_balancers/{edge['id']}/" in path]
    assert order[0].endswith("attach_to_network") and order.index(order[-1]) > 0 and order[1].endswith("add_target")
    hosts = {host["name"]: host["load_balancers"] for host in made.as_dict()["hosts"]}
    public = edge["public_net"]["ipv4"]["ip"]
    assert hosts == {"a": {"edge": public}, "b": {"edge": public, "inner": inner["private_net"][0]["ip"]}}

    again = present(cloud, SITE, prune=True)
    assert again.changes == [] and SECRET not in str(made.as_dict()) + str(made.diff()) + str(planned.diff())


def test_what_other_tools_make_of_it_is_no_difference(cloud: LocalApi) -> None:
    """The service fills in what was left out; declared in as few words, nothing differs."""
    present(cloud, site(services=[]))
    made = cloud.call("POST", f"/load_balancers/{balancer(cloud)['id']}/actions/add_service", {"protocol": "http"})
    assert made.status_code == 201
    cloud.settle()
    assert present(cloud, site(services=[{"protocol": "http"}])).changes == []


def test_what_others_did_is_found_and_put_right(cloud: LocalApi) -> None:
    present(cloud, SITE)
    edge = balancer(cloud)
    servers = {one["name"]: one["id"] for one in get(cloud, "/servers")["servers"]}
    for path, body in (
        ("delete_service", {"listen_port": 5432}),
        ("update_service", {"listen_port": 443, "destination_port": 9090, "http": {"redirect_http": False, "sticky_sessions": True}}),
        ("add_service", {"protocol": "http"}),
        ("remove_target", {"type": "label_selector", "label_selector": {"selector": "role=web"}}),
        ("add_target", {"type": "server", "server": {"id": servers["b"]}}),
        ("change_algorithm", {"type": "least_connections"}),
        ("change_protection", {"delete": False}),
        ("change_dns_ptr", {"ip": edge["public_net"]["ipv4"]["ip"], "dns_ptr": "strange.example.org"}),
    ):
        assert cloud.call("POST", f"/load_balancers/{edge['id']}/actions/{path}", body).status_code == 201, path
        cloud.settle()
    found = present(cloud, SITE, check=True)
    (change,) = found.changes
    fields = {item.field: item for item in change.fields}
    assert set(fields) == {"services", "targets", "algorithm", "protection", "dns_ptr"} and set(fields["services"].after) == {"443", "5432"}
    assert set(fields["services"].before) == {"80", "443"} and fields["dns_ptr"].before == {"ipv4": "strange.example.org"}
    assert present(cloud, SITE).done == ["load_balancer.edge"]
    mended = balancer(cloud)
    for one in (edge, mended):
        one["targets"].sort(key=lambda target: str(target["type"]))
    assert mended == edge and present(cloud, SITE).changes == []

    detached = balancer(cloud, "inner")
    for path, body in (
        ("enable_public_interface", None),
        ("remove_target", {"type": "server", "server": {"id": servers["b"]}}),
        ("detach_from_network", {"network": detached["private_net"][0]["network"]}),
    ):
        assert cloud.call("POST", f"/load_balancers/{detached['id']}/actions/{path}", body).status_code == 201, path
        cloud.settle()
    assert present(cloud, SITE).done == ["load_balancer.inner"] and present(cloud, SITE).changes == []
    assert balancer(cloud, "inner")["public_net"]["enabled"] is False


def test_it_changes_in_place_and_is_replaced_only_with_leave(cloud: LocalApi) -> None:
    present(cloud, SITE)
    edge = balancer(cloud)
    wide = site(
        type="lb21",
        private_ip="10.20.1.60",
        algorithm="least_connections",
        services=[{"protocol": "http"}, *({"protocol": "tcp", "listen_port": port} for port in range(9001, 9008))],
        targets=[{"server": "a"}, {"server": "b", "use_private_ip": True}, {"ip": "192.0.2.9"}],
        dns_ptr={"ipv4": ""},
        labels={"env": "test"},
    )
    narrow = copy.deepcopy(wide)
    narrow["load_balancers"][0]["type"] = "lb11"
    assert "8 services are declared, a lb11 takes 5: take lb21, lb31" in refused(cloud, narrow).message
    assert present(cloud, wide).done == ["load_balancer.edge"]
    now = balancer(cloud)
    assert (now["id"], now["load_balancer_type"]["name"], now["private_net"][0]["ip"]) == (edge["id"], "lb21", "10.20.1.60")
    assert len(now["services"]) == 8 and {one["type"]: one.get("use_private_ip") for one in now["targets"] if one["type"] == "ip"}
    assert now["public_net"]["ipv4"]["dns_ptr"].endswith(".your-server.de") and now["labels"]["env"] == "test"
    assert present(cloud, wide).changes == []
    assert list(actions(present(cloud, SITE))) == ["load_balancer.edge"] and balancer(cloud)["load_balancer_type"]["name"] == "lb11"

    moved = site(location="hel1", protection=None)
    assert "its addresses are lost" in refused(cloud, moved).message
    assert "is protected" in refused(cloud, moved, allow_replace=True).message
    present(cloud, moved, allow_replace=True, allow_destroy_protected=True)
    assert balancer(cloud)["location"]["name"] == "hel1" and balancer(cloud)["id"] != edge["id"]
    assert present(cloud, moved).changes == []


def test_a_private_balancer_moves_in_its_network_and_gets_a_public_side(cloud: LocalApi) -> None:
    present(cloud, SITE)
    declared = copy.deepcopy(SITE)
    declared["load_balancers"][1]["private_ip"] = "10.20.1.70"
    present(cloud, declared)
    inner = balancer(cloud, "inner")
    assert (inner["private_net"][0]["ip"], inner["public_net"]["enabled"], len(inner["targets"])) == ("10.20.1.70", False, 1)
    declared["load_balancers"][1] |= {"network": None, "private_ip": None, "public_interface": True, "targets": [{"server": "b"}]}
    present(cloud, declared)
    inner = balancer(cloud, "inner")
    assert (inner["private_net"], inner["public_net"]["enabled"], inner["targets"][0]["use_private_ip"]) == ([], True, False)
    assert present(cloud, declared).changes == []


def test_a_renewed_certificate_takes_over_without_a_gap(cloud: LocalApi) -> None:
    present(cloud, SITE)
    old = certificate(cloud)["id"]
    renewed = copy.deepcopy(SITE)
    pem, key = self_signed("example.org", days=200)
    renewed["certificates"][0] |= {"certificate": pem, "private_key": key}
    planned = present(cloud, renewed, check=True)
    assert actions(planned) == {"certificate.site": "update"} and "change over" in planned.plan_text
    result = present(cloud, renewed)
    assert {"certificate.site", "load_balancer.edge"} <= set(result.done)
    new = certificate(cloud)["id"]
    assert new != old and balancer(cloud)["services"][0]["http"]["certificates"] == [new]
    assert [one["id"] for one in get(cloud, "/certificates")["certificates"]] == [new] and present(cloud, renewed).changes == []
    done = writes(cloud)
    assert done.index(f"POST /load_balancers/{balancer(cloud)['id']}/actions/update_service") < done.index(f"DELETE /certificates/{old}")
    assert not any("delete_service" in one for one in done)


def test_an_interrupted_renewal_is_finished(cloud: LocalApi) -> None:
    present(cloud, SITE)
    renewed = copy.deepcopy(SITE)
    pem, key = self_signed("example.org", days=200)
    renewed["certificates"][0] |= {"certificate": pem, "private_key": key}
    fault = {"method": "POST", "path": "/certificates", "status": 422, "code": "invalid_input", "message": "no", "times": 1}
    cloud.local("POST", "/faults", {"rules": [fault]})
    with pytest.raises(HetznerError, match=r"certificate\.site"):
        present(cloud, renewed)
    assert len(get(cloud, "/certificates")["certificates"]) == 1
    present(cloud, renewed)
    assert len(get(cloud, "/certificates")["certificates"]) == 1 and certificate(cloud)["certificate"] == pem
    assert present(cloud, renewed).changes == []


def test_a_managed_certificate_waits_for_its_issuance(cloud: LocalApi) -> None:
    declared = site(services=[{"protocol": "https", "http": {"certificates": ["auto"]}}])
    declared["certificates"] = [{"name": "auto", "type": "managed", "domain_names": ["www.example.org"]}]
    with pytest.raises(HetznerError, match=r"certificate\.auto.*DNS zone not found for www\.example\.org"):
        present(cloud, declared)
    assert get(cloud, "/certificates")["certificates"] == []
    assert cloud.call("POST", "/zones", {"name": "example.org", "mode": "primary"}).status_code == 201
    cloud.settle()
    present(cloud, declared)
    assert certificate(cloud, "auto")["status"]["issuance"] == "completed" and present(cloud, declared).changes == []
    declared["certificates"][0]["domain_names"].append("example.org")
    present(cloud, declared)
    assert sorted(certificate(cloud, "auto")["domain_names"]) == ["example.org", "www.example.org"]
    assert len(get(cloud, "/certificates")["certificates"]) == 1 and present(cloud, declared).changes == []


def test_targets_leave_before_their_server_goes_and_everything_can_be_removed(cloud: LocalApi) -> None:
    present(cloud, SITE)
    rebuilt = copy.deepcopy(SITE)
    rebuilt["servers"][0]["image"] = "debian-13"
    result = present(cloud, rebuilt, allow_replace=True)
    assert actions(result) == {"server.a": "replace", "load_balancer.edge": "update"} and present(cloud, rebuilt).changes == []
    assert len(balancer(cloud)["targets"]) == 2

    cloud.local("DELETE", "/journal")
    fewer = copy.deepcopy(rebuilt)
    fewer["servers"].pop(0)
    fewer["load_balancers"][0]["targets"] = [{"server": "b", "use_private_ip": True}]
    fewer["load_balancers"].pop(1)
    assert present(cloud, fewer).left == ["load_balancer.inner", "server.a"]
    present(cloud, fewer, prune=True)
    done = writes(cloud)
    removed = next(number for number, one in enumerate(done) if one.endswith("remove_target"))
    assert removed < next(number for number, one in enumerate(done) if one.startswith("DELETE /servers/"))
    assert [one["name"] for one in get(cloud, "/load_balancers")["load_balancers"]] == ["edge"]

    api = Api(cloud.token, cloud.endpoint, timeout=30)
    with pytest.raises(HetznerError, match=r"load_balancer\.edge: is protected"):
        Stack(api, "site").absent()
    Stack(api, "site", Options(allow_destroy_protected=True)).absent()
    api.close()
    for path in ("load_balancers", "certificates", "networks", "servers"):
        assert get(cloud, f"/{path}")[path] == []


FAULTS: dict[str, dict[str, Any]] = {
    "a balancer whose answer was lost": {"path": "/load_balancers", "effect": "drop_after_commit"},
    "a certificate whose answer was lost": {"path": "/certificates", "effect": "drop_after_commit"},
    "a service whose answer was lost": {"path": r"/load_balancers/\d+/actions/add_service", "effect": "drop_after_commit"},
    "a target whose answer was lost": {"path": r"/load_balancers/\d+/actions/add_target", "effect": "drop_after_commit"},
    "a network whose answer was lost": {"path": r"/load_balancers/\d+/actions/attach_to_network", "effect": "drop_after_commit"},
    "423 locked": {"path": r"/load_balancers/\d+/actions/.*", "status": 423, "code": "locked", "times": 3},
    "409 conflict": {"path": r"/load_balancers/\d+/actions/.*", "status": 409, "code": "conflict", "times": 3},
    "a balancer that fails": {"effect": "action_error", "command": "create_load_balancer", "code": "action_failed"},
    "a network that fails": {"effect": "action_error", "command": "attach_to_network", "code": "action_failed"},
    "a service that fails": {"effect": "action_error", "command": "add_service", "code": "action_failed"},
    "a target that fails": {"effect": "action_error", "command": "add_target", "code": "action_failed"},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_one_fault_leaves_everything_as_declared(cloud: LocalApi, fault: dict[str, Any]) -> None:
    bare = {**SITE, "certificates": [], "load_balancers": []}
    present(cloud, bare)
    cloud.local("POST", "/faults", {"rules": [{"method": "POST", "message": "injected", **fault}]})
    assert present(cloud, SITE).failures == []
    assert cloud.local("GET", "/faults")["rules"][0]["seen"] >= 1
    assert present(cloud, SITE).changes == []
    assert len(get(cloud, "/load_balancers")["load_balancers"]) == 2 and len(get(cloud, "/certificates")["certificates"]) == 1


LOST = ["change_type", "remove_target", "delete_service", "update_service", "detach_from_network", "change_algorithm", "change_dns_ptr"]


@pytest.mark.parametrize("step", LOST)
def test_a_change_whose_answer_was_lost_is_done_once(cloud: LocalApi, step: str) -> None:
    present(cloud, SITE)
    fault = {"method": "POST", "path": rf"/load_balancers/\d+/actions/{step}", "effect": "drop_after_commit", "message": "injected"}
    cloud.local("POST", "/faults", {"rules": [fault]})
    declared = site(
        type="lb21",
        private_ip="10.20.1.60",
        algorithm="least_connections",
        services=[{"protocol": "https", "http": {"certificates": ["site"]}}],
        targets=[{"server": "b"}],
        dns_ptr="",
    )
    assert present(cloud, declared).failures == []
    assert cloud.local("GET", "/faults")["rules"][0]["seen"] >= 1 and present(cloud, declared).changes == []


@pytest.mark.parametrize("steps", ["/load_balancers", "actions/attach_to_network", "actions/add_target", "actions/add_service"])
def test_a_run_that_was_killed_is_finished_by_the_next(tmp_path: Path, steps: str) -> None:
    """Killed as soon as the first of these was asked for."""
    with serve(tmp_path, speed=0.1) as cloud:
        kill(cloud, SITE, lambda done: any("/load_balancers" in one and one.endswith(steps) for one in done))
        assert present(cloud, SITE).failures == []
        assert [len(balancer(cloud, name)["services"]) for name in ("edge", "inner")] == [2, 1]
        assert present(cloud, SITE).changes == [] and cloud.violations() == []


PLAYBOOK = """
- name: Make a site
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Make
      cutover.hetzner.hetzner_stack: {name: site, topology: "{{ topology }}"}
      register: made
      failed_when: made is not changed or 'edge' not in made.hosts[0].load_balancers
    - name: Make again
      cutover.hetzner.hetzner_stack: {name: site, topology: "{{ topology }}"}
      register: again
      failed_when: again is changed or again.plan | length > 0
    - name: Read
      cutover.hetzner.hetzner_stack_info: {name: site, topology: "{{ topology }}"}
      register: told
      failed_when: told.drift or (told.resources | selectattr('resource', 'equalto', 'load_balancer.edge') | first).addresses.private_ip != '10.20.1.50'
"""


def test_the_modules_tell_no_private_key(cloud: LocalApi, tmp_path: Path) -> None:
    told = play(cloud, tmp_path, PLAYBOOK, {"topology": SITE}, "-vvv", "--diff")
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in told
    assert not [line for line in SECRET.splitlines()[1:-1] if line in told]
