"""Floating IPs and reverse names through the official client, held against the official document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hcloud import APIException, Client
from hcloud.actions import ActionFailedException
from hcloud.floating_ips import BoundFloatingIP
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
from localcloud.api.testing import LocalApi, serve

NBG1 = Location(name="nbg1")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    with serve(tmp_path_factory.mktemp("cloud")) as running:
        yield running
        assert [entry for entry in running.journal() if entry["violations"] or entry["status"] >= 500] == []


@pytest.fixture(scope="module")
def client(api: LocalApi) -> Client:
    return client_of(api)


@pytest.fixture
def server(client: Client) -> Iterator[Any]:
    made = make_server(client, "carrier")
    yield made
    client.servers.get_by_id(made.id).delete().wait_until_finished()


@pytest.fixture
def address(client: Client) -> Iterator[BoundFloatingIP]:
    made = client.floating_ips.create(type="ipv4", name="moving", home_location=NBG1, description="d", labels={"a": "b"})
    assert made.action is None
    yield made.floating_ip
    made.floating_ip.reload()
    if made.floating_ip.server is not None:
        made.floating_ip.unassign().wait_until_finished()
    made.floating_ip.delete()


def client_of(api: LocalApi) -> Client:
    return Client(api.token, api_endpoint=api.endpoint, poll_interval=0.01, timeout=20)


def make_server(client: Client, name: str) -> Any:
    created = client.servers.create(name, ServerType(name="cx23"), Image(name="debian-12"), location=NBG1)
    for action in (created.action, *created.next_actions):
        action.wait_until_finished()
    return created.server


def refusal(call: Any) -> str:
    with pytest.raises(APIException) as caught:
        call()
    return str(caught.value.code)


def test_an_address_moves_is_protected_and_dies(client: Client, server: Any, address: BoundFloatingIP) -> None:
    assert address.ip != server.public_net.ipv4.ip and address.home_location.name == "nbg1"
    address.assign(server).wait_until_finished()
    assert refusal(lambda: address.assign(server)) == "floating_ip_assigned"
    assert refusal(address.delete) == "must_be_unassigned"
    assert client.servers.get_by_name("carrier").public_net.floating_ips[0].id == address.id
    other = make_server(client, "other")
    address.unassign().wait_until_finished()
    assert refusal(address.unassign) == "service_error"
    address.assign(other).wait_until_finished()
    other.delete().wait_until_finished()
    address.reload()
    assert address.server is None
    address.change_protection(delete=True).wait_until_finished()
    assert refusal(address.delete) == "protected"
    address.change_protection(delete=False).wait_until_finished()
    assert address.update(name="moved", description="e", labels={"c": "d"}).name == "moved"
    assert [item.command for item in address.get_actions(sort=["id"])] == [
        "assign_floating_ip",
        "unassign_floating_ip",
        "assign_floating_ip",
        "change_protection",
        "change_protection",
    ]


def test_lists_are_filtered_and_sorted(client: Client, api: LocalApi, address: BoundFloatingIP) -> None:
    second = client.floating_ips.create(type="ipv6", name="second", home_location=NBG1).floating_ip
    assert [item.name for item in client.floating_ips.get_all(label_selector="a=b")] == ["moving"]
    assert client.floating_ips.get_by_name("second").id == second.id and client.floating_ips.get_by_name("third") is None
    listed = api.call("GET", "/floating_ips?sort=id:desc").json()["floating_ips"]
    assert [item["name"] for item in listed] == ["second", "moving"]
    # Unlike other lists, this one cannot be sorted by name.
    assert api.call("GET", "/floating_ips?sort=name").status_code == 422
    assert refusal(lambda: client.floating_ips.create(type="ipv4", name="second", home_location=NBG1)) == "uniqueness_error"
    second.delete()
    assert refusal(second.delete) == "not_found"


def test_one_made_for_a_server_has_its_place(client: Client, server: Any) -> None:
    made = client.floating_ips.create(type="ipv6", name="with-server", server=server)
    assert made.action is not None
    made.action.wait_until_finished()
    found = client.floating_ips.get_by_id(made.floating_ip.id)
    assert (found.server.id, found.home_location.name) == (server.id, "nbg1")
    found.unassign().wait_until_finished()
    found.delete()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"type": "ipv4"}, 422, "invalid_input"),
        ({"type": "ipv5", "home_location": "nbg1"}, 422, "invalid_input"),
        ({"type": "ipv4", "home_location": "moon"}, 422, "invalid_input"),
        ({"type": "ipv4", "home_location": "nbg1", "location": "nbg1"}, 422, "invalid_input"),
        ({"type": "ipv4", "home_location": "nbg1", "labels": {"a b": "c"}}, 422, "invalid_input"),
        ({"type": "ipv4", "server": 4711}, 404, "not_found"),
    ],
)
def test_what_cannot_be_made_is_refused(api: LocalApi, body: dict[str, Any], status: int, code: str) -> None:
    reply = api.call("POST", "/floating_ips", body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert api.call("GET", "/floating_ips").json()["floating_ips"] == []


def test_assigning_to_nobody_is_refused(api: LocalApi, address: BoundFloatingIP) -> None:
    reply = api.call("POST", f"/floating_ips/{address.id}/actions/assign", {"server": 4711})
    assert (reply.status_code, reply.json()["error"]["message"]) == (404, "server with ID '4711' not found")
    assert api.call("POST", "/floating_ips/4711/actions/unassign").status_code == 404


def test_reverse_names_are_set_and_go_back_to_the_default(client: Client, server: Any, address: BoundFloatingIP) -> None:
    def names(item: Any) -> dict[str, str]:
        item.reload()
        return {entry["ip"]: entry["dns_ptr"] for entry in item.dns_ptr}

    default = names(address)
    assert list(default) == [address.ip] and default[address.ip].endswith(".clients.your-server.de")
    address.change_dns_ptr(address.ip, "moving.example.org").wait_until_finished()
    assert names(address) == {address.ip: "moving.example.org"}
    address.change_dns_ptr(address.ip, None).wait_until_finished()
    assert names(address) == default
    for wrong in ("under_score.example.org", "-a.example.org", "a..example.org", "a." * 130 + "org", ""):
        assert refusal(lambda wrong=wrong: address.change_dns_ptr(address.ip, wrong)) == "invalid_input"
    for elsewhere in ("10.0.0.1", "2001:db8::1", "nonsense"):
        assert refusal(lambda elsewhere=elsewhere: address.change_dns_ptr(elsewhere, "a.example.org")) == "invalid_input"

    wide = client.floating_ips.create(type="ipv6", name="wide", home_location=NBG1).floating_ip
    first = wide.ip.replace("::/64", "::1")
    assert names(wide) == {}
    wide.change_dns_ptr(first, "a.example.org").wait_until_finished()
    assert names(wide) == {first: "a.example.org"}
    wide.change_dns_ptr(first, None).wait_until_finished()
    assert names(wide) == {}
    wide.delete()

    own = server.public_net.ipv4.ip
    server.change_dns_ptr(own, "server.example.org").wait_until_finished()
    primary = client.primary_ips.get_by_id(server.public_net.primary_ipv4.id)
    assert names(primary) == {own: "server.example.org"}
    primary.change_dns_ptr(own, "primary.example.org").wait_until_finished()
    assert client.servers.get_by_name("carrier").public_net.ipv4.dns_ptr == "primary.example.org"
    assert refusal(lambda: server.change_dns_ptr(address.ip, "a.example.org")) == "invalid_input"


def test_a_move_or_a_name_that_failed_leaves_it_as_it_was(client: Client, api: LocalApi, server: Any, address: BoundFloatingIP) -> None:
    def fail(command: str) -> None:
        api.local("POST", "/faults", {"rules": [{"effect": "action_error", "command": command, "code": "action_failed", "message": "no"}]})

    fail("assign_floating_ip")
    with pytest.raises(ActionFailedException):
        address.assign(server).wait_until_finished()
    address.reload()
    assert address.server is None
    address.assign(server).wait_until_finished()
    fail("unassign_floating_ip")
    with pytest.raises(ActionFailedException):
        address.unassign().wait_until_finished()
    address.reload()
    assert address.server.id == server.id
    fail("change_dns_ptr")
    with pytest.raises(ActionFailedException):
        address.change_dns_ptr(address.ip, "a.example.org").wait_until_finished()
    address.reload()
    assert address.dns_ptr[0]["dns_ptr"].startswith("static.")
    api.local("POST", "/faults", {"rules": []})


def test_while_it_moves_it_is_locked_and_so_is_its_server(tmp_path: Path) -> None:
    with serve(tmp_path) as api:
        server = make_server(client_of(api), "carrier")
    with serve(tmp_path, speed=5.0) as api:
        client = client_of(api)
        address = client.floating_ips.create(type="ipv4", home_location=NBG1).floating_ip
        assert address.name == f"floating-ip-{address.id}"
        moving = client.floating_ips.get_by_id(address.id)
        moving.assign(client.servers.get_by_id(server.id))
        assert refusal(moving.unassign) == "locked"
        assert refusal(lambda: moving.change_dns_ptr(moving.ip, "a.example.org")) == "locked"
        assert refusal(lambda: client.servers.get_by_id(server.id).power_off()) == "locked"
        assert api.violations() == []


def test_the_range_of_public_addresses_ends(tmp_path: Path) -> None:
    with serve(tmp_path, public_range="10.93.99.0/28") as api:
        client = client_of(api)
        made = [client.floating_ips.create(type="ipv4", home_location=NBG1).floating_ip.ip for _unused in range(5)]
        assert len(set(made)) == 5
        with pytest.raises(APIException) as caught:
            client.floating_ips.create(type="ipv4", home_location=NBG1)
        assert caught.value.code == "resource_limit_exceeded" and caught.value.details["limits"] == [{"name": "floating_ip_limit"}]
        assert api.violations() == []
