"""What nobody planned: nonsense in bodies and queries, and a process killed at the worst moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from localcloud.api import routing
from localcloud.api.testing import TOKEN, LocalApi, serve

TESTS = Path(__file__).resolve().parents[2]
KINDS = {
    "servers": "server",
    "networks": "network",
    "firewalls": "firewall",
    "volumes": "volume",
    "primary_ips": "primary_ip",
    "load_balancers": "load_balancer",
}
FIELDS = [
    "name",
    "labels",
    "server_type",
    "image",
    "location",
    "ssh_keys",
    "volumes",
    "networks",
    "firewalls",
    "user_data",
    "public_net",
    "placement_group",
    "ip_range",
    "subnets",
    "routes",
    "network",
    "ip",
    "alias_ips",
    "rules",
    "apply_to",
    "remove_from",
    "type",
    "size",
    "format",
    "server",
    "assignee_id",
    "assignee_type",
    "dns_ptr",
    "delete",
    "rebuild",
    "upgrade_disk",
    "destination",
    "gateway",
    "network_zone",
    "public_key",
    "mode",
    "ttl",
    "records",
    "rrsets",
    "automount",
    "description",
    "home_location",
    "load_balancer_type",
    "services",
    "targets",
    "protocol",
    "listen_port",
    "destination_port",
    "health_check",
    "http",
    "certificate",
    "domain_names",
    "label_selector",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-1, 2**70)
    | st.sampled_from(
        [
            "",
            "x",
            "10.0.0.0/16",
            "10.0.0.9",
            "ipv4",
            "cloud",
            "eu-central",
            "server",
            "nbg1",
            "cx23",
            "debian-12",
            "spread",
            "fd00::/64",
            "\x00",
            "é",
        ]
    )
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=2), max_leaves=4
)
CHANGES = [item for item in routing.OPERATIONS if item.method != "GET"]
READS = [item for item in routing.OPERATIONS if item.method == "GET"]
RELAXED = settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    with serve(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture(scope="module")
def ids(api: LocalApi) -> dict[str, int]:
    """One resource of each kind that paths can point to."""
    bodies: dict[str, dict[str, Any]] = {
        "servers": {"name": "a", "server_type": "cx23", "image": "debian-12"},
        "networks": {"name": "a", "ip_range": "10.0.0.0/16"},
        "firewalls": {"name": "a"},
        "volumes": {"name": "a", "size": 10, "location": "nbg1"},
        "primary_ips": {"name": "a", "type": "ipv4", "location": "nbg1"},
        "load_balancers": {"name": "a", "load_balancer_type": "lb11", "location": "nbg1"},
    }
    return {plural: api.call("POST", f"/{plural}", body).json()[KINDS[plural]]["id"] for plural, body in bodies.items()}


def path_of(template: str, ids: dict[str, int]) -> str:
    ident = ids.get(template.split("/")[1], 4711)
    return template.replace("{id}", str(ident)).replace("{id_or_name}", "example.org").replace("{rr_name}", "@").replace("{rr_type}", "A")


@RELAXED
@given(operation=st.sampled_from(CHANGES), body=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_no_body_breaks_a_change(api: LocalApi, ids: dict[str, int], operation: Any, body: dict[str, Any]) -> None:
    response = api.call(operation.method, path_of(operation.template, ids), body)
    if response.status_code == 429:
        api.local("POST", "/rate_limit", {"remaining": 3600})
    assert response.status_code < 500, (operation, body, response.text)
    assert response.status_code == 204 or "error" in response.json() or response.status_code in (200, 201)


@RELAXED
@given(
    operation=st.sampled_from(READS),
    query=st.lists(
        st.tuples(
            st.sampled_from(["name", "label_selector", "sort", "page", "per_page", "status", "id", "type", "bound_to"]),
            st.sampled_from(["", "0", "-1", "1", "99999999999999999999", "²", "a=b", "id:asc", "created", "(", "é"]),
        ),
        max_size=3,
    ),
)
def test_no_query_breaks_a_read(api: LocalApi, ids: dict[str, int], operation: Any, query: list[tuple[str, str]]) -> None:
    response = api.call("GET", path_of(operation.template, ids).replace("{action_id}", "1"), params=query)
    assert response.status_code < 500, (operation, query, response.text)


def test_a_killed_process_loses_nothing_that_it_had_answered(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from localcloud.api.testing import serve\n"
        "with serve(Path(sys.argv[1]), speed=1000.0) as api:\n"
        "    print(api.endpoint, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(TESTS)}) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        body = {"name": "survivor", "server_type": "cx23", "image": "debian-12"}
        made = requests.post(endpoint + "/servers", json=body, headers=headers, timeout=10).json()
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    with serve(tmp_path) as api:
        api.settle()
        server = api.call("GET", f"/servers/{made['server']['id']}").json()["server"]
        assert (server["status"], server["public_net"]["ipv4"]) == ("running", made["server"]["public_net"]["ipv4"])
        assert api.call("GET", f"/actions/{made['action']['id']}").json()["action"]["status"] == "success"
