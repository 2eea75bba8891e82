"""The official Python client drives every kind of resource; at the end no exchange may have departed from the official document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hcloud import APIException, Client
from hcloud.firewalls import FirewallResource, FirewallResourceLabelSelector, FirewallRule
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.networks import NetworkRoute, NetworkSubnet
from hcloud.server_types import ServerType
from hcloud.servers import ServerCreatePublicNetwork
from localcloud.api.testing import LocalApi, serve

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3QwPqaVTlqzzTJ9pgNM6YZ2Nf6SNsUJnDEAAAAAAAA demo"
SUBNET = NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.0.1.0/24")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    with serve(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def client(api: LocalApi) -> Iterator[Client]:
    before = len(api.journal())
    yield Client(api.token, api_endpoint=api.endpoint, poll_interval=0.01, timeout=20)
    api.settle()
    seen = api.journal()[before:]
    assert [entry for entry in seen if entry["violations"] or entry["status"] >= 500] == []


def wait(*actions: Any) -> None:
    for action in actions:
        if action is not None:
            action.wait_until_finished()


def make_server(client: Client, name: str, **options: Any) -> Any:
    kind, image = options.pop("server_type", "cx23"), options.pop("image", "debian-12")
    options.setdefault("location", Location(name="nbg1"))
    created = client.servers.create(name, ServerType(name=kind), Image(name=image) if isinstance(image, str) else image, **options)
    wait(created.action, *created.next_actions)
    return client.servers.get_by_id(created.server.id)


def code_of(caught: pytest.ExceptionInfo[APIException]) -> str:
    return str(caught.value.code)


def test_the_catalogue_is_dated_priced_and_without_retired_types(client: Client) -> None:
    types = {item.name: item for item in client.server_types.get_all()}
    assert "cx23" in types and "cx22" not in types and "cx32" not in types
    assert (types["ccx33"].cores, types["ccx33"].memory, types["ccx33"].disk) == (8, 32, 240)
    assert types["cpx51"].locations[0].deprecation is not None
    price = next(item for item in types["cx33"].prices if item["location"] == "nbg1")
    assert (price["price_monthly"]["net"], price["price_monthly"]["gross"]) == ("8.4900000000", "10.1031000000000000")
    pricing = client.request("GET", "/pricing")["pricing"]
    assert pricing["currency"] == "EUR" and pricing["primary_ips"][0]["prices"][0]["price_monthly"]["net"].startswith("0.50")
    assert {item.name for item in client.locations.get_all()} == {"fsn1", "nbg1", "hel1", "ash", "hil", "sin"}
    assert client.images.get_by_name_and_architecture("debian-12", "arm").architecture == "arm"
    assert client.load_balancer_types.get_by_name("lb11").max_targets == 25


def test_ssh_keys(client: Client) -> None:
    key = client.ssh_keys.create("admin", PUBLIC_KEY, labels={"team": "a"})
    assert client.ssh_keys.get_by_fingerprint(key.fingerprint).id == key.id
    assert client.ssh_keys.get_by_name("admin").update(name="root", labels={"team": "b"}).labels == {"team": "b"}
    with pytest.raises(APIException) as caught:
        client.ssh_keys.create("other", PUBLIC_KEY)
    assert code_of(caught) == "uniqueness_error"
    assert [item.name for item in client.ssh_keys.get_all(label_selector="team in (b,c)")] == ["root"]
    assert client.ssh_keys.delete(key)
    assert client.ssh_keys.get_by_name("root") is None


def test_networks_subnets_routes_and_protection(client: Client) -> None:
    network = client.networks.create("plain", "10.0.0.0/16", labels={"a": "1"})
    wait(network.add_subnet(NetworkSubnet(ip_range=None, type="cloud", network_zone="eu-central")))
    wait(network.add_subnet(NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.0.9.0/24")))
    wait(network.add_route(NetworkRoute(destination="192.168.7.0/24", gateway="10.0.0.7")))
    network.reload()
    assert [(item.ip_range, item.gateway) for item in network.subnets] == [("10.0.0.0/24", "10.0.0.1"), ("10.0.9.0/24", "10.0.0.1")]
    assert network.routes[0].destination == "192.168.7.0/24"
    wait(network.delete_route(network.routes[0]))
    wait(network.delete_subnet(network.subnets[1]))
    wait(network.change_ip_range("10.0.0.0/15"))
    wait(network.change_protection(delete=True))
    with pytest.raises(APIException) as caught:
        network.delete()
    assert code_of(caught) == "protected"
    wait(network.change_protection(delete=False))
    network.reload()
    assert (network.ip_range, network.routes, len(network.subnets)) == ("10.0.0.0/15", [], 1)
    assert [item.command for item in network.get_actions()][:2] == ["add_subnet", "add_subnet"]
    assert network.update(name="renamed", labels={}).name == "renamed"
    assert network.delete()


def test_a_server_with_everything(client: Client) -> None:
    key = client.ssh_keys.create("key", PUBLIC_KEY)
    group = client.placement_groups.create("spread", "spread").placement_group
    network = client.networks.create("private", "10.0.0.0/16", subnets=[SUBNET])
    rule = FirewallRule(direction="in", protocol="tcp", port="22", source_ips=["0.0.0.0/0", "::/0"], description="ssh")
    firewall = client.firewalls.create("web", rules=[rule]).firewall
    volume = client.volumes.create(size=10, name="data", location=Location(name="nbg1"), format="ext4")
    wait(volume.action, *volume.next_actions)
    server = make_server(
        client,
        "full",
        ssh_keys=[key],
        placement_group=group,
        networks=[network],
        firewalls=[firewall],
        volumes=[volume.volume],
        user_data="#cloud-config\n",
        labels={"role": "db"},
        automount=True,
    )
    assert server.status == "running" and not server.locked and server.location.name == "nbg1"
    assert server.public_net.ipv4.ip.startswith("10.93.99.") and server.public_net.ipv6.ip.endswith("::/64")
    assert [(item.network.id, item.ip) for item in server.private_net] == [(network.id, "10.0.1.1")]
    assert [(item.firewall.id, item.status) for item in server.public_net.firewalls] == [(firewall.id, "applied")]
    assert [item.id for item in server.volumes] == [volume.volume.id] and server.placement_group.id == group.id
    members = client.request("GET", f"/networks/{network.id}/members")["members"]
    assert members == [{"type": "server", "id": server.id, "ip": "10.0.1.1", "status": "ok", "alias_ips": [], "subnet": "10.0.1.0/24"}]
    assert server.public_net.primary_ipv4.auto_delete
    for busy in (firewall, group, volume.volume):
        with pytest.raises(APIException) as caught:
            busy.delete()
        assert code_of(caught) == "resource_in_use"
    wait(server.delete())
    assert client.servers.get_by_name("full") is None
    assert client.primary_ips.get_all() == []
    volume.volume.reload(), group.reload(), firewall.reload(), network.reload()
    assert (volume.volume.server, group.servers, firewall.applied_to, network.servers) == (None, [], [], [])
    for item in (volume.volume, group, firewall, network, key):
        assert item.delete()


def test_the_life_of_a_server(client: Client) -> None:
    created = client.servers.create("life", ServerType(name="cx23"), Image(name="debian-12"), start_after_create=False)
    assert created.root_password and [item.command for item in created.next_actions] == []
    wait(created.action)
    server = client.servers.get_by_id(created.server.id)
    assert server.status == "off"
    group = client.placement_groups.create("life", "spread").placement_group
    for step, state in (("power_on", "running"), ("shutdown", "off"), ("power_on", "running"), ("reboot", "running"), ("reset", "running")):
        wait(getattr(server, step)())
        server.reload()
        assert server.status == state, step
    with pytest.raises(APIException) as caught:
        server.change_type(ServerType(name="cx33"), upgrade_disk=True)
    assert code_of(caught) == "server_not_stopped"
    wait(server.power_off())
    wait(server.change_type(ServerType(name="cx33"), upgrade_disk=True))
    wait(server.add_to_placement_group(group))
    wait(server.remove_from_placement_group())
    rebuilt = server.rebuild(Image(name="debian-13"))
    wait(rebuilt.action)
    wait(server.enable_backup())
    rescue = server.enable_rescue(type="linux64", ssh_keys=[])
    wait(rescue.action)
    wait(server.disable_rescue())
    wait(server.change_dns_ptr(server.public_net.ipv4.ip, "db.example.org"))
    wait(server.change_protection(delete=True, rebuild=True))
    server.reload()
    assert (server.server_type.name, server.primary_disk_size, server.image.name) == ("cx33", 80, "debian-13")
    assert server.backup_window and server.public_net.ipv4.dns_ptr == "db.example.org" and server.protection["delete"]
    with pytest.raises(APIException) as caught:
        server.delete()
    assert code_of(caught) == "protected"
    wait(server.change_protection(delete=False, rebuild=False))
    assert server.update(name="life2", labels={"x": "y"}).labels == {"x": "y"}
    wait(server.disable_backup())
    wait(server.delete())
    assert group.delete()


def test_snapshots_boot_and_outlive_their_server(client: Client) -> None:
    server = make_server(client, "origin")
    shot = server.create_image(description="before", type="snapshot", labels={"kind": "safe"})
    wait(shot.action)
    wait(server.delete())
    image = client.images.get_all(type=["snapshot"], label_selector="kind=safe")[0]
    assert (image.status, image.image_size, image.created_from.name) == ("available", 1.0, "origin")
    copy = make_server(client, "copy", image=image)
    assert copy.image.id == image.id
    assert image.update(description="kept").description == "kept"
    wait(image.change_protection(delete=True))
    wait(image.change_protection(delete=False))
    assert image.delete()
    wait(copy.delete())
    assert client.images.get_all(type=["snapshot"]) == []


def test_network_membership_with_chosen_addresses(client: Client) -> None:
    network = client.networks.create("members", "10.0.0.0/16", subnets=[SUBNET])
    first = make_server(client, "first", start_after_create=False)
    second = make_server(client, "second", start_after_create=False)
    wait(first.attach_to_network(network, ip="10.0.1.9", alias_ips=["10.0.1.50"]))
    for options, code in (
        ({"ip": "10.0.1.9"}, "ip_not_available"),
        ({"ip": "10.0.1.50"}, "ip_not_available"),
        ({"ip": "10.0.2.9"}, "ip_not_available"),
        ({"ip": "10.0.1.255"}, "ip_not_available"),
    ):
        with pytest.raises(APIException) as caught:
            second.attach_to_network(network, **options)
        assert code_of(caught) == code
    wait(second.attach_to_network(network))
    with pytest.raises(APIException) as caught:
        second.attach_to_network(network)
    assert code_of(caught) == "server_already_attached"
    overlapping = client.networks.create("overlap", "10.0.0.0/8", subnets=[SUBNET])
    with pytest.raises(APIException) as caught:
        second.attach_to_network(overlapping)
    assert code_of(caught) == "networks_overlap"
    wait(first.change_alias_ips(network, alias_ips=["10.0.1.51"]))
    first.reload(), second.reload(), network.reload()
    assert first.private_net[0].alias_ips == ["10.0.1.51"] and second.private_net[0].ip == "10.0.1.1"
    assert {item.id for item in network.servers} == {first.id, second.id}
    wait(second.detach_from_network(network))
    assert network.delete() and overlapping.delete()
    first.reload()
    assert first.private_net == []
    wait(first.delete(), second.delete())


def test_firewalls_follow_servers_and_labels(client: Client) -> None:
    server = make_server(client, "labelled", labels={"role": "web"})
    by_label = FirewallResource(type="label_selector", label_selector=FirewallResourceLabelSelector(selector="role=web"))
    by_server = FirewallResource(type="server", server=server)
    rule = FirewallRule(direction="in", protocol="tcp", port="80-90", source_ips=["2001:0DB8:0::/32"], destination_ips=[])
    made = client.firewalls.create("labels", rules=[rule], resources=[by_label])
    wait(*made.actions)
    firewall = made.firewall
    assert firewall.rules[0].source_ips == ["2001:db8::/32"]
    server.reload()
    assert [item.firewall.id for item in server.public_net.firewalls] == [firewall.id]
    server.update(labels={"role": "db"})
    server.reload()
    assert server.public_net.firewalls == []
    wait(*firewall.apply_to_resources([by_server]))
    with pytest.raises(APIException) as caught:
        firewall.apply_to_resources([by_server])
    assert code_of(caught) == "firewall_already_applied"
    rule_out = FirewallRule(direction="out", protocol="icmp", source_ips=[], destination_ips=["0.0.0.0/0"])
    wait(*firewall.set_rules([rule_out]))
    firewall.reload()
    assert firewall.rules[0].direction == "out" and {item.type for item in firewall.applied_to} == {"server", "label_selector"}
    wait(*firewall.remove_from_resources([by_server, by_label]))
    assert firewall.update(name="done", labels={"a": "b"}).name == "done"
    assert firewall.delete()
    wait(server.delete())


def test_primary_ips_live_on_their_own(client: Client) -> None:
    made = client.primary_ips.create(type="ipv4", name="fixed", location=Location(name="nbg1"), labels={"keep": ""})
    address = made.primary_ip
    net = ServerCreatePublicNetwork(ipv4=address, enable_ipv6=False)
    server = make_server(client, "addressed", public_net=net)
    assert server.public_net.ipv4.ip == address.ip and server.public_net.ipv6 is None
    with pytest.raises(APIException) as caught:
        address.delete()
    assert code_of(caught) == "must_be_unassigned"
    with pytest.raises(APIException) as caught:
        address.unassign()
    assert code_of(caught) == "server_not_stopped"
    wait(server.power_off())
    wait(address.unassign())
    wait(address.assign(server.id, "server"))
    wait(address.change_dns_ptr(address.ip, "a.example.org"))
    wait(address.change_protection(delete=True))
    wait(address.change_protection(delete=False))
    assert address.update(auto_delete=False, name="fixed2").name == "fixed2"
    wait(server.delete())
    address.reload()
    assert (address.assignee_id, address.assignee_type) == (None, "unassigned")
    assert address.delete()


def test_volumes_move_between_servers(client: Client) -> None:
    one, two = make_server(client, "one"), make_server(client, "two")
    made = client.volumes.create(size=12, name="vol.1", server=one, automount=False, format="xfs")
    wait(made.action, *made.next_actions)
    volume = made.volume
    volume.reload()
    assert (volume.server.id, volume.status, volume.size) == (one.id, "available", 12)
    with pytest.raises(APIException) as caught:
        volume.attach(two)
    assert code_of(caught) == "volume_already_attached"
    wait(volume.resize(20))
    wait(volume.detach())
    wait(volume.attach(two, automount=True))
    wait(volume.change_protection(delete=True))
    wait(volume.change_protection(delete=False))
    assert volume.update(name="vol2", labels={"a": "b"}).size == 20
    two.reload()
    assert [item.id for item in two.volumes] == [volume.id]
    wait(volume.detach())
    assert volume.delete()
    wait(one.delete(), two.delete())


def test_pages_sorting_and_selectors(client: Client, api: LocalApi) -> None:
    for number in range(27):
        client.placement_groups.create(f"g{number:02d}", "spread", labels={"parity": "odd" if number % 2 else "even", "n": str(number)})
    reply = api.call("GET", "/placement_groups?per_page=10&page=2&sort=name:desc&label_selector=n")
    assert [item["name"] for item in reply.json()["placement_groups"]] == [f"g{number:02d}" for number in range(16, 6, -1)]
    pagination = reply.json()["meta"]["pagination"]
    assert pagination == {"page": 2, "per_page": 10, "previous_page": 1, "next_page": 3, "last_page": 3, "total_entries": 27}
    assert 'page=3&per_page=10>; rel="next"' in reply.headers["Link"]
    assert len(client.placement_groups.get_all(label_selector="parity!=odd,n notin (0,2)")) == 12
    assert len(client.placement_groups.get_all(label_selector="!parity")) == 0
    groups = client.placement_groups.get_all()
    assert len(groups) == 27
    for group in groups:
        assert group.delete()


def test_state_survives_a_restart(tmp_path: Path) -> None:
    with serve(tmp_path) as first:
        client = Client(first.token, api_endpoint=first.endpoint, poll_interval=0.01)
        server = make_server(client, "kept", start_after_create=False)
    with serve(tmp_path, backend=first.backend) as second:
        client = Client(second.token, api_endpoint=second.endpoint, poll_interval=0.01)
        found = client.servers.get_by_name("kept")
        assert (found.id, found.public_net.ipv4.ip, found.status) == (server.id, server.public_net.ipv4.ip, "off")
