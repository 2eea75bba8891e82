"""Actions: progress, locks, order, failures, faults, and what a restart finds again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from hcloud import APIException, Client
from hcloud.actions import ActionFailedException
from hcloud.images import Image
from hcloud.server_types import ServerType
from localcloud.api.testing import LocalApi, serve
from localcloud.backend import BackendError, FirewallRule, MachineSpec, NoneBackend

DEADLINE_S = 10.0
SERVER = {"server_type": "cx23", "image": "debian-12", "location": "nbg1"}


class Gated(NoneBackend):
    """Machines whose making waits until the test opens the gate; remembers every call and how many ran at once per server."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.calls: list[tuple[str, int]] = []
        self.broken = False
        self.specs: list[MachineSpec] = []

    def create(self, spec: MachineSpec, start: bool) -> None:
        self.calls.append(("create", spec.id))
        if not self.gate.wait(DEADLINE_S):
            raise BackendError("the test never opened the gate")
        if self.broken:
            raise BackendError("no disk space left")
        super().create(spec, start)

    def update(self, spec: MachineSpec) -> None:
        self.calls.append(("update", spec.id))
        self.specs.append(spec)
        super().update(spec)

    def power_on(self, server_id: int) -> None:
        self.calls.append(("power_on", server_id))
        super().power_on(server_id)


def client_of(api: LocalApi) -> Client:
    return Client(api.token, api_endpoint=api.endpoint, poll_interval=0.01, timeout=20)


def create(api: LocalApi, name: str, **options: Any) -> dict[str, Any]:
    response = api.call("POST", "/servers", {**SERVER, "name": name, **options})
    assert response.status_code == 201, response.text
    return dict(response.json())


def until(condition: Any) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)
    return found


def test_a_server_is_locked_until_its_last_action_ends(tmp_path: Path) -> None:
    backend = Gated()
    with serve(tmp_path, backend=backend) as api:
        made = create(api, "a")
        path = f"/servers/{made['server']['id']}"
        seen = api.call("GET", path).json()["server"]
        assert (seen["status"], seen["locked"]) == ("initializing", True)
        for response in (api.call("POST", path + "/actions/poweroff"), api.call("DELETE", path)):
            assert (response.status_code, response.json()["error"]["code"]) == (423, "locked")
        assert made["action"]["status"] == "running" and [item["command"] for item in made["next_actions"]] == ["start_server"]
        backend.gate.set()
        api.settle()
        seen = api.call("GET", path).json()["server"]
        assert (seen["status"], seen["locked"]) == ("running", False)
        assert backend.calls == [("create", seen["id"]), ("power_on", seen["id"])]
        assert api.violations() == []


def test_progress_rises_and_a_second_client_polls_in_one_request(tmp_path: Path) -> None:
    with serve(tmp_path, speed=0.2) as api:
        made = [create(api, f"s{number}") for number in range(6)]
        ids = [action["id"] for item in made for action in (item["action"], *item["next_actions"])]
        watcher, seen = client_of(api), []

        def poll() -> bool:
            actions = watcher.request("GET", "/actions", params={"id": ids, "per_page": 50, "sort": ["status", "id"]})["actions"]
            assert len(actions) == 12
            seen.append([item["progress"] for item in sorted(actions, key=lambda item: item["id"])])
            return all(item["status"] == "success" for item in actions)

        until(poll)
        for column in zip(*seen, strict=True):
            assert list(column) == sorted(column) and column[-1] == 100
        assert any(0 < value < 100 for row in seen for value in row)
        assert [item["progress"] for item in made[0]["next_actions"]] == [0]
        started = client_of(api).servers.get_by_name("s0").get_actions(status=["success"], sort=["id:desc"])
        assert [item.command for item in started] == ["start_server", "create_server"]
        assert api.violations() == []


def test_a_failing_machine_fails_its_actions_and_the_server_can_be_deleted(tmp_path: Path) -> None:
    backend = Gated()
    backend.broken = True
    backend.gate.set()
    with serve(tmp_path, backend=backend) as api:
        client = client_of(api)
        created = client.servers.create("a", ServerType(name="cx23"), Image(name="debian-12"))
        with pytest.raises(ActionFailedException) as caught:
            created.action.wait_until_finished()
        assert "no disk space left" in caught.value.message
        with pytest.raises(ActionFailedException) as caught:
            created.next_actions[0].wait_until_finished()
        assert "before this one failed" in caught.value.message
        server = client.servers.get_by_name("a")
        assert server.status == "off" and not server.locked
        server.delete().wait_until_finished()
        assert client.primary_ips.get_all() == []


def test_a_failed_attachment_is_taken_back(tmp_path: Path) -> None:
    with serve(tmp_path) as api:
        subnets = [{"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.0.0/24"}]
        network = api.call("POST", "/networks", {"name": "n", "ip_range": "10.0.0.0/16", "subnets": subnets}).json()["network"]
        api.local(
            "POST", "/faults", {"rules": [{"effect": "action_error", "command": "attach_to_network", "code": "stuck", "message": "no"}]}
        )
        made = create(api, "a", networks=[network["id"]])
        api.settle()
        action = api.call("GET", f"/actions/{made['next_actions'][0]['id']}").json()["action"]
        assert (action["status"], action["error"]) == ("error", {"code": "stuck", "message": "no"})
        assert api.call("GET", f"/servers/{made['server']['id']}").json()["server"]["private_net"] == []
        assert api.call("GET", f"/networks/{network['id']}/members").json()["members"] == []
        retry = api.call("POST", f"/servers/{made['server']['id']}/actions/attach_to_network", {"network": network["id"]})
        assert retry.status_code == 201
        api.settle()
        assert api.call("GET", f"/servers/{made['server']['id']}").json()["server"]["private_net"][0]["ip"] == "10.0.0.2"


def test_parallel_creation_gives_every_server_its_own_addresses(tmp_path: Path) -> None:
    with serve(tmp_path) as api:
        subnets = [{"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.0.0/24"}]
        network = api.call("POST", "/networks", {"name": "n", "ip_range": "10.0.0.0/16", "subnets": subnets}).json()["network"]["id"]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: create(api, f"s{number}", networks=[network]), range(20)))
        api.settle()
        servers = client_of(api).servers.get_all()
        assert {item.status for item in servers} == {"running"}
        assert {item.private_net[0].ip for item in servers} == {f"10.0.0.{number}" for number in range(2, 22)}
        assert {item.public_net.ipv4.ip for item in servers} == {f"10.93.99.{number}" for number in range(10, 30)}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _n: api.call("POST", "/servers", {**SERVER, "name": "same"}).status_code, range(8)))
        assert sorted(answers) == [201] + [409] * 7


def test_the_machine_is_told_what_the_records_say(tmp_path: Path) -> None:
    backend = Gated()
    backend.gate.set()
    with serve(tmp_path, backend=backend) as api:
        rules = [{"direction": "in", "protocol": "tcp", "port": "22", "source_ips": ["192.0.2.0/24", "::/0"]}]
        selected = [{"type": "label_selector", "label_selector": {"selector": "role in (db,web)"}}]
        firewall = api.call("POST", "/firewalls", {"name": "f", "rules": rules, "apply_to": selected}).json()["firewall"]["id"]
        subnets = [{"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.5.0/24"}]
        network = api.call("POST", "/networks", {"name": "n", "ip_range": "10.0.0.0/16", "subnets": subnets}).json()["network"]["id"]
        server = create(api, "a", networks=[network], start_after_create=False)["server"]["id"]
        api.settle()
        volume = api.call("POST", "/volumes", {"name": "v", "size": 10, "server": server, "format": "ext4"}).json()["volume"]["id"]
        api.settle()
        assert backend.specs[-1].firewalls is None
        assert api.call("PUT", f"/servers/{server}", {"labels": {"role": "db"}}).status_code == 200
        api.settle()
        assert api.call("POST", f"/servers/{server}/actions/change_type", {"server_type": "cx33", "upgrade_disk": False}).status_code == 201
        api.settle()
        told = backend.specs[-1]
        assert (told.cores, told.memory_gb, told.disk_gb, told.public_ipv4, told.public_ipv6) == (
            4,
            8.0,
            40,
            "10.93.99.10",
            "fd0a:5d63:0:1::1",
        )
        assert told.firewalls == (FirewallRule("in", "tcp", "22", ("192.0.2.0/24", "::/0")),)
        assert [(item.network_id, item.ip_range, item.ip) for item in told.interfaces] == [(network, "10.0.0.0/16", "10.0.5.1")]
        assert [(item.id, item.size, item.format) for item in told.volumes] == [(volume, 10, "ext4")]
        assert api.call("DELETE", f"/networks/{network}").status_code == 204
        assert api.call("POST", f"/volumes/{volume}/actions/detach").status_code == 201
        assert api.call("POST", f"/firewalls/{firewall}/actions/remove_from_resources", {"remove_from": selected}).status_code == 201
        api.settle()
        assert (backend.specs[-1].interfaces, backend.specs[-1].volumes, backend.specs[-1].firewalls) == ((), (), None)
        assert api.violations() == []


def test_network_changes_exclude_one_another(tmp_path: Path) -> None:
    with serve(tmp_path, speed=0.1) as api:
        network = api.call("POST", "/networks", {"name": "n", "ip_range": "10.0.0.0/16"}).json()["network"]["id"]
        subnet = {"type": "cloud", "network_zone": "eu-central"}
        assert api.call("POST", f"/networks/{network}/actions/add_subnet", subnet).status_code == 201
        second = api.call("POST", f"/networks/{network}/actions/add_subnet", subnet)
        assert (second.status_code, second.json()["error"]["code"]) == (409, "conflict")
        api.settle()
        assert len(api.call("GET", f"/networks/{network}").json()["network"]["subnets"]) == 1


def test_a_restart_carries_on_with_what_was_running(tmp_path: Path) -> None:
    with serve(tmp_path, speed=1000.0) as api:
        made = create(api, "a")
        until(lambda: api.backend.running(made["server"]["id"]) is False and api.call("GET", "/servers").json()["servers"][0]["locked"])
    with serve(tmp_path) as api:
        api.settle()
        server = api.call("GET", f"/servers/{made['server']['id']}").json()["server"]
        assert (server["status"], server["locked"]) == ("running", False)


def test_injected_errors_hit_the_calls_they_are_meant_for(tmp_path: Path) -> None:
    with serve(tmp_path) as api:
        rule = {
            "method": "POST",
            "path": "/servers",
            "nth": 2,
            "status": 412,
            "code": "resource_unavailable",
            "message": "error during placement",
        }
        api.local("POST", "/faults", {"rules": [rule]})
        answers = [api.call("POST", "/servers", {**SERVER, "name": f"s{number}"}) for number in range(3)]
        assert [item.status_code for item in answers] == [201, 412, 201]
        assert answers[1].json()["error"]["message"] == "error during placement"
        assert [item["name"] for item in api.call("GET", "/servers").json()["servers"]] == ["s0", "s2"]
        assert requests.post(api.url + "/_local/faults", json={"rules": [{"efect": "drop"}]}, timeout=10).status_code == 422
        assert api.local("POST", "/faults", {"rules": []}) == {"rules": []}


@pytest.mark.parametrize(("effect", "recorded"), [("drop", False), ("drop_after_commit", True)])
def test_a_broken_connection_leaves_the_caller_in_doubt(tmp_path: Path, effect: str, recorded: bool) -> None:
    with serve(tmp_path) as api:
        api.local("POST", "/faults", {"rules": [{"method": "POST", "path": "/placement_groups", "effect": effect}]})
        with pytest.raises(requests.RequestException):
            api.call("POST", "/placement_groups", {"name": "g", "type": "spread"})
        assert bool(api.call("GET", "/placement_groups?name=g").json()["placement_groups"]) is recorded


def test_a_timeout_after_the_fact_meets_uniqueness_on_the_second_try(tmp_path: Path) -> None:
    with serve(tmp_path) as api:
        rule = {
            "method": "POST",
            "path": "/servers",
            "effect": "error_after_commit",
            "status": 504,
            "code": "timeout",
            "message": "timeout",
        }
        api.local("POST", "/faults", {"rules": [rule]})
        with pytest.raises(APIException) as caught:
            client_of(api).servers.create("orphan", ServerType(name="cx23"), Image(name="debian-12"))
        assert caught.value.code == "uniqueness_error"
        assert client_of(api).servers.get_by_name("orphan") is not None
