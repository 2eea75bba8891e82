"""Load balancers and certificates through the official client, held against the official document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hcloud import APIException, Client
from hcloud.actions import ActionFailedException
from hcloud.images import Image
from hcloud.load_balancer_types import LoadBalancerType
from hcloud.load_balancers import (
    LoadBalancerAlgorithm,
    LoadBalancerHealthCheck,
    LoadBalancerService,
    LoadBalancerServiceHttp,
    LoadBalancerTarget,
    LoadBalancerTargetIP,
    LoadBalancerTargetLabelSelector,
)
from hcloud.locations import Location
from hcloud.networks import NetworkSubnet
from hcloud.server_types import ServerType
from hcloud.servers import ServerCreatePublicNetwork
from localcloud.api.pems import self_signed
from localcloud.api.testing import LocalApi, serve

NBG1 = Location(name="nbg1")
LB11 = LoadBalancerType(name="lb11")
SELECTED = {"type": "label_selector", "label_selector": {"selector": "a=b"}}
MINIMAL = {"name": "edge", "load_balancer_type": "lb11", "location": "nbg1"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalApi]:
    with serve(tmp_path) as running:
        yield running
        assert [entry for entry in running.journal() if entry["violations"] or entry["status"] >= 500] == []


@pytest.fixture
def client(api: LocalApi) -> Client:
    return client_of(api)


def client_of(api: LocalApi) -> Client:
    return Client(api.token, api_endpoint=api.endpoint, poll_interval=0.01, timeout=20)


@pytest.fixture
def network(client: Client) -> Any:
    return client.networks.create(
        "private", "10.20.0.0/16", subnets=[NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.20.1.0/24")]
    )


@pytest.fixture
def server(client: Client, network: Any) -> Any:
    return client.servers.get_by_id(make_server(client, "app", networks=[network], labels={"role": "app"}).id)


@pytest.fixture
def balancer(client: Client) -> Any:
    return make_balancer(client)


def make_balancer(client: Client, name: str = "edge", **options: Any) -> Any:
    made = client.load_balancers.create(name, LB11, location=NBG1, **options)
    made.action.wait_until_finished()
    made.load_balancer.reload()
    return made.load_balancer


def make_server(client: Client, name: str, **options: Any) -> Any:
    created = client.servers.create(name, ServerType(name="cx23"), Image(name="debian-12"), location=NBG1, **options)
    for action in (created.action, *created.next_actions):
        action.wait_until_finished()
    return created.server


def refusal(call: Any) -> str:
    with pytest.raises(APIException) as caught:
        call()
    return str(caught.value.code)


def act(api: LocalApi, balancer: Any, name: str, body: Any = None) -> Any:
    """The error code of an action, or None when it was taken and has ended."""
    reply = api.call("POST", f"/load_balancers/{balancer.id}/actions/{name}", body)
    api.settle()
    return None if reply.status_code == 201 else reply.json()["error"]["code"]


def shown(api: LocalApi, balancer: Any) -> Any:
    return api.call("GET", f"/load_balancers/{balancer.id}").json()["load_balancer"]


def target(server: Any, private: bool = False) -> dict[str, Any]:
    return {"type": "server", "server": {"id": server.id}, "use_private_ip": private}


def test_it_is_made_changed_protected_and_dies(client: Client, api: LocalApi, balancer: Any) -> None:
    first = shown(api, balancer)
    assert (
        first["algorithm"]["type"] == "round_robin" and first["public_net"]["enabled"] and first["public_net"]["ipv4"]["blocked"] is False
    )
    assert first["load_balancer_type"]["max_targets"] == 25 and first["included_traffic"] > 0
    assert refusal(lambda: client.load_balancers.create("edge", LB11, location=NBG1)) == "uniqueness_error"
    balancer.change_algorithm(LoadBalancerAlgorithm(type="least_connections")).wait_until_finished()
    balancer.change_type(LoadBalancerType(name="lb21")).wait_until_finished()
    assert refusal(lambda: balancer.change_type(LoadBalancerType(name="lb21"))) == "invalid_load_balancer_type"
    assert refusal(lambda: balancer.change_type(LoadBalancerType(name="lb99"))) == "invalid_input"
    balancer.change_dns_ptr(first["public_net"]["ipv4"]["ip"], "edge.example.org").wait_until_finished()
    balancer.change_dns_ptr(first["public_net"]["ipv6"]["ip"], "edge.example.org").wait_until_finished()
    assert refusal(lambda: balancer.change_dns_ptr("192.0.2.1", "a.example.org")) == "invalid_input"
    balancer.change_protection(delete=True).wait_until_finished()
    assert refusal(balancer.delete) == "protected"
    balancer.change_protection(delete=False).wait_until_finished()
    assert balancer.update(name="front", labels={"a": "b"}).name == "front"
    assert [item.name for item in client.load_balancers.get_all(label_selector="a=b")] == ["front"]
    now = shown(api, balancer)
    assert (now["algorithm"]["type"], now["load_balancer_type"]["name"]) == ("least_connections", "lb21")
    assert {now["public_net"][family]["dns_ptr"] for family in ("ipv4", "ipv6")} == {"edge.example.org"}
    assert [item.command for item in balancer.get_actions(sort=["id"])][:3] == [
        "create_load_balancer",
        "change_algorithm",
        "change_load_balancer_type",
    ]
    deleted = api.call("DELETE", f"/load_balancers/{balancer.id}")
    assert (deleted.status_code, deleted.json()["action"]["command"]) == (201, "delete_load_balancer")
    api.settle()
    assert refusal(balancer.reload) == "not_found"


def test_addresses_are_not_given_twice(client: Client, api: LocalApi, server: Any, balancer: Any) -> None:
    other = shown(api, make_balancer(client, "other"))["public_net"]
    mine = shown(api, balancer)["public_net"]
    assert len({mine["ipv4"]["ip"], other["ipv4"]["ip"], server.public_net.ipv4.ip}) == 3
    assert len({mine["ipv6"]["ip"], other["ipv6"]["ip"], server.public_net.ipv6.ip.replace("::/64", "::1")}) == 3


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"load_balancer_type": "lb99"}, 422, "invalid_input"),
        ({"location": "moon"}, 422, "invalid_input"),
        ({"location": None}, 422, "invalid_input"),
        ({"network_zone": "eu-central"}, 422, "invalid_input"),
        ({"location": None, "network_zone": "mars"}, 422, "invalid_input"),
        ({"public_interface": False}, 422, "load_balancer_not_attached_to_network"),
        ({"network": 4711}, 404, "not_found"),
        ({"targets": [{"type": "server", "server": {"id": 4711}}]}, 404, "not_found"),
        ({"targets": [{**SELECTED, "use_private_ip": True}]}, 422, "load_balancer_not_attached_to_network"),
        ({"strange": 1}, 422, "invalid_input"),
    ],
)
def test_what_cannot_be_made_is_refused(api: LocalApi, fields: dict[str, Any], status: int, code: str) -> None:
    body = {key: value for key, value in {**MINIMAL, **fields}.items() if value is not None}
    reply = api.call("POST", "/load_balancers", body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert api.call("GET", "/load_balancers").json()["load_balancers"] == []


def test_what_a_service_leaves_out_is_filled_in(api: LocalApi, balancer: Any) -> None:
    assert act(api, balancer, "add_service", {"protocol": "http"}) is None
    (service,) = shown(api, balancer)["services"]
    assert service == {
        "protocol": "http",
        "listen_port": 80,
        "destination_port": 80,
        "proxyprotocol": False,
        "health_check": {
            "protocol": "http",
            "port": 80,
            "interval": 15,
            "timeout": 10,
            "retries": 3,
            "http": {"domain": "", "path": "/", "response": "", "status_codes": ["2??", "3??"], "tls": False},
        },
        "http": {"cookie_name": "HCLBSTICKY", "cookie_lifetime": 300, "timeout_idle": 50, "sticky_sessions": False},
    }
    assert (
        act(api, balancer, "update_service", {"listen_port": 80, "http": {"sticky_sessions": True}, "health_check": {"interval": 5}})
        is None
    )
    (service,) = shown(api, balancer)["services"]
    assert (service["http"]["sticky_sessions"], service["http"]["cookie_lifetime"], service["health_check"]["interval"]) == (True, 300, 5)
    assert act(api, balancer, "delete_service", {"listen_port": 81}) == "not_found"
    assert act(api, balancer, "delete_service", {"listen_port": 80}) is None
    assert shown(api, balancer)["services"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"protocol": "udp"},
        {"protocol": "tcp"},
        {"protocol": "tcp", "listen_port": 70000, "destination_port": 1},
        {"protocol": "tcp", "listen_port": 1, "destination_port": 1, "http": {}},
        {"protocol": "tcp", "listen_port": 1, "destination_port": 1, "health_check": {"http": {"path": "/"}}},
        {"protocol": "http", "http": {"redirect_http": True}},
        {"protocol": "http", "http": {"timeout_idle": 10}},
        {"protocol": "https"},
        {"protocol": "http", "health_check": {"interval": 1}},
        {"protocol": "http", "health_check": {"http": {"path": "a"}}},
        {"protocol": "http", "health_check": {"http": {"status_codes": ["900"]}}},
    ],
)
def test_services_that_cannot_be_are_refused(api: LocalApi, balancer: Any, body: dict[str, Any]) -> None:
    assert act(api, balancer, "add_service", body) == "invalid_input"
    assert shown(api, balancer)["services"] == []


def test_ports_are_taken_once_also_by_a_redirect(client: Client, api: LocalApi, balancer: Any) -> None:
    pem, key = self_signed("example.org")
    certificate = client.certificates.create("site", certificate=pem, private_key=key)
    balancer.add_service(
        LoadBalancerService(protocol="tcp", listen_port=5432, destination_port=5432, proxyprotocol=True)
    ).wait_until_finished()
    reply = api.call("POST", f"/load_balancers/{balancer.id}/actions/add_service", {"protocol": "http", "listen_port": 5432})
    assert (reply.status_code, reply.json()["error"]["code"]) == (412, "source_port_already_used")
    http = LoadBalancerServiceHttp(certificates=[certificate], redirect_http=True)
    check = LoadBalancerHealthCheck(protocol="tcp", port=8080, interval=5, timeout=3, retries=2)
    balancer.add_service(
        LoadBalancerService(protocol="https", listen_port=443, destination_port=8080, http=http, health_check=check)
    ).wait_until_finished()
    assert act(api, balancer, "add_service", {"protocol": "http"}) == "source_port_already_used"
    assert act(api, balancer, "update_service", {"listen_port": 443, "http": {"redirect_http": False}}) is None
    assert act(api, balancer, "add_service", {"protocol": "http"}) is None
    reply = api.call("POST", f"/load_balancers/{balancer.id}/actions/update_service", {"listen_port": 443, "http": {"redirect_http": True}})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "source_port_already_used")
    for port in (1, 2):
        assert act(api, balancer, "add_service", {"protocol": "tcp", "listen_port": port, "destination_port": 1}) is None
    assert act(api, balancer, "add_service", {"protocol": "tcp", "listen_port": 3, "destination_port": 1}) == "resource_limit_exceeded"
    assert refusal(certificate.delete) == "resource_in_use"
    found = api.call("GET", f"/certificates/{certificate.id}").json()["certificate"]
    assert found["used_by"] == [{"id": balancer.id, "type": "load_balancer"}]
    balancer.delete()
    api.settle()
    certificate.delete()


def test_targets_of_each_type_and_their_health(client: Client, api: LocalApi, server: Any, balancer: Any) -> None:
    assert act(api, balancer, "add_service", {"protocol": "http"}) is None
    assert act(api, balancer, "add_service", {"protocol": "tcp", "listen_port": 22, "destination_port": 22}) is None
    balancer.add_target(LoadBalancerTarget(type="server", server=server)).wait_until_finished()
    selector = LoadBalancerTarget(type="label_selector", label_selector=LoadBalancerTargetLabelSelector(selector="role=app"))
    balancer.add_target(selector).wait_until_finished()
    balancer.add_target(LoadBalancerTarget(type="ip", ip=LoadBalancerTargetIP(ip="192.0.2.9"))).wait_until_finished()
    assert act(api, balancer, "add_target", target(server)) == "target_already_defined"
    assert (
        act(api, balancer, "add_target", {"type": "label_selector", "label_selector": {"selector": "role=app"}}) == "target_already_defined"
    )
    one, chosen, elsewhere = shown(api, balancer)["targets"]
    assert one["server"] == {"id": server.id, "ip": server.public_net.ipv4.ip} and [item["server"]["id"] for item in chosen["targets"]] == [
        server.id
    ]
    assert one["health_status"] == [
        {"listen_port": 22, "status": "healthy"},
        {"listen_port": 80, "status": "healthy", "http_status_code": 200},
    ]
    assert {state["status"] for state in elsewhere["health_status"]} == {"unknown"}
    server.power_off().wait_until_finished()
    assert shown(api, balancer)["targets"][0]["health_status"][1] == {
        "listen_port": 80,
        "status": "unhealthy",
        "detail": "connection timed out",
    }
    assert client.servers.get_by_id(server.id).data_model.id == server.id
    balancer.remove_target(selector).wait_until_finished()
    assert act(api, balancer, "remove_target", {"type": "label_selector", "label_selector": {"selector": "role=app"}}) == "not_found"
    server.delete().wait_until_finished()
    assert [item["type"] for item in shown(api, balancer)["targets"]] == ["ip"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"type": "server"}, "invalid_input"),
        ({"type": "server", "ip": {"ip": "192.0.2.9"}}, "invalid_input"),
        ({"type": "ip", "ip": {"ip": "nonsense"}}, "invalid_input"),
        ({"type": "ip", "ip": {"ip": "10.93.99.200"}}, "ip_not_owned"),
        ({"type": "ip", "ip": {"ip": "10.20.1.9"}}, "load_balancer_not_attached_to_network"),
        ({"type": "ip", "ip": {"ip": "192.0.2.9"}, "use_private_ip": True}, "invalid_input"),
        ({"type": "label_selector", "label_selector": {"selector": "a b"}}, "invalid_input"),
        ({"type": "label_selector", "label_selector": {"selector": ""}}, "invalid_input"),
    ],
)
def test_targets_that_cannot_be_are_refused(api: LocalApi, balancer: Any, body: dict[str, Any], code: str) -> None:
    assert act(api, balancer, "add_target", body) == code
    assert shown(api, balancer)["targets"] == []


def test_private_targets_need_the_network(client: Client, api: LocalApi, network: Any, server: Any, balancer: Any) -> None:
    lonely = make_server(client, "lonely")
    assert act(api, balancer, "add_target", target(server, True)) == "load_balancer_not_attached_to_network"
    assert act(api, balancer, "disable_public_interface") == "load_balancer_not_attached_to_network"
    assert act(api, balancer, "attach_to_network", {"network": network.id, "ip": server.private_net[0].ip}) == "ip_not_available"
    assert act(api, balancer, "attach_to_network", {"network": network.id, "ip": "10.20.1.50"}) is None
    assert act(api, balancer, "attach_to_network", {"network": network.id}) == "load_balancer_already_attached"
    assert shown(api, balancer)["private_net"] == [{"network": network.id, "ip": "10.20.1.50"}]
    assert client.networks.get_by_id(network.id).data_model.servers[0].id == server.id
    assert act(api, balancer, "add_target", target(lonely, True)) == "resolve_cloud_private_targets_error"
    assert act(api, balancer, "add_target", {"type": "ip", "ip": {"ip": "10.20.1.9"}}) == "network_has_no_vswitch_subnet"
    assert act(api, balancer, "add_target", target(lonely)) is None
    assert act(api, balancer, "disable_public_interface") == "targets_without_use_private_ip"
    assert act(api, balancer, "remove_target", {"type": "server", "server": {"id": lonely.id}}) is None
    assert act(api, balancer, "add_target", target(server, True)) is None
    assert shown(api, balancer)["targets"][0]["server"]["ip"] == server.private_net[0].ip
    assert act(api, balancer, "disable_public_interface") is None
    assert shown(api, balancer)["public_net"]["enabled"] is False
    assert act(api, balancer, "add_target", target(lonely)) == "load_balancer_public_interface_disabled"
    assert act(api, balancer, "detach_from_network", {"network": network.id}) == "service_error"
    assert act(api, balancer, "enable_public_interface") is None
    assert act(api, balancer, "remove_target", {"type": "server", "server": {"id": server.id}}) is None
    assert act(api, balancer, "detach_from_network", {"network": network.id}) is None
    assert act(api, balancer, "detach_from_network", {"network": network.id}) == "load_balancer_not_attached_to_network"


def test_public_targets_need_a_public_address(client: Client, api: LocalApi, network: Any, balancer: Any) -> None:
    hidden = make_server(client, "hidden", networks=[network], public_net=ServerCreatePublicNetwork(enable_ipv4=False, enable_ipv6=True))
    assert act(api, balancer, "add_target", target(hidden)) == "resolve_cloud_public_targets_error"
    first = hidden.public_net.ipv6.ip.replace("::/64", "::1")
    assert (
        act(api, balancer, "add_target", {"type": "server", "server": {"id": hidden.id, "ip": "192.0.2.1"}}) == "ip_not_assigned_to_server"
    )
    assert act(api, balancer, "add_target", {"type": "server", "server": {"id": hidden.id, "ip": first}}) is None
    assert shown(api, balancer)["targets"][0]["server"]["ip"] == first


def test_all_of_it_can_be_made_at_once(api: LocalApi, network: Any, server: Any) -> None:
    check = {"protocol": "tcp", "port": 22, "interval": 15, "timeout": 10, "retries": 3}
    service = {"protocol": "tcp", "listen_port": 22, "destination_port": 22, "proxyprotocol": False, "health_check": check}
    body = {**MINIMAL, "network": network.id, "public_interface": False, "services": [service], "targets": [target(server, True)]}
    made = api.call("POST", "/load_balancers", body).json()["load_balancer"]
    api.settle()
    found = api.call("GET", f"/load_balancers/{made['id']}").json()["load_balancer"]
    assert found["private_net"][0]["network"] == network.id and found["public_net"]["enabled"] is False and len(found["targets"]) == 1
    assert api.call("GET", f"/networks/{network.id}").json()["network"]["load_balancers"] == [made["id"]]


def test_a_change_that_failed_is_undone_and_one_that_runs_locks(
    tmp_path: Path, client: Client, api: LocalApi, network: Any, balancer: Any
) -> None:
    for command, path, body in (
        ("attach_to_network", "attach_to_network", {"network": network.id}),
        ("add_service", "add_service", {"protocol": "http"}),
        ("change_dns_ptr", "change_dns_ptr", {"ip": shown(api, balancer)["public_net"]["ipv4"]["ip"], "dns_ptr": "a.example.org"}),
    ):
        before = shown(api, balancer)
        api.local("POST", "/faults", {"rules": [{"effect": "action_error", "command": command, "code": "action_failed", "message": "no"}]})
        assert act(api, balancer, path, body) is None
        assert balancer.get_actions(sort=["id:desc"])[0].status == "error" and shown(api, balancer) == before
    with serve(tmp_path / "slow", speed=5.0) as slow:
        made = client_of(slow).load_balancers.create("edge", LB11, location=NBG1).load_balancer
        assert refusal(made.delete) == "locked"
        assert refusal(lambda: made.change_algorithm(LoadBalancerAlgorithm(type="round_robin"))) == "locked"
        assert slow.violations() == []


def test_an_uploaded_certificate_is_read(client: Client, api: LocalApi) -> None:
    pem, key = self_signed("example.org", "*.example.org")
    made = client.certificates.create("site", certificate=pem, private_key=key, labels={"a": "b"})
    assert (made.type, made.domain_names, made.certificate) == ("uploaded", ["example.org", "*.example.org"], pem)
    assert len(made.fingerprint.split(":")) == 32 and made.not_valid_before < made.not_valid_after
    assert "private_key" not in api.call("GET", f"/certificates/{made.id}").json()["certificate"]
    assert refusal(lambda: client.certificates.create("site", certificate=pem, private_key=key)) == "uniqueness_error"
    assert made.update(name="page", labels={}).name == "page"
    assert [item.name for item in client.certificates.get_all(name="page")] == ["page"]
    assert refusal(made.retry_issuance) == "unsupported_error"
    made.delete()
    _other, stranger = self_signed("example.org")
    for certificate, secret in ((pem, stranger), (pem, "x"), ("x", key), ("", key), (pem, "")):
        assert refusal(lambda c=certificate, s=secret: client.certificates.create("bad", certificate=c, private_key=s)) == "invalid_input"


def test_a_managed_certificate_is_issued_when_its_zone_is_there(client: Client, api: LocalApi) -> None:
    made = client.certificates.create_managed("auto", ["www.example.org", "*.example.org"])
    assert made.certificate.status.issuance == "pending" and made.certificate.fingerprint is None
    with pytest.raises(ActionFailedException, match="DNS zone not found"):
        made.action.wait_until_finished()
    made.certificate.reload()
    assert (made.certificate.status.issuance, made.certificate.status.error.code) == ("failed", "dns_zone_not_found")
    client.zones.create(name="example.org", mode="primary").action.wait_until_finished()
    made.certificate.retry_issuance().wait_until_finished()
    made.certificate.reload()
    assert made.certificate.status.issuance == "completed" and made.certificate.not_valid_after > made.certificate.not_valid_before
    assert [item.command for item in made.certificate.get_actions(sort=["id"])] == ["create_certificate", "issue_certificate"]
    assert api.call("GET", "/certificates?type=managed").json()["certificates"][0]["name"] == "auto"
    assert api.call("POST", "/certificates", {"name": "x", "type": "managed"}).json()["error"]["code"] == "invalid_input"
    made.certificate.delete()
