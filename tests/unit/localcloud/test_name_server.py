"""The local cloud's name server: what it says, in which bytes, over UDP and TCP."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from localcloud.api.store import Store
from localcloud.api.testing import LocalApi, serve
from localcloud.dns import answers, server, wire
from localcloud.dns.answers import Zone

RANGE = ipaddress.IPv4Network("10.93.99.0/24")


def zone(name: str, **sets: Any) -> Zone:
    """A zone with SOA and NS; sets: values by "owner TYPE"."""
    made = Zone(name)
    made.add(name, "SOA", 3600, ["ns1.example.net. dns.example.net. 7 1 2 3 4"])
    made.add(name, "NS", 3600, ["ns1.example.net."])
    for key, values in sets.items():
        owner, kind = key.split()
        made.add(answers.absolute(owner, name), kind, 60, values)
    return made


ORG = zone(
    "example.org",
    **{
        "@ A": ["192.0.2.1"],
        "www CNAME": ["@"],
        "far CNAME": ["host.example.com."],
        "out CNAME": ["elsewhere.example."],
        "loop CNAME": ["loop"],
        "a.b.c A": ["192.0.2.2"],
        "* A": ["192.0.2.9"],
        "*.c TXT": ['"wild"'],
        "sub NS": ["ns.sub", "ns2.example.net."],
        "mail MX": ["10 mx", "20 mx.example.net."],
    },
)
ZONES = {one.name: one for one in (ORG, zone("example.com", **{"host A": ["192.0.2.3"]}), Zone("second.example"))}


def ask(name: str, kind: str = "A") -> answers.Answer:
    return answers.answer(ZONES, wire.Query(1, 0, True, name, kind, 1, b"", 512, False))


def told(said: answers.Answer) -> set[tuple[str, str, str]]:
    return {(record.owner, record.kind, record.value) for record in said.answer}


@pytest.mark.parametrize(
    ("name", "kind", "code", "expected"),
    [
        ("example.org", "A", wire.NOERROR, {("example.org", "A", "192.0.2.1")}),
        ("www.example.org", "A", wire.NOERROR, {("www.example.org", "CNAME", "example.org."), ("example.org", "A", "192.0.2.1")}),
        ("www.example.org", "CNAME", wire.NOERROR, {("www.example.org", "CNAME", "example.org.")}),
        ("far.example.org", "A", wire.NOERROR, {("far.example.org", "CNAME", "host.example.com."), ("host.example.com", "A", "192.0.2.3")}),
        ("out.example.org", "A", wire.NOERROR, {("out.example.org", "CNAME", "elsewhere.example.")}),
        ("loop.example.org", "A", wire.SERVFAIL, set()),
        ("example.org", "AAAA", wire.NOERROR, set()),
        ("b.c.example.org", "A", wire.NOERROR, set()),
        ("x.example.org", "A", wire.NOERROR, {("x.example.org", "A", "192.0.2.9")}),
        ("x.y.example.org", "A", wire.NOERROR, {("x.y.example.org", "A", "192.0.2.9")}),
        ("x.c.example.org", "TXT", wire.NOERROR, {("x.c.example.org", "TXT", '"wild"')}),
        ("x.c.example.org", "A", wire.NOERROR, set()),
        ("x.b.c.example.org", "A", wire.NXDOMAIN, set()),
        ("x.example.com", "A", wire.NXDOMAIN, set()),
        (
            "mail.example.org",
            "MX",
            wire.NOERROR,
            {("mail.example.org", "MX", "10 mx.example.org."), ("mail.example.org", "MX", "20 mx.example.net.")},
        ),
        ("example.net", "A", wire.REFUSED, set()),
        ("second.example", "A", wire.SERVFAIL, set()),
        ("xexample.org", "A", wire.REFUSED, set()),
    ],
)
def test_each_question_has_its_answer(name: str, kind: str, code: int, expected: set[tuple[str, str, str]]) -> None:
    said = ask(name, kind)
    assert (said.code, told(said)) == (code, expected)


def test_what_is_not_there_is_said_with_the_start_of_authority() -> None:
    for name, kind in (("example.org", "AAAA"), ("x.b.c.example.org", "A")):
        said = ask(name, kind)
        assert said.authoritative and [record.kind for record in said.authority] == ["SOA"]
    assert not ask("example.net").authoritative


def test_a_part_given_to_other_name_servers_is_referred_to_them() -> None:
    said = ask("deep.sub.example.org")
    assert (
        not said.authoritative
        and said.answer == ()
        and {record.value for record in said.authority}
        == {
            "ns.sub.example.org.",
            "ns2.example.net.",
        }
    )


def test_reverse_names_have_zones_of_their_own() -> None:
    zones = answers.reverse_zones(RANGE, {"10.93.99.10": "mail.example.org", "fd0a:5d63:0:1::1": "six.example.org"})
    assert set(zones) == {"99.93.10.in-addr.arpa", "0.0.0.0.3.6.d.5.a.0.d.f.ip6.arpa"}
    for ip, name in (("10.93.99.10", "mail.example.org."), ("fd0a:5d63:0:1::1", "six.example.org.")):
        said = answers.answer(zones, wire.Query(1, 0, True, answers.reverse_name(ip), "PTR", 1, b"", 512, False))
        assert [record.value for record in said.answer] == [name]


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [
        ("A", "192.0.2.1", b"\xc0\x00\x02\x01"),
        ("AAAA", "2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
        ("MX", "10 a.b.", b"\0\x0a\x01a\x01b\0"),
        ("TXT", '"ab" "c\\"\\065"', b'\x02ab\x03c"A'),
        ("CAA", '0 issue "ca.b"', b"\0\x05issueca.b"),
        ("SRV", "1 2 3 a.", b"\0\x01\0\x02\0\x03\x01a\0"),
        ("SOA", "a. b. 1 2 3 4 5", b"\x01a\0\x01b\0" + struct.pack("!5I", 1, 2, 3, 4, 5)),
        ("DS", "1 2 3 ab", b"\0\x01\x02\x03\xab"),
        ("TLSA", "3 1 1 ab", b"\x03\x01\x01\xab"),
        ("HINFO", '"a" "b"', b"\x01a\x01b"),
        ("RP", "a. .", b"\x01a\0\0"),
        ("CNAME", "a.b.", b"\x01a\x01b\0"),
        ("HTTPS", '1 . port=443 alpn="h2,h3"', b"\0\x01\0" + b"\0\x01\0\x06\x02h2\x02h3" + b"\0\x03\0\x02\x01\xbb"),
        ("SVCB", "0 a.", b"\0\0\x01a\0"),
    ],
)
def test_each_type_has_its_bytes(kind: str, value: str, data: bytes) -> None:
    assert wire.encode(kind, value) == data


def question(name: str, kind: int = 1, flags: int = 0x100, class_: int = 1, edns: int = 0) -> bytes:
    extra = b"\0" + struct.pack("!HHIH", wire.OPT, edns, 0, 0) if edns else b""
    return struct.pack("!6H", 77, flags, 1, 0, 0, int(bool(edns))) + wire.name(name) + struct.pack("!2H", kind, class_) + extra


def header(data: bytes) -> tuple[int, int, int]:
    """Code, whether truncated, number of answers."""
    ident, flags, _questions, count, _authority, _extra = struct.unpack_from("!6H", data)
    assert ident == 77 and flags & 0x8000
    return flags & 15, flags >> 9 & 1, count


def test_a_long_answer_is_cut_by_udp_and_whole_by_tcp() -> None:
    many = {"example.org": zone("example.org", **{"many A": [f"192.0.2.{number}" for number in range(50)]})}
    asked = question("many.example.org")
    assert header(server.respond(lambda: many, asked, 1232) or b"") == (0, 1, 0)
    assert header(server.respond(lambda: many, asked, None) or b"") == (0, 0, 50)
    few = {"example.org": zone("example.org", **{"many A": [f"192.0.2.{number}" for number in range(30)]})}
    assert header(server.respond(lambda: few, question("many.example.org", edns=4096), 1232) or b"") == (0, 0, 30)


def test_what_is_no_question_is_refused_or_ignored() -> None:
    def source() -> dict[str, Zone]:
        return ZONES

    assert server.respond(source, b"\0\x4d", 512) is None
    assert server.respond(source, question("example.org", flags=0x8100), 512) is None
    assert header(server.respond(source, question("example.org")[:-2], 512) or b"")[0] == wire.FORMERR
    assert header(server.respond(source, question("example.org", flags=0x2000), 512) or b"")[0] == wire.NOTIMP
    assert header(server.respond(source, question("example.org", class_=3), 512) or b"")[0] == wire.REFUSED
    assert header(server.respond(source, question("example.org", kind=252), 512) or b"") == (0, 0, 0)


@given(st.binary(max_size=80))
def test_no_bytes_break_it(data: bytes) -> None:
    answer = server.respond(lambda: ZONES, data, 512)
    assert answer is None or answer[:2] == data[:2]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[tuple[LocalApi, tuple[str, int]]]:
    with serve(tmp_path) as api:
        store = Store(tmp_path / "cloud.sqlite")
        with server.serving(lambda: server.zones(store, RANGE), [("127.0.0.1", 0)]) as used:
            yield api, used[0]


def test_it_answers_from_the_cloud_as_it_is_at_that_moment(cloud: tuple[LocalApi, tuple[str, int]]) -> None:
    api, address = cloud

    def by_udp(name: str, kind: int = 1) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.sendto(question(name, kind), address)
            return sock.recv(4096)

    def by_tcp(name: str, kind: int = 1) -> bytes:
        with socket.create_connection(address, 10) as sock, sock.makefile("rwb") as file:
            asked = question(name, kind)
            file.write(struct.pack("!H", len(asked)) + asked)
            file.flush()
            return file.read(struct.unpack("!H", file.read(2))[0])

    assert header(by_udp("www.example.org"))[0] == wire.REFUSED
    sets = [
        {"name": "www", "type": "A", "records": [{"value": "192.0.2.77"}]},
        {"name": "@", "type": "MX", "records": [{"value": "10 www"}]},
    ]
    api.call("POST", "/zones", {"name": "example.org", "mode": "primary", "ttl": 300, "rrsets": sets})
    for ask_it in (by_udp, by_tcp):
        said = ask_it("WWW.example.org")
        assert header(said) == (0, 0, 1) and said.endswith(struct.pack("!HHIH", 1, 1, 300, 4) + b"\xc0\x00\x02\x4d")
        assert b"\0\x0a\x03www\x07example\x03org\0" in ask_it("example.org", 15)
    api.call("DELETE", "/zones/example.org/rrsets/www/A")
    assert header(by_udp("www.example.org"))[0] == wire.NXDOMAIN
    made = api.call("POST", "/primary_ips", {"name": "a", "type": "ipv4", "location": "nbg1", "assignee_type": "server"}).json()[
        "primary_ip"
    ]
    pointer = answers.reverse_name(made["ip"])
    assert b"\x07clients\x0byour-server\x02de\0" in by_udp(pointer, 12)
    api.call("POST", f"/primary_ips/{made['id']}/actions/change_dns_ptr", {"ip": made["ip"], "dns_ptr": "mail.example.org"})
    assert b"\x04mail\x07example\x03org\0" in by_udp(pointer, 12)
