"""Names and values of DNS records: what may be written, in which form they are kept, compared and sent."""

from __future__ import annotations

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.hetzner import domains, rdata
from hypothesis import given
from hypothesis import strategies as st
from localcloud.api import rdata as service

ZONE = "example.org"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.Org", "example.org"),
        ("xn--bcher-kva.de", "xn--bcher-kva.de"),
        ("bücher.de", "xn--bcher-kva.de"),
        ("BÜCHER.DE", "xn--bcher-kva.de"),
        ("例え。jp", "xn--r8jz45g.jp"),
        ("a-b.co.uk", "a-b.co.uk"),
        (f"{'x' * 60}.example", f"{'x' * 60}.example"),
    ],
)
def test_zone_names_are_kept_as_dns_has_them(text: str, name: str) -> None:
    assert domains.zone(text) == name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("example.org.", "leave the dot out"),
        ("example", "single word"),
        ("my_site.org", "only names inside of a zone"),
        ("", "1 to 63"),
        ("a..org", "1 to 63"),
        ("-a.org", "1 to 63"),
        ("a b.org", "1 to 63"),
        ("*.example.org", "1 to 63"),
        ("https://example.org", "1 to 63"),
        (f"{'x' * 64}.org", "1 to 63"),
        (".".join(["x" * 60] * 5), "at most 253"),
        ("faß.de", "write it in punycode"),
        ("ü" * 70 + ".de", "write it in punycode"),
    ],
)
def test_zone_names_that_cannot_be_are_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        domains.zone(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [("@", "@"), ("www", "www"), ("WWW", "www"), ("*", "*"), ("*.eu", "*.eu"), ("_443._tcp", "_443._tcp"), ("ü.a", "xn--tda.a")],
)
def test_record_names_are_relative_to_their_zone(text: str, name: str) -> None:
    assert domains.record(text, ZONE) == name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("example.org", "write '@'"),
        ("example.org.", "write '@'"),
        ("www.example.org", "write 'www'"),
        ("www.Example.org.", "write 'www'"),
        ("www.example.com.", "without the dot"),
        ("www.", "without the dot"),
        ("", "1 to 63"),
        ("a.*", "'\\*' must be 1 to 63"),
        ("a*", "1 to 63"),
        ("a b", "1 to 63"),
        (".".join(["x" * 60] * 4), "too long"),
    ],
)
def test_record_names_that_cannot_be_are_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        domains.record(text, ZONE)


VALUES = [
    ("A", "192.0.2.1", "192.0.2.1"),
    ("AAAA", "2001:DB8:0::1", "2001:db8::1"),
    ("CAA", "0 issue letsencrypt.org", '0 issue "letsencrypt.org"'),
    ("CAA", '0 Issue "ca.example; policy=x"', '0 issue "ca.example; policy=x"'),
    ("CNAME", "www", "www.example.org."),
    ("CNAME", "@", "example.org."),
    ("CNAME", "WWW.Example.com.", "www.example.com."),
    ("CNAME", "bücher.example.", "xn--bcher-kva.example."),
    ("DS", "60485 13 2 D4B7", "60485 13 2 d4b7"),
    ("HINFO", 'AMD64 "Debian 12"', '"AMD64" "Debian 12"'),
    ("HTTPS", '1 . alpn="h2,h3"', "1 . alpn=h2,h3"),
    ("HTTPS", "1 www port=8443 alpn=h2", "1 www.example.org. alpn=h2 port=8443"),
    ("MX", "010  mail", "10 mail.example.org."),
    ("MX", "0 .", "0 ."),
    ("NS", "ns1.example.net.", "ns1.example.net."),
    ("PTR", "host", "host.example.org."),
    ("RP", "admin .", "admin.example.org. ."),
    ("SRV", "0 5 5060 sip", "0 5 5060 sip.example.org."),
    ("SVCB", "0 svc.example.net.", "0 svc.example.net."),
    ("TLSA", "3 1 1 AB12", "3 1 1 ab12"),
    ("TXT", "v=spf1 -all", "v=spf1 -all"),
]


@pytest.mark.parametrize(("kind", "text", "value"), VALUES)
def test_values_are_kept_in_one_form_and_taken_by_the_service(kind: str, text: str, value: str) -> None:
    assert rdata.declared(kind, text, ZONE) == value
    sent = rdata.wire(kind, value)
    assert rdata.observed(kind, sent, ZONE) == value
    assert service.problem(kind, sent) is None
    if kind != "TXT":
        assert rdata.declared(kind, value, ZONE) == rdata.observed(kind, text, ZONE) == value or kind in ("CAA", "HINFO", "CNAME")


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("A", "192.0.2.256", "not an IPv4 address"),
        ("A", "2001:db8::1", "not an IPv4 address"),
        ("A", "192.0.2.1 192.0.2.2", "not an IPv4 address"),
        ("A", "www", "not an IPv4 address"),
        ("A", "", "is empty"),
        ("AAAA", "192.0.2.1", "not an IPv6 address"),
        ("AAAA", "fe80::1%eth0", "not an IPv6 address"),
        ("CAA", "issue x", "must be of 3 words"),
        ("CAA", "256 issue x", "not a number from 0 to 255"),
        ("CAA", "0 is-sue x", "not a tag"),
        ("CAA", '0 issue x"y"', "partly quoted"),
        ("CNAME", "mail.example.com", "read in two ways: write 'mail.example.com.' for that name"),
        ("CNAME", ".", "the root"),
        ("CNAME", "192.0.2.1", "is an address, a name is expected"),
        ("MX", "10 192.0.2.1.", "is an address, a name is expected"),
        ("CNAME", "a b", "must be of 1 word,"),
        ("CNAME", "-a.example.com.", "1 to 63"),
        ("CNAME", '"open', "unbalanced quote"),
        ("DS", "60485 13 2 xyz1", "not hexadecimal"),
        ("HINFO", f'a "{"x" * 256}"', "longer than 255"),
        ("HTTPS", "1", "must be a priority"),
        ("HTTPS", "0 www alpn=h2", "has no parameters"),
        ("HTTPS", "1 www ALPN=h2", "not a parameter"),
        ("MX", "mail", "must be of 2 words, such as '10 mail.example.org.'"),
        ("MX", "mail 10", "'mail' is not a number"),
        ("MX", "65536 mail", "from 0 to 65535"),
        ("MX", "10 mail.example.org", "two ways"),
        ("SRV", "0 5 sip", "must be of 4 words"),
        ("TXT", "", "is empty"),
        ("TXT", '"quoted"', "write the text alone"),
        ("TXT", "two\nlines", "control character"),
    ],
)
def test_values_that_cannot_be_are_refused(kind: str, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rdata.declared(kind, text, ZONE)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("a b", '"a b"'),
        ('say "hi" \\ bye', '"say \\"hi\\" \\\\ bye"'),
        ("ä", '"\\195\\164"'),
        ("x" * 255, f'"{"x" * 255}"'),
        ("x" * 256, f'"{"x" * 255}" "x"'),
        ("x" * 254 + '"', f'"{"x" * 254}" "\\""'),
        ("x" * 600, f'"{"x" * 255}" "{"x" * 255}" "{"x" * 90}"'),
    ],
)
def test_text_is_quoted_and_split_when_it_is_sent(text: str, sent: str) -> None:
    assert rdata.wire("TXT", text) == sent and service.problem("TXT", sent) is None


@given(st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), min_size=1, max_size=700))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    sent = rdata.wire("TXT", text)
    assert rdata.observed("TXT", sent, ZONE) == text
    assert service.problem("TXT", sent) is None and sent.isascii()


@pytest.mark.parametrize(("sent", "text"), [('"ab" "cd"', "abcd"), ('"a"\t"b"', "ab"), ('"ä"', "ä"), ("bare", "bare"), ('""', "")])
def test_text_of_others_is_read_however_they_split_it(sent: str, text: str) -> None:
    assert rdata.observed("TXT", sent, ZONE) == text


def test_what_cannot_be_read_is_kept() -> None:
    assert rdata.observed("A", "  not  an address ", ZONE) == "not an address"
    assert rdata.observed("MX", "10 mail.example.com", ZONE) == "10 mail.example.com.example.org."


@given(st.sampled_from(rdata.TYPES), st.text(st.characters(min_codepoint=32, max_codepoint=0x17F), max_size=80))
def test_a_value_is_refused_or_never_changes_by_being_read_again(kind: str, text: str) -> None:
    try:
        value = rdata.declared(kind, text, ZONE)
    except ValueError:
        return
    assert rdata.observed(kind, rdata.wire(kind, value), ZONE) == value
    assert service.problem(kind, rdata.wire(kind, value)) is None


@given(st.text(max_size=60))
def test_a_name_is_refused_or_never_changes_by_being_read_again(text: str) -> None:
    for read in (domains.zone, lambda one: domains.record(one, ZONE), lambda one: domains.target(one, ZONE)):
        try:
            name = read(text)
        except ValueError:
            continue
        assert read(name) == name and name.isascii()
