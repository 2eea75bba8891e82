"""Rules of a REST source: what is asked, what answers mean, which texts say too little."""

from __future__ import annotations

import base64
import json
import operator
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import rest_copy, rest_http, rest_query, rest_values
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.catalog import Column
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.rest_key import read_key
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.rest_refusal import refusal, retry_after
from hypothesis import given
from hypothesis import strategies as st


def column(base: str, element: str = "", kind: str = "b") -> Column:
    return Column(
        "c", "", f"pg_catalog.{base}", kind, f"pg_catalog.{element}" if element else "", "b" if element else "", False, "", "", "", 1
    )


def jwt(**claims: object) -> str:
    return "h." + base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode() + ".s"


def test_the_key_after_is_compared_column_by_column() -> None:
    assert rest_query.after(["id"], ["5"]) == '"id".gt."5"'
    assert rest_query.after(["a", "b"], ["1", "x"]) == '"a".gte."1",or("a".gt."1",and("a".eq."1","b".gt."x"))'
    assert rest_query.up_to(["a", "b"], ["1", "x"]) == '"a".lte."1",or("a".lt."1",and("a".eq."1","b".lte."x"))'


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_after_and_up_to_part_the_rows_at_any_key(rows: list[tuple[int, int, int]]) -> None:
    names = ["a", "b", "c"]
    edge = rows[0]
    behind, before = (make(names, [str(value) for value in edge]) for make in (rest_query.after, rest_query.up_to))
    for row in rows:
        assert (_holds(behind, row), _holds(before, row)) == (row > edge, row <= edge)


def _holds(condition: str, row: tuple[int, ...]) -> bool:
    """The condition as PostgREST reads it, over a row of columns a, b and c: and(…), or(…) and comparisons, separated by commas."""
    tokens = re.findall(r'and\(|or\(|\)|"[abc]"\.\w+\."\d+"', condition)
    stack: list[tuple[str, list[bool]]] = [("and", [])]
    for token in tokens:
        if token in ("and(", "or("):
            stack.append((token[:-1], []))
        elif token == ")":
            word, parts = stack.pop()
            stack[-1][1].append(all(parts) if word == "and" else any(parts))
        else:
            name, sign, value = token.replace('"', "").split(".")
            stack[-1][1].append(_SIGNS[sign](row["abc".index(name)], int(value)))
    return all(stack[0][1])


_SIGNS: dict[str, Callable[[int, int], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "eq": operator.eq,
}


@given(st.text(min_size=1), st.text())
def test_no_name_and_no_value_leaves_its_quotes(name: str, value: str) -> None:
    asked = rest_query.query(rest_query.name(name), ordered=rest_query.order([name]), condition=rest_query.equals([name], [value]), limit=3)
    found = parse_qs(asked, keep_blank_values=True, strict_parsing=True)
    assert set(found) == {"select", "order", "and", "limit"}
    inside = found["and"][0]
    assert inside.startswith('("') and inside.endswith('")')
    quoted = inside[1:-1]
    parts, at = [], 0
    while at < len(quoted):
        assert quoted[at] == '"'
        at += 1
        part = ""
        while quoted[at] != '"':
            at += quoted[at] == "\\"
            part += quoted[at]
            at += 1
        parts.append(part)
        at += 1 + len(".eq.") if quoted[at + 1 :].startswith(".eq.") else 1
    assert parts == [name, value]


def test_columns_come_as_text_and_money_as_its_number() -> None:
    assert rest_query.select([column("int8"), column("money")]) == 'c0:"c"::text,c1:"c"::numeric'


def test_the_description_tells_columns_and_key() -> None:
    told = {"definitions": {"t": {"properties": {
        "id": {"format": "bigint", "description": "Our id.\n\nNote:\nThis is a Primary Key.<pk/>"},
        "v": {"format": "text", "description": "This is no Primary Key.<pk/>"},
    }}}}  # fmt: skip
    (found,) = rest_query.read_description("public", told)
    assert (found.key, found.columns) == (("id",), (("id", "bigint"), ("v", "text")))
    with pytest.raises(TransferError):
        rest_query.read_description("public", {"message": "no"})


@pytest.mark.parametrize(
    "message",
    [
        "status 406: The schema must be one of the following: public, Ünï",
        "status 406: Invalid schema: x; Only the following schemas are exposed: public, Ünï",
    ],
)
def test_exposed_schemas_are_read_from_the_refusal(message: str) -> None:
    assert rest_query.exposed_schemas(message) == ("public", "Ünï")


@pytest.mark.parametrize(("text", "total"), [("0-9/21", 21), ("*/0", 0), ("0-9/*", None), ("*/*", None), (None, None), ("0-9/21x", None)])
def test_content_range(text: str | None, total: int | None) -> None:
    assert rest_query.total(text) == total


@pytest.mark.parametrize(
    ("base", "text", "fine"),
    [
        ("date", "2020-01-31", True), ("date", "31/01/2020", False), ("date", "0044-03-15 BC", True), ("date", "-infinity", True),
        ("timestamptz", "2020-01-31 10:00:00.5+05:30", True), ("timestamp", "Fri Jan 31 10:00:00 2020", False),
        ("timestamptz", "31.01.2020 10:00:00 CET", False),
        ("interval", "1 mon -1 days +00:00:00.000001", True), ("interval", "00:00:00", True), ("interval", "-178000000 years", True),
        ("interval", "0-1 -1 +0:00:00", False), ("interval", "@ 1 mon", False), ("interval", "P1M", False), ("text", "31/01/2020", True),
    ],
)  # fmt: skip
def test_other_styles_are_seen(base: str, text: str, fine: bool) -> None:
    assert (rest_values.unreadable(column(base), text) == "") is fine
    element = "" if base == "text" else base
    assert (rest_values.unreadable(column("_" + base, element), f'{{NULL,"{text}"}}') == "") is fine


@pytest.mark.parametrize(
    ("base", "text", "all_digits"),
    [("float8", "0.30000000000000004", True), ("float8", "0.3", False), ("float8", "1.23456789012345e+20", False), ("float8", "-1.2345678901234567e-300", True),
     ("float4", "1.1", False), ("float4", "0.1234567", True), ("float4", "1e+15", False), ("float8", "000000000000000000.5", False)],
)  # fmt: skip
def test_digits_prove_that_nothing_was_rounded(base: str, text: str, all_digits: bool) -> None:
    assert rest_values.shows_all_digits(column(base), text) is all_digits


def test_rows_in_copy_form() -> None:
    assert rest_values.copy_text([("a\tb\\\n", None, ""), ("\\N", "\r", "ü")]) == "a\\tb\\\\\\n\t\\N\t\n\\\\N\t\\r\tü\n".encode()


def test_kinds_of_keys() -> None:
    secret = read_key("sb_secret_x", 0)
    assert secret.headers == {"apikey": "sb_secret_x"} and not secret.warnings
    legacy = read_key(jwt(role="service_role", exp=10), 5)
    assert legacy.headers["Authorization"].startswith("Bearer h.") and not legacy.warnings
    assert "role robot" in read_key(jwt(role="robot"), 0).warnings[0] and read_key("opaque", 0).kind == "opaque"
    for key, kind in (
        ("sb_publishable_x", "key_filtered"), (jwt(role="anon"), "key_filtered"), (jwt(role="authenticated"), "key_filtered"),
        (jwt(role="service_role", exp=4), "key_expired"), ("a\nb", "bad_key"), ("ü", "bad_key"),
    ):  # fmt: skip
        with pytest.raises(TransferError) as caught:
            read_key(key, 5)
        assert caught.value.details["kind"] == kind and key not in caught.value.message


@pytest.mark.parametrize(
    ("status", "body", "kind", "again", "too_big"),
    [
        (401, b'{"message":"Legacy API keys are disabled"}', "legacy_keys_disabled", False, False),
        (401, b'{"code":"PGRST301","message":"JWT expired"}', "key_expired", False, False),
        (401, b"", "key_refused", False, False),
        (403, b'{"code":"42501"}', "privilege", False, False),
        (404, b"{}", "not_found", False, False),
        (406, b"{}", "not_exposed", False, False),
        (414, b"", "too_wide", False, False),
        (416, b"{}", "range", False, False),
        (429, b"", "rate_limited", True, False),
        (500, b'{"code":"57014","message":"canceling statement due to statement timeout"}', "server_error", False, True),
        (500, b"<html>", "server_error", True, False),
        (504, b"", "server_error", True, True),
        (540, b"", "paused", False, False),
        (301, b"", "redirect", False, False),
        (400, b"{}", "bad_request", False, False),
    ],
)
def test_each_refusal_has_its_name(status: int, body: bytes, kind: str, again: bool, too_big: bool) -> None:
    found = refusal(status, body, "secret", 7.0)
    assert (found.kind, found.again, found.too_big, found.status) == (kind, again, too_big, status)
    assert found.remedy and str(status) in found.message


def test_retry_after_in_both_forms() -> None:
    assert retry_after("12", 0) == 12.0
    assert retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 50) == 10.0
    assert retry_after("Thu, 01 Jan 1970 00:00:10 GMT", 50) == 0.0
    assert retry_after("soon", 0) is None and retry_after(None, 0) is None


def test_addresses() -> None:
    def url(given: str, **more: object) -> str:
        return rest_http.base_url(Endpoint.from_args({"rest": {"url": given, "key": "k"}, **more}))

    assert url("https://x.supabase.co/", flavour="supabase") == "https://x.supabase.co/rest/v1"
    assert url("https://api.example.org/data", flavour="supabase") == "https://api.example.org/data"
    assert (
        url("http://10.0.0.1:3000", sslmode="disable") == "http://10.0.0.1:3000" and url("http://127.0.0.1:3000") == "http://127.0.0.1:3000"
    )
    for wrong in ("http://10.0.0.1:3000", "ftp://x", "x.supabase.co", "https://x?apikey=k", "https://a:b@x"):
        with pytest.raises(TransferError):
            url(wrong)


def test_rest_of_an_endpoint() -> None:
    made = Endpoint.from_args({"rest": {"url": "https://x", "key": "k", "unique": {"public.t": ["a"]}, "page_rows": 7}})
    assert made.rest is not None and made.rest.unique == {"public.t": ("a",)} and made.rest.page_rows == 7
    wrongs: tuple[dict[str, Any], ...] = (
        {"unique": {"t": ["a"]}},
        {"unique": {"public.t": []}},
        {"unique": {"public.t": "a"}},
        {"page_rows": -1},
        {"more": 1},
    )
    for wrong in wrongs:
        with pytest.raises(TransferError):
            Endpoint.from_args({"rest": {"url": "https://x", "key": "k", **wrong}})


def test_options_of_a_snapshot_are_refused() -> None:
    rest_copy.refuse_options(snapshot=None, slot=None, join=False)
    with pytest.raises(TransferError, match="but slot is given"):
        rest_copy.refuse_options(snapshot=None, slot="s", join=False)
