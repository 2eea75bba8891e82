"""Zones and records of the provisioning engine against the local cloud's API, over real HTTP on loopback."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.errors import HetznerError
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner.stack import Result
from integration.stacks import actions, get, play, present, refused, stack, writes
from localcloud.api.testing import LocalApi, serve

SERVER = {"type": "cx23", "image": "debian-12"}
LONG = "v=DKIM1; k=rsa; p=" + "A1b2" * 120
SITE: dict[str, Any] = {
    "location": "nbg1",
    "networks": [{"name": "inner", "ip_range": "10.20.0.0/16", "subnets": [{"ip_range": "10.20.1.0/24"}]}],
    "servers": [
        {"name": "app", "networks": [{"name": "inner", "ip": "10.20.1.10"}], **SERVER},
        {"name": "db", "public_ipv4": False, "networks": [{"name": "inner"}], **SERVER},
    ],
    "primary_ips": [{"name": "front", "server": "app"}],
    "floating_ips": [{"name": "mail", "server": "app"}, {"name": "mail6", "type": "ipv6", "server": "app"}],
    "zones": [
        {
            "name": "Example.org",
            "ttl": 600,
            "labels": {"team": "web"},
            "records": [
                {"name": "@", "type": "A", "values": [{"server": "app"}]},
                {"name": "@", "type": "AAAA", "values": [{"server": "app"}]},
                {"name": "@", "type": "MX", "values": ["10 mail", "20 backup.example.net."]},
                {"name": "@", "type": "TXT", "values": ["v=spf1 mx -all", 'say "hi"']},
                {"name": "key._domainkey", "type": "TXT", "values": [LONG]},
                {"name": "@", "type": "CAA", "values": ["0 issue letsencrypt.org"]},
                {"name": "mail", "type": "A", "ttl": 60, "values": [{"floating_ip": "mail", "comment": "moves"}]},
                {"name": "mail", "type": "AAAA", "values": [{"floating_ip": "mail6"}]},
                {"name": "front", "type": "A", "values": [{"primary_ip": "front"}]},
                {"name": "db.inner", "type": "A", "values": [{"server": "db", "address": "private"}]},
                {
                    "name": "pool",
                    "type": "A",
                    "values": ["192.0.2.2", "192.0.2.1", {"server": "app", "address": "private", "network": "inner"}],
                },
                {"name": "www", "type": "CNAME", "values": ["@"]},
                {"name": "*", "type": "A", "values": ["192.0.2.9"]},
                {"name": "_sip._tcp", "type": "SRV", "values": ["0 5 5060 sip.example.net."]},
                {"name": "bücher", "type": "CNAME", "values": ["www"]},
            ],
        },
        {"name": "second.example", "mode": "secondary", "primary_nameservers": [{"address": "192.0.2.53"}]},
    ],
}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[LocalApi]:
    with serve(tmp_path) as api:
        yield api
        assert api.violations() == []


def sets(cloud: LocalApi, zone: str = "example.org") -> dict[str, list[str]]:
    """Values by name and type of all sets but those of the zone itself."""
    found = get(cloud, f"/zones/{zone}/rrsets?per_page=100")["rrsets"]
    return {one["id"]: sorted(item["value"] for item in one["records"]) for one in found if one["id"] not in ("@/SOA", "@/NS")}


def records(declared: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = declared["zones"][0]["records"]
    return found


def record(declared: dict[str, Any], name: str, kind: str) -> dict[str, Any]:
    return next(item for item in records(declared) if (item["name"], item["type"]) == (name, kind))


def site(**zone: Any) -> dict[str, Any]:
    declared = copy.deepcopy(SITE)
    declared["zones"][0].update(zone)
    return declared


def small(*given: dict[str, Any], **zone: Any) -> dict[str, Any]:
    return {"zones": [{"name": "example.org", "records": list(given), **zone}]}


def fields(result: Result) -> dict[str, set[str]]:
    return {change.key: change.field_names() for change in result.changes}


def test_zones_and_records_are_made_and_a_second_run_changes_nothing(cloud: LocalApi) -> None:
    planned = present(cloud, SITE, check=True)
    assert writes(cloud) == []
    assert "+ rrset.example.org/@/A  address of server.app" in planned.plan_text
    assert "+ rrset.example.org/pool/A  10.20.1.10, 192.0.2.1, 192.0.2.2" in planned.plan_text
    assert "address of server.db in inner" in planned.diff()["after"]
    made = present(cloud, SITE)
    assert made.failures == [] and actions(made) == actions(planned)

    addresses = {one["name"]: one["public_net"] for one in get(cloud, "/servers")["servers"]}
    floating = {one["name"]: one["ip"] for one in get(cloud, "/floating_ips")["floating_ips"]}
    hosts = {host["name"]: host for host in made.as_dict()["hosts"]}
    app = addresses["app"]["ipv4"]["ip"]
    assert sets(cloud) == {
        "@/A": [app],
        "@/AAAA": [hosts["app"]["public_ipv6"]],
        "@/MX": ["10 mail.example.org.", "20 backup.example.net."],
        "@/TXT": ['"say \\"hi\\""', '"v=spf1 mx -all"'],
        "key._domainkey/TXT": [f'"{LONG[:255]}" "{LONG[255:]}"'],
        "@/CAA": ['0 issue "letsencrypt.org"'],
        "mail/A": [floating["mail"]],
        "mail/AAAA": [hosts["app"]["floating_ips"]["mail6"]],
        "front/A": [app],
        "db.inner/A": [hosts["db"]["private_ips"]["inner"]],
        "pool/A": ["10.20.1.10", "192.0.2.1", "192.0.2.2"],
        "www/CNAME": ["example.org."],
        "*/A": ["192.0.2.9"],
        "_sip._tcp/SRV": ["0 5 5060 sip.example.net."],
        "xn--bcher-kva/CNAME": ["www.example.org."],
    }
    zones = {one["name"]: one for one in get(cloud, "/zones")["zones"]}
    assert zones["example.org"]["ttl"] == 600 and zones["example.org"]["labels"]["team"] == "web"
    assert zones["second.example"]["primary_nameservers"] == [{"address": "192.0.2.53", "port": 53}]
    mail = get(cloud, "/zones/example.org/rrsets/mail/A")["rrset"]
    assert (mail["ttl"], mail["records"][0]["comment"], mail["labels"]) == (60, "moves", {"cutover.stack": "site"})
    assert get(cloud, "/zones/example.org/rrsets/@/A")["rrset"]["ttl"] is None

    with stack(cloud) as again:
        assert again.present(SITE).changes == [] and again.api.requests < 20


def test_what_another_hand_changed_is_put_right_and_what_it_made_stays(cloud: LocalApi) -> None:
    present(cloud, SITE)
    zone = "/zones/example.org"
    for path, body in (
        (f"{zone}/rrsets/@/A/actions/set_records", {"records": [{"value": "192.0.2.66"}]}),
        (f"{zone}/rrsets/@/MX/actions/add_records", {"records": [{"value": "30 other"}]}),
        (f"{zone}/rrsets/mail/A/actions/change_ttl", {"ttl": None}),
        (f"{zone}/rrsets/mail/AAAA/actions/change_protection", {"change": True}),
        (f"{zone}/rrsets/pool/A/actions/update_records", {"records": [{"value": "192.0.2.1", "comment": "old"}]}),
        (f"{zone}/rrsets", {"name": "hand", "type": "TXT", "records": [{"value": '"made"'}]}),
        (f"{zone}/actions/change_ttl", {"ttl": 900}),
    ):
        assert cloud.call("POST", path, body).status_code in (200, 201), path
        cloud.settle()
    assert cloud.call("DELETE", f"{zone}/rrsets/www/CNAME").status_code == 201
    cloud.settle()
    before = len(writes(cloud))
    found = present(cloud, SITE, check=True)
    assert fields(found) == {
        "zone.example.org": {"ttl"},
        "rrset.example.org/@/A": {"values"},
        "rrset.example.org/@/MX": {"values"},
        "rrset.example.org/mail/A": {"ttl"},
        "rrset.example.org/www/CNAME": set(),
    }
    assert "values: - 192.0.2.66" in found.plan_text and "values: - 30 other.example.org." in found.plan_text
    assert "    - 30 other.example.org." in found.diff()["before"] and "ttl: (none) -> 60" in found.plan_text
    with stack(cloud) as one:
        assert len(one.info(SITE)["drift"]) == 5
    assert len(writes(cloud)) == before
    present(cloud, SITE)
    assert present(cloud, SITE).changes == []
    assert sets(cloud)["hand/TXT"] == ['"made"'] and len(sets(cloud)["@/MX"]) == 2
    pool = get(cloud, f"{zone}/rrsets/pool/A")["rrset"]
    assert {one["value"]: one["comment"] for one in pool["records"]}["192.0.2.1"] == "old"


def test_everything_of_a_set_and_a_zone_changes_in_place(cloud: LocalApi) -> None:
    present(cloud, SITE)
    declared = site(ttl=1200, labels={"team": "mail"}, protection=True)
    record(declared, "@", "TXT")["values"] = ["v=spf1 -all"]
    record(declared, "mail", "A").update(values=[{"floating_ip": "mail", "comment": "floats"}], labels={"a": "b"})
    record(declared, "pool", "A").update(ttl=120, protection=True)
    declared["zones"][1]["primary_nameservers"] = [
        {"address": "2001:db8::53", "port": 5353, "tsig_key": "c2VjcmV0", "tsig_algorithm": "hmac-sha256"}
    ]
    result = present(cloud, declared)
    assert set(actions(result).values()) == {"update"} and result.failures == []
    assert fields(result) == {
        "zone.example.org": {"ttl", "labels", "protection"},
        "zone.second.example": {"primary_nameservers"},
        "rrset.example.org/@/TXT": {"values"},
        "rrset.example.org/mail/A": {"comments", "labels"},
        "rrset.example.org/pool/A": {"ttl", "protection"},
    }
    assert present(cloud, declared).changes == []
    assert "c2VjcmV0" not in json.dumps(result.as_dict()) + json.dumps(result.diff()) + json.dumps(present(cloud, declared).as_dict())
    zones = {one["name"]: one for one in get(cloud, "/zones")["zones"]}
    assert zones["example.org"]["protection"]["delete"] and zones["second.example"]["primary_nameservers"][0]["tsig_key"] == "c2VjcmV0"
    assert sets(cloud)["@/TXT"] == ['"v=spf1 -all"']


def test_a_record_follows_a_server_that_is_replaced_and_moves_before_one_goes(cloud: LocalApi) -> None:
    declared = {
        "location": "nbg1",
        "servers": [{"name": "app", **SERVER}, {"name": "spare", **SERVER}],
        **small({"name": "www", "type": "A", "values": [{"server": "app"}]}),
    }
    taken = cloud.call("POST", "/primary_ips", {"name": "taken", "type": "ipv4", "location": "nbg1", "assignee_type": "server"}).json()
    present(cloud, declared)
    (first,) = sets(cloud)["www/A"]
    cloud.call("DELETE", f"/primary_ips/{taken['primary_ip']['id']}")
    rebuilt = copy.deepcopy(declared)
    rebuilt["servers"][0]["image"] = "debian-13"
    planned = present(cloud, rebuilt, check=True, allow_replace=True)
    assert f"values: - {first}" in planned.plan_text and "values: + address of server.app" in planned.plan_text
    result = present(cloud, rebuilt, allow_replace=True)
    assert actions(result) == {"server.app": "replace", "rrset.example.org/www/A": "update"}
    (second,) = sets(cloud)["www/A"]
    server = get(cloud, "/servers?name=app")["servers"][0]
    assert second == server["public_net"]["ipv4"]["ip"] != first and present(cloud, rebuilt).changes == []

    cloud.local("DELETE", "/journal")
    fewer = copy.deepcopy(rebuilt)
    fewer["servers"].pop(0)
    records(fewer)[0]["values"] = [{"server": "spare"}]
    present(cloud, fewer, prune=True)
    done = writes(cloud)
    assert done.index(next(one for one in done if one.endswith("/set_records"))) < done.index(f"DELETE /servers/{server['id']}")
    assert present(cloud, fewer, prune=True).changes == []


def test_only_what_was_ours_is_pruned_unless_the_zone_is_exclusive(cloud: LocalApi) -> None:
    both = small({"name": "a", "type": "A", "values": ["192.0.2.1"]}, {"name": "b", "type": "A", "values": ["192.0.2.2"]})
    one = small({"name": "a", "type": "A", "values": ["192.0.2.1"]})
    present(cloud, both)
    cloud.call("POST", "/zones/example.org/rrsets", {"name": "hand", "type": "A", "records": [{"value": "192.0.2.3"}]})
    cloud.settle()
    kept = present(cloud, one)
    assert (kept.changes, kept.left) == ([], ["rrset.example.org/b/A"]) and "no longer declared, kept" in kept.plan_text
    assert actions(present(cloud, one, prune=True)) == {"rrset.example.org/b/A": "delete"}
    assert set(sets(cloud)) == {"a/A", "hand/A"}
    alone = small(*records(one), exclusive=True)
    told = present(cloud, alone, check=True)
    assert actions(told) == {"rrset.example.org/hand/A": "delete"} and "its zone is exclusive" in told.plan_text
    present(cloud, alone)
    assert set(sets(cloud)) == {"a/A"} and present(cloud, alone, prune=True).changes == []
    own = {one["id"] for one in get(cloud, "/zones/example.org/rrsets")["rrsets"]}
    assert own == {"@/SOA", "@/NS", "a/A"}


def test_a_set_of_another_hand_is_taken_over_visibly(cloud: LocalApi) -> None:
    present(cloud, small())
    cloud.call("POST", "/zones/example.org/rrsets", {"name": "a", "type": "A", "records": [{"value": "192.0.2.1"}]})
    cloud.settle()
    declared = small({"name": "a", "type": "A", "values": ["192.0.2.1"]})
    planned = present(cloud, declared, check=True)
    assert fields(planned) == {"rrset.example.org/a/A": {"labels"}} and "made by another hand" in planned.plan_text
    present(cloud, declared)
    assert present(cloud, declared).changes == []


def test_another_s_zone_is_never_touched(cloud: LocalApi) -> None:
    cloud.call("POST", "/zones", {"name": "example.org", "mode": "primary"})
    error = refused(cloud, small())
    assert "zone.example.org" in error.message and "never touched" in error.message
    cloud.call("PUT", "/zones/example.org", {"labels": {"cutover.stack": "site", "cutover.key": "zone.example.org"}})
    assert present(cloud, small()).changes == []


def test_an_alias_takes_the_place_of_addresses_and_back(cloud: LocalApi) -> None:
    address = small({"name": "www", "type": "A", "values": ["192.0.2.1"]}, {"name": "www", "type": "TXT", "values": ["x"]})
    alias = small({"name": "www", "type": "CNAME", "values": ["@"]})
    present(cloud, address)
    result = present(cloud, alias)
    assert actions(result) == {
        "rrset.example.org/www/CNAME": "create",
        "rrset.example.org/www/A": "delete",
        "rrset.example.org/www/TXT": "delete",
    }
    assert sets(cloud) == {"www/CNAME": ["example.org."]}
    present(cloud, address)
    assert set(sets(cloud)) == {"www/A", "www/TXT"} and present(cloud, address).changes == []
    cloud.call("POST", "/zones/example.org/rrsets", {"name": "hand", "type": "A", "records": [{"value": "192.0.2.1"}]})
    cloud.settle()
    other = small({"name": "hand", "type": "CNAME", "values": ["@"]})
    error = refused(cloud, other)
    assert "zones[0].records[0]" in error.message and "exclusive: true" in error.message
    present(cloud, small(*records(other), exclusive=True))
    assert sets(cloud) == {"hand/CNAME": ["example.org."]}


def test_protection_is_lifted_only_with_leave(cloud: LocalApi) -> None:
    declared = small({"name": "a", "type": "A", "values": ["192.0.2.1"], "protection": True}, protection=True)
    present(cloud, declared)
    other = copy.deepcopy(declared)
    records(other)[0]["values"] = ["192.0.2.2"]
    assert "zones[0].records[0]: rrset.example.org/a/A is protected against changes" in refused(cloud, other).message
    present(cloud, other, allow_destroy_protected=True)
    found = get(cloud, "/zones/example.org/rrsets/a/A")["rrset"]
    assert found["records"][0]["value"] == "192.0.2.2" and found["protection"] == {"change": True}
    assert "is protected against deletion" in refused(cloud, small(protection=True), prune=True).message
    free = copy.deepcopy(other)
    records(free)[0].update(protection=False, values=["192.0.2.3"])
    present(cloud, free)
    assert get(cloud, "/zones/example.org/rrsets/a/A")["rrset"]["protection"] == {"change": False}

    present(cloud, declared)
    with stack(cloud) as one, pytest.raises(HetznerError) as caught:
        one.absent()
    assert {item["path"] for item in caught.value.details["problems"]} == {"zone.example.org", "rrset.example.org/a/A"}
    with stack(cloud, allow_destroy_protected=True) as one:
        gone = one.absent()
    assert list(actions(gone)) == ["rrset.example.org/a/A", "zone.example.org"] and get(cloud, "/zones")["zones"] == []


def test_a_zone_goes_with_its_records_and_another_mode_makes_it_anew(cloud: LocalApi) -> None:
    present(cloud, SITE)
    fewer = {**copy.deepcopy(SITE), "zones": SITE["zones"][1:]}
    assert present(cloud, fewer).left == ["zone.example.org"]
    pruned = present(cloud, fewer, prune=True)
    assert actions(pruned) == {"zone.example.org": "delete"}
    assert "zone.example.org  (no longer declared; its 19 records go with it)" in pruned.plan_text
    assert [one["name"] for one in get(cloud, "/zones")["zones"]] == ["second.example"]
    primary = {**fewer, "zones": [{"name": "second.example", "records": [{"name": "a", "type": "A", "values": ["192.0.2.1"]}]}]}
    assert "all its records are lost" in refused(cloud, primary).message
    result = present(cloud, primary, allow_replace=True)
    assert actions(result) == {"zone.second.example": "replace", "rrset.second.example/a/A": "create"}
    assert present(cloud, primary).changes == [] and sets(cloud, "second.example") == {"a/A": ["192.0.2.1"]}
    present(cloud, fewer, allow_replace=True)
    assert get(cloud, "/zones")["zones"][0]["mode"] == "secondary" and present(cloud, fewer).changes == []


DNS_FAULTS: dict[str, dict[str, Any]] = {
    "a zone whose answer was lost": {"path": "/zones", "effect": "drop_after_commit"},
    "a set whose answer was lost": {"path": r"/zones/\d+/rrsets", "effect": "drop_after_commit"},
    "a set that was not made": {"path": r"/zones/\d+/rrsets", "effect": "drop"},
    "records whose answer was lost": {"path": r"/zones/.*/set_records", "effect": "error_after_commit", "status": 504, "code": "timeout"},
    "423 locked": {"path": r"/zones/\d+/rrsets.*", "status": 423, "code": "locked", "times": 3, "effect": "error"},
    "409 conflict": {"path": r"/zones/\d+/rrsets.*", "status": 409, "code": "conflict", "times": 3, "effect": "error"},
    "a zone that fails": {"effect": "action_error", "command": "create_zone", "code": "action_failed"},
    "a set that fails": {"effect": "action_error", "command": "create_rrset", "code": "action_failed"},
    "records that fail": {"effect": "action_error", "command": "set_rrset_records", "code": "action_failed"},
    "a deletion that fails": {"effect": "action_error", "command": "delete_rrset", "code": "action_failed"},
    "a TTL that fails": {"effect": "action_error", "command": "change_rrset_ttl", "code": "action_failed"},
}


@pytest.mark.parametrize("fault", DNS_FAULTS.values(), ids=DNS_FAULTS.keys())
def test_one_fault_leaves_every_record_as_declared(cloud: LocalApi, fault: dict[str, Any]) -> None:
    first = small({"name": "a", "type": "A", "values": ["192.0.2.1"]}, {"name": "b", "type": "TXT", "values": ["x"]})
    second = small({"name": "a", "type": "A", "ttl": 60, "values": ["192.0.2.2"]})
    seen = 0
    for declared in (first, second):
        cloud.local("POST", "/faults", {"rules": [{"method": "POST", **fault} if "path" in fault else fault]})
        assert present(cloud, declared, prune=True).failures == []
        seen += cloud.local("GET", "/faults")["rules"][0]["seen"]
        assert present(cloud, declared, prune=True).changes == []
    assert seen >= 1
    assert sets(cloud) == {"a/A": ["192.0.2.2"]} and len(get(cloud, "/zones")["zones"]) == 1


def test_a_set_that_appears_meanwhile_is_told_and_not_overwritten(cloud: LocalApi) -> None:
    present(cloud, small())
    cloud.local(
        "POST",
        "/faults",
        {"rules": [{"method": "POST", "path": r"/zones/\d+/rrsets", "effect": "error", "status": 409, "code": "uniqueness_error"}]},
    )
    declared = small({"name": "a", "type": "A", "values": ["192.0.2.1"]})
    present(cloud, declared)
    assert sets(cloud) == {"a/A": ["192.0.2.1"]}


def test_many_records_take_few_requests(cloud: LocalApi) -> None:
    many = small(*({"name": f"h{number:03}", "type": "A", "values": ["192.0.2.1"]} for number in range(120)))
    with stack(cloud) as one:
        one.present(many)
        assert one.api.requests < 120 + 60
    with stack(cloud) as again:
        assert again.present(many).changes == [] and again.api.requests < 20


RESOLVE = """
import ipaddress, subprocess, sys
from pathlib import Path
from localcloud.api.store import Store
from localcloud.dns import server
store = Store(Path(sys.argv[1]))
with server.serving(lambda: server.zones(store, ipaddress.IPv4Network("10.93.99.0/24")), [("127.0.0.1", 53)]):
    for words in sys.argv[2:]:
        done = subprocess.run(["getent", *words.split()], capture_output=True, text=True, timeout=20)
        print(" ".join(dict.fromkeys(done.stdout.split())))
"""


def resolved(tmp_path: Path, *asked: str) -> list[str]:
    """What the system's own resolver says, in a network and mount namespace where the local cloud's name server is its only one."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    # The resolver asks for the families alone of which it sees an address that is not a loopback's.
    addresses = "ip address add 192.0.2.250/32 dev lo && ip address add 2001:db8::250/128 dev lo nodad"
    inside = f'ip link set lo up && {addresses} && mount --bind "$0" /etc/resolv.conf && exec "$@"'
    program = [sys.executable, "-c", RESOLVE, str(tmp_path / "cloud.sqlite"), *asked]
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", inside, str(tmp_path / "resolv.conf"), *program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_resolver_finds_what_was_declared(cloud: LocalApi, tmp_path: Path) -> None:
    declared = copy.deepcopy(SITE)
    declared["primary_ips"][0]["dns_ptr"] = "front.example.org"
    host = {one["name"]: one for one in present(cloud, declared).as_dict()["hosts"]}["app"]
    asked = [
        "ahostsv4 www.example.org",
        "ahostsv6 example.org",
        "ahostsv4 pool.example.org",
        "ahostsv4 anything.example.org",
        "ahostsv4 xn--bcher-kva.example.org",
        "ahostsv4 nothing.example.com",
        f"hosts {host['public_ipv4']}",
    ]
    www, six, pool, wild, alias, nothing, name = (set(line.split()) for line in resolved(tmp_path, *asked))
    assert host["public_ipv4"] in www and host["public_ipv6"] in six and host["public_ipv4"] in alias
    assert {"192.0.2.1", "192.0.2.2", "10.20.1.10"} <= pool and "192.0.2.9" in wild and nothing == set()
    assert name == {host["public_ipv4"], "front.example.org"}


PLAYBOOK = """
- name: Make and remove zones
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Plan
      cutover.hetzner.hetzner_stack: {name: site, topology: "{{ topology }}"}
      check_mode: true
      register: planned
      failed_when: planned is not changed or 'address of server.app' not in planned.diff.after
    - name: Make
      cutover.hetzner.hetzner_stack: {name: site, topology: "{{ topology }}"}
      register: made
      failed_when: made is not changed or made.failures | length > 0
    - name: Make again
      cutover.hetzner.hetzner_stack: {name: site, topology: "{{ topology }}"}
      register: again
      failed_when: again is changed or again.plan | length > 0
    - name: Read
      cutover.hetzner.hetzner_stack_info: {name: site, topology: "{{ topology }}"}
      register: told
      failed_when: (told.drift | length > 0) or (told.resources | selectattr('kind', 'equalto', 'rrset') | length) != 15
    - name: Name servers
      ansible.builtin.assert:
        that: (told.resources | selectattr('resource', 'equalto', 'zone.example.org') | first).nameservers | length == 3
    - name: Remove
      cutover.hetzner.hetzner_stack: {name: site, state: absent}
"""


def test_the_modules_run_in_a_playbook(cloud: LocalApi, tmp_path: Path) -> None:
    play(cloud, tmp_path, PLAYBOOK, {"topology": SITE})
    assert get(cloud, "/zones")["zones"] == []
