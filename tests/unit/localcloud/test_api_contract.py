"""The judge itself: it must object to what departs from the official document, and to nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from localcloud.api import resources, routing
from localcloud.api.contract import WAIVERS, Contract
from localcloud.api.testing import SPECIFICATION, serve

if not SPECIFICATION.exists():
    pytest.skip(f"the official OpenAPI document is not at hand ({SPECIFICATION.name} beside the checkout)", allow_module_level=True)

LOCATION = {
    "id": 1,
    "name": "fsn1",
    "description": "d",
    "country": "DE",
    "city": "c",
    "latitude": 1.0,
    "longitude": 1.0,
    "network_zone": "eu",
}


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract(SPECIFICATION)


@pytest.mark.parametrize(
    ("method", "template", "query", "request_body", "status", "response", "text"),
    [
        ("GET", "/locations/{id}", (), None, 200, {"location": {**LOCATION, "id": "1"}}, "response 200/location/id"),
        ("GET", "/locations/{id}", (), None, 200, {"location": LOCATION, "more": 1}, "more"),
        ("GET", "/locations/{id}", (), None, 202, {"location": LOCATION}, "does not answer 202"),
        ("POST", "/placement_groups", (), {"name": "a", "type": "cluster"}, 201, None, "request/type"),
        ("GET", "/nowhere", (), None, 200, {}, "not in the document"),
        ("GET", "/actions", (), None, 200, {"actions": []}, "query id: is required"),
        ("GET", "/servers", (("status", "asleep"),), None, 404, None, ""),
        ("GET", "/servers", (("colour", "red"),), None, 200, {"servers": []}, "query colour: unknown"),
        ("GET", "/locations/{id}", (), None, 404, {"error": {"code": 7, "message": "m"}}, "response 404/error/code"),
    ],
)
def test_departures_are_named(
    contract: Contract, method: str, template: str, query: Any, request_body: Any, status: int, response: Any, text: str
) -> None:
    violations, waived = contract.judge(method, template, query, request_body, status, response)
    assert any(text in item for item in violations) and waived == []


def test_removed_endpoints_are_waived_by_name(contract: Contract) -> None:
    assert contract.judge("GET", "/datacenters", (), None, 410, {})[1][0].startswith("removed-endpoint")


def test_a_faithful_exchange_passes(contract: Contract) -> None:
    assert contract.judge("GET", "/locations/{id}", (), None, 200, {"location": LOCATION}) == ([], [])


@pytest.mark.parametrize("waiver", WAIVERS, ids=[item.name for item in WAIVERS])
def test_every_waiver_is_still_needed(contract: Contract, waiver: Any) -> None:
    """Each waiver's reason, reproduced: the document objects there, and to nothing else of the body."""
    bodies: dict[str, Any] = {
        "/servers": {"name": "a", "server_type": 1, "image": 1, "location": 1, "ssh_keys": [1]},
        "/servers/{id}/actions/rebuild": {"image": 1},
        "/servers/{id}/actions/change_type": {"server_type": 1, "upgrade_disk": True},
        "/volumes": {"name": "a", "size": 10, "location": 1},
        "/load_balancers/{id}/actions/add_service": {"protocol": "http", "health_check": {"interval": 5}},
        "/load_balancers/{id}/actions/update_service": {"listen_port": 80, "health_check": {"interval": 5}},
    }
    violations, waived = contract.judge(waiver.method, waiver.template, (), bodies[waiver.template], 201, None)
    assert waived and all(item.startswith(f"{waiver.name}: ") for item in waived)
    assert not [item for item in violations if item.startswith("request")]


def test_references_by_id_are_waived_and_recorded(tmp_path: Path) -> None:
    with serve(tmp_path) as api:
        response = api.call("POST", "/servers", {"name": "a", "server_type": 114, "image": 114690387, "location": 2})
        assert response.status_code == 201
        entry = api.journal()[-1]
        assert entry["violations"] == [] and len(entry["waived"]) == 3 and entry["operation"] == "/servers"


def test_every_operation_offered_is_in_the_document(contract: Contract) -> None:
    assert resources.__all__
    offered = [(item.method, item.template) for item in routing.OPERATIONS if "/datacenters" not in item.template]
    unknown = [pair for pair in offered if "is not in the document" in str(contract.judge(*pair, (), None, 200, None)[0])]
    assert unknown == [] and len(offered) > 100
