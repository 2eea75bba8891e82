"""Refusals: codes, statuses and texts as clients know them, and nothing recorded when a call is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from localcloud.api.testing import LocalApi, serve

SERVER = {"name": "a", "server_type": "cx23", "image": "debian-12", "location": "nbg1", "start_after_create": False}
SUBNET = {"type": "cloud", "network_zone": "eu-central"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    with serve(tmp_path_factory.mktemp("cloud")) as running:
        yield running
        assert [entry for entry in running.journal() if entry["violations"] or entry["status"] >= 500] == []


def error(response: requests.Response) -> tuple[int, str, str]:
    found = response.json()["error"]
    return response.status_code, found["code"], found["message"]


def test_the_way_in(api: LocalApi) -> None:
    without = requests.get(api.endpoint + "/servers", timeout=10)
    assert without.json() == {"error": {"code": "unauthorized", "message": "token is required", "details": None}}
    assert error(api.call("GET", "/servers", token="wrong")) == (401, "unauthorized", "the token you have provided is invalid")
    assert error(requests.patch(api.endpoint + "/servers", timeout=10)) == (401, "unauthorized", "token is required")
    assert error(requests.get(api.endpoint + "/nothing", timeout=10)) == (404, "not_found", "api route not found")
    assert error(api.call("PATCH", "/servers"))[:2] == (405, "method_not_allowed")
    assert error(api.call("GET", "/datacenters"))[:2] == (410, "deprecated_api_endpoint")
    headers = {"Authorization": f"Bearer {api.token}"}
    assert error(requests.post(api.endpoint + "/servers", data=b"{", headers=headers, timeout=10))[:2] == (400, "json_error")
    assert error(requests.post(api.endpoint + "/servers", data=b"[]", headers=headers, timeout=10))[:2] == (400, "json_error")
    assert error(api.call("GET", "/servers/4711")) == (404, "not_found", "server with ID '4711' not found")
    assert error(api.call("GET", "/actions"))[:2] == (422, "invalid_input")
    good = api.call("GET", "/servers")
    assert len(good.headers["X-Correlation-Id"]) == 16 and good.headers["RateLimit-Limit"] == "3600"
    assert requests.get(api.url + "/_local/health", timeout=10).json()["status"] == "ok"


@pytest.mark.parametrize(
    ("change", "status", "code", "message"),
    [
        ({"datacenter": "nbg1-dc3"}, 422, "invalid_input", "invalid input: unknown field name 'datacenter'"),
        ({"name": "under_score"}, 422, "invalid_input", "RFC 1123"),
        ({"name": None}, 422, "invalid_input", "field 'name'"),
        ({"server_type": "cx22"}, 422, "invalid_input", "server type 104 is deprecated"),
        ({"server_type": 105}, 422, "invalid_input", "server type 105 is deprecated"),
        ({"server_type": "cx99"}, 422, "invalid_input", "server type 'cx99' not found"),
        ({"location": "ash"}, 422, "invalid_input", "unsupported location for server type"),
        ({"location": "moon"}, 422, "invalid_input", "location 'moon' not found"),
        ({"image": "windows"}, 422, "invalid_input", "image 'windows' not found"),
        ({"image": 114690389}, 422, "invalid_input", "architecture"),
        ({"user_data": "x" * 32769}, 422, "invalid_input", "32768"),
        ({"labels": {"hetzner.cloud/x": "y"}}, 422, "invalid_input", "reserved prefix"),
        ({"labels": {"a b": "y"}}, 422, "invalid_input", "label key 'a b'"),
        ({"ssh_keys": ["nobody"]}, 404, "not_found", "nobody"),
        ({"networks": [4711]}, 404, "not_found", "network"),
        ({"placement_group": 4711}, 404, "not_found", "placement_group"),
        ({"firewalls": [{"firewall": 4711}]}, 404, "not_found", "firewall"),
        ({"public_net": {"enable_ipv4": False, "enable_ipv6": False}}, 422, "invalid_input", "at least one network"),
        ({"public_net": {"enable_ipv4": False, "ipv4": 4711}}, 422, "invalid_input", "not enabled"),
        ({"start_after_create": "yes"}, 422, "invalid_input", "field 'start_after_create'"),
    ],
)
def test_a_server_that_is_refused_leaves_nothing(api: LocalApi, change: dict[str, Any], status: int, code: str, message: str) -> None:
    response = api.call("POST", "/servers", {**SERVER, "name": "refused", **change})
    found = error(response)
    assert found[:2] == (status, code) and message in found[2]
    assert api.call("GET", "/servers?name=refused").json()["servers"] == []
    assert api.call("GET", "/primary_ips").json()["meta"]["pagination"]["total_entries"] == 0


def test_details_name_the_fields(api: LocalApi) -> None:
    details = api.call("POST", "/networks", {"ip_range": "10.0.0.1/16"}).json()["error"]["details"]
    assert [item["name"] for item in details["fields"]] == ["name", "ip_range"]
    assert details["fields"][0]["messages"] == ["is required"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ip_range": "8.8.0.0/16"}, "ip_range"),
        ({"ip_range": "10.0.0.0/25"}, "ip_range"),
        ({"ip_range": "10.0.0.0/16", "subnets": [{**SUBNET, "ip_range": "10.1.0.0/24"}]}, "ip_range"),
        (
            {"ip_range": "10.0.0.0/16", "subnets": [{**SUBNET, "ip_range": "10.0.0.0/24"}, {**SUBNET, "ip_range": "10.0.0.0/25"}]},
            "ip_range",
        ),
        ({"ip_range": "10.0.0.0/16", "subnets": [SUBNET, {**SUBNET, "network_zone": "us-east"}]}, "network_zone"),
        ({"ip_range": "10.0.0.0/16", "routes": [{"destination": "10.9.0.0/24", "gateway": "10.0.0.1"}]}, "gateway"),
    ],
)
def test_networks_that_cannot_be(api: LocalApi, body: dict[str, Any], field: str) -> None:
    response = api.call("POST", "/networks", {"name": "bad", **body})
    assert response.status_code == 422
    assert response.json()["error"]["details"]["fields"][0]["name"] == field


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"direction": "in", "protocol": "tcp", "source_ips": ["0.0.0.0/0"]}, "rules.0.port"),
        ({"direction": "in", "protocol": "tcp", "port": "90-80", "source_ips": ["0.0.0.0/0"]}, "rules.0.port"),
        ({"direction": "in", "protocol": "icmp", "port": "80", "source_ips": ["0.0.0.0/0"]}, "rules.0.port"),
        ({"direction": "in", "protocol": "tcp", "port": "80", "source_ips": ["10.0.0.1/8"]}, "rules.0.source_ips"),
        ({"direction": "in", "protocol": "tcp", "port": "80", "source_ips": ["10.0.0.1"]}, "rules.0.source_ips"),
        ({"direction": "out", "protocol": "tcp", "port": "80", "source_ips": ["0.0.0.0/0"]}, "rules.0.destination_ips"),
        ({"direction": "up", "protocol": "tcp", "port": "80"}, "rules.0.direction"),
    ],
)
def test_rules_that_cannot_be(api: LocalApi, rule: dict[str, Any], field: str) -> None:
    response = api.call("POST", "/firewalls", {"name": "bad", "rules": [rule]})
    assert response.status_code == 422
    assert response.json()["error"]["details"]["fields"][0]["name"] == field


def test_names_are_unique_and_networks_need_subnets(api: LocalApi) -> None:
    network = api.call("POST", "/networks", {"name": "empty", "ip_range": "10.0.0.0/16"}).json()["network"]
    assert error(api.call("POST", "/networks", {"name": "empty", "ip_range": "10.0.0.0/16"}))[:2] == (409, "uniqueness_error")
    found = error(api.call("POST", "/servers", {**SERVER, "networks": [network["id"]]}))
    assert found[:2] == (422, "no_subnet_available")
    made = api.call("POST", "/servers", SERVER)
    assert made.status_code == 201
    assert error(api.call("POST", "/servers", SERVER)) == (409, "uniqueness_error", "server name is already used")
    api.settle()
    assert error(api.call("GET", "/servers?label_selector=a==b=c"))[:2] == (422, "invalid_input")
    assert error(api.call("GET", "/servers?sort=colour"))[:2] == (422, "invalid_input")
    assert error(api.call("GET", "/servers?page=0"))[:2] == (422, "invalid_input")
    assert api.call("DELETE", f"/servers/{made.json()['server']['id']}").status_code == 200
    api.settle()
    assert api.call("DELETE", f"/networks/{network['id']}").status_code == 204


def test_public_addresses_run_out_and_come_back(tmp_path: Path) -> None:
    with serve(tmp_path, public_range="10.93.99.0/28") as api:
        wanted = {"type": "ipv4", "location": "fsn1"}
        answers = [api.call("POST", "/primary_ips", {"name": f"p{number}", **wanted}) for number in range(6)]
        assert [item.json()["primary_ip"]["ip"] for item in answers[:5]] == [f"10.93.99.{number}" for number in range(10, 15)]
        assert error(answers[5])[:2] == (403, "resource_limit_exceeded")
        assert api.call("DELETE", f"/primary_ips/{answers[2].json()['primary_ip']['id']}").status_code == 204
        again = api.call("POST", "/primary_ips", {"name": "again", **wanted})
        assert again.json()["primary_ip"]["ip"] == "10.93.99.12"


def test_the_rate_limit_drains_and_refills(api: LocalApi) -> None:
    api.local("POST", "/rate_limit", {"remaining": 2})
    codes = [api.call("GET", "/locations").status_code for _unused in range(4)]
    assert codes[:2] == [200, 200] and 429 in codes
    api.local("POST", "/rate_limit", {"remaining": 0})
    response = api.call("GET", "/locations")
    assert error(response)[:2] == (429, "rate_limit_exceeded") and response.headers["RateLimit-Remaining"] == "0"
    api.local("POST", "/rate_limit", {"remaining": 3600})
    assert int(api.call("GET", "/locations").headers["RateLimit-Remaining"]) >= 3598
