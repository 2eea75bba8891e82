"""DNS zones through the official client, held against the official document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hcloud import APIException, Client
from hcloud.zones import ZoneRecord, ZoneRRSet
from localcloud.api.testing import LocalApi, serve


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    with serve(tmp_path_factory.mktemp("cloud")) as running:
        yield running
        assert [entry for entry in running.journal() if entry["violations"] or entry["status"] >= 500] == []


@pytest.fixture(scope="module")
def client(api: LocalApi) -> Client:
    return Client(api.token, api_endpoint=api.endpoint, poll_interval=0.01, timeout=20)


@pytest.fixture
def zone(client: Client) -> Iterator[Any]:
    made = client.zones.create(name="example.org", mode="primary", ttl=300, labels={"a": "b"})
    made.action.wait_until_finished()
    yield made.zone
    made.zone.delete().action.wait_until_finished()


def values(rrset: Any) -> list[str]:
    return [record.value for record in rrset.records]


def test_a_zone_begins_with_soa_and_ns(client: Client, zone: Any) -> None:
    assert zone.record_count == 4 and len(zone.authoritative_nameservers.assigned) == 3
    assert {(item.name, item.type) for item in zone.get_rrset_all()} == {("@", "SOA"), ("@", "NS")}
    assert client.zones.get("example.org").id == zone.id and client.zones.get(zone.id).ttl == 300
    zone.change_ttl(600).wait_until_finished()
    zone.change_protection(delete=True).wait_until_finished()
    with pytest.raises(APIException) as caught:
        zone.delete()
    assert caught.value.code == "protected"
    zone.change_protection(delete=False).wait_until_finished()
    assert zone.update(labels={"c": "d"}).labels == {"c": "d"}
    assert [item.command for item in zone.get_actions()] == ["create_zone", "change_ttl", "change_protection", "change_protection"]


def test_record_sets_live_and_die(client: Client, zone: Any) -> None:
    made = zone.create_rrset(name="db", type="A", records=[ZoneRecord(value="10.0.1.2", comment="old")], labels={"x": "y"})
    made.action.wait_until_finished()
    rrset = made.rrset
    assert (rrset.id, rrset.ttl) == ("db/A", None)
    with pytest.raises(APIException) as caught:
        zone.create_rrset(name="db", type="A", records=[ZoneRecord(value="10.0.1.3")])
    assert (caught.value.code, zone.get_rrset("db", "A").labels) == ("uniqueness_error", {"x": "y"})
    rrset.set_rrset_records([ZoneRecord(value="10.0.1.3")]).wait_until_finished()
    rrset.add_rrset_records([ZoneRecord(value="10.0.1.4")]).wait_until_finished()
    rrset.change_rrset_ttl(60).wait_until_finished()
    rrset.update_rrset_records([ZoneRecord(value="10.0.1.4", comment="standby")]).wait_until_finished()
    found = zone.get_rrset("db", "A")
    assert (values(found), found.ttl, found.records[1].comment) == (["10.0.1.3", "10.0.1.4"], 60, "standby")
    rrset.change_rrset_protection(change=True).wait_until_finished()
    with pytest.raises(APIException) as caught:
        rrset.delete_rrset()
    assert caught.value.code == "protected"
    rrset.change_rrset_protection(change=False).wait_until_finished()
    rrset.remove_rrset_records([ZoneRecord(value="10.0.1.3"), ZoneRecord(value="10.0.1.4")]).wait_until_finished()
    with pytest.raises(APIException) as caught:
        zone.get_rrset("db", "A")
    assert caught.value.code == "not_found"
    zone.add_rrset_records(ZoneRRSet(name="new", type="AAAA", zone=zone), [ZoneRecord(value="2001:db8::1")]).wait_until_finished()
    zone.get_rrset("new", "AAAA").delete_rrset().action.wait_until_finished()


@pytest.mark.parametrize(
    ("name", "kind", "records"),
    [
        ("txt", "TXT", ["unquoted"]),
        ("txt", "TXT", [f'"{"x" * 256}"']),
        ("Upper", "A", ["10.0.0.1"]),
        ("dot.", "A", ["10.0.0.1"]),
        ("twice", "A", ["10.0.0.1", "10.0.0.1"]),
        ("none", "A", []),
    ],
)
def test_records_that_are_refused(zone: Any, name: str, kind: str, records: list[str]) -> None:
    with pytest.raises(APIException) as caught:
        zone.create_rrset(name=name, type=kind, records=[ZoneRecord(value=value) for value in records])
    assert caught.value.code == "invalid_input"


def test_secondary_zones_take_no_records(client: Client) -> None:
    servers = [{"address": "192.0.2.1", "port": 53}]
    body = {"name": "second.example", "mode": "secondary", "primary_nameservers": servers}
    made = client.request("POST", "/zones", json=body)["zone"]
    with pytest.raises(APIException) as caught:
        client.zones.get(made["id"]).create_rrset(name="a", type="A", records=[ZoneRecord(value="10.0.0.1")])
    assert caught.value.code == "incorrect_zone_mode"
    assert client.zones.get_all(mode="secondary")[0].name == "second.example"
