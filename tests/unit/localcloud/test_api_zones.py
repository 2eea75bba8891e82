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
    """Sorted: the order in which the API tells them has no meaning, and changes."""
    return sorted(record.value for record in rrset.records)


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
    assert (values(found), found.ttl) == (["10.0.1.3", "10.0.1.4"], 60)
    assert {record.value: record.comment for record in found.records} == {"10.0.1.3": "", "10.0.1.4": "standby"}
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


GOOD = {
    "A": ["192.0.2.1"],
    "AAAA": ["2001:db8::1", "::ffff:192.0.2.1"],
    "CAA": ['0 issue "letsencrypt.org"', '128 iodef "mailto:a@example.org"'],
    "CNAME": ["www", "www.example.com.", "@", "_x.example.com."],
    "DS": ["60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118"],
    "HINFO": ['"PC" "Linux"'],
    "HTTPS": ["1 . alpn=h2,h3", "0 www.example.com.", '1 www alpn="h2,h3" port=8443'],
    "MX": ["10 mail", "0 ."],
    "NS": ["ns1.example.com."],
    "PTR": ["www"],
    "RP": ["admin.example.com. ."],
    "SRV": ["0 5 5060 sip.example.com."],
    "SVCB": ["1 svc port=8443"],
    "TLSA": ["3 1 1 0123abCD"],
    "TXT": ['"v=spf1 -all"', '"a" "b"', f'"{"x" * 255}" "y"', '""', '"a \\"quoted\\" word and \\195\\164"'],
}
BAD = {
    "A": ["192.0.2.256", "2001:db8::1", "www", "192.0.2.1 192.0.2.2", ""],
    "AAAA": ["192.0.2.1", "fe80::1%eth0", "2001:db8::g"],
    "CAA": ["0 issue letsencrypt.org", '256 issue "x"', '0 Issue "x"', "issue"],
    "CNAME": ["a b", "-a.example.com.", "a..b", "x" * 64, "https://example.org/"],
    "DS": ["60485 5 1 2BB", "60485 5 1", "70000 5 1 2BB1"],
    "HINFO": ["PC Linux", '"PC"'],
    "HTTPS": ["1", "0 . alpn=h2", "70000 ."],
    "MX": ["mail", "10", "70000 mail", "-1 mail", "10 mail extra"],
    "NS": ["ns1 ns2"],
    "RP": ["admin"],
    "SRV": ["0 5 sip", "0 5 66000 sip", "a b c d"],
    "TLSA": ["3 1 1 xyz"],
    "TXT": ["unquoted", f'"{"x" * 256}"', '"open', '"a" b'],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, some in GOOD.items() for value in some])
def test_values_that_are_taken(zone: Any, kind: str, value: str) -> None:
    zone.create_rrset(name="here", type=kind, records=[ZoneRecord(value=value)])
    assert values(zone.get_rrset("here", kind)) == [value]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, some in BAD.items() for value in some])
def test_values_that_are_refused(zone: Any, kind: str, value: str) -> None:
    with pytest.raises(APIException) as caught:
        zone.create_rrset(name="here", type=kind, records=[ZoneRecord(value=value)])
    assert caught.value.code == "invalid_input" and caught.value.details["fields"][0]["name"] == "records.0.value"


@pytest.mark.parametrize(
    ("name", "kind", "records", "fields"),
    [
        ("Upper", "A", ["10.0.0.1"], {}),
        ("dot.", "A", ["10.0.0.1"], {}),
        ("www.example.org", "A", ["10.0.0.1"], {}),
        ("a.*", "A", ["10.0.0.1"], {}),
        ("ä", "A", ["10.0.0.1"], {}),
        (".".join(["x" * 60] * 4), "A", ["10.0.0.1"], {}),
        ("twice", "A", ["10.0.0.1", "10.0.0.1"], {}),
        ("none", "A", [], {}),
        ("many", "A", [f"10.0.0.{number}" for number in range(51)], {}),
        ("two", "CNAME", ["a", "b"], {}),
        ("@", "CNAME", ["www"], {}),
        ("soon", "A", ["10.0.0.1"], {"ttl": 59}),
        ("late", "A", ["10.0.0.1"], {"ttl": 2147483648}),
    ],
)
def test_sets_that_are_refused(zone: Any, name: str, kind: str, records: list[str], fields: dict[str, Any]) -> None:
    with pytest.raises(APIException) as caught:
        zone.create_rrset(name=name, type=kind, records=[ZoneRecord(value=value) for value in records], **fields)
    assert caught.value.code == "invalid_input"


def test_names_with_stars_and_underscores_are_taken(zone: Any) -> None:
    for name in ("*", "*.eu", "_443._tcp", "xn--4bi", "a.b.c"):
        assert zone.create_rrset(name=name, type="A", records=[ZoneRecord(value="10.0.0.1")]).rrset.name == name


def test_a_cname_stands_alone_and_the_zone_s_own_sets_stay(zone: Any) -> None:
    zone.create_rrset(name="www", type="CNAME", records=[ZoneRecord(value="@")])
    with pytest.raises(APIException, match="CNAME cannot stand beside"):
        zone.create_rrset(name="www", type="A", records=[ZoneRecord(value="10.0.0.1")])
    for kind in ("SOA", "NS"):
        with pytest.raises(APIException, match="cannot be deleted"):
            zone.get_rrset("@", kind).delete_rrset()


def test_every_change_raises_the_serial_number(zone: Any) -> None:
    def serial() -> int:
        return int(values(zone.get_rrset("@", "SOA"))[0].split()[2])

    first = serial()
    assert len(str(first)) == 10
    zone.create_rrset(name="a", type="A", records=[ZoneRecord(value="10.0.0.1")])
    zone.get_rrset("a", "A").delete_rrset()
    assert serial() == first + 2


def test_records_come_in_any_order(zone: Any) -> None:
    zone.create_rrset(name="many", type="A", records=[ZoneRecord(value=f"10.0.0.{number}") for number in range(30)])
    seen = {tuple(record.value for record in zone.get_rrset("many", "A").records) for _unused in range(5)}
    assert len(seen) > 1 and len({frozenset(one) for one in seen}) == 1


def test_sets_are_listed_by_type_name_and_label_a_hundred_to_a_page(client: Client, zone: Any) -> None:
    for number in range(101):
        zone.create_rrset(name=f"h{number:03}", type="A", records=[ZoneRecord(value="10.0.0.1")], labels={"n": str(number % 2)})
    answer = client.request("GET", "/zones/example.org/rrsets", params={"per_page": 100, "type": ["A"], "sort": "id:desc"})
    assert (len(answer["rrsets"]), answer["meta"]["pagination"]["total_entries"], answer["rrsets"][0]["id"]) == (100, 101, "h100/A")
    assert len(zone.get_rrset_all(type=["A"], label_selector="n=1")) == 50
    assert [item.id for item in zone.get_rrset_all(name="h007")] == ["h007/A"]


@pytest.mark.parametrize(
    "name", ["Example.org", "example.org.", "example", "www.example.com", "co.uk", "-a.org", "a_b.org", "bücher.de", f"{'x' * 64}.org"]
)
def test_zone_names_that_are_refused(client: Client, name: str) -> None:
    with pytest.raises(APIException) as caught:
        client.zones.create(name=name, mode="primary")
    assert caught.value.code == "invalid_input"


def test_a_zone_s_name_is_there_once(client: Client, zone: Any) -> None:
    with pytest.raises(APIException) as caught:
        client.zones.create(name="example.org", mode="primary")
    assert caught.value.code == "uniqueness_error"
    made = client.zones.create(name="example.co.uk", mode="primary")
    made.action.wait_until_finished()
    assert made.zone.delete().action.command == "delete_zone"


def test_secondary_zones_have_name_servers_and_no_records(api: LocalApi, client: Client) -> None:
    servers = [{"address": "192.0.2.1", "port": 53}]
    body = {"name": "second.example", "mode": "secondary", "primary_nameservers": servers}
    made = client.request("POST", "/zones", json=body)["zone"]
    api.settle()
    zone = client.zones.get(made["id"])
    refused = [
        lambda: zone.create_rrset(name="a", type="A", records=[ZoneRecord(value="10.0.0.1")]),
        zone.get_rrset_all,
        lambda: zone.change_ttl(600),
        zone.export_zonefile,
        lambda: zone.import_zonefile("@ IN SOA"),
    ]
    for call in refused:
        with pytest.raises(APIException) as caught:
            call()
        assert caught.value.code == "incorrect_zone_mode"
    assert client.zones.get_all(mode="secondary")[0].name == "second.example"
    keyed = {"address": "2001:db8::1", "port": 5353, "tsig_key": "c2VjcmV0", "tsig_algorithm": "hmac-sha256"}
    path = f"/zones/{made['id']}/actions/change_primary_nameservers"
    client.request("POST", path, json={"primary_nameservers": [keyed]})
    assert client.request("GET", "/zones/second.example")["zone"]["primary_nameservers"] == [keyed]
    api.settle()
    for wrong in ({"address": "10.0.0.1"}, {"address": "ns1"}, {"address": "192.0.2.1", "port": 0}, {**keyed, "tsig_key": "?"}):
        with pytest.raises(APIException) as caught:
            client.request("POST", path, json={"primary_nameservers": [wrong]})
        assert caught.value.code == "invalid_input"
    for wrong_list in ([], [servers[0], {"address": "192.0.2.1"}]):
        with pytest.raises(APIException):
            client.request("POST", path, json={"primary_nameservers": wrong_list})
    with pytest.raises(APIException) as caught:
        client.request("POST", "/zones", json={"name": "third.example", "mode": "secondary"})
    assert caught.value.code == "invalid_input"
    zone.delete()


def test_primary_zones_know_no_other_name_servers(client: Client, zone: Any) -> None:
    with pytest.raises(APIException) as caught:
        zone.change_primary_nameservers([])
    assert caught.value.code == "incorrect_zone_mode"


def test_a_change_that_failed_leaves_the_set_as_it_was(api: LocalApi, client: Client, zone: Any) -> None:
    made = zone.create_rrset(name="a", type="A", records=[ZoneRecord(value="10.0.0.1")]).rrset
    api.settle()
    commands = ("set_rrset_records", "change_rrset_ttl", "delete_rrset", "create_rrset", "change_ttl")
    api.local("POST", "/faults", {"rules": [{"effect": "action_error", "command": one, "code": "action_failed"} for one in commands]})
    made.set_rrset_records([ZoneRecord(value="10.0.0.2")])
    api.settle()
    made.change_rrset_ttl(60)
    api.settle()
    made.delete_rrset()
    zone.create_rrset(name="b", type="A", records=[ZoneRecord(value="10.0.0.1")])
    zone.change_ttl(600)
    api.settle()
    found = zone.get_rrset("a", "A")
    assert (values(found), found.ttl, client.zones.get("example.org").ttl) == (["10.0.0.1"], None, 300)
    assert [item.id for item in zone.get_rrset_all(type=["A"])] == ["a/A"]


OWN = """
$ORIGIN example.org.
$TTL 1200
@ IN SOA hydrogen.ns.hetzner.com. dns.hetzner.com. ( 2020010100 ; serial
    86400 10800 3600000 3600 )
  IN NS hydrogen.ns.hetzner.com.
  IN NS oxygen.ns.hetzner.com.
  3600 IN A 192.0.2.1
@ NS helium.ns.hetzner.de.
"""


def test_a_zone_file_replaces_all_sets_and_comes_out_again(api: LocalApi, client: Client, zone: Any) -> None:
    zone.create_rrset(name="old", type="A", records=[ZoneRecord(value="10.0.0.1")])
    api.settle()
    text = OWN + 'www.example.org. IN 60 TXT "a; b" "c" ; a remark\nwww 60 TXT "d"\nmail CAA 0 issue "x"\n'
    zone.import_zonefile(text).wait_until_finished()
    found = {item.id: item for item in zone.get_rrset_all()}
    assert set(found) == {"@/SOA", "@/NS", "@/A", "www/TXT", "mail/CAA"}
    assert (values(found["www/TXT"]), found["www/TXT"].ttl, found["@/A"].ttl) == (['"a; b" "c"', '"d"'], 60, 3600)
    assert client.zones.get("example.org").ttl == 1200
    zone.get_rrset("@", "A").update_rrset_records([ZoneRecord(value="192.0.2.1", comment="front")]).wait_until_finished()
    out = zone.export_zonefile().zonefile
    assert out.startswith("$ORIGIN\texample.org.\n$TTL\t1200\n\n@\tIN\tSOA\thydrogen") and "@\tIN\t3600\tA\t192.0.2.1 ; front" in out
    zone.import_zonefile(out).wait_until_finished()
    assert {item.id: values(item) for item in zone.get_rrset_all() if item.type != "SOA"} == {
        name: values(item) for name, item in found.items() if item.type != "SOA"
    }
    zone.get_rrset("@", "A").change_rrset_protection(change=True)
    api.settle()
    with pytest.raises(APIException) as caught:
        zone.import_zonefile(out)
    assert caught.value.code == "protected"
    api.local("POST", "/faults", {"rules": [{"effect": "action_error", "command": "import_zonefile", "code": "action_failed"}]})
    zone.get_rrset("@", "A").change_rrset_protection(change=False)
    api.settle()
    zone.import_zonefile(OWN)
    api.settle()
    assert len(zone.get_rrset_all()) == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("@ IN A 192.0.2.1", "SOA"),
        (OWN.replace("example.org.", "example.com."), "line 2"),
        (OWN.replace("helium.ns.hetzner.de.", "ns.example.com."), "helium"),
        (OWN + "a CH A 192.0.2.1", "only class IN"),
        (OWN + "a IN WKS 192.0.2.1", "WKS"),
        (OWN + "a.example.com. A 192.0.2.1", "not in the zone"),
        (OWN + "a A nonsense", "an IPv4 address"),
        (OWN + "a 5 A 192.0.2.1", "outside 60"),
        (OWN + "a 60 A 192.0.2.1\na 61 A 192.0.2.2", "differs from line to line"),
        (OWN + "a A ( 192.0.2.1", "not closed"),
        (OWN + "$INCLUDE /etc/passwd", "not allowed"),
        (OWN + "a CNAME b\na A 192.0.2.1", "CNAME"),
    ],
)
def test_zone_files_that_are_refused_change_nothing(zone: Any, text: str, told: str) -> None:
    with pytest.raises(APIException) as caught:
        zone.import_zonefile(text)
    assert caught.value.code == "invalid_input" and told in caught.value.message
    assert len(zone.get_rrset_all()) == 2


def test_a_zone_can_begin_with_a_zone_file(api: LocalApi, client: Client) -> None:
    made = client.zones.create(name="example.org", mode="primary", zonefile=OWN).zone
    api.settle()
    assert made.ttl == 1200 and {item.id for item in made.get_rrset_all()} == {"@/SOA", "@/NS", "@/A"}
    made.delete()
    body = {"name": "example.org", "mode": "primary", "zonefile": OWN}
    with pytest.raises(APIException):
        client.request("POST", "/zones", json={**body, "rrsets": [{"name": "a", "type": "A", "records": [{"value": "192.0.2.1"}]}]})
    assert client.zones.get_all(name="example.org") == []
